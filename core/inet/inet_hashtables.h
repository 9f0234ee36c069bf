// Lookup tables of the network (Linux: inet_hashtables.c). Buckets are partitioned, each with its own
// robust lock; a chain is rebuilt from the cells when its lock's owner died.
//
// A chain's reference names a cell of one of three regions: kind (SKC_KIND_*) in the top two bits, cell
// index below, + 1 so that 0 ends the chain.
//
// Truth is in the cells: skc_hashed says which tables an entry is in, its addresses, ports and state say
// where. Flags are set before an entry is linked and cleared after it was taken out, so a rebuild after
// a kill at any point is right. Entries are published before they are linked: a chain never leads into a
// cell that the reaper frees with its claimer. Order of buckets' locks: bhash, then ehash or lhash.
#pragma once
#include "core/inet/inet_connection_sock.h"

namespace sockshim {

// What a lookup found. The caller locks and validates (lock_sock_handle) before it trusts it.
struct inet_lookup_result {
    u8 kind; // 0: nothing
    handle<sock> sk;
    handle<request_sock> req;
    handle<inet_timewait_sock> tw;
};

// The established, request or timewait entry for a packet to (daddr, dport) from (saddr, sport); ports
// in host order as in the packet.
inet_lookup_result inet_lookup_established(be32 saddr, u16 sport, be32 daddr, u16 dport);
// The listener for (daddr, dport): most specific first, SO_REUSEPORT groups balanced by hash.
handle<sock> inet_lookup_listener(be32 saddr, u16 sport, be32 daddr, u16 dport);
// Has a sock of ours that may listen yet taken (daddr, dport) in the kernel, too? Whom the kernel connects there would
// meet its half. SO_REUSEPORT leaves room for listeners of the kernel's own, so such socks do not count.
bool inet_half_listener(be32 daddr, u16 dport);

// Put into / take out of the table that the sock's state calls for (TCP_LISTEN: listening table, else
// ehash). inet_ehash_insert fails with -EADDRNOTAVAIL when the four-tuple is taken (a TIME_WAIT entry
// that may be reused is replaced).
int inet_hash(sock& sk);
void inet_unhash(sock& sk);
int inet_ehash_insert(sock& sk);
bool inet_reqsk_insert(request_sock& req); // false: the tuple is there already
// The request's entry stays until it is removed; lookups prefer the sock that took its place.
void inet_reqsk_remove(request_sock& req);
// In place of the sock with the same tuple, in ehash and bhash. tw.__tw_common is the sock's, but for
// skc_kind, skc_state (TCP_TIME_WAIT) and skc_hashed (0).
void inet_twsk_insert(inet_timewait_sock& tw);
void inet_twsk_remove(inet_timewait_sock& tw);

// Binds to a local port: bhash. `port` in host order.
int inet_bind_bucket_add(sock& sk, u16 port);
void inet_put_port(sock& sk);
// Ephemeral port for a connect to (daddr, dport), RFC 6056 algorithm 3; hashes the sock as well.
int inet_hash_connect(sock& sk);

// May a connect take the place of this TIME_WAIT entry (tcp_twsk_unique)?
bool inet_twsk_reusable(const inet_timewait_sock& tw);
// Range of ports that are handed out to `sk`, both ends included.
struct port_range {
    u16 low;
    u16 high;
};
port_range inet_sk_get_local_port_range(const sock& sk);
// Keyed hash of a four-tuple as the owner of (laddr, lport) sees it.
u32 inet_ehashfn(be32 laddr, u16 lport, be32 faddr, u16 fport);
u32 get_random_u32();
// Binds to `port`, or to one of the stack's choice (0), by Linux's rules. 0 or -EADDRINUSE.
int inet_bhash_get_port(sock& sk, u16 port);

} // namespace sockshim
