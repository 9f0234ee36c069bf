// A thread that libc does not know of.
//
// pthread_create would change the program: libc would take its multi-threaded paths everywhere (locks in
// malloc and stdio, cancellation around each system call: 20 ns a read), setuid() would wait for a
// thread that blocks all signals, and a debugger's or a program's list of threads would show one more. So
// the thread is made by clone, with a TLS block of its own, and may call nothing of libc but memory
// functions and what reads the clock.
#pragma once
#include "core/base/types.h"

namespace sockshim {

// Runs main() on a new kernel thread with all signals blocked; the thread ends when it returns. False
// when there is no memory or no thread to be had, or the last one has not ended.
bool background_thread(void (*main)());
// Waits for its end, so long at most; then its memory is free, and another may be started. True: there is none.
bool background_join(i64 timeout_us);
// The thread there is, or 0.
u32 background_tid();
// In a forked child, where the thread is not.
void background_forked();

} // namespace sockshim
