// What the files of core/arena/ share: the mapping and the header. Nobody else includes this.
#pragma once
#include "core/arena/arena.h"
#include "core/arena/owner.h"
#include "core/arena/timer_map.h"

namespace sockshim {

inline constexpr u64 arena_magic = 0x316d696873636f73; // "soschim1"

struct arena_header {
    u64 magic;
    u64 layout_hash;
    a32 ready;    // 1 once the creator is done
    a32 admitted; // 1: others than the owner use the files too (admission.h)
    u64 netns_inode;
    u64 boot_id;
    a64 max_bytes;       // commit no more than this
    a64 committed_bytes; // of all regions
    a32 committed[REGION_COUNT];
    alignas(cache_line) timer_duty duty;
    alignas(cache_line) a32 process_gen;
    process_slot processes[max_processes + 1];
};
SOCKSHIM_ARENA_TYPE(arena_header);

struct mapping {
    u8* base;
    arena_header* header;
    hash_area* hashes;
    a64* carrier_inodes;
    a64* timer_bits;    // one bit per sock cell
    a64* timer_summary; // one bit per word of timer_bits
};
extern mapping the_arena;

inline constexpr u64 page_bytes = 4096;
constexpr u64 page_up(u64 n) { return (n + page_bytes - 1) & ~(page_bytes - 1); }

inline constexpr u64 hashes_offset = page_up(sizeof(arena_header));
inline constexpr u64 carrier_inodes_offset = page_up(hashes_offset + sizeof(hash_area));
inline constexpr u64 timer_bits_offset =
    page_up(carrier_inodes_offset + u64{max_sockets} * sizeof(a64));
inline constexpr u64 timer_summary_offset = page_up(timer_bits_offset + max_sockets / 8);
inline constexpr u64 regions_offset = page_up(timer_summary_offset + max_sockets / 8 / 64);

constexpr u64 region_words_bytes(u32 r) {
    return page_up(u64{region_shapes[r].max_cells} * sizeof(cell_word));
}
constexpr u64 region_cells_bytes(u32 r) {
    return page_up(u64{region_shapes[r].max_cells} * region_shapes[r].cell_bytes);
}
constexpr u64 region_offset(u32 r) {
    u64 at = regions_offset;
    for (u32 i = 0; i < r; ++i) at += region_words_bytes(i) + region_cells_bytes(i);
    return at;
}
inline constexpr u64 arena_reserved_bytes = region_offset(REGION_COUNT);

// Makes [offset, offset + bytes) of the arena real memory. 0 or -ENOMEM.
int arena_commit(u64 offset, u64 bytes);

} // namespace sockshim
