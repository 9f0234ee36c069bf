// The datagram queue: many writers, one receiving socket (DESIGN.md, D4).
//
// A ring of 128-byte slots in one extent. Datagrams of up to 80 bytes stand in their slot, larger ones
// in an extent of their own. Positions count up; position p uses slot p mod n in lap p / n.
//
//   writer: EMPTY(lap) -> CLAIMED(lap, owner) by compare-and-swap, moves `tail` on (anybody who finds
//           the slot at the tail claimed does that for its claimer), copies straight from the program's
//           memory with no lock held, publishes READY by one store. A copy that faults, or finds the arena
//           full, publishes SKIP.
//   reader: holds rd_lock (readers of one socket exclude each other, writers never take it), takes the
//           first READY slot, gives it back as EMPTY(lap + 1), moves `head` on by one store.
//
// The order of datagrams. A reader that meets a CLAIMED slot looks past it: the send that claimed it has
// not returned, so no order between it and a later slot was promised to anybody. Nothing ever waits for
// a writer, be it stopped, slow in a page fault, or dead; a dead one's slot is freed by whoever finds it in
// the way (proc_alive).
//
// What is charged against SO_RCVBUF rides in the words that move the positions: a slot's word says how much
// it holds, `tail` and `reader` each hold a position and the sum of all charges up to it. So the
// account is exact whoever dies, and no third word is shared.
//
// A handle to the ring may be kept across a close by a writer that is about to claim. An EMPTY word
// therefore carries a number that no other ring has (the nonce), so that a late compare-and-swap fails;
// and the ring is not freed while a slot is claimed by somebody alive (dgram_queue_close).
#pragma once
#include "core/arena/extent.h"
#include "core/net/socket.h"

