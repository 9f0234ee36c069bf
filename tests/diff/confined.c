// A process that confines itself (seccomp, RLIMIT_NOFILE) and goes on using its sockets, whoever is at the other end
// and however they wait; what it forbids itself it does not get; what it allows itself works.
#include "diff.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>

#if defined(__x86_64__)
#define MACHINE AUDIT_ARCH_X86_64
#else
#define MACHINE AUDIT_ARCH_AARCH64
#endif
#ifndef SECCOMP_FILTER_FLAG_TSYNC
#define SECCOMP_FILTER_FLAG_TSYNC 1
#endif

#define CALL(nr, verdict)                                                                          \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1), BPF_STMT(BPF_RET | BPF_K, verdict)
#define ALLOW(nr) CALL(nr, SECCOMP_RET_ALLOW)
#define REFUSE(nr, err) CALL(nr, SECCOMP_RET_ERRNO | err)
#define BEGIN                                                                                      \
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),                       \
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MACHINE, 1, 0),                                        \
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),                                       \
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))
#define OTHERS(verdict) BPF_STMT(BPF_RET | BPF_K, verdict)

// What sshd lets its process do before anybody has logged in, and calls on sockets.
static struct sock_filter narrow[] = {
    BEGIN,
    REFUSE(SYS_openat, EACCES),
    REFUSE(SYS_newfstatat, EACCES),
    REFUSE(SYS_fstat, EACCES),
    REFUSE(SYS_statx, EACCES),
    ALLOW(SYS_brk),
    ALLOW(SYS_clock_gettime),
    ALLOW(SYS_close),
    ALLOW(SYS_exit),
    ALLOW(SYS_exit_group),
    ALLOW(SYS_futex),
    ALLOW(SYS_getpid),
    ALLOW(SYS_gettid),
    ALLOW(SYS_mmap),
    ALLOW(SYS_munmap),
    ALLOW(SYS_mprotect),
    ALLOW(SYS_clock_nanosleep),
    ALLOW(SYS_nanosleep),
    ALLOW(SYS_ppoll),
    ALLOW(SYS_pselect6),
    ALLOW(SYS_read),
    ALLOW(SYS_write),
    ALLOW(SYS_rt_sigprocmask),
    ALLOW(SYS_rt_sigreturn),
    ALLOW(SYS_sendto),
    ALLOW(SYS_recvfrom),
    ALLOW(SYS_shutdown),
#ifdef SYS_poll
    ALLOW(SYS_poll),
    ALLOW(SYS_select),
    ALLOW(SYS_alarm),
#endif
    ALLOW(SYS_setitimer),
    // madvise(MADV_DONTNEED) only
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_madvise, 0, 4),
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MADV_DONTNEED, 0, 1),
    OTHERS(SECCOMP_RET_ALLOW),
    OTHERS(SECCOMP_RET_ERRNO | EINVAL),
    OTHERS(SECCOMP_RET_KILL_PROCESS),
};
static struct sock_filter wide[] = {BEGIN, REFUSE(SYS_mkdirat, ENOTTY),
#ifdef SYS_mkdir
                                    REFUSE(SYS_mkdir, ENOTTY),
#endif
                                    OTHERS(SECCOMP_RET_ALLOW)};
static struct sock_filter bare[] = {BEGIN,
                                    ALLOW(SYS_read),
                                    ALLOW(SYS_write),
                                    ALLOW(SYS_nanosleep),
                                    ALLOW(SYS_exit_group),
                                    ALLOW(SYS_rt_sigreturn),
                                    OTHERS(SECCOMP_RET_KILL_PROCESS)};
static struct sock_fprog bare_program = {sizeof bare / sizeof *bare, bare};
static struct sock_fprog narrow_program = {sizeof narrow / sizeof *narrow, narrow};
static struct sock_fprog wide_program = {sizeof wide / sizeof *wide, wide};

static void confine(struct sock_fprog* program, int descriptors) {
    struct rlimit few = {descriptors, descriptors};
    if (descriptors && setrlimit(RLIMIT_NOFILE, &few)) die("setrlimit");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) die("no_new_privs");
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program)) die("seccomp");
}

static unsigned char pattern(size_t i) { return i * 7 + i / 251; }

