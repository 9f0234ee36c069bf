// Closing everything, as daemons do: by loop, close_range in all its forms, closefrom, in the process itself, in
// forked and in vfork children; and limits on descriptors raised, lowered, and lowered below what is open.
#include "diff.h"
#include <dirent.h>
#include <linux/close_range.h>
#include <sched.h>

static int c, s, u, l, ep;
static struct sockaddr_in la, ua;

static void fresh(void) {
    tcp_pair(&c, &s);
    u = udp(&ua);
    l = listener(4, &la);
    ep = epoll_create1(0);
    struct epoll_event e = {EPOLLIN, {.u64 = 1}};
    epoll_ctl(ep, EPOLL_CTL_ADD, s, &e);
}
static void done(void) { close(c), close(s), close(u), close(l), close(ep); }

// Everything that the process has open works.
static void works(void) {
    Q(send(c, "x", 1, 0));
    struct epoll_event e;
    T(epoll_wait(ep, &e, 1, 3000));
    RX(s, 4, 0);
    Q(sendto(u, "y", 1, 0, SA(&ua), sizeof ua));
    RX(u, 4, 0);
    int d = dial(&la), a = accept(l, 0, 0);
    Q(send(d, "z", 1, 0));
    RX(a, 4, 0);
    close(d), close(a);
}
static void gone(void) {
    T(send(c, "x", 1, 0)), T(recv(s, 0, 0, 0)), T(fcntl(u, F_GETFD)), T(listen(l, 1)),
        T(epoll_wait(ep, 0, 1, 0));
}

static void by_loop(void) {
    for (int i = 3; i < 1024; i++) close(i);
}
static void by_syscall_loop(void) {
    for (int i = 3; i < 1024; i++) syscall(SYS_close, i);
}
static void by_range(void) { close_range(3, ~0u, 0); }
static void by_range_unshare(void) { close_range(3, ~0u, CLOSE_RANGE_UNSHARE); }
static void by_syscall_range(void) { syscall(SYS_close_range, 3, ~0u, 0); }
static void by_closefrom(void) { closefrom(3); }
static void by_directory(void) {
    DIR* d = opendir("/proc/self/fd");
    for (struct dirent* e; (e = readdir(d));) {
        int fd = atoi(e->d_name);
        if (fd > 2 && fd != dirfd(d)) close(fd);
    }
    closedir(d);
}
static const struct {
    const char* name;
    void (*close_all)(void);
} ways[] = {{"a loop", by_loop},
            {"a loop of syscall()", by_syscall_loop},
            {"close_range", by_range},
            {"close_range unsharing", by_range_unshare},
            {"syscall(SYS_close_range)", by_syscall_range},
            {"closefrom", by_closefrom},
            {"/proc/self/fd", by_directory}};
enum { number_of_ways = sizeof ways / sizeof *ways };

// In a child: the parent's stay, the child's are gone, and it can make new ones.
static void in_child(void) {
    for (int w = 0; w < number_of_ways; w++) {
        char title[64];
        snprintf(title, sizeof title, "a forked child: %s", ways[w].name);
        section(title);
        fresh();
        pid_t p = forked("child: ");
        if (p == 0) {
            ways[w].close_all();
            gone();
            fresh();
            works();
            _exit(0);
        }
        reap(p);
        works();
        done();
    }
}

// Only what a vfork child may do. The parent must notice nothing.
static void in_vfork_child(void) {
    for (volatile int w = 0; w < number_of_ways; w++) {
        if (ways[w].close_all == by_directory) continue; // needs memory of its own
        char title[64];
        snprintf(title, sizeof title, "a vfork child: %s", ways[w].name);
        section(title);
        fresh();
        volatile int left = -1;
        pid_t p = vfork();
        if (p == 0) {
            ways[w].close_all();
            left = (fcntl(c, F_GETFD) >= 0) + (fcntl(u, F_GETFD) >= 0) + (fcntl(ep, F_GETFD) >= 0);
            execl("/bin/true", "true", (char*)0);
            _exit(1);
        }
        reap(p);
        V(left);
        works();
        done();
    }
    section("a vfork child that keeps one and closes the rest");
    fresh();
    pid_t p = vfork();
    if (p == 0) {
        dup2(s, 1);
        close_range(3, ~0u, 0);
        execl("/bin/echo", "echo", "kept", (char*)0);
        _exit(1);
    }
    reap(p);
    RX(c, 16, 0);
    works();
    done();
}

static void cloexec_range(void) {
    section("close_range with CLOEXEC, and what is left after exec");
    fresh();
    fcntl(s, F_SETFD, 0);
    T(close_range(3, ~0u, CLOSE_RANGE_CLOEXEC));
    V(fcntl(c, F_GETFD)), V(fcntl(s, F_GETFD)), V(fcntl(ep, F_GETFD));
    works();
    T(close_range(s, s, CLOSE_RANGE_CLOEXEC | CLOSE_RANGE_UNSHARE)), T(close_range(5, 4, 0)),
        T(close_range(3, 4, 0x100));
    int kept = dup2(s, 9);
    pid_t p = fork();
    if (p == 0) {
        char cmd[100];
        snprintf(cmd, sizeof cmd, "(echo held >&9); (echo no >&%d) 2>/dev/null || echo closed >&9",
                 c < 10 ? c : 3);
        execl("/bin/sh", "sh", "-c", cmd, (char*)0);
        _exit(127);
    }
    reap(p);
    RX(c, 12, MSG_WAITALL);
    close(kept);
    done();
    section("a thread with a table of its own");
    fresh();
    T(unshare(CLONE_FILES)); // alone: nothing changes
    works();
    T(syscall(SYS_unshare, CLONE_FILES));
    works();
    done();
}

