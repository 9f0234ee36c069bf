// epoll on one process: level, edge, oneshot, exclusive, modify, delete, duplicates, closing, errnos.
#include "diff.h"

static int ep;
static const char* ebits(unsigned e) {
    static char b[128];
    snprintf(b, sizeof b, "%s%s", pbits(e & 0x3fff), e & ~0x3fffu ? "|high" : "");
    return b;
}
static void wait_(const char* what, int max, int ms) {
    struct epoll_event e[16];
    char o[600] = "";
    errno = NOERR;
    int r = epoll_wait(ep, e, max, ms), er = errno;
    for (int i = 0; i < r; i++) // in the order of their tags
        for (int j = i + 1; j < r; j++)
            if (e[j].data.u64 < e[i].data.u64) {
                struct epoll_event t = e[i];
                e[i] = e[j], e[j] = t;
            }
    for (int i = 0; i < r; i++)
        sprintf(o + strlen(o), " %llu:%s", (unsigned long long)e[i].data.u64, ebits(e[i].events));
    say("%s: epoll_wait -> %d %s%s", what, r, r < 0 ? en(er) : "", o);
}
static int ctl(int op, int fd, unsigned ev, uint64_t tag) {
    struct epoll_event e = {ev, {.u64 = tag}};
    return epoll_ctl(ep, op, fd, &e);
}
#define ADD(fd, ev, tag) T(ctl(EPOLL_CTL_ADD, fd, ev, tag))
#define MOD(fd, ev, tag) T(ctl(EPOLL_CTL_MOD, fd, ev, tag))
#define DEL(fd) T(ctl(EPOLL_CTL_DEL, fd, 0, 0))
#define W(what) wait_(what, 16, 0)
static int tid, c, s;
static void* send_later(void* a) {
    wait_asleep(tid);
    send(c, "w", 1, 0);
    return a;
}

