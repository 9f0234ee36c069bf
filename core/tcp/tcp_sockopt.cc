// TCP's socket options, and the numbers behind ss(8) and TCP_INFO.
#include <cerrno>
#include <cstring>

#include "core/inet/ip_sockglue.h"
#include "core/net/socket.h"
#include "core/tcp/tcp.h"
#include "core/tcp/tcp_cong.h"
#include "core/tcp/tcp_fusion.h"
#include "core/trace/trace.h"

namespace sockshim {

namespace {

// struct tcp_info as the kernel's ABI has it (linux/tcp.h); netinet/tcp.h's ends early.
struct tcp_info_abi {
    u8 tcpi_state;
    u8 tcpi_ca_state;
    u8 tcpi_retransmits;
    u8 tcpi_probes;
    u8 tcpi_backoff;
    u8 tcpi_options;
    u8 tcpi_wscale; // snd in the low four bits, rcv in the high ones
    u8 tcpi_bits;   // delivery_rate_app_limited:1, fastopen_client_fail:2
    u32 tcpi_rto;
    u32 tcpi_ato;
    u32 tcpi_snd_mss;
    u32 tcpi_rcv_mss;
    u32 tcpi_unacked;
    u32 tcpi_sacked;
    u32 tcpi_lost;
    u32 tcpi_retrans;
    u32 tcpi_fackets;
    u32 tcpi_last_data_sent;
    u32 tcpi_last_ack_sent;
    u32 tcpi_last_data_recv;
    u32 tcpi_last_ack_recv;
    u32 tcpi_pmtu;
    u32 tcpi_rcv_ssthresh;
    u32 tcpi_rtt;
    u32 tcpi_rttvar;
    u32 tcpi_snd_ssthresh;
    u32 tcpi_snd_cwnd;
    u32 tcpi_advmss;
    u32 tcpi_reordering;
    u32 tcpi_rcv_rtt;
    u32 tcpi_rcv_space;
    u32 tcpi_total_retrans;
    u64 tcpi_pacing_rate;
    u64 tcpi_max_pacing_rate;
    u64 tcpi_bytes_acked;
    u64 tcpi_bytes_received;
    u32 tcpi_segs_out;
    u32 tcpi_segs_in;
    u32 tcpi_notsent_bytes;
    u32 tcpi_min_rtt;
    u32 tcpi_data_segs_in;
    u32 tcpi_data_segs_out;
    u64 tcpi_delivery_rate;
    u64 tcpi_busy_time;
    u64 tcpi_rwnd_limited;
    u64 tcpi_sndbuf_limited;
    u32 tcpi_delivered;
    u32 tcpi_delivered_ce;
    u64 tcpi_bytes_sent;
    u64 tcpi_bytes_retrans;
    u32 tcpi_dsack_dups;
    u32 tcpi_reord_seen;
    u32 tcpi_rcv_ooopack;
    u32 tcpi_snd_wnd;
    u32 tcpi_rcv_wnd;
    u32 tcpi_rehash;
    u16 tcpi_total_rto;
    u16 tcpi_total_rto_recoveries;
    u32 tcpi_total_rto_time;
};
static_assert(sizeof(tcp_info_abi) == 248);

u32 ms_since(u64 now_us, u64 then_us) {
    if (!then_us) then_us = 0;
    return static_cast<u32>((now_us - min_of(then_us, now_us)) / US_PER_MS);
}

// sk_lock held.
void tcp_get_info(u64 now_us, sock& sk, tcp_info_abi& info) {
    tcp_sock& tp = tcp_sk(sk);
    const inet_connection_sock& icsk = inet_csk(sk);
    std::memset(&info, 0, sizeof(info));
    info.tcpi_state = sk_state(sk);
    info.tcpi_pacing_rate = ~u64{0};
    info.tcpi_max_pacing_rate = sk.sk_max_pacing_rate;
    info.tcpi_reordering = tp.reordering;
    info.tcpi_snd_cwnd = tp.snd_cwnd;
    if (sk_state(sk) == TCP_LISTEN) {
        // Of a listener these mean the accept queue and its limit.
        info.tcpi_unacked = sk.sk_ack_backlog.load();
        info.tcpi_sacked = sk.sk_max_ack_backlog;
        return;
    }
    tcp_fused_sync(tp);
    const u32 mss = max_of(tcp_current_mss(sk), 1u);
    const auto segments = [mss](u32 bytes) { return (bytes + mss - 1) / mss; };
    info.tcpi_ca_state = icsk.icsk_ca_state;
    info.tcpi_retransmits = icsk.icsk_retransmits;
    info.tcpi_probes = icsk.icsk_probes_out;
    info.tcpi_backoff = icsk.icsk_backoff;
    if (tp.tstamp_ok) info.tcpi_options |= TCPI_OPT_TIMESTAMPS;
    if (tp.sack_ok) info.tcpi_options |= TCPI_OPT_SACK;
    if (tp.wscale_ok) {
        info.tcpi_options |= TCPI_OPT_WSCALE;
        info.tcpi_wscale = static_cast<u8>((tp.snd_wscale & 15) | (tp.rcv_wscale << 4));
    }
    info.tcpi_rto = icsk.icsk_rto_us;
    info.tcpi_ato = icsk.icsk_ack.ato_us;
    info.tcpi_snd_mss = tp.mss_cache;
    info.tcpi_rcv_mss = icsk.icsk_ack.rcv_mss;
    info.tcpi_unacked = segments(tp.snd_nxt - tp.snd_una);
    u32 sacked = 0;
    for (u32 i = 0; i < min_of<u32>(tp.num_sacked, tcp_max_sacked); i++)
        sacked += tp.sacked[i].end_seq - tp.sacked[i].start_seq;
    info.tcpi_sacked = tp.sack_ok ? segments(sacked) : tp.dupacks;
    if (icsk.icsk_ca_state == TCP_CA_Recovery || icsk.icsk_ca_state == TCP_CA_Loss) {
        const u32 lost_end = tcp_lost_end(tp);
        const u32 resent = seq_clamp(tp.retrans_nxt, tp.snd_una, lost_end);
        info.tcpi_lost = segments(tcp_unsacked_bytes(tp, tp.snd_una, lost_end));
        info.tcpi_retrans = segments(tcp_unsacked_bytes(tp, tp.snd_una, resent));
    }
    info.tcpi_last_data_sent = ms_since(now_us, tp.lsndtime_us);
    info.tcpi_last_data_recv = ms_since(now_us, icsk.icsk_ack.lrcvtime_us);
    info.tcpi_last_ack_recv = ms_since(now_us, tp.rcv_tstamp_us);
    info.tcpi_pmtu = tp.pmtu;
    info.tcpi_rcv_ssthresh = tcp_full_space(sk);
    info.tcpi_rtt = tp.srtt_us >> 3;
    info.tcpi_rttvar = tp.mdev_us >> 2;
    info.tcpi_snd_ssthresh = tp.snd_ssthresh;
    info.tcpi_advmss = tp.advmss;
    info.tcpi_rcv_rtt = tp.srtt_us >> 3;
    info.tcpi_rcv_space = tp.rcvq_space;
    info.tcpi_total_retrans = tp.total_retrans;
    info.tcpi_bytes_acked = tp.bytes_acked;
    info.tcpi_bytes_received = tp.bytes_received;
    info.tcpi_segs_out = tp.segs_out;
    info.tcpi_segs_in = tp.segs_in;
    info.tcpi_notsent_bytes = tp.write_seq - tp.snd_nxt;
    info.tcpi_min_rtt = tp.rtt_min_us;
    info.tcpi_data_segs_in = tp.data_segs_in;
    info.tcpi_data_segs_out = tp.data_segs_out;
    info.tcpi_delivered = tp.delivered;
    info.tcpi_bytes_sent = tp.bytes_sent;
    info.tcpi_bytes_retrans = tp.bytes_retrans;
    info.tcpi_dsack_dups = tp.dsack_dups;
    info.tcpi_rcv_ooopack = tp.rcv_ooopack;
    info.tcpi_snd_wnd = tp.snd_wnd;
    info.tcpi_rcv_wnd = tp.rcv_wnd;
}

// TCP_DEFER_ACCEPT is told in seconds and kept as the number of SYN-ACKs that take so long.
u8 secs_to_retrans(i32 seconds, u32 timeout_s, u32 rto_max_s) {
    u8 n = 0;
    if (seconds <= 0) return 0;
    i64 period = timeout_s, step = timeout_s;
    n = 1;
    while (seconds > period && n < 255) {
        n++;
        step = min_of<i64>(step << 1, rto_max_s);
        period += step;
    }
    return n;
}

int retrans_to_secs(u8 n, u32 timeout_s, u32 rto_max_s) {
    i64 period = 0, step = timeout_s;
    for (; n; n--) {
        period += step;
        step = min_of<i64>(step << 1, rto_max_s);
    }
    return static_cast<int>(period);
}

int set_keepidle(tcp_env& env, sock& sk, int val) {
    tcp_sock& tp = tcp_sk(sk);
    if (val < 1 || val > static_cast<int>(MAX_TCP_KEEPIDLE)) return -EINVAL;
    tp.keepalive_time_s = static_cast<u32>(val);
    if (sock_flag(sk, SOCK_KEEPOPEN) && !(sk_statef(sk) & (TCPF_CLOSE | TCPF_LISTEN))) {
        const u64 last = max_of(inet_csk(sk).icsk_ack.lrcvtime_us, tp.rcv_tstamp_us);
        const u64 due = last + tp.keepalive_time_s * US_PER_S;
        inet_csk_reset_keepalive_timer(sk, max_of(due, env.now_us + 1));
    }
    return 0;
}

// Nagle's switch and the cork; letting go of either pushes what waits.
void set_nodelay(tcp_env& env, sock& sk, int val) {
    tcp_sock& tp = tcp_sk(sk);
    if (val) {
        // Overrides the cork for what is queued already, not for what follows.
        tp.nonagle |= TCP_NAGLE_OFF | TCP_NAGLE_PUSH;
        tcp_push_pending_frames(env, sk);
        tp.nonagle &= static_cast<u8>(~TCP_NAGLE_PUSH);
    } else {
        tp.nonagle &= static_cast<u8>(~TCP_NAGLE_OFF);
    }
}

void set_cork(tcp_env& env, sock& sk, int val) {
    tcp_sock& tp = tcp_sk(sk);
    if (val) {
        tp.nonagle |= TCP_NAGLE_CORK;
        return;
    }
    tp.nonagle &= static_cast<u8>(~TCP_NAGLE_CORK);
    if (tp.nonagle & TCP_NAGLE_OFF) tp.nonagle |= TCP_NAGLE_PUSH;
    tcp_push_pending_frames(env, sk);
    tp.nonagle &= static_cast<u8>(~TCP_NAGLE_PUSH);
}

void set_quickack(tcp_env& env, sock& sk, int val) {
    inet_connection_sock& icsk = inet_csk(sk);
    if (!val) {
        icsk.icsk_ack.pingpong = 1;
        return;
    }
    icsk.icsk_ack.pingpong = 0;
    if ((sk_statef(sk) & (TCPF_ESTABLISHED | TCPF_CLOSE_WAIT)) &&
        (icsk.icsk_ack.pending & ICSK_ACK_SCHED)) {
        icsk.icsk_ack.pending |= ICSK_ACK_PUSHED;
        tcp_cleanup_rbuf(env, sk, 1);
        if (!(val & 1)) icsk.icsk_ack.pingpong = 1;
    }
}

int set_congestion(sock& sk, const void* optval, u32 optlen) {
    char name[TCP_CA_NAME_LEN] = {};
    if (optlen < 1) return -EINVAL;
    const u32 n = min_of<u32>(optlen, TCP_CA_NAME_LEN - 1);
    if (const int err = copy_from_user(name, optval, n)) return err;
    lock_sock(sk);
    const int err = tcp_set_congestion_control(sk, name);
    if (!err) inet_csk(sk).icsk_ca_setsockopt = 1;
    release_sock(sk);
    return err;
}

int do_tcp_setsockopt(sock& sk, int optname, int val) {
    tcp_sock& tp = tcp_sk(sk);
    inet_connection_sock& icsk = inet_csk(sk);
    tcp_env& env = this_tcp_env();
    const u32 statef = sk_statef(sk);
    switch (optname) {
    case TCP_MAXSEG:
        // 0 goes back to what the path offers.
        if (val && (val < TCP_MIN_MSS || val > static_cast<int>(MAX_TCP_WINDOW))) return -EINVAL;
        tp.user_mss = static_cast<u16>(val);
        return 0;
    case TCP_NODELAY: set_nodelay(env, sk, val); return 0;
    case TCP_CORK: set_cork(env, sk, val); return 0;
    case TCP_KEEPIDLE: return set_keepidle(env, sk, val);
    case TCP_KEEPINTVL:
        if (val < 1 || val > static_cast<int>(MAX_TCP_KEEPINTVL)) return -EINVAL;
        tp.keepalive_intvl_s = static_cast<u32>(val);
        return 0;
    case TCP_KEEPCNT:
        if (val < 1 || val > static_cast<int>(MAX_TCP_KEEPCNT)) return -EINVAL;
        tp.keepalive_probes = static_cast<u8>(val);
        return 0;
    case TCP_SYNCNT:
        if (val < 1 || val > static_cast<int>(MAX_TCP_SYNCNT)) return -EINVAL;
        icsk.icsk_syn_retries = static_cast<u8>(val);
        return 0;
    case TCP_LINGER2:
        if (val < 0)
            tp.linger2_s = -1;
        else if (static_cast<u64>(val) * US_PER_S > TCP_FIN_TIMEOUT_MAX)
            tp.linger2_s = static_cast<i32>(TCP_FIN_TIMEOUT_MAX / US_PER_S);
        else
            tp.linger2_s = val;
        return 0;
    case TCP_DEFER_ACCEPT:
        icsk.icsk_accept_defer_s =
            secs_to_retrans(val, TCP_TIMEOUT_INIT / US_PER_S, TCP_RTO_MAX / US_PER_S);
        return 0;
    case TCP_WINDOW_CLAMP:
        if (!val) {
            if (!(statef & TCPF_CLOSE)) return -EINVAL;
            tp.window_clamp = 0;
        } else {
            tp.window_clamp = max_of<u32>(static_cast<u32>(val), SOCK_MIN_RCVBUF / 2);
        }
        return 0;
    case TCP_QUICKACK: set_quickack(env, sk, val); return 0;
    case TCP_USER_TIMEOUT:
        if (val < 0) return -EINVAL;
        icsk.icsk_user_timeout_ms = static_cast<u32>(val);
        return 0;
    case TCP_NOTSENT_LOWAT:
        tp.notsent_lowat = static_cast<u32>(val);
        sk_write_space(sk);
        return 0;
    case TCP_INQ:
        if (val < 0 || val > 1) return -EINVAL;
        tp.recvmsg_inq = static_cast<u8>(val);
        return 0;
    case TCP_TIMESTAMP:
    case TCP_REPAIR_QUEUE:
    case TCP_QUEUE_SEQ:
    case TCP_REPAIR_OPTIONS:
    case TCP_REPAIR_WINDOW: return -EPERM; // only under TCP_REPAIR, which needs CAP_NET_ADMIN
    case TCP_REPAIR: return -EPERM;
    case TCP_THIN_LINEAR_TIMEOUTS:
        if (val < 0 || val > 1) return -EINVAL;
        tp.thin_lto = static_cast<u8>(val);
        return 0;
    case TCP_THIN_DUPACK: return val < 0 || val > 1 ? -EINVAL : 0;
    case TCP_FASTOPEN:
        // The server's bit of net.ipv4.tcp_fastopen is off by default; accepted and without effect.
        return val >= 0 && (statef & (TCPF_CLOSE | TCPF_LISTEN)) ? 0 : -EINVAL;
    case TCP_FASTOPEN_CONNECT:
        if (val < 0 || val > 1) return -EINVAL;
        return statef & TCPF_CLOSE ? 0 : -EINVAL; // a connect that then sends a plain SYN
    case TCP_FASTOPEN_NO_COOKIE:
        return val < 0 || val > 1 ? -EINVAL : statef & (TCPF_CLOSE | TCPF_LISTEN) ? 0 : -EINVAL;
    case TCP_TX_DELAY: return 0;
    default: return -ENOPROTOOPT;
    }
}

// Options that the fused path could not honour take the connection off it.
bool needs_packet_path(int optname) { return optname == TCP_NOTSENT_LOWAT; }

} // namespace

int tcp_setsockopt(sock& sk, int level, int optname, const void* optval, u32 optlen) {
    trace_way("tcp_setsockopt");
    if (level != SOL_TCP) return ip_setsockopt(sk, level, optname, optval, optlen);
    if (optname == TCP_CONGESTION) return set_congestion(sk, optval, optlen);
    if (optname == TCP_ULP) return -ENOENT;
    if (optlen < sizeof(int)) return -EINVAL;
    int val;
    if (const int err = get_user(val, optval)) return err;
    if (needs_packet_path(optname) && val)
        tcp_lock_unfused(sk);
    else
        lock_sock(sk);
    const int err = do_tcp_setsockopt(sk, optname, val);
    if ((optname == TCP_NODELAY && val) || (optname == TCP_CORK && !val)) tcp_fused_push(sk);
    release_sock(sk);
    return err;
}

int tcp_getsockopt(sock& sk, int level, int optname, void* optval, u32* optlen) {
    trace_way("tcp_getsockopt");
    if (level != SOL_TCP) return ip_getsockopt(sk, level, optname, optval, optlen);
    const inet_connection_sock& icsk = inet_csk(sk);
    const tcp_sock& tp = tcp_sk(sk);
    u32 len;
    if (const int err = get_user(len, optlen)) return err;
    if (static_cast<i32>(len) < 0) return -EINVAL;
    if (optname == TCP_INFO) {
        tcp_info_abi info;
        lock_sock(sk);
        tcp_get_info(this_tcp_env().now_us, sk, info);
        release_sock(sk);
        len = min_of<u32>(len, sizeof(info));
        if (const int err = put_user(len, optlen)) return err;
        return copy_to_user(optval, &info, len);
    }
    if (optname == TCP_CONGESTION) {
        char name[TCP_CA_NAME_LEN] = {};
        lock_sock(sk);
        std::strncpy(name, tcp_ca_ops(sk).name, sizeof(name) - 1);
        release_sock(sk);
        len = min_of<u32>(len, TCP_CA_NAME_LEN);
        if (const int err = put_user(len, optlen)) return err;
        return copy_to_user(optval, name, len);
    }
    int val;
    len = min_of<u32>(len, sizeof(int));
    switch (optname) {
    case TCP_MAXSEG:
        val = static_cast<int>(tp.mss_cache);
        if (sk_statef(sk) & (TCPF_CLOSE | TCPF_LISTEN)) {
            val = tp.user_mss ? tp.user_mss : TCP_MSS_DEFAULT_LEN;
        }
        break;
    case TCP_NODELAY: val = (tp.nonagle & TCP_NAGLE_OFF) != 0; break;
    case TCP_CORK: val = (tp.nonagle & TCP_NAGLE_CORK) != 0; break;
    case TCP_KEEPIDLE: val = static_cast<int>(keepalive_time_s(tp)); break;
    case TCP_KEEPINTVL: val = static_cast<int>(keepalive_intvl_s(tp)); break;
    case TCP_KEEPCNT: val = keepalive_probes(tp); break;
    case TCP_SYNCNT: val = icsk.icsk_syn_retries ? icsk.icsk_syn_retries : TCP_SYN_RETRIES; break;
    case TCP_LINGER2:
        val = tp.linger2_s;
        if (val >= 0) val = val ? val : static_cast<int>(TCP_FIN_TIMEOUT / US_PER_S);
        break;
    case TCP_DEFER_ACCEPT:
        val = retrans_to_secs(icsk.icsk_accept_defer_s, TCP_TIMEOUT_INIT / US_PER_S,
                              TCP_RTO_MAX / US_PER_S);
        break;
    case TCP_WINDOW_CLAMP: val = static_cast<int>(tp.window_clamp); break;
    case TCP_QUICKACK: val = !icsk.icsk_ack.pingpong; break;
    case TCP_USER_TIMEOUT: val = static_cast<int>(icsk.icsk_user_timeout_ms); break;
    case TCP_TIMESTAMP: val = static_cast<int>(tcp_time_stamp(tp, this_tcp_env().now_us)); break;
    case TCP_NOTSENT_LOWAT: val = static_cast<int>(tp.notsent_lowat); break;
    case TCP_INQ: val = tp.recvmsg_inq; break;
    case TCP_THIN_LINEAR_TIMEOUTS: val = tp.thin_lto; break;
    case TCP_REPAIR:
    case TCP_THIN_DUPACK:
    case TCP_FASTOPEN:
    case TCP_FASTOPEN_CONNECT:
    case TCP_FASTOPEN_NO_COOKIE:
    case TCP_TX_DELAY: val = 0; break;
    case TCP_REPAIR_QUEUE:
    case TCP_REPAIR_WINDOW:
    case TCP_QUEUE_SEQ: return -EINVAL; // under TCP_REPAIR only
    case TCP_ULP: {
        const u32 none = 0;
        return put_user(none, optlen);
    }
    default: return -ENOPROTOOPT;
    }
    if (const int err = put_user(len, optlen)) return err;
    return copy_to_user(optval, &val, len);
}

// SO_KEEPALIVE. sk_lock held.
void tcp_set_keepalive(sock& sk, bool on) {
    if (sk_statef(sk) & (TCPF_CLOSE | TCPF_LISTEN)) return;
    if (on && !sock_flag(sk, SOCK_KEEPOPEN))
        inet_csk_reset_keepalive_timer(sk, this_tcp_env().now_us +
                                               keepalive_time_s(tcp_sk(sk)) * US_PER_S);
    else if (!on)
        inet_csk_reset_keepalive_timer(sk, 0);
}

} // namespace sockshim
