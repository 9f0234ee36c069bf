// The fused path ("TCP fusion", after Solaris): an established connection whose two ends are in this
// arena moves its bytes through one ring per direction, with no packets.
//
// A connection is fused when all of this holds, and leaves the path (tcp_unfuse) when any of it ends:
//   - both ends are socks of this arena in ESTABLISHED, each other's peer, over an unimpaired link;
//   - neither end has data in flight: snd_una == write_seq on both, no out-of-order bytes, no FIN;
//   - no urgent data is pending on either end, neither end has SOCK_FUSE_OFF.
// Control (shutdown, close, RST, urgent data, disconnect, loss of a lock's owner) first unfuses, then
// goes the packet path; so the fused path knows no state but ESTABLISHED.
//
// While fused a.tx_ring is b.rx_ring and b.tx_ring is a.rx_ring. A sender holds its own tx_lock, a
// receiver its own rx_lock; neither takes the other's, except to replace a ring's buffer by a larger
// one. Fusing and unfusing hold both sk_locks, both tx_locks and both rx_locks. What the sequence
// variables would be on the packet path is computed from the rings: all bytes of [0, tail) are sent,
// received and acknowledged.
#pragma once
#include "core/net/socket.h"

namespace sockshim {

struct tcp_sock;

// Not an errno: the connection is not (any longer) fused; go the packet path.
inline constexpr i64 TCP_NOT_FUSED = -5000;

bool tcp_is_fused(const tcp_sock& tp);
// No lock held.
i64 tcp_fused_sendmsg(sock& sk, msghdr_iter& msg);
i64 tcp_fused_recvmsg(sock& sk, msghdr_iter& msg);
// No lock held. Does nothing when neither end is fused.
void tcp_unfuse(sock& sk);
// Whoever fuses or unfuses may die in the middle. Both ends name each other (fused_peer) before the rings are joined
// and until they are parted, and are flagged in between: what is found says what is left to do.
// sk_lock held, after its holder's death: rings that are joined while neither end is flagged are the receivers'.
void tcp_fused_repair(sock& sk);
// Is this end flagged and the other one not? tcp_unfuse, of either end, completes it; the sweep does, too.
bool tcp_half_fused(const sock& sk);
// sk_lock may be held. Lets go of what TCP_CORK or MSG_MORE has withheld.
void tcp_fused_push(sock& sk);
// sk_lock held. The write timer: a cork has held back long enough, a full ring has not been read from.
void tcp_fused_timer(sock& sk);
// No lock held. Fuses the connection of `sk` with its peer when the conditions hold.
void tcp_fuse_try(sock& sk);
// Without locks, as tcp_poll.
u32 tcp_fused_poll(sock& sk);
// Bytes unread (SIOCINQ) and not yet accepted by the peer's receive buffer (SIOCOUTQ).
u64 tcp_fused_inq(sock& sk);
u64 tcp_fused_outq(sock& sk);
// sk_lock held: brings write_seq, snd_una, rcv_nxt, copied_seq and the counters up to date.
void tcp_fused_sync(tcp_sock& tp);

} // namespace sockshim
