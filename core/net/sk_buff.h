// A packet. While it is in its sender's hands it is this struct on the stack, with the payload borrowed
// from the send ring; when it has to wait (thread queue, a busy receiver's backlog, a slow link) it
// becomes a cell of the arena (skb_cell) with a copy of the payload. Header fields are kept parsed, in
// host order: bytes are built only for those who look (DESIGN.md, D10).
#pragma once
#include "core/arena/extent.h"
#include "core/base/types.h"

namespace sockshim {

inline constexpr u8 TCPHDR_FIN = 0x01;
inline constexpr u8 TCPHDR_SYN = 0x02;
inline constexpr u8 TCPHDR_RST = 0x04;
inline constexpr u8 TCPHDR_PSH = 0x08;
inline constexpr u8 TCPHDR_ACK = 0x10;
inline constexpr u8 TCPHDR_URG = 0x20;
inline constexpr u8 TCPHDR_ECE = 0x40;
inline constexpr u8 TCPHDR_CWR = 0x80;

struct sack_block {
    u32 start_seq;
    u32 end_seq;
};

// A TCP header with the options that we speak, host order.
struct tcp_header {
    u16 source;
    u16 dest;
    u32 seq;
    u32 ack_seq;
    u16 window; // as on the wire, unscaled
    u16 urg_ptr;
    u8 flags;  // TCPHDR_*
    u8 wscale; // with has_wscale
    u16 mss;   // 0: no option
    u8 has_wscale;
    u8 has_ts;
    u8 sack_ok;
    u8 num_sacks;
    u32 ts_val;
    u32 ts_ecr;
    sack_block sacks[4];
};

struct udp_header {
    u16 source;
    u16 dest;
};

// What an ICMP error carries: its own type and code and the offending packet's addresses and ports.
struct icmp_header {
    u8 type;
    u8 code;
    u16 id;
    u32 info; // MTU for fragmentation needed; sequence number for echo
    u8 orig_protocol;
    be32 orig_saddr;
    be32 orig_daddr;
    u16 orig_source;
    u16 orig_dest;
    u32 orig_seq;
};

struct sk_buff {
    be32 saddr;
    be32 daddr;
    u8 protocol;
    u8 ttl;
    u8 tos;
    u8 ip_flags; // IP_DF
    union {
        tcp_header tcp;
        udp_header udp;
        icmp_header icmp;
    };
    const u8* data; // payload; in two pieces where it wraps round a ring
    u32 len;
    const u8* data2;
    u32 len2;

    u32 payload() const { return len + len2; }
};

} // namespace sockshim
