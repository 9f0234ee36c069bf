// Thread cancellation of calls that wait in our stack. Libc's own cancellation points look at themselves
// only inside libc's system calls, so pthread_cancel is wrapped: a thread that waits with us is made to
// leave the wait as by a signal, and tests for cancellation outside of it, where nothing is held.
#pragma once
#include <cerrno>
#include <pthread.h>

#include "core/base/types.h"

namespace sockshim {

struct cancel_state {
    u32 tid;     // of the thread, once it has waited
    u32 waiting; // inside a call of ours that is a cancellation point
    u32 poked;   // pthread_cancel wants a look
};
extern constinit thread_local cancel_state this_cancel;

void cancel_learn_tid();
void cancel_after_fork_child();

// Runs one of our calls as a cancellation point. A thread that has cancellation disabled does not
// notice: the call is made again.
template <class Ours> [[gnu::always_inline]] inline long cancellable(Ours ours) {
    if (SOCKSHIM_UNLIKELY(!this_cancel.tid)) cancel_learn_tid();
    this_cancel.waiting = 1;
    pthread_testcancel();
    long r = ours();
    while (SOCKSHIM_UNLIKELY(r == -EINTR && this_cancel.poked)) {
        this_cancel.poked = 0;
        pthread_testcancel();
        r = ours();
    }
    this_cancel.waiting = 0;
    return r;
}

} // namespace sockshim
