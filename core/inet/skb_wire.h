// Between sk_buffs, whose headers are parsed, and packets as bytes (core/wire): for raw sockets, which are
// the ones who look, and for what they send.
#pragma once
#include "core/net/sk_buff.h"
#include "core/wire/ipv4.h"

namespace sockshim {

// IP header and transport header; for an ICMP error also what it quotes.
inline constexpr u32 skb_wire_max = wire::ipv4_max_header + 8 + wire::ipv4_max_header + 60;

// Builds the bytes that stand in front of the payload. Returns how many.
u32 skb_emit_headers(const sk_buff& skb, u8 (&out)[skb_wire_max]);
// Reads a packet from its IP header on; its payload points into `data`. False: malformed, or a fragment.
// Checksums of the transport are verified when `verify`.
bool skb_parse(const u8* data, u32 n, sk_buff& skb, bool verify);
// The same without the IP header: skb's addresses and protocol are set.
bool skb_parse_transport(const u8* data, u32 n, sk_buff& skb, bool verify);

} // namespace sockshim
