// Copies between the program's memory and ours. A bad pointer is -EFAULT, never a crash: preload/
// installs a handler for SIGSEGV and SIGBUS that recognises a fault inside [fault_lo, fault_hi) of a
// copy in progress and jumps back here (Linux: the exception table). The good case costs a
// __builtin_setjmp, three stores. Without the handler (unit tests) these are plain copies.
//
// Both return 0 or -EFAULT. `user` is the program's pointer.
#pragma once
#include <sys/uio.h>

#include "core/base/types.h"

namespace sockshim {

[[nodiscard]] int copy_from_user(void* to, const void* user, std::size_t n);
[[nodiscard]] int copy_to_user(void* user, const void* from, std::size_t n);

template <class T> [[nodiscard]] int get_user(T& to, const void* user) {
    return copy_from_user(&to, user, sizeof(T));
}
template <class T> [[nodiscard]] int put_user(const T& from, void* user) {
    return copy_to_user(user, &from, sizeof(T));
}

// Touches each page, changing nothing: 0, or -EFAULT where there is no memory to be had.
[[nodiscard]] int fault_in_writable(void* at, std::size_t n);

// Could the program own these bytes at all (Linux: access_ok)? Also asked where none are copied.
inline bool access_ok(const void* user, std::size_t n) {
#if defined(__x86_64__)
    constexpr u64 task_size = u64{1} << 47;
#else
    constexpr u64 task_size = u64{1} << 52;
#endif
    const u64 at = reinterpret_cast<u64>(user);
    return at < task_size && n <= task_size - at;
}

// Where the fault handler sends a thread whose copy faulted: ends the copy with -EFAULT.
[[noreturn]] void uaccess_fault_resume();

// The program's scatter/gather list, walked once. `iov` is our copy of the array; the bases are the
// program's.
struct iov_iter {
    const iovec* iov;
    std::size_t nr;
    std::size_t off;   // into iov[0]
    std::size_t count; // bytes left
};

// Copy and advance. Return bytes copied, short of n only where a fault stopped the copy or the list
// ended; a fault at the very start is -EFAULT.
[[nodiscard]] i64 copy_from_iter(void* to, std::size_t n, iov_iter& it);
[[nodiscard]] i64 copy_to_iter(const void* from, std::size_t n, iov_iter& it);

} // namespace sockshim
