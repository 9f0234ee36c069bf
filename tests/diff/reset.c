// Resets: close with unread data, SO_LINGER 0, reading and writing after a reset, who sees which error once.
#include "diff.h"

int main(void) {
    diff_init();
    int c, s;
    char b[64];
    section("close with unread data");
    tcp_pair(&c, &s);
    T(send(c, "unread", 6, 0));
    AW(s, POLLIN);
    T(close(s));
    AW(c, POLLHUP);
    PALL(c);
    RX(c, 8, 0), RX(c, 8, 0);
    T(send(c, "x", 1, 0));
    PALL(c);
    SOERR(c);
    PEERNAME(c);
    SOCKNAME(c);
    close(c);
    section("the error by send first");
    tcp_pair(&c, &s);
    T(send(c, "unread", 6, 0));
    AW(s, POLLIN);
    T(close(s));
    AW(c, POLLHUP);
    T(send(c, "x", 1, 0)), T(send(c, "x", 1, 0));
    RX(c, 8, 0);
    close(c);
    section("the error by SO_ERROR first");
    tcp_pair(&c, &s);
    linger0(s);
    T(close(s));
    AW(c, POLLHUP);
    SOERR(c);
    SOERR(c);
    RX(c, 8, 0), T(send(c, "x", 1, 0));
    PALL(c);
    close(c);
    section("linger 0 with data on the way");
    tcp_pair(&c, &s);
    T(send(s, "was sent", 8, 0));
    AW(c, POLLIN);
    linger0(s);
    T(close(s));
    AW(c, POLLHUP);
    PALL(c);
    RX(c, 4, 0), RX(c, 8, 0), RX(c, 8, 0);
    close(c);
    section("SO_ERROR while data is still there");
    tcp_pair(&c, &s);
    T(send(s, "was sent", 8, 0));
    AW(c, POLLIN);
    linger0(s);
    T(close(s));
    AW(c, POLLHUP);
    SOERR(c);
    RX(c, 16, 0), RX(c, 8, 0);
    close(c);
    section("linger 0 after shutdown");
    tcp_pair(&c, &s);
    T(shutdown(s, SHUT_WR));
    AW(c, POLLIN);
    linger0(s);
    T(close(s));
    settle();
    PALL(c);
    RX(c, 8, 0), RX(c, 8, 0);
    SOERR(c);
    T(send(c, "x", 1, 0));
    close(c);
    section("linger with a time: everything is acknowledged first");
    tcp_pair(&c, &s);
    struct linger lg = {1, 3};
    T(setsockopt(s, SOL_SOCKET, SO_LINGER, &lg, sizeof lg));
    T(send(s, "lingering", 9, 0));
    long t0 = now_ms();
    T(close(s));
    LASTED(t0, 0, 2500);
    RX(c, 16, 0), RX(c, 16, 0);
    close(c);
    section("write after the peer's close: reset in flight");
    tcp_pair(&c, &s);
    T(close(s));
    AW(c, POLLIN);
    T(send(c, "1", 1, 0));
    AW(c, POLLHUP);
    PALL(c);
    T(send(c, "2", 1, 0)), T(send(c, "3", 1, 0));
    RX(c, 8, 0), RX(c, 8, 0);
    close(c);
    section("read after the peer's close: end of file, then the pipe breaks");
    tcp_pair(&c, &s);
    T(close(s));
    AW(c, POLLIN);
    T(send(c, "1", 1, 0));
    AW(c, POLLHUP);
    RX(c, 8, 0), RX(c, 8, 0);
    SOERR(c);
    T(send(c, "3", 1, 0));
    close(c);
    section("half closed peer gets a reset");
    tcp_pair(&c, &s);
    T(shutdown(c, SHUT_WR));
    AW(s, POLLIN);
    T(send(s, "late", 4, 0));
    AW(c, POLLIN);
    T(close(c)); // unread data
    settle();
    PALL(s);
    RX(s, 4, 0), RX(s, 4, 0);
    T(send(s, "x", 1, 0));
    close(s);
    section("a reset wakes a reader and a poller");
    for (int i = 0; i < 3; i++) {
        tcp_pair(&c, &s);
        pid_t p = fork();
        if (p == 0) {
            alarm(5);
            close(s);
            wait_asleep(getppid());
            linger0(c);
            close(c);
            _exit(0);
        }
        close(c);
        if (i == 0)
            RX(s, 8, 0);
        else if (i == 1)
            say("poll: %s", pbits(poll1(s, POLLIN, 5000)));
        else
            T(recv(s, b, 8, MSG_WAITALL | MSG_PEEK));
        SOERR(s);
        reap(p);
        close(s);
    }
    section("a killed peer: what it sent stays readable");
    for (int unread = 0; unread < 2; unread++) {
        V(unread);
        tcp_pair(&c, &s);
        gate g = gate_new();
        pid_t p = fork();
        if (p == 0) {
            alarm(5);
            close(s);
            send(c, "last words", 10, 0);
            if (unread) poll1(c, POLLIN, 4000);
            gate_open(g);
            nap(4000);
            _exit(0);
        }
        close(c);
        if (unread) T(send(s, "never read", 10, 0));
        gate_wait(g);
        T(kill(p, SIGKILL));
        reap(p);
        AW(s, POLLRDHUP);
        PALL(s);
        RX(s, 4, 0), RX(s, 16, 0), RX(s, 16, 0), RX(s, 16, 0);
        close(s);
    }
    section("big data then close: nothing is lost");
    tcp_pair(&c, &s);
    pid_t p = fork();
    if (p == 0) {
        alarm(8);
        close(s);
        static char big[300000];
        for (unsigned i = 0; i < sizeof big; i++) big[i] = i * 7 + i / 251;
        long r = 0, n = 0;
        while (n < (long)sizeof big && (r = send(c, big + n, sizeof big - n, 0)) > 0) n += r;
        close(c);
        _exit(n == sizeof big ? 0 : 1);
    }
    close(c);
    settle();
    long n = 0, r, bad = 0;
    while ((r = recv(s, b, sizeof b, 0)) > 0) {
        for (int i = 0; i < r; i++) bad += b[i] != (char)((n + i) * 7 + (n + i) / 251);
        n += r;
    }
    V(n), V(bad), V(r);
    reap(p);
    return 0;
}
