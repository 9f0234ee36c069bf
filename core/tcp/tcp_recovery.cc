// Loss: the SACK scoreboard, fast retransmit and recovery, and what a timeout does to the window.
//
// RFC 5681 and 6582 (NewReno), with RFC 2018 blocks where negotiated and RFC 6675's pipe. The scoreboard
// is an array of byte ranges that the peer holds; a range that does not fit is forgotten, which only
// means that its bytes may be sent once more than needed.
//
//   snd_una        retrans_nxt         lost_end                 snd_nxt
//      |--- resent ---|--- lost, to be resent ---|--- in flight ---|
// less, everywhere, the SACKed ranges.
#include "core/tcp/tcp.h"
#include "core/tcp/tcp_cong.h"

namespace sockshim {

// --- the scoreboard --------------------------------------------------------------------------------------

static u32 sacked_count(const tcp_sock& tp) { return min_of<u32>(tp.num_sacked, tcp_max_sacked); }

// Bytes of [from, to) that the peer has not reported.
u32 tcp_unsacked_bytes(const tcp_sock& tp, u32 from, u32 to) {
    if (!before(from, to)) return 0;
    u32 bytes = to - from;
    for (u32 i = 0; i < sacked_count(tp); i++) {
        const u32 start = seq_max(tp.sacked[i].start_seq, from);
        const u32 end = seq_min(tp.sacked[i].end_seq, to);
        if (before(start, end)) bytes -= min_of(bytes, end - start);
    }
    return bytes;
}

// The first byte of [from, limit) that is not SACKed, and where its hole ends; `limit` when there is none.
u32 tcp_next_hole(const tcp_sock& tp, u32 from, u32 limit, u32& end) {
    end = limit;
    for (u32 i = 0; i < sacked_count(tp); i++) {
        const sack_block& b = tp.sacked[i];
        if (!before(b.start_seq, limit)) break;
        if (before(from, b.start_seq)) {
            end = b.start_seq;
            return from;
        }
        if (before(from, b.end_seq)) from = b.end_seq;
    }
    return before(from, limit) ? from : limit;
}

static bool tcp_sack_insert(tcp_sock& tp, sack_block add) {
    const u32 n = sacked_count(tp);
    u32 i = 0;
    while (i < n && before(tp.sacked[i].end_seq, add.start_seq)) i++;
    u32 j = i; // [i, j) overlap or touch the new block
    sack_block merged = add;
    bool news = true;
    for (; j < n && !after(tp.sacked[j].start_seq, add.end_seq); j++) {
        if (!after(tp.sacked[j].start_seq, add.start_seq) &&
            !before(tp.sacked[j].end_seq, add.end_seq))
            news = false;
        merged.start_seq = seq_min(merged.start_seq, tp.sacked[j].start_seq);
        merged.end_seq = seq_max(merged.end_seq, tp.sacked[j].end_seq);
    }
    if (!news) return false;
    if (i == j) {
        if (n == tcp_max_sacked) return false;
        for (u32 k = n; k > i; k--) tp.sacked[k] = tp.sacked[k - 1];
        tp.num_sacked = static_cast<u8>(n + 1);
    } else {
        for (u32 k = j; k < n; k++) tp.sacked[i + 1 + k - j] = tp.sacked[k];
        tp.num_sacked = static_cast<u8>(n - (j - i) + 1);
    }
    tp.sacked[i] = merged;
    return true;
}

// Drops what snd_una has passed.
void tcp_clean_sacked(tcp_sock& tp) {
    const u32 n = sacked_count(tp);
    u32 kept = 0;
    for (u32 i = 0; i < n; i++) {
        sack_block b = tp.sacked[i];
        if (!after(b.end_seq, tp.snd_una)) continue;
        if (before(b.start_seq, tp.snd_una)) b.start_seq = tp.snd_una;
        tp.sacked[kept++] = b;
    }
    tp.num_sacked = static_cast<u8>(kept);
}

// RFC 2018, 5 and RFC 2883. Returns whether something was reported for the first time.
bool tcp_sacktag_write_queue(sock& sk, const sk_buff& skb, u32 prior_una) {
    tcp_sock& tp = tcp_sk(sk);
    const tcp_header& th = skb.tcp;
    bool news = false;
    const u32 n = min_of<u32>(th.num_sacks, 4);
    for (u32 i = 0; i < n; i++) {
        const sack_block b = th.sacks[i];
        if (!before(b.start_seq, b.end_seq)) continue;
        if (i == 0) {
            // RFC 2883, 4: a first block below the ACK, or inside the second one, reports a duplicate.
            const bool below = !after(b.end_seq, th.ack_seq);
            const bool inside = n > 1 && !before(b.start_seq, th.sacks[1].start_seq) &&
                                !after(b.end_seq, th.sacks[1].end_seq);
            if (below || inside) {
                tp.dsack_dups++;
                if (tp.undo_marker && tp.undo_retrans > 0 && !after(b.end_seq, prior_una) &&
                    after(b.end_seq, tp.undo_marker))
                    tp.undo_retrans--;
                continue;
            }
        }
        // RFC 5961's spirit: nothing that we have not sent.
        if (after(b.end_seq, tp.snd_nxt) || !after(b.end_seq, tp.snd_una)) continue;
        if (before(b.start_seq, tp.snd_una)) continue;
        news |= tcp_sack_insert(tp, b);
    }
    return news;
}

// --- what is lost, what is in flight ------------------------------------------------------------------------

// RFC 6675, 4, IsLost: below a point above which three ranges, or more than two segments, are SACKed.
static u32 tcp_sack_lost_end(const tcp_sock& tp, u32 mss) {
    u32 bytes = 0, ranges = 0;
    for (u32 i = sacked_count(tp); i-- > 0;) {
        bytes += tp.sacked[i].end_seq - tp.sacked[i].start_seq;
        ranges++;
        if (ranges >= tp.reordering || bytes > (tp.reordering - 1u) * mss)
            return tp.sacked[i].start_seq;
    }
    return tp.snd_una;
}

u32 tcp_lost_end(const tcp_sock& tp) {
    const u8 ca = tp.inet_conn.icsk_ca_state;
    if (ca == TCP_CA_Loss) return seq_clamp(tp.high_seq, tp.snd_una, tp.snd_nxt);
    if (ca != TCP_CA_Recovery) return tp.snd_una;
    const u32 mss = tcp_current_mss(as_sock(tp));
    u32 head_end;
    tcp_next_hole(tp, tp.snd_una, tp.snd_nxt, head_end);
    // RFC 6582, 3.2 (5): a partial ACK means that the segment after it is lost as well.
    u32 lost = seq_min(tp.snd_una + mss, head_end);
    if (tp.sack_ok) lost = seq_max(lost, tcp_sack_lost_end(tp, mss));
    return seq_min(lost, tp.snd_nxt);
}

u32 tcp_pipe_bytes(const tcp_sock& tp) {
    const u8 ca = tp.inet_conn.icsk_ca_state;
    u32 pipe;
    if (ca == TCP_CA_Recovery || ca == TCP_CA_Loss) {
        const u32 lost_end = tcp_lost_end(tp);
        const u32 resent = seq_clamp(tp.retrans_nxt, tp.snd_una, lost_end);
        pipe = tcp_unsacked_bytes(tp, tp.snd_una, resent) +
               tcp_unsacked_bytes(tp, lost_end, tp.snd_nxt);
    } else {
        pipe = tcp_unsacked_bytes(tp, tp.snd_una, tp.snd_nxt);
    }
    if (!tp.sack_ok && tp.dupacks) {
        // Without SACK each duplicate ACK says that one segment has left the network (RFC 5681, 3.2).
        const u64 left = static_cast<u64>(tp.dupacks) * tcp_current_mss(as_sock(tp));
        pipe -= static_cast<u32>(min_of<u64>(pipe, left));
    }
    return pipe;
}

// --- the window after a loss -----------------------------------------------------------------------------------

static void tcp_init_undo(tcp_sock& tp) {
    tp.undo_marker = tp.snd_una;
    tp.undo_retrans = 0;
}

// RFC 3522 (Eifel): the ACK echoes a timestamp from before the retransmission, so the original arrived;
// or every retransmission was reported as a duplicate (RFC 3708).
static bool tcp_may_undo(const tcp_sock& tp, const u32* ts_ecr) {
    if (!tp.undo_marker || !tp.retrans_stamp_us) return false;
    if (tp.undo_retrans == 0) return true;
    const u32 stamp = static_cast<u32>(tp.retrans_stamp_us / US_PER_MS) + tp.ts_offset;
    return ts_ecr && *ts_ecr && before(*ts_ecr, stamp);
}

static void tcp_undo_cwnd_reduction(sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    tp.snd_cwnd = tcp_ca_ops(sk).undo_cwnd(sk);
    if (tp.prior_ssthresh > tp.snd_ssthresh) tp.snd_ssthresh = tp.prior_ssthresh;
    tp.undo_marker = 0;
}

static void tcp_back_to_open(sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    tp.undo_marker = 0;
    tp.retrans_stamp_us = 0;
    tp.dupacks = 0;
    tp.snd_cwnd_cnt = 0;
    tcp_set_ca_state(sk, TCP_CA_Open);
}

static void tcp_remember_window(sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    tp.prior_ssthresh = tp.snd_ssthresh;
    tp.prior_cwnd = tp.snd_cwnd;
    tp.snd_ssthresh = tcp_ca_ops(sk).ssthresh(sk);
    tcp_init_undo(tp);
}

// RFC 5681, 3.1: after a timeout, ssthresh by equation (4), and the loss window is one segment.
void tcp_enter_loss(tcp_env&, sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    inet_connection_sock& icsk = inet_csk(sk);
    const tcp_congestion_ops& ops = tcp_ca_ops(sk);
    const u8 ca = icsk.icsk_ca_state;
    // Further timeouts of the same loss do not halve again.
    if (ca <= TCP_CA_Disorder || !after(tp.high_seq, tp.snd_una) ||
        (ca == TCP_CA_Loss && !icsk.icsk_retransmits)) {
        tcp_remember_window(sk);
        if (ops.cwnd_event) ops.cwnd_event(sk, CA_EVENT_LOSS);
    }
    tp.snd_cwnd = 1;
    tp.snd_cwnd_cnt = 0;
    tp.dupacks = 0;
    // RFC 2018, 8: a receiver that reported what comes next and still does not move has reneged.
    if (tp.num_sacked && !after(tp.sacked[0].start_seq, tp.snd_una)) tp.num_sacked = 0;
    tp.high_seq = tp.snd_nxt;
    tp.retrans_nxt = tp.snd_una;
    tcp_set_ca_state(sk, TCP_CA_Loss);
}

static void tcp_enter_recovery(tcp_env& env, sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    tp.retrans_stamp_us = 0;
    tcp_remember_window(sk);
    tp.high_seq = tp.snd_nxt;
    tp.retrans_nxt = tp.snd_una;
    tp.snd_cwnd = max_of(tp.snd_ssthresh, 1u);
    tp.snd_cwnd_cnt = 0;
    tcp_set_ca_state(sk, TCP_CA_Recovery);
    // RFC 6675, 5 (4.3): the first one goes out whatever the pipe says.
    u32 end;
    const u32 seq = tcp_next_hole(tp, tp.snd_una, tcp_lost_end(tp), end);
    tcp_retransmit_skb(env, sk, seq, end);
    tcp_rearm_rto(env, sk);
}

void tcp_fastretrans_alert(tcp_env& env, sock& sk, u32 acked, bool is_dupack, bool sack_news) {
    tcp_sock& tp = tcp_sk(sk);
    inet_connection_sock& icsk = inet_csk(sk);
    const u32 mss = tcp_current_mss(sk);
    const u8 ca = icsk.icsk_ca_state;
    if (acked) {
        const u32 segs = (acked + mss - 1) / mss;
        tp.dupacks = ca == TCP_CA_Recovery && !tp.sack_ok && segs <= tp.dupacks
                         ? static_cast<u8>(tp.dupacks - segs + 1)
                         : 0;
    } else if (tp.sack_ok ? sack_news : is_dupack) {
        if (tp.dupacks < 255) tp.dupacks++;
    }
    const u32* ts_ecr = tp.tstamp_ok && tp.saw_tstamp ? &tp.rcv_tsecr : nullptr;

    switch (ca) {
    case TCP_CA_Loss:
        if (acked && tcp_may_undo(tp, ts_ecr)) {
            tcp_undo_cwnd_reduction(sk);
            icsk.icsk_retransmits = 0;
            tcp_back_to_open(sk);
        } else if (!before(tp.snd_una, tp.high_seq)) {
            tcp_back_to_open(sk);
        } else if (acked) {
            tp.retrans_stamp_us = env.now_us; // progress: the time limit starts again
        }
        return;
    case TCP_CA_Recovery:
        if (acked && tcp_may_undo(tp, ts_ecr)) {
            tcp_undo_cwnd_reduction(sk);
            tcp_back_to_open(sk);
        } else if (!before(tp.snd_una, tp.high_seq)) {
            tp.snd_cwnd = max_of(min_of(tp.snd_cwnd, tp.snd_ssthresh), 1u); // RFC 6582, 3.2 (3)
            tcp_back_to_open(sk);
        } else if (acked) {
            tp.retrans_stamp_us = env.now_us;
        }
        return;
    default: break;
    }

    const bool lost = tp.sack_ok ? tp.num_sacked && (tp.dupacks >= tp.reordering ||
                                                     after(tcp_sack_lost_end(tp, mss), tp.snd_una))
                                 : tp.dupacks >= tp.reordering;
    // RFC 6582, 3.2 (1): ACKs for what an earlier recovery resent are no news of a further loss.
    const bool covered = !tp.sack_ok && before(tp.snd_una, tp.high_seq);
    if (lost && !covered && tcp_packets_out(tp)) {
        tcp_enter_recovery(env, sk);
        return;
    }
    if (acked && !before(tp.snd_una, tp.high_seq)) tp.high_seq = tp.snd_una;
    const u8 next = tp.dupacks || tp.num_sacked ? TCP_CA_Disorder : TCP_CA_Open;
    if (next != ca && ca != TCP_CA_CWR) tcp_set_ca_state(sk, next);
}

// Resends what is lost as far as the window admits (RFC 6675, 5 (C)).
void tcp_xmit_recovery(tcp_env& env, sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    const u8 ca = inet_csk(sk).icsk_ca_state;
    if (ca != TCP_CA_Recovery && ca != TCP_CA_Loss) return;
    const u32 mss = tcp_current_mss(sk);
    const u64 cwnd_bytes = static_cast<u64>(tp.snd_cwnd) * mss;
    for (;;) {
        const u32 lost_end = tcp_lost_end(tp);
        const u32 from = seq_max(tp.retrans_nxt, tp.snd_una);
        if (!before(from, lost_end) || tcp_pipe_bytes(tp) >= cwnd_bytes) return;
        u32 end;
        const u32 seq = tcp_next_hole(tp, from, lost_end, end);
        if (seq == lost_end) return;
        if (tcp_retransmit_skb(env, sk, seq, end) < 0) return;
        if (!after(tp.retrans_nxt, from)) return; // no progress: the timer's turn
    }
}

} // namespace sockshim
