// A system call by instruction, as a program makes it that uses no libc for it. x86_64. Answers as the kernel
// does: -errno.
#pragma once

#if defined(__x86_64__)
static inline __attribute__((always_inline)) long inline_call(long nr, const long* a) {
    register long r10 __asm__("r10") = a[3];
    register long r8 __asm__("r8") = a[4];
    register long r9 __asm__("r9") = a[5];
    long r;
    __asm__ volatile("syscall"
                     : "=a"(r)
                     : "a"(nr), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return r;
}
#endif
