// epoll: descriptors that another thread closes under a wait. The wait goes on, and tells what comes.
#include "diff.h"

static int ep, tid;
static volatile int result, err_;
static volatile sig_atomic_t up;
static struct epoll_event got[8];
static long waited_ms;
static int patience = 5000;

static void* waiter(void* a) {
    (void)a;
    tid = self_tid();
    const int on = ep;
    const long from = now_ms();
    up = 1;
    errno = 0;
    result = epoll_wait(on, got, 8, patience);
    err_ = errno;
    waited_ms = now_ms() - from;
    return 0;
}
static pthread_t start_waiter(void) {
    up = 0;
    pthread_t t = spawn_thread(waiter, 0);
    while (!up) nap(1);
    wait_asleep(tid);
    return t;
}
static void finish(pthread_t t) {
    pthread_join(t, 0);
    say("waiter: %d %s", result, en(err_));
    for (int i = 0; i < result; i++)
        say("  %s tag %lu", pbits(got[i].events), (unsigned long)got[i].data.u64);
}
static int add(int on, int fd, unsigned ev, uint64_t tag) {
    struct epoll_event e = {ev, {.u64 = tag}};
    return epoll_ctl(on, EPOLL_CTL_ADD, fd, &e);
}
static int more(int on) {
    struct epoll_event e[4];
    return epoll_wait(on, e, 4, 0);
}

int main(void) {
    diff_init();
    int c, s, c2, s2, p[2];
    pthread_t t;
    section("the set is closed: a socket's event still comes");
    tcp_pair(&c, &s);
    ep = epoll_create1(0);
    T(add(ep, s, EPOLLIN, 1));
    t = start_waiter();
    T(close(ep));
    T(more(ep));
    settle();
    T(send(c, "x", 1, 0));
    finish(t);
    RX(s, 8, 0);
    section("the set is closed: a pipe's event still comes");
    Q(pipe(p));
    ep = epoll_create1(0);
    T(add(ep, s, EPOLLIN, 1)), T(add(ep, p[0], EPOLLIN, 2));
    t = start_waiter();
    T(close(ep));
    settle();
    T(write(p[1], "x", 1));
    finish(t);
    T(read(p[0], (char[4]){0}, 4));
    section("the set is closed and its number reused");
    ep = epoll_create1(0);
    T(add(ep, s, EPOLLIN | EPOLLET, 1)), T(add(ep, p[0], EPOLLIN, 2));
    t = start_waiter();
    T(close(ep));
    int other = epoll_create1(0);
    V(other == ep);
    T(add(other, s, EPOLLIN, 11));
    T(send(c, "y", 1, 0));
    finish(t);
    V(more(other));
    RX(s, 8, 0);
    V(more(other));
    section("replaced by dup2");
    t = start_waiter();
    int third = epoll_create1(0);
    T(add(third, p[0], EPOLLIN, 21));
    T(dup2(third, other) == other);
    T(write(p[1], "x", 1));
    settle();
    T(send(c, "z", 1, 0));
    finish(t);
    V(more(other)), V(more(third));
    RX(s, 8, 0);
    T(read(p[0], (char[4]){0}, 4));
    close(other), close(third);
    section("the wait ends by time");
    ep = epoll_create1(0);
    T(add(ep, s, EPOLLIN, 1)), T(add(ep, p[0], EPOLLIN, 2));
    patience = 300;
    t = start_waiter();
    T(close(ep));
    finish(t);
    V(waited_ms >= 299 && waited_ms < 3000);
    patience = 5000;
    section("one of two numbers is closed");
    ep = epoll_create1(0);
    int dup_ = dup(ep);
    T(add(ep, s, EPOLLIN, 1)), T(add(ep, p[0], EPOLLIN, 2));
    t = start_waiter();
    T(close(ep));
    T(write(p[1], "x", 1));
    finish(t);
    T(read(p[0], (char[4]){0}, 4));
    V(more(dup_));
    T(send(c, "w", 1, 0));
    AW(dup_, POLLIN);
    V(more(dup_));
    RX(s, 8, 0);
    section("a fork while a closed set is waited on");
    ep = dup_;
    t = start_waiter();
    T(close(ep));
    pid_t pid = forked("child: ");
    if (pid == 0) {
        T(close(s)); // not the last
        ep = epoll_create1(0);
        T(add(ep, c, EPOLLOUT, 5));
        T(more(ep));
        _exit(0);
    }
    reap(pid);
    T(send(c, "v", 1, 0));
    finish(t);
    RX(s, 8, 0);
    section("a descriptor of the set is closed: no event of it");
    tcp_pair(&c2, &s2);
    ep = epoll_create1(0);
    T(add(ep, s, EPOLLIN, 1)), T(add(ep, s2, EPOLLIN, 2));
    t = start_waiter();
    T(close(s2));
    settle();
    T(send(c, "u", 1, 0));
    finish(t);
    RX(s, 8, 0);
    V(more(ep));
    close(c2);
    section("a descriptor of the set is closed, a dup of it is not");
    tcp_pair(&c2, &s2);
    T(add(ep, s2, EPOLLIN, 3));
    int keep = dup(s2);
    t = start_waiter();
    T(close(s2));
    T(send(c2, "t", 1, 0));
    finish(t);
    RX(keep, 8, 0);
    T(close(keep));
    T(add(ep, c2, EPOLLIN | EPOLLRDHUP, 4));
    V(more(ep));
    return 0;
}
