// Calls on files that treat all sockets alike, and names in /proc that lead to sockets.
#include <cstring>
#include <fcntl.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "core/arena/arena.h"
#include "core/base/raw_syscall.h"
#include "core/sync/uaccess.h"
#include "preload/carrier_seen.h"
#include "preload/wrap.h"

using namespace sockshim;

namespace {

// What the kernel says to such a call on a socket does not depend on which socket it is: asked of one of
// its own, and our carrier, a file that the call might harm, is left out.
template <class Call, class... Args>
[[gnu::noinline]] auto alike_slow(u32 nr, Call call, int fd, Args... args) {
    const unsigned long words[] = {word(fd), word(args)...};
    trace_begin(nr, words, sizeof...(args) + 1);
    const fd_kind kind = fd_classify(fd);
    int asked = kind == FD_INTERNAL ? -1 : fd;
    if (kind == FD_SOCKET) {
        asked = static_cast<int>(raw_syscall(SYS_socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    }
    if (kind == FD_SOCKET || fd_is_libc_traced(fd)) trace_handed_over();
    trace_end(SYS_NOT_OURS);
    const auto r = call(asked, args...);
    trace_libc_result(r == -1 ? -errno : static_cast<long>(r));
    if (kind == FD_SOCKET && asked >= 0) raw_syscall(SYS_close, asked);
    return r;
}

template <class Call, class... Args>
[[gnu::always_inline]] inline auto alike(u32 nr, Call call, int fd, Args... args) {
    if (SOCKSHIM_LIKELY(fd_is_libc(fd)) || in_vfork_child()) return call(fd, args...);
    return alike_slow(nr, call, fd, args...);
}

} // namespace

SOCKSHIM_WRAP(int, fstatfs, (int fd, struct statfs* st)) {
    return alike(TRACE_FSTATFS, real::fstatfs, fd, st);
}
SOCKSHIM_WRAP_ALIAS(fstatfs64, fstatfs)

SOCKSHIM_WRAP(int, fstatvfs, (int fd, struct statvfs* st)) {
    return alike(TRACE_FSTATFS, real::fstatvfs, fd, st);
}
SOCKSHIM_WRAP_ALIAS(fstatvfs64, fstatvfs)

// Its answer is the errno itself.
SOCKSHIM_WRAP(int, posix_fallocate, (int fd, off_t offset, off_t len)) {
    const auto negated = [](int f, int, off_t from, off_t n) {
        return -real::posix_fallocate(f, from, n);
    };
    return -alike(TRACE_FALLOCATE, negated, fd, 0, offset, len);
}
SOCKSHIM_WRAP_ALIAS(posix_fallocate64, posix_fallocate)

SOCKSHIM_WRAP(int, fallocate, (int fd, int mode, off_t offset, off_t len)) {
    return alike(TRACE_FALLOCATE, real::fallocate, fd, mode, offset, len);
}
SOCKSHIM_WRAP_ALIAS(fallocate64, fallocate)

SOCKSHIM_WRAP(ssize_t, readahead, (int fd, off_t offset, size_t n)) {
    return alike(TRACE_READAHEAD, real::readahead, fd, offset, n);
}

SOCKSHIM_WRAP(int, sync_file_range, (int fd, off_t offset, off_t n, unsigned flags)) {
    return alike(TRACE_SYNC_FILE_RANGE, real::sync_file_range, fd, offset, n, flags);
}

// Guards nothing on a socket, and would lie beside the heartbeat (core/net/carrier.h).
SOCKSHIM_WRAP(int, lockf, (int fd, int cmd, off_t len)) {
    return alike(TRACE_LOCKF, real::lockf, fd, cmd, len);
}
SOCKSHIM_WRAP_ALIAS(lockf64, lockf)

// The mode would keep others from opening the carrier, the times say which socket it is.
SOCKSHIM_WRAP(int, fchmod, (int fd, mode_t mode)) {
    return alike(TRACE_FCHMOD, real::fchmod, fd, mode);
}
SOCKSHIM_WRAP(int, fchown, (int fd, uid_t user, gid_t group)) {
    return alike(TRACE_FCHOWN, real::fchown, fd, user, group);
}
SOCKSHIM_WRAP(int, futimens, (int fd, const timespec* times)) {
    return alike(TRACE_FUTIMENS, real::futimens, fd, times);
}
SOCKSHIM_WRAP(int, futimes, (int fd, const timeval* times)) {
    return alike(TRACE_FUTIMENS, real::futimes, fd, times);
}

// --- /proc ------------------------------------------------------------------------------------------------

namespace sockshim {

static bool is_carrier(u64 device, u64 inode, u64 nanoseconds) {
    return device == arena_device() && nanoseconds < region_shapes[REGION_SOCKET].max_cells &&
           carrier_inode(static_cast<u32>(nanoseconds)).load() == inode;
}

void carrier_to_socket(struct stat& st) {
    if (is_carrier(st.st_dev, st.st_ino, static_cast<u64>(st.st_mtim.tv_nsec))) show_socket(st);
}

void carrier_to_socket(struct statx& st, unsigned mask) {
    if (is_carrier(makedev(st.stx_dev_major, st.stx_dev_minor), st.stx_ino, st.stx_mtime.tv_nsec)) {
        show_socket(st, mask);
    }
}

} // namespace sockshim

namespace {

// The link's text was that of a carrier: what Linux shows, cut as the text was.
[[gnu::noinline]] ssize_t carrier_link(int dir, const char* path, char* buf, size_t n,
                                       ssize_t length) {
    char text[512];
    const char* const directory = arena_directory();
    const size_t prefix = std::strlen(directory);
    const int saved_errno = errno;
    const ssize_t whole = real::readlinkat(dir, path, text, sizeof text - 1);
    errno = saved_errno;
    if (whole <= static_cast<ssize_t>(prefix + 1) || std::memcmp(text, directory, prefix) != 0 ||
        text[prefix] != '/' || text[prefix + 1] != 's') {
        return length;
    }
    struct stat st {};
    if (raw_syscall(SYS_newfstatat, dir, ptr_arg(path), ptr_arg(&st), 0) != 0) return length;
    show_socket(st);
    const int said =
        snprintf(text, sizeof text, "socket:[%lu]", static_cast<unsigned long>(st.st_ino));
    n = min_of(n, static_cast<size_t>(said));
    if (copy_to_user(buf, text, n) != 0) return length;
    return static_cast<ssize_t>(n);
}

inline ssize_t link_read(int dir, const char* path, char* buf, size_t n, ssize_t length) {
    if (SOCKSHIM_LIKELY(!process_active.load_relaxed()) || length <= 0) return length;
    const char* const directory = arena_directory();
    if (std::strncmp(buf, directory, min_of(static_cast<size_t>(length), std::strlen(directory))) !=
        0) {
        return length;
    }
    return carrier_link(dir, path, buf, n, length);
}

} // namespace

SOCKSHIM_WRAP(int, stat, (const char* path, struct stat* st)) {
    return show_as_socket(real::stat(path, st), st);
}
SOCKSHIM_WRAP_ALIAS(stat64, stat)

// Programs built for glibc before 2.33.
SOCKSHIM_WRAP(int, __xstat, (int version, const char* path, struct stat* st)) {
    return show_as_socket(real::__xstat(version, path, st), st);
}
SOCKSHIM_WRAP_ALIAS(__xstat64, __xstat)

SOCKSHIM_WRAP(ssize_t, readlink, (const char* path, char* buf, size_t n)) {
    return link_read(AT_FDCWD, path, buf, n, real::readlink(path, buf, n));
}

SOCKSHIM_WRAP(ssize_t, readlinkat, (int dir, const char* path, char* buf, size_t n)) {
    return link_read(dir, path, buf, n, real::readlinkat(dir, path, buf, n));
}

SOCKSHIM_WRAP(ssize_t, __readlink_chk, (const char* path, char* buf, size_t n, size_t room)) {
    if (n > room) return real::__readlink_chk(path, buf, n, room);
    return wrap_readlink(path, buf, n);
}

SOCKSHIM_WRAP(ssize_t, __readlinkat_chk,
              (int dir, const char* path, char* buf, size_t n, size_t room)) {
    if (n > room) return real::__readlinkat_chk(dir, path, buf, n, room);
    return wrap_readlinkat(dir, path, buf, n);
}
