// fork: both processes hold the socket, the last close counts, an inherited listener, orphans, O_NONBLOCK shared.
#include "diff.h"
#include <sched.h>

static int shared_c, shared_s;
static int in_our_memory(void* unused) {
    (void)unused;
    return close(shared_c) != 0 || dup2(1, shared_s) != shared_s || close(shared_s) != 0;
}

int main(void) {
    diff_init();
    int c, s, l, u;
    struct sockaddr_in la, ua;
    char b[64];
    gate g = gate_new(), h = gate_new();
    pid_t p;
    section("end of file only after both have closed");
    tcp_pair(&c, &s);
    p = forked("child: ");
    if (p == 0) {
        T(close(s));
        gate_open(g), gate_wait(h);
        T(send(c, "child", 5, 0));
        T(close(c));
        gate_open(g);
        _exit(0);
    }
    gate_wait(g);
    T(send(c, "parent", 6, 0)), T(close(c));
    settle();
    PALL(s);
    RX(s, 64, 0);
    RX(s, 64, MSG_DONTWAIT);
    gate_open(h), gate_wait(g);
    settle();
    PALL(s);
    RX(s, 64, 0), RX(s, 64, 0);
    reap(p);
    close(s);
    section("shutdown counts for both");
    tcp_pair(&c, &s);
    p = forked("child: ");
    if (p == 0) {
        T(shutdown(c, SHUT_WR));
        _exit(0);
    }
    reap(p);
    T(send(c, "x", 1, 0));
    RX(s, 8, 0);
    T(send(s, "y", 1, 0));
    RX(c, 8, 0);
    close(c), close(s);
    section("both read from one stream");
    tcp_pair(&c, &s);
    T(send(c, "0123456789", 10, 0));
    AW(s, POLLIN);
    p = forked("child: ");
    if (p == 0) {
        RX(s, 4, 0);
        _exit(0);
    }
    reap(p);
    RX(s, 4, 0);
    p = forked("child: ");
    if (p == 0) {
        RX(s, 4, 0);
        T(send(s, "answer", 6, 0));
        _exit(0);
    }
    reap(p);
    RX(c, 16, 0);
    section("the exit of a child closes nothing");
    T(send(c, "still", 5, 0));
    RX(s, 16, 0);
    section("options and O_NONBLOCK are shared, FD_CLOEXEC is not");
    p = forked("child: ");
    if (p == 0) {
        T(fcntl(s, F_SETFL, O_NONBLOCK)), T(setint(s, SOL_SOCKET, SO_KEEPALIVE, 1)),
            T(setint(s, IPPROTO_TCP, TCP_NODELAY, 0)), T(fcntl(s, F_SETFD, FD_CLOEXEC));
        _exit(0);
    }
    reap(p);
    V(fcntl(s, F_GETFL) & O_NONBLOCK), V(getint(s, SOL_SOCKET, SO_KEEPALIVE)),
        V(getint(s, IPPROTO_TCP, TCP_NODELAY)), V(fcntl(s, F_GETFD));
    RX(s, 4, 0);
    close(c), close(s);
    section("an inherited listener");
    l = listener(8, &la);
    p = forked("child: ");
    if (p == 0) {
        F(s = accept(l, 0, 0));
        RX(s, 16, 0);
        Q(send(s, "pong", 4, 0));
        _exit(0);
    }
    wait_asleep(p);
    c = dial(&la);
    send(c, "ping", 4, 0);
    RX(c, 16, 0);
    reap(p);
    RX(c, 16, 0);
    close(c);
    section("parent closes the listener, the child goes on");
    p = forked("child: ");
    if (p == 0) {
        gate_open(g);
        F(s = accept(l, 0, 0));
        RX(s, 16, 0);
        gate_open(g), gate_wait(h);
        _exit(0);
    }
    gate_wait(g);
    T(close(l));
    wait_asleep(p);
    c = dial(&la);
    send(c, "hello", 5, 0);
    gate_wait(g);
    gate_open(h);
    RX(c, 16, 0);
    reap(p);
    close(c);
    c = tcp();
    T(connect(c, SA(&la), sizeof la));
    close(c);
    section("a pool of accepting children");
    l = listener(32, &la);
    pid_t k[4];
    for (int i = 0; i < 4; i++)
        if ((k[i] = fork()) == 0) {
            alarm(7);
            for (int n = 0; n < 5; n++) {
                int x = accept(l, 0, 0);
                int r = recv(x, b, 8, 0);
                if (r <= 0) _exit(100);
                send(x, b, r, 0);
                close(x);
            }
            _exit(5);
        }
    int ok = 0;
    for (int i = 0; i < 20; i++) {
        c = dial(&la);
        char m[8], o[8] = "";
        int n = sprintf(m, "%d", i);
        send(c, m, n, 0);
        ok += recv(c, o, 8, 0) == n && !memcmp(m, o, n);
        ok += recv(c, o, 8, 0) == 0;
        close(c);
    }
    V(ok);
    for (int i = 0; i < 4; i++) reap(k[i]);
    close(l);
    section("udp shared");
    u = udp(&ua);
    p = forked("child: ");
    if (p == 0) {
        RX(u, 16, 0);
        struct sockaddr_in x = ua;
        T(sendto(u, "to self", 7, 0, SA(&x), sizeof x));
        T(close(u));
        _exit(0);
    }
    wait_asleep(p);
    int v = sock(SOCK_DGRAM);
    sendto(v, "dgram", 5, 0, SA(&ua), sizeof ua);
    reap(p);
    RX(u, 16, 0);
    section("a socket made in the child is the child's alone");
    p = forked("child: ");
    if (p == 0) {
        int n;
        F(n = tcp());
        _exit(n);
    }
    int st;
    waitpid(p, &st, 0);
    V(fcntl(WEXITSTATUS(st), F_GETFD) == -1);
    section("grandchildren");
    tcp_pair(&c, &s);
    p = forked("child: ");
    if (p == 0) {
        pid_t q = forked("grandchild: ");
        if (q == 0) {
            Q(close(s));
            gate_wait(h);
            Q(send(c, "deep", 4, 0));
            _exit(0);
        }
        _exit(0); // the grandchild is an orphan
    }
    reap(p);
    T(close(c));
    gate_open(h);
    RX(s, 16, 0), RX(s, 16, 0);
    close(s);
    section("killed while the other still holds it");
    tcp_pair(&c, &s);
    p = forked("child: ");
    if (p == 0) {
        gate_open(g);
        recv(c, b, 1, 0);
        _exit(1);
    }
    gate_wait(g);
    wait_asleep(p);
    T(kill(p, SIGKILL));
    reap(p);
    T(send(s, "alive", 5, 0));
    RX(c, 16, 0);
    T(send(c, "yes", 3, 0));
    RX(s, 16, 0);
    section("a child with a stream in each direction");
    p = forked("child: ");
    if (p == 0) {
        close(s);
        long n = 0, r;
        static char x[5000];
        while ((r = recv(c, x, sizeof x, 0)) > 0) n += r;
        sprintf(b, "%ld", n);
        send(c, b, strlen(b), 0);
        _exit(0);
    }
    close(c);
    static char y[7777];
    for (int i = 0; i < 100; i++) send(s, y, sizeof y, 0);
    shutdown(s, SHUT_WR);
    RX(s, 16, MSG_WAITALL);
    reap(p);
    section("a child in the same memory with descriptors of its own");
    tcp_pair(&c, &s);
    shared_c = c, shared_s = s;
    static char stack[65536] __attribute__((aligned(16)));
    p = clone(in_our_memory, stack + sizeof stack, CLONE_VM | SIGCHLD, NULL);
    V(p > 0);
    reap(p);
    T(send(c, "still", 5, 0));
    RX(s, 16, 0);
    F(dup2(s, c));
    RX(s, 16, 0);
    return 0;
}
