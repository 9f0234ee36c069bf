// pthread_cancel at every cancellation point: while it waits, before it is called, disabled; deferred and
// asynchronous. Handlers for clean-up run, nothing is taken, nothing stays locked.
#include "diff.h"

static int c, s, u, v, l, ep, full_c, full_s, busy_c, busy_s, pipes[2];
static struct sockaddr_in la, dead;
static char big[1 << 20];
static long unwound;
static void cleanup(void* arg) {
    (void)arg;
    __atomic_fetch_add(&unwound, 1, __ATOMIC_SEQ_CST);
}

enum { CALLS = 30, BLOCKING = 26 };
static const char* const names[CALLS] = {
    "read",     "readv",      "recv",        "recvfrom",     "recvmsg", "recvmmsg",
    "recv UDP", "accept",     "accept4",     "poll",         "ppoll",   "select",
    "pselect",  "epoll_wait", "epoll_pwait", "epoll_pwait2", "write",   "writev",
    "send",     "sendto",     "sendmsg",     "sendmmsg",     "connect", "poll two kinds",
    "preadv2",  "pwritev2",   "close",       "fsync",        "fcntl",   "read of what is there"};

static void at(int which) {
    char b[8];
    struct iovec iov = {b, 8}, out = {big, sizeof big};
    struct msghdr m = {0, 0, &iov, 1, 0, 0, 0}, mo = {0, 0, &out, 1, 0, 0, 0};
    struct mmsghdr mm = {m, 0}, mmo = {mo, 0};
    struct epoll_event e;
    struct pollfd p[2] = {{s, POLLIN, 0}, {pipes[0], POLLIN, 0}};
    struct timespec long_time = {100, 0};
    fd_set set;
    FD_ZERO(&set);
    FD_SET(s, &set);
    int k;
    switch (which) {
    case 0: read(s, b, 8); break;
    case 1: readv(s, &iov, 1); break;
    case 2: recv(s, b, 8, MSG_WAITALL); break;
    case 3: recvfrom(s, b, 8, 0, 0, 0); break;
    case 4: recvmsg(s, &m, 0); break;
    case 5: recvmmsg(u, &mm, 1, 0, 0); break;
    case 6: recv(u, b, 8, 0); break;
    case 7: accept(l, 0, 0); break;
    case 8: accept4(l, 0, 0, SOCK_CLOEXEC); break;
    case 9: poll(p, 1, -1); break;
    case 10: ppoll(p, 1, &long_time, 0); break;
    case 11: select(s + 1, &set, 0, 0, 0); break;
    case 12: pselect(s + 1, &set, 0, 0, &long_time, 0); break;
    case 13: epoll_wait(ep, &e, 1, -1); break;
    case 14: epoll_pwait(ep, &e, 1, 100000, 0); break;
    case 15: epoll_pwait2(ep, &e, 1, &long_time, 0); break;
    case 16: write(full_c, big, sizeof big); break;
    case 17: writev(full_c, &out, 1); break;
    case 18: send(full_c, big, sizeof big, 0); break;
    case 19: sendto(full_c, big, sizeof big, 0, 0, 0); break;
    case 20: sendmsg(full_c, &mo, 0); break;
    case 21: sendmmsg(full_c, &mmo, 1, 0); break;
    case 22:
        k = tcp();
        pthread_cleanup_push((void (*)(void*))(void*)close, (void*)(long)k);
        connect(k, SA(&dead), sizeof dead);
        pthread_cleanup_pop(1);
        break;
    case 23: poll(p, 2, -1); break;
    case 24: preadv2(s, &iov, 1, -1, 0); break;
    case 25: pwritev2(full_c, &out, 1, -1, 0); break;
    case 26: close(dup(s)); break;
    case 27: fsync(s); break;
    case 28: fcntl(s, F_SETLKW, &(struct flock){.l_type = F_RDLCK}); break;
    case 29: recv(v, b, 8, MSG_DONTWAIT); break;
    }
}

static gate go;
static volatile int tid;
struct way {
    int which, async, early, disabled;
};
static void* thread(void* arg) {
    const struct way w = *(struct way*)arg;
    pthread_cleanup_push(cleanup, 0);
    if (w.disabled || w.early) pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, 0);
    if (w.async) pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, 0);
    tid = self_tid();
    if (w.early) {
        gate_wait(go);
        pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, 0);
    }
    at(w.which);
    if (w.disabled) {
        pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, 0);
        pthread_testcancel();
    }
    pthread_cleanup_pop(0);
    return 0;
}

