// Segments for a connection: acceptability, and what each state does with them (RFC 9293, 3.10.7).
#include <cerrno>

#include "core/tcp/tcp.h"
#include "core/tcp/tcp_cong.h"

namespace sockshim {

// --- acceptability -------------------------------------------------------------------------------------

// RFC 7323, 5.3 (R1): a timestamp older than TS.Recent marks an old duplicate, unless TS.Recent has
// itself become too old to mean anything (5.5).
bool tcp_paws_check(const tcp_sock& tp, u32 tsval, u64 now_us) {
    if (seq_diff(tp.ts_recent, tsval) <= TCP_PAWS_WINDOW - 1) return true;
    if (now_us / US_PER_S - tp.ts_recent_stamp_s >= TCP_PAWS_24DAYS_S) return true;
    return tp.ts_recent == 0; // some peers' SYN carries a zero
}

// Linux lets a pure ACK through that was merely overtaken: it is within the window and says nothing new.
static bool tcp_disordered_ack(const tcp_sock& tp, const sk_buff& skb) {
    const tcp_header& th = skb.tcp;
    return skb_seq_len(skb) == 0 && th.seq == tp.rcv_nxt && th.ack_seq == tp.snd_una &&
           static_cast<u32>(th.window) << (tp.snd_wscale & 15) == tp.snd_wnd &&
           seq_diff(tp.ts_recent, th.ts_val) <=
               static_cast<i32>(tp.inet_conn.icsk_rto_us / US_PER_MS);
}

// RFC 9293, 3.10.7.4, first: the acceptability test, on the widest window that may have been offered.
static bool tcp_sequence(const tcp_sock& tp, u32 seq, u32 end_seq) {
    return !before(end_seq, tp.rcv_wup) && !after(seq, tp.rcv_nxt + tcp_receive_window(tp));
}

bool tcp_oow_rate_limited(tcp_env& env, const sk_buff& skb, u64& last_us) {
    // Data is always answered: its sender waits for the ACK that got lost.
    if (skb.payload() && !skb_has(skb, TCPHDR_SYN)) return false;
    if (last_us && env.now_us - last_us < TCP_INVALID_RATELIMIT) return true;
    last_us = env.now_us;
    return false;
}

// RFC 5961, 3.2 and 4.2: "is this really from you?" A peer that means it answers with an exact RST.
void tcp_send_challenge_ack(tcp_env& env, sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    if (tp.oow_stamp_us && env.now_us - tp.oow_stamp_us < TCP_INVALID_RATELIMIT) return;
    tp.oow_stamp_us = env.now_us;
    tcp_send_ack(env, sk);
}

// RFC 9293, 3.10.7.4, second: what a RST does in each state.
void tcp_reset(tcp_env&, sock& sk) {
    u32 err = ECONNRESET;
    switch (sk_state(sk)) {
    case TCP_SYN_SENT: err = ECONNREFUSED; break;
    case TCP_CLOSE_WAIT: err = EPIPE; break;
    case TCP_CLOSE: return;
    default: break;
    }
    sk.sk_err.store(err);
    tcp_tx_purge(sk);
    tcp_done(sk);
}

// A RST for the FIN that we have received: Linux takes it one number earlier as well.
static bool tcp_reset_check(const sock& sk, const sk_buff& skb) {
    const tcp_sock& tp = tcp_sk(sk);
    return skb.tcp.seq == tp.rcv_nxt - 1 && skb.tcp.seq == skb_end_seq(skb) &&
           (sk_statef(sk) & (TCPF_CLOSE_WAIT | TCPF_LAST_ACK | TCPF_CLOSING));
}

// The tests that come before everything else, in RFC 9293's order, with RFC 7323's PAWS and RFC 5961's
// amendments. False: the segment is done with.
static bool tcp_validate_incoming(tcp_env& env, sock& sk, const sk_buff& skb) {
    tcp_sock& tp = tcp_sk(sk);
    const tcp_header& th = skb.tcp;
    const bool rst = th.flags & TCPHDR_RST, syn = th.flags & TCPHDR_SYN;
    if (tp.saw_tstamp && !tcp_paws_check(tp, th.ts_val, env.now_us) &&
        !tcp_disordered_ack(tp, skb)) {
        if (!rst) {
            if (!tcp_oow_rate_limited(env, skb, tp.oow_stamp_us)) tcp_send_dupack(env, sk, skb);
            return false;
        }
        // A RST carries no trustworthy timestamp (RFC 7323, 5.2): judge it by its number.
    }
    if (!tcp_sequence(tp, th.seq, skb_end_seq(skb))) {
        if (rst) {
            if (tcp_reset_check(sk, skb)) tcp_reset(env, sk);
        } else if (syn) {
            tcp_send_challenge_ack(env, sk);
        } else if (!tcp_oow_rate_limited(env, skb, tp.oow_stamp_us)) {
            tcp_send_dupack(env, sk, skb);
        }
        return false;
    }
    if (rst) {
        // RFC 5961, 3.2: exactly the next number, else a challenge. A peer that we sent SACK blocks may
        // have taken the end of the last one for the next number.
        bool exact = th.seq == tp.rcv_nxt || tcp_reset_check(sk, skb);
        if (!exact && tp.sack_ok && tp.num_ooo) {
            u32 most = tp.rcv_nxt;
            for (u32 i = 0; i < min_of<u32>(tp.num_ooo, tcp_max_ooo); i++)
                most = seq_max(most, tp.ooo[i].end_seq);
            exact = th.seq == most;
        }
        if (exact)
            tcp_reset(env, sk);
        else
            tcp_send_challenge_ack(env, sk);
        return false;
    }
    if (syn) {
        // RFC 5961, 4.2. Not in simultaneous open, whose SYN-ACK repeats the SYN.
        const bool crossed = sk_state(sk) == TCP_SYN_RECV && (th.flags & TCPHDR_ACK) &&
                             th.seq + 1 == skb_end_seq(skb) && th.seq + 1 == tp.rcv_nxt &&
                             th.ack_seq == tp.snd_nxt;
        if (!crossed) {
            tcp_send_challenge_ack(env, sk);
            return false;
        }
    }
    return true;
}

static void tcp_note_tstamp(sock& sk, const tcp_header& th) {
    tcp_sock& tp = tcp_sk(sk);
    tp.saw_tstamp = tp.tstamp_ok && th.has_ts;
    tp.rcv_tsecr = tp.saw_tstamp ? th.ts_ecr : 0;
}

static void tcp_count_in(sock& sk, const sk_buff& skb) {
    tcp_sock& tp = tcp_sk(sk);
    tp.segs_in++;
    if (skb.payload()) tp.data_segs_in++;
}

// --- ESTABLISHED -----------------------------------------------------------------------------------------

// Header prediction: the next data segment, or a plain ACK, of a connection on which nothing unusual is
// going on. The short way is not taken
//   - when a flag other than ACK or PSH is set,
//   - when the segment is not exactly the next one, or something out of order is waiting,
//   - when our window is too small for it, or was announced as zero,
//   - when the peer changes its window or acknowledges what we have not sent,
//   - while urgent data is expected,
//   - when the timestamp is missing or goes back.
static bool tcp_header_predicted(const tcp_sock& tp, const sk_buff& skb) {
    const tcp_header& th = skb.tcp;
    return (th.flags & ~TCPHDR_PSH) == TCPHDR_ACK && th.seq == tp.rcv_nxt && !tp.num_ooo &&
           !tp.ooo_fin && !tp.urg_data && skb.payload() <= tcp_receive_window(tp) &&
           !after(th.ack_seq, tp.snd_nxt) && !before(th.ack_seq, tp.snd_una) &&
           (!tp.tstamp_ok || tp.saw_tstamp) &&
           (!tp.saw_tstamp || seq_diff(th.ts_val, tp.ts_recent) >= 0);
}

void tcp_rcv_established(tcp_env& env, sock& sk, const sk_buff& skb) {
    tcp_sock& tp = tcp_sk(sk);
    tcp_count_in(sk, skb);
    tcp_note_tstamp(sk, skb.tcp);
    if (!tcp_header_predicted(tp, skb)) {
        // RFC 9293, 3.10.7.4, fifth: without ACK a segment is dropped.
        if (!(skb.tcp.flags & (TCPHDR_ACK | TCPHDR_RST | TCPHDR_SYN))) return;
        if (!tcp_validate_incoming(env, sk, skb)) return;
        if (!(skb.tcp.flags & TCPHDR_ACK)) return;
    }
    const int acceptable = tcp_ack(env, sk, skb, FLAG_SLOWPATH | FLAG_UPDATE_TS_RECENT);
    if (acceptable < 0) {
        if (after(skb.tcp.ack_seq, tp.snd_nxt))
            tcp_send_challenge_ack(env, sk); // "send an ACK, drop"
        return;
    }
    tcp_urg(env, sk, skb);
    tcp_data_queue(env, sk, skb);
    if (sk_state(sk) == TCP_CLOSE) return;
    tcp_data_snd_check(env, sk);
    tcp_ack_snd_check(env, sk);
}

// --- SYN_SENT ----------------------------------------------------------------------------------------------

// The options of the peer's SYN, once both SYNs are known.
static void tcp_take_syn_options(tcp_env& env, sock& sk, const tcp_header& th) {
    tcp_sock& tp = tcp_sk(sk);
    tp.wscale_ok = th.has_wscale;
    if (th.has_wscale) {
        tp.snd_wscale = min_of(th.wscale, TCP_MAX_WSCALE); // RFC 7323, 2.3: more is taken for 14
    } else {
        tp.snd_wscale = 0;
        tp.rcv_wscale = 0;
    }
    tp.tstamp_ok = th.has_ts;
    if (th.has_ts) {
        tp.ts_recent = th.ts_val;
        tp.ts_recent_stamp_s = static_cast<u32>(env.now_us / US_PER_S);
    }
    tp.sack_ok = th.sack_ok;
    tp.mss_clamp = max_of<u16>(th.mss ? th.mss : TCP_MSS_DEFAULT_LEN, TCP_MIN_SND_MSS);
    tcp_note_tstamp(sk, th);
}

static void tcp_take_syn(tcp_env& env, sock& sk, const tcp_header& th) {
    tcp_sock& tp = tcp_sk(sk);
    tcp_take_syn_options(env, sk, th);
    tp.irs = th.seq;
    tp.rcv_nxt = th.seq + 1;
    tp.rcv_wup = th.seq + 1;
    tp.copied_seq = th.seq + 1;
    tp.snd_wnd = th.window; // RFC 7323, 2.2: not scaled in a SYN
    tp.max_window = max_of<u32>(tp.max_window, th.window);
    tcp_init_wl(tp, th.seq);
    tcp_sync_mss(sk, tp.pmtu);
    tcp_initialize_rcv_mss(sk);
}

static void tcp_finish_connect(tcp_env& env, sock& sk) {
    tcp_set_state(sk, TCP_ESTABLISHED);
    inet_csk(sk).icsk_ack.lrcvtime_us = env.now_us;
    tcp_init_transfer(env, sk);
    sk_state_change(sk);
}

static bool tcp_rcv_synsent_state_process(tcp_env& env, sock& sk, const sk_buff& skb) {
    tcp_sock& tp = tcp_sk(sk);
    inet_connection_sock& icsk = inet_csk(sk);
    const tcp_header& th = skb.tcp;
    if (th.flags & TCPHDR_ACK) {
        // RFC 9293, 3.10.7.3, first: an ACK of anything but our SYN is answered with a RST. That ends what the
        // numbers belonged to, most often a TIME_WAIT, so the SYN need not wait for its second turn (Linux likewise).
        if (!after(th.ack_seq, tp.snd_una) || after(th.ack_seq, tp.snd_nxt)) {
            if (!icsk.icsk_retransmits) {
                tcp_reset_xmit_timer(env, sk, ICSK_TIME_RETRANS, TCP_TIMEOUT_MIN);
            }
            return true;
        }
        if (th.flags & TCPHDR_RST) {
            tcp_reset(env, sk);
            return false;
        }
        if (!(th.flags & TCPHDR_SYN)) return false;
        tcp_init_wl(tp, th.seq);
        tcp_note_tstamp(sk, th);
        tcp_ack(env, sk, skb, FLAG_SLOWPATH);
        tcp_take_syn(env, sk, th);
        inet_csk_clear_xmit_timer(sk);
        icsk.icsk_retransmits = 0;
        icsk.icsk_backoff = 0;
        tcp_finish_connect(env, sk);
        if (icsk.icsk_accept_defer_s || icsk.icsk_ack.pingpong) {
            // The program is about to send: let the ACK ride on that.
            icsk.icsk_ack.pending |= ICSK_ACK_SCHED | ICSK_ACK_TIMER;
            tcp_enter_quickack_mode(sk, TCP_MAX_QUICKACKS);
            inet_csk_reset_delack_timer(sk, env.now_us + TCP_DELACK_MAX);
        } else {
            tcp_send_ack(env, sk);
        }
        return false;
    }
    if (th.flags & TCPHDR_RST)
        return false; // RFC 9293, 3.10.7.3, second: without ACK it proves nothing
    if (!(th.flags & TCPHDR_SYN)) return false;
    // RFC 9293, 3.5, figure 8: both sides have sent a SYN.
    tcp_set_state(sk, TCP_SYN_RECV);
    tcp_take_syn(env, sk, th);
    tcp_send_synack(env, sk);
    return false;
}

// --- the other states ------------------------------------------------------------------------------------

// Our SYN of a simultaneous open, or a child's SYN-ACK, has been acknowledged.
static void tcp_synrecv_established(tcp_env& env, sock& sk, const tcp_header& th) {
    tcp_sock& tp = tcp_sk(sk);
    inet_connection_sock& icsk = inet_csk(sk);
    if (icsk.icsk_pending == ICSK_TIME_RETRANS && !tcp_packets_out(tp))
        inet_csk_clear_xmit_timer(sk);
    tp.copied_seq = tp.rcv_nxt;
    tcp_set_state(sk, TCP_ESTABLISHED);
    tp.snd_una = th.ack_seq;
    tp.snd_wnd = static_cast<u32>(th.window) << (tp.snd_wscale & 15);
    tp.max_window = max_of(tp.max_window, tp.snd_wnd);
    tcp_init_wl(tp, th.seq);
    tcp_sync_mss(sk, tp.pmtu);
    icsk.icsk_ack.lrcvtime_us = env.now_us;
    icsk.icsk_retransmits = 0;
    icsk.icsk_backoff = 0;
    tcp_initialize_rcv_mss(sk);
    tcp_init_transfer(env, sk);
    // The thread that runs this fuses the connection once it holds no lock (tcp_v4_rcv).
    tp.fuse_want = static_cast<bool>(icsk.icsk_listener);
    sk_state_change(sk);
}

// Our FIN has been acknowledged in FIN_WAIT1. True: the sock is done.
static bool tcp_finwait1_acked(tcp_env& env, sock& sk, const sk_buff& skb, bool& rst) {
    tcp_sock& tp = tcp_sk(sk);
    tcp_set_state(sk, TCP_FIN_WAIT2);
    sk.sk_shutdown.store(sk.sk_shutdown.load() | SEND_SHUTDOWN);
    if (!sock_flag(sk, SOCK_DEAD)) {
        sk_state_change(sk);
        return false;
    }
    const u32 end_seq = skb_end_seq(skb);
    const bool fin = skb_has(skb, TCPHDR_FIN);
    if (tp.linger2_s < 0) {
        tcp_done(sk);
        return true;
    }
    if (end_seq != skb.tcp.seq && after(end_seq - fin, tp.rcv_nxt)) {
        // Data for a program that has closed (RFC 9293, 3.6.1; RFC 2525, 2.17).
        tcp_done(sk);
        rst = true;
        return true;
    }
    const u64 tmo = tcp_fin_time(sk);
    if (tmo > TCP_TIMEWAIT_LEN) {
        inet_csk_reset_keepalive_timer(sk, env.now_us + tmo - TCP_TIMEWAIT_LEN);
    } else if (fin) {
        // The FIN below takes us to TIME_WAIT in a moment; the timer is for the case that it does not.
        inet_csk_reset_keepalive_timer(sk, env.now_us + tmo);
    } else {
        tcp_time_wait(env, sk, TCP_FIN_WAIT2, tmo);
        return true;
    }
    return false;
}

bool tcp_rcv_state_process(tcp_env& env, sock& sk, const sk_buff& skb) {
    tcp_sock& tp = tcp_sk(sk);
    const tcp_header& th = skb.tcp;
    tcp_count_in(sk, skb);
    switch (sk_state(sk)) {
    case TCP_CLOSE: return false;
    case TCP_LISTEN: // RFC 9293, 3.10.7.2
        if (th.flags & TCPHDR_RST) return false;
        if (th.flags & TCPHDR_ACK) return true;
        if ((th.flags & TCPHDR_SYN) && !(th.flags & TCPHDR_FIN)) tcp_conn_request(env, sk, skb);
        return false;
    case TCP_SYN_SENT:
        tp.saw_tstamp = 0;
        if (tcp_rcv_synsent_state_process(env, sk, skb)) return true;
        if (sk_state(sk) == TCP_ESTABLISHED) {
            tcp_urg(env, sk, skb);
            tcp_data_snd_check(env, sk);
        }
        return false;
    default: break;
    }

    tcp_note_tstamp(sk, th);
    if (!(th.flags & (TCPHDR_ACK | TCPHDR_RST | TCPHDR_SYN))) return false;
    if (!tcp_validate_incoming(env, sk, skb)) return false;
    if (!(th.flags & TCPHDR_ACK)) return false;

    const int acceptable = tcp_ack(env, sk, skb, FLAG_SLOWPATH | FLAG_UPDATE_TS_RECENT);
    if (acceptable <= 0) {
        if (sk_state(sk) == TCP_SYN_RECV) return true; // RFC 9293, 3.10.7.4, fifth
        if (acceptable < 0) {
            tcp_send_challenge_ack(env, sk);
            return false;
        }
        // An old ACK is ignored; what else the segment brings still counts.
    }
    const bool all_acked = tp.snd_una == tp.write_seq;
    bool rst = false;
    switch (sk_state(sk)) {
    case TCP_SYN_RECV:
        tcp_synrecv_established(env, sk, th);
        // Closed or half-closed while the handshake went on: the FIN was queued then.
        if (sk.sk_shutdown.load() & SEND_SHUTDOWN) {
            tcp_set_state(sk, TCP_FIN_WAIT1);
            tcp_send_fin(env, sk);
        }
        break;
    case TCP_FIN_WAIT1:
        if (all_acked && tp.tx_fin && tcp_finwait1_acked(env, sk, skb, rst)) return rst;
        break;
    case TCP_CLOSING:
        if (all_acked) {
            tcp_time_wait(env, sk, TCP_TIME_WAIT, 0);
            return false;
        }
        break;
    case TCP_LAST_ACK:
        if (all_acked) {
            tcp_done(sk);
            return false;
        }
        break;
    default: break;
    }

    tcp_urg(env, sk, skb);

    switch (sk_state(sk)) {
    case TCP_CLOSE_WAIT:
    case TCP_CLOSING:
    case TCP_LAST_ACK:
        // RFC 9293, 3.10.7.4, seventh: after the peer's FIN nothing should come; a resent FIN is ACKed.
        if (!before(th.seq, tp.rcv_nxt)) break;
        [[fallthrough]];
    case TCP_FIN_WAIT1:
    case TCP_FIN_WAIT2:
        // RFC 1122, 4.2.2.13: data after the program has closed is answered with a RST.
        if (sk.sk_shutdown.load() & RCV_SHUTDOWN) {
            const u32 end_seq = skb_end_seq(skb);
            if (end_seq != th.seq && after(end_seq - (th.flags & TCPHDR_FIN ? 1 : 0), tp.rcv_nxt)) {
                tcp_reset(env, sk);
                return true;
            }
        }
        [[fallthrough]];
    case TCP_ESTABLISHED: tcp_data_queue(env, sk, skb); break;
    default: break;
    }
    if (sk_state(sk) != TCP_CLOSE) {
        tcp_data_snd_check(env, sk);
        tcp_ack_snd_check(env, sk);
    }
    return false;
}

} // namespace sockshim
