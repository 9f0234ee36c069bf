// The ready map of an epoll set, and what epoll_wait makes of it. See eventpoll.h.
#include <cerrno>

#include "core/base/crash_point.h"
#include "core/net/eventpoll_map.h"
#include "core/net/proto.h"
#include "core/sync/futex.h"
#include "core/sync/uaccess.h"

namespace sockshim {

namespace {

constexpr u32 no_word = ~0u;

// The first word from `from` on that may have bits set, by its summaries.
u32 next_ready_word(eventpoll& ep, u32 from) {
    if (from == 0) {
        if (ep.ready0.load()) return 0;
        from = 1;
    }
    if (from < 64) {
        const u64 words = ep.summary.load() & (~u64{0} << from);
        if (words) return static_cast<u32>(__builtin_ctzll(words));
        from = 64;
    }
    for (u32 group = from / 64; group < 64; from = ++group * 64) {
        const u64 groups = ep.top.load() & (~u64{0} << group);
        if (!groups) return no_word;
        if (const u32 next = static_cast<u32>(__builtin_ctzll(groups)); next != group) {
            group = next;
            from = next * 64;
        }
        const ep_word w = ep_word_at(ep, from);
        if (!w.summary) return no_word; // no such chunk
        const u64 words = w.summary->load() & (~u64{0} << from % 64);
        if (words) return group * 64 + static_cast<u32>(__builtin_ctzll(words));
    }
    return no_word;
}

// Takes a word's bits. What stands above it is cleared first, and set again by whoever marks a bit after
// that: nothing is lost, at worst a summary says too much.
u64 take_word(eventpoll& ep, u32 word, const ep_word& w) {
    if (w.summary) {
        const u64 in_summary = u64{1} << word % 64;
        if (word >= 64 && w.summary->load() == in_summary) {
            ep.top.fetch_and(~(u64{1} << word / 64));
            w.summary->fetch_and(~in_summary);
            // A neighbour that was marked in between believed the bit in `top` to be there still.
            if (w.summary->load()) ep.top.fetch_or(u64{1} << word / 64);
        } else {
            w.summary->fetch_and(~in_summary);
        }
    }
    return w.bits->load() ? w.bits->exchange(0) : 0;
}

struct registration {
    u32 slot;
    u32 revents;
    wait_entry* entry;
};

// Asks the source of a slot. entry null: nothing to report.
registration ask(eventpoll& ep, u64 set, const ep_word& w, u32 slot) {
    const u32 v = w.table[slot % 64].load();
    if (v == 0 || (v & ep_free_slot)) return {};
    wait_entry* const e = slab_at<wait_entry>(v - 1);
    if (!e || e->target != set || e->slot != slot) return {};
    const u32 events = e->events.load();
    if (!(events & ~ep_private_bits)) return {};
    const u32 revents = wait_source_poll(e->source_kind, e->source) & events & ~ep_private_bits;
    if (!revents && !wait_source(e->source_kind, e->source)) ep_erase_orphan(ep, *e);
    return {slot, revents, revents ? e : nullptr};
}

// Events on their way to the program: copied out in batches, and only what has arrived there counts.
class sender {
public:
    sender(eventpoll& ep, epoll_event* user, int max, nested_reported& nested)
        : ep_(ep), user_(user), max_(max), nested_(nested) {}

    bool full() const { return failed_ || sent_ + static_cast<int>(count_) >= max_; }
    void add(const registration& r) {
        out_[count_].events = r.revents;
        out_[count_].data.u64 = r.entry->data;
        from_[count_++] = r;
        if (count_ == batch) flush();
    }
    void flush() {
        u32 done = count_;
        if (count_ && copy_to_user(user_ + sent_, out_, count_ * sizeof(epoll_event))) {
            failed_ = true;
            for (done = 0; done < count_; ++done) {
                if (copy_to_user(user_ + sent_ + done, out_ + done, sizeof(epoll_event))) break;
            }
        }
        for (u32 i = 0; i < count_; ++i) settle(from_[i], i < done);
        sent_ += static_cast<int>(done);
        count_ = 0;
        put_back();
    }
    int result() const { return sent_ == 0 && failed_ ? -EFAULT : sent_; }
    u32 last_slot() const { return last_slot_; }

private:
    static constexpr u32 batch = 32;

