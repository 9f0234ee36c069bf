// Signals: which calls are interrupted, which start again under SA_RESTART, what the masks of ppoll and friends do.
#include "diff.h"

static volatile sig_atomic_t hits;
static int c, s, u, v, l, ep, tid;
static struct sockaddr_in la;
static void on_usr1(int sig) {
    (void)sig;
    hits++;
}
static void on_send(int sig) {
    (void)sig;
    int e = errno;
    hits++;
    send(c, "from handler", 12, 0);
    errno = e;
}
static void install(int flags, void (*f)(int)) {
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = f, a.sa_flags = flags;
    sigaction(SIGUSR1, &a, 0);
}
// Signals the main thread when it sleeps; then, if it goes on sleeping, does what it is waiting for.
static int what;
static volatile sig_atomic_t done;
static void* kicker(void* a) {
    wait_asleep(tid);
    pthread_kill(*(pthread_t*)a, SIGUSR1);
    for (int i = 0; i < 12 && !done; i++) nap(5);
    wait_asleep(tid);
    if (done) return 0;
    if (what == 1)
        send(c, "data", 4, 0);
    else if (what == 2)
        sendto(v, "data", 4, 0, 0, 0);
    else if (what == 3) {
        int d = dial(&la);
        nap(200);
        close(d);
    }
    return 0;
}
static pthread_t self;
// A sender that got a part away before the signal reports the part: both are right.
static long cut_short(long r, long size) {
    return r > 0 && r < size ? 0 : r < 0 && errno == EINTR ? (errno = NOERR, 0) : r;
}
#define KICK(w, call)                                                                              \
    do {                                                                                           \
        what = w, hits = 0, done = 0;                                                              \
        self = pthread_self();                                                                     \
        pthread_t t_ = spawn_thread(kicker, &self);                                                \
        T(call);                                                                                   \
        done = 1;                                                                                  \
        pthread_join(t_, 0);                                                                       \
        V(hits);                                                                                   \
    } while (0)