static const char* cancelled(struct way w) {
    tid = 0;
    const long before = unwound;
    pthread_t t = spawn_thread(thread, &w);
    while (!tid) nap(1);
    if (!w.early) wait_asleep(tid);
    pthread_cancel(t);
    if (w.early) gate_open(go);
    void* r;
    pthread_join(t, &r);
    return r != PTHREAD_CANCELED   ? "not cancelled"
           : unwound != before + 1 ? "not unwound"
                                   : "cancelled";
}

static void all_works(void) {
    char b[16];
    int bad = 0;
    bad += send(c, "12345678", 8, 0) != 8;
    bad += recv(s, b, 8, MSG_WAITALL) != 8 || memcmp(b, "12345678", 8);
    bad += send(v, "dg", 2, 0) != 2;
    bad += recv(u, b, 16, 0) != 2;
    int d = dial(&la), a = accept(l, 0, 0);
    bad += a < 0 || send(d, "x", 1, 0) != 1 || recv(a, b, 1, 0) != 1;
    close(d), close(a);
    struct epoll_event e;
    bad += epoll_wait(ep, &e, 1, 0) != 0;
    bad += send(c, "e", 1, 0) != 1;
    bad += epoll_wait(ep, &e, 1, 3000) != 1 || recv(s, b, 4, 0) != 1;
    bad += send(full_c, "x", 1, MSG_DONTWAIT) != -1;
    V(bad);
}

// A thread that goes from call to call and is cancelled anywhere.
static void* busy(void* arg) {
    if (arg) pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, 0);
    char b[64];
    for (unsigned i = 0;; i++) {
        send(busy_c, b, 1 + i % 60, 0);
        recv(busy_s, b, sizeof b, 0);
        send(v, b, 8, 0);
        recv(u, b, 8, 0);
        struct pollfd p = {busy_s, POLLIN, 0};
        poll(&p, 1, 0);
        struct epoll_event e;
        epoll_wait(ep, &e, 1, 0);
    }
    return 0;
}

int main(void) {
    diff_init();
    tcp_pair(&c, &s), udp_pair(&u, &v), pipe(pipes);
    l = listener(8, &la);
    go = gate_new();
    tcp_pair(&busy_c, &busy_s);
    ep = epoll_create1(0);
    struct epoll_event e = {EPOLLIN, {0}};
    epoll_ctl(ep, EPOLL_CTL_ADD, s, &e);
    int full = listener(0, &dead), f1 = dial(&dead);
    tcp_pair(&full_c, &full_s);
    fill_up(full_c);

    for (int async = 0; async < 2; async++) {
        section(async ? "waiting, asynchronous" : "waiting");
        alarm(30);
        for (int i = 0; i < BLOCKING; i++)
            say("%s: %s", names[i], cancelled((struct way){i, async, 0, 0}));
        all_works();
        section(async ? "before the call, asynchronous" : "before the call");
        alarm(30);
        for (int i = 0; i < CALLS; i++) {
            if (i == 28) continue; // whether it is one differs between libcs
            say("%s: %s", names[i], cancelled((struct way){i, async, 1, 0}));
        }
        all_works();
    }
    section("disabled: it goes on waiting, and is cancelled when it may be");
    alarm(30);
    tid = 0;
    struct way w = {2, 0, 0, 1};
    pthread_t t = spawn_thread(thread, &w);
    while (!tid) nap(1);
    wait_asleep(tid);
    pthread_cancel(t);
    wait_asleep(tid);
    T(send(c, "12345678", 8, 0));
    void* r;
    pthread_join(t, &r);
    V(r == PTHREAD_CANCELED);
    all_works();
    for (long async = 0; async < 2; async++) {
        section(async ? "in the middle of traffic, asynchronous" : "in the middle of traffic");
        alarm(40);
        for (long i = 0; i < 100; i++) {
            t = spawn_thread(busy, (void*)async);
            usleep(i * 37 % 3000);
            pthread_cancel(t);
            pthread_join(t, &r);
            if (r != PTHREAD_CANCELED) say("not cancelled");
        }
        while (recv(busy_s, big, sizeof big, MSG_DONTWAIT) > 0 ||
               recv(u, big, sizeof big, MSG_DONTWAIT) > 0)
            ;
        all_works();
    }
    section("and all of it can be closed");
    close(busy_s);
    AW(busy_c, POLLIN);
    RX(busy_c, 4, 0);
    close(f1), close(full);
    return 0;
}
