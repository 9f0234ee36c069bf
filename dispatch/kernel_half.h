// The calls on a socket that has, or gets, a half of the kernel's (core/net/kernel_half.h): each does our part and
// the kernel's. Same contracts as the proto_ops of that name.
#pragma once
#include "dispatch/fd_table.h"

namespace sockshim {

// A kernel socket with our socket's type and options, bound to `at` if given. The number or -errno.
int kernel_socket_like(socket& sock, const sockaddr_in* at); // dispatch/handover.cc

// bind: the kernel's half is made here, so that the kernel says whether the port is free; port 0 is chosen by it.
long bind_both(socket& sock, const sockaddr* addr, u32 len);
// listen: a half that has been lost (a connect that was refused) or never was (no bind) is made here.
long listen_both(socket& sock, int backlog);
// After a connect of ours that went well: the half of a datagram socket gets the same peer. A stream's has nothing
// more to do, and gives place to a carrier before the connect (half_before_connect).
void half_before_connect(socket& sock);
void half_connected(socket& sock, const sockaddr* addr, u32 len);
void half_shutdown(socket& sock, int how);
void half_setsockopt(socket& sock, int level, int optname, const void* optval, u32 optlen);
void half_set_nonblock(socket& sock, bool on);

// The next connection of the kernel's half: a socket of libc's. -EAGAIN: there was none.
long half_accept(socket& sock, sockaddr* upeer, socklen_t* upeer_len, int flags);
// The next datagram, or error, of the kernel's half. -EAGAIN: there was none.
i64 half_recvmsg(socket& sock, msghdr_iter& msg, int flags);

} // namespace sockshim
