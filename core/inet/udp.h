// UDP (RFC 768; Linux: net/ipv4/udp.c).
//
// A datagram to a socket of this network goes straight from the program's memory into a slot of the
// receiver's queue (udp_queue.h): no packet is built, no lock taken. That holds for a destination on an
// unimpaired lo that nobody looks at (no raw socket of protocol UDP); the rest takes the packet path, and
// ends in udp_rcv.
#pragma once
#include "core/inet/dgram_sock.h"

namespace sockshim {

inline constexpr u32 udp_max_payload = 65507; // 65535 less the IP and UDP headers
inline constexpr u16 udp_max_segments = 128;  // of one UDP_SEGMENT send

struct udp_sock {
    dgram_sock dgram; // first
    u16 gso_size;     // UDP_SEGMENT
    u8 corkflag;      // UDP_CORK
    u8 gro_enabled;
    u8 no_check6_tx;
    u8 no_check6_rx;
    u8 encap_type;
    u8 reserved;
    // The datagram being put together under UDP_CORK or MSG_MORE; sk_lock.
    u64 cork_ext; // extent, raw; 0: none. Stored before it is published, so it cannot be lost
    u32 cork_len;
    be32 cork_daddr;
    be32 cork_saddr;
    u16 cork_dport;
    u8 cork_ttl;
    u8 cork_tos;
    u16 cork_gso;
    u8 cork_type; // RTN_*
    u8 cork_reserved[3];
};
SOCKSHIM_ARENA_TYPE(udp_sock);
static_assert(sizeof(udp_sock) <= sock_cell_bytes);

inline udp_sock& udp_sk(sock& sk) { return reinterpret_cast<udp_sock&>(sk); }

extern const proto udp_prot;

i64 udp_sendmsg(sock& sk, msghdr_iter& msg);
i64 udp_recvmsg(sock& sk, msghdr_iter& msg);
u32 udp_poll(sock& sk);
int udp_ioctl(sock& sk, unsigned cmd, unsigned long arg);
// Connects a datagram socket: fixes the peer, sends nothing. Raw sockets use it too.
int ip4_datagram_connect(sock& sk, const sockaddr* addr, u32 len);
int udp_disconnect(sock& sk, int flags);
int udp_get_port(sock& sk, u16 port);
void udp_unhash(sock& sk);
int udp_setsockopt(sock& sk, int level, int optname, const void* optval, u32 optlen);
int udp_getsockopt(sock& sk, int level, int optname, void* optval, u32* optlen);

// Packet path.
void udp_rcv(const sk_buff& skb);
// An ICMP error about a UDP packet of ours.
void udp_err(const sk_buff& icmp);

// Is a UDP socket bound to (addr, port), or to the port alone? `port` in host order.
bool udp_port_in_use(be32 addr, u16 port);
// FIONREAD: length of the next datagram, -1: none.
i64 udp_peek_len(sock& sk);

} // namespace sockshim
