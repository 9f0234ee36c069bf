// UDP: datagrams, filtering by connect, truncation, sizes, refusals, broadcast, sharing of ports.
#include "diff.h"

static void from(int fd, int flags) {
    char b[32];
    struct sockaddr_in a;
    socklen_t l = sizeof a;
    errno = NOERR;
    long r = recvfrom(fd, b, sizeof b, flags, SA(&a), &l);
    say("recvfrom -> %ld %s, %s", r, en(errno), r < 0 ? "" : addr_str(&a, l));
    if (r > 0) bytes("data", b, r);
}
static char big[70000];

int main(void) {
    diff_init();
    struct sockaddr_in a, b, c, nobody;
    char buf[64];
    int u = udp(&a), v = udp(&b), w = udp(&c), x = udp(&nobody);
    close(x); // nobody there now
    section("sendto and recvfrom");
    PALL(u);
    T(sendto(v, "hello", 5, 0, SA(&a), sizeof a));
    AW(u, POLLIN);
    PALL(u);
    from(u, 0);
    T(sendto(v, "", 0, 0, SA(&a), sizeof a));
    AW(u, POLLIN);
    from(u, 0);
    from(u, MSG_DONTWAIT);
    T(sendto(v, "one", 3, 0, SA(&a), sizeof a)), T(sendto(w, "two", 3, 0, SA(&a), sizeof a)),
        T(sendto(v, "three", 5, 0, SA(&a), sizeof a));
    from(u, MSG_PEEK), from(u, 0), from(u, 0), from(u, 0), from(u, MSG_DONTWAIT);
    section("an unbound sender gets a port");
    x = sock(SOCK_DGRAM);
    T(sendto(x, "new", 3, 0, SA(&a), sizeof a));
    SOCKNAME(x);
    from(u, 0);
    close(x);
    x = sock(SOCK_DGRAM);
    RX(x, 4, MSG_DONTWAIT);
    SOCKNAME(x);
    section("truncation");
    T(sendto(v, "0123456789", 10, 0, SA(&a), sizeof a)),
        T(sendto(v, "abcdefghij", 10, 0, SA(&a), sizeof a));
    RX(u, 4, 0), RX(u, 4, MSG_TRUNC | MSG_PEEK), T(recv(u, buf, 4, MSG_TRUNC));
    RX(u, 4, MSG_DONTWAIT);
    T(sendto(v, "0123456789", 10, 0, SA(&a), sizeof a));
    struct iovec iov = {buf, 4};
    struct msghdr m = {0, 0, &iov, 1, 0, 0, 0};
    T(recvmsg(u, &m, 0));
    V(m.msg_flags == MSG_TRUNC);
    T(sendto(v, "0123456789", 10, 0, SA(&a), sizeof a));
    T(recvmsg(u, &m, MSG_TRUNC));
    T(sendto(v, "", 0, 0, SA(&a), sizeof a)), T(sendto(v, "z", 1, 0, SA(&a), sizeof a));
    T(recv(u, buf, 0, 0)), T(recv(u, buf, 0, 0)), T(recv(u, buf, 0, MSG_DONTWAIT)),
        T(read(u, buf, 0));
    section("flags");
    T(sendto(v, "x", 1, MSG_OOB, SA(&a), sizeof a)),
        T(sendto(v, "x", 1, MSG_DONTROUTE, SA(&a), sizeof a)),
        T(sendto(v, "y", 1, MSG_CONFIRM, SA(&a), sizeof a));
    T(sendto(v, "m1", 2, MSG_MORE, SA(&a), sizeof a)), T(sendto(v, "m2", 2, 0, SA(&a), sizeof a));
    RX(u, 8, 0), RX(u, 8, 0), RX(u, 8, 0), RX(u, 8, MSG_OOB | MSG_DONTWAIT), RX(u, 8, MSG_DONTWAIT),
        RX(u, 8, MSG_ERRQUEUE);
    T(sendto(v, "waitall", 7, 0, SA(&a), sizeof a));
    RX(u, 32, MSG_WAITALL);
    section("sizes");
    static const int sizes[] = {1,     1472,  1473,  9000,  65000, 65506,
                                65507, 65508, 65535, 65536, 70000};
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int k = 0; k < sizes[i]; k++) big[k] = k * 31 + i;
        errno = 0;
        long r = sendto(v, big, sizes[i], 0, SA(&a), sizeof a);
        int e = errno;
        long g = -1;
        uint64_t h1 = hash_add(HASH0, big, sizes[i]), h2 = h1;
        if (r > 0) {
            memset(big, 0, sizeof big);
            g = recv(u, big, sizeof big, 0);
            h2 = hash_add(HASH0, big, g > 0 ? g : 0);
        }
        say("size %d: sendto %ld %s, recv %ld, same %d", sizes[i], r, en(e), g, h1 == h2);
    }
    section("errnos");
    T(send(v, "x", 1, 0)), T(write(v, "x", 1)), T(sendto(v, "x", 1, 0, NULL, 0)),
        T(sendto(v, "x", 1, 0, SA(&a), 15)), T(sendto(v, "x", 1, 0, SA(&a), 4));
    struct sockaddr_in o = a;
    o.sin_family = AF_INET6;
    T(sendto(v, "x", 1, 0, SA(&o), sizeof o));
    o.sin_family = AF_UNSPEC;
    T(sendto(v, "u", 1, 0, SA(&o), sizeof o));
    RX(u, 4, 0);
    o = a;
    o.sin_port = 0;
    T(sendto(v, "x", 1, 0, SA(&o), sizeof o));
    o = ip4("0.0.0.0", ntohs(a.sin_port));
    T(sendto(v, "any", 3, 0, SA(&o), sizeof o));
    from(u, 0);
    T(listen(u, 1)), T(accept(u, 0, 0));
    section("nobody there, not connected: no error");
    T(sendto(v, "x", 1, 0, SA(&nobody), sizeof nobody));
    settle();
    SOERR(v);
    RX(v, 4, MSG_DONTWAIT);
    T(sendto(v, "x", 1, 0, SA(&nobody), sizeof nobody));

    section("connected: only the peer is heard");
    T(connect(u, SA(&b), sizeof b));
    PEERNAME(u);
    T(sendto(w, "stranger", 8, 0, SA(&a), sizeof a)), T(sendto(v, "peer", 4, 0, SA(&a), sizeof a));
    from(u, 0), from(u, MSG_DONTWAIT);
    T(send(u, "to peer", 7, 0)), T(write(u, "written", 7));
    from(v, 0), from(v, 0);
    T(sendto(u, "elsewhere", 9, 0, SA(&c), sizeof c));
    from(w, 0);
    T(sendto(v, "queued", 6, 0, SA(&a), sizeof a));
    settle();
    T(connect(u, SA(&c), sizeof c));
    from(u, MSG_DONTWAIT); // queued before: still there
    T(sendto(v, "late", 4, 0, SA(&a), sizeof a)), T(sendto(w, "now", 3, 0, SA(&a), sizeof a));
    from(u, 0), from(u, MSG_DONTWAIT);
    o.sin_family = AF_UNSPEC;
    T(connect(u, SA(&o), sizeof o));
    SOCKNAME(u); // a port that bind() chose itself is given up
    T(sendto(v, "lost", 4, 0, SA(&a), sizeof a));
    settle();
    from(u, MSG_DONTWAIT);
    T(bind(u, SA(&a), sizeof a));
    T(sendto(v, "all again", 9, 0, SA(&a), sizeof a));
    from(u, 0);
    T(connect(u, SA(&c), sizeof c)),
        T(connect(u, SA(&o), sizeof o)); // bound to a number: that stays
    SOCKNAME(u);
    T(sendto(v, "all again", 9, 0, SA(&a), sizeof a));
    from(u, 0);
    section("the more closely bound socket is chosen");
    int any = sock(SOCK_DGRAM), one = sock(SOCK_DGRAM), con = sock(SOCK_DGRAM);
    setint(any, SOL_SOCKET, SO_REUSEADDR, 1), setint(one, SOL_SOCKET, SO_REUSEADDR, 1),
        setint(con, SOL_SOCKET, SO_REUSEADDR, 1);
    o = ip4("0.0.0.0", 0);
    T(bind(any, SA(&o), sizeof o));
    struct sockaddr_in t = lo(port_of(any));
    T(bind(one, SA(&t), sizeof t)), T(bind(con, SA(&t), sizeof t)),
        T(connect(con, SA(&c), sizeof c));
    T(sendto(v, "to one", 6, 0, SA(&t), sizeof t)), T(sendto(w, "to con", 6, 0, SA(&t), sizeof t));
    struct sockaddr_in t2 = ip4("127.0.0.2", port_of(any));
    T(sendto(v, "to any", 6, 0, SA(&t2), sizeof t2));
    settle();
    RX(any, 16, MSG_DONTWAIT), RX(any, 16, MSG_DONTWAIT), RX(one, 16, MSG_DONTWAIT),
        RX(one, 16, MSG_DONTWAIT), RX(con, 16, MSG_DONTWAIT), RX(con, 16, MSG_DONTWAIT);
    section("the last of two that share takes it");
    int s1 = sock(SOCK_DGRAM), s2 = sock(SOCK_DGRAM);
    setint(s1, SOL_SOCKET, SO_REUSEADDR, 1), setint(s2, SOL_SOCKET, SO_REUSEADDR, 1);
    o = lo(0);
    T(bind(s1, SA(&o), sizeof o));
    t = lo(port_of(s1));
    T(bind(s2, SA(&t), sizeof t));
    T(sendto(v, "which", 5, 0, SA(&t), sizeof t));
    settle();
    RX(s1, 16, MSG_DONTWAIT), RX(s2, 16, MSG_DONTWAIT);
    close(s2);
    T(sendto(v, "other", 5, 0, SA(&t), sizeof t));
    settle();
    RX(s1, 16, MSG_DONTWAIT);

    section("refused");
    x = sock(SOCK_DGRAM);
    T(connect(x, SA(&nobody), sizeof nobody));
    T(send(x, "x", 1, 0));
    AW(x, POLLERR);
    PALL(x);
    RX(x, 4, 0), RX(x, 4, MSG_DONTWAIT);
    PALL(x);
    T(send(x, "x", 1, 0));
    AW(x, POLLERR);
    T(send(x, "y", 1, 0)); // the error of the one before; not sent
    settle();
    SOERR(x);
    SOERR(x);
    T(send(x, "x", 1, 0));
    AW(x, POLLERR);
    SOERR(x);
    RX(x, 4, MSG_DONTWAIT);
    T(send(x, "x", 1, 0));
    AW(x, POLLERR);
    T(connect(x, SA(&a), sizeof a));
    SOERR(x);
    T(send(x, "fine", 4, 0));
    from(u, 0);
    section("broadcast and multicast need leave");
    o = ip4("127.255.255.255", 9);
    T(sendto(x, "x", 1, 0, SA(&o), sizeof o)), T(connect(x, SA(&o), sizeof o));
    setint(x, SOL_SOCKET, SO_BROADCAST, 1);
    T(connect(x, SA(&o), sizeof o));
    section("FIONREAD");
    int n = -1;
    T(ioctl(u, FIONREAD, &n));
    V(n);
    T(sendto(v, "12345", 5, 0, SA(&a), sizeof a)), T(sendto(v, "678", 3, 0, SA(&a), sizeof a));
    settle();
    T(ioctl(u, FIONREAD, &n));
    V(n);
    from(u, 0);
    T(ioctl(u, FIONREAD, &n));
    V(n);
    from(u, 0);
    T(sendto(v, "", 0, 0, SA(&a), sizeof a));
    settle();
    T(ioctl(u, FIONREAD, &n));
    V(n);
    from(u, 0);
    section("SO_PEEK_OFF");
    T(setint(u, SOL_SOCKET, SO_PEEK_OFF, 2));
    T(sendto(v, "abcdef", 6, 0, SA(&a), sizeof a));
    AW(u, POLLIN);
    RX(u, 2, MSG_PEEK), RX(u, 2, MSG_PEEK), RX(u, 8, MSG_PEEK | MSG_DONTWAIT), RX(u, 8, 0);
    setint(u, SOL_SOCKET, SO_PEEK_OFF, -1);
    section("a full receive buffer drops");
    setint(u, SOL_SOCKET, SO_RCVBUF, 1);
    int sent = 0, got = 0;
    for (int i = 0; i < 200; i++) sent += sendto(v, big, 1000, 0, SA(&a), sizeof a) == 1000;
    settle();
    while (recv(u, big, sizeof big, MSG_DONTWAIT) > 0) got++;
    V(sent), V(got > 0), V(got < 20);
    T(sendto(v, "again", 5, 0, SA(&a), sizeof a));
    from(u, 0);
    section("cork");
    setint(u, SOL_SOCKET, SO_RCVBUF, 100000);
    T(setint(v, IPPROTO_UDP, 1, 1));
    T(sendto(v, "ab", 2, 0, SA(&a), sizeof a)), T(sendto(v, "cd", 2, 0, SA(&a), sizeof a));
    V(poll1(u, POLLIN, 30));
    T(setint(v, IPPROTO_UDP, 1, 0));
    from(u, 0);
    return 0;
}
