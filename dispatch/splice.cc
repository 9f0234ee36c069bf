// sendfile and splice where one end is a socket of ours (Linux: fs/splice.c). The other end is the
// kernel's; the bytes go through a buffer.
#include <cerrno>
#include <fcntl.h>
#include <poll.h>

#include "core/base/raw_syscall.h"
#include "core/net/proto.h"
#include "core/sync/uaccess.h"
#include "dispatch/ksys.h"
#include "dispatch/socketcall.h"

namespace sockshim {

namespace {

constexpr std::size_t piece_bytes = 32 * 1024;

bool is_socket_of_ours(int fd) { return fd_classify(fd) == FD_SOCKET; }

i64 send_piece(socket_ref& ref, u8* from, std::size_t n, int flags) {
    iovec one{from, n};
    msghdr_iter msg{};
    msg.iter = {&one, 1, 0, n};
    msg.flags = flags;
    return sock_sendmsg(ref, msg);
}

// Bytes from `in` at `position` (or at its own offset) to the socket until n, the end, or an error.
long send_from(socket_ref& ref, int in, i64* position, std::size_t n) {
    u8 piece[piece_bytes];
    std::size_t done = 0;
    while (done < n) {
        const std::size_t want = min_of(n - done, piece_bytes);
        const i64 at = position ? *position : raw_syscall(SYS_lseek, in, 0, SEEK_CUR);
        if (at < 0) return done ? static_cast<long>(done) : -EINVAL;
        const long got = raw_syscall(SYS_pread64, in, ptr_arg(piece), static_cast<long>(want), at);
        if (got <= 0) return done || !got ? static_cast<long>(done) : got;
        const bool more = done + static_cast<std::size_t>(got) < n;
        const i64 sent = send_piece(ref, piece, static_cast<std::size_t>(got),
                                    more ? MSG_MORE : 0);
        if (sent < 0) return done ? static_cast<long>(done) : sent;
        if (position) *position += sent;
        else raw_syscall(SYS_lseek, in, at + sent, SEEK_SET);
        done += static_cast<std::size_t>(sent);
        if (sent < got) break;
    }
    return static_cast<long>(done);
}

} // namespace

long ksys_sendfile(int out, int in, i64* uoffset, std::size_t n) {
    if (is_socket_of_ours(in)) return -EINVAL;
    socket_ref ref;
    if (const long err = sockfd_lookup_light(out, ref)) return err;
    i64 position = 0;
    long r = 0;
    if (uoffset && get_user(position, uoffset)) r = -EFAULT;
    else if (position < 0) r = -EINVAL;
    else if (raw_syscall(SYS_fcntl, in, F_GETFD) < 0) r = -EBADF;
    else r = send_from(ref, in, uoffset ? &position : nullptr, min_of<std::size_t>(n, 0x7ffff000));
    if (r >= 0 && uoffset && put_user(position, uoffset)) r = -EFAULT;
    fput_light(ref);
    return r;
}

namespace {

// Socket to pipe: what the pipe takes is peeked first and consumed after, so nothing is lost when the
// pipe takes less.
long splice_from_socket(socket_ref& ref, int pipe, std::size_t n, unsigned flags) {
    u8 piece[piece_bytes];
    iovec one{piece, min_of(n, piece_bytes)};
    msghdr_iter msg{};
    msg.iter = {&one, 1, 0, one.iov_len};
    msg.flags = MSG_PEEK | (flags & SPLICE_F_NONBLOCK ? MSG_DONTWAIT : 0);
    const i64 seen = sock_recvmsg(ref, msg);
    if (seen <= 0) return seen;
    pollfd p{pipe, POLLOUT, 0};
    timespec now{};
    if (raw_syscall(SYS_ppoll, ptr_arg(&p), 1, flags & SPLICE_F_NONBLOCK ? ptr_arg(&now) : 0, 0, 8) <= 0) {
        return -EAGAIN;
    }
    // A pipe that says POLLOUT takes at least PIPE_BUF at once without blocking.
    const long wrote = raw_syscall(SYS_write, pipe, ptr_arg(piece), min_of<long>(seen, 4096));
    if (wrote <= 0) return wrote;
    one = {piece, static_cast<std::size_t>(wrote)};
    msg = {};
    msg.iter = {&one, 1, 0, one.iov_len};
    return sock_recvmsg(ref, msg);
}

long splice_to_socket(socket_ref& ref, int pipe, std::size_t n, unsigned flags) {
    if (((flags & SPLICE_F_NONBLOCK) || socket_nonblock(*ref.sock)) &&
        !(ops_of(ref.sock->ops_id).poll(*ref.sock) & POLLOUT)) {
        return -EAGAIN;
    }
    u8 piece[4096];
    const long got = raw_syscall(SYS_read, pipe, ptr_arg(piece), min_of<std::size_t>(n, sizeof piece));
    if (got <= 0) return got;
    // Taken from the pipe it has to arrive: what does not fit at once is waited for.
    std::size_t done = 0;
    while (done < static_cast<std::size_t>(got)) {
        const i64 sent = send_piece(ref, piece + done, static_cast<std::size_t>(got) - done,
                                    flags & SPLICE_F_MORE ? MSG_MORE : 0);
        if (sent == -EAGAIN) {
            raw_syscall(SYS_sched_yield);
            continue;
        }
        if (sent < 0) return done ? static_cast<long>(done) : sent;
        done += static_cast<std::size_t>(sent);
    }
    return static_cast<long>(done);
}

bool is_pipe(int fd) { return raw_syscall(SYS_fcntl, fd, F_GETPIPE_SZ) >= 0; }

} // namespace

long ksys_splice(int in, i64* off_in, int out, i64* off_out, std::size_t n, unsigned flags) {
    const bool from = is_socket_of_ours(in), to = is_socket_of_ours(out);
    if (!from && !to) return SYS_NOT_OURS;
    const int other = from ? out : in;
    if (from && to) return -EINVAL;
    if (raw_syscall(SYS_fcntl, other, F_GETFD) < 0) return -EBADF;
    if (flags & ~static_cast<unsigned>(SPLICE_F_MOVE | SPLICE_F_NONBLOCK | SPLICE_F_MORE |
                                       SPLICE_F_GIFT)) {
        return -EINVAL;
    }
    if (!is_pipe(other)) return -EINVAL;
    if (off_in || off_out) return -ESPIPE;
    if (!n) return 0;
    socket_ref ref;
    long r = sockfd_lookup_light(from ? in : out, ref);
    if (r) return r;
    r = from ? splice_from_socket(ref, other, n, flags) : splice_to_socket(ref, other, n, flags);
    fput_light(ref);
    return r;
}

} // namespace sockshim
