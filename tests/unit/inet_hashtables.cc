// Ports, connections and listeners: Linux's bind rules, look-ups, and what a kill leaves behind.
#include "net_fixture.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <set>

using namespace sockshim_test;

namespace {

struct second_bind {
    const char* first;
    bool reuse1, port1, listening;
    const char* second;
    bool reuse2, port2;
    int err;
};

u16 port_of(const test_sock& s) { return inet_num(*s); }

} // namespace

TEST_CASE("S15 bind: two sockets, one port, as Linux has it", "[inet]") {
    // The rows that tests/diff/bind.c takes from the kernel, without the diff.
    const char *lo = "127.0.0.1", *any = "0.0.0.0", *lo2 = "127.0.0.2";
    const second_bind table[] = {
        {lo, false, false, false, lo, false, false, -EADDRINUSE},
        {lo, true, false, false, lo, false, false, -EADDRINUSE},
        {lo, false, false, false, lo, true, false, -EADDRINUSE},
        {lo, true, false, false, lo, true, false, 0},
        {lo, true, false, true, lo, true, false, -EADDRINUSE}, // one of them listens
        {lo, false, false, false, lo2, false, false, 0},       // other addresses never conflict
        {any, false, false, false, lo, false, false, -EADDRINUSE},
        {any, true, false, false, lo, true, false, 0},
        {any, true, false, true, lo, true, false, -EADDRINUSE},
        {lo, false, true, false, lo, false, true, 0},
        {lo, false, true, true, lo, false, true, 0},
        {lo, false, true, false, lo, false, false, -EADDRINUSE},
        {lo, true, false, false, lo, false, true, -EADDRINUSE},
        {lo, true, true, true, lo, true, true, 0},
    };
    for (const second_bind& t : table) {
        INFO(t.first << " reuse " << t.reuse1 << " port " << t.port1 << " listening " << t.listening
                     << "; " << t.second << " reuse " << t.reuse2 << " port " << t.port2);
        test_sock a, b;
        a->__sk_common.skc_reuse = t.reuse1;
        a->__sk_common.skc_reuseport = t.port1;
        b->__sk_common.skc_reuse = t.reuse2;
        b->__sk_common.skc_reuseport = t.port2;
        REQUIRE(a.bind(t.first, 0) == 0);
        if (t.listening) REQUIRE(a.listen() == 0);
        REQUIRE(b.bind(t.second, port_of(a)) == t.err);
    }
}

TEST_CASE("SO_REUSEPORT is for one user", "[inet]") {
    test_sock a, b;
    a->__sk_common.skc_reuseport = b->__sk_common.skc_reuseport = 1;
    b->sk_uid = a->sk_uid + 1;
    REQUIRE(a.bind("127.0.0.1", 0) == 0);
    REQUIRE(b.bind("127.0.0.1", port_of(a)) == -EADDRINUSE);
}

TEST_CASE("listen where a reusing socket is bound, and again when the first is gone", "[inet]") {
    test_sock b;
    {
        test_sock a;
        a->__sk_common.skc_reuse = b->__sk_common.skc_reuse = 1;
        REQUIRE(a.bind("127.0.0.1", 0) == 0);
        REQUIRE(b.bind("127.0.0.1", port_of(a)) == 0);
        REQUIRE(a.listen() == 0);
        REQUIRE(b.listen() == -EADDRINUSE);
        REQUIRE(sk_state(*b) == TCP_CLOSE);
    }
    REQUIRE(b.listen() == 0);
}

TEST_CASE("a port is free again after close", "[inet]") {
    u16 port;
    {
        test_sock a;
        REQUIRE(a.bind("127.0.0.1", 0) == 0);
        port = port_of(a);
        REQUIRE(port >= 32768);
        REQUIRE(port <= 60999);
    }
    test_sock b;
    REQUIRE(b.bind("127.0.0.1", port) == 0);
}

TEST_CASE("a connection keeps its listener's port until it is closed", "[inet]") {
    test_sock child;
    {
        test_sock listener;
        REQUIRE(listener.bind("127.0.0.1", 0) == 0);
        REQUIRE(listener.listen() == 0);
        inet_rcv_saddr(*child) = addr("127.0.0.1");
        inet_daddr(*child) = addr("127.0.0.1");
        inet_dport(*child) = htons(1234);
        child->__sk_common.skc_state.store(TCP_ESTABLISHED);
        inet_bind_bucket_add(*child, port_of(listener));
        REQUIRE(inet_hash(*child) == 0);
    }
    test_sock next;
    REQUIRE(next.bind("127.0.0.1", port_of(child)) == -EADDRINUSE);
    child->__sk_common.skc_reuse = 1;
    next->__sk_common.skc_reuse = 1;
    REQUIRE(next.bind("127.0.0.1", port_of(child)) == 0);
    REQUIRE(next.listen() == 0); // a restarted server
}

