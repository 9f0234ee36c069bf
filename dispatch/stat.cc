// fstat and statx of our sockets: what sockfs says, where the kernel would say what the carrier is.
#include <cerrno>
#include <fcntl.h>
#include <sys/sysmacros.h>

#include "core/base/raw_syscall.h"
#include "core/sync/uaccess.h"
#include "dispatch/fd_table.h"
#include "dispatch/ksys.h"

namespace sockshim {

namespace {

// A socket of the kernel's, for what all sockets share. -errno: there is no descriptor to be had.
int stand_in() {
    return static_cast<int>(raw_syscall(SYS_socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

// sockfs's device. It is another one on every machine, and the same as long as that runs.
u64 sockfs_device() {
    static constinit a64 known{0};
    if (const u64 device = known.load()) return device;
    const int s = stand_in();
    if (s < 0) return 0;
    struct stat st {};
    raw_syscall(SYS_fstat, s, ptr_arg(&st));
    raw_syscall(SYS_close, s);
    known.store(st.st_dev);
    return st.st_dev;
}

// A carrier's inode is its cell's; a socket's is its own, and none that the kernel gives a socket of its
// (those have 32 bits).
u64 socket_inode(u64 carriers, u64 cell) {
    return u64{slab_handle_at<socket>(static_cast<u32>(cell)).gen} << 32 | carriers;
}

bool empty_path(const char* path) {
    char first = 0;
    return !path || (get_user(first, path) == 0 && !first);
}

} // namespace

// Inode and owner are the carrier's, whose modification time names the cell (core/net/carrier.h).
void show_socket(struct stat& carrier) {
    if (S_ISSOCK(carrier.st_mode)) return; // the kernel's half
    struct stat st {};
    st.st_ino = socket_inode(carrier.st_ino, static_cast<u64>(carrier.st_mtim.tv_nsec));
    st.st_uid = carrier.st_uid;
    st.st_gid = carrier.st_gid;
    st.st_mode = S_IFSOCK | 0777;
    st.st_nlink = 1;
    st.st_dev = sockfs_device();
    st.st_blksize = 4096;
    carrier = st;
}

// Which fields there are is the kernel's to say: asked of a socket of its own.
void show_socket(struct statx& carrier, unsigned mask) {
    if (S_ISSOCK(carrier.stx_mode)) return;
    struct statx stx {};
    const int s = stand_in();
    if (s < 0 || raw_syscall(SYS_statx, s, ptr_arg(""), AT_EMPTY_PATH, static_cast<long>(mask),
                             ptr_arg(&stx)) < 0) {
        const u64 device = sockfs_device();
        stx.stx_mask = STATX_BASIC_STATS;
        stx.stx_mode = S_IFSOCK | 0777;
        stx.stx_nlink = 1;
        stx.stx_blksize = 4096;
        stx.stx_dev_major = major(device);
        stx.stx_dev_minor = minor(device);
    }
    if (s >= 0) raw_syscall(SYS_close, s);
    stx.stx_ino = socket_inode(carrier.stx_ino, carrier.stx_mtime.tv_nsec);
    stx.stx_uid = carrier.stx_uid;
    stx.stx_gid = carrier.stx_gid;
    carrier = stx;
}

long ksys_fstat(int fd, struct stat* ust) {
    if (const long err = ours(fd)) return err;
    struct stat st {};
    const long r = raw_syscall(SYS_fstat, fd, ptr_arg(&st));
    if (r < 0) return r;
    show_socket(st);
    return copy_to_user(ust, &st, sizeof st);
}

long ksys_fstatat(int dirfd, const char* path, struct stat* st, int flags) {
    if (!(flags & AT_EMPTY_PATH) || !empty_path(path)) return SYS_NOT_OURS;
    return ksys_fstat(dirfd, st);
}

long ksys_statx(int dirfd, const char* path, int flags, unsigned mask, struct statx* ustx) {
    if (!(flags & AT_EMPTY_PATH) || !empty_path(path)) return SYS_NOT_OURS;
    if (const long err = ours(dirfd)) return err;
    struct statx stx {};
    const long r = raw_syscall(SYS_statx, dirfd, ptr_arg(""), flags,
                               static_cast<long>(mask | STATX_BASIC_STATS), ptr_arg(&stx));
    if (r < 0) return r;
    show_socket(stx, mask);
    return copy_to_user(ustx, &stx, sizeof stx);
}

} // namespace sockshim
