// TCP (include/net/tcp.h): constants, and what the files of core/tcp/ offer each other.
//
// Two kinds of functions. The sockets API half (tcp_sendmsg, tcp_close, ...; called through tcp_prot with
// no lock held) takes sk_lock and this thread's environment itself. The protocol half takes both from
// its caller: the sock is locked, time and output are in `env`, nothing blocks and nothing asks the
// system. tests/unit/tcp_*.cc drive both over a simulated link.
#pragma once
#include <netinet/tcp.h>

#include "core/net/proto.h"
#include "core/tcp/tcp_env.h"
#include "core/tcp/tcp_sock.h"

namespace sockshim {

// States beyond netinet/tcp.h's, and sets of states.
inline constexpr u8 TCP_NEW_SYN_RECV = 12;
inline constexpr u8 TCP_MAX_STATES = 13;
inline constexpr u32 TCPF_ESTABLISHED = 1u << TCP_ESTABLISHED;
inline constexpr u32 TCPF_SYN_SENT = 1u << TCP_SYN_SENT;
inline constexpr u32 TCPF_SYN_RECV = 1u << TCP_SYN_RECV;
inline constexpr u32 TCPF_FIN_WAIT1 = 1u << TCP_FIN_WAIT1;
inline constexpr u32 TCPF_FIN_WAIT2 = 1u << TCP_FIN_WAIT2;
inline constexpr u32 TCPF_TIME_WAIT = 1u << TCP_TIME_WAIT;
inline constexpr u32 TCPF_CLOSE = 1u << TCP_CLOSE;
inline constexpr u32 TCPF_CLOSE_WAIT = 1u << TCP_CLOSE_WAIT;
inline constexpr u32 TCPF_LAST_ACK = 1u << TCP_LAST_ACK;
inline constexpr u32 TCPF_LISTEN = 1u << TCP_LISTEN;
inline constexpr u32 TCPF_CLOSING = 1u << TCP_CLOSING;
inline u32 sk_statef(const sock& sk) { return 1u << (sk_state(sk) & 31); }

inline constexpr u64 US_PER_MS = 1000;
inline constexpr u64 US_PER_S = 1000000;

// RFC 6298 with Linux's bounds: (2.1) initial 1 s, (2.4) a minimum, (2.5) a maximum.
inline constexpr u32 TCP_TIMEOUT_INIT = 1000000;
inline constexpr u32 TCP_TIMEOUT_MIN = 2000; // a timer that need not wait at all
inline constexpr u32 TCP_RTO_MIN = 200000;
inline constexpr u32 TCP_RTO_MAX = 120000000;
inline constexpr u32 TCP_ATO_MIN = 40000;
inline constexpr u32 TCP_DELACK_MAX = 200000;
inline constexpr u64 TCP_TIMEWAIT_LEN = 60 * US_PER_S;
inline constexpr u64 TCP_FIN_TIMEOUT = 60 * US_PER_S;
inline constexpr u64 TCP_FIN_TIMEOUT_MAX = 120 * US_PER_S;
inline constexpr u64 TCP_RESOURCE_PROBE_INTERVAL = 500000;
inline constexpr u64 TCP_PAWS_24DAYS_S =
    60ull * 60 * 24 * 24; // RFC 7323, 5.5: then ts_recent is stale
inline constexpr i32 TCP_PAWS_WINDOW = 1;
inline constexpr u8 TCP_SYN_RETRIES = 6;
inline constexpr u8 TCP_SYNACK_RETRIES = 5;
inline constexpr u32 TCP_RETR1 = 3;
inline constexpr u32 TCP_RETR2 = 15;
inline constexpr u32 TCP_ORPHAN_RETRIES = 8;
inline constexpr u32 TCP_KEEPALIVE_TIME_S = 7200;
inline constexpr u32 TCP_KEEPALIVE_INTVL_S = 75;
inline constexpr u8 TCP_KEEPALIVE_PROBES = 9;
inline constexpr u32 MAX_TCP_KEEPIDLE = 32767;
inline constexpr u32 MAX_TCP_KEEPINTVL = 32767;
inline constexpr u32 MAX_TCP_KEEPCNT = 127;
inline constexpr u32 MAX_TCP_SYNCNT = 127;
inline constexpr u8 TCP_MAX_QUICKACKS = 16;
inline constexpr u8 TCP_MAX_WSCALE = 14; // RFC 7323, 2.3
inline constexpr u32 MAX_TCP_WINDOW = 32767;
inline constexpr u16 TCP_MSS_DEFAULT_LEN = 536; // RFC 9293, 3.7.1
inline constexpr u16 TCP_MIN_MSS = 88;
inline constexpr u16 TCP_MIN_SND_MSS = 48;
inline constexpr u32 TCP_INIT_CWND = 10; // RFC 6928
inline constexpr u32 TCP_INFINITE_SSTHRESH = 0x7fffffff;
inline constexpr u8 TCP_REORDERING = 3;              // RFC 5681: duplicate ACKs that mean a loss
inline constexpr u64 TCP_INVALID_RATELIMIT = 500000; // RFC 5961, 10: per connection
inline constexpr u32 TCP_MAX_SYN_BACKLOG = 4096;
inline constexpr u32 TCPOLEN_TSTAMP_ALIGNED = 12;
inline constexpr u32 TCPOLEN_SACK_BASE_ALIGNED = 4;
inline constexpr u32 TCPOLEN_SACK_PERBLOCK = 8;
inline constexpr int tcp_wmem[3] = {4096, 16384, 4194304};
inline constexpr int tcp_rmem[3] = {4096, 131072, 6291456};
inline constexpr u32 tcp_ring_max = extent_max_bytes;

// Linux's ktime in the units of the timestamp option (RFC 7323, 5.4: 1 ms).
inline u32 tcp_time_stamp(const tcp_sock& tp, u64 now_us) {
    return static_cast<u32>(now_us / US_PER_MS) + tp.ts_offset;
}

inline u32 skb_seq_len(const sk_buff& skb) { // sequence numbers that the segment takes
    return skb.payload() + (skb.tcp.flags & TCPHDR_SYN ? 1 : 0) +
           (skb.tcp.flags & TCPHDR_FIN ? 1 : 0);
}
inline u32 skb_end_seq(const sk_buff& skb) { return skb.tcp.seq + skb_seq_len(skb); }
inline bool skb_has(const sk_buff& skb, u8 flags) { return skb.tcp.flags & flags; }

// --- tcp.cc: life of a connection --------------------------------------------------------------------
int tcp_init_sock(sock& sk);
void tcp_destroy_sock(sock& sk);
// The one place that stores a TCP sock's state.
void tcp_set_state(sock& sk, u8 state);
void tcp_close(sock& sk, i64 timeout_us);
void tcp_shutdown(sock& sk, int how);
int tcp_disconnect(sock& sk, int flags);
int tcp_ioctl(sock& sk, unsigned cmd, unsigned long arg);
u32 tcp_poll(sock& sk);
// Locked. The connection is over: state CLOSE, out of the tables, timers stopped; a sock that nobody
// holds is freed when its lock is released.
void tcp_done(sock& sk);
void inet_csk_destroy_sock(sock& sk);
// Locked. Resets the peer (where the state asks for it) and ends the connection with `err`.
void tcp_abort(tcp_env& env, sock& sk, int err);
bool tcp_close_state(sock& sk);                 // true: a FIN is due
void tcp_init_transfer(tcp_env& env, sock& sk); // the handshake is complete
void tcp_release_cb(sock& sk);                  // proto.release_cb: frees what tcp_done has ended
void tcp_repair(sock& sk);                      // proto.repair
void tcp_tx_purge(sock& sk);                    // throws away what is queued and not acknowledged
// No lock held. Fuses the connection where the handshake's thread could not.
void tcp_fuse_pending(sock& sk);
// Leaves the fused path and locks.
void tcp_lock_unfused(sock& sk);

// --- tcp_msg.cc: the program's data --------------------------------------------------------------------
i64 tcp_sendmsg(sock& sk, msghdr_iter& msg);
i64 tcp_recvmsg(sock& sk, msghdr_iter& msg);
void tcp_cleanup_rbuf(tcp_env& env, sock& sk, u32 copied);
bool tcp_stream_is_writeable(const sock& sk);
u32 tcp_sndbuf(const sock& sk); // bytes that may be queued

// --- tcp_sockopt.cc ------------------------------------------------------------------------------------
int tcp_setsockopt(sock& sk, int level, int optname, const void* optval, u32 optlen);
int tcp_getsockopt(sock& sk, int level, int optname, void* optval, u32* optlen);
void tcp_set_keepalive(sock& sk, bool on);

// --- tcp_input.cc --------------------------------------------------------------------------------------
void tcp_rcv_established(tcp_env& env, sock& sk, const sk_buff& skb);
// Every state but ESTABLISHED. True: answer with a RST.
bool tcp_rcv_state_process(tcp_env& env, sock& sk, const sk_buff& skb);
void tcp_reset(tcp_env& env, sock& sk);
void tcp_send_challenge_ack(tcp_env& env, sock& sk);
// True: an ACK in answer to this unacceptable segment may not be sent yet (RFC 5961, 10).
bool tcp_oow_rate_limited(tcp_env& env, const sk_buff& skb, u64& last_us);
bool tcp_paws_check(const tcp_sock& tp, u32 tsval, u64 now_us); // true: acceptable

// --- tcp_data.cc: the receiving half --------------------------------------------------------------------
void tcp_data_queue(tcp_env& env, sock& sk, const sk_buff& skb);
void tcp_urg(tcp_env& env, sock& sk, const sk_buff& skb);
void tcp_event_data_recv(tcp_env& env, sock& sk, u32 len);
void tcp_ack_snd_check(tcp_env& env, sock& sk);
void tcp_rcv_space_adjust(tcp_env& env, sock& sk);
void tcp_send_dupack(tcp_env& env, sock& sk, const sk_buff& skb);
void tcp_initialize_rcv_mss(sock& sk);
void sk_send_sigurg(sock& sk); // tcp_ipv4.cc
void tcp_enter_quickack_mode(sock& sk, u32 max_quickacks);
bool tcp_in_quickack_mode(const sock& sk);

// --- tcp_ack.cc: the sending half's ear ----------------------------------------------------------------
inline constexpr int FLAG_SLOWPATH = 1;
inline constexpr int FLAG_UPDATE_TS_RECENT = 2;
// > 0 acceptable, 0 old, < 0 acknowledges what was never sent.
int tcp_ack(tcp_env& env, sock& sk, const sk_buff& skb, int flag);
void tcp_rtt_estimator(tcp_env& env, sock& sk, u64 rtt_us);
void tcp_set_rto(sock& sk);
void tcp_rearm_rto(tcp_env& env, sock& sk);
void tcp_init_wl(tcp_sock& tp, u32 seq);

// --- tcp_recovery.cc -------------------------------------------------------------------------------------
bool tcp_sacktag_write_queue(sock& sk, const sk_buff& skb, u32 prior_una); // true: news
void tcp_clean_sacked(tcp_sock& tp);
void tcp_fastretrans_alert(tcp_env& env, sock& sk, u32 acked, bool is_dupack, bool sack_news);
void tcp_enter_loss(tcp_env& env, sock& sk);
void tcp_xmit_recovery(tcp_env& env, sock& sk);
u32 tcp_pipe_bytes(const tcp_sock& tp); // RFC 6675, 4: what is thought to be in flight
u32 tcp_unsacked_bytes(const tcp_sock& tp, u32 from, u32 to);
u32 tcp_lost_end(const tcp_sock& tp); // what is not SACKed below this is lost
u32 tcp_next_hole(const tcp_sock& tp, u32 from, u32 limit, u32& end);

// --- tcp_output.cc ---------------------------------------------------------------------------------------
int tcp_transmit_skb(tcp_env& env, sock& sk, u32 seq, u32 len, u8 flags);
void tcp_event_new_data_sent(tcp_env& env, sock& sk, u32 end_seq, bool data);
// True: something waits that the window does not admit and nothing is in flight.
bool tcp_write_xmit(tcp_env& env, sock& sk, u32 mss, u8 nonagle);
void __tcp_push_pending_frames(tcp_env& env, sock& sk, u32 mss, u8 nonagle);
void tcp_push_pending_frames(tcp_env& env, sock& sk);
void tcp_data_snd_check(tcp_env& env, sock& sk);
void tcp_send_ack(tcp_env& env, sock& sk);
void tcp_send_delayed_ack(tcp_env& env, sock& sk);
void tcp_send_fin(tcp_env& env, sock& sk);
void tcp_send_active_reset(tcp_env& env, sock& sk);
int tcp_send_synack(tcp_env& env, sock& sk); // of simultaneous open
int tcp_connect(tcp_env& env, sock& sk);
// Sends the segment at `seq`, at most up to `end`, again.
int tcp_retransmit_skb(tcp_env& env, sock& sk, u32 seq, u32 end);
int tcp_write_wakeup(tcp_env& env, sock& sk);
void tcp_send_probe0(tcp_env& env, sock& sk);
void tcp_check_probe_timer(tcp_env& env, sock& sk);
u32 __tcp_select_window(const sock& sk);
u32 tcp_current_mss(const sock& sk);
void tcp_sync_mss(sock& sk, u32 pmtu);
u32 tcp_full_space(const sock& sk);
u32 tcp_rx_ring_limit(const sock& sk);
struct tcp_window_choice {
    u32 rcv_wnd;
    u8 rcv_wscale;
};
tcp_window_choice tcp_select_initial_window(const sock& sk, u32 mss, bool wscale_ok);

// Arms the transmit timer `after_us` from now.
inline void tcp_reset_xmit_timer(tcp_env& env, sock& sk, u8 what, u64 after_us) {
    inet_csk_reset_xmit_timer(sk, what, env.now_us + after_us, env.now_us);
}

// --- tcp_timer.cc ----------------------------------------------------------------------------------------
void tcp_timer(sock& sk, u64 now_us); // proto.timer
void tcp_timer_env(tcp_env& env, sock& sk);
void tcp_retransmit_timer(tcp_env& env, sock& sk);
void tcp_probe_timer(tcp_env& env, sock& sk);
void tcp_delack_timer(tcp_env& env, sock& sk);
void tcp_keepalive_timer(tcp_env& env, sock& sk);
void tcp_clear_xmit_timers(sock& sk);
u64 tcp_fin_time(const sock& sk);
inline u32 keepalive_time_s(const tcp_sock& tp) {
    return tp.keepalive_time_s ? tp.keepalive_time_s : TCP_KEEPALIVE_TIME_S;
}
inline u32 keepalive_intvl_s(const tcp_sock& tp) {
    return tp.keepalive_intvl_s ? tp.keepalive_intvl_s : TCP_KEEPALIVE_INTVL_S;
}
inline u8 keepalive_probes(const tcp_sock& tp) {
    return tp.keepalive_probes ? tp.keepalive_probes : TCP_KEEPALIVE_PROBES;
}

// --- tcp_minisocks.cc: requests, children, TIME_WAIT ------------------------------------------------------
// Listener locked.
// want_isn: our ISN, where a TIME_WAIT entry makes way for this SYN; 0: any.
void tcp_conn_request(tcp_env& env, sock& listener, const sk_buff& skb, u32 want_isn = 0);
// Listener locked. What a segment for request `req` leads to: a locked child in *child (feed it the
// segment with tcp_child_process), a RST (true), or nothing.
bool tcp_check_req(tcp_env& env, sock& listener, handle<request_sock> req, const sk_buff& skb,
                   sock** child);
// A locked, hashed child in SYN_RECV; null: the arena is full.
sock* tcp_create_openreq_child(tcp_env& env, sock& listener, request_sock& req);
bool tcp_child_process(tcp_env& env, sock& listener, sock& child, const sk_buff& skb);
void tcp_reqsk_rebuild(sock& listener);
void tcp_reqsk_flush(sock& listener);
int tcp_rtx_synack(tcp_env& env, sock& listener, request_sock& req);
// Locked. Leaves a timewait sock in the place of sk, which is done.
void tcp_time_wait(tcp_env& env, sock& sk, u8 substate, u64 timeout_us);
enum tcp_tw_status { TCP_TW_SUCCESS, TCP_TW_RST, TCP_TW_ACK, TCP_TW_SYN };
tcp_tw_status tcp_timewait_state_process(tcp_env& env, inet_timewait_sock& tw, const sk_buff& skb,
                                         u32& new_isn);
void tcp_reqsk_drop(sock& listener, handle<request_sock> req);
void inet_twsk_deschedule_put(handle<inet_timewait_sock> tw);

} // namespace sockshim
