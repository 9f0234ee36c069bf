// Connection-oriented sockets' common part (include/net/inet_connection_sock.h, request_sock.h,
// inet_timewait_sock.h). Arena types.
#pragma once
#include "core/inet/inet_sock.h"

namespace sockshim {

struct inet_connection_sock {
    inet_sock icsk_inet; // first

    // listener's accept queue: established children, oldest first, linked by icsk_accept_next.
    // Truth is each child's icsk_listener; rebuilt by icsk_accept_seq when the listener's lock died.
    u32 icsk_accept_head; // sock index + 1
    u32 icsk_accept_tail;
    a32 icsk_qlen; // requests not finished
    u32 icsk_accept_seq_next;
    // child's part
    handle<sock> icsk_listener; // null once accepted
    u32 icsk_accept_next;       // sock index + 1
    u32 icsk_accept_seq;

    // Deadlines, monotonic microseconds; 0: not running. inet_csk_reset_xmit_timer and friends keep
    // sk.sk_timer_us at their minimum.
    u64 icsk_timeout_us;   // what it means: icsk_pending
    u64 icsk_delack_us;    // delayed ACK
    u64 icsk_keepalive_us; // keepalive, FIN_WAIT2, linger2
    u8 icsk_pending;       // ICSK_TIME_*
    u8 icsk_retransmits;
    u8 icsk_backoff;
    u8 icsk_syn_retries; // 0: default
    u8 icsk_probes_out;
    u8 icsk_ca_state; // TCP_CA_*
    u8 icsk_ca_id;    // index into the congestion-control table
    u8 icsk_accept_defer_s;
    u8 icsk_ca_setsockopt; // the program has chosen it
    u32 icsk_rto_us;
    u32 icsk_rto_min_us;
    u32 icsk_user_timeout_ms;
    u64 icsk_probes_tstamp_us;
    struct {
        u8 pending; // ICSK_ACK_*
        u8 quick;   // quick ACKs left
        u8 pingpong;
        u8 retry;
        u32 ato_us;
        u64 lrcvtime_us;
        u16 last_seg_size;
        u16 rcv_mss;
    } icsk_ack;
    u64 icsk_ca_priv[6]; // the congestion control's own state
};
SOCKSHIM_ARENA_TYPE(inet_connection_sock);

inline constexpr u8 ICSK_TIME_NONE = 0;
inline constexpr u8 ICSK_TIME_RETRANS = 1;
inline constexpr u8 ICSK_TIME_PROBE0 = 3;

inline constexpr u8 ICSK_ACK_SCHED = 1;
inline constexpr u8 ICSK_ACK_TIMER = 2;
inline constexpr u8 ICSK_ACK_PUSHED = 4;
inline constexpr u8 ICSK_ACK_NOW = 8;

inline inet_connection_sock& inet_csk(sock& sk) {
    return reinterpret_cast<inet_connection_sock&>(sk);
}
inline const inet_connection_sock& inet_csk(const sock& sk) {
    return reinterpret_cast<const inet_connection_sock&>(sk);
}

// A handshake in SYN_RECV (struct tcp_request_sock flattened). Own cell, in ehash by its four-tuple.
struct request_sock {
    sock_common __req_common; // first; skc_kind SKC_KIND_REQUEST
    handle<sock> rsk_listener;
    u64 timeout_us; // next SYN-ACK retransmission
    u32 rcv_isn;
    u32 snt_isn;
    u32 ts_recent;
    u32 ts_off;
    u16 mss;
    u8 snd_wscale;
    u8 rcv_wscale;
    u8 wscale_ok;
    u8 tstamp_ok;
    u8 sack_ok;
    u8 acked; // ACK came, accept queue was full or deferred
    u8 num_retrans;
    u8 num_timeout;
    u16 rcv_wnd_init;
    u32 req_next; // next in the listener's request list, index + 1
};
SOCKSHIM_ARENA_TYPE(request_sock);
static_assert(sizeof(request_sock) <= 128);
template <> struct region_of<request_sock> { static constexpr region_id value = REGION_REQUEST; };

// What stays of a connection in TIME_WAIT or an orphaned FIN_WAIT2.
struct inet_timewait_sock {
    sock_common __tw_common; // first; skc_kind SKC_KIND_TIMEWAIT
    u64 tw_deadline_us;
    u32 tw_rcv_nxt;
    u32 tw_snd_nxt;
    u32 tw_rcv_wnd;
    u32 tw_ts_recent;
    u32 tw_ts_offset;
    u64 tw_ts_recent_stamp_us;
    u8 tw_substate; // TCP_TIME_WAIT or TCP_FIN_WAIT2
    u8 tw_rcv_wscale;
    u8 tw_tos;
    u8 tw_has_ts;
    u8 tw_reuse;
    u8 tw_reuseport;
    u32 tw_next; // in the deadline list, index + 1
};
SOCKSHIM_ARENA_TYPE(inet_timewait_sock);
static_assert(sizeof(inet_timewait_sock) <= 128);
template <> struct region_of<inet_timewait_sock> {
    static constexpr region_id value = REGION_TIMEWAIT;
};

// For the duty thread (core/net/timer.cc): a TIME_WAIT whose time is over; a request whose SYN-ACK is
// due again or that has to be given up (tcp_minisocks.cc).
void inet_twsk_expire(handle<inet_timewait_sock> h);
void inet_reqsk_timer(handle<request_sock> h, u64 now_us);

// Accept queue. Preconditions: the listener's sk_lock is held.
inline bool sk_acceptq_is_full(const sock& sk) {
    return sk.sk_ack_backlog.load_relaxed() > sk.sk_max_ack_backlog;
}
void inet_csk_reqsk_queue_add(sock& listener, sock& child);
sock* inet_csk_reqsk_queue_remove(sock& listener); // null: empty
// A child for the request: claimed, the listener's options and the request's addresses copied, zeroed
// otherwise, not hashed, not published. Null: arena full.
sock* inet_csk_clone_lock(const sock& listener, const request_sock& req);

sock* inet_csk_accept(sock& sk, int flags, int* err); // blocks
int inet_csk_listen_start(sock& sk);
// Resets every connection in the accept queue. Listener locked.
void inet_csk_listen_stop(sock& sk);
// For proto.repair of a listener: the accept queue again, from the children that name it.
void inet_csk_reqsk_queue_rebuild(sock& listener);
int inet_csk_get_port(sock& sk, u16 port);

void inet_csk_reset_xmit_timer(sock& sk, u8 what, u64 when_us, u64 now_us);
void inet_csk_clear_xmit_timer(sock& sk);
void inet_csk_reset_delack_timer(sock& sk, u64 when_us);
void inet_csk_clear_delack_timer(sock& sk);
void inet_csk_reset_keepalive_timer(sock& sk, u64 when_us); // 0: stop

} // namespace sockshim
