// The insides that need signals: deferral in critical sections, and bad pointers of the program's.
// Linked against the probe library, so it has no native counterpart.
#include "test.h"

#include <setjmp.h>

#include "probe.h"

static volatile int handled, value, code, was_deferred_inside;
static sigjmp_buf jump;

static void counts(int sig, siginfo_t* info, void* context) {
    (void)sig, (void)context;
    ++handled;
    value = info->si_value.sival_int;
    code = info->si_code;
    was_deferred_inside = (int)probe_state_of_thread().deferred;
}
static void jumps(int sig) { siglongjmp(jump, sig); }
static void send_value(int sig, int v) { sigqueue(getpid(), sig, (union sigval){.sival_int = v}); }

static void deferral(void) {
    struct sigaction act = {.sa_sigaction = counts, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGUSR1, &act, NULL);
    sigaction(SIGRTMIN, &act, NULL);
    sigset_t before, after;
    sigprocmask(SIG_BLOCK, NULL, &before);
    const struct probe_state start = probe_state_of_thread();

    probe_critical_enter();
    probe_critical_enter();
    send_value(SIGUSR1, 41);
    CHECK(handled == 0 && probe_state_of_thread().deferred == 1);
    for (int i = 1; i <= 5; ++i) send_value(SIGRTMIN, i);
    probe_critical_leave();
    CHECK(handled == 0);
    probe_critical_leave();
    CHECK(handled == 6 && code == SI_QUEUE && !was_deferred_inside);
    CHECK(probe_state_of_thread().deferred == 0 && probe_state_of_thread().critical == 0);
    CHECK(probe_state_of_thread().signals == start.signals + 6);
    CHECK(probe_state_of_thread().interrupting == start.interrupting);
    sigprocmask(SIG_BLOCK, NULL, &after);
    CHECK(memcmp(&before, &after, 8) == 0);

    // SA_RESETHAND comes once, though the signal came twice to the trampoline.
    handled = 0;
    act.sa_flags = SA_SIGINFO | (int)SA_RESETHAND;
    sigaction(SIGURG, &act, NULL);
    probe_critical_enter();
    raise(SIGURG);
    CHECK(handled == 0);
    probe_critical_leave();
    CHECK(handled == 1);
    raise(SIGURG);
    CHECK(handled == 1);
    CHECK(probe_state_of_thread().interrupting == start.interrupting + 1);

    // A bad pointer inside a critical section that has a signal waiting.
    char to[8];
    handled = 0;
    probe_critical_enter();
    raise(SIGUSR1);
    CHECK(probe_copy_from_user(to, (void*)16, 8) == -EFAULT && handled == 0);
    probe_critical_leave();
    CHECK(handled == 1);

    // siglongjmp out of a deferred handler.
    signal(SIGUSR2, jumps);
    if (sigsetjmp(jump, 1) == 0) {
        probe_critical_enter();
        raise(SIGUSR2);
        probe_critical_leave();
        CHECK(!"reached");
    }
    CHECK(probe_state_of_thread().critical == 0 && probe_state_of_thread().deferred == 0);
    sigprocmask(SIG_BLOCK, NULL, &after);
    CHECK(memcmp(&before, &after, 8) == 0);

    // A fork with a signal waiting: the parent gets it, the child does not.
    handled = 0;
    probe_critical_enter();
    raise(SIGUSR1);
    const pid_t pid = fork();
    probe_critical_leave();
    if (pid == 0) {
        sigprocmask(SIG_BLOCK, NULL, &after);
        _exit(handled == 0 && memcmp(&before, &after, 8) == 0 ? 0 : 1);
    }
    CHECK(handled == 1 && exit_status_of(pid) == 0);

    unsigned word = 7;
    probe_sleep_on(&word);
    raise(SIGUSR1);
    CHECK(word == 8);
    probe_sleep_on(NULL);
}

