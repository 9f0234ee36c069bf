// Everything that TCP sends: segments, their options, ACKs, FIN, RST, probes.
//
// The send ring holds bytes, not segments: a segment is cut out of [snd_una, write_seq) at the moment it
// is sent, and again, perhaps elsewhere, when it is resent (RFC 9293, 3.8.1 allows repacketisation).
#include <cerrno>
#include <cstring>

#include "core/tcp/tcp.h"
#include "core/tcp/tcp_cong.h"

namespace sockshim {

// --- windows and segment sizes ---------------------------------------------------------------------

// Linux charges a packet's overhead against half of the buffer; the window it offers is the other half.
static u64 tcp_win_from_space(i32 space) { return space > 0 ? static_cast<u64>(space) / 2 : 0; }

u32 tcp_rx_ring_limit(const sock& sk) {
    u32 limit = 4096;
    const u64 space = tcp_win_from_space(sk.sk_rcvbuf);
    while (limit < space && limit < tcp_ring_max) limit <<= 1;
    return limit;
}

// What the receive ring takes. One scaling unit less than its size, because the right edge of an
// announced window may be rounded up by that much.
u32 tcp_full_space(const sock& sk) {
    const u64 ring = tcp_rx_ring_limit(sk) - (1u << (tcp_sk(sk).rcv_wscale & 15));
    return static_cast<u32>(min_of(tcp_win_from_space(sk.sk_rcvbuf), ring));
}

// RFC 7323, 2.2: the scale is chosen from the largest window we might ever want to offer.
tcp_window_choice tcp_select_initial_window(const sock& sk, u32 mss, bool wscale_ok) {
    u32 space = min_of(tcp_full_space(sk), 65535u);
    if (const u32 clamp = tcp_sk(sk).window_clamp) space = min_of(space, clamp);
    if (mss && space > mss) space -= space % mss;
    u8 wscale = 0;
    if (wscale_ok) {
        u64 largest = max_of<u64>(tcp_win_from_space(sk.sk_rcvbuf), static_cast<u64>(tcp_rmem[2]));
        if (sk.sk_userlocks & SOCK_RCVBUF_LOCK) largest = tcp_win_from_space(sk.sk_rcvbuf);
        if (const u32 clamp = tcp_sk(sk).window_clamp) largest = min_of<u64>(largest, clamp);
        while (wscale < TCP_MAX_WSCALE && (largest >> wscale) > 65535) wscale++;
    }
    return {space, wscale};
}

// RFC 9293, 3.8.6.2.2 (receiver's silly window avoidance): the right edge moves only when it can move
// by a full segment or half of the buffer.
u32 __tcp_select_window(const sock& sk) {
    const tcp_sock& tp = tcp_sk(sk);
    const u32 full_space = tcp_full_space(sk);
    const u32 used = tp.rcv_nxt - tp.copied_seq;
    u32 free_space = used < full_space ? full_space - used : 0;
    if (tp.window_clamp) free_space = min_of(free_space, tp.window_clamp);
    if (!free_space) return 0;
    const u32 mss = min_of(max_of<u32>(inet_csk(sk).icsk_ack.rcv_mss, TCP_MIN_MSS), full_space);
    if (free_space < full_space / 2 && (free_space < full_space / 16 || free_space < mss)) return 0;
    const u8 scale = tp.rcv_wscale & 15;
    if (scale) return free_space >> scale << scale;
    // Without a scale: whole segments, unless the old window is already within one.
    u32 window = tp.rcv_wnd;
    if (window + mss <= free_space || window > free_space)
        window = free_space - free_space % mss;
    else if (mss == full_space && free_space > window + full_space / 2)
        window = free_space;
    return window;
}

// The window field of the segment being built; remembers what has been promised.
static u16 tcp_select_window(sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    const u32 current = tcp_receive_window(tp);
    u32 window = __tcp_select_window(sk);
    const u8 scale = tp.rcv_wscale & 15;
    if (window < current) {
        // RFC 9293, 3.8.6: the right edge does not move left.
        window = (current + (1u << scale) - 1) >> scale << scale;
    }
    window = min_of<u32>(window, 65535u << scale);
    tp.rcv_wnd = window;
    tp.rcv_wup = tp.rcv_nxt;
    return static_cast<u16>(window >> scale);
}

// RFC 9293, 3.8.6.2.1: a peer with a small window gets segments of half of it.
static u32 tcp_bound_to_half_wnd(const tcp_sock& tp, u32 size) {
    const u32 cutoff = tp.max_window > TCP_MSS_DEFAULT_LEN ? tp.max_window >> 1 : tp.max_window;
    return cutoff && size > cutoff ? max_of(cutoff, 68u - 40u) : size;
}

void tcp_sync_mss(sock& sk, u32 pmtu) {
    tcp_sock& tp = tcp_sk(sk);
    u32 mss = pmtu > 40 ? pmtu - 40 : TCP_MIN_SND_MSS;
    mss = min_of<u32>(mss, tp.mss_clamp);
    if (tp.user_mss) mss = min_of<u32>(mss, tp.user_mss);
    mss = max_of<u32>(mss, TCP_MIN_SND_MSS);
    if (tp.tstamp_ok) mss -= TCPOLEN_TSTAMP_ALIGNED;
    tp.pmtu = pmtu;
    tp.mss_cache = tcp_bound_to_half_wnd(tp, mss);
}

static u32 sack_option_len(u32 blocks) {
    return blocks ? TCPOLEN_SACK_BASE_ALIGNED + TCPOLEN_SACK_PERBLOCK * blocks : 0;
}

static u32 tcp_sack_blocks(const tcp_sock& tp) {
    if (!tp.sack_ok) return 0;
    const u32 blocks = tp.num_ooo + (tp.has_dsack ? 1u : 0u);
    return min_of(blocks, tp.tstamp_ok ? 3u : 4u);
}

u32 tcp_current_mss(const sock& sk) {
    const tcp_sock& tp = tcp_sk(sk);
    const u32 options = sack_option_len(tcp_sack_blocks(tp));
    const u32 mss = max_of<u32>(tp.mss_cache, TCP_MIN_SND_MSS);
    return max_of<u32>(mss - min_of(options, mss), 8);
}

// --- one segment -----------------------------------------------------------------------------------

static void tcp_syn_options(tcp_env& env, const sock& sk, tcp_header& th) {
    const tcp_sock& tp = tcp_sk(sk);
    const bool synack = th.flags & TCPHDR_ACK;
    th.mss = tp.advmss;
    // In answer to a SYN (simultaneous open) only what that SYN offered.
    th.sack_ok = synack ? tp.sack_ok : 1;
    th.has_wscale = synack ? tp.wscale_ok : 1;
    th.wscale = tp.rcv_wscale;
    th.has_ts = synack ? tp.tstamp_ok : 1;
    th.ts_val = tcp_time_stamp(tp, env.now_us);
    th.ts_ecr = synack ? tp.ts_recent : 0;
}

static void tcp_established_options(tcp_env& env, const sock& sk, tcp_header& th) {
    const tcp_sock& tp = tcp_sk(sk);
    if (tp.tstamp_ok) {
        th.has_ts = 1;
        th.ts_val = tcp_time_stamp(tp, env.now_us);
        th.ts_ecr = tp.ts_recent;
    }
    const u32 blocks = tcp_sack_blocks(tp);
    if (!blocks) return;
    u32 n = 0;
    // RFC 2883, 4: the duplicate first. RFC 2018, 4: then the range that the latest segment went to.
    if (tp.has_dsack) th.sacks[n++] = tp.dsack;
    const u32 ranges = min_of<u32>(tp.num_ooo, tcp_max_ooo);
    for (u32 i = 0; i < ranges && n < blocks; i++)
        if (tp.ooo[i].start_seq == tp.ooo_recent) th.sacks[n++] = tp.ooo[i];
    for (u32 i = 0; i < ranges && n < blocks; i++)
        if (tp.ooo[i].start_seq != tp.ooo_recent) th.sacks[n++] = tp.ooo[i];
    th.num_sacks = static_cast<u8>(n);
}

// Precondition: the four-tuple stands in the sock.
static void tcp_fill_ip(const sock& sk, sk_buff& skb) {
    const inet_sock& inet = inet_sk(sk);
    std::memset(static_cast<void*>(&skb), 0, sizeof(skb));
    skb.saddr = inet.inet_saddr;
    skb.daddr = sk.__sk_common.skc_daddr;
    skb.protocol = IPPROTO_TCP;
    skb.ttl = inet.uc_ttl > 0 ? static_cast<u8>(inet.uc_ttl) : 64;
    skb.tos = inet.tos;
    skb.ip_flags = 1; // DF
    skb.tcp.source = sk.__sk_common.skc_num;
    skb.tcp.dest = __builtin_bswap16(sk.__sk_common.skc_dport);
}

static void tcp_event_ack_sent(sock& sk) {
    inet_connection_sock& icsk = inet_csk(sk);
    if (icsk.icsk_ack.quick) {
        // Once quick ACKs are used up, delay as RFC 9293, 3.8.6.3 recommends.
        if (--icsk.icsk_ack.quick == 0) icsk.icsk_ack.ato_us = TCP_ATO_MIN;
    }
    if (icsk.icsk_ack.pending) inet_csk_clear_delack_timer(sk);
    icsk.icsk_ack.pending = 0;
}

static void tcp_event_data_sent(tcp_env& env, tcp_sock& tp) {
    inet_connection_sock& icsk = tp.inet_conn;
    tp.lsndtime_us = env.now_us;
    // An answer soon after a question: the conversation goes back and forth, ACKs can ride on data.
    if (env.now_us - icsk.icsk_ack.lrcvtime_us < icsk.icsk_ack.ato_us) icsk.icsk_ack.pingpong = 1;
}

// Sends [seq, seq + len) with `flags`. Neither snd_nxt nor timers are touched. 0 or -errno (nothing
// was sent).
int tcp_transmit_skb(tcp_env& env, sock& sk, u32 seq, u32 len, u8 flags) {
    tcp_sock& tp = tcp_sk(sk);
    sk_buff skb;
    tcp_fill_ip(sk, skb);
    tcp_header& th = skb.tcp;
    th.seq = seq;
    th.flags = flags;
    if (len) {
        const stream_ring* ring = slab_get(tp.tx_ring);
        if (!ring) return -ENOBUFS;
        const ring_span span = ring_peek(*ring, tcp_tx_offset(tp, seq), len);
        if (span.len + span.len2 != len) return -ENOBUFS;
        skb.data = span.data;
        skb.len = span.len;
        skb.data2 = span.data2;
        skb.len2 = span.len2;
    }
    if (flags & TCPHDR_SYN) {
        tcp_syn_options(env, sk, th);
        // RFC 7323, 2.2: the window of a SYN is not scaled.
        th.window = static_cast<u16>(min_of(tp.rcv_wnd, 65535u));
        tp.rcv_wup = tp.rcv_nxt;
    } else {
        tcp_established_options(env, sk, th);
        th.window = flags & TCPHDR_RST ? 0 : tcp_select_window(sk);
    }
    if (flags & TCPHDR_ACK) th.ack_seq = tp.rcv_nxt;
    if (tp.urg_mode && !(flags & (TCPHDR_SYN | TCPHDR_RST)) && before(seq, tp.snd_up)) {
        // RFC 6093: the pointer says how far, the byte before it is the urgent one.
        const u32 up = tp.snd_up - seq;
        th.urg_ptr = static_cast<u16>(min_of(up, 0xffffu));
        th.flags |= TCPHDR_URG;
    }
    tp.has_dsack = 0;
    if (flags & TCPHDR_ACK) tcp_event_ack_sent(sk);
    if (len) {
        tcp_event_data_sent(env, tp);
        tp.data_segs_out++;
        tp.bytes_sent += len;
    }
    tp.segs_out++; // pure ACKs count as well (RFC 4898, tcpEStatsPerfSegsOut)
    env.sk = &sk;
    const int err = env.queue_xmit(env, skb);
    env.sk = nullptr;
    return err > 0 ? 0 : err;
}

// --- new data ---------------------------------------------------------------------------------------

// The segment that ends at end_seq has gone out for the first time.
void tcp_event_new_data_sent(tcp_env& env, sock& sk, u32 end_seq, bool) {
    tcp_sock& tp = tcp_sk(sk);
    const bool first = !tcp_packets_out(tp);
    tp.snd_nxt = end_seq;
    // RFC 6298, 3: one segment per round trip is timed, and never one that was resent.
    if (!tp.timed_us && !tp.retrans_stamp_us) {
        tp.timed_us = env.now_us;
        tp.timed_seq = end_seq;
    }
    // RFC 6298, (5.1)
    if (first || inet_csk(sk).icsk_pending != ICSK_TIME_RETRANS) tcp_rearm_rto(env, sk);
}

// RFC 5681, 4.1: after an idle time longer than the RTO, the window is that of a new connection.
static void tcp_slow_start_after_idle(tcp_env& env, sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    if (tcp_packets_out(tp) || !tp.lsndtime_us) return;
    u64 idle = env.now_us - tp.lsndtime_us;
    const u64 rto = inet_csk(sk).icsk_rto_us;
    if (idle <= rto) return;
    u32 cwnd = tp.snd_cwnd;
    const u32 restart = min_of(TCP_INIT_CWND, cwnd);
    tp.snd_ssthresh = max_of(tp.snd_ssthresh, (cwnd >> 1) + (cwnd >> 2));
    for (; idle > rto && cwnd > restart; idle -= rto) cwnd >>= 1;
    tp.snd_cwnd = max_of(cwnd, restart);
}

// RFC 9293, 3.7.4 (Nagle) with Minshall's amendment: a small segment waits only while another small
// segment is unacknowledged.
static bool tcp_nagle_test(const tcp_sock& tp, bool partial, bool fin, u8 nonagle) {
    if (!partial || fin || (nonagle & TCP_NAGLE_PUSH)) return true;
    if (tp.urg_mode && before(tp.snd_nxt, tp.snd_up)) return true;
    if (nonagle & TCP_NAGLE_CORK) return false;
    if (nonagle & TCP_NAGLE_OFF) return true;
    return !(tcp_packets_out(tp) && after(tp.snd_sml, tp.snd_una) &&
             !after(tp.snd_sml, tp.snd_nxt));
}

bool tcp_write_xmit(tcp_env& env, sock& sk, u32 mss, u8 nonagle) {
    tcp_sock& tp = tcp_sk(sk);
    tcp_slow_start_after_idle(env, sk);
    const u64 cwnd_bytes = static_cast<u64>(tp.snd_cwnd) * mss;
    bool cwnd_limited = false;
    while (tcp_send_head(tp)) {
        const u32 avail = tcp_tx_end(tp) - tp.snd_nxt;
        const u32 len = min_of(avail, mss);
        const bool last = len == avail;
        const bool fin = last && tp.tx_fin;
        // A window that the peer no longer fills is no reason to hold a FIN or a first segment back.
        if (tcp_pipe_bytes(tp) >= cwnd_bytes) {
            cwnd_limited = true;
            break;
        }
        if (after(tp.snd_nxt + len + fin, tcp_wnd_end(tp))) break;
        if (!tcp_nagle_test(tp, len < mss, fin, nonagle)) break;
        u8 flags = TCPHDR_ACK;
        if (last && len) flags |= TCPHDR_PSH;
        if (fin) flags |= TCPHDR_FIN;
        const u32 seq = tp.snd_nxt;
        // Advance first: the answer may be processed before queue_xmit's caller runs on. (It is only
        // queued, but the order costs nothing and tests may deliver at once.)
        if (tcp_transmit_skb(env, sk, seq, len, flags) == -ENOBUFS && !tcp_packets_out(tp)) {
            // Lost before the wire with nothing in flight: no ACK will restart us.
            tcp_reset_xmit_timer(env, sk, ICSK_TIME_PROBE0, TCP_RESOURCE_PROBE_INTERVAL);
            return false;
        }
        tcp_event_new_data_sent(env, sk, seq + len + fin, len != 0);
        if (len < mss) tp.snd_sml = seq + len;
    }
    // RFC 5681's window grows only while it is what holds us back (cong_avoid looks at this).
    tp.is_cwnd_limited =
        cwnd_limited || (tcp_in_slow_start(tp) && tcp_pipe_bytes(tp) * 2ull >= cwnd_bytes);
    return !tcp_packets_out(tp) && tcp_send_head(tp);
}

// RFC 9293, 3.8.6.1: without anything in flight only a probe will find the window open again.
void tcp_check_probe_timer(tcp_env& env, sock& sk) {
    const inet_connection_sock& icsk = inet_csk(sk);
    if (tcp_packets_out(tcp_sk(sk)) || icsk.icsk_pending != ICSK_TIME_NONE) return;
    tcp_reset_xmit_timer(env, sk, ICSK_TIME_PROBE0, max_of(icsk.icsk_rto_us, TCP_RTO_MIN));
}

void __tcp_push_pending_frames(tcp_env& env, sock& sk, u32 mss, u8 nonagle) {
    if (sk_state(sk) == TCP_CLOSE) return;
    if (tcp_write_xmit(env, sk, mss, nonagle)) tcp_check_probe_timer(env, sk);
}

void tcp_push_pending_frames(tcp_env& env, sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    if (tcp_send_head(tp)) __tcp_push_pending_frames(env, sk, tcp_current_mss(sk), tp.nonagle);
}

// An ACK may have opened the window or emptied the send ring.
void tcp_data_snd_check(tcp_env& env, sock& sk) { tcp_push_pending_frames(env, sk); }

// --- control segments ----------------------------------------------------------------------------------

void tcp_send_ack(tcp_env& env, sock& sk) {
    const u8 state = sk_state(sk);
    if (state == TCP_CLOSE || state == TCP_LISTEN) return;
    tcp_sock& tp = tcp_sk(sk);
    if (tcp_transmit_skb(env, sk, tp.snd_nxt, 0, TCPHDR_ACK) < 0) {
        // Lost before the wire: try again as if it had been delayed.
        inet_connection_sock& icsk = inet_csk(sk);
        icsk.icsk_ack.pending |= ICSK_ACK_SCHED | ICSK_ACK_TIMER;
        icsk.icsk_ack.ato_us = TCP_ATO_MIN;
        inet_csk_reset_delack_timer(sk, env.now_us + TCP_DELACK_MAX);
    }
}

// RFC 9293, 3.8.6.3: less than 500 ms; Linux: 40 to 200 ms, following the peer's rhythm.
void tcp_send_delayed_ack(tcp_env& env, sock& sk) {
    inet_connection_sock& icsk = inet_csk(sk);
    const tcp_sock& tp = tcp_sk(sk);
    u64 ato = max_of(icsk.icsk_ack.ato_us, TCP_ATO_MIN);
    u64 most = icsk.icsk_ack.pingpong || (icsk.icsk_ack.pending & ICSK_ACK_PUSHED) ? TCP_DELACK_MAX
                                                                                   : 500000;
    if (tp.srtt_us) most = min_of<u64>(most, max_of<u64>(tp.srtt_us >> 3, TCP_ATO_MIN));
    ato = min_of<u64>(min_of(ato, most), TCP_DELACK_MAX);
    u64 at = env.now_us + ato;
    if (icsk.icsk_ack.pending & ICSK_ACK_TIMER) {
        if (icsk.icsk_delack_us && icsk.icsk_delack_us <= env.now_us + ato / 4) {
            tcp_send_ack(env, sk);
            return;
        }
        if (icsk.icsk_delack_us && icsk.icsk_delack_us < at) at = icsk.icsk_delack_us;
    }
    icsk.icsk_ack.pending |= ICSK_ACK_SCHED | ICSK_ACK_TIMER;
    inet_csk_reset_delack_timer(sk, at);
}

// Queues our FIN behind the data. Precondition: none is queued yet.
void tcp_send_fin(tcp_env& env, sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    if (tp.tx_fin) return;
    tp.tx_fin = 1;
    tp.write_seq++;
    __tcp_push_pending_frames(env, sk, tcp_current_mss(sk), TCP_NAGLE_OFF);
}

// RFC 9293, 3.10.5 (ABORT).
void tcp_send_active_reset(tcp_env& env, sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    // Within the window even when it is closed: a reset outside it would be ignored (RFC 5961, 3.2).
    const u32 seq = before(tcp_wnd_end(tp), tp.snd_nxt) ? tcp_wnd_end(tp) : tp.snd_nxt;
    tcp_transmit_skb(env, sk, seq, 0, TCPHDR_ACK | TCPHDR_RST);
}

int tcp_send_synack(tcp_env& env, sock& sk) {
    return tcp_transmit_skb(env, sk, tcp_sk(sk).iss, 0, TCPHDR_SYN | TCPHDR_ACK);
}

// RFC 9293, 3.10.1 (active OPEN). Precondition: SYN_SENT, addresses and ports set, hashed.
int tcp_connect(tcp_env& env, sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    inet_connection_sock& icsk = inet_csk(sk);
    const tcp_window_choice win = tcp_select_initial_window(sk, tp.advmss, true);
    tp.rcv_wnd = win.rcv_wnd;
    tp.rcv_wscale = win.rcv_wscale;
    tp.rcv_nxt = 0;
    tp.rcv_wup = 0;
    tp.copied_seq = 0;
    tp.snd_wnd = 0;
    tp.max_window = 0;
    tcp_init_wl(tp, 0);
    tp.iss = tp.write_seq;
    tp.snd_una = tp.iss;
    tp.snd_nxt = tp.iss;
    tp.snd_sml = tp.iss;
    tp.high_seq = tp.iss;
    tp.retrans_nxt = tp.iss;
    tp.snd_up = tp.iss;
    tp.write_seq = tp.iss + 1;
    tp.tx_fin = tp.rx_fin = 0;
    tp.retrans_stamp_us = 0;
    tp.undo_marker = 0;
    icsk.icsk_rto_us = TCP_TIMEOUT_INIT;
    icsk.icsk_retransmits = 0;
    icsk.icsk_backoff = 0;
    tcp_clean_sacked(tp);
    sock_set_flag(sk, SOCK_DONE, false);
    tp.snd_nxt = tp.write_seq;
    tp.timed_us = env.now_us;
    tp.timed_seq = tp.write_seq;
    tp.rcv_tstamp_us = env.now_us;
    tcp_transmit_skb(env, sk, tp.iss, 0, TCPHDR_SYN); // lost or not: the timer sends it again
    tcp_reset_xmit_timer(env, sk, ICSK_TIME_RETRANS, icsk.icsk_rto_us);
    return 0;
}

// --- again ------------------------------------------------------------------------------------------------

int tcp_retransmit_skb(tcp_env& env, sock& sk, u32 seq, u32 end) {
    tcp_sock& tp = tcp_sk(sk);
    if (before(seq, tp.snd_una)) seq = tp.snd_una;
    if (after(end, tp.snd_nxt)) end = tp.snd_nxt;
    int err;
    u32 len = 0, taken;
    if (seq == tp.iss && !tp.bytes_acked) { // our SYN

        const u8 ack = sk_state(sk) == TCP_SYN_SENT ? 0 : TCPHDR_ACK;
        err = tcp_transmit_skb(env, sk, seq, 0, static_cast<u8>(TCPHDR_SYN | ack));
        taken = 1;
    } else {
        if (!before(seq, end)) return 0;
        const u32 data_end = tcp_tx_end(tp);
        const u32 data = before(seq, data_end) ? data_end - seq : 0;
        len = min_of(min_of(data, end - seq), tcp_current_mss(sk));
        // A window that shrank: resend no more than it still admits, but something (RFC 9293, 3.8.6).
        if (after(seq + len, tcp_wnd_end(tp)) && seq != tp.snd_una) return -EAGAIN;
        if (after(seq + len, tcp_wnd_end(tp)) && before(seq, tcp_wnd_end(tp)))
            len = tcp_wnd_end(tp) - seq;
        const bool fin = tp.tx_fin && seq + len == data_end && after(end, data_end);
        u8 flags = TCPHDR_ACK;
        if (fin) flags |= TCPHDR_FIN;
        if (len && seq + len == data_end) flags |= TCPHDR_PSH;
        err = tcp_transmit_skb(env, sk, seq, len, flags);
        taken = len + fin;
    }
    // Karn (RFC 6298, 3): from here on an ACK cannot time this segment.
    tp.timed_us = 0;
    if (!tp.retrans_stamp_us) tp.retrans_stamp_us = env.now_us;
    tp.total_retrans++;
    tp.bytes_retrans += len;
    if (tp.undo_retrans < 0) tp.undo_retrans = 0;
    tp.undo_retrans++;
    if (after(seq + taken, tp.retrans_nxt)) tp.retrans_nxt = seq + taken;
    return err;
}

// --- probes ------------------------------------------------------------------------------------------------

// A segment that the peer must answer: outside its window by one (RFC 9293, 3.8.4).
static int tcp_xmit_probe_skb(tcp_env& env, sock& sk, bool urgent) {
    tcp_sock& tp = tcp_sk(sk);
    return tcp_transmit_skb(env, sk, tp.snd_una - (urgent ? 0 : 1), 0, TCPHDR_ACK);
}

// Finds out whether the peer lives and has room: new data where the window admits some.
int tcp_write_wakeup(tcp_env& env, sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    if (sk_state(sk) == TCP_CLOSE) return -1;
    if (tcp_send_head(tp) && before(tp.snd_nxt, tcp_wnd_end(tp))) {
        const u32 avail = tcp_tx_end(tp) - tp.snd_nxt;
        const u32 room = tcp_wnd_end(tp) - tp.snd_nxt;
        const u32 len = min_of(min_of(avail, room), tcp_current_mss(sk));
        const bool fin = tp.tx_fin && len == avail && room > len;
        const u32 seq = tp.snd_nxt;
        const u8 flags =
            static_cast<u8>(TCPHDR_ACK | (len ? TCPHDR_PSH : 0) | (fin ? TCPHDR_FIN : 0));
        const int err = tcp_transmit_skb(env, sk, seq, len, flags);
        if (!err) tcp_event_new_data_sent(env, sk, seq + len + fin, len != 0);
        return err;
    }
    if (tp.urg_mode && between(tp.snd_up, tp.snd_una + 1, tp.snd_una + 0xffff))
        tcp_xmit_probe_skb(env, sk, true);
    return tcp_xmit_probe_skb(env, sk, false);
}

// RFC 9293, 3.8.6.1: probes at growing intervals, for as long as the peer answers.
void tcp_send_probe0(tcp_env& env, sock& sk) {
    inet_connection_sock& icsk = inet_csk(sk);
    tcp_sock& tp = tcp_sk(sk);
    const int err = tcp_write_wakeup(env, sk);
    if (sk_state(sk) == TCP_CLOSE) return;
    if (tcp_packets_out(tp) || !tcp_send_head(tp)) {
        icsk.icsk_probes_out = 0;
        icsk.icsk_backoff = 0;
        icsk.icsk_probes_tstamp_us = 0;
        return;
    }
    u64 timeout = TCP_RESOURCE_PROBE_INTERVAL;
    icsk.icsk_probes_out = static_cast<u8>(min_of(icsk.icsk_probes_out + 1, 255));
    if (err == 0) {
        if (icsk.icsk_backoff < TCP_RETR2) icsk.icsk_backoff++;
        const u64 base = max_of(icsk.icsk_rto_us, TCP_RTO_MIN);
        timeout = min_of<u64>(base << icsk.icsk_backoff, TCP_RTO_MAX);
    }
    if (icsk.icsk_user_timeout_ms && icsk.icsk_probes_tstamp_us) {
        const u64 end = icsk.icsk_probes_tstamp_us + icsk.icsk_user_timeout_ms * US_PER_MS;
        const u64 left = end > env.now_us ? end - env.now_us : 0;
        timeout = clamp_to<u64>(left, 2 * US_PER_MS, timeout);
    }
    tcp_reset_xmit_timer(env, sk, ICSK_TIME_PROBE0, timeout);
}

} // namespace sockshim