// Sends n bytes and reads them back, by a socket that does not block where `polled`.
static int exchange(int fd, size_t n, int polled) {
    size_t out = 0, in = 0;
    static unsigned char b[40000];
    while (in < n) {
        if (out < n) {
            size_t m = n - out < sizeof b ? n - out : sizeof b;
            for (size_t i = 0; i < m; i++) b[i] = pattern(out + i);
            ssize_t r = write(fd, b, m);
            if (r > 0)
                out += r;
            else if (errno != EAGAIN)
                return 1;
        }
        if (polled) poll1(fd, out < n ? POLLIN | POLLOUT : POLLIN, -1);
        size_t most = out < n && !polled ? (out - in < sizeof b ? out - in : sizeof b) : sizeof b;
        ssize_t r = read(fd, b, most);
        if (r == 0) return 2;
        if (r < 0 && errno != EAGAIN) return 3;
        for (ssize_t i = 0; i < r; i++)
            if (b[i] != pattern(in + i)) return 4;
        if (r > 0) in += r;
    }
    return 0;
}

enum { BLOCK, POLL_WITH_PIPE, EPOLL, WAYS };
static const char* const ways[] = {"blocks in read", "polls with a pipe",
                                   "waits in epoll with a pipe"};

// Echoes until the end, having waited before each read.
static void echo(int fd, int way) {
    static char b[30000];
    int never[2], ep = -1;
    pipe(never);
    if (way == EPOLL) {
        struct epoll_event e = {EPOLLIN, {.fd = fd}};
        ep = epoll_create1(0);
        epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
        e.data.fd = never[0];
        epoll_ctl(ep, EPOLL_CTL_ADD, never[0], &e);
    }
    for (;;) {
        if (way == POLL_WITH_PIPE) {
            struct pollfd p[2] = {{fd, POLLIN, 0}, {never[0], POLLIN, 0}};
            poll(p, 2, -1);
        } else if (way == EPOLL) {
            struct epoll_event e;
            epoll_wait(ep, &e, 1, -1);
        }
        ssize_t n = read(fd, b, sizeof b);
        if (n <= 0) break;
        for (ssize_t o = 0; o < n;) {
            ssize_t w = write(fd, b + o, n - o);
            if (w < 0) return;
            o += w;
        }
    }
    close(never[0]), close(never[1]);
    if (ep >= 0) close(ep);
}

static int ack_to;
static void on_usr1(int sig) {
    (void)sig;
    write(ack_to, "x", 1);
}

static void* echo_thread(void* fd) {
    echo((int)(long)fd, BLOCK);
    return 0;
}

