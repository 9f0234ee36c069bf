// select() and pselect(): sets, counts, bad descriptors, timeouts that are counted down.
#include "diff.h"

static int tid, c, s;
static void* send_later(void* a) {
    wait_asleep(tid);
    send(c, "w", 1, 0);
    return a;
}
static fd_set r, w, x;
static void zero(void) {
    FD_ZERO(&r);
    FD_ZERO(&w);
    FD_ZERO(&x);
}
#define IS(fd)                                                                                     \
    say("  " #fd ": r %d w %d x %d", FD_ISSET(fd, &r) != 0, FD_ISSET(fd, &w) != 0,                 \
        FD_ISSET(fd, &x) != 0)
#define SETS(fd)                                                                                   \
    do {                                                                                           \
        FD_SET(fd, &r);                                                                            \
        FD_SET(fd, &w);                                                                            \
        FD_SET(fd, &x);                                                                            \
    } while (0)

int main(void) {
    diff_init();
    wide_table();
    tid = self_tid();
    int u, v, p[2], l = listener(2, 0);
    tcp_pair(&c, &s), udp_pair(&u, &v);
    pipe(p);
    struct timeval tv = {0, 0};
    int n = p[1] + 1;
    if (l >= n) n = l + 1;
#define FRESH()                                                                                    \
    zero();                                                                                        \
    SETS(s);                                                                                       \
    SETS(c);                                                                                       \
    SETS(u);                                                                                       \
    SETS(p[0]);                                                                                    \
    SETS(p[1]);                                                                                    \
    SETS(l)
#define SHOW()                                                                                     \
    IS(s);                                                                                         \
    IS(c);                                                                                         \
    IS(u);                                                                                         \
    IS(p[0]);                                                                                      \
    IS(p[1]);                                                                                      \
    IS(l)
    section("a mix");
    FRESH();
    T(select(n, &r, &w, &x, &tv));
    SHOW();
    T(send(c, "a", 1, 0)), T(send(v, "b", 1, 0)), T(write(p[1], "c", 1));
    settle();
    FRESH();
    T(select(n, &r, &w, &x, 0));
    SHOW();
    section("sets left out, n too small");
    FRESH();
    T(select(n, &r, 0, 0, &tv));
    FRESH();
    T(select(n, 0, 0, &x, &tv));
    FRESH();
    T(select(s, &r, 0, 0, &tv));
    V(FD_ISSET(s, &r) != 0); // beyond n: not touched
    T(select(0, 0, 0, 0, &tv));
    section("errnos");
    zero();
    FD_SET(200, &r);
    T(select(201, &r, 0, 0, &tv));
    T(select(200, &r, 0, 0, &tv));
    zero();
    FD_SET(s, &r);
    FD_SET(200, &w);
    T(select(201, &r, &w, 0, &tv));
    say("sets are as they were: %d %d", FD_ISSET(s, &r) != 0, FD_ISSET(200, &w) != 0);
    T(select(-1, &r, 0, 0, &tv));
    section("timeouts");
    RX(s, 4, 0), RX(u, 4, 0);
    zero();
    FD_SET(s, &r);
    FD_SET(u, &r);
    FD_SET(l, &r);
    tv.tv_usec = 60000;
    long t0 = now_ms();
    T(select(n, &r, 0, 0, &tv));
    LASTED(t0, 60, 3000);
    V(tv.tv_sec), V(tv.tv_usec), V(FD_ISSET(s, &r) != 0);
    tv.tv_sec = 3, tv.tv_usec = 0;
    zero();
    FD_SET(s, &w);
    T(select(n, 0, &w, 0, &tv));
    V(tv.tv_sec >= 2);
    pthread_t t = spawn_thread(send_later, 0);
    tv.tv_sec = 5, tv.tv_usec = 0;
    zero();
    FD_SET(s, &r);
    FD_SET(p[0], &x);
    T(select(n, &r, 0, &x, &tv));
    pthread_join(t, 0);
    IS(s);
    IS(p[0]);
    V(tv.tv_sec == 4);
    RX(s, 4, 0);
    t = spawn_thread(send_later, 0);
    zero();
    FD_SET(s, &r);
    T(select(n, &r, 0, 0, 0));
    pthread_join(t, 0);
    RX(s, 4, 0);
    struct timespec ts = {0, 50000000};
    zero();
    FD_SET(s, &r);
    t0 = now_ms();
    T(pselect(n, &r, 0, 0, &ts, 0));
    LASTED(t0, 50, 3000);
    V(ts.tv_nsec);
    tv.tv_sec = 0, tv.tv_usec = 30000;
    t0 = now_ms();
    T(select(0, 0, 0, 0, &tv));
    LASTED(t0, 30, 3000);
    section("larger n than there are descriptors");
    zero();
    FD_SET(s, &w);
    tv.tv_sec = 0, tv.tv_usec = 0;
    T(select(1024, 0, &w, 0, &tv));
    section("end of file, reset, urgent data");
    T(send(c, "!", 1, MSG_OOB));
    settle();
    FRESH();
    T(select(n, &r, &w, &x, &tv));
    IS(s);
    T(shutdown(c, SHUT_WR));
    settle();
    FRESH();
    T(select(n, &r, &w, &x, &tv));
    IS(s);
    IS(c);
    T(close(s));
    settle();
    zero();
    SETS(c);
    T(select(n, &r, &w, &x, &tv));
    IS(c);
    section("high descriptor");
    int h = fcntl(c, F_DUPFD, 1000), d = -1, q;
    V(h);
    zero();
    SETS(h);
    T(select(h + 1, &r, &w, &x, &tv));
    IS(h);
    tcp_pair(&d, &q);
    T(dup2(d, 1023));
    zero();
    SETS(1023);
    T(send(q, "x", 1, 0));
    AW(d, POLLIN);
    T(select(1024, &r, &w, &x, &tv));
    IS(1023);
    return 0;
}