int main(void) {
    diff_init();
    tid = self_tid();
    section("create");
    struct epoll_event one;
    T(epoll_create(0)), T(epoll_create(-1)), T(epoll_create1(1)), T(epoll_create1(-1));
    F(ep = epoll_create(1));
    V(fcntl(ep, F_GETFD));
    close(ep);
    F(ep = epoll_create1(EPOLL_CLOEXEC));
    V(fcntl(ep, F_GETFD));
    section("errnos");
    tcp_pair(&c, &s);
    int u = udp(0), p[2], file = open("/proc/self/exe", O_RDONLY), dir = open("/tmp", O_RDONLY);
    pipe(p);
    ADD(s, EPOLLIN, 1), ADD(s, EPOLLIN, 1), MOD(c, EPOLLIN, 2), DEL(c), ADD(-1, EPOLLIN, 0),
        ADD(9999, EPOLLIN, 0), ADD(file, EPOLLIN, 0), ADD(dir, EPOLLIN, 0), ADD(ep, EPOLLIN, 0);
    T(ctl(0, s, EPOLLIN, 0)), T(ctl(4, s, EPOLLIN, 0)), T(ctl(-1, c, EPOLLIN, 0));
    T(epoll_ctl(s, EPOLL_CTL_ADD, c, &one)), T(epoll_ctl(p[0], EPOLL_CTL_ADD, s, &one)),
        T(epoll_ctl(-1, EPOLL_CTL_ADD, s, &one));
    T(epoll_wait(s, &one, 1, 0)), T(epoll_wait(p[0], &one, 1, 0)), T(epoll_wait(-1, &one, 1, 0)),
        T(epoll_wait(ep, &one, 0, 0)), T(epoll_wait(ep, &one, -1, 0));
    T(epoll_wait(ep, &one, INT_MAX, 0));
    section("level");
    W("quiet");
    T(send(c, "abcd", 4, 0));
    wait_("data", 16, 2000);
    W("still");
    RX(s, 2, 0);
    W("half");
    RX(s, 8, 0);
    W("drained");
    MOD(s, EPOLLIN | EPOLLOUT, 11);
    W("in and out");
    MOD(s, 0, 12);
    W("nothing");
    MOD(s, EPOLLIN, 13);
    section("edge");
    MOD(s, EPOLLIN | EPOLLET, 21);
    W("no data: no edge");
    T(send(c, "ab", 2, 0));
    wait_("first edge", 16, 2000);
    W("no second");
    T(send(c, "cd", 2, 0));
    wait_("more data is a new edge", 16, 2000);
    W("no more");
    RX(s, 1, 0);
    W("a partial read is no edge");
    MOD(s, EPOLLIN | EPOLLET, 22);
    W("a MOD arms it again");
    W("once");
    RX(s, 8, 0);
    MOD(s, EPOLLIN | EPOLLOUT | EPOLLET, 23);
    W("writable at first");
    W("once");
    T(send(c, "x", 1, 0));
    wait_("an edge brings the whole state", 16, 2000);
    RX(s, 8, 0);
    section("oneshot");
    MOD(s, EPOLLIN | EPOLLONESHOT, 31);
    T(send(c, "x", 1, 0));
    wait_("once", 16, 2000);
    W("disarmed");
    T(send(c, "y", 1, 0));
    settle();
    W("still disarmed");
    MOD(s, EPOLLIN | EPOLLONESHOT, 32);
    W("armed");
    W("disarmed");
    MOD(s, EPOLLIN | EPOLLONESHOT | EPOLLET, 33);
    W("both");
    RX(s, 8, 0);
    MOD(s, EPOLLIN, 34);
    section("exclusive");
    MOD(s, EPOLLIN | EPOLLEXCLUSIVE, 41);
    DEL(s), DEL(s);
    ADD(s, EPOLLIN | EPOLLEXCLUSIVE, 42);
    MOD(s, EPOLLIN, 43);
    T(send(c, "x", 1, 0));
    wait_("exclusive", 16, 2000);
    DEL(s);
    ADD(s, EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT, 44), ADD(s, EPOLLPRI | EPOLLEXCLUSIVE, 45);
    ADD(s, EPOLLIN | EPOLLRDHUP | EPOLLEXCLUSIVE, 45);
    int sub = epoll_create1(0);
    ADD(sub, EPOLLIN | EPOLLEXCLUSIVE, 46);
    close(sub);
    RX(s, 8, 0);
    section("several descriptors for one socket");
    int d = dup(s);
    ADD(d, EPOLLIN, 51), ADD(s, EPOLLIN, 52);
    T(send(c, "x", 1, 0));
    settle();
    W("both");
    T(close(d));
    W("the dup's registration lives on"); // the open file is still there
    ADD(s, EPOLLIN, 53);
    MOD(d, EPOLLIN, 54);
    DEL(d);
    RX(s, 8, 0);
    DEL(s);
    W("s gone");
    section("close takes it out");
    int c2, s2;
    tcp_pair(&c2, &s2);
    ADD(s2, EPOLLIN, 61);
    T(send(c2, "x", 1, 0));
    settle();
    T(close(s2));
    settle();
    wait_("closed", 16, 0);
    close(c2);
    section("the number comes back as another socket");
    tcp_pair(&c2, &s2);
    ADD(s2, EPOLLIN, 62);
    int old = s2;
    close(s2);
    int c3, s3;
    struct sockaddr_in la;
    int l = listener(2, &la);
    T(l == old);
    W("nothing of the old one");
    ADD(l, EPOLLIN, 63);
    c3 = dial(&la);
    wait_("the new one", 16, 2000);
    F(s3 = accept(l, 0, 0));
    W("accepted");
    section("peer closes: RDHUP, HUP, ERR");
    ADD(s3, EPOLLIN | EPOLLRDHUP, 71), ADD(c3, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, 72);
    W("start");
    T(shutdown(c3, SHUT_WR));
    settle();
    W("half closed");
    MOD(s3, EPOLLOUT, 73);
    W("not asked");
    T(shutdown(s3, SHUT_WR));
    settle();
    W("both closed");
    W("again");
    MOD(s3, 0, 74);
    W("hup comes unasked");
    close(c3), close(s3), close(c2);
    section("reset");
    c3 = dial(&la), s3 = accept(l, 0, 0);
    ADD(s3, 0, 75);
    linger0(c3), close(c3);
    wait_("reset", 16, 2000);
    SOERR(s3);
    W("error taken");
    close(s3);
    section("mixed with pipe, eventfd, udp; maxevents");
    int ev = eventfd(0, EFD_NONBLOCK);
    ADD(p[0], EPOLLIN, 81), ADD(ev, EPOLLIN, 82), ADD(u, EPOLLIN, 83), ADD(s, EPOLLIN, 84),
        ADD(p[1], EPOLLOUT | EPOLLET, 85);
    W("pipe's writing end");
    write(p[1], "x", 1), write(ev, &(uint64_t){1}, 8), send(c, "x", 1, 0);
    struct sockaddr_in ua = lo(port_of(u));
    int v = sock(SOCK_DGRAM);
    sendto(v, "x", 1, 0, SA(&ua), sizeof ua);
    settle();
    W("all");
    uint64_t seen = 0;
    for (int i = 0; i < 12; i++) { // nobody starves when only one fits
        if (epoll_wait(ep, &one, 1, 0) == 1 && one.data.u64 > 80)
            seen |= 1ull << (one.data.u64 - 80);
    }
    V(seen);
    read(p[0], &(char){0}, 1), read(ev, &(uint64_t){0}, 8), recv(s, &(char){0}, 1, 0);
    W("udp is left");
    RX(u, 4, 0);
    W("quiet");
    section("timeouts and waking");
    long t0 = now_ms();
    wait_("60 ms", 16, 60);
    LASTED(t0, 60, 3000);
    struct timespec ts = {0, 60000000};
    t0 = now_ms();
    T(epoll_pwait2(ep, &one, 1, &ts, 0));
    LASTED(t0, 60, 3000);
    pthread_t t = spawn_thread(send_later, 0);
    wait_("woken", 16, -1);
    pthread_join(t, 0);
    RX(s, 4, 0);
    t = spawn_thread(send_later, 0);
    T(epoll_pwait(ep, &one, 1, 5000, 0));
    pthread_join(t, 0);
    t = spawn_thread(send_later, 0);
    RX(s, 1, 0);
    T(epoll_pwait2(ep, &one, 1, 0, 0));
    pthread_join(t, 0);
    RX(s, 4, 0);
    section("adding what is ready already");
    DEL(s);
    T(send(c, "x", 1, 0));
    AW(s, POLLIN);
    ADD(s, EPOLLIN | EPOLLET, 91);
    W("edge of what was there");
    W("once");
    section("one socket in two sets");
    int first = ep, second = epoll_create1(0);
    ep = second;
    ADD(s, EPOLLIN | EPOLLET, 92);
    W("second set");
    T(send(c, "y", 1, 0));
    settle();
    W("second set");
    ep = first;
    W("first set");
    section("unconnected and listening sockets");
    ep = second;
    int n = tcp();
    ADD(n, EPOLLIN | EPOLLOUT, 93);
    W("fresh tcp");
    T(connect(n, SA(&la), sizeof la));
    W("connected");
    MOD(n, EPOLLIN | EPOLLOUT | EPOLLWAKEUP, 94);
    ADD(l, EPOLLIN | EPOLLOUT | EPOLLRDHUP, 95);
    W("a connection waits");
    section("epoll descriptor itself");
    struct stat st;
    T(read(ep, &one, 1)), T(write(ep, &one, 1)), T(listen(ep, 1)), T(lseek(ep, 0, SEEK_SET)),
        T(fstat(ep, &st));
    int e2 = dup(ep);
    T(epoll_wait(e2, &one, 1, 0));
    T(close(ep));
    T(epoll_wait(e2, &one, 1, 0));
    T(epoll_wait(ep, &one, 1, 0));
    return 0;
}
