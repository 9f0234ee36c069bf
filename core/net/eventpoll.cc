// epoll sets: life, registrations, processes (Linux: fs/eventpoll.c). Ready map and collection of
// events: eventpoll_ready.cc.
#include "core/net/eventpoll.h"

#include <cerrno>
#include <initializer_list>

#include "core/base/crash_point.h"
#include "core/net/doorbell.h"
#include "core/net/eventpoll_map.h"
#include "core/sync/futex.h"

namespace sockshim {

namespace {

constexpr u32 entry_reference(u32 index) { return index + 1; }

// Under the lock. The registration that slot `slot` names, null when it names none that is whole.
wait_entry* named_entry(eventpoll& ep, handle<eventpoll> set, u32 slot) {
    const ep_word w = ep_word_at(ep, slot / 64);
    if (!w.bits) return nullptr;
    const u32 v = w.table[slot % 64].load();
    if (v == 0 || (v & ep_free_slot)) return nullptr;
    const handle<wait_entry> h = slab_handle_at<wait_entry>(v - 1);
    wait_entry* e = slab_get(h);
    return e && e->target_kind == WAIT_EVENTPOLL && e->target == set.raw() && e->slot == slot
               ? e
               : nullptr;
}

bool is_named(eventpoll& ep, handle<eventpoll> set, const wait_entry& e) {
    return e.slot < ep.slots && named_entry(ep, set, e.slot) == &e;
}

handle<eventpoll> set_of(const eventpoll& ep) {
    return slab_handle_at<eventpoll>(cell_index_of(REGION_EVENTPOLL, &ep));
}

handle<wait_entry> entry_handle(const wait_entry& e) {
    return slab_handle_at<wait_entry>(cell_index_of(REGION_WAIT_ENTRY, &e));
}

// --- slots, under the lock ---------------------------------------------------------------------------

void put_free(eventpoll& ep, u32 slot, a32& table_entry) {
    table_entry.store(ep_free_slot | ep.free_head);
    SOCKSHIM_CRASH_POINT();
    ep.free_head = slot + 1;
}

// Everything that does not name a whole registration is free; lowest slots first.
void rebuild(eventpoll& ep) {
    const handle<eventpoll> set = set_of(ep);
    u32 items = 0;
    ep.free_head = 0;
    for (u32 word = ep.slots / 64; word-- > 0;) {
        const ep_word w = ep_word_at(ep, word);
        if (!w.bits) continue;
        for (u32 i = 64; i-- > 0;) {
            if (named_entry(ep, set, word * 64 + i)) {
                ++items;
            } else {
                put_free(ep, word * 64 + i, w.table[i]);
            }
        }
    }
    ep.items.store(items);
}

// One more chunk. False: the arena is full, or the set.
bool grow(eventpoll& ep) {
    if (ep.slots >= ep_max_slots) return false;
    const u32 chunk = ep_chunk_of_word(ep.slots / 64);
    const ep_chunk_shape shape = ep_shape(chunk);
    // One that is there already was brought by a process that died before it counted it.
    if (!extent_data(extent::from_raw(ep.chunks[chunk]))) {
        const extent e = extent_alloc(shape.bytes());
        u8* const bytes = extent_data(e);
        if (!bytes) return false;
        __builtin_memset(bytes, 0, shape.bytes());
        ep.chunks[chunk] = e.raw();
        SOCKSHIM_CRASH_POINT();
        extent_publish(e);
    }
    for (u32 word = shape.first_word + shape.words; word-- > shape.first_word;) {
        const ep_word w = ep_word_at(ep, word);
        if (!w.table) return false; // somebody scribbled on the set
        for (u32 i = 64; i-- > 0;) put_free(ep, word * 64 + i, w.table[i]);
    }
    SOCKSHIM_CRASH_POINT();
    ep.slots = (shape.first_word + shape.words) * 64;
    return true;
}

// --- holders, under the lock -------------------------------------------------------------------------

struct holder_array {
    ep_holder* first;
    u32 count;
};

holder_array more_holders(const eventpoll& ep) {
    const extent e = extent::from_raw(ep.holder_chunk);
    u8* const bytes = extent_data(e);
    return {reinterpret_cast<ep_holder*>(bytes),
            bytes ? extent_bytes(e) / static_cast<u32>(sizeof(ep_holder)) : 0};
}

template <class Visit> bool visit_holders(eventpoll& ep, Visit visit) {
    for (ep_holder& h : ep.holders) {
        if (visit(h)) return true;
    }
    const holder_array more = more_holders(ep);
    for (u32 i = 0; i < more.count; ++i) {
        if (visit(more.first[i])) return true;
    }
    return false;
}

bool holds(eventpoll& ep, u32 who) {
    return visit_holders(ep, [who](ep_holder& h) { return h.who.load() == who; });
}

u32 noted_fd(eventpoll& ep, u32 who) {
    u32 fd_plus_1 = 0;
    visit_holders(ep, [&](ep_holder& h) {
        if (h.who.load() != who) return false;
        fd_plus_1 = h.fd_plus_1.load();
        return true;
    });
    return fd_plus_1;
}

// Beside a proc_id: held for the child that this process is about to have.
constexpr u32 for_child = 1u << 30;

bool rename_holder(eventpoll& ep, u32 from, u32 to) {
    return visit_holders(ep, [=](ep_holder& h) {
        if (h.who.load() != from) return false;
        h.who.store(to);
        return true;
    });
}

bool take_free_holder(eventpoll& ep, u32 who, u32 fd_plus_1) {
    return visit_holders(ep, [=](ep_holder& h) {
        if (h.who.load()) return false;
        h.fd_plus_1.store(fd_plus_1);
        h.who.store(who);
        return true;
    });
}

// False: the arena is full.
bool add_holder(eventpoll& ep, u32 who, u32 fd_plus_1) {
    if (take_free_holder(ep, who, fd_plus_1)) return true;
    const holder_array old = more_holders(ep);
    constexpr u32 each = sizeof(ep_holder);
    const u32 bytes = old.count ? old.count * each * 4 : 1024;
    const extent e = extent_alloc(bytes);
    u8* const fresh = extent_data(e);
    if (!fresh) return false;
    __builtin_memset(fresh, 0, bytes);
    if (old.count) __builtin_memcpy(fresh, static_cast<void*>(old.first), old.count * each);
    const extent former = extent::from_raw(ep.holder_chunk);
    // Published first: killed here it is an extent that nobody refers to, which the reaper finds; the
    // other order could lose the list of holders.
    extent_publish(e);
    SOCKSHIM_CRASH_POINT();
    ep.holder_chunk = e.raw();
    if (old.count) extent_free(former);
    return take_free_holder(ep, who, fd_plus_1);
}

// True when nobody is left. `dead`: what it held for children too, for one that lives has its own name by
// now.
bool drop_holder(eventpoll& ep, proc_id who, bool dead) {
    bool others = false;
    visit_holders(ep, [&](ep_holder& h) {
        const u32 held = h.who.load();
        if (held == who || (dead && held == (who | for_child))) h.who.store(0);
        others |= h.who.load() != 0;
        return false;
    });
    return !others;
}

// --- registrations -----------------------------------------------------------------------------------

// Both locks held. Takes the registration out for good.
void erase(eventpoll& ep, wait_queue* wq, wait_entry& e) {
    const ep_word w = ep_word_at(ep, e.slot / 64);
    e.owner = self_proc;
    if (w.bits && is_named(ep, handle<eventpoll>::from_raw(e.target), e)) {
        put_free(ep, e.slot, w.table[e.slot % 64]);
        ep.items.store(ep.items.load() - 1);
    }
    SOCKSHIM_CRASH_POINT();
    if (wq) wait_unlink(*wq, e);
    SOCKSHIM_CRASH_POINT();
    slab_free(entry_handle(e));
}

// Both locks held. Linux: ep_find, which has a tree per set; here the source's list is walked, which
// has one entry for each set that the source is in.
wait_entry* find(wait_queue& wq, eventpoll& ep, handle<eventpoll> set, int fd) {
    u32 bound = cells_committed(REGION_WAIT_ENTRY);
    for (u32 at = wq.head.load(); at && bound; --bound) {
        wait_entry* const e = slab_at<wait_entry>(at - 1);
        if (!e) break;
        at = e->next.load();
        if (e->target_kind != WAIT_EVENTPOLL || e->target != set.raw() || e->fd != fd) continue;
        if (is_named(ep, set, *e)) return e;
        erase(ep, &wq, *e); // linked but not named: its maker or remover died at it
    }
    return nullptr;
}

// Locks a registration's two ends. Not ok() when either is no more.
class both_ends {
public:
    both_ends(handle<eventpoll> set, ep_source source)
        : wq_(wait_source(source.kind, source.raw)), ep_(slab_get(set)) {
        if (!wq_ || !ep_) {
            wq_ = nullptr;
            return;
        }
        wq_->lock.lock_plain();
        ep_lock(*ep_);
        if (wait_source(source.kind, source.raw) == wq_ && slab_get(set) == ep_) return;
        unlock();
    }
    ~both_ends() { unlock(); }
    both_ends(const both_ends&) = delete;
    both_ends& operator=(const both_ends&) = delete;

