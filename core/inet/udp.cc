#include "core/inet/udp_internal.h"

#include <cerrno>
#include <cstring>
#include <netinet/tcp.h>
#include <netinet/udp.h>

#include "core/base/raw_syscall.h"
#include "core/inet/icmp.h"
#include "core/inet/igmp.h"
#include "core/inet/ip.h"
#include "core/inet/ip_sockglue.h"
#include "core/inet/route.h"
#include "core/net/handover.h"
#include "core/net/kernel_half.h"
#include "core/trace/trace.h"
#include "core/wire/icmp.h"

namespace sockshim {
static constexpr u16 swap16(u16 v) { return __builtin_bswap16(v); }

// --- lookup -----------------------------------------------------------------------------------------

// compute_score; -1: not this one.
int udp_score(const sock& sk, be32 saddr, u16 sport, be32 daddr, i32 dif) {
    const sock_common& c = sk.__sk_common;
    int score = 2;
    if (c.skc_rcv_saddr && c.skc_rcv_saddr != daddr) return -1;
    // udp4_lib_lookup looks for the exact address first, and among the wild cards only then.
    if (c.skc_rcv_saddr) score += 100;
    if (c.skc_daddr) {
        if (c.skc_daddr != saddr) return -1;
        score += 4;
    }
    if (c.skc_dport) {
        if (c.skc_dport != swap16(sport)) return -1;
        score += 4;
    }
    if (c.skc_bound_dev_if) {
        if (c.skc_bound_dev_if != dif) return -1;
        score += 4;
    }
    return score;
}

static bool in_reuseport_group(const sock& a, const sock& b) {
    return a.__sk_common.skc_reuseport && b.__sk_common.skc_reuseport && a.sk_uid == b.sk_uid &&
           a.__sk_common.skc_rcv_saddr == b.__sk_common.skc_rcv_saddr &&
           sk_state(a) != TCP_ESTABLISHED && sk_state(b) != TCP_ESTABLISHED;
}

// The chain is locked.
sock* udp_lookup(dgram_chain& chain, be32 saddr, u16 sport, be32 daddr, u16 dport) {
    sock* best = nullptr;
    int best_score = -1;
    u32 group = 0;
    for (sock* sk = chain.first(); sk; sk = chain.next(*sk)) {
        const int score = udp_score(*sk, saddr, sport, daddr, udp_ifindex);
        if (score > best_score) {
            best = sk;
            best_score = score;
            group = 1;
        } else if (best && score == best_score && in_reuseport_group(*best, *sk)) {
            ++group;
        }
    }
    if (group < 2) return best;
    // reuseport_select_sock: one flow always meets the same member.
    u64 h = (static_cast<u64>(saddr) << 32 | daddr) * 0x9e3779b97f4a7c15;
    h ^= (static_cast<u64>(sport) << 16 | dport) * 0xbf58476d1ce4e5b9;
    h ^= h >> 29;
    u32 pick = static_cast<u32>((static_cast<u64>(static_cast<u32>(h >> 16)) * group) >> 32);
    for (sock* sk = best; sk; sk = chain.next(*sk)) {
        if (sk == best || (udp_score(*sk, saddr, sport, daddr, udp_ifindex) == best_score &&
                           in_reuseport_group(*best, *sk))) {
            if (pick-- == 0) return sk;
        }
    }
    return best;
}

// --- receiving --------------------------------------------------------------------------------------

i64 udp_recvmsg(sock& sk, msghdr_iter& msg) {
    trace_way("udp_recvmsg");
    const int flags = msg.flags;
    msg.flags = 0;
    if (SOCKSHIM_UNLIKELY(flags & MSG_ERRQUEUE)) {
        const i64 r = ip_recv_error(sk, msg);
        return r == -EAGAIN && kernel_half_attention(sk) && (kernel_half_poll(sk) & POLLERR)
                   ? -EKERNELHALF
                   : r;
    }
    dgram_taken taken;
    const int err = dgram_recv(sk, msg, flags, taken);
    if (SOCKSHIM_UNLIKELY(err)) {
        if (err != -ESHUTDOWN) return err;
        msg.namelen = 0;
        return 0;
    }
    if (msg.name) {
        sockaddr_in sin{};
        sin.sin_family = AF_INET;
        sin.sin_port = swap16(taken.meta.sport);
        sin.sin_addr.s_addr = taken.meta.saddr;
        std::memcpy(msg.name, &sin, sizeof sin);
        msg.namelen = sizeof sin;
    }
    if (SOCKSHIM_UNLIKELY(taken.meta.gso_size) && udp_sk(sk).gro_enabled) {
        const int gso_size = taken.meta.gso_size;
        put_cmsg(msg, SOL_UDP, UDP_GRO, sizeof gso_size, &gso_size);
    }
    dgram_ip_cmsgs(sk, msg, taken);
    return flags & MSG_TRUNC ? taken.len : taken.copied;
}

u32 udp_poll(sock& sk) { return dgram_poll(sk); }

int udp_ioctl(sock& sk, unsigned cmd, unsigned long arg) { return dgram_ioctl(sk, cmd, arg); }

i64 udp_peek_len(sock& sk) { return dgram_first_len(dgram_sk(sk).rx); }

// __udp4_lib_rcv.
void udp_rcv(const sk_buff& skb) {
    trace_way("udp_rcv");
    udp_flow flow{skb.saddr, skb.daddr, skb.udp.source, skb.udp.dest, skb.ttl, skb.tos, 0, 0};
    dgram_meta meta{skb.saddr, skb.daddr, skb.udp.source, skb.udp.dest,
                    skb.ttl,   skb.tos,   udp_ifindex,    0};
    dgram_source source{};
    source.ours[0] = {skb.data, skb.len};
    source.ours[1] = {skb.data2, skb.len2};
    if (source.total() > udp_max_payload) return;
    flow.type = inet_addr_type(skb.daddr);
    if (flow.type == RTN_MULTICAST || flow.type == RTN_BROADCAST) {
        if (skb.len2) return; // does not come: only stream rings wrap
        const udp_payload payload{nullptr, skb.data, skb.len};
        static_cast<void>(udp_deliver_to_many(flow, payload));
        return;
    }
    handle<sock> to{};
    {
        dgram_chain chain(PROT_UDP, flow.dport);
        sock* found = udp_lookup(chain, flow.saddr, flow.sport, flow.daddr, flow.dport);
        if (found && dgram_prepare(*found, dgram_sk(*found).rx)) to = sk_handle(*found);
        if (found && !to) return;
    }
    if (!to) {
        icmp_send(skb, wire::icmp_dest_unreach, wire::icmp_port_unreach, 0);
        return;
    }
    if (sock* peer = slab_get(to)) dgram_enqueue(*peer, dgram_sk(*peer).rx, meta, source);
}

void udp_err(const sk_buff& skb) {
    trace_way("udp_err");
    const icmp_header& ih = skb.icmp;
    bool fatal = false;
    const int err = icmp_errno(ih.type, ih.code, fatal);
    if (err == 0) return;
    dgram_chain chain(PROT_UDP, ih.orig_source);
    sock* sk = udp_lookup(chain, ih.orig_daddr, ih.orig_dest, ih.orig_saddr, ih.orig_source);
    if (!sk) return;
    if (err == EMSGSIZE) {
        if (inet_sk(*sk).pmtudisc == IP_PMTUDISC_DONT) return;
        fatal = true;
    }
    if (inet_test(*sk, INET_RECVERR)) {
        ip_icmp_error(*sk, err, ih.orig_dest, skb);
    } else if (!fatal || sk_state(*sk) != TCP_ESTABLISHED) {
        return;
    }
    sk_error_report(*sk, err);
}

// --- binding and connecting -------------------------------------------------------------------------

namespace {

// udp_lib_lport_inuse: may `sk` have the chain's port beside those who have it?
bool conflicts(dgram_chain& chain, const sock& sk) {
    const sock_common& a = sk.__sk_common;
    for (sock* other = chain.first(); other; other = chain.next(*other)) {
        if (other == &sk) continue;
        const sock_common& b = other->__sk_common;
        if (a.skc_reuse && b.skc_reuse) continue;
        if (a.skc_bound_dev_if && b.skc_bound_dev_if && a.skc_bound_dev_if != b.skc_bound_dev_if) {
            continue;
        }
        if (a.skc_rcv_saddr && b.skc_rcv_saddr && a.skc_rcv_saddr != b.skc_rcv_saddr) continue;
        return !(a.skc_reuseport && b.skc_reuseport && sk.sk_uid == other->sk_uid);
    }
    return false;
}

bool take_port(sock& sk, u16 port, bool must_be_free) {
    dgram_chain chain(PROT_UDP, port);
    if (must_be_free ? chain.first() != nullptr && conflicts(chain, sk) : conflicts(chain, sk)) {
        return false;
    }
    inet_num(sk) = port;
    chain.insert(sk);
    return true;
}

u32 random_u32() {
    u32 v = 0;
    if (raw_syscall(SYS_getrandom, ptr_arg(&v), sizeof v, 0) != sizeof v) {
        v = static_cast<u32>(monotonic_us() * 0x9e3779b1u);
    }
    return v;
}

void rehash(sock& sk) {
    if (!(sk.__sk_common.skc_hashed & SKC_HASHED_MAIN)) return;
    dgram_chain chain(PROT_UDP, inet_num(sk));
    chain.touch();
}

} // namespace

int udp_get_port(sock& sk, u16 port) {
    trace_way("udp_get_port");
    if (port) return take_port(sk, port, false) ? 0 : -EADDRINUSE;
    const u32 range = inet_sk(sk).local_port_range;
    u32 low = range & 0xffff, high = range >> 16;
    if (!low) low = 32768;
    if (!high) high = 60999;
    if (high < low) return -EADDRINUSE;
    const u32 n = high - low + 1;
    u32 at = random_u32() % n;
    for (u32 i = 0; i < n; ++i) {
        if (take_port(sk, static_cast<u16>(low + at), true)) return 0;
        at = at + 1 < n ? at + 1 : 0;
    }
    return -EADDRINUSE;
}

void udp_unhash(sock& sk) {
    dgram_unhash(sk);
    if (sk.__sk_common.skc_prot_id == PROT_UDP) inet_num(sk) = 0;
}

int ip4_datagram_connect(sock& sk, const sockaddr* addr, u32 len) {
    trace_way("ip4_datagram_connect");
    const auto* to = reinterpret_cast<const sockaddr_in*>(addr);
    if (len < sizeof(sockaddr_in)) return -EINVAL;
    if (to->sin_family != AF_INET) return -EAFNOSUPPORT;
    lock_sock(sk);
    inet_sock& inet = inet_sk(sk);
    be32 daddr = to->sin_addr.s_addr;
    be32 saddr = inet.inet_saddr;
    i32 oif = sk.__sk_common.skc_bound_dev_if;
    rtable rt{};
    int err = 0;
    if (ipv4_is_multicast(daddr)) {
        if (!saddr) saddr = inet.mc_addr;
        rt.type = RTN_MULTICAST;
        rt.saddr = saddr ? saddr : htonl(INADDR_LOOPBACK);
    } else {
        if (!oif) oif = inet.uc_index;
        err = ip_route_output(daddr, saddr, oif, rt);
        if (err == 0 && rt.type == RTN_BROADCAST && !sock_flag(sk, SOCK_BROADCAST)) err = -EACCES;
    }
    if (err == 0) {
        if (!inet.inet_saddr) inet.inet_saddr = rt.saddr;
        if (!inet_rcv_saddr(sk)) inet_rcv_saddr(sk) = rt.saddr;
        inet_daddr(sk) = daddr;
        inet_dport(sk) = to->sin_port;
        sk.__sk_common.skc_state.store(TCP_ESTABLISHED);
        if (sk.__sk_common.skc_prot_id == PROT_UDP) rehash(sk);
    }
    release_sock(sk);
    return err;
}

int udp_disconnect(sock& sk, int) {
    trace_way("udp_disconnect");
    lock_sock(sk);
    sk.__sk_common.skc_state.store(TCP_CLOSE);
    inet_daddr(sk) = 0;
    inet_dport(sk) = 0;
    if (!(sk.sk_userlocks & SOCK_BINDADDR_LOCK)) {
        inet_rcv_saddr(sk) = 0;
        inet_sk(sk).inet_saddr = 0;
    }
    if (!(sk.sk_userlocks & SOCK_BINDPORT_LOCK)) {
        sk_prot(sk).unhash(sk);
        inet_sk(sk).inet_sport = 0;
    } else if (sk.__sk_common.skc_prot_id == PROT_UDP) {
        rehash(sk);
    }
    release_sock(sk);
    return 0;
}

bool udp_port_in_use(be32 addr, u16 port) {
    dgram_chain chain(PROT_UDP, port);
    for (sock* sk = chain.first(); sk; sk = chain.next(*sk)) {
        const be32 bound = sk->__sk_common.skc_rcv_saddr;
        if (!addr || !bound || bound == addr) return true;
    }
    return false;
}

// --- options ----------------------------------------------------------------------------------------

int udp_setsockopt(sock& sk, int level, int optname, const void* optval, u32 optlen) {
    trace_way("udp_setsockopt");
    if (level != SOL_UDP) return ip_setsockopt(sk, level, optname, optval, optlen);
    int val;
    if (optlen < sizeof val) return -EINVAL;
    if (get_user(val, optval)) return -EFAULT;
    udp_sock& up = udp_sk(sk);
    switch (optname) {
    case UDP_CORK:
        up.corkflag = val != 0;
        if (!val) udp_push_pending(sk);
        return 0;
    case UDP_ENCAP:
        if (val != 0) return -ENOPROTOOPT; // IPsec, L2TP, GTP: nothing here would take it out again
        up.encap_type = 0;
        return 0;
    case UDP_NO_CHECK6_TX: up.no_check6_tx = val != 0; return 0;
    case UDP_NO_CHECK6_RX: up.no_check6_rx = val != 0; return 0;
    case UDP_SEGMENT:
        if (val < 0 || val > 0xffff) return -EINVAL;
        up.gso_size = static_cast<u16>(val);
        return 0;
    case UDP_GRO: up.gro_enabled = val != 0; return 0;
    default: return -ENOPROTOOPT;
    }
}

int udp_getsockopt(sock& sk, int level, int optname, void* optval, u32* optlen) {
    trace_way("udp_getsockopt");
    if (level != SOL_UDP) return ip_getsockopt(sk, level, optname, optval, optlen);
    int len;
    if (get_user(len, optlen)) return -EFAULT;
    if (len < 0) return -EINVAL;
    len = min_of<int>(len, sizeof(int));
    const udp_sock& up = udp_sk(sk);
    int val;
    switch (optname) {
    case UDP_CORK: val = up.corkflag; break;
    case UDP_ENCAP: val = up.encap_type; break;
    case UDP_NO_CHECK6_TX: val = up.no_check6_tx; break;
    case UDP_NO_CHECK6_RX: val = up.no_check6_rx; break;
    case UDP_SEGMENT: val = up.gso_size; break;
    case UDP_GRO: val = up.gro_enabled; break;
    default: return -ENOPROTOOPT;
    }
    if (put_user(len, optlen) || copy_to_user(optval, &val, static_cast<std::size_t>(len))) {
        return -EFAULT;
    }
    return 0;
}

namespace {

sock* no_accept(sock&, int, int* err) {
    *err = -EOPNOTSUPP;
    return nullptr;
}
int nothing_to_init(sock&) { return 0; }
void destroy(sock& sk) { static_cast<void>(dgram_destroy(sk)); }
void no_keepalive(sock&, bool) {}
void no_backlog(sock&, const sk_buff&) {}
void no_release_cb(sock&) {}
int hashed_by_get_port(sock&) { return 0; }

} // namespace

constinit const proto udp_prot = {
    .name = "UDP",
    .owner = nullptr,
    .close = dgram_close,
    .connect = ip4_datagram_connect,
    .disconnect = udp_disconnect,
    .accept = no_accept,
    .ioctl = udp_ioctl,
    .init = nothing_to_init,
    .destroy = destroy,
    .shutdown = dgram_shutdown,
    .setsockopt = udp_setsockopt,
    .getsockopt = udp_getsockopt,
    .keepalive = no_keepalive,
    .sendmsg = udp_sendmsg,
    .recvmsg = udp_recvmsg,
    .bind = nullptr,
    .backlog_rcv = no_backlog,
    .release_cb = no_release_cb,
    .timer = dgram_timer,
    .hash = hashed_by_get_port,
    .unhash = udp_unhash,
    .get_port = udp_get_port,
    .poll = udp_poll,
    .obj_size = sizeof(udp_sock),
    .sysctl_wmem = {SOCK_MIN_SNDBUF, SK_WMEM_DEFAULT, SK_WMEM_MAX},
    .sysctl_rmem = {SOCK_MIN_RCVBUF, SK_RMEM_DEFAULT, SK_RMEM_MAX},
};

} // namespace sockshim
