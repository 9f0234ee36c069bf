// File operations on our sockets: what read, write, close, dup, fcntl, ioctl and fstat mean there.
// "Everything is a file": Linux reaches these through socket_file_ops.
#include <cerrno>
#include <climits>
#include <fcntl.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>

#include "core/base/raw_syscall.h"
#include "core/net/carrier.h"
#include "core/net/handover.h"
#include "core/net/proto.h"
#include "core/sync/uaccess.h"
#include "core/trace/trace.h"
#include "dispatch/kernel_half.h"
#include "dispatch/ksys.h"
#include "dispatch/process.h"
#include "dispatch/socketcall.h"

#ifndef RWF_SUPPORTED
#define RWF_SUPPORTED (RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND)
#endif
#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE 2
#define CLOSE_RANGE_CLOEXEC 4
#endif

namespace sockshim {

long ours(int fd) {
    socket_ref ref;
    const long err = sockfd_lookup_light(fd, ref);
    if (err == 0) fput_light(ref);
    return err;
}

namespace {

long refuse(int fd, int err) {
    const long r = ours(fd);
    return r ? r : -err;
}

msghdr_iter message(iov_iter it) {
    msghdr_iter msg{};
    msg.iter = it;
    return msg;
}

long read_iter(int fd, iov_iter it, int flags) {
    socket_ref ref;
    long r = sockfd_lookup_light(fd, ref);
    if (r) return r;
    msghdr_iter msg = message(it);
    msg.flags = flags;
    // Linux: a read of nothing does not ask the socket (sock_read_iter).
    r = it.count ? sock_recvmsg(ref, msg) : 0;
    fput_light(ref);
    return r;
}

long write_iter(int fd, iov_iter it, int flags) {
    socket_ref ref;
    long r = sockfd_lookup_light(fd, ref);
    if (r) return r;
    msghdr_iter msg = message(it);
    msg.flags = flags;
    r = sock_sendmsg(ref, msg);
    fput_light(ref);
    return r;
}

constexpr std::size_t MAX_RW_COUNT = 0x7ffff000;

template <class Call> long vectored(int fd, const iovec* iov, int n, Call call) {
    if (const long err = ours(fd)) return err;
    if (n < 0) return -EINVAL;
    const auto count = static_cast<std::size_t>(n);
    return with_iovecs(count, [&](iovec* store) -> i64 {
        iov_iter it;
        const i64 total = import_iovec(iov, count, store, it);
        return total <= 0 ? total : call(it); // nothing to move: the socket is not asked
    });
}

} // namespace

long ksys_read(int fd, void* buf, std::size_t n) {
    iovec one{buf, min_of(n, MAX_RW_COUNT)};
    if (SOCKSHIM_UNLIKELY(!access_ok(buf, n))) return refuse(fd, EFAULT);
    return read_iter(fd, {&one, 1, 0, one.iov_len}, 0);
}

long ksys_write(int fd, const void* buf, std::size_t n) {
    iovec one{const_cast<void*>(buf), min_of(n, MAX_RW_COUNT)};
    if (SOCKSHIM_UNLIKELY(!access_ok(buf, n))) return refuse(fd, EFAULT);
    return write_iter(fd, {&one, 1, 0, one.iov_len}, 0);
}

long ksys_readv(int fd, const iovec* iov, int n) {
    return vectored(fd, iov, n, [fd](iov_iter it) { return read_iter(fd, it, 0); });
}

long ksys_writev(int fd, const iovec* iov, int n) {
    return vectored(fd, iov, n, [fd](iov_iter it) { return write_iter(fd, it, 0); });
}

static long rw_flags(int flags, i64 offset) {
    if (offset != -1) return -ESPIPE;
    if (flags & ~RWF_SUPPORTED) return -EOPNOTSUPP;
    return flags & RWF_NOWAIT ? MSG_DONTWAIT : 0;
}

long ksys_preadv2(int fd, const iovec* iov, int n, i64 offset, int flags) {
    if (const long err = ours(fd)) return err;
    const long msg_flags = rw_flags(flags, offset);
    if (msg_flags < 0) return msg_flags;
    return vectored(fd, iov, n,
                    [&](iov_iter it) { return read_iter(fd, it, static_cast<int>(msg_flags)); });
}

long ksys_pwritev2(int fd, const iovec* iov, int n, i64 offset, int flags) {
    if (const long err = ours(fd)) return err;
    const long msg_flags = rw_flags(flags, offset);
    if (msg_flags < 0) return msg_flags;
    return vectored(fd, iov, n,
                    [&](iov_iter it) { return write_iter(fd, it, static_cast<int>(msg_flags)); });
}

long ksys_close(int fd) {
    switch (fd_look(fd)) {
    case FD_CLOSED:
    case FD_INTERNAL: return -EBADF;
    case FD_SOCKET:
    case FD_EPOLL: break;
    default: // whatever comes to stand there is looked at
        if (process_is_self()) fd_forget(fd);
        return SYS_NOT_OURS;
    }
    // A vfork child closes its own copy of the number; the table is its parent's.
    if (!process_is_self()) return raw_syscall(SYS_close, fd);
    return fd_close(fd);
}

long ksys_close_range(unsigned first, unsigned last, unsigned flags) {
    if (first > last ||
        (flags & ~static_cast<unsigned>(CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC))) {
        return -EINVAL;
    }
    if (flags & CLOSE_RANGE_UNSHARE) {
        const long r = raw_syscall(SYS_unshare, 0x400 /* CLONE_FILES */);
        if (r < 0) return r;
        flags &= ~static_cast<unsigned>(CLOSE_RANGE_UNSHARE);
    }
    const bool self = process_is_self();
    // Runs of numbers between what is the library's own; ours are closed one by one so that their
    // references go.
    u64 from = first;
    const u64 end = u64{last} + 1;
    const auto kernel_run = [&](u64 upto) {
        if (from < upto) {
            raw_syscall(SYS_close_range, static_cast<long>(from), static_cast<long>(upto - 1),
                        static_cast<long>(flags));
        }
    };
    for (u64 fd = first; fd < min_of<u64>(end, fd_table_end()); ++fd) {
        const u32 entry = fd_table[fd].load_relaxed();
        const fd_kind kind = fd_entry_kind(entry);
        if (kind == FD_UNKNOWN || kind == FD_LIBC) continue;
        if (kind != FD_INTERNAL && ((flags & CLOSE_RANGE_CLOEXEC) || !self)) continue;
        kernel_run(fd);
        if (kind != FD_INTERNAL) fd_close(static_cast<int>(fd));
        from = fd + 1;
    }
    kernel_run(end);
    return 0;
}

// A new descriptor of the same open file description, which was `entry` in our table.
static long dup_installed(u32 entry, long newfd) {
    if (newfd < 0 || !process_is_self()) return newfd;
    const int fd = static_cast<int>(newfd);
    if (fd_entry_kind(entry) == FD_EPOLL) {
        fd_install_epoll(fd, fd_entry_index(entry));
    } else {
        fd_install_duplicate(fd, slab_handle_at<socket>(fd_entry_index(entry)));
    }
    return newfd;
}

// What `fd` is in our table when it is to be duplicated: 0, SYS_NOT_OURS or -EBADF.
static long dup_source(int fd, u32& entry) {
    const fd_kind kind = fd_look(fd);
    if (kind == FD_INTERNAL || kind == FD_CLOSED) return -EBADF;
    if (kind == FD_LIBC) return SYS_NOT_OURS;
    entry = fd_table[fd].load();
    // Gone since: whoever closes what others duplicate gets the one or the other.
    return fd_entry_kind(entry) == kind ? 0 : -EBADF;
}

long ksys_dup(int fd) {
    u32 entry = 0;
    const long r = dup_source(fd, entry);
    return r ? r : dup_installed(entry, raw_syscall(SYS_dup, fd));
}

long ksys_dup3(int oldfd, int newfd, int flags) {
    if (static_cast<u32>(newfd) >= fd_table_size) return SYS_NOT_OURS;
    u32 entry = 0;
    const long source = dup_source(oldfd, entry);
    if (source == -EBADF) return (flags & ~O_CLOEXEC) || oldfd == newfd ? -EINVAL : source;
    if (source && fd_classify(newfd) == FD_LIBC) return SYS_NOT_OURS;
    fd_replacing(newfd);
    const long r = raw_syscall(SYS_dup3, oldfd, newfd, flags);
    if (r < 0 || !process_is_self()) return r;
    if (source == 0) return dup_installed(entry, r);
    fd_installed(newfd);
    return r;
}

long ksys_dup2(int oldfd, int newfd) {
    if (oldfd != newfd) return ksys_dup3(oldfd, newfd, 0);
    u32 entry = 0;
    const long r = dup_source(oldfd, entry);
    return r ? r : newfd;
}

namespace {

// The flags of an open file description that F_SETFL may change.
struct kept_flag {
    int theirs;
    u32 ours;
};
constexpr kept_flag kept_flags[] = {{O_NONBLOCK, SOCKF_NONBLOCK},
                                    {O_ASYNC, SOCKF_ASYNC},
                                    {O_APPEND, SOCKF_APPEND},
                                    {O_NOATIME, SOCKF_NOATIME}};

// Linux: f_setown. Signal 0 asks whether anybody has that number.
long set_owner(socket& sock, int type, int who) {
    if (who < 0) return -ESRCH;
    if (who && raw_syscall(SYS_kill, type == F_OWNER_PGRP ? -who : who, 0) == -ESRCH) return -ESRCH;
    sock.f_owner = type == F_OWNER_PGRP ? -who : who;
    sock.f_owner_type = type;
    return 0;
}

long fcntl_socket(socket& sock, int fd, int cmd, unsigned long arg) {
    switch (cmd) {
    case F_GETFD:
    case F_SETFD: return raw_syscall(SYS_fcntl, fd, cmd, static_cast<long>(arg));
    case F_GETFL: {
        const u32 f = sock.flags.load();
        int shown = O_RDWR;
        for (const kept_flag k : kept_flags) shown |= f & k.ours ? k.theirs : 0;
        return shown;
    }
    case F_SETFL:
        if (arg & O_DIRECT) return -EINVAL;
        for (const kept_flag k : kept_flags) {
            if (arg & static_cast<unsigned>(k.theirs))
                sock.flags.fetch_or(k.ours);
            else
                sock.flags.fetch_and(~k.ours);
        }
        half_set_nonblock(sock, arg & O_NONBLOCK);
        if (arg & O_ASYNC) sock.f_async_fd = fd;
        if (struct sock* sk = socket_sk(sock)) {
            if (arg & O_ASYNC)
                sk->sk_wq.flags.fetch_or(WQ_ASYNC);
            else
                sk->sk_wq.flags.fetch_and(~WQ_ASYNC);
        }
        return 0;
    case F_SETOWN: {
        const int who = static_cast<int>(arg);
        if (who == INT_MIN) return -EINVAL;
        return who < 0 ? set_owner(sock, F_OWNER_PGRP, -who) : set_owner(sock, F_OWNER_PID, who);
    }
    case F_GETOWN: return sock.f_owner;
    case F_SETOWN_EX: {
        f_owner_ex owner;
        if (get_user(owner, reinterpret_cast<const void*>(arg))) return -EFAULT;
        if (owner.type < F_OWNER_TID || owner.type > F_OWNER_PGRP) return -EINVAL;
        return set_owner(sock, owner.type, owner.pid);
    }
    case F_GETOWN_EX: {
        const int who = sock.f_owner;
        const f_owner_ex owner{static_cast<decltype(f_owner_ex::type)>(sock.f_owner_type),
                               who < 0 ? -who : who};
        return put_user(owner, reinterpret_cast<void*>(arg));
    }
    case F_SETSIG:
        if (arg > 64) return -EINVAL;
        sock.f_owner_sig = static_cast<int>(arg);
        return 0;
    case F_GETSIG: return sock.f_owner_sig;
    // Record locks would land on the carrier, where the heartbeat lives. On a socket they guard nothing.
    case F_GETLK:
    case F_OFD_GETLK: {
        struct flock lock;
        if (get_user(lock, reinterpret_cast<const void*>(arg))) return -EFAULT;
        if (cmd == F_OFD_GETLK && lock.l_pid) return -EINVAL;
        lock.l_type = F_UNLCK;
        return put_user(lock, reinterpret_cast<void*>(arg));
    }
    case F_SETLK:
    case F_SETLKW:
    case F_OFD_SETLK:
    case F_OFD_SETLKW: {
        struct flock lock;
        return get_user(lock, reinterpret_cast<const void*>(arg));
    }
    case F_GETLEASE: return F_UNLCK;
    case F_NOTIFY: return -ENOTDIR;
    case F_SETPIPE_SZ:
    case F_GETPIPE_SZ: return -EBADF;
    default: return -EINVAL;
    }
}

// Interface questions are answered by the kernel, on a socket of its own.
long ask_kernel_ioctl(unsigned long cmd, unsigned long arg) {
    const long k = raw_syscall(SYS_socket, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (k < 0) return k;
    const long r = raw_syscall(SYS_ioctl, k, static_cast<long>(cmd), static_cast<long>(arg));
    raw_syscall(SYS_close, k);
    return r;
}

long ioctl_socket(socket& sock, int fd, unsigned long cmd, unsigned long arg) {
    auto* const user = reinterpret_cast<void*>(arg);
    int value = 0;
    switch (cmd) {
    case FIONBIO:
    case FIOASYNC: {
        if (get_user(value, user)) return -EFAULT;
        const u32 bit = cmd == FIONBIO ? SOCKF_NONBLOCK : SOCKF_ASYNC;
        const long flags = fcntl_socket(sock, fd, F_GETFL, 0);
        const long mask = bit == SOCKF_NONBLOCK ? O_NONBLOCK : O_ASYNC;
        const long wanted = value ? flags | mask : flags & ~mask;
        return fcntl_socket(sock, fd, F_SETFL, static_cast<unsigned long>(wanted));
    }
    case FIOCLEX:
    case FIONCLEX: return raw_syscall(SYS_fcntl, fd, F_SETFD, cmd == FIOCLEX ? FD_CLOEXEC : 0);
    case FIOSETOWN:
    case SIOCSPGRP:
        if (get_user(value, user)) return -EFAULT;
        return fcntl_socket(sock, fd, F_SETOWN,
                            static_cast<unsigned long>(static_cast<long>(value)));
    case FIOGETOWN:
    case SIOCGPGRP: return put_user(sock.f_owner, user);
    default: {
        const int r = ops_of(sock.ops_id).ioctl(sock, static_cast<unsigned>(cmd), arg);
        return r == -ENOIOCTLCMD_SHIM ? ask_kernel_ioctl(cmd, arg) : r;
    }
    }
}

} // namespace

long ksys_fcntl(int fd, int cmd, unsigned long arg) {
    if (cmd == F_DUPFD || cmd == F_DUPFD_CLOEXEC) {
        u32 entry = 0;
        const long r = dup_source(fd, entry);
        if (r) return r;
        return dup_installed(entry, raw_syscall(SYS_fcntl, fd, cmd, static_cast<long>(arg)));
    }
    socket_ref ref;
    long r = sockfd_lookup_light(fd, ref);
    if (r) return r;
    r = fcntl_socket(*ref.sock, fd, cmd, arg);
    fput_light(ref);
    return r;
}

long ksys_ioctl(int fd, unsigned long cmd, unsigned long arg) {
    socket_ref ref;
    long r = sockfd_lookup_light(fd, ref);
    if (r) return r;
    r = ioctl_socket(*ref.sock, fd, cmd, arg);
    fput_light(ref);
    return r;
}

long ksys_lseek(int fd, i64, int whence) {
    return refuse(fd, whence < SEEK_SET || whence > SEEK_HOLE ? EINVAL : ESPIPE);
}
long ksys_ftruncate(int fd, i64) { return refuse(fd, EINVAL); }
long ksys_fsync(int fd) { return refuse(fd, EINVAL); }
long ksys_mmap_check(int fd) { return refuse(fd, ENODEV); }

long ksys_copy_file_range(int in, i64*, int out, i64*, std::size_t, unsigned) {
    const long r = refuse(in, EINVAL);
    return r == SYS_NOT_OURS ? refuse(out, EINVAL) : r;
}

} // namespace sockshim
