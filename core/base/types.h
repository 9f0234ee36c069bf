// Integer names and small helpers used everywhere below dispatch/.
#pragma once
#include <cstddef>
#include <cstdint>

namespace sockshim {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using i8 = std::int8_t;
using i16 = std::int16_t;
using i32 = std::int32_t;
using i64 = std::int64_t;
using be16 = u16; // network byte order
using be32 = u32; // network byte order

#define SOCKSHIM_LIKELY(x) __builtin_expect(!!(x), 1)
#define SOCKSHIM_UNLIKELY(x) __builtin_expect(!!(x), 0)

inline constexpr std::size_t cache_line = 64;

template <class T> constexpr T min_of(T a, T b) { return b < a ? b : a; }
template <class T> constexpr T max_of(T a, T b) { return a < b ? b : a; }
template <class T> constexpr T clamp_to(T v, T lo, T hi) { return v < lo ? lo : (hi < v ? hi : v); }

} // namespace sockshim
