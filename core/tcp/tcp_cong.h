// Congestion control as plug-ins (struct tcp_congestion_ops). A sock carries the id of its algorithm
// (icsk_ca_id) and icsk_ca_priv for its state; each process looks the table up here.
#pragma once
#include "core/tcp/tcp_sock.h"

namespace sockshim {

struct tcp_env;

enum tcp_ca_event {
    CA_EVENT_TX_START,     // first transmission with nothing in flight
    CA_EVENT_CWND_RESTART, // after an idle time
    CA_EVENT_COMPLETE_CWR,
    CA_EVENT_LOSS,
};

struct tcp_congestion_ops {
    const char* name;
    u32 (*ssthresh)(sock& sk); // required: the slow start threshold after a loss
    // required: grows snd_cwnd; `acked` segments were acknowledged
    void (*cong_avoid)(sock& sk, u32 ack, u32 acked, u64 now_us);
    u32 (*undo_cwnd)(sock& sk); // required: the window to return to, the loss was none
    void (*init)(sock& sk);
    void (*release)(sock& sk);
    void (*set_state)(sock& sk, u8 ca_state);
    void (*cwnd_event)(sock& sk, tcp_ca_event ev);
    void (*pkts_acked)(sock& sk, u32 acked, u32 rtt_us);
};

inline constexpr u32 TCP_CA_MAX = 16;
inline constexpr u32 TCP_CA_NAME_LEN = 16;

// Puts an algorithm into this process's table under `id` (every process of a network must use the
// same). 0, -EINVAL (a required function is missing), -EEXIST.
int tcp_register_congestion_control(u8 id, const tcp_congestion_ops& ops);
void tcp_unregister_congestion_control(u8 id);
const tcp_congestion_ops& tcp_ca_ops(const sock& sk); // of an unknown id: reno
int tcp_ca_find(const char* name);                    // id or -ENOENT
// Locked. TCP_CONGESTION; 0 or -ENOENT.
int tcp_set_congestion_control(sock& sk, const char* name);
void tcp_assign_congestion_control(sock& sk);
void tcp_init_congestion_control(sock& sk);
void tcp_set_ca_state(sock& sk, u8 ca_state);

// RFC 5681, 3.1, for algorithms to build on.
u32 tcp_slow_start(tcp_sock& tp, u32 acked); // returns what is left of acked
void tcp_cong_avoid_ai(tcp_sock& tp, u32 w, u32 acked);
u32 tcp_reno_ssthresh(sock& sk);
void tcp_reno_cong_avoid(sock& sk, u32 ack, u32 acked, u64 now_us);
u32 tcp_reno_undo_cwnd(sock& sk);

} // namespace sockshim
