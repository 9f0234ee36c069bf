// kill -9 of a process in the middle of anything that it may do to sets and waits: the others go on.
#include <catch2/catch.hpp>

#include <sys/wait.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "core/arena/owner.h"
#include "tests/unit/eventpoll_fake.h"

using namespace sockshim;

namespace {

// A child of its own name in the network, which does `work` until it is killed.
template <class Work> pid_t child(proc_id& id, Work work) {
    int told[2];
    REQUIRE(pipe(told) == 0);
    const proc_id parent = self_proc;
    const pid_t pid = fork();
    if (pid == 0) {
        if (process_register()) _exit(1);
        eventpoll_forked(parent, self_proc);
        if (write(told[1], &self_proc, sizeof self_proc) != sizeof self_proc) _exit(1);
        close(told[0]);
        close(told[1]);
        work();
        _exit(0);
    }
    close(told[1]);
    REQUIRE(read(told[0], &id, sizeof id) == sizeof id);
    close(told[0]);
    return pid;
}

void kill_and_reap(pid_t pid, proc_id id) {
    kill(pid, SIGKILL);
    int status;
    REQUIRE(waitpid(pid, &status, 0) == pid);
    // As core/net/reaper.cc does, for this one.
    eventpoll_process_died(id);
    cells_free_claimed_by(id);
}

int take_all(const fake::set& set, std::vector<u32>& times) {
    epoll_event got[64];
    int total = 0;
    for (int n; (n = set.take(got, 64)) > 0; total += n) {
        for (int i = 0; i < n; ++i) ++times[got[i].data.u64];
    }
    return total;
}

} // namespace

TEST_CASE("epoll: killed at random while changing and using a shared set", "[epoll][crash]") {
    constexpr u32 sources = 100, changed_from = 50;
    fake::setup();
    const u64 bytes = arena_bytes_in_use();
    {
        fake::set set, outer;
        std::vector<std::unique_ptr<fake::source>> all;
        for (u32 i = 0; i < sources; ++i) {
            all.push_back(std::make_unique<fake::source>());
            all[i]->set(EPOLLIN);
            if (i < changed_from) REQUIRE(set.add(*all[i], EPOLLIN | EPOLLET, i) == 0);
        }
        REQUIRE(ep_insert(outer.h(), ep_source::of(set.h()), 9, EPOLLIN | EPOLLET, 0) == 0);
        std::mt19937 rng(7);
        for (int round = 0; round < 150; ++round) {
            proc_id id = 0;
            const pid_t pid = child(id, [&] {
                std::mt19937 r(static_cast<u32>(round));
                epoll_event got[8];
                nested_reported nested;
                for (;;) {
                    const u32 k = r() % sources;
                    switch (r() % 6) {
                    case 0:
                    case 1: all[k]->raise(EPOLLIN); break;
                    case 2: ep_send_events(set.ep(), got, 8, nested); break;
                    case 3:
                        // Enough of them that the set grows.
                        for (u32 i = changed_from; i < sources; ++i) {
                            set.add(*all[i], EPOLLIN | EPOLLET, i);
                        }
                        break;
                    case 4:
                        for (u32 i = changed_from; i < sources; ++i) {
                            ep_remove(set.h(), all[i]->src(), 3);
                        }
                        break;
                    case 5: {
                        const handle<eventpoll> own = eventpoll_create();
                        for (u32 i = 0; i < 70; ++i) {
                            ep_insert(own, all[i]->src(), 3, EPOLLIN, 0);
                        }
                        eventpoll_put(own.index, self_proc);
                    }
                    }
                }
            });
            usleep(rng() % 1500);
            kill_and_reap(pid, id);
            // What nobody took out is there, told or not; and it works.
            std::vector<u32> times(sources);
            take_all(set, times);
            std::fill(times.begin(), times.end(), 0);
            for (auto& s : all) s->raise(EPOLLIN);
            take_all(set, times);
            for (u32 i = 0; i < changed_from; ++i) REQUIRE(times[i] == 1);
            u32 rest = 0;
            for (u32 i = changed_from; i < sources; ++i) {
                REQUIRE(times[i] <= 1);
                rest += times[i];
                const int r = ep_remove(set.h(), all[i]->src(), 3);
                REQUIRE(r == (times[i] ? 0 : -ENOENT));
            }
            REQUIRE(set.ep().items.load() == changed_from);
            epoll_event got[2];
            nested_reported nested;
            REQUIRE(ep_send_events(outer.ep(), got, 2, nested) <= 1);
        }
        // One entry for each registration, and the one of the outer set.
        CHECK(arena_cells_in_use(REGION_WAIT_ENTRY) == changed_from + 1);
        CHECK(arena_cells_in_use(REGION_EVENTPOLL) == 2);
    }
    CHECK(arena_cells_in_use(REGION_WAIT_ENTRY) == 0);
    CHECK(arena_cells_in_use(REGION_EVENTPOLL) == 0);
    // Extents between publishing and use are the sweep's to find (core/net/reaper.cc): at most one a
    // kill, and here none, for a chunk is noted in its set before it is published.
    CHECK(arena_bytes_in_use() == bytes);
}

