// Raw sockets (Linux: net/ipv4/raw.c): all packets of one IP protocol, headers included, and what the
// program builds itself.
#pragma once
#include "core/inet/dgram_sock.h"

namespace sockshim {

struct raw_sock {
    dgram_sock dgram; // first
    u32 filter;       // ICMP_FILTER: a set bit hides that type
};
SOCKSHIM_ARENA_TYPE(raw_sock);
static_assert(sizeof(raw_sock) <= sock_cell_bytes);

inline raw_sock& raw_sk(sock& sk) { return reinterpret_cast<raw_sock&>(sk); }

extern const proto raw_prot;

// A copy of a packet for each raw socket of its protocol (raw_local_deliver). True: somebody took one, so
// an unknown protocol is not "unreachable".
bool raw_local_deliver(const sk_buff& skb);
inline void raw_rcv(const sk_buff& skb) { static_cast<void>(raw_local_deliver(skb)); }
// An ICMP error about a packet of a protocol that raw sockets sent.
void raw_icmp_error(const sk_buff& icmp);

} // namespace sockshim
