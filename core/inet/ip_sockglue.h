// Socket options and control messages of level SOL_IP (Linux: net/ipv4/ip_sockglue.c), for TCP, UDP, RAW
// and PING alike.
//
// Not carried, ENOPROTOOPT: IP_OPTIONS with options in it (an empty list is accepted), IP_ROUTER_ALERT,
// IP_IPSEC_POLICY, IP_XFRM_POLICY, MRT_* (multicast routing).
#pragma once
#include "core/inet/inet_sock.h"
#include "core/net/socket.h"

namespace sockshim {

// optval and optlen are the program's. -ENOPROTOOPT for other levels, as Linux.
int ip_setsockopt(sock& sk, int level, int optname, const void* optval, u32 optlen);
int ip_getsockopt(sock& sk, int level, int optname, void* optval, u32* optlen);

// What governs one packet (struct ipcm_cookie): the socket's defaults, changed by control messages.
struct ipcm_cookie {
    be32 addr;    // source (IP_PKTINFO's ipi_spec_dst), 0: any
    i32 oif;      // 0: any
    i16 ttl;      // 0: not given
    i16 tos;      // -1: not given
    u16 gso_size; // UDP_SEGMENT
    u8 protocol;  // IP_PROTOCOL, raw sockets
};
void ipcm_init_sk(ipcm_cookie& ipc, const sock& sk);
// Reads the control messages of a send. 0 or -errno. `udp`: SOL_UDP messages count too.
int ip_cmsg_send(sock& sk, const msghdr_iter& msg, ipcm_cookie& ipc, bool udp);
// What control messages tell of a received packet.
struct ip_received {
    be32 daddr;
    be32 spec_dst; // the local address that it was for (fib_compute_spec_dst)
    u16 dport;     // host order
    u8 ttl;
    u8 tos;
    u8 ifindex;
};
// For a packet from saddr: a multicast's or broadcast's spec_dst is the local address that faces it.
be32 fib_compute_spec_dst(be32 saddr, be32 daddr);
// Appends what the socket asked for about a received packet.
void ip_cmsg_recv(sock& sk, msghdr_iter& msg, const ip_received& packet);
// SO_TIMESTAMP*, SO_RXQ_OVFL. stamp_ns 0: now.
void sock_recv_cmsgs(sock& sk, msghdr_iter& msg, i64 stamp_ns, u32 drops);

// Has this process the capability towards the network? In a virtual network everybody has.
bool net_capable(int cap);

} // namespace sockshim
