// Our half of an epoll set by itself: triggers, slots, fairness, several sets, nesting, many threads.
#include <catch2/catch.hpp>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <memory>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "tests/unit/eventpoll_fake.h"

using namespace sockshim;

namespace {

epoll_event got[4096];

std::vector<u64> tags(const fake::set& s, int max = 64) {
    const int n = s.take(got, max);
    std::vector<u64> v;
    for (int i = 0; i < n; ++i) v.push_back(got[i].data.u64);
    std::sort(v.begin(), v.end());
    return v;
}
using list = std::vector<u64>;

} // namespace

TEST_CASE("epoll: level-triggered", "[epoll]") {
    fake::set set;
    fake::source s;
    REQUIRE(set.add(s, EPOLLIN, 7) == 0);
    CHECK(tags(set).empty());
    s.raise(EPOLLIN | EPOLLRDNORM);
    CHECK(tags(set) == list{7});
    CHECK(got[0].events == EPOLLIN); // only what was asked for
    CHECK(tags(set) == list{7});
    s.drop(EPOLLIN);
    CHECK(tags(set).empty());
    CHECK_FALSE(ep_events_available(set.ep())); // not asked again until it is woken
    s.raise(EPOLLOUT);
    CHECK(tags(set).empty());
    s.raise(EPOLLHUP); // unasked
    CHECK(tags(set) == list{7});
    CHECK(got[0].events == EPOLLHUP);
}

TEST_CASE("epoll: edge-triggered and oneshot", "[epoll]") {
    fake::set set;
    fake::source s;
    SECTION("an edge is told once, each wake is one, a MOD is one") {
        s.set(EPOLLIN);
        REQUIRE(set.add(s, EPOLLIN | EPOLLOUT | EPOLLET, 1) == 0);
        CHECK(tags(set) == list{1});
        CHECK(tags(set).empty());
        s.raise(EPOLLIN);
        CHECK(tags(set) == list{1});
        s.raise(EPOLLOUT);
        CHECK(tags(set) == list{1});
        CHECK(got[0].events == (EPOLLIN | EPOLLOUT)); // the whole state
        CHECK(tags(set).empty());
        CHECK(ep_modify(set.h(), s.src(), 3, EPOLLIN | EPOLLET, 2) == 0);
        CHECK(tags(set) == list{2});
        CHECK(tags(set).empty());
    }
    SECTION("oneshot is disarmed until a MOD, even for errors") {
        REQUIRE(set.add(s, EPOLLIN | EPOLLONESHOT, 1) == 0);
        s.raise(EPOLLIN);
        CHECK(tags(set) == list{1});
        s.raise(EPOLLIN | EPOLLERR);
        CHECK(tags(set).empty());
        CHECK(ep_modify(set.h(), s.src(), 3, EPOLLIN | EPOLLONESHOT, 1) == 0);
        CHECK(tags(set) == list{1});
        CHECK(tags(set).empty());
    }
}

TEST_CASE("epoll: errnos of ADD, MOD, DEL; one source under two numbers", "[epoll]") {
    fake::set set;
    fake::source s, t;
    CHECK(set.add(s, EPOLLIN, 1) == 0);
    CHECK(set.add(s, EPOLLIN, 1) == -EEXIST);
    CHECK(set.add(s, EPOLLIN, 2, 4) == 0);
    CHECK(ep_modify(set.h(), t.src(), 3, EPOLLIN, 0) == -ENOENT);
    CHECK(ep_remove(set.h(), t.src(), 3) == -ENOENT);
    s.raise(EPOLLIN);
    CHECK(tags(set) == list{1, 2});
    CHECK(ep_remove(set.h(), s.src(), 3) == 0);
    CHECK(ep_remove(set.h(), s.src(), 3) == -ENOENT);
    CHECK(tags(set) == list{2});
    CHECK(ep_remove(set.h(), s.src(), 4) == 0);
    CHECK(tags(set).empty());
    CHECK(s.wq().flags.load() == 0);
    CHECK(set.add(s, EPOLLIN | EPOLLEXCLUSIVE, 1) == 0);
    CHECK(ep_modify(set.h(), s.src(), 3, EPOLLIN, 0) == -EINVAL);
    CHECK(ep_insert({}, s.src(), 3, EPOLLIN, 0) == -EBADF);
}

TEST_CASE("epoll: sources and sets may go in any order", "[epoll]") {
    fake::setup();
    const u64 entries = arena_cells_in_use(REGION_WAIT_ENTRY);
    {
        auto a = std::make_unique<fake::set>();
        fake::set b;
        auto s = std::make_unique<fake::source>();
        fake::source t;
        for (const fake::set* set : {a.get(), &b}) {
            CHECK(set->add(*s, EPOLLIN, 1) == 0);
            CHECK(set->add(t, EPOLLIN, 2) == 0);
        }
        s->raise(EPOLLIN);
        t.raise(EPOLLIN);
        CHECK(tags(*a) == list{1, 2});
        s.reset();
        CHECK(tags(*a) == list{2});
        CHECK(tags(b) == list{2});
        a.reset();
        CHECK(tags(b) == list{2});
        t.drop(EPOLLIN);
        t.raise(EPOLLIN);
        CHECK(tags(b) == list{2});
    }
    CHECK(arena_cells_in_use(REGION_WAIT_ENTRY) == entries);
}

