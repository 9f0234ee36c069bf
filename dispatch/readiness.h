// What dispatch/eventpoll.cc and dispatch/select.cc share.
#pragma once
#include <ctime>
#include <type_traits>

#include "core/arena/arena.h"
#include "core/base/raw_syscall.h"
#include "core/net/doorbell.h"
#include "core/net/eventpoll.h"
#include "core/net/spin_wait.h"
#include "core/net/timer.h"
#include "core/trace/trace.h"
#include "dispatch/fd_table.h"

namespace sockshim {

inline constexpr long kernel_sigset_bytes = 8;

// What `fd` is now. Asks the kernel about a number that is not known yet.
inline fd_kind fd_kind_of(int fd) {
    if (static_cast<u32>(fd) >= fd_table_size) return FD_LIBC;
    const u32 e = fd_table[fd].load_relaxed();
    return SOCKSHIM_LIKELY(e != FD_UNKNOWN) ? fd_entry_kind(e) : fd_classify(fd);
}

// The set behind a descriptor; null handle when our half is no more (the kernel's is there still).
inline handle<eventpoll> eventpoll_of_fd(int fd) {
    const u32 e = fd_table[fd].load_relaxed();
    return fd_entry_kind(e) == FD_EPOLL ? slab_handle_at<eventpoll>(fd_entry_index(e))
                                        : handle<eventpoll>{};
}

// A call that waits begins: a timer thread that is due is started (as sockfd_lookup_light does for the
// calls on one socket).
inline void wait_call_begins() {
    if (SOCKSHIM_UNLIKELY(timer_thread_state.load_relaxed() == TIMER_WANTED)) timer_thread_start();
}

// Time left until an absolute deadline for a system call; null for ever.
inline const timespec* time_left(i64 deadline_us, timespec& room) {
    if (deadline_us < 0) return nullptr;
    const i64 now = static_cast<i64>(monotonic_us());
    const i64 left = deadline_us > now ? deadline_us - now : 0;
    room = {left / 1000000, left % 1000000 * 1000};
    return &room;
}

inline bool timespec_valid(const timespec& ts) {
    return ts.tv_sec >= 0 && ts.tv_nsec >= 0 && ts.tv_nsec < 1000000000;
}

// Without a doorbell to be rung by (no descriptor to be had) a sleep in the kernel is cut into naps.
inline constexpr i64 first_nap_us = 500;
inline constexpr i64 longest_nap_us = 20000;

// The audit around a call, as dispatch/syscalls.cc has it around the file operations. A call that finds a
// socket of the kernel's in its set, and none of ours, says trace_handed_over itself.
template <class T> unsigned long trace_word(T v) {
    if constexpr (std::is_pointer_v<T>) {
        return reinterpret_cast<unsigned long>(v);
    } else {
        return static_cast<unsigned long>(static_cast<long>(v));
    }
}
template <class... Params, class... Args>
[[gnu::always_inline]] inline long traced(u32 nr, long (*call)(Params...), Args... args) {
    if (SOCKSHIM_LIKELY(!trace_enabled)) return call(args...);
    const unsigned long words[] = {trace_word(args)...};
    trace_begin(nr, words, sizeof...(args));
    const long r = call(args...);
    trace_end(r);
    return r;
}

} // namespace sockshim
