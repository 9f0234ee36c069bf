// System calls made by instruction, never through libc: libc's names are the ones we export, and the
// kernel's answer is wanted as -errno. Returns what the kernel returns; where the program has put a filter on
// its system calls that forbids this one, what seccomp.h says instead of making it.
#pragma once
#include <sys/syscall.h>

#include "core/base/seccomp.h"

namespace sockshim {

#if defined(__x86_64__)
inline long raw_syscall(long nr, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0,
                        long f = 0) {
    long ret;
    if (seccomp_forbids(ret, nr, a, b, c, d, e, f)) return ret;
    register long r10 asm("r10") = d;
    register long r8 asm("r8") = e;
    register long r9 asm("r9") = f;
    asm volatile("syscall"
                 : "=a"(ret)
                 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                 : "rcx", "r11", "memory");
    return ret;
}
#elif defined(__aarch64__)
inline long raw_syscall(long nr, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0,
                        long f = 0) {
    long ret;
    if (seccomp_forbids(ret, nr, a, b, c, d, e, f)) return ret;
    register long x8 asm("x8") = nr;
    register long x0 asm("x0") = a;
    register long x1 asm("x1") = b;
    register long x2 asm("x2") = c;
    register long x3 asm("x3") = d;
    register long x4 asm("x4") = e;
    register long x5 asm("x5") = f;
    asm volatile("svc 0"
                 : "+r"(x0)
                 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                 : "memory");
    return x0;
}
#else
#error "sockshim knows x86_64 and aarch64"
#endif

inline long ptr_arg(const volatile void* p) { return reinterpret_cast<long>(p); }

} // namespace sockshim
