// struct sock: the network layer's view of a socket, as in Linux's include/net/sock.h. Arena type:
// code addresses are ids (sk_prot is skc_prot_id, looked up with sk_prot()), references are handles.
//
// Life: sk_alloc claims and initialises a cell, sock_init_data ties it to its struct socket, sk_publish
// makes it live; sk_free gives it back. There is no reference count: a handle that outlives the sock
// goes stale, and whoever locks a sock it found by lookup validates the handle under the lock
// (lock_sock_handle), since the memory is type-stable.
//
// Locks: sk_lock guards everything here that has no other note. tx_lock and rx_lock serve the fused
// path only (core/tcp/tcp_fusion.cc). Order: see robust_lock.h.
#pragma once
#include <linux/socket.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "core/net/sk_buff.h"
#include "core/net/wait_queue.h"

namespace sockshim {

struct socket;
struct proto;
struct skb_cell;

struct sock_common {
    be32 skc_daddr;
    be32 skc_rcv_saddr;
    be16 skc_dport;
    u16 skc_num; // local port, host order
    u16 skc_family;
    a8 skc_state; // TCP_ESTABLISHED, ...; stored only by tcp_set_state (or the family's own)
    u8 skc_prot_id;
    u8 skc_reuse;     // SO_REUSEADDR
    u8 skc_reuseport; // SO_REUSEPORT
    u8 skc_hashed;    // SKC_HASHED_*
    u8 skc_kind;      // SKC_KIND_*: what the cell is (sock, request, timewait share this head)
    i32 skc_bound_dev_if;
    u32 skc_hash;
    u32 skc_node;      // next in ehash / listening / udp chain, reference + 1 (inet_hashtables.h)
    u32 skc_bind_node; // next in bhash chain, reference as skc_node
    u32 skc_bind_prev; // the one before, 0: first
    u32 skc_cookie;
};

inline constexpr u8 SKC_KIND_SOCK = 1;
inline constexpr u8 SKC_KIND_REQUEST = 2;
inline constexpr u8 SKC_KIND_TIMEWAIT = 3;

inline constexpr u8 SKC_HASHED_MAIN = 1;
inline constexpr u8 SKC_HASHED_BIND = 2;
inline constexpr u8 SKC_HASHED_CONNECT = 4; // with _BIND: the port was chosen by connect

// sk_flags bits (enum sock_flags)
enum sock_flags : u32 {
    SOCK_DEAD = 1u << 0,
    SOCK_DONE = 1u << 1,
    SOCK_URGINLINE = 1u << 2,
    SOCK_KEEPOPEN = 1u << 3,
    SOCK_LINGER = 1u << 4,
    SOCK_BROADCAST = 1u << 5,
    SOCK_TIMESTAMP = 1u << 6,
    SOCK_RCVTSTAMPNS = 1u << 7,
    SOCK_DBG = 1u << 8,
    SOCK_LOCALROUTE = 1u << 9,
    SOCK_RXQ_OVFL = 1u << 10,
    SOCK_FUSE_OFF = 1u << 11,   // this sock stays on the packet path
    SOCK_TSTAMP_NEW = 1u << 12, // 64-bit layouts of the SO_TIMESTAMP* messages
    SOCK_ZEROCOPY = 1u << 13,
    SOCK_TXTIME = 1u << 14,
    SOCK_FILTER_LOCKED = 1u << 15,
    SOCK_WIFI_STATUS = 1u << 16,
    SOCK_NOFCS = 1u << 17,
    SOCK_SELECT_ERR_QUEUE = 1u << 18,
    SOCK_RCVMARK = 1u << 19,
    SOCK_RCVPRIORITY = 1u << 20,
    SOCK_PREFER_BUSY_POLL = 1u << 21,
};

inline constexpr u8 RCV_SHUTDOWN = 1;
inline constexpr u8 SEND_SHUTDOWN = 2;
inline constexpr u8 SHUTDOWN_MASK = 3;

// sk_userlocks; SOCK_SNDBUF_LOCK 1 and SOCK_RCVBUF_LOCK 2 are linux/socket.h's
inline constexpr u8 SOCK_BINDADDR_LOCK = 4;
inline constexpr u8 SOCK_BINDPORT_LOCK = 8;

inline constexpr u16 SK_BUSY_POLL_BUDGET = 8; // Linux: BUSY_POLL_BUDGET
inline constexpr i32 SK_RMEM_DEFAULT = 212992;
inline constexpr i32 SK_WMEM_DEFAULT = 212992;
inline constexpr i32 SK_RMEM_MAX = 212992;
inline constexpr i32 SK_WMEM_MAX = 212992;
inline constexpr i32 SOCK_MIN_RCVBUF = 2304;
inline constexpr i32 SOCK_MIN_SNDBUF = 4608;
inline constexpr i64 MAX_SCHEDULE_TIMEOUT = -1; // microseconds; wait for ever

struct sock {
    sock_common __sk_common;
    robust_lock sk_lock;
    a32 sk_backlog; // skb_cell index + 1: packets that met a held sk_lock, newest first
    robust_lock tx_lock;
    robust_lock rx_lock;

