// UDP headers as bytes (RFC 768). Host order in the struct.
#pragma once
#include "core/wire/checksum.h"

namespace sockshim::wire {

inline constexpr u32 udp_header_len = 8;

struct udp_header {
    u16 source;
    u16 dest;
    u16 len; // header and payload
    u16 check;
};

enum class udp_verdict : u8 { ok, too_short, bad_len, bad_checksum };

// `data` holds the datagram, `n` bytes of it. On ok udp_header_len <= len <= n. A zero checksum means
// that the sender computed none.
constexpr udp_verdict udp_parse(const u8* data, std::size_t n, u32 saddr, u32 daddr,
                                udp_header& out, bool verify_checksum = true) {
    if (n < udp_header_len) return udp_verdict::too_short;
    out = {get16(data), get16(data + 2), get16(data + 4), get16(data + 6)};
    if (out.len < udp_header_len || out.len > n) return udp_verdict::bad_len;
    if (verify_checksum && out.check &&
        csum_fold(csum_add(csum_pseudo(saddr, daddr, 17, out.len), data, out.len))) {
        return udp_verdict::bad_checksum;
    }
    return udp_verdict::ok;
}

// Writes the header in front of a payload of n bytes whose unfolded sum is `payload_sum`.
constexpr void udp_emit(u8* data, u16 source, u16 dest, u32 saddr, u32 daddr, u64 payload_sum,
                        std::size_t n) {
    const u16 len = static_cast<u16>(udp_header_len + n);
    put16(data, source);
    put16(data + 2, dest);
    put16(data + 4, len);
    put16(data + 6, 0);
    const u64 sum = csum_pseudo(saddr, daddr, 17, len) + payload_sum;
    const u16 check = csum_fold(csum_add(sum, data, udp_header_len));
    put16(data + 6, check ? check : 0xffff); // zero is "none" (RFC 768)
}

} // namespace sockshim::wire
