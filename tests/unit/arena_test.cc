// The arena: cells, extents, owners, robust locks. A process that dies is a forked child here.
#include <catch2/catch.hpp>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <sys/mman.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "core/arena/arena.h"
#include "core/arena/extent.h"
#include "core/arena/owner.h"
#include "core/arena/private.h"
#include "core/sync/robust_lock.h"
#include "core/tcp/stream_ring.h"

using namespace sockshim;

namespace {

// Runs `body` in a child that joins the arena under its own name and then dies by SIGKILL.
template <class Body> void in_killed_child(Body body) {
    const pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        if (process_register() == 0) body();
        kill(getpid(), SIGKILL);
    }
    int status = 0;
    REQUIRE(waitpid(pid, &status, 0) == pid);
    REQUIRE(WIFSIGNALED(status));
}

void reap_all_cells() {
    while (const proc_id id = process_claim_dead()) {
        cells_free_claimed_by(id);
        process_reaped(id);
    }
}

} // namespace

TEST_CASE("a handle goes stale when its cell is freed", "[arena]") {
    REQUIRE(arena_attach_private() == 0);
    const handle<stream_ring> h = slab_alloc<stream_ring>();
    REQUIRE(h);
    REQUIRE(slab_get(h) != nullptr);
    slab_publish(h);
    REQUIRE(slab_get(h) != nullptr);
    slab_free(h);
    REQUIRE(slab_get(h) == nullptr);
    const handle<stream_ring> again = slab_alloc<stream_ring>();
    REQUIRE(!(again == h));
    slab_free(h); // a second free of the old generation must not free the new cell
    REQUIRE(slab_get(again) != nullptr);
    slab_free(again);
}

TEST_CASE("wild handles are refused", "[arena]") {
    REQUIRE(arena_attach_private() == 0);
    REQUIRE(slab_get(handle<stream_ring>{0xffffffff, 1}) == nullptr);
    REQUIRE(slab_get(handle<stream_ring>{0, 0}) == nullptr);
    REQUIRE(extent_data(extent{0xffffffff, 7}) == nullptr);
    slab_free(handle<stream_ring>{0xffffff, 9});
    extent_free(extent{0xf0000000, 3});
}

TEST_CASE("extents have the size that was asked for", "[arena]") {
    REQUIRE(arena_attach_private() == 0);
    const u64 before = arena_bytes_in_use();
    std::vector<extent> held;
    for (const u32 bytes : {1u, 1024u, 1025u, 4096u, 65536u, 65537u, 1048577u, extent_max_bytes}) {
        const extent e = extent_alloc(bytes);
        REQUIRE(e);
        REQUIRE(extent_bytes(e) >= bytes);
        std::memset(extent_data(e), 0x5a, bytes);
        held.push_back(e);
    }
    REQUIRE_FALSE(extent_alloc(extent_max_bytes + 1));
    for (const extent e : held) extent_free(e);
    REQUIRE(arena_bytes_in_use() == before);
}

TEST_CASE("two threads never get the same cell", "[arena]") {
    REQUIRE(arena_attach_private() == 0);
    std::vector<handle<stream_ring>> got[2];
    const auto work = [&](int who) {
        for (int i = 0; i < 2000; ++i) {
            got[who].push_back(slab_alloc<stream_ring>());
            if (i % 3 == 0) {
                slab_free(got[who].back());
                got[who].pop_back();
            }
        }
    };
    std::thread one(work, 0), two(work, 1);
    one.join();
    two.join();
    std::vector<u32> all;
    for (const auto& list : got) {
        for (const auto h : list) all.push_back(h.index);
    }
    std::sort(all.begin(), all.end());
    REQUIRE(std::adjacent_find(all.begin(), all.end()) == all.end());
    for (const auto& list : got) {
        for (const auto h : list) slab_free(h);
    }
}

TEST_CASE("what a killed process had claimed comes back", "[arena]") {
    REQUIRE(arena_attach_private() == 0);
    const u64 before = arena_bytes_in_use();
    in_killed_child([] {
        for (int i = 0; i < 100; ++i) slab_alloc<stream_ring>();
        extent_alloc(65536);
    });
    REQUIRE(arena_bytes_in_use() > before);
    reap_all_cells();
    REQUIRE(arena_bytes_in_use() == before);
}

TEST_CASE("a process is alive until it is not", "[arena]") {
    REQUIRE(arena_attach_private() == 0);
    auto* shared = static_cast<volatile proc_id*>(
        mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    const pid_t pid = fork();
    if (pid == 0) {
        process_register();
        *shared = self_proc;
        for (;;) pause();
    }
    while (!*shared) usleep(1000);
    REQUIRE(*shared != self_proc);
    REQUIRE(proc_alive(*shared));
    REQUIRE(proc_pid(*shared) == static_cast<u32>(pid));
    kill(pid, SIGSTOP);
    usleep(10000);
    REQUIRE(proc_alive(*shared)); // stopped is not dead
    kill(pid, SIGKILL);
    siginfo_t info;
    waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT);
    REQUIRE_FALSE(proc_alive(*shared)); // a zombie is dead
    waitpid(pid, nullptr, 0);
    REQUIRE_FALSE(proc_alive(*shared));
    reap_all_cells();
    REQUIRE_FALSE(proc_alive(*shared));
}

TEST_CASE("a slot that a living process is just taking is not reaped", "[arena]") {
    REQUIRE(arena_attach_private() == 0);
    const pid_t pid = fork();
    if (pid == 0) {
        process_register();
        for (;;) pause();
    }
    const auto slot_of_child = []() -> process_slot* {
        for (u32 slot = 1; slot <= max_processes; ++slot) {
            process_slot& p = the_arena.header->processes[slot];
            if (slot != proc_slot_of(self_proc) && proc_of_slot(slot)) return &p;
        }
        return nullptr;
    };
    while (!slot_of_child()) usleep(1000);
    // As a fork registers, beside a reaper: the time of its beginning is an earlier user's still.
    process_slot& p = *slot_of_child();
    const u64 live = p.word.load(), start = p.start_time.load();
    p.start_time.store(12345);
    CHECK(process_claim_dead() != 0); // that is how another process with its pid looks
    p.word.store((live & ~u64{3}) | PROC_CLAIMED);
    CHECK(process_claim_dead() == 0);
    p.start_time.store(start);
    p.word.store(live);
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    CHECK(process_claim_dead() != 0);
    reap_all_cells();
}

TEST_CASE("a lock whose owner died is taken over, and its taker told", "[sync]") {
    REQUIRE(arena_attach_private() == 0);
    auto* lock = static_cast<robust_lock*>(
        mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    REQUIRE(lock->lock());
    lock->unlock();
    in_killed_child([lock] { lock->lock_plain(); });
    REQUIRE_FALSE(lock->lock());
    lock->unlock();
    REQUIRE(lock->lock());
    lock->unlock();
    reap_all_cells();
}

TEST_CASE("a lock excludes", "[sync]") {
    REQUIRE(arena_attach_private() == 0);
    static robust_lock lock;
    static int counter;
    counter = 0;
    const auto work = [] {
        for (int i = 0; i < 100000; ++i) {
            lock_guard guard(lock);
            counter = counter + 1;
        }
    };
    std::thread one(work), two(work), three(work);
    one.join();
    two.join();
    three.join();
    REQUIRE(counter == 300000);
    REQUIRE(lock.word.load() == 0);
}