    // Linux: the end of ep_send_events' loop.
    void settle(const registration& r, bool delivered) {
        const u32 events = r.entry->events.load();
        if (delivered) {
            last_slot_ = r.slot;
            if (r.entry->source_kind == WAIT_EVENTPOLL) report_nested(*r.entry, events);
            if (events & EPOLLONESHOT) {
                r.entry->events.store(events & ep_private_bits);
                return;
            }
            if (events & EPOLLET) return;
        }
        if (r.slot / 64 != word_) {
            put_back();
            word_ = r.slot / 64;
        }
        again_ |= u64{1} << r.slot % 64;
    }
    void put_back() {
        if (!again_) return;
        if (const ep_word w = ep_word_at(ep_, word_); w.bits) ep_mark_word(ep_, word_, w, again_);
        again_ = 0;
    }
    void report_nested(const wait_entry& e, u32 events) {
        if (nested_.count == nested_reported::room) return;
        nested_.data[nested_.count] = e.data;
        nested_.fds[nested_.count] = e.fd;
        nested_.events[nested_.count++] = events;
    }

    eventpoll& ep_;
    epoll_event* user_;
    int max_;
    nested_reported& nested_;
    int sent_ = 0;
    bool failed_ = false;
    u32 count_ = 0;
    u32 last_slot_ = 0;
    u32 word_ = 0;
    u64 again_ = 0;
    epoll_event out_[batch];
    registration from_[batch];
};

constexpr u64 from_bit(u32 bit) { return ~u64{0} << bit; }

} // namespace

u32 wait_source_poll(u8 kind, u64 raw) {
    if (kind == WAIT_SOCK) {
        const handle<sock> h = handle<sock>::from_raw(raw);
        const sock* const sk = slab_get(h);
        if (!sk) return 0;
        socket* const s = slab_get(sk->sk_socket);
        if (!s) return 0;
        const u32 events = ops_of(s->ops_id).poll(*s);
        return events && slab_get(h) ? events : 0; // it may have become another's meanwhile
    }
    if (kind == WAIT_EVENTPOLL) {
        eventpoll* const ep = slab_get(handle<eventpoll>::from_raw(raw));
        return ep ? eventpoll_poll(*ep) : 0;
    }
    return 0;
}

ep_marked eventpoll_mark(handle<eventpoll> set, u32 slot) {
    eventpoll* const ep = slab_get(set);
    if (!ep) return {};
    const ep_word w = ep_word_at(*ep, slot / 64);
    if (!w.bits) return {};
    ep_mark_word(*ep, slot / 64, w, u64{1} << slot % 64);
#if !defined(__x86_64__)
    full_fence(); // there an atomic OR does not keep the load below behind it
#endif
    const bool listening = ep->wq.flags.load();
    return {listening, listening || ep->looking.load()};
}

void eventpoll_wake(handle<eventpoll> set) {
    SOCKSHIM_CRASH_POINT();
    if (eventpoll* ep = slab_get(set)) wake_up_slow(ep->wq, EPOLLIN | EPOLLRDNORM, false);
}

void eventpoll_pass_on(eventpoll& ep) {
    if ((ep.wq.flags.load() & (WQ_RX_SLEEP | WQ_LIST)) && ep_events_available(ep)) {
        wake_up_slow(ep.wq, EPOLLIN | EPOLLRDNORM, false);
    }
}

void eventpoll_wake_all(eventpoll& ep) {
    ep.wq.flags.fetch_or(WQ_RX_SLEEP); // so that none is missed
    wake_up_slow(ep.wq, EPOLLIN | EPOLLRDNORM | EPOLLHUP, true);
}

// Under the lock.
void ep_mark_all(eventpoll& ep) {
    for (u32 word = 0; word < ep.slots / 64; ++word) {
        const ep_word w = ep_word_at(ep, word);
        if (!w.bits) continue;
        u64 bits = 0;
        for (u32 i = 0; i < 64; ++i) {
            const u32 v = w.table[i].load_relaxed();
            if (v != 0 && !(v & ep_free_slot)) bits |= u64{1} << i;
        }
        if (bits) ep_mark_word(ep, word, w, bits);
    }
}

int ep_send_events(eventpoll& ep, epoll_event* user, int max, nested_reported& nested) {
    if (!ep_events_available(ep)) return 0;
    ep_lock(ep);
    const u64 set = slab_handle_at<eventpoll>(cell_index_of(REGION_EVENTPOLL, &ep)).raw();
    sender out(ep, user, max, nested);
    // Once round, from where the last call stopped: each word is taken once, so what goes back for
    // being level-triggered is not met again. Of the word that the round begins in, the bits before
    // the beginning are kept for its end.
    const u32 begin_word = ep.rotor / 64, begin_bit = ep.rotor % 64;
    u64 kept = 0;
    bool second_half = false;
    u32 word = next_ready_word(ep, begin_word);
    for (;;) {
        if (word == no_word && !second_half) {
            second_half = true;
            word = next_ready_word(ep, 0);
            continue;
        }
        if (second_half && word >= begin_word) break; // also no_word
        const ep_word w = ep_word_at(ep, word);
        if (!w.bits) break;
        u64 bits = take_word(ep, word, w);
        SOCKSHIM_CRASH_POINT();
        if (word == begin_word) {
            kept = bits & ~from_bit(begin_bit);
            bits &= from_bit(begin_bit);
        }
        while (bits && !out.full()) {
            const u32 bit = static_cast<u32>(__builtin_ctzll(bits));
            bits &= bits - 1;
            const registration r = ask(ep, set, w, word * 64 + bit);
            if (r.entry) out.add(r);
        }
        if (bits) ep_mark_word(ep, word, w, bits);
        if (out.full()) break;
        word = next_ready_word(ep, word + 1);
    }
    if (kept) {
        const ep_word w = ep_word_at(ep, begin_word);
        while (kept && !out.full()) {
            const u32 bit = static_cast<u32>(__builtin_ctzll(kept));
            kept &= kept - 1;
            const registration r = ask(ep, set, w, begin_word * 64 + bit);
            if (r.entry) out.add(r);
        }
        if (kept) ep_mark_word(ep, begin_word, w, kept);
    }
    out.flush();
    const int n = out.result();
    if (n == max) ep.rotor = (out.last_slot() + 1) % ep.slots;
    ep.lock.unlock();
    // Linux: the end of ep_done_scan. What is left is for other threads that sleep on this set.
    if (n > 0) eventpoll_pass_on(ep);
    return n;
}

u32 eventpoll_poll(eventpoll& ep) {
    if (!ep_events_available(ep)) return 0;
    ep_lock(ep);
    const u64 set = slab_handle_at<eventpoll>(cell_index_of(REGION_EVENTPOLL, &ep)).raw();
    u32 found = 0;
    for (u32 word = next_ready_word(ep, 0); word != no_word && !found;
         word = next_ready_word(ep, word + 1)) {
        const ep_word w = ep_word_at(ep, word);
        if (!w.bits) break;
        u64 bits = take_word(ep, word, w);
        for (u64 left = bits; left && !found; left &= left - 1) {
            const u32 bit = static_cast<u32>(__builtin_ctzll(left));
            if (ask(ep, set, w, word * 64 + bit).entry) {
                found = EPOLLIN | EPOLLRDNORM;
            } else {
                bits &= ~(u64{1} << bit);
            }
        }
        if (bits) ep_mark_word(ep, word, w, bits);
    }
    ep.lock.unlock();
    return found;
}

} // namespace sockshim
