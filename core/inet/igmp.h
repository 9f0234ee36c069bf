// Multicast groups of a socket (Linux: net/ipv4/igmp.c, the half that faces the socket). Nothing is
// reported to routers: a network of ours has none.
//
// In the default network a group on an interface that is not lo is the kernel's business: joining answers
// -EHANDOVER.
#pragma once
#include "core/arena/extent.h"
#include "core/inet/inet_sock.h"

namespace sockshim {

inline constexpr u32 igmp_max_memberships = 20;
inline constexpr u32 igmp_max_msf = 10;

// Which interface a multicast option means: lo is 1. Positive: the index; 0: none such; -EHANDOVER: it
// is one of the kernel's.
i32 ip_mc_find_dev(be32 address, i32 ifindex);

// One membership; inet_sock.mc_list names an extent of these. Written under sk_lock; senders read it
// without and may see it half changed, which misdirects one datagram at most.
struct ip_mc_socklist {
    be32 multiaddr; // 0: free
    i32 ifindex;
    u8 sfmode; // MCAST_INCLUDE, MCAST_EXCLUDE
    u8 count;
    u8 reserved[2];
    be32 sources[igmp_max_msf];
};
SOCKSHIM_ARENA_TYPE(ip_mc_socklist);

// sk_lock is held by the caller of all of these but the last four.
int ip_mc_join_group(sock& sk, be32 group, be32 address, i32 ifindex, u8 mode);
int ip_mc_leave_group(sock& sk, be32 group, be32 address, i32 ifindex);
// One source added to or removed from a filter (IP_BLOCK_SOURCE and friends).
int ip_mc_source(sock& sk, bool add, u8 omode, be32 group, be32 address, i32 ifindex, be32 source);
// The whole filter at once (IP_MSFILTER). `sources` is ours.
int ip_mc_msfilter(sock& sk, be32 group, be32 address, i32 ifindex, u8 mode, const be32* sources,
                   u32 count);
int ip_mc_msfget(sock& sk, be32 group, be32 address, i32 ifindex, u8& mode, be32* sources,
                 u32& count);

// Does `sk` want a multicast packet (group, source) that came by `ifindex`? (ip_mc_sf_allow)
bool ip_mc_sf_allow(const sock& sk, be32 group, be32 source, i32 ifindex);
// Has `sk` itself joined the group on lo?
bool ip_mc_member(const sock& sk, be32 group);
// Has anybody? Looks at every sock.
bool ip_mc_any_member(be32 group);
// Each group that `sk` has joined.
void ip_mc_visit(const sock& sk, void (*visit)(const ip_mc_socklist&, void*), void* arg);
void ip_mc_drop_socket(sock& sk);
void ip_mc_extents(const sock& sk, void (*visit)(extent, void*), void* arg);

} // namespace sockshim
