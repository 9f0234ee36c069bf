// The kernel's half of a socket of ours, in the default network (DESIGN.md, D9).
//
// A listener or a datagram socket that is bound has a socket of the kernel's beside it, of the same options and
// bound to the same address, and that is its carrier. So programs without the shim reach it, the kernel's port is
// taken for them too, and wherever the descriptor goes it is a socket that works.
//
// Whoever looks for something to take asks our own queue. That something lies in the kernel's is told by the
// kernel, by signal (O_ASYNC), to the background thread of one process that has the descriptor, the watcher: it marks
// the sock KERNEL_READY and wakes its waiters, who then ask the kernel. So waits need know one world only, and a
// socket that no outsider uses costs its users one load.
//
// Nothing is lost: who takes clears the mark before he asks and sets it again when he got something. When
// the watcher dies or lets go, everybody is woken, and the first to look takes the watch over.
#pragma once
#include "core/net/socket.h"

namespace sockshim {

// "The kernel's half has something": dispatch/ takes it from there and comes back when it was nothing.
inline constexpr int EKERNELHALF = 4100;

// sock.sk_kernel
inline constexpr u32 KERNEL_HALF = 1;  // there is one
inline constexpr u32 KERNEL_READY = 2; // it may have something to take, or an error
inline constexpr u32 KERNEL_TURN = 4;  // ours was served last while the kernel's had something

// Must the kernel's half be asked? One load for sockets without, two for a quiet half.
inline bool kernel_half_attention(const sock& sk) {
    const u32 w = sk.sk_kernel.load_relaxed();
    return SOCKSHIM_UNLIKELY(w) && (w != KERNEL_HALF || !sk.sk_kernel_watcher.load_relaxed());
}
// What poll says of the kernel's half; 0 also where this process has no descriptor of it. A pending error of the
// kernel's becomes the sock's, so it is asked before sk_err is.
u32 kernel_half_poll(sock& sk);
// Has it something to take?
inline bool kernel_half_ready(sock& sk) {
    return kernel_half_attention(sk) && (kernel_half_poll(sk) & ~u32{POLLERR});
}
// Is it its turn, and has it something?
inline bool kernel_half_first(sock& sk) {
    return SOCKSHIM_UNLIKELY(sk.sk_kernel.load_relaxed() & KERNEL_TURN) && kernel_half_ready(sk);
}
// Before an operation that would report an error.
inline void kernel_half_error(sock& sk) {
    if (kernel_half_attention(sk)) kernel_half_poll(sk);
}
// Something of ours was taken: should the kernel's have something too, it is next.
inline void kernel_half_passed_over(sock& sk) {
    if (kernel_half_attention(sk)) sk.sk_kernel.fetch_or(KERNEL_TURN);
}
// Something is sent through the kernel's half: an error may be there at once, before a signal tells.
void kernel_half_sends(sock& sk);
// Before and after something is taken from the kernel's half.
void kernel_half_takes(sock& sk);
void kernel_half_took(sock& sk);

// `fd`, of this process, is the kernel's half of `sock` now; null sk_kernel ends it.
void kernel_half_begin(socket& sock, int fd);
void kernel_half_end(socket& sock, int fd);
// Process `who` watches no more: the others look again, and one of them watches.
void kernel_half_unwatch(socket& sock, proc_id who);
// Process `who`, which had the socket, has died: perhaps as the watcher, perhaps it was woken for what is there or was
// about to take it.
void kernel_half_holder_died(socket& sock, proc_id who);
// The background thread is another one now: what this process watches is told to that.
void kernel_half_rewatch(socket& sock, int fd);
// Is the socket with this inode of sockfs the half of one of ours?
handle<socket> kernel_half_find(u64 inode);
// May `fd` be the half of some socket of ours? Asked before attaching: an inet socket that is bound, and no stream's end.
bool kernel_half_looks_like(int fd);
// Does the kernel know the half still, whoever holds it? (/proc/net; a bound stream socket that does not listen
// stands nowhere, and is held as long as processes of ours say so.)
bool kernel_half_held(const socket& sock);

// The background thread's descriptor from which it learns of signals, and what to do when it is readable.
int kernel_half_signals();
void kernel_half_signalled(int signals);

// dispatch/ knows the numbers. Which descriptor of this process is the half of socket cell `index` (-1: none)?
extern int (*kernel_half_fd)(u32 index);
// Visits every socket of ours that has a half in this process, with the number that the kernel's signals name.
extern void (*kernel_half_for_each)(void (*visit)(socket& sock, int fd));
// Which socket is at a number of this process? Null: none.
extern socket* (*kernel_half_at)(int fd);

} // namespace sockshim
