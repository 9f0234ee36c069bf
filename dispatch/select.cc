// poll, ppoll, select and pselect over any mix of descriptors (Linux: fs/select.c). A set without a
// descriptor of ours is SYS_NOT_OURS, and so is one that is wrong as a whole: then the kernel says how.
#include <cerrno>
#include <climits>
#include <fcntl.h>
#include <sys/resource.h>

#include "core/sync/uaccess.h"
#include "dispatch/poll_wait.h"

namespace sockshim {

namespace {

// The timeout and the mask, as both families take them. 0, -EFAULT or -EINVAL.
struct wait_arguments {
    timespec timeout{};
    sigset_t mask_copy{};
    bool now = false;
    i64 deadline_us = -1;
    const sigset_t* mask = nullptr;

    int take(const timespec* utimeout, const sigset_t* umask) {
        if (utimeout) {
            if (get_user(timeout, utimeout)) return -EFAULT;
            if (!timespec_valid(timeout)) return -EINVAL;
            now = timeout.tv_sec == 0 && timeout.tv_nsec == 0;
        }
        // The kernel's set is 8 bytes long whatever the size of sigset_t.
        if (umask) {
            if (copy_from_user(&mask_copy, umask, kernel_sigset_bytes)) return -EFAULT;
            mask = &mask_copy;
        }
        if (utimeout && !now) deadline_us = deadline_after(&timeout);
        return 0;
    }
};

// --- poll --------------------------------------------------------------------------------------------

struct poll_kernel : kernel_side {
    pollfd* fds; // one more than count: the doorbell's place
    u32* index;  // whose answer each is
    u32 count = 0;
};

long ask_poll(kernel_side& side, const timespec* timeout, const sigset_t* mask, int bell,
              bool& rang) {
    auto& k = static_cast<poll_kernel&>(side);
    u32 n = k.count;
    if (bell >= 0) k.fds[n++] = {bell, POLLIN, 0};
    long r = raw_syscall(SYS_ppoll, ptr_arg(k.fds), n, ptr_arg(timeout), ptr_arg(mask),
                         kernel_sigset_bytes);
    if (r == -EINVAL && bell >= 0) {
        // The doorbell is one descriptor too many for RLIMIT_NOFILE: a nap instead.
        const timespec brief = {0, first_nap_us * 1000};
        r = raw_syscall(SYS_ppoll, ptr_arg(k.fds), k.count, ptr_arg(&brief), ptr_arg(mask),
                        kernel_sigset_bytes);
        bell = -1;
        rang = true;
    }
    if (r < 0) {
        for (u32 i = 0; i < k.count; ++i) k.fds[i].revents = 0;
        return r;
    }
    if (rang) return r;
    rang = bell >= 0 && k.fds[k.count].revents != 0;
    return r - rang;
}

// Writes the answers: nothing but revents, for another thread may be at the rest of the array.
int put_revents(pollfd* user, const pollfd* fds, u32 n) {
    constexpr u32 few = 4, piece = 64;
    if (n <= few) {
        for (u32 i = 0; i < n; ++i) {
            if (put_user(fds[i].revents, &user[i].revents)) return -EFAULT;
        }
        return 0;
    }
    for (u32 at = 0; at < n; at += piece) {
        pollfd now[piece];
        const u32 count = min_of(n - at, piece);
        if (copy_from_user(now, user + at, count * sizeof now[0])) return -EFAULT;
        for (u32 i = 0; i < count; ++i) now[i].revents = fds[at + i].revents;
        if (copy_to_user(user + at, now, count * sizeof now[0])) return -EFAULT;
    }
    return 0;
}

long poll_call(pollfd* user, unsigned long nfds, const timespec* utimeout, const sigset_t* umask) {
    // Linux: do_sys_poll's first check; asked for sets where the question costs little.
    constexpr u32 unchecked = 16;
    if (nfds > unchecked) {
        rlimit limit{};
        raw_syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, ptr_arg(&limit));
        if (nfds > limit.rlim_cur || nfds > INT_MAX) return SYS_NOT_OURS;
    }
    const u32 n = static_cast<u32>(nfds);
    constexpr u32 on_stack = 32;
    constexpr std::size_t each = sizeof(poll_item) + 2 * sizeof(pollfd) + sizeof(u32);
    constexpr std::size_t once = sizeof(pollfd) + 8;
    alignas(8) u8 stack[on_stack * each + once];
    scratch room(stack, sizeof stack, n * each + once);
    if (!room) return -ENOMEM;
    pollfd* const fds = room.take<pollfd>(n);
    if (copy_from_user(fds, user, n * sizeof(pollfd))) return SYS_NOT_OURS;
    bool ours = false, traced = false;
    for (u32 i = 0; i < n && !ours; ++i) {
        if (fd_is_libc(fds[i].fd) || fds[i].fd < 0) continue;
        ours = fd_kind_of(fds[i].fd) != FD_LIBC;
        traced |= fd_is_libc_traced(fds[i].fd);
    }
    if (!ours) {
        if (traced) trace_handed_over();
        return SYS_NOT_OURS;
    }
    wait_arguments args;
    if (const int r = args.take(utimeout, umask)) return r;
    wait_call_begins();

