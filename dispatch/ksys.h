// The file operations themselves (Linux: ksys_read and friends); dispatch/syscalls.cc puts the audit
// around them. Same contracts as the sys_* functions in syscalls.h.
#pragma once
#include "dispatch/syscalls.h"

namespace sockshim {

// For a call on a socket of ours that does not need the socket: 0, SYS_NOT_OURS, or -EBADF.
long ours(int fd);

long ksys_read(int fd, void* buf, std::size_t n);
long ksys_readv(int fd, const iovec* iov, int n);
long ksys_write(int fd, const void* buf, std::size_t n);
long ksys_writev(int fd, const iovec* iov, int n);
long ksys_preadv2(int fd, const iovec* iov, int n, i64 offset, int flags);
long ksys_pwritev2(int fd, const iovec* iov, int n, i64 offset, int flags);
long ksys_close(int fd);
long ksys_close_range(unsigned first, unsigned last, unsigned flags);
long ksys_dup(int fd);
long ksys_dup2(int oldfd, int newfd);
long ksys_dup3(int oldfd, int newfd, int flags);
long ksys_fcntl(int fd, int cmd, unsigned long arg);
long ksys_ioctl(int fd, unsigned long cmd, unsigned long arg);
long ksys_fstat(int fd, struct stat* st);
long ksys_fstatat(int dirfd, const char* path, struct stat* st, int flags);
long ksys_statx(int dirfd, const char* path, int flags, unsigned mask, struct statx* stx);
long ksys_lseek(int fd, i64 offset, int whence);
long ksys_ftruncate(int fd, i64 len);
long ksys_fsync(int fd);
long ksys_mmap_check(int fd);
long ksys_sendfile(int out, int in, i64* offset, std::size_t n);
long ksys_splice(int in, i64* off_in, int out, i64* off_out, std::size_t n, unsigned flags);
long ksys_copy_file_range(int in, i64* off_in, int out, i64* off_out, std::size_t n,
                          unsigned flags);
long ksys_tee(int in, int out, std::size_t n, unsigned flags);
long ksys_vmsplice(int fd, const iovec* iov, std::size_t n, unsigned flags);

} // namespace sockshim
