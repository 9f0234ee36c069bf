// listen(), accept(), accept4(), the backlog.
#include "diff.h"

int main(void) {
    diff_init();
    struct sockaddr_in la, a;
    socklen_t len;
    int l, c, s, u, n;
    section("listen errnos");
    u = udp(0);
    int p[2];
    T(pipe(p));
    T(listen(u, 1)), T(listen(p[0], 1)), T(listen(-1, 1)), T(listen(9999, 1));
    tcp_pair(&c, &s);
    T(listen(c, 1)), T(listen(s, 1));
    close(c), close(s);
    section("unbound listen takes a port");
    l = tcp();
    SOCKNAME(l);
    T(listen(l, 3));
    SOCKNAME(l);
    PEERNAME(l);
    V(getint(l, SOL_SOCKET, SO_ACCEPTCONN));
    T(listen(l, 5)), T(listen(l, 0)), T(listen(l, -1)), T(listen(l, INT_MAX));
    PALL(l);
    a = lo(port_of(l));
    F(c = dial(&a));
    AW(l, POLLIN);
    PALL(l);
    F(s = accept(l, 0, 0));
    PALL(l);
    SOCKNAME(s);
    V(peer_port_of(s) == port_of(c));
    close(c), close(s);
    section("calls on a listener");
    RX(l, 8, 0);
    T(send(l, "x", 1, MSG_NOSIGNAL)), T(send(l, "x", 1, 0)), T(write(l, "x", 1));
    a = lo(port_of(l));
    T(connect(l, SA(&a), sizeof a));
    a = lo(9);
    T(connect(l, SA(&a), sizeof a));
    close(l);

    section("accept errnos");
    s = tcp();
    T(accept(s, 0, 0));
    T(accept(u, 0, 0)), T(accept(p[0], 0, 0)), T(accept(-1, 0, 0)), T(accept(9999, 0, 0));
    T(accept4(s, 0, 0, 1)), T(accept4(s, 0, 0, -1)), T(accept4(u, 0, 0, 1)),
        T(accept4(9999, 0, 0, 1));
    a = lo(0);
    T(bind(s, SA(&a), sizeof a));
    T(accept(s, 0, 0));
    close(s);
    tcp_pair(&c, &s);
    T(accept(c, 0, 0)), T(accept(s, 0, 0));
    close(c), close(s);
    l = listener(8, &la);
    T(nonblock(l, 1));
    T(accept(l, 0, 0));
    T(accept4(l, 0, 0, 0x12345));

    section("the peer address");
    static const int lens[] = {16, 128, 15, 8, 4, 2, 1, 0};
    for (unsigned i = 0; i < sizeof lens / sizeof *lens; i++) {
        struct sockaddr_storage ss;
        memset(&ss, 0xee, sizeof ss);
        c = dial(&la);
        AW(l, POLLIN);
        len = lens[i];
        errno = NOERR;
        s = accept(l, SA(&ss), &len);
        unsigned char* b = (unsigned char*)&ss;
        int same = 1;
        struct sockaddr_in want = lo(port_of(c));
        for (int k = 0; k < 16; k++)
            same &= k < lens[i] ? b[k] == ((unsigned char*)&want)[k] : b[k] == 0xee;
        say("accept(len %d) -> %s %s, len %u, bytes right %d", lens[i], s < 0 ? "-1" : "fd",
            en(errno), len, same);
        close(s), close(c);
    }
    c = dial(&la);
    AW(l, POLLIN);
    len = -1;
    T(accept(l, SA(&a), &len));
    V((int)len);
    T(accept(l, 0, 0)); // was the connection used up?
    close(c);
    c = dial(&la);
    AW(l, POLLIN);
    len = 16;
    F(s = accept(l, 0, &len));
    V(len);
    close(c), close(s);
    static const int glens[] = {16, 15, 2, 0, 100, -1};
    tcp_pair(&c, &s);
    for (int k = 0; k < 6; k++) {
        struct sockaddr_storage ss;
        memset(&ss, 0xee, sizeof ss);
        len = glens[k];
        errno = NOERR;
        int r = getsockname(c, SA(&ss), &len), e = errno;
        socklen_t len2 = glens[k];
        errno = NOERR;
        int r2 = getpeername(c, SA(&ss), &len2);
        say("getsockname(len %d) -> %d %s len %d; getpeername -> %d %s len %d", glens[k], r, en(e),
            (int)len, r2, en(errno), (int)len2);
        if (glens[k] == 2) V(ss.ss_family), bytes("past the end", (char*)&ss + 2, 4);
    }
    close(c), close(s);

    section("flags of accepted descriptors");
    static const int fl[] = {0, SOCK_NONBLOCK, SOCK_CLOEXEC, SOCK_NONBLOCK | SOCK_CLOEXEC};
    fcntl(l, F_SETFD, FD_CLOEXEC);
    for (int i = 0; i < 4; i++) {
        c = dial(&la);
        AW(l, POLLIN);
        s = accept4(l, 0, 0, fl[i]);
        say("accept4(flags %#x): FD %d FL %#x", fl[i], fcntl(s, F_GETFD), fcntl(s, F_GETFL));
        close(s), close(c);
    }
    section("options inherited");
    setint(l, SOL_SOCKET, SO_KEEPALIVE, 1), setint(l, IPPROTO_TCP, TCP_NODELAY, 1),
        setint(l, SOL_SOCKET, SO_RCVBUF, 20000);
    setint(l, SOL_SOCKET, SO_SNDBUF, 30000), setint(l, IPPROTO_TCP, TCP_KEEPIDLE, 77),
        setint(l, IPPROTO_IP, IP_TOS, 0x10);
    setint(l, IPPROTO_IP, IP_TTL, 33), setint(l, IPPROTO_TCP, TCP_USER_TIMEOUT, 12345),
        setint(l, SOL_SOCKET, SO_REUSEADDR, 1);
    setint(l, SOL_SOCKET, SO_OOBINLINE, 1), setint(l, SOL_SOCKET, SO_RCVLOWAT, 3),
        setint(l, IPPROTO_TCP, TCP_CORK, 0);
    struct timeval tv = {3, 0};
    setsockopt(l, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    linger0(l);
    c = dial(&la);
    AW(l, POLLIN);
    s = accept(l, 0, 0);
    V(getint(s, SOL_SOCKET, SO_KEEPALIVE)), V(getint(s, IPPROTO_TCP, TCP_NODELAY)),
        V(getint(s, SOL_SOCKET, SO_RCVBUF));
    V(getint(s, SOL_SOCKET, SO_SNDBUF)), V(getint(s, IPPROTO_TCP, TCP_KEEPIDLE)),
        V(getint(s, IPPROTO_IP, IP_TOS));
    V(getint(s, IPPROTO_IP, IP_TTL)), V(getint(s, IPPROTO_TCP, TCP_USER_TIMEOUT)),
        V(getint(s, SOL_SOCKET, SO_REUSEADDR));
    V(getint(s, SOL_SOCKET, SO_OOBINLINE)), V(getint(s, SOL_SOCKET, SO_RCVLOWAT)),
        V(getint(s, SOL_SOCKET, SO_ACCEPTCONN));
    struct linger lg = {0, 0};
    len = sizeof lg;
    getsockopt(s, SOL_SOCKET, SO_LINGER, &lg, &len);
    V(lg.l_onoff), V(lg.l_linger);
    len = sizeof tv;
    tv.tv_sec = 0;
    getsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, &len);
    V(tv.tv_sec);
    close(c), close(s), close(l);

    section("first come, first accepted; data before accept");
    l = listener(16, &la);
    int cs[8];
    for (int i = 0; i < 8; i++) {
        char m[8];
        cs[i] = dial(&la);
        sprintf(m, "no %d", i);
        send(cs[i], m, 4, 0);
    }
    for (int i = 0; i < 8; i++) {
        s = accept(l, 0, 0);
        say("accept %d: right peer %d", i, peer_port_of(s) == port_of(cs[i]));
        RX(s, 16, 0);
        close(s), close(cs[i]);
    }
    section("peer gone before accept");
    c = dial(&la);
    T(send(c, "bye", 3, 0)), T(close(c));
    settle();
    F(s = accept(l, 0, 0));
    PEERNAME(s);
    RX(s, 8, 0), RX(s, 8, 0);
    close(s);
    c = dial(&la);
    T(send(c, "bye", 3, 0));
    linger0(c), T(close(c));
    settle();
    PB(l);
    F(s = accept(l, 0, 0));
    PEERNAME(s);
    PALL(s);
    RX(s, 8, 0), RX(s, 8, 0);
    close(s);

    section("close of a listener with connections waiting");
    c = dial(&la);
    settle();
    T(close(l));
    AW(c, POLLIN);
    PALL(c);
    RX(c, 8, 0), RX(c, 8, 0);
    close(c);
    c = tcp();
    T(connect(c, SA(&la), sizeof la));
    close(c);
    section("shutdown of a listener");
    l = listener(4, &la);
    T(shutdown(l, SHUT_WR));
    V(getint(l, SOL_SOCKET, SO_ACCEPTCONN));
    PALL(l);
    T(shutdown(l, SHUT_RD));
    V(getint(l, SOL_SOCKET, SO_ACCEPTCONN));
    PALL(l);
    T(accept(l, 0, 0));
    c = tcp();
    T(connect(c, SA(&la), sizeof la));
    V(port_of(l) == ntohs(la.sin_port));
    T(listen(l, 4)); // a port that bind(0) chose is given back: this takes another one
    V(port_of(l) == ntohs(la.sin_port));
    la = lo(port_of(l));
    T(connect(c, SA(&la), sizeof la));
    F(s = accept(l, 0, 0));
    close(c), close(s), close(l);

    section("backlog");
    for (int b = 0; b < 3; b++) {
        l = listener(b, &la);
        for (int i = 0; i <= b; i++) {
            cs[i] = sock(SOCK_STREAM | SOCK_NONBLOCK);
            T(connect(cs[i], SA(&la), sizeof la));
            AW(cs[i], POLLOUT);
        }
        n = b + 1;
        cs[n] = sock(SOCK_STREAM | SOCK_NONBLOCK);
        T(connect(cs[n], SA(&la), sizeof la));
        V(poll1(cs[n], POLLOUT, 150));
        T(connect(cs[n], SA(&la), sizeof la));
        F(s = accept(l, 0, 0));
        AW(cs[n], POLLOUT); // the SYN comes again after a second
        PB(cs[n]);
        SOERR(cs[n]);
        close(s);
        for (int i = 0; i <= n; i++) close(cs[i]);
        close(l);
    }
    return 0;
}
