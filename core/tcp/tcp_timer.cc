// What happens when nothing comes: retransmission, window probes, delayed ACKs, keepalive.
//
// The duty thread calls tcp_timer with the sock locked when its earliest deadline has passed; which of
// the sock's three timers that was is seen from their deadlines.
#include <cerrno>

#include "core/tcp/tcp.h"
#include "core/tcp/tcp_cong.h"
#include "core/tcp/tcp_fusion.h"

namespace sockshim {

void tcp_clear_xmit_timers(sock& sk) {
    inet_csk_clear_xmit_timer(sk);
    inet_csk_clear_delack_timer(sk);
    inet_csk_reset_keepalive_timer(sk, 0);
}

// How long an orphan stays in FIN_WAIT2.
u64 tcp_fin_time(const sock& sk) {
    const i32 linger2 = tcp_sk(sk).linger2_s;
    const u64 fin = linger2 > 0 ? static_cast<u64>(linger2) * US_PER_S : TCP_FIN_TIMEOUT;
    const u64 rto = inet_csk(sk).icsk_rto_us;
    return max_of(fin, (rto << 2) - (rto >> 1)); // 3.5 RTO: room for the peer's FIN to be resent
}

static void tcp_write_err(sock& sk) {
    sk.sk_err.store(sk.sk_err_soft ? static_cast<u32>(sk.sk_err_soft) : ETIMEDOUT);
    tcp_tx_purge(sk);
    tcp_done(sk);
}

static void tcp_give_up(tcp_env& env, sock& sk, bool reset) {
    if (reset) tcp_send_active_reset(env, sk);
    tcp_write_err(sk);
}

// An orphan is given up sooner: its data has nobody left who would know (RFC 1122, 4.2.2.20).
static u32 tcp_orphan_retries(const sock& sk, bool alive) {
    if (sk.sk_err_soft && !alive) return 0;
    return TCP_ORPHAN_RETRIES;
}

// The time that `boundary` retransmissions take from a first timeout of `base` on, doubling up to the
// maximum: limits are counts to the administrator and time to the user.
static u64 tcp_model_timeout(u32 boundary, u64 base) {
    u64 total = 0, step = base;
    for (u32 i = 0; i <= boundary; i++) {
        total += step;
        step = min_of<u64>(step << 1, TCP_RTO_MAX);
    }
    return total;
}

static bool retransmits_timed_out(tcp_env& env, const sock& sk, u32 boundary, u64 timeout_us) {
    const inet_connection_sock& icsk = inet_csk(sk);
    const tcp_sock& tp = tcp_sk(sk);
    if (!icsk.icsk_retransmits || !tp.retrans_stamp_us) return false;
    if (!timeout_us) {
        const bool syn = sk_statef(sk) & (TCPF_SYN_SENT | TCPF_SYN_RECV);
        timeout_us = tcp_model_timeout(boundary, syn ? TCP_TIMEOUT_INIT : TCP_RTO_MIN);
    }
    return env.now_us - tp.retrans_stamp_us >= timeout_us;
}

// True: too long; the connection is over.
static bool tcp_write_timeout(tcp_env& env, sock& sk) {
    const inet_connection_sock& icsk = inet_csk(sk);
    bool expired, do_reset = false;
    if (sk_statef(sk) & (TCPF_SYN_SENT | TCPF_SYN_RECV)) {
        const u32 retries = icsk.icsk_syn_retries ? icsk.icsk_syn_retries : TCP_SYN_RETRIES;
        expired = icsk.icsk_retransmits >= retries;
    } else {
        u32 retries = TCP_RETR2;
        if (sock_flag(sk, SOCK_DEAD)) {
            const bool alive = icsk.icsk_rto_us < TCP_RTO_MAX;
            retries = tcp_orphan_retries(sk, alive);
            do_reset = alive || !retransmits_timed_out(env, sk, retries, 0);
        }
        expired = retransmits_timed_out(env, sk, retries, icsk.icsk_user_timeout_ms * US_PER_MS);
    }
    if (icsk.icsk_user_timeout_ms && tcp_sk(sk).retrans_stamp_us &&
        (sk_statef(sk) & (TCPF_SYN_SENT | TCPF_SYN_RECV)))
        expired =
            expired || retransmits_timed_out(env, sk, 0, icsk.icsk_user_timeout_ms * US_PER_MS);
    if (!expired) return false;
    if (do_reset) tcp_send_active_reset(env, sk);
    tcp_write_err(sk);
    return true;
}

// RFC 5482: the user's limit cuts the last wait short.
static u64 tcp_clamp_rto_to_user_timeout(tcp_env& env, const sock& sk) {
    const inet_connection_sock& icsk = inet_csk(sk);
    const u64 start = tcp_sk(sk).retrans_stamp_us;
    if (!icsk.icsk_user_timeout_ms || !start) return icsk.icsk_rto_us;
    const u64 end = start + icsk.icsk_user_timeout_ms * US_PER_MS;
    if (env.now_us >= end) return 1000;
    return min_of<u64>(icsk.icsk_rto_us, end - env.now_us);
}

// RFC 6298, (5.4) to (5.6).
void tcp_retransmit_timer(tcp_env& env, sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    inet_connection_sock& icsk = inet_csk(sk);
    if (!tcp_packets_out(tp)) return;
    const bool handshake = sk_statef(sk) & (TCPF_SYN_SENT | TCPF_SYN_RECV);
    bool resent = false;
    if (!tp.snd_wnd && !sock_flag(sk, SOCK_DEAD) && !handshake) {
        // The receiver has shrunk its window to nothing over what is in flight. It lives as long as it
        // answers; resending is a window probe then (RFC 9293, 3.8.6).
        if (env.now_us - tp.rcv_tstamp_us > TCP_RTO_MAX) {
            tcp_write_err(sk);
            return;
        }
        tcp_enter_loss(env, sk);
        tcp_retransmit_skb(env, sk, tp.snd_una, tp.snd_nxt);
        resent = true;
    } else if (tcp_write_timeout(env, sk)) {
        return;
    }
    if (!resent) {
        if (handshake)
            tp.timed_us = 0;
        else
            tcp_enter_loss(env, sk);
        if (icsk.icsk_retransmits < 255) icsk.icsk_retransmits++;
        if (tcp_retransmit_skb(env, sk, tp.snd_una, tp.snd_nxt) < 0) {
            // Lost before the wire: no news about the path. Try again soon, without backing off.
            tcp_reset_xmit_timer(env, sk, ICSK_TIME_RETRANS, TCP_RESOURCE_PROBE_INTERVAL);
            return;
        }
        if (icsk.icsk_backoff < 255) icsk.icsk_backoff++;
    }
    // TCP_THIN_LINEAR_TIMEOUTS: a stream with little in flight does not back off at first.
    const bool thin = tp.thin_lto && sk_state(sk) == TCP_ESTABLISHED &&
                      icsk.icsk_retransmits <= 6 && tp.snd_nxt - tp.snd_una < 4 * tp.mss_cache;
    if (thin) {
        icsk.icsk_backoff = 0;
        tcp_set_rto(sk);
    } else {
        icsk.icsk_rto_us = min_of(icsk.icsk_rto_us << 1, TCP_RTO_MAX); // (5.5)
    }
    tcp_reset_xmit_timer(env, sk, ICSK_TIME_RETRANS, tcp_clamp_rto_to_user_timeout(env, sk));
}

void tcp_probe_timer(tcp_env& env, sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    inet_connection_sock& icsk = inet_csk(sk);
    if (tcp_packets_out(tp) || !tcp_send_head(tp)) {
        icsk.icsk_probes_out = 0;
        icsk.icsk_probes_tstamp_us = 0;
        return;
    }
    // RFC 1122, 4.2.2.17: a peer that answers probes is never given up; who does not is, in time.
    if (!icsk.icsk_probes_tstamp_us) {
        icsk.icsk_probes_tstamp_us = env.now_us;
    } else if (icsk.icsk_user_timeout_ms &&
               env.now_us - icsk.icsk_probes_tstamp_us >= icsk.icsk_user_timeout_ms * US_PER_MS) {
        tcp_give_up(env, sk, false);
        return;
    }
    u32 max_probes = TCP_RETR2;
    if (sock_flag(sk, SOCK_DEAD)) {
        const u64 base = max_of(icsk.icsk_rto_us, TCP_RTO_MIN);
        const bool alive = (base << min_of<u32>(icsk.icsk_backoff, 20)) < TCP_RTO_MAX;
        max_probes = tcp_orphan_retries(sk, alive);
        if (!alive && icsk.icsk_backoff >= max_probes) {
            tcp_give_up(env, sk, true);
            return;
        }
    }
    if (icsk.icsk_probes_out >= max_probes) {
        tcp_give_up(env, sk, false);
        return;
    }
    tcp_send_probe0(env, sk);
}

void tcp_delack_timer(tcp_env& env, sock& sk) {
    inet_connection_sock& icsk = inet_csk(sk);
    const u8 pending = icsk.icsk_ack.pending;
    inet_csk_clear_delack_timer(sk);
    if ((sk_statef(sk) & (TCPF_CLOSE | TCPF_LISTEN)) || !(pending & ICSK_ACK_SCHED)) return;
    if (!icsk.icsk_ack.pingpong) {
        // Delayed for nothing: wait longer next time.
        icsk.icsk_ack.ato_us = min_of(icsk.icsk_ack.ato_us << 1, icsk.icsk_rto_us);
    } else {
        // The program took its time: this is no conversation (any more).
        icsk.icsk_ack.pingpong = 0;
        icsk.icsk_ack.ato_us = TCP_ATO_MIN;
    }
    tcp_send_ack(env, sk);
}

// RFC 9293, 3.8.4. Also the clock of an orphan in FIN_WAIT2.
void tcp_keepalive_timer(tcp_env& env, sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    inet_connection_sock& icsk = inet_csk(sk);
    if (sk_state(sk) == TCP_FIN_WAIT2 && sock_flag(sk, SOCK_DEAD)) {
        const u64 fin_time = tcp_fin_time(sk);
        if (tp.linger2_s >= 0 && fin_time > TCP_TIMEWAIT_LEN) {
            tcp_time_wait(env, sk, TCP_FIN_WAIT2, TCP_TIMEWAIT_LEN);
            return;
        }
        tcp_send_active_reset(env, sk);
        tcp_done(sk);
        return;
    }
    if (!sock_flag(sk, SOCK_KEEPOPEN) ||
        (sk_statef(sk) & (TCPF_CLOSE | TCPF_SYN_SENT | TCPF_LISTEN)))
        return;
    const u64 idle_limit = keepalive_time_s(tp) * US_PER_S;
    u64 next = idle_limit;
    // Fused: the peer is in this arena, and its end is noticed without probes.
    if (!tcp_packets_out(tp) && !tcp_send_head(tp) && !tp.fused.load()) {
        const u64 last = max_of(icsk.icsk_ack.lrcvtime_us, tp.rcv_tstamp_us);
        const u64 idle = env.now_us > last ? env.now_us - last : 0;
        if (idle >= idle_limit) {
            const u64 user = icsk.icsk_user_timeout_ms * US_PER_MS;
            const bool dead = user ? idle >= user && icsk.icsk_probes_out > 0
                                   : icsk.icsk_probes_out >= keepalive_probes(tp);
            if (dead) {
                tcp_give_up(env, sk, true);
                return;
            }
            if (tcp_write_wakeup(env, sk) <= 0) {
                icsk.icsk_probes_out++;
                next = keepalive_intvl_s(tp) * US_PER_S;
            } else {
                next = TCP_RESOURCE_PROBE_INTERVAL;
            }
        } else {
            next = idle_limit - idle;
        }
    }
    inet_csk_reset_keepalive_timer(sk, env.now_us + next);
}

void tcp_timer_env(tcp_env& env, sock& sk) {
    inet_connection_sock& icsk = inet_csk(sk);
    const u64 now = env.now_us;
    if (icsk.icsk_delack_us && icsk.icsk_delack_us <= now) tcp_delack_timer(env, sk);
    if (icsk.icsk_timeout_us && icsk.icsk_timeout_us <= now) {
        const u8 pending = icsk.icsk_pending;
        inet_csk_clear_xmit_timer(sk);
        if (sk_statef(sk) & (TCPF_CLOSE | TCPF_LISTEN)) return;
        if (tcp_sk(sk).fused.load())
            tcp_fused_timer(sk); // nothing is in flight there
        else if (pending == ICSK_TIME_RETRANS)
            tcp_retransmit_timer(env, sk);
        else if (pending == ICSK_TIME_PROBE0)
            tcp_probe_timer(env, sk);
    }
    if (icsk.icsk_keepalive_us && icsk.icsk_keepalive_us <= now) {
        inet_csk_reset_keepalive_timer(sk, 0);
        tcp_keepalive_timer(env, sk);
    }
}

void tcp_timer(sock& sk, u64) { tcp_timer_env(this_tcp_env(), sk); }

} // namespace sockshim