    poll_kernel kernel;
    kernel.ask = ask_poll;
    kernel.fds = room.take<pollfd>(n + 1);
    kernel.index = room.take<u32>(n);
    poll_wait wait(room.take<poll_item>(n), kernel);
    long bad = 0;
    for (u32 i = 0; i < n; ++i) {
        pollfd& p = fds[i];
        p.revents = 0;
        if (p.fd < 0) continue;
        const fd_kind kind = fd_kind_of(p.fd);
        const u32 want = static_cast<u16>(p.events) | EPOLLERR | EPOLLHUP;
        if (kind == FD_INTERNAL ||
            ((kind == FD_SOCKET || kind == FD_EPOLL) && !wait.add(p.fd, i, want))) {
            p.revents = POLLNVAL;
            ++bad;
        } else if (kind != FD_SOCKET) {
            kernel.index[kernel.count] = i;
            kernel.fds[kernel.count++] = {p.fd, p.events, 0};
        }
    }
    kernel.any = kernel.count;
    long r = wait.wait(args.now || bad, args.deadline_us, args.mask);
    if (r < 0) return r;
    // Put together per pollfd: the two halves of an epoll set are one descriptor.
    for (u32 i = 0; i < kernel.count; ++i) fds[kernel.index[i]].revents = kernel.fds[i].revents;
    for (u32 i = 0; i < wait.count(); ++i) {
        pollfd& fd = fds[wait[i].index];
        fd.revents = static_cast<short>(static_cast<u32>(fd.revents) | wait[i].got);
    }
    r = 0;
    for (u32 i = 0; i < n; ++i) r += fds[i].revents != 0;
    return put_revents(user, fds, n) ? -EFAULT : r;
}

// --- select ------------------------------------------------------------------------------------------

using word = unsigned long;
constexpr u32 word_bits = 8 * sizeof(word);

// Linux: POLLIN_SET, POLLOUT_SET, POLLEX_SET.
constexpr u32 in_set = EPOLLRDNORM | EPOLLRDBAND | EPOLLIN | EPOLLHUP | EPOLLERR;
constexpr u32 out_set = EPOLLWRBAND | EPOLLWRNORM | EPOLLOUT | EPOLLERR;
constexpr u32 ex_set = EPOLLPRI;
constexpr u32 set_events[3] = {in_set, out_set, ex_set};

struct select_kernel : kernel_side {
    u32 nfds;        // as far as the program's sets go
    u32 words;       // in each of `sets` and `answer`
    word* sets[3];   // the kernel's descriptors
    word* answer[3]; // what the kernel said last
};

bool test_bit(const word* set, u32 fd) { return set[fd / word_bits] >> fd % word_bits & 1; }
void put_bit(word* set, u32 fd) { set[fd / word_bits] |= word{1} << fd % word_bits; }
void clear_bit(word* set, u32 fd) { set[fd / word_bits] &= ~(word{1} << fd % word_bits); }

long ask_select(kernel_side& side, const timespec* timeout, const sigset_t* mask, int bell,
                bool& rang) {
    auto& k = static_cast<select_kernel&>(side);
    for (int s = 0; s < 3; ++s) {
        __builtin_memcpy(k.answer[s], k.sets[s], k.words * sizeof(word));
    }
    u32 n = k.nfds;
    const bool with_bell = bell >= 0 && static_cast<u32>(bell) < k.words * word_bits;
    if (with_bell) {
        put_bit(k.answer[0], static_cast<u32>(bell));
        n = max_of(n, static_cast<u32>(bell) + 1);
    }
    timespec left{}; // the kernel writes what remains
    timespec brief = {0, first_nap_us * 1000};
    if (timeout) left = *timeout;
    const bool cut =
        bell >= 0 && !with_bell && (!timeout || left.tv_sec > 0 || left.tv_nsec > brief.tv_nsec);
    struct {
        const sigset_t* set;
        std::size_t bytes;
    } const with_mask = {mask, kernel_sigset_bytes};
    long r = raw_syscall(SYS_pselect6, n, ptr_arg(k.answer[0]), ptr_arg(k.answer[1]),
                         ptr_arg(k.answer[2]),
                         cut       ? ptr_arg(&brief)
                         : timeout ? ptr_arg(&left)
                                   : 0,
                         ptr_arg(&with_mask));
    if (r < 0) {
        for (word* set : k.answer) __builtin_memset(set, 0, k.words * sizeof(word));
        return r;
    }
    if (with_bell && test_bit(k.answer[0], static_cast<u32>(bell))) {
        clear_bit(k.answer[0], static_cast<u32>(bell));
        rang = true;
        --r;
    }
    if (cut && r == 0) rang = true; // a doorbell out of reach: as if it had rung
    return r;
}

// What a shell, which keeps 255 open, leaves its children; the least would be 64.
constexpr u32 least_table_size = 256;

// How far Linux would look in this process: its descriptor table's size, which what the library itself
// keeps open at high numbers must not raise. Descriptors beyond it are not even bad.
u32 native_table_size() {
    const long dir = raw_syscall(SYS_openat, AT_FDCWD, ptr_arg("/proc/self/fd"),
                                 O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (dir < 0) return ~0u;
    struct entry {
        u64 ino;
        i64 off;
        u16 reclen;
        u8 type;
        char name[];
    };
    u32 highest = 0;
    alignas(8) char text[2048] = {};
    for (;;) {
        const long got = raw_syscall(SYS_getdents64, dir, ptr_arg(text), sizeof text);
        if (got <= 0) break;
        for (long at = 0; at < got;) {
            const auto* e = reinterpret_cast<const entry*>(text + at);
            at += e->reclen;
            u32 fd = 0;
            const char* c = e->name;
            for (; *c >= '0' && *c <= '9'; ++c) fd = fd * 10 + static_cast<u32>(*c - '0');
            if (c == e->name || fd >= fd_table_size || static_cast<long>(fd) == dir) continue;
            if (fd_entry_kind(fd_table[fd].load_relaxed()) != FD_INTERNAL)
                highest = max_of(highest, fd);
        }
    }
    raw_syscall(SYS_close, dir);
    u32 size = least_table_size;
    while (size <= highest) size *= 2;
    return size;
}

// Takes descriptors that Linux would not look at out of the kernel's sets. False: there is a bad one
// among the others.
bool drop_beyond_table(select_kernel& k) {
    const u32 size = native_table_size();
    for (u32 fd = 0; fd < k.nfds; ++fd) {
        if (!test_bit(k.sets[0], fd) && !test_bit(k.sets[1], fd) && !test_bit(k.sets[2], fd))
            continue;
        if (raw_syscall(SYS_fcntl, fd, F_GETFD) >= 0 &&
            fd_kind_of(static_cast<int>(fd)) != FD_INTERNAL) {
            continue;
        }
        if (fd < size) return false;
        for (word* set : k.sets) clear_bit(set, fd);
    }
    return true;
}

long select_call(int nfds, fd_set* ur, fd_set* uw, fd_set* ux, timespec* utimeout,
                 const sigset_t* umask) {
    if (nfds < 0) return SYS_NOT_OURS;
    const u32 n = min_of(static_cast<u32>(nfds), fd_table_size);
    const u32 user_words = (n + word_bits - 1) / word_bits;
    // Room for doorbells, which stand at high numbers.
    constexpr u32 least_words = 2048 / word_bits;
    const u32 words = max_of(user_words, least_words);
    fd_set* const user[3] = {ur, uw, ux};

    constexpr u32 stack_items = 32;
    alignas(8) u8 stack[9 * least_words * sizeof(word) + stack_items * sizeof(poll_item)];
    word* given[3];
    const std::size_t set_bytes = 9 * std::size_t{words} * sizeof(word);
    // How many are ours is known after the sets were read, so their room comes second.
    scratch room(stack, 9 * least_words * sizeof(word), set_bytes);
    if (!room) return -ENOMEM;
    select_kernel kernel;
    kernel.ask = ask_select;
    kernel.nfds = n;
    kernel.words = words;
    for (int s = 0; s < 3; ++s) {
        given[s] = room.take<word>(words);
        kernel.sets[s] = room.take<word>(words);
        kernel.answer[s] = room.take<word>(words);
        if (user[s] && copy_from_user(given[s], user[s], user_words * sizeof(word))) {
            return SYS_NOT_OURS;
        }
        // Bits from n on are not looked at, and not given back.
        if (n % word_bits && user_words) given[s][user_words - 1] &= (word{1} << n % word_bits) - 1;
    }
    u32 ours = 0;
    bool traced = false;
    for (u32 w = 0; w < user_words; ++w) {
        for (word bits = given[0][w] | given[1][w] | given[2][w]; bits; bits &= bits - 1) {
            const int fd = static_cast<int>(w * word_bits) + __builtin_ctzl(bits);
            if (fd_is_libc(fd)) continue;
            const fd_kind kind = fd_kind_of(fd);
            ours += kind != FD_LIBC;
            traced |= fd_is_libc_traced(fd);
        }
    }
    if (!ours) {
        if (traced) trace_handed_over();
        return SYS_NOT_OURS;
    }
    wait_arguments args;
    if (const int r = args.take(utimeout, umask)) return r;
    wait_call_begins();

    scratch item_room(stack + 9 * least_words * sizeof(word), stack_items * sizeof(poll_item),
                      ours * sizeof(poll_item));
    if (!item_room) return -ENOMEM;
    poll_wait wait(item_room.take<poll_item>(ours), kernel);
    // Bits that the kernel may not look at, and would leave set in its answer.
    bool doubtful = false;
    for (u32 w = 0; w < user_words; ++w) {
        for (word bits = given[0][w] | given[1][w] | given[2][w]; bits; bits &= bits - 1) {
            const u32 fd = w * word_bits + static_cast<u32>(__builtin_ctzl(bits));
            const fd_kind kind = fd_kind_of(static_cast<int>(fd));
            u32 want = 0;
            for (int s = 0; s < 3; ++s) {
                if (!test_bit(given[s], fd)) continue;
                want |= set_events[s];
                if (kind != FD_SOCKET) put_bit(kernel.sets[s], fd);
            }
            kernel.any |= kind != FD_SOCKET;
            doubtful |= kind == FD_INTERNAL || (kind != FD_SOCKET && fd >= least_table_size);
            if (kind != FD_SOCKET && kind != FD_EPOLL) continue;
            if (wait.count() == ours || !wait.add(static_cast<int>(fd), fd, want)) return -EBADF;
        }
    }
    if (doubtful && !drop_beyond_table(kernel)) return -EBADF;
    long r = wait.wait(args.now, args.deadline_us, args.mask);
    if (r == -EBADF) {
        if (!drop_beyond_table(kernel)) return -EBADF;
        r = wait.wait(args.now, args.deadline_us, args.mask);
    }
    // Linux: poll_select_finish. Written whatever the result, but for errors before the wait.
    if (utimeout && !args.now) {
        timespec left;
        time_left(args.deadline_us, left);
        const timespec zero{};
        if (r == 0) left = zero;
        static_cast<void>(put_user(left, utimeout));
    }
    if (r < 0) return r;
    for (u32 i = 0; i < wait.count(); ++i) {
        const poll_item& it = wait[i];
        for (int s = 0; s < 3; ++s) {
            if (test_bit(given[s], it.index) && (it.got & set_events[s])) {
                put_bit(kernel.answer[s], it.index);
            }
        }
    }
    r = 0;
    for (int s = 0; s < 3; ++s) {
        for (u32 w = 0; w < user_words; ++w) r += __builtin_popcountl(kernel.answer[s][w]);
    }
    for (int s = 0; s < 3; ++s) {
        if (user[s] && copy_to_user(user[s], kernel.answer[s], user_words * sizeof(word)))
            return -EFAULT;
    }
    return r;
}

} // namespace

long sys_poll(pollfd* fds, unsigned long nfds, const timespec* timeout, const sigset_t* mask) {
    return traced(TRACE_POLL, poll_call, fds, nfds, timeout, mask);
}

long sys_select(int nfds, fd_set* r, fd_set* w, fd_set* x, timespec* timeout,
                const sigset_t* mask) {
    return traced(TRACE_SELECT, select_call, nfds, r, w, x, timeout, mask);
}

} // namespace sockshim
