// The waiting policy. See spin_wait.h and DESIGN.md, D6.
#include "core/net/spin_wait.h"

#include "core/base/raw_syscall.h"
#include "core/sync/processors.h"

namespace sockshim {

namespace {

constexpr u32 score_max = 4;
constexpr u32 score_fresh = 2;
constexpr u32 level_max = 12;
constexpr u32 vain_level_max = 7;
constexpr u32 ignored_after_vain = 8;
constexpr u32 ignored_after_long = 64;
constexpr u32 ignored_most = 0xffff;

// wait_queue.spin_score. At score 0 a wait sleeps at once. After yields that did not help, so many brief sleeps are
// taken before the next try, twice as many with every level. Zeroed memory is a fresh queue.
struct score_word {
    u32 score;  // steps of spin_limit_us / score_max of patience
    u32 level;  // yields that did not help, less the waits awake that paid off
    u32 ignore; // brief sleeps until the next try

    static score_word unpack(u32 v) {
        v ^= score_fresh;
        return {min_of(v & 0xf, score_max), min_of(v >> 4 & 0xf, level_max), v >> 16};
    }
    u32 pack() const { return (score | level << 4 | ignore << 16) ^ score_fresh; }

    void better() {
        score = min_of(score + 1, score_max);
        level -= level != 0;
    }
    void worse() { score -= score != 0; }
    void brief_sleep() {
        if (!ignore) return better();
        if (--ignore == 0)
            score = score_max; // a try with less might miss what a little more would bring
    }
    void vain_yields() {
        score = 0;
        ignore = ignored_after_vain << min_of(level, vain_level_max);
        level = min_of(level + 1, level_max);
    }
    // One may be chance. With one processor a sleep costs next to nothing in comparison, so the next try can
    // wait; with more of them it may have to be woken from an idle one.
    void long_yield(bool one_processor) {
        if (level) {
            score = 0;
            ignore = min_of(ignored_after_long << (one_processor ? level : 0), ignored_most);
        }
        level = min_of(level + 1, level_max);
    }
};

// A yield that gives the processor away for so long met a process that computes, and pays for it with its
// share of the processor as well, where a sleeper would be put in front.
constexpr u64 long_yield_us = 1000;
constexpr u64 long_yield_ticks = 2500000; // 0.5 to 2.5 ms
// One that comes back so soon let nobody run. So many of them cost what a sleep does.
constexpr u64 short_yield_ticks = 2000; // 0.4 to 2 us
constexpr u32 yields_in_vain = 8;

#if defined(__x86_64__)
constexpr u64 spin_ticks = 3500; // 1 to 1.5 us
constexpr u32 spin_steps = 400;
#else
constexpr u64 spin_ticks = ~u64{0};
constexpr u32 spin_steps = 300;
#endif

} // namespace

bool spin_wait::sleep_from_now() {
    if (!begun_us_) begun_us_ = monotonic_us();
    slept_ = true;
    return false;
}

// Waiting for somebody who may have to run here, or runs elsewhere. (One processor may be all that this thread is
// allowed.) A yield does not reach whom the scheduler thinks to have run enough, and comes back at once.
bool spin_wait::pause_shared() {
    if (steps_++ == 0) {
        // Mostly this is the whole wait, and two looks at a clock would be a good part of it. Every eighth is
        // timed, and each where there have been long ones.
        static constinit thread_local u32 untimed = 0;
        if (!suspect_ && (++untimed & 7) != 0) {
            raw_syscall(SYS_sched_yield);
            return true;
        }
    } else if (!begun_us_) {
        begun_us_ = monotonic_us();
    } else if (monotonic_us() - begun_us_ >= budget_us_) {
        return sleep_from_now();
    }
    if (long_yield_) return sleep_from_now();
    const u64 begun = cycle_ticks();
    raw_syscall(SYS_sched_yield);
    const u64 away = cycle_ticks() - begun;
    long_yield_ = away > long_yield_ticks;
    let_run_ = away >= short_yield_ticks;
    in_vain_ += !let_run_;
    return true;
}

bool spin_wait::pause() {
    if (slept_) return false;
    if (phase_ == FRESH) {
        const score_word w = score_word::unpack(score_.load_relaxed());
        budget_us_ = w.score * spin_limit_us() / score_max;
        suspect_ = w.level;
        phase_ = budget_us_ == 0 ? ASLEEP : has_other_processors() ? SPINNING : SHARING;
        if (phase_ == SPINNING) begun_ticks_ = cycle_ticks();
    }
    if (phase_ == SPINNING) {
        cpu_relax();
        if (++steps_ < spin_steps && cycle_ticks() - begun_ticks_ < spin_ticks) return true;
        phase_ = YIELDING;
        return true;
    }
    if (phase_ == SHARING) return pause_shared();
    if (phase_ == ASLEEP) return sleep_from_now();
    if (!begun_us_) begun_us_ = last_us_ = monotonic_us();
    raw_syscall(SYS_sched_yield);
    const u64 now = monotonic_us();
    long_yield_ = now - last_us_ > long_yield_us;
    last_us_ = now;
    if (long_yield_ || now - begun_us_ >= budget_us_) phase_ = ASLEEP;
    return true; // it has been long enough for one more look
}

// Relaxed and without a lock: a lost update costs one step of learning.
void spin_wait::finish(bool came, u32 woken_us) {
    if (phase_ == FRESH) return; // it was there at the first look: says nothing about waiting
    const u32 before = score_.load_relaxed();
    score_word w = score_word::unpack(before);
    u64 lasted = 0; // awake until the end: within the budget
    if (slept_) {
        const u64 now = monotonic_us();
        lasted = min_of<u64>(now - begun_us_, woken_us - static_cast<u32>(begun_us_));
    }
    if (long_yield_) {
        w.long_yield(phase_ == SHARING);
    } else if (in_vain_ >= yields_in_vain && (slept_ || let_run_)) {
        w.vain_yields(); // also when one brought it at last: it came from here, and a sleep had brought it sooner
    } else if (!came || lasted > spin_limit_us()) {
        w.worse();
    } else if (slept_) {
        w.brief_sleep();
    } else {
        w.better();
    }
    if (const u32 after = w.pack(); after != before) score_.store_relaxed(after);
}

} // namespace sockshim
