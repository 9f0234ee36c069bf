// ICMP messages as bytes (RFC 792, RFC 1122 section 3.2.2, RFC 1191 for the MTU). Host order.
#pragma once
#include "core/wire/ipv4.h"

namespace sockshim::wire {

inline constexpr u32 icmp_header_len = 8;

inline constexpr u8 icmp_echo_reply = 0;
inline constexpr u8 icmp_dest_unreach = 3;
inline constexpr u8 icmp_source_quench = 4;
inline constexpr u8 icmp_redirect = 5;
inline constexpr u8 icmp_echo_request = 8;
inline constexpr u8 icmp_time_exceeded = 11;
inline constexpr u8 icmp_parameter_problem = 12;

inline constexpr u8 icmp_net_unreach = 0;
inline constexpr u8 icmp_host_unreach = 1;
inline constexpr u8 icmp_prot_unreach = 2;
inline constexpr u8 icmp_port_unreach = 3;
inline constexpr u8 icmp_frag_needed = 4;

struct icmp_message {
    u8 type;
    u8 code;
    u16 id; // echo
    u32 info; // echo: sequence; fragmentation needed: MTU; parameter problem: pointer; redirect: gateway
};

constexpr bool icmp_is_error(u8 type) {
    return type == icmp_dest_unreach || type == icmp_source_quench || type == icmp_redirect ||
           type == icmp_time_exceeded || type == icmp_parameter_problem;
}

enum class icmp_verdict : u8 { ok, too_short, bad_checksum };

constexpr icmp_verdict icmp_parse(const u8* data, std::size_t n, icmp_message& out,
                                  bool verify_checksum = true) {
    if (n < icmp_header_len) return icmp_verdict::too_short;
    if (verify_checksum && checksum(data, n)) return icmp_verdict::bad_checksum;
    out.type = data[0];
    out.code = data[1];
    out.id = get16(data + 4);
    out.info = get16(data + 6);
    switch (out.type) {
    case icmp_dest_unreach: out.id = 0; break; // next-hop MTU in the low half (RFC 1191)
    case icmp_parameter_problem:
        out.id = 0;
        out.info = data[4];
        break;
    case icmp_redirect:
        out.id = 0;
        out.info = get32(data + 4);
        break;
    default: break;
    }
    return icmp_verdict::ok;
}

// Writes the eight header bytes in front of a payload whose unfolded sum is `payload_sum`.
constexpr void icmp_emit(u8* data, const icmp_message& m, u64 payload_sum) {
    data[0] = m.type;
    data[1] = m.code;
    put16(data + 2, 0);
    if (m.type == icmp_parameter_problem) {
        put32(data + 4, m.info << 24);
    } else if (m.type == icmp_redirect) {
        put32(data + 4, m.info);
    } else {
        put16(data + 4, m.id);
        put16(data + 6, static_cast<u16>(m.info));
    }
    put16(data + 2, csum_fold(csum_add(payload_sum, data, icmp_header_len)));
}

// The packet that an ICMP error quotes: its IP header and at least eight bytes more (RFC 792).
struct icmp_quote {
    ipv4_header ip;
    const u8* transport;
    u32 transport_len; // bytes that are there, 8 or more
};
// The quoted packet is usually cut short, so its total length is not held against it.
constexpr bool icmp_parse_quote(const u8* data, std::size_t n, icmp_quote& out) {
    if (n < ipv4_min_header + 8) return false;
    const u32 header = static_cast<u32>((data[0] & 15) * 4);
    if (data[0] >> 4 != 4 || header < ipv4_min_header || n < header + 8) return false;
    out.ip = {get32(data + 12), get32(data + 16), get16(data + 2),
              get16(data + 4),  get16(data + 6),  static_cast<u8>(header),
              data[1],          data[8],          data[9]};
    out.transport = data + header;
    out.transport_len = static_cast<u32>(n - header);
    return true;
}

} // namespace sockshim::wire
