// F_SETOWN, F_SETSIG, O_ASYNC: SIGIO when something happens.
#include "diff.h"

static volatile sig_atomic_t n, fd_, band;
static void on_io(int sig, siginfo_t* i, void* u) {
    (void)sig, (void)u;
    n++;
    fd_ = i->si_fd, band = i->si_band;
}
static void expect(const char* what, int at_least) {
    for (int i = 0; i < 100 && n < at_least; i++) nap(5);
    settle();
    say("%s: signalled %d", what, n > 0);
    n = 0;
}

// Signals to one thread: which arrived there and which elsewhere.
static volatile sig_atomic_t urgent, urgent_code, own, own_band, elsewhere, owner_tid;
static void on_thread(int sig, siginfo_t* i, void* u) {
    (void)u;
    if (self_tid() != owner_tid) {
        elsewhere++;
    } else if (sig == SIGURG) {
        urgent++, urgent_code = i->si_code;
    } else {
        own++, own_band |= i->si_band;
    }
}
static volatile sig_atomic_t done;
static void* owner(void* unused) {
    (void)unused;
    owner_tid = self_tid();
    while (!done) nap(2);
    return 0;
}
static void urgent_data(int c, int s, int signals) {
    Q(send(c, "u", 1, MSG_OOB));
    for (int i = 0; i < 100 && urgent + own + elsewhere < signals; i++) nap(5);
    settle();
    V(urgent), V(own > 0), V(elsewhere);
    Q(recv(s, (char[8]){0}, 8, MSG_OOB));
    urgent = own = elsewhere = 0;
}

int main(void) {
    diff_init();
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_sigaction = on_io, a.sa_flags = SA_SIGINFO | SA_RESTART;
    sigaction(SIGIO, &a, 0), sigaction(SIGUSR2, &a, 0);
    int c, s, u, v, l;
    struct sockaddr_in la;
    section("owner");
    tcp_pair(&c, &s);
    V(fcntl(s, F_GETOWN));
    T(fcntl(s, F_SETOWN, getpid()));
    V(fcntl(s, F_GETOWN) == getpid());
    T(fcntl(s, F_SETOWN, -getpgrp()));
    V(fcntl(s, F_GETOWN) == -getpgrp());
    struct f_owner_ex ex = {F_OWNER_TID, self_tid()};
    T(fcntl(s, F_SETOWN_EX, &ex));
    memset(&ex, 0, sizeof ex);
    T(fcntl(s, F_GETOWN_EX, &ex)), V(ex.type == F_OWNER_TID), V(ex.pid == self_tid());
    ex.type = 99;
    T(fcntl(s, F_SETOWN_EX, &ex));
    T(fcntl(s, F_SETOWN, 0x3fffffff));
    T(fcntl(s, F_SETOWN, INT_MIN));
    T(fcntl(s, F_SETOWN, getpid()));
    V(fcntl(dup(s), F_GETOWN) == getpid());
    section("without O_ASYNC nothing comes");
    send(c, "x", 1, 0);
    expect("data", 0);
    RX(s, 4, 0);
    section("with it");
    T(fcntl(s, F_SETFL, O_ASYNC));
    V((fcntl(s, F_GETFL) & O_ASYNC) != 0);
    send(c, "x", 1, 0);
    expect("data", 1);
    RX(s, 4, 0);
    T(shutdown(c, SHUT_WR));
    expect("end of file", 1);
    close(c), close(s);
    section("a signal of one's own choice tells the descriptor");
    udp_pair(&u, &v);
    T(fcntl(u, F_SETSIG, SIGUSR2)), T(fcntl(u, F_SETOWN, getpid())),
        T(fcntl(u, F_SETFL, O_ASYNC | O_NONBLOCK));
    send(v, "dgram", 5, 0);
    for (int i = 0; i < 100 && !n; i++) nap(5);
    V(fd_ == u), say("band %s", pbits(band));
    expect("datagram", 1);
    section("a listener");
    l = listener(2, &la);
    T(fcntl(l, F_SETOWN, getpid())), T(fcntl(l, F_SETFL, O_ASYNC));
    c = dial(&la);
    expect("connection", 1);
    s = accept(l, 0, 0);
    V(fcntl(s, F_GETOWN)), V((fcntl(s, F_GETFL) & O_ASYNC) != 0);
    section("switched off");
    T(fcntl(u, F_SETFL, 0));
    recv(u, (char[8]){0}, 8, 0);
    send(v, "dgram", 5, 0);
    expect("datagram", 0);
    section("the owner is a child");
    gate g = gate_new();
    pid_t p = forked("child: ");
    if (p == 0) {
        n = 0;
        gate_open(g);
        expect("datagram", 1);
        _exit(0);
    }
    gate_wait(g);
    n = 0;
    T(fcntl(u, F_SETSIG, 0)), T(fcntl(u, F_SETOWN, p));
    Q(fcntl(u, F_SETFL, O_ASYNC));
    Q(send(v, "dgram", 5, 0));
    reap(p);
    expect("parent", 0);
    section("urgent data: SIGURG, whatever F_SETSIG says");
    a.sa_sigaction = on_thread;
    sigaction(SIGURG, &a, 0), sigaction(SIGUSR2, &a, 0), sigaction(SIGIO, &a, 0);
    tcp_pair(&c, &s);
    owner_tid = self_tid();
    T(fcntl(s, F_SETOWN, getpid())), T(fcntl(s, F_SETSIG, SIGUSR2));
    urgent_data(c, s, 1);
    V(urgent_code == SI_KERNEL);
    section("and with O_ASYNC that signal as well");
    T(fcntl(s, F_SETFL, O_ASYNC));
    urgent_data(c, s, 2);
    V((own_band & POLLPRI) != 0);
    T(fcntl(s, F_SETFL, 0));
    section("one thread owns it");
    owner_tid = 0;
    pthread_t t = spawn_thread(owner, 0);
    while (!owner_tid) nap(1);
    ex.type = F_OWNER_TID, ex.pid = owner_tid;
    T(fcntl(s, F_SETOWN_EX, &ex));
    urgent_data(c, s, 1);
    T(fcntl(s, F_SETFL, O_ASYNC));
    urgent_data(c, s, 2);
    T(fcntl(s, F_SETSIG, 0));
    urgent_data(c, s, 1);
    Q(send(c, "x", 1, 0));
    for (int i = 0; i < 100 && !own; i++) nap(5);
    V(own > 0), V(elsewhere);
    done = 1;
    pthread_join(t, 0);
    section("the owner is gone");
    T(send(c, "u", 1, MSG_OOB));
    RX(s, 8, 0);
    return 0;
}
