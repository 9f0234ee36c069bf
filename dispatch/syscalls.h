// The calls as the kernel would see them: what preload/ calls for a descriptor that may be ours. All
// return the call's result or -errno. Arguments are the program's, unchecked.
//
// Socket calls go through sockshim_socketcall (socketcall.h) and nothing else; the functions here are
// the file operations and what works on descriptors. Each one that takes an fd may be called for any
// descriptor: where it turns out to be libc's, it answers SYS_NOT_OURS and the caller goes to libc.
#pragma once
#include <csignal>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "core/base/types.h"

extern "C" __attribute__((visibility("default"))) long sockshim_socketcall(int call,
                                                                           unsigned long* args);

namespace sockshim {

inline constexpr long SYS_NOT_OURS = -4096; // below every errno; "ask libc"

// file operations on our sockets (dispatch/file.cc)
long sys_read(int fd, void* buf, std::size_t n);
long sys_readv(int fd, const iovec* iov, int n);
long sys_write(int fd, const void* buf, std::size_t n);
long sys_writev(int fd, const iovec* iov, int n);
long sys_preadv2(int fd, const iovec* iov, int n, i64 offset, int flags); // offset -1: none
long sys_pwritev2(int fd, const iovec* iov, int n, i64 offset, int flags);
long sys_close(int fd);
long sys_close_range(unsigned first, unsigned last, unsigned flags); // internals are spared
long sys_dup(int fd);
long sys_dup2(int oldfd, int newfd);
long sys_dup3(int oldfd, int newfd, int flags);
long sys_fcntl(int fd, int cmd, unsigned long arg);
long sys_ioctl(int fd, unsigned long cmd, unsigned long arg);
long sys_fstat(int fd, struct stat* st);
// What was said of a carrier becomes what is said of a socket.
void show_socket(struct stat& st);
void show_socket(struct statx& st, unsigned mask);
long sys_fstatat(int dirfd, const char* path, struct stat* st, int flags); // AT_EMPTY_PATH on ours
long sys_statx(int dirfd, const char* path, int flags, unsigned mask, struct statx* stx);
long sys_lseek(int fd, i64 offset, int whence); // ESPIPE
long sys_ftruncate(int fd, i64 len);            // EINVAL
long sys_fsync(int fd);                         // EINVAL
long sys_mmap_check(int fd);                    // errno that mmap of ours gives
long sys_sendfile(int out, int in, i64* offset, std::size_t n);
long sys_splice(int in, i64* off_in, int out, i64* off_out, std::size_t n, unsigned flags);
long sys_copy_file_range(int in, i64* off_in, int out, i64* off_out, std::size_t n, unsigned flags);
long sys_tee(int in, int out, std::size_t n, unsigned flags);
long sys_vmsplice(int fd, const iovec* iov, std::size_t n, unsigned flags);

// readiness (dispatch/select.cc, dispatch/eventpoll.cc); sets with no descriptor of ours in them are
// SYS_NOT_OURS. Timeouts: null or negative for ever; sigmask may be null.
long sys_poll(pollfd* fds, unsigned long nfds, const timespec* timeout, const sigset_t* mask);
long sys_select(int nfds, fd_set* r, fd_set* w, fd_set* x, timespec* timeout, const sigset_t* mask);
long sys_epoll_create(int flags);
long sys_epoll_ctl(int epfd, int op, int fd, epoll_event* ev);
long sys_epoll_wait(int epfd, epoll_event* events, int maxevents, const timespec* timeout,
                    const sigset_t* mask);

// Descriptors that arrived by SCM_RIGHTS in a message received by libc; and those about to be sent
// (their carriers get their lock before they leave).
void scm_received(msghdr* msg);
bool scm_sending(const msghdr* msg); // is there a socket of ours in it?

// process life (dispatch/process.cc)
void process_before_fork();
void process_fork_failed();
void process_after_fork_child();
// posix_spawn, system, popen: children that inherit descriptors without passing our fork.
void process_before_spawn();
void process_before_exec();
void process_exec_failed();
// False in a child that shares our memory and is not a vfork child that preload/ knows (whose calls do not
// come here): it must not touch our state. Asked of the kernel only after such a child was announced.
bool process_is_self();
void process_shares_memory();

} // namespace sockshim
