// wait_on: waking, deadlines, signals, and that patience is learnt.
#include <catch2/catch.hpp>

#include <sys/resource.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <ctime>
#include <thread>
#include <vector>

#include "tests/unit/eventpoll_fake.h"

using namespace sockshim;

namespace {

bool flag_is_set(void* p) { return static_cast<std::atomic<bool>*>(p)->load(); }
bool never(void*) { return false; }

i64 in_us(i64 us) { return static_cast<i64>(monotonic_us()) + us; }

u64 cpu_us() {
    timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return static_cast<u64>(ts.tv_sec) * 1000000 + static_cast<u64>(ts.tv_nsec) / 1000;
}

void on_signal(int) {
    // What preload/'s trampoline does.
    this_thread.signals = this_thread.signals + 1;
    this_thread.interrupting = this_thread.interrupting + 1;
    if (this_thread.sleeping_on) __atomic_add_fetch(this_thread.sleeping_on, 1, __ATOMIC_SEQ_CST);
}
void on_restarting_signal(int) {
    this_thread.signals = this_thread.signals + 1;
    if (this_thread.sleeping_on) __atomic_add_fetch(this_thread.sleeping_on, 1, __ATOMIC_SEQ_CST);
}
void handle_signal(int sig, void (*handler)(int), int flags) {
    struct sigaction sa {};
    sa.sa_handler = handler;
    sa.sa_flags = flags;
    sigaction(sig, &sa, nullptr);
}

} // namespace

TEST_CASE("wait_on: what is there already costs no wait", "[wait]") {
    fake::source s;
    std::atomic<bool> ready{true};
    CHECK(wait_on(s.wq(), WAIT_RX, flag_is_set, &ready, 0) == 0);
    CHECK(s.wq().flags.load() == 0);
}

TEST_CASE("wait_on: the deadline is kept, never early", "[wait]") {
    fake::source s;
    CHECK(wait_on(s.wq(), WAIT_RX, never, nullptr, 0) == -EAGAIN);
    for (const i64 us : {1, 30, 200, 3000, 20000}) {
        const i64 until = in_us(us);
        CHECK(wait_on(s.wq(), WAIT_TX, never, nullptr, until) == -EAGAIN);
        CHECK(static_cast<i64>(monotonic_us()) >= until);
    }
}

TEST_CASE("wait_on: both sides are woken by their masks", "[wait]") {
    fake::source s;
    for (const auto& [side, mask] : {std::pair<wait_side, u32>{WAIT_RX, EPOLLIN | EPOLLRDNORM},
                                     {WAIT_TX, EPOLLOUT},
                                     {WAIT_RX, EPOLLHUP},
                                     {WAIT_TX, EPOLLERR}}) {
        std::atomic<bool> ready{false};
        std::atomic<int> tid{0};
        std::atomic<int> result{1};
        std::thread sleeper([&, side = side] {
            tid = gettid();
            result = wait_on(s.wq(), side, flag_is_set, &ready, -1);
        });
        while (!tid) {
        }
        fake::wait_asleep(tid);
        ready = true;
        wake_up(s.wq(), mask);
        sleeper.join();
        CHECK(result == 0);
        CHECK((s.wq().flags.load() & (side == WAIT_RX ? WQ_RX_SLEEP : WQ_TX_SLEEP)) == 0);
    }
}

TEST_CASE("wait_on: no wake is lost in a ping-pong", "[wait]") {
    fake::source a, b;
    struct counter {
        std::atomic<u32> value{0};
        u32 wanted = 0;
    } ping, pong;
    const auto reached = [](void* p) {
        const auto* c = static_cast<counter*>(p);
        return c->value.load() >= c->wanted;
    };
    constexpr u32 rounds = 20000;
    std::thread other([&] {
        for (u32 i = 1; i <= rounds; ++i) {
            ping.wanted = i;
            wait_on(a.wq(), WAIT_RX, reached, &ping, -1);
            pong.value.fetch_add(1);
            wake_up(b.wq(), EPOLLIN);
            if (i % 64 == 0) usleep(i % 200); // makes the other side sleep now and then
        }
    });
    for (u32 i = 1; i <= rounds; ++i) {
        ping.value.fetch_add(1);
        wake_up(a.wq(), EPOLLIN);
        pong.wanted = i;
        wait_on(b.wq(), WAIT_RX, reached, &pong, -1);
        if (i % 50 == 0) usleep(i % 150);
    }
    other.join();
    CHECK(pong.value == rounds);
}

TEST_CASE("wait_on: a wake of one goes to one, and none is forgotten", "[wait]") {
    fake::source s;
    std::atomic<int> tickets{0}, taken{0};
    const auto take = [](void* p) {
        auto& t = *static_cast<std::atomic<int>*>(p);
        int n = t.load();
        while (n > 0) {
            if (t.compare_exchange_weak(n, n - 1)) return true;
        }
        return false;
    };
    constexpr int threads = 8, each = 500;
    std::vector<std::thread> all;
    for (int i = 0; i < threads; ++i) {
        all.emplace_back([&] {
            for (int k = 0; k < each; ++k) {
                if (wait_on(s.wq(), WAIT_RX, take, &tickets, in_us(20000000)) == 0) ++taken;
            }
        });
    }
    for (int i = 0; i < threads * each; ++i) {
        tickets.fetch_add(1);
        wake_up(s.wq(), EPOLLIN, false);
        if (i % 7 == 0) usleep(20);
    }
    for (std::thread& t : all) t.join();
    CHECK(taken == threads * each);
}

