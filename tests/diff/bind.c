// bind(): lengths, families, addresses, ports, double bind, the reuse rules.
#include "diff.h"

static void try_addr(const char* a, int type) {
    int s = sock(type);
    struct sockaddr_in x = ip4(a, 0);
    errno = NOERR;
    int r = bind(s, SA(&x), sizeof x);
    say("bind(%s, %s) -> %d %s", type == SOCK_STREAM ? "tcp" : "udp", a, r, en(errno));
    SOCKNAME(s);
    close(s);
}

// A port that nobody uses on any address, outside the range that bind(0) draws from.
static int quiet_port(int type) {
    static unsigned k;
    for (;;) {
        int port = 10000 + (getpid() * 37u + k++) % 20000, s = sock(type);
        struct sockaddr_in x = ip4("0.0.0.0", port);
        int r = bind(s, SA(&x), sizeof x);
        close(s);
        if (r == 0) return port;
    }
}

// Two sockets on one port: what does the second bind say?
static void two(int type, const char* a1, int r1, int p1, int listening, const char* a2, int r2,
                int p2) {
    int s = sock(type), t = sock(type);
    struct sockaddr_in x = ip4(a1, quiet_port(type)), y;
    setint(s, SOL_SOCKET, SO_REUSEADDR, r1);
    setint(t, SOL_SOCKET, SO_REUSEADDR, r2);
    setint(s, SOL_SOCKET, SO_REUSEPORT, p1);
    setint(t, SOL_SOCKET, SO_REUSEPORT, p2);
    if (bind(s, SA(&x), sizeof x) < 0) die("bind");
    if (listening) listen(s, 1);
    y = ip4(a2, port_of(s));
    errno = 0;
    int r = bind(t, SA(&y), sizeof y), e = errno, lr = 0, le = 0;
    if (r == 0 && type == SOCK_STREAM) lr = listen(t, 1), le = errno;
    say("%s %s reuseaddr %d reuseport %d%s; %s reuseaddr %d reuseport %d: bind %d %s%s%s",
        type == SOCK_STREAM ? "tcp" : "udp", a1, r1, p1, listening ? " listening" : "", a2, r2, p2,
        r, en(e), r == 0 && type == SOCK_STREAM ? " listen " : "",
        r == 0 && type == SOCK_STREAM ? (lr ? en(le) : "0") : "");
    close(s), close(t);
}

