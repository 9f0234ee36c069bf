// The audit around the file operations: what sockshim_socketcall does for the socket calls. The trace
// hangs here.
#include "dispatch/syscalls.h"

#include <type_traits>

#include "core/trace/trace.h"
#include "dispatch/fd_table.h"
#include "dispatch/ksys.h"

namespace sockshim {

namespace {

template <class T> unsigned long as_word(T v) {
    if constexpr (std::is_pointer_v<T>) {
        return reinterpret_cast<unsigned long>(v);
    } else {
        return static_cast<unsigned long>(static_cast<long>(v));
    }
}

// Of what is not ours the kernel's sockets and epoll sets are worth a record, other files are not.
bool libcs(unsigned long fd) { return fd_is_libc_traced(static_cast<int>(fd)); }

template <class... Params, class... Args>
[[gnu::always_inline]] inline long audited(u32 nr, long (*call)(Params...), Args... args) {
    if (SOCKSHIM_LIKELY(!trace_enabled)) return call(args...);
    const unsigned long words[] = {as_word(args)...};
    trace_begin(nr, words, sizeof...(args));
    const bool before = libcs(words[0]); // a close forgets it
    const long r = call(args...);
    if (r == SYS_NOT_OURS && (before || libcs(words[0]))) trace_handed_over();
    trace_end(r);
    return r;
}

} // namespace

long sys_read(int fd, void* buf, std::size_t n) {
    return audited(TRACE_READ, ksys_read, fd, buf, n);
}
long sys_readv(int fd, const iovec* iov, int n) {
    return audited(TRACE_READV, ksys_readv, fd, iov, n);
}
long sys_write(int fd, const void* buf, std::size_t n) {
    return audited(TRACE_WRITE, ksys_write, fd, buf, n);
}
long sys_writev(int fd, const iovec* iov, int n) {
    return audited(TRACE_WRITEV, ksys_writev, fd, iov, n);
}
long sys_preadv2(int fd, const iovec* iov, int n, i64 offset, int flags) {
    return audited(TRACE_PREADV2, ksys_preadv2, fd, iov, n, offset, flags);
}
long sys_pwritev2(int fd, const iovec* iov, int n, i64 offset, int flags) {
    return audited(TRACE_PWRITEV2, ksys_pwritev2, fd, iov, n, offset, flags);
}
long sys_close(int fd) { return audited(TRACE_CLOSE, ksys_close, fd); }
long sys_close_range(unsigned first, unsigned last, unsigned flags) {
    return audited(TRACE_CLOSE_RANGE, ksys_close_range, first, last, flags);
}
long sys_dup(int fd) { return audited(TRACE_DUP, ksys_dup, fd); }
long sys_dup2(int oldfd, int newfd) { return audited(TRACE_DUP2, ksys_dup2, oldfd, newfd); }
long sys_dup3(int oldfd, int newfd, int flags) {
    return audited(TRACE_DUP3, ksys_dup3, oldfd, newfd, flags);
}
long sys_fcntl(int fd, int cmd, unsigned long arg) {
    return audited(TRACE_FCNTL, ksys_fcntl, fd, cmd, arg);
}
long sys_ioctl(int fd, unsigned long cmd, unsigned long arg) {
    return audited(TRACE_IOCTL, ksys_ioctl, fd, cmd, arg);
}
long sys_fstat(int fd, struct stat* st) { return audited(TRACE_FSTAT, ksys_fstat, fd, st); }
long sys_fstatat(int dirfd, const char* path, struct stat* st, int flags) {
    return audited(TRACE_FSTATAT, ksys_fstatat, dirfd, path, st, flags);
}
long sys_statx(int dirfd, const char* path, int flags, unsigned mask, struct statx* stx) {
    return audited(TRACE_STATX, ksys_statx, dirfd, path, flags, mask, stx);
}
long sys_lseek(int fd, i64 offset, int whence) {
    return audited(TRACE_LSEEK, ksys_lseek, fd, offset, whence);
}
long sys_ftruncate(int fd, i64 len) { return audited(TRACE_FTRUNCATE, ksys_ftruncate, fd, len); }
long sys_fsync(int fd) { return audited(TRACE_FSYNC, ksys_fsync, fd); }
long sys_mmap_check(int fd) { return audited(TRACE_MMAP, ksys_mmap_check, fd); }
long sys_sendfile(int out, int in, i64* offset, std::size_t n) {
    return audited(TRACE_SENDFILE, ksys_sendfile, out, in, offset, n);
}
long sys_splice(int in, i64* off_in, int out, i64* off_out, std::size_t n, unsigned flags) {
    return audited(TRACE_SPLICE, ksys_splice, in, off_in, out, off_out, n, flags);
}
long sys_copy_file_range(int in, i64* off_in, int out, i64* off_out, std::size_t n,
                         unsigned flags) {
    return audited(TRACE_COPY_FILE_RANGE, ksys_copy_file_range, in, off_in, out, off_out, n, flags);
}
long sys_tee(int in, int out, std::size_t n, unsigned flags) {
    return audited(TRACE_TEE, ksys_tee, in, out, n, flags);
}
long sys_vmsplice(int fd, const iovec* iov, std::size_t n, unsigned flags) {
    return audited(TRACE_VMSPLICE, ksys_vmsplice, fd, iov, n, flags);
}

} // namespace sockshim
