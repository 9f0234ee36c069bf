// One direction of a byte stream.
//
// Positions are 64-bit offsets from the first data byte, so a sequence number is the initial one plus
// one plus an offset, and nothing is counted twice. The bytes in [head, tail) stand in a power-of-two
// buffer at offset & (size - 1).
//
//   packet path: a sock's send ring holds [snd_una, write_seq), its receive ring [copied_seq, rcv_nxt)
//                plus out-of-order bytes beyond tail; both are guarded by sk_lock.
//   fused path:  one ring per direction, the sender's send ring *is* the receiver's receive ring. Only
//                the holder of the sender's tx_lock stores tail, only the holder of the receiver's
//                rx_lock stores head; neither waits for the other (core/tcp/tcp_fusion.cc).
// The buffer comes with the first byte and is replaced by a larger one under both locks.
#pragma once
#include "core/arena/extent.h"
#include "core/sync/uaccess.h"

namespace sockshim {

struct stream_ring {
    // written by the sending side
    alignas(cache_line) a64 tail;
    u64 head_seen; // the sender's last look at head
    u64 sends;     // publications so far
    // written by the receiving side
    alignas(cache_line) a64 head;
    u64 tail_seen;
    // seldom written, by the holder of both sides' locks
    alignas(
        cache_line) a64 buf; // extent and log2 of the bytes of it in use, one word so that a kill
                             // leaves the old buffer or the new one; 0: no buffer yet
    u32 size;                // copy of that size for those who only look; 0: none
    u32 limit;               // size may not grow beyond this
    u64 sends_counted_tx;    // of `sends`, how many each end has in its tcp_info counters
    u64 sends_counted_rx;
};
SOCKSHIM_ARENA_TYPE(stream_ring);
static_assert(sizeof(stream_ring) <= 256);

template <> struct region_of<stream_ring> { static constexpr region_id value = REGION_RING; };

// An empty ring whose first byte will have the offset `at`; null when the arena is full.
handle<stream_ring> ring_create(u64 at, u32 limit);
void ring_destroy(handle<stream_ring> h);

inline u64 ring_used(const stream_ring& r) { return r.tail.load() - r.head.load(); }
// Room for `want` more bytes beyond head + used, growing the buffer towards limit (keeps [head, upto)).
// Returns the buffer's size; preconditions: the caller holds what guards the ring on both sides.
u32 ring_grow(stream_ring& r, u64 want_bytes, u64 upto);
// Gives the buffer of an empty ring back. Same precondition.
void ring_release_buffer(stream_ring& r);

// The extent behind the ring, null when it has none (for the sweep of unreferenced extents).
extent ring_extent(const stream_ring& r);

// Copies into and out of the buffer at an offset; neither moves head or tail, neither checks room.
i64 ring_write_iter(stream_ring& r, u64 offset, u32 n, iov_iter& from);
i64 ring_read_iter(stream_ring& r, u64 offset, u32 n, iov_iter& to);
void ring_write(stream_ring& r, u64 offset, const u8* from, u32 n);
// The bytes [offset, offset + n) as at most two pieces.
struct ring_span {
    const u8* data;
    u32 len;
    const u8* data2;
    u32 len2;
};
ring_span ring_peek(const stream_ring& r, u64 offset, u32 n);

} // namespace sockshim