TEST_CASE("wait_on: signals as sock_intr_errno has it", "[wait]") {
    fake::source s;
    std::atomic<bool> ready{false};
    std::atomic<int> tid{0}, result{1};
    const auto start = [&](i64 timeout_us) {
        ready = false;
        tid = 0;
        result = 1;
        return std::thread([&, timeout_us] {
            tid = gettid();
            result = wait_on(s.wq(), WAIT_RX, flag_is_set, &ready,
                             timeout_us < 0 ? -1 : in_us(timeout_us));
        });
    };
    const auto interrupt = [&](std::thread& t) {
        while (!tid) {
        }
        fake::wait_asleep(tid);
        pthread_kill(t.native_handle(), SIGUSR1);
    };
    SECTION("a handler without SA_RESTART ends the wait") {
        handle_signal(SIGUSR1, on_signal, 0);
        std::thread t = start(-1);
        interrupt(t);
        t.join();
        CHECK(result == -EINTR);
    }
    SECTION("a handler with SA_RESTART does not") {
        handle_signal(SIGUSR1, on_restarting_signal, SA_RESTART);
        std::thread t = start(-1);
        interrupt(t);
        usleep(20000);
        CHECK(result == 1);
        ready = true;
        wake_up(s.wq(), EPOLLIN);
        t.join();
        CHECK(result == 0);
    }
    SECTION("with a timeout any handler does") {
        handle_signal(SIGUSR1, on_restarting_signal, SA_RESTART);
        std::thread t = start(5000000);
        interrupt(t);
        t.join();
        CHECK(result == -EINTR);
    }
    handle_signal(SIGUSR1, SIG_DFL, 0);
}

// Sleeps that prove brief, though the sleeper wakes so much later: patience comes back. After more than one, for
// a queue may be put off, and so may this thread where others want its processor.
static bool patient_again(a32& score, unsigned late_us) {
    for (int i = 0; i < 200000; ++i) {
        spin_wait w(score);
        if (w.pause()) return true;
        const u32 woken = static_cast<u32>(monotonic_us());
        if (late_us) usleep(late_us);
        w.finish(true, woken);
    }
    return false;
}

TEST_CASE("patience: an idle queue stops spinning, a busy one starts again", "[wait]") {
    fake::source s;
    for (int i = 0; i < 8; ++i) {
        CHECK(wait_on(s.wq(), WAIT_RX, never, nullptr, in_us(300)) == -EAGAIN);
    }
    constexpr u64 waits = 20;
    // On a busy machine either may cost a multiple of its own: the cheapest of a few counts.
    u64 of_sleeping = ~u64{0}, of_waiting = ~u64{0};
    for (int round = 0; round < 10; ++round) {
        u64 before = cpu_us();
        for (u64 i = 0; i < waits; ++i) usleep(1000);
        of_sleeping = min_of(of_sleeping, cpu_us() - before);
        before = cpu_us();
        for (u64 i = 0; i < waits; ++i) {
            CHECK(wait_on(s.wq(), WAIT_RX, never, nullptr, in_us(1000)) == -EAGAIN);
        }
        of_waiting = min_of(of_waiting, cpu_us() - before);
    }
    CHECK(of_waiting < of_sleeping * 3 / 2 + waits * 20); // one that spins takes 50 more

    a32 score{};
    for (int i = 0; i < 10; ++i) { // long waits
        spin_wait w(score);
        while (w.pause()) {
        }
        usleep(200);
        w.finish(true);
    }
    {
        spin_wait w(score);
        CHECK_FALSE(w.pause()); // sleeps at once
        w.finish(false);
    }
    CHECK(patient_again(score, 0));
}

TEST_CASE("patience: the time that waking takes is not the wait's", "[wait]") {
    a32 score{};
    const auto long_wait = [&](bool waker_was_late) {
        spin_wait w(score);
        while (w.pause()) {
        }
        const u64 begun = monotonic_us();
        usleep(200);
        w.finish(true, static_cast<u32>(waker_was_late ? monotonic_us() : begun));
    };
    for (int i = 0; i < 10; ++i) long_wait(true);
    {
        spin_wait w(score);
        CHECK_FALSE(w.pause());
        w.finish(false);
    }
    CHECK(patient_again(score, 200));
}

TEST_CASE("patience: a bad word from the arena does no harm", "[wait]") {
    for (const u32 word : {~0u, 0x80000000u, 0x0000ffffu, 0x5555aaaau}) {
        a32 score{};
        score.store(word);
        CHECK(patient_again(score, 0));
    }
}