TEST_CASE("epoll: the last holder's death frees the set", "[epoll][crash]") {
    fake::source s;
    const u64 before = arena_cells_in_use(REGION_EVENTPOLL);
    proc_id id = 0;
    const pid_t pid = child(id, [&] {
        const handle<eventpoll> set = eventpoll_create();
        ep_insert(set, s.src(), 3, EPOLLIN, 0);
        pause();
    });
    while (!(s.wq().flags.load() & WQ_LIST)) usleep(100);
    usleep(1000);
    CHECK(arena_cells_in_use(REGION_EVENTPOLL) == before + 1);
    kill_and_reap(pid, id);
    CHECK(arena_cells_in_use(REGION_EVENTPOLL) == before);
    CHECK(s.wq().head.load() == 0);
}

TEST_CASE("epoll: a set outlives its maker while a child holds it", "[epoll][crash]") {
    auto set = std::make_unique<fake::set>();
    fake::source s;
    REQUIRE(set->add(s, EPOLLIN, 5) == 0);
    const handle<eventpoll> h = set->h();
    proc_id id = 0;
    const pid_t pid = child(id, [] { pause(); });
    set.reset();
    CHECK(slab_get(h));
    s.raise(EPOLLIN);
    epoll_event got[2];
    nested_reported nested;
    CHECK(ep_send_events(*slab_get(h), got, 2, nested) == 1);
    kill_and_reap(pid, id);
    CHECK_FALSE(slab_get(h));
}

TEST_CASE("wait: a wake that died with its sender is made good", "[wait][crash]") {
    // The child publishes and wakes in a loop; the one sleeper must see each round's word although the
    // child is killed anywhere between the two.
    fake::source s;
    auto* const word = reinterpret_cast<std::atomic<u32>*>(&slab_get(s.s())->f_owner);
    std::mt19937 rng(3);
    for (int round = 0; round < 100; ++round) {
        word->store(0);
        std::atomic<bool> stop{false};
        std::atomic<u32> last{0};
        std::thread sleeper([&] {
            struct view {
                std::atomic<u32>* word;
                std::atomic<u32>* last;
                std::atomic<bool>* stop;
            } v{word, &last, &stop};
            while (!stop) {
                wait_on(
                    s.wq(), WAIT_RX,
                    [](void* p) {
                        const auto* x = static_cast<view*>(p);
                        return *x->stop || x->word->load() != x->last->load();
                    },
                    &v, -1);
                last = word->load();
            }
        });
        proc_id id = 0;
        const pid_t pid = child(id, [&] {
            for (;;) {
                word->fetch_add(1);
                wake_up(s.wq(), EPOLLIN, rng() % 2);
                for (u32 i = rng() % 30; i-- > 0;) sched_yield();
            }
        });
        usleep(rng() % 2000);
        kill_and_reap(pid, id);
        const u32 sent = word->load();
        for (int i = 0; i < 2000 && last != sent; ++i) usleep(500);
        CHECK(last == sent);
        stop = true;
        wake_up(s.wq(), EPOLLIN);
        sleeper.join();
    }
}
