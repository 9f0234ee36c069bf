// Filters that the program has put on its own system calls (seccomp). They meet the library's calls too, and
// mostly kill for what they do not list. So the library asks them first: the programs are kept as they are
// installed, and run here. A call that would not be made has the answer that the filter gives, or EPERM where
// it would kill.
//
// The kernel has a filter per thread, inherited; here one list stands for the process. A thread that had none
// is thereby more careful than it need be, but for the library's own, which says so.
#pragma once
#include "core/base/types.h"

namespace sockshim {

extern bool seccomp_active;
bool seccomp_forbids_slow(long& answer, long nr, const long (&args)[6]);

inline bool seccomp_forbids(long& answer, long nr, long a, long b, long c, long d, long e, long f) {
    if (SOCKSHIM_LIKELY(!__atomic_load_n(&seccomp_active, __ATOMIC_RELAXED))) return false;
    return seccomp_forbids_slow(answer, nr, {a, b, c, d, e, f});
}
// For calls that are not made by raw_syscall.
bool seccomp_permits(long nr, long first = 0);

struct sock_instruction { // linux/filter.h: sock_filter
    u16 code;
    u8 jt, jf;
    u32 k;
};
struct seccomp_filter {
    const seccomp_filter* older;
    u32 length;
    sock_instruction program[];
};
// Room for a program, to be filled in; null: no memory.
seccomp_filter* seccomp_new(u32 length);
void seccomp_free(seccomp_filter& filter);
// It holds from here on: once the kernel has taken it, for other threads than the caller's before that, and
// withdrawn when the kernel did not take it.
void seccomp_add(seccomp_filter& filter);
void seccomp_withdraw(seccomp_filter& filter);

// The calling thread has no filter, whatever the others have.
void seccomp_exempt_thread();

} // namespace sockshim