TEST_CASE("connect: ports are shared between destinations, four-tuples are not", "[inet]") {
    test_sock narrow;
    const u32 range = 40000u | 40003u << 16;
    std::vector<std::unique_ptr<test_sock>> held;
    std::set<u16> ports;
    for (int i = 0; i < 4; ++i) {
        held.push_back(std::make_unique<test_sock>());
        inet_sk(**held.back()).local_port_range = range;
        REQUIRE(held.back()->connect("127.0.0.1", 80) == 0);
        ports.insert(port_of(*held.back()));
    }
    REQUIRE(ports.size() == 4);
    inet_sk(*narrow).local_port_range = range;
    REQUIRE(narrow.connect("127.0.0.1", 80) == -EADDRNOTAVAIL);
    REQUIRE(narrow.connect("127.0.0.1", 81) == 0);
    // A port that somebody bound is not for connect to take.
    test_sock bound, last;
    held.clear();
    const u16 port = port_of(narrow) == 40001 ? 40003 : 40001;
    REQUIRE(bound.bind("127.0.0.1", port) == 0);
    for (int i = 0; i < 3; ++i) {
        held.push_back(std::make_unique<test_sock>());
        inet_sk(**held.back()).local_port_range = range;
        REQUIRE(held.back()->connect("127.0.0.1", 80) == 0);
        REQUIRE(port_of(*held.back()) != port);
    }
    inet_sk(*last).local_port_range = range;
    REQUIRE(last.connect("127.0.0.1", 80) == -EADDRNOTAVAIL);
}

TEST_CASE("look-ups find the connection, and the most specific listener", "[inet]") {
    test_sock any, exact, conn;
    any->__sk_common.skc_reuse = exact->__sk_common.skc_reuse = 1;
    REQUIRE(any.bind("0.0.0.0", 0) == 0);
    const u16 port = port_of(any);
    REQUIRE(exact.bind("127.0.0.2", port) == 0);
    REQUIRE(any.listen() == 0);
    REQUIRE(inet_lookup_listener(0, 0, addr("127.0.0.2"), port) == any.h);
    // As in Linux a second listener conflicts with the wild card's; the tables themselves do not care.
    exact->__sk_common.skc_state.store(TCP_LISTEN);
    REQUIRE(inet_hash(*exact) == 0);
    REQUIRE(inet_lookup_listener(0, 0, addr("127.0.0.2"), port) == exact.h);
    REQUIRE(inet_lookup_listener(0, 0, addr("127.0.0.1"), port) == any.h);
    REQUIRE_FALSE(inet_lookup_listener(0, 0, addr("127.0.0.1"), static_cast<u16>(port + 1)));

    REQUIRE(conn.connect("127.0.0.1", port) == 0);
    inet_lookup_result r =
        inet_lookup_established(addr("127.0.0.1"), port, addr("127.0.0.1"), port_of(conn));
    REQUIRE(r.kind == SKC_KIND_SOCK);
    REQUIRE(r.sk == conn.h);
    r = inet_lookup_established(addr("127.0.0.1"), port_of(conn), addr("127.0.0.1"), port);
    REQUIRE(r.kind == 0);
}

TEST_CASE("a reuseport group shares its connections out", "[inet]") {
    std::vector<std::unique_ptr<test_sock>> group;
    u16 port = 0;
    for (int i = 0; i < 4; ++i) {
        group.push_back(std::make_unique<test_sock>());
        (*group.back())->__sk_common.skc_reuseport = 1;
        REQUIRE(group.back()->bind("127.0.0.1", port) == 0);
        port = port_of(*group.back());
        REQUIRE(group.back()->listen() == 0);
    }
    std::vector<int> hits(4);
    for (u16 sport = 10000; sport < 14000; ++sport) {
        const handle<sock> h =
            inet_lookup_listener(addr("127.0.0.1"), sport, addr("127.0.0.1"), port);
        REQUIRE(h == inet_lookup_listener(addr("127.0.0.1"), sport, addr("127.0.0.1"), port));
        for (int i = 0; i < 4; ++i) hits[i] += group[i]->h == h;
    }
    for (const int n : hits) {
        REQUIRE(n > 800);
        REQUIRE(n < 1200);
    }
}

