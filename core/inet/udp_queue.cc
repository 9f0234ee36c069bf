#include "core/inet/udp_queue.h"

#include <cerrno>
#include <cstring>
#include <ctime>

#include "core/arena/owner.h"
#include "core/base/crash_point.h"
#include "core/base/raw_syscall.h"

namespace sockshim {
namespace {

constexpr u64 splitmix(u64 x) {
    x += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

// The ring as one look at it shows: everything follows from the extent's handle, so it cannot change
// under the one who looks.
struct ring_view {
    dgram_slot* slots;
    u32 n; // power of two
    u32 shift;
    u32 lap_mask; // laps repeat with the positions, or sooner
    u32 nonce;
    u64 raw;

    dgram_slot& at(u32 pos) const { return slots[pos & (n - 1)]; }
    u32 lap(u32 pos) const { return (pos >> shift) & lap_mask; }
    u32 next_lap(u32 pos) const { return (lap(pos) + 1) & lap_mask; }
};

bool look_up_ring(u64 raw, ring_view& out) {
    const extent e = extent::from_raw(raw);
    u8* const data = extent_data(e);
    if (!data) return false;
    out.n = extent_bytes(e) / sizeof(dgram_slot);
    out.shift = static_cast<u32>(__builtin_ctz(out.n));
    out.lap_mask = (1u << min_of(slot_word::lap_bits, 32 - out.shift)) - 1;
    // The generation is in the handle: a ring in reused memory has another nonce. Never 0, which is
    // the owner in the word of a closed slot.
    out.nonce = ((e.gen * 0x9e3779b1u) ^ (e.index * 0x85ebca6bu)) & slot_word::owner_mask;
    out.nonce |= 1;
    out.raw = raw;
    out.slots = reinterpret_cast<dgram_slot*>(data);
    return true;
}

// The views that this thread used last. A handle names one ring for ever, so an entry is never wrong; that
// its extent may have been freed since is what the words' nonces are for.
constexpr u32 view_cache_size = 8;
constinit thread_local ring_view view_cache[view_cache_size]{};

bool view_of(u64 raw, ring_view& out) {
    ring_view& cached = view_cache[raw % view_cache_size];
    if (SOCKSHIM_UNLIKELY(cached.raw != raw || raw == 0)) {
        ring_view fresh{};
        if (!look_up_ring(raw, fresh)) return false;
        cached = fresh;
    }
    out = cached;
    return true;
}

// This thread's last datagram found a full queue.
constinit thread_local bool was_full = false;

constexpr u32 word_pos(u64 w) { return static_cast<u32>(w >> 32); }
constexpr u32 word_units(u64 w) { return static_cast<u32>(w); }
constexpr u64 pos_word(u32 pos, u32 units) { return (static_cast<u64>(pos) << 32) | units; }

// 512 slots hold what the default SO_RCVBUF admits of the smallest datagrams; larger buffers get more.
u32 ring_bytes_for(const sock& sk) {
    const u32 most = static_cast<u32>(max_of(sk.sk_rcvbuf, 0)) / dgram_truesize(0) + 2;
    u32 bytes = 64u << 10;
    while (bytes < extent_max_bytes && bytes / sizeof(dgram_slot) < most) bytes *= 4;
    return bytes;
}

// rd_lock is held. Gives the slot at the head back to the writers.
void give_back(dgram_queue& q, const ring_view& r, u64& reader, dgram_slot& s, u64 w) {
    const u32 head = word_pos(reader);
    // The units stay in the word: should we die before the next store, the next reader finds them.
    s.word.store(slot_word::make(r.next_lap(head), slot_word::units(w), SLOT_EMPTY, r.nonce));
    SOCKSHIM_CRASH_POINT();
    reader = pos_word(head + 1, word_units(reader) + slot_word::units(w));
    q.reader.store(reader);
}

// rd_lock is held. Moves the head over what is not a datagram: skipped slots, a slot whose reader died
// between its two stores, and, when `ask`, slots of dead writers.
void trim(dgram_queue& q, const ring_view& r, u64& reader, bool ask) {
    for (u32 i = 0; i < r.n; ++i) {
        const u32 head = word_pos(reader);
        dgram_slot& s = r.at(head);
        u64 w = s.word.load();
        const u32 lap = r.lap(head);
        if (slot_word::lap(w) != lap) {
            if (slot_word::lap(w) != r.next_lap(head) || slot_word::state(w) != SLOT_EMPTY) return;
            reader = pos_word(head + 1, word_units(reader) + slot_word::units(w));
            q.reader.store(reader);
            continue;
        }
        switch (slot_word::state(w)) {
        case SLOT_SKIP: give_back(q, r, reader, s, w); break;
        case SLOT_CLAIMED:
            if (!ask || proc_alive(slot_word::owner(w))) return;
            extent_free(extent::from_raw(s.ext)); // stale unless the dead one had come that far
            if (!s.word.cas(w, slot_word::make(lap, slot_word::units(w), SLOT_SKIP, 0))) return;
            SOCKSHIM_CRASH_POINT();
            give_back(q, r, reader, s, w);
            break;
        default: return;
        }
    }
}

// Full, as far as a writer can tell: perhaps of dead writers' slots, which no reader has met.
bool heal_full(dgram_queue& q, const ring_view& r) {
    const u64 reader = q.reader.load();
    const u64 w = r.at(word_pos(reader)).word.load();
    if (slot_word::state(w) != SLOT_CLAIMED || slot_word::owner(w) == self_proc) return false;
    if (!q.rd_lock.try_lock()) return false;
    u64 now = q.reader.load();
    trim(q, r, now, true);
    q.rd_lock.unlock();
    return now != reader;
}

struct claim {
    dgram_slot* slot;
    u32 lap;
    u32 units;
    ring_view ring;
};

dgram_result claim_slot(sock& sk, dgram_queue& q, u32 units, proc_id owner, claim& out) {
    ring_view& r = out.ring;
    if (SOCKSHIM_UNLIKELY(!view_of(q.ring.load(), r))) return dgram_result::noring;
    const u32 limit = static_cast<u32>(max_of(sk.sk_rcvbuf, 0)) / dgram_unit;
    // Each failed try is another writer's progress; the bound is for an arena that somebody scribbled on.
    for (int tries = 0; tries < 1000; ++tries) {
        u64 tail = q.tail.load();
        const u32 pos = word_pos(tail);
        const auto is_full = [&](u64 reader) {
            // __udp_enqueue_schedule_skb: an empty queue takes one datagram of any size.
            const u32 charged = word_units(tail) - word_units(reader);
            return pos - word_pos(reader) >= r.n || (charged && charged + units > limit);
        };
        if (SOCKSHIM_UNLIKELY(is_full(q.reader_seen.load_relaxed()))) {
            const u64 reader = q.reader.load();
            q.reader_seen.store_relaxed(reader);
            if (is_full(reader)) {
                if (q.tail.load() != tail || heal_full(q, r)) continue;
                return q.closed.load() ? dgram_result::closed : dgram_result::full;
            }
        }
        dgram_slot& s = r.at(pos);
        u64 w = s.word.load();
        if (slot_word::lap(w) != r.lap(pos)) {
            if (q.closed.load()) return dgram_result::closed;
            continue; // the tail has moved since
        }
        const u64 next = tail + pos_word(1, 0);
        if (slot_word::state(w) != SLOT_EMPTY) {
            q.tail.cas(tail, pos_word(word_pos(next), word_units(next) + slot_word::units(w)));
            continue;
        }
        if (slot_word::owner(w) != r.nonce) return dgram_result::closed;
        if (!s.word.cas(w, slot_word::make(r.lap(pos), units, SLOT_CLAIMED, owner))) continue;
        SOCKSHIM_CRASH_POINT();
        q.tail.cas(tail, pos_word(word_pos(next), word_units(next) + units));
        out.slot = &s;
        out.lap = r.lap(pos);
        out.units = units;
        return dgram_result::queued;
    }
    return dgram_result::full;
}

bool fill(u8* to, dgram_source& from) {
    for (const auto& p : from.ours) {
        if (p.len == 0) continue;
        std::memcpy(to, p.data, p.len);
        to += p.len;
    }
    if (from.user_len == 0) return true;
    return copy_from_iter(to, from.user_len, *from.user) == static_cast<i64>(from.user_len);
}

i64 realtime_ns() {
    timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return i64{ts.tv_sec} * 1000000000 + ts.tv_nsec;
}

} // namespace

bool dgram_prepare(sock& sk, dgram_queue& q) {
    ring_view r;
    if (view_of(q.ring.load(), r)) return true;
    if (!q.grow_lock.lock()) {
        // Its last holder died while making one. What it made is in `building`, if not yet in `ring`.
        const u64 left = q.building.load();
        if (left && left != q.ring.load()) extent_free(extent::from_raw(left));
        q.building.store(0);
    }
    bool ok = !q.closed.load();
    if (ok && !view_of(q.ring.load(), r)) {
        const extent e = extent_alloc(ring_bytes_for(sk));
        ok = e && view_of(e.raw(), r);
        if (ok) {
            q.building.store(e.raw());
            SOCKSHIM_CRASH_POINT();
            // A start that no other ring has: a late writer to an earlier ring of this cell cannot
            // move this tail.
            const u64 start = splitmix(e.raw());
            const u32 first = word_pos(start);
            for (u32 i = 0; i < r.n; ++i) {
                dgram_slot& s = r.at(first + i);
                s.ext = 0;
                s.word.store_relaxed(slot_word::make(r.lap(first + i), 0, SLOT_EMPTY, r.nonce));
            }
            q.tail.store(start);
            q.reader.store(start);
            q.reader_seen.store(start);
            extent_publish(e);
            SOCKSHIM_CRASH_POINT();
            q.ring.store(e.raw());
            SOCKSHIM_CRASH_POINT();
            q.building.store(0);
        }
    }
    q.grow_lock.unlock();
    return ok;
}

dgram_result dgram_enqueue(sock& sk, dgram_queue& q, const dgram_meta& meta, dgram_source& source) {
    const u32 len = source.total();
    const u32 units = dgram_truesize(len) / dgram_unit;
    claim c;
    critical_enter();
    dgram_result result = claim_slot(sk, q, units, self_proc, c);
    if (SOCKSHIM_UNLIKELY(result == dgram_result::full) && !was_full) {
        // The queue has just become full. A send is so short that a sender on the reader's processor would
        // throw away a whole time slice's worth before the reader runs: let it run, and look once more.
        critical_leave();
        raw_syscall(SYS_sched_yield);
        critical_enter();
        result = claim_slot(sk, q, units, self_proc, c);
    }
    if (SOCKSHIM_UNLIKELY(result != dgram_result::queued)) {
        critical_leave();
        if (result == dgram_result::full) {
            was_full = true;
            sk.sk_drops.fetch_add(1);
        }
        return result;
    }
    was_full = false;
    dgram_slot& s = *c.slot;
    SOCKSHIM_CRASH_POINT();
    u8 flags = 0;
    if (len <= dgram_inline_bytes) {
        if (!fill(s.data, source)) result = dgram_result::fault;
    } else {
        // Ours until published; from then on the slot, claimed or not, says where it is.
        const extent e = extent_alloc(len);
        u8* const data = e ? extent_data(e) : nullptr;
        if (!data) {
            result = dgram_result::nomem;
        } else if (!fill(data, source)) {
            result = dgram_result::fault;
            extent_free(e);
        } else {
            flags = DGRAM_EXT;
            s.ext = e.raw();
            asm volatile("" ::: "memory");
            SOCKSHIM_CRASH_POINT();
            extent_publish(e);
        }
    }
    SOCKSHIM_CRASH_POINT();
    if (SOCKSHIM_LIKELY(result == dgram_result::queued)) {
        const u32 wants = sk.sk_flags.load_relaxed();
        s.stamp_ns = wants & (SOCK_TIMESTAMP | SOCK_RCVTSTAMPNS) ? realtime_ns() : 0;
        s.drops = wants & SOCK_RXQ_OVFL ? sk.sk_drops.load_relaxed() : 0;
        s.saddr = meta.saddr;
        s.daddr = meta.daddr;
        s.len = static_cast<u16>(len);
        s.sport = meta.sport;
        s.dport = meta.dport;
        s.ttl = meta.ttl;
        s.tos = meta.tos;
        s.ifindex = meta.ifindex;
        s.flags = flags;
        s.gso_size = meta.gso_size;
        s.word.store(slot_word::make(c.lap, c.units, SLOT_READY, 0));
        critical_leave();
        wake_up(sk.sk_wq, POLLIN | POLLRDNORM);
        return result;
    }
    s.word.store(slot_word::make(c.lap, c.units, SLOT_SKIP, 0));
    critical_leave();
    return result;
}

bool dgram_readable(const dgram_queue& q) {
    ring_view r;
    if (!view_of(q.ring.load(), r)) return false;
    const u32 head = word_pos(q.reader.load());
    for (u32 i = 0; i < r.n; ++i) {
        const u64 w = r.at(head + i).word.load();
        const u32 lap = r.lap(head + i);
        if (slot_word::lap(w) != lap) {
            if (slot_word::lap(w) == r.next_lap(head + i)) continue; // taken just now
            return false;
        }
        // Claims are made in order, so behind an EMPTY slot there is nothing.
        if (slot_word::state(w) == SLOT_EMPTY) return false;
        if (slot_word::state(w) == SLOT_READY) return true;
    }
    return false;
}

u32 dgram_charged(const dgram_queue& q) {
    return (word_units(q.tail.load()) - word_units(q.reader.load())) * dgram_unit;
}

namespace {

const u8* payload_of(const dgram_slot& s, u32 len) {
    if (!(s.flags & DGRAM_EXT)) return len <= dgram_inline_bytes ? s.data : nullptr;
    const extent e = extent::from_raw(s.ext);
    return len <= extent_bytes(e) ? extent_data(e) : nullptr;
}

// rd_lock is held. Takes a READY slot out of the queue, wherever it stands.
void consume(dgram_queue& q, const ring_view& r, u64& reader, u32 pos, dgram_slot& s, u64 w) {
    // Freed before the slot: in between a reader finds a stale handle and passes over it.
    if (s.flags & DGRAM_EXT) extent_free(extent::from_raw(s.ext));
    SOCKSHIM_CRASH_POINT();
    if (pos == word_pos(reader)) {
        give_back(q, r, reader, s, w);
    } else {
        s.word.store(slot_word::make(r.lap(pos), slot_word::units(w), SLOT_SKIP, 0));
    }
}

// Of the slots [from, end) behind the head the first READY one; `end`: none. `passed`: a claimed one stands before it.
u32 look_for_ready(const ring_view& r, u32 head, u32 from, u32 end, bool& passed) {
    passed = false;
    for (u32 i = from; i < end; ++i) {
        const u64 w = r.at(head + i).word.load();
        if (slot_word::lap(w) != r.lap(head + i) || slot_word::state(w) == SLOT_EMPTY) return end;
        if (slot_word::state(w) == SLOT_READY) return i;
        passed = passed || slot_word::state(w) == SLOT_CLAIMED;
    }
    return end;
}

// rd_lock is held. The first READY slot at or after the head, `from` positions on.
bool next_ready(dgram_queue& q, const ring_view& r, u64& reader, u32 from, u32& pos, u64& w) {
    const u32 head = word_pos(reader);
    bool passed;
    u32 at = look_for_ready(r, head, from, r.n, passed);
    if (at == r.n) return false;
    // What was claimed when it was passed may be ready by now, and its sender have sent the one that was found
    // after it: one sender's datagrams stay in order.
    for (u32 end = r.n; passed && at != end;) {
        end = at;
        at = look_for_ready(r, head, from, end, passed);
    }
    pos = head + at;
    w = r.at(pos).word.load();
    // Far behind a claimed head: is its claimer still there? (Not each time: asking reads /proc.)
    if ((at & 15) == 15) trim(q, r, reader, true);
    return true;
}

} // namespace

i64 dgram_first_len(dgram_queue& q) {
    lock_guard guard(q.rd_lock); // nothing to repair: trim() finds what a dead reader left
    ring_view r;
    if (!view_of(q.ring.load(), r)) return -1;
    u64 reader = q.reader.load();
    trim(q, r, reader, false);
    u32 pos;
    u64 w;
    return next_ready(q, r, reader, 0, pos, w) ? i64{r.at(pos).len} : -1;
}

int dgram_dequeue(dgram_queue& q, iov_iter& to, bool peek, i32 peek_off, dgram_taken& out) {
    lock_guard guard(q.rd_lock);
    ring_view r;
    if (!view_of(q.ring.load(), r)) return -EAGAIN;
    u64 reader = q.reader.load();
    u32 offset = peek_off > 0 ? static_cast<u32>(peek_off) : 0;
    trim(q, r, reader, false);
    u32 pos;
    u64 w;
    for (u32 from = word_pos(reader);;) {
        // Trimming may have moved the head beyond where the search stood.
        const u32 ahead = from - word_pos(reader);
        if (!next_ready(q, r, reader, ahead < r.n ? ahead : 0, pos, w)) return -EAGAIN;
        dgram_slot& s = r.at(pos);
        const u32 len = s.len;
        const u8* const data = payload_of(s, len);
        if (SOCKSHIM_UNLIKELY(!data)) { // its reader died between taking and giving back
            s.flags &= static_cast<u8>(~DGRAM_EXT);
            consume(q, r, reader, pos, s, w);
            from = pos + 1;
            continue;
        }
        // __skb_try_recv_from_queue: a peek offset passes over whole datagrams, and over an empty one
        // that has been peeked at already.
        if (peek && peek_off >= 0 && offset >= len && (len || offset || (s.flags & DGRAM_PEEKED))) {
            offset -= len;
            from = pos + 1;
            continue;
        }
        out.meta = {s.saddr, s.daddr, s.sport, s.dport, s.ttl, s.tos, s.ifindex, s.gso_size};
        out.stamp_ns = s.stamp_ns;
        out.drops = s.drops;
        out.len = len;
        out.offset = peek ? min_of(offset, len) : 0;
        const u32 want = static_cast<u32>(min_of<u64>(to.count, len - out.offset));
        const bool fault =
            want && copy_to_iter(data + out.offset, want, to) != static_cast<i64>(want);
        out.copied = fault ? 0 : want;
        if (peek) {
            s.flags |= DGRAM_PEEKED;
        } else {
            consume(q, r, reader, pos, s, w);
        }
        return fault ? -EFAULT : 0;
    }
}

void dgram_purge(dgram_queue& q) {
    lock_guard guard(q.rd_lock);
    ring_view r;
    if (!view_of(q.ring.load(), r)) return;
    u64 reader = q.reader.load();
    u32 pos;
    u64 w;
    for (u32 i = 0; i < r.n; ++i) {
        trim(q, r, reader, true);
        if (!next_ready(q, r, reader, 0, pos, w)) break;
        consume(q, r, reader, pos, r.at(pos), w);
    }
}

bool dgram_queue_close(dgram_queue& q) {
    // Under both locks: no new ring is made, no reader is inside.
    if (!q.grow_lock.lock()) {
        const u64 left = q.building.load();
        if (left && left != q.ring.load()) extent_free(extent::from_raw(left));
    }
    q.building.store(0);
    q.closed.store(1);
    q.grow_lock.unlock();

    lock_guard guard(q.rd_lock);
    ring_view r;
    if (!view_of(q.ring.load(), r)) return true;
    u32 outstanding = 0;
    for (u32 i = 0; i < r.n; ++i) {
        dgram_slot& s = r.slots[i];
        for (int tries = 0; tries < 1000; ++tries) {
            u64 w = s.word.load();
            if (w == 0) break;
            const dgram_slot_state state = slot_word::state(w);
            if (state == SLOT_CLAIMED && proc_alive(slot_word::owner(w))) {
                ++outstanding;
                break;
            }
            if (state == SLOT_CLAIMED || (state == SLOT_READY && (s.flags & DGRAM_EXT))) {
                extent_free(extent::from_raw(s.ext));
            }
            if (s.word.cas(w, 0)) break;
        }
    }
    if (outstanding) return false;
    extent_free(extent::from_raw(r.raw));
    SOCKSHIM_CRASH_POINT();
    q.ring.store(0);
    return true;
}

void dgram_queue_extents(const dgram_queue& q, void (*visit)(extent, void*), void* arg) {
    if (const u64 building = q.building.load()) visit(extent::from_raw(building), arg);
    ring_view r;
    if (!view_of(q.ring.load(), r)) return;
    visit(extent::from_raw(r.raw), arg);
    for (u32 i = 0; i < r.n; ++i) {
        // Whatever the state: a claimed slot's extent may be published already. Stale ones do no harm.
        if (r.slots[i].ext) visit(extent::from_raw(r.slots[i].ext), arg);
    }
}

bool dgram_test_claim(sock& sk, dgram_queue& q, proc_id owner) {
    claim c;
    return claim_slot(sk, q, dgram_truesize(0) / dgram_unit, owner, c) == dgram_result::queued;
}

} // namespace sockshim
