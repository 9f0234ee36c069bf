// From our socket to a kernel socket, under the program's feet (DESIGN.md, D3 "Handover", D9).
//
// The kernel socket gets our socket's options, its binding and its O_NONBLOCK, and is dup3'ed over
// every descriptor of this process that names our socket: from then on they are libc's. Sets that had
// our socket registered get the kernel's descriptor instead.
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>

#include "core/arena/arena.h"
#include "core/arena/owner.h"
#include "core/base/config.h"
#include "core/base/raw_syscall.h"
#include "core/inet/inet_hashtables.h"
#include "core/inet/route.h"
#include "core/net/eventpoll.h"
#include "core/net/handover.h"
#include "core/net/kernel_half.h"
#include "core/net/proto.h"
#include "core/trace/trace.h"
#include "dispatch/fd_table.h"
#include "dispatch/kernel_half.h"
#include "dispatch/process.h"
#include "dispatch/replay.h"
#include "dispatch/sock_diag.h"
#include "dispatch/socketcall.h"

namespace sockshim {

int kernel_socket_like(socket& sock, const sockaddr_in* at) {
    struct sock* const sk = socket_sk(sock);
    const long k = raw_syscall(SYS_socket, sock.family, sock.type | SOCK_CLOEXEC, sock.protocol);
    if (!sk || k < 0) return static_cast<int>(k);
    replay_options(sock, *sk, static_cast<int>(k));
    const long r = at ? raw_syscall(SYS_bind, k, ptr_arg(at), sizeof *at) : 0;
    if (r < 0) raw_syscall(SYS_close, k);
    return static_cast<int>(r < 0 ? r : k);
}

namespace {

// A kernel socket with our socket's type, options, binding and (datagram) destination; -errno. What has a half of
// the kernel's has it already.
int make_kernel_socket(socket& sock) {
    struct sock* sk = socket_sk(sock);
    if (!sk) return -ENOTCONN;
    if (const int half = fd_of_half(socket_handle(sock).index); half >= 0) {
        return static_cast<int>(raw_syscall(SYS_fcntl, half, F_DUPFD_CLOEXEC, 0));
    }
    const bool bound = sk->sk_userlocks & (SOCK_BINDADDR_LOCK | SOCK_BINDPORT_LOCK);
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_port = inet_sk(*sk).inet_sport;
    at.sin_addr.s_addr = inet_rcv_saddr(*sk);
    const int k = kernel_socket_like(sock, bound ? &at : nullptr);
    if (k >= 0 && sock.type == SOCK_DGRAM && inet_daddr(*sk)) {
        sockaddr_in to{};
        to.sin_family = AF_INET;
        to.sin_port = inet_dport(*sk);
        to.sin_addr.s_addr = inet_daddr(*sk);
        raw_syscall(SYS_connect, k, ptr_arg(&to), sizeof to);
    }
    return k;
}

// Puts the kernel socket where ours was. Takes k over.
int install(socket& sock, int k) {
    trace_way("socket_handover");
    const u32 index = socket_handle(sock).index;
    const u32 flags = sock.flags.load();
    if (fd_of_half(index) >= 0) kernel_half_end(sock, k);
    if (socket_nonblock(sock)) {
        raw_syscall(SYS_fcntl, k, F_SETFL, raw_syscall(SYS_fcntl, k, F_GETFL) | O_NONBLOCK);
    }
    if (sock.f_owner) {
        const f_owner_ex owner{static_cast<decltype(f_owner_ex::type)>(sock.f_owner_type),
                               sock.f_owner < 0 ? -sock.f_owner : sock.f_owner};
        raw_syscall(SYS_fcntl, k, F_SETOWN_EX, ptr_arg(&owner));
    }
    if (sock.f_owner_sig) raw_syscall(SYS_fcntl, k, F_SETSIG, sock.f_owner_sig);
    sock.flags.fetch_or(SOCKF_HANDED_OVER);
    for (int fd; (fd = fd_of_socket(index)) >= 0;) {
        const long cloexec = raw_syscall(SYS_fcntl, fd, F_GETFD) & FD_CLOEXEC;
        const long r = raw_syscall(SYS_dup3, k, fd, cloexec ? O_CLOEXEC : 0);
        if (r < 0 && r != -EBADF) {
            raw_syscall(SYS_close, k);
            return static_cast<int>(r);
        }
        // By the number that the signals shall name.
        if ((flags & SOCKF_ASYNC) && fd == sock.f_async_fd) {
            raw_syscall(SYS_fcntl, fd, F_SETFL, raw_syscall(SYS_fcntl, fd, F_GETFL) | O_ASYNC);
        }
        eventpoll_handed_over(sock.sk, fd);
        fd_installed(fd); // drops our reference; the caller's own keeps the cell until it returns
    }
    raw_syscall(SYS_close, k);
    return 0;
}

} // namespace

namespace {

// This thread has asked the kernel in vain: the datagram under way is our own stack's to refuse.
constinit thread_local bool handover_declined = false;

// connect of a non-blocking stream socket of the kernel's to a local address, which answers at once: 0,
// -ECONNREFUSED, -EINPROGRESS (a full backlog) or another -errno.
long kernel_connect_locally(int k, const sockaddr_in& to) {
    const long r = raw_syscall(SYS_connect, k, ptr_arg(&to), sizeof to);
    if (r != -EINPROGRESS) return r;
    pollfd p{k, POLLOUT, 0};
    const timespec now{};
    raw_syscall(SYS_ppoll, ptr_arg(&p), 1, ptr_arg(&now), 0, 8);
    if (!(p.revents & (POLLERR | POLLHUP))) return r;
    int err = 0;
    u32 errlen = sizeof err;
    raw_syscall(SYS_getsockopt, k, SOL_SOCKET, SO_ERROR, ptr_arg(&err), ptr_arg(&errlen));
    return err ? -err : r;
}

} // namespace

sides_kind sides() {
    static constinit atomic_cell<u32> answer{0};
    u32 a = answer.load();
    if (SOCKSHIM_UNLIKELY(!a)) {
        const char* const text = config().sides;
        a = SIDES_BOTH + 1;
        if (!std::strcmp(text, "shim")) {
            a = SIDES_SHIM + 1;
        } else if (!std::strcmp(text, "kernel")) {
            a = SIDES_KERNEL + 1;
        } else if (std::strcmp(text, "both") != 0) {
            notice("bad value in SOCKSHIM_SIDES=%s; the default stays", text);
        }
        answer.store(a);
    }
    return static_cast<sides_kind>(a - 1);
}

// The kernel's sockets are of the thread's own namespace.
bool network_hands_over() {
    if (process_shut_out()) return false;
    static constinit atomic_cell<u32> answer{0};
    u32 a = answer.load();
    if (SOCKSHIM_UNLIKELY(!a)) {
        a = arena_is_private() || std::strcmp(config().net, "default") != 0 || sides() != SIDES_BOTH
                ? 1
                : 2;
        if (arena_attached()) answer.store(a);
    }
    return a == 2 && !handover_declined;
}

i64 sendmsg_handover(socket& sock, msghdr_iter& msg) {
    trace_way("sendmsg_handover");
    struct sock* const sk = socket_sk(sock);
    if (sk && fd_of_half(socket_handle(sock).index) >= 0) {
        kernel_half_sends(*sk);
        return SYS_NOT_OURS;
    }
    sockaddr_in to{};
    to.sin_family = AF_INET;
    if (msg.name && msg.namelen >= sizeof to) {
        __builtin_memcpy(&to, msg.name, sizeof to);
        to.sin_family = AF_INET; // AF_UNSPEC is let pass for old programs
    } else if (sk) {
        to.sin_addr.s_addr = sk->__sk_common.skc_daddr;
        to.sin_port = sk->__sk_common.skc_dport;
    }
    if (to.sin_addr.s_addr == INADDR_ANY) to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (sock.type == SOCK_DGRAM && inet_addr_type(to.sin_addr.s_addr) == RTN_LOCAL) {
        handover_declined = !kernel_has_udp_taker(to);
        // Again in either case: a receiver that is just starting binds in the kernel first (bind_both).
        if (!handover_declined) between_worlds_wait(ntohs(to.sin_port));
        const i64 r = ops_of(sock.ops_id).sendmsg(sock, msg);
        handover_declined = false;
        if (r != -EHANDOVER) return r;
    }
    const int err = socket_handover(sock);
    return err ? err : SYS_NOT_OURS;
}

int socket_handover(socket& sock) {
    const int k = make_kernel_socket(sock);
    return k < 0 ? k : install(sock, k);
}

long connect_handover(socket& sock, int fd, const sockaddr_storage& addr, int len) {
    if (!network_hands_over() || sock.family != AF_INET || addr.ss_family != AF_INET ||
        len < static_cast<int>(sizeof(sockaddr_in)) || sock.state.load() != SS_UNCONNECTED) {
        return SYS_OURS;
    }
    const auto& to = reinterpret_cast<const sockaddr_in&>(addr);
    const be32 daddr = to.sin_addr.s_addr;
    const bool local = daddr == INADDR_ANY || inet_addr_type(daddr) == RTN_LOCAL;
    if (sock.type == SOCK_DGRAM) {
        // A local peer may come to be later: decided at the first datagram.
        if (local) return SYS_OURS;
        const int err = socket_handover(sock);
        return err ? err : raw_syscall(SYS_connect, fd, ptr_arg(&addr), len);
    }
    if (sock.type != SOCK_STREAM) return SYS_OURS;
    struct sock* sk = socket_sk(sock);
    if (!sk || sk_state(*sk) != TCP_CLOSE) return SYS_OURS;
    // Ours: a listener, one that is about to be, and the socket itself (simultaneous open).
    const auto met_here = [&] {
        const be32 listener_at = daddr == INADDR_ANY ? htonl(INADDR_LOOPBACK) : daddr;
        const u16 port = ntohs(to.sin_port);
        return local && (inet_lookup_listener(0, 0, listener_at, port) ||
                         inet_half_listener(listener_at, port) || inet_num(*sk) == port);
    };
    if (met_here()) return SYS_OURS;
    const int k = make_kernel_socket(sock);
    if (k < 0) return k == -EADDRINUSE ? SYS_OURS : k;
    raw_syscall(SYS_fcntl, k, F_SETFL, raw_syscall(SYS_fcntl, k, F_GETFL) | O_NONBLOCK);
    long r;
    if (local) {
        // A listener of ours waits until we are through (listen_both), or is seen here.
        const between_worlds here(ntohs(to.sin_port));
        r = met_here() ? -ECONNREFUSED : kernel_connect_locally(k, to);
    } else {
        r = raw_syscall(SYS_connect, k, ptr_arg(&addr), len);
    }
    if (r == -ECONNREFUSED && local) {
        // Ours still: our own stack refuses just so, and a later try may find a listener of ours.
        raw_syscall(SYS_close, k);
        return SYS_OURS;
    }
    if (r < 0 && r != -EINPROGRESS) {
        raw_syscall(SYS_close, k);
        return r;
    }
    const bool nonblock = socket_nonblock(sock);
    if (!nonblock) {
        raw_syscall(SYS_fcntl, k, F_SETFL, raw_syscall(SYS_fcntl, k, F_GETFL) & ~O_NONBLOCK);
    }
    if (const int err = install(sock, k)) return err;
    if (nonblock || r == 0) return r;
    // Blocks until the handshake is over; a handshake already over is answered with 0.
    return raw_syscall(SYS_connect, fd, ptr_arg(&addr), len);
}

} // namespace sockshim
