// Handlers that do not come back (siglongjmp) from within every blocking call, once and a hundred times over, in a
// process and its threads; handlers on a stack that is as small as may be; handlers that close what is waited for.
#include "diff.h"
#include <setjmp.h>

static int c, s, u, v, l, ep, full_c, full_s;
static struct sockaddr_in la, ua, dead;
static sigjmp_buf jump;
static volatile sig_atomic_t hits;
static char big[1 << 20];

static void on_jump(int sig) {
    (void)sig;
    hits++;
    siglongjmp(jump, 1);
}
static void install(int sig, void (*f)(int), int flags) {
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = f, a.sa_flags = flags;
    sigaction(sig, &a, 0);
}

enum { CALLS = 21 };
static const char* const names[CALLS] = {
    "recv",        "read",    "readv", "recvmsg", "recvmmsg", "recv UDP",       "recvfrom UDP",
    "accept",      "accept4", "poll",  "ppoll",   "select",   "pselect",        "epoll_wait",
    "epoll_pwait", "send",    "write", "sendmsg", "connect",  "poll two kinds", "recv timeo"};
static void wait_in(int which) {
    char b[8];
    struct iovec iov = {b, 8}, out = {big, sizeof big};
    struct msghdr m = {0, 0, &iov, 1, 0, 0, 0}, mo = {0, 0, &out, 1, 0, 0, 0};
    struct mmsghdr mm = {m, 0};
    struct epoll_event e;
    struct pollfd p[2] = {{s, POLLIN, 0}, {0, 0, 0}};
    struct timespec long_time = {100, 0};
    fd_set set;
    FD_ZERO(&set);
    FD_SET(s, &set);
    static int pp[2] = {-1, -1};
    if (pp[0] < 0) pipe(pp);
    switch (which) {
    case 0: recv(s, b, 8, 0); break;
    case 1: read(s, b, 8); break;
    case 2: readv(s, &iov, 1); break;
    case 3: recvmsg(s, &m, MSG_WAITALL); break;
    case 4: recvmmsg(u, &mm, 1, 0, 0); break;
    case 5: recv(u, b, 8, 0); break;
    case 6: recvfrom(u, b, 8, MSG_PEEK, 0, 0); break;
    case 7: accept(l, 0, 0); break;
    case 8: accept4(l, 0, 0, SOCK_CLOEXEC); break;
    case 9: poll(p, 1, -1); break;
    case 10: ppoll(p, 1, &long_time, 0); break;
    case 11: select(s + 1, &set, 0, 0, 0); break;
    case 12: pselect(s + 1, &set, 0, 0, &long_time, 0); break;
    case 13: epoll_wait(ep, &e, 1, -1); break;
    case 14: epoll_pwait(ep, &e, 1, 100000, 0); break;
    case 15: send(full_c, big, sizeof big, 0); break;
    case 16: write(full_c, big, sizeof big); break;
    case 17: sendmsg(full_c, &mo, 0); break;
    case 18: {
        int k = tcp();
        connect(k, SA(&dead), sizeof dead);
        close(k);
        break;
    }
    case 19:
        p[1] = (struct pollfd){pp[0], POLLIN, 0};
        poll(p, 2, -1);
        break;
    case 20: {
        struct timeval tv = {100, 0}, none = {0, 0};
        setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
        recv(s, b, 8, 0);
        setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof none);
        break;
    }
    }
}

// What may be waited for still works: nothing is locked, and nothing was taken.
static void all_works(void) {
    char b[16];
    int bad = 0;
    struct timeval none = {0, 0};
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof none);
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
    V(bad);
}

static int main_tid;
static void* kicks(void* t) {
    wait_asleep(main_tid);
    pthread_kill(*(pthread_t*)t, SIGUSR1);
    return 0;
}

static void jumps(void) {
    pthread_t self = pthread_self();
    main_tid = self_tid();
    for (volatile int flags = 0; flags < 2; flags++) {
        section(flags ? "jumps, SA_RESTART" : "jumps");
        alarm(40);
        install(SIGUSR1, on_jump, flags ? SA_RESTART : 0);
        for (volatile int i = 0; i < CALLS; i++) {
            hits = 0;
            pthread_t t = spawn_thread(kicks, &self);
            if (sigsetjmp(jump, 1) == 0) {
                wait_in(i);
                say("%s returned", names[i]);
            }
            pthread_join(t, 0);
            if (hits != 1) say("%s: %d", names[i], hits);
        }
        all_works();
    }
}

