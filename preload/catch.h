// SOCKSHIM_CATCH: system calls that the program makes by instruction. The kernel sends them to a SIGSYS
// handler (syscall user dispatch), but those from libc, the loader and this library; what concerns us is
// answered as our syscall() would, everything else goes on in the kernel.
//
// The kernel has one allowed range and a selector per thread. The range is the text from the lowest to the
// highest of libc, the loader and this library, and the selector never changes: no call of ours or of libc's
// has to switch it, and none can be caught in the middle of something.
#pragma once
#include <csignal>
#include <ucontext.h>

#include "core/base/types.h"

namespace sockshim {

extern bool catching;

// At load, when the variable is there at all.
void catch_start();
// This thread's, which is new or a forked child's. False: the kernel does not have it.
bool catch_thread();

// The SIGSYS handler's part. False: another SIGSYS.
bool catch_call(const siginfo_t* info, ucontext_t* context);

// A thread with SIGSYS blocked would be killed by its next call: the program's handlers may run with a mask
// that has it.
void catch_unblock();
constexpr u64 catch_bit = u64{1} << (SIGSYS - 1);

// rt_sigprocmask and rt_sigaction by number: -errno or SYS_NOT_OURS.
long catch_sigprocmask(const long (&a)[6]);
long catch_sigaction(const long (&a)[6]);

// wrap_syscall.cc: the answer to a caught call, or SYS_NOT_OURS when the kernel shall have it, in the
// program's own context.
long caught_syscall(long nr, const long (&a)[6]);

} // namespace sockshim
