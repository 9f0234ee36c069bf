// System calls by instruction, as a program makes them that uses no libc for it. Passes natively, under the
// shim (where they are the kernel's), and with SOCKSHIM_CATCH=1, where they reach the shim.
#include "inline_call.h"
#include "test.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <sched.h>
#include <setjmp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/time.h>

#if !defined(__x86_64__)
int main(void) {
    printf("x86_64 only\n");
    return 77;
}
#else

#define IN(nr, ...) inline_call(nr, (long[6]){__VA_ARGS__})
#define P(p) ((long)(p))

static int caught; // SOCKSHIM_CATCH is in force

// A descriptor of the kernel's says so in /proc.
static void expect_ours(int fd) {
    char path[32], to[256] = "";
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    CHECK(IN(SYS_readlink, P(path), P(to), sizeof to - 1) > 0);
    CHECK(!strncmp(to, "socket:[", 8) == !caught);
}

static struct sockaddr_in loopback(int port) {
    const struct sockaddr_in a = {.sin_family = AF_INET,
                                  .sin_port = (in_port_t)port,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    return a;
}

static int inline_socket(int type) {
    const int fd = (int)IN(SYS_socket, AF_INET, type, 0);
    CHECK(fd >= 0);
    expect_ours(fd);
    return fd;
}

// libc's functions on the other side, in another process. What natively is the kernel's on one side and the
// kernel's on the other is ours on both when caught.
static void streams(void) {
    struct sockaddr_in a = loopback(0);
    socklen_t n = sizeof a;
    const int l =
        caught ? socket(AF_INET, SOCK_STREAM, 0) : (int)IN(SYS_socket, AF_INET, SOCK_STREAM, 0);
    CHECK(caught ? bind(l, (void*)&a, n) == 0 && listen(l, 5) == 0 &&
                       getsockname(l, (void*)&a, &n) == 0
                 : IN(SYS_bind, l, P(&a), n) == 0 && IN(SYS_listen, l, 5) == 0 &&
                       IN(SYS_getsockname, l, P(&a), P(&n)) == 0);
    const pid_t pid = fork();
    if (pid == 0) {
        char buffer[16];
        const int s = caught ? accept(l, NULL, NULL) : (int)IN(SYS_accept, l, 0, 0);
        const ssize_t got = caught ? recv(s, buffer, 5, MSG_WAITALL)
                                   : IN(SYS_recvfrom, s, P(buffer), 5, MSG_WAITALL, 0, 0);
        if (got != 5 || memcmp(buffer, "hello", 5)) _exit(1);
        _exit((caught ? send(s, "world", 5, 0) : IN(SYS_sendto, s, P("world"), 5, 0, 0, 0)) != 5);
    }
    const int c = inline_socket(SOCK_STREAM);
    char buffer[16] = "";
    CHECK(IN(SYS_connect, c, P(&a), sizeof a) == 0);
    CHECK(IN(SYS_write, c, P("hello"), 5) == 5);
    struct pollfd wait = {.fd = c, .events = POLLIN};
    CHECK(IN(SYS_poll, P(&wait), 1, 20000) == 1 && wait.revents & POLLIN);
    CHECK(IN(SYS_read, c, P(buffer), sizeof buffer) == 5 && !memcmp(buffer, "world", 5));
    CHECK(exit_status_of(pid) == 0);
    CHECK(IN(SYS_read, c, P(buffer), sizeof buffer) == 0);
    CHECK(IN(SYS_close, c) == 0 && IN(SYS_close, c) == -EBADF);
    CHECK(IN(SYS_close, l) == 0);
}

static void datagrams(void) {
    const int s = inline_socket(SOCK_DGRAM);
    struct sockaddr_in a = loopback(0), from;
    socklen_t n = sizeof a;
    char buffer[16];
    CHECK(IN(SYS_bind, s, P(&a), sizeof a) == 0 && IN(SYS_getsockname, s, P(&a), P(&n)) == 0);
    CHECK(IN(SYS_recvfrom, s, P(buffer), 16, MSG_DONTWAIT, 0, 0) == -EAGAIN);
    CHECK(IN(SYS_sendto, s, P("abc"), 3, 0, P(&a), sizeof a) == 3);
    CHECK(IN(SYS_recvfrom, s, P(buffer), 16, 0, P(&from), P(&n)) == 3 &&
          from.sin_port == a.sin_port);
    CHECK(IN(SYS_sendto, s, 8, 3, 0, P(&a), sizeof a) == -EFAULT);
    const int u = inline_socket(SOCK_DGRAM); // not bound: that would be the kernel's too
    const int t = (int)IN(SYS_fcntl, u, F_DUPFD_CLOEXEC, 30);
    expect_ours(t);
    CHECK(IN(SYS_close, s) == 0 && IN(SYS_close, t) == 0 && IN(SYS_close, u) == 0);
}

// What is no business of ours is as it was; errno is nobody's.
static void others(void) {
    int p[2];
    char c = 0;
    errno = 4321;
    CHECK(IN(SYS_getpid) == getpid() && IN(SYS_getppid) == getppid());
    CHECK(IN(SYS_pipe2, P(p), O_CLOEXEC) == 0);
    CHECK(IN(SYS_write, p[1], P("x"), 1) == 1 && IN(SYS_read, p[0], P(&c), 1) == 1 && c == 'x');
    CHECK(IN(SYS_close, p[0]) == 0 && IN(SYS_close, p[1]) == 0);
    CHECK(IN(SYS_open, P("/no/such"), O_RDONLY) == -ENOENT);
    CHECK(IN(SYS_write, -1, P("x"), 1) == -EBADF);
    const long m =
        IN(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(m > 0 && (*(char*)m = 1) && IN(SYS_munmap, m, 4096) == 0);
    CHECK(errno == 4321);
    if (caught) CHECK(IN(SYS_io_uring_setup, 1, 0) == -ENOSYS);
}

static volatile int handled;
static void on_signal(int sig) {
    (void)sig;
    handled += IN(SYS_getpid) == getpid();
}

struct raw_action {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)(void);
    unsigned long mask;
};
void my_restorer(void);
__asm__("my_restorer: movl $15, %eax; syscall");

static void signals(void) {
    struct sigaction act = {.sa_handler = on_signal};
    sigset_t all, before, none;
    sigfillset(&all);
    sigfillset(&act.sa_mask);
    sigemptyset(&none);
    handled = 0;
    CHECK(sigaction(SIGUSR1, &act, NULL) == 0);
    raise(SIGUSR1);
    CHECK(handled == 1);
    // With everything blocked.
    CHECK(pthread_sigmask(SIG_SETMASK, &all, &before) == 0);
    CHECK(IN(SYS_getpid) == getpid());
    raise(SIGUSR1);
    CHECK(handled == 1);
    sigset_t but = all;
    sigdelset(&but, SIGUSR1);
    CHECK_ERRNO(sigsuspend(&but), EINTR);
    CHECK(handled == 2);
    CHECK(sigprocmask(SIG_SETMASK, &before, NULL) == 0);
    // By instruction: the mask is the program's, not that of a handler of ours.
    unsigned long mask = ~0ul, old = 1;
    CHECK(IN(SYS_rt_sigprocmask, SIG_SETMASK, P(&mask), P(&old), 8) == 0 && old == 0);
    CHECK(IN(SYS_tgkill, getpid(), IN(SYS_gettid), SIGUSR1) == 0 && handled == 2);
    CHECK(IN(SYS_rt_sigprocmask, SIG_SETMASK, P(&old), P(&mask), 8) == 0);
    CHECK(mask & (1ul << (SIGUSR1 - 1)) && handled == 3);
    CHECK(IN(SYS_rt_sigprocmask, 17, P(&old), 0, 8) == -EINVAL);
    // A frame that is left by the program's own instruction.
    const struct raw_action raw = {on_signal, 0x04000000, my_restorer, 0};
    CHECK(IN(SYS_rt_sigaction, SIGUSR2, P(&raw), 0, 8) == 0);
    CHECK(IN(SYS_kill, getpid(), SIGUSR2) == 0 && handled == 4);
    // SIGSYS is the program's as well.
    CHECK(signal(SIGSYS, on_signal) == SIG_DFL);
    raise(SIGSYS);
    CHECK(handled == 5 && IN(SYS_getpid) == getpid());
    CHECK(signal(SIGSYS, SIG_IGN) == on_signal);
    raise(SIGSYS);
    CHECK(IN(SYS_getpid) == getpid() && signal(SIGSYS, SIG_DFL) == SIG_IGN);
}

static sigjmp_buf away;
static void leave(int sig) {
    (void)sig;
    siglongjmp(away, 1);
}

// Signals at any instant of caught calls; a handler that does not come back.
static void interrupted(void) {
    const int s = inline_socket(SOCK_DGRAM);
    struct sockaddr_in a = loopback(0);
    socklen_t n = sizeof a;
    char c;
    CHECK(IN(SYS_bind, s, P(&a), sizeof a) == 0 && IN(SYS_getsockname, s, P(&a), P(&n)) == 0);
    struct sigaction act = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &act, NULL);
    const struct itimerval often = {{0, 150}, {0, 150}}, never = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &often, NULL);
    for (int i = 0; i < 5000; ++i) {
        CHECK(IN(SYS_getpid) == getpid());
        CHECK(IN(SYS_sendto, s, P("abc"), 3, 0, P(&a), sizeof a) == 3);
        CHECK(IN(SYS_recvfrom, s, P(&c), 1, 0, 0, 0) == 1 && c == 'a');
    }
    for (int i = 0; i < 20; ++i) {
        const pid_t pid = (pid_t)IN(SYS_fork);
        if (pid == 0) IN(SYS_exit_group, IN(SYS_getpid) == getppid());
        CHECK(exit_status_of(pid) == 0);
    }
    setitimer(ITIMER_REAL, &never, NULL);
    act.sa_handler = leave;
    act.sa_flags = 0;
    sigaction(SIGALRM, &act, NULL);
    const struct itimerval soon = {{0, 0}, {0, 2000}};
    for (volatile int i = 0; i < 20; ++i) {
        if (sigsetjmp(away, 1) == 0) {
            setitimer(ITIMER_REAL, &soon, NULL);
            IN(SYS_recvfrom, s, P(&c), 1, 0, 0, 0);
            CHECK(!"comes back");
        }
    }
    CHECK(IN(SYS_close, s) == 0);
}

