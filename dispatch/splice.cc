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
        if (got == -EISDIR) return -EINVAL; // where there is nothing to splice from
        if (got <= 0) return done || !got ? static_cast<long>(done) : got;
        const bool more = done + static_cast<std::size_t>(got) < n;
        const i64 sent = send_piece(ref, piece, static_cast<std::size_t>(got), more ? MSG_MORE : 0);
        if (sent < 0) return done ? static_cast<long>(done) : sent;
        if (position)
            *position += sent;
        else
            raw_syscall(SYS_lseek, in, at + sent, SEEK_SET);
        done += static_cast<std::size_t>(sent);
        if (sent < got) break;
    }
    return static_cast<long>(done);
}

} // namespace

namespace {

int access_mode(int fd) {
    const long flags = raw_syscall(SYS_fcntl, fd, F_GETFL);
    return flags & O_PATH ? O_PATH : static_cast<int>(flags & O_ACCMODE);
}
bool readable(int fd) { return access_mode(fd) == O_RDONLY || access_mode(fd) == O_RDWR; }
bool writable(int fd) { return access_mode(fd) == O_WRONLY || access_mode(fd) == O_RDWR; }
bool is_open(int fd) {
    return fd_classify(fd) != FD_INTERNAL && raw_syscall(SYS_fcntl, fd, F_GETFD) >= 0;
}
bool is_pipe(int fd) { return raw_syscall(SYS_fcntl, fd, F_GETPIPE_SZ) >= 0; }
constexpr unsigned splice_flags = SPLICE_F_MOVE | SPLICE_F_NONBLOCK | SPLICE_F_MORE | SPLICE_F_GIFT;
bool nonblocking(int fd) { return raw_syscall(SYS_fcntl, fd, F_GETFL) & O_NONBLOCK; }

// What the pipe is ready for; waits unless told not to. 0: nothing yet, or a handler came.
int pipe_ready(int pipe, int events, bool wait) {
    pollfd p{pipe, static_cast<short>(events), 0};
    timespec now{};
    const long r = raw_syscall(SYS_ppoll, ptr_arg(&p), 1, wait ? 0 : ptr_arg(&now), 0, 8);
    return r > 0 ? p.revents : 0;
}

// As much as goes in without waiting.
long write_to_pipe(int pipe, u8* from, std::size_t n) {
    iovec one{from, n};
    const long r = raw_syscall(SYS_pwritev2, pipe, ptr_arg(&one), 1, -1, -1, RWF_NOWAIT);
    if (r != -EOPNOTSUPP) return r;
    // A pipe that says POLLOUT takes PIPE_BUF at once.
    return raw_syscall(SYS_write, pipe, ptr_arg(from), min_of<long>(static_cast<long>(n), 4096));
}

// Socket to pipe: what the pipe takes is peeked first and consumed after, so nothing is lost when the
// pipe takes less. Room in the pipe comes first; whether the socket waits is O_NONBLOCK's business alone.
long splice_from_socket(socket_ref& ref, int pipe, std::size_t n, unsigned flags) {
    const bool wait = !(flags & SPLICE_F_NONBLOCK) && !nonblocking(pipe);
    if (!pipe_ready(pipe, POLLOUT, wait)) return wait ? -EINTR : -EAGAIN;
    u8 piece[piece_bytes];
    iovec one{piece, min_of(n, piece_bytes)};
    msghdr_iter msg{};
    msg.iter = {&one, 1, 0, one.iov_len};
    msg.flags = MSG_PEEK;
    const i64 seen = sock_recvmsg(ref, msg);
    if (seen <= 0) return seen;
    const long wrote = write_to_pipe(pipe, piece, static_cast<std::size_t>(seen));
    if (wrote <= 0) return wrote;
    one = {piece, static_cast<std::size_t>(wrote)};
    msg = {};
    msg.iter = {&one, 1, 0, one.iov_len};
    const i64 taken = sock_recvmsg(ref, msg);
    return taken < 0 ? taken : wrote;
}

// Pipe to socket. What has been taken from the pipe has to arrive: the socket's refusals come before.
long splice_to_socket(socket_ref& ref, int pipe, std::size_t n, unsigned flags) {
    socket& sock = *ref.sock;
    const proto_ops& ops = ops_of(sock.ops_id);
    const bool wait = !(flags & SPLICE_F_NONBLOCK) && !nonblocking(pipe);
    const int ready = pipe_ready(pipe, POLLIN, wait);
    if (!ready) return wait ? -EINTR : -EAGAIN;
    if (!(ready & POLLIN)) return 0; // nobody writes any more
    u8 piece[piece_bytes];
    const unsigned state = ops.poll(sock);
    if (sock.type == SOCK_STREAM && state & (POLLERR | POLLHUP)) {
        const i64 r = send_piece(ref, piece, 0, 0);
        if (r < 0) return r;
    }
    std::size_t room = sizeof piece;
    if (socket_nonblock(sock)) {
        if (!(state & POLLOUT)) return -EAGAIN;
        room = 4096;
    }
    const long got =
        raw_syscall(SYS_read, pipe, ptr_arg(piece), static_cast<long>(min_of(n, room)));
    if (got <= 0) return got;
    const auto whole = static_cast<std::size_t>(got);
    const int more = flags & SPLICE_F_MORE ? MSG_MORE : 0;
    std::size_t done = 0;
    i64 sent = send_piece(ref, piece, whole, more);
    // The rest is waited for, O_NONBLOCK or not.
    while (sent == -EAGAIN || (sent > 0 && (done += static_cast<std::size_t>(sent)) < whole)) {
        iovec one{piece + done, whole - done};
        msghdr_iter msg{};
        msg.iter = {&one, 1, 0, whole - done};
        msg.flags = more;
        sent = ops.sendmsg(sock, msg);
    }
    return sent < 0 && !done ? sent : static_cast<long>(done);
}

// From our socket: only a pipe takes it.
long sendfile_from_socket(int out, int in, const i64* uoffset, std::size_t n) {
    i64 position = 0;
    if (uoffset) return get_user(position, uoffset) ? -EFAULT : -ESPIPE;
    if (!is_socket_of_ours(out) && (!is_open(out) || !writable(out))) return -EBADF;
    if (!is_pipe(out)) return -EINVAL;
    socket_ref ref;
    long r = sockfd_lookup_light(in, ref);
    if (r) return r == SYS_NOT_OURS ? -EBADF : r;
    r = n ? splice_from_socket(ref, out, n, 0) : 0;
    fput_light(ref);
    return r;
}

} // namespace

