// IPv4 (RFC 791; Linux: include/net/ip.h, net/ipv4/ip_output.c, ip_input.c). Packets are sk_buffs with
// parsed headers; an IP header's bytes are built only for those who look.
#pragma once
#include "core/net/sk_buff.h"
#include "core/net/sock.h"

namespace sockshim {

inline constexpr u8 IPDEFTTL = 64;
inline constexpr u32 IP_MAX_MTU = 0xffff;

inline bool ipv4_is_loopback(be32 a) { return (a & htonl(0xff000000)) == htonl(0x7f000000); }
inline bool ipv4_is_multicast(be32 a) { return (a & htonl(0xf0000000)) == htonl(0xe0000000); }
inline bool ipv4_is_lbcast(be32 a) { return a == htonl(INADDR_BROADCAST); }
inline constexpr bool ipv4_is_zeronet(be32 a) { return a == 0; }

// Sends a transport packet. saddr (0: the route's), daddr, protocol, the transport header and the payload
// are set; ttl and tos of 0 are filled in from the sock (null: defaults). The packet is copied: the
// payload may be borrowed. 0, or -ENETUNREACH, -EMSGSIZE, -ENOBUFS.
int ip_queue_xmit(sock* sk, const sk_buff& skb);
// The same without a sock's say: what icmp_send and tcp_v4_send_reset use.
int ip_send_skb(const sk_buff& skb);

// A packet from a device: checks it, then hands it to raw sockets and its protocol. No lock is held.
void ip_rcv(const sk_buff& skb);

// Protocol handlers (inet_protos). A module may add one for a protocol that has none.
struct net_protocol {
    void (*handler)(const sk_buff& skb);
    // An ICMP error about a packet of this protocol; may be null.
    void (*err_handler)(const sk_buff& icmp);
};
int inet_add_protocol(const net_protocol& prot, u8 protocol); // 0 or -EEXIST
int inet_del_protocol(const net_protocol& prot, u8 protocol); // 0 or -ENOENT
const net_protocol* inet_protocol(u8 protocol);               // null: none

// TCP's handlers (core/tcp/ or core/inet/tcp_ipv4.cc).
void tcp_v4_rcv(const sk_buff& skb);
void tcp_v4_err(const sk_buff& icmp);

struct ip_mib {
    a64 in_receives;
    a64 in_delivers;
    a64 in_hdr_errors;
    a64 in_addr_errors;
    a64 in_unknown_protos;
    a64 out_requests;
    a64 out_no_routes;
    a64 out_discards;
};
extern ip_mib ip_statistics; // of this process

} // namespace sockshim
