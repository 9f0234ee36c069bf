// The receive half of the packet path (Linux: net/core/dev.c). A packet that a device has delivered is
// queued on the *thread* that sent it; the thread works its queue off, the receiver's input included,
// as soon as it holds no sock lock (release_sock), so that no thread of the receiver's is needed.
#pragma once
#include "core/net/sk_buff.h"

namespace sockshim {

// As Linux's sysctl of that name: packets that may wait on one thread; the next one is dropped.
inline constexpr u32 netdev_max_backlog = 1000;

struct net_rx_stats {
    u64 packets;
    u64 bytes;
    u64 dropped; // queue or arena full
};
extern net_rx_stats loopback_stats; // of this process

// Copies the packet into the thread's queue. 0 or -ENOBUFS. Any lock may be held.
int netif_rx(const sk_buff& skb);
// Works the queue off. Does nothing when the thread holds a sock lock or is at it already.
void net_rx_action();
bool net_rx_pending();
// In a forked child: the queue is the parent's, who still has it.
void net_rx_fork_child();

// How many sock locks this thread holds (sock.cc keeps it).
extern constinit thread_local u32 sock_locks_held;

struct skb_cell;
template <class T> struct handle;
// The cell behind `skb` if it is the packet that net_rx_action is delivering: the caller takes it over
// instead of copying it. Null handle: it is not.
handle<skb_cell> net_rx_steal(const sk_buff& skb);

} // namespace sockshim
