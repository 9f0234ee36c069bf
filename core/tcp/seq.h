// Sequence numbers: 32 bits that wrap, so they are never compared with < or >.
//
// RFC 9293, 3.4: all arithmetic is modulo 2^32 and two numbers are comparable when they are less than
// 2^31 apart. Stream positions are 64-bit offsets that never wrap (stream_ring.h); a sequence number
// becomes an offset relative to a pair (sequence, offset) that is known to belong together.
#pragma once
#include "core/base/types.h"

namespace sockshim {

// a - b, taking the shorter way round the circle.
constexpr i32 seq_diff(u32 a, u32 b) { return static_cast<i32>(a - b); }
constexpr bool before(u32 a, u32 b) { return seq_diff(a, b) < 0; }
constexpr bool after(u32 a, u32 b) { return before(b, a); }
// Is s2 <= s1 <= s3?
constexpr bool between(u32 s1, u32 s2, u32 s3) { return s3 - s2 >= s1 - s2; }

constexpr u32 seq_min(u32 a, u32 b) { return before(a, b) ? a : b; }
constexpr u32 seq_max(u32 a, u32 b) { return after(a, b) ? a : b; }
constexpr u32 seq_clamp(u32 v, u32 lo, u32 hi) { return seq_min(seq_max(v, lo), hi); }

// The offset of `seq`, given that `ref_seq` stands at `ref_offset`; and back.
constexpr u64 seq_to_offset(u32 seq, u32 ref_seq, u64 ref_offset) {
    return ref_offset + static_cast<u64>(static_cast<i64>(seq_diff(seq, ref_seq)));
}
constexpr u32 offset_to_seq(u64 offset, u32 ref_seq, u64 ref_offset) {
    return ref_seq + static_cast<u32>(offset - ref_offset);
}

static_assert(before(0xffffffffu, 0) && after(5, 0xfffffff0u) && !before(7, 7));
static_assert(between(0, 0xfffffff0u, 5) && !between(6, 0xfffffff0u, 5));
static_assert(seq_to_offset(3, 0xffffffffu, 100) == 104 &&
              seq_to_offset(0xffffffffu, 3, 104) == 100);

} // namespace sockshim
