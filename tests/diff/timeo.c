// SO_RCVTIMEO and SO_SNDTIMEO at work: EAGAIN not before the time.
#include "diff.h"

int main(void) {
    diff_init();
    int c, s, u = udp(0), l = listener(2, 0);
    struct timeval tv = {0, 70000};
    char b[64];
    tcp_pair(&c, &s);
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv),
        setsockopt(u, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    setsockopt(l, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
#define TIMED(call)                                                                                \
    do {                                                                                           \
        long t0 = now_ms();                                                                        \
        T(call);                                                                                   \
        LASTED(t0, 70, 3000);                                                                      \
    } while (0)
    section("tcp");
    TIMED(recv(s, b, 1, 0));
    TIMED(recv(s, b, 10, MSG_WAITALL));
    TIMED(recv(s, b, 10, MSG_PEEK));
    TIMED(read(s, b, 1));
    struct iovec v = {b, 4};
    TIMED(readv(s, &v, 1));
    struct msghdr m = {0, 0, &v, 1, 0, 0, 0};
    TIMED(recvmsg(s, &m, 0));
    long t0 = now_ms();
    T(recv(s, b, 1, MSG_DONTWAIT));
    LASTED(t0, 0, 60);
    section("accept");
    TIMED(accept(l, 0, 0));
    TIMED(accept4(l, 0, 0, SOCK_CLOEXEC));
    section("udp");
    TIMED(recv(u, b, 10, 0));
    TIMED(recvfrom(u, b, 10, MSG_PEEK, 0, 0));
    struct mmsghdr mm = {m, 0};
    TIMED(recvmmsg(u, &mm, 1, 0, 0));
    section("a timeout does not cut poll short");
    V(poll1(s, POLLIN, 100));
    section("data in time");
    T(send(c, "intime", 6, 0));
    RX(s, 16, 0);
    section("sending into a full buffer");
    setsockopt(c, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
    static char big[1 << 20];
    setint(s, SOL_SOCKET, SO_RCVBUF, 30000);
    long r, total = 0;
    t0 = now_ms();
    while ((r = send(c, big, sizeof big, 0)) == (long)sizeof big) total += r;
    say("partial or EAGAIN: %d", r > 0 || (r == -1 && errno == EAGAIN));
    LASTED(t0, 70, 6000);
    if (r > 0) total += r;
    settle();
    t0 = now_ms();
    while ((r = send(c, big, sizeof big, 0)) > 0) total += r, t0 = now_ms();
    say("then: %ld %s", r, en(errno));
    LASTED(t0, 70, 3000);
    while ((r = write(c, big, sizeof big)) > 0) total += r;
    say("write: %ld %s", r, en(errno));
    long got = 0;
    while (got < total && (r = recv(s, big, sizeof big, 0)) > 0) got += r;
    V(got == total);
    section("changing it, taking it off");
    tv.tv_usec = 150000;
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    t0 = now_ms();
    T(recv(s, b, 1, 0));
    LASTED(t0, 150, 3000);
    struct timeval old = {0, 30000};
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &old, sizeof old);
    t0 = now_ms();
    T(recv(s, b, 1, 0));
    LASTED(t0, 30, 3000);
    section("shared by dup");
    int d = dup(s);
    t0 = now_ms();
    T(recv(d, b, 1, 0));
    LASTED(t0, 30, 3000);
    return 0;
}