static void bad_pointers(void) {
    char buf[64];
    char* const pages =
        mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(pages + 4096, 4096, PROT_NONE);
    memset(pages, 'p', 4096);
    CHECK(probe_copy_from_user(buf, pages, 64) == 0 && buf[63] == 'p');
    for (int i = 0; i < 1000; ++i) {
        CHECK(probe_copy_from_user(buf, pages + 4090, 64) == -EFAULT);
        CHECK(probe_copy_to_user(pages + 4096, buf, 8) == -EFAULT);
        CHECK(probe_copy_to_user((void*)1, buf, 64) == -EFAULT);
        CHECK(probe_copy_from_user(buf, (void*)0x8000000000000000ul, 8) == -EFAULT);
        CHECK(probe_copy_from_user(buf, (void*)0x0080000000000000ul, 8) == -EFAULT);
        CHECK(probe_copy_from_user(buf, (void*)-8ul, 64) == -EFAULT);
    }
    char name[] = "/tmp/preload-inside-XXXXXX";
    const int fd = mkstemp(name);
    char* const beyond = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(probe_copy_from_user(buf, beyond, 1) == -EFAULT); // SIGBUS
    unlink(name);

    // The program's own faults stay its own.
    signal(SIGSEGV, jumps);
    const int sig = sigsetjmp(jump, 1);
    if (sig == 0) *(volatile char*)(pages + 4096) = 1;
    CHECK(sig == SIGSEGV);
    CHECK(probe_copy_to_user(pages + 4096, buf, 8) == -EFAULT);
    signal(SIGSEGV, SIG_DFL);
    CHECK(probe_copy_to_user(pages + 4096, buf, 8) == -EFAULT);
    const pid_t pid = fork();
    if (pid == 0) {
        *(volatile char*)(pages + 4096) = 1;
        _exit(1);
    }
    const int status = exit_status_of(pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    // Poll and select look at the program's memory before libc does.
    CHECK_ERRNO(poll((struct pollfd*)(pages + 4096), 2, 0), EFAULT);
    CHECK_ERRNO(poll((struct pollfd*)8, 2, 0), EFAULT);
    CHECK_ERRNO(select(8, (fd_set*)(pages + 4096), NULL, NULL, NULL), EFAULT);
    CHECK_ERRNO(sendmsg(0, (struct msghdr*)(pages + 4096), 0), ENOTSOCK);
}

static void table(void) {
    int p[2];
    CHECK(pipe(p) == 0 && probe_entry_of(p[0]) == 1 && probe_entry_of(p[1]) == 1);
    const pid_t pid = vfork();
    if (pid == 0) {
        close(p[0]);
        dup2(p[1], 50);
        open("/dev/null", O_RDONLY);
        _exit(0);
    }
    CHECK(exit_status_of(pid) == 0);
    CHECK(probe_entry_of(p[0]) == 1 &&
          probe_entry_of(50) == 0); // the child's doings are the child's
    close(p[0]);
    CHECK(probe_entry_of(p[0]) == 0);
    FILE* f = fdopen(p[1], "w");
    fclose(f);
    CHECK(probe_entry_of(p[1]) == 0);
}

// Raw: no wrapper, no atfork handler.
static long raw_fork(void) {
#if defined(__x86_64__)
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(SYS_fork) : "rcx", "r11", "memory");
    return r;
#else
    return fork();
#endif
}

static void unseen_forks(void) {
    const long pid = raw_fork();
    if (pid == 0)
        _exit(close(open("/dev/null", O_RDONLY)) != 0 || socket(AF_UNIX, SOCK_STREAM, 0) < 0);
    CHECK(exit_status_of((pid_t)pid) == 0);
}

static void* hammer(void* arg) {
    (void)arg;
    for (int i = 0; i < 200000; ++i) {
        probe_critical_enter();
        probe_critical_leave();
    }
    return NULL;
}

static void storm(void) {
    struct sigaction act = {.sa_sigaction = counts, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &act, NULL);
    pthread_t threads[2];
    for (int i = 0; i < 2; ++i) pthread_create(&threads[i], NULL, hammer, NULL);
    for (int i = 0; i < 2000; ++i) {
        pthread_kill(threads[i & 1], SIGUSR1);
        if (i % 100 == 0) usleep(100);
    }
    for (int i = 0; i < 2; ++i) pthread_join(threads[i], NULL);
}

int main(void) {
    probe_attach();
    deferral();
    bad_pointers();
    table();
    unseen_forks();
    storm();
    return finish_test();
}
