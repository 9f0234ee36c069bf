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

} // namespace sockshim