static volatile long trapped;
static void on_trap(int sig, siginfo_t* info, void* context) {
    (void)sig;
    (void)context;
    trapped = info->si_code == 1 ? info->si_syscall : -1; // SYS_SECCOMP
}

static int with_seccomp(void) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpriority, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {4, filter};
    const struct sigaction act = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
    sigaction(SIGSYS, &act, NULL);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        return 2;
    IN(SYS_getpriority, 0, 0);
    return trapped != SYS_getpriority || IN(SYS_getpid) != getpid();
}

static void* in_thread(void* arg) {
    (void)arg;
    others();
    datagrams();
    return NULL;
}

static int cloned(void* arg) {
    *(volatile int*)arg = (int)IN(SYS_getpid);
    return 0;
}

static __attribute__((noinline)) long inline_vfork(const char* self) {
    char* argv[] = {"catch", "again", NULL};
    const long pid = IN(SYS_vfork);
    if (pid == 0) {
        extern char** environ;
        IN(SYS_close, 0);
        IN(SYS_execve, P(self), P(argv), P(environ));
        IN(SYS_exit_group, 9);
    }
    return pid;
}

static volatile int from_child;
static char stack[65536] __attribute__((aligned(16)));

// A thread without libc: the child's first act is to leave its mark.
static long raw_clone(void) {
    long r;
    void* const top = stack + sizeof stack;
    __asm__ volatile(
        "syscall\n\ttest %%eax, %%eax\n\tjnz 1f\n\t"
        "movl $1, %4\n\tmovl $60, %%eax\n\txorl %%edi, %%edi\n\tsyscall\n1:"
        : "=a"(r)
        : "a"(SYS_clone),
          "D"((long)(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD)), "S"(top),
          "m"(from_child), "d"(0)
        : "rcx", "r11", "memory");
    return r;
}

