// fork that fails: nothing is kept for the child that there is not. As many epoll sets as the shim has room
// for at a time are made, met by a failing fork, and closed; then there must be room still.
#include "diff.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/prctl.h>

// From here on no process can be made: EAGAIN, as at a limit.
static int refuse_forks(void) {
    struct sock_filter f[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 3, 0),
#ifdef SYS_fork
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fork, 2, 0),
#else
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 2, 0),
#endif
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EAGAIN),
    };
    struct sock_fprog prog = {sizeof f / sizeof *f, f};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return -1;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog);
}

static int add(int ep, int fd) {
    struct epoll_event e = {EPOLLIN, {.u64 = 1}};
    return epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
}

static int child(void* unused) {
    (void)unused;
    _exit(0);
}
static char stack[16384] __attribute__((aligned(16)));

static long fork_somehow(int how) {
    switch (how % 4) {
    case 0: return fork();
    case 1: return _Fork();
    case 2: return clone(child, stack + sizeof stack, SIGCHLD, 0);
    default: return syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    }
}

enum { sets = 800, rounds = 84 }; // together more than 65536

int main(void) {
    diff_init();
    int c, s, ep[sets];
    struct epoll_event e;
    section("it fails");
    tcp_pair(&c, &s);
    if (refuse_forks() < 0) return 77;
    for (int how = 0; how < 4; how++) T(fork_somehow(how));
    section("and fails with many sets");
    int failed = 0;
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < sets; i++) {
            ep[i] = epoll_create1(0);
            if (ep[i] < 0 || add(ep[i], s) < 0) failed++;
        }
        if (fork_somehow(round) != -1 || errno != EAGAIN) say("round %d: forked", round);
        for (int i = 0; i < sets; i++) close(ep[i]);
    }
    V(failed);
    section("sets and sockets work as before");
    ep[0] = epoll_create1(0);
    T(add(ep[0], s));
    T(send(c, "x", 1, 0));
    T(epoll_wait(ep[0], &e, 1, 1000));
    RX(s, 8, 0);
    T(close(c));
    T(epoll_wait(ep[0], &e, 1, 1000));
    RX(s, 8, 0);
    return 0;
}
