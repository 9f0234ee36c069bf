// fd -> what it is, for this process: one 32-bit entry per descriptor number.
//
// The table is a cache of the kernel's truth (the carrier behind the number, core/net/carrier.h), so an
// entry may be unknown and is then asked for once. Whoever makes or replaces a descriptor tells the
// table; what libc did behind our back is noticed when the number turns up again from a call that
// makes descriptors (fd_installed) or when a carrier's identity is checked.
#pragma once
#include "core/net/socket.h"
#include "dispatch/syscalls.h"

namespace sockshim {

struct eventpoll;

enum fd_kind : u32 {
    FD_UNKNOWN = 0,
    FD_LIBC = 1,   // not ours
    FD_SOCKET = 2, // index: socket cell
    FD_EPOLL =
        3, // a kernel epoll set that has an eventpoll of ours beside it; index: eventpoll cell
    FD_INTERNAL = 4, // a descriptor of the library's own; the program sees EBADF
    FD_LIBC_TRACED =
        5,         // while there is a trace: a socket of the kernel's, or a set of such; recorded
    FD_CLOSED = 6, // nothing is there; in the table only while the number is being closed
};

inline constexpr u32 fd_table_size = 1u << 20;
extern a32 fd_table[fd_table_size]; // kind in the low 3 bits, index above

// FD_LIBC_TRACED is FD_LIBC to all but fd_is_libc, which decides who takes the fast way. FD_CLOSED matters
// to fd_look only.
constexpr fd_kind fd_entry_kind(u32 e) {
    return (e & 7) >= FD_LIBC_TRACED ? FD_LIBC : static_cast<fd_kind>(e & 7);
}
constexpr u32 fd_entry_index(u32 e) { return e >> 3; }

// The hot question: a load, a compare, a jump. Numbers out of range are libc's business (EBADF).
inline bool fd_is_libc(int fd) {
    return static_cast<u32>(fd) >= fd_table_size ||
           fd_table[static_cast<u32>(fd)].load_relaxed() == FD_LIBC;
}
inline bool fd_is_libc_traced(int fd) {
    return static_cast<u32>(fd) < fd_table_size &&
           fd_table[static_cast<u32>(fd)].load_relaxed() == FD_LIBC_TRACED;
}
inline bool fd_is_internal(int fd) {
    return static_cast<u32>(fd) < fd_table_size &&
           fd_table[static_cast<u32>(fd)].load_relaxed() == FD_INTERNAL;
}
// Asks the kernel about an unknown number and remembers; attaches when it is a carrier of a network of
// ours. Returns the kind (FD_LIBC also for a closed number).
fd_kind fd_classify(int fd);
// The same, but FD_CLOSED for a closed number: for calls that must not ask libc about it, which might find it
// open again, and ours.
fd_kind fd_look(int fd);

// A call that makes descriptors has returned `fd`, which is not ours (open, pipe, eventfd, ...).
void fd_installed(int fd);
// `fd` now names a descriptor of socket `s` / of eventpoll cell `index` (dup, accept, SCM_RIGHTS).
void fd_install_socket(int fd, handle<socket> s);
// The same for what the kernel has duplicated by number, while other threads may have put something else on
// the old number or the new one.
void fd_install_duplicate(int fd, handle<socket> s);
// Forgets `fd` without closing it: its kernel descriptor is gone or is about to be replaced. Drops the
// process's reference; the last one releases the socket (or asks the carrier's lock who else holds it).
void fd_forget(int fd);

// sockfd_lookup (Linux: fget): a reference that keeps the socket from being released while in use.
// What is not a socket of ours is SYS_NOT_OURS: libc says ENOTSOCK. A closed number is EBADF at once (fd_look). `fput_needed` is the light variant's flag: false in a single-threaded process, where nobody can close it meanwhile.
struct socket_ref {
    socket* sock;
    u32 index;
    bool fput_needed;
};
int sockfd_lookup_light(int fd,
                        socket_ref& ref); // 0, SYS_NOT_OURS, or -EBADF (an internal one too)
void fput_light(const socket_ref& ref);

// What the calls under way on this thread hold so. A handler may jump out of them, and asynchronous cancellation
// end them: then the thread's next call puts what they held, or the cancellation does.
struct held_refs {
    static constexpr u32 most = 8; // what is beyond that may be lost
    u32 count;
    struct {
        const void* frame; // lies in the frame that holds it
        u32 entry;
    } at[most];
};
extern constinit thread_local held_refs held;
// Puts what frames deeper than the caller's held; null: everything.
void held_put(const void* frame);
inline void held_check() {
    if (SOCKSHIM_UNLIKELY(held.count != 0)) held_put(__builtin_frame_address(0));
}

// The same for an epoll set. Null set: `fd` is none of ours. A wait goes on when the number is closed or
// reused under it: the set is kept, and the kernel's half by a descriptor of the library's own.
struct epoll_ref {
    handle<eventpoll> set;
    u32 entry;
    int fd;
    bool fput_needed;
};
epoll_ref epoll_lookup_light(int fd);
void epoll_put_light(const epoll_ref& ref);
// What names the kernel's half now. (A number that is closed and reused between this look and the
// system call that it is for is not noticed: as in any program that reuses numbers under its threads.)
int epoll_kernel_fd(const epoll_ref& ref);
// `fd` is about to be replaced in the kernel.
void fd_replacing(int fd);

// Any descriptor of this process that names socket cell `index`; -1: none. Looks through the table.
int fd_of_socket(u32 index);
// Visits every entry that is a socket or an epoll set of ours.
void fd_table_for_each(void (*visit)(int fd, u32 entry, void* arg), void* arg);
void fd_install_epoll(int fd, u32 eventpoll_index);
// A number that nobody has looked at yet, and that is an epoll set of the kernel's.
bool fd_is_unclassified_epoll(int fd);
// Is this an epoll set of the kernel's? 0, or the errno that epoll_ctl on it gives.
int check_epoll(int fd);
// Do two descriptors, each of the process with that pid, name one open file description?
bool same_file(u32 pid, int fd, u32 other_pid, int other_fd);
// One past the highest number that ever was a socket, an epoll set or a descriptor of the library's.
u32 fd_table_end();
void fd_table_init();
// A descriptor of this process that is the kernel's half of socket cell `index` (core/net/kernel_half.h); -1:
// there is none, or the carrier here is a file still. Noted by whoever makes one or finds it.
int fd_of_half(u32 index);
void fd_has_half(u32 index, int fd); // -1: no more
// Puts what `k` names on the number `fd`, which stays what it is to the program.
void fd_replace_file(int fd, int k);
// In a child after fork, whose holds of sets are its own (eventpoll_forked).
void fd_table_forked();
// This process's last reference to `s`, named by `h`, is gone: releases it unless another process holds it.
void socket_last_put(socket& s, handle<socket> h);

// close(2) of a number that is a socket or an epoll set of ours: entry, kernel descriptor, reference, in
// this order.
long fd_close(int fd);

// How many descriptors of this process name socket cell `index`, for epoll's automatic removal.
u32 socket_fd_count(u32 index);

} // namespace sockshim