static void processes(const char* self) {
    pid_t pid = (pid_t)IN(SYS_fork);
    if (pid == 0) {
        datagrams();
        IN(SYS_exit_group, failures);
    }
    CHECK(pid > 0 && exit_status_of(pid) == 0);
    pid = fork();
    if (pid == 0) {
        datagrams();
        _exit(failures);
    }
    CHECK(exit_status_of(pid) == 0);
    for (int i = 0; i < 20; ++i) {
        pid = (pid_t)inline_vfork(self);
        CHECK(pid > 0 && exit_status_of(pid) == 0);
    }
    datagrams();
    CHECK(fcntl(0, F_GETFD) >= 0);
    volatile int child_pid = 0;
    pid = clone(cloned, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, (void*)&child_pid);
    CHECK(exit_status_of(pid) == 0 && child_pid == pid);
    CHECK(raw_clone() > 0);
    for (int i = 0; i < 20000 && !from_child; ++i) usleep(1000);
    CHECK(from_child);
    pthread_t threads[4];
    for (int i = 0; i < 4; ++i) CHECK(pthread_create(&threads[i], NULL, in_thread, NULL) == 0);
    for (int i = 0; i < 4; ++i) CHECK(pthread_join(threads[i], NULL) == 0);
    pid = fork();
    if (pid == 0) _exit(with_seccomp());
    CHECK(exit_status_of(pid) == 0);
}

int main(int argc, char** argv) {
    (void)argv;
    caught = getenv("SOCKSHIM_CATCH") != NULL;
    if (argc > 1) {
        datagrams();
        return finish_test();
    }
    static char self[4096];
    CHECK(readlink("/proc/self/exe", self, sizeof self - 1) > 0);
    others();
    signals();
    maybe_socket();
    others();
    datagrams();
    streams();
    signals();
    interrupted();
    processes(self);
    return finish_test();
}
#endif