int main(void) {
    diff_init();
    int c, s;
    pid_t p;
    for (int way = 0; way < WAYS; way++) {
        for (int polled = 0; polled < 2; polled++) {
            char what[120];
            sprintf(what, "hardly any calls and one descriptor, %s; the other %s",
                    polled ? "polls" : "blocks", ways[way]);
            section(what);
            tcp_pair(&c, &s);
            p = forked("child: ");
            if (p == 0) {
                close(s);
                nonblock(c, polled);
                confine(&narrow_program, 1);
                // Slowly at first, so that the other is asleep.
                for (int i = 0; i < 5; i++) {
                    nap(20);
                    Q(exchange(c, 100, polled));
                }
                V(exchange(c, 3 << 20, polled));
                T(open("/", O_RDONLY));
                T(shutdown(c, SHUT_WR));
                _exit(0);
            }
            close(c);
            echo(s, way);
            close(s);
            reap(p);
        }
    }

    section("the confined one sleeps on a pipe and a socket");
    {
        int pipes[2];
        char b[10];
        tcp_pair(&c, &s);
        pipe(pipes);
        p = forked("child: ");
        if (p == 0) {
            confine(&narrow_program, 60);
            for (int i = 0; i < 4; i++) {
                struct pollfd both[2] = {{c, POLLIN, 0}, {pipes[0], POLLIN, 0}};
                T(poll(both, 2, -1));
                say("%s %s", pbits(both[0].revents), pbits(both[1].revents));
                T(read(both[0].revents ? c : pipes[0], b, sizeof b));
            }
            T(poll1(c, POLLIN, 20));
            _exit(0);
        }
        for (int i = 0; i < 4; i++) nap(40), write(i % 2 ? s : pipes[1], "x", 1);
        reap(p);
        close(c), close(s), close(pipes[0]), close(pipes[1]);
    }

    section("it dies of what it may not do, and the other sees the end");
    tcp_pair(&c, &s);
    p = forked("child: ");
    if (p == 0) {
        close(s);
        confine(&narrow_program, 1);
        Q(write(c, "before", 6));
        getppid();
        say("not reached");
        _exit(0);
    }
    close(c);
    RX(s, 64, 0);
    reap(p);
    RX(s, 64, 0);
    close(s);

    section("it dies by SIGKILL while the other polls");
    tcp_pair(&c, &s);
    p = forked("child: ");
    if (p == 0) {
        close(s);
        confine(&narrow_program, 1);
        char b[10];
        read(c, b, sizeof b);
        _exit(0);
    }
    close(c);
    nap(50);
    kill(p, SIGKILL);
    AW(s, POLLIN);
    RX(s, 64, 0);
    reap(p);
    close(s);

    section("a filter that forbids one thing: everything else, new sockets too");
    p = forked("child: ");
    if (p == 0) {
        confine(&wide_program, 0);
        T(mkdir("/nowhere/at/all", 0700));
        tcp_pair(&c, &s);
        pid_t q = forked("grandchild: ");
        if (q == 0) {
            close(c);
            echo(s, POLL_WITH_PIPE);
            _exit(0);
        }
        close(s);
        V(exchange(c, 1 << 20, 0));
        close(c);
        reap(q);
        _exit(0);
    }
    reap(p);

    section("two filters, the second by syscall, for a process with threads");
    p = forked("child: ");
    if (p == 0) {
        pthread_t t;
        tcp_pair(&c, &s);
        pthread_create(&t, 0, echo_thread, (void*)(long)s);
        T(exchange(c, 1000, 0));
        confine(&wide_program, 0);
        T(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC,
                  &narrow_program));
        V(exchange(c, 1 << 20, 0));
        T(open("/", O_RDONLY));
        T(shutdown(c, SHUT_WR));
        Q(pthread_join(t, 0));
        _exit(0);
    }
    reap(p);

    section("handlers, while it is at its sockets all the time");
    {
        struct sigaction a = {.sa_handler = on_usr1};
        int acks[2];
        char b;
        pipe(acks);
        ack_to = acks[1];
        sigaction(SIGUSR1, &a, 0);
        tcp_pair(&c, &s);
        p = forked("child: ");
        if (p == 0) {
            struct sockaddr_in x;
            int one = udp(&x), two = udp(0);
            connect(two, SA(&x), sizeof x);
            confine(&narrow_program, 1);
            on_usr1(0);
            for (;;) write(two, "x", 1), read(one, &b, 1);
        }
        read(acks[0], &b, 1);
        int handled = 0;
        for (int i = 0; i < 400; i++) kill(p, SIGUSR1), handled += read(acks[0], &b, 1) == 1;
        V(handled);
        kill(p, SIGKILL);
        reap(p);
        close(c), close(s), close(acks[0]), close(acks[1]);
    }

    section("what is refused leaves nothing behind");
    T(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, NULL));
    T(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 1 << 30, &narrow_program));
    {
        struct sock_filter endless[] = {BPF_STMT(BPF_JMP | BPF_JA, 1000)};
        struct sock_fprog bad = {1, endless}, empty = {0, endless}, nowhere = {5, NULL};
        T(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        T(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &bad));
        T(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &empty));
        T(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &nowhere));
    }
    tcp_pair(&c, &s);
    p = forked("child: ");
    if (p == 0) {
        close(c);
        echo(s, EPOLL);
        _exit(0);
    }
    close(s);
    V(exchange(c, 100000, 0));
    close(c);
    reap(p);

    for (int way = 0; way < WAYS; way++) {
        char what[120];
        sprintf(what, "without futexes, or anything but read and write; the other %s", ways[way]);
        section(what);
        tcp_pair(&c, &s);
        p = forked("child: ");
        if (p == 0) {
            close(s);
            confine(&bare_program, 0);
            V(exchange(c, 1 << 20, 0));
            _exit(0);
        }
        close(c);
        echo(s, way);
        close(s);
        reap(p);
    }
    return 0;
}
