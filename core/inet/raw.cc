#include "core/inet/raw.h"

#include <cerrno>
#include <cstring>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <linux/icmp.h>

#include "core/inet/icmp.h"
#include "core/inet/igmp.h"
#include "core/inet/inet_hashtables.h"
#include "core/inet/ip.h"
#include "core/inet/ip_sockglue.h"
#include "core/inet/route.h"
#include "core/inet/skb_wire.h"
#include "core/inet/udp.h"
#include "core/inet/udp_hash.h"
#include "core/net/handover.h"
#include "core/net/net_rx.h"
#include "core/trace/trace.h"

namespace sockshim {
namespace {

constexpr u8 lo_ifindex = 1;
constexpr u32 batch = 32;

// raw_v4_match.
bool matches(const sock& sk, be32 raddr, be32 laddr) {
    const sock_common& c = sk.__sk_common;
    return (!c.skc_daddr || c.skc_daddr == raddr) &&
           (!c.skc_rcv_saddr || c.skc_rcv_saddr == laddr) &&
           (!c.skc_bound_dev_if || c.skc_bound_dev_if == lo_ifindex);
}

bool filtered(const sock& sk, const sk_buff& skb) {
    if (skb.protocol != IPPROTO_ICMP || skb.icmp.type >= 32) return false;
    return reinterpret_cast<const raw_sock&>(sk).filter >> skb.icmp.type & 1;
}

} // namespace

bool raw_local_deliver(const sk_buff& skb) {
    if (SOCKSHIM_LIKELY(dgram_bucket_empty(PROT_RAW, skb.protocol))) return false;
    handle<sock> socks[batch];
    u32 n = 0;
    bool delivered = false;
    {
        dgram_chain chain(PROT_RAW, skb.protocol);
        for (sock* sk = chain.first(); sk && n < batch; sk = chain.next(*sk)) {
            if (!matches(*sk, skb.saddr, skb.daddr)) continue;
            delivered = true;
            if (filtered(*sk, skb)) continue;
            if (!ip_mc_sf_allow(*sk, skb.daddr, skb.saddr, lo_ifindex)) continue;
            if (dgram_prepare(*sk, dgram_sk(*sk).rx)) socks[n++] = sk_handle(*sk);
        }
    }
    if (n == 0) return delivered;
    trace_way("raw_local_deliver");
    u8 headers[skb_wire_max];
    const u32 header_len = skb_emit_headers(skb, headers);
    if (header_len + skb.payload() > 0xffff) return delivered;
    const dgram_meta meta{skb.saddr, skb.daddr, 0, 0, skb.ttl, skb.tos, lo_ifindex, 0};
    for (u32 i = 0; i < n; ++i) {
        sock* sk = slab_get(socks[i]);
        if (!sk) continue;
        dgram_source source{};
        source.ours[0] = {headers, header_len};
        source.ours[1] = {skb.data, skb.len};
        source.ours[2] = {skb.data2, skb.len2};
        dgram_enqueue(*sk, dgram_sk(*sk).rx, meta, source);
    }
    return delivered;
}

// raw_err.
void raw_icmp_error(const sk_buff& skb) {
    const icmp_header& ih = skb.icmp;
    if (dgram_bucket_empty(PROT_RAW, ih.orig_protocol)) return;
    bool fatal = false;
    const int err = icmp_errno(ih.type, ih.code, fatal);
    if (err == 0) return;
    dgram_chain chain(PROT_RAW, ih.orig_protocol);
    for (sock* sk = chain.first(); sk; sk = chain.next(*sk)) {
        if (!matches(*sk, ih.orig_daddr, ih.orig_saddr)) continue;
        const bool recverr = inet_test(*sk, INET_RECVERR);
        if (!recverr && sk_state(*sk) != TCP_ESTABLISHED) continue;
        const bool hard = err == EMSGSIZE ? inet_sk(*sk).pmtudisc != IP_PMTUDISC_DONT : fatal;
        if (recverr) {
            ip_icmp_error(*sk, err, 0, skb);
        }
        if (recverr || hard) sk_error_report(*sk, err);
    }
}

namespace {

// In the default network a raw packet for something of the kernel's is the kernel's to deliver.
bool for_the_kernel(const sk_buff& skb) {
    if (!network_hands_over()) return false;
    switch (skb.protocol) {
    case IPPROTO_ICMP: return false;
    case IPPROTO_UDP: return !udp_port_in_use(skb.daddr, skb.udp.dest);
    case IPPROTO_TCP:
        return !inet_lookup_listener(skb.saddr, skb.tcp.source, skb.daddr, skb.tcp.dest) &&
               !inet_lookup_established(skb.saddr, skb.tcp.source, skb.daddr, skb.tcp.dest).kind;
    default: {
        dgram_chain chain(PROT_RAW, skb.protocol);
        return chain.first() == nullptr;
    }
    }
}

struct raw_target {
    be32 saddr;
    be32 daddr;
    u8 ttl;
    u8 tos;
};

int raw_route(sock& sk, const ipcm_cookie& ipc, be32 daddr, raw_target& to) {
    const inet_sock& inet = inet_sk(sk);
    i32 oif = ipc.oif;
    be32 saddr = ipc.addr;
    if (ipv4_is_multicast(daddr)) {
        if (!oif) oif = inet.mc_index;
        if (!saddr) saddr = inet.mc_addr;
        if (oif != lo_ifindex && !ipv4_is_loopback(saddr) && network_hands_over())
            return -EHANDOVER;
    } else if (!oif) {
        oif = inet.uc_index;
    }
    rtable rt{};
    const int err = ip_route_output(daddr, saddr, oif, rt);
    if (err) return err == -ENETUNREACH && network_hands_over() ? -EHANDOVER : err;
    if (rt.type == RTN_BROADCAST && !sock_flag(sk, SOCK_BROADCAST)) return -EACCES;
    to.saddr = rt.saddr;
    to.daddr = daddr;
    to.ttl = rt.type == RTN_MULTICAST ? inet.mc_ttl
             : inet.uc_ttl < 0        ? IPDEFTTL
                                      : static_cast<u8>(inet.uc_ttl);
    if (ipc.ttl) to.ttl = static_cast<u8>(ipc.ttl);
    to.tos = ipc.tos >= 0 ? static_cast<u8>(ipc.tos) : inet.tos;
    return 0;
}

// raw_send_hdrinc: fills in what Linux fills in, in place. False: EINVAL.
bool complete_header(u8* data, u32 len, const raw_target& to) {
    if (len < wire::ipv4_min_header) return false;
    const u32 header = (data[0] & 15u) * 4;
    if (header > len) return false;
    if (header < wire::ipv4_min_header)
        return true; // sent as it is, and dropped by whoever reads it
    if (wire::get32(data + 12) == 0) wire::put32(data + 12, ntohl(to.saddr));
    wire::put16(data + 2, static_cast<u16>(len));
    wire::ipv4_update_checksum(data, header);
    return true;
}

i64 raw_sendmsg(sock& sk, msghdr_iter& msg) {
    trace_way("raw_sendmsg");
    const u64 count = msg.iter.count;
    if (count > 0xffff) return -EMSGSIZE;
    if (msg.flags & MSG_OOB) return -EOPNOTSUPP;
    const u32 len = static_cast<u32>(count);
    be32 daddr;
    if (msg.name) {
        const auto& name = reinterpret_cast<const sockaddr_in&>(*msg.name);
        if (msg.namelen < sizeof(sockaddr_in)) return -EINVAL;
        if (name.sin_family != AF_INET && name.sin_family) return -EAFNOSUPPORT;
        daddr = name.sin_addr.s_addr;
    } else {
        if (sk_state(sk) != TCP_ESTABLISHED) return -EDESTADDRREQ;
        daddr = inet_daddr(sk);
    }
    ipcm_cookie ipc;
    ipcm_init_sk(ipc, sk);
    if (msg.controllen) {
        if (const int err = ip_cmsg_send(sk, msg, ipc, false)) return err;
    }
    const bool hdrincl = inet_test(sk, INET_HDRINCL);
    raw_target to{};
    if (const int err = raw_route(sk, ipc, daddr, to)) return err;
    if (len > IP_MAX_MTU - (hdrincl ? 0 : wire::ipv4_min_header)) {
        ip_local_error(sk, EMSGSIZE, daddr, IP_MAX_MTU);
        return -EMSGSIZE;
    }
    if (const int err = sock_error(sk)) return err;
    if (sk.sk_shutdown.load() & SEND_SHUTDOWN) return -EPIPE;

    const extent e = extent_alloc(max_of<u32>(len, 1));
    u8* data = e ? extent_data(e) : nullptr;
    if (!data) return -ENOBUFS;
    int err = 0;
    if (len && copy_from_iter(data, len, msg.iter) != static_cast<i64>(len)) err = -EFAULT;
    if (err == 0 && hdrincl && !complete_header(data, len, to)) err = -EINVAL;
    if (err == 0) {
        sk_buff skb{};
        skb.saddr = to.saddr;
        skb.daddr = to.daddr;
        skb.protocol = ipc.protocol;
        skb.ttl = to.ttl;
        skb.tos = to.tos;
        // What nobody could make sense of is sent, and lost: no error, as on a real wire.
        const bool whole =
            hdrincl ? skb_parse(data, len, skb, true) : skb_parse_transport(data, len, skb, true);
        if (whole) err = for_the_kernel(skb) ? -EHANDOVER : ip_queue_xmit(&sk, skb);
    }
    extent_free(e);
    net_rx_action();
    return err ? err : static_cast<i64>(len);
}

i64 raw_recvmsg(sock& sk, msghdr_iter& msg) {
    trace_way("raw_recvmsg");
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
    return flags & MSG_TRUNC ? taken.len : taken.copied;
}

int raw_bind(sock& sk, const sockaddr* addr, u32 len) {
    trace_way("raw_bind");
    const auto* at = reinterpret_cast<const sockaddr_in*>(addr);
    lock_sock(sk);
    int err = -EINVAL;
    if (sk_state(sk) == TCP_CLOSE && len >= sizeof(sockaddr_in)) {
        const be32 where = at->sin_addr.s_addr;
        const u8 type = where ? inet_addr_type(where) : u8{RTN_LOCAL};
        const bool nonlocal = inet_test(sk, INET_FREEBIND) || inet_test(sk, INET_TRANSPARENT);
        err = -EADDRNOTAVAIL;
        if (type != RTN_UNICAST || nonlocal) {
            inet_rcv_saddr(sk) = inet_sk(sk).inet_saddr = where;
            if (type == RTN_MULTICAST || type == RTN_BROADCAST) inet_sk(sk).inet_saddr = 0;
            err = 0;
        }
    }
    release_sock(sk);
    return err;
}

int raw_setsockopt(sock& sk, int level, int optname, const void* optval, u32 optlen) {
    trace_way("raw_setsockopt");
    if (level != SOL_RAW) return ip_setsockopt(sk, level, optname, optval, optlen);
    if (optname != ICMP_FILTER) return -ENOPROTOOPT;
    if (sk.__sk_common.skc_num != IPPROTO_ICMP) return -EOPNOTSUPP;
    icmp_filter f{raw_sk(sk).filter};
    if (copy_from_user(&f, optval, min_of<u32>(optlen, sizeof f))) return -EFAULT;
    raw_sk(sk).filter = f.data;
    return 0;
}

int raw_getsockopt(sock& sk, int level, int optname, void* optval, u32* optlen) {
    trace_way("raw_getsockopt");
    if (level != SOL_RAW) return ip_getsockopt(sk, level, optname, optval, optlen);
    if (optname != ICMP_FILTER) return -ENOPROTOOPT;
    if (sk.__sk_common.skc_num != IPPROTO_ICMP) return -EOPNOTSUPP;
    int len;
    if (get_user(len, optlen)) return -EFAULT;
    if (len < 0) return -EINVAL;
    const icmp_filter f{raw_sk(sk).filter};
    len = min_of<int>(len, sizeof f);
    if (put_user(len, optlen) || copy_to_user(optval, &f, static_cast<std::size_t>(len)))
        return -EFAULT;
    return 0;
}

int raw_hash(sock& sk) {
    dgram_chain chain(PROT_RAW, inet_num(sk));
    chain.insert(sk);
    return 0;
}

sock* no_accept(sock&, int, int* err) {
    *err = -EOPNOTSUPP;
    return nullptr;
}
int raw_init(sock& sk) {
    raw_sk(sk).filter = 0;
    return 0;
}
void raw_destroy(sock& sk) { static_cast<void>(dgram_destroy(sk)); }
void no_keepalive(sock&, bool) {}
void no_backlog(sock&, const sk_buff&) {}
void no_release_cb(sock&) {}
int no_get_port(sock&, u16) { return 0; }

} // namespace

constinit const proto raw_prot = {
    .name = "RAW",
    .owner = nullptr,
    .close = dgram_close,
    .connect = ip4_datagram_connect,
    .disconnect = udp_disconnect,
    .accept = no_accept,
    .ioctl = dgram_ioctl,
    .init = raw_init,
    .destroy = raw_destroy,
    .shutdown = dgram_shutdown,
    .setsockopt = raw_setsockopt,
    .getsockopt = raw_getsockopt,
    .keepalive = no_keepalive,
    .sendmsg = raw_sendmsg,
    .recvmsg = raw_recvmsg,
    .bind = raw_bind,
    .backlog_rcv = no_backlog,
    .release_cb = no_release_cb,
    .timer = dgram_timer,
    .hash = raw_hash,
    .unhash = dgram_unhash,
    .get_port = no_get_port,
    .poll = dgram_poll,
    .obj_size = sizeof(raw_sock),
    .sysctl_wmem = {SOCK_MIN_SNDBUF, SK_WMEM_DEFAULT, SK_WMEM_MAX},
    .sysctl_rmem = {SOCK_MIN_RCVBUF, SK_RMEM_DEFAULT, SK_RMEM_MAX},
};

} // namespace sockshim
