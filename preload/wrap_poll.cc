// Readiness. A set in which every descriptor is libc's goes to libc; looking costs about a nanosecond
// per descriptor, and nothing at all in a process that has no socket of ours.
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/single_threaded.h>

#include "core/sync/uaccess.h"
#include "preload/wrap.h"

using namespace sockshim;

namespace {

// The sets are the program's memory and may be bad; then libc's call says so.
[[gnu::noinline]] bool scan_pollfds(const pollfd* fds, nfds_t n) {
    pollfd piece[32];
    n = min_of<nfds_t>(n, fd_table_size);
    for (nfds_t at = 0; at < n;) {
        const nfds_t count = min_of<nfds_t>(n - at, 32);
        if (copy_from_user(piece, fds + at, count * sizeof(pollfd)) != 0) return false;
        for (nfds_t i = 0; i < count; ++i) {
            if (!fd_is_libc(piece[i].fd)) return true;
        }
        at += count;
    }
    return false;
}

constexpr int bits_per_word = 8 * sizeof(unsigned long);
constexpr int words_at_once = 16; // an fd_set of the usual size

// Adds `count` words of the program's set to `sum`; false: bad memory.
bool gather(unsigned long* sum, const fd_set* set, int first, int count) {
    unsigned long piece[words_at_once];
    if (!set) return true;
    const auto* words = reinterpret_cast<const unsigned long*>(set) + first;
    const auto bytes = static_cast<std::size_t>(count) * sizeof(unsigned long);
    if (copy_from_user(piece, words, bytes) != 0) return false;
    for (int i = 0; i < count; ++i) sum[i] |= piece[i];
    return true;
}

[[gnu::noinline]] bool scan_sets(int n, const fd_set* r, const fd_set* w, const fd_set* x) {
    if (n <= 0) return false;
    n = min_of(n, static_cast<int>(fd_table_size));
    const int words = (n + bits_per_word - 1) / bits_per_word;
    for (int first = 0; first < words; first += words_at_once) {
        unsigned long sum[words_at_once] = {};
        const int count = min_of(words - first, words_at_once);
        if (!gather(sum, r, first, count) || !gather(sum, w, first, count) ||
            !gather(sum, x, first, count)) {
            return false;
        }
        for (int i = 0; i < count; ++i) {
            for (unsigned long bits = sum[i]; bits; bits &= bits - 1) {
                const int fd = (first + i) * bits_per_word + __builtin_ctzl(bits);
                if (fd < n && !fd_is_libc(fd)) return true;
            }
        }
    }
    return false;
}

inline bool scanning_is_due() {
    return (process_may_have_sockets() || trace_enabled) && !in_vfork_child();
}

bool poll_asks_us(const pollfd* fds, nfds_t n) { return scanning_is_due() && scan_pollfds(fds, n); }

bool select_asks_us(int n, const fd_set* r, const fd_set* w, const fd_set* x) {
    return scanning_is_due() && scan_sets(n, r, w, x);
}

// Milliseconds as poll and epoll take them; null for ever.
const timespec* from_milliseconds(int ms, timespec& room) {
    if (ms < 0) return nullptr;
    room = {ms / 1000, (ms % 1000) * 1000000L};
    return &room;
}

template <class Ours, class Libc>
[[gnu::always_inline]] inline int ask_waiting(Ours ours, Libc libc) {
    return ask([&] { return cancellable(ours); }, libc);
}

// The remaining time is written back, as Linux's select does even when it fails with EINTR.
long select_ours(int n, fd_set* r, fd_set* w, fd_set* x, timeval* timeout) {
    if (!timeout) return sys_select(n, r, w, x, nullptr, nullptr);
    timeval given;
    if (get_user(given, timeout) != 0) return -EFAULT;
    if (given.tv_sec < 0 || given.tv_usec < 0) return -EINVAL;
    timespec left = {given.tv_sec + given.tv_usec / 1000000, given.tv_usec % 1000000 * 1000};
    const long result = sys_select(n, r, w, x, &left, nullptr);
    if (result != SYS_NOT_OURS) {
        const timeval back = {left.tv_sec, left.tv_nsec / 1000};
        static_cast<void>(put_user(back, timeout)); // read-only memory: Linux does not mind
    }
    return result;
}

long pselect_ours(int n, fd_set* r, fd_set* w, fd_set* x, const timespec* timeout,
                  const sigset_t* mask) {
    timespec copy;
    if (timeout && get_user(copy, timeout) != 0) return -EFAULT;
    return sys_select(n, r, w, x, timeout ? &copy : nullptr, mask);
}

} // namespace

