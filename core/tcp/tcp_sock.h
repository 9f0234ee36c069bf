// struct tcp_sock: one TCP connection (include/linux/tcp.h). Arena type, one sock cell.
//
// All of it is guarded by sk_lock, except `fused`, the ring handles and what the fused path keeps in
// the rings (tcp_fusion.cc). Sequence variables have the names of RFC 9293, 3.3.1. Two pairs tie them
// to the rings' 64-bit offsets:
//
//   sender     snd_una <= snd_nxt <= write_seq     the byte after the last queued one is write_seq (less
//                                                  the FIN, once queued), at stream offset tx_off
//   receiver   copied_seq <= rcv_nxt <= ooo ranges the next byte the program will read is copied_seq, at
//                                                  stream offset rx_off
//
// tx_ring holds [tx_off - (write_seq - snd_una), tx_off); rx_ring holds [rx_off, rx_off + (rcv_nxt -
// copied_seq)) and, beyond its tail, the bytes of the out-of-order ranges at their place. A ring that has
// not been needed yet (or was left behind by unfusing) is null; the offsets go on without it.
#pragma once
#include "core/inet/inet_connection_sock.h"
#include "core/tcp/seq.h"
#include "core/tcp/stream_ring.h"

namespace sockshim {

inline constexpr u32 tcp_max_ooo =
    8; // out-of-order ranges kept; further ones are dropped as if lost
inline constexpr u32 tcp_max_sacked = 5; // ranges of ours that the peer says it holds

// tcp_sock.nonagle
inline constexpr u8 TCP_NAGLE_OFF = 1;  // TCP_NODELAY
inline constexpr u8 TCP_NAGLE_CORK = 2; // TCP_CORK or MSG_MORE
inline constexpr u8 TCP_NAGLE_PUSH = 4; // cork is overridden for what is queued

// tcp_sock.urg_data
inline constexpr u16 TCP_URG_VALID = 0x0100;
inline constexpr u16 TCP_URG_NOTYET = 0x0200;
inline constexpr u16 TCP_URG_READ = 0x0400;

struct tcp_sock {
    inet_connection_sock inet_conn; // first

    // the fused path
    a32 fused;
    u8 fuse_want; // the handshake has completed where tcp_fuse_try could not be called yet
    u8 destroy;   // the sock is freed when its lock is released
    handle<sock> fused_peer;
    u32 fused_more; // bytes in the ring beyond its tail, withheld by TCP_CORK or MSG_MORE; tx_lock
    a32 fused_stalled_at; // what stalled_mark made of the ring's head when there was no room; 0: not watched

    handle<stream_ring> tx_ring;
    handle<stream_ring> rx_ring;
    u64 tx_off; // offset of write_seq, without the FIN
    u64 rx_off; // offset of copied_seq

    u32 rcv_nxt;    // next sequence number expected
    u32 copied_seq; // next one that the program has not read
    u32 rcv_wup;    // rcv_nxt when the last window was sent
    u32 rcv_wnd;    // the window sent then
    u32 snd_una;
    u32 snd_nxt;
    u32 write_seq; // one beyond what is queued, FIN included
    u32 snd_wnd;
    u32 snd_wl1;      // sequence number of the segment that last updated snd_wnd
    u32 max_window;   // largest window the peer ever offered
    u32 snd_sml;      // end of the last small segment sent (Minshall's Nagle)
    u32 iss;          // initial send sequence number: data offset 0 is iss + 1
    u32 irs;          // initial receive sequence number, likewise
    u32 window_clamp; // TCP_WINDOW_CLAMP; 0: none
    u32 snd_up;       // urgent pointer of ours, with urg_mode
    u32 urg_seq;      // of the peer's urgent byte, with urg_data
    u32 rcv_fin_seq;  // where an out-of-order FIN stands, with ooo_fin

    u16 urg_data;
    u16 advmss;    // what we announce
    u16 mss_clamp; // what the peer announced
    u16 user_mss;  // TCP_MAXSEG
    u32 mss_cache; // payload per segment, options counted
    u32 pmtu;

    u8 urg_mode;
    u8 tx_fin; // 1: a FIN is queued, its number is write_seq - 1
    u8 rx_fin; // 1: the peer's FIN has been received in order, its number is rcv_nxt - 1
    u8 ooo_fin;
    u8 nonagle;
    u8 snd_wscale;
    u8 rcv_wscale;
    u8 wscale_ok;
    u8 tstamp_ok;
    u8 sack_ok;
    u8 saw_tstamp; // the segment in hand has a timestamp
    u8 num_ooo;
    u8 num_sacked;
    u8 has_dsack;
    u8 recvmsg_inq;
    u8 keepalive_probes;
    u8 repair_syn; // the SYN was retransmitted: its round trip is not sampled
    u8 reordering;
    u8 dupacks;
    u8 is_cwnd_limited;
    u8 thin_lto; // TCP_THIN_LINEAR_TIMEOUTS