    bool ok() const { return wq_; }
    wait_queue& wq() { return *wq_; }
    eventpoll& ep() { return *ep_; }
    void unlock() {
        if (!wq_) return;
        ep_->lock.unlock();
        wq_->lock.unlock();
        wq_ = nullptr;
    }

private:
    wait_queue* wq_;
    eventpoll* ep_;
};

// Linux: the poll at the end of ep_insert and ep_modify. With no lock held: the worst that a removal in
// between can make of it is a slot looked at in vain.
void notify_if_ready(handle<eventpoll> set, ep_source source, u32 slot, u32 events) {
    if (!(wait_source_poll(source.kind, source.raw) & events)) return;
    if (eventpoll_mark(set, slot).listening) eventpoll_wake(set);
}

// The set is nobody's any more.
void destroy(handle<eventpoll> set) {
    eventpoll* const ep = slab_get(set);
    if (!ep) return;
    for (u32 slot = 0; slot < ep->slots; ++slot) {
        const ep_word w = ep_word_at(*ep, slot / 64);
        if (!w.bits) break;
        const u32 v = w.table[slot % 64].load();
        if (v == 0 || (v & ep_free_slot)) continue;
        wait_entry* const e = slab_at<wait_entry>(v - 1);
        if (!e) continue;
        const ep_source source{e->source_kind, e->source};
        if (both_ends ends(set, source); ends.ok()) {
            if (is_named(*ep, set, *e)) erase(*ep, &ends.wq(), *e);
            continue;
        }
        // The source is gone already.
        ep_lock(*ep);
        if (is_named(*ep, set, *e)) erase(*ep, nullptr, *e);
        ep->lock.unlock();
    }
    ep_lock(*ep);
    if (slab_get(set) == ep) {
        for (u64& chunk : ep->chunks) {
            const extent e = extent::from_raw(chunk);
            if (e) extent_free(e);
            chunk = 0;
        }
        if (ep->holder_chunk) extent_free(extent::from_raw(ep->holder_chunk));
        ep->holder_chunk = 0;
        ep->slots = 0;
        SOCKSHIM_CRASH_POINT();
        slab_free(set);
    }
    ep->lock.unlock();
    eventpoll_wake_all(*ep);
}

// Everything that hangs on a source which is going away.
void release_source(wait_queue& wq) {
    if (!(wq.flags.load() & WQ_LIST)) return;
    wq.lock.lock_plain();
    u32 bound = cells_committed(REGION_WAIT_ENTRY);
    for (u32 at = wq.head.load(); at && bound; --bound) {
        wait_entry* const e = slab_at<wait_entry>(at - 1);
        if (!e) break;
        at = e->next.load();
        if (e->target_kind == WAIT_THREAD) {
            const handle<waiter> h = handle<waiter>::from_raw(e->target);
            wait_unlink(wq, *e); // its thread frees it
            waiter_ring(h);
        } else if (eventpoll* ep = slab_get(handle<eventpoll>::from_raw(e->target))) {
            ep_lock(*ep);
            erase(*ep, &wq, *e);
            ep->lock.unlock();
        } else {
            wait_unlink(wq, *e);
            slab_free(entry_handle(*e));
        }
    }
    wq.lock.unlock();
}

// A live entry that names the dead process as the one who was at it.
void settle_entry(u32 index) {
    const handle<wait_entry> h = slab_handle_at<wait_entry>(index);
    wait_entry* const e = slab_get(h);
    if (!e) return;
    if (e->target_kind != WAIT_EVENTPOLL) {
        wait_entry_remove(h);
        return;
    }
    const handle<eventpoll> set = handle<eventpoll>::from_raw(e->target);
    if (!slab_get(set)) {
        wait_entry_remove(h);
        return;
    }
    const ep_source source{e->source_kind, e->source};
    if (both_ends ends(set, source); ends.ok()) {
        if (!slab_get(h)) return;
        if (is_named(ends.ep(), set, *e)) {
            e->owner = 0; // whole: it is the set's
        } else {
            erase(ends.ep(), &ends.wq(), *e);
        }
        return;
    }
    if (wait_source(source.kind, source.raw)) return; // the set went meanwhile: next time
    if (eventpoll* ep = slab_get(set)) {
        ep_lock(*ep);
        if (slab_get(h)) erase(*ep, nullptr, *e);
        ep->lock.unlock();
    }
}

} // namespace

void ep_lock(eventpoll& ep) {
    if (SOCKSHIM_LIKELY(ep.lock.lock())) return;
    rebuild(ep);
    ep_mark_all(ep);
}

void ep_erase_orphan(eventpoll& ep, wait_entry& e) { erase(ep, nullptr, e); }

handle<eventpoll> eventpoll_create() {
    const handle<eventpoll> set = slab_alloc<eventpoll>();
    eventpoll* const ep = slab_get(set);
    if (!ep) return {};
    // Locks and wake words are not touched: a thread with a handle to the cell's former set may be at
    // them (as in sk_alloc).
    ep->wq.flags.store(0);
    ep->wq.head.store(0);
    ep->wq.spin_score.store(0);
    ep->ready0.store(0);
    ep->summary.store(0);
    ep->top.store(0);
    ep->lock.lock_plain();
    ep->kernel_items.store(0);
    ep->exclusive.store(0);
    ep->nested.store(0);
    ep->looking.store(0);
    for (a32* of_kicks : {&ep->known, &ep->direct, &ep->kicks_begun, &ep->kicks_ended}) {
        of_kicks->store(0); // a wait that a death ended may have left them
    }
    ep->turn.store(0);
    ep->kernel_asked.store(0);
    ep->rotor = 0;
    for (u64& chunk : ep->chunks) chunk = 0;
    ep->holder_chunk = 0;
    for (ep_holder& h : ep->holders) h.who.store(0);
    for (a32& v : ep->table0) v.store(0);
    ep->slots = ep_first_slots;
    rebuild(*ep);
    ep->holders[0].fd_plus_1.store(0);
    ep->holders[0].who.store(self_proc);
    ep->lock.unlock();
    slab_publish(set);
    return set;
}

void eventpoll_put(u32 index, proc_id holder) {
    const handle<eventpoll> set = slab_handle_at<eventpoll>(index);
    eventpoll* const ep = slab_get(set);
    if (!ep) return;
    ep_lock(*ep);
    const bool last = slab_get(set) == ep && drop_holder(*ep, holder, false);
    ep->lock.unlock();
    if (!last) return;
    release_source(ep->wq);
    destroy(set);
}

namespace {

template <class Visit> void for_each_set_held_by(u32 who, Visit visit) {
    const u32 committed = cells_committed(REGION_EVENTPOLL);
    for (u32 i = 0; i < committed; ++i) {
        const handle<eventpoll> set = slab_handle_at<eventpoll>(i);
        eventpoll* const ep = slab_get(set);
        if (!ep) continue;
        ep_lock(*ep);
        if (slab_get(set) == ep && holds(*ep, who)) visit(*ep);
        ep->lock.unlock();
    }
}

} // namespace

// With the arena full the child will be no holder: it loses our half when its parent lets go.
void eventpoll_fork_begins() {
    for_each_set_held_by(self_proc, [](eventpoll& ep) {
        static_cast<void>(add_holder(ep, self_proc | for_child, noted_fd(ep, self_proc)));
    });
}

void eventpoll_fork_failed() {
    for_each_set_held_by(self_proc,
                         [](eventpoll& ep) { rename_holder(ep, self_proc | for_child, 0); });
}

void eventpoll_forked(proc_id parent, proc_id child) {
    for_each_set_held_by(parent | for_child,
                         [=](eventpoll& ep) { rename_holder(ep, parent | for_child, child); });
    for_each_set_held_by(parent, [=](eventpoll& ep) {
        if (!holds(ep, child)) static_cast<void>(add_holder(ep, child, noted_fd(ep, parent)));
    });
}

void eventpoll_note_fd(u32 index, int fd) {
    const handle<eventpoll> set = slab_handle_at<eventpoll>(index);
    eventpoll* const ep = slab_get(set);
    if (!ep) return;
    ep_lock(*ep);
    if (slab_get(set) == ep) {
        visit_holders(*ep, [fd](ep_holder& h) {
            if (h.who.load() != self_proc) return false;
            h.fd_plus_1.store(static_cast<u32>(fd) + 1);
            return true;
        });
    }
    ep->lock.unlock();
}

handle<eventpoll> eventpoll_find(bool (*same)(proc_id who, int fd, void* arg), void* arg) {
    const u32 committed = cells_committed(REGION_EVENTPOLL);
    for (u32 i = 0; i < committed; ++i) {
        const handle<eventpoll> set = slab_handle_at<eventpoll>(i);
        eventpoll* const ep = slab_get(set);
        if (!ep) continue;
        ep_lock(*ep);
        bool found = slab_get(set) == ep && visit_holders(*ep, [=](ep_holder& h) {
                         const u32 who = h.who.load(), fd_plus_1 = h.fd_plus_1.load();
                         return who && fd_plus_1 &&
                                same(who & ~for_child, static_cast<int>(fd_plus_1) - 1, arg);
                     });
        if (found && !holds(*ep, self_proc)) found = add_holder(*ep, self_proc, 0);
        ep->lock.unlock();
        if (found) return set;
    }
    return {};
}

void eventpoll_for_each_held(void (*visit)(u32 index, int fd)) {
    const u32 committed = cells_committed(REGION_EVENTPOLL);
    for (u32 i = 0; i < committed; ++i) {
        const handle<eventpoll> set = slab_handle_at<eventpoll>(i);
        eventpoll* const ep = slab_get(set);
        if (!ep) continue;
        ep_lock(*ep);
        const bool held = slab_get(set) == ep && holds(*ep, self_proc);
        const int fd = held ? static_cast<int>(noted_fd(*ep, self_proc)) - 1 : -1;
        ep->lock.unlock();
        if (held) visit(i, fd);
    }
}

void eventpoll_process_died(proc_id dead) {
    if (!dead) return;
    for (u32 i = 0, n = cells_committed(REGION_WAIT_ENTRY); i < n; ++i) {
        if (cell_word::state(cell_word_at(REGION_WAIT_ENTRY, i)) != CELL_LIVE) continue;
        if (slab_at<wait_entry>(i)->owner == dead) settle_entry(i);
    }
    for (u32 i = 0, n = cells_committed(REGION_EVENTPOLL); i < n; ++i) {
        if (cell_word::state(cell_word_at(REGION_EVENTPOLL, i)) != CELL_LIVE) continue;
        const handle<eventpoll> set = slab_handle_at<eventpoll>(i);
        eventpoll* const ep = slab_get(set);
        if (!ep) continue;
        ep_lock(*ep);
        const bool here = slab_get(set) == ep;
        const bool last = here && drop_holder(*ep, dead, true);
        if (here && !last) {
            ep->looking.store(0);
            ep_mark_all(*ep);
        }
        ep->lock.unlock();
        if (!here) continue;
        if (last) {
            release_source(ep->wq);
            destroy(set);
        } else {
            wait_queue_process_died(ep->wq, dead);
        }
    }
    for (u32 i = 0, n = cells_committed(REGION_SOCK); i < n; ++i) {
        if (cell_word::state(cell_word_at(REGION_SOCK, i)) == CELL_FREE) continue;
        wait_queue_process_died(slab_at<sock>(i)->sk_wq, dead);
    }
    waiters_wake_all();
}

void eventpoll_release_socket(handle<sock> h) {
    if (sock* sk = slab_get(h)) release_source(sk->sk_wq);
}

int ep_insert(handle<eventpoll> set, ep_source source, int fd, u32 events, u64 data) {
    u32 slot;
    {
        both_ends ends(set, source);
        if (!ends.ok()) return -EBADF;
        eventpoll& ep = ends.ep();
        if (find(ends.wq(), ep, set, fd)) return -EEXIST;
        if (!ep.free_head && !grow(ep)) return ep.slots >= ep_max_slots ? -ENOSPC : -ENOMEM;
        slot = ep.free_head - 1;
        const ep_word w = ep_word_at(ep, slot / 64);
        const handle<wait_entry> h = slab_alloc<wait_entry>();
        wait_entry* const e = slab_get(h);
        if (!w.bits || !e) return -ENOMEM;
        e->next.store(0);
        e->source_kind = source.kind;
        e->target_kind = WAIT_EVENTPOLL;
        e->source = source.raw;
        e->target = set.raw();
        e->events.store(events | EPOLLERR | EPOLLHUP);
        e->fd = fd;
        e->data = data;
        e->slot = slot;
        e->owner = self_proc;
        if (events & EPOLLEXCLUSIVE) ep.exclusive.store(1);
        if (source.kind == WAIT_EVENTPOLL) ep.nested.store(1);
        slab_publish(h);
        wait_link(ends.wq(), *e);
        const u32 after = w.table[slot % 64].load() & ~ep_free_slot;
        w.table[slot % 64].store(entry_reference(h.index));
        SOCKSHIM_CRASH_POINT();
        ep.free_head = after;
        ep.items.store(ep.items.load() + 1);
    }
    notify_if_ready(set, source, slot, events | EPOLLERR | EPOLLHUP);
    return 0;
}

int ep_modify(handle<eventpoll> set, ep_source source, int fd, u32 events, u64 data) {
    u32 slot;
    {
        both_ends ends(set, source);
        if (!ends.ok()) return -EBADF;
        wait_entry* const e = find(ends.wq(), ends.ep(), set, fd);
        if (!e) return -ENOENT;
        if (e->events.load() & EPOLLEXCLUSIVE) return -EINVAL;
        e->data = data;
        e->events.store(events | EPOLLERR | EPOLLHUP);
        slot = e->slot;
    }
    full_fence(); // a producer that saw the old events has published before the look that follows
    notify_if_ready(set, source, slot, events | EPOLLERR | EPOLLHUP);
    return 0;
}

int ep_remove(handle<eventpoll> set, ep_source source, int fd) {
    both_ends ends(set, source);
    if (!ends.ok()) return -EBADF;
    wait_entry* const e = find(ends.wq(), ends.ep(), set, fd);
    if (!e) return -ENOENT;
    erase(ends.ep(), &ends.wq(), *e);
    return 0;
}

bool ep_find(handle<eventpoll> set, ep_source source, int fd, u32& events, u64& data) {
    both_ends ends(set, source);
    if (!ends.ok()) return false;
    const wait_entry* const e = find(ends.wq(), ends.ep(), set, fd);
    if (!e) return false;
    events = e->events.load();
    data = e->data;
    return true;
}

void eventpoll_visit_extents(void (*visit)(extent e, void* arg), void* arg) {
    for (u32 i = 0, n = cells_committed(REGION_EVENTPOLL); i < n; ++i) {
        if (cell_word::state(cell_word_at(REGION_EVENTPOLL, i)) == CELL_FREE) continue;
        const eventpoll& ep = *slab_at<eventpoll>(i);
        for (const u64 chunk : ep.chunks) {
            if (chunk) visit(extent::from_raw(chunk), arg);
        }
        if (ep.holder_chunk) visit(extent::from_raw(ep.holder_chunk), arg);
    }
}

} // namespace sockshim
