#include "dispatch/kernel_half.h"

#include <cerrno>
#include <fcntl.h>
#include <poll.h>

#include "core/arena/owner.h"
#include "core/base/crash_point.h"
#include "core/base/raw_syscall.h"
#include "core/inet/inet_sock.h"
#include "core/net/carrier.h"
#include "core/net/handover.h"
#include "core/net/kernel_half.h"
#include "core/net/proto.h"
#include "core/tcp/tcp.h"
#include "core/trace/trace.h"

namespace sockshim {

namespace {

int half_of(const socket& sock) { return fd_of_half(socket_handle(sock).index); }

bool may_have_half(const socket& sock) {
    const struct sock* const sk = socket_sk(sock);
    if (!sk || sock.family != AF_INET || !network_hands_over()) return false;
    const u8 prot = sk->__sk_common.skc_prot_id;
    return prot == PROT_TCP || prot == PROT_UDP;
}

// Puts descriptor `k` where this process names the socket, but for the number `there`, which has it. k stays the caller's.
void put_over(const socket& sock, int k, int there) {
    struct request {
        u32 index;
        int k, there;
    } to{socket_handle(sock).index, k, there};
    fd_table_for_each(
        [](int fd, u32 entry, void* arg) {
            const request& r = *static_cast<const request*>(arg);
            if (fd_entry_kind(entry) != FD_SOCKET || fd_entry_index(entry) != r.index) return;
            if (fd != r.there) fd_replace_file(fd, r.k);
        },
        &to);
}

// Takes k over. The half is known before the other numbers are looked for: a duplicate that another thread makes
// meanwhile is found here, or finds the half (fd_install_duplicate).
void become_half(socket& sock, int k) {
    trace_way("kernel_half");
    const u32 index = socket_handle(sock).index;
    if (const int fd = fd_of_socket(index); fd >= 0) { // else closed under us
        fd_replace_file(fd, k);
        SOCKSHIM_CRASH_POINT();
        fd_has_half(index, fd);
        if (socket_nonblock(sock)) half_set_nonblock(sock, true);
        kernel_half_begin(sock, fd);
        SOCKSHIM_CRASH_POINT();
        full_fence();
        put_over(sock, k, fd);
    }
    raw_syscall(SYS_close, k);
    carrier_let_go(sock);
}

// The port that the kernel has chosen.
be16 port_of(int k) {
    sockaddr_in at{};
    u32 len = sizeof at;
    raw_syscall(SYS_getsockname, k, ptr_arg(&at), ptr_arg(&len));
    return at.sin_port;
}

} // namespace

long bind_both(socket& sock, const sockaddr* addr, u32 len) {
    const auto bind_ours = [&](const sockaddr* to) {
        return ops_of(sock.ops_id).bind(sock, to, len);
    };
    struct sock* const sk = socket_sk(sock);
    sockaddr_in at;
    // What is wrong with the call at hand our own bind says, and what does not take a port yet.
    if (!may_have_half(sock) || len < sizeof at || sk_state(*sk) != TCP_CLOSE || inet_num(*sk)) {
        return bind_ours(addr);
    }
    __builtin_memcpy(&at, addr, sizeof at);
    const bool choose = at.sin_port == 0;
    if (choose && inet_test(*sk, INET_BIND_ADDRESS_NO_PORT)) return bind_ours(addr);
    // A port that the kernel has chosen may be a connection's of ours.
    for (int tries = 0;; ++tries) {
        const between_worlds here(ntohs(at.sin_port));
        const int k = kernel_socket_like(sock, &at);
        // Without a descriptor for it the socket meets our side only.
        if (k == -EMFILE || k == -ENFILE || k == -ENOBUFS || k == -ENOMEM) return bind_ours(addr);
        if (k < 0) return k;
        sockaddr_in chosen = at;
        if (choose) chosen.sin_port = port_of(k);
        const long err = bind_ours(reinterpret_cast<const sockaddr*>(&chosen));
        if (err == 0) {
            if (choose) sk->sk_userlocks &= static_cast<u8>(~SOCK_BINDPORT_LOCK);
            become_half(sock, k);
            return 0;
        }
        raw_syscall(SYS_close, k);
        if (err != -EADDRINUSE || !choose || tries == 16) return err;
    }
}

long listen_both(socket& sock, int backlog) {
    const auto listen_ours = [&] { return ops_of(sock.ops_id).listen(sock, backlog); };
    struct sock* const sk = socket_sk(sock);
    if (!may_have_half(sock) || sock.type != SOCK_STREAM || sock.state.load() != SS_UNCONNECTED ||
        !(sk_statef(*sk) & (TCPF_CLOSE | TCPF_LISTEN))) {
        return listen_ours();
    }
    if (half_of(sock) < 0 && sk_state(*sk) == TCP_CLOSE) {
        sockaddr_in at{};
        at.sin_family = AF_INET;
        if (!inet_num(*sk)) {
            // Linux: inet_csk_listen_start takes a port.
            if (const long err = bind_both(sock, reinterpret_cast<sockaddr*>(&at), sizeof at))
                return err;
        } else {
            at.sin_port = htons(inet_num(*sk));
            at.sin_addr.s_addr = inet_rcv_saddr(*sk);
            // Another process that shares the socket may have the port: then it is reached there.
            if (const int k = kernel_socket_like(sock, &at); k >= 0) become_half(sock, k);
        }
    }
    const int half = half_of(sock);
    if (half < 0) return listen_ours();
    // Who has seen nobody here shall not be connected there (connect_handover).
    between_worlds_wait(inet_num(*sk));
    if (const long r = raw_syscall(SYS_listen, half, backlog); r < 0) return r;
    SOCKSHIM_CRASH_POINT();
    const long err = listen_ours();
    if (err) raw_syscall(SYS_shutdown, half, SHUT_RD);
    return err;
}

void half_before_connect(socket& sock) {
    const int half = half_of(sock);
    if (half < 0 || sock.type != SOCK_STREAM || sk_state(*socket_sk(sock)) != TCP_CLOSE) return;
    const int carrier = carrier_open(sock, true);
    if (carrier < 0) return;
    kernel_half_end(sock, half);
    fd_has_half(socket_handle(sock).index, -1);
    put_over(sock, carrier, -1);
    SOCKSHIM_CRASH_POINT();
    if (sock.flags.load() & SOCKF_SHARED) {
        sock.flags.fetch_and(~SOCKF_SHARED);
        static_cast<void>(carrier_lock(sock, carrier));
    }
    raw_syscall(SYS_close, carrier);
}

void half_connected(socket& sock, const sockaddr* addr, u32 len) {
    const int half = half_of(sock);
    if (half < 0 || sock.type != SOCK_DGRAM) return;
    raw_syscall(SYS_connect, half, ptr_arg(addr), static_cast<long>(len));
}

void half_shutdown(socket& sock, int how) {
    if (const int half = half_of(sock); half >= 0) raw_syscall(SYS_shutdown, half, how);
}

void half_setsockopt(socket& sock, int level, int optname, const void* optval, u32 optlen) {
    const int half = half_of(sock);
    if (half < 0) return;
    raw_syscall(SYS_setsockopt, half, level, optname, ptr_arg(optval), static_cast<long>(optlen));
}

void half_set_nonblock(socket& sock, bool on) {
    const int half = half_of(sock);
    if (half < 0) return;
    const long flags = raw_syscall(SYS_fcntl, half, F_GETFL);
    const long wanted = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
    if (wanted != flags) raw_syscall(SYS_fcntl, half, F_SETFL, wanted);
}

// Under the lock nobody else who knows us takes what poll has seen, so a blocking half does not block.
long half_accept(socket& sock, sockaddr* upeer, socklen_t* upeer_len, int flags) {
    trace_way("kernel_half_accept");
    const int half = half_of(sock);
    struct sock* const sk = socket_sk(sock);
    if (half < 0 || !sk) return -EAGAIN;
    lock_sock(*sk);
    kernel_half_takes(*sk);
    pollfd p{half, POLLIN, 0};
    const timespec now{};
    raw_syscall(SYS_ppoll, ptr_arg(&p), 1, ptr_arg(&now), 0, 8);
    const long fd = p.revents
                        ? raw_syscall(SYS_accept4, half, ptr_arg(upeer), ptr_arg(upeer_len), flags)
                        : -EAGAIN;
    SOCKSHIM_CRASH_POINT();
    release_sock(*sk);
    if (fd != -EAGAIN) kernel_half_took(*sk);
    if (fd >= 0) {
        fd_installed(static_cast<int>(fd));
        trace_handed_over();
    }
    return fd;
}

i64 half_recvmsg(socket& sock, msghdr_iter& msg, int flags) {
    trace_way("kernel_half_recvmsg");
    const int half = half_of(sock);
    struct sock* const sk = socket_sk(sock);
    if (half < 0 || !sk) return -EAGAIN;
    msghdr kernels{};
    kernels.msg_name = msg.name;
    kernels.msg_namelen = msg.name ? sizeof *msg.name : 0;
    kernels.msg_iov = const_cast<iovec*>(msg.iter.iov);
    kernels.msg_iovlen = msg.iter.nr;
    kernels.msg_control = msg.out_control;
    kernels.msg_controllen = msg.out_control_len;
    kernel_half_takes(*sk);
    const i64 r = raw_syscall(SYS_recvmsg, half, ptr_arg(&kernels), flags | MSG_DONTWAIT);
    if (r == -EAGAIN) return r;
    SOCKSHIM_CRASH_POINT();
    kernel_half_took(*sk);
    // The error that the entry reports was ours by then; one that waits behind it is the kernel's still.
    if (r >= 0 && (flags & MSG_ERRQUEUE)) sk->sk_err.store(0);
    msg.namelen = kernels.msg_namelen;
    msg.out_control_used = static_cast<u32>(kernels.msg_controllen);
    msg.flags = kernels.msg_flags;
    return r;
}

} // namespace sockshim
