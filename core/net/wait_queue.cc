// Waking (Linux: kernel/sched/wait.c). See wait_queue.h.
#include "core/net/wait_queue.h"

#include <csignal>
#include <fcntl.h>

#include "core/base/crash_point.h"
#include "core/base/raw_syscall.h"
#include "core/net/doorbell.h"
#include "core/net/eventpoll.h"
#include "core/net/socket.h"
#include "core/net/timer.h"
#include "core/sync/futex.h"

namespace sockshim {

namespace {

constexpr u32 in_bits = EPOLLIN | EPOLLPRI | EPOLLRDNORM | EPOLLRDBAND | EPOLLRDHUP | EPOLLMSG;
constexpr u32 out_bits = EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND;
constexpr u32 state_bits = EPOLLERR | EPOLLHUP;
constexpr int everybody = 1 << 30;

// True when a thread was woken. The flag says "somebody may sleep"; sleepers set it before their last
// look, so whoever clears it must move the word after that and wake all that are asleep by then.
bool wake_sleepers(wait_queue& wq, u32 flag, a32& word, bool wake_all) {
    wq.woken_us.store_relaxed(static_cast<u32>(monotonic_us()));
    if (!wake_all) {
        word.fetch_add(1);
        SOCKSHIM_CRASH_POINT();
        if (futex_wake(word, 1) > 0) return true; // there may be more of them: the flag stays
    }
    wq.waking.store(self_proc);
    wq.flags.fetch_and(~flag);
    SOCKSHIM_CRASH_POINT();
    word.fetch_add(1);
    SOCKSHIM_CRASH_POINT();
    const int woken = futex_wake(word, everybody);
    if (SOCKSHIM_UNLIKELY(woken < 0)) { // forbidden (seccomp.h)
        wq.flags.fetch_or(WQ_ASKED);
        timer_kick_wakes();
    }
    wq.waking.store(0);
    return woken != 0;
}

wait_entry* entry_at(u32 reference) {
    return reference ? slab_at<wait_entry>(reference - 1) : nullptr;
}

// Whom to wake once the lock is let go (ringing a doorbell takes a microsecond or two) and every set is
// marked.
struct wake_targets {
    static constexpr u32 room = 8;
    u32 threads = 0, sets = 0;
    handle<waiter> thread[room];
    handle<eventpoll> set[room];

