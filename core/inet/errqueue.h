// The error queue behind MSG_ERRQUEUE (Linux: sk_error_queue, ip_icmp_error, ip_local_error and
// ip_recv_error in net/ipv4/ip_sockglue.c).
#pragma once
#include <ctime>
#include <netinet/in.h>

#include <linux/errqueue.h> // uses timespec without including it

#include "core/arena/extent.h"
#include "core/net/socket.h"

namespace sockshim {

// 64 entries of 1 KiB in one extent (Linux: as many as SO_RCVBUF admits, some 250), which comes with the first error. Guarded by `lock`; an entry
// counts from the store of `count` on, so a holder who dies leaves at most an entry that nobody sees.
struct error_queue {
    robust_lock lock;
    a32 count;
    u32 head;
    u32 reserved;
    a64 ext; // raw; stored before it is published, so it cannot be lost
};
SOCKSHIM_ARENA_TYPE(error_queue);

inline constexpr u32 error_queue_entries = 64;

struct error_entry {
    sock_extended_err ee;
    be32 offender; // 0: none
    be32 addr;     // whom the failed packet was for
    be32 local;    // whom the ICMP message was for
    u16 port;      // host order
    u16 reserved;
    u32 len; // payload bytes below
    u32 reserved2;
    i64 stamp_ns;
    u8 data[1024 - 16 - 32];
};
static_assert(sizeof(error_entry) == 1024);

// Queues an error; false when the queue or the arena is full (the error is lost, as when rcvbuf is full).
// Wakes nobody.
bool errqueue_push(error_queue& q, const error_entry& head, const u8* data, u32 len);
// Takes the oldest into `out`. False: none. `next_errno`: the error that follows it, 0 when that is none
// of ICMP's (sock_dequeue_err_skb).
bool errqueue_pop(error_queue& q, error_entry& out, u32& next_errno);
inline bool errqueue_empty(const error_queue& q) { return q.count.load() == 0; }
void errqueue_purge(error_queue& q);
void errqueue_destroy(error_queue& q);

// Receives from the error queue: recvmsg with MSG_ERRQUEUE on any inet socket.
i64 ip_recv_error(sock& sk, msghdr_iter& msg);
// An ICMP error about a packet that `sk` sent to port `dport`; `icmp` as icmp.h describes it.
void ip_icmp_error(sock& sk, int err, u16 dport, const sk_buff& icmp);
// An error found here, before the packet to `daddr` left (EMSGSIZE). Nothing without IP_RECVERR.
void ip_local_error(sock& sk, int err, be32 daddr, u32 info);

} // namespace sockshim
