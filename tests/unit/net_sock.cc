// The sock's cell, its lock and its backlog.
#include "net_fixture.h"

#include <atomic>
#include <thread>

#include "core/net/net_rx.h"
#include "core/net/reaper.h"
#include "core/net/skb_cell.h"
#include "core/tcp/stream_ring.h"

using namespace sockshim_test;

namespace {

sk_buff packet(u16 number, const std::vector<u8>& payload = {}) {
    sk_buff skb{};
    skb.protocol = IPPROTO_UDP;
    skb.udp.dest = number;
    skb.data = payload.data();
    skb.len = static_cast<u32>(payload.size());
    return skb;
}

} // namespace

TEST_CASE("a sock's cell keeps its lock and wake words from one life to the next", "[net]") {
    test_sock a;
    const u32 index = sk_index(*a);
    a->sk_wq.rx_seq.store(77);
    a->sk_err.store(5);
    const handle<sock> old = a.h;
    sk_free(*a);
    REQUIRE(slab_get(old) == nullptr);
    REQUIRE(lock_sock_handle(old) == nullptr);
    test_sock b;
    REQUIRE(sk_index(*b) == index); // the thread's last free cell comes first
    REQUIRE(b->sk_err.load() == 0);
    REQUIRE(b->sk_wq.rx_seq.load() >= 77);
    REQUIRE(b->sk_rcvbuf == SK_RMEM_DEFAULT);
    REQUIRE(sk_state(*b) == TCP_CLOSE);
    REQUIRE(sock_locks_held == 0);
}

TEST_CASE("an skb cell gives the packet back whole", "[net]") {
    REQUIRE(arena_attach_private() == 0);
    const u64 before = arena_bytes_in_use();
    for (const u32 size : {0u, 1u, skb_inline_bytes, skb_inline_bytes + 1, 65000u}) {
        std::vector<u8> one(size / 3, 1), two(size - size / 3, 2);
        sk_buff skb = packet(4242, one);
        skb.data2 = two.data();
        skb.len2 = static_cast<u32>(two.size());
        const handle<skb_cell> h = skb_cell_build(skb);
        REQUIRE(h);
        sk_buff got;
        REQUIRE(skb_cell_view(h, got));
        REQUIRE(got.udp.dest == 4242);
        REQUIRE(got.len == size);
        REQUIRE(got.len2 == 0);
        one.insert(one.end(), two.begin(), two.end());
        REQUIRE((size == 0 || memcmp(got.data, one.data(), size) == 0));
        skb_cell_free(h);
        REQUIRE_FALSE(skb_cell_view(h, got));
        REQUIRE(skb_ref_handle(skb_ref_of(h)) == handle<skb_cell>{});
    }
    REQUIRE(arena_bytes_in_use() == before);
}

TEST_CASE("packets that meet a held sock wait on its backlog, in order", "[net]") {
    test_sock sk;
    received.clear();
    const u64 before = arena_cells_in_use(REGION_SKB);
    lock_sock(*sk);
    std::thread([&] {
        for (u16 i = 1; i <= 5; ++i) REQUIRE(sk_add_backlog(*sk, packet(i)));
    }).join();
    REQUIRE(received.empty());
    REQUIRE(arena_cells_in_use(REGION_SKB) == before + 5);
    release_sock(*sk);
    REQUIRE(received == std::vector<u16>{1, 2, 3, 4, 5});
    REQUIRE(arena_cells_in_use(REGION_SKB) == before);
    // Nobody in it: the caller gets the lock.
    REQUIRE_FALSE(sk_add_backlog(*sk, packet(6)));
    REQUIRE(sk->sk_lock.held_by_self());
    release_sock(*sk);
    REQUIRE(sk_lock_or_backlog(sk.h, packet(7)) == &*sk);
    release_sock(*sk);
    REQUIRE(sock_locks_held == 0);
}

TEST_CASE("no packet is lost between the last look at the backlog and the unlock", "[net]") {
    test_sock sk;
    received.clear();
    constexpr int each = 20000;
    std::atomic<int> direct{0};
    std::atomic<bool> stop{false};
    std::thread owner([&] {
        while (!stop) {
            lock_sock(*sk);
            release_sock(*sk);
        }
    });
    std::thread senders[2];
    for (std::thread& t : senders) {
        t = std::thread([&] {
            for (int i = 0; i < each; ++i) {
                if (!sk_add_backlog(*sk, packet(9))) {
                    ++direct;
                    release_sock(*sk);
                }
            }
        });
    }
    for (std::thread& t : senders) t.join();
    stop = true;
    owner.join();
    REQUIRE(static_cast<int>(received.size()) + direct == 2 * each);
    REQUIRE(sk->sk_backlog.load() == 0);
    REQUIRE(sk->sk_lock.word.load() == 0);
}

TEST_CASE("a packet for a cell's former sock is not the new one's", "[net]") {
    test_sock sk;
    received.clear();
    lock_sock(*sk);
    handle<sock> former = sk.h;
    former.gen -= 1;
    std::thread([&] { REQUIRE(sk_lock_or_backlog(former, packet(1)) == nullptr); }).join();
    release_sock(*sk);
    REQUIRE(received.empty());
}

