// epoll: threads sleep in epoll_wait, in each of its forms, before the process has a socket; then another thread puts the
// first one in, which becomes readable.
#include "diff.h"

static int ep, tid;
static volatile int result;
static volatile sig_atomic_t up;
static struct epoll_event got;

static void* waiter(void* form) {
    tid = self_tid();
    up = 1;
    switch ((int)(intptr_t)form) {
    case 0: result = epoll_wait(ep, &got, 1, 20000); break;
    case 1: result = epoll_pwait(ep, &got, 1, -1, 0); break;
    default: result = (int)syscall(SYS_epoll_pwait, ep, &got, 1, -1, 0, 8); break;
    }
    return 0;
}

// Several in one set that has been used: all are told, by what stays readable, and of the pipe as well.
enum { SLEEPERS = 6 };
static volatile int tids[SLEEPERS], sockets_seen, pipes_seen, others_seen;

static void* sleeper(void* i) {
    struct epoll_event events[4];
    tids[(intptr_t)i] = self_tid();
    int n = epoll_wait(ep, events, 4, 20000);
    for (int k = 0; k < n; k++) {
        __atomic_fetch_add(events[k].data.u64 == 2   ? &sockets_seen
                           : events[k].data.u64 == 1 ? &pipes_seen
                                                     : &others_seen,
                           1, __ATOMIC_SEQ_CST);
    }
    return 0;
}
static void asleep(void) {
    for (int i = 0; i < SLEEPERS; i++) {
        while (!tids[i]) nap(1);
        wait_asleep(tids[i]);
        tids[i] = 0;
    }
}
static void many(void) {
    int ends[2], u = -1, v = -1;
    struct epoll_event e = {EPOLLIN, {.u64 = 1}};
    pthread_t t[SLEEPERS];
    ep = epoll_create1(0);
    T(pipe(ends));
    T(epoll_ctl(ep, EPOLL_CTL_ADD, ends[0], &e));
    for (int round = 0; round < 6; round++) {
        sockets_seen = pipes_seen = others_seen = 0;
        for (intptr_t i = 0; i < SLEEPERS; i++) t[i] = spawn_thread(sleeper, (void*)i);
        asleep();
        if (round == 2) { // the first socket of this set comes
            udp_pair(&u, &v);
            e.data.u64 = 2;
            epoll_ctl(ep, EPOLL_CTL_ADD, u, &e);
            nap(20);
        }
        if (round == 4) close(u);
        char b = 0;
        if (round == 2 || round == 3)
            send(v, &b, 1, 0);
        else
            T(write(ends[1], &b, 1));
        for (int i = 0; i < SLEEPERS; i++) pthread_join(t[i], 0);
        say("round %d: socket %d, pipe %d, others %d", round, sockets_seen, pipes_seen,
            others_seen);
        if (round == 2 || round == 3)
            recv(u, &b, 1, 0);
        else
            T(read(ends[0], &b, 1));
    }
}

int main(void) {
    diff_init();
    for (int form = 0; form < 3; ++form) {
        pid_t child = fork(); // each form in a process that has no socket yet
        if (child) {
            int status;
            waitpid(child, &status, 0);
            say("form %d: status %d", form, status);
            continue;
        }
        int ends[2];
        struct epoll_event e = {EPOLLIN, {.u64 = 1}};
        ep = epoll_create1(0);
        T(pipe(ends));
        T(epoll_ctl(ep, EPOLL_CTL_ADD, ends[0], &e));
        pthread_t t = spawn_thread(waiter, (void*)(intptr_t)form);
        while (!up) nap(1);
        wait_asleep(tid);
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t len = sizeof a;
        int l = socket(AF_INET, SOCK_STREAM, 0), c = socket(AF_INET, SOCK_STREAM, 0);
        T(bind(l, SA(&a), sizeof a));
        T(listen(l, 1));
        T(getsockname(l, SA(&a), &len));
        e.data.u64 = 2;
        T(epoll_ctl(ep, EPOLL_CTL_ADD, l, &e));
        wait_asleep(tid);
        T(connect(c, SA(&a), sizeof a));
        pthread_join(t, 0);
        say("%d events, of the %s", result, got.data.u64 == 2 ? "socket" : "pipe");
        exit(0);
    }
    section("many");
    if (fork() == 0) {
        many();
        exit(0);
    }
    wait(0);
    return 0;
}