    a8 sk_shutdown; // RCV_SHUTDOWN | SEND_SHUTDOWN; stored under sk_lock, read by poll without
    u8 sk_userlocks;
    u8 sk_no_check_tx;
    u8 sk_no_check_rx;
    u16 sk_type;
    u16 sk_protocol;
    a32 sk_flags; // enum sock_flags
    a32 sk_err;   // positive errno, pending; taken by sock_error()
    i32 sk_err_soft;
    a32 sk_kernel;         // KERNEL_*: the kernel's half (kernel_half.h)
    a32 sk_kernel_watcher; // proc_id of who is told when that has something; 0: nobody
    i32 sk_rcvbuf;         // bytes, as getsockopt tells (doubled)
    i32 sk_sndbuf;
    i32 sk_rcvlowat;
    i32 sk_peek_off;
    u32 sk_priority;
    u32 sk_mark;
    i32 sk_lingertime_s;
    a32 sk_ack_backlog; // listener: connections in the accept queue
    u32 sk_max_ack_backlog;
    i64 sk_rcvtimeo_us; // -1: none
    i64 sk_sndtimeo_us;
    handle<socket> sk_socket; // null: orphan, or not accepted yet
    a64 sk_timer_us;          // earliest deadline of any of this sock's timers, monotonic; 0: none
    a64 sk_timer_queued_us;   // when the duty thread will look at it next; 0: not queued (timer.cc)
    i32 sk_uid;
    a32 sk_drops;
    i64 sk_stamp_ns; // time of the last packet, for SIOCGSTAMP

    alignas(cache_line) wait_queue sk_wq;

    // what options seldom set
    u64 sk_max_pacing_rate; // bytes a second, ~0: no limit
    u32 sk_tsflags;         // SOF_TIMESTAMPING_*
    i32 sk_incoming_cpu;
    u32 sk_ll_usec;
    u16 sk_busy_poll_budget;
    i16 sk_bind_phc;
    u8 sk_txrehash;
    u8 sk_txtime_flags;
    u16 sk_disconnects; // how often connect(AF_UNSPEC) or a failure ended it: a waiter notices
    i32 sk_txtime_clockid;
};
SOCKSHIM_ARENA_TYPE(sock);
template <> struct region_of<sock> { static constexpr region_id value = REGION_SOCK; };

inline u8 sk_state(const sock& sk) { return sk.__sk_common.skc_state.load(); }
inline u16 sk_family(const sock& sk) { return sk.__sk_common.skc_family; }
inline bool sock_flag(const sock& sk, sock_flags f) { return sk.sk_flags.load_relaxed() & f; }
void sock_set_flag(sock& sk, sock_flags f, bool on);

// The handle that names this sock now.
handle<sock> sk_handle(const sock& sk);
u32 sk_index(const sock& sk);
const proto& sk_prot(const sock& sk);

// Allocates prot.obj_size bytes' worth of sock, zeroed but for its locks; null: arena full.
sock* sk_alloc(int family, const proto& prot);
void sk_publish(sock& sk);
void sk_free(sock& sk);
// Defaults of a fresh sock; `sock` may be null (a child that nobody has accepted).
void sock_init_data(socket* sock, struct sock& sk);

// User context. lock_sock waits; release_sock works the backlog off first, then whatever packets this
// thread has queued (net_rx_action) once no lock is held.
void lock_sock(sock& sk);
void release_sock(sock& sk);
// False: another thread is in the sock, or a dead one was.
bool trylock_sock(sock& sk);
// Locks the sock that h names; null (nothing locked) when h is stale.
sock* lock_sock_handle(handle<sock> h);
// Locks two socks in the order of their indices.
void lock_sock_pair(sock& a, sock& b);

// The receive path's lock (core/net/sock_backlog.cc). True: another thread is in the sock, the packet is
// on its backlog (or lost, the arena being full) and the caller is done with it. False: the caller holds
// the lock, ends with release_sock, and first makes sure that the sock is still the one it looked up.
bool sk_add_backlog(sock& sk, const sk_buff& skb);
// The same with that check: the sock that h names, locked; null when the packet is taken care of or the
// sock is gone.
sock* sk_lock_or_backlog(handle<sock> h, const sk_buff& skb);
// Gives the backlog's cells back unlooked at. sk_lock held.
void sk_backlog_purge(sock& sk);
// The lock's last owner died inside: brings the sock into a state that can go on, or ends it.
// sk_lock held. Calls the protocol's repair.
void sk_repair(sock& sk);
// For the reaper: takes over, repairs and releases every sock whose lock the dead process `id` holds, so
// that nobody waits for a packet that lies on its backlog. Returns how many.
u32 sk_recover_locks(u32 id);
// For the reaper: a published sock that belonged to a socket which is gone, and that nobody closed.
bool sk_is_abandoned(const sock& sk);
// Ties a sock without a socket (an accepted child) to one. sk_lock held.
void sock_graft(sock& sk, socket& parent);

// Takes the pending error: 0 or -errno.
int sock_error(sock& sk);
// Sets the pending error and wakes everybody.
void sk_error_report(sock& sk, int err);
void sk_data_ready(sock& sk);   // POLLIN; a listener wakes one
void sk_write_space(sock& sk);  // POLLOUT
void sk_state_change(sock& sk); // everything

int sock_setsockopt(socket& sock, int level, int optname, const void* optval, u32 optlen);
int sock_getsockopt(socket& sock, int level, int optname, void* optval, u32* optlen);

// Deadlines: timer code stores the sock's earliest deadline; the network's duty thread calls
// sk_prot(sk).timer when it has passed (core/net/timer.h).
void sk_reset_timer(sock& sk, u64 deadline_us);
void sk_stop_timer(sock& sk);

inline i64 sock_rcvtimeo(const sock& sk, bool noblock) { return noblock ? 0 : sk.sk_rcvtimeo_us; }
inline i64 sock_sndtimeo(const sock& sk, bool noblock) { return noblock ? 0 : sk.sk_sndtimeo_us; }
// SO_RCVLOWAT as a receive call sees it.
inline u32 sock_rcvlowat(const sock& sk, bool waitall, u32 len) {
    const u32 v = waitall ? len : min_of(static_cast<u32>(sk.sk_rcvlowat), len);
    return v ? v : 1;
}

} // namespace sockshim
