// Sending datagrams: the way of one from udp_sendmsg into its receiver's queue (udp.h).
#include "core/inet/udp_internal.h"

#include <cerrno>
#include <cstring>
#include <netinet/tcp.h>

#include "core/base/crash_point.h"
#include "core/inet/icmp.h"
#include "core/inet/igmp.h"
#include "core/inet/ip.h"
#include "core/inet/ip_sockglue.h"
#include "core/inet/route.h"
#include "core/net/handover.h"
#include "core/net/kernel_half.h"
#include "core/net/net_rx.h"
#include "core/trace/trace.h"
#include "core/wire/icmp.h"

namespace sockshim {
namespace {

constexpr u16 swap16(u16 v) { return __builtin_bswap16(v); }

void iter_advance(iov_iter& it, std::size_t n) {
    while (n && it.nr) {
        const std::size_t piece = min_of(it.iov->iov_len - it.off, n);
        it.off += piece;
        it.count -= piece;
        n -= piece;
        if (it.off == it.iov->iov_len) {
            ++it.iov;
            --it.nr;
            it.off = 0;
        }
    }
}

// --- the last destinations of this thread -----------------------------------------------------------

// What a lookup said, kept per thread, and good as long as nothing changed in the two chains that it
// depends on: the destination port's, and that of the raw sockets which want to see UDP packets.
struct udp_dst {
    const sock* sk;
    u32 cookie; // of sk: which of the cell's lives
    be32 daddr;
    u16 dport;
    u16 sport;
    be32 bound; // inet_saddr at that time
    be32 saddr;
    be32 to;          // daddr as routed
    const a32* chain; // the heads of the two chains, and what they said
    const a32* raws;
    u32 chain_word;
    u32 raw_word;
    handle<sock> peer;
};
constexpr u32 dst_cache_size = 8;
constinit thread_local udp_dst dst_cache[dst_cache_size]{};

udp_dst& dst_entry(const sock& sk, be32 daddr, u16 dport) {
    const u64 at = reinterpret_cast<std::uintptr_t>(&sk) / sock_cell_bytes;
    return dst_cache[(at ^ daddr >> 24 ^ dport) % dst_cache_size];
}

bool dst_valid(const udp_dst& d, const sock& sk, be32 daddr, u16 dport) {
    return d.sk == &sk && d.cookie == sk.__sk_common.skc_cookie && d.daddr == daddr &&
           d.dport == dport && d.sport == sk.__sk_common.skc_num &&
           d.bound == inet_sk(sk).inet_saddr && sk.__sk_common.skc_bound_dev_if == 0 &&
           d.chain_word == d.chain->load() && d.raw_word == d.raws->load();
}

// --- delivery ---------------------------------------------------------------------------------------

int errno_of(dgram_result r) {
    switch (r) {
    case dgram_result::fault: return -EFAULT;
    case dgram_result::nomem: return -ENOBUFS;
    default: return 0; // a full queue loses the datagram and nobody is told
    }
}

// One send to one receiver, in segments if it is a UDP_SEGMENT send and the receiver has no UDP_GRO.
dgram_result deliver_to(sock& peer, const udp_flow& flow, const udp_payload& payload) {
    dgram_meta meta{flow.saddr, flow.daddr, flow.sport,  flow.dport,
                    flow.ttl,   flow.tos,   udp_ifindex, 0};
    dgram_queue& q = dgram_sk(peer).rx;
    const u32 segment = flow.gso_size;
    if (SOCKSHIM_LIKELY(!segment || payload.len <= segment)) {
        dgram_source s = payload.source(0, payload.len);
        return dgram_enqueue(peer, q, meta, s);
    }
    if (udp_sk(peer).gro_enabled) {
        meta.gso_size = flow.gso_size;
        dgram_source s = payload.source(0, payload.len);
        return dgram_enqueue(peer, q, meta, s);
    }
    for (u32 at = 0; at < payload.len; at += segment) {
        const u32 n = min_of(segment, payload.len - at);
        dgram_source s = payload.source(at, n);
        const std::size_t before = payload.user ? payload.user->count : 0;
        const dgram_result r = dgram_enqueue(peer, q, meta, s);
        if (r == dgram_result::full) {
            if (payload.user) iter_advance(*payload.user, n - (before - payload.user->count));
        } else if (r != dgram_result::queued) {
            return r;
        }
    }
    return dgram_result::queued;
}

} // namespace

int udp_deliver_to_many(const udp_flow& flow, const udp_payload& payload) {
    constexpr u32 batch = 64;
    handle<sock> peers[batch];
    u32 n = 0;
    {
        dgram_chain chain(PROT_UDP, flow.dport);
        // ip_check_mc: the host must be a member of the group, by whichever socket.
        bool member = flow.type != RTN_MULTICAST;
        for (sock* sk = chain.first(); sk && !member; sk = chain.next(*sk)) {
            member = ip_mc_member(*sk, flow.daddr);
        }
        if (!member) member = ip_mc_any_member(flow.daddr);
        for (sock* sk = member ? chain.first() : nullptr; sk && n < batch; sk = chain.next(*sk)) {
            if (udp_score(*sk, flow.saddr, flow.sport, flow.daddr, udp_ifindex) < 0) continue;
            if (!ip_mc_sf_allow(*sk, flow.daddr, flow.saddr, udp_ifindex)) continue;
            if (dgram_prepare(*sk, dgram_sk(*sk).rx)) peers[n++] = sk_handle(*sk);
        }
    }
    for (u32 i = 0; i < n; ++i) {
        sock* peer = slab_get(peers[i]);
        if (!peer) continue;
        iov_iter again{};
        udp_payload copy = payload;
        if (payload.user) {
            again = *payload.user;
            copy.user = &again;
        }
        if (const int err = errno_of(deliver_to(*peer, flow, copy))) return err;
    }
    return static_cast<int>(n);
}

namespace {

// The packet path: raw sockets want to see it.
int send_as_packets(sock* sk, const udp_flow& flow, const udp_payload& payload) {
    const u8* data = payload.ours;
    extent e{};
    int err = 0;
    if (payload.user && payload.len) {
        e = extent_alloc(payload.len);
        u8* copy = e ? extent_data(e) : nullptr;
        if (!copy) return -ENOBUFS;
        if (copy_from_iter(copy, payload.len, *payload.user) != static_cast<i64>(payload.len)) {
            err = -EFAULT;
        }
        data = copy;
    }
    const u32 segment = flow.gso_size ? flow.gso_size : payload.len;
    for (u32 at = 0; err == 0; at += segment) {
        sk_buff skb{};
        skb.saddr = flow.saddr;
        skb.daddr = flow.daddr;
        skb.protocol = IPPROTO_UDP;
        skb.ttl = flow.ttl;
        skb.tos = flow.tos;
        skb.udp = {flow.sport, flow.dport};
        skb.data = data + at;
        skb.len = min_of(segment, payload.len - at);
        err = ip_queue_xmit(sk, skb);
        if (at + segment >= payload.len) break;
    }
    if (e) extent_free(e);
    net_rx_action();
    return err;
}

// Nobody is bound there. The kernel may know somebody; else the sender hears of it (RFC 1122, 4.1.3.1).
int no_taker(const udp_flow& flow, const udp_payload& payload) {
    if (network_hands_over()) return -EHANDOVER;
    u8 quoted[576 - 28 - 28]; // RFC 1812, 4.3.2.3
    sk_buff about{};
    about.saddr = flow.saddr;
    about.daddr = flow.daddr;
    about.protocol = IPPROTO_UDP;
    about.ttl = flow.ttl;
    about.tos = flow.tos;
    about.udp = {flow.sport, flow.dport};
    about.len = min_of<u32>(payload.len, sizeof quoted);
    about.data = payload.ours;
    if (payload.user) {
        if (copy_from_iter(quoted, about.len, *payload.user) != static_cast<i64>(about.len)) {
            return -EFAULT;
        }
        about.data = quoted;
    }
    icmp_send(about, wire::icmp_dest_unreach, wire::icmp_port_unreach, 0);
    net_rx_action();
    return 0;
}

// Sends one datagram. `found_dst`: who took it, for dst_entry(); untouched if nobody did.
int udp_deliver(sock& sk, const udp_flow& flow, const udp_payload& payload, udp_dst* found_dst) {
    trace_way("udp_deliver");
    if (flow.type != RTN_LOCAL) {
        if (!dgram_bucket_empty(PROT_RAW, IPPROTO_UDP) && !network_hands_over()) {
            return send_as_packets(&sk, flow, payload);
        }
        const int n = udp_deliver_to_many(flow, payload);
        if (n < 0) return n;
        // Multicasts and broadcasts are for whoever is there; the kernel's programs may be.
        return n == 0 && network_hands_over() ? -EHANDOVER : 0;
    }
    const u32 raw_word = dgram_bucket(PROT_RAW, IPPROTO_UDP).head.load();
    {
        bool watched = false;
        if (raw_word & dgram_head_mask) {
            dgram_chain raws(PROT_RAW, IPPROTO_UDP);
            watched = raws.first() != nullptr;
        }
        if (watched) {
            bool taker;
            {
                dgram_chain chain(PROT_UDP, flow.dport);
                taker =
                    udp_lookup(chain, flow.saddr, flow.sport, flow.daddr, flow.dport) != nullptr;
            }
            if (!taker && network_hands_over()) return -EHANDOVER;
            return send_as_packets(&sk, flow, payload);
        }
    }
    for (int tries = 0; tries < 4; ++tries) {
        handle<sock> to{};
        bool room = false;
        u32 chain_word;
        {
            dgram_chain chain(PROT_UDP, flow.dport);
            sock* found = udp_lookup(chain, flow.saddr, flow.sport, flow.daddr, flow.dport);
            if (found) {
                to = sk_handle(*found);
                room = dgram_prepare(*found, dgram_sk(*found).rx);
            }
            chain_word = chain.word();
        }
        if (!to) return no_taker(flow, payload);
        if (!room) return -ENOBUFS;
        sock* peer = slab_get(to);
        if (!peer) continue;
        if (found_dst && !flow.gso_size) {
            found_dst->cookie = sk.__sk_common.skc_cookie;
            found_dst->sport = flow.sport;
            found_dst->bound = inet_sk(sk).inet_saddr;
            found_dst->saddr = flow.saddr;
            found_dst->to = flow.daddr;
            found_dst->chain = &dgram_bucket(PROT_UDP, flow.dport).head;
            found_dst->raws = &dgram_bucket(PROT_RAW, IPPROTO_UDP).head;
            found_dst->chain_word = chain_word;
            found_dst->raw_word = raw_word;
            found_dst->peer = to;
        }
        const dgram_result r = deliver_to(*peer, flow, payload);
        if (r == dgram_result::closed || r == dgram_result::noring) continue; // closed this moment
        return errno_of(r);
    }
    return 0; // lost
}

// --- sending ----------------------------------------------------------------------------------------

// The pending error, or the end of sending: what sock_alloc_send_skb says before it gives memory.
int send_allowed(sock& sk) {
    kernel_half_error(sk);
    if (SOCKSHIM_UNLIKELY(sk.sk_err.load_relaxed())) {
        if (const int err = sock_error(sk)) return err;
    }
    return SOCKSHIM_UNLIKELY(sk.sk_shutdown.load() & SEND_SHUTDOWN) ? -EPIPE : 0;
}

int autobind(sock& sk) {
    lock_sock(sk);
    int err = 0;
    if (!inet_num(sk)) {
        err = udp_get_port(sk, 0) ? -EAGAIN : 0;
        if (err == 0) inet_sk(sk).inet_sport = swap16(inet_num(sk));
    }
    release_sock(sk);
    return err;
}

// Fills in what the route says. 0 or -errno, -EHANDOVER included.
int route_flow(sock& sk, const ipcm_cookie& ipc, udp_flow& flow) {
    const inet_sock& inet = inet_sk(sk);
    flow.saddr = ipc.addr;
    i32 oif = ipc.oif;
    if (ipv4_is_multicast(flow.daddr)) {
        if (!oif) oif = inet.mc_index;
        if (!flow.saddr) flow.saddr = inet.mc_addr;
        if (oif != udp_ifindex && !ipv4_is_loopback(flow.saddr) && network_hands_over()) {
            return -EHANDOVER;
        }
        flow.type = RTN_MULTICAST;
        if (!flow.saddr) flow.saddr = htonl(INADDR_LOOPBACK);
    } else {
        if (!oif) oif = inet.uc_index;
        if (flow.daddr && !ipv4_is_loopback(flow.daddr) && network_hands_over()) {
            const u8 type = inet_addr_type(flow.daddr);
            if (type != RTN_LOCAL) return -EHANDOVER;
        }
        rtable rt{};
        const int err = ip_route_output(flow.daddr, flow.saddr, oif, rt);
        if (err) return err == -ENETUNREACH && network_hands_over() ? -EHANDOVER : err;
        flow.type = rt.type;
        flow.saddr = rt.saddr;
        if (flow.type == RTN_BROADCAST && !sock_flag(sk, SOCK_BROADCAST)) return -EACCES;
    }
    if (ipc.ttl) {
        flow.ttl = static_cast<u8>(ipc.ttl);
    } else if (flow.type == RTN_MULTICAST) {
        flow.ttl = inet.mc_ttl;
    } else {
        flow.ttl = inet.uc_ttl < 0 ? IPDEFTTL : static_cast<u8>(inet.uc_ttl);
    }
    flow.tos = ipc.tos >= 0 ? static_cast<u8>(ipc.tos) : inet.tos;
    return 0;
}

int check_gso(const sock& sk, const udp_flow& flow, u32 len) {
    if (!flow.gso_size) return 0;
    if (28 + min_of<u32>(len, flow.gso_size) > IP_MAX_MTU) return -EMSGSIZE;
    if (len > u32{flow.gso_size} * udp_max_segments || sk.sk_no_check_tx) return -EINVAL;
    return 0;
}

// --- cork: sk_lock is held --------------------------------------------------------------------------

void cork_drop(udp_sock& up) {
    extent_free(extent::from_raw(up.cork_ext));
    up.cork_ext = 0;
    up.cork_len = 0;
}

int cork_start(udp_sock& up, const udp_flow& flow) {
    const extent e = extent_alloc(udp_max_payload);
    if (!e) return -ENOBUFS;
    up.cork_len = 0;
    up.cork_saddr = flow.saddr;
    up.cork_daddr = flow.daddr;
    up.cork_dport = flow.dport;
    up.cork_ttl = flow.ttl;
    up.cork_tos = flow.tos;
    up.cork_gso = flow.gso_size;
    up.cork_type = flow.type;
    up.cork_ext = e.raw();
    SOCKSHIM_CRASH_POINT();
    extent_publish(e);
    return 0;
}

// Appends; an error throws away what was there (udp_flush_pending_frames).
int cork_append(sock& sk, iov_iter& from, u32 len) {
    udp_sock& up = udp_sk(sk);
    u8* data = extent_data(extent::from_raw(up.cork_ext));
    const u32 have = min_of(up.cork_len, udp_max_payload);
    int err = data ? 0 : -ENOBUFS;
    if (err == 0 && len > udp_max_payload - have) {
        ip_local_error(sk, EMSGSIZE, up.cork_daddr, IP_MAX_MTU);
        err = -EMSGSIZE;
    }
    if (err == 0 && len && copy_from_iter(data + have, len, from) != static_cast<i64>(len)) {
        err = -EFAULT;
    }
    if (err) {
        cork_drop(up);
        return err;
    }
    up.cork_len = have + len;
    return 0;
}

// Takes the datagram out of the sock, to be sent with no lock held.
extent cork_take(sock& sk, udp_flow& flow, u32& len) {
    udp_sock& up = udp_sk(sk);
    const extent e = extent::from_raw(up.cork_ext);
    flow = {up.cork_saddr, up.cork_daddr, inet_num(sk), up.cork_dport,
            up.cork_ttl,   up.cork_tos,   up.cork_type, up.cork_gso};
    len = min_of(up.cork_len, udp_max_payload);
    up.cork_ext = 0;
    up.cork_len = 0;
    return e;
}

int cork_send(sock& sk, extent e, const udp_flow& flow, u32 len) {
    const u8* data = extent_data(e);
    int err = data ? check_gso(sk, flow, len) : -ENOBUFS;
    if (err == 0) {
        const udp_payload payload{nullptr, data, len};
        err = udp_deliver(sk, flow, payload, nullptr);
    }
    extent_free(e);
    return err;
}

i64 send_corked(sock& sk, msghdr_iter& msg, const udp_flow* flow, u32 len) {
    udp_sock& up = udp_sk(sk);
    lock_sock(sk);
    int err = send_allowed(sk);
    if (err == 0 && !extent_data(extent::from_raw(up.cork_ext))) {
        // Pushed by another thread meanwhile, or new.
        err = flow ? cork_start(up, *flow) : -EAGAIN;
    }
    if (err == 0) err = cork_append(sk, msg.iter, len);
    extent ready{};
    udp_flow going{};
    u32 total = 0;
    if (err == 0 && !up.corkflag && !(msg.flags & MSG_MORE)) ready = cork_take(sk, going, total);
    release_sock(sk);
    if (ready) {
        err = cork_send(sk, ready, going, total);
        // What came in earlier calls cannot be repeated to the kernel.
        if (err == -EHANDOVER) err = 0;
    }
    return err ? err : static_cast<i64>(len);
}

i64 send_slowly(sock& sk, msghdr_iter& msg, be32 daddr, u16 dport, u32 len) {
    ipcm_cookie ipc;
    ipcm_init_sk(ipc, sk);
    ipc.gso_size = udp_sk(sk).gso_size;
    if (msg.controllen) {
        if (const int err = ip_cmsg_send(sk, msg, ipc, true)) return err;
    }
    udp_flow flow{};
    flow.daddr = daddr;
    flow.sport = inet_num(sk);
    flow.dport = dport;
    flow.gso_size = ipc.gso_size;
    if (const int err = route_flow(sk, ipc, flow)) return err;
    if (udp_sk(sk).corkflag || (msg.flags & MSG_MORE)) return send_corked(sk, msg, &flow, len);
    if (len > udp_max_payload) {
        ip_local_error(sk, EMSGSIZE, flow.daddr, IP_MAX_MTU);
        return -EMSGSIZE;
    }
    if (const int err = send_allowed(sk)) return err;
    if (const int err = check_gso(sk, flow, len)) return err;
    const udp_payload payload{&msg.iter, nullptr, len};
    const bool plain = flow.type == RTN_LOCAL && !msg.controllen;
    udp_dst found{};
    const int err = udp_deliver(sk, flow, payload, plain ? &found : nullptr);
    if (found.peer) {
        found.sk = &sk;
        found.daddr = daddr;
        found.dport = dport;
        dst_entry(sk, daddr, dport) = found;
    }
    return err ? err : static_cast<i64>(len);
}

} // namespace

void udp_push_pending(sock& sk) {
    udp_flow flow{};
    u32 len = 0;
    lock_sock(sk);
    const extent ready = udp_sk(sk).cork_ext ? cork_take(sk, flow, len) : extent{};
    release_sock(sk);
    if (ready) static_cast<void>(cork_send(sk, ready, flow, len));
}

i64 udp_sendmsg(sock& sk, msghdr_iter& msg) {
    trace_way("udp_sendmsg");
    const u64 len = msg.iter.count;
    if (len > 0xffff) return -EMSGSIZE;
    if (msg.flags & MSG_OOB) return -EOPNOTSUPP;
    udp_sock& up = udp_sk(sk);
    if (SOCKSHIM_UNLIKELY(up.cork_ext)) {
        const i64 r = send_corked(sk, msg, nullptr, static_cast<u32>(len));
        if (r != -EAGAIN) return r;
    }
    be32 daddr;
    u16 dport;
    if (msg.name) {
        const auto& to = reinterpret_cast<const sockaddr_in&>(*msg.name);
        if (msg.namelen < sizeof(sockaddr_in)) return -EINVAL;
        if (to.sin_family != AF_INET && to.sin_family != AF_UNSPEC) return -EAFNOSUPPORT;
        daddr = to.sin_addr.s_addr;
        dport = swap16(to.sin_port);
        if (dport == 0) return -EINVAL;
    } else {
        if (sk_state(sk) != TCP_ESTABLISHED) return -EDESTADDRREQ;
        daddr = inet_daddr(sk);
        dport = swap16(inet_dport(sk));
    }
    if (SOCKSHIM_UNLIKELY(!inet_num(sk))) {
        if (const int err = autobind(sk)) return err;
    }
    const udp_dst& d = dst_entry(sk, daddr, dport);
    if (SOCKSHIM_LIKELY(dst_valid(d, sk, daddr, dport) && !msg.controllen && !up.corkflag &&
                        !up.gso_size && !(msg.flags & MSG_MORE) && len <= udp_max_payload &&
                        !sk.sk_err.load_relaxed() && !kernel_half_attention(sk) &&
                        !sk.sk_shutdown.load())) {
        if (sock* peer = slab_get(d.peer)) {
            const inet_sock& inet = inet_sk(sk);
            const dgram_meta meta{d.saddr,
                                  d.to,
                                  d.sport,
                                  dport,
                                  inet.uc_ttl < 0 ? IPDEFTTL : static_cast<u8>(inet.uc_ttl),
                                  inet.tos,
                                  udp_ifindex,
                                  0};
            dgram_source source{};
            source.user = &msg.iter;
            source.user_len = static_cast<u32>(len);
            const dgram_result r = dgram_enqueue(*peer, dgram_sk(*peer).rx, meta, source);
            if (SOCKSHIM_LIKELY(r != dgram_result::closed && r != dgram_result::noring)) {
                const int err = errno_of(r);
                return err ? err : static_cast<i64>(len);
            }
        }
    }
    return send_slowly(sk, msg, daddr, dport, static_cast<u32>(len));
}

} // namespace sockshim