long ksys_sendfile(int out, int in, i64* uoffset, std::size_t n) {
    if (is_socket_of_ours(in)) return sendfile_from_socket(out, in, uoffset, n);
    socket_ref ref;
    if (const long err = sockfd_lookup_light(out, ref)) return err;
    i64 position = 0;
    long r = 0;
    if (uoffset && get_user(position, uoffset))
        r = -EFAULT;
    else if (!is_open(in) || !readable(in))
        r = -EBADF;
    else if (position < 0)
        r = -EINVAL;
    else if (ref.sock->flags.load() & SOCKF_APPEND)
        r = -EINVAL;
    else
        r = send_from(ref, in, uoffset ? &position : nullptr, min_of<std::size_t>(n, 0x7ffff000));
    if (r >= 0 && uoffset && put_user(position, uoffset)) r = -EFAULT;
    fput_light(ref);
    return r;
}

long ksys_splice(int in, i64* off_in, int out, i64* off_out, std::size_t n, unsigned flags) {
    const bool from = is_socket_of_ours(in), to = is_socket_of_ours(out);
    if (!from && !to) return SYS_NOT_OURS;
    if (!n) return 0;
    if (flags & ~splice_flags) return -EINVAL;
    const int other = from ? out : in;
    if (!is_open(other)) return -EBADF;
    const bool pipe = !(from && to) && is_pipe(other);
    // No offset in a pipe; on the socket's side it is read, and refused.
    if (pipe && (from ? off_out : off_in)) return -ESPIPE;
    i64 offset = 0;
    if ((off_out && get_user(offset, off_out)) || (off_in && get_user(offset, off_in))) {
        return -EFAULT;
    }
    if (!(from && to) && !(from ? writable(out) : readable(in))) return -EBADF;
    if (!pipe || off_in || off_out) return -EINVAL;
    socket_ref ref;
    long r = sockfd_lookup_light(from ? in : out, ref);
    if (r) return r;
    if (from)
        r = splice_from_socket(ref, other, n, flags);
    else if (ref.sock->flags.load() & SOCKF_APPEND)
        r = -EINVAL;
    else
        r = splice_to_socket(ref, other, n, flags);
    fput_light(ref);
    return r;
}

// Only from pipe to pipe.
long ksys_tee(int in, int out, std::size_t n, unsigned flags) {
    const bool from = is_socket_of_ours(in), to = is_socket_of_ours(out);
    if (!from && !to) return SYS_NOT_OURS;
    if (flags & ~splice_flags) return -EINVAL;
    if (!n) return 0;
    if (!from && (!is_open(in) || !readable(in))) return -EBADF;
    if (!to && (!is_open(out) || !writable(out))) return -EBADF;
    return -EINVAL;
}

// To or from a pipe only; a list of nothing is fine anywhere.
long ksys_vmsplice(int fd, const iovec* iov, std::size_t n, unsigned flags) {
    if (!is_socket_of_ours(fd)) return SYS_NOT_OURS;
    if (flags & ~splice_flags) return -EINVAL;
    iovec store[UIO_MAXIOV];
    iov_iter it;
    const i64 total = import_iovec(iov, n, store, it);
    return total > 0 ? -EBADF : total;
}

} // namespace sockshim
