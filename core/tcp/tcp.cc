// A TCP sock's life: creation, states, shutdown, close, disconnect, readiness, repair.
//
// Ends: tcp_done puts a sock into CLOSE. One that the program still holds stays until tcp_close; an
// orphan (SOCK_DEAD) is marked and freed by tcp_release_cb, the last thing done under its lock, so that
// whoever is in the middle of it may finish.
#include "core/tcp/tcp.h"

#include <cerrno>
#include <cstring>
#include <linux/sockios.h>
#include <sys/ioctl.h>

#include "core/base/raw_syscall.h"
#include "core/inet/inet_hashtables.h"
#include "core/net/handover.h"
#include "core/net/kernel_half.h"
#include "core/tcp/tcp_cong.h"
#include "core/tcp/tcp_fusion.h"
#include "core/trace/trace.h"

namespace sockshim {

int tcp_init_sock(sock& sk) {
    inet_connection_sock& icsk = inet_csk(sk);
    tcp_sock& tp = tcp_sk(sk);
    icsk.icsk_rto_us = TCP_TIMEOUT_INIT;
    icsk.icsk_rto_min_us = TCP_RTO_MIN;
    tp.mdev_us = TCP_TIMEOUT_INIT;
    tp.snd_cwnd = TCP_INIT_CWND;
    tp.snd_ssthresh = TCP_INFINITE_SSTHRESH;
    tp.snd_cwnd_clamp = ~0u;
    tp.reordering = TCP_REORDERING;
    tp.mss_cache = TCP_MSS_DEFAULT_LEN;
    tp.mss_clamp = TCP_MSS_DEFAULT_LEN;
    tp.pmtu = 65535; // lo's; tcp_v4_connect asks the route
    tp.advmss = 65535 - 40;
    tp.rcvq_space = tcp_rmem[1] / 2;
    tcp_assign_congestion_control(sk);
    sk.sk_sndbuf = tcp_wmem[1];
    sk.sk_rcvbuf = tcp_rmem[1];
    return 0;
}

// The connection is open: what could not be known before. sk_lock held.
void tcp_init_transfer(tcp_env& env, sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    tcp_init_congestion_control(sk);
    if (!(sk.sk_userlocks & SOCK_SNDBUF_LOCK)) {
        // Twice the initial window in segments as Linux accounts for them, overhead included.
        u32 per_segment = 1;
        while (per_segment < max_of<u32>(tp.mss_clamp, tp.mss_cache) + 320) per_segment <<= 1;
        const u64 want = 2ull * max_of(TCP_INIT_CWND, tp.snd_cwnd) * (per_segment + 256);
        if (want > static_cast<u64>(sk.sk_sndbuf))
            sk.sk_sndbuf = static_cast<i32>(min_of<u64>(want, static_cast<u64>(tcp_wmem[2])));
    }
    tp.rcvq_seq = tp.copied_seq;
    tp.rcvq_stamp_us = env.now_us;
    tp.rcvq_space = min_of(tp.rcv_wnd, TCP_INIT_CWND * tp.advmss);
    tp.retrans_stamp_us = 0;
    tp.lsndtime_us = 0;
    if (sock_flag(sk, SOCK_KEEPOPEN))
        inet_csk_reset_keepalive_timer(sk, env.now_us + keepalive_time_s(tp) * US_PER_S);
}

// --- states ----------------------------------------------------------------------------------------------

void tcp_set_state(sock& sk, u8 state) {
    if (state == TCP_CLOSE) {
        // Out of the table while the old state still says which one.
        sk_prot(sk).unhash(sk);
        if ((sk.__sk_common.skc_hashed & SKC_HASHED_BIND) &&
            !(sk.sk_userlocks & SOCK_BINDPORT_LOCK))
            inet_put_port(sk);
    }
    sk.__sk_common.skc_state.store(state);
}

static constexpr u8 TCP_ACTION_FIN = 0x80;

// Where close and shutdown lead (RFC 9293, 3.10.4), and whether a FIN goes with it.
static constexpr u8 new_state[TCP_MAX_STATES] = {
    /* (none)       */ TCP_CLOSE,
    /* ESTABLISHED  */ TCP_FIN_WAIT1 | TCP_ACTION_FIN,
    /* SYN_SENT     */ TCP_CLOSE,
    /* SYN_RECV     */ TCP_FIN_WAIT1 | TCP_ACTION_FIN,
    /* FIN_WAIT1    */ TCP_FIN_WAIT1,
    /* FIN_WAIT2    */ TCP_FIN_WAIT2,
    /* TIME_WAIT    */ TCP_CLOSE,
    /* CLOSE        */ TCP_CLOSE,
    /* CLOSE_WAIT   */ TCP_LAST_ACK | TCP_ACTION_FIN,
    /* LAST_ACK     */ TCP_LAST_ACK,
    /* LISTEN       */ TCP_CLOSE,
    /* CLOSING      */ TCP_CLOSING,
    /* NEW_SYN_RECV */ TCP_CLOSE,
};

bool tcp_close_state(sock& sk) {
    const u8 next = new_state[min_of<u8>(sk_state(sk), TCP_MAX_STATES - 1)];
    tcp_set_state(sk, next & ~TCP_ACTION_FIN);
    return next & TCP_ACTION_FIN;
}

void tcp_done(sock& sk) {
    tcp_set_state(sk, TCP_CLOSE);
    tcp_clear_xmit_timers(sk);
    sk.sk_shutdown.store(SHUTDOWN_MASK);
    if (sock_flag(sk, SOCK_DEAD))
        inet_csk_destroy_sock(sk);
    else
        sk_state_change(sk);
}

void inet_csk_destroy_sock(sock& sk) { tcp_sk(sk).destroy = 1; }

void tcp_release_cb(sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    if (SOCKSHIM_LIKELY(!tp.destroy)) return;
    tp.destroy = 0;
    if (sk_state(sk) != TCP_CLOSE) tcp_set_state(sk, TCP_CLOSE);
    tcp_destroy_sock(sk);
    sk_free(sk);
}

void tcp_destroy_sock(sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    tcp_clear_xmit_timers(sk);
    tp.fused.store(0);
    ring_destroy(tp.tx_ring);
    ring_destroy(tp.rx_ring);
    tp.tx_ring = {};
    tp.rx_ring = {};
    if (sk.__sk_common.skc_hashed & SKC_HASHED_BIND) inet_put_port(sk);
}

// --- leaving the fused path -------------------------------------------------------------------------------

void tcp_lock_unfused(sock& sk) {
    for (;;) {
        tcp_unfuse(sk);
        lock_sock(sk);
        if (!tcp_sk(sk).fused.load()) return;
        release_sock(sk); // fused again by another thread in between
    }
}

void tcp_fuse_pending(sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    if (SOCKSHIM_LIKELY(!tp.fuse_want)) return;
    tp.fuse_want = 0;
    tcp_fuse_try(sk);
}

// --- close, shutdown, abort ----------------------------------------------------------------------------------

static void tcp_rx_purge(sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    tp.num_ooo = 0;
    tp.ooo_fin = 0;
    const u32 unread = tcp_inq_bytes(tp);
    tp.copied_seq += unread;
    tp.rx_off += unread;
    ring_destroy(tp.rx_ring);
    tp.rx_ring = {};
}

void tcp_tx_purge(sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    ring_destroy(tp.tx_ring);
    tp.tx_ring = {};
    // What is queued and was never sent is forgotten; what is in flight keeps its numbers.
    const u32 unsent = tcp_tx_end(tp) - seq_min(tp.snd_nxt, tcp_tx_end(tp));
    tp.write_seq -= unsent;
    tp.tx_off -= unsent;
    if (tp.tx_fin && before(tp.snd_nxt, tp.write_seq)) {
        tp.tx_fin = 0;
        tp.write_seq--;
    }
    tp.snd_una = tp.snd_nxt = tp.write_seq;
    tcp_clean_sacked(tp);
    inet_csk_clear_xmit_timer(sk);
}

static bool tcp_need_reset(u8 state) {
    return (1u << state) &
           (TCPF_ESTABLISHED | TCPF_CLOSE_WAIT | TCPF_FIN_WAIT1 | TCPF_FIN_WAIT2 | TCPF_SYN_RECV);
}

void tcp_abort(tcp_env& env, sock& sk, int err) {
    if (sk_state(sk) == TCP_CLOSE) return;
    if (tcp_need_reset(sk_state(sk))) tcp_send_active_reset(env, sk);
    sk.sk_err.store(static_cast<u32>(err));
    tcp_tx_purge(sk);
    tcp_done(sk);
}

static bool close_over(void* arg) {
    return !(sk_statef(*static_cast<sock*>(arg)) & (TCPF_FIN_WAIT1 | TCPF_CLOSING | TCPF_LAST_ACK));
}

// The sock is an orphan now: what becomes of it (RFC 9293, 3.6).
static void tcp_orphan(tcp_env& env, sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    sock_set_flag(sk, SOCK_DEAD, true);
    sk.sk_socket = {};
    if (sk_state(sk) == TCP_FIN_WAIT2) {
        if (tp.linger2_s < 0) {
            tcp_send_active_reset(env, sk);
            tcp_done(sk);
        } else {
            const u64 tmo = tcp_fin_time(sk);
            if (tmo > TCP_TIMEWAIT_LEN)
                inet_csk_reset_keepalive_timer(sk, env.now_us + tmo - TCP_TIMEWAIT_LEN);
            else
                tcp_time_wait(env, sk, TCP_FIN_WAIT2, tmo);
        }
    }
    if (sk_state(sk) == TCP_CLOSE) inet_csk_destroy_sock(sk);
}

// proto.close; no lock held.
void tcp_close(sock& sk, i64 timeout_us) {
    trace_way("tcp_close");
    tcp_lock_unfused(sk);
    tcp_sock& tp = tcp_sk(sk);
    const u8 state = sk_state(sk);
    sk.sk_shutdown.store(SHUTDOWN_MASK);
    if (state == TCP_LISTEN) {
        tcp_set_state(sk, TCP_CLOSE);
        tcp_reqsk_flush(sk);
        inet_csk_listen_stop(sk);
    } else if (state != TCP_CLOSE) {
        const bool unread = tcp_inq_bytes(tp) != 0;
        tcp_rx_purge(sk);
        tcp_env& env = this_tcp_env();
        if (unread) {
            // RFC 2525, 2.17: what the program did not read is lost, and the peer has to know.
            if (tcp_need_reset(state)) tcp_send_active_reset(env, sk);
            tcp_tx_purge(sk);
            tcp_set_state(sk, TCP_CLOSE);
        } else if (sock_flag(sk, SOCK_LINGER) && !sk.sk_lingertime_s) {
            tcp_disconnect(sk, 0); // SO_LINGER with no time: ABORT (RFC 9293, 3.10.5)
        } else if (tcp_close_state(sk)) {
            tcp_send_fin(env, sk);
        }
        if (timeout_us && !close_over(&sk)) {
            const i64 deadline = timeout_us < 0 ? -1 : static_cast<i64>(env.now_us) + timeout_us;
            release_sock(sk);
            wait_on(sk.sk_wq, WAIT_RX, close_over, &sk, deadline);
            lock_sock(sk);
        }
    }
    tcp_orphan(this_tcp_env(), sk);
    release_sock(sk);
}

// proto.shutdown; sk_lock held.
void tcp_shutdown(sock& sk, int how) {
    trace_way("tcp_shutdown");
    if (!(how & SEND_SHUTDOWN)) return;
    if (sk_statef(sk) & (TCPF_ESTABLISHED | TCPF_SYN_SENT | TCPF_CLOSE_WAIT))
        if (tcp_close_state(sk)) tcp_send_fin(this_tcp_env(), sk);
}

// proto.disconnect; sk_lock held. Back to a fresh sock.
int tcp_disconnect(sock& sk, int) {
    trace_way("tcp_disconnect");
    inet_connection_sock& icsk = inet_csk(sk);
    tcp_sock& tp = tcp_sk(sk);
    const u8 old = sk_state(sk);
    if (old == TCP_LISTEN) {
        tcp_set_state(sk, TCP_CLOSE);
        tcp_reqsk_flush(sk);
        inet_csk_listen_stop(sk);
    } else if (tcp_need_reset(old) ||
               (tp.snd_nxt != tp.write_seq && ((1u << old) & (TCPF_CLOSING | TCPF_LAST_ACK)))) {
        // RFC 9293, 3.10.7: whatever the peer still sends is answered with a RST; say so at once.
        tcp_send_active_reset(this_tcp_env(), sk);
        sk.sk_err.store(ECONNRESET);
    } else if (old == TCP_SYN_SENT) {
        sk.sk_err.store(ECONNRESET);
    }
    if (sk_state(sk) != TCP_CLOSE) tcp_set_state(sk, TCP_CLOSE);
    tcp_clear_xmit_timers(sk);
    tcp_rx_purge(sk);
    tcp_tx_purge(sk);

    inet_dport(sk) = 0;
    inet_daddr(sk) = 0;
    if (!(sk.sk_userlocks & SOCK_BINDADDR_LOCK)) {
        inet_sk(sk).inet_saddr = 0;
        inet_rcv_saddr(sk) = 0;
    }
    sk.sk_shutdown.store(0);
    sock_set_flag(sk, SOCK_DONE, false);
    sk.sk_err_soft = 0;

    // All that belonged to the connection; what the program has chosen stays.
    tp.urg_data = tp.urg_mode = 0;
    tp.tx_fin = tp.rx_fin = tp.ooo_fin = 0;
    tp.num_ooo = tp.num_sacked = tp.has_dsack = 0;
    tp.dupacks = 0;
    tp.srtt_us = tp.mdev_max_us = tp.rttvar_us = tp.rtt_min_us = 0;
    tp.mdev_us = TCP_TIMEOUT_INIT;
    tp.timed_us = tp.retrans_stamp_us = tp.oow_stamp_us = 0;
    tp.snd_cwnd = TCP_INIT_CWND;
    tp.snd_ssthresh = TCP_INFINITE_SSTHRESH;
    tp.snd_cwnd_cnt = tp.is_cwnd_limited = 0;
    tp.undo_marker = 0;
    tp.high_seq = tp.retrans_nxt = 0;
    tp.max_window = tp.snd_wnd = tp.rcv_wnd = 0;
    tp.snd_wscale = tp.rcv_wscale = tp.wscale_ok = tp.tstamp_ok = tp.sack_ok = 0;
    tp.ts_recent = tp.ts_recent_stamp_s = 0;
    tp.mss_cache = tp.mss_clamp = TCP_MSS_DEFAULT_LEN;
    tp.fuse_want = 0;
    tp.tx_off = tp.rx_off = 0;
    tp.rcv_nxt = tp.copied_seq = tp.rcv_wup = 0;
    tp.snd_una = tp.snd_nxt = tp.write_seq = 0;
    tp.bytes_received = tp.bytes_acked = tp.bytes_sent = tp.bytes_retrans = 0;
    tp.segs_in = tp.segs_out = tp.data_segs_in = tp.data_segs_out = 0;
    tp.total_retrans = tp.delivered = tp.dsack_dups = tp.rcv_ooopack = 0;
    tcp_set_ca_state(sk, TCP_CA_Open);
    icsk.icsk_retransmits = icsk.icsk_backoff = icsk.icsk_probes_out = 0;
    icsk.icsk_probes_tstamp_us = 0;
    icsk.icsk_rto_us = TCP_TIMEOUT_INIT;
    std::memset(&icsk.icsk_ack, 0, sizeof(icsk.icsk_ack));
    sk_state_change(sk);
    return 0;
}

// --- readiness -------------------------------------------------------------------------------------------------

// Without the lock: each value is read once, and a change after that wakes the poller.
// A reset is several stores under the lock, the error the first. Linux's poller sleeps until all are done; one
// that is awake looks again, for no longer than who writes them may have lost his processor. Not with the
// lock, which may be the caller's, or come before one that he has.
static void tcp_await_end(const sock& sk) {
    constexpr u64 longest_us = 4000;
    constexpr u32 looks = 64;
    const u64 began = monotonic_us();
    for (u32 i = 0;; ++i) {
        const bool whole = sk_state(sk) == TCP_CLOSE && sk.sk_shutdown.load() == SHUTDOWN_MASK;
        if (whole || !(sk.sk_lock.word.load() & robust_lock::owner_mask)) return;
        if (i < looks) {
            cpu_relax();
            continue;
        }
        raw_syscall(SYS_sched_yield);
        if (monotonic_us() - began > longest_us) return;
    }
}

// What the packet path's state says, the error apart.
static u32 tcp_state_poll(sock& sk) {
    const tcp_sock& tp = tcp_sk(sk);
    const u8 state = sk_state(sk);
    if (state == TCP_LISTEN) {
        return sk.sk_ack_backlog.load() || kernel_half_ready(sk) ? POLLIN | POLLRDNORM : 0;
    }
    const u8 shutdown = sk.sk_shutdown.load();
    u32 mask = 0;
    // POLLHUP says that neither direction works any more; half-closed sockets get POLLRDHUP.
    if (shutdown == SHUTDOWN_MASK || state == TCP_CLOSE) mask |= POLLHUP;
    if (shutdown & RCV_SHUTDOWN) mask |= POLLIN | POLLRDNORM | POLLRDHUP;
    if (state != TCP_SYN_SENT && state != TCP_SYN_RECV) {
        const u16 urg = tp.urg_data;
        u32 target = static_cast<u32>(max_of(sk.sk_rcvlowat, 1));
        if (urg && tp.urg_seq == tp.copied_seq && !sock_flag(sk, SOCK_URGINLINE)) target++;
        const u32 avail = __atomic_load_n(&tp.rcv_nxt, __ATOMIC_ACQUIRE) - tp.copied_seq;
        if (avail && (avail >= target || tcp_receive_window(tp) <= inet_csk(sk).icsk_ack.rcv_mss))
            mask |= POLLIN | POLLRDNORM;
        if ((shutdown & SEND_SHUTDOWN) || tcp_stream_is_writeable(sk)) mask |= POLLOUT | POLLWRNORM;
        if (urg & TCP_URG_VALID) mask |= POLLPRI;
    }
    return mask;
}

u32 tcp_poll(sock& sk) {
    const tcp_sock& tp = tcp_sk(sk);
    if (tp.fused.load()) {
        const u32 mask = tcp_fused_poll(sk);
        if (SOCKSHIM_LIKELY(tp.fused.load())) return mask; // else it left the fused path meanwhile
    }
    for (;;) {
        const bool error = sk.sk_err.load();
        if (SOCKSHIM_UNLIKELY(error)) tcp_await_end(sk);
        const u32 mask = tcp_state_poll(sk);
        if (error) return mask | POLLERR;
        if (SOCKSHIM_LIKELY(!sk.sk_err.load())) return mask; // else the end began in between
    }
}

int tcp_ioctl(sock& sk, unsigned cmd, unsigned long arg) {
    trace_way("tcp_ioctl");
    int answer = 0;
    lock_sock(sk);
    tcp_sock& tp = tcp_sk(sk);
    tcp_fused_sync(tp);
    const u32 statef = sk_statef(sk);
    const bool young = statef & (TCPF_SYN_SENT | TCPF_SYN_RECV);
    int err = 0;
    switch (cmd) {
    case SIOCINQ:
        if (statef & TCPF_LISTEN) {
            err = -EINVAL;
            break;
        }
        if (young)
            answer = 0;
        else if (sock_flag(sk, SOCK_URGINLINE) || !tp.urg_data ||
                 before(tp.urg_seq, tp.copied_seq) || !before(tp.urg_seq, tp.rcv_nxt))
            answer = static_cast<int>(tcp_inq_bytes(tp));
        else
            answer = static_cast<int>(tp.urg_seq - tp.copied_seq);
        break;
    case SIOCATMARK: answer = tp.urg_data && tp.urg_seq == tp.copied_seq; break;
    case SIOCOUTQ:
        if (statef & TCPF_LISTEN)
            err = -EINVAL;
        else if (young)
            answer = 0;
        else if (tp.fused.load())
            answer = static_cast<int>(min_of<u64>(tcp_fused_outq(sk), 0x7fffffff));
        else
            answer = static_cast<int>(tp.write_seq - tp.snd_una);
        break;
    case SIOCOUTQNSD:
        if (statef & TCPF_LISTEN)
            err = -EINVAL;
        else
            answer = young ? 0 : static_cast<int>(tp.write_seq - tp.snd_nxt);
        break;
    default: err = -ENOIOCTLCMD_SHIM; break;
    }
    release_sock(sk);
    return err ? err : put_user(answer, reinterpret_cast<void*>(arg));
}

// --- repair -------------------------------------------------------------------------------------------------------

// The lock's owner died inside. Every step under the lock is one that a packet loss could have left
// behind, apart from values that belong together: those are made whole here. The rings' head and tail
// are the truth (each moves by one store, after its bytes), and sequence numbers follow from them.
void tcp_repair(sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    inet_connection_sock& icsk = inet_csk(sk);
    const u8 state = sk_state(sk);
    if (state == TCP_LISTEN) {
        inet_csk_reqsk_queue_rebuild(sk);
        tcp_reqsk_rebuild(sk);
        return;
    }
    if (state == TCP_CLOSE) {
        if (sock_flag(sk, SOCK_DEAD))
            inet_csk_destroy_sock(sk);
        else
            sk_state_change(sk);
        return;
    }
    tcp_fused_repair(sk);
    tcp_env& env = this_tcp_env();
    const bool handshake = sk_statef(sk) & (TCPF_SYN_SENT | TCPF_SYN_RECV);
    // Our SYN is acknowledged, and what should have come of that is half done: nothing would be sent again.
    if (handshake && !tcp_packets_out(tp)) {
        tcp_abort(env, sk, ECONNRESET);
        return;
    }
    if (!handshake && !tp.fused.load()) {
        if (const stream_ring* rx = slab_get(tp.rx_ring)) {
            const u64 head = rx->head.load(), tail = rx->tail.load();
            if (tail - head > extent_max_bytes) {
                tcp_abort(env, sk, ECONNRESET);
                return;
            }
            tp.rx_off = head;
            tp.copied_seq = tp.irs + 1 + static_cast<u32>(head);
            tp.rcv_nxt = tp.irs + 1 + static_cast<u32>(tail) + tp.rx_fin;
        }
        // Reported as received, perhaps half filed: to be sent again.
        tp.num_ooo = tp.ooo_fin = tp.has_dsack = 0;
        if (stream_ring* tx = slab_get(tp.tx_ring)) {
            tp.tx_off = tx->tail.load();
            tp.write_seq = tp.iss + 1 + static_cast<u32>(tp.tx_off) + tp.tx_fin;
            const u32 una = tp.iss + 1 + static_cast<u32>(tx->head.load());
            if (before(tp.snd_una, una)) tp.snd_una = una;
        }
        if (after(tp.snd_una, tp.write_seq)) tp.snd_una = tp.write_seq;
        tp.snd_nxt = seq_clamp(tp.snd_nxt, tp.snd_una, tp.write_seq);
        tp.num_sacked = 0;
        tp.dupacks = 0;
        if (tp.rx_fin) {
            sk.sk_shutdown.store(sk.sk_shutdown.load() | RCV_SHUTDOWN);
            if (state == TCP_ESTABLISHED) tcp_set_state(sk, TCP_CLOSE_WAIT);
        }
        if (!tp.tx_fin && (sk_statef(sk) & (TCPF_FIN_WAIT1 | TCPF_CLOSING | TCPF_LAST_ACK)))
            tcp_send_fin(env, sk);
    }
    if (tcp_packets_out(tp)) {
        if (!handshake) tcp_enter_loss(env, sk);
        tp.timed_us = 0;
        tcp_reset_xmit_timer(env, sk, ICSK_TIME_RETRANS, max_of(icsk.icsk_rto_us, TCP_RTO_MIN));
    } else if (tcp_send_head(tp)) {
        tcp_reset_xmit_timer(env, sk, ICSK_TIME_PROBE0, TCP_RTO_MIN);
    }
    if (!handshake) {
        icsk.icsk_ack.pending |= ICSK_ACK_SCHED;
        inet_csk_reset_delack_timer(sk, env.now_us + TCP_ATO_MIN);
    }
    sk_state_change(sk);
}

} // namespace sockshim