static rlim_t limit(rlim_t n) {
    struct rlimit r;
    getrlimit(RLIMIT_NOFILE, &r);
    rlim_t was = r.rlim_cur;
    r.rlim_cur = n;
    if (setrlimit(RLIMIT_NOFILE, &r)) die("setrlimit");
    return was;
}

static void limits(void) {
    int extra[512], n = 0;
    section("a lowered limit: EMFILE at the same number");
    fresh();
    rlim_t was = limit(40);
    while (n < 512 && (extra[n] = socket(AF_INET, SOCK_STREAM, 0)) >= 0) n++;
    V(extra[n - 1]);
    T(socket(AF_INET, SOCK_DGRAM, 0)), T(dup(s)), T(fcntl(s, F_DUPFD, 0)), T(fcntl(s, F_DUPFD, 40)),
        T(dup2(s, 40)), T(dup3(s, 39, O_CLOEXEC) == 39), T(epoll_create1(0));
    int d = extra[--n];
    close(d);
    Q(connect(extra[0], SA(&la), sizeof la));
    T(accept(l, 0, 0) == d);
    Q(connect(extra[1], SA(&la), sizeof la));
    T(accept(l, 0, 0));
    close(d);
    T(accept(l, 0, 0) == d); // the one that could not be had before is still there
    close(d);
    while (n > 0) close(extra[--n]);
    works();
    section("a limit below what is open");
    int hi = fcntl(s, F_DUPFD, 30), hi_u = fcntl(u, F_DUPFD, 31), hi_ep = fcntl(ep, F_DUPFD, 32);
    limit(20);
    T(send(hi, "high", 4, 0));
    RX(c, 8, 0);
    T(sendto(hi_u, "hu", 2, 0, SA(&ua), sizeof ua));
    RX(hi_u, 8, 0);
    T(dup2(s, hi)), T(dup2(hi, s) == s), V(fcntl(hi, F_GETFD));
    struct epoll_event e = {EPOLLIN, {.u64 = 3}};
    T(epoll_ctl(hi_ep, EPOLL_CTL_ADD, hi, &e));
    Q(send(c, "in", 2, 0));
    T(epoll_wait(hi_ep, &e, 1, 3000));
    struct pollfd pf[2] = {{hi, POLLIN, 0}, {hi_u, POLLIN, 0}};
    T(poll(pf, 2, 3000)), V(pf[0].revents), V(pf[1].revents);
    RX(hi, 8, 0);
    pid_t p = forked("child: ");
    if (p == 0) {
        T(send(hi, "child", 5, 0));
        T(close(hi)), T(close_range(3, ~0u, 0));
        _exit(0);
    }
    reap(p);
    RX(c, 8, 0);
    T(close(hi)), T(close(hi_u)), T(close(hi_ep));
    limit(0);
    T(socket(AF_INET, SOCK_STREAM, 0)), T(send(s, "none", 4, 0));
    RX(c, 8, 0);
    T(poll(pf, 0, 0)), T(poll(pf, 1, 0));
    limit(was);
    works();
    done();
    section("a raised limit");
    struct rlimit r;
    getrlimit(RLIMIT_NOFILE, &r);
    if (r.rlim_max < 5000) return;
    fresh();
    limit(5000);
    int far = fcntl(s, F_DUPFD, 4990), far2 = dup2(u, 4999);
    V(far), V(far2);
    T(dup2(s, 5000));
    T(send(far, "far", 3, 0));
    RX(c, 8, 0);
    T(sendto(far2, "uf", 2, 0, SA(&ua), sizeof ua));
    RX(far2, 8, 0);
    p = forked("child: ");
    if (p == 0) {
        T(send(far, "far child", 9, 0));
        closefrom(3);
        T(send(far, "x", 1, 0));
        _exit(0);
    }
    reap(p);
    RX(c, 16, 0);
    closefrom(4000);
    T(send(far, "x", 1, 0));
    works();
    done();
    limit(was);
}

static void daemons(void) {
    section("close everything twice, fork twice, and serve");
    int g[2];
    pipe(g);
    pid_t p = fork();
    if (p == 0) {
        for (int i = 3; i < 1024; i++)
            if (i != g[1]) close(i);
        if (fork()) _exit(0);
        setsid();
        if (fork()) _exit(0);
        closefrom(g[1] + 1);
        alarm(8);
        struct sockaddr_in a;
        int k = listener(4, &a);
        write(g[1], &a, sizeof a);
        int x = accept(k, 0, 0);
        send(x, "served", 6, 0);
        _exit(0);
    }
    reap(p);
    struct sockaddr_in a;
    T(read(g[0], &a, sizeof a));
    int d = dial(&a);
    RX(d, 16, 0), RX(d, 16, 0);
    close(d), close(g[0]), close(g[1]);
    section("everything, here: and 0, 1, 2 become sockets");
    fresh();
    int out = fcntl(1, F_DUPFD_CLOEXEC, 100);
    close_range(0, 2, 0);
    int v[3];
    for (int i = 0; i < 3; i++) v[i] = tcp();
    int ok = v[0] == 0 && v[1] == 1 && v[2] == 2, con = connect(0, SA(&la), sizeof la);
    int a0 = accept(l, 0, 0);
    ok += send(0, "on zero", 7, 0) == 7 && con == 0;
    for (int i = 0; i < 3; i++) dup2(out, i);
    V(ok);
    RX(a0, 16, 0), RX(a0, 16, 0);
    close(a0);
    works();
    by_loop();
    gone();
    fresh();
    works();
}

int main(void) {
    diff_init();
    need_descriptors(1024);
    in_child();
    in_vfork_child();
    cloexec_range();
    limits();
    daemons();
    return 0;
}