int main(void) {
    diff_init();
    section("length and family");
    struct sockaddr_storage st;
    memset(&st, 0, sizeof st);
    struct sockaddr_in a = lo(0);
    memcpy(&st, &a, sizeof a);
    static const int lens[] = {0, 1, 2, 4, 8, 15, 17, 28, 127, 128, 129, 1000, -1, INT_MIN};
    for (unsigned i = 0; i < sizeof lens / sizeof *lens; i++) {
        int s = tcp(), u = sock(SOCK_DGRAM);
        errno = NOERR;
        int r = bind(s, SA(&st), lens[i]), e = errno;
        errno = NOERR;
        int q = bind(u, SA(&st), lens[i]);
        say("bind(len %d): tcp %d %s, udp %d %s", lens[i], r, en(e), q, en(errno));
        close(s), close(u);
    }
    static const int fams[] = {AF_UNSPEC, AF_UNIX, AF_INET6, 99, 65535};
    for (unsigned i = 0; i < sizeof fams / sizeof *fams; i++)
        for (int any = 0; any < 2; any++)
            for (int type = 1; type <= 2; type++) {
                int s = sock(type);
                a = any ? ip4("0.0.0.0", 0) : lo(0);
                a.sin_family = fams[i];
                errno = NOERR;
                int r = bind(s, SA(&a), sizeof a);
                say("bind(type %d, family %d, %s) -> %d %s", type, fams[i],
                    any ? "any" : "loopback", r, en(errno));
                SOCKNAME(s);
                close(s);
            }
    int s = tcp();
    a = lo(0);
    a.sin_family = 99;
    T(bind(s, SA(&a), 15));
    T(bind(-1, SA(&a), sizeof a));
    T(bind(9999, SA(&a), sizeof a));
    T(bind(9999, SA(1), -1));
    int p[2];
    T(pipe(p));
    T(bind(p[0], SA(&a), sizeof a));
    T(bind(p[0], SA(1), -1));
    close(s);

    section("addresses");
    static const char* addrs[] = {"0.0.0.0",         "127.0.0.1", "127.0.0.2",   "127.255.255.254",
                                  "127.255.255.255", "127.0.0.0", "203.0.113.1", "8.8.8.8",
                                  "0.0.0.1",         "224.0.0.1", "239.1.2.3",   "240.0.0.1"};
    for (unsigned i = 0; i < sizeof addrs / sizeof *addrs; i++)
        try_addr(addrs[i], SOCK_STREAM), try_addr(addrs[i], SOCK_DGRAM);
    s = tcp();
    T(setint(s, IPPROTO_IP, IP_FREEBIND, 1));
    a = ip4("203.0.113.1", 0);
    T(bind(s, SA(&a), sizeof a));
    SOCKNAME(s);
    close(s);

    section("twice");
    for (int type = 1; type <= 2; type++) {
        V(type);
        s = sock(type);
        SOCKNAME(s);
        a = ip4("203.0.113.1", 0);
        T(bind(s, SA(&a), sizeof a));
        a = lo(0);
        T(bind(s, SA(&a), sizeof a));
        SOCKNAME(s);
        PEERNAME(s);
        T(bind(s, SA(&a), sizeof a));
        a = lo(port_of(s));
        T(bind(s, SA(&a), sizeof a));
        a = ip4("203.0.113.1", 0);
        T(bind(s, SA(&a), sizeof a));
        close(s);
    }
    struct sockaddr_in la, ua;
    int l = listener(4, &la), c = dial(&la), u = udp(&ua), v = sock(SOCK_DGRAM);
    a = lo(0);
    T(bind(l, SA(&a), sizeof a));
    T(bind(c, SA(&a), sizeof a));
    T(connect(v, SA(&ua), sizeof ua));
    SOCKNAME(v);
    T(bind(v, SA(&a), sizeof a));
    close(v);
    v = sock(SOCK_DGRAM);
    T(sendto(v, "x", 1, 0, SA(&ua), sizeof ua));
    SOCKNAME(v);
    T(bind(v, SA(&a), sizeof a));
    close(v), close(c), close(l), close(u);

    section("tcp and udp ports are apart");
    s = bound(SOCK_STREAM, &a);
    u = sock(SOCK_DGRAM);
    T(bind(u, SA(&a), sizeof a));
    close(s), close(u);

    section("port is free after close");
    for (int type = 1; type <= 2; type++) {
        s = bound(type, &a);
        int t = sock(type);
        T(bind(t, SA(&a), sizeof a));
        close(s);
        T(bind(t, SA(&a), sizeof a));
        V(port_of(t) == ntohs(a.sin_port));
        close(t);
    }

    section("bind without a port");
    l = listener(4, &la);
    s = tcp();
    T(setint(s, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1));
    a = ip4("127.0.0.3", 0);
    T(bind(s, SA(&a), sizeof a));
    SOCKNAME(s);
    T(connect(s, SA(&la), sizeof la));
    SOCKNAME(s);
    PEERNAME(s);
    close(s), close(l);

    section("two sockets, one port: reuseaddr");
    static const char* w[] = {"127.0.0.1", "0.0.0.0", "127.0.0.2"};
    for (int type = 1; type <= 2; type++)
        for (int listening = 0; listening < (type == 1 ? 2 : 1); listening++)
            for (int i = 0; i < 2; i++)
                for (int j = 0; j < 3; j++)
                    for (int r = 0; r < 4; r++)
                        two(type, w[i], r & 1, 0, listening, w[j], r >> 1, 0);
    section("two sockets, one port: reuseport");
    for (int type = 1; type <= 2; type++)
        for (int listening = 0; listening < (type == 1 ? 2 : 1); listening++)
            for (int j = 0; j < 3; j++)
                for (int r = 0; r < 4; r++) two(type, w[j], 0, r & 1, listening, w[0], 0, r >> 1);
    two(SOCK_STREAM, w[0], 1, 0, 0, w[0], 0, 1);
    two(SOCK_STREAM, w[0], 1, 1, 1, w[0], 1, 1);
    two(SOCK_DGRAM, w[0], 1, 0, 0, w[0], 0, 1);
    section("reuse set after bind");
    for (int type = 1; type <= 2; type++) {
        s = bound(type, &a);
        int t = sock(type);
        setint(t, SOL_SOCKET, SO_REUSEADDR, 1);
        T(bind(t, SA(&a), sizeof a));
        setint(s, SOL_SOCKET, SO_REUSEADDR, 1);
        T(bind(t, SA(&a), sizeof a));
        close(s), close(t);
    }
    section("listen where a reusing socket is bound");
    s = tcp();
    int t = tcp();
    setint(s, SOL_SOCKET, SO_REUSEADDR, 1), setint(t, SOL_SOCKET, SO_REUSEADDR, 1);
    a = lo(0);
    T(bind(s, SA(&a), sizeof a));
    a = lo(port_of(s));
    T(bind(t, SA(&a), sizeof a));
    T(listen(s, 1));
    T(listen(t, 1));
    T(close(s));
    T(listen(t, 1));
    return 0;
}
