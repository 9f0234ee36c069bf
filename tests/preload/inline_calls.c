// Libc's names as system call instructions, for a program that is linked with this: its calls then pass
// the preload by, and reach our sockets only with SOCKSHIM_CATCH.
#include "inline_call.h"

#include <errno.h>
#include <sys/syscall.h>

// Without libc's declarations: one shape for all, and the kernel looks at as many words as it needs.
#define CALL(name, number, ...)                                                                    \
    long name(long a, long b, long c, long d, long e, long f) {                                    \
        const long w[6] = {__VA_ARGS__};                                                           \
        (void)a, (void)b, (void)c, (void)d, (void)e, (void)f;                                      \
        return answer(inline_call(number, w));                                                     \
    }
#define SAME(name, number) CALL(name, number, a, b, c, d, e, f)

static inline long answer(long r) {
    if (r >= 0 || r < -4095) return r;
    errno = (int)-r;
    return -1;
}

SAME(socket, SYS_socket)
SAME(socketpair, SYS_socketpair)
SAME(bind, SYS_bind)
SAME(connect, SYS_connect)
SAME(listen, SYS_listen)
SAME(accept, SYS_accept)
SAME(accept4, SYS_accept4)
SAME(getsockname, SYS_getsockname)
SAME(getpeername, SYS_getpeername)
SAME(setsockopt, SYS_setsockopt)
SAME(getsockopt, SYS_getsockopt)
SAME(shutdown, SYS_shutdown)
CALL(send, SYS_sendto, a, b, c, d, 0, 0)
CALL(recv, SYS_recvfrom, a, b, c, d, 0, 0)
SAME(sendto, SYS_sendto)
SAME(recvfrom, SYS_recvfrom)
SAME(sendmsg, SYS_sendmsg)
SAME(recvmsg, SYS_recvmsg)
SAME(sendmmsg, SYS_sendmmsg)
SAME(recvmmsg, SYS_recvmmsg)
SAME(read, SYS_read)
SAME(write, SYS_write)
SAME(readv, SYS_readv)
SAME(writev, SYS_writev)
SAME(close, SYS_close)
SAME(dup, SYS_dup)
SAME(dup2, SYS_dup2)
SAME(dup3, SYS_dup3)
SAME(fcntl, SYS_fcntl)
SAME(fcntl64, SYS_fcntl)
SAME(ioctl, SYS_ioctl)
SAME(lseek, SYS_lseek)
SAME(poll, SYS_poll)
SAME(epoll_create1, SYS_epoll_create1)
SAME(epoll_ctl, SYS_epoll_ctl)
SAME(epoll_wait, SYS_epoll_wait)
SAME(pipe, SYS_pipe)
SAME(pipe2, SYS_pipe2)
SAME(eventfd, SYS_eventfd2)
SAME(splice, SYS_splice)
SAME(sendfile, SYS_sendfile)
SAME(kill, SYS_kill)
CALL(waitpid, SYS_wait4, a, b, c, 0, 0, 0)
