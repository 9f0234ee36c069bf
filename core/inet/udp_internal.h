// What udp.cc and udp_output.cc share. Nobody else includes this.
#pragma once
#include "core/inet/udp.h"
#include "core/inet/udp_hash.h"

namespace sockshim {

// The one device there is.
inline constexpr u8 udp_ifindex = 1;

// Where one datagram goes and what it carries in its headers.
struct udp_flow {
    be32 saddr;
    be32 daddr;
    u16 sport; // host order
    u16 dport;
    u8 ttl;
    u8 tos;
    u8 type; // RTN_*
    u16 gso_size;
};

// A payload: the program's, or ours.
struct udp_payload {
    iov_iter* user;
    const u8* ours;
    u32 len;

    dgram_source source(u32 at, u32 n) const {
        dgram_source s{};
        if (user) {
            s.user = user;
            s.user_len = n;
        } else {
            s.ours[0] = {ours + at, n};
        }
        return s;
    }
};

// compute_score; -1: not this one.
int udp_score(const sock& sk, be32 saddr, u16 sport, be32 daddr, i32 dif);
// udp4_lib_lookup: who gets a packet from (saddr, sport) to (daddr, dport). The chain of dport is locked.
sock* udp_lookup(dgram_chain& chain, be32 saddr, u16 sport, be32 daddr, u16 dport);
// A multicast or broadcast: everybody on the port who wants it. Returns how many got it, or -errno.
int udp_deliver_to_many(const udp_flow& flow, const udp_payload& payload);
// Sends what UDP_CORK has gathered (udp_push_pending_frames). No lock is held.
void udp_push_pending(sock& sk);

} // namespace sockshim
