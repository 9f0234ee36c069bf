// PF_INET protocol family socket handler (Linux: net/ipv4/af_inet.c).
#pragma once
#include "core/net/family.h"
#include "core/net/proto.h"

namespace sockshim {

extern const net_proto_family inet_family_ops;
extern const proto_ops inet_stream_ops;
extern const proto_ops inet_dgram_ops;
extern const proto_ops inet_sockraw_ops;

int inet_create(socket& sock, int protocol, int kern);
int inet_release(socket& sock);
int inet_bind(socket& sock, const sockaddr* addr, u32 len);
int inet_stream_connect(socket& sock, const sockaddr* addr, u32 len, int flags);
int inet_dgram_connect(socket& sock, const sockaddr* addr, u32 len, int flags);
int inet_accept(socket& sock, socket& newsock, int flags);
int inet_getname(socket& sock, sockaddr_storage* addr, int peer);
u32 inet_poll(socket& sock);
int inet_ioctl(socket& sock, unsigned cmd, unsigned long arg);
int inet_listen(socket& sock, int backlog);
int inet_shutdown(socket& sock, int how);
int inet_setsockopt(socket& sock, int level, int optname, const void* optval, u32 optlen);
int inet_getsockopt(socket& sock, int level, int optname, void* optval, u32* optlen);
i64 inet_sendmsg(socket& sock, msghdr_iter& msg);
i64 inet_recvmsg(socket& sock, msghdr_iter& msg);

// Binds to a port of the stack's choice if the socket has none yet. 0 or -EAGAIN.
int inet_autobind(sock& sk);
// The lowest port that anybody may bind (sysctl ip_unprivileged_port_start of the host).
u16 inet_prot_sock();
// The child that inet_accept is waiting for will belong to this socket: inet_csk_accept writes it into
// the child while the listener is locked, so that at no instant a connection belongs to nobody.
extern constinit thread_local handle<socket> inet_accepting;

} // namespace sockshim
