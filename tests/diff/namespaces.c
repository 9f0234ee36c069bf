// Other namespaces: what was made before goes on where it is, what is made after is of the new one. Sockets across pid
// namespaces, whose processes cannot ask after each other.
#include "diff.h"
#include <sched.h>

static int c, s, l, home;
static struct sockaddr_in la;

static void lo_up(void) {
    struct ifreq r;
    memset(&r, 0, sizeof r);
    strcpy(r.ifr_name, "lo");
    r.ifr_flags = IFF_UP | IFF_RUNNING | IFF_LOOPBACK;
    int k = sock(SOCK_DGRAM);
    T(ioctl(k, SIOCSIFFLAGS, &r));
    close(k);
}
static const char* reached(const struct sockaddr_in* a) {
    int k = tcp();
    const char* r = connect(k, SA(a), sizeof *a) == 0 ? "yes" : en(errno);
    close(k);
    return r;
}
// The connections that the above made.
static int drain(int k) {
    int n = 0;
    nonblock(k, 1);
    for (int a; (a = accept(k, 0, 0)) >= 0; close(a)) n++;
    nonblock(k, 0);
    return n;
}
static void exchange(int a, int b) {
    Q(send(a, "there", 5, 0));
    RX(b, 8, 0);
    Q(send(b, "and back", 8, 0));
    RX(a, 8, 0);
}

static void* elsewhere(void* arg) {
    gate* g = arg;
    diff_who = "thread: ";
    T(unshare(CLONE_NEWNET));
    say("reaches home: %s", reached(&la));
    exchange(c, s);
    diff_who = "";
    gate_open(g[0]), gate_wait(g[1]);
    int k = tcp();
    T(setns(home, CLONE_NEWNET)); // the socket is of the other one
    int r = connect(k, SA(&la), sizeof la);
    say("thread: a socket of the other namespace: %s", r ? en(errno) : "connected");
    say("thread: a new one: %s", reached(&la));
    close(k);
    return 0;
}

static int in_new_net(void* arg) {
    (void)arg;
    diff_who = "clone: ";
    alarm(8);
    say("reaches home: %s", reached(&la));
    exchange(c, s);
    _exit(0);
}

static void network(void) {
    static char stack[65536] __attribute__((aligned(16)));
    pid_t p;
    section("a child in a network namespace of its own");
    p = forked("child: ");
    if (p == 0) {
        T(unshare(CLONE_NEWNET));
        say("lo is down: %s", reached(&la));
        lo_up();
        say("up, and nobody there: %s", reached(&la));
        exchange(c, s);
        int k = tcp();
        T(setint(k, SOL_SOCKET, SO_REUSEADDR, 1)), T(bind(k, SA(&la), sizeof la)), T(listen(k, 4));
        say("its own listener at the same port: %s", reached(&la));
        V(drain(k));
        int d = dial(&la), a = accept(k, 0, 0);
        exchange(d, a);
        int u = udp(0);
        T(send(u, "x", 1, 0));
        int e = epoll_create1(0);
        struct epoll_event ev = {EPOLLIN, {.u64 = 1}};
        T(epoll_ctl(e, EPOLL_CTL_ADD, a, &ev));
        ev.data.u64 = 2;
        T(epoll_ctl(e, EPOLL_CTL_ADD, s, &ev)); // of the former one, in one set
        T(send(c, "1", 1, 0)), T(send(d, "2", 1, 0));
        AW(s, POLLIN), AW(a, POLLIN);
        struct epoll_event got[4];
        T(epoll_wait(e, got, 4, 3000));
        T(setns(home, CLONE_NEWNET));
        say("back at home: %s", reached(&la));
        exchange(d, a);
        say("a listener of home has the port: %d %s", bind(tcp(), SA(&la), sizeof la), en(errno));
        _exit(0);
    }
    reap(p);
    drain(l);
    say("meanwhile at home: %s", reached(&la));
    V(drain(l));
    recv(s, stack, 1, MSG_DONTWAIT);
    section("by syscall(), and by what a descriptor says");
    p = forked("child: ");
    if (p == 0) {
        T(syscall(SYS_unshare, CLONE_NEWNET));
        say("reaches home: %s", reached(&la));
        T(syscall(SYS_setns, home, 0));
        say("reaches home: %s", reached(&la));
        T(setns(home, 0)), T(setns(home, CLONE_NEWUTS)), T(setns(999, 0)), T(unshare(0)),
            T(unshare(-1));
        _exit(0);
    }
    reap(p);
    section("a clone in one");
    p = clone(in_new_net, stack + sizeof stack, CLONE_NEWNET | SIGCHLD, 0);
    reap(p);
    p = syscall(SYS_clone, CLONE_NEWNET | SIGCHLD, 0, 0, 0, 0);
    if (p == 0) in_new_net(0);
    reap(p);
    say("at home: %s", reached(&la));
    V(drain(l));
    section("a thread in one, the others not");
    p = forked("child: ");
    if (p == 0) {
        gate g[2] = {gate_new(), gate_new()};
        pthread_t t = spawn_thread(elsewhere, g);
        gate_wait(g[0]);
        say("the main thread reaches: %s", reached(&la));
        gate_open(g[1]);
        pthread_join(t, 0);
        _exit(0);
    }
    reap(p);
    section("a program that is executed there");
    p = forked("child: ");
    if (p == 0) {
        char cmd[100];
        T(unshare(CLONE_NEWNET));
        snprintf(cmd, sizeof cmd, "(exec 3<>/dev/tcp/127.0.0.1/%d) 2>/dev/null",
                 ntohs(la.sin_port));
        execl("/bin/bash", "bash", "-c", cmd, (char*)0);
        _exit(99);
    }
    int st;
    waitpid(p, &st, 0);
    V(WEXITSTATUS(st) != 0);
}