TEST_CASE("epoll: a source that went without a word is taken out when it is looked at", "[epoll]") {
    fake::set set;
    const u64 entries = arena_cells_in_use(REGION_WAIT_ENTRY);
    {
        fake::source s;
        s.set(EPOLLIN);
        REQUIRE(set.add(s, EPOLLIN, 1) == 0);
        // As sk_free does: the cell first, then the wake.
        const handle<sock> h = s.sk();
        wait_queue& wq = s.wq();
        slab_free(h);
        wake_up(wq, EPOLLHUP);
        CHECK(tags(set).empty());
        CHECK(set.ep().items.load() == 0);
    }
    CHECK(arena_cells_in_use(REGION_WAIT_ENTRY) == entries);
}

TEST_CASE("epoll: thousands of registrations, few of them ready", "[epoll]") {
    fake::setup();
    const u64 bytes = arena_bytes_in_use();
    {
        fake::set set;
        constexpr u32 n = 20000; // two summary levels
        std::vector<std::unique_ptr<fake::source>> all;
        for (u32 i = 0; i < n; ++i) {
            all.push_back(std::make_unique<fake::source>());
            REQUIRE(set.add(*all[i], EPOLLIN | EPOLLET, i) == 0);
        }
        CHECK(set.ep().slots >= n);
        CHECK(tags(set).empty());
        std::mt19937 rng(1);
        for (int round = 0; round < 200; ++round) {
            std::set<u64> raised;
            for (u32 k = rng() % 40; k-- > 0;) {
                const u32 i = rng() % n;
                all[i]->raise(EPOLLIN);
                raised.insert(i);
            }
            list seen;
            for (list part; !(part = tags(set, 1 + static_cast<int>(rng() % 9))).empty();) {
                seen.insert(seen.end(), part.begin(), part.end());
            }
            std::sort(seen.begin(), seen.end());
            CHECK(seen == list(raised.begin(), raised.end()));
        }
        // All at once, level-triggered: each exactly once a call, whatever the size of the array.
        for (u32 i = 0; i < n; ++i) {
            all[i]->set(EPOLLIN);
            REQUIRE(ep_modify(set.h(), all[i]->src(), 3, EPOLLIN, i) == 0);
        }
        std::vector<epoll_event> many(n + 5);
        CHECK(set.take(many.data(), n + 5) == n);
        std::vector<int> times(n);
        for (u32 i = 0; i < n; ++i) ++times[many[i].data.u64];
        CHECK(std::count(times.begin(), times.end(), 1) == n);
        // Slots are used again.
        const u32 slots = set.ep().slots;
        for (u32 i = 0; i < n; i += 2) REQUIRE(ep_remove(set.h(), all[i]->src(), 3) == 0);
        for (u32 i = 0; i < n; i += 2) REQUIRE(set.add(*all[i], EPOLLIN, i) == 0);
        CHECK(set.ep().slots == slots);
        CHECK(set.ep().items.load() == n);
    }
    CHECK(arena_bytes_in_use() == bytes);
}

TEST_CASE("epoll: with room for few, everybody has his turn", "[epoll]") {
    fake::set set;
    const u32 n = GENERATE(5u, 64u, 100u, 5000u);
    const int room = GENERATE(1, 3, 40);
    std::vector<std::unique_ptr<fake::source>> all;
    for (u32 i = 0; i < n; ++i) {
        all.push_back(std::make_unique<fake::source>());
        all[i]->set(EPOLLIN);
        REQUIRE(set.add(*all[i], EPOLLIN, i) == 0);
    }
    std::vector<u32> times(n);
    u32 total = 0;
    while (total < 3 * n) {
        const int k = set.take(got, room);
        REQUIRE(k > 0);
        for (int i = 0; i < k; ++i) ++times[got[i].data.u64];
        total += static_cast<u32>(k);
    }
    CHECK(*std::min_element(times.begin(), times.end()) >= 2);
    CHECK(*std::max_element(times.begin(), times.end()) <= 4 + static_cast<u32>(room) / n);
}

TEST_CASE("epoll: nested sets", "[epoll]") {
    fake::set inner, middle, outer;
    fake::source s;
    REQUIRE(inner.add(s, EPOLLIN, 1) == 0);
    REQUIRE(ep_insert(middle.h(), ep_source::of(inner.h()), 5, EPOLLIN, 2) == 0);
    REQUIRE(ep_insert(outer.h(), ep_source::of(middle.h()), 6, EPOLLIN | EPOLLET, 3) == 0);
    CHECK(tags(outer).empty());
    s.raise(EPOLLIN);
    CHECK(tags(outer) == list{3});
    CHECK(tags(outer).empty()); // an edge
    CHECK(tags(middle) == list{2});
    CHECK(tags(middle) == list{2});
    CHECK(eventpoll_poll(inner.ep()) == (EPOLLIN | EPOLLRDNORM));
    s.raise(EPOLLIN); // still set below: a new edge above all the same
    CHECK(tags(outer) == list{3});
    s.drop(EPOLLIN);
    CHECK(tags(middle).empty());
    CHECK(eventpoll_poll(middle.ep()) == 0);
}

