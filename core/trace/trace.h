// The trace of calls (SOCKSHIM_TRACE): what the program asked of its sockets, what it got, and the way
// each call took. Recorded in binary, decoded at exit. docs/TRACE.md describes what comes out.
//
// When off, each function here is one load of `trace_enabled` and a branch. Everything is safe in signal
// handlers: a call may be interrupted by a handler's call (four levels).
#pragma once
#include "core/base/types.h"

namespace sockshim {

// 1..20 are the numbers of linux/net.h (SOCKET .. SENDMMSG) and need no name here. The others take the
// arguments of the sys_ function of that name in dispatch/syscalls.h, in that order.
enum trace_nr : u32 {
    TRACE_SOCKETCALL_LAST = 20,
    TRACE_READ = 64,
    TRACE_READV,
    TRACE_WRITE,
    TRACE_WRITEV,
    TRACE_PREADV2,
    TRACE_PWRITEV2,
    TRACE_CLOSE,
    TRACE_CLOSE_RANGE,
    TRACE_DUP,
    TRACE_DUP2,
    TRACE_DUP3,
    TRACE_FCNTL,
    TRACE_IOCTL,
    TRACE_FSTAT,
    TRACE_FSTATAT,
    TRACE_STATX,
    TRACE_LSEEK,
    TRACE_FTRUNCATE,
    TRACE_FSYNC,
    TRACE_MMAP,
    TRACE_SENDFILE,
    TRACE_SPLICE,
    TRACE_COPY_FILE_RANGE,
    TRACE_TEE,
    TRACE_VMSPLICE,
    TRACE_FSTATFS,
    TRACE_FALLOCATE,
    TRACE_READAHEAD,
    TRACE_SYNC_FILE_RANGE,
    TRACE_LOCKF,
    TRACE_FCHMOD,
    TRACE_FCHOWN,
    TRACE_FUTIMENS,
    TRACE_POLL,   // fds, nfds, const timespec*, const sigset_t*
    TRACE_SELECT, // nfds, r, w, x, const timespec*, const sigset_t*
    TRACE_EPOLL_CREATE,
    TRACE_EPOLL_CTL,
    TRACE_EPOLL_WAIT, // epfd, events, maxevents, const timespec*, const sigset_t*
    TRACE_FORK,       // no arguments
    TRACE_VFORK,
    TRACE_EXECVE, // path, argv, envp
    TRACE_NR_END
};

extern bool trace_enabled;

// Called by the constructor when config().trace is not empty. Opens nothing.
void trace_start();

// Prints what was recorded and not printed yet; `why` ("exit", "abort", "signal 11", "exec") is said in
// the heading. Async-signal-safe. Does nothing when off, when nothing is new, in a vfork child, and in a
// process that called nothing but fork and exec.
void trace_dump(const char* why);

// One line that is no call, written at once: "--- sockshim: [pid] ...". Touches nothing that a vfork child
// shares with its parent. Returns whether it has gone to stderr.
bool trace_say(const char* what);

// The child forgets what the parent recorded. A child made behind our back is noticed as well.
void trace_after_fork_child();

void trace_begin_slow(u32 nr, const unsigned long* a, u32 nargs);
void trace_way_slow(const char* static_name);
u32 trace_way_mark_slow();
void trace_way_cut_slow(u32 mark);
void trace_handed_over_slow();
void trace_end_slow(long result);
void trace_libc_result_slow(long result);

inline void trace_begin(u32 nr, const unsigned long* a, u32 nargs) {
    if (SOCKSHIM_UNLIKELY(trace_enabled)) trace_begin_slow(nr, a, nargs);
}

// The call reached this function (`inet_create`, `tcp_sendmsg`). The name must live as long as the
// process. Ignored outside a call.
inline void trace_way(const char* static_name) {
    if (SOCKSHIM_UNLIKELY(trace_enabled)) trace_way_slow(static_name);
}

// What our own errands reach is not the program's way: mark, run the errand, cut.
inline u32 trace_way_mark() { return SOCKSHIM_UNLIKELY(trace_enabled) ? trace_way_mark_slow() : 0; }
inline void trace_way_cut(u32 mark) {
    if (SOCKSHIM_UNLIKELY(trace_enabled)) trace_way_cut_slow(mark);
}

// The call goes to libc, that is, to the kernel.
inline void trace_handed_over() {
    if (SOCKSHIM_UNLIKELY(trace_enabled)) trace_handed_over_slow();
}

// The innermost call is over: its result or -errno. SYS_NOT_OURS (-4096) means that somebody above will
// ask libc: a call that was handed over stays open until trace_libc_result(); every other was on a
// descriptor that is no socket at all (what is asked once, before the answer is cached) and is forgotten,
// and so is a wait for no socket.
inline void trace_end(long result) {
    if (SOCKSHIM_UNLIKELY(trace_enabled)) trace_end_slow(result);
}

// For preload/: what libc answered to the call that ended with SYS_NOT_OURS, result or -errno. Without
// it that call is printed with an unknown result. Does nothing when there is no such call.
inline void trace_libc_result(long result) {
    if (SOCKSHIM_UNLIKELY(trace_enabled)) trace_libc_result_slow(result);
}

} // namespace sockshim