// What a call held that was jumped out of is let go: the last close is the end of the connection.
static void released(void) {
    section("closed after a jump");
    alarm(40);
    pthread_t self = pthread_self();
    install(SIGUSR1, on_jump, 0);
    const int old_c = c, old_s = s, old_u = u, old_ep = ep;
    for (volatile int i = 0; i < CALLS; i++) {
        if (i == 4 || (i > 4 && i < 9) || (i > 14 && i < 19)) continue;
        tcp_pair(&c, &s);
        ep = epoll_create1(0);
        struct epoll_event e = {EPOLLIN, {0}};
        epoll_ctl(ep, EPOLL_CTL_ADD, s, &e);
        pthread_t t = spawn_thread(kicks, &self);
        if (sigsetjmp(jump, 1) == 0) wait_in(i);
        pthread_join(t, 0);
        close(ep), close(s);
        AW(c, POLLIN);
        char b;
        long r = recv(c, &b, 1, MSG_DONTWAIT);
        if (r) say("%s: %ld %s", names[i], r, en(errno));
        close(c);
    }
    c = old_c, s = old_s, u = old_u, ep = old_ep;
    all_works();
}

// fork in a handler that has interrupted a call: in both the call goes on, and the last close is the last.
static void on_fork(int sig) {
    (void)sig;
    int e = errno;
    pid_t p = fork();
    if (p == 0) {
        diff_who = "child: ";
        alarm(8);
        send(c, "child", 5, 0);
    } else {
        waitpid(p, 0, 0);
        send(c, "parent", 6, 0);
    }
    errno = e;
    hits = p == 0 ? 100 : 1;
}
static void forks(void) {
    section("a handler that forks");
    install(SIGUSR1, on_fork, SA_RESTART);
    pthread_t self = pthread_self();
    hits = 0;
    const int old_c = c, old_s = s;
    tcp_pair(&c, &s);
    pthread_t t = spawn_thread(kicks, &self);
    char b[16];
    long n = recv(s, b, sizeof b, 0);
    bytes("read", b, n);
    if (hits == 100) {
        int d = dup(s);
        close(s);
        T(send(d, "still", 5, 0));
        _exit(0);
    }
    pthread_join(t, 0);
    RX(c, 8, 0);
    close(s);
    RX(c, 8, 0);
    close(c);
    c = old_c, s = old_s;
}

// Again and again by a timer, wherever the call happens to be.
static void many(void) {
    section("by a timer, anywhere");
    alarm(40);
    install(SIGUSR1, on_jump, 0);
    struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    timer_t timer;
    timer_create(CLOCK_MONOTONIC, &ev, &timer);
    volatile int done = 0;
    for (volatile int i = 0; i < 19; i++) {
        if (i == 7 || i == 8 || i == 18) continue; // would lose descriptors
        for (volatile int n = 0; n < 40; n++) {
            if (sigsetjmp(jump, 1) == 0) {
                struct itimerspec in = {{0, 0}, {0, 1000 + n * 7919 % 300000}};
                timer_settime(timer, 0, &in, 0);
                wait_in(i);
                pause();
            }
            done++;
        }
    }
    timer_delete(timer);
    V(done);
    all_works();
}

// Traffic that is never waited for, cut off anywhere.
static void cut(void) {
    section("in the middle of sending and receiving");
    alarm(40);
    install(SIGUSR1, on_jump, 0);
    struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    timer_t timer;
    timer_create(CLOCK_MONOTONIC, &ev, &timer);
    static char b[70000];
    int a, d;
    udp_pair(&a, &d);
    int k1, k2;
    tcp_pair(&k1, &k2);
    nonblock(k1, 1), nonblock(k2, 1), nonblock(d, 1);
    volatile int done = 0;
    for (volatile int n = 0; n < 400; n++) {
        if (sigsetjmp(jump, 1) == 0) {
            struct itimerspec in = {{0, 0}, {0, 1000 + n * 104729 % 100000}};
            timer_settime(timer, 0, &in, 0);
            for (;;) {
                send(k1, b, 1 + n * 31 % 60000, 0);
                recv(k2, b, sizeof b, 0);
                send(a, b, 1 + n * 17 % 9000, 0);
                recv(d, b, sizeof b, 0);
                int x = dup(k1);
                close(x);
            }
        }
        for (int fd = 200; fd < 210; fd++) close(fd);
        done++;
    }
    timer_delete(timer);
    V(done);
    while (recv(k2, b, sizeof b, 0) > 0)
        ;
    nonblock(k2, 0);
    T(send(k1, "end", 3, 0));
    char last[4] = "";
    for (long r; (r = recv(k2, b, sizeof b, 0)) > 0;) {
        if (r >= 3) memcpy(last, b + r - 3, 3);
        if (!strcmp(last, "end")) break;
    }
    say("%s", last);
    while (recv(d, b, sizeof b, 0) > 0)
        ;
    T(send(a, "udp", 3, 0));
    AW(d, POLLIN);
    RX(d, 8, 0);
    all_works();
}

