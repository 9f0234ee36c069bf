// TCP over IPv4: which sock a segment belongs to, addresses, and the stack's own tcp_env.
#pragma once
#include "core/net/proto.h"
#include "core/tcp/tcp_env.h"

namespace sockshim {

extern const proto tcp_prot;

// A segment from IP. No lock held.
void tcp_v4_rcv(tcp_env& env, const sk_buff& skb);
// sk_lock held: a segment for this sock, or for a request of this listener.
void tcp_v4_do_rcv(tcp_env& env, sock& sk, const sk_buff& skb);
int tcp_v4_connect(sock& sk, const sockaddr* addr, u32 len);
void tcp_v4_err(tcp_env& env, const sk_buff& icmp);
// For the reaper's sweep, on a network that is one arena: is this a connection whose other end is neither a
// sock nor a request nor in TIME_WAIT? Its RST died with the process that should have delivered it.
bool tcp_v4_peer_gone(const sock& sk);
// No lock held: what that RST would have done.
void tcp_v4_reset_lonely(sock& sk);
// RFC 9293, 3.10.7.1: the answer to a segment that nobody wants.
void tcp_v4_send_reset(tcp_env& env, const sk_buff& skb);
u32 tcp_v4_secure_isn(tcp_env& env, be32 saddr, be32 daddr, u16 sport, u16 dport);

} // namespace sockshim
