// epoll inside epoll, epoll inside poll and select, loops, depth.
#include "diff.h"

static int add(int ep, int fd, unsigned ev, int tag) {
    struct epoll_event e = {ev, {.u64 = tag}};
    return epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
}
static int tid, c, s;
static void* send_later(void* a) {
    wait_asleep(tid);
    send(c, "w", 1, 0);
    return a;
}

int main(void) {
    diff_init();
    tid = self_tid();
    struct epoll_event e;
    tcp_pair(&c, &s);
    int in = epoll_create1(0), out = epoll_create1(0);
    section("two levels");
    T(add(in, s, EPOLLIN, 1)), T(add(out, in, EPOLLIN, 2));
    T(epoll_wait(out, &e, 1, 0));
    PALL(in);
    T(send(c, "x", 1, 0));
    AW(in, POLLIN);
    PALL(in);
    PALL(out);
    T(epoll_wait(out, &e, 1, 1000));
    V(e.data.u64), V(e.events == EPOLLIN);
    T(epoll_wait(out, &e, 1, 0)), T(epoll_wait(in, &e, 1, 0));
    V(e.data.u64);
    RX(s, 4, 0);
    T(epoll_wait(out, &e, 1, 0)), T(epoll_wait(in, &e, 1, 0));
    PALL(in);
    section("waking through two levels, poll and select");
    pthread_t t = spawn_thread(send_later, 0);
    T(epoll_wait(out, &e, 1, 5000));
    pthread_join(t, 0);
    RX(s, 4, 0);
    t = spawn_thread(send_later, 0);
    say("poll: %s", pbits(poll1(out, POLLIN, 5000)));
    pthread_join(t, 0);
    RX(s, 4, 0);
    t = spawn_thread(send_later, 0);
    fd_set r;
    FD_ZERO(&r);
    FD_SET(in, &r);
    T(select(in + 1, &r, 0, 0, 0));
    pthread_join(t, 0);
    RX(s, 4, 0);
    section("edge above level");
    int edge = epoll_create1(0);
    T(add(edge, in, EPOLLIN | EPOLLET, 3));
    T(epoll_wait(edge, &e, 1, 0));
    T(send(c, "x", 1, 0));
    T(epoll_wait(edge, &e, 1, 2000)), T(epoll_wait(edge, &e, 1, 0));
    RX(s, 4, 0);
    section("loops and depth");
    T(add(in, out, EPOLLIN, 4)), T(add(in, in, EPOLLIN, 5)), T(add(out, out, EPOLLIN, 6)),
        T(add(in, edge, EPOLLIN, 6));
    int chain[9];
    for (int i = 0; i < 9; i++) chain[i] = epoll_create1(0);
    for (int i = 0; i < 8; i++) {
        errno = 0;
        int r1 = add(chain[i + 1], chain[i], EPOLLIN, i);
        say("depth %d: %d %s", i + 1, r1, en(errno));
    }
    T(add(chain[0], s, EPOLLIN, 9));
    section("closing the inner one");
    T(send(c, "x", 1, 0));
    AW(in, POLLIN);
    T(epoll_wait(out, &e, 1, 0));
    T(close(in));
    T(epoll_wait(out, &e, 1, 0));
    RX(s, 4, 0);
    return 0;
}
