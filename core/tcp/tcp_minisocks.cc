// Connections that are less than a sock: requests (a handshake under way) and what TIME_WAIT leaves.
//
// A request is touched only by who holds its listener's lock; a segment that belongs to one is handled
// by the listener (tcp_v4_rcv). The listener's list of requests is an index over the request cells that
// name it, rebuilt by tcp_reqsk_rebuild when the lock's owner died.
#include <cerrno>
#include <cstring>

#include "core/inet/inet_hashtables.h"
#include "core/net/timer.h"
#include "core/tcp/tcp.h"
#include "core/tcp/tcp_cong.h"

namespace sockshim {

// --- requests ---------------------------------------------------------------------------------------------

static void same_tuple_answer(sk_buff& skb, const request_sock& req) {
    const sock_common& c = req.__req_common;
    std::memset(static_cast<void*>(&skb), 0, sizeof(skb));
    skb.saddr = c.skc_rcv_saddr;
    skb.daddr = c.skc_daddr;
    skb.protocol = IPPROTO_TCP;
    skb.ttl = 64;
    skb.ip_flags = 1;
    skb.tcp.source = c.skc_num;
    skb.tcp.dest = __builtin_bswap16(c.skc_dport);
}

// The SYN-ACK (RFC 9293, 3.10.7.2): answers only what the SYN offered.
static int tcp_v4_send_synack(tcp_env& env, sock& listener, const request_sock& req) {
    const tcp_sock& tp = tcp_sk(listener);
    sk_buff skb;
    same_tuple_answer(skb, req);
    tcp_header& th = skb.tcp;
    th.flags = TCPHDR_SYN | TCPHDR_ACK;
    th.seq = req.snt_isn;
    th.ack_seq = req.rcv_isn + 1;
    th.window = req.rcv_wnd_init;
    th.mss = tp.user_mss ? min_of(tp.user_mss, tp.advmss) : tp.advmss;
    th.has_wscale = req.wscale_ok;
    th.wscale = req.rcv_wscale;
    th.sack_ok = req.sack_ok;
    th.has_ts = req.tstamp_ok;
    th.ts_val = static_cast<u32>(env.now_us / US_PER_MS) + req.ts_off;
    th.ts_ecr = req.ts_recent;
    env.sk = &listener;
    const int err = env.queue_xmit(env, skb);
    env.sk = nullptr;
    return err;
}

int tcp_rtx_synack(tcp_env& env, sock& listener, request_sock& req) {
    const int err = tcp_v4_send_synack(env, listener, req);
    if (!err) {
        if (req.num_retrans < 255) req.num_retrans++;
        tcp_sk(listener).total_retrans++;
    }
    return err;
}

static u32 req_index(handle<request_sock> h) { return h.index; }

static void tcp_reqsk_link(sock& listener, handle<request_sock> h) {
    tcp_sock& tp = tcp_sk(listener);
    request_sock* req = slab_get(h);
    if (!req) return;
    req->req_next = tp.req_head;
    tp.req_head = req_index(h) + 1;
    inet_csk(listener).icsk_qlen.fetch_add(1);
}

static void tcp_reqsk_unlink(sock& listener, handle<request_sock> h) {
    tcp_sock& tp = tcp_sk(listener);
    u32* link = &tp.req_head;
    for (u32 guard = 0; *link && guard < region_shapes[REGION_REQUEST].max_cells; guard++) {
        request_sock* at = slab_at<request_sock>(*link - 1);
        if (!at) {
            *link = 0;
            return;
        }
        if (*link == req_index(h) + 1) {
            *link = at->req_next;
            if (inet_csk(listener).icsk_qlen.load_relaxed())
                inet_csk(listener).icsk_qlen.fetch_sub(1);
            return;
        }
        link = &at->req_next;
    }
}

void tcp_reqsk_drop(sock& listener, handle<request_sock> h) {
    request_sock* req = slab_get(h);
    tcp_reqsk_unlink(listener, h);
    if (!req) return;
    inet_reqsk_remove(*req);
    slab_free(h);
}

void tcp_reqsk_rebuild(sock& listener) {
    const handle<sock> self = sk_handle(listener);
    tcp_sk(listener).req_head = 0;
    inet_csk(listener).icsk_qlen.store(0);
    for (u32 i = 0; i < cells_committed(REGION_REQUEST); i++) {
        const handle<request_sock> h = slab_handle_at<request_sock>(i);
        const request_sock* req = slab_get(h);
        if (req && req->rsk_listener == self) tcp_reqsk_link(listener, h);
    }
}

// The listener is going: its handshakes are forgotten, the peers' next segments meet nobody.
void tcp_reqsk_flush(sock& listener) {
    tcp_sock& tp = tcp_sk(listener);
    for (u32 guard = 0; tp.req_head && guard < region_shapes[REGION_REQUEST].max_cells; guard++) {
        const handle<request_sock> h = slab_handle_at<request_sock>(tp.req_head - 1);
        request_sock* req = slab_get(h);
        if (!req || !(req->rsk_listener == sk_handle(listener))) break;
        tp.req_head = req->req_next;
        inet_reqsk_remove(*req);
        slab_free(h);
    }
    tp.req_head = 0;
    inet_csk(listener).icsk_qlen.store(0);
}

// A SYN for a listener (RFC 9293, 3.10.7.2, third).
void tcp_conn_request(tcp_env& env, sock& listener, const sk_buff& skb, u32 want_isn) {
    tcp_sock& tp = tcp_sk(listener);
    const tcp_header& th = skb.tcp;
    // Dropped, not refused: the peer tries again, and by then somebody may have been accepted.
    if (inet_csk(listener).icsk_qlen.load_relaxed() >= TCP_MAX_SYN_BACKLOG ||
        sk_acceptq_is_full(listener)) {
        listener.sk_drops.fetch_add(1);
        return;
    }
    const handle<request_sock> h = slab_alloc<request_sock>();
    request_sock* found = slab_get(h);
    if (!found) return;
    request_sock& req = *found;
    std::memset(static_cast<void*>(&req), 0, sizeof(req));
    sock_common& c = req.__req_common;
    c.skc_kind = SKC_KIND_REQUEST;
    c.skc_family = AF_INET;
    c.skc_state.store_relaxed(TCP_NEW_SYN_RECV);
    c.skc_prot_id = listener.__sk_common.skc_prot_id;
    c.skc_bound_dev_if = listener.__sk_common.skc_bound_dev_if;
    c.skc_rcv_saddr = skb.daddr;
    c.skc_daddr = skb.saddr;
    c.skc_num = th.dest;
    c.skc_dport = __builtin_bswap16(th.source);
    req.rsk_listener = sk_handle(listener);
    req.rcv_isn = th.seq;
    req.snt_isn =
        want_isn ? want_isn : env.secure_isn(env, skb.daddr, skb.saddr, th.dest, th.source);
    req.mss = max_of<u16>(th.mss ? th.mss : TCP_MSS_DEFAULT_LEN, TCP_MIN_SND_MSS);
    req.tstamp_ok = th.has_ts;
    req.ts_recent = th.has_ts ? th.ts_val : 0;
    req.sack_ok = th.sack_ok;
    req.wscale_ok = th.has_wscale;
    req.snd_wscale = th.has_wscale ? min_of(th.wscale, TCP_MAX_WSCALE) : u8{0};
    const u32 clear_mss = tp.advmss - (req.tstamp_ok ? TCPOLEN_TSTAMP_ALIGNED : 0);
    const tcp_window_choice win = tcp_select_initial_window(listener, clear_mss, req.wscale_ok);
    req.rcv_wscale = win.rcv_wscale;
    req.rcv_wnd_init = static_cast<u16>(win.rcv_wnd);
    req.timeout_us = env.now_us + TCP_TIMEOUT_INIT;
    if (!inet_reqsk_insert(req)) { // the tuple is in use
        slab_free(h);
        return;
    }
    tcp_reqsk_link(listener, h);
    tcp_v4_send_synack(env, listener, req); // lost or not: the timer sends it again
    timer_kick(req.timeout_us);
}

// The duty thread: this request's SYN-ACK is due again, or the request is to be given up.
void inet_reqsk_timer(handle<request_sock> h, u64) {
    const request_sock* seen = slab_get(h);
    if (!seen) return;
    sock* listener = lock_sock_handle(seen->rsk_listener);
    request_sock* req = slab_get(h);
    if (!listener) {
        if (req) { // its listener is gone
            inet_reqsk_remove(*req);
            slab_free(h);
        }
        return;
    }
    tcp_env& env = this_tcp_env();
    if (req && sk_state(*listener) == TCP_LISTEN && req->timeout_us <= env.now_us) {
        const inet_connection_sock& icsk = inet_csk(*listener);
        const u32 limit = icsk.icsk_syn_retries ? icsk.icsk_syn_retries : TCP_SYNACK_RETRIES;
        const u32 defer = icsk.icsk_accept_defer_s;
        bool expire, resend;
        if (!defer) {
            expire = req->num_timeout >= limit;
            resend = true;
        } else {
            // TCP_DEFER_ACCEPT: an acknowledged request keeps still until its time for data is over.
            expire = req->num_timeout >= limit && (!req->acked || req->num_timeout >= defer);
            resend = !req->acked || req->num_timeout + 1u >= defer;
        }
        if (!expire && resend)
            expire = tcp_rtx_synack(env, *listener, *req) < 0 && !req->acked &&
                     req->num_timeout >= limit;
        if (expire) {
            tcp_reqsk_drop(*listener, h);
        } else {
            const u64 wait = static_cast<u64>(TCP_TIMEOUT_INIT)
                             << min_of<u32>(++req->num_timeout, 7);
            req->timeout_us = env.now_us + min_of<u64>(wait, TCP_RTO_MAX);
        }
    } else if (req && sk_state(*listener) != TCP_LISTEN) {
        tcp_reqsk_drop(*listener, h);
    }
    release_sock(*listener);
}

static void tcp_reqsk_send_ack(tcp_env& env, const request_sock& req) {
    sk_buff skb;
    same_tuple_answer(skb, req);
    skb.tcp.flags = TCPHDR_ACK;
    skb.tcp.seq = req.snt_isn + 1;
    skb.tcp.ack_seq = req.rcv_isn + 1;
    skb.tcp.window = static_cast<u16>(req.rcv_wnd_init >> req.rcv_wscale);
    skb.tcp.has_ts = req.tstamp_ok;
    skb.tcp.ts_val = static_cast<u32>(env.now_us / US_PER_MS) + req.ts_off;
    skb.tcp.ts_ecr = req.ts_recent;
    env.queue_xmit(env, skb);
}

static bool tcp_in_window(u32 seq, u32 end_seq, u32 s_win, u32 e_win) {
    if (seq == s_win) return true;
    if (after(end_seq, s_win) && before(seq, e_win)) return true;
    return seq == e_win && seq == end_seq;
}

// RFC 9293, 3.10.7.4 for SYN-RECEIVED, on a request.
bool tcp_check_req(tcp_env& env, sock& listener, handle<request_sock> h, const sk_buff& skb,
                   sock** child) {
    *child = nullptr;
    request_sock* found = slab_get(h);
    if (!found) return false;
    request_sock& req = *found;
    const tcp_header& th = skb.tcp;
    u8 flags = th.flags & (TCPHDR_RST | TCPHDR_SYN | TCPHDR_ACK);
    bool paws_reject = false;
    if (req.tstamp_ok && th.has_ts && !(flags & TCPHDR_RST))
        paws_reject = seq_diff(req.ts_recent, th.ts_val) > 0;

    if (th.seq == req.rcv_isn && flags == TCPHDR_SYN && !paws_reject) {
        // The SYN again: our SYN-ACK was lost. Once per timeout is enough.
        const u64 due = req.timeout_us;
        const u64 wait = static_cast<u64>(TCP_TIMEOUT_INIT) << min_of<u32>(req.num_timeout, 7);
        if (env.now_us + wait >= due + TCP_INVALID_RATELIMIT && !tcp_rtx_synack(env, listener, req))
            req.timeout_us = env.now_us + min_of<u64>(wait, TCP_RTO_MAX);
        return false;
    }
    // First of all an ACK must be of our SYN (RFC 9293, 3.10.7.4, fifth: else a RST).
    if ((flags & TCPHDR_ACK) && th.ack_seq != req.snt_isn + 1) return !(flags & TCPHDR_RST);

    const u32 rcv_nxt = req.rcv_isn + 1;
    if (paws_reject ||
        !tcp_in_window(th.seq, skb_end_seq(skb), rcv_nxt, rcv_nxt + req.rcv_wnd_init)) {
        if (!(flags & TCPHDR_RST)) tcp_reqsk_send_ack(env, req);
        return false;
    }
    if (req.tstamp_ok && th.has_ts && !after(th.seq, rcv_nxt)) req.ts_recent = th.ts_val;
    if (th.seq == req.rcv_isn)
        flags &= static_cast<u8>(~TCPHDR_SYN); // only its SYN is outside the window
    if (flags & (TCPHDR_RST | TCPHDR_SYN)) {
        const bool rst = !(flags & TCPHDR_RST);
        tcp_reqsk_drop(listener, h);
        return rst;
    }
    if (!(flags & TCPHDR_ACK)) return false;
    // TCP_DEFER_ACCEPT: the bare ACK is not yet what the program wants to be woken for.
    if (req.num_timeout < inet_csk(listener).icsk_accept_defer_s && skb_end_seq(skb) == rcv_nxt) {
        req.acked = 1;
        return false;
    }
    if (sk_state(listener) != TCP_LISTEN) return false;
    if (sk_acceptq_is_full(listener)) {
        // tcp_abort_on_overflow is off: as if the ACK had been lost; our SYN-ACK will fetch another.
        req.acked = 1;
        listener.sk_drops.fetch_add(1);
        return false;
    }
    *child = tcp_create_openreq_child(env, listener, req);
    if (!*child) {
        req.acked = 1;
        return false;
    }
    tcp_reqsk_drop(listener, h);
    inet_csk_reqsk_queue_add(listener, **child);
    return false;
}

// --- children -----------------------------------------------------------------------------------------------

sock* tcp_create_openreq_child(tcp_env& env, sock& listener, request_sock& req) {
    sock* child = inet_csk_clone_lock(listener, req);
    if (!child) return nullptr;
    sock& sk = *child;
    tcp_sock& tp = tcp_sk(sk);
    inet_connection_sock& icsk = inet_csk(sk);
    const tcp_sock& parent = tcp_sk(listener);
    lock_sock(sk);
    const i32 rcvbuf = sk.sk_rcvbuf, sndbuf = sk.sk_sndbuf;
    const u8 ca = icsk.icsk_ca_id, syn_retries = icsk.icsk_syn_retries;
    const u32 user_timeout = icsk.icsk_user_timeout_ms;
    tcp_init_sock(sk);
    sk.sk_rcvbuf = rcvbuf;
    sk.sk_sndbuf = sndbuf;
    icsk.icsk_ca_id = ca;
    icsk.icsk_syn_retries = syn_retries;
    icsk.icsk_user_timeout_ms = user_timeout;

    tp.nonagle = parent.nonagle;
    tp.user_mss = parent.user_mss;
    tp.linger2_s = parent.linger2_s;
    tp.keepalive_time_s = parent.keepalive_time_s;
    tp.keepalive_intvl_s = parent.keepalive_intvl_s;
    tp.keepalive_probes = parent.keepalive_probes;
    tp.notsent_lowat = parent.notsent_lowat;
    tp.window_clamp = parent.window_clamp;
    tp.recvmsg_inq = parent.recvmsg_inq;
    tp.pmtu = parent.pmtu;
    tp.advmss = parent.user_mss ? min_of(parent.user_mss, parent.advmss) : parent.advmss;

    tp.rcv_nxt = tp.rcv_wup = tp.copied_seq = req.rcv_isn + 1;
    tp.rcvq_seq = tp.copied_seq;
    tp.iss = req.snt_isn;
    tp.irs = req.rcv_isn;
    tp.snd_una = tp.snd_nxt = tp.write_seq = tp.snd_sml = tp.snd_up = req.snt_isn + 1;
    tp.high_seq = tp.snd_una;
    tp.retrans_nxt = tp.snd_una;
    tcp_init_wl(tp, req.rcv_isn);
    tp.rcv_wnd = req.rcv_wnd_init;
    tp.rcv_wscale = req.rcv_wscale;
    tp.snd_wscale = req.snd_wscale;
    tp.wscale_ok = req.wscale_ok;
    tp.tstamp_ok = req.tstamp_ok;
    tp.ts_recent = req.ts_recent;
    tp.ts_recent_stamp_s = static_cast<u32>(env.now_us / US_PER_S);
    tp.ts_offset = req.ts_off;
    tp.sack_ok = req.sack_ok;
    tp.mss_clamp = req.mss;
    tp.total_retrans = req.num_retrans;
    tp.rcv_tstamp_us = env.now_us;
    icsk.icsk_ack.lrcvtime_us = env.now_us;
    icsk.icsk_rto_us = TCP_TIMEOUT_INIT;
    tcp_sync_mss(sk, tp.pmtu);
    tcp_initialize_rcv_mss(sk);
    // The handshake's round trip, unless the SYN-ACK was resent (Karn).
    if (!req.num_retrans && !req.num_timeout && req.timeout_us - TCP_TIMEOUT_INIT <= env.now_us) {
        tcp_rtt_estimator(env, sk, env.now_us - (req.timeout_us - TCP_TIMEOUT_INIT));
        tcp_set_rto(sk);
    } else if (req.num_timeout) {
        tp.snd_cwnd = 1; // RFC 6298, 5.7 and RFC 5681, 3.1: a lost SYN counts as a loss
    }
    tcp_set_state(sk, TCP_SYN_RECV);
    sk_publish(sk);
    inet_bind_bucket_add(sk, inet_num(listener));
    if (inet_ehash_insert(sk)) {
        inet_csk_destroy_sock(sk);
        release_sock(sk);
        return nullptr;
    }
    if (sock_flag(sk, SOCK_KEEPOPEN))
        inet_csk_reset_keepalive_timer(sk, env.now_us + keepalive_time_s(tp) * US_PER_S);
    return child;
}

// Feeds a new child the segment that made it, and lets it go. True: answer with a RST.
bool tcp_child_process(tcp_env& env, sock& listener, sock& child, const sk_buff& skb) {
    const bool rst = tcp_rcv_state_process(env, child, skb);
    if (sk_state(child) != TCP_SYN_RECV) sk_data_ready(listener);
    release_sock(child);
    return rst;
}

// --- TIME_WAIT ------------------------------------------------------------------------------------------------

void inet_twsk_deschedule_put(handle<inet_timewait_sock> h) {
    inet_timewait_sock* tw = slab_get(h);
    if (!tw) return;
    inet_twsk_remove(*tw);
    slab_free(h);
}

void inet_twsk_expire(handle<inet_timewait_sock> h) { inet_twsk_deschedule_put(h); }

void tcp_time_wait(tcp_env& env, sock& sk, u8 substate, u64 timeout_us) {
    const tcp_sock& tp = tcp_sk(sk);
    const handle<inet_timewait_sock> h = slab_alloc<inet_timewait_sock>();
    // Without memory the connection simply ends: rude, but it was over anyway.
    if (inet_timewait_sock* tw = slab_get(h)) {
        std::memset(static_cast<void*>(tw), 0, sizeof(*tw));
        tw->__tw_common = sk.__sk_common;
        tw->__tw_common.skc_kind = SKC_KIND_TIMEWAIT;
        tw->__tw_common.skc_state.store_relaxed(TCP_TIME_WAIT);
        tw->__tw_common.skc_hashed = 0;
        tw->tw_substate = substate;
        tw->tw_rcv_nxt = tp.rcv_nxt;
        tw->tw_snd_nxt = tp.snd_nxt;
        tw->tw_rcv_wnd = tcp_receive_window(tp);
        tw->tw_rcv_wscale = tp.rcv_wscale;
        tw->tw_tos = inet_sk(sk).tos;
        tw->tw_has_ts = tp.tstamp_ok;
        tw->tw_ts_recent = tp.ts_recent;
        tw->tw_ts_offset = tp.ts_offset;
        tw->tw_ts_recent_stamp_us = env.now_us;
        tw->tw_reuse = sk.__sk_common.skc_reuse;
        tw->tw_reuseport = sk.__sk_common.skc_reuseport;
        const u64 rto = inet_csk(sk).icsk_rto_us;
        const u64 least = (rto << 2) - (rto >> 1);
        if (substate == TCP_TIME_WAIT) timeout_us = TCP_TIMEWAIT_LEN;
        tw->tw_deadline_us = env.now_us + max_of(timeout_us, least);
        inet_twsk_insert(*tw);
        timer_kick(tw->tw_deadline_us);
    }
    tcp_done(sk);
}

// RFC 9293, 3.10.7.4 for TIME-WAIT, RFC 1122, 4.2.2.13, RFC 6191.
tcp_tw_status tcp_timewait_state_process(tcp_env& env, inet_timewait_sock& tw, const sk_buff& skb,
                                         u32& new_isn) {
    const tcp_header& th = skb.tcp;
    const u32 end_seq = skb_end_seq(skb);
    const bool rst = th.flags & TCPHDR_RST, syn = th.flags & TCPHDR_SYN;
    const bool has_ts = tw.tw_has_ts && th.has_ts;
    const bool paws_reject = has_ts && !rst && seq_diff(tw.tw_ts_recent, th.ts_val) > 0;
    const handle<inet_timewait_sock> self =
        slab_handle_at<inet_timewait_sock>(cell_index_of(REGION_TIMEWAIT, &tw));
    const auto note_ts = [&] {
        if (!has_ts) return;
        tw.tw_ts_recent = th.ts_val;
        tw.tw_ts_recent_stamp_us = env.now_us;
    };

    if (tw.tw_substate == TCP_FIN_WAIT2) {
        if (paws_reject ||
            !tcp_in_window(th.seq, end_seq, tw.tw_rcv_nxt, tw.tw_rcv_nxt + tw.tw_rcv_wnd))
            return rst ? TCP_TW_SUCCESS : TCP_TW_ACK;
        if (rst) {
            inet_twsk_deschedule_put(self);
            return TCP_TW_SUCCESS;
        }
        if (syn && !before(th.seq, tw.tw_rcv_nxt)) return TCP_TW_RST;
        if (!(th.flags & TCPHDR_ACK) || !after(end_seq, tw.tw_rcv_nxt) || end_seq == th.seq)
            return TCP_TW_SUCCESS; // nothing new
        // Data, or a FIN that does not stand where it should: nobody is left to read it.
        if (!(th.flags & TCPHDR_FIN) || end_seq != tw.tw_rcv_nxt + 1) {
            inet_twsk_deschedule_put(self);
            return TCP_TW_RST;
        }
        tw.tw_substate = TCP_TIME_WAIT;
        tw.tw_rcv_nxt = end_seq;
        note_ts();
        tw.tw_deadline_us = env.now_us + TCP_TIMEWAIT_LEN;
        return TCP_TW_ACK;
    }

    if (!paws_reject && th.seq == tw.tw_rcv_nxt && (th.seq == end_seq || rst)) {
        if (rst) { // tcp_rfc1337 is off
            inet_twsk_deschedule_put(self);
            return TCP_TW_SUCCESS;
        }
        tw.tw_deadline_us = env.now_us + TCP_TIMEWAIT_LEN;
        note_ts();
        return TCP_TW_SUCCESS;
    }
    // RFC 1122, 4.2.2.13 (a) and RFC 6191: a newer SYN opens a new connection with the same numbers.
    if (syn && !rst && !(th.flags & TCPHDR_ACK) && !paws_reject &&
        (after(th.seq, tw.tw_rcv_nxt) || (has_ts && seq_diff(tw.tw_ts_recent, th.ts_val) < 0))) {
        new_isn = tw.tw_snd_nxt + 65535 + 2;
        if (!new_isn) new_isn = 1;
        return TCP_TW_SYN;
    }
    if (!rst) {
        // A resent FIN: the other side has not heard our ACK, the 2 MSL start again.
        if (paws_reject || (th.flags & TCPHDR_ACK))
            tw.tw_deadline_us = env.now_us + TCP_TIMEWAIT_LEN;
        return TCP_TW_ACK;
    }
    return TCP_TW_SUCCESS;
}

} // namespace sockshim
