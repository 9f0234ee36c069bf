// The fused path. What it is and when it holds: tcp_fusion.h. Locks: sk_lock of both ends, then both
// tx_locks, then both rx_locks, the lower cell first within each kind; a sender that has to replace a
// ring's buffer holds its tx_lock and takes its peer's rx_lock, which fits that order.
#include "core/tcp/tcp_fusion.h"

#include <cerrno>
#include <initializer_list>

#include "core/base/config.h"
#include "core/base/crash_point.h"
#include "core/inet/inet_hashtables.h"
#include "core/net/net_rx.h"
#include "core/net/spin_wait.h"
#include "core/tcp/tcp.h"
#include "core/trace/trace.h"

namespace sockshim {
namespace {

// A ring's buffer may grow to this where the program did not choose buffer sizes: enough to keep two
// cores busy, small enough to stay in a second-level cache.
constexpr u32 fused_ring_bytes = 512 * 1024;
// But it must hold what the kernel's buffers would, for programs that send everything before anybody reads:
// a ring that is full and has not been read from for so long may grow to the largest.
constexpr u64 fused_stalled_us = 40000;
// A long send is published in pieces, so that the receiver copies out what the sender is still
// copying in.
constexpr u32 publish_bytes = 32 * 1024;

u32 fused_limit(const sock& from, const sock& to, u32 unasked) {
    if (!((from.sk_userlocks & SOCK_SNDBUF_LOCK) || (to.sk_userlocks & SOCK_RCVBUF_LOCK))) {
        return unasked;
    }
    const u32 sum = static_cast<u32>(from.sk_sndbuf) + static_cast<u32>(to.sk_rcvbuf);
    u32 limit = 4096;
    while (limit * 2 <= sum && limit < extent_max_bytes) limit *= 2;
    return limit;
}

// Room that makes a full ring writable again: as Linux, a third.
bool ring_writable(const stream_ring& r) { return ring_used(r) * 3 <= u64{r.limit} * 2; }

// For SOCKSHIM_FUSE_FLIP: true once in N calls on average.
bool flip() {
    const u64 n = config().fuse_flip;
    if (SOCKSHIM_LIKELY(!n)) return false;
    static constinit thread_local u64 state = 0;
    if (!state) state = monotonic_us() | 1;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % n == 0;
}

struct both_locks {
    robust_lock* first;
    robust_lock* second;
    both_locks(sock& a, sock& b, robust_lock sock::*which) {
        // Cells of one region: the lower address is the lower index. (gcc 12 makes a copy of the lock
        // of `&((c ? a : b).*which)`, hence the two references.)
        sock& lower = &a < &b ? a : b;
        sock& upper = &a < &b ? b : a;
        first = &(lower.*which);
        second = &(upper.*which);
        // A dead owner leaves nothing to repair: tail and head are published by one store each.
        first->lock_plain();
        second->lock_plain();
    }
    ~both_locks() {
        second->unlock();
        first->unlock();
    }
    both_locks(const both_locks&) = delete;
    both_locks& operator=(const both_locks&) = delete;
};

bool quiet(const tcp_sock& tp) {
    const sock& sk = as_sock(tp);
    return sk_state(sk) == TCP_ESTABLISHED && tp.snd_una == tp.write_seq && !tp.num_ooo &&
           !tp.ooo_fin && !tp.tx_fin && !tp.rx_fin && !tp.urg_data && !tp.urg_mode &&
           !sk.sk_shutdown.load() && !sk.sk_err.load() && !sock_flag(sk, SOCK_FUSE_OFF) &&
           !sock_flag(sk, SOCK_DEAD) && sk.sk_peek_off < 0;
}

// The ring for the direction from `a` to `b`: the receive ring with its unread bytes if there is one.
handle<stream_ring> direction_ring(tcp_sock& a, tcp_sock& b) {
    if (a.tx_off != b.rx_off + tcp_inq_bytes(b)) return {};
    if (!slab_get(b.rx_ring))
        return ring_create(a.tx_off, fused_limit(as_sock(a), as_sock(b), fused_ring_bytes));
    return b.rx_ring;
}

void join_direction(tcp_sock& a, tcp_sock& b, handle<stream_ring> h, stream_ring& r) {
    r.limit = max_of(fused_limit(as_sock(a), as_sock(b), fused_ring_bytes), r.size);
    r.tail.store(a.tx_off);
    r.head.store(b.rx_off);
    r.head_seen = b.rx_off;
    r.tail_seen = a.tx_off;
    r.sends = r.sends_counted_tx = r.sends_counted_rx = 0;
    if (a.tx_ring) ring_destroy(a.tx_ring);
    a.tx_ring = h;
    b.rx_ring = h;
}

// One end's variables as the packet path would have left them. From the rings alone, so that it can be done again
// after a death in the middle.
void sync_end(tcp_sock& tp) {
    if (stream_ring* r = slab_get(tp.tx_ring)) {
        const u64 tail = r->tail.load();
        const u32 write_seq = tp.iss + 1 + static_cast<u32>(tail);
        const u32 sent = write_seq - tp.write_seq;
        tp.tx_off = tail;
        tp.write_seq = write_seq;
        tp.snd_nxt = tp.snd_una = tp.snd_wl1 = tp.write_seq;
        tp.snd_wl1 = tp.rcv_nxt;
        tp.snd_sml = tp.snd_nxt;
        tp.bytes_sent += sent;
        tp.bytes_acked += sent;
        const u32 segments = static_cast<u32>(r->sends - r->sends_counted_tx);
        r->sends_counted_tx += segments;
        tp.segs_out += segments;
        tp.data_segs_out += segments;
        tp.delivered += segments;
    }
    if (stream_ring* r = slab_get(tp.rx_ring)) {
        const u64 tail = r->tail.load();
        const u64 head = r->head.load();
        const u32 rcv_nxt = tp.irs + 1 + static_cast<u32>(tail);
        const u32 received = rcv_nxt - tp.rcv_nxt;
        tp.copied_seq = tp.irs + 1 + static_cast<u32>(head);
        tp.rx_off = head;
        tp.rcv_nxt = rcv_nxt;
        tp.bytes_received += received;
        const u32 segments = static_cast<u32>(r->sends - r->sends_counted_rx);
        r->sends_counted_rx += segments;
        tp.segs_in += segments;
        tp.data_segs_in += segments;
    }
}

// After sync_end of both: what the receiver would have announced, the sender has heard.
void agree_on_window(tcp_sock& from, tcp_sock& to) {
    to.rcv_wup = to.rcv_nxt;
    to.rcv_wnd = __tcp_select_window(as_sock(to));
    from.snd_wnd = to.rcv_wnd;
    // What the peer can offer from now on: a larger one from before its buffer was made small would keep
    // the sender waiting for a window that never comes (RFC 9293, 3.8.6.2.1).
    from.max_window = max_of(from.snd_wnd, tcp_full_space(as_sock(to)));
    from.snd_wl1 = from.rcv_nxt;
    tcp_sync_mss(as_sock(from), from.pmtu);
    inet_csk_clear_delack_timer(as_sock(to));
    // As at the start of a connection: what comes first, a FIN as a rule, is acknowledged at once.
    tcp_enter_quickack_mode(as_sock(to), TCP_MAX_QUICKACKS);
}

struct rx_wait {
    tcp_sock* tp;
    u64 need;
    u64 copied;
    const signal_sample& signals;
};
bool rx_ready(void* arg) {
    const rx_wait& w = *static_cast<rx_wait*>(arg);
    if (!w.tp->fused.load() || w.signals.cut_short(w.copied)) return true;
    const sock& sk = as_sock(*w.tp);
    if (sk.sk_err.load_relaxed() || sk.sk_shutdown.load()) return true;
    const stream_ring* r = slab_get(w.tp->rx_ring);
    return !r || r->tail.load() - r->head.load_relaxed() >= w.need;
}

struct tx_wait {
    tcp_sock* tp;
    u64 sent;
    const signal_sample& signals;
};
bool tx_ready(void* arg) {
    const tx_wait& w = *static_cast<tx_wait*>(arg);
    const tcp_sock& tp = *w.tp;
    if (!tp.fused.load() || w.signals.cut_short(w.sent)) return true;
    const sock& sk = as_sock(tp);
    if (sk.sk_err.load_relaxed() || sk.sk_shutdown.load()) return true;
    const stream_ring* r = slab_get(tp.tx_ring);
    return !r || ring_writable(*r);
}

i64 deadline_of(i64 timeout_us) {
    return timeout_us < 0 ? -1 : static_cast<i64>(monotonic_us()) + timeout_us;
}

// tx_lock held. Makes what has been written beyond the tail readable; the caller unlocks, then wakes.
void publish(tcp_sock& tp, stream_ring& r) {
    r.sends += 1;
    r.tail.store(r.tail.load_relaxed() + tp.fused_more);
    tp.fused_more = 0;
    SOCKSHIM_CRASH_POINT();
}

void wake_reader(sock& peer) {
    if (SOCKSHIM_UNLIKELY(anybody_waits_after_unlock(peer.sk_wq))) {
        wake_up_slow(peer.sk_wq, POLLIN | POLLRDNORM, true);
    }
}

// Puts what fits of the message into the ring; with `more`, less than a segment's worth is withheld.
// Bytes written, 0: full, TCP_NOT_FUSED, -errno.
// *wake: whom to wake, with no lock held.
i64 fill_ring_locked(tcp_sock& tp, msghdr_iter& msg, bool more, sock** wake) {
    stream_ring* r = tp.fused.load() ? slab_get(tp.tx_ring) : nullptr;
    sock* peer = r ? slab_get(tp.fused_peer) : nullptr;
    if (SOCKSHIM_UNLIKELY(!peer)) return TCP_NOT_FUSED;
    const u64 at = r->tail.load_relaxed() + tp.fused_more;
    const u64 want = min_of<u64>(msg.iter.count, publish_bytes);
    u64 used = at - r->head_seen;
    if (SOCKSHIM_UNLIKELY(used + want > r->size)) {
        r->head_seen = r->head.load();
        used = at - r->head_seen;
        if (used + want > r->size && r->size < r->limit) {
            lock_guard rx(peer->rx_lock);
            // As large as what is being sent asks for, not just this piece of it.
            ring_grow(*r, min_of<u64>(msg.iter.count, fused_ring_bytes), at);
        }
    }
    const u64 n = r->size > used ? min_of<u64>(want, r->size - used) : 0;
    if (!n) return r->size ? 0 : -ENOBUFS;
    const iov_iter before = msg.iter;
    const i64 wrote = ring_write_iter(*r, at, static_cast<u32>(n), msg.iter);
    if (SOCKSHIM_UNLIKELY(wrote != static_cast<i64>(n))) {
        // As Linux, a piece that faults anywhere is not sent at all.
        msg.iter = before;
        return -EFAULT;
    }
    SOCKSHIM_CRASH_POINT();
    tp.fused_more += static_cast<u32>(wrote);
    if (SOCKSHIM_LIKELY(!more) || tp.fused_more >= tp.mss_cache) {
        publish(tp, *r);
        *wake = peer;
    }
    return wrote;
}

i64 fill_ring(tcp_sock& tp, msghdr_iter& msg, bool more) {
    robust_lock& tx_lock = as_sock(tp).tx_lock;
    sock* wake = nullptr;
    tx_lock.lock_plain();
    const i64 wrote = fill_ring_locked(tp, msg, more, &wake);
    tx_lock.unlock();
    if (wake) wake_reader(*wake);
    return wrote;
}

// The timer is tcp_probe_timer's, and that of both reasons; no lock held.
void arm_fused_timer(sock& sk, u64 after_us) {
    lock_sock(sk);
    if (tcp_sk(sk).fused.load() && !inet_csk(sk).icsk_timeout_us) {
        const u64 now = monotonic_us();
        inet_csk_reset_xmit_timer(sk, ICSK_TIME_PROBE0, now + after_us, now);
    }
    release_sock(sk);
}

bool ring_may_grow(const sock& sk, const sock& peer, const stream_ring& r) {
    return r.limit < fused_limit(sk, peer, extent_max_bytes);
}

// Never 0.
u32 stalled_mark(u64 head) { return static_cast<u32>(head) << 1 | 1; }

// No room: mostly the reader is about to make some, and all this is a look.
void watch_full_ring(tcp_sock& tp) {
    if (tp.fused_stalled_at.load_relaxed()) return;
    sock& sk = as_sock(tp);
    const stream_ring* const r = slab_get(tp.tx_ring);
    const sock* const peer = slab_get(tp.fused_peer);
    if (!r || !peer || !ring_may_grow(sk, *peer, *r)) return;
    tp.fused_stalled_at.store(stalled_mark(r->head.load_relaxed()));
    arm_fused_timer(sk, fused_stalled_us);
}

// Takes up to `want` bytes out of the ring (peeks with MSG_PEEK, drops with MSG_TRUNC). As fill_ring;
// *wake: a sender that may have been waiting for room.
i64 drain_ring_locked(tcp_sock& tp, msghdr_iter& msg, u64 want, u64 peeked, sock** wake) {
    stream_ring* r = tp.fused.load() ? slab_get(tp.rx_ring) : nullptr;
    if (SOCKSHIM_UNLIKELY(!r)) return TCP_NOT_FUSED;
    const u64 head = r->head.load_relaxed() + peeked;
    u64 avail = r->tail_seen - head;
    if (avail < want || avail > r->size) {
        r->tail_seen = r->tail.load();
        avail = r->tail_seen - head;
    }
    const u32 n = static_cast<u32>(min_of(avail, want));
    if (!n) return 0;
    i64 got = n;
    if (SOCKSHIM_LIKELY(!(msg.flags & MSG_TRUNC))) got = ring_read_iter(*r, head, n, msg.iter);
    if (SOCKSHIM_UNLIKELY(got != static_cast<i64>(n))) return -EFAULT; // nothing is taken
    if (msg.flags & MSG_PEEK) return got;
    SOCKSHIM_CRASH_POINT();
    r->head.store(head + static_cast<u64>(got));
    // Judged by the tail seen last, not by the sender's cache line: at worst somebody is woken who finds
    // that there is no room yet, and the read after this one, which looks at the tail, wakes him again.
    const u64 left = r->tail_seen - head - static_cast<u64>(got);
    if (left * 3 <= u64{r->limit} * 2) *wake = slab_get(tp.fused_peer);
    return got;
}

i64 drain_ring(tcp_sock& tp, msghdr_iter& msg, u64 want, u64 peeked) {
    robust_lock& rx_lock = as_sock(tp).rx_lock;
    sock* wake = nullptr;
    rx_lock.lock_plain();
    const i64 got = drain_ring_locked(tp, msg, want, peeked, &wake);
    rx_lock.unlock();
    if (wake && SOCKSHIM_UNLIKELY(anybody_waits_after_unlock(wake->sk_wq))) {
        wake_up_slow(wake->sk_wq, POLLOUT | POLLWRNORM, true);
    }
    return got;
}

} // namespace

bool tcp_is_fused(const tcp_sock& tp) {
    if (SOCKSHIM_UNLIKELY(config().fuse_flip) && !tp.fused.load() && !sock_locks_held && flip()) {
        tcp_fuse_try(const_cast<sock&>(as_sock(tp)));
    }
    return tp.fused.load();
}

i64 tcp_fused_sendmsg(sock& sk, msghdr_iter& msg) {
    trace_way("tcp_fused_sendmsg");
    tcp_sock& tp = tcp_sk(sk);
    if (flip()) {
        tcp_unfuse(sk);
        return TCP_NOT_FUSED;
    }
    const bool noblock = msg.flags & MSG_DONTWAIT;
    const bool more = (msg.flags & MSG_MORE) || (tp.nonagle & TCP_NAGLE_CORK);
    const signal_sample signals;
    i64 deadline = 0;
    bool timed = false;
    i64 sent = 0;
    for (;;) {
        if (SOCKSHIM_UNLIKELY(sk.sk_err.load_relaxed())) {
            return sent ? sent : static_cast<i64>(sock_error(sk));
        }
        const i64 n = msg.iter.count ? fill_ring(tp, msg, more) : 0;
        if (n > 0) {
            sent += n;
            if (msg.iter.count) continue;
            if (SOCKSHIM_UNLIKELY(more && tp.fused_more))
                arm_fused_timer(sk, TCP_RTO_MIN); // as Linux
            return sent;
        }
        if (n == TCP_NOT_FUSED) {
            if (!sent) return TCP_NOT_FUSED;
            // Left the path in the middle: the rest goes as packets.
            const i64 rest = noblock ? 0 : sk_prot(sk).sendmsg(sk, msg);
            return rest > 0 ? sent + rest : sent;
        }
        if (!msg.iter.count) return sent;
        if (n < 0) return sent ? sent : n;
        if (tp.fused_more) tcp_fused_push(sk); // a full ring that nobody may read would never empty
        watch_full_ring(tp);
        if (noblock) return sent ? sent : -EAGAIN;
        if (!timed) deadline = deadline_of(sk.sk_sndtimeo_us), timed = true;
        tx_wait w{&tp, static_cast<u64>(sent), signals};
        if (const int err = wait_on(sk.sk_wq, WAIT_TX, tx_ready, &w, deadline)) {
            return sent ? sent : err;
        }
        if (signals.cut_short(w.sent)) return sent;
    }
}

i64 tcp_fused_recvmsg(sock& sk, msghdr_iter& msg) {
    trace_way("tcp_fused_recvmsg");
    tcp_sock& tp = tcp_sk(sk);
    const bool noblock = msg.flags & MSG_DONTWAIT;
    const bool peek = msg.flags & MSG_PEEK;
    const u64 len = msg.iter.count;
    const u64 target =
        sock_rcvlowat(sk, msg.flags & MSG_WAITALL, static_cast<u32>(min_of<u64>(len, 0x7fffffff)));
    const signal_sample signals;
    i64 deadline = 0;
    bool timed = false;
    u64 copied = 0;
    for (;;) {
        const i64 n = copied < len ? drain_ring(tp, msg, len - copied, peek ? copied : 0) : 0;
        if (n > 0) {
            copied += static_cast<u64>(n);
            if (SOCKSHIM_LIKELY(copied >= target)) return static_cast<i64>(copied);
            continue;
        }
        if (n == TCP_NOT_FUSED) {
            if (!copied) return TCP_NOT_FUSED;
            if (peek || noblock) return static_cast<i64>(copied);
            const i64 rest = sk_prot(sk).recvmsg(sk, msg);
            return static_cast<i64>(copied) + (rest > 0 ? rest : 0);
        }
        if (n < 0) return copied ? static_cast<i64>(copied) : n;
        // Nothing was asked for: that it can be had is the answer, as in tcp_recvmsg.
        if (copied >= target || (!len && tcp_fused_inq(sk))) return static_cast<i64>(copied);
        if (copied && (sk.sk_err.load_relaxed() || noblock)) return static_cast<i64>(copied);
        if (sk.sk_err.load_relaxed()) return sock_error(sk);
        if (noblock) return -EAGAIN;
        if (!timed) deadline = deadline_of(sk.sk_rcvtimeo_us), timed = true;
        // Asking for more than the ring can hold would wait for ever.
        const stream_ring* r = slab_get(tp.rx_ring);
        const u64 room = r ? max_of(r->limit / 2, 1u) : 1;
        rx_wait w{&tp, peek ? min_of(target, room) : min_of(target - copied, room), copied,
                  signals};
        if (peek && copied >= w.need) return static_cast<i64>(copied);
        if (const int err = wait_on(sk.sk_wq, WAIT_RX, rx_ready, &w, deadline)) {
            return copied ? static_cast<i64>(copied) : err;
        }
        if (signals.cut_short(copied)) return static_cast<i64>(copied);
    }
}

void tcp_fuse_try(sock& sk) {
    if (!config().fuse || sk_state(sk) != TCP_ESTABLISHED) return;
    tcp_sock& a = tcp_sk(sk);
    inet_sock& inet = inet_sk(sk);
    const inet_lookup_result found = inet_lookup_established(
        inet.inet_saddr, inet_num(sk), inet_daddr(sk), __builtin_bswap16(inet_dport(sk)));
    sock* const other = found.kind == SKC_KIND_SOCK ? slab_get(found.sk) : nullptr;
    if (!other || other == &sk) return;
    tcp_sock& b = tcp_sk(*other);
    lock_sock_pair(sk, *other);
    // Under the locks the handle must still name the peer, and the peer this sock.
    if (slab_get(found.sk) == other && !a.fused.load() && !b.fused.load() && quiet(a) && quiet(b) &&
        a.snd_nxt == b.rcv_nxt && b.snd_nxt == a.rcv_nxt) {
        both_locks tx(sk, *other, &sock::tx_lock);
        both_locks rx(sk, *other, &sock::rx_lock);
        const handle<stream_ring> there = direction_ring(a, b);
        const handle<stream_ring> back = there ? direction_ring(b, a) : handle<stream_ring>{};
        stream_ring* const ring_there = slab_get(there);
        stream_ring* const ring_back = slab_get(back);
        if (ring_there && ring_back) {
            trace_way("tcp_fuse");
            SOCKSHIM_CRASH_POINT();
            a.fused_peer = sk_handle(*other);
            b.fused_peer = sk_handle(sk);
            SOCKSHIM_CRASH_POINT();
            join_direction(a, b, there, *ring_there);
            SOCKSHIM_CRASH_POINT();
            join_direction(b, a, back, *ring_back);
            a.fused_more = b.fused_more = 0;
            a.fused_stalled_at.store(0);
            b.fused_stalled_at.store(0);
            inet_csk_clear_delack_timer(sk);
            inet_csk_clear_delack_timer(*other);
            SOCKSHIM_CRASH_POINT();
            a.fused.store(1);
            SOCKSHIM_CRASH_POINT();
            b.fused.store(1);
        } else if (there && !slab_get(b.rx_ring)) {
            ring_destroy(there);
        }
    }
    release_sock(*other);
    release_sock(sk);
}

void tcp_fused_push(sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    lock_guard tx(sk.tx_lock);
    stream_ring* r = tp.fused.load() && tp.fused_more ? slab_get(tp.tx_ring) : nullptr;
    sock* peer = r ? slab_get(tp.fused_peer) : nullptr;
    if (!peer) return;
    publish(tp, *r);
    wake_up(peer->sk_wq, POLLIN | POLLRDNORM);
}

void tcp_fused_timer(sock& sk) {
    tcp_fused_push(sk);
    tcp_sock& tp = tcp_sk(sk);
    {
        lock_guard tx(sk.tx_lock);
        const u32 stalled_at = tp.fused_stalled_at.exchange(0);
        stream_ring* const r = tp.fused.load() ? slab_get(tp.tx_ring) : nullptr;
        sock* const peer = r ? slab_get(tp.fused_peer) : nullptr;
        if (!peer || ring_writable(*r) || !ring_may_grow(sk, *peer, *r)) return;
        lock_guard rx(peer->rx_lock);
        const u32 mark = stalled_mark(r->head.load());
        if (mark != stalled_at) {
            const u64 now = monotonic_us();
            tp.fused_stalled_at.store(mark);
            inet_csk_reset_xmit_timer(sk, ICSK_TIME_PROBE0, now + fused_stalled_us, now);
            return;
        }
        r->limit = fused_limit(sk, *peer, extent_max_bytes);
        SOCKSHIM_CRASH_POINT();
    }
    wake_up(sk.sk_wq, POLLOUT | POLLWRNORM);
}

void tcp_unfuse(sock& sk) {
    tcp_sock& a = tcp_sk(sk);
    // Named while it is fused, or has been left half fused.
    const handle<sock> peer_handle = a.fused_peer;
    if (!a.fused.load() && !peer_handle) return;
    sock* const other = slab_get(peer_handle);
    if (!other || other == &sk) {
        a.fused.store(0);
        return;
    }
    tcp_sock& b = tcp_sk(*other);
    lock_sock_pair(sk, *other);
    if (a.fused_peer == peer_handle && b.fused_peer == sk_handle(sk) &&
        (a.fused.load() || b.fused.load())) {
        both_locks tx(sk, *other, &sock::tx_lock);
        both_locks rx(sk, *other, &sock::rx_lock);
        for (tcp_sock* tp : {&a, &b}) {
            if (stream_ring* r = slab_get(tp->tx_ring)) {
                r->tail.store(r->tail.load() + tp->fused_more);
                tp->fused_more = 0;
            }
        }
        sync_end(a);
        SOCKSHIM_CRASH_POINT();
        sync_end(b);
        trace_way("tcp_unfuse");
        agree_on_window(a, b);
        agree_on_window(b, a);
        SOCKSHIM_CRASH_POINT();
        a.fused.store(0);
        SOCKSHIM_CRASH_POINT();
        b.fused.store(0);
        SOCKSHIM_CRASH_POINT();
        // The bytes in the rings have arrived: the rings are the receivers'.
        a.tx_ring = {};
        SOCKSHIM_CRASH_POINT();
        b.tx_ring = {};
        a.fused_peer = {};
        b.fused_peer = {};
    }
    release_sock(*other);
    release_sock(sk);
    // Whoever waits on a ring has to look again, on the other path.
    wake_up(sk.sk_wq, POLLIN | POLLOUT);
    wake_up(other->sk_wq, POLLIN | POLLOUT);
}

bool tcp_half_fused(const sock& sk) {
    const tcp_sock& tp = tcp_sk(sk);
    if (!tp.fused.load()) return false;
    const sock* const peer = slab_get(tp.fused_peer);
    return peer && tcp_sk(*peer).fused_peer == sk_handle(sk) && !tcp_sk(*peer).fused.load();
}

void tcp_fused_repair(sock& sk) {
    tcp_sock& tp = tcp_sk(sk);
    const sock* const peer = slab_get(tp.fused_peer);
    if (!peer || tp.fused.load() || tcp_sk(*peer).fused.load()) return;
    if (tp.tx_ring && tp.tx_ring == tcp_sk(*peer).rx_ring) tp.tx_ring = {};
    tp.fused_peer = {};
}

u32 tcp_fused_poll(sock& sk) {
    const tcp_sock& tp = tcp_sk(sk);
    u32 mask = sk.sk_err.load() ? POLLERR : 0;
    const stream_ring* in = slab_get(tp.rx_ring);
    if (in && ring_used(*in) >= static_cast<u64>(max_of(sk.sk_rcvlowat, 1))) {
        mask |= POLLIN | POLLRDNORM;
    }
    const stream_ring* out = slab_get(tp.tx_ring);
    if (out && ring_writable(*out)) mask |= POLLOUT | POLLWRNORM;
    return mask;
}

u64 tcp_fused_inq(sock& sk) {
    const stream_ring* r = slab_get(tcp_sk(sk).rx_ring);
    return r ? ring_used(*r) : 0;
}

u64 tcp_fused_outq(sock& sk) {
    const tcp_sock& tp = tcp_sk(sk);
    const stream_ring* r = slab_get(tp.tx_ring);
    const sock* peer = slab_get(tp.fused_peer);
    if (!r || !peer) return 0;
    const u64 used = ring_used(*r);
    const u64 accepted = static_cast<u64>(max_of(peer->sk_rcvbuf, 0));
    return used > accepted ? used - accepted : 0;
}

void tcp_fused_sync(tcp_sock& tp) {
    if (tp.fused.load()) sync_end(tp);
}

} // namespace sockshim
