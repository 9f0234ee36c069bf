// How long to stay awake while waiting (DESIGN.md, D6), and the sleep that follows.
//
// A wait looks, spins for about a microsecond where there is another processor, then yields and looks for as
// long as that has been paying off, then sleeps. What pays off is learnt per wait queue from how long waits
// last: those shorter than spin_limit_us raise the score, longer ones lower it, and at 0 a wait sleeps at
// once. A sleep that turns out to have been short raises it again, so an idle server never spins and a busy
// one seldom sleeps. Yields that brought nothing and let nobody run, and those that gave the processor to one
// who computes, put the next try off.
#pragma once
#include "core/base/config.h"
#include "core/net/wait_queue.h"

namespace sockshim {

// SOCKSHIM_SPIN_US; 0: sleep at once.
inline u32 spin_limit_us() { return static_cast<u32>(config().spin_us); }

class spin_wait {
public:
    explicit spin_wait(a32& score) : score_(score) {}
    // One step of waiting awake; look again after it. False: patience is used up, sleep.
    bool pause();
    // The wait is over. `came`: what was waited for is there (else a timeout or a signal). `woken_us`: after a
    // sleep, when its waker came, which is not the sleeper's doing (waking an idle processor takes long). What
    // does not lie in this wait counts as nothing.
    void finish(bool came, u32 woken_us = 0);

private:
    enum phase : u8 { FRESH, SPINNING, YIELDING, SHARING, ASLEEP };
    bool pause_shared();
    bool sleep_from_now();

    a32& score_;
    phase phase_ = FRESH;
    bool slept_ = false;   // was told to
    bool suspect_ = false; // yields have not helped lately
    bool let_run_ = false; // the last yield did
    bool long_yield_ = false;
    u32 steps_ = 0;
    u32 in_vain_ = 0; // yields that came back at once
    u32 budget_us_ = 0;
    u64 begun_ticks_ = 0;
    u64 begun_us_ = 0; // 0: the clock has not been read yet
    u64 last_us_ = 0;  // after the last yield with a processor to spare
};

// Handlers of the program's that ran on this thread since the sample was taken (preload/'s trampolines
// count them).
struct signal_sample {
    u32 signals = this_thread.signals;
    u32 interrupting = this_thread.interrupting;
    bool any() const { return this_thread.signals != signals; }
    // A call that has moved some bytes returns with them when a handler has run since it began, SA_RESTART or not.
    bool cut_short(u64 moved) const { return moved && any(); }
    bool without_restart() const { return this_thread.interrupting != interrupting; }
};

// Declares the futex word that this thread is going to sleep on, so that a handler that runs between
// the last look and the system call keeps it from sleeping. What an interrupted outer call declared is
// put back.
class sleeping_on {
public:
    explicit sleeping_on(a32& word) : outer_(this_thread.sleeping_on) {
        this_thread.sleeping_on = &word.v_;
        asm volatile("" ::: "memory");
    }
    ~sleeping_on() {
        asm volatile("" ::: "memory");
        this_thread.sleeping_on = outer_;
    }
    sleeping_on(const sleeping_on&) = delete;
    sleeping_on& operator=(const sleeping_on&) = delete;

private:
    u32* outer_;
};

// Sleeps while word == seen and the deadline (absolute, < 0: none) is ahead. 0: look again;
// -EAGAIN: the deadline has come; -EINTR: a handler ended the system call.
int sleep_until(a32& word, u32 seen, i64 deadline_us);

// Absolute deadline for a relative time; never early. Null is for ever (-1).
i64 deadline_after(const timespec* relative);

} // namespace sockshim
