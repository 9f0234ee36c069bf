// The waiting policy. See spin_wait.h and DESIGN.md, D6.
#include <cerrno>
#include <ctime>

#include "core/base/raw_syscall.h"
#include "core/net/spin_wait.h"
#include "core/sync/futex.h"
#include "core/sync/processors.h"

namespace sockshim {

namespace {

// spin_score: how well staying awake has paid off, in steps of spin_limit_us / score_max of patience,
// and in the upper half how many good outcomes are to be ignored. Zeroed memory is a fresh queue.
constexpr i32 score_max = 4;
constexpr i32 score_fresh = 2;

struct score_word {
    i32 score;
    u32 ignore;
    static score_word unpack(u32 v) {
        return {clamp_to<i32>(static_cast<i16>(v & 0xffff) + score_fresh, 0, score_max), v >> 16};
    }
    u32 pack() const {
        return ignore << 16 | static_cast<u16>(static_cast<i16>(score - score_fresh));
    }
};

// A yield that gives the processor away for this long met a process that computes: waiting so costs
// milliseconds, where a sleeper would be put in front.
constexpr u64 yield_too_long_us = 400;
constexpr u32 ignore_after_long_yield = 64;

#if defined(__x86_64__)
constexpr u64 spin_ticks = 3500; // 1 to 1.5 us
constexpr u32 spin_steps = 400;
#else
constexpr u64 spin_ticks = ~u64{0};
constexpr u32 spin_steps = 300;
#endif

} // namespace

// libc's, by way of the vdso: about 25 ns.
u64 monotonic_us() {
    timespec ts{};
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return static_cast<u64>(ts.tv_sec) * 1000000 + static_cast<u64>(ts.tv_nsec) / 1000;
}

u64 cycle_ticks() {
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
    u64 v;
    asm volatile("mrs %0, cntvct_el0" : "=r"(v));
    return v * 32; // usually some 25 to 100 MHz
#endif
}

bool spin_wait::pause() {
    if (exhausted_) {
        slept_ = true;
        return false;
    }
    if (!started_) {
        started_ = true;
        const score_word w = score_word::unpack(score_.load_relaxed());
        budget_us_ = static_cast<u32>(w.score) * spin_limit_us() / score_max;
        if (budget_us_ == 0) {
            begun_us_ = monotonic_us();
            exhausted_ = slept_ = true;
            return false;
        }
        spinning_ = has_other_processors();
        if (spinning_) begun_ticks_ = cycle_ticks();
    }
    if (spinning_) {
        cpu_relax();
        if (++steps_ < spin_steps && cycle_ticks() - begun_ticks_ < spin_ticks) return true;
        spinning_ = false;
        return true;
    }
    if (!begun_us_) {
        // With one processor the first yield is mostly the whole wait, and two looks at the clock would be
        // a good part of it. Every eighth is timed: enough to learn of a process that computes.
        static constinit thread_local u32 untimed = 0;
        if (steps_ == 0 && (++untimed & 7) != 0) {
            steps_ = 1;
            raw_syscall(SYS_sched_yield);
            return true;
        }
        begun_us_ = last_us_ = monotonic_us();
    }
    raw_syscall(SYS_sched_yield);
    const u64 now = monotonic_us();
    const u64 away = now - last_us_;
    last_us_ = now;
    if (away > yield_too_long_us) {
        score_.store_relaxed(score_word{0, ignore_after_long_yield}.pack());
        exhausted_ = true;
        return true; // it has been long enough for one more look
    }
    if (now - begun_us_ >= budget_us_) exhausted_ = true;
    return true;
}

// Relaxed and without a lock: a lost update costs one step of learning.
void spin_wait::finish(bool came) {
    if (!started_) return; // it was there at the first look: says nothing about waiting
    const u32 before = score_.load_relaxed();
    score_word w = score_word::unpack(before);
    // Awake until the end, the time of the last look is near enough.
    const u64 now = !begun_us_ ? 0 : last_us_ && !slept_ ? last_us_ : monotonic_us();
    const bool brief = came && now - begun_us_ <= spin_limit_us();
    if (brief && w.ignore) {
        --w.ignore;
    } else if (brief) {
        w.score = min_of(w.score + 1, score_max);
    } else {
        w.score = max_of(w.score - 1, 0);
    }
    if (const u32 after = w.pack(); after != before) score_.store_relaxed(after);
}

i64 deadline_after(const timespec* relative) {
    if (!relative) return -1;
    constexpr i64 far_s = i64{1} << 40; // beyond this, for ever is as good
    if (relative->tv_sec > far_s) return -1;
    // Rounded up, and one more for the fraction that the clock's own reading has lost.
    return static_cast<i64>(monotonic_us()) + relative->tv_sec * 1000000 +
           (relative->tv_nsec + 999) / 1000 + 1;
}

int sleep_until(a32& word, u32 seen, i64 deadline_us) {
    i64 left = -1;
    if (deadline_us >= 0) {
        left = deadline_us - static_cast<i64>(monotonic_us());
        if (left <= 0) return -EAGAIN;
    }
    const int r = futex_wait(word, seen, left);
    return r == -EINTR ? -EINTR : 0; // -EAGAIN there means that the word has moved on
}

int wait_on(wait_queue& wq, wait_side side, bool (*ready)(void*), void* arg, i64 deadline_us) {
    const signal_sample signals;
    // Linux: sock_intr_errno. A wait with a timeout is never restarted.
    const auto interrupted = [&] {
        return deadline_us < 0 ? signals.without_restart() : signals.any();
    };
    if (ready(arg)) return 0;
    if (deadline_us >= 0 && deadline_us <= static_cast<i64>(monotonic_us())) return -EAGAIN;
    a32& word = side == WAIT_RX ? wq.rx_seq : wq.tx_seq;
    const u32 flag = side == WAIT_RX ? WQ_RX_SLEEP : WQ_TX_SLEEP;
    spin_wait patience(wq.spin_score);
    for (;;) {
        if (patience.pause()) {
            // First: a handler that feeds the socket its thread waits for runs, to the program, after the
            // call was interrupted.
            if (interrupted()) {
                patience.finish(false);
                return -EINTR;
            }
            if (ready(arg)) break;
            // Awake waits are shorter than a clock reading is worth, except at the very end.
            continue;
        }
        const sleeping_on declared(word);
        const u32 seen = word.load();
        // The word is read first and the flag set with a full barrier: a producer that sees no flag has
        // published before this look, one that sees it moves the word.
        wq.flags.fetch_or(flag);
        if (ready(arg)) break;
        if (interrupted()) {
            patience.finish(false);
            return -EINTR;
        }
        const int r = sleep_until(word, seen, deadline_us);
        if (interrupted()) {
            patience.finish(false);
            return -EINTR;
        }
        if (r == -EINTR || r == -EAGAIN) {
            if (ready(arg)) break;
            patience.finish(false);
            return r;
        }
        if (ready(arg)) break;
    }
    patience.finish(true);
    return 0;
}

} // namespace sockshim
