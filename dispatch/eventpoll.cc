// epoll_create, epoll_ctl, epoll_wait (Linux: fs/eventpoll.c's system calls).
//
// The epfd is a real kernel epoll set: descriptors of the kernel's are registered there and nowhere
// else; sockets of ours in core/net/eventpoll.h's half and nowhere else; an epoll set in both, so that
// the kernel's checks for loops and depth hold for both. A wait asks both and sleeps on whichever is in
// use: on a futex while the kernel's half is empty, else in one ppoll of the epfd and a doorbell. While our
// half is empty, the kernel's epoll_wait is the whole wait, and whoever puts the first socket of ours in
// kicks the sleepers out of it.
#include <cerrno>
#include <climits>

#include "core/net/handover.h"
#include "core/sync/uaccess.h"
#include "dispatch/epoll_kernel.h"
#include "dispatch/readiness.h"

namespace sockshim {

namespace {

// Linux: EPOLLEXCLUSIVE_OK_BITS.
constexpr u32 exclusive_ok_bits =
    EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE;
constexpr timespec at_once{0, 0};
constexpr int max_events = INT_MAX / static_cast<int>(sizeof(epoll_event));

// While sockets of ours are busy the kernel's half is asked no more often than this (some 20 to 50 us).
constexpr u64 kernel_period_ticks = 100000;
// Steps of waiting awake between two such questions when ours are quiet.
constexpr u32 kernel_every_steps = 16;

// --- epoll_ctl ---------------------------------------------------------------------------------------

// The kernel's half. Counted before it is there, so that the count is never too low.
long ctl_kernel(eventpoll& ep, int epfd, int op, int fd, epoll_event* user) {
    trace_handed_over();
    if (op == EPOLL_CTL_ADD) {
        const bool first = ep.kernel_items.fetch_add(1) == 0;
        const long r = kernel_epoll_ctl(epfd, op, fd, user);
        if (r < 0) {
            ep.kernel_items.fetch_sub(1);
        } else if (first) {
            eventpoll_wake_all(ep); // who sleeps on the futex must sleep in the kernel now
        }
        return r;
    }
    const long r = kernel_epoll_ctl(epfd, op, fd, user);
    if (r == 0 && op == EPOLL_CTL_DEL) {
        u32 n = ep.kernel_items.load();
        while (n && !ep.kernel_items.cas(n, n - 1)) {
        }
    }
    return r;
}

long ctl_ours(int epfd, handle<eventpoll> set, int op, ep_source source, int fd,
              const epoll_event& ev) {
    switch (op) {
    case EPOLL_CTL_ADD: return epoll_insert(epfd, set, source, fd, ev.events, ev.data.u64);
    case EPOLL_CTL_MOD: return ep_modify(set, source, fd, ev.events, ev.data.u64);
    case EPOLL_CTL_DEL: return ep_remove(set, source, fd);
    default: return -EINVAL;
    }
}

// A set inside a set: the kernel first, whose checks (loops, depth, EPOLLEXCLUSIVE, doubles) hold for
// both halves; then our mirror of it.
long ctl_nested(int epfd, int op, int fd, epoll_event* user, const epoll_event& ev) {
    const handle<eventpoll> inner = eventpoll_of_fd(fd);
    if (!inner) return SYS_NOT_OURS;
    if (op != EPOLL_CTL_ADD && fd_kind_of(epfd) != FD_EPOLL) return SYS_NOT_OURS;
    handle<eventpoll> set = eventpoll_of_fd(epfd);
    long r =
        set ? ctl_kernel(*slab_get(set), epfd, op, fd, user) : kernel_epoll_ctl(epfd, op, fd, user);
    if (r < 0) return r;
    if (!set) set = epoll_convert(epfd);
    r = set ? ctl_ours(epfd, set, op, ep_source::of(inner), fd, ev) : -ENOMEM;
    if (r == 0 || op != EPOLL_CTL_ADD) return 0;
    if (eventpoll* ep = slab_get(set)) {
        ctl_kernel(*ep, epfd, EPOLL_CTL_DEL, fd, nullptr);
    } else {
        kernel_epoll_ctl(epfd, EPOLL_CTL_DEL, fd, nullptr);
    }
    return r;
}

long epoll_ctl_call(int epfd, int op, int fd, epoll_event* user) {
    const fd_kind outer = fd_kind_of(epfd);
    const fd_kind inner = fd_kind_of(fd);
    if (outer == FD_INTERNAL || inner == FD_INTERNAL) return -EBADF;
    if (inner == FD_LIBC) {
        // A carrier as epfd: the kernel's answer to that is Linux's to a socket.
        const handle<eventpoll> set =
            outer == FD_EPOLL ? eventpoll_of_fd(epfd) : handle<eventpoll>{};
        eventpoll* const ep = slab_get(set);
        if (ep) return ctl_kernel(*ep, epfd, op, fd, user);
        if (fd_is_libc_traced(fd) && outer == FD_LIBC && static_cast<u32>(epfd) < fd_table_size) {
            u32 expected = FD_LIBC; // a set with a socket in it is recorded from here on
            fd_table[epfd].cas(expected, FD_LIBC_TRACED);
        }
        if (fd_is_libc_traced(epfd)) trace_handed_over();
        return SYS_NOT_OURS;
    }
    epoll_event ev{};
    if (op != EPOLL_CTL_DEL && get_user(ev, user)) return -EFAULT;
    if (outer == FD_SOCKET) return -EINVAL;
    if (inner == FD_EPOLL) return ctl_nested(epfd, op, fd, user, ev);
    socket_ref ref;
    if (const int r = sockfd_lookup_light(fd, ref)) return r;
    const handle<sock> sk = ref.sock->sk;
    long r = 0;
    handle<eventpoll> set{};
    if (outer == FD_EPOLL) {
        set = eventpoll_of_fd(epfd);
    } else {
        r = check_epoll(epfd);
    }
    // Linux: do_epoll_ctl's order. EPOLLWAKEUP needs a capability that nobody here has.
    ev.events &= ~static_cast<u32>(EPOLLWAKEUP);
    if (r == 0 && op != EPOLL_CTL_DEL && (ev.events & EPOLLEXCLUSIVE)) {
        if (op == EPOLL_CTL_MOD) r = -EINVAL;
        if (op == EPOLL_CTL_ADD && (ev.events & ~exclusive_ok_bits)) r = -EINVAL;
    }
    if (r == 0 && !set) {
        if (op == EPOLL_CTL_ADD) {
            set = epoll_convert(epfd);
            if (!set) r = -ENOMEM;
        } else {
            r = op == EPOLL_CTL_MOD || op == EPOLL_CTL_DEL ? -ENOENT : -EINVAL;
        }
    }
    if (r == 0) r = ctl_ours(epfd, set, op, ep_source::of(sk), fd, ev);
    fput_light(ref);
    return r;
}

// --- epoll_wait --------------------------------------------------------------------------------------

// Linux: access_ok, which only knows the two halves of the address space apart.
bool may_be_user(const void* p, u64 bytes) {
    const u64 at = reinterpret_cast<u64>(p);
    return at + bytes >= at && static_cast<i64>(at + bytes) >= 0;
}

// The kernel's half, straight into the program's array. What an inner set reported through our half in
// this same call is not reported twice.
long ask_kernel(eventpoll& ep, const epoll_ref& ref, epoll_event* user, int max,
                const nested_reported& nested) {
    const int epfd = epoll_kernel_fd(ref);
    long n;
    if (SOCKSHIM_LIKELY(!nested.count)) {
        n = kernel_epoll_wait(ep, epfd, user, max, &at_once, nullptr);
    } else {
        constexpr int room = 32;
        epoll_event got[room];
        n = kernel_epoll_wait(ep, epfd, got, min_of(max, room), &at_once, nullptr);
        long kept = 0;
        for (long i = 0; i < n; ++i) {
            bool doubled = false;
            for (u32 j = 0; j < nested.count; ++j) doubled |= got[i].data.u64 == nested.data[j];
            if (!doubled) got[kept++] = got[i];
        }
        if (n > 0) {
            n = kept && copy_to_user(user, got, static_cast<u64>(kept) * sizeof got[0]) ? -EFAULT
                                                                                        : kept;
        }
    }
    // Closed just now: nothing yet, and the next look finds what keeps the kernel's half.
    if (n == -EAGAIN || (n == -EBADF && fd_table[ref.fd].load() != ref.entry)) n = 0;
    // A busy half is asked again by the next call.
    ep.kernel_asked.store(n > 0 ? 0 : cycle_ticks());
    return n;
}

// EPOLLONESHOT on an inner set that our half has reported: the kernel's half has fired as well.
void disarm_nested(const epoll_ref& ref, const nested_reported& nested) {
    for (u32 i = 0; i < nested.count; ++i) {
        if (!(nested.events[i] & EPOLLONESHOT)) continue;
        epoll_event none{};
        none.events = nested.events[i] & ep_private_bits;
        none.data.u64 = nested.data[i];
        kernel_epoll_ctl(epoll_kernel_fd(ref), EPOLL_CTL_MOD, nested.fds[i], &none);
    }
}

// Linux: ep_try_send_events, for both halves. Neither starves the other: while ours are busy the kernel's
// is asked by time, and then has half of the room, or takes turns where there is room for one. `asks_later`:
// who is going to wait asks the kernel by that, at the latest when he sleeps.
int send_events(eventpoll& ep, const epoll_ref& ref, epoll_event* user, int max, bool asks_later) {
    nested_reported nested;
    if (!ep.kernel_items.load_relaxed()) return ep_send_events(ep, user, max, nested);
    if (ep_events_available(ep) && cycle_ticks() - ep.kernel_asked.load() < kernel_period_ticks) {
        const int n = ep_send_events(ep, user, max, nested);
        if (nested.count) disarm_nested(ref, nested);
        if (n) return n;
    }
    int n = 0;
    const bool kernels_turn = max == 1 && ep.turn.load();
    if (kernels_turn) {
        const long k = ask_kernel(ep, ref, user, 1, nested);
        if (k) {
            ep.turn.store(0);
            return static_cast<int>(k);
        }
    }
    if (ep_events_available(ep)) {
        n = ep_send_events(ep, user, max - max / 2, nested);
        if (n && max == 1) ep.turn.store(1);
        if (nested.count) disarm_nested(ref, nested);
    }
    if (n < 0 || n == max || kernels_turn) return n;
    if (n == 0 && asks_later && ep.kernel_asked.load()) return 0;
    const long k = ask_kernel(ep, ref, user + n, max - n, nested);
    if (k < 0) return n ? n : static_cast<int>(k);
    return n + static_cast<int>(k);
}

// Descriptors that were closed went out of the kernel's half without a word. Asked now and then before a
// sleep, so that a set which is ours alone again sleeps on the futex.
void recount_kernel_items(eventpoll& ep, int epfd) {
    static constinit thread_local u32 sleeps = 0;
    if ((++sleeps & 255) != 0) return;
    u32 seen = ep.kernel_items.load();
    if (seen && !kernel_half_in_use(epfd)) ep.kernel_items.cas(seen, 0);
}

// One thread's sleeps in one epoll_wait.
class epoll_sleep {
public:
    epoll_sleep(eventpoll& ep, const epoll_ref& ref, i64 deadline_us, const sigset_t* mask,
                const signal_sample& signals)
        : ep_(ep), ref_(ref), deadline_us_(deadline_us), mask_(mask), signals_(signals) {}
    ~epoll_sleep() {
        if (entry_) wait_entry_remove(entry_);
    }
    epoll_sleep(const epoll_sleep&) = delete;
    epoll_sleep& operator=(const epoll_sleep&) = delete;