int main(void) {
    diff_init();
    tid = self_tid();
    char b[64];
    struct timeval tv = {5, 0}, no = {0, 0};
    for (int restart = 0; restart < 2; restart++) {
        install(restart ? SA_RESTART : 0, on_usr1);
        say("---- SA_RESTART %d", restart);
        section("recv");
        tcp_pair(&c, &s), udp_pair(&u, &v);
        KICK(1, recv(s, b, 4, 0));
        KICK(1, read(s, b, 4));
        KICK(1, recv(s, b, 4, MSG_WAITALL));
        KICK(1, recv(s, b, 4, MSG_PEEK));
        recv(s, b, 64, MSG_DONTWAIT);
        struct iovec iov = {b, 4};
        struct msghdr m = {0, 0, &iov, 1, 0, 0, 0};
        struct mmsghdr mm = {m, 0};
        KICK(1, recvmsg(s, &m, 0));
        KICK(1, readv(s, &iov, 1));
        KICK(2, recv(u, b, 4, 0));
        KICK(2, recvfrom(u, b, 4, 0, 0, 0));
        KICK(2, recvmsg(u, &m, 0));
        KICK(2, recvmmsg(u, &mm, 1, 0, 0));
        section("with SO_RCVTIMEO");
        setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
        KICK(1, recv(s, b, 4, 0));
        KICK(1, read(s, b, 4));
        setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &no, sizeof no);
        section("partial data");
        T(send(c, "ab", 2, 0));
        AW(s, POLLIN);
        KICK(1, recv(s, b, 6, MSG_WAITALL));
        recv(s, b, 64, MSG_DONTWAIT);
        section("accept");
        l = listener(4, &la);
        int r;
        KICK(3, (r = accept(l, 0, 0)) < 0 ? -1 : 0);
        KICK(3, (r = accept4(l, 0, 0, 0)) < 0 ? -1 : 0);
        setsockopt(l, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
        KICK(3, (r = accept(l, 0, 0)) < 0 ? -1 : 0);
        section("poll, select, epoll: never started again");
        struct pollfd p[2] = {{s, POLLIN, 0}, {u, POLLIN, 0}};
        KICK(0, poll(p, 2, -1));
        KICK(0, poll(p, 2, 4000));
        KICK(0, poll(p, 1, 4000));
        struct timespec ts = {4, 0};
        KICK(0, ppoll(p, 2, &ts, 0));
        KICK(0, ppoll(p, 2, 0, 0));
        fd_set set;
        FD_ZERO(&set);
        FD_SET(s, &set);
        KICK(0, select(s + 1, &set, 0, 0, 0));
        tv.tv_sec = 4;
        KICK(0, select(s + 1, &set, 0, 0, &tv));
        KICK(0, pselect(s + 1, &set, 0, 0, &ts, 0));
        V(FD_ISSET(s, &set) != 0);
        ep = epoll_create1(0);
        struct epoll_event e = {EPOLLIN, {0}};
        epoll_ctl(ep, EPOLL_CTL_ADD, s, &e);
        KICK(0, epoll_wait(ep, &e, 1, -1));
        KICK(0, epoll_wait(ep, &e, 1, 4000));
        KICK(0, epoll_pwait(ep, &e, 1, 4000, 0));
        KICK(0, epoll_pwait2(ep, &e, 1, &ts, 0));
        section("send into a full buffer");
        static char big[4 << 20];
        setint(s, SOL_SOCKET, SO_RCVBUF, 30000);
        fill_up(c);
        if (!restart) { // under SA_RESTART this would wait for a reader
            KICK(0, cut_short(send(c, big, sizeof big, 0), sizeof big));
            KICK(0, cut_short(write(c, big, sizeof big), sizeof big));
        }
        tv.tv_sec = 3;
        setsockopt(c, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
        KICK(0, cut_short(send(c, big, sizeof big, 0), sizeof big));
        tv.tv_sec = 5;
        section("connect");
        struct sockaddr_in ba;
        int full = listener(0, &ba), f1 = dial(&ba), n = tcp();
        if (!restart) {
            KICK(0, connect(n, SA(&ba), sizeof ba));
            T(fcntl(n, F_SETFL, O_NONBLOCK));
            T(connect(n, SA(&ba), sizeof ba));
        }
        close(n), close(f1), close(full);
        n = tcp();
        full = listener(0, &ba), f1 = dial(&ba);
        setsockopt(n, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
        KICK(0, connect(n, SA(&ba), sizeof ba));
        close(n), close(f1), close(full);
        close(c), close(s), close(u), close(v), close(l), close(ep);
    }

    section("masks: a blocked signal comes in for the time of the call only");
    tcp_pair(&c, &s);
    sigset_t block, none, old;
    sigemptyset(&none), sigemptyset(&block), sigaddset(&block, SIGUSR1);
    install(0, on_usr1);
    pthread_sigmask(SIG_BLOCK, &block, &old);
    struct pollfd p = {s, POLLIN, 0};
    struct timespec ts = {0, 30000000}, zero = {0, 0};
    ep = epoll_create1(0);
    struct epoll_event e = {EPOLLIN, {0}};
    epoll_ctl(ep, EPOLL_CTL_ADD, s, &e);
    fd_set set;
    hits = 0;
    raise(SIGUSR1);
    T(ppoll(&p, 1, &ts, 0)), V(hits);
    T(ppoll(&p, 1, &ts, &block)), V(hits);
    T(ppoll(&p, 1, &ts, &none)), V(hits);
    raise(SIGUSR1);
    FD_ZERO(&set);
    FD_SET(s, &set);
    T(pselect(s + 1, &set, 0, 0, &ts, &block)), V(hits);
    FD_SET(s, &set);
    T(pselect(s + 1, &set, 0, 0, &ts, &none)), V(hits);
    raise(SIGUSR1);
    T(epoll_pwait(ep, &e, 1, 30, &block)), V(hits);
    T(epoll_pwait(ep, &e, 1, 30, &none)), V(hits);
    raise(SIGUSR1);
    T(epoll_pwait2(ep, &e, 1, &ts, &none)), V(hits);
    raise(SIGUSR1);
    sigset_t now;
    T(poll(&p, 1, 20)), V(hits);
    pthread_sigmask(SIG_BLOCK, 0, &now);
    V(sigismember(&now, SIGUSR1));
    section("with something ready the pending signal does not spoil the answer");
    T(send(c, "x", 1, 0));
    AW(s, POLLIN);
    T(ppoll(&p, 1, &ts, &none)), V(hits);
    T(ppoll(&p, 1, &zero, &none)), V(hits);
    recv(s, b, 1, 0);
    T(ppoll(&p, 1, &zero, &none)), V(hits);
    raise(SIGUSR1);
    T(epoll_pwait(ep, &e, 1, 0, &none)), V(hits);
    pthread_sigmask(SIG_SETMASK, &old, 0);
    V(hits);

    section("a handler that sends on the socket its thread waits for");
    install(SA_RESTART, on_send);
    for (int i = 0; i < 3; i++) {
        KICK(0, recv(s, b, 12, MSG_WAITALL));
        bytes("data", b, 12);
    }
    install(0, on_send);
    KICK(0, recv(s, b, 12, 0));
    RX(s, 16, 0);
    KICK(0, poll(&p, 1, 4000));
    RX(s, 16, 0);
    section("an ignored signal interrupts nothing");
    signal(SIGUSR1, SIG_IGN);
    what = 1;
    KICK(1, recv(s, b, 4, 0));
    KICK(1, poll(&p, 1, 4000));
    return 0;
}
