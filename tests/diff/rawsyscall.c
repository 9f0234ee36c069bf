// syscall(SYS_...) and the wrappers are the same sockets.
#include "diff.h"
#include <linux/futex.h>

int main(void) {
    diff_init();
    struct sockaddr_in a = lo(0), b;
    socklen_t l = sizeof a;
    char buf[64];
    section("a connection made by hand");
    int s, c, x;
    F(s = syscall(SYS_socket, AF_INET, SOCK_STREAM, 0));
    V(getint(s, SOL_SOCKET, SO_TYPE));
    T(syscall(SYS_bind, s, &a, sizeof a)), T(syscall(SYS_listen, s, 4)),
        T(syscall(SYS_getsockname, s, &a, &l));
    say("%s", addr_str(&a, l));
    V(port_of(s) == ntohs(a.sin_port));
    c = tcp();
    T(syscall(SYS_connect, c, &a, sizeof a));
    l = sizeof b;
    F(x = syscall(SYS_accept4, s, &b, &l, SOCK_CLOEXEC));
    V(fcntl(x, F_GETFD)), V(ntohs(b.sin_port) == port_of(c));
    T(syscall(SYS_getpeername, x, &b, &l)), V(ntohs(b.sin_port) == port_of(c));
    section("data both ways, mixed");
    T(syscall(SYS_sendto, c, "raw", 3, 0, 0, 0));
    RX(x, 8, 0);
    T(send(x, "wrapped", 7, 0));
    T(syscall(SYS_recvfrom, c, buf, 64, 0, 0, 0));
    T(syscall(SYS_write, c, "w", 1)), T(read(x, buf, 4)), T(write(c, "v", 1)),
        T(syscall(SYS_read, x, buf, 4));
    struct iovec v = {"vec", 3}, r = {buf, 64};
    T(syscall(SYS_writev, c, &v, 1)), T(readv(x, &r, 1)), T(writev(c, &v, 1)),
        T(syscall(SYS_readv, x, &r, 1));
    struct msghdr m = {0, 0, &v, 1, 0, 0, 0}, n = {0, 0, &r, 1, 0, 0, 0};
    T(syscall(SYS_sendmsg, c, &m, 0)), T(recvmsg(x, &n, 0)), T(sendmsg(c, &m, 0)),
        T(syscall(SYS_recvmsg, x, &n, 0));
    int val = 1;
    T(syscall(SYS_setsockopt, c, IPPROTO_TCP, TCP_NODELAY, &val, sizeof val)),
        V(getint(c, IPPROTO_TCP, TCP_NODELAY));
    l = sizeof val;
    T(syscall(SYS_getsockopt, x, SOL_SOCKET, SO_TYPE, &val, &l)), V(val);
    section("readiness");
    struct pollfd p = {x, POLLIN, 0};
    struct timespec ts = {0, 0};
    struct timeval tv = {0, 0};
    fd_set f;
    T(syscall(SYS_poll, &p, 1, 0)), T(send(c, "!", 1, 0)), T(syscall(SYS_poll, &p, 1, 1000)),
        T(syscall(SYS_ppoll, &p, 1, &ts, 0, 8));
    FD_ZERO(&f);
    FD_SET(x, &f);
    T(syscall(SYS_select, x + 1, &f, 0, 0, &tv)), T(syscall(SYS_pselect6, x + 1, &f, 0, 0, &ts, 0));
    int ep = syscall(SYS_epoll_create1, 0);
    struct epoll_event e = {EPOLLIN, {.u64 = 5}};
    T(syscall(SYS_epoll_ctl, ep, EPOLL_CTL_ADD, x, &e)), T(epoll_wait(ep, &e, 1, 1000)),
        T(syscall(SYS_epoll_wait, ep, &e, 1, 0)), V(e.data.u64);
    T(syscall(SYS_epoll_pwait, ep, &e, 1, 0, 0, 8));
    RX(x, 4, 0);
    section("descriptors");
    int d;
    F(d = syscall(SYS_dup, x));
    T(send(c, "dup", 3, 0));
    RX(d, 8, 0);
    T(syscall(SYS_dup2, x, d) == d), T(syscall(SYS_dup3, x, d, O_CLOEXEC) == d),
        V(fcntl(d, F_GETFD));
    T(syscall(SYS_fcntl, d, F_SETFL, O_NONBLOCK)), V(fcntl(x, F_GETFL) & O_NONBLOCK);
    RX(x, 4, 0);
    T(syscall(SYS_ioctl, d, FIONREAD, &val)), V(val);
    struct stat st;
    T(syscall(SYS_fstat, d, &st)), V(S_ISSOCK(st.st_mode));
    T(syscall(SYS_lseek, d, 0, 0)), T(syscall(SYS_pread64, d, buf, 1, 0)),
        T(syscall(SYS_pwrite64, d, buf, 1, 0));
    T(syscall(SYS_close, d));
    T(send(d, "x", 1, 0));
    T(syscall(SYS_shutdown, c, SHUT_WR));
    AW(x, POLLIN);
    RX(x, 4, 0);
    T(syscall(SYS_close_range, x, x, 0));
    AW(c, POLLIN);
    RX(c, 4, 0);
    section("errnos");
    T(syscall(SYS_socket, 99, 1, 0)), T(syscall(SYS_socket, AF_INET, 99, 0)),
        T(syscall(SYS_bind, 9999, 0, 0)), T(syscall(SYS_accept, c, 0, 0)),
        T(syscall(SYS_connect, c, 1, 16));
    T(syscall(SYS_sendto, c, 1, 4, MSG_NOSIGNAL, 0, 0)),
        T(syscall(SYS_recvfrom, 9999, buf, 1, 0, 0, 0)), T(syscall(SYS_sendmmsg, 9999, 0, 0, 0)),
        T(syscall(SYS_recvmmsg, -1, 0, 0, 0, 0));
    T(syscall(SYS_socketpair, AF_INET, 1, 0, &p)), T(syscall(99999));
    section("udp in bulk");
    int u, w;
    udp_pair(&u, &w);
    struct mmsghdr mm[2] = {{m, 0}, {m, 0}}, rr[2] = {{n, 0}, {n, 0}};
    T(syscall(SYS_sendmmsg, u, mm, 2, 0));
    settle();
    T(syscall(SYS_recvmmsg, w, rr, 2, MSG_DONTWAIT, 0)), V(rr[1].msg_len);
    section("other system calls pass");
    T(syscall(SYS_getpid) == getpid());
    int fx = 1;
    T(syscall(SYS_futex, &fx, FUTEX_WAIT, 2, 0)), T(syscall(SYS_futex, &fx, FUTEX_WAKE, 1));
    int pp[2];
    T(syscall(SYS_pipe2, pp, O_CLOEXEC)), T(syscall(SYS_write, pp[1], "p", 1)),
        T(syscall(SYS_read, pp[0], buf, 8));
    F(syscall(SYS_openat, AT_FDCWD, "/dev/null", O_RDONLY));
    pid_t k = syscall(SYS_fork);
    if (k == 0) {
        syscall(SYS_sendto, u, "child", 5, 0, 0, 0);
        syscall(SYS_exit_group, 3);
    }
    RX(w, 8, 0);
    reap(k);
    return 0;
}