    // RFC 7323
    u32 ts_recent;
    u32 ts_offset;
    u32 rcv_tsecr; // echo of the segment in hand
    u32 ts_recent_stamp_s;

    // RFC 6298, in microseconds; srtt is scaled by 8, mdev and rttvar by 4
    u32 srtt_us;
    u32 mdev_us;
    u32 mdev_max_us;
    u32 rttvar_us;
    u32 rtt_seq; // end of the round in which mdev_max is taken
    u32 rtt_min_us;
    u32 timed_seq;        // end of the segment being timed
    u64 timed_us;         // when it was sent; 0: none
    u64 retrans_stamp_us; // first retransmission since snd_una last moved; 0: none

    // RFC 5681, 6582, 6675
    u32 snd_cwnd; // segments
    u32 snd_ssthresh;
    u32 snd_cwnd_cnt;
    u32 snd_cwnd_clamp;
    u32 prior_cwnd;
    u32 prior_ssthresh;
    u32 high_seq;    // snd_nxt when recovery began
    u32 retrans_nxt; // recovery has resent everything lost below this
    u32 undo_marker; // snd_una when recovery began; 0: nothing to undo
    i32 undo_retrans;

    sack_block ooo[tcp_max_ooo];       // sorted, disjoint, all beyond rcv_nxt
    sack_block sacked[tcp_max_sacked]; // sorted, disjoint, within (snd_una, snd_nxt]
    sack_block dsack;
    u32 ooo_recent; // start of the range that grew last: reported first (RFC 2018, 4)

    u64 rcv_tstamp_us; // last segment with an ACK received
    u64 lsndtime_us;   // last data sent
    u64 oow_stamp_us;  // last ACK sent for an unacceptable segment
    u32 req_head;      // listener: requests, index + 1
    i32 linger2_s;
    u32 keepalive_time_s; // 0: default
    u32 keepalive_intvl_s;
    u32 notsent_lowat; // 0: default
    u32 rcvq_space;    // receive buffer autotuning
    u32 rcvq_seq;
    u64 rcvq_stamp_us;

    u64 bytes_received;
    u64 bytes_acked;
    u64 bytes_sent;
    u64 bytes_retrans;
    u32 segs_in;
    u32 segs_out;
    u32 data_segs_in;
    u32 data_segs_out;
    u32 total_retrans;
    u32 delivered;
    u32 dsack_dups;
    u32 rcv_ooopack;
};
SOCKSHIM_ARENA_TYPE(tcp_sock);
static_assert(sizeof(tcp_sock) <= sock_cell_bytes);
static_assert(alignof(tcp_sock) <= cache_line);

inline tcp_sock& tcp_sk(sock& sk) { return reinterpret_cast<tcp_sock&>(sk); }
inline const tcp_sock& tcp_sk(const sock& sk) { return reinterpret_cast<const tcp_sock&>(sk); }
inline sock& as_sock(tcp_sock& tp) { return tp.inet_conn.icsk_inet.sk; }
inline const sock& as_sock(const tcp_sock& tp) { return tp.inet_conn.icsk_inet.sk; }

inline bool tcp_in_slow_start(const tcp_sock& tp) { return tp.snd_cwnd < tp.snd_ssthresh; }
// One beyond the last data byte queued to send / received in order.
inline u32 tcp_tx_end(const tcp_sock& tp) { return tp.write_seq - tp.tx_fin; }
inline u32 tcp_rx_end(const tcp_sock& tp) { return tp.rcv_nxt - tp.rx_fin; }
// Bytes that the program can read.
inline u32 tcp_inq_bytes(const tcp_sock& tp) { return tcp_rx_end(tp) - tp.copied_seq; }
inline u64 tcp_tx_offset(const tcp_sock& tp, u32 seq) {
    return seq_to_offset(seq, tcp_tx_end(tp), tp.tx_off);
}
inline u64 tcp_rx_offset(const tcp_sock& tp, u32 seq) {
    return seq_to_offset(seq, tp.copied_seq, tp.rx_off);
}
inline u32 tcp_wnd_end(const tcp_sock& tp) { return tp.snd_una + tp.snd_wnd; }
// Is anything sent and not acknowledged (Linux: packets_out)?
inline bool tcp_packets_out(const tcp_sock& tp) { return tp.snd_una != tp.snd_nxt; }
// Is anything queued and not sent?
inline bool tcp_send_head(const tcp_sock& tp) { return tp.snd_nxt != tp.write_seq; }
// What is left of the window that the peer was last told of (RFC 9293, 3.8.6).
inline u32 tcp_receive_window(const tcp_sock& tp) {
    const i32 win = seq_diff(tp.rcv_wup + tp.rcv_wnd, tp.rcv_nxt);
    return win < 0 ? 0 : static_cast<u32>(win);
}

} // namespace sockshim
