// TCP over IPv4 (Linux: net/ipv4/tcp_ipv4.c).
//
// A segment's way: tcp_v4_rcv finds the sock, the request's listener or the TIME_WAIT entry; takes the
// sock's lock, or leaves the segment on the backlog of whoever has it; tcp_v4_do_rcv, with the lock, hands
// it to the state's function. A request is worked on under its listener's lock, so a segment that waited
// on the listener's backlog is looked up once more when its turn comes.
#include "core/inet/tcp_ipv4.h"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <linux/icmp.h>

#include "core/base/raw_syscall.h"
#include "core/inet/icmp.h"
#include "core/inet/inet_hashtables.h"
#include "core/inet/ip.h"
#include "core/inet/route.h"
#include "core/net/socket.h"
#include "core/tcp/tcp.h"
#include "core/tcp/tcp_fusion.h"
#include "core/trace/trace.h"

namespace sockshim {

// --- the environment -------------------------------------------------------------------------------------

constinit thread_local tcp_env* tcp_env_of_test = nullptr;

static int env_queue_xmit(tcp_env& env, const sk_buff& skb) {
    return env.sk ? ip_queue_xmit(env.sk, skb) : ip_send_skb(skb);
}

// RFC 6528, 3: a clock of 4 us, plus a keyed hash of the four-tuple that nobody outside can compute.
u32 tcp_v4_secure_isn(tcp_env& env, be32 saddr, be32 daddr, u16 sport, u16 dport) {
    const u32 f = inet_ehashfn(daddr, dport, saddr, sport) * 0x9e3779b1u +
                  inet_ehashfn(saddr, sport, daddr, dport);
    return f + static_cast<u32>(env.now_us >> 2);
}

tcp_env& this_tcp_env() {
    if (SOCKSHIM_UNLIKELY(tcp_env_of_test != nullptr)) return *tcp_env_of_test;
    static constinit thread_local tcp_env env = {0, env_queue_xmit, tcp_v4_secure_isn, nullptr,
                                                 nullptr};
    env.now_us = monotonic_us();
    return env;
}

void sk_send_sigurg(sock& sk) {
    if (const socket* sock = slab_get(sk.sk_socket)) sock_send_sigurg(*sock);
    wake_up(sk.sk_wq, POLLPRI);
}

// --- answers without a sock ---------------------------------------------------------------------------------

static void tcp_v4_answer(sk_buff& out, const sk_buff& in) {
    std::memset(static_cast<void*>(&out), 0, sizeof(out));
    out.saddr = in.daddr;
    out.daddr = in.saddr;
    out.protocol = IPPROTO_TCP;
    out.ttl = IPDEFTTL;
    out.ip_flags = 1;
    out.tcp.source = in.tcp.dest;
    out.tcp.dest = in.tcp.source;
}

void tcp_v4_send_reset(tcp_env& env, const sk_buff& skb) {
    if (skb.tcp.flags & TCPHDR_RST) return; // never a RST for a RST
    sk_buff out;
    tcp_v4_answer(out, skb);
    if (skb.tcp.flags & TCPHDR_ACK) {
        out.tcp.seq = skb.tcp.ack_seq;
        out.tcp.flags = TCPHDR_RST;
    } else {
        out.tcp.ack_seq = skb_end_seq(skb);
        out.tcp.flags = TCPHDR_RST | TCPHDR_ACK;
    }
    env.queue_xmit(env, out);
}

static void tcp_v4_timewait_ack(tcp_env& env, const inet_timewait_sock& tw, const sk_buff& skb) {
    sk_buff out;
    tcp_v4_answer(out, skb);
    out.tos = tw.tw_tos;
    out.tcp.seq = tw.tw_snd_nxt;
    out.tcp.ack_seq = tw.tw_rcv_nxt;
    out.tcp.flags = TCPHDR_ACK;
    out.tcp.window = static_cast<u16>(tw.tw_rcv_wnd >> (tw.tw_rcv_wscale & 15));
    if (tw.tw_has_ts) {
        out.tcp.has_ts = 1;
        out.tcp.ts_val = static_cast<u32>(env.now_us / US_PER_MS) + tw.tw_ts_offset;
        out.tcp.ts_ecr = tw.tw_ts_recent;
    }
    env.queue_xmit(env, out);
}

// --- receive ----------------------------------------------------------------------------------------------------

static void tcp_deliver(tcp_env& env, sock& sk, const sk_buff& skb) {
    bool rst = false;
    if (sk_state(sk) == TCP_ESTABLISHED)
        tcp_rcv_established(env, sk, skb);
    else
        rst = tcp_rcv_state_process(env, sk, skb);
    if (rst) tcp_v4_send_reset(env, skb);
}

// A listener's segment: for one of its requests, for a child that was made while the segment waited, or
// a new SYN.
static void tcp_v4_listen_rcv(tcp_env& env, sock& listener, const sk_buff& skb) {
    const inet_lookup_result found =
        inet_lookup_established(skb.saddr, skb.tcp.source, skb.daddr, skb.tcp.dest);
    switch (found.kind) {
    case SKC_KIND_REQUEST: {
        const request_sock* req = slab_get(found.req);
        if (!req || !(req->rsk_listener == sk_handle(listener))) break; // another listener's
        sock* child = nullptr;
        bool rst = tcp_check_req(env, listener, found.req, skb, &child);
        if (child) rst = tcp_child_process(env, listener, *child, skb);
        if (rst) tcp_v4_send_reset(env, skb);
        return;
    }
    case SKC_KIND_SOCK:
        // A child's lock is only ever tried for here, never waited for.
        if (sock* child = sk_lock_or_backlog(found.sk, skb)) {
            if (!tcp_sk(*child).fused.load()) tcp_deliver(env, *child, skb);
            release_sock(*child);
        }
        return;
    case SKC_KIND_TIMEWAIT: return; // it came while the segment waited; the peer sends again
    default: break;
    }
    tcp_deliver(env, listener, skb);
}

void tcp_v4_do_rcv(tcp_env& env, sock& sk, const sk_buff& skb) {
    // The fused path has moved all bytes; what still arrives is old ACKs, or forged.
    if (SOCKSHIM_UNLIKELY(tcp_sk(sk).fused.load())) return;
    if (sk_state(sk) == TCP_LISTEN)
        tcp_v4_listen_rcv(env, sk, skb);
    else
        tcp_deliver(env, sk, skb);
}

static void tcp_v4_backlog_rcv(sock& sk, const sk_buff& skb) {
    tcp_v4_do_rcv(this_tcp_env(), sk, skb);
}

// True: done with. False: a listener should see the segment.
static bool tcp_v4_timewait(tcp_env& env, handle<inet_timewait_sock> h, const sk_buff& skb) {
    inet_timewait_sock* tw = slab_get(h);
    if (!tw) return false;
    u32 isn = 0;
    const tcp_tw_status status = tcp_timewait_state_process(env, *tw, skb, isn);
    switch (status) {
    case TCP_TW_SYN: {
        const handle<sock> lh =
            inet_lookup_listener(skb.saddr, skb.tcp.source, skb.daddr, skb.tcp.dest);
        if (slab_get(lh)) {
            inet_twsk_deschedule_put(h);
            if (sock* listener = sk_lock_or_backlog(lh, skb)) {
                if (sk_state(*listener) == TCP_LISTEN) tcp_conn_request(env, *listener, skb, isn);
                release_sock(*listener);
            }
            return true;
        }
        [[fallthrough]];
    }
    case TCP_TW_ACK: tcp_v4_timewait_ack(env, *tw, skb); return true;
    case TCP_TW_RST: tcp_v4_send_reset(env, skb); return true;
    case TCP_TW_SUCCESS: return true;
    }
    return true;
}

void tcp_v4_rcv(tcp_env& env, const sk_buff& skb) {
    trace_way("tcp_v4_rcv");
    const inet_lookup_result found =
        inet_lookup_established(skb.saddr, skb.tcp.source, skb.daddr, skb.tcp.dest);
    handle<sock> h = {};
    switch (found.kind) {
    case SKC_KIND_SOCK: h = found.sk; break;
    case SKC_KIND_REQUEST:
        if (request_sock* req = slab_get(found.req)) {
            h = req->rsk_listener;
            if (!slab_get(h)) { // its listener went without it
                inet_reqsk_remove(*req);
                slab_free(found.req);
                h = {};
            }
        }
        break;
    case SKC_KIND_TIMEWAIT:
        if (tcp_v4_timewait(env, found.tw, skb)) return;
        break;
    default: break;
    }
    if (!h) h = inet_lookup_listener(skb.saddr, skb.tcp.source, skb.daddr, skb.tcp.dest);
    if (!slab_get(h)) {
        tcp_v4_send_reset(env, skb);
        return;
    }
    sock* sk = sk_lock_or_backlog(h, skb);
    if (!sk) return;
    if (skb.ttl < inet_sk(*sk).min_ttl) {
        release_sock(*sk);
        return;
    }
    const bool listening = sk_state(*sk) == TCP_LISTEN;
    tcp_v4_do_rcv(env, *sk, skb);
    release_sock(*sk);
    if (!listening) return;
    // This segment may have completed a handshake: with no lock held, fuse the connection.
    const inet_lookup_result made =
        inet_lookup_established(skb.saddr, skb.tcp.source, skb.daddr, skb.tcp.dest);
    if (made.kind != SKC_KIND_SOCK) return;
    if (sock* child = slab_get(made.sk)) tcp_fuse_pending(*child);
}

void tcp_v4_rcv(const sk_buff& skb) { tcp_v4_rcv(this_tcp_env(), skb); }

// --- ICMP ---------------------------------------------------------------------------------------------------------

// RFC 1122, 4.2.3.9 and RFC 5927: believed only when the quoted sequence number is in flight.
void tcp_v4_err(tcp_env& env, const sk_buff& icmp) {
    trace_way("tcp_v4_err");
    const icmp_header& h = icmp.icmp;
    const inet_lookup_result found =
        inet_lookup_established(h.orig_daddr, h.orig_dest, h.orig_saddr, h.orig_source);
    bool fatal = false;
    const int err = icmp_errno(h.type, h.code, fatal);
    const bool unreachable = h.type == ICMP_DEST_UNREACH;
    if (unreachable && h.code > NR_ICMP_UNREACH) return; // nobody knows what it would mean
    if (found.kind == SKC_KIND_REQUEST) {
        const request_sock* req = slab_get(found.req);
        sock* listener = req ? lock_sock_handle(req->rsk_listener) : nullptr;
        if (!listener) return;
        req = slab_get(found.req);
        // Linux: tcp_req_err. The way back is not there; all else may pass while the SYN-ACK is repeated.
        const bool hopeless = h.type == ICMP_PARAMETERPROB || h.type == ICMP_TIME_EXCEEDED ||
                              (unreachable && h.code <= ICMP_HOST_UNREACH);
        if (req && h.orig_seq == req->snt_isn && hopeless) tcp_reqsk_drop(*listener, found.req);
        release_sock(*listener);
        return;
    }
    if (found.kind != SKC_KIND_SOCK) return;
    sock* sk = lock_sock_handle(found.sk);
    if (!sk) return;
    tcp_sock& tp = tcp_sk(*sk);
    const bool handshake = sk_statef(*sk) & (TCPF_SYN_SENT | TCPF_SYN_RECV);
    if (sk_state(*sk) == TCP_CLOSE || sk_state(*sk) == TCP_LISTEN || tp.fused.load() ||
        !between(h.orig_seq, tp.snd_una, tp.snd_nxt)) {
        // not about anything in flight
    } else if (unreachable && h.code == ICMP_FRAG_NEEDED) {
        // RFC 1191: send smaller segments from here on, and again what was too large.
        if (h.info >= 68 && h.info < tp.pmtu && !handshake) {
            tcp_sync_mss(*sk, h.info);
            tcp_retransmit_skb(env, *sk, tp.snd_una, tp.snd_nxt);
        }
    } else if (err && handshake) {
        sk->sk_err.store(static_cast<u32>(err));
        tcp_tx_purge(*sk);
        tcp_done(*sk);
    } else if (err && inet_test(*sk, INET_RECVERR)) {
        sk_error_report(*sk, err);
    } else if (err) {
        sk->sk_err_soft = err; // a hint, told when the connection times out
    }
    release_sock(*sk);
}

void tcp_v4_err(const sk_buff& icmp) { tcp_v4_err(this_tcp_env(), icmp); }

// --- connect --------------------------------------------------------------------------------------------------------

// proto.connect; sk_lock held, state CLOSE.
int tcp_v4_connect(sock& sk, const sockaddr* uaddr, u32 len) {
    trace_way("tcp_v4_connect");
    if (len < sizeof(sockaddr_in)) return -EINVAL;
    sockaddr_in addr;
    std::memcpy(&addr, uaddr, sizeof(addr));
    if (addr.sin_family != AF_INET) return -EAFNOSUPPORT;
    inet_sock& inet = inet_sk(sk);
    tcp_sock& tp = tcp_sk(sk);
    be32 daddr = addr.sin_addr.s_addr;
    rtable rt{};
    if (const int err =
            ip_route_output(daddr, inet.inet_saddr, sk.__sk_common.skc_bound_dev_if, rt))
        return err;
    if (rt.type == RTN_MULTICAST || rt.type == RTN_BROADCAST) return -ENETUNREACH;
    const bool chose_saddr = !inet.inet_saddr;
    if (chose_saddr) {
        inet.inet_saddr = rt.saddr;
        inet_rcv_saddr(sk) = rt.saddr;
    }
    inet_dport(sk) = addr.sin_port;
    inet_daddr(sk) = daddr;
    tp.mss_clamp = TCP_MSS_DEFAULT_LEN;
    tp.pmtu = rt.mtu;
    tp.advmss = static_cast<u16>(min_of<u32>(rt.mtu, 65535) - 40);
    if (tp.user_mss && tp.user_mss < tp.advmss) tp.advmss = tp.user_mss;
    tcp_sync_mss(sk, tp.pmtu);

    // The identity is in the table before the first segment goes out: the answer may be quick.
    tcp_set_state(sk, TCP_SYN_SENT);
    if (const int err = inet_hash_connect(sk)) {
        tcp_set_state(sk, TCP_CLOSE);
        if (chose_saddr && !(sk.sk_userlocks & SOCK_BINDADDR_LOCK)) {
            inet.inet_saddr = 0;
            inet_rcv_saddr(sk) = 0;
        }
        inet_dport(sk) = 0;
        return err;
    }
    tcp_env& env = this_tcp_env();
    tp.write_seq = env.secure_isn(env, inet.inet_saddr, daddr, inet_num(sk), ntohs(addr.sin_port));
    return tcp_connect(env, sk);
}

const proto tcp_prot = {
    .name = "TCP",
    .owner = nullptr,
    .close = tcp_close,
    .connect = tcp_v4_connect,
    .disconnect = tcp_disconnect,
    .accept = inet_csk_accept,
    .ioctl = tcp_ioctl,
    .init = tcp_init_sock,
    .destroy = tcp_destroy_sock,
    .shutdown = tcp_shutdown,
    .setsockopt = tcp_setsockopt,
    .getsockopt = tcp_getsockopt,
    .keepalive = tcp_set_keepalive,
    .sendmsg = tcp_sendmsg,
    .recvmsg = tcp_recvmsg,
    .bind = nullptr,
    .backlog_rcv = tcp_v4_backlog_rcv,
    .release_cb = tcp_release_cb,
    .timer = tcp_timer,
    .hash = inet_hash,
    .unhash = inet_unhash,
    .get_port = inet_csk_get_port,
    .poll = tcp_poll,
    .obj_size = sizeof(tcp_sock),
    .sysctl_wmem = {tcp_wmem[0], tcp_wmem[1], tcp_wmem[2]},
    .sysctl_rmem = {tcp_rmem[0], tcp_rmem[1], tcp_rmem[2]},
    .repair = tcp_repair,
};

bool tcp_v4_peer_gone(const sock& sk) {
    constexpr u32 synchronised = TCPF_ESTABLISHED | TCPF_FIN_WAIT1 | TCPF_FIN_WAIT2 |
                                 TCPF_CLOSE_WAIT | TCPF_CLOSING | TCPF_LAST_ACK;
    if (!(sk_statef(sk) & synchronised)) return false;
    const sock_common& c = sk.__sk_common;
    return !inet_lookup_established(inet_sk(sk).inet_saddr, c.skc_num, c.skc_daddr,
                                    __builtin_bswap16(c.skc_dport))
                .kind;
}

void tcp_v4_reset_lonely(sock& sk) {
    tcp_unfuse(sk);
    lock_sock(sk);
    if (tcp_v4_peer_gone(sk)) tcp_reset(this_tcp_env(), sk);
    release_sock(sk);
}

} // namespace sockshim
