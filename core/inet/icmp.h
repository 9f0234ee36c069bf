// ICMP (RFC 792, RFC 1122 section 3.2.2; Linux: net/ipv4/icmp.c).
//
// In an sk_buff of protocol ICMP: for echo messages `data` is what follows the eight header bytes. For
// errors icmp.orig_* tell whose packet it was, and `data` is what followed that packet's transport
// header (for protocols other than TCP, UDP and ICMP: its IP header).
#pragma once
#include "core/net/sk_buff.h"

namespace sockshim {

// Sends an ICMP error about `about`. Nothing is sent about an ICMP error, a multicast or a broadcast
// (RFC 1122, 3.2.2).
void icmp_send(const sk_buff& about, u8 type, u8 code, u32 info);
void icmp_rcv(const sk_buff& skb);

// What an error means to a socket (icmp_err_convert and the special cases): positive errno; `fatal`
// errors end a connection.
int icmp_errno(u8 type, u8 code, bool& fatal);

} // namespace sockshim
