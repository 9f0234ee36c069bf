// The socket calls that move data (Linux: net/socket.c, lib/iov_iter.c).
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstring>
#include <ctime>

#include "core/base/raw_syscall.h"
#include "core/net/handover.h"
#include "core/net/kernel_half.h"
#include "core/net/proto.h"
#include "core/net/security.h"
#include "core/sync/uaccess.h"
#include "core/trace/trace.h"
#include "dispatch/kernel_half.h"
#include "dispatch/socketcall.h"

namespace sockshim {

namespace {

constexpr std::size_t MAX_RW_COUNT = 0x7ffff000; // INT_MAX & PAGE_MASK
constexpr u32 control_max = 4096; // our control messages are small; Linux: optmem_max

void raise_sigpipe() {
    raw_syscall(SYS_tgkill, raw_syscall(SYS_getpid), raw_syscall(SYS_gettid), SIGPIPE);
}

bool overlong(std::size_t n) { return n > static_cast<std::size_t>(SSIZE_MAX); }

msghdr_iter single_range(iovec& one, const void* base, std::size_t len) {
    one = {const_cast<void*>(base), min_of(len, MAX_RW_COUNT)};
    msghdr_iter msg;
    msg.name = nullptr;
    msg.namelen = 0;
    msg.iter = {&one, 1, 0, one.iov_len};
    msg.control = nullptr;
    msg.controllen = 0;
    msg.out_control = nullptr;
    msg.out_control_len = 0;
    msg.out_control_used = 0;
    msg.flags = 0;
    return msg;
}

} // namespace

i64 import_iovec(const iovec* user, std::size_t n, iovec* store, iov_iter& it) {
    if (n > UIO_MAXIOV) return -EINVAL;
    if (copy_from_user(store, user, n * sizeof(iovec))) return -EFAULT;
    std::size_t total = 0;
    for (std::size_t i = 0; i < n; ++i) {
        if (overlong(store[i].iov_len)) return -EINVAL;
        store[i].iov_len = min_of(store[i].iov_len, MAX_RW_COUNT - total);
        if (!access_ok(store[i].iov_base, store[i].iov_len)) return -EFAULT;
        total += store[i].iov_len;
    }
    it = {store, n, 0, total};
    return static_cast<i64>(total);
}

i64 sock_sendmsg(socket_ref& ref, msghdr_iter& msg) {
    socket& sock = *ref.sock;
    if (socket_nonblock(sock)) msg.flags |= MSG_DONTWAIT;
    const bool quiet = msg.flags & MSG_NOSIGNAL;
    i64 r = security_socket_sendmsg(sock, msg, msg.iter.count);
    if (SOCKSHIM_LIKELY(r == 0)) r = ops_of(sock.ops_id).sendmsg(sock, msg);
    if (SOCKSHIM_UNLIKELY(r == -EHANDOVER)) {
        r = sendmsg_handover(sock, msg);
    } else if (SOCKSHIM_UNLIKELY(r == -EPIPE && !quiet && sock.type == SOCK_STREAM)) {
        raise_sigpipe();
    }
    return r;
}

i64 sock_recvmsg(socket_ref& ref, msghdr_iter& msg) {
    socket& sock = *ref.sock;
    if (socket_nonblock(sock)) msg.flags |= MSG_DONTWAIT;
    i64 r = security_socket_recvmsg(sock, msg, msg.iter.count, msg.flags);
    if (SOCKSHIM_UNLIKELY(r)) return r;
    const int flags = msg.flags;
    while (SOCKSHIM_UNLIKELY((r = ops_of(sock.ops_id).recvmsg(sock, msg)) == -EKERNELHALF)) {
        r = half_recvmsg(sock, msg, flags);
        if (r != -EAGAIN) break;
        msg.flags = flags; // somebody else was quicker
    }
    return r;
}

long sys_sendto(int fd, const void* buff, std::size_t len, unsigned flags, const sockaddr* addr,
                int addr_len) {
    socket_ref ref;
    long r = sockfd_lookup_light(fd, ref);
    if (r) return r;
    if (SOCKSHIM_UNLIKELY(!access_ok(buff, min_of(len, MAX_RW_COUNT)))) {
        fput_light(ref);
        return -EFAULT;
    }
    iovec one;
    msghdr_iter msg = single_range(one, buff, len);
    msg.flags = static_cast<int>(flags);
    sockaddr_storage address;
    if (addr) {
        r = move_addr_to_kernel(addr, addr_len, address);
        msg.name = &address;
        msg.namelen = static_cast<u32>(addr_len);
    }
    if (r == 0) r = sock_sendmsg(ref, msg);
    fput_light(ref);
    return r;
}

long sys_recvfrom(int fd, void* ubuf, std::size_t size, unsigned flags, sockaddr* addr,
                  socklen_t* addr_len) {
    socket_ref ref;
    long r = sockfd_lookup_light(fd, ref);
    if (r) return r;
    if (SOCKSHIM_UNLIKELY(!access_ok(ubuf, min_of(size, MAX_RW_COUNT)))) {
        fput_light(ref);
        return -EFAULT;
    }
    iovec one;
    msghdr_iter msg = single_range(one, ubuf, size);
    msg.flags = static_cast<int>(flags);
    sockaddr_storage address;
    if (addr) msg.name = &address;
    r = sock_recvmsg(ref, msg);
    if (r >= 0 && addr) {
        const int err = move_addr_to_user(address, static_cast<int>(msg.namelen), addr, addr_len);
        if (err) r = err;
    }
    fput_light(ref);
    return r;
}

namespace {

// Copies the program's msghdr (Linux: copy_msghdr_from_user) and calls with it and with room for the buffers' list
// and the control messages. What is in the copy has to be written back.
template <class Call> i64 with_msghdr(const msghdr* umsg, Call call) {
    msghdr user;
    if (get_user(user, umsg)) return -EFAULT;
    if (static_cast<int>(user.msg_namelen) < 0) return -EINVAL;
    user.msg_namelen = min_of<u32>(user.msg_namelen, sizeof(sockaddr_storage));
    if (!user.msg_name) user.msg_namelen = 0;
    if (user.msg_iovlen > UIO_MAXIOV) return -EMSGSIZE;
    struct alignas(cmsghdr) word {
        u8 bytes[alignof(cmsghdr)];
    };
    constexpr std::size_t few = 256 / sizeof(word), most = control_max / sizeof(word);
    return with_iovecs(user.msg_iovlen, [&](iovec* iov) {
        const auto with_control = [&](word* control) -> i64 {
            iovec none;
            msghdr_iter msg = single_range(none, nullptr, 0);
            const i64 err = import_iovec(user.msg_iov, user.msg_iovlen, iov, msg.iter);
            return err < 0 ? err : call(msg, user, control->bytes);
        };
        return with_array<word, few, most>(user.msg_controllen / sizeof(word) + 1, with_control);
    });
}

i64 send_one(socket_ref& ref, const msghdr* umsg, unsigned flags) {
    return with_msghdr(umsg, [&](msghdr_iter& msg, const msghdr& user, u8* control) -> i64 {
        sockaddr_storage address;
        if (user.msg_name && user.msg_namelen) {
            const int bad =
                move_addr_to_kernel(user.msg_name, static_cast<int>(user.msg_namelen), address);
            if (bad) return bad;
            msg.name = &address;
            msg.namelen = user.msg_namelen;
        }
        if (user.msg_controllen) {
            if (user.msg_controllen > INT_MAX || user.msg_controllen > control_max) return -ENOBUFS;
            if (copy_from_user(control, user.msg_control, user.msg_controllen)) return -EFAULT;
            msg.control = control;
            msg.controllen = static_cast<u32>(user.msg_controllen);
        }
        msg.flags = static_cast<int>(flags);
        return sock_sendmsg(ref, msg);
    });
}

i64 recv_one(socket_ref& ref, msghdr* umsg, unsigned flags) {
    return with_msghdr(umsg, [&](msghdr_iter& msg, const msghdr& user, u8* control) -> i64 {
        sockaddr_storage address;
        if (user.msg_name) msg.name = &address;
        msg.out_control = control;
        msg.out_control_len =
            static_cast<u32>(min_of<std::size_t>(user.msg_controllen, control_max));
        msg.flags = static_cast<int>(flags) & ~MSG_CMSG_CLOEXEC;
        const i64 r = sock_recvmsg(ref, msg);
        if (r < 0) return r;
        if (user.msg_name) {
            const int bad = move_addr_to_user(address, static_cast<int>(msg.namelen), user.msg_name,
                                              &umsg->msg_namelen);
            if (bad) return bad;
        }
        const int out_flags =
            (msg.flags & ~MSG_DONTWAIT) | (static_cast<int>(flags) & MSG_CMSG_CLOEXEC);
        // Linux: a control message that cannot be stored is left out, and the call succeeds.
        std::size_t used = msg.out_control_used;
        if (copy_to_user(user.msg_control, control, used)) used = 0;
        if (put_user(out_flags, &umsg->msg_flags) || put_user(used, &umsg->msg_controllen)) {
            return -EFAULT;
        }
        return r;
    });
}

} // namespace

long sys_sendmsg(int fd, const msghdr* umsg, unsigned flags) {
    socket_ref ref;
    long r = sockfd_lookup_light(fd, ref);
    if (r) return r;
    r = send_one(ref, umsg, flags);
    fput_light(ref);
    return r;
}

long sys_recvmsg(int fd, msghdr* umsg, unsigned flags) {
    socket_ref ref;
    long r = sockfd_lookup_light(fd, ref);
    if (r) return r;
    r = recv_one(ref, umsg, flags);
    fput_light(ref);
    return r;
}

long sys_sendmmsg(int fd, mmsghdr* umsg, unsigned vlen, unsigned flags) {
    socket_ref ref;
    long r = sockfd_lookup_light(fd, ref);
    if (r) return r;
    unsigned done = 0;
    vlen = min_of<unsigned>(vlen, UIO_MAXIOV);
    while (done < vlen) {
        r = send_one(ref, &umsg[done].msg_hdr, flags);
        if (r < 0) break;
        if (put_user(static_cast<unsigned>(r), &umsg[done].msg_len)) {
            r = -EFAULT;
            break;
        }
        ++done;
    }
    fput_light(ref);
    return done ? static_cast<long>(done) : r;
}

long sys_recvmmsg(int fd, mmsghdr* umsg, unsigned vlen, unsigned flags, timespec* utimeout) {
    timespec timeout{};
    u64 end_us = 0;
    if (utimeout) {
        if (get_user(timeout, utimeout)) return -EFAULT;
        if (timeout.tv_sec < 0 || timeout.tv_nsec < 0 || timeout.tv_nsec >= 1000000000) {
            return -EINVAL;
        }
        // For ever is far enough away to be added to.
        const u64 seconds = min_of(static_cast<u64>(timeout.tv_sec), u64{1} << 40);
        end_us = monotonic_us() + seconds * 1000000 + static_cast<u64>(timeout.tv_nsec) / 1000;
    }
    socket_ref ref;
    long r = sockfd_lookup_light(fd, ref);
    if (r) return r;
    // An error left behind by the call before (below) is this call's.
    sock* sk = socket_sk(*ref.sock);
    if (sk) r = sock_error(*sk);
    unsigned done = 0;
    while (r == 0 && done < vlen) {
        r = recv_one(ref, &umsg[done].msg_hdr, flags & ~static_cast<unsigned>(MSG_WAITFORONE));
        if (r < 0) break;
        if (put_user(static_cast<unsigned>(r), &umsg[done].msg_len)) {
            r = -EFAULT;
            break;
        }
        r = 0;
        ++done;
        if (flags & MSG_WAITFORONE) flags |= MSG_DONTWAIT;
        if (utimeout && monotonic_us() >= end_us) break;
    }
    // Messages were received, so the error has to wait for the next call (Linux: do_recvmmsg).
    if (done && r < 0 && r != -EAGAIN && sk) sk->sk_err.store(static_cast<u32>(-r));
    fput_light(ref);
    if (utimeout && done) {
        const u64 now = monotonic_us();
        const u64 left = end_us > now ? end_us - now : 0;
        timeout = {static_cast<time_t>(left / 1000000), static_cast<long>(left % 1000000 * 1000)};
        if (put_user(timeout, utimeout)) return -EFAULT;
    }
    return done ? static_cast<long>(done) : r;
}

} // namespace sockshim
