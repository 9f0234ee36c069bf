// What udp_sock, raw_sock and ping_sock have in common: an inet_sock, a queue of datagrams, a queue of
// errors. Arena type.
#pragma once
#include "core/inet/errqueue.h"
#include "core/inet/inet_sock.h"
#include "core/inet/udp_queue.h"
#include "core/net/proto.h"

namespace sockshim {

struct dgram_sock {
    inet_sock inet; // first
    error_queue errq;
    dgram_queue rx;
};
SOCKSHIM_ARENA_TYPE(dgram_sock);

inline dgram_sock& dgram_sk(sock& sk) { return reinterpret_cast<dgram_sock&>(sk); }
inline const dgram_sock& dgram_sk(const sock& sk) {
    return reinterpret_cast<const dgram_sock&>(sk);
}
inline bool sk_is_dgram(const sock& sk) {
    const u8 id = sk.__sk_common.skc_prot_id;
    return id == PROT_UDP || id == PROT_RAW || id == PROT_PING;
}

// Waits as __skb_wait_for_more_packets does: 0 when there may be something, -EAGAIN at the deadline,
// -EINTR, the pending error, -ESHUTDOWN when the receiving side is shut down (a read of 0 bytes).
int dgram_wait(sock& sk, i64 deadline_us);
// The receive half of recvmsg that all datagram sockets share: waits, takes, copies, sets MSG_TRUNC in
// msg.flags, appends the socket-level control messages. `flags` are the call's. Returns 0 or -errno.
int dgram_recv(sock& sk, msghdr_iter& msg, int flags, dgram_taken& out);
// The IP-level control messages of a received datagram.
void dgram_ip_cmsgs(sock& sk, msghdr_iter& msg, const dgram_taken& taken);
// datagram_poll.
u32 dgram_poll(sock& sk);
// SIOCINQ and SIOCOUTQ; -ENOIOCTLCMD_SHIM for the rest.
int dgram_ioctl(sock& sk, unsigned cmd, unsigned long arg);
// proto.shutdown of sockets whose shutdown sends nothing: wakes everybody.
void dgram_shutdown(sock& sk, int how);
// proto.destroy and the end of proto.close: gives back what the sock holds. False: a sender still has a
// slot of its queue, and the sock's timer will try again.
bool dgram_destroy(sock& sk);
// sk_common_release: unhash, destroy, free the cell (now, or from proto.timer).
void dgram_close(sock& sk, i64 timeout_us);
void dgram_timer(sock& sk, u64 now_us);
// Extents that a datagram sock refers to, for the sweep (core/net/reaper.cc). All of them must be
// visited, or the sweep takes them for lost.
void dgram_sock_extents(const sock& sk, void (*visit)(extent, void*), void* arg);

} // namespace sockshim
