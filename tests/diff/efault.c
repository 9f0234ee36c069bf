// Bad pointers to the plain socket calls: EFAULT (or whatever Linux says), never a crash, and what is lost by it.
#include "bad.h"

int main(void) {
    diff_init();
    bad_list();
    struct sockaddr_in la, ua, a;
    socklen_t len;
    int l = listener(8, &la), c, s, u = udp(&ua), v = udp(0);
    section("bind, connect");
    c = tcp();
    EACH_BAD(bind(c, BAD, 16));
    EACH_BAD(bind(c, BAD, 0));
    EACH_BAD(bind(c, BAD, 15));
    EACH_BAD(bind(c, BAD, 129));
    a = lo(0);
    T(bind(c, edge_of(&a, 16, 16), 16));
    close(c);
    c = tcp();
    T(bind(c, edge_of(&a, 16, 15), 16));
    T(bind(c, edge_of(&a, 16, 16), 17));
    T(bind(c, NULL, 16));
    T(bind(c, NULL, 0));
    T(bind(99, SA(bad_page), 16));
    EACH_BAD(connect(c, BAD, 16));
    EACH_BAD(connect(c, BAD, 0));
    EACH_BAD(connect(c, BAD, 1));
    EACH_BAD(connect(c, BAD, -1));
    T(connect(c, NULL, 16));
    T(connect(c, NULL, 0));
    T(connect(c, edge_of(&la, 16, 12), 16));
    T(connect(c, edge_of(&la, 16, 16), 16));
    s = accept(l, 0, 0);

    section("getsockname, getpeername");
    len = 16;
    EACH_BAD(getsockname(c, BAD, &len));
    V(len);
    EACH_BAD(getsockname(c, SA(&a), BAD));
    EACH_BAD(getpeername(c, BAD, &len));
    EACH_BAD(getpeername(c, SA(&a), BAD));
    T(getsockname(c, NULL, &len));
    T(getsockname(c, SA(&a), NULL));
    EACH_BAD((len = 0, getsockname(c, BAD, &len)));
    V(len);
    len = 16;
    T(getsockname(c, SA(edge(8)), &len));
    V(len);
    T(getsockname(c, SA(ro_page), &len));
    T(getsockname(l, SA(&a), (socklen_t*)ro_page));
    T(getpeername(l, SA(bad_page), &len));
    T(getpeername(l, SA(bad_page), (void*)bad_page));

    section("accept: is the connection lost?");
    nonblock(l, 1);
    EACH_BAD(accept(l, BAD, BAD));
    static const char* how[] = {"addr bad",      "len bad",        "len NULL",
                                "len read-only", "addr read-only", "addr short page"};
    for (int i = 0; i < 6; i++) {
        struct sockaddr_storage st;
        int d = dial(&la);
        AW(l, POLLIN);
        len = 16;
        memcpy(edge(4), &len, 4);
        errno = NOERR;
        int r = i == 0   ? accept(l, SA(bad_page), &len)
                : i == 1 ? accept(l, SA(&st), (void*)bad_page)
                : i == 2 ? accept(l, SA(&st), NULL)
                : i == 3 ? accept(l, SA(&st), (void*)ro_page)
                : i == 4 ? accept(l, SA(ro_page), &len)
                         : accept(l, SA(edge(4)), &len);
        say("accept(%s) -> %s %s", how[i], r < 0 ? "-1" : "fd", en(errno));
        settle();
        say("  waiting: %s, client: %s", pbits(poll1(l, POLLIN, 0)),
            pbits(poll1(d, POLLIN | POLLRDHUP, 0)));
        if (r < 0 && (r = accept(l, 0, 0)) < 0) say("  second accept: %s", en(errno));
        if (r >= 0) close(r);
        close(d);
    }

    section("send, write");
    EACH_BAD(send(c, BAD, 10, 0));
    EACH_BAD(send(c, BAD, 0, 0));
    EACH_BAD(write(c, BAD, 10));
    EACH_BAD(write(c, BAD, 0));
    EACH_BAD(send(c, BAD, 10, MSG_OOB));
    EACH_BAD(sendto(c, BAD, 10, 0, 0, 0));
    EACH_BAD(sendto(c, "x", 0, 0, BAD, 16));
    T(send(c, NULL, 10, 0));
    T(send(c, NULL, 0, 0));
    T(send(c, edge(10), 20, 0));
    nonblock(s, 1);
    settle();
    RX(s, 64, 0);
    T(send(c, "rest", 4, 0));
    AW(s, POLLIN);
    RX(s, 64, 0);
    EACH_BAD(send(v, BAD, 10, 0));
    EACH_BAD(sendto(v, BAD, 10, 0, SA(&ua), sizeof ua));
    EACH_BAD(sendto(v, BAD, 0, 0, SA(&ua), sizeof ua));
    EACH_BAD(sendto(v, "x", 1, 0, BAD, sizeof ua));
    EACH_BAD(sendto(v, "x", 1, 0, BAD, 129));
    EACH_BAD(sendto(v, "x", 1, 0, BAD, 0));
    EACH_BAD(sendto(v, "x", 1, 0, BAD, 4));
    T(sendto(v, "x", 1, 0, edge_of(&ua, 16, 8), 16));
    T(sendto(v, edge(5), 6, 0, SA(&ua), sizeof ua));
    nonblock(u, 1);
    settle();
    for (int i = 0; i < 7; i++) { // the zero-length ones arrived
        char b[8];
        int r = recv(u, b, 8, 0);
        say("drain: %d %s", r, r < 0 ? en(errno) : "");
        if (r < 0) break;
    }

    section("recv, read");
    EACH_BAD(recv(s, BAD, 10, 0));
    T(send(c, "0123456789abcdef", 16, 0));
    AW(s, POLLIN);
    EACH_BAD(recv(s, BAD, 10, 0));
    EACH_BAD(recv(s, BAD, 10, MSG_PEEK));
    EACH_BAD(recv(s, BAD, 0, 0));
    EACH_BAD(read(s, BAD, 10));
    EACH_BAD(read(s, BAD, 0));
    T(recv(s, NULL, 10, 0));
    T(recv(s, ro_page, 10, 0));
    T(recv(s, edge(4), 10, 0));
    T(recv(s, edge(4), 4, 0));
    T(read(s, edge(4), 4));
    EACH_BAD(recvfrom(s, BAD, 10, 0, 0, 0));
    char b[64];
    EACH_BAD(recvfrom(s, b, 1, 0, 0, BAD));
    EACH_BAD(recvfrom(s, b, 1, MSG_PEEK, BAD, BAD));
    len = 16;
    T(recvfrom(s, b, 1, 0, SA(bad_page), &len));
    RX(s, 64, 0);
    T(send(c, "gone", 4, 0));
    AW(s, POLLIN);
    T(recv(s, bad_page, 4, MSG_TRUNC));
    RX(s, 64, 0);

    section("udp: is the datagram lost?");
#define DGRAM(call)                                                                                \
    sendto(v, "datagram", 8, 0, SA(&ua), sizeof ua);                                               \
    AW(u, POLLIN);                                                                                 \
    len = 16;                                                                                      \
    T(call);                                                                                       \
    RX(u, 16, 0);                                                                                  \
    RX(u, 16, 0)
    DGRAM(recv(u, bad_page, 8, 0));
    DGRAM(recv(u, NULL, 8, 0));
    DGRAM(recv(u, bad_page, 0, 0));
    DGRAM(recv(u, edge(4), 8, 0));
    DGRAM(recv(u, edge(8), 80, 0));
    DGRAM(recv(u, bad_page, 8, MSG_PEEK));
    DGRAM(recvfrom(u, b, 8, 0, SA(bad_page), &len));
    DGRAM(recvfrom(u, b, 8, 0, SA(&a), (void*)bad_page));
    DGRAM(recvfrom(u, b, 8, 0, SA(&a), NULL));
    DGRAM(recvfrom(u, b, 8, 0, NULL, (void*)bad_page));
    DGRAM(recvfrom(u, b, 8, MSG_PEEK, SA(bad_page), &len));
    DGRAM(recvfrom(u, b, 8, 0, SA(edge(6)), &len));
    DGRAM(recvfrom(u, b, 8, 0, SA(&a), (void*)ro_page));

    section("options");
    int val = 1;
    static const int lv[][2] = {{SOL_SOCKET, SO_REUSEADDR},
                                {SOL_SOCKET, SO_LINGER},
                                {SOL_SOCKET, SO_RCVTIMEO},
                                {SOL_SOCKET, 9999},
                                {IPPROTO_TCP, TCP_NODELAY},
                                {IPPROTO_TCP, TCP_CONGESTION},
                                {IPPROTO_TCP, TCP_INFO},
                                {IPPROTO_TCP, 9999},
                                {IPPROTO_IP, IP_TTL},
                                {IPPROTO_IP, IP_TOS},
                                {IPPROTO_IP, IP_ADD_MEMBERSHIP},
                                {IPPROTO_IP, 9999},
                                {IPPROTO_UDP, 1},
                                {77, 1},
                                {SOL_SOCKET, SO_ERROR}};
    for (unsigned i = 0; i < sizeof lv / sizeof *lv; i++) {
        int L = lv[i][0], O = lv[i][1];
        say("level %d option %d", L, O);
        EACH_BAD(setsockopt(c, L, O, BAD, 4));
        EACH_BAD(setsockopt(c, L, O, BAD, 16));
        EACH_BAD(setsockopt(c, L, O, BAD, 0));
        EACH_BAD(setsockopt(c, L, O, BAD, -1));
        len = 16;
        EACH_BAD(getsockopt(c, L, O, BAD, &len));
        EACH_BAD(getsockopt(c, L, O, &val, BAD));
        EACH_BAD(getsockopt(c, L, O, BAD, BAD));
        T(setsockopt(c, L, O, NULL, 4));
        T(setsockopt(c, L, O, NULL, 0));
        len = 4;
        T(getsockopt(c, L, O, NULL, &len));
        T(getsockopt(c, L, O, &val, NULL));
        len = 4;
        T(getsockopt(c, L, O, ro_page, &len));
    }
    T(setsockopt(c, SOL_SOCKET, SO_LINGER, edge(4), 8));
    T(setsockopt(c, SOL_SOCKET, SO_REUSEADDR, edge(4), 4));
    T(setsockopt(c, SOL_SOCKET, SO_REUSEADDR, edge(2), 4));
    len = 4;
    T(getsockopt(c, SOL_SOCKET, SO_TYPE, edge(2), &len));
    T(setsockopt(9999, SOL_SOCKET, SO_TYPE, bad_page, 4));
    T(setsockopt(1, SOL_SOCKET, SO_TYPE, bad_page, 4));

    section("fcntl, ioctl, fstat, sendfile, splice");
    EACH_BAD(ioctl(c, FIONREAD, BAD));
    EACH_BAD(ioctl(c, FIONBIO, BAD));
    EACH_BAD(ioctl(c, FIOASYNC, BAD));
    EACH_BAD(ioctl(u, FIONREAD, BAD));
    EACH_BAD(ioctl(c, 0x8905 /*SIOCATMARK*/, BAD));
    EACH_BAD(ioctl(c, 0x5411 /*TIOCOUTQ*/, BAD));
    EACH_BAD(ioctl(c, 0x8912 /*SIOCGIFCONF*/, BAD));
    EACH_BAD(ioctl(c, 0x8913 /*SIOCGIFFLAGS*/, BAD));
    EACH_BAD(ioctl(c, 0x89ff, BAD));
    EACH_BAD(ioctl(c, 0x5401 /*TCGETS*/, BAD));
    EACH_BAD(fcntl(c, F_GETOWN_EX, BAD));
    EACH_BAD(fcntl(c, F_SETOWN_EX, BAD));
    EACH_BAD(fcntl(c, F_GETLK, BAD));
    EACH_BAD(syscall(SYS_fstat, c, BAD));
    EACH_BAD(syscall(SYS_socketpair, AF_INET, SOCK_STREAM, 0, BAD));
    EACH_BAD(syscall(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, BAD));
    return 0;
}
