// What is not ours works as ever, alone and in one wait with ours: AF_UNIX, AF_NETLINK, AF_INET6; SCM_RIGHTS with our sockets.
#include "diff.h"
#include <linux/netlink.h>

static void pass(int via, int fd) {
    union {
        char b[CMSG_SPACE(sizeof(int))];
        struct cmsghdr h;
    } u;
    memset(&u, 0, sizeof u);
    struct iovec v = {"fd", 2};
    struct msghdr m = {0, 0, &v, 1, &u, sizeof u, 0};
    u.h.cmsg_len = CMSG_LEN(sizeof(int)), u.h.cmsg_level = SOL_SOCKET, u.h.cmsg_type = SCM_RIGHTS;
    memcpy(CMSG_DATA(&u.h), &fd, sizeof fd);
    T(sendmsg(via, &m, 0));
}
static int take(int via, int flags) {
    union {
        char b[CMSG_SPACE(sizeof(int))];
        struct cmsghdr h;
    } u;
    char b[4];
    struct iovec v = {b, 4};
    struct msghdr m = {0, 0, &v, 1, &u, sizeof u, 0};
    int fd = -1;
    T(recvmsg(via, &m, flags));
    if (m.msg_controllen) memcpy(&fd, CMSG_DATA(&u.h), sizeof fd);
    say("got a descriptor: %d, flags %#x", fd >= 0, m.msg_flags);
    return fd;
}