static int in_new_pids(void* arg) {
    (void)arg;
    diff_who = "inner: ";
    alarm(8);
    T(getpid());
    exchange(c, s);
    say("reaches home: %s", reached(&la));
    V(drain(l));
    int d = dup(s);
    close(s);
    exchange(c, d);
    pid_t p = fork();
    if (p == 0) {
        diff_who = "innermost: ";
        T(getpid());
        exchange(c, d);
        int x = dial(&la);
        Q(send(x, "from the innermost", 18, 0));
        nap(20);
        _exit(0);
    }
    reap(p);
    int a = accept(l, 0, 0);
    RX(a, 32, 0), RX(a, 32, 0);
    struct sockaddr_in own;
    int k = listener(2, &own), x = dial(&own), y = accept(k, 0, 0);
    exchange(x, y);
    close(x);
    RX(y, 4, 0);
    _exit(0);
}

static void pids(void) {
    static char stack[65536] __attribute__((aligned(16)));
    drain(l);
    section("a clone in a pid namespace of its own");
    pid_t p = clone(in_new_pids, stack + sizeof stack, CLONE_NEWPID | SIGCHLD, 0);
    reap(p);
    exchange(c, s);
    section("a fork after unshare");
    p = forked("outer: ");
    if (p == 0) {
        T(unshare(CLONE_NEWPID));
        pid_t q = fork();
        if (q == 0) in_new_pids(0);
        reap(q);
        exchange(c, s);
        _exit(0);
    }
    reap(p);
    section("killed in there: its sockets close");
    for (int i = 0; i < 3; i++) {
        gate g = gate_new();
        int x, y;
        struct sockaddr_in own;
        int k = listener(4, &own);
        tcp_pair(&x, &y);
        p = syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0);
        if (p == 0) {
            close(x);
            int mine = dial(&own);
            Q(send(mine, "mine", 4, 0)), Q(send(y, "y", 1, 0));
            gate_open(g);
            for (;;) recv(y, stack, 100, 0);
        }
        close(y);
        gate_wait(g);
        int a = accept(k, 0, 0);
        RX(a, 8, 0), RX(x, 8, 0);
        kill(p, SIGKILL);
        reap(p);
        AW(a, POLLIN), AW(x, POLLIN);
        RX(a, 8, 0), RX(x, 8, 0);
        close(a), close(x), close(k);
    }
    section("the rest is well");
    exchange(c, s);
    say("at home: %s", reached(&la));
    V(drain(l));
}

static void users(void) {
    section("a user namespace of its own, single-threaded as it must be");
    pid_t p = forked("child: ");
    if (p == 0) {
        int r = unshare(CLONE_NEWUSER | CLONE_NEWNET);
        if (r < 0 && errno != EINVAL) {
            say("0");
            _exit(0);
        }
        say("%d", r);
        exchange(c, s);
        _exit(0);
    }
    reap(p);
    exchange(c, s);
    section("a mount namespace, and back");
    p = forked("child: ");
    if (p == 0) {
        int mnt = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
        T(unshare(CLONE_NEWNS)), T(setns(mnt, CLONE_NEWNS)), T(unshare(CLONE_FS | CLONE_FILES)),
            T(unshare(CLONE_NEWUTS | CLONE_NEWIPC));
        exchange(c, s);
        say("at home: %s", reached(&la));
        _exit(0);
    }
    reap(p);
}

int main(void) {
    diff_init();
    home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    pid_t p = fork();
    if (p == 0) _exit(unshare(CLONE_NEWNET | CLONE_NEWPID) < 0);
    int st;
    waitpid(p, &st, 0);
    if (st) {
        say("no new namespaces here");
        return 77;
    }
    tcp_pair(&c, &s);
    l = listener(16, &la);
    network();
    pids();
    users();
    return 0;
}
