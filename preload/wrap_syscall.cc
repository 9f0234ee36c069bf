// syscall(): the numbers that concern descriptors go where the functions go, everything else to libc's.
// None of them is a cancellation point here, as with the kernel's own. entry.S jumps here.
#include <fcntl.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/single_threaded.h>
#include <sys/syscall.h>

#include "core/base/config.h"
#include "core/base/raw_syscall.h"
#include "core/sync/uaccess.h"
#include "preload/carrier_seen.h"
#include "preload/catch.h"
#include "preload/wrap.h"
#include "preload/wrap_confinement.h"
#include "preload/wrap_identity.h"

#include <linux/net.h> // after ours: it has macros named like Linux's constants in sock.h

using namespace sockshim;

extern "C" {
int wrap_execve(const char* path, char* const* argv, char* const* envp) asm("execve");
int wrap_execveat(int dir, const char* path, char* const* argv, char* const* envp,
                  int flags) asm("execveat");
int wrap_unshare(int flags) asm("unshare");
int wrap_setns(int fd, int type) asm("setns");
[[noreturn]] void wrap__exit(int status) asm("_exit");
}

namespace {

struct call_words {
    long nr;
    long a[6];

    int fd(int i) const { return static_cast<int>(a[i]); }
    template <class T> T* ptr(int i) const { return reinterpret_cast<T*>(a[i]); }
    std::size_t size(int i) const { return static_cast<std::size_t>(a[i]); }
    unsigned flags(int i) const { return static_cast<unsigned>(a[i]); }
};

using libc_syscall = long (*)(long, ...);

long to_libc(const call_words& c) {
    const auto call = reinterpret_cast<libc_syscall>(real::syscall_address());
    return call(c.nr, c.a[0], c.a[1], c.a[2], c.a[3], c.a[4], c.a[5]);
}

// A signal mask of a size that the kernel does not know: its own call says so, whatever is waited for.
bool wrong_mask_size(const void* mask, std::size_t size) { return mask && size != sizeof(u64); }

// The six-word forms of the kernel's select and epoll_pwait.
long pselect6(const call_words& c) {
    struct {
        const sigset_t* mask;
        std::size_t size;
    } given = {nullptr, 0};
    if (c.a[5] && get_user(given, c.ptr<const void>(5)) != 0) return -EFAULT;
    if (wrong_mask_size(given.mask, given.size)) return SYS_NOT_OURS;
    return sys_select(c.fd(0), c.ptr<fd_set>(1), c.ptr<fd_set>(2), c.ptr<fd_set>(3),
                      c.ptr<timespec>(4), given.mask);
}

long epoll_wait_ms(const call_words& c, const sigset_t* mask) {
    const int ms = static_cast<int>(c.a[3]);
    const timespec timeout = {ms / 1000, (ms % 1000) * 1000000L};
    return sys_epoll_wait(c.fd(0), c.ptr<epoll_event>(1), c.fd(2), ms < 0 ? nullptr : &timeout,
                          mask);
}

long poll_ms(const call_words& c) {
    const int ms = static_cast<int>(c.a[2]);
    const timespec timeout = {ms / 1000, (ms % 1000) * 1000000L};
    return sys_poll(c.ptr<pollfd>(0), c.size(1), ms < 0 ? nullptr : &timeout, nullptr);
}

// The offset of the kernel's preadv family comes in two words; on 64-bit machines the first is all.
long at_offset(const call_words& c, bool write) {
    const iovec one = {c.ptr<void>(1), c.size(2)};
    if (c.a[3] < 0) return -EINVAL;
    return write ? sys_pwritev2(c.fd(0), &one, 1, c.a[3], 0)
                 : sys_preadv2(c.fd(0), &one, 1, c.a[3], 0);
}

long socketcall(int call, const call_words& c) {
    unsigned long words[6];
    for (int i = 0; i < 6; ++i) words[i] = static_cast<unsigned long>(c.a[i]);
    return sockshim_socketcall(call, words);
}

// What the kernel says of any socket alike is asked of one of its own (wrap_file.cc).
long on_stand_in(u32 trace_nr, const call_words& c) {
    if (fd_classify(c.fd(0)) != FD_SOCKET) return SYS_NOT_OURS;
    unsigned long words[6];
    for (int i = 0; i < 6; ++i) words[i] = static_cast<unsigned long>(c.a[i]);
    trace_begin(trace_nr, words, 6);
    trace_handed_over();
    const long k = raw_syscall(SYS_socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const long r = k < 0 ? k : raw_syscall(c.nr, k, c.a[1], c.a[2], c.a[3], c.a[4], c.a[5]);
    if (k >= 0) raw_syscall(SYS_close, k);
    trace_end(r);
    return r;
}

// Calls whose first word is a descriptor that is not libc's.
long on_descriptor(const call_words& c) {
    const int fd = c.fd(0);
    switch (c.nr) {
    case SYS_read: return sys_read(fd, c.ptr<void>(1), c.size(2));
    case SYS_write: return sys_write(fd, c.ptr<const void>(1), c.size(2));
    case SYS_readv: return sys_readv(fd, c.ptr<const iovec>(1), c.fd(2));
    case SYS_writev: return sys_writev(fd, c.ptr<const iovec>(1), c.fd(2));
    case SYS_pread64: return at_offset(c, false);
    case SYS_pwrite64: return at_offset(c, true);
    case SYS_preadv:
        return c.a[3] < 0 ? -EINVAL : sys_preadv2(fd, c.ptr<const iovec>(1), c.fd(2), c.a[3], 0);
    case SYS_pwritev:
        return c.a[3] < 0 ? -EINVAL : sys_pwritev2(fd, c.ptr<const iovec>(1), c.fd(2), c.a[3], 0);
    case SYS_preadv2: return sys_preadv2(fd, c.ptr<const iovec>(1), c.fd(2), c.a[3], c.fd(5));
    case SYS_pwritev2: return sys_pwritev2(fd, c.ptr<const iovec>(1), c.fd(2), c.a[3], c.fd(5));
    case SYS_close: return sys_close(fd);
    case SYS_dup: return sys_dup(fd);
    case SYS_fcntl: return sys_fcntl(fd, c.fd(1), static_cast<unsigned long>(c.a[2]));
    case SYS_ioctl:
        return sys_ioctl(fd, static_cast<unsigned long>(c.a[1]),
                         static_cast<unsigned long>(c.a[2]));
    case SYS_fstat: return sys_fstat(fd, c.ptr<struct stat>(1));
    case SYS_newfstatat:
        if (!(c.flags(3) & AT_EMPTY_PATH)) return SYS_NOT_OURS;
        return sys_fstatat(fd, c.ptr<const char>(1), c.ptr<struct stat>(2), c.fd(3));
    case SYS_statx:
        if (!(c.flags(2) & AT_EMPTY_PATH)) return SYS_NOT_OURS;
        return sys_statx(fd, c.ptr<const char>(1), c.fd(2), c.flags(3), c.ptr<struct statx>(4));
    case SYS_lseek: return sys_lseek(fd, c.a[1], c.fd(2));
    case SYS_ftruncate: return sys_ftruncate(fd, c.a[1]);
    case SYS_fsync:
    case SYS_fdatasync: return sys_fsync(fd);
    case SYS_vmsplice: return sys_vmsplice(fd, c.ptr<const iovec>(1), c.size(2), c.flags(3));
    case SYS_fstatfs: return on_stand_in(TRACE_FSTATFS, c);
    case SYS_fallocate: return on_stand_in(TRACE_FALLOCATE, c);
    case SYS_readahead: return on_stand_in(TRACE_READAHEAD, c);
    case SYS_sync_file_range: return on_stand_in(TRACE_SYNC_FILE_RANGE, c);
    case SYS_fchmod: return on_stand_in(TRACE_FCHMOD, c);
    case SYS_fchown: return on_stand_in(TRACE_FCHOWN, c);
    case SYS_bind: return socketcall(SYS_BIND, c);
    case SYS_connect: return socketcall(SYS_CONNECT, c);
    case SYS_listen: return socketcall(SYS_LISTEN, c);
    case SYS_accept: return socketcall(SYS_ACCEPT, c);
    case SYS_accept4: return socketcall(SYS_ACCEPT4, c);
    case SYS_getsockname: return socketcall(SYS_GETSOCKNAME, c);
    case SYS_getpeername: return socketcall(SYS_GETPEERNAME, c);
    case SYS_sendto: return socketcall(SYS_SENDTO, c);
    case SYS_recvfrom: return socketcall(SYS_RECVFROM, c);
    case SYS_shutdown: return socketcall(SYS_SHUTDOWN, c);
    case SYS_setsockopt: return socketcall(SYS_SETSOCKOPT, c);
    case SYS_getsockopt: return socketcall(SYS_GETSOCKOPT, c);
    case SYS_sendmsg: return socketcall(SYS_SENDMSG, c);
    case SYS_recvmsg: return socketcall(SYS_RECVMSG, c);
    case SYS_sendmmsg: return socketcall(SYS_SENDMMSG, c);
    case SYS_recvmmsg: return socketcall(SYS_RECVMMSG, c);
#ifdef SYS_epoll_wait
    case SYS_epoll_wait: return epoll_wait_ms(c, nullptr);
#endif
    case SYS_epoll_pwait:
        if (wrong_mask_size(c.ptr<void>(4), c.size(5))) return SYS_NOT_OURS;
        return epoll_wait_ms(c, c.ptr<const sigset_t>(4));
#ifdef SYS_epoll_pwait2
    case SYS_epoll_pwait2:
        if (wrong_mask_size(c.ptr<void>(4), c.size(5))) return SYS_NOT_OURS;
        return sys_epoll_wait(fd, c.ptr<epoll_event>(1), c.fd(2), c.ptr<const timespec>(3),
                              c.ptr<const sigset_t>(4));
#endif
    default: return SYS_NOT_OURS;
    }
}

long opens(int dir, const char* path, int flags) {
    return (flags & O_TRUNC) && names_socket(dir, path) ? -ENXIO : SYS_NOT_OURS;
}

// Calls on two descriptors, or on none, or on sets of them; SYS_NOT_OURS for all others.
long on_others(const call_words& c) {
    const auto either = [&](int i, int j) { return !fd_is_libc(c.fd(i)) || !fd_is_libc(c.fd(j)); };
    switch (c.nr) {
    case SYS_socket: return socketcall(SYS_SOCKET, c);
    case SYS_socketpair: return socketcall(SYS_SOCKETPAIR, c);
#ifdef SYS_dup2
    case SYS_dup2: return either(0, 1) ? sys_dup2(c.fd(0), c.fd(1)) : SYS_NOT_OURS;
#endif
    case SYS_dup3: return either(0, 1) ? sys_dup3(c.fd(0), c.fd(1), c.fd(2)) : SYS_NOT_OURS;
    case SYS_close_range: return sys_close_range(c.flags(0), c.flags(1), c.flags(2));
    case SYS_sendfile:
        return either(0, 1) ? sys_sendfile(c.fd(0), c.fd(1), c.ptr<i64>(2), c.size(3))
                            : SYS_NOT_OURS;
    case SYS_splice:
        if (!either(0, 2)) return SYS_NOT_OURS;
        return sys_splice(c.fd(0), c.ptr<i64>(1), c.fd(2), c.ptr<i64>(3), c.size(4), c.flags(5));
    case SYS_copy_file_range:
        if (!either(0, 2)) return SYS_NOT_OURS;
        return sys_copy_file_range(c.fd(0), c.ptr<i64>(1), c.fd(2), c.ptr<i64>(3), c.size(4),
                                   c.flags(5));
    case SYS_tee:
        return either(0, 1) ? sys_tee(c.fd(0), c.fd(1), c.size(2), c.flags(3)) : SYS_NOT_OURS;
    case SYS_epoll_ctl:
        return either(0, 2) ? sys_epoll_ctl(c.fd(0), c.fd(1), c.fd(2), c.ptr<epoll_event>(3))
                            : SYS_NOT_OURS;
#ifdef SYS_epoll_create
    case SYS_epoll_create: return c.fd(0) <= 0 ? -EINVAL : sys_epoll_create(0);
#endif
    case SYS_epoll_create1: return sys_epoll_create(c.fd(0));
#ifdef SYS_open
    case SYS_open: return opens(AT_FDCWD, c.ptr<const char>(0), c.fd(1));
    case SYS_creat: return opens(AT_FDCWD, c.ptr<const char>(0), O_TRUNC);
#endif
    case SYS_openat: return opens(c.fd(0), c.ptr<const char>(1), c.fd(2));
    case SYS_mmap: {
        if ((c.fd(3) & MAP_ANONYMOUS) || fd_is_libc(c.fd(4))) return SYS_NOT_OURS;
        const long r = sys_mmap_check(c.fd(4));
        return r > 0 ? -r : r;
    }
#ifdef SYS_poll
    case SYS_poll: return process_may_have_sockets() ? poll_ms(c) : SYS_NOT_OURS;
#endif
    case SYS_ppoll:
        if (!process_may_have_sockets() || wrong_mask_size(c.ptr<void>(3), c.size(4))) {
            return SYS_NOT_OURS;
        }
        return sys_poll(c.ptr<pollfd>(0), c.size(1), c.ptr<const timespec>(2),
                        c.ptr<const sigset_t>(3));
    case SYS_pselect6: return process_may_have_sockets() ? pselect6(c) : SYS_NOT_OURS;
    default: return SYS_NOT_OURS;
    }
}

bool waits_for_set(long nr) {
    switch (nr) {
#ifdef SYS_epoll_wait
    case SYS_epoll_wait:
#endif
#ifdef SYS_epoll_pwait2
    case SYS_epoll_pwait2:
#endif
    case SYS_epoll_pwait: return true;
    default: return false;
    }
}

bool starts_with_descriptor(long nr) {
    switch (nr) {
    case SYS_read:
    case SYS_write:
    case SYS_readv:
    case SYS_writev:
    case SYS_pread64:
    case SYS_pwrite64:
    case SYS_preadv:
    case SYS_pwritev:
    case SYS_preadv2:
    case SYS_pwritev2:
    case SYS_close:
    case SYS_dup:
    case SYS_fcntl:
    case SYS_ioctl:
    case SYS_fstat:
    case SYS_newfstatat:
    case SYS_statx:
    case SYS_lseek:
    case SYS_ftruncate:
    case SYS_fsync:
    case SYS_fdatasync:
    case SYS_vmsplice:
    case SYS_fstatfs:
    case SYS_fallocate:
    case SYS_readahead:
    case SYS_sync_file_range:
    case SYS_fchmod:
    case SYS_fchown:
    case SYS_bind:
    case SYS_connect:
    case SYS_listen:
    case SYS_accept:
    case SYS_accept4:
    case SYS_getsockname:
    case SYS_getpeername:
    case SYS_sendto:
    case SYS_recvfrom:
    case SYS_shutdown:
    case SYS_setsockopt:
    case SYS_getsockopt:
    case SYS_sendmsg:
    case SYS_recvmsg:
    case SYS_sendmmsg:
    case SYS_recvmmsg: return true;
    default: return waits_for_set(nr);
    }
}

// The kernel is about to get the call: whom its message takes our sockets to.
void before_kernel(const call_words& c) {
    if (c.nr == SYS_sendmsg) before_libc_sendmsg(c.fd(0), c.ptr<const msghdr>(1));
    if (c.nr == SYS_sendmmsg) before_libc_sendmmsg(c.fd(0), c.ptr<const mmsghdr>(1), c.flags(2));
}

// Libc's syscall() has answered r: what the table must learn from it, and what the program gets.
long learn(const call_words& c, long r) {
    switch (c.nr) {
    case SYS_fcntl:
        if (c.fd(1) == F_DUPFD || c.fd(1) == F_DUPFD_CLOEXEC) made(static_cast<int>(r));
        break;
    case SYS_pipe2:
#ifdef SYS_pipe
    case SYS_pipe:
#endif
        made(c.ptr<int>(0)[0]);
        made(c.ptr<int>(0)[1]);
        break;
    case SYS_socketpair:
        made(c.ptr<int>(3)[0]);
        made(c.ptr<int>(3)[1]);
        break;
    case SYS_recvmsg: {
        auto* const msg = c.ptr<msghdr>(1);
        if (msg->msg_control && msg->msg_controllen && !in_vfork_child()) scm_received(msg);
        break;
    }
    case SYS_recvmmsg:
        for (long i = 0; i < r && !in_vfork_child(); ++i) {
            msghdr& msg = c.ptr<mmsghdr>(1)[i].msg_hdr;
            if (msg.msg_control && msg.msg_controllen) scm_received(&msg);
        }
        break;
#ifdef SYS_open
    case SYS_open: return opened(c.ptr<const char>(0), c.fd(1), static_cast<int>(r));
    case SYS_creat: return opened(c.ptr<const char>(0), 0, static_cast<int>(r));
    case SYS_dup2:
    case SYS_epoll_create:
    case SYS_eventfd:
    case SYS_signalfd:
    case SYS_inotify_init:
#endif
    case SYS_socket:
    case SYS_accept:
    case SYS_accept4:
    case SYS_dup:
    case SYS_dup3:
    case SYS_open_by_handle_at:
    case SYS_epoll_create1:
    case SYS_eventfd2:
    case SYS_signalfd4:
    case SYS_timerfd_create:
    case SYS_inotify_init1:
    case SYS_fanotify_init:
    case SYS_memfd_create:
    case SYS_userfaultfd:
    case SYS_perf_event_open:
    case SYS_mq_open:
#ifdef SYS_pidfd_open
    case SYS_pidfd_open:
#endif
        made(static_cast<int>(r));
        break;
    case SYS_openat: return opened(c.ptr<const char>(1), c.fd(2), static_cast<int>(r));
#ifdef SYS_openat2
    case SYS_openat2: // its flags lie in a structure, whose first word they are
        return opened(c.ptr<const char>(1), static_cast<int>(*c.ptr<u64>(2)), static_cast<int>(r));
#endif
#ifdef SYS_pidfd_getfd
    case SYS_pidfd_getfd:
        made(static_cast<int>(r));
        if (r < fd_table_size && !in_vfork_child()) fd_table[r].store_relaxed(FD_UNKNOWN);
        break;
#endif
    default: break;
    }
    return r;
}

long fork_like(const call_words& c) {
    const bool prepared = fork_prepare();
    const long r = raw_syscall(c.nr, c.a[0], c.a[1], c.a[2], c.a[3], c.a[4], c.a[5]);
    if (r == 0) {
        fork_done_child(prepared);
    } else {
        fork_done_parent(prepared, r > 0);
    }
    return r;
}

long exec_like(const call_words& c) {
    if (c.nr == SYS_execve) {
        wrap_execve(c.ptr<const char>(0), c.ptr<char* const>(1), c.ptr<char* const>(2));
    } else {
        wrap_execveat(c.fd(0), c.ptr<const char>(1), c.ptr<char* const>(2), c.ptr<char* const>(3),
                      c.fd(4));
    }
    return -errno;
}

// -errno, as the kernel says it.
long libc_answer(void* arg) {
    const long r = to_libc(*static_cast<const call_words*>(arg));
    return r == -1 ? -errno : r;
}

// The kernel's own calls, which change the calling thread alone. The background thread goes with it.
long identity_like(call_words c) {
    if (in_vfork_child()) return SYS_NOT_OURS;
    const auto change = [&](std::initializer_list<u32> users) {
        identity_joining(users);
        if (!process_active.load()) return SYS_NOT_OURS;
        return identity_changing(users, [&] { return libc_answer(&c); });
    };
    const u32 first = c.flags(0);
    switch (c.nr) {
    case SYS_setuid:
    case SYS_setfsuid: return change({first});
    case SYS_setreuid: return change({first, c.flags(1)});
    case SYS_setresuid: return change({first, c.flags(1), c.flags(2)});
    default: return change({});
    }
}

long confinement_like(call_words c) {
    const bool by_prctl = c.nr == SYS_prctl;
    const bool filter = by_prctl ? c.a[0] == PR_SET_SECCOMP && c.a[1] == SECCOMP_MODE_FILTER
                                 : c.a[0] == SECCOMP_SET_MODE_FILTER;
    if (!filter) return SYS_NOT_OURS;
    const bool everybody = !by_prctl && (c.a[1] & SECCOMP_FILTER_FLAG_TSYNC);
    return confine(c.ptr<void>(2), everybody, libc_answer, &c);
}

long limit_like(call_words c) {
    using limits = struct rlimit;
    const bool other = c.nr == SYS_prlimit64;
    const bool get = c.nr == SYS_getrlimit;
    const int resource = c.fd(other ? 1 : 0);
    auto* const limit = get ? nullptr : c.ptr<const limits>(other ? 2 : 1);
    auto* const former = other ? c.ptr<limits>(3) : get ? c.ptr<limits>(1) : nullptr;
    if (!other && !limit && !former) return SYS_NOT_OURS; // EFAULT
    const long ours = limit_of_address_space(other ? c.fd(0) : 0, resource, limit, former);
    if (ours != SYS_NOT_OURS || !limit) return ours;
    before_limit(resource, limit);
    const long r = libc_answer(&c);
    if (r == 0) after_limit(resource);
    return r;
}

// The answer, -errno, to a call that concerns us; SYS_NOT_OURS to all others.
long answer(const call_words& call) {
    if (starts_with_descriptor(call.nr)) {
        const int fd = call.fd(0);
        const bool may_sleep =
            waits_for_set(call.nr) && !__libc_single_threaded; // see wait_for_set
        if ((!fd_is_libc(fd) || may_sleep) && !in_vfork_child()) {
            fork_check();
            return on_descriptor(call);
        }
        if (call.nr == SYS_close) fd_closes(fd);
        return SYS_NOT_OURS;
    }
    switch (call.nr) {
#ifdef SYS_fork
    case SYS_fork:
#endif
#ifdef SYS_clone3
    case SYS_clone3:
#endif
    case SYS_clone: return fork_like(call);
    case SYS_execve:
    case SYS_execveat: return exec_like(call);
    case SYS_exit_group: wrap__exit(call.fd(0));
    case SYS_setuid:
    case SYS_setreuid:
    case SYS_setresuid:
    case SYS_setfsuid:
    case SYS_setgid:
    case SYS_setregid:
    case SYS_setresgid:
    case SYS_setfsgid:
    case SYS_setgroups:
    case SYS_capset:
    case SYS_chroot: return identity_like(call);
    case SYS_unshare: return wrap_unshare(call.fd(0)) == 0 ? 0 : -errno;
    case SYS_setns: return wrap_setns(call.fd(0), call.fd(1)) == 0 ? 0 : -errno;
    case SYS_prctl:
    case SYS_seccomp: return confinement_like(call);
    case SYS_getrlimit:
    case SYS_setrlimit:
    case SYS_prlimit64: return limit_like(call);
    case SYS_io_uring_setup:
        // Its operations would pass us by; programs fall back when it is missing. Also before the
        // first socket of ours: rings stay.
        return config().io_uring || config().disable ? SYS_NOT_OURS : -ENOSYS;
    case SYS_rt_sigprocmask: return catch_sigprocmask(call.a);
    case SYS_rt_sigaction: return catch_sigaction(call.a);
    default: return in_vfork_child() ? SYS_NOT_OURS : on_others(call);
    }
}

} // namespace

extern "C" long sockshim_syscall(long nr, long a, long b, long c, long d, long e, long f) {
    const call_words call = {nr, {a, b, c, d, e, f}};
    long r = answer(call);
    if (r != SYS_NOT_OURS) return finish(r);
    before_kernel(call);
    r = to_libc(call);
    if (SOCKSHIM_UNLIKELY(trace_enabled)) trace_libc_result_slow(r == -1 ? -errno : r);
    return r >= 0 ? learn(call, r) : r;
}

long sockshim::caught_syscall(long nr, const long (&a)[6]) {
    const call_words call = {nr, {a[0], a[1], a[2], a[3], a[4], a[5]}};
    long r = answer(call);
    const bool may_be_told = starts_with_descriptor(nr) || nr == SYS_socket || nr == SYS_socketpair;
    if (r != SYS_NOT_OURS || !may_be_told) return r;
    before_kernel(call);
    r = raw_syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
    trace_libc_result(r);
    return r >= 0 ? learn(call, r) : r;
}
