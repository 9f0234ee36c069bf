// A packet that has to wait: in the thread's queue (net_rx.h), in a busy sock's backlog (sock_backlog.cc),
// on a slow link. A cell of the arena with the sk_buff's head and a copy of the payload.
//
// A cell is CLAIMED while one thread carries it, so it is freed when that process dies; it is published
// before others can meet it (a backlog), and the one who takes it off frees it.
#pragma once
#include "core/arena/slab.h"
#include "core/net/sk_buff.h"

namespace sockshim {

struct sock;

inline constexpr u32 skb_inline_bytes = 256 - 96 - 32;

struct skb_cell {
    a32 next; // skb_ref of the next in the list it is on
    u32 len;
    u64 sk;      // raw handle of the sock in whose backlog it is; 0: none
    extent data; // the payload when it does not fit below
    u32 ifindex; // the device it came in by
    u32 reserved;
    u8 head[96]; // sk_buff up to its payload
    u8 bytes[skb_inline_bytes];
};
SOCKSHIM_ARENA_TYPE(skb_cell);
static_assert(sizeof(skb_cell) == 256);
static_assert(offsetof(sk_buff, data) <= sizeof(skb_cell::head));
template <> struct region_of<skb_cell> { static constexpr region_id value = REGION_SKB; };

// A list's link: the cell's index + 1 and the low bits of its generation, so that a list that names a
// freed cell ends there instead of running on into its next user's list. 0: end.
using skb_ref = u32;
inline constexpr u32 skb_ref_index_bits = 19;
skb_ref skb_ref_of(handle<skb_cell> h);
handle<skb_cell> skb_ref_handle(skb_ref ref); // null: stale or end

// Null handle: arena full, the packet is lost.
handle<skb_cell> skb_cell_build(const sk_buff& skb);
// The packet as the layers see it; its payload points into the cell. False: stale.
bool skb_cell_view(handle<skb_cell> h, sk_buff& skb);
void skb_cell_publish(handle<skb_cell> h);
void skb_cell_free(handle<skb_cell> h);

} // namespace sockshim
