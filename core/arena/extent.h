// Runs of payload bytes: power-of-four size classes from 1 KiB to 4 MiB over the extent regions.
#pragma once
#include "core/arena/slab.h"

namespace sockshim {

struct extent_tag;
// index: class in the top 4 bits, cell below.
using extent = handle<extent_tag>;

inline constexpr u32 extent_classes = 7;
inline constexpr u32 extent_max_bytes = 1u << 22;

constexpr u32 extent_class_of(extent e) { return (e.index >> 28) % extent_classes; }
constexpr u32 extent_bytes(extent e) { return 1024u << (2 * extent_class_of(e)); }

// Smallest class that holds `bytes`; null extent when the arena is full or bytes > extent_max_bytes.
extent extent_alloc(u32 bytes);
void extent_publish(extent e);
void extent_free(extent e);
// Null when e is stale.
u8* extent_data(extent e);

} // namespace sockshim