    void add(handle<waiter> h) {
        if (threads == room) return waiter_ring(h);
        thread[threads++] = h;
    }
    void add(handle<eventpoll> h) {
        for (u32 i = 0; i < sets; ++i) {
            if (set[i] == h) return;
        }
        if (sets == room) return eventpoll_wake(h);
        set[sets++] = h;
    }
    void wake() const {
        for (u32 i = 0; i < threads; ++i) waiter_ring(thread[i]);
        for (u32 i = 0; i < sets; ++i) eventpoll_wake(set[i]);
    }
};

// Linux: __wake_up_common with ep_poll_callback and pollwake. Of the exclusive entries (EPOLLEXCLUSIVE;
// threads in epoll_wait) those up to the first that has somebody to wake, unless the state changed.
void wake_list(wait_queue& wq, u32 mask, bool all_exclusive, bool satisfied) {
    wake_targets targets;
    wq.lock.lock_plain();
    u32 bound = cells_committed(REGION_WAIT_ENTRY);
    for (u32 at = wq.head.load(); at && bound; --bound) {
        wait_entry* const e = entry_at(at);
        if (!e) break;
        at = e->next.load();
        const u32 events = e->events.load();
        if (!(events & mask)) continue;
        const bool exclusive = events & EPOLLEXCLUSIVE;
        if (exclusive && satisfied) continue;
        bool attended = false;
        if (e->target_kind == WAIT_EVENTPOLL) {
            if (!(events & ~ep_private_bits)) continue; // EPOLLONESHOT has disabled it
            const handle<eventpoll> set = handle<eventpoll>::from_raw(e->target);
            const ep_marked marked = eventpoll_mark(set, e->slot);
            if (marked.listening) targets.add(set);
            attended = marked.attended;
        } else if (e->target_kind == WAIT_THREAD) {
            // One who was rung for an earlier event and is on his way does not count: this one is the
            // next sleeper's.
            const handle<waiter> h = handle<waiter>::from_raw(e->target);
            attended = waiter_asleep(h);
            if (attended) targets.add(h);
        }
        if (exclusive && attended && !all_exclusive) satisfied = true;
    }
    wq.lock.unlock();
    targets.wake();
}

// Linux: send_sigio's table. Which of the POLL_ codes tells what has happened.
struct sigio_reason {
    u32 mask;
    int code;
    u32 band;
};
constexpr sigio_reason sigio_reasons[] = {
    {EPOLLIN | EPOLLRDNORM, POLL_IN, EPOLLIN | EPOLLRDNORM},
    {EPOLLERR, POLL_ERR, EPOLLERR},
    {EPOLLOUT | EPOLLWRNORM, POLL_OUT, EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND},
    {EPOLLPRI, POLL_PRI, EPOLLPRI | EPOLLRDBAND},
    {EPOLLHUP, POLL_HUP, EPOLLHUP | EPOLLERR},
};

bool thread_blocks(int sig) {
    u64 blocked = this_thread.deferred_mask;
    if (!this_thread.deferred) {
        raw_syscall(SYS_rt_sigprocmask, SIG_BLOCK, 0, ptr_arg(&blocked), sizeof blocked);
    }
    return blocked & 1ULL << (sig - 1);
}

// A siginfo like the kernel's own may only be sent to oneself: of a process that owns the socket this
// thread gets the signal, if it wants any. To others it comes as by kill.
void signal_owner(const socket& s, siginfo_t& info) {
    const long pid = raw_syscall(SYS_getpid), tid = raw_syscall(SYS_gettid);
    const int sig = info.si_signo;
    const bool one_thread = s.f_owner_type == F_OWNER_TID;
    const bool mine = one_thread ? s.f_owner == tid : s.f_owner == pid && !thread_blocks(sig);
    if (mine && raw_syscall(SYS_rt_tgsigqueueinfo, pid, tid, sig, ptr_arg(&info)) == 0) return;
    raw_syscall(one_thread ? SYS_tkill : SYS_kill, s.f_owner, sig);
}

// Linux: kill_fasync, send_sigio.
void wake_async(const wait_queue& wq, u32 mask) {
    const sock* sk = slab_at<sock>(cell_index_of(REGION_SOCK, &wq));
    const socket* s = sk ? slab_get(sk->sk_socket) : nullptr;
    if (!s || !s->f_owner) return;
    for (const sigio_reason& why : sigio_reasons) {
        if (!(mask & why.mask)) continue;
        // Urgent data have sent SIGURG already.
        if (why.code == POLL_PRI && !s->f_owner_sig) return;
        siginfo_t info{};
        info.si_signo = s->f_owner_sig ? s->f_owner_sig : SIGIO;
        info.si_code = SI_KERNEL;
        if (s->f_owner_sig) {
            info.si_code = why.code;
            info.si_band = static_cast<long>(why.band);
            info.si_fd = s->f_async_fd;
        }
        if (info.si_signo >= 1 && info.si_signo <= 64) signal_owner(*s, info);
        return;
    }
}

} // namespace

void sock_send_sigurg(const socket& sock) {
    if (!sock.f_owner) return;
    siginfo_t info{};
    info.si_signo = SIGURG;
    info.si_code = SI_KERNEL;
    signal_owner(sock, info);
}

static void wake_waiters(wait_queue& wq, u32 flags, u32 mask, bool wake_all) {
    bool satisfied = false;
    if ((flags & WQ_RX_SLEEP) && (mask & (in_bits | state_bits))) {
        satisfied = wake_sleepers(wq, WQ_RX_SLEEP, wq.rx_seq, wake_all);
    }
    if ((flags & WQ_TX_SLEEP) && (mask & (out_bits | state_bits))) {
        wake_sleepers(wq, WQ_TX_SLEEP, wq.tx_seq, wake_all);
    }
    if (flags & WQ_LIST) {
        wake_list(wq, mask, wake_all && (mask & state_bits), satisfied && !wake_all);
    }
}

// No handler of the program's in between, which might leave by longjmp.
void wake_up_slow(wait_queue& wq, u32 mask, bool wake_all) {
    critical_enter();
    const u32 flags = wq.flags.load();
    if (mask == 0) mask = ~ep_private_bits;
    wake_waiters(wq, flags, mask, wake_all);
    if (SOCKSHIM_UNLIKELY(flags & WQ_ASYNC)) wake_async(wq, mask);
    critical_leave();
}

void wake_quietly(wait_queue& wq) {
    full_fence();
    critical_enter();
    wake_waiters(wq, wq.flags.load(), ~ep_private_bits, true);
    critical_leave();
}

// Flags that are set are believed, and so is the mark of one who died between clearing and waking.
static void wake_asked(wait_queue& wq) {
    if (!(wq.flags.load() & WQ_ASKED)) return;
    wq.flags.fetch_and(~WQ_ASKED);
    futex_wake(wq.rx_seq, everybody);
    futex_wake(wq.tx_seq, everybody);
}

void wait_queues_wake_asked() {
    for (u32 i = 0, n = cells_committed(REGION_EVENTPOLL); i < n; ++i) {
        if (eventpoll* const ep = slab_get(slab_handle_at<eventpoll>(i))) wake_asked(ep->wq);
    }
    for (u32 i = 0, n = cells_committed(REGION_SOCK); i < n; ++i) {
        if (sock* const sk = slab_get(slab_handle_at<sock>(i))) wake_asked(sk->sk_wq);
    }
}

void wait_queue_process_died(wait_queue& wq, proc_id dead) {
    const bool mid_wake = wq.waking.load() == dead;
    if (!mid_wake && !(wq.flags.load() & (WQ_RX_SLEEP | WQ_TX_SLEEP))) return;
    wq.flags.fetch_and(~(WQ_RX_SLEEP | WQ_TX_SLEEP));
    wq.rx_seq.fetch_add(1);
    wq.tx_seq.fetch_add(1);
    futex_wake(wq.rx_seq, everybody);
    futex_wake(wq.tx_seq, everybody);
    if (mid_wake) wq.waking.store(0);
}

wait_queue* wait_source(u8 kind, u64 raw) {
    if (kind == WAIT_SOCK) {
        sock* sk = slab_get(handle<sock>::from_raw(raw));
        return sk ? &sk->sk_wq : nullptr;
    }
    if (kind == WAIT_EVENTPOLL) {
        eventpoll* ep = slab_get(handle<eventpoll>::from_raw(raw));
        return ep ? &ep->wq : nullptr;
    }
    return nullptr;
}

// The flag first: an entry that is in the list without it would be overlooked by producers.
void wait_link(wait_queue& wq, wait_entry& e) {
    if (!(wq.flags.load() & WQ_LIST)) wq.flags.fetch_or(WQ_LIST);
    e.next.store(wq.head.load());
    SOCKSHIM_CRASH_POINT();
    wq.head.store(cell_index_of(REGION_WAIT_ENTRY, &e) + 1);
    full_fence(); // before the caller's look at the source
    SOCKSHIM_CRASH_POINT();
}

bool wait_unlink(wait_queue& wq, const wait_entry& e) {
    const u32 wanted = cell_index_of(REGION_WAIT_ENTRY, &e) + 1;
    u32 bound = cells_committed(REGION_WAIT_ENTRY);
    for (a32* link = &wq.head; bound; --bound) {
        const u32 at = link->load();
        if (at == wanted) {
            link->store(e.next.load());
            SOCKSHIM_CRASH_POINT();
            if (!wq.head.load()) wq.flags.fetch_and(~WQ_LIST);
            return true;
        }
        wait_entry* const passed = entry_at(at);
        if (!passed) return false;
        link = &passed->next;
    }
    return false;
}

void wait_entry_remove(handle<wait_entry> h) {
    wait_entry* e = slab_get(h);
    if (!e) return;
    wait_queue* wq = wait_source(e->source_kind, e->source);
    if (!wq) { // the source went first, and its list with it
        slab_free(h);
        return;
    }
    wq->lock.lock_plain();
    if (slab_get(h)) {
        wait_unlink(*wq, *e);
        slab_free(h);
    }
    wq->lock.unlock();
}

} // namespace sockshim
