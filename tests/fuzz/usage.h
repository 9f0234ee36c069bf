// What the arena holds, so that a target can tell at the end of an input that nothing was lost.
#pragma once
#include <array>
#include <cstdio>

#include "core/arena/arena.h"

namespace fuzz {

using arena_usage = std::array<sockshim::u64, sockshim::REGION_COUNT>;

inline arena_usage usage_now() {
    arena_usage out{};
    for (sockshim::u32 r = 0; r < sockshim::REGION_COUNT; ++r) {
        out[r] = sockshim::arena_cells_in_use(static_cast<sockshim::region_id>(r));
    }
    return out;
}

// Names what an input left behind.
inline bool nothing_lost(const arena_usage& before) {
    const arena_usage after = usage_now();
    for (sockshim::u32 r = 0; r < sockshim::REGION_COUNT; ++r) {
        if (after[r] == before[r]) continue;
        std::fprintf(stderr, "%s: %lu cells in use, %lu before\n", sockshim::region_shapes[r].name,
                     after[r], before[r]);
    }
    return after == before;
}

} // namespace fuzz
