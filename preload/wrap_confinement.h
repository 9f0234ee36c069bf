// What goes around calls by which a program confines itself, for libc's functions and for syscall().
#pragma once
#include "core/base/types.h"

struct rlimit;

namespace sockshim {

// Around a call that installs a filter: `program` is the caller's sock_fprog, `everybody`: for all threads. `call`
// asks the kernel, and is 0 or more where it has taken it.
using confining_call = long (*)(void* arg);
long confine(const void* program, bool everybody, confining_call call, void* arg);

// RLIMIT_NOFILE is about to change, and has changed.
void before_limit(int resource, const rlimit* limit);
void after_limit(int resource);

// A call about the calling process's RLIMIT_AS, which the arena's mapping does not count in: as the kernel's prlimit64
// of these two, either of which may be null. SYS_NOT_OURS: any other limit.
long limit_of_address_space(int pid, int resource, const rlimit* limit, rlimit* former);

} // namespace sockshim
