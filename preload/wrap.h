// How a wrapper is written: "ours or libc's?", nothing else.
//
//   SOCKSHIM_WRAP(ssize_t, read, (int fd, void* buf, size_t n)) {
//       return route_cancel(fd, [=] { return sys_read(fd, buf, n); },
//                           [=] { return real::read(fd, buf, n); });
//   }
//
// The C++ name is wrap_read and only the assembler name is read: libc's declaration, with its
// attributes and its inline variants, stays out of the way. Variadic functions whose extra argument is
// one word are defined with that word as a parameter: on x86_64 and aarch64 it is passed alike.
#pragma once
#include <cerrno>
#include <type_traits>

#include "core/sync/uaccess.h"
#include "core/trace/trace.h"
#include "dispatch/fd_table.h"
#include "dispatch/syscalls.h"
#include "preload/cancel.h"
#include "preload/exec_look.h"
#include "preload/process.h"
#include "preload/real.h"

#define SOCKSHIM_WRAP(result, name, parameters)                                                    \
    extern "C" [[gnu::visibility("default")]] result wrap_##name parameters asm(#name);            \
    result wrap_##name parameters

// A second name of a function wrapped above.
#define SOCKSHIM_WRAP_ALIAS(other, name)                                                           \
    extern "C" [[gnu::visibility("default")]] decltype(wrap_##name) wrap_alias_##other asm(#other) \
        __attribute__((alias(#name)));

namespace sockshim {

// The kernel's answer as libc gives it.
inline long finish(long r) {
    if (SOCKSHIM_UNLIKELY(r < 0 && r > -4096)) {
        errno = static_cast<int>(-r);
        return -1;
    }
    return r;
}

template <class T> inline unsigned long word(T v) {
    if constexpr (std::is_pointer_v<T>) {
        return reinterpret_cast<unsigned long>(v);
    } else {
        return static_cast<unsigned long>(static_cast<long>(v));
    }
}

// Not known to be libc's: asks dispatch, and libc after all when that says so.
template <class Ours, class Libc> [[gnu::always_inline]] inline auto ask(Ours ours, Libc libc) {
    using result = decltype(libc());
    if (in_vfork_child()) return libc();
    fork_check();
    held_check();
    const long r = ours();
    if (r != SYS_NOT_OURS) return static_cast<result>(finish(r));
    const result answer = libc();
    if (SOCKSHIM_UNLIKELY(trace_enabled)) {
        trace_libc_result_slow(answer == -1 ? -errno : static_cast<long>(answer));
    }
    return answer;
}

template <class Ours, class Libc>
[[gnu::always_inline]] inline auto route(int fd, Ours ours, Libc libc) {
    if (SOCKSHIM_LIKELY(fd_is_libc(fd))) return libc();
    return ask(ours, libc);
}

template <class Ours, class Libc>
[[gnu::always_inline]] inline auto route(int fd, int fd2, Ours ours, Libc libc) {
    if (SOCKSHIM_LIKELY(fd_is_libc(fd) && fd_is_libc(fd2))) return libc();
    return ask(ours, libc);
}

// For the calls that POSIX makes cancellation points; libc's own is one already.
template <class Ours, class Libc>
[[gnu::always_inline]] inline auto route_cancel(int fd, Ours ours, Libc libc) {
    if (SOCKSHIM_LIKELY(fd_is_libc(fd))) return libc();
    return ask([&] { return cancellable(ours); }, libc);
}

template <class Ours, class Libc>
[[gnu::always_inline]] inline auto route_cancel(int fd, int fd2, Ours ours, Libc libc) {
    if (SOCKSHIM_LIKELY(fd_is_libc(fd) && fd_is_libc(fd2))) return libc();
    return ask([&] { return cancellable(ours); }, libc);
}

// Libc has made `fd`: one look, and a store where the table did not know yet.
inline int made(int fd) {
    if (SOCKSHIM_LIKELY(fd_is_libc(fd) && !trace_enabled)) return fd; // also for -1
    return fd_made(fd);
}

// Libc is about to close `fd`, which is its own: unknown from here on, so that whatever comes to stand there, by
// whichever way, is looked at. (Afterwards it may be somebody else's already.)
inline void fd_closes(int fd) {
    if (static_cast<u32>(fd) < fd_table_size && !in_vfork_child()) {
        fd_table[static_cast<u32>(fd)].store_relaxed(FD_UNKNOWN);
    }
}

// Descriptors that leave in a message of libc's: those that are carriers get their lock first. The
// program's pointer is checked by copying; before the process is active it has no carrier of its own.
inline void before_libc_sendmsg(int fd, const msghdr* msg) {
    if (SOCKSHIM_LIKELY(!process_active.load_relaxed()) || in_vfork_child()) return;
    msghdr copy;
    if (get_user(copy, msg) != 0 || !copy.msg_control || !copy.msg_controllen) return;
    if (SOCKSHIM_UNLIKELY(scm_sending(&copy))) look_at_receiver(fd);
}
inline void before_libc_sendmmsg(int fd, const mmsghdr* vec, unsigned n) {
    for (unsigned i = 0; process_active.load_relaxed() && i < n && i < 1024; ++i) {
        before_libc_sendmsg(fd, &vec[i].msg_hdr);
    }
}

} // namespace sockshim
