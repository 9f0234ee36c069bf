// Sockets in SCM_RIGHTS messages: both ways, several at once, peeked, cut off, in flight when the sender dies, thrown
// away, through programs and by raw calls; and taken from another process with pidfd_getfd.
#include "diff.h"
#include <sys/prctl.h>

static int c, s, un[2];

static union {
    struct cmsghdr h;
    char room[CMSG_SPACE(64 * sizeof(int)) + 64];
} ctl;

static struct msghdr message(struct iovec* iov, size_t room) {
    struct msghdr m = {0, 0, iov, 1, room ? &ctl : 0, room, 0};
    return m;
}
static long give_by(int sock, const int* fds, int n, int raw) {
    struct iovec iov = {(char*)"r", 1};
    struct msghdr m = message(&iov, CMSG_SPACE(n * sizeof(int)));
    memset(&ctl, 0, sizeof ctl);
    ctl.h.cmsg_level = SOL_SOCKET, ctl.h.cmsg_type = SCM_RIGHTS;
    ctl.h.cmsg_len = CMSG_LEN(n * sizeof(int));
    memcpy(CMSG_DATA(&ctl.h), fds, n * sizeof(int));
    if (raw == 1) return syscall(SYS_sendmsg, sock, &m, 0);
    struct mmsghdr mm = {m, 0};
    if (raw == 2) return sendmmsg(sock, &mm, 1, 0);
    return sendmsg(sock, &m, 0);
}
static long give(int sock, const int* fds, int n) { return give_by(sock, fds, n, 0); }
static long give1(int fd) { return give(un[0], &fd, 1); }

// Receives and says how many came, with which flags.
static int take_by(int sock, int* fds, size_t room, int flags, int raw) {
    char b;
    struct iovec iov = {&b, 1};
    memset(&ctl, 0, sizeof ctl);
    struct msghdr m = message(&iov, room);
    struct mmsghdr mm = {m, 0};
    errno = NOERR;
    long r = raw == 1   ? syscall(SYS_recvmsg, sock, &m, flags)
             : raw == 2 ? recvmmsg(sock, &mm, 1, flags, 0)
                        : recvmsg(sock, &m, flags);
    if (raw == 2) m = mm.msg_hdr;
    int n = 0;
    for (struct cmsghdr* h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h))
        if (h->cmsg_level == SOL_SOCKET && h->cmsg_type == SCM_RIGHTS) {
            n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(fds, CMSG_DATA(h), n * sizeof(int));
        }
    say("taken %ld %s: %d descriptors, flags %#x", r, en(errno), n, m.msg_flags);
    return n;
}
static int take(int* fds) { return take_by(un[1], fds, sizeof ctl, 0, 0); }
static int take1(void) {
    int fds[64] = {-1};
    return take(fds) == 1 ? fds[0] : -1;
}

static void fresh(void) {
    tcp_pair(&c, &s);
    socketpair(AF_UNIX, SOCK_STREAM, 0, un);
}
static void done(void) { close(c), close(s), close(un[0]), close(un[1]); }

static void within(void) {
    for (int raw = 0; raw < 3; raw++) {
        section(raw == 0 ? "to itself" : raw == 1 ? "to itself, raw" : "to itself, mmsg");
        fresh();
        int d[64];
        T(give_by(un[0], &s, 1, raw));
        T(take_by(un[1], d, sizeof ctl, 0, raw));
        T(send(c, "one", 3, 0));
        RX(d[0], 8, 0);
        V(fcntl(d[0], F_GETFD));
        T(fcntl(d[0], F_SETFL, O_NONBLOCK)), V(fcntl(s, F_GETFL) & O_NONBLOCK);
        T(close(s));
        T(send(c, "two", 3, 0));
        AW(d[0], POLLIN);
        RX(d[0], 8, 0);
        T(close(d[0]));
        AW(c, POLLIN);
        RX(c, 8, 0);
        done();
    }
    section("MSG_CMSG_CLOEXEC");
    fresh();
    int d[64];
    Q(give1(s)), take_by(un[1], d, sizeof ctl, MSG_CMSG_CLOEXEC, 0);
    V(fcntl(d[0], F_GETFD)), close(d[0]);
    done();
    section("peeked: a number each time");
    fresh();
    Q(give1(s));
    int e[64];
    take_by(un[1], d, sizeof ctl, MSG_PEEK, 0), take_by(un[1], e, sizeof ctl, MSG_PEEK, 0);
    V(d[0] != e[0]);
    T(close(s));
    T(send(d[0], "peeked", 6, 0));
    RX(c, 8, 0);
    T(close(d[0])), T(send(e[0], "again", 5, 0)), T(close(e[0]));
    RX(c, 8, 0);
    RX(c, 8, MSG_DONTWAIT);
    d[0] = take1();
    T(send(d[0], "taken", 5, 0));
    RX(c, 8, 0);
    T(close(d[0]));
    RX(c, 8, 0);
    done();
    section("a set of several, of all kinds");
    fresh();
    struct sockaddr_in la, ua;
    int l = listener(4, &la), u = udp(&ua), f = open("/dev/null", O_RDWR), p[2],
        ep = epoll_create1(0);
    pipe(p);
    struct epoll_event ev = {EPOLLIN, {.u64 = 4}};
    epoll_ctl(ep, EPOLL_CTL_ADD, u, &ev);
    int all[] = {s, l, u, f, p[0], s, c, ep};
    T(give(un[0], all, 8));
    close(l), close(u), close(f), close(p[0]);
    V(take(d));
    T(send(d[6], "six", 3, 0));
    RX(d[0], 8, 0);
    T(send(c, "zero", 4, 0));
    RX(d[5], 8, 0);
    int k = dial(&la), a = accept(d[1], 0, 0);
    V(a >= 0), close(k), close(a);
    T(sendto(d[2], "udp", 3, 0, SA(&ua), sizeof ua));
    T(epoll_wait(d[7], &ev, 1, 3000)), V(ev.data.u64);
    RX(d[2], 8, 0);
    T(send(d[3], "x", 1, 0));
    T(write(p[1], "pipe", 4)), T(recv(d[4], &all, 1, 0));
    for (int i = 0; i < 8; i++) close(d[i]);
    close(p[1]), close(ep);
    RX(c, 4, MSG_DONTWAIT);
    done();
}