int main(void) {
    diff_init();
    int c, s, sv[2], dg[2];
    tcp_pair(&c, &s);
    section("socketpair");
    T(socketpair(AF_UNIX, SOCK_STREAM, 0, sv)),
        T(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, dg));
    T(send(sv[0], "unix", 4, 0));
    RX(sv[1], 16, 0);
    T(send(dg[0], "dgram", 5, 0));
    RX(dg[1], 16, 0), RX(dg[1], 16, 0);
    V(getint(sv[0], SOL_SOCKET, SO_DOMAIN));
    T(setint(sv[0], IPPROTO_TCP, TCP_NODELAY, 1)), T(getint(sv[0], IPPROTO_IP, IP_TTL));
    section("a unix listener");
    struct sockaddr_un ua = {.sun_family = AF_UNIX};
    snprintf(ua.sun_path + 1, 100, "diff-families-%d", getpid());
    int l = socket(AF_UNIX, SOCK_STREAM, 0), d = socket(AF_UNIX, SOCK_STREAM, 0);
    T(bind(l, SA(&ua), sizeof ua)), T(listen(l, 2)), T(connect(d, SA(&ua), sizeof ua));
    int e;
    F(e = accept(l, 0, 0));
    T(write(d, "hi", 2));
    RX(e, 8, 0);
    section("a unix and an inet address on the wrong socket");
    struct sockaddr_in la = lo(1);
    T(connect(d, SA(&la), sizeof la)), T(bind(l, SA(&la), sizeof la)), T(bind(tcp(), SA(&ua), 16));
    section("netlink");
    int n = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    struct sockaddr_nl na = {.nl_family = AF_NETLINK};
    T(bind(n, SA(&na), sizeof na));
    struct {
        struct nlmsghdr h;
        char pad[16];
    } req;
    memset(&req, 0, sizeof req);
    req.h.nlmsg_len = sizeof req, req.h.nlmsg_type = NLMSG_NOOP,
    req.h.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK, req.h.nlmsg_seq = 7;
    T(send(n, &req, sizeof req, 0));
    char nb[512];
    long r = recv(n, nb, sizeof nb, 0);
    say("netlink answers type %d seq %d", ((struct nlmsghdr*)nb)->nlmsg_type,
        ((struct nlmsghdr*)nb)->nlmsg_seq);
    V(r > 0);
    section("inet6");
    int l6 = socket(AF_INET6, SOCK_STREAM, 0), c6 = socket(AF_INET6, SOCK_STREAM, 0);
    struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    socklen_t len = sizeof a6;
    int have6 = l6 >= 0 && bind(l6, SA(&a6), sizeof a6) == 0;
    int s6 = -1;
    if (have6) { // otherwise this machine has none: both runs skip alike
        T(listen(l6, 2)), T(getsockname(l6, SA(&a6), &len));
        T(connect(c6, SA(&a6), sizeof a6));
        F(s6 = accept(l6, 0, 0));
        T(send(c6, "six", 3, 0));
        RX(s6, 8, 0);
        V(getint(s6, SOL_SOCKET, SO_DOMAIN));
    }
    section("all in one poll");
    struct pollfd p[] = {{s, POLLIN, 0}, {sv[1], POLLIN, 0},           {dg[1], POLLIN, 0},
                         {n, POLLIN, 0}, {have6 ? s6 : -1, POLLIN, 0}, {e, POLLIN, 0}};
    T(poll(p, 6, 30));
    send(c, "1", 1, 0), send(sv[0], "2", 1, 0), send(dg[0], "3", 1, 0),
        send(n, &req, sizeof req, 0), write(d, "4", 1);
    if (have6) send(c6, "6", 1, 0);
    settle();
    T(poll(p, 6, 1000) - have6);
    int ep = epoll_create1(0);
    for (int i = 0; i < 6; i++)
        if (p[i].fd >= 0)
            epoll_ctl(ep, EPOLL_CTL_ADD, p[i].fd, &(struct epoll_event){EPOLLIN, {.u32 = i}});
    struct epoll_event ev[8];
    T(epoll_wait(ep, ev, 8, 1000) - have6);
    fd_set f;
    FD_ZERO(&f);
    int hi = 0;
    for (int i = 0; i < 6; i++)
        if (p[i].fd >= 0) {
            FD_SET(p[i].fd, &f);
            if (p[i].fd > hi) hi = p[i].fd;
        }
    T(select(hi + 1, &f, 0, 0, 0) - have6);
    section("our sockets through SCM_RIGHTS, within one process");
    RX(s, 8, 0), RX(sv[1], 8, 0);
    pass(sv[0], s);
    int t = take(sv[1], MSG_CMSG_CLOEXEC);
    V(fcntl(t, F_GETFD));
    T(send(c, "both", 4, 0));
    RX(t, 2, 0), RX(s, 8, 0);
    T(close(s));
    T(send(c, "one", 3, 0));
    RX(t, 8, 0);
    section("a socket that is only in flight lives on");
    pass(sv[0], t);
    T(close(t));
    settle();
    PALL(c);
    T(send(c, "waiting", 7, 0));
    t = take(sv[1], 0);
    V(fcntl(t, F_GETFD));
    RX(t, 16, 0);
    section("thrown away in flight: the peer sees the end");
    pass(sv[0], t);
    T(close(t));
    T(close(sv[0])), T(close(sv[1]));
    AW(c, POLLIN);
    PALL(c);
    RX(c, 8, 0);
    section("to another process: listener and udp socket");
    T(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sv));
    struct sockaddr_in da;
    pid_t q = forked("child: ");
    if (q == 0) {
        close(sv[0]);
        int x = take(sv[1], 0), y = accept(x, 0, 0);
        RX(y, 16, 0);
        x = take(sv[1], 0);
        RX(x, 16, 0);
        _exit(0);
    }
    close(sv[1]);
    wait_asleep(q);
    int li = listener(2, &la), u = udp(&da);
    diff_who = "";
    union {
        char b[CMSG_SPACE(sizeof(int))];
        struct cmsghdr h;
    } cm;
    for (int i = 0; i < 2; i++) { // silently: the child prints
        memset(&cm, 0, sizeof cm);
        int fd = i ? u : li;
        struct iovec v = {"fd", 2};
        struct msghdr m = {0, 0, &v, 1, &cm, sizeof cm, 0};
        cm.h.cmsg_len = CMSG_LEN(sizeof(int)), cm.h.cmsg_level = SOL_SOCKET,
        cm.h.cmsg_type = SCM_RIGHTS;
        memcpy(CMSG_DATA(&cm.h), &fd, sizeof fd);
        Q(sendmsg(sv[0], &m, 0));
        close(fd);
    }
    c = dial(&la);
    send(c, "to listener", 11, 0);
    int v = sock(SOCK_DGRAM);
    sendto(v, "to udp", 6, 0, SA(&da), sizeof da);
    reap(q);
    return 0;
}
