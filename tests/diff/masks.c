// ppoll, pselect, epoll_pwait and epoll_pwait2 take a mask and wait in one step: a signal that is blocked otherwise ends
// each wait, whether it came before, in the middle or after it began; and a process that is stopped for a while.
#include "diff.h"
#include <sys/signalfd.h>

static int c, s, u, ep, mixed[2];
static volatile sig_atomic_t hits;
static void on_usr1(int sig) {
    (void)sig;
    hits++;
}
static pthread_t main_thread;
static volatile int round_no, stop;

// One signal a round, at any moment.
static void* sender(void* arg) {
    (void)arg;
    for (int last = 0; !stop;) {
        while (round_no == last && !stop) sched_yield();
        if (stop) break;
        last = round_no;
        for (volatile int spin = last * 7919 % 20000; spin > 0; spin--)
            ;
        pthread_kill(main_thread, SIGUSR1);
    }
    return 0;
}

enum { WAITS = 8, ROUNDS = 300 };
static const char* const names[WAITS] = {
    "ppoll",       "ppoll with a pipe", "ppoll UDP",        "pselect",
    "epoll_pwait", "epoll_pwait2",      "ppoll of nothing", "syscall(SYS_ppoll)"};
static long wait_by(int which, const sigset_t* mask) {
    struct pollfd p[2] = {{which == 2 ? u : s, POLLIN, 0}, {mixed[0], POLLIN, 0}};
    struct epoll_event e;
    struct timespec limit = {5, 0};
    fd_set set;
    FD_ZERO(&set);
    FD_SET(s, &set);
    switch (which) {
    case 0: return ppoll(p, 1, 0, mask);
    case 1: return ppoll(p, 2, &limit, mask);
    case 2: return ppoll(p, 1, &limit, mask);
    case 3: return pselect(s + 1, &set, 0, 0, 0, mask);
    case 4: return epoll_pwait(ep, &e, 1, -1, mask);
    case 5: return epoll_pwait2(ep, &e, 1, &limit, mask);
    case 6: return ppoll(0, 0, &limit, mask);
    default: return syscall(SYS_ppoll, p, 1, &limit, mask, 8);
    }
}

int main(void) {
    diff_init();
    tcp_pair(&c, &s), u = udp(0), pipe(mixed);
    ep = epoll_create1(0);
    struct epoll_event e = {EPOLLIN, {0}};
    epoll_ctl(ep, EPOLL_CTL_ADD, s, &e);
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = on_usr1;
    sigaction(SIGUSR1, &a, 0);
    main_thread = pthread_self();
    sigset_t blocked, none, now;
    sigemptyset(&none), sigemptyset(&blocked), sigaddset(&blocked, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &blocked, 0);
    pthread_t t = spawn_thread(sender, 0);
    for (int w = 0; w < WAITS; w++) {
        section(names[w]);
        alarm(30);
        int interrupted = 0, other = 0;
        hits = 0;
        for (int i = 0; i < ROUNDS; i++) {
            round_no++;
            if (i % 5 == 0) nap(1); // it is pending already
            long r = wait_by(w, &none);
            if (r == -1 && errno == EINTR)
                interrupted++;
            else
                other++;
            pthread_sigmask(SIG_BLOCK, 0, &now);
            if (!sigismember(&now, SIGUSR1)) say("the mask is not back");
        }
        V(interrupted), V(other), V(hits);
    }
    stop = 1;
    pthread_join(t, 0);
    section("what is ready goes before a signal that is pending");
    Q(send(c, "x", 1, 0));
    AW(s, POLLIN);
    hits = 0;
    for (int w = 0; w < WAITS; w++) {
        if (w == 2 || w == 6) continue;
        raise(SIGUSR1);
        say("%s: %ld, %d", names[w], wait_by(w, &none), hits);
    }
    recv(s, &a, 1, 0);
    T(wait_by(0, &none)), V(hits);
    section("a signalfd beside a socket");
    int f = signalfd(-1, &blocked, SFD_CLOEXEC);
    struct pollfd p[2] = {{s, POLLIN, 0}, {f, POLLIN, 0}};
    raise(SIGUSR1);
    T(poll(p, 2, 3000)), V(p[0].revents), V(p[1].revents);
    struct signalfd_siginfo si;
    T(read(f, &si, sizeof si)), V(si.ssi_signo == SIGUSR1);
    T(poll(p, 2, 0));
    section("one side stopped for a while");
    alarm(30);
    pthread_sigmask(SIG_UNBLOCK, &blocked, 0);
    static char big[300000], got[300000];
    for (unsigned i = 0; i < sizeof big; i++) big[i] = i * 31 + i / 1000;
    for (int i = 0; i < 3; i++) {
        int k1, k2;
        tcp_pair(&k1, &k2);
        pid_t child = forked("child: ");
        if (child == 0) {
            close(k1);
            long n = 0, r;
            uint64_t h = HASH0;
            while ((r = recv(k2, got, sizeof got, 0)) > 0) h = hash_add(h, got, r), n += r;
            send(k2, &n, sizeof n, 0), send(k2, &h, sizeof h, 0);
            _exit(0);
        }
        close(k2);
        // Before it reads, in the middle, or asleep in the call.
        if (i == 2) wait_asleep(child);
        if (i == 1) Q(send(k1, big, 1000, 0));
        kill(child, SIGSTOP);
        nonblock(k1, 1);
        long sent = i == 1 ? 1000 : 0, r;
        uint64_t h = i == 1 ? hash_add(HASH0, big, 1000) : HASH0;
        for (int tries = 0; tries < 60; tries++) { // what goes in without a reader
            r = send(k1, big, sizeof big, 0);
            if (r > 0)
                h = hash_add(h, big, r), sent += r;
            else
                nap(10);
        }
        V(sent > 300000);
        say("%s", en(r < 0 ? errno : 0));
        kill(child, SIGCONT);
        nonblock(k1, 0);
        r = send(k1, big, sizeof big, 0), h = hash_add(h, big, r), sent += r;
        shutdown(k1, SHUT_WR);
        long n;
        uint64_t theirs;
        V(recv(k1, &n, sizeof n, MSG_WAITALL)), V(recv(k1, &theirs, sizeof theirs, MSG_WAITALL));
        V(n == sent), V(theirs == h);
        reap(child);
        close(k1);
    }
    return 0;
}
