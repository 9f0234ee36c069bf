// The socket calls behind sockshim_socketcall, named and ordered as in Linux's net/socket.c. Arguments
// are the program's; each function copies what it needs and answers -errno, or SYS_NOT_OURS where the
// descriptor or family is libc's.
#pragma once
#include <array>
#include <linux/net.h>
#include <sys/socket.h>

#include "dispatch/fd_table.h"

namespace sockshim {

// Words that each call copies from the caller (linux/net.h's numbering).
inline constexpr std::array<u8, 21> socketcall_nargs = [] {
    std::array<u8, 21> n{};
    n[SYS_SOCKET] = 3;
    n[SYS_BIND] = 3;
    n[SYS_CONNECT] = 3;
    n[SYS_LISTEN] = 2;
    n[SYS_ACCEPT] = 3;
    n[SYS_GETSOCKNAME] = 3;
    n[SYS_GETPEERNAME] = 3;
    n[SYS_SOCKETPAIR] = 4;
    n[SYS_SEND] = 4;
    n[SYS_RECV] = 4;
    n[SYS_SENDTO] = 6;
    n[SYS_RECVFROM] = 6;
    n[SYS_SHUTDOWN] = 2;
    n[SYS_SETSOCKOPT] = 5;
    n[SYS_GETSOCKOPT] = 5;
    n[SYS_SENDMSG] = 3;
    n[SYS_RECVMSG] = 3;
    n[SYS_ACCEPT4] = 4;
    n[SYS_RECVMMSG] = 5;
    n[SYS_SENDMMSG] = 4;
    return n;
}();
static_assert(SYS_SOCKET == 1 && SYS_SENDMMSG == 20);

// Before the call is carried out; its failure is the call's (Linux: audit_socketcall). The trace
// hangs here.
int audit_socketcall(int call, u32 nargs, const unsigned long* a);

// dispatch/socket_calls.cc
long sys_socket(int family, int type, int protocol);
long sys_socketpair(int family, int type, int protocol, int* usockvec);
long sys_bind(int fd, const sockaddr* umyaddr, int addrlen);
long sys_connect(int fd, const sockaddr* uservaddr, int addrlen);
long sys_listen(int fd, int backlog);
long sys_accept4(int fd, sockaddr* upeer, socklen_t* upeer_len, int flags);
long sys_getsockname(int fd, sockaddr* usockaddr, socklen_t* ulen);
long sys_getpeername(int fd, sockaddr* usockaddr, socklen_t* ulen);
long sys_shutdown(int fd, int how);
long sys_setsockopt(int fd, int level, int optname, const void* optval, int optlen);
long sys_getsockopt(int fd, int level, int optname, void* optval, socklen_t* optlen);

// dispatch/msg.cc
long sys_sendto(int fd, const void* buff, std::size_t len, unsigned flags, const sockaddr* addr,
                int addr_len);
long sys_recvfrom(int fd, void* ubuf, std::size_t size, unsigned flags, sockaddr* addr,
                  socklen_t* addr_len);
long sys_sendmsg(int fd, const msghdr* umsg, unsigned flags);
long sys_recvmsg(int fd, msghdr* umsg, unsigned flags);
long sys_sendmmsg(int fd, mmsghdr* umsg, unsigned vlen, unsigned flags);
long sys_recvmmsg(int fd, mmsghdr* umsg, unsigned vlen, unsigned flags, timespec* timeout);
// One message over a list of the program's buffers; flags MSG_*. For read, write and sendfile.
i64 sock_sendmsg(socket_ref& ref, msghdr_iter& msg);
i64 sock_recvmsg(socket_ref& ref, msghdr_iter& msg);
// Copies an iovec array in (Linux: import_iovec); fills `it`. `store` has room for UIO_MAXIOV entries
// or for `n`, whichever is less. Returns the byte count or -errno.
i64 import_iovec(const iovec* user, std::size_t n, iovec* store, iov_iter& it);
// Calls with an array on the stack that has room for `few`, or for `most` if n is more: programs have threads and
// signal handlers on stacks of a few pages.
template <class T, std::size_t size, class Call> [[gnu::noinline]] i64 array_in_frame(Call& call) {
    T store[size];
    return call(store);
}
template <class T, std::size_t few, std::size_t most, class Call>
i64 with_array(std::size_t n, Call call) {
    return SOCKSHIM_LIKELY(n <= few) ? array_in_frame<T, few>(call) : array_in_frame<T, most>(call);
}
template <class Call> i64 with_iovecs(std::size_t n, Call call) {
    constexpr std::size_t UIO_FASTIOV = 8;
    return with_array<iovec, UIO_FASTIOV, UIO_MAXIOV>(n, call);
}
int move_addr_to_kernel(const void* uaddr, int ulen, sockaddr_storage& kaddr);
int move_addr_to_user(const sockaddr_storage& kaddr, int klen, void* uaddr, socklen_t* ulen);

// dispatch/handover.cc: makes the descriptors that name the socket the kernel's.
// Decides where a connect goes. SYS_OURS: to our stack; else the call's result.
inline constexpr long SYS_OURS = -4097;
long connect_handover(socket& sock, int fd, const sockaddr_storage& addr, int len);
// A datagram that has no taker here: SYS_NOT_OURS when the socket was handed over (libc repeats the
// call), else what our own stack says to a datagram for nobody.
i64 sendmsg_handover(socket& sock, msghdr_iter& msg);
// 0: every descriptor of `sock` in this process is a kernel socket now; or -errno.
int socket_handover(socket& sock);

} // namespace sockshim