TEST_CASE("epoll: EPOLLEXCLUSIVE wakes one set of those that wait", "[epoll]") {
    fake::source listener;
    std::vector<std::unique_ptr<fake::set>> sets;
    for (u64 i = 0; i < 4; ++i) {
        sets.push_back(std::make_unique<fake::set>());
        REQUIRE(sets[i]->add(listener, EPOLLIN | EPOLLEXCLUSIVE | EPOLLET, i) == 0);
    }
    const auto marked = [&] {
        int n = 0;
        for (auto& s : sets) n += ep_events_available(s->ep());
        return n;
    };
    SECTION("nobody waits: all are told") {
        listener.raise(EPOLLIN);
        CHECK(marked() == 4);
    }
    SECTION("somebody looks: no further than him") {
        for (auto& s : sets) s->ep().looking.store(1);
        listener.raise(EPOLLIN);
        CHECK(marked() == 1);
    }
    SECTION("somebody sleeps") {
        for (auto& s : sets) s->ep().wq.flags.fetch_or(WQ_RX_SLEEP);
        listener.raise(EPOLLIN);
        CHECK(marked() == 1);
        listener.raise(EPOLLIN | EPOLLHUP); // a change of state is for all
        CHECK(marked() == 4);
    }
}

TEST_CASE("epoll: no edge is lost among many threads", "[epoll]") {
    // Producers count up and wake, consumers (one set each, or one for all) look at the counts.
    const bool one_set = GENERATE(true, false);
    constexpr u32 sources = 150, producers = 2, consumers = 3, raises = 30000;
    std::vector<std::unique_ptr<fake::source>> all;
    std::vector<std::unique_ptr<fake::set>> sets;
    std::vector<std::atomic<u32>> sent(sources);
    // What each set's consumers have seen of each source, set after the look at `sent`.
    std::vector<std::vector<std::atomic<u32>>> seen;
    for (u32 i = 0; i < sources; ++i) {
        all.push_back(std::make_unique<fake::source>());
        all[i]->set(EPOLLIN);
    }
    for (u32 i = 0; i < (one_set ? 1 : consumers); ++i) {
        sets.push_back(std::make_unique<fake::set>());
        seen.emplace_back(sources);
        for (u32 k = 0; k < sources; ++k) {
            REQUIRE(sets[i]->add(*all[k], EPOLLIN | EPOLLET, k) == 0);
        }
    }
    std::atomic<bool> done{false};
    std::vector<std::thread> threads;
    for (u32 i = 0; i < consumers; ++i) {
        threads.emplace_back([&, i] {
            const u32 which = one_set ? 0 : i;
            fake::set& set = *sets[which];
            epoll_event out[16];
            nested_reported nested;
            for (;;) {
                const bool last = done;
                const int n = ep_send_events(set.ep(), out, 16, nested);
                for (int k = 0; k < n; ++k) {
                    auto& s = seen[which][out[k].data.u64];
                    const u32 now = sent[out[k].data.u64].load();
                    u32 was = s.load();
                    while (was < now && !s.compare_exchange_weak(was, now)) {
                    }
                }
                if (n) continue;
                if (last) return;
                const u32 word = set.ep().wq.rx_seq.load();
                set.ep().wq.flags.fetch_or(WQ_RX_SLEEP);
                full_fence();
                if (!ep_events_available(set.ep()) && !done) {
                    sleep_until(set.ep().wq.rx_seq, word, -1);
                }
            }
        });
    }
    std::vector<std::thread> makers;
    for (u32 p = 0; p < producers; ++p) {
        makers.emplace_back([&, p] {
            std::mt19937 rng(p);
            for (u32 i = 0; i < raises; ++i) {
                const u32 k = rng() % sources;
                sent[k].fetch_add(1);
                wake_up(all[k]->wq(), EPOLLIN);
                if (i % 256 == 0) usleep(50);
            }
        });
    }
    // Registrations come and go meanwhile.
    std::thread changer([&] {
        fake::source extra;
        for (u32 i = 0; !done; ++i) {
            fake::set& set = *sets[i % sets.size()];
            set.add(extra, EPOLLIN, 0, 99);
            extra.raise(EPOLLOUT);
            ep_remove(set.h(), extra.src(), 99);
        }
    });
    for (std::thread& t : makers) t.join();
    done = true;
    for (auto& s : sets) eventpoll_wake_all(s->ep());
    for (std::thread& t : threads) t.join();
    changer.join();
    for (auto& per_set : seen) {
        for (u32 k = 0; k < sources; ++k) REQUIRE(per_set[k] == sent[k]);
    }
}