TEST_CASE("a sock's lock outlives its owner", "[net]") {
    test_sock sk;
    received.clear();
    const proc_id dead = in_killed_child([&] {
        lock_sock(*sk);
        static_cast<void>(0);
    });
    REQUIRE((sk->sk_lock.word.load() & robust_lock::owner_mask) == dead);
    // A packet comes in the meantime.
    REQUIRE(sk_add_backlog(*sk, packet(3)));
    REQUIRE(sk_recover_locks(dead) == 1);
    REQUIRE(received == std::vector<u16>{3});
    REQUIRE(sk->sk_lock.word.load() == 0);
    // The default repair: a stream is over, and says so.
    REQUIRE(sock_error(*sk) == -ECONNRESET);
    REQUIRE(sock_error(*sk) == 0);
    forget_dead_children();
}

TEST_CASE("a pusher that is killed leaves a backlog that works", "[net]") {
    test_sock sk;
    received.clear();
    lock_sock(*sk);
    in_killed_child([&] { static_cast<void>(sk_add_backlog(*sk, packet(8))); });
    forget_dead_children();
    release_sock(*sk);
    REQUIRE(received == std::vector<u16>{8});
}

TEST_CASE("two socks are locked in one order", "[net]") {
    test_sock a, b;
    std::thread one([&] {
        for (int i = 0; i < 20000; ++i) {
            lock_sock_pair(*a, *b);
            release_sock(*a);
            release_sock(*b);
        }
    });
    std::thread two([&] {
        for (int i = 0; i < 20000; ++i) {
            lock_sock_pair(*b, *a);
            release_sock(*b);
            release_sock(*a);
        }
    });
    one.join();
    two.join();
    lock_sock_pair(*a, *a);
    release_sock(*a);
    REQUIRE(a->sk_lock.word.load() == 0);
    REQUIRE(sock_locks_held == 0);
}

TEST_CASE("an abandoned sock is recognised", "[net]") {
    test_sock sk;
    REQUIRE(sk_is_abandoned(*sk)); // nobody's: no socket, no listener
    test_sock listener;
    inet_csk(*sk).icsk_listener = listener.h;
    REQUIRE_FALSE(sk_is_abandoned(*sk));
    sk->sk_socket = {5, 12345}; // a socket that is gone
    REQUIRE(sk_is_abandoned(*sk));
    sock_set_flag(*sk, SOCK_DEAD, true);
    REQUIRE_FALSE(sk_is_abandoned(*sk));
}

TEST_CASE("what a slow thread does under a sock's lock is not taken for lost", "[net]") {
    test_sock listener, child, lost;
    handle<stream_ring> ring{};
    std::atomic<bool> locked{false}, swept{false};
    // As a handshake: the child is published, and known to its listener only before its lock goes.
    std::thread slow([&] {
        lock_sock(*child);
        ring = ring_create(0, 1024); // as tcp_fuse_try, before it is either end's
        locked = true;
        while (!swept) std::this_thread::yield();
        inet_csk(*child).icsk_listener = listener.h;
        release_sock(*child);
    });
    while (!locked) std::this_thread::yield();
    sockshim::socket* const owner = sock_alloc();
    REQUIRE(owner);
    listener->sk_socket = socket_handle(*owner);
    for (int i = 0; i < 3; ++i) sweep_unreferenced();
    swept = true;
    slow.join();
    REQUIRE(slab_get(child.h));
    REQUIRE(slab_get(ring));
    REQUIRE_FALSE(slab_get(lost.h));
    for (int i = 0; i < 3; ++i) sweep_unreferenced();
    REQUIRE(slab_get(child.h));
    REQUIRE_FALSE(slab_get(ring));
    sock_free(*owner);
    sweep_forget();
}

TEST_CASE("the thread's queue is bounded, counted and forgotten by a forked child", "[net]") {
    REQUIRE(arena_attach_private() == 0);
    test_sock holder;
    lock_sock(*holder); // packets wait while the thread holds a lock
    const u64 dropped = loopback_stats.dropped;
    sk_buff skb = packet(1);
    skb.saddr = 0xffffffff; // discarded on the way in
    for (u32 i = 0; i < netdev_max_backlog; ++i) REQUIRE(netif_rx(skb) == 0);
    REQUIRE(netif_rx(skb) == -ENOBUFS);
    REQUIRE(loopback_stats.dropped == dropped + 1);
    net_rx_action();
    REQUIRE(net_rx_pending());
    const pid_t pid = fork();
    if (pid == 0) {
        net_rx_fork_child();
        _exit(net_rx_pending() ? 1 : 0);
    }
    int status = 0;
    REQUIRE(waitpid(pid, &status, 0) == pid);
    REQUIRE(status == 0);
    const u64 cells = arena_cells_in_use(REGION_SKB);
    release_sock(*holder);
    REQUIRE_FALSE(net_rx_pending());
    REQUIRE(arena_cells_in_use(REGION_SKB) == cells - netdev_max_backlog);
}