    // 0: look again; -EAGAIN: the deadline has come; -EINTR.
    int sleep() {
        if (ep_.kernel_items.load()) recount_kernel_items(ep_, epoll_kernel_fd(ref_));
        return ep_.kernel_items.load() || mask_ ? in_kernel() : on_futex();
    }
    u32 woken_us() const { return (waiter_ ? waiter_->rung_us : ep_.wq.woken_us).load_relaxed(); }

private:
    bool something_new() const { return ep_events_available(ep_) || slab_get(ref_.set) != &ep_; }

    int on_futex() {
        const sleeping_on declared(ep_.wq.rx_seq);
        const u32 seen = ep_.wq.rx_seq.load();
        ep_.wq.flags.fetch_or(WQ_RX_SLEEP);
        full_fence();
        if (something_new() || ep_.kernel_items.load()) return 0;
        if (signals_.any()) return -EINTR;
        return sleep_until(ep_.wq.rx_seq, seen, deadline_us_);
    }

    int in_kernel() {
        if (!waiter_ && !no_bell_) {
            if (waiter_.acquire(true) == 0) {
                entry_ = waiter_link(waiter_.cell(), WAIT_EVENTPOLL, ref_.set.raw(),
                                     EPOLLIN | EPOLLRDNORM | EPOLLEXCLUSIVE);
            }
            no_bell_ = !entry_;
        }
        pollfd p[2] = {{kernel_gone_ ? -1 : epoll_kernel_fd(ref_), POLLIN, 0}, {-1, POLLIN, 0}};
        if (!no_bell_) p[1].fd = waiter_.bell_fd();
        const bool rings = p[1].fd >= 0;
        if (rings) waiter_->state.exchange(WAITER_BELL);
        full_fence();
        int result = 0;
        if (!something_new()) result = signals_.any() ? -EINTR : ppoll(p);
        if (rings) {
            waiter_->state.store(WAITER_AWAKE);
            if (p[1].revents) waiter_ref::silence(p[1].fd);
        }
        return result;
    }

