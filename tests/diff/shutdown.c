// shutdown(), half close, and what poll says at every step of a connection's life.
#include "diff.h"

static int c, s;
static void both(const char* what) {
    settle();
    say("-- %s", what);
    PALL(c);
    PALL(s);
}

int main(void) {
    diff_init();
    char b[16];
    section("errnos");
    int u = udp(0), p[2];
    struct sockaddr_in ua, la;
    T(pipe(p));
    T(shutdown(-1, 0)), T(shutdown(9999, 0)), T(shutdown(p[0], 0)), T(shutdown(p[0], 77));
    c = tcp();
    T(shutdown(c, SHUT_RD)), T(shutdown(c, SHUT_WR)), T(shutdown(c, SHUT_RDWR)), T(shutdown(c, 3)),
        T(shutdown(c, -1));
    T(shutdown(u, SHUT_RD)), T(shutdown(u, SHUT_WR)), T(shutdown(u, 3));
    close(u), close(c);
    section("udp");
    int v = udp(&ua);
    u = udp(0);
    T(connect(u, SA(&ua), sizeof ua));
    PALL(u);
    T(shutdown(u, SHUT_WR));
    PALL(u);
    T(send(u, "x", 1, 0)), T(send(u, "x", 1, MSG_NOSIGNAL)),
        T(sendto(u, "x", 1, MSG_NOSIGNAL, SA(&ua), sizeof ua));
    T(shutdown(u, SHUT_RD));
    PALL(u);
    RX(u, 4, 0), RX(u, 4, MSG_DONTWAIT);
    la = lo(port_of(u));
    T(sendto(v, "hi", 2, 0, SA(&la), sizeof la));
    settle();
    PALL(u);
    RX(u, 4, 0), RX(u, 4, MSG_DONTWAIT);
    T(shutdown(u, SHUT_RDWR));
    close(u), close(v);

    section("client stops writing first");
    tcp_pair(&c, &s);
    both("established");
    T(send(c, "data", 4, 0));
    both("data in flight");
    T(shutdown(c, SHUT_WR));
    both("client SHUT_WR");
    T(shutdown(c, SHUT_WR));
    RX(s, 16, 0), RX(s, 16, 0), RX(s, 16, 0);
    both("server read to the end");
    T(send(s, "answer", 6, 0));
    both("server answers on the half-open connection");
    RX(c, 16, 0);
    RX(c, 16, MSG_DONTWAIT);
    T(shutdown(s, SHUT_WR));
    both("server SHUT_WR");
    RX(c, 16, 0);
    T(shutdown(c, SHUT_RD)), T(shutdown(s, SHUT_RD)), T(shutdown(c, SHUT_RDWR));
    T(send(s, "x", 1, 0)), T(send(c, "x", 1, 0));
    PEERNAME(c);
    PEERNAME(s);
    both("after all");
    close(c), close(s);

    section("read side only");
    tcp_pair(&c, &s);
    T(send(c, "before", 6, 0));
    settle();
    T(shutdown(s, SHUT_RD));
    both("server SHUT_RD with data waiting");
    RX(s, 3, 0), RX(s, 16, 0), RX(s, 16, 0);
    T(send(c, "after", 5, 0));
    both("client sends after it");
    RX(s, 16, 0), RX(s, 16, 0);
    T(send(s, "still", 5, 0));
    RX(c, 16, 0);
    T(shutdown(s, SHUT_RD));
    T(shutdown(s, SHUT_WR));
    both("server SHUT_WR too");
    close(c), close(s);

    section("both sides at once by one end");
    tcp_pair(&c, &s);
    T(shutdown(c, SHUT_RDWR));
    both("client SHUT_RDWR");
    RX(c, 4, 0), T(send(c, "x", 1, 0));
    RX(s, 4, 0);
    T(send(s, "to nobody", 9, 0));
    both("server sent to it");
    RX(c, 16, 0), RX(c, 16, 0);
    SOERR(s);
    T(send(s, "x", 1, 0)), RX(s, 4, 0);
    close(c), close(s);

    section("close instead of shutdown");
    tcp_pair(&c, &s);
    T(send(c, "last", 4, 0));
    T(close(c));
    settle();
    PALL(s);
    RX(s, 16, 0), RX(s, 16, 0);
    PALL(s);
    T(send(s, "x", 1, 0));
    settle();
    PALL(s);
    RX(s, 4, 0), RX(s, 4, 0);
    T(send(s, "x", 1, 0)), T(shutdown(s, SHUT_WR)), T(shutdown(s, SHUT_RDWR));
    PALL(s);
    close(s);

    section("server closes, client still writes and reads what was sent");
    tcp_pair(&c, &s);
    T(send(s, "farewell", 8, 0)), T(close(s));
    settle();
    PALL(c);
    T(send(c, "x", 1, 0));
    settle();
    PALL(c);
    RX(c, 4, 0), RX(c, 16, 0), RX(c, 16, 0);
    SOERR(c);
    close(c);

    section("simultaneous close");
    tcp_pair(&c, &s);
    T(send(c, "a", 1, 0)), T(send(s, "b", 1, 0));
    T(shutdown(c, SHUT_WR)), T(shutdown(s, SHUT_WR));
    both("both SHUT_WR");
    RX(c, 4, 0), RX(s, 4, 0), RX(c, 4, 0), RX(s, 4, 0);
    both("read to the end");
    T(recv(c, b, 4, MSG_DONTWAIT | MSG_PEEK));
    close(c), close(s);

    section("while connecting, and on a fresh connection with RDHUP only");
    tcp_pair(&c, &s);
    V(poll1(c, POLLRDHUP, 0)), V(poll1(c, 0, 0));
    T(shutdown(s, SHUT_WR));
    settle();
    say("RDHUP only: %s", pbits(poll1(c, POLLRDHUP, 1000)));
    say("nothing asked: %s", pbits(poll1(c, 0, 0)));
    T(shutdown(c, SHUT_WR));
    settle();
    say("nothing asked: %s", pbits(poll1(c, 0, 1000)));
    close(c), close(s);

    section("shutdown wakes a reader in another thread");
    for (int how = 0; how < 3; how++) {
        tcp_pair(&c, &s);
        V(how);
        int pid = fork();
        if (pid == 0) {
            alarm(5);
            wait_asleep(getppid());
            shutdown(s, how);
            if (how == 1) {
                wait_asleep(getppid());
                send(c, "go", 2, 0);
            }
            _exit(0);
        }
        RX(s, 4, 0);
        T(send(s, "x", 1, 0));
        reap(pid);
        close(c), close(s);
    }
    return 0;
}
