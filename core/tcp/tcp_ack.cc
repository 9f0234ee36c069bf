// Incoming acknowledgments: what they free, what they say about the path, what they let out.
#include <cerrno>

#include "core/tcp/tcp.h"
#include "core/tcp/tcp_cong.h"

namespace sockshim {

// --- RFC 6298 ----------------------------------------------------------------------------------------

// (2.2), (2.3): SRTT by 1/8, RTTVAR by 1/4. Linux's departures: the variation falls more slowly than it
// rises, and the largest one of the last round is used, not below the minimum RTO.
void tcp_rtt_estimator(tcp_env&, sock& sk, u64 rtt_us) {
    tcp_sock& tp = tcp_sk(sk);
    const u32 floor = max_of(inet_csk(sk).icsk_rto_min_us, 1u);
    const u32 m = static_cast<u32>(clamp_to<u64>(rtt_us, 1, TCP_RTO_MAX));
    if (!tp.rtt_min_us || m < tp.rtt_min_us) tp.rtt_min_us = m;
    if (!tp.srtt_us) {
        tp.srtt_us = m << 3;
        tp.mdev_us = m << 1; // m / 2, scaled by 4
        tp.rttvar_us = max_of(tp.mdev_us, floor);
        tp.mdev_max_us = tp.rttvar_us;
        tp.rtt_seq = tp.snd_nxt;
        return;
    }
    const i64 error = static_cast<i64>(m) - (tp.srtt_us >> 3);
    tp.srtt_us = static_cast<u32>(max_of<i64>(static_cast<i64>(tp.srtt_us) + error, 1));
    const i64 spread = error < 0 ? -error : error;
    i64 change = spread - (tp.mdev_us >> 2);
    // A shorter round trip than expected must not raise the timeout as fast as a longer one.
    if (error < 0 && change > 0) change >>= 3;
    tp.mdev_us = static_cast<u32>(max_of<i64>(static_cast<i64>(tp.mdev_us) + change, 1));
    if (tp.mdev_us > tp.mdev_max_us) {
        tp.mdev_max_us = tp.mdev_us;
        tp.rttvar_us = max_of(tp.rttvar_us, tp.mdev_max_us);
    }
    if (after(tp.snd_una, tp.rtt_seq)) { // a round is over
        if (tp.mdev_max_us < tp.rttvar_us) tp.rttvar_us -= (tp.rttvar_us - tp.mdev_max_us) >> 2;
        tp.rtt_seq = tp.snd_nxt;
        tp.mdev_max_us = floor;
    }
}

void tcp_set_rto(sock& sk) {
    const tcp_sock& tp = tcp_sk(sk);
    const u32 rto = (tp.srtt_us >> 3) + tp.rttvar_us; // (2.3); 0 while nothing was measured
    inet_csk(sk).icsk_rto_us = min_of(max_of(rto, TCP_RTO_MIN), TCP_RTO_MAX); // (2.4), (2.5)
}

// (5.2), (5.3)
void tcp_rearm_rto(tcp_env& env, sock& sk) {
    const inet_connection_sock& icsk = inet_csk(sk);
    if (tcp_packets_out(tcp_sk(sk))) {
        tcp_reset_xmit_timer(env, sk, ICSK_TIME_RETRANS, icsk.icsk_rto_us);
    } else if (icsk.icsk_pending == ICSK_TIME_RETRANS) {
        inet_csk_clear_xmit_timer(sk);
    }
}

// --- windows -----------------------------------------------------------------------------------------

void tcp_init_wl(tcp_sock& tp, u32 seq) { tp.snd_wl1 = seq; }

static u32 tcp_segment_window(const tcp_sock& tp, const tcp_header& th) {
    // RFC 7323, 2.2: never scaled in a SYN.
    return th.flags & TCPHDR_SYN ? th.window : static_cast<u32>(th.window) << (tp.snd_wscale & 15);
}

// RFC 9293, 3.10.7.4, "fifth": SND.WND is taken from segments newer than the last that set it.
static bool tcp_ack_update_window(sock& sk, const tcp_header& th) {
    tcp_sock& tp = tcp_sk(sk);
    const u32 window = tcp_segment_window(tp, th);
    const bool newer = after(th.ack_seq, tp.snd_una) || after(th.seq, tp.snd_wl1) ||
                       (th.seq == tp.snd_wl1 && window > tp.snd_wnd);
    if (!newer) return false;
    tcp_init_wl(tp, th.seq);
    if (tp.snd_wnd == window) return false;
    tp.snd_wnd = window;
    if (window > tp.max_window) {
        tp.max_window = window;
        tcp_sync_mss(sk, tp.pmtu);
    }
    return true;
}

// RFC 7323, 4.3: TS.Recent follows segments that start where the last ACK left off, or before.
static void tcp_replace_ts_recent(tcp_env& env, tcp_sock& tp, const tcp_header& th) {
    if (!tp.saw_tstamp || after(th.seq, tp.rcv_wup)) return;
    if (seq_diff(th.ts_val, tp.ts_recent) >= 0 ||
        env.now_us / US_PER_S - tp.ts_recent_stamp_s >= TCP_PAWS_24DAYS_S) {
        tp.ts_recent = th.ts_val;
        tp.ts_recent_stamp_s = static_cast<u32>(env.now_us / US_PER_S);
    }
}

// An ACK while nothing was in flight: does the window admit what waits?
static void tcp_ack_probe(tcp_env& env, sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    inet_connection_sock& icsk = inet_csk(sk);
    if (!tcp_send_head(tp)) return;
    const u32 first = min_of(tcp_tx_end(tp) - tp.snd_nxt, tcp_current_mss(sk));
    if (!after(tp.snd_nxt + first, tcp_wnd_end(tp))) {
        icsk.icsk_backoff = 0;
        icsk.icsk_probes_tstamp_us = 0;
        if (icsk.icsk_pending == ICSK_TIME_PROBE0) inet_csk_clear_xmit_timer(sk);
    } else {
        u64 when = static_cast<u64>(max_of(icsk.icsk_rto_us, TCP_RTO_MIN))
                   << min_of<u32>(icsk.icsk_backoff, 15);
        tcp_reset_xmit_timer(env, sk, ICSK_TIME_PROBE0, min_of<u64>(when, TCP_RTO_MAX));
    }
}

// Frees what [prior_una, snd_una) held. Returns the payload bytes among it.
static u32 tcp_clean_tx_ring(tcp_sock& tp) {
    stream_ring* ring = slab_get(tp.tx_ring);
    if (!ring) return 0;
    const u32 una = seq_min(tp.snd_una, tcp_tx_end(tp)); // a FIN has no byte
    const u64 head = ring->head.load();
    const u64 to = tcp_tx_offset(tp, una);
    // The SYN stands before the first byte's offset.
    if (static_cast<i64>(to - head) <= 0) return 0;
    ring->head.store(to);
    return static_cast<u32>(to - head);
}

static void tcp_check_space(sock& sk) {
    if (tcp_stream_is_writeable(sk)) sk_write_space(sk);
}

// A round trip, from the timed segment or else from the echoed timestamp (RFC 7323, 4.1, which works
// for retransmitted segments as well).
static void tcp_ack_update_rtt(tcp_env& env, sock& sk, const tcp_header& th) {
    tcp_sock& tp = tcp_sk(sk);
    u64 rtt;
    if (tp.timed_us && !before(tp.snd_una, tp.timed_seq)) {
        rtt = env.now_us - tp.timed_us;
        tp.timed_us = 0;
    } else if (!tp.timed_us && tp.saw_tstamp && th.ts_ecr) {
        const i32 ticks = seq_diff(tcp_time_stamp(tp, env.now_us), th.ts_ecr);
        if (ticks < 0 || static_cast<u32>(ticks) > TCP_RTO_MAX / US_PER_MS) return;
        rtt = static_cast<u64>(max_of(ticks, 1)) * US_PER_MS;
    } else {
        return;
    }
    tcp_rtt_estimator(env, sk, rtt);
    tcp_set_rto(sk);
    const tcp_congestion_ops& ops = tcp_ca_ops(sk);
    if (ops.pkts_acked) ops.pkts_acked(sk, 1, static_cast<u32>(rtt));
}

int tcp_ack(tcp_env& env, sock& sk, const sk_buff& skb, int flag) {
    tcp_sock& tp = tcp_sk(sk);
    inet_connection_sock& icsk = inet_csk(sk);
    const tcp_header& th = skb.tcp;
    const u32 prior_una = tp.snd_una;
    const u32 ack = th.ack_seq;

    if (before(ack, prior_una)) {
        // RFC 5961, 5.2: older than the largest window ever: a blind guess.
        if (before(ack, prior_una - tp.max_window)) {
            tcp_send_challenge_ack(env, sk);
            return -1;
        }
        if (th.num_sacks && tp.sack_ok) {
            const bool news = tcp_sacktag_write_queue(sk, skb, prior_una);
            if (news) tcp_fastretrans_alert(env, sk, 0, false, true);
            tcp_xmit_recovery(env, sk);
        }
        return 0;
    }
    if (after(ack, tp.snd_nxt)) return -1; // RFC 9293, 3.10.7.4: acknowledges what was not sent

    if (flag & FLAG_UPDATE_TS_RECENT) tcp_replace_ts_recent(env, tp, th);
    const bool window_changed = tcp_ack_update_window(sk, th);
    const bool was_out = tcp_packets_out(tp);
    const u32 acked = ack - prior_una;
    tp.snd_una = ack;
    tp.bytes_acked += acked;
    tp.rcv_tstamp_us = env.now_us;
    sk.sk_err_soft = 0; // the peer is there
    icsk.icsk_probes_out = 0;
    icsk.icsk_probes_tstamp_us = 0;

    if (!was_out) {
        tcp_ack_probe(env, sk);
        return 1;
    }

    if (acked) {
        const u32 bytes = tcp_clean_tx_ring(tp);
        icsk.icsk_retransmits = 0;
        if (bytes && icsk.icsk_backoff) icsk.icsk_backoff = 0;
        tcp_ack_update_rtt(env, sk, th);
        tcp_clean_sacked(tp);
        if (before(tp.retrans_nxt, ack)) tp.retrans_nxt = ack;
        if (tp.urg_mode && !after(tp.snd_up, ack)) tp.urg_mode = 0;
    }
    const u32 mss = tcp_current_mss(sk);
    const u32 acked_segs = (acked + mss - 1) / mss;
    tp.delivered += acked_segs;

    bool news = false;
    if (th.num_sacks && tp.sack_ok) news = tcp_sacktag_write_queue(sk, skb, prior_una);
    // RFC 5681, 2: the definition of a duplicate ACK.
    const bool is_dupack = !acked && skb.payload() == 0 && !window_changed &&
                           !(th.flags & (TCPHDR_SYN | TCPHDR_FIN)) && tcp_packets_out(tp);
    const u8 ca_before = icsk.icsk_ca_state;
    if (acked || is_dupack || news || ca_before != TCP_CA_Open)
        tcp_fastretrans_alert(env, sk, acked, is_dupack, news);

    if (acked) {
        const u8 ca = icsk.icsk_ca_state;
        if (ca == TCP_CA_Loss) tp.is_cwnd_limited = 1;
        if (ca != TCP_CA_Recovery && ca_before != TCP_CA_Recovery)
            tcp_ca_ops(sk).cong_avoid(sk, ack, acked_segs, env.now_us);
        tcp_rearm_rto(env, sk);
    }
    tcp_xmit_recovery(env, sk);
    if (acked) tcp_check_space(sk);
    return 1;
}

} // namespace sockshim
