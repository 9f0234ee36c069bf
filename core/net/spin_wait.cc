// The waiting policy. See spin_wait.h and DESIGN.md, D6.
#include "core/net/spin_wait.h"

#include <sys/resource.h>

#include "core/base/raw_syscall.h"
#include "core/sync/processors.h"

namespace sockshim {

namespace {

constexpr u32 score_max = 4;
constexpr u32 score_fresh = 2;
constexpr u32 level_max = 12;
constexpr u32 ignored_after_vain = 0;
constexpr u32 ignored_after_long = 64;
constexpr u32 ignored_most = 0xffff;

// wait_queue.spin_score. At score 0 a wait sleeps at once. After yields that did not help, that many brief
// sleeps are taken before the next try, twice as many with every level. Zeroed memory is a fresh queue.
struct score_word {
    u32 score
        [2]; // without and with a processor to spare: steps of spin_limit_us / score_max of patience
    u32 level;  // how often in a row tries have failed, about
    u32 ignore; // brief sleeps until the next try

    static constexpr u32 fresh = score_fresh | score_fresh << 4;
    static score_word unpack(u32 v) {
        v ^= fresh;
        return {{min_of(v & 0xf, score_max), min_of(v >> 4 & 0xf, score_max)},
                min_of(v >> 8 & 0xf, level_max),
                v >> 16};
    }
    u32 pack() const { return (score[0] | score[1] << 4 | level << 8 | ignore << 16) ^ fresh; }

    void better(bool spare) {
        u32& s = score[spare];
        level -= level != 0;
        s = min_of(s + 1, score_max);
    }
    void worse(bool spare) { score[spare] -= score[spare] != 0; }
    // One may be chance.
    void long_yield(bool spare) {
        if (level) {
            score[spare] = 0;
            ignore = min_of(ignored_after_long << level, ignored_most);
        }
        level = min_of(level + 1, level_max);
    }
};

// A yield that gives the processor away for so long met a process that computes, and pays for it with its
// share of the processor as well, where a sleeper would be put in front.
constexpr u64 long_yield_us = 1000;
constexpr u64 long_yield_ticks = 2500000; // 0.5 to 2.5 ms
// One that comes back so soon found nobody to run. Some of them cost what a sleep does.
constexpr u64 short_yield_ticks = 2000; // 0.4 to 2 us
constexpr u32 yields_in_vain = 8;

#if defined(__x86_64__)
constexpr u64 spin_ticks = 3500; // 1 to 1.5 us
constexpr u32 spin_steps = 400;
#else
constexpr u64 spin_ticks = ~u64{0};
constexpr u32 spin_steps = 300;
#endif

// Whether this thread takes the processor from others by waiting awake: then it is preempted while it does.
// If so it shares for some waits, and if it got on worse with that (a sleeper has to be woken, which from an idle
// processor takes long), it goes on as before for some samples.
constexpr u64 sample_awake_us = 2000;
constexpr u64 sample_least_us = 8000, sample_most_us = 100000;
constexpr u64 preempted_each_us = 8000;
constexpr u32 shared_at_first = 128, shared_level_max = 5;
constexpr u32 immune_level_max = 8;

struct contention {
    u64 begun_us;    // of this sample, or of sharing; 0: none
    u64 awake_us;    // waited awake since
    u64 preemptions; // by then
    u64 pace;        // waits in 2^20 us, when awake
    u32 waits;       // since
    u32 shared;      // waits that are to share; 0: awake
    u32 immune;      // samples that mean nothing
    u8 shared_level;
    u8 immune_level;
};
constinit thread_local contention others{};

u64 preemptions() {
    rusage used{};
    raw_syscall(SYS_getrusage, RUSAGE_THREAD, ptr_arg(&used));
    return static_cast<u64>(used.ru_nivcsw);
}

void begin_sample(u64 now_us) {
    others.begun_us = now_us;
    others.awake_us = 0;
    others.waits = 0;
    others.preemptions = preemptions();
}

void waited_awake(u64 us, u64 now_us) {
    contention& c = others;
    c.awake_us += us;
    if (c.awake_us < sample_awake_us) return;
    const u64 passed = now_us - c.begun_us;
    if (passed < sample_least_us) return;
    if (passed > sample_most_us) return begin_sample(now_us);
    const u64 count = preemptions() - c.preemptions;
    if (c.immune) {
        --c.immune;
    } else if (count * preempted_each_us >= passed) {
        c.shared = shared_at_first << c.shared_level;
        c.pace = (u64{c.waits} << 20) / passed;
    } else {
        c.shared_level = c.immune_level = 0;
    }
    begin_sample(now_us);
}

void shared_long_enough() {
    contention& c = others;
    const u64 now_us = monotonic_us();
    const u64 pace = (u64{c.waits} << 20) / max_of<u64>(now_us - c.begun_us, 1);
    if (pace < c.pace - c.pace / 8) {
        c.immune = 1u << c.immune_level;
        c.immune_level = min_of<u8>(c.immune_level + 1, immune_level_max);
        c.shared_level = 0;
    } else {
        c.immune_level = 0;
        c.shared_level = min_of<u8>(c.shared_level + 1, shared_level_max);
    }
    c.shared = 0;
    begin_sample(now_us);
}

// A wait begins: may it keep a processor for itself?
bool processor_to_spare() {
    if (!has_other_processors()) return false;
    ++others.waits;
    if (SOCKSHIM_LIKELY(!others.shared)) return true;
    if (others.waits < others.shared) return false;
    shared_long_enough();
    return true;
}

} // namespace

bool spin_wait::sleep_from_now() {
    if (!begun_us_) begun_us_ = monotonic_us();
    slept_ = true;
    return false;
}

// Waiting for somebody who may have to run here. A yield lets him, as long as it finds somebody: it does not reach
// whom the scheduler thinks to have run enough, where a sleep reaches all.
bool spin_wait::pause_shared() {
    if (in_vain_ >= yields_in_vain || (steps_ && monotonic_us() - begun_us_ >= budget_us_)) {
        return sleep_from_now();
    }
    const u64 begun = cycle_ticks();
    raw_syscall(SYS_sched_yield);
    const u64 away = cycle_ticks() - begun;
    long_yield_ = away > long_yield_ticks;
    if (long_yield_) in_vain_ = yields_in_vain;
    if (away < short_yield_ticks) ++in_vain_;
    if (steps_++ == 0) begun_us_ = monotonic_us();
    return true;
}

bool spin_wait::pause() {
    if (slept_) return false;
    if (phase_ == FRESH) {
        spare_ = processor_to_spare();
        const score_word w = score_word::unpack(score_.load_relaxed());
        budget_us_ = w.score[spare_] * spin_limit_us() / score_max;
        phase_ = budget_us_ == 0 ? ASLEEP : spare_ ? SPINNING : SHARING;
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
    if (last_us_) waited_awake(last_us_ - begun_us_, last_us_);
    if (long_yield_) {
        w.long_yield(spare_);
    } else if (slept_ && in_vain_ >= yields_in_vain) {
        w.worse(spare_);
        if (!w.score[spare_]) w.ignore = max_of(w.ignore, ignored_after_vain);
    } else if (!came || lasted > spin_limit_us()) {
        w.worse(spare_);
    } else if (w.ignore) {
        --w.ignore;
    } else {
        w.better(spare_);
    }
    if (const u32 after = w.pack(); after != before) score_.store_relaxed(after);
}

} // namespace sockshim
