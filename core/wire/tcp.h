// TCP headers as bytes (RFC 9293, 3.1) with the options that we speak: MSS, window scale and timestamps
// (RFC 7323), SACK permitted and SACK blocks (RFC 2018). Host order.
#pragma once
#include "core/wire/checksum.h"

namespace sockshim::wire {

inline constexpr u32 tcp_min_header = 20;
inline constexpr u32 tcp_max_header = 60;

inline constexpr u8 tcpopt_eol = 0;
inline constexpr u8 tcpopt_nop = 1;
inline constexpr u8 tcpopt_mss = 2;
inline constexpr u8 tcpopt_window = 3;
inline constexpr u8 tcpopt_sack_perm = 4;
inline constexpr u8 tcpopt_sack = 5;
inline constexpr u8 tcpopt_timestamp = 8;
inline constexpr u8 tcp_max_wscale = 14;

struct tcp_sack {
    u32 start;
    u32 end;
};

struct tcp_header {
    u16 source;
    u16 dest;
    u32 seq;
    u32 ack;
    u16 window;
    u16 urg_ptr;
    u8 flags;      // CWR ECE URG ACK PSH RST SYN FIN, as on the wire
    u8 header_len; // bytes, options included
    u8 wscale;     // with has_wscale
    bool has_wscale;
    bool has_ts;
    bool sack_permitted;
    u8 num_sacks;
    u16 mss; // 0: no option
    u32 ts_val;
    u32 ts_ecr;
    tcp_sack sacks[4];
};

enum class tcp_verdict : u8 { ok, too_short, bad_header_len, bad_checksum };

// Unknown and malformed options are skipped, as tcp_parse_options does; a zero or overlong length ends
// the list. On ok header_len <= n.
tcp_verdict tcp_parse(const u8* data, std::size_t n, u32 saddr, u32 daddr, tcp_header& out,
                      bool verify_checksum = true);
// Bytes that tcp_emit will write for the header: 20 to 60, a multiple of four. SACK blocks that do not
// fit beside the other options are left out.
u32 tcp_header_bytes(const tcp_header& h);
// `data` has room for tcp_max_header bytes; `payload_sum` is the payload's unfolded sum, n its length.
// Returns the header's length.
u32 tcp_emit(u8* data, const tcp_header& h, u32 saddr, u32 daddr, u64 payload_sum, std::size_t n);

} // namespace sockshim::wire
