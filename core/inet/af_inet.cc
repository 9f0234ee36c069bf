#include "core/inet/af_inet.h"

#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <sys/ioctl.h>

#include "core/base/raw_syscall.h"
#include "core/inet/igmp.h"
#include "core/inet/inet_connection_sock.h"
#include "core/inet/inet_protosw.h"
#include "core/inet/ip_sockglue.h"
#include "core/inet/route.h"
#include "core/net/handover.h"
#include "core/tcp/tcp.h"
#include "core/tcp/tcp_fusion.h"
#include "core/trace/trace.h"

namespace sockshim {

constinit thread_local handle<socket> inet_accepting{};

namespace {

// A sock that is gone although its socket is still in the program's hands was taken by the arena's
// corruption, or by the reaper who thought us dead.
constexpr int no_sock = -EBADF;

// For the trace: "PF_INET inet_bind".
void way(const char* static_name) {
    if (SOCKSHIM_LIKELY(!trace_enabled)) return;
    trace_way("PF_INET");
    trace_way(static_name);
}

bool is_tcp(const sock& sk) { return sk.__sk_common.skc_prot_id == PROT_TCP; }

// Control leaves the fused path first and holds the lock then (core/tcp/tcp_fusion.h).
void lock_sock_unfused(sock& sk) {
    for (;;) {
        if (is_tcp(sk)) tcp_unfuse(sk);
        lock_sock(sk);
        if (!is_tcp(sk) || !tcp_is_fused(reinterpret_cast<const tcp_sock&>(sk))) return;
        release_sock(sk); // fused again by another thread in between
    }
}

} // namespace

// --- create ------------------------------------------------------------------------------------------

int inet_create(socket& sock, int protocol, int kern) {
    way("inet_create");
    if (protocol < 0 || protocol >= IPPROTO_MAX) return -EINVAL;

    sock.state.store(SS_UNCONNECTED);

    // Look for the requested type/protocol pair. The errno falls out of the walk.
    int err = 0;
    const inet_protosw* answer = nullptr;
    for (int try_loading_module = 0;;) {
        answer = inet_protosw_lookup(sock.type, protocol, err);
        if (answer || try_loading_module == 2) break;
        // Be more specific first, e.g. net-pf-2-proto-132-type-1, then fall back to net-pf-2-proto-132.
        if (++try_loading_module == 1) {
            request_module("net-pf-%d-proto-%d-type-%d", PF_INET, protocol, sock.type);
        } else {
            request_module("net-pf-%d-proto-%d", PF_INET, protocol);
        }
    }
    if (!answer) return err;

    if (sock.type == SOCK_RAW && !kern && !net_capable(CAP_NET_RAW)) return -EPERM;

    const u8 ops_id = ops_id_of(*answer->ops);
    if (!ops_id || !prot_id_of(*answer->prot)) return -EPROTONOSUPPORT; // a module that gave no id
    sock.ops_id = ops_id;

    struct sock* found = sk_alloc(PF_INET, *answer->prot);
    if (!found) {
        sock.ops_id = 0;
        return -ENOBUFS;
    }
    struct sock& sk = *found;
    inet_sock& inet = inet_sk(sk);

    sk.__sk_common.skc_reuse = answer->flags & INET_PROTOSW_REUSE ? 1 : 0;
    if (answer->flags & INET_PROTOSW_ICSK) inet.inet_flags_ |= INET_IS_ICSK;
    if (sock.type == SOCK_RAW) {
        inet_num(sk) = static_cast<u16>(protocol);
        if (protocol == IPPROTO_RAW) inet.inet_flags_ |= INET_HDRINCL;
    }
    inet.pmtudisc = IP_PMTUDISC_WANT;
    inet.inet_id = 0;

    sock_init_data(&sock, sk);

    // Linux's sk_destruct is proto.destroy here, and backlog_rcv is looked up through skc_prot_id.
    sk.sk_protocol = static_cast<u16>(protocol);
    inet.uc_ttl = -1;
    inet.inet_flags_ |= INET_MC_LOOP | INET_MC_ALL;
    inet.mc_ttl = 1;
    inet.mc_index = 0;
    inet.mc_list = 0;
    inet.rcv_tos = 0;

    // Tables name only published socks: a chain must not lead into a cell that is freed with its claimer.
    sk_publish(sk);

    if (inet_num(sk)) {
        // It assumes that any protocol which allows the user to assign a number at socket creation time
        // automatically shares.
        inet.inet_sport = htons(inet_num(sk));
        err = sk_prot(sk).hash ? sk_prot(sk).hash(sk) : 0;
    }
    if (!err && sk_prot(sk).init) err = sk_prot(sk).init(sk);
    if (err) {
        // sk_common_release
        sock.sk = {};
        sock.ops_id = 0;
        sk.sk_socket = {};
        if (sk_prot(sk).unhash) sk_prot(sk).unhash(sk);
        if (sk_prot(sk).destroy) sk_prot(sk).destroy(sk);
        sk_free(sk);
    }
    return err;
}

// The peer socket should always be NULL (or else). When we call this function we are destroying the
// object and from then on nobody should refer to it.
int inet_release(socket& sock) {
    way("inet_release");
    struct sock* sk = socket_sk(sock);
    if (!sk) return 0;
    // Applications forget to leave groups before exiting.
    if (inet_sk(*sk).mc_list) {
        lock_sock(*sk);
        ip_mc_drop_socket(*sk);
        release_sock(*sk);
    }
    // If linger is set, we don't return until the close is complete; whoever closes at exit, or for a
    // process that is dead, does not wait.
    i64 timeout = 0;
    if (sock_flag(*sk, SOCK_LINGER) && !current_exiting) {
        timeout = static_cast<i64>(sk->sk_lingertime_s) * 1000000;
    }
    // In this order: who finds the socket of a process that died in close() still finds the sock, and
    // closes it to the end.
    sk_prot(*sk).close(*sk, timeout);
    sock.sk = {};
    return 0;
}

// --- bind --------------------------------------------------------------------------------------------

u16 inet_prot_sock() {
    static constinit a32 cached{};
    if (const u32 v = cached.load()) return static_cast<u16>(v - 1);
    u16 start = 1024; // PROT_SOCK
    const long fd =
        raw_syscall(SYS_openat, AT_FDCWD, ptr_arg("/proc/sys/net/ipv4/ip_unprivileged_port_start"),
                    O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        char text[16] = {};
        if (raw_syscall(SYS_read, fd, ptr_arg(text), sizeof text - 1) > 0) {
            start = static_cast<u16>(strtoul(text, nullptr, 10));
        }
        raw_syscall(SYS_close, fd);
    }
    cached.store(start + 1u);
    return start;
}

int inet_bind(socket& sock, const sockaddr* uaddr, u32 len) {
    way("inet_bind");
    struct sock* found = socket_sk(sock);
    if (!found) return no_sock;
    struct sock& sk = *found;
    const proto& prot = sk_prot(sk);

    // If the socket has its own bind function then use it. (RAW)
    if (prot.bind) return prot.bind(sk, uaddr, len);
    if (len < sizeof(sockaddr_in)) return -EINVAL;

    sockaddr_in addr;
    __builtin_memcpy(&addr, uaddr, sizeof addr);
    const be32 where = addr.sin_addr.s_addr;
    // Compatibility games: accept AF_UNSPEC (mapped to AF_INET) only if s_addr is INADDR_ANY.
    if (addr.sin_family != AF_INET && (addr.sin_family != AF_UNSPEC || where != INADDR_ANY)) {
        return -EAFNOSUPPORT;
    }

    // Not specified by any standard per se, however it breaks too many applications when removed. It is
    // unfortunate since allowing applications to make a non-local bind solves several problems with
    // systems using dynamic addressing.
    inet_sock& inet = inet_sk(sk);
    const u8 type = where == INADDR_ANY ? u8{RTN_BROADCAST} : inet_addr_type(where);
    if (type == RTN_UNICAST && !(inet.inet_flags_ & (INET_FREEBIND | INET_TRANSPARENT))) {
        return -EADDRNOTAVAIL;
    }

    const u16 snum = ntohs(addr.sin_port);
    if (snum && snum < inet_prot_sock() && !net_capable(CAP_NET_BIND_SERVICE)) return -EACCES;

    lock_sock(sk);
    int err = -EINVAL;
    // Active socket, double bind.
    if (sk_state(sk) == TCP_CLOSE && !inet_num(sk)) {
        err = 0;
        inet_rcv_saddr(sk) = inet.inet_saddr = where;
        if (type == RTN_MULTICAST || type == RTN_BROADCAST) inet.inet_saddr = 0; // use device
        // Make sure we are allowed to bind here.
        if (snum || !inet_test(sk, INET_BIND_ADDRESS_NO_PORT)) err = prot.get_port(sk, snum);
        if (err) {
            inet.inet_saddr = inet_rcv_saddr(sk) = 0;
        } else {
            if (inet_rcv_saddr(sk)) sk.sk_userlocks |= SOCK_BINDADDR_LOCK;
            if (snum) sk.sk_userlocks |= SOCK_BINDPORT_LOCK;
            inet.inet_sport = htons(inet_num(sk));
            inet_daddr(sk) = 0;
            inet_dport(sk) = 0;
        }
    }
    release_sock(sk);
    return err;
}

int inet_autobind(sock& sk) {
    trace_way("inet_autobind");
    // We may need to bind the socket.
    lock_sock(sk);
    int err = 0;
    if (!inet_num(sk)) {
        if (sk_prot(sk).get_port && sk_prot(sk).get_port(sk, 0)) {
            err = -EAGAIN;
        } else {
            inet_sk(sk).inet_sport = htons(inet_num(sk));
        }
    }
    release_sock(sk);
    return err;
}

// --- connect -----------------------------------------------------------------------------------------

int inet_dgram_connect(socket& sock, const sockaddr* addr, u32 len, int flags) {
    way("inet_dgram_connect");
    struct sock* sk = socket_sk(sock);
    if (!sk) return no_sock;
    if (len < sizeof(sa_family_t)) return -EINVAL;
    if (addr->sa_family == AF_UNSPEC) return sk_prot(*sk).disconnect(*sk, flags);
    if (!inet_num(*sk) && inet_autobind(*sk)) return -EAGAIN;
    return sk_prot(*sk).connect(*sk, addr, len);
}

namespace {

bool connect_over(void* arg) {
    const auto& sk = *static_cast<const sock*>(arg);
    return !(sk_statef(sk) & (TCPF_SYN_SENT | TCPF_SYN_RECV));
}

// inet_wait_for_connect. Lock held on entry and on return. 0; -EAGAIN at the deadline, -EINTR.
int inet_wait_for_connect(sock& sk, i64 deadline_us) {
    int err = 0;
    while (!connect_over(&sk) && !err) {
        release_sock(sk); // the handshake over lo happens in here
        if (!connect_over(&sk)) err = wait_on(sk.sk_wq, WAIT_TX, connect_over, &sk, deadline_us);
        lock_sock(sk);
    }
    return connect_over(&sk) ? 0 : err;
}

// __inet_stream_connect. Lock held.
int stream_connect(socket& sock, struct sock& sk, const sockaddr* addr, u32 len, int flags) {
    const proto& prot = sk_prot(sk);
    if (len < sizeof(sa_family_t)) return -EINVAL;
    if (addr->sa_family == AF_UNSPEC) {
        sk.sk_disconnects++;
        const int err = prot.disconnect(sk, flags);
        sock.state.store(err ? SS_DISCONNECTING : SS_UNCONNECTED);
        return err;
    }

    int err = 0;
    switch (sock.state.load()) {
    default: return -EINVAL;
    case SS_CONNECTED: return -EISCONN;
    case SS_CONNECTING:
        err = -EALREADY;
        break; // fall out of the switch with err set for this state
    case SS_UNCONNECTED:
        if (sk_state(sk) != TCP_CLOSE) return -EISCONN;
        err = prot.connect(sk, addr, len);
        if (err < 0) return err;
        sock.state.store(SS_CONNECTING);
        // Just entered SS_CONNECTING; the only difference is that the return value in the non-blocking
        // case is EINPROGRESS rather than EALREADY.
        err = -EINPROGRESS;
        break;
    }

    const i64 timeo = sock_sndtimeo(sk, flags & O_NONBLOCK);
    if (!connect_over(&sk)) {
        const u16 disconnects = sk.sk_disconnects;
        // Error code is set above.
        if (timeo == 0) return err;
        const i64 deadline = timeo < 0 ? -1 : static_cast<i64>(monotonic_us()) + timeo;
        const int waited = inet_wait_for_connect(sk, deadline);
        if (waited == -EAGAIN) return err;
        if (waited) return waited;
        if (disconnects != sk.sk_disconnects) return -EPIPE;
    }

    // Connection was closed by RST, timeout, ICMP error or another process disconnected us.
    if (sk_state(sk) == TCP_CLOSE) {
        err = sock_error(sk);
        if (!err) err = -ECONNABORTED;
        sock.state.store(SS_UNCONNECTED);
        sk.sk_disconnects++;
        if (prot.disconnect(sk, flags)) sock.state.store(SS_DISCONNECTING);
        return err;
    }

    // sk_err may be not zero now, if RECVERR was ordered by the user and an error was received after the
    // socket entered the established state. Hence, it is handled normally after connect() returned
    // successfully.
    sock.state.store(SS_CONNECTED);
    return 0;
}

} // namespace

int inet_stream_connect(socket& sock, const sockaddr* addr, u32 len, int flags) {
    way("inet_stream_connect");
    struct sock* sk = socket_sk(sock);
    if (!sk) return no_sock;
    lock_sock_unfused(*sk);
    const int err = stream_connect(sock, *sk, addr, len, flags);
    release_sock(*sk);
    return err;
}

// --- listen, accept, shutdown ------------------------------------------------------------------------

int inet_listen(socket& sock, int backlog) {
    way("inet_listen");
    struct sock* found = socket_sk(sock);
    if (!found) return no_sock;
    struct sock& sk = *found;
    lock_sock(sk);
    int err = -EINVAL;
    if (sock.state.load() == SS_UNCONNECTED && sock.type == SOCK_STREAM &&
        (sk_statef(sk) & (TCPF_CLOSE | TCPF_LISTEN))) {
        sk.sk_max_ack_backlog = static_cast<u32>(backlog);
        // If the socket is already in listen state we can only allow the backlog to be adjusted.
        err = sk_state(sk) == TCP_LISTEN ? 0 : inet_csk_listen_start(sk);
    }
    release_sock(sk);
    return err;
}

int inet_accept(socket& sock, socket& newsock, int flags) {
    way("inet_accept");
    struct sock* sk = socket_sk(sock);
    if (!sk) return no_sock;
    newsock.type = sock.type;
    newsock.family = sock.family;
    newsock.protocol = sock.protocol;
    newsock.ops_id = sock.ops_id;
    int err = -EINVAL;
    inet_accepting = socket_handle(newsock);
    struct sock* child = sk_prot(*sk).accept(*sk, flags, &err);
    inet_accepting = {};
    if (!child) {
        newsock.ops_id = 0; // sock_release has nothing to do
        return err;
    }
    slab_publish(socket_handle(newsock));
    lock_sock(*child);
    sock_graft(*child, newsock);
    newsock.state.store(SS_CONNECTED);
    release_sock(*child);
    return 0;
}

int inet_shutdown(socket& sock, int how) {
    way("inet_shutdown");
    // This should really check to make sure the socket is a TCP socket. (WHY AC...)
    // Maps 0->1, 1->2, 2->3: has the advantage of making bit 1 rcvs, bit 2 snds.
    if (how < SHUT_RD || how > SHUT_RDWR) return -EINVAL;
    how++;
    struct sock* found = socket_sk(sock);
    if (!found) return no_sock;
    struct sock& sk = *found;

    lock_sock_unfused(sk);
    if (sock.state.load() == SS_CONNECTING) {
        const bool over = !(sk_statef(sk) & (TCPF_SYN_SENT | TCPF_SYN_RECV | TCPF_CLOSE));
        sock.state.store(over ? SS_CONNECTED : SS_DISCONNECTING);
    }

    int err = 0;
    switch (sk_state(sk)) {
    case TCP_CLOSE:
        err = -ENOTCONN;
        // Hack to wake up other listeners, who can poll for EPOLLHUP, even on eg. unconnected UDP
        // sockets -- RR
        [[fallthrough]];
    default:
        sk.sk_shutdown.store(sk.sk_shutdown.load() | static_cast<u8>(how));
        if (sk_prot(sk).shutdown) sk_prot(sk).shutdown(sk, how);
        break;
    // The remaining two branches are a temporary solution for missing close() in a multithreaded
    // environment. It is not a good idea, but we have no choice until close() is repaired at VFS level.
    case TCP_LISTEN:
        if (!(how & RCV_SHUTDOWN)) break;
        [[fallthrough]];
    case TCP_SYN_SENT:
        err = sk_prot(sk).disconnect(sk, O_NONBLOCK);
        sock.state.store(err ? SS_DISCONNECTING : SS_UNCONNECTED);
        break;
    }
    sk_state_change(sk); // wake up anyone sleeping in poll
    release_sock(sk);
    return err;
}

// --- names, options, ioctls --------------------------------------------------------------------------

int inet_getname(socket& sock, sockaddr_storage* out, int peer) {
    way("inet_getname");
    struct sock* found = socket_sk(sock);
    if (!found) return no_sock;
    struct sock& sk = *found;
    sockaddr_in addr{};
    addr.sin_family = AF_INET;
    lock_sock(sk);
    int err = 0;
    if (peer) {
        if (!inet_dport(sk) || ((sk_statef(sk) & (TCPF_CLOSE | TCPF_SYN_SENT)) && peer == 1)) {
            err = -ENOTCONN;
        }
        addr.sin_port = inet_dport(sk);
        addr.sin_addr.s_addr = inet_daddr(sk);
    } else {
        addr.sin_port = inet_sk(sk).inet_sport;
        addr.sin_addr.s_addr = inet_rcv_saddr(sk) ? inet_rcv_saddr(sk) : inet_sk(sk).inet_saddr;
    }
    release_sock(sk);
    if (err) return err;
    __builtin_memcpy(static_cast<void*>(out), &addr, sizeof addr);
    return sizeof addr;
}

int inet_ioctl(socket& sock, unsigned cmd, unsigned long arg) {
    way("inet_ioctl");
    struct sock* sk = socket_sk(sock);
    if (!sk) return no_sock;
    switch (cmd) {
    // Routes, neighbours, interfaces and their addresses are the host kernel's.
    case SIOCADDRT:
    case SIOCDELRT:
    case SIOCRTMSG:
    case SIOCDARP:
    case SIOCGARP:
    case SIOCSARP:
    case SIOCGIFADDR:
    case SIOCGIFBRDADDR:
    case SIOCGIFNETMASK:
    case SIOCGIFDSTADDR:
    case SIOCGIFPFLAGS:
    case SIOCSIFADDR:
    case SIOCSIFBRDADDR:
    case SIOCSIFNETMASK:
    case SIOCSIFDSTADDR:
    case SIOCSIFPFLAGS:
    case SIOCSIFFLAGS: return -ENOIOCTLCMD_SHIM;
    default: return sk_prot(*sk).ioctl ? sk_prot(*sk).ioctl(*sk, cmd, arg) : -ENOIOCTLCMD_SHIM;
    }
}

// sock_common_setsockopt, sock_common_getsockopt
int inet_setsockopt(socket& sock, int level, int optname, const void* optval, u32 optlen) {
    way("sock_common_setsockopt");
    struct sock* sk = socket_sk(sock);
    return sk ? sk_prot(*sk).setsockopt(*sk, level, optname, optval, optlen) : no_sock;
}

int inet_getsockopt(socket& sock, int level, int optname, void* optval, u32* optlen) {
    way("sock_common_getsockopt");
    struct sock* sk = socket_sk(sock);
    return sk ? sk_prot(*sk).getsockopt(*sk, level, optname, optval, optlen) : no_sock;
}

// --- data --------------------------------------------------------------------------------------------

i64 inet_sendmsg(socket& sock, msghdr_iter& msg) {
    way("inet_sendmsg");
    struct sock* sk = socket_sk(sock);
    if (SOCKSHIM_UNLIKELY(!sk)) return no_sock;
    // inet_send_prepare; TCP has proto.no_autobind in Linux: an unbound one is not connected either.
    if (SOCKSHIM_UNLIKELY(!inet_num(*sk)) && !inet_test(*sk, INET_IS_ICSK) && inet_autobind(*sk)) {
        return -EAGAIN;
    }
    if (SOCKSHIM_LIKELY(is_tcp(*sk))) return tcp_sendmsg(*sk, msg); // as INDIRECT_CALL_2
    return sk_prot(*sk).sendmsg(*sk, msg);
}

i64 inet_recvmsg(socket& sock, msghdr_iter& msg) {
    way("inet_recvmsg");
    struct sock* sk = socket_sk(sock);
    if (SOCKSHIM_UNLIKELY(!sk)) return no_sock;
    if (SOCKSHIM_LIKELY(is_tcp(*sk))) return tcp_recvmsg(*sk, msg);
    return sk_prot(*sk).recvmsg(*sk, msg);
}

u32 inet_poll(socket& sock) {
    struct sock* sk = socket_sk(sock);
    return sk ? sk_prot(*sk).poll(*sk) : u32{EPOLLERR | EPOLLHUP};
}

namespace {

int set_peek_off(sock& sk, int value) {
    sk.sk_peek_off = value;
    return 0;
}

// Bytes that a read would find (FIONREAD). The ioctl writes through a pointer: here it is ours.
i64 inet_peek_len(socket& sock) {
    struct sock* sk = socket_sk(sock);
    if (!sk) return no_sock;
    int bytes = 0;
    const int err = sk_prot(*sk).ioctl(*sk, SIOCINQ, reinterpret_cast<unsigned long>(&bytes));
    return err ? err : bytes;
}

} // namespace

// --- the tables --------------------------------------------------------------------------------------

constinit const net_proto_family inet_family_ops = {
    .family = PF_INET,
    .create = inet_create,
    .owner = nullptr,
};

constexpr proto_ops inet_stream_ops = {
    .family = PF_INET,
    .owner = nullptr,
    .release = inet_release,
    .bind = inet_bind,
    .connect = inet_stream_connect,
    .socketpair = sock_no_socketpair,
    .accept = inet_accept,
    .getname = inet_getname,
    .poll = inet_poll, // tcp_poll
    .ioctl = inet_ioctl,
    .listen = inet_listen,
    .shutdown = inet_shutdown,
    .setsockopt = inet_setsockopt,
    .getsockopt = inet_getsockopt,
    .sendmsg = inet_sendmsg,
    .recvmsg = inet_recvmsg,
    .mmap = sock_no_mmap,
    .splice_read = sock_no_splice_read, // dispatch/splice.cc moves the bytes through recvmsg
    .set_peek_off = set_peek_off,
    .peek_len = inet_peek_len,
};

constexpr proto_ops inet_dgram_ops = {
    .family = PF_INET,
    .owner = nullptr,
    .release = inet_release,
    .bind = inet_bind,
    .connect = inet_dgram_connect,
    .socketpair = sock_no_socketpair,
    .accept = sock_no_accept,
    .getname = inet_getname,
    .poll = inet_poll, // udp_poll
    .ioctl = inet_ioctl,
    .listen = sock_no_listen,
    .shutdown = inet_shutdown,
    .setsockopt = inet_setsockopt,
    .getsockopt = inet_getsockopt,
    .sendmsg = inet_sendmsg,
    .recvmsg = inet_recvmsg,
    .mmap = sock_no_mmap,
    .splice_read = sock_no_splice_read,
    .set_peek_off = set_peek_off,
    .peek_len = inet_peek_len,
};

// For SOCK_RAW sockets; should be the same as inet_dgram_ops but without udp_poll, and without the peek
// offset that only UDP keeps.
constexpr proto_ops inet_sockraw_ops = {
    .family = PF_INET,
    .owner = nullptr,
    .release = inet_release,
    .bind = inet_bind,
    .connect = inet_dgram_connect,
    .socketpair = sock_no_socketpair,
    .accept = sock_no_accept,
    .getname = inet_getname,
    .poll = inet_poll, // datagram_poll
    .ioctl = inet_ioctl,
    .listen = sock_no_listen,
    .shutdown = inet_shutdown,
    .setsockopt = inet_setsockopt,
    .getsockopt = inet_getsockopt,
    .sendmsg = inet_sendmsg,
    .recvmsg = inet_recvmsg,
    .mmap = sock_no_mmap,
    .splice_read = sock_no_splice_read,
    .set_peek_off = sock_no_set_peek_off,
    .peek_len = inet_peek_len,
};

} // namespace sockshim