namespace sockshim {

struct dgram_slot {
    a64 word; // lap:21 | units charged:11 | state:2 | owner, or the nonce when EMPTY:30
    u64 ext; // payload when DGRAM_EXT is set; else whatever an earlier lap left, stale by generation
    i64 stamp_ns; // CLOCK_REALTIME, 0: nobody asked
    be32 saddr;
    be32 daddr;
    u32 drops; // sk_drops at this moment, with SOCK_RXQ_OVFL
    u16 len;
    u16 sport; // host order
    u16 dport;
    u8 ttl;
    u8 tos;
    u8 ifindex;
    u8 flags;     // DGRAM_*
    u16 gso_size; // UDP_GRO: the segments that the payload consists of, 0: it is one
    u8 data[80];
};
SOCKSHIM_ARENA_TYPE(dgram_slot);
static_assert(sizeof(dgram_slot) == 128);

inline constexpr u32 dgram_inline_bytes = sizeof(dgram_slot::data);
inline constexpr u8 DGRAM_EXT = 1;
inline constexpr u8 DGRAM_PEEKED = 2; // MSG_PEEK has seen it (Linux: skb->peeked)

enum dgram_slot_state : u32 { SLOT_EMPTY = 0, SLOT_CLAIMED = 1, SLOT_READY = 2, SLOT_SKIP = 3 };

struct slot_word {
    static constexpr u32 lap_bits = 21, unit_bits = 11, owner_bits = 30;
    static constexpr u32 lap_mask = (1u << lap_bits) - 1;
    static constexpr u32 unit_mask = (1u << unit_bits) - 1;
    static constexpr u32 owner_mask = (1u << owner_bits) - 1;
    static constexpr u64 make(u32 lap, u32 units, dgram_slot_state st, u32 owner) {
        return (static_cast<u64>(lap & lap_mask) << 43) |
               (static_cast<u64>(units & unit_mask) << 32) | (static_cast<u64>(st) << owner_bits) |
               (owner & owner_mask);
    }
    static constexpr u32 lap(u64 w) { return static_cast<u32>(w >> 43); }
    static constexpr u32 units(u64 w) { return static_cast<u32>(w >> 32) & unit_mask; }
    static constexpr dgram_slot_state state(u64 w) {
        return static_cast<dgram_slot_state>((w >> owner_bits) & 3);
    }
    static constexpr u32 owner(u64 w) { return static_cast<u32>(w) & owner_mask; }
};

// Charges are counted in units of 64 bytes, the grain of Linux's truesize.
inline constexpr u32 dgram_unit = 64;
// What Linux 6.18 charges for a datagram of `len` bytes on lo: the sk_buff, and its head: room for the
// headers, payload and skb_shared_info in the small-head cache or in kmalloc's power of two; beyond 16 KiB the
// payload stands in page fragments.
constexpr u32 dgram_truesize(u32 len) {
    constexpr u32 sk_buff_bytes = 256, shared_info = 320, headers = 59, small_head = 576;
    const u32 linear = ((len + headers + 63) & ~63u) + shared_info;
    if (linear <= small_head) return sk_buff_bytes + small_head;
    if (len + headers > 16384 - shared_info)
        return sk_buff_bytes + small_head + ((len + 63) & ~63u);
    u32 size = 1024;
    while (size < linear) size *= 2;
    return sk_buff_bytes + size;
}
static_assert(dgram_truesize(64) == 832 && dgram_truesize(500) == 1280 &&
              dgram_truesize(1472) == 2304);
static_assert(dgram_truesize(65535) / dgram_unit <= slot_word::unit_mask);

// Lives inside a datagram socket. A zeroed one is an empty queue without a ring.
struct dgram_queue {
    // seldom written
    alignas(cache_line) a64 ring; // extent, raw; 0: no datagram has come yet
    a64 building;                 // intent: the ring that the holder of grow_lock is making
    robust_lock grow_lock;
    a32 closed;
    // written by senders
    alignas(cache_line) a64 tail; // position:32 | units charged up to it:32
    a64 reader_seen;              // a sender's last look at `reader`; old values are only cautious
    // written by the receiving side
    alignas(cache_line) a64 reader; // position of the head:32 | units released up to it:32
    robust_lock rd_lock;
};
SOCKSHIM_ARENA_TYPE(dgram_queue);

// What a datagram carries besides its payload.
struct dgram_meta {
    be32 saddr;
    be32 daddr;
    u16 sport;
    u16 dport;
    u8 ttl;
    u8 tos;
    u8 ifindex;
    u16 gso_size;
};

// Where a payload comes from: bytes of ours (at most three pieces: built headers, and a payload that may
// wrap), and then the program's.
struct dgram_source {
    struct piece {
        const u8* data;
        u32 len;
    } ours[3];
    iov_iter* user; // null: none
    u32 user_len;
    u32 total() const { return ours[0].len + ours[1].len + ours[2].len + user_len; }
};

enum class dgram_result : u8 {
    queued,
    noring, // dgram_prepare first
    full,   // over sk_rcvbuf, or out of slots: dropped, sk_drops counted
    fault,  // the program's memory: -EFAULT to the sender
    nomem,  // the arena is full
    closed,
};

// Makes the ring if there is none. False: the arena is full, or the socket closed. Precondition: the sock
// cannot be freed meanwhile: it is the caller's own, or the caller holds the lock of the chain in which
// it found it (udp_hash.h). A sender that has only a handle might write into the cell's next user.
bool dgram_prepare(sock& sk, dgram_queue& q);
// Queues one datagram on `sk`, whose queue `q` is, and wakes its readers. No lock may be held that a
// user page fault may not be taken under. Precondition: source.total() <= 65535.
dgram_result dgram_enqueue(sock& sk, dgram_queue& q, const dgram_meta& meta, dgram_source& source);

// Anything to read? Takes no lock, may be wrong about what changes meanwhile.
bool dgram_readable(const dgram_queue& q);
// Length of the datagram that a read would get, -1: none.
i64 dgram_first_len(dgram_queue& q);
// Bytes charged now (SO_MEMINFO, ss).
u32 dgram_charged(const dgram_queue& q);

// What a read found.
struct dgram_taken {
    dgram_meta meta;
    i64 stamp_ns;
    u32 len;    // the datagram's
    u32 copied; // to the program
    u32 offset; // with a peek offset: where in the datagram the copy began
    u32 drops;
};

// Takes (or with `peek` looks at) the first datagram and copies what fits to `to`. peek_off < 0: none, else
// SO_PEEK_OFF's, which walks over the datagrams. 0, -EAGAIN (nothing there) or -EFAULT (the datagram is
// gone all the same unless peeked, as in udp_recvmsg).
int dgram_dequeue(dgram_queue& q, iov_iter& to, bool peek, i32 peek_off, dgram_taken& out);
// Throws everything away that is there now.
void dgram_purge(dgram_queue& q);

// Ends the queue: nothing more can be claimed. True: all memory is given back. False: a sender that lives
// still has a slot; call again later (the sock must stay till then).
bool dgram_queue_close(dgram_queue& q);

// Extents that the queue refers to, for the sweep (core/net/reaper.cc).
void dgram_queue_extents(const dgram_queue& q, void (*visit)(extent, void*), void* arg);

// --- for tests --------------------------------------------------------------------------------------
// Claims the next slot as `owner` would and leaves it at that.
bool dgram_test_claim(sock& sk, dgram_queue& q, proc_id owner);

} // namespace sockshim