SOCKSHIM_WRAP(int, poll, (pollfd * fds, nfds_t n, int timeout)) {
    if (!poll_asks_us(fds, n)) return real::poll(fds, n, timeout);
    return ask_waiting(
        [=] {
            timespec room;
            return sys_poll(fds, n, from_milliseconds(timeout, room), nullptr);
        },
        [=] { return real::poll(fds, n, timeout); });
}
SOCKSHIM_WRAP_ALIAS(__poll, poll)

SOCKSHIM_WRAP(int, ppoll, (pollfd * fds, nfds_t n, const timespec* timeout, const sigset_t* mask)) {
    if (!poll_asks_us(fds, n)) return real::ppoll(fds, n, timeout, mask);
    return ask_waiting([=] { return sys_poll(fds, n, timeout, mask); },
                       [=] { return real::ppoll(fds, n, timeout, mask); });
}

SOCKSHIM_WRAP(int, __poll_chk, (pollfd * fds, nfds_t n, int timeout, size_t room)) {
    if (room / sizeof(pollfd) < n) return real::__poll_chk(fds, n, timeout, room);
    return wrap_poll(fds, n, timeout);
}

SOCKSHIM_WRAP(int, __ppoll_chk,
              (pollfd * fds, nfds_t n, const timespec* timeout, const sigset_t* mask,
               size_t room)) {
    if (room / sizeof(pollfd) < n) return real::__ppoll_chk(fds, n, timeout, mask, room);
    return wrap_ppoll(fds, n, timeout, mask);
}

SOCKSHIM_WRAP(int, select, (int n, fd_set* r, fd_set* w, fd_set* x, timeval* timeout)) {
    if (!select_asks_us(n, r, w, x)) return real::select(n, r, w, x, timeout);
    return ask_waiting([=] { return select_ours(n, r, w, x, timeout); },
                       [=] { return real::select(n, r, w, x, timeout); });
}
SOCKSHIM_WRAP_ALIAS(__select, select)

SOCKSHIM_WRAP(int, pselect,
              (int n, fd_set* r, fd_set* w, fd_set* x, const timespec* timeout,
               const sigset_t* mask)) {
    if (!select_asks_us(n, r, w, x)) return real::pselect(n, r, w, x, timeout, mask);
    return ask_waiting([=] { return pselect_ours(n, r, w, x, timeout, mask); },
                       [=] { return real::pselect(n, r, w, x, timeout, mask); });
}

SOCKSHIM_WRAP(int, epoll_create, (int size)) {
    return ask([=] { return size <= 0 ? -EINVAL : sys_epoll_create(0); },
               [=] { return made(real::epoll_create(size)); });
}

SOCKSHIM_WRAP(int, epoll_create1, (int flags)) {
    return ask([=] { return sys_epoll_create(flags); },
               [=] { return made(real::epoll_create1(flags)); });
}

SOCKSHIM_WRAP(int, epoll_ctl, (int epfd, int op, int fd, epoll_event* event)) {
    return route(
        epfd, fd, [=] { return sys_epoll_ctl(epfd, op, fd, event); },
        [=] { return real::epoll_ctl(epfd, op, fd, event); });
}

// A set of libc's is waited for by libc, unless another thread could put a socket of ours in meanwhile.
namespace {

template <class Ours, class Libc>
[[gnu::always_inline]] inline int wait_for_set(int epfd, bool sleeps, Ours ours, Libc libc) {
    if (SOCKSHIM_LIKELY(fd_is_libc(epfd) && (!sleeps || __libc_single_threaded))) return libc();
    return ask_waiting(ours, libc);
}

} // namespace

SOCKSHIM_WRAP(int, epoll_wait, (int epfd, epoll_event* events, int max, int timeout)) {
    return wait_for_set(
        epfd, timeout != 0,
        [=] {
            timespec room;
            return sys_epoll_wait(epfd, events, max, from_milliseconds(timeout, room), nullptr);
        },
        [=] { return real::epoll_wait(epfd, events, max, timeout); });
}

SOCKSHIM_WRAP(int, epoll_pwait,
              (int epfd, epoll_event* events, int max, int timeout, const sigset_t* mask)) {
    return wait_for_set(
        epfd, timeout != 0,
        [=] {
            timespec room;
            return sys_epoll_wait(epfd, events, max, from_milliseconds(timeout, room), mask);
        },
        [=] { return real::epoll_pwait(epfd, events, max, timeout, mask); });
}

SOCKSHIM_WRAP(int, epoll_pwait2,
              (int epfd, epoll_event* events, int max, const timespec* timeout,
               const sigset_t* mask)) {
    return wait_for_set(
        epfd, true, [=] { return sys_epoll_wait(epfd, events, max, timeout, mask); },
        [=] { return real::epoll_pwait2(epfd, events, max, timeout, mask); });
}
