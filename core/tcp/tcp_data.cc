// The receiving half: placing bytes at their offset in the receive ring, out-of-order ranges, FIN, urgent
// data, and when to acknowledge.
#include <cerrno>

#include "core/tcp/tcp.h"

namespace sockshim {

// --- when to acknowledge (RFC 9293, 3.8.6.3; RFC 5681, 4.2) --------------------------------------------

static void inet_csk_schedule_ack(sock& sk) { inet_csk(sk).icsk_ack.pending |= ICSK_ACK_SCHED; }
static void tcp_ack_now(sock& sk) {
    inet_csk(sk).icsk_ack.pending |= ICSK_ACK_SCHED | ICSK_ACK_NOW;
}

bool tcp_in_quickack_mode(const sock& sk) {
    return inet_csk(sk).icsk_ack.quick && !inet_csk(sk).icsk_ack.pingpong;
}

static void tcp_incr_quickack(sock& sk, u32 max_quickacks) {
    inet_connection_sock& icsk = inet_csk(sk);
    u32 quick = tcp_sk(sk).rcv_wnd / (2u * max_of<u32>(icsk.icsk_ack.rcv_mss, 1));
    quick = min_of(max_of(quick, 2u), max_quickacks);
    if (quick > icsk.icsk_ack.quick) icsk.icsk_ack.quick = static_cast<u8>(quick);
}

void tcp_enter_quickack_mode(sock& sk, u32 max_quickacks) {
    tcp_incr_quickack(sk, max_quickacks);
    inet_csk(sk).icsk_ack.pingpong = 0;
    inet_csk(sk).icsk_ack.ato_us = TCP_ATO_MIN;
}

void tcp_initialize_rcv_mss(sock& sk) {
    const tcp_sock& tp = tcp_sk(sk);
    u32 hint = min_of<u32>(tp.advmss, tp.mss_cache);
    hint = min_of(hint, tp.rcv_wnd / 2);
    hint = min_of<u32>(hint, TCP_MSS_DEFAULT_LEN);
    inet_csk(sk).icsk_ack.rcv_mss = static_cast<u16>(max_of<u32>(hint, TCP_MIN_MSS));
}

// Data of `len` bytes has come in order: note the peer's rhythm.
void tcp_event_data_recv(tcp_env& env, sock& sk, u32 len) {
    inet_connection_sock& icsk = inet_csk(sk);
    inet_csk_schedule_ack(sk);
    if (len >= icsk.icsk_ack.rcv_mss)
        icsk.icsk_ack.rcv_mss = static_cast<u16>(min_of<u32>(len, tcp_sk(sk).advmss));
    if (!icsk.icsk_ack.ato_us) {
        // The first data: the peer is in slow start and lives on ACKs.
        tcp_incr_quickack(sk, TCP_MAX_QUICKACKS);
        icsk.icsk_ack.ato_us = TCP_ATO_MIN;
    } else {
        const u64 gap = env.now_us - icsk.icsk_ack.lrcvtime_us;
        if (gap <= TCP_ATO_MIN / 2)
            icsk.icsk_ack.ato_us = (icsk.icsk_ack.ato_us >> 1) + TCP_ATO_MIN / 2;
        else if (gap < icsk.icsk_ack.ato_us)
            icsk.icsk_ack.ato_us =
                min_of((icsk.icsk_ack.ato_us >> 1) + static_cast<u32>(gap), icsk.icsk_rto_us);
        else if (gap > icsk.icsk_rto_us)
            tcp_incr_quickack(sk, TCP_MAX_QUICKACKS); // the peer restarts after an idle time
    }
    icsk.icsk_ack.lrcvtime_us = env.now_us;
}

void tcp_ack_snd_check(tcp_env& env, sock& sk) {
    const inet_connection_sock& icsk = inet_csk(sk);
    const tcp_sock& tp = tcp_sk(sk);
    if (!(icsk.icsk_ack.pending & ICSK_ACK_SCHED)) return;
    // RFC 5681, 4.2: at least every second full segment, as long as the window stays wide; once the
    // program falls behind, its reading sends the ACK and the window together (tcp_cleanup_rbuf).
    const bool two_segments =
        tp.rcv_nxt - tp.rcv_wup > icsk.icsk_ack.rcv_mss &&
        (tcp_inq_bytes(tp) < static_cast<u32>(max_of(sk.sk_rcvlowat, 1)) ||
         __tcp_select_window(sk) >= min_of(tp.rcv_wnd, tcp_full_space(sk) / 2));
    // And at once while there is a gap, and when one has been filled.
    if (two_segments || tcp_in_quickack_mode(sk) || (icsk.icsk_ack.pending & ICSK_ACK_NOW) ||
        tp.num_ooo)
        tcp_send_ack(env, sk);
    else
        tcp_send_delayed_ack(env, sk);
}

static void tcp_dsack_set(sock& sk, u32 seq, u32 end_seq) {
    tcp_sock& tp = tcp_sk(sk);
    if (!tp.sack_ok || !before(seq, end_seq)) return;
    tp.has_dsack = 1;
    tp.dsack = {seq, end_seq};
}

// An ACK for a segment that brought nothing new.
void tcp_send_dupack(tcp_env& env, sock& sk, const sk_buff& skb) {
    tcp_sock& tp = tcp_sk(sk);
    const u32 seq = skb.tcp.seq, end_seq = skb_end_seq(skb);
    if (end_seq != seq && before(seq, tp.rcv_nxt)) {
        tcp_enter_quickack_mode(sk, TCP_MAX_QUICKACKS);
        tcp_dsack_set(sk, seq, seq_min(end_seq, tp.rcv_nxt));
    }
    tcp_send_ack(env, sk);
}

// --- the receive ring ------------------------------------------------------------------------------------

// Puts bytes [skip, skip + n) of the segment's payload at `seq`. False: no memory; as if lost.
static bool tcp_rx_place(sock& sk, u32 seq, const sk_buff& skb, u32 skip, u32 n) {
    tcp_sock& tp = tcp_sk(sk);
    if (n == 0) return true;
    stream_ring* ring = slab_get(tp.rx_ring);
    if (!ring) {
        tp.rx_ring = ring_create(tp.rx_off, tcp_rx_ring_limit(sk));
        ring = slab_get(tp.rx_ring);
        if (!ring) return false;
    }
    ring->limit = max_of(ring->limit, tcp_rx_ring_limit(sk));
    u64 upto = ring->tail.load(); // keep what stands there out of order as well
    for (u32 i = 0; i < min_of<u32>(tp.num_ooo, tcp_max_ooo); i++)
        upto = max_of(upto, tcp_rx_offset(tp, tp.ooo[i].end_seq));
    const u64 offset = tcp_rx_offset(tp, seq);
    const u64 end = offset + n;
    const u64 head = ring->head.load();
    const u32 size = ring_grow(*ring, end > upto ? end - upto : 0, upto);
    if (offset < head || end - head > size) return false;
    u32 left = n;
    if (skip < skb.len) {
        const u32 piece = min_of(skb.len - skip, left);
        ring_write(*ring, offset, skb.data + skip, piece);
        left -= piece;
        skip = 0;
    } else {
        skip -= skb.len;
    }
    if (left) ring_write(*ring, end - left, skb.data2 + skip, left);
    return true;
}

static void tcp_rcv_nxt_update(tcp_sock& tp, u32 seq) {
    tp.bytes_received += seq - tp.rcv_nxt;
    // Waiters look at it without the lock.
    __atomic_store_n(&tp.rcv_nxt, seq, __ATOMIC_RELEASE);
    if (stream_ring* ring = slab_get(tp.rx_ring))
        ring->tail.store(tcp_rx_offset(tp, tcp_rx_end(tp)));
}

// --- FIN ---------------------------------------------------------------------------------------------------

// The peer's FIN stands at rcv_nxt (RFC 9293, 3.10.7.4, eighth).
static void tcp_fin(tcp_env& env, sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    tp.rx_fin = 1;
    tp.ooo_fin = 0;
    tp.num_ooo = 0;
    __atomic_store_n(&tp.rcv_nxt, tp.rcv_nxt + 1, __ATOMIC_RELEASE);
    tp.bytes_received += 1; // as Linux, tcpi_bytes_received counts the FIN
    inet_csk_schedule_ack(sk);
    sk.sk_shutdown.store(sk.sk_shutdown.load() | RCV_SHUTDOWN);
    sock_set_flag(sk, SOCK_DONE, true);
    switch (sk_state(sk)) {
    case TCP_SYN_RECV:
    case TCP_ESTABLISHED:
        tcp_set_state(sk, TCP_CLOSE_WAIT);
        inet_csk(sk).icsk_ack.pingpong = 1;
        inet_csk(sk).icsk_ack.pending |= ICSK_ACK_NOW; // the peer waits for it in FIN_WAIT1
        break;
    case TCP_FIN_WAIT1: // simultaneous close
        tcp_send_ack(env, sk);
        tcp_set_state(sk, TCP_CLOSING);
        break;
    case TCP_FIN_WAIT2:
        tcp_send_ack(env, sk);
        tcp_time_wait(env, sk, TCP_TIME_WAIT, 0);
        return;
    default: // CLOSE_WAIT, CLOSING, LAST_ACK: resent; ACKed by the caller
        return;
    }
    if (!sock_flag(sk, SOCK_DEAD)) sk_state_change(sk);
}

// --- out of order ------------------------------------------------------------------------------------------

static u32 ooo_count(const tcp_sock& tp) { return min_of<u32>(tp.num_ooo, tcp_max_ooo); }

// Files [start, end). False: the array is full.
static bool tcp_ooo_insert(tcp_sock& tp, u32 start, u32 end) {
    const u32 n = ooo_count(tp);
    u32 i = 0;
    while (i < n && before(tp.ooo[i].end_seq, start)) i++;
    u32 j = i;
    sack_block merged = {start, end};
    for (; j < n && !after(tp.ooo[j].start_seq, end); j++) {
        merged.start_seq = seq_min(merged.start_seq, tp.ooo[j].start_seq);
        merged.end_seq = seq_max(merged.end_seq, tp.ooo[j].end_seq);
    }
    if (i == j) {
        if (n == tcp_max_ooo) return false;
        for (u32 k = n; k > i; k--) tp.ooo[k] = tp.ooo[k - 1];
        tp.num_ooo = static_cast<u8>(n + 1);
    } else {
        for (u32 k = j; k < n; k++) tp.ooo[i + 1 + k - j] = tp.ooo[k];
        tp.num_ooo = static_cast<u8>(n - (j - i) + 1);
    }
    tp.ooo[i] = merged;
    tp.ooo_recent = merged.start_seq;
    return true;
}

// A full array, but the new bytes touch one of its ranges: then they can be filed after all.
static bool tcp_ooo_has_room(const tcp_sock& tp, u32 start, u32 end) {
    const u32 n = ooo_count(tp);
    if (n < tcp_max_ooo) return true;
    for (u32 i = 0; i < n; i++)
        if (!before(tp.ooo[i].end_seq, start) && !after(tp.ooo[i].start_seq, end)) return true;
    return false;
}

static void tcp_data_queue_ofo(sock& sk, const sk_buff& skb, u32 start, u32 end, bool fin) {
    tcp_sock& tp = tcp_sk(sk);
    tp.rcv_ooopack++;
    tcp_ack_now(sk); // RFC 5681, 4.2: a duplicate ACK at once
    if (fin) {
        tp.ooo_fin = 1;
        tp.rcv_fin_seq = end;
    }
    if (start == end) return;
    for (u32 i = 0; i < ooo_count(tp); i++) {
        if (!before(start, tp.ooo[i].start_seq) && !after(end, tp.ooo[i].end_seq)) {
            tcp_dsack_set(sk, start, end);
            tp.ooo_recent = tp.ooo[i].start_seq;
            return;
        }
    }
    if (!tcp_ooo_has_room(tp, start, end)) return;
    if (!tcp_rx_place(sk, start, skb, start - skb.tcp.seq, end - start)) return;
    tcp_ooo_insert(tp, start, end);
}

// rcv_nxt has moved: takes in the ranges that it has reached.
static void tcp_ofo_queue(sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    const u32 n = ooo_count(tp);
    u32 taken = 0;
    while (taken < n && !after(tp.ooo[taken].start_seq, tp.rcv_nxt)) {
        if (before(tp.ooo[taken].start_seq, tp.rcv_nxt))
            tcp_dsack_set(sk, tp.ooo[taken].start_seq, seq_min(tp.ooo[taken].end_seq, tp.rcv_nxt));
        if (after(tp.ooo[taken].end_seq, tp.rcv_nxt)) tcp_rcv_nxt_update(tp, tp.ooo[taken].end_seq);
        taken++;
    }
    if (!taken) return;
    for (u32 i = taken; i < n; i++) tp.ooo[i - taken] = tp.ooo[i];
    tp.num_ooo = static_cast<u8>(n - taken);
    if (!tp.num_ooo) tcp_ack_now(sk); // RFC 5681, 4.2: the gap is filled
}

// --- data ------------------------------------------------------------------------------------------------

static void tcp_data_ready(sock& sk) {
    const tcp_sock& tp = tcp_sk(sk);
    if (tcp_inq_bytes(tp) >= static_cast<u32>(max_of(sk.sk_rcvlowat, 1)) || tp.rx_fin ||
        tcp_receive_window(tp) <= inet_csk(sk).icsk_ack.rcv_mss) // nothing more would come
        sk_data_ready(sk);
}

void tcp_data_queue(tcp_env& env, sock& sk, const sk_buff& skb) {
    tcp_sock& tp = tcp_sk(sk);
    const u32 seq = skb.tcp.seq;
    const u32 end_seq = skb_end_seq(skb);
    if (seq == end_seq) return;
    if (!after(end_seq, tp.rcv_nxt)) {
        // All of it is here already: a resent segment whose ACK was lost. Say so at once.
        tcp_dsack_set(sk, seq, end_seq);
        tcp_enter_quickack_mode(sk, TCP_MAX_QUICKACKS);
        tcp_ack_now(sk);
        return;
    }
    const u32 window_end = tp.rcv_nxt + tcp_receive_window(tp);
    const bool bare_fin = skb.payload() == 0; // takes no room
    if (!before(seq, window_end) && !(bare_fin && seq == tp.rcv_nxt)) {
        tcp_enter_quickack_mode(sk, TCP_MAX_QUICKACKS);
        tcp_ack_now(sk);
        return;
    }
    if (tp.rx_fin) { // nothing stands behind a FIN
        tcp_ack_now(sk);
        return;
    }
    bool fin = skb_has(skb, TCPHDR_FIN);
    const u32 start = seq_max(seq, tp.rcv_nxt);
    u32 end = seq + skb.payload();
    // What the window does not admit is cut off (RFC 9293, 3.10.7.4), as is what the ring cannot take.
    const u32 room_end = seq_min(seq_max(window_end, start), tp.copied_seq + tcp_rx_ring_limit(sk));
    if (after(end, room_end)) {
        end = seq_max(room_end, start);
        fin = false;
    }
    if (before(end, start)) end = start;
    if (before(seq, tp.rcv_nxt)) tcp_dsack_set(sk, seq, tp.rcv_nxt);
    if (start != tp.rcv_nxt) {
        tcp_data_queue_ofo(sk, skb, start, end, fin);
        return;
    }

    const u32 n = end - start;
    if (!tcp_rx_place(sk, start, skb, start - seq, n)) {
        sk.sk_drops.fetch_add(1);
        tcp_ack_now(sk);
        return;
    }
    if (n) {
        tcp_rcv_nxt_update(tp, end);
        tcp_event_data_recv(env, sk, n);
        if (skb_has(skb, TCPHDR_PSH)) inet_csk(sk).icsk_ack.pending |= ICSK_ACK_PUSHED;
    } else if (!fin) {
        tcp_ack_now(sk); // nothing of it was taken
    }
    if (!fin && tp.num_ooo) tcp_ofo_queue(sk);
    const bool fin_due = fin || (tp.ooo_fin && tp.rcv_fin_seq == tp.rcv_nxt);
    if (fin_due) tcp_fin(env, sk);
    if (!sock_flag(sk, SOCK_DEAD)) tcp_data_ready(sk);
}

// --- urgent data (RFC 9293, 3.8.5; RFC 6093) ---------------------------------------------------------------

static void tcp_check_urg(sock& sk, const tcp_header& th) {
    tcp_sock& tp = tcp_sk(sk);
    // RFC 6093, 2.1 and Linux's default: the pointer names the byte after the urgent one.
    const u32 ptr = th.seq + (th.urg_ptr ? th.urg_ptr - 1u : 0u);
    if (after(tp.copied_seq, ptr)) return; // the program is past it
    if (before(ptr, tp.rcv_nxt)) return;   // seen before
    if (tp.urg_data && !after(ptr, tp.urg_seq)) return;
    sk_send_sigurg(sk);
    // A new urgent byte while the old one stands unread at the head of the stream: the old one is
    // skipped, or it would be read as ordinary data.
    if (tp.urg_data && tp.urg_seq == tp.copied_seq && !sock_flag(sk, SOCK_URGINLINE) &&
        tp.copied_seq != tcp_rx_end(tp)) {
        tp.copied_seq++;
        tp.rx_off++;
        if (stream_ring* ring = slab_get(tp.rx_ring)) ring->head.store(tp.rx_off);
    }
    tp.urg_data = TCP_URG_NOTYET;
    tp.urg_seq = ptr;
}

void tcp_urg(tcp_env&, sock& sk, const sk_buff& skb) {
    tcp_sock& tp = tcp_sk(sk);
    if (skb_has(skb, TCPHDR_URG)) tcp_check_urg(sk, skb.tcp);
    if (tp.urg_data != TCP_URG_NOTYET) return;
    const u32 at = tp.urg_seq - skb.tcp.seq - (skb_has(skb, TCPHDR_SYN) ? 1 : 0);
    if (at >= skb.payload()) return;
    const u8 byte = at < skb.len ? skb.data[at] : skb.data2[at - skb.len];
    tp.urg_data = TCP_URG_VALID | byte;
    if (!sock_flag(sk, SOCK_DEAD)) {
        sk_data_ready(sk);
        wake_up(sk.sk_wq, POLLPRI | POLLIN);
    }
}

// --- receive buffer autotuning ---------------------------------------------------------------------------------

// Dynamic right-sizing: the buffer follows twice what the program reads in a round trip.
void tcp_rcv_space_adjust(tcp_env& env, sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    const u64 round = max_of<u64>(tp.srtt_us >> 3, 1000);
    if (env.now_us - tp.rcvq_stamp_us < round) return;
    const u32 copied = tp.copied_seq - tp.rcvq_seq;
    if (copied > tp.rcvq_space) {
        if (!(sk.sk_userlocks & SOCK_RCVBUF_LOCK)) {
            const u64 want = min_of<u64>(4ull * copied, static_cast<u64>(tcp_rmem[2]));
            if (want > static_cast<u64>(sk.sk_rcvbuf)) sk.sk_rcvbuf = static_cast<i32>(want);
        }
        tp.rcvq_space = copied;
    }
    tp.rcvq_seq = tp.copied_seq;
    tp.rcvq_stamp_us = env.now_us;
}

} // namespace sockshim