    int ppoll(pollfd* p) {
        timespec room;
        const timespec* left = time_left(deadline_us_, room);
        bool nap = false;
        if (p[1].fd < 0) {
            const timespec brief = {0, nap_us_ * 1000};
            nap = !left || left->tv_sec > 0 || left->tv_nsec > brief.tv_nsec;
            if (nap) room = brief, left = &room;
            nap_us_ = min_of(nap_us_ * 2, longest_nap_us);
        }
        const long r = raw_syscall(SYS_ppoll, ptr_arg(p), 2, ptr_arg(left), ptr_arg(mask_),
                                   kernel_sigset_bytes);
        if (r < 0) return r == -EINTR ? -EINTR : 0;
        // Closed, and nothing keeps the kernel's half.
        if (p[0].revents & POLLNVAL) kernel_gone_ = epoll_kernel_fd(ref_) == p[0].fd;
        ep_.kernel_asked.store(p[0].revents ? 0 : cycle_ticks());
        return r == 0 && !nap ? -EAGAIN : 0;
    }

    eventpoll& ep_;
    const epoll_ref& ref_;
    i64 deadline_us_;
    const sigset_t* mask_;
    const signal_sample& signals_;
    waiter_ref waiter_;
    handle<wait_entry> entry_{};
    bool no_bell_ = false;
    bool kernel_gone_ = false;
    i64 nap_us_ = first_nap_us;
};

// With nothing of ours in the set. False: there is now, and the rest of the wait is everybody's.
bool wait_in_kernel(eventpoll& ep, const epoll_ref& ref, epoll_event* user, int max,
                    const timespec* timeout, const sigset_t* mask, long& result) {
    ep.direct.fetch_add(1);
    bool done = false;
    if (!ep.items.load()) {
        result = kernel_epoll_wait(ep, epoll_kernel_fd(ref), user, max, timeout, mask);
        const bool closed = result == -EBADF && fd_table[ref.fd].load() != ref.entry;
        done = !closed && result != -EAGAIN && (result || !ep.items.load());
    }
    u32 n = ep.direct.load();
    while (n && !ep.direct.cas(n, n - 1)) {
    }
    return done;
}

// Linux: ep_poll.
long wait_for_events(eventpoll& ep, const epoll_ref& ref, epoll_event* user, int max,
                     i64 deadline_us, const sigset_t* mask) {
    const signal_sample signals;
    spin_wait patience(ep.wq.spin_score);
    epoll_sleep sleeper(ep, ref, deadline_us, mask, signals);
    const bool told = ep.exclusive.load_relaxed();
    if (told) ep.looking.store(1);
    u32 steps = 0;
    long n = 0;
    for (;;) {
        if (SOCKSHIM_UNLIKELY(slab_get(ref.set) != &ep)) {
            n = signals.any() ? -EINTR : -EBADF; // closed by a handler
            break;
        }
        int end = 0;
        bool ask = false;
        // With nothing of ours in it there is nothing to be quick for: the kernel wakes us.
        if (!ep.items.load_relaxed() || !patience.pause()) {
            if (told) ep.looking.store(0);
            end = sleeper.sleep();
        } else if (!ep_events_available(ep) && !signals.any()) {
            ask = ep.kernel_items.load_relaxed() && ++steps % kernel_every_steps == 0;
            if (!ask) continue;
        }
        // A handler that ran goes before an event: it may have made the event itself, and in Linux would
        // have run only after the call had ended.
        if (end == -EINTR || signals.any()) {
            n = -EINTR;
            eventpoll_pass_on(ep);
            break;
        }
        n = send_events(ep, ref, user, max, !ask && !end);
        if (n || end) break; // at the deadline, 0
    }
    if (told) ep.looking.store(0);
    patience.finish(n > 0, sleeper.woken_us());
    return n;
}

long epoll_wait_on(const epoll_ref& ref, epoll_event* user, int max, const timespec* timeout,
                   const sigset_t* umask) {
    eventpoll* const ep = slab_get(ref.set);
    if (!ep) return SYS_NOT_OURS;
    timespec ts{};
    if (timeout) {
        if (get_user(ts, timeout)) return -EFAULT;
        if (!timespec_valid(ts)) return -EINVAL;
    }
    // The kernel's set is 8 bytes long whatever the size of sigset_t.
    sigset_t mask{};
    if (umask && copy_from_user(&mask, umask, kernel_sigset_bytes)) return -EFAULT;
    if (max <= 0 || max > max_events) return -EINVAL;
    if (!may_be_user(user, static_cast<u64>(max) * sizeof(epoll_event))) return -EFAULT;
    wait_call_begins();
    const bool now = timeout && ts.tv_sec == 0 && ts.tv_nsec == 0;
    const i64 deadline_us = now ? 0 : deadline_after(timeout ? &ts : nullptr);
    if (!now && ep->known.load_relaxed() && !ep->items.load_relaxed()) {
        long result = 0;
        if (wait_in_kernel(*ep, ref, user, max, timeout ? &ts : nullptr, umask ? &mask : nullptr,
                           result)) {
            return result;
        }
    }
    const int n = send_events(*ep, ref, user, max, !now);
    if (n || now) return n;
    return wait_for_events(*ep, ref, user, max, deadline_us, umask ? &mask : nullptr);
}

long epoll_wait_call(int epfd, epoll_event* user, int max, const timespec* timeout,
                     const sigset_t* umask) {
    fd_kind kind = fd_kind_of(epfd);
    if (kind == FD_LIBC && epoll_convert_before_sleep(epfd)) kind = FD_EPOLL;
    if (kind != FD_EPOLL) {
        if (fd_is_libc_traced(epfd)) trace_handed_over();
        return kind == FD_INTERNAL ? -EBADF : SYS_NOT_OURS;
    }
    const epoll_ref ref = epoll_lookup_light(epfd);
    const long r = epoll_wait_on(ref, user, max, timeout, umask);
    epoll_put_light(ref);
    return r;
}

// Moves one registration of a socket that has become the kernel's.
struct move_request {
    handle<sock> sk;
    int fd;
};

void move_registration(int epfd, handle<eventpoll> set, const move_request& m) {
    u32 events = 0;
    epoll_event ev{};
    u64 data = 0;
    if (!ep_find(set, ep_source::of(m.sk), m.fd, events, data)) return;
    ev.events = events;
    ev.data.u64 = data;
    static_cast<void>(ep_remove(set, ep_source::of(m.sk), m.fd));
    if (eventpoll* ep = slab_get(set)) ctl_kernel(*ep, epfd, EPOLL_CTL_ADD, m.fd, &ev);
}

long epoll_create_call(int flags) {
    const long fd = kernel_epoll_create(flags);
    if (fd < 0) return fd;
    const handle<eventpoll> set = eventpoll_create();
    if (eventpoll* const ep = slab_get(set)) {
        ep->known.store(1);
        fd_install_epoll(static_cast<int>(fd), set.index);
    } else {
        fd_installed(static_cast<int>(fd)); // full arena: enough for the kernel's descriptors
    }
    return fd;
}

} // namespace

void eventpoll_handed_over(handle<sock> h, int fd) {
    // The carrier is gone from the number but the sock is there still, so its registrations are. They
    // are looked for in the sets that this process has: a set has the same kernel half in every process.
    move_request request{h, fd};
    fd_table_for_each(
        [](int epfd, u32 entry, void* p) {
            if (fd_entry_kind(entry) != FD_EPOLL) return;
            const handle<eventpoll> set = slab_handle_at<eventpoll>(fd_entry_index(entry));
            if (set) move_registration(epfd, set, *static_cast<const move_request*>(p));
        },
        &request);
}

long sys_epoll_create(int flags) {
    // Before there is a network a set is the kernel's, and gets its half of ours with the first socket.
    if (!arena_attached()) {
        const long fd = kernel_epoll_create(flags);
        if (fd >= 0) fd_installed(static_cast<int>(fd));
        return fd;
    }
    return traced(TRACE_EPOLL_CREATE, epoll_create_call, flags);
}

long sys_epoll_ctl(int epfd, int op, int fd, epoll_event* ev) {
    if (fd_is_libc(epfd) && fd_is_libc(fd)) return SYS_NOT_OURS;
    return traced(TRACE_EPOLL_CTL, epoll_ctl_call, epfd, op, fd, ev);
}

long sys_epoll_wait(int epfd, epoll_event* events, int maxevents, const timespec* timeout,
                    const sigset_t* mask) {
    return traced(TRACE_EPOLL_WAIT, epoll_wait_call, epfd, events, maxevents, timeout, mask);
}

} // namespace sockshim
