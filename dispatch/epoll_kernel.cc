// See epoll_kernel.h. All of it may run while other threads are in epoll_wait on the same set.
#include "dispatch/epoll_kernel.h"

#include <cerrno>
#include <climits>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/single_threaded.h>

#include "core/base/crash_point.h"
#include "core/net/handover.h"
#include "core/sync/uaccess.h"
#include "dispatch/process.h"

namespace sockshim {

long kernel_epoll_ctl(int epfd, int op, int fd, const epoll_event* ev) {
    return raw_syscall(SYS_epoll_ctl, epfd, op, fd, ptr_arg(ev));
}

// --- the kernel's half, and kicks out of it ----------------------------------------------------------------

namespace {

// What a kick is told by in an array of events.
constexpr u64 kick_data = 0x736f636b7368696d;
constexpr u32 kick_events = EPOLLOUT;

// Takes what kicks have left in the program's array out of it: what remains, or -EAGAIN.
long without_kicks(epoll_event* user, long n) {
    long kept = 0;
    for (long i = 0; i < n; ++i) {
        epoll_event e;
        if (get_user(e, user + i)) return -EFAULT;
        if (e.data.u64 == kick_data && e.events == kick_events) continue;
        if (kept != i && put_user(e, user + kept)) return -EFAULT;
        ++kept;
    }
    return kept ? kept : -EAGAIN;
}

// Our half is not empty any more: who waits in the kernel's half alone shall look again. The kernel wakes one
// sleeper after the other while something is ready. A wait that was left by a jump or by a death is counted
// still, and costs its patience here, once.
void kick_direct_sleepers(eventpoll& ep, int epfd) {
    constexpr u64 patience_us = 1000000;
    if (!ep.direct.load()) return;
    const long fd = raw_syscall(SYS_eventfd2, 0, EFD_CLOEXEC);
    if (fd < 0) return;
    epoll_event ev{};
    ev.events = kick_events;
    ev.data.u64 = kick_data;
    ep.kicks_begun.fetch_add(1);
    if (kernel_epoll_ctl(epfd, EPOLL_CTL_ADD, static_cast<int>(fd), &ev) == 0) {
        SOCKSHIM_CRASH_POINT();
        const u64 begun = monotonic_us();
        while (ep.direct.load() && monotonic_us() - begun < patience_us) {
            raw_syscall(SYS_sched_yield);
        }
        ep.direct.store(0);
        SOCKSHIM_CRASH_POINT();
        kernel_epoll_ctl(epfd, EPOLL_CTL_DEL, static_cast<int>(fd), nullptr);
    }
    ep.kicks_ended.fetch_add(1);
    raw_syscall(SYS_close, fd);
}

} // namespace

// epoll_pwait, in milliseconds where that says it all: filters of programs (seccomp.h) know it better.
long kernel_epoll_wait(eventpoll& ep, int epfd, epoll_event* events, int max,
                       const timespec* timeout, const sigset_t* mask) {
    const u32 ended = ep.kicks_ended.load();
    i64 ms = -1;
    bool exact = false;
    if (timeout) {
        ms = timeout->tv_sec < INT_MAX / 1000 ? timeout->tv_sec * 1000 + timeout->tv_nsec / 1000000
                                              : -1;
        exact = ms < 0 || timeout->tv_nsec % 1000000;
    }
    const long n = exact ? raw_syscall(SYS_epoll_pwait2, epfd, ptr_arg(events), max,
                                       ptr_arg(timeout), ptr_arg(mask), kernel_sigset_bytes)
                         : raw_syscall(SYS_epoll_pwait, epfd, ptr_arg(events), max, ms,
                                       ptr_arg(mask), kernel_sigset_bytes);
    return n > 0 && SOCKSHIM_UNLIKELY(ep.kicks_begun.load() != ended) ? without_kicks(events, n)
                                                                      : n;
}

int epoll_insert(int epfd, handle<eventpoll> set, ep_source source, int fd, u32 events, u64 data) {
    const int r = ep_insert(set, source, fd, events, data);
    eventpoll* const ep = r == 0 ? slab_get(set) : nullptr;
    if (ep) kick_direct_sleepers(*ep, epfd);
    return r;
}

// --- sets that were made before this process had sockets of ours -----------------------------------

namespace {

// /proc/self/fdinfo/<fd>, of which the registrations ("tfd: ...") are what matters.
long open_fdinfo(int fd) {
    char path[40] = "/proc/self/fdinfo/";
    char digits[12];
    int n = 0;
    for (u32 v = static_cast<u32>(fd); v || !n; v /= 10)
        digits[n++] = static_cast<char>('0' + v % 10);
    char* at = path + 18;
    while (n) *at++ = digits[--n];
    *at = 0;
    return raw_syscall(SYS_openat, AT_FDCWD, ptr_arg(path), O_RDONLY | O_CLOEXEC, 0);
}

// Its beginning. 0 or more: bytes.
long read_fdinfo(int fd, char* text, long room) {
    const long info = open_fdinfo(fd);
    if (info < 0) return info;
    long got = 0;
    while (got < room - 1) {
        const long r = raw_syscall(SYS_read, info, ptr_arg(text + got), room - 1 - got);
        if (r <= 0) break;
        got += r;
    }
    raw_syscall(SYS_close, info);
    text[got] = 0;
    return got;
}

const char* find_text(const char* in, const char* what) {
    for (; *in; ++in) {
        const char* a = in;
        const char* b = what;
        while (*b && *a == *b) ++a, ++b;
        if (!*b) return in;
    }
    return nullptr;
}

// How many, so that one that is taken out later does not seem to be the last. Where /proc cannot tell:
// more than can be taken out.
u32 kernel_half_count(int epfd) {
    constexpr u32 cannot_tell = 1u << 30;
    const long info = open_fdinfo(epfd);
    if (info < 0) return cannot_tell;
    static constexpr char word[] = "tfd:";
    u32 count = 0;
    u32 matched = 0;
    char text[512];
    long r;
    while ((r = raw_syscall(SYS_read, info, ptr_arg(text), sizeof text)) > 0) {
        for (long i = 0; i < r; ++i) {
            matched = text[i] == word[matched] ? matched + 1 : text[i] == word[0];
            if (word[matched]) continue;
            ++count;
            matched = 0;
        }
    }
    raw_syscall(SYS_close, info);
    return r < 0 ? cannot_tell : count;
}

constinit a32 converting{0};

// For each number, after how many forks the set was made there, plus one. What was there when the process forked
// may be the kernel's alone in another.
constinit a32 set_birth[fd_table_size]{};

constexpr int looked_at_below = 4096; // descriptors, when dups and outer sets are looked for

u64 parse_hex(const char*& at) {
    while (*at == ' ' || *at == '\t') ++at;
    u64 v = 0;
    for (;; ++at) {
        if (*at >= '0' && *at <= '9') {
            v = v << 4 | static_cast<u64>(*at - '0');
        } else if (*at >= 'a' && *at <= 'f') {
            v = v << 4 | static_cast<u64>(*at - 'a' + 10);
        } else {
            return v;
        }
    }
}

u64 parse_decimal(const char*& at) {
    while (*at == ' ' || *at == '\t') ++at;
    u64 v = 0;
    for (; *at >= '0' && *at <= '9'; ++at) v = v * 10 + static_cast<u64>(*at - '0');
    return v;
}

// Does a registration of `outer` say that it is for number `inner`? /proc prints number, events, data.
bool registered_in(int outer, int inner, u32& events, u64& data) {
    static constexpr long room = 1 << 16; // some 800 registrations; a set of sets has few
    const long p =
        raw_syscall(SYS_mmap, 0, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p < 0 && p > -4096) return false;
    char* const text = reinterpret_cast<char*>(p);
    bool found = false;
    if (read_fdinfo(outer, text, room) > 0) {
        for (const char* at = text; !found && (at = find_text(at, "tfd:"));) {
            at += 4;
            const u64 fd = parse_decimal(at);
            const char* const e = find_text(at, "events:");
            const char* const d = e ? find_text(e, "data:") : nullptr;
            if (!d) break;
            const char* value = e + 7;
            events = static_cast<u32>(parse_hex(value));
            value = d + 5;
            data = parse_hex(value);
            found = fd == static_cast<u64>(inner);
            at = d;
        }
    }
    raw_syscall(SYS_munmap, p, room);
    return found;
}

// Sets into which `inner` was put when it was the kernel's alone: they need our mirror of that.
void adopt_by_outer_sets(int inner, handle<eventpoll> set) {
    for (int fd = 0; fd < looked_at_below; ++fd) {
        const u32 entry = fd_table[fd].load_relaxed();
        const bool ours = fd_entry_kind(entry) == FD_EPOLL;
        if (fd == inner || (!ours && fd_entry_kind(entry) != FD_LIBC)) continue;
        if (ours ? eventpoll_of_fd(fd) == set : check_epoll(fd) != 0) continue;
        u32 events = 0;
        u64 data = 0;
        if (!registered_in(fd, inner, events, data)) continue;
        const handle<eventpoll> outer = ours ? eventpoll_of_fd(fd) : epoll_convert(fd);
        if (outer) epoll_insert(fd, outer, ep_source::of(set), inner, events, data);
    }
}

} // namespace

bool kernel_half_in_use(int epfd) {
    char text[512]; // the first registration follows three or four short lines
    return read_fdinfo(epfd, text, sizeof text) < 0 || find_text(text, "tfd:");
}

long kernel_epoll_create(int flags) {
    const long fd = raw_syscall(SYS_epoll_create1, flags);
    if (static_cast<u64>(fd) < fd_table_size) set_birth[fd].store(process_forks.load() + 1);
    return fd;
}

handle<eventpoll> epoll_convert(int epfd) {
    if (process_attach()) return {};
    bool made = false;
    u32 expected = 0;
    while (!converting.cas(expected, 1)) {
        expected = 0;
        raw_syscall(SYS_sched_yield);
    }
    critical_enter();
    handle<eventpoll> set = eventpoll_of_fd(epfd);
    if (!set) {
        const u32 pid = static_cast<u32>(raw_syscall(SYS_getpid));
        set = eventpoll_create();
        if (eventpoll* ep = slab_get(set)) {
            made = true;
            ep->kernel_items.store(kernel_half_count(epfd));
            ep->known.store(set_birth[epfd].load() == process_forks.load() + 1);
            for (int fd = 0; fd < looked_at_below; ++fd) {
                if (fd != epfd && fd_entry_kind(fd_table[fd].load_relaxed()) == FD_LIBC &&
                    same_file(pid, fd, pid, epfd)) {
                    fd_install_epoll(fd, set.index);
                }
            }
            fd_install_epoll(epfd, set.index);
        }
    }
    critical_leave();
    converting.store(0);
    if (made) adopt_by_outer_sets(epfd, set);
    return set;
}

bool epoll_convert_before_sleep(int epfd) {
    static constinit a32 in_vain{0}; // no arena to be had: once is enough
    if (__libc_single_threaded || in_vain.load_relaxed() || sides() == SIDES_KERNEL ||
        process_shut_out() || check_epoll(epfd)) {
        return false;
    }
    const bool converted = static_cast<bool>(epoll_convert(epfd));
    if (!converted) in_vain.store(1);
    return converted;
}

} // namespace sockshim
