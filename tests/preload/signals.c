// Handlers behave as installed, and the program sees its own actions, not a trampoline.
#define _XOPEN_SOURCE 700
#include "test.h"

#include <setjmp.h>
#include <sys/time.h>
#include <ucontext.h>

static volatile int seen, seen_code, seen_value, on_stack, masked_inside, nested;
static volatile void* seen_address;
static sigjmp_buf jump;
static char alternate[65536];

static void plain(int sig) { seen = sig; }
static void info_handler(int sig, siginfo_t* info, void* context) {
    seen = sig;
    seen_code = info->si_code;
    seen_value = info->si_value.sival_int;
    seen_address = info->si_addr;
    char here;
    on_stack = &here >= alternate && &here < alternate + sizeof alternate;
    sigset_t now;
    sigprocmask(SIG_BLOCK, NULL, &now);
    masked_inside = sigismember(&now, SIGUSR2) * 2 + sigismember(&now, sig);
    (void)context;
}
static void jumping(int sig) { siglongjmp(jump, sig); }
static void nesting(int sig) {
    if (++nested < 3) raise(sig);
}
static void saves_errno(int sig) {
    (void)sig;
    errno = 77;
}

static struct sigaction current(int sig) {
    struct sigaction act;
    memset(&act, 0, sizeof act);
    CHECK(sigaction(sig, NULL, &act) == 0);
    return act;
}

static void actions(void) {
    CHECK(current(SIGUSR1).sa_handler == SIG_DFL);
    struct sigaction act = {.sa_sigaction = info_handler, .sa_flags = SA_SIGINFO | SA_ONSTACK}, old;
    sigemptyset(&act.sa_mask);
    sigaddset(&act.sa_mask, SIGUSR2);
    CHECK_KEEPS(sigaction(SIGUSR1, &act, &old) == 0);
    CHECK(old.sa_handler == SIG_DFL);
    old = current(SIGUSR1);
    CHECK(old.sa_sigaction == info_handler);
    CHECK((old.sa_flags & ~0x04000000) == (SA_SIGINFO | SA_ONSTACK));
    CHECK(sigismember(&old.sa_mask, SIGUSR2) == 1 && sigismember(&old.sa_mask, SIGTERM) == 0);

    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
    CHECK(sigaltstack(&stack, NULL) == 0);
    CHECK(sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = 1234}) == 0);
    CHECK(seen == SIGUSR1 && seen_code == SI_QUEUE && seen_value == 1234 && on_stack);
    CHECK(masked_inside == 3);

    act.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigemptyset(&act.sa_mask);
    CHECK(sigaction(SIGUSR1, &act, &old) == 0 && old.sa_sigaction == info_handler);
    raise(SIGUSR1);
    CHECK(!on_stack && masked_inside == 0 && seen_code == SI_TKILL);

    act.sa_handler = nesting;
    act.sa_flags = SA_NODEFER;
    CHECK(sigaction(SIGUSR1, &act, NULL) == 0);
    raise(SIGUSR1);
    CHECK(nested == 3);

    CHECK(signal(SIGUSR1, plain) == nesting);
    CHECK((current(SIGUSR1).sa_flags & ~0x04000000) == SA_RESTART);
    old = current(SIGUSR1);
    CHECK(sigismember(&old.sa_mask, SIGUSR1) == 1);
    CHECK(signal(SIGUSR1, SIG_IGN) == plain && signal(SIGUSR1, SIG_DFL) == SIG_IGN);
    CHECK(current(SIGUSR1).sa_handler == SIG_DFL);

    CHECK_ERRNO(sigaction(SIGKILL, &act, NULL), EINVAL);
    CHECK_ERRNO(sigaction(0, &act, NULL), EINVAL);
    CHECK_ERRNO(sigaction(65, &act, NULL), EINVAL);
    CHECK_ERRNO(sigaction(32, &act, NULL), EINVAL);
    errno = 0;
    CHECK(signal(SIGSTOP, plain) == SIG_ERR && errno == EINVAL);
    CHECK(sigaction(SIGRTMIN, &act, NULL) == 0 && signal(SIGRTMIN, SIG_DFL) == nesting);
}

