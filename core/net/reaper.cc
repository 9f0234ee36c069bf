// Reaping. Truth is in the cells: whatever a dead process was in the middle of, a scan of them tells
// what it held. Each step is idempotent, and a reaper that dies is reaped itself.
#include "core/net/reaper.h"

#include <cerrno>
#include <ctime>
#include <initializer_list>
#include <sys/mman.h>

#include "core/arena/extent.h"
#include "core/base/crash_point.h"
#include "core/base/raw_syscall.h"
#include "core/inet/dgram_sock.h"
#include "core/inet/tcp_ipv4.h"
#include "core/net/carrier.h"
#include "core/net/eventpoll.h"
#include "core/net/kernel_half.h"
#include "core/net/proto.h"
#include "core/net/references.h"
#include "core/tcp/tcp.h"
#include "core/tcp/tcp_fusion.h"

namespace sockshim {

// It stays marked as shared: another who lets go of it meanwhile must not take it for his alone. The claim
// and the claimer's name are one store: should this process die in sock_release, its reaper goes on.
bool socket_claim_shared(socket& s, handle<socket> h) {
    u64 maker = s.holder.load();
    if (maker >> 32 != h.gen || (maker & holder_claimed)) return false;
    if (!(s.flags.load() & SOCKF_SHARED)) return false;
    return s.holder.cas(maker, holder_word(h, self_proc) | holder_claimed);
}

namespace {

template <class Visit> void for_each_socket(Visit visit) {
    const u32 n = cells_committed(REGION_SOCKET);
    for (u32 i = 0; i < n; ++i) {
        const u64 w = cell_word_at(REGION_SOCKET, i);
        if (cell_word::state(w) != CELL_LIVE) continue;
        visit(*slab_at<socket>(i), handle<socket>{i, cell_word::gen(w)});
    }
}

void release_sockets_of(proc_id dead) {
    for_each_socket([dead](socket& s, handle<socket> h) {
        if (socket_unhold(s, dead)) kernel_half_holder_died(s, dead);
        u64 holder = s.holder.load();
        const u64 claimed = holder & holder_claimed;
        if ((s.flags.load() & SOCKF_SHARED) && !claimed) {
            if (!socket_vouched(s) && !carrier_held(s) && socket_claim_shared(s, h))
                sock_release(s);
            return;
        }
        if (holder == (holder_word(h, dead) | claimed) &&
            s.holder.cas(holder, holder_word(h, self_proc) | holder_claimed)) {
            sock_release(s);
        }
    });
}

// Threads of a dead process may have been the ones that a wake-up of one waiter chose.
void wake_listeners() {
    const u32 n = cells_committed(REGION_SOCK);
    for (u32 i = 0; i < n; ++i) {
        sock* sk = slab_get(slab_handle_at<sock>(i));
        if (sk && sk->sk_wq.flags.load() && sk->sk_ack_backlog.load()) {
            wake_up(sk->sk_wq, POLLIN | POLLRDNORM);
        }
    }
}

} // namespace

int reap_dead_processes() {
    const exiting_scope exiting;
    int reaped = 0;
    while (const proc_id id = process_claim_dead()) {
        SOCKSHIM_CRASH_POINT();
        sk_recover_locks(id);
        release_sockets_of(id);
        SOCKSHIM_CRASH_POINT();
        eventpoll_process_died(id);
        cells_free_claimed_by(id);
        process_reaped(id);
        ++reaped;
    }
    if (reaped) wake_listeners();
    return reaped;
}

bool reap_in_the_way(u16 family, u16 port) {
    if (reap_dead_processes() + release_unheld_sockets()) return true;
    bool under_way = false;
    for_each_socket([&](const socket& s, handle<socket>) {
        if (!(s.holder.load() & holder_claimed) || s.family != family) return;
        const sock* const sk = socket_sk(s);
        under_way = under_way || (sk && (family != AF_INET || sk->__sk_common.skc_num == port));
    });
    constexpr timespec moment{0, 200000};
    if (under_way) raw_syscall(SYS_nanosleep, ptr_arg(&moment), 0);
    return under_way;
}

bool sockets_unaccounted() {
    bool any = false;
    for_each_socket([&any](socket& s, handle<socket>) { any = any || socket_unaccounted(s); });
    return any;
}

namespace {

// What has a half of the kernel's works without ours: when for so long nobody but the kernel has vouched for it, a
// program without the shim serves there, and whoever connects shall meet that.
bool outsiders_alone(socket& s) {
    constexpr u64 patience_us = 5000000;
    if (!s.kernel_inode.load()) return false;
    const u64 now = monotonic_us();
    u64 never = 0;
    s.half_alone_us.cas(never, now);
    const u64 since = s.half_alone_us.load();
    return since && now > since + patience_us;
}

} // namespace

int release_unheld_sockets() {
    const exiting_scope exiting;
    int released = 0;
    for_each_socket([&](socket& s, handle<socket> h) {
        if (!(s.flags.load() & SOCKF_SHARED) || (s.holder.load() & holder_claimed)) return;
        if (socket_vouched(s)) {
            if (s.half_alone_us.load()) s.half_alone_us.store(0);
        } else if ((!carrier_held(s) || outsiders_alone(s)) && socket_claim_shared(s, h)) {
            sock_release(s);
            ++released;
        }
    });
    return released;
}

namespace {

// Cells that nothing referred to at the last sweep: a generation per cell, 0 for "was referred to".
// The sweeping thread's own; lost with it, which costs one more sweep.
u32* last_seen[REGION_COUNT];
u8* marks[REGION_COUNT];

template <class T> T* map_zeroed(u64 n) {
    const long p =
        raw_syscall(SYS_mmap, 0, static_cast<long>(n * sizeof(T)), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p < 0 && p > -4096 ? nullptr : reinterpret_cast<T*>(p);
}

constexpr bool swept(u32 region) {
    return region == REGION_RING || region == REGION_SKB || region >= REGION_EXTENT_1K;
}

void mark(region_id region, handle<void> h) {
    if (!h.gen || !marks[region] || h.index >= region_shapes[region].max_cells) return;
    if (cell_get(region, h)) marks[region][h.index] = 1;
}

} // namespace

void reference_mark(handle<stream_ring> h) { mark(REGION_RING, {h.index, h.gen}); }
void reference_mark(handle<skb_cell> h) { mark(REGION_SKB, {h.index, h.gen}); }
void reference_mark(extent e) {
    mark(static_cast<region_id>(REGION_EXTENT_1K + extent_class_of(e)),
         {e.index & 0xfffffff, e.gen});
}

namespace {

// What a process that died between two steps of accept, release or close leaves of a sock.
enum class remains : u8 { none, unowned, closed, stuck, half_fused, reset_lost };

remains remains_of(const sock& sk) {
    if (sk_is_abandoned(sk)) return remains::unowned;
    if (sk_family(sk) != AF_INET) return remains::none;
    const bool held = sk.sk_socket && slab_get(sk.sk_socket);
    if (sk_is_dgram(sk)) {
        return held || sk.sk_timer_us.load() ? remains::none : remains::unowned;
    }
    if (sk.__sk_common.skc_prot_id != PROT_TCP) return remains::none;
    if (sock_flag(sk, SOCK_DEAD)) {
        // An orphan is on its way out, driven by a timer; these are not.
        const u32 state = sk_statef(sk);
        if (state & TCPF_CLOSE) return remains::closed;
        if (state & (TCPF_ESTABLISHED | TCPF_CLOSE_WAIT)) return remains::unowned;
        const u32 fin_due = TCPF_FIN_WAIT1 | TCPF_CLOSING | TCPF_LAST_ACK;
        if ((state & fin_due) && !sk.sk_timer_us.load()) return remains::stuck;
    }
    if (tcp_half_fused(sk)) return remains::half_fused;
    return tcp_v4_peer_gone(sk) ? remains::reset_lost : remains::none;
}

void bury(sock& sk, remains what) {
    switch (what) {
    case remains::none: return;
    case remains::unowned:
        sk.sk_socket = {};
        sk_prot(sk).close(sk, 0);
        return;
    case remains::closed:
        lock_sock(sk);
        if (sock_flag(sk, SOCK_DEAD) && sk_state(sk) == TCP_CLOSE) inet_csk_destroy_sock(sk);
        release_sock(sk);
        return;
    case remains::stuck:
        lock_sock(sk);
        if (!sk.sk_timer_us.load()) tcp_abort(this_tcp_env(), sk, ECONNRESET);
        release_sock(sk);
        return;
    case remains::half_fused: tcp_unfuse(sk); return;
    case remains::reset_lost: tcp_v4_reset_lonely(sk); return;
    }
}

// Whoever holds the lock is slow, not dead: the reaper has taken the locks of the dead away. A processor that many
// want, or SIGSTOP, keeps a new connection on its way to its listener for longer than two sweeps are apart.
bool remains_so(handle<sock> h, remains what) {
    sock* const sk = slab_get(h);
    if (!sk || !trylock_sock(*sk)) return false;
    const bool so = slab_get(h) == sk && remains_of(*sk) == what;
    release_sock(*sk);
    return so;
}

// As for cells: what looks lost at two sweeps is lost, what is only on its way is not seen twice.
struct sighting {
    u32 gen;
    remains what;
};
sighting* socks_seen;

void sweep_socks() {
    if (!socks_seen) socks_seen = map_zeroed<sighting>(max_sockets);
    sighting* const seen = socks_seen;
    if (!seen) return;
    const exiting_scope exiting;
    const u32 n = cells_committed(REGION_SOCK);
    for (u32 i = 0; i < n; ++i) {
        const handle<sock> h = slab_handle_at<sock>(i);
        sock* sk = slab_get(h);
        const bool live = cell_word::state(cell_word_at(REGION_SOCK, i)) == CELL_LIVE;
        const remains what = live && sk ? remains_of(*sk) : remains::none;
        if (what != remains::none && seen[i].gen == h.gen && seen[i].what == what) {
            if (!remains_so(h, what)) continue;
            seen[i] = {};
            bury(*sk, what);
        } else {
            seen[i] = {what == remains::none ? 0 : h.gen, what};
        }
    }
}

// By slot: processes that hold a lock of a sock or an epoll set. Between a cell's publication and the store that refers
// to it the publisher holds one, for as long as others want its processor, or it is stopped.
u64 inside[max_processes / 64 + 1];

void note_lock(const robust_lock& lock) {
    const u32 slot = proc_slot_of(lock.word.load_relaxed() & robust_lock::owner_mask);
    inside[slot / 64] |= u64{1} << slot % 64;
}

void note_lock_holders() {
    __builtin_memset(inside, 0, sizeof inside);
    for (u32 i = 0, n = cells_committed(REGION_SOCK); i < n; ++i) {
        const sock* const sk = slab_get(slab_handle_at<sock>(i));
        if (!sk) continue;
        for (const robust_lock* lock : {&sk->sk_lock, &sk->tx_lock, &sk->rx_lock}) note_lock(*lock);
    }
    for (u32 i = 0, n = cells_committed(REGION_EVENTPOLL); i < n; ++i) {
        const eventpoll* const ep = slab_get(slab_handle_at<eventpoll>(i));
        if (ep) note_lock(ep->lock);
    }
}

bool is_inside(proc_id who) { return inside[proc_slot_of(who) / 64] >> proc_slot_of(who) % 64 & 1; }

} // namespace

void sweep_forget() {
    for (u32 r = 0; r < REGION_COUNT; ++r) {
        if (!last_seen[r]) continue;
        raw_syscall(SYS_madvise, ptr_arg(last_seen[r]),
                    static_cast<long>(region_shapes[r].max_cells * sizeof(u32)), MADV_DONTNEED);
    }
    if (socks_seen) {
        raw_syscall(SYS_madvise, ptr_arg(socks_seen), max_sockets * sizeof *socks_seen,
                    MADV_DONTNEED);
    }
}

void sweep_unreferenced() {
    for (u32 r = 0; r < REGION_COUNT; ++r) {
        if (!swept(r)) continue;
        if (!marks[r]) marks[r] = map_zeroed<u8>(region_shapes[r].max_cells);
        if (!last_seen[r]) last_seen[r] = map_zeroed<u32>(region_shapes[r].max_cells);
        if (!marks[r] || !last_seen[r]) return;
        __builtin_memset(marks[r], 0, cells_committed(static_cast<region_id>(r)));
    }
    // Before the references: who is out by now has stored what he refers to.
    note_lock_holders();
    references_mark_all();
    for (u32 r = 0; r < REGION_COUNT; ++r) {
        if (!swept(r)) continue;
        const auto region = static_cast<region_id>(r);
        const u32 n = cells_committed(region);
        for (u32 i = 0; i < n; ++i) {
            const u64 w = cell_word_at(region, i);
            if (cell_word::state(w) != CELL_LIVE || marks[r][i]) {
                last_seen[r][i] = 0;
            } else if (last_seen[r][i] == cell_word::gen(w)) {
                if (is_inside(cell_word::owner(w))) continue;
                cell_free(region, {i, cell_word::gen(w)});
                last_seen[r][i] = 0;
            } else {
                last_seen[r][i] = cell_word::gen(w);
            }
        }
    }
    sweep_socks();
}

} // namespace sockshim
