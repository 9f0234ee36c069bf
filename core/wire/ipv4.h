// IPv4 headers as bytes (RFC 791). In the structs all fields are in host order. parse() judges: what it
// accepts can be used without further checks; emit() writes only what parse() accepts.
#pragma once
#include "core/wire/checksum.h"

namespace sockshim::wire {

inline constexpr u32 ipv4_min_header = 20;
inline constexpr u32 ipv4_max_header = 60;
inline constexpr u16 ipv4_df = 0x4000;
inline constexpr u16 ipv4_mf = 0x2000;
inline constexpr u16 ipv4_offset_mask = 0x1fff; // units of 8 bytes

struct ipv4_header {
    u32 saddr;
    u32 daddr;
    u16 total_len; // header and payload
    u16 id;
    u16 frag;      // ipv4_df, ipv4_mf, offset
    u8 header_len; // bytes, options included
    u8 tos;
    u8 ttl;
    u8 protocol;
};

enum class ip_verdict : u8 { ok, too_short, not_v4, bad_header_len, bad_total_len, bad_checksum };

// `n` bytes are there. On ok header_len <= total_len <= n.
constexpr ip_verdict ipv4_parse(const u8* data, std::size_t n, ipv4_header& out,
                                bool verify_checksum = true) {
    if (n < ipv4_min_header) return ip_verdict::too_short;
    if (data[0] >> 4 != 4) return ip_verdict::not_v4;
    out.header_len = static_cast<u8>((data[0] & 15) * 4);
    if (out.header_len < ipv4_min_header || out.header_len > n) return ip_verdict::bad_header_len;
    out.tos = data[1];
    out.total_len = get16(data + 2);
    if (out.total_len < out.header_len || out.total_len > n) return ip_verdict::bad_total_len;
    out.id = get16(data + 4);
    out.frag = get16(data + 6);
    out.ttl = data[8];
    out.protocol = data[9];
    out.saddr = get32(data + 12);
    out.daddr = get32(data + 16);
    if (verify_checksum && checksum(data, out.header_len)) return ip_verdict::bad_checksum;
    return ip_verdict::ok;
}

// Writes a header without options; `data` has room for ipv4_min_header bytes. Computes the checksum.
constexpr void ipv4_emit(u8* data, const ipv4_header& h) {
    data[0] = 0x45;
    data[1] = h.tos;
    put16(data + 2, h.total_len);
    put16(data + 4, h.id);
    put16(data + 6, h.frag);
    data[8] = h.ttl;
    data[9] = h.protocol;
    put16(data + 10, 0);
    put32(data + 12, h.saddr);
    put32(data + 16, h.daddr);
    put16(data + 10, checksum(data, ipv4_min_header));
}

// Recomputes the checksum of a header whose bytes were changed in place (IP_HDRINCL fills in fields).
constexpr void ipv4_update_checksum(u8* data, std::size_t header_len) {
    put16(data + 10, 0);
    put16(data + 10, checksum(data, header_len));
}

} // namespace sockshim::wire