static void once(void) {
    struct sigaction act = {.sa_handler = plain, .sa_flags = (int)SA_RESETHAND};
    CHECK(sigaction(SIGURG, &act, NULL) == 0);
    CHECK((current(SIGURG).sa_flags & ~0x04000000) == (int)SA_RESETHAND);
    seen = 0;
    raise(SIGURG);
    CHECK(seen == SIGURG && current(SIGURG).sa_handler == SIG_DFL);
    CHECK(current(SIGURG).sa_flags & (int)SA_RESETHAND);
    seen = 0;
    raise(SIGURG); // default: ignored
    CHECK(seen == 0);
    const pid_t pid = fork();
    if (pid == 0) {
        act.sa_handler = plain;
        sigaction(SIGTERM, &act, NULL);
        raise(SIGTERM);
        raise(SIGTERM);
        _exit(1);
    }
    const int status = exit_status_of(pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
}

static void restart(void) {
    int p[2];
    char c;
    CHECK(pipe(p) == 0);
    struct sigaction act = {.sa_handler = plain};
    CHECK(sigaction(SIGALRM, &act, NULL) == 0);
    struct itimerval in_20ms = {.it_value.tv_usec = 20000};
    setitimer(ITIMER_REAL, &in_20ms, NULL);
    CHECK_ERRNO(read(p[0], &c, 1), EINTR);
    CHECK(seen == SIGALRM);
    setitimer(ITIMER_REAL, &in_20ms, NULL);
    CHECK_ERRNO(poll(&(struct pollfd){p[0], POLLIN, 0}, 1, 5000), EINTR);

    signal(SIGALRM, plain); // SA_RESTART
    const pid_t pid = fork();
    if (pid == 0) {
        usleep(100000);
        _exit(write(p[1], "r", 1) != 1);
    }
    setitimer(ITIMER_REAL, &in_20ms, NULL);
    CHECK(read(p[0], &c, 1) == 1 && c == 'r');
    CHECK(exit_status_of(pid) == 0);
    CHECK(siginterrupt(SIGALRM, 1) == 0);
    CHECK(!(current(SIGALRM).sa_flags & SA_RESTART));
    setitimer(ITIMER_REAL, &in_20ms, NULL);
    CHECK_ERRNO(read(p[0], &c, 1), EINTR);
    signal(SIGALRM, plain); // remembers siginterrupt
    CHECK(!(current(SIGALRM).sa_flags & SA_RESTART));
    CHECK(siginterrupt(SIGALRM, 0) == 0 && (current(SIGALRM).sa_flags & SA_RESTART));
    signal(SIGALRM, SIG_DFL);
    close(p[0]);
    close(p[1]);
}

static void faults(void) {
    struct sigaction act = {.sa_handler = jumping, .sa_flags = SA_NODEFER}, old;
    CHECK(current(SIGSEGV).sa_handler == SIG_DFL);
    CHECK(current(SIGSEGV).sa_flags == 0);
    CHECK(sigaction(SIGSEGV, &act, &old) == 0 && old.sa_handler == SIG_DFL);
    char* const page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < 3; ++i) {
        const int sig = sigsetjmp(jump, 1);
        if (sig == 0) *(volatile char*)page = 1;
        CHECK(sig == SIGSEGV);
    }
    act.sa_sigaction = info_handler;
    act.sa_flags = SA_SIGINFO;
    CHECK(sigaction(SIGSEGV, &act, NULL) == 0);
    raise(SIGSEGV);
    CHECK(seen == SIGSEGV && seen_code == SI_TKILL);
    CHECK((void*)signal(SIGSEGV, SIG_IGN) == (void*)info_handler);
    raise(SIGSEGV); // ignored
    CHECK(current(SIGSEGV).sa_handler == SIG_IGN);
    for (int how = 0; how < 4; ++how) {
        const pid_t pid = fork();
        if (pid == 0) {
            signal(SIGSEGV, how & 1 ? SIG_IGN : SIG_DFL);
            if (how & 2) {
                signal(SIGSEGV, SIG_DFL);
                kill(getpid(), SIGSEGV);
            } else {
                *(volatile char*)page = 1;
            }
            _exit(1);
        }
        const int status = exit_status_of(pid);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    }
    signal(SIGSEGV, SIG_DFL);
    munmap(page, 4096);

    // The file behind a mapping is shorter than the mapping.
    char name[] = "/tmp/preload-signals-XXXXXX";
    const int fd = mkstemp(name);
    char* const beyond = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    signal(SIGBUS, jumping);
    const int sig = sigsetjmp(jump, 1);
    if (sig == 0) seen = *(volatile char*)beyond;
    CHECK(sig == SIGBUS);
    unlink(name);
    close(fd);
}

static void deaths(void) {
    static const int signals[] = {SIGINT,  SIGTERM, SIGABRT, SIGPIPE,
                                  SIGUSR1, SIGFPE,  SIGSEGV, SIGBUS};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; ++i) {
        const pid_t pid = fork();
        if (pid == 0) {
            signal(signals[i], SIG_DFL);
            if (signals[i] == SIGABRT) abort();
            raise(signals[i]);
            _exit(1);
        }
        const int status = exit_status_of(pid);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == signals[i]);
    }
    // abort() with a handler that returns
    const pid_t pid = fork();
    if (pid == 0) {
        signal(SIGABRT, plain);
        abort();
    }
    const int status = exit_status_of(pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void old_interfaces(void) {
    CHECK(sigset(SIGUSR2, plain) == SIG_DFL);
    raise(SIGUSR2);
    CHECK(seen == SIGUSR2);
    CHECK(sigset(SIGUSR2, SIG_HOLD) == plain);
    CHECK(sigset(SIGUSR2, SIG_DFL) == SIG_HOLD);
    CHECK(sigset(SIGUSR2, SIG_DFL) == SIG_DFL);
    extern sighandler_t sysv_signal(int, sighandler_t);
    CHECK(sysv_signal(SIGURG, plain) == SIG_DFL);
    CHECK((current(SIGURG).sa_flags & ~0x24000000) == ((int)SA_RESETHAND | SA_NODEFER));
    raise(SIGURG);
    CHECK(seen == SIGURG && signal(SIGURG, SIG_DFL) == SIG_DFL);
    CHECK(sigignore(SIGURG) == 0 && signal(SIGURG, SIG_DFL) == SIG_IGN);
}

int main(void) {
    // Handlers that are there before the process has a socket stay what they are.
    signal(SIGHUP, plain);
    struct sigaction act = {.sa_handler = saves_errno, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGURG, &act, NULL);
    signal(SIGPIPE, SIG_IGN);
    maybe_socket();
    CHECK(current(SIGHUP).sa_handler == plain);
    CHECK((current(SIGHUP).sa_flags & ~0x04000000) == SA_RESTART);
    CHECK(current(SIGPIPE).sa_handler == SIG_IGN);
    raise(SIGHUP);
    CHECK(seen == SIGHUP);
    errno = 5;
    raise(SIGURG);
    CHECK(errno == 77); // a handler that does not save errno is visible
    CHECK(current(SIGURG).sa_handler == SIG_DFL);
    errno = 0;

    actions();
    once();
    restart();
    faults();
    deaths();
    old_interfaces();
    return finish_test();
}
