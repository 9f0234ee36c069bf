// Critical sections against signals: while a thread is inside one, no handler of the program's runs on
// it, so a handler that calls send() cannot meet its own thread's locks.
//
// Entering and leaving is a counter in thread-local storage. preload/signal.cc puts a trampoline in
// front of each handler of the program; where the trampoline finds the counter raised it blocks all
// signals on the thread, queues the signal to itself again and sets `deferred`; leaving the outermost
// section then calls critical_deferred, which restores the mask and so lets the kernel deliver it.
#pragma once
#include "core/base/types.h"

namespace sockshim {

struct thread_state {
    u32 critical;     // depth
    u32 deferred;     // a signal waits for the outermost section to end
    u32 signals;      // handlers of the program that have run on this thread
    u32 interrupting; // those of them without SA_RESTART
    u32* sleeping_on; // the futex word this thread is about to sleep on; the trampoline bumps it
    void* fault_jump; // __builtin_setjmp buffer of the user copy in progress, see uaccess.h
    const void* fault_lo;
    const void* fault_hi;
    u64 deferred_mask; // what the program blocks, while a deferred signal has everything blocked
};

extern constinit thread_local thread_state this_thread;

// Set by preload/; the core's tests leave it null.
extern void (*critical_deferred)();

inline void critical_enter() {
    this_thread.critical = this_thread.critical + 1;
    asm volatile("" ::: "memory");
}
inline void critical_leave() {
    asm volatile("" ::: "memory");
    const u32 depth = this_thread.critical - 1;
    this_thread.critical = depth;
    if (SOCKSHIM_UNLIKELY(depth == 0 && this_thread.deferred)) critical_deferred();
}

} // namespace sockshim
