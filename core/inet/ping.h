// Echo sockets: socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP) (Linux: net/ipv4/ping.c). The program sends and
// receives ICMP echo messages; the identifier is the socket's port.
#pragma once
#include "core/inet/dgram_sock.h"

namespace sockshim {

struct ping_sock {
    dgram_sock dgram; // first
};
SOCKSHIM_ARENA_TYPE(ping_sock);
static_assert(sizeof(ping_sock) <= sock_cell_bytes);

inline ping_sock& ping_sk(sock& sk) { return reinterpret_cast<ping_sock&>(sk); }

extern const proto ping_prot;

// An echo reply; true when a socket took it.
bool ping_rcv(const sk_buff& skb);
// An ICMP error about an echo request.
void ping_err(const sk_buff& icmp);

} // namespace sockshim