static void cut(void) {
    int d[64];
    section("cut off: no room, room for one of three, no control at all, plain read");
    fresh();
    int three[] = {s, c, s};
    static const size_t rooms[] = {
        0,           sizeof(struct cmsghdr) - 1, sizeof(struct cmsghdr), CMSG_LEN(4), CMSG_SPACE(8),
        CMSG_LEN(12)};
    for (unsigned i = 0; i < sizeof rooms / sizeof *rooms; i++) {
        Q(give(un[0], three, 3));
        int n = take_by(un[1], d, rooms[i], 0, 0);
        for (int k = 0; k < n; k++) Q(send(d[k], "k", 1, MSG_NOSIGNAL)), close(d[k]);
    }
    char b[16];
    Q(give(un[0], three, 3));
    T(read(un[1], b, 4));
    Q(give(un[0], three, 3));
    T(recv(un[1], b, 4, 0));
    RX(c, 16, MSG_DONTWAIT);
    RX(s, 16, MSG_DONTWAIT);
    // The dropped ones hold nothing.
    T(close(s));
    AW(c, POLLIN);
    RX(c, 4, 0);
    done();
    section("no descriptors left");
    fresh();
    struct rlimit was, tight;
    getrlimit(RLIMIT_NOFILE, &was);
    tight = was;
    int top = dup(0);
    close(top);
    tight.rlim_cur = top + 2;
    Q(give(un[0], three, 3));
    setrlimit(RLIMIT_NOFILE, &tight);
    int n = take(d);
    setrlimit(RLIMIT_NOFILE, &was);
    for (int k = 0; k < n; k++) Q(send(d[k], "k", 1, MSG_NOSIGNAL)), close(d[k]);
    done();
    section("errors");
    fresh();
    int bad[] = {s, 999};
    T(give(un[0], bad, 2));
    int many[300];
    for (int i = 0; i < 300; i++) many[i] = s;
    T(give(un[0], many, 60));
    V(take(d));
    for (int i = 0; i < 60; i++) close(d[i]);
    close(un[1]);
    T(give1(s));
    T(send(c, "fine", 4, 0));
    RX(s, 8, 0);
    close(un[0]), close(c), close(s);
}

