#include "core/sync/uaccess.h"

#include <cerrno>
#include <cstring>

#include "core/sync/critical.h"

namespace sockshim {

namespace {

// Runs `access` with [user, user + n) declared as the range in which a fault is the program's mistake.
// What was declared before is put back: a signal handler of the program's may interrupt a copy and copy.
// Not inlined: the second return of __builtin_setjmp must find this frame and nothing else changed. The
// arguments are plain words, which arrive in registers.
template <void (*access)(void*, const void*, std::size_t)>
[[gnu::noinline]] int guarded(void* to, const void* from, std::size_t n, const void* user) {
    void* jump[5];
    void* const outer_jump = this_thread.fault_jump;
    const void* const outer_lo = this_thread.fault_lo;
    const void* const outer_hi = this_thread.fault_hi;
    volatile int result = -EFAULT;
    if (!__builtin_setjmp(jump)) {
        this_thread.fault_lo = user;
        this_thread.fault_hi = static_cast<const u8*>(user) + n;
        asm volatile("" ::: "memory");
        this_thread.fault_jump = jump;
        asm volatile("" ::: "memory");
        access(to, from, n);
        asm volatile("" ::: "memory");
        result = 0;
    }
    this_thread.fault_jump = outer_jump;
    this_thread.fault_lo = outer_lo;
    this_thread.fault_hi = outer_hi;
    return result;
}

// Null is one more bad address of the program's, whatever memcpy is declared to take
// (-fno-delete-null-pointer-checks binds the compiler), so the sanitizer is told not to ask.
__attribute__((no_sanitize("nonnull-attribute"))) inline void copy(void* to, const void* from,
                                                                   std::size_t n) {
    std::memcpy(to, from, n);
}

void touch_pages(void* at, const void*, std::size_t n) {
    constexpr std::size_t page = 4096;
    for (std::size_t i = 0; i < n; i += page) {
        __atomic_fetch_or(static_cast<u8*>(at) + i, 0, __ATOMIC_RELAXED);
    }
}

} // namespace

void uaccess_fault_resume() { __builtin_longjmp(static_cast<void**>(this_thread.fault_jump), 1); }

int copy_from_user(void* to, const void* user, std::size_t n) {
    if (n == 0) return 0;
    if (!access_ok(user, n)) return -EFAULT;
    return guarded<copy>(to, user, n, user);
}

int copy_to_user(void* user, const void* from, std::size_t n) {
    if (n == 0) return 0;
    if (!access_ok(user, n)) return -EFAULT;
    return guarded<copy>(user, from, n, user);
}

int fault_in_writable(void* at, std::size_t n) { return guarded<touch_pages>(at, nullptr, n, at); }

template <class Copy> static i64 iterate(std::size_t n, iov_iter& it, Copy copy) {
    std::size_t done = 0;
    n = min_of(n, it.count);
    while (done < n && it.nr) {
        const std::size_t piece = min_of(it.iov->iov_len - it.off, n - done);
        if (piece) {
            if (copy(static_cast<u8*>(it.iov->iov_base) + it.off, done, piece)) {
                return done ? static_cast<i64>(done) : -EFAULT;
            }
            it.off += piece;
            it.count -= piece;
            done += piece;
        }
        if (it.off == it.iov->iov_len) {
            ++it.iov;
            --it.nr;
            it.off = 0;
        }
    }
    return static_cast<i64>(done);
}

i64 copy_from_iter(void* to, std::size_t n, iov_iter& it) {
    return iterate(n, it, [to](u8* user, std::size_t at, std::size_t piece) {
        return copy_from_user(static_cast<u8*>(to) + at, user, piece);
    });
}

i64 copy_to_iter(const void* from, std::size_t n, iov_iter& it) {
    return iterate(n, it, [from](u8* user, std::size_t at, std::size_t piece) {
        return copy_to_user(user, static_cast<const u8*>(from) + at, piece);
    });
}

} // namespace sockshim
