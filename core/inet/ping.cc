#include "core/inet/ping.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include "core/base/raw_syscall.h"
#include "core/inet/icmp.h"
#include "core/inet/ip.h"
#include "core/inet/ip_sockglue.h"
#include "core/inet/route.h"
#include "core/inet/udp.h"
#include "core/inet/udp_hash.h"
#include "core/net/handover.h"
#include "core/net/net_rx.h"
#include "core/trace/trace.h"
#include "core/wire/icmp.h"

namespace sockshim {
namespace {

constexpr u8 lo_ifindex = 1;

// net.ipv4.ping_group_range: who may have an echo socket. "1 0" (nobody) where it cannot be read.
void ping_group_range(u32& low, u32& high) {
    low = 1;
    high = 0;
    const long fd = raw_syscall(
        SYS_openat, AT_FDCWD, ptr_arg("/proc/sys/net/ipv4/ping_group_range"), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    char text[64] = {};
    const long n = raw_syscall(SYS_read, fd, ptr_arg(text), sizeof text);
    raw_syscall(SYS_close, fd);
    u64 value[2] = {0, 0};
    u32 field = 0;
    bool digits = false;
    for (long i = 0; i < n && field < 2; ++i) {
        if (text[i] >= '0' && text[i] <= '9') {
            value[field] = value[field] * 10 + static_cast<u64>(text[i] - '0');
            digits = true;
        } else if (digits) {
            ++field;
            digits = false;
        }
    }
    if (field + digits < 2) return;
    low = static_cast<u32>(value[0]);
    high = static_cast<u32>(value[1]);
}

// ping_init_sock.
int ping_init(sock&) {
    if (!network_hands_over()) return 0; // a virtual network is everybody's own
    u32 low, high;
    ping_group_range(low, high);
    const u32 gid = static_cast<u32>(raw_syscall(SYS_getegid));
    if (gid >= low && gid <= high) return 0;
    u32 groups[256] = {};
    const long n = raw_syscall(SYS_getgroups, 256, ptr_arg(groups));
    for (long i = 0; i < n; ++i) {
        if (groups[i] >= low && groups[i] <= high) return 0;
    }
    return -EACCES;
}

bool take_ident(sock& sk, u16 ident) {
    dgram_chain chain(PROT_PING, ident);
    for (sock* other = chain.first(); other; other = chain.next(*other)) {
        if (other != &sk && !(other->__sk_common.skc_reuse && sk.__sk_common.skc_reuse))
            return false;
    }
    inet_num(sk) = ident;
    inet_sk(sk).inet_sport = htons(ident);
    chain.insert(sk);
    return true;
}

int ping_get_port(sock& sk, u16 ident) {
    trace_way("ping_get_port");
    if (ident) return take_ident(sk, ident) ? 0 : -EADDRINUSE;
    u32 at = static_cast<u32>(monotonic_us() * 0x9e3779b1u >> 8) ^ sk_index(sk);
    for (u32 i = 0; i < 0xffff; ++i, ++at) {
        const u16 candidate = static_cast<u16>(at);
        if (candidate == 0) continue;
        // An identifier of one's own, while there are any: shared ones get each other's replies.
        if (i < 1000 && !dgram_bucket_empty(PROT_PING, candidate)) continue;
        if (take_ident(sk, candidate)) return 0;
    }
    return -EADDRINUSE;
}

void ping_unhash(sock& sk) {
    dgram_unhash(sk);
    inet_num(sk) = 0;
    inet_sk(sk).inet_sport = 0;
}

int ping_bind(sock& sk, const sockaddr* addr, u32 len) {
    trace_way("ping_bind");
    const auto* at = reinterpret_cast<const sockaddr_in*>(addr);
    if (len < sizeof(sockaddr_in)) return -EINVAL;
    const be32 where = at->sin_addr.s_addr;
    if (at->sin_family != AF_INET && !(at->sin_family == AF_UNSPEC && where == INADDR_ANY)) {
        return -EAFNOSUPPORT;
    }
    const u8 type = where ? inet_addr_type(where) : u8{RTN_LOCAL};
    const bool nonlocal = inet_test(sk, INET_FREEBIND) || inet_test(sk, INET_TRANSPARENT);
    if (type == RTN_MULTICAST || type == RTN_BROADCAST || (type == RTN_UNICAST && !nonlocal)) {
        return -EADDRNOTAVAIL;
    }
    lock_sock(sk);
    int err = -EINVAL;
    if (!inet_num(sk)) {
        inet_rcv_saddr(sk) = inet_sk(sk).inet_saddr = where;
        err = ping_get_port(sk, ntohs(at->sin_port));
        if (err) {
            inet_rcv_saddr(sk) = inet_sk(sk).inet_saddr = 0;
        } else {
            if (where) sk.sk_userlocks |= SOCK_BINDADDR_LOCK;
            if (at->sin_port) sk.sk_userlocks |= SOCK_BINDPORT_LOCK;
            inet_daddr(sk) = 0;
            inet_dport(sk) = 0;
        }
    }
    release_sock(sk);
    return err;
}

i64 ping_sendmsg(sock& sk, msghdr_iter& msg) {
    trace_way("ping_sendmsg");
    const u64 count = msg.iter.count;
    if (count > 0xffff) return -EMSGSIZE;
    if (count < wire::icmp_header_len) return -EINVAL;
    if (msg.flags & MSG_OOB) return -EOPNOTSUPP;
    const u32 len = static_cast<u32>(count);
    const extent e = extent_alloc(len);
    u8* data = e ? extent_data(e) : nullptr;
    if (!data) return -ENOBUFS;
    const auto send = [&]() -> int {
        if (copy_from_iter(data, len, msg.iter) != static_cast<i64>(len)) return -EFAULT;
        if (data[0] != wire::icmp_echo_request || data[1] != 0) return -EINVAL;
        be32 daddr;
        if (msg.name) {
            const auto& to = reinterpret_cast<const sockaddr_in&>(*msg.name);
            if (msg.namelen < sizeof(sockaddr_in)) return -EINVAL;
            if (to.sin_family != AF_INET) return -EAFNOSUPPORT;
            daddr = to.sin_addr.s_addr;
        } else {
            if (sk_state(sk) != TCP_ESTABLISHED) return -EDESTADDRREQ;
            daddr = inet_daddr(sk);
        }
        ipcm_cookie ipc;
        ipcm_init_sk(ipc, sk);
        if (msg.controllen) {
            if (const int err = ip_cmsg_send(sk, msg, ipc, false)) return err;
        }
        if (ipv4_is_multicast(daddr) && network_hands_over()) return -EHANDOVER;
        rtable rt{};
        if (const int err = ip_route_output(daddr, ipc.addr, ipc.oif, rt)) {
            return err == -ENETUNREACH && network_hands_over() ? -EHANDOVER : err;
        }
        if (rt.type == RTN_BROADCAST && !sock_flag(sk, SOCK_BROADCAST)) return -EACCES;
        if (!inet_num(sk)) {
            lock_sock(sk);
            const int err = inet_num(sk) ? 0 : ping_get_port(sk, 0);
            release_sock(sk);
            if (err) return -EAGAIN;
        }
        if (const int err = sock_error(sk)) return err;
        if (sk.sk_shutdown.load() & SEND_SHUTDOWN) return -EPIPE;
        sk_buff skb{};
        skb.saddr = rt.saddr;
        skb.daddr = daddr;
        skb.protocol = IPPROTO_ICMP;
        if (ipc.ttl) skb.ttl = static_cast<u8>(ipc.ttl);
        if (ipc.tos >= 0) skb.tos = static_cast<u8>(ipc.tos);
        skb.icmp.type = wire::icmp_echo_request;
        skb.icmp.id = inet_num(sk); // whatever the program wrote there
        skb.icmp.info = wire::get16(data + 6);
        skb.data = data + wire::icmp_header_len;
        skb.len = len - wire::icmp_header_len;
        return ip_queue_xmit(&sk, skb);
    };
    const int err = send();
    extent_free(e);
    net_rx_action();
    return err ? err : static_cast<i64>(len);
}

i64 ping_recvmsg(sock& sk, msghdr_iter& msg) {
    trace_way("ping_recvmsg");
    const int flags = msg.flags;
    msg.flags = 0;
    if (flags & MSG_OOB) return -EOPNOTSUPP;
    if (flags & MSG_ERRQUEUE) return ip_recv_error(sk, msg);
    dgram_taken taken;
    const int err = dgram_recv(sk, msg, flags, taken);
    if (err) {
        if (err != -ESHUTDOWN) return err;
        msg.namelen = 0;
        return 0;
    }
    if (msg.name) {
        sockaddr_in sin{};
        sin.sin_family = AF_INET;
        sin.sin_addr.s_addr = taken.meta.saddr;
        std::memcpy(msg.name, &sin, sizeof sin);
        msg.namelen = sizeof sin;
    }
    dgram_ip_cmsgs(sk, msg, taken);
    return taken.copied;
}

// ping_lookup. The chain is locked.
sock* lookup(dgram_chain& chain, be32 local) {
    for (sock* sk = chain.first(); sk; sk = chain.next(*sk)) {
        const sock_common& c = sk->__sk_common;
        if (c.skc_rcv_saddr && c.skc_rcv_saddr != local) continue;
        if (c.skc_bound_dev_if && c.skc_bound_dev_if != lo_ifindex) continue;
        return sk;
    }
    return nullptr;
}

sock* no_accept(sock&, int, int* err) {
    *err = -EOPNOTSUPP;
    return nullptr;
}
void ping_destroy(sock& sk) { static_cast<void>(dgram_destroy(sk)); }
void no_keepalive(sock&, bool) {}
void no_backlog(sock&, const sk_buff&) {}
void no_release_cb(sock&) {}
int hashed_by_get_port(sock&) { return 0; }

} // namespace

bool ping_rcv(const sk_buff& skb) {
    trace_way("ping_rcv");
    if (dgram_bucket_empty(PROT_PING, skb.icmp.id)) return false;
    handle<sock> to{};
    {
        dgram_chain chain(PROT_PING, skb.icmp.id);
        sock* sk = lookup(chain, skb.daddr);
        if (sk && dgram_prepare(*sk, dgram_sk(*sk).rx)) to = sk_handle(*sk);
    }
    sock* sk = slab_get(to);
    if (!sk) return false;
    u8 header[wire::icmp_header_len];
    wire::icmp_emit(header, {skb.icmp.type, skb.icmp.code, skb.icmp.id, skb.icmp.info},
                    wire::csum_pieces(skb.data, skb.len, skb.data2, skb.len2));
    const dgram_meta meta{skb.saddr, skb.daddr, 0, 0, skb.ttl, skb.tos, lo_ifindex, 0};
    dgram_source source{};
    source.ours[0] = {header, sizeof header};
    source.ours[1] = {skb.data, skb.len};
    source.ours[2] = {skb.data2, skb.len2};
    dgram_enqueue(*sk, ping_sk(*sk).dgram.rx, meta, source);
    return true;
}

void ping_err(const sk_buff& skb) {
    const icmp_header& ih = skb.icmp;
    if (dgram_bucket_empty(PROT_PING, ih.orig_source)) return;
    bool fatal = false;
    const int err = icmp_errno(ih.type, ih.code, fatal);
    if (err == 0) return;
    dgram_chain chain(PROT_PING, ih.orig_source);
    sock* sk = lookup(chain, ih.orig_saddr);
    if (!sk) return;
    if (err == EMSGSIZE) {
        if (inet_sk(*sk).pmtudisc == IP_PMTUDISC_DONT) return;
        fatal = true;
    }
    if (inet_test(*sk, INET_RECVERR)) {
        ip_icmp_error(*sk, err, 0, skb);
    } else if (!fatal || sk_state(*sk) != TCP_ESTABLISHED) {
        return;
    }
    sk_error_report(*sk, err);
}

constinit const proto ping_prot = {
    .name = "PING",
    .owner = nullptr,
    .close = dgram_close,
    .connect = ip4_datagram_connect,
    .disconnect = udp_disconnect,
    .accept = no_accept,
    .ioctl = dgram_ioctl,
    .init = ping_init,
    .destroy = ping_destroy,
    .shutdown = dgram_shutdown,
    .setsockopt = ip_setsockopt,
    .getsockopt = ip_getsockopt,
    .keepalive = no_keepalive,
    .sendmsg = ping_sendmsg,
    .recvmsg = ping_recvmsg,
    .bind = ping_bind,
    .backlog_rcv = no_backlog,
    .release_cb = no_release_cb,
    .timer = dgram_timer,
    .hash = hashed_by_get_port,
    .unhash = ping_unhash,
    .get_port = ping_get_port,
    .poll = dgram_poll,
    .obj_size = sizeof(ping_sock),
    .sysctl_wmem = {SOCK_MIN_SNDBUF, SK_WMEM_DEFAULT, SK_WMEM_MAX},
    .sysctl_rmem = {SOCK_MIN_RCVBUF, SK_RMEM_DEFAULT, SK_RMEM_MAX},
};

} // namespace sockshim
