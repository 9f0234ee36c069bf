// The calls that are traced: name and kinds of their arguments, one row each. Private to core/trace/.
#pragma once
#include "core/trace/trace.h"

namespace sockshim::trace {

// What an argument is decides what is copied when the call begins and ends (capture.cc) and how it is
// printed (decode_call.cc). Where one needs a length, it is the next argument.
enum arg_kind : u8 {
    A_NONE,
    A_INT,
    A_ULONG,
    A_PTR,
    A_OFFSET,     // off64_t by value
    A_OFFSET_PTR, // off64_t*, in and out
    A_FAMILY,
    A_SOCK_TYPE,
    A_PROTOCOL,
    A_ADDR_IN,
    A_ADDR_OUT, // its length is where the next argument points
    A_LEN_INOUT,
    A_DATA_IN,
    A_DATA_OUT,
    A_MSG_FLAGS,
    A_HOW,
    A_SOL,
    A_OPT_NAME, // of the level in the argument before
    A_OPT_IN,
    A_OPT_OUT, // its length is where the next argument points
    A_MSG_IN,
    A_MSG_OUT,
    A_MMSG_IN,
    A_MMSG_OUT,
    A_SOCK_FLAGS,
    A_PAIR,
    A_IOV_IN,
    A_IOV_OUT,
    A_RWF,
    A_FILE_FLAGS,
    A_CLOSE_RANGE,
    A_FCNTL_CMD,
    A_FCNTL_ARG,
    A_IOCTL_CMD,
    A_IOCTL_ARG,
    A_STAT,
    A_WHENCE,
    A_SPLICE,
    A_POLL_FDS,
    A_TIMEOUT, // timespec*; poll and epoll_wait print it in milliseconds
    A_SIGSET,
    A_FD_SET, // number of bits in argument 0
    A_EPOLL_FLAGS,
    A_EPOLL_OP,
    A_EPOLL_IN,
    A_EPOLL_OUT,
    A_AT_FD,
    A_AT_FLAGS,
    A_PATH,
    A_ARGV,
    A_ENVP
};

// X(number, name, B when the result is a number of bytes moved, argument kinds)
#define SOCKSHIM_TRACED_CALLS(X)                                                                   \
    X(1, socket, _, A_FAMILY, A_SOCK_TYPE, A_PROTOCOL)                                             \
    X(2, bind, _, A_INT, A_ADDR_IN, A_INT)                                                         \
    X(3, connect, _, A_INT, A_ADDR_IN, A_INT)                                                      \
    X(4, listen, _, A_INT, A_INT)                                                                  \
    X(5, accept, _, A_INT, A_ADDR_OUT, A_LEN_INOUT)                                                \
    X(6, getsockname, _, A_INT, A_ADDR_OUT, A_LEN_INOUT)                                           \
    X(7, getpeername, _, A_INT, A_ADDR_OUT, A_LEN_INOUT)                                           \
    X(8, socketpair, _, A_FAMILY, A_SOCK_TYPE, A_PROTOCOL, A_PAIR)                                 \
    X(9, send, B, A_INT, A_DATA_IN, A_ULONG, A_MSG_FLAGS)                                          \
    X(10, recv, B, A_INT, A_DATA_OUT, A_ULONG, A_MSG_FLAGS)                                        \
    X(11, sendto, B, A_INT, A_DATA_IN, A_ULONG, A_MSG_FLAGS, A_ADDR_IN, A_INT)                     \
    X(12, recvfrom, B, A_INT, A_DATA_OUT, A_ULONG, A_MSG_FLAGS, A_ADDR_OUT, A_LEN_INOUT)           \
    X(13, shutdown, _, A_INT, A_HOW)                                                               \
    X(14, setsockopt, _, A_INT, A_SOL, A_OPT_NAME, A_OPT_IN, A_INT)                                \
    X(15, getsockopt, _, A_INT, A_SOL, A_OPT_NAME, A_OPT_OUT, A_LEN_INOUT)                         \
    X(16, sendmsg, B, A_INT, A_MSG_IN, A_MSG_FLAGS)                                                \
    X(17, recvmsg, B, A_INT, A_MSG_OUT, A_MSG_FLAGS)                                               \
    X(18, accept4, _, A_INT, A_ADDR_OUT, A_LEN_INOUT, A_SOCK_FLAGS)                                \
    X(19, recvmmsg, _, A_INT, A_MMSG_OUT, A_INT, A_MSG_FLAGS, A_TIMEOUT)                           \
    X(20, sendmmsg, _, A_INT, A_MMSG_IN, A_INT, A_MSG_FLAGS)                                       \
    X(TRACE_READ, read, B, A_INT, A_DATA_OUT, A_ULONG)                                             \
    X(TRACE_READV, readv, B, A_INT, A_IOV_OUT, A_INT)                                              \
    X(TRACE_WRITE, write, B, A_INT, A_DATA_IN, A_ULONG)                                            \
    X(TRACE_WRITEV, writev, B, A_INT, A_IOV_IN, A_INT)                                             \
    X(TRACE_PREADV2, preadv2, B, A_INT, A_IOV_OUT, A_INT, A_OFFSET, A_RWF)                         \
    X(TRACE_PWRITEV2, pwritev2, B, A_INT, A_IOV_IN, A_INT, A_OFFSET, A_RWF)                        \
    X(TRACE_CLOSE, close, _, A_INT)                                                                \
    X(TRACE_CLOSE_RANGE, close_range, _, A_ULONG, A_ULONG, A_CLOSE_RANGE)                          \
    X(TRACE_DUP, dup, _, A_INT)                                                                    \
    X(TRACE_DUP2, dup2, _, A_INT, A_INT)                                                           \
    X(TRACE_DUP3, dup3, _, A_INT, A_INT, A_FILE_FLAGS)                                             \
    X(TRACE_FCNTL, fcntl, _, A_INT, A_FCNTL_CMD, A_FCNTL_ARG)                                      \
    X(TRACE_IOCTL, ioctl, _, A_INT, A_IOCTL_CMD, A_IOCTL_ARG)                                      \
    X(TRACE_FSTAT, fstat, _, A_INT, A_STAT)                                                        \
    X(TRACE_FSTATAT, newfstatat, _, A_AT_FD, A_PATH, A_STAT, A_AT_FLAGS)                           \
    X(TRACE_STATX, statx, _, A_AT_FD, A_PATH, A_AT_FLAGS, A_PTR, A_PTR)                            \
    X(TRACE_LSEEK, lseek, _, A_INT, A_OFFSET, A_WHENCE)                                            \
    X(TRACE_FTRUNCATE, ftruncate, _, A_INT, A_OFFSET)                                              \
    X(TRACE_FSYNC, fsync, _, A_INT)                                                                \
    X(TRACE_MMAP, mmap, _, A_INT)                                                                  \
    X(TRACE_SENDFILE, sendfile, B, A_INT, A_INT, A_OFFSET_PTR, A_ULONG)                            \
    X(TRACE_SPLICE, splice, B, A_INT, A_OFFSET_PTR, A_INT, A_OFFSET_PTR, A_ULONG, A_SPLICE)        \
    X(TRACE_COPY_FILE_RANGE, copy_file_range, B, A_INT, A_OFFSET_PTR, A_INT, A_OFFSET_PTR,         \
      A_ULONG, A_ULONG)                                                                            \
    X(TRACE_TEE, tee, B, A_INT, A_INT, A_ULONG, A_SPLICE)                                          \
    X(TRACE_VMSPLICE, vmsplice, B, A_INT, A_IOV_IN, A_ULONG, A_SPLICE)                             \
    X(TRACE_FSTATFS, fstatfs, _, A_INT, A_PTR)                                                     \
    X(TRACE_FALLOCATE, fallocate, _, A_INT, A_INT, A_OFFSET, A_OFFSET)                             \
    X(TRACE_READAHEAD, readahead, _, A_INT, A_OFFSET, A_ULONG)                                     \
    X(TRACE_SYNC_FILE_RANGE, sync_file_range, _, A_INT, A_OFFSET, A_OFFSET, A_ULONG)               \
    X(TRACE_LOCKF, lockf, _, A_INT, A_INT, A_OFFSET)                                               \
    X(TRACE_FCHMOD, fchmod, _, A_INT, A_ULONG)                                                     \
    X(TRACE_FCHOWN, fchown, _, A_INT, A_INT, A_INT)                                                \
    X(TRACE_FUTIMENS, futimens, _, A_INT, A_PTR)                                                   \
    X(TRACE_POLL, poll, _, A_POLL_FDS, A_ULONG, A_TIMEOUT, A_SIGSET)                               \
    X(TRACE_SELECT, select, _, A_INT, A_FD_SET, A_FD_SET, A_FD_SET, A_TIMEOUT, A_SIGSET)           \
    X(TRACE_EPOLL_CREATE, epoll_create1, _, A_EPOLL_FLAGS)                                         \
    X(TRACE_EPOLL_CTL, epoll_ctl, _, A_INT, A_EPOLL_OP, A_INT, A_EPOLL_IN)                         \
    X(TRACE_EPOLL_WAIT, epoll_wait, _, A_INT, A_EPOLL_OUT, A_INT, A_TIMEOUT, A_SIGSET)             \
    X(TRACE_FORK, fork, _, A_NONE)                                                                 \
    X(TRACE_VFORK, vfork, _, A_NONE)                                                               \
    X(TRACE_EXECVE, execve, _, A_PATH, A_ARGV, A_ENVP)

struct call_row {
    u32 nr;
    const char* name;
    bool moves_bytes;
    arg_kind kinds[6];
};

inline constexpr bool call_moves_B = true;
inline constexpr bool call_moves__ = false;

inline constexpr call_row call_rows[] = {
#define X(nr, name, moves, ...) {nr, #name, call_moves_##moves, {__VA_ARGS__}},
    SOCKSHIM_TRACED_CALLS(X)
#undef X
};
inline constexpr u32 call_count = sizeof call_rows / sizeof call_rows[0];

// Row of a call number, null for a number that is not in the table.
constexpr const call_row* find_call(u32 nr) {
    u32 i = nr - 1;
    if (nr > TRACE_SOCKETCALL_LAST) i = nr - TRACE_READ + TRACE_SOCKETCALL_LAST;
    return i < call_count ? &call_rows[i] : nullptr;
}
static_assert([] {
    for (const call_row& row : call_rows) {
        if (find_call(row.nr) != &row) return false;
    }
    return call_count == TRACE_SOCKETCALL_LAST + (TRACE_NR_END - TRACE_READ);
}());

} // namespace sockshim::trace
