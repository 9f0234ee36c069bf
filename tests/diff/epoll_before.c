// epoll: a set that has the kernel's descriptors in it before the process has a socket. They stay in it
// when sockets come, and when some of them are taken out.
#include "diff.h"

#define MANY 30

static int ep, tid;
static volatile int result, err_;
static volatile sig_atomic_t up;
static struct epoll_event got[8];

static int ctl(int op, int fd, unsigned ev, uint64_t tag) {
    struct epoll_event e = {ev, {.u64 = tag}};
    return epoll_ctl(ep, op, fd, &e);
}
static void* waiter(void* a) {
    (void)a;
    tid = self_tid();
    up = 1;
    errno = 0;
    result = epoll_wait(ep, got, 8, 5000);
    err_ = errno;
    return 0;
}
// What a thread that sleeps in epoll_wait gets when a byte is written to the descriptor.
static void wakes(int fd) {
    up = 0;
    pthread_t t = spawn_thread(waiter, 0);
    while (!up) nap(1);
    wait_asleep(tid);
    T(write(fd, "x", 1));
    pthread_join(t, 0);
    say("waiter: %d %s", result, en(err_));
    for (int i = 0; i < result; i++)
        say("  %s tag %lu", pbits(got[i].events), (unsigned long)got[i].data.u64);
}

int main(void) {
    diff_init();
    int p[MANY][2], c, s, i;
    char x;
    section("a set of pipes, then a socket");
    ep = epoll_create1(0);
    for (i = 0; i < MANY; i++) {
        if (pipe(p[i])) say("no pipe");
        if (ctl(EPOLL_CTL_ADD, p[i][0], EPOLLIN, 100 + i)) say("not added");
    }
    tcp_pair(&c, &s);
    T(ctl(EPOLL_CTL_ADD, s, EPOLLIN, 1));
    wakes(p[0][1]);
    T(read(p[0][0], &x, 1));
    wakes(c);
    T(recv(s, &x, 1, 0));
    section("some of them out");
    T(ctl(EPOLL_CTL_DEL, p[0][0], 0, 0));
    wakes(p[1][1]);
    T(read(p[1][0], &x, 1));
    for (i = 2; i < MANY; i++) {
        if (ctl(EPOLL_CTL_DEL, p[i][0], 0, 0)) say("not removed");
    }
    wakes(p[1][1]);
    T(read(p[1][0], &x, 1));
    wakes(c);
    T(recv(s, &x, 1, 0));
    section("all of them out, one back");
    T(ctl(EPOLL_CTL_DEL, p[1][0], 0, 0));
    T(ctl(EPOLL_CTL_DEL, p[1][0], 0, 0));
    wakes(c);
    T(recv(s, &x, 1, 0));
    T(ctl(EPOLL_CTL_ADD, p[2][0], EPOLLIN, 102));
    wakes(p[2][1]);
    return 0;
}
