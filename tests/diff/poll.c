// poll() and ppoll(): mixes of sockets, pipes, eventfds, bad and negative descriptors; timeouts; duplicates.
#include "diff.h"

static int tid, c, s, p[2], u, v;
static void* send_later(void* a) {
    wait_asleep(tid);
    send(c, a, 1, 0);
    return 0;
}
static void* pipe_later(void* a) {
    wait_asleep(tid);
    write(p[1], a, 1);
    return 0;
}
static void* udp_later(void* a) {
    wait_asleep(tid);
    send(v, a, 1, 0);
    return 0;
}
static void* close_later(void* a) {
    wait_asleep(tid);
    close(c);
    return a;
}
static struct sockaddr_in la;
static void* dial_later(void* a) {
    wait_asleep(tid);
    *(int*)a = dial(&la);
    return 0;
}

static void show(const char* what, struct pollfd* f, int n, int ms) {
    char o[400] = "";
    errno = NOERR;
    int r = poll(f, n, ms);
    int e = errno;
    for (int i = 0; i < n; i++) sprintf(o + strlen(o), " [%s]", pbits(f[i].revents));
    say("%s: poll -> %d %s%s", what, r, en(e), o);
}

int main(void) {
    diff_init();
    tid = self_tid();
    tcp_pair(&c, &s), udp_pair(&u, &v);
    pipe(p);
    int ev = eventfd(0, 0), l = listener(4, &la);
    section("a mix");
    struct pollfd f[10] = {{s, POLLIN, 7},    {p[0], POLLIN, 7},        {-1, POLLIN, 7},
                           {9999, POLLIN, 7}, {u, POLLIN | POLLOUT, 7}, {ev, POLLIN | POLLOUT, 7},
                           {l, POLLIN, 7},    {-s, POLLIN, 7},          {s, POLLOUT, 7},
                           {0, 0, 7}};
    show("quiet", f, 9, 0);
    send(c, "x", 1, 0), write(p[1], "y", 1), send(v, "z", 1, 0);
    settle();
    show("all have something", f, 9, 0);
    show("the same socket in both entries", f, 9, 1000);
    f[3].fd = -1, f[8].fd = ~f[8].fd;
    show("two left out", f, 9, 1000);
    f[8].fd = ~f[8].fd;
    recv(s, &(char){0}, 1, 0), read(p[0], &(char){0}, 1), recv(u, &(char){0}, 1, 0);
    show("drained", f, 8, 0);
    section("timeouts");
    f[4].events = POLLIN, f[5].events = POLLIN;
    long t0 = now_ms();
    show("50 ms", f, 8, 50);
    LASTED(t0, 50, 3000);
    t0 = now_ms();
    show("sockets only, 50 ms", f, 1, 50);
    LASTED(t0, 50, 3000);
    t0 = now_ms();
    T(poll(0, 0, 40)), T(poll(f, 0, 40));
    LASTED(t0, 80, 3000);
    struct timespec ts = {0, 50000000};
    t0 = now_ms();
    T(ppoll(f, 8, &ts, 0));
    LASTED(t0, 50, 3000);
    V(ts.tv_nsec);
    f[3].fd = 9999;
    t0 = now_ms();
    show("a bad one answers at once", f, 8, 5000);
    LASTED(t0, 0, 1000);
    f[3].fd = -1;
    section("waking up");
    pthread_t t;
#define WAKE(fn, ms, n)                                                                            \
    t = spawn_thread(fn, "w");                                                                     \
    show(#fn, f, n, ms);                                                                           \
    pthread_join(t, 0)
    WAKE(send_later, 5000, 8);
    RX(s, 4, 0);
    WAKE(send_later, -1, 1);
    RX(s, 4, 0);
    WAKE(pipe_later, -1, 8);
    read(p[0], &(char){0}, 1);
    WAKE(udp_later, -5, 8);
    RX(u, 4, 0);
    int d = -1;
    t = spawn_thread(dial_later, &d);
    show("dial_later", f, 8, -1);
    pthread_join(t, 0);
    close(accept(l, 0, 0));
    close(d);
    f[0].events = POLLRDHUP;
    WAKE(close_later, -1, 8);
    section("what was not asked for still shows when it is an error");
    f[0].events = 0;
    show("peer closed, nothing asked", f, 1, 0);
    T(send(s, "x", 1, 0));
    settle();
    show("reset, nothing asked", f, 1, 0);
    f[0].events = POLLIN | POLLPRI | POLLRDNORM | POLLRDBAND;
    show("reset, in", f, 1, 0);
    section("closed descriptor");
    T(close(s));
    show("closed", f, 1, 0);
    f[0].revents = 0x55;
    f[0].fd = -1;
    show("negative clears", f, 1, 0);
    section("pipe and eventfd ends with a socket");
    close(p[1]);
    f[0] = (struct pollfd){u, POLLIN, 0};
    f[1] = (struct pollfd){p[0], POLLIN, 0};
    show("pipe closed", f, 2, 1000);
    write(ev, &(uint64_t){3}, 8);
    f[1].fd = ev;
    show("eventfd", f, 2, 1000);
    section("limits");
    struct rlimit rl, old;
    getrlimit(RLIMIT_NOFILE, &old);
    rl = old, rl.rlim_cur = 30;
    setrlimit(RLIMIT_NOFILE, &rl);
    static struct pollfd many[100];
    for (int i = 0; i < 100; i++) many[i].fd = -1;
    many[5].fd = ev, many[5].events = POLLIN;
    T(poll(many, 30, 0)), T(poll(many, 31, 0));
    setrlimit(RLIMIT_NOFILE, &old);
    section("many descriptors");
    for (int i = 0; i < 100; i++) many[i] = (struct pollfd){i & 1 ? u : p[0], POLLIN, 0};
    T(send(v, "q", 1, 0));
    AW(u, POLLIN);
    close(p[0]);
    T(poll(many, 100, 0));
    say("%s %s", pbits(many[0].revents), pbits(many[1].revents));
    section("ppoll with a mask");
    sigset_t m;
    sigemptyset(&m);
    ts.tv_sec = 0, ts.tv_nsec = 0;
    T(ppoll(many + 1, 1, &ts, &m)), T(ppoll(many + 1, 1, 0, &m));
    return 0;
}