static void between(void) {
    section("from parent to child");
    fresh();
    pid_t p = forked("child: ");
    if (p == 0) {
        close(c), close(s);
        int x = take1();
        RX(x, 8, 0);
        T(send(x, "answer", 6, 0));
        _exit(0);
    }
    Q(give1(s)), close(s);
    Q(send(c, "hello", 5, 0));
    reap(p);
    RX(c, 8, 0), RX(c, 8, 0);
    done();
    section("from child to parent, made in the child, which ends");
    socketpair(AF_UNIX, SOCK_STREAM, 0, un);
    struct sockaddr_in la;
    p = forked("child: ");
    if (p == 0) {
        int l = listener(4, &la), k = dial(&la), a = accept(l, 0, 0);
        Q(send(a, "left behind", 11, 0));
        int out[] = {l, k};
        Q(give(un[0], out, 2)), Q(send(un[0], &la, sizeof la, 0));
        Q(give1(a));
        _exit(0);
    }
    reap(p);
    int d[64];
    V(take(d));
    T(read(un[1], &la, sizeof la));
    RX(d[1], 16, 0);
    c = dial(&la), s = accept(d[0], 0, 0);
    T(send(c, "new", 3, 0));
    RX(s, 8, 0);
    int a = take1();
    T(send(a, "more", 4, 0));
    RX(d[1], 16, 0);
    close(a), RX(d[1], 16, 0);
    close(d[0]), close(d[1]);
    done();
    for (int killed = 0; killed < 2; killed++) {
        section(killed ? "in flight when the sender is killed" : "in flight when the sender exits");
        fresh();
        gate g = gate_new();
        p = forked("child: ");
        if (p == 0) {
            close(c), close(un[1]);
            Q(give1(s)), close(s);
            gate_open(g);
            if (killed) pause();
            _exit(0);
        }
        close(s), close(un[0]);
        gate_wait(g);
        if (killed) kill(p, SIGKILL);
        reap(p);
        settle();
        PB(c);
        T(send(c, "to nobody yet", 13, 0));
        s = take1();
        RX(s, 16, 0);
        T(send(s, "alive", 5, 0));
        RX(c, 8, 0);
        done();
    }
    section("in flight and thrown away: the connection ends");
    fresh();
    Q(give1(s)), close(s);
    settle();
    PB(c);
    close(un[1]);
    close(un[0]);
    AW(c, POLLIN);
    RX(c, 8, 0);
    close(c);
    section("a listener in flight takes connections");
    int l = listener(4, &la);
    socketpair(AF_UNIX, SOCK_STREAM, 0, un);
    Q(give1(l)), close(l);
    c = dial(&la);
    T(send(c, "early", 5, 0));
    l = take1();
    s = accept(l, 0, 0);
    RX(s, 8, 0);
    done(), close(l);
    section("the socket that is sent is the one that it is sent through: a cycle");
    fresh();
    int cycle[] = {un[0], un[1], s};
    T(give(un[0], cycle, 3)), close(un[0]), close(un[1]), close(s);
    Q(send(c, "x", 1, 0));
    close(c);
    section("handed round through three processes");
    fresh();
    int un2[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, un2);
    p = forked("first: ");
    if (p == 0) {
        close(s), close(c);
        int x = take1();
        T(send(x, "1", 1, 0));
        T(give(un2[0], &x, 1));
        _exit(0);
    }
    pid_t q = forked("second: ");
    if (q == 0) {
        close(s), close(c);
        int x[64];
        waitpid(p, 0, 0);
        char b;
        recv(un2[1], &b, 1, MSG_PEEK);
        nap(50);
        take_by(un2[1], x, sizeof ctl, 0, 0);
        T(send(x[0], "2", 1, 0));
        T(give(un[0], x, 1));
        _exit(0);
    }
    Q(give1(s)), close(s);
    reap(p), reap(q);
    s = take1();
    T(send(s, "3", 1, 0));
    RX(c, 3, MSG_WAITALL);
    done(), close(un2[0]), close(un2[1]);
    section("on a datagram and a seqpacket unix socket");
    for (int type = 0; type < 2; type++) {
        tcp_pair(&c, &s);
        socketpair(AF_UNIX, type ? SOCK_DGRAM : SOCK_SEQPACKET, 0, un);
        T(give1(s)), close(s);
        s = take1();
        T(send(s, "ok", 2, 0));
        RX(c, 4, 0);
        done();
    }
}

static void taken(void) {
    section("pidfd_getfd");
    fresh();
    gate g = gate_new(), h = gate_new();
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
    pid_t p = forked("child: ");
    if (p == 0) {
        prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
        close(c);
        gate_open(g), gate_wait(h);
        RX(s, 8, 0);
        _exit(0);
    }
    close(s);
    gate_wait(g);
    int pf = syscall(SYS_pidfd_open, p, 0), x = syscall(SYS_pidfd_getfd, pf, s, 0);
    if (x < 0 && errno == EPERM) {
        say("not permitted");
    } else {
        V(fcntl(x, F_GETFD));
        T(send(x, "by pidfd", 8, 0));
        RX(c, 8, 0);
        NAME(getsockname, x);
        T(syscall(SYS_pidfd_getfd, pf, 999, 0));
        Q(send(c, "child", 5, 0));
        gate_open(h), reap(p), p = 0;
        T(send(x, "later", 5, 0));
        RX(c, 8, 0);
        close(x);
        RX(c, 8, 0);
    }
    if (p) gate_open(h), send(c, "x", 1, 0), reap(p);
    close(pf), done();
}

int main(void) {
    diff_init();
    within();
    cut();
    between();
    taken();
    return 0;
}