// A handler on an alternate stack, with little room.
static void on_small(int sig) {
    (void)sig;
    char b[4];
    hits++;
    send(c, "S", 1, 0);
    recv(s, b, 1, MSG_DONTWAIT);
    struct pollfd p = {s, POLLIN, 0};
    poll(&p, 1, 0);
}
static void stacks(void) {
    section("a handler on a small stack");
    static char room[1 << 16];
    size_t size = sysconf(_SC_MINSIGSTKSZ) + 6144;
    memset(room, 'g', sizeof room);
    stack_t st = {.ss_sp = room + 4096, .ss_size = size};
    T(sigaltstack(&st, 0));
    install(SIGUSR1, on_small, SA_ONSTACK);
    hits = 0;
    for (int i = 0; i < 20; i++) raise(SIGUSR1);
    V(hits);
    int touched = 0;
    for (int i = 0; i < 4096; i++) touched += room[i] != 'g';
    V(touched);
    pthread_t self = pthread_self();
    pthread_t t = spawn_thread(kicks, &self);
    struct pollfd p = {u, POLLIN, 0};
    T(poll(&p, 1, -1));
    pthread_join(t, 0);
    V(hits);
    st.ss_flags = SS_DISABLE;
    T(sigaltstack(&st, 0));
    all_works();
}

// A handler that closes and replaces descriptors.
static int extra_c, extra_s;
static void on_close(int sig) {
    (void)sig;
    hits++;
    int e = errno;
    close(extra_s);
    errno = e;
}
static void on_replace(int sig) {
    (void)sig;
    hits++;
    int e = errno, k = socket(AF_INET, SOCK_DGRAM, 0);
    dup2(k, extra_s), close(k);
    errno = e;
}
static void on_serve(int sig) {
    (void)sig;
    hits++;
    int e = errno, d = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(d, SA(&la), sizeof la) == 0) send(d, "handler", 7, 0);
    shutdown(d, SHUT_WR), close(d);
    errno = e;
}
static void closers(void) {
    pthread_t self = pthread_self();
    void (*const kinds[])(int) = {on_close, on_replace};
    for (int i = 0; i < 2; i++) {
        section(i ? "a handler that puts another socket on the number"
                  : "a handler that closes what is read");
        tcp_pair(&extra_c, &extra_s);
        install(SIGUSR1, kinds[i], 0);
        hits = 0;
        pthread_t t = spawn_thread(kicks, &self);
        char b[8];
        T(recv(extra_s, b, 8, 0));
        pthread_join(t, 0);
        V(hits);
        RX(extra_c, 8, 0);
        T(fcntl(extra_s, F_GETFD));
        close(extra_c), close(extra_s);
    }
    section("a handler that connects, while its thread accepts");
    install(SIGUSR1, on_serve, SA_RESTART);
    hits = 0;
    pthread_t t = spawn_thread(kicks, &self);
    int a;
    F(a = accept(l, 0, 0));
    pthread_join(t, 0);
    RX(a, 16, MSG_WAITALL);
    close(a);
    all_works();
}

int main(void) {
    diff_init();
    tcp_pair(&c, &s), udp_pair(&u, &v);
    l = listener(8, &la);
    ua = lo(port_of(u));
    ep = epoll_create1(0);
    struct epoll_event e = {EPOLLIN, {0}};
    epoll_ctl(ep, EPOLL_CTL_ADD, s, &e);
    int full = listener(0, &dead);
    int f1 = dial(&dead);
    tcp_pair(&full_c, &full_s);
    fill_up(full_c);
    jumps();
    released();
    forks();
    many();
    cut();
    stacks();
    closers();
    close(f1), close(full);
    return 0;
}
