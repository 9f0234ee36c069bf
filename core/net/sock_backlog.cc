// The sock's lock and its backlog (Linux: lock_sock_nested, release_sock, __release_sock, sk_add_backlog
// in net/core/sock.c).
//
// Linux has a spinlock and an "owned by user" flag; here the robust lock's word is both. A packet that
// meets a held lock is pushed on sk_backlog, a stack of skb cells, and robust_lock::pending is set in the
// lock's word: the holder lets the lock go only by a compare-and-swap of a word without that bit, so no
// packet can slip in between its last look and the unlock.
//
// A pusher that is killed after the push but before it set the bit leaves a packet that the next holder
// finds (release_sock looks at the list itself too). One killed between the push and the publication of its
// cell takes it along, and what is below it in the stack is in no list any more: lost packets, which are sent
// again, and cells that sweep_unreferenced (core/net/reaper.h) finds.
#include "core/arena/owner.h"
#include "core/net/skb_cell.h"
#include "core/net/sock_internal.h"

namespace sockshim {

void lock_sock(sock& sk) {
    const bool clean = sk.sk_lock.lock();
    sock_lock_acquired();
    if (SOCKSHIM_UNLIKELY(!clean)) sk_repair(sk);
}

bool trylock_sock(sock& sk) {
    if (!sk.sk_lock.try_lock()) return false;
    sock_lock_acquired();
    return true;
}

sock* lock_sock_handle(handle<sock> h) {
    sock* sk = slab_get(h);
    if (!sk) return nullptr;
    const bool clean = sk->sk_lock.lock();
    sock_lock_acquired();
    // Type-stable memory: locking what became another sock meanwhile is harmless, and noticed here.
    const bool still = slab_get(h) == sk;
    if (SOCKSHIM_UNLIKELY(!clean)) sk_repair(*sk);
    if (SOCKSHIM_LIKELY(still)) return sk;
    release_sock(*sk);
    return nullptr;
}

void lock_sock_pair(sock& a, sock& b) {
    if (&a == &b) return lock_sock(a);
    // Cells of one region: the lower address is the lower index.
    lock_sock(&a < &b ? a : b);
    lock_sock(&a < &b ? b : a);
}

namespace {

// Lets the lock go unless there is work left: false.
bool sock_unlock(robust_lock& lock) {
    u32 word = lock.word.load_relaxed();
    while (!(word & robust_lock::pending)) {
        if (!lock.word.cas(word, 0)) continue;
        if (word & robust_lock::waiters) lock.wake_one();
        critical_leave();
        return true;
    }
    return false;
}

void backlog_push(sock& sk, handle<skb_cell> h, skb_cell& cell) {
    const skb_ref ref = skb_ref_of(h);
    u32 head = sk.sk_backlog.load_relaxed();
    do {
        cell.next.store_relaxed(head);
    } while (!sk.sk_backlog.cas(head, ref));
}

// The handle that was looked up, or else the one that names the sock now.
bool add_backlog(sock& sk, u64 raw_handle, const sk_buff& skb) {
    critical_enter();
    u32 word = 0;
    if (SOCKSHIM_LIKELY(sk.sk_lock.word.cas(word, self_proc))) {
        sock_lock_acquired();
        return false;
    }
    handle<skb_cell> h = net_rx_steal(skb);
    if (!h) h = skb_cell_build(skb);
    skb_cell* cell = slab_get(h);
    if (!cell) { // arena full
        sk.sk_drops.fetch_add(1);
        critical_leave();
        return true;
    }
    cell->sk = raw_handle;
    // In this order: what is published and not referred to yet is lost in the sweep's eyes.
    backlog_push(sk, h, *cell);
    skb_cell_publish(h);
    for (word = sk.sk_lock.word.load_relaxed();;) {
        if ((word & robust_lock::owner_mask) == 0) {
            // Its holder left between our two looks. Take the lock, and release_sock finds the packet.
            if (!sk.sk_lock.word.cas(word, word | self_proc | robust_lock::pending)) continue;
            sock_lock_acquired();
            release_sock(sk);
            return true;
        }
        if (word & robust_lock::pending) {
            // Work has been waiting for some time. Is there still a holder who will do it?
            const u32 owner = word & robust_lock::owner_mask;
            if (owner != self_proc && !proc_alive(owner)) {
                lock_sock(sk);
                release_sock(sk);
            }
            break;
        }
        if (sk.sk_lock.word.cas(word, word | robust_lock::pending)) break;
    }
    critical_leave();
    return true;
}

} // namespace

void sk_backlog_drain(sock& sk) {
    const u64 self = sk_handle(sk).raw();
    const proto& prot = sk_prot(sk);
    for (;;) {
        u32 ref = sk.sk_backlog.exchange(0);
        if (!ref) return;
        // The stack is newest first: turn it round. skb_ref's generation ends a list that names a cell
        // which is no longer ours.
        u32 oldest = 0;
        for (u32 guard = 0; ref && guard < region_shapes[REGION_SKB].max_cells; ++guard) {
            skb_cell* cell = slab_get(skb_ref_handle(ref));
            if (!cell) break;
            const u32 next = cell->next.load_relaxed();
            cell->next.store_relaxed(oldest);
            oldest = ref;
            ref = next;
        }
        while (oldest) {
            const handle<skb_cell> h = skb_ref_handle(oldest);
            const skb_cell* cell = slab_get(h);
            if (!cell) break;
            oldest = cell->next.load_relaxed();
            sk_buff skb;
            // A packet for the cell's former sock is not this one's.
            if (cell->sk == self && prot.backlog_rcv && skb_cell_view(h, skb))
                prot.backlog_rcv(sk, skb);
            skb_cell_free(h);
        }
    }
}

void sk_backlog_purge(sock& sk) {
    u32 ref = sk.sk_backlog.exchange(0);
    while (ref) {
        const handle<skb_cell> h = skb_ref_handle(ref);
        const skb_cell* cell = slab_get(h);
        if (!cell) break;
        ref = cell->next.load_relaxed();
        skb_cell_free(h);
    }
}

bool sk_add_backlog(sock& sk, const sk_buff& skb) {
    return add_backlog(sk, sk_handle(sk).raw(), skb);
}

sock* sk_lock_or_backlog(handle<sock> h, const sk_buff& skb) {
    sock* sk = slab_get(h);
    if (!sk || add_backlog(*sk, h.raw(), skb)) return nullptr;
    if (SOCKSHIM_LIKELY(slab_get(h) == sk)) return sk;
    release_sock(*sk);
    return nullptr;
}

u32 sk_recover_locks(u32 id) {
    u32 recovered = 0;
    for (u32 i = 0; i < cells_committed(REGION_SOCK); ++i) {
        sock* sk = slab_at<sock>(i);
        u32 word = sk->sk_lock.word.load_relaxed();
        if ((word & robust_lock::owner_mask) != id) continue;
        critical_enter();
        if (!sk->sk_lock.word.cas(word, self_proc | (word & ~robust_lock::owner_mask))) {
            critical_leave(); // a waiter was quicker
            continue;
        }
        sock_lock_acquired();
        if (slab_handle_at<sock>(i)) sk_repair(*sk);
        release_sock(*sk);
        ++recovered;
    }
    return recovered;
}

void release_sock(sock& sk) {
    const proto& prot = sk_prot(sk);
    do {
        // Clear the bit first: who pushes after this sets it again, and the unlock below fails.
        if (sk.sk_lock.word.load_relaxed() & robust_lock::pending) {
            sk.sk_lock.word.fetch_and(~robust_lock::pending);
        }
        if (sk.sk_backlog.load_relaxed()) sk_backlog_drain(sk);
        if (prot.release_cb) prot.release_cb(sk);
        sock_lock_released(); // for sock_unlock's critical_leave, where deferred signals run
        if (sock_unlock(sk.sk_lock)) break;
        sock_lock_acquired();
    } while (true);
    if (sock_locks_held == 0 && net_rx_pending()) net_rx_action();
}

} // namespace sockshim
