// Pluggable congestion control and the one that is always there, NewReno (RFC 5681, RFC 6582).
#include "core/tcp/tcp_cong.h"

#include <cerrno>
#include <cstring>

#include "core/tcp/tcp.h"

namespace sockshim {

// Slow start (RFC 5681, 3.1): one segment for each one acknowledged, up to ssthresh.
u32 tcp_slow_start(tcp_sock& tp, u32 acked) {
    const u32 cwnd = min_of(tp.snd_cwnd + acked, tp.snd_ssthresh);
    acked -= min_of(acked, cwnd - min_of(cwnd, tp.snd_cwnd));
    tp.snd_cwnd = min_of(max_of(cwnd, 1u), tp.snd_cwnd_clamp);
    return acked;
}

// Congestion avoidance: one segment for each w acknowledged, carried over in snd_cwnd_cnt.
void tcp_cong_avoid_ai(tcp_sock& tp, u32 w, u32 acked) {
    w = max_of(w, 1u);
    if (tp.snd_cwnd_cnt >= w) {
        tp.snd_cwnd_cnt = 0;
        tp.snd_cwnd++;
    }
    tp.snd_cwnd_cnt += acked;
    if (tp.snd_cwnd_cnt >= w) {
        const u32 delta = tp.snd_cwnd_cnt / w;
        tp.snd_cwnd_cnt -= delta * w;
        tp.snd_cwnd += delta;
    }
    tp.snd_cwnd = min_of(tp.snd_cwnd, tp.snd_cwnd_clamp);
}

// RFC 5681, equation (4), in segments.
u32 tcp_reno_ssthresh(sock& sk) { return max_of(tcp_sk(sk).snd_cwnd >> 1, 2u); }

void tcp_reno_cong_avoid(sock& sk, u32, u32 acked, u64) {
    tcp_sock& tp = tcp_sk(sk);
    // RFC 7661's point: a window that the program does not fill says nothing about the path.
    if (!tp.is_cwnd_limited) return;
    if (tcp_in_slow_start(tp)) {
        acked = tcp_slow_start(tp, acked);
        if (!acked) return;
    }
    tcp_cong_avoid_ai(tp, tp.snd_cwnd, acked);
}

u32 tcp_reno_undo_cwnd(sock& sk) {
    const tcp_sock& tp = tcp_sk(sk);
    return max_of(tp.snd_cwnd, tp.prior_cwnd);
}

static const tcp_congestion_ops tcp_reno = {
    .name = "reno",
    .ssthresh = tcp_reno_ssthresh,
    .cong_avoid = tcp_reno_cong_avoid,
    .undo_cwnd = tcp_reno_undo_cwnd,
    .init = nullptr,
    .release = nullptr,
    .set_state = nullptr,
    .cwnd_event = nullptr,
    .pkts_acked = nullptr,
};

static const tcp_congestion_ops* ca_table[TCP_CA_MAX] = {&tcp_reno};

static const tcp_congestion_ops* ca_at(u32 id) {
    return id < TCP_CA_MAX ? __atomic_load_n(&ca_table[id], __ATOMIC_ACQUIRE) : nullptr;
}

int tcp_register_congestion_control(u8 id, const tcp_congestion_ops& ops) {
    if (id >= TCP_CA_MAX || !ops.name || !ops.ssthresh || !ops.cong_avoid || !ops.undo_cwnd)
        return -EINVAL;
    if (tcp_ca_find(ops.name) >= 0) return -EEXIST;
    const tcp_congestion_ops* expected = nullptr;
    if (!__atomic_compare_exchange_n(&ca_table[id], &expected, &ops, false, __ATOMIC_SEQ_CST,
                                     __ATOMIC_ACQUIRE))
        return -EEXIST;
    return 0;
}

void tcp_unregister_congestion_control(u8 id) {
    if (id != 0 && id < TCP_CA_MAX)
        __atomic_store_n(&ca_table[id], static_cast<const tcp_congestion_ops*>(nullptr),
                         __ATOMIC_RELEASE);
}

const tcp_congestion_ops& tcp_ca_ops(const sock& sk) {
    const tcp_congestion_ops* ops = ca_at(inet_csk(sk).icsk_ca_id);
    return ops ? *ops : tcp_reno;
}

int tcp_ca_find(const char* name) {
    for (u32 id = 0; id < TCP_CA_MAX; id++) {
        const tcp_congestion_ops* ops = ca_at(id);
        if (ops && std::strncmp(ops->name, name, TCP_CA_NAME_LEN) == 0) return static_cast<int>(id);
    }
    return -ENOENT;
}

void tcp_assign_congestion_control(sock& sk) {
    inet_connection_sock& icsk = inet_csk(sk);
    icsk.icsk_ca_id = 0;
    std::memset(icsk.icsk_ca_priv, 0, sizeof(icsk.icsk_ca_priv));
}

void tcp_init_congestion_control(sock& sk) {
    tcp_sk(sk).prior_ssthresh = 0;
    const tcp_congestion_ops& ops = tcp_ca_ops(sk);
    if (ops.init) ops.init(sk);
}

int tcp_set_congestion_control(sock& sk, const char* name) {
    const int id = tcp_ca_find(name);
    if (id < 0) return id;
    inet_connection_sock& icsk = inet_csk(sk);
    if (icsk.icsk_ca_id == id) return 0;
    const tcp_congestion_ops& old = tcp_ca_ops(sk);
    if (old.release) old.release(sk);
    icsk.icsk_ca_id = static_cast<u8>(id);
    std::memset(icsk.icsk_ca_priv, 0, sizeof(icsk.icsk_ca_priv));
    if (!(sk_statef(sk) & (TCPF_CLOSE | TCPF_LISTEN))) tcp_init_congestion_control(sk);
    return 0;
}

void tcp_set_ca_state(sock& sk, u8 ca_state) {
    const tcp_congestion_ops& ops = tcp_ca_ops(sk);
    if (ops.set_state) ops.set_state(sk, ca_state);
    inet_csk(sk).icsk_ca_state = ca_state;
}

} // namespace sockshim
