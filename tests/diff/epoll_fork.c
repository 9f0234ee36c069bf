// epoll across fork: the set is shared, closing in one process does not remove, the child adds.
#include "diff.h"

static int add(int ep, int fd, unsigned ev, uint64_t tag) {
    struct epoll_event e = {ev, {.u64 = tag}};
    return epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
}
int main(void) {
    diff_init();
    int c, s, c2, s2, ep = epoll_create1(0);
    struct epoll_event e;
    char b[8];
    tcp_pair(&c, &s), tcp_pair(&c2, &s2);
    section("the child waits on the parent's set");
    T(add(ep, s, EPOLLIN, 1));
    gate g = gate_new(), h = gate_new();
    pid_t p = forked("child: ");
    if (p == 0) {
        T(epoll_wait(ep, &e, 1, 5000));
        V(e.data.u64);
        RX(s, 8, 0);
        T(epoll_wait(ep, &e, 1, 0));
        T(add(ep, s2, EPOLLIN, 2)); // the parent sees it too
        T(add(ep, s, EPOLLIN, 3));
        _exit(0);
    }
    wait_asleep(p);
    Q(send(c, "hello", 5, 0));
    reap(p);
    T(send(c2, "x", 1, 0));
    T(epoll_wait(ep, &e, 1, 2000));
    V(e.data.u64);
    RX(s2, 8, 0);
    section("a close in the child removes nothing");
    p = forked("child: ");
    if (p == 0) {
        T(close(s)), T(close(s2));
        gate_open(g), gate_wait(h);
        T(epoll_wait(ep, &e, 1, 2000)); // still reported here
        V(e.data.u64);
        _exit(0);
    }
    gate_wait(g);
    T(send(c, "y", 1, 0));
    T(epoll_wait(ep, &e, 1, 2000));
    V(e.data.u64);
    gate_open(h);
    reap(p);
    section("a close in the parent does not remove while the child has it");
    p = forked("child: ");
    if (p == 0) {
        gate_open(g), gate_wait(h);
        T(read(s, b, 8));
        T(close(s));
        gate_open(g), gate_wait(h);
        _exit(0);
    }
    gate_wait(g);
    T(close(s));
    T(epoll_wait(ep, &e, 1, 1000));
    T(epoll_ctl(ep, EPOLL_CTL_DEL, s, &e));
    gate_open(h), gate_wait(g);
    settle();
    T(epoll_wait(ep, &e, 1, 0)); // gone with the last descriptor
    gate_open(h);
    reap(p);
    section("the set outlives its maker");
    tcp_pair(&c, &s);
    T(add(ep, s, EPOLLIN | EPOLLET, 4));
    p = forked("child: ");
    if (p == 0) {
        gate_open(g), gate_wait(h);
        T(epoll_wait(ep, &e, 1, 2000));
        V(e.data.u64);
        T(epoll_wait(ep, &e, 1, 0));
        _exit(0);
    }
    gate_wait(g);
    T(close(ep));
    T(send(c, "z", 1, 0));
    gate_open(h);
    reap(p);
    section("two processes wait on one edge: one gets it");
    ep = epoll_create1(0);
    tcp_pair(&c, &s);
    T(add(ep, s, EPOLLIN | EPOLLET | EPOLLONESHOT, 5));
    pid_t q[3];
    for (int i = 0; i < 3; i++)
        if ((q[i] = fork()) == 0) {
            alarm(6);
            _exit(epoll_wait(ep, &e, 1, 600) == 1 ? 1 : 0);
        }
    for (int i = 0; i < 3; i++) wait_asleep(q[i]);
    T(send(c, "z", 1, 0));
    int got = 0;
    for (int i = 0; i < 3; i++) {
        int st;
        waitpid(q[i], &st, 0);
        got += WEXITSTATUS(st);
    }
    V(got);
    return 0;
}