TEST_CASE("TIME_WAIT takes the connection's place, and gives it up in time", "[inet]") {
    test_sock conn;
    REQUIRE(conn.connect("127.0.0.1", 4321) == 0);
    const u16 port = port_of(conn);
    const auto h = slab_alloc<inet_timewait_sock>();
    inet_timewait_sock& tw = *slab_get(h);
    memset(static_cast<void*>(&tw), 0, sizeof tw);
    tw.__tw_common = conn->__sk_common;
    tw.__tw_common.skc_kind = SKC_KIND_TIMEWAIT;
    tw.__tw_common.skc_state.store(TCP_TIME_WAIT);
    tw.__tw_common.skc_hashed = 0;
    tw.tw_substate = TCP_TIME_WAIT;
    inet_twsk_insert(tw);
    REQUIRE(conn->__sk_common.skc_hashed == 0);
    const inet_lookup_result r =
        inet_lookup_established(addr("127.0.0.1"), 4321, addr("127.0.0.1"), port);
    REQUIRE(r.kind == SKC_KIND_TIMEWAIT);
    REQUIRE(r.tw == h);
    conn->__sk_common.skc_num = 0;

    test_sock plain;
    REQUIRE(plain.bind("127.0.0.1", port) == -EADDRINUSE);
    test_sock again;
    inet_sk(*again).local_port_range = port | static_cast<u32>(port) << 16;
    REQUIRE(again.connect("127.0.0.1", 4321) == -EADDRNOTAVAIL); // no timestamps: wait it out
    tw.tw_has_ts = 1;
    tw.tw_ts_recent_stamp_us = monotonic_us() - 10000;
    REQUIRE(again.connect("127.0.0.1", 4321) == 0);
    REQUIRE(port_of(again) == port);
    REQUIRE(slab_get(h) == nullptr);
}

TEST_CASE("a handshake's entry gives way to the connection that it became", "[inet]") {
    REQUIRE(arena_attach_private() == 0);
    const auto h = slab_alloc<request_sock>();
    request_sock& req = *slab_get(h);
    memset(static_cast<void*>(&req), 0, sizeof req);
    test_sock child;
    req.__req_common.skc_kind = SKC_KIND_REQUEST;
    req.__req_common.skc_family = AF_INET;
    req.__req_common.skc_rcv_saddr = inet_rcv_saddr(*child) = addr("127.0.0.1");
    req.__req_common.skc_daddr = inet_daddr(*child) = addr("127.0.0.9");
    req.__req_common.skc_num = inet_num(*child) = 5555;
    req.__req_common.skc_dport = inet_dport(*child) = htons(6666);
    child->__sk_common.skc_state.store(TCP_SYN_RECV);
    REQUIRE(inet_reqsk_insert(req));
    const auto look = [] {
        return inet_lookup_established(addr("127.0.0.9"), 6666, addr("127.0.0.1"), 5555);
    };
    REQUIRE(look().kind == SKC_KIND_REQUEST);
    REQUIRE(look().req == h);
    REQUIRE(inet_ehash_insert(*child) == 0);
    REQUIRE(look().kind == SKC_KIND_SOCK);
    inet_reqsk_remove(req);
    REQUIRE(look().sk == child.h);
    REQUIRE_FALSE(inet_reqsk_insert(req)); // the tuple is the connection's
    slab_free(h);
    test_sock twin;
    twin->__sk_common = child->__sk_common;
    twin->__sk_common.skc_hashed = 0;
    REQUIRE(inet_ehash_insert(*twin) == -EADDRNOTAVAIL);
}

