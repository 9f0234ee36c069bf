// What every world in which TCP is driven by hand needs, the unit tests' and the fuzzer's: timers run by
// a clock that the test moves, and the numbers of a connection that are in order whatever was received.
#pragma once
#include "core/arena/arena.h"
#include "core/inet/inet_hashtables.h"
#include "core/net/proto.h"
#include "core/tcp/tcp.h"

namespace sockshim_test {

using namespace sockshim;

template <class T, class Visit> void for_each_cell(Visit visit) {
    for (u32 i = 0; i < cells_committed(region_of<T>::value); i++) {
        const handle<T> h = slab_handle_at<T>(i);
        if (T* cell = slab_get(h)) visit(h, *cell);
    }
}

// The earliest deadline of all; ~0: none.
inline u64 next_tcp_timer() {
    u64 next = ~u64{0};
    for_each_cell<sock>([&](handle<sock>, sock& sk) {
        if (const u64 t = sk.sk_timer_us.load()) next = min_of(next, t);
    });
    for_each_cell<request_sock>(
        [&](handle<request_sock>, request_sock& r) { next = min_of(next, r.timeout_us); });
    for_each_cell<inet_timewait_sock>([&](handle<inet_timewait_sock>, inet_timewait_sock& t) {
        next = min_of(next, t.tw_deadline_us);
    });
    return next;
}

// Fires what is due. False: a timer did not move, so it would run for ever.
inline bool fire_tcp_timers(u64 now) {
    bool moved = true;
    for_each_cell<sock>([&](handle<sock> h, sock& sk) {
        const u64 was = sk.sk_timer_us.load();
        if (!was || was > now || !lock_sock_handle(h)) return;
        const u64 due = sk.sk_timer_us.load();
        sk_prot(sk).timer(sk, now);
        moved = moved && sk.sk_timer_us.load() != due;
        release_sock(sk);
    });
    for_each_cell<request_sock>([&](handle<request_sock> h, request_sock& r) {
        if (r.timeout_us <= now) inet_reqsk_timer(h, now);
    });
    for_each_cell<inet_timewait_sock>([&](handle<inet_timewait_sock> h, inet_timewait_sock& t) {
        if (t.tw_deadline_us <= now) inet_twsk_expire(h);
    });
    return moved;
}

// The first rule that the connection breaks; null: none. For a sock on the packet path.
inline const char* tcp_broken_rule(const sock& sk) {
    const tcp_sock& tp = tcp_sk(sk);
    if (after(tp.snd_una, tp.snd_nxt)) return "snd_una <= snd_nxt";
    if (after(tp.snd_nxt, tp.write_seq)) return "snd_nxt <= write_seq";
    if (after(tp.copied_seq, tp.rcv_nxt)) return "copied_seq <= rcv_nxt";
    if (tp.num_ooo > tcp_max_ooo) return "num_ooo within its array";
    u32 last = tp.rcv_nxt;
    for (u32 i = 0; i < tp.num_ooo; i++) {
        if (!after(tp.ooo[i].start_seq, last)) return "ooo in order, with gaps";
        if (!after(tp.ooo[i].end_seq, tp.ooo[i].start_seq)) return "no empty ooo";
        last = tp.ooo[i].end_seq;
    }
    if (tp.num_sacked > tcp_max_sacked) return "num_sacked within its array";
    last = tp.snd_una;
    for (u32 i = 0; i < tp.num_sacked; i++) {
        if (before(tp.sacked[i].start_seq, last)) return "sacked in order";
        if (!after(tp.sacked[i].end_seq, tp.sacked[i].start_seq)) return "no empty sacked";
        last = tp.sacked[i].end_seq;
    }
    if (after(last, tp.snd_nxt)) return "only what was sent is sacked";
    if (const stream_ring* r = slab_get(tp.rx_ring)) {
        if (r->head.load() != tp.rx_off) return "the ring's head is where bytes go";
        if (ring_used(*r) != tcp_inq_bytes(tp)) return "the ring holds what is queued";
        // Of the ring's own time: a receive buffer made smaller throws nothing away.
        if (ring_used(*r) > r->limit) return "what is queued is within the limit";
    } else if (tcp_inq_bytes(tp)) {
        return "what is queued is somewhere";
    }
    return tp.snd_cwnd >= 1 ? nullptr : "snd_cwnd >= 1";
}

} // namespace sockshim_test
