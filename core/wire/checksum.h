// The Internet checksum (RFC 1071): the ones' complement of the ones' complement sum of 16-bit words.
// Sums are carried unfolded in 64 bits, so pieces of a packet may be added in any order as long as each
// piece but the last has an even length.
#pragma once
#include "core/base/types.h"

namespace sockshim::wire {

constexpr u16 get16(const u8* p) { return static_cast<u16>(p[0] << 8 | p[1]); }
constexpr u32 get32(const u8* p) {
    return u32{p[0]} << 24 | u32{p[1]} << 16 | u32{p[2]} << 8 | u32{p[3]};
}
constexpr void put16(u8* p, u16 v) {
    p[0] = static_cast<u8>(v >> 8);
    p[1] = static_cast<u8>(v);
}
constexpr void put32(u8* p, u32 v) {
    p[0] = static_cast<u8>(v >> 24);
    p[1] = static_cast<u8>(v >> 16);
    p[2] = static_cast<u8>(v >> 8);
    p[3] = static_cast<u8>(v);
}

constexpr u64 csum_add(u64 sum, const u8* data, std::size_t n) {
    std::size_t i = 0;
    for (; i + 1 < n; i += 2) sum += get16(data + i);
    if (i < n) sum += u32{data[i]} << 8; // an odd last byte is padded with zero
    return sum;
}
// The same for a piece that begins at an odd offset of the packet: its bytes weigh the other way round.
constexpr u64 csum_add_odd(u64 sum, const u8* data, std::size_t n) {
    if (n == 0) return sum;
    return csum_add(sum + data[0], data + 1, n - 1);
}
// A payload in two pieces.
constexpr u64 csum_pieces(const u8* a, std::size_t na, const u8* b, std::size_t nb) {
    const u64 sum = csum_add(0, a, na);
    return na & 1 ? csum_add_odd(sum, b, nb) : csum_add(sum, b, nb);
}
constexpr u16 csum_fold(u64 sum) {
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<u16>(~sum);
}
constexpr u16 checksum(const u8* data, std::size_t n) { return csum_fold(csum_add(0, data, n)); }

// The pseudo header of TCP and UDP (RFC 9293, 3.1; RFC 768). Addresses in host order.
constexpr u64 csum_pseudo(u32 saddr, u32 daddr, u8 protocol, u32 length) {
    return u64{saddr >> 16} + (saddr & 0xffff) + (daddr >> 16) + (daddr & 0xffff) + protocol +
           length;
}

} // namespace sockshim::wire