TEST_CASE("the accept queue is first come first served, and is rebuilt from its children",
          "[inet]") {
    test_sock listener;
    REQUIRE(listener.bind("127.0.0.1", 0) == 0);
    REQUIRE(listener.listen() == 0);
    std::vector<std::unique_ptr<test_sock>> children;
    lock_sock(*listener);
    for (int i = 0; i < 5; ++i) {
        children.push_back(std::make_unique<test_sock>());
        inet_csk_reqsk_queue_add(*listener, **children.back());
    }
    REQUIRE(listener->sk_ack_backlog.load() == 5);
    REQUIRE(inet_csk_reqsk_queue_remove(*listener) == &**children[0]);
    // What a process that dies in the middle of a change may leave.
    inet_csk(*listener).icsk_accept_head = 0x7fffff;
    inet_csk(*listener).icsk_accept_tail = 3;
    for (int i = 1; i < 5; ++i) {
        REQUIRE(inet_csk_reqsk_queue_remove(*listener) == &**children[i]);
    }
    REQUIRE(inet_csk_reqsk_queue_remove(*listener) == nullptr);
    REQUIRE(listener->sk_ack_backlog.load() == 0);
    release_sock(*listener);
}

TEST_CASE("a bucket whose lock's owner was killed is whole again", "[inet]") {
    test_sock listener, conn, other;
    REQUIRE(listener.bind("127.0.0.1", 0) == 0);
    REQUIRE(listener.listen() == 0);
    REQUIRE(conn.connect("127.0.0.1", port_of(listener)) == 0);
    REQUIRE(other.bind("127.0.0.1", 0) == 0);
    hash_area& area = *arena_hash_area();
    hash_bucket* buckets[] = {
        &area.lhash[port_of(listener) % lhash_buckets],
        &area.bhash[port_of(listener) % bhash_buckets],
        &area.ehash[conn->__sk_common.skc_hash % ehash_buckets],
    };
    for (hash_bucket* b : buckets) {
        in_killed_child([b] {
            b->lock.lock_plain();
            b->head.store(0xdeadbeef);
        });
        REQUIRE(b->lock.word.load() != 0);
    }
    REQUIRE(inet_lookup_listener(0, 0, addr("127.0.0.1"), port_of(listener)) == listener.h);
    REQUIRE(inet_lookup_established(addr("127.0.0.1"), port_of(listener), addr("127.0.0.1"),
                                    port_of(conn))
                .sk == conn.h);
    test_sock third;
    REQUIRE(third.bind("127.0.0.1", port_of(listener)) == -EADDRINUSE);
    forget_dead_children();
}

TEST_CASE("a chain that leads into a freed cell heals", "[inet]") {
    test_sock a, b;
    a->__sk_common.skc_reuse = b->__sk_common.skc_reuse = 1;
    REQUIRE(a.bind("127.0.0.1", 0) == 0);
    REQUIRE(b.bind("127.0.0.1", port_of(a)) == 0);
    const u16 port = port_of(a);
    sk_free(*b); // still linked
    b.h = {};
    test_sock c;
    REQUIRE(c.bind("127.0.0.1", port) == -EADDRINUSE);
    c->__sk_common.skc_reuse = 1;
    REQUIRE(c.bind("127.0.0.1", port) == 0);
}

TEST_CASE("10,000 connections of one server: a port is found and given back at once", "[inet]") {
    test_sock listener;
    REQUIRE(listener.bind("127.0.0.1", 0) == 0);
    REQUIRE(listener.listen() == 0);
    const u16 port = port_of(listener);
    using clock = std::chrono::steady_clock;
    std::vector<std::unique_ptr<test_sock>> clients, children;
    const auto run = [&](int n) {
        const auto start = clock::now();
        for (int i = 0; i < n; ++i) {
            clients.push_back(std::make_unique<test_sock>());
            REQUIRE(clients.back()->connect("127.0.0.1", port) == 0);
            children.push_back(std::make_unique<test_sock>());
            sock& child = **children.back();
            inet_rcv_saddr(child) = inet_daddr(child) = addr("127.0.0.1");
            inet_dport(child) = htons(port_of(*clients.back()));
            child.__sk_common.skc_state.store(TCP_ESTABLISHED);
            inet_bind_bucket_add(child, port);
            REQUIRE(inet_hash(child) == 0);
        }
        return std::chrono::duration<double, std::micro>(clock::now() - start).count() / n;
    };
    const double first = run(1000);
    run(8000);
    const double last = run(1000);
    // Not a benchmark: only that the cost does not grow with the number, by a wide margin.
    INFO("connect + child: " << first << " us for the first 1,000, " << last << " us at 10,000");
    REQUIRE(last < first * 5 + 20);
    const auto start = clock::now();
    clients.clear();
    children.clear();
    const double each =
        std::chrono::duration<double, std::micro>(clock::now() - start).count() / 20000;
    INFO("close: " << each << " us");
    REQUIRE(each < 100);
}
