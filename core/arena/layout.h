// READ ME FIRST. What the shared arena looks like: regions of fixed-size cells behind one header.
//
// Only types and constants stand here. Several processes map these bytes at different addresses, may
// be killed between any two of their stores, and may scribble on them: an arena type holds integers,
// atomics and handles, never a pointer, a code address or a std:: container, and whoever reads an
// index from it bounds it before use. scripts/check_layout enforces the first half from DWARF.
//
// Each region is an array of cell words (who owns the cell, is it free) followed by an array of cells.
// Cell words are the truth; every list, hash chain and queue is an index that can be rebuilt.
#pragma once
#include <type_traits>

#include "core/arena/handle.h"
#include "core/base/atomic.h"

namespace sockshim {

// Marks a type as living in the arena; checked again from DWARF by scripts/check_layout.
#define SOCKSHIM_ARENA_TYPE(type)                                                                  \
    static_assert(std::is_trivially_copyable_v<type> && std::is_standard_layout_v<type>,           \
                  #type " lives in the arena")

// Names a process of the network: slot (12 bits, 1-based) and generation of that slot (18 bits), so
// that a word that names a dead process is never mistaken for its slot's next user. 0 is nobody.
using proc_id = u32;
inline constexpr u32 proc_gen_bits = 18;
inline constexpr u32 max_processes = 4095;
constexpr u32 proc_slot_of(proc_id id) { return (id >> proc_gen_bits) & 0xfff; }
constexpr u32 proc_gen_of(proc_id id) { return id & ((1u << proc_gen_bits) - 1); }

enum cell_state : u32 {
    CELL_FREE = 0,
    CELL_CLAIMED = 1, // being built or carried by its owner; freed when the owner dies
    CELL_LIVE = 2,    // published; whoever knows the type says when it dies
};

// gen:32 | state:2 | owner:30
struct cell_word {
    a64 word;
    static constexpr u64 make(u32 gen, cell_state st, proc_id owner) {
        return (static_cast<u64>(gen) << 32) | (static_cast<u64>(st) << 30) | owner;
    }
    static constexpr u32 gen(u64 w) { return static_cast<u32>(w >> 32); }
    static constexpr cell_state state(u64 w) { return static_cast<cell_state>((w >> 30) & 3); }
    static constexpr proc_id owner(u64 w) { return static_cast<u32>(w) & 0x3fffffff; }
};
SOCKSHIM_ARENA_TYPE(cell_word);

enum region_id : u32 {
    REGION_SOCKET,     // struct socket, one per carrier
    REGION_SOCK,       // struct sock and what contains it (tcp_sock, udp_sock, ...)
    REGION_REQUEST,    // request_sock: a handshake not yet finished
    REGION_TIMEWAIT,   // inet_timewait_sock
    REGION_RING,       // stream_ring: one direction of a byte stream
    REGION_SKB,        // sk_buff: a packet outside its sender's stack
    REGION_WAITER,     // a thread that sleeps on several sockets
    REGION_WAIT_ENTRY, // links a sock to a waiter or an eventpoll (epitem)
    REGION_EVENTPOLL,
    REGION_EXTENT_1K, // payload bytes, by size
    REGION_EXTENT_4K,
    REGION_EXTENT_16K,
    REGION_EXTENT_64K,
    REGION_EXTENT_256K,
    REGION_EXTENT_1M,
    REGION_EXTENT_4M,
    REGION_COUNT,
};

struct region_shape {
    const char* name;
    u32 cell_bytes;
    u32 max_cells;
    u32 chunk_cells; // committed at a time
};

inline constexpr u32 max_sockets = 1u << 18;
inline constexpr u32 sock_cell_bytes = 1024;

inline constexpr region_shape region_shapes[REGION_COUNT] = {
    {"socket", 128, max_sockets, 512},
    {"sock", sock_cell_bytes, max_sockets, 64},
    {"request_sock", 128, 1u << 16, 512},
    {"timewait_sock", 128, 1u << 18, 512},
    {"stream_ring", 256, 2 * max_sockets, 256},
    {"sk_buff", 256, 1u << 18, 256},
    {"waiter", 64, 1u << 16, 1024},
    {"wait_entry", 64, 1u << 20, 1024},
    {"eventpoll", 576, 1u << 16, 128},
    {"extent-1k", 1u << 10, 1u << 18, 64},
    {"extent-4k", 1u << 12, 1u << 18, 16},
    {"extent-16k", 1u << 14, 1u << 17, 8},
    {"extent-64k", 1u << 16, 1u << 15, 4},
    {"extent-256k", 1u << 18, 1u << 14, 2},
    {"extent-1m", 1u << 20, 1u << 12, 1},
    {"extent-4m", 1u << 22, 1u << 10, 1},
};

} // namespace sockshim
