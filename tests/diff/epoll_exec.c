// epoll sets that go to another program (exec, posix_spawn) or process (SCM_RIGHTS): all of the set is there.
#include "diff.h"
#include <spawn.h>

extern char** environ;
static char* self;

static int add(int ep, int fd, unsigned ev, uint64_t tag) {
    struct epoll_event e = {ev, {.u64 = tag}};
    return epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
}
static void take(int ep, int ms) {
    struct epoll_event e[8];
    int n = epoll_wait(ep, e, 8, ms);
    unsigned long tags = 0;
    for (int i = 0; i < n; i++) tags |= 1ul << e[i].data.u64;
    say("epoll_wait -> %d%s%s, tags %#lx", n, n < 0 ? " " : "", n < 0 ? en(errno) : "", tags);
}

// What the other program does: argv: name, set, socket, peer, pipe's reading end.
static void other_program(char** v) {
    diff_who = "other: ";
    int ep = atoi(v[2]), s = atoi(v[3]), c = atoi(v[4]), r = atoi(v[5]);
    char b[8];
    struct epoll_event e = {EPOLLIN | EPOLLOUT, {.u64 = 7}};
    take(ep, 3000);
    RX(s, 8, 0);
    T(read(r, b, 8));
    take(ep, 0);
    T(epoll_ctl(ep, EPOLL_CTL_ADD, s, &e)); // it is there
    T(epoll_ctl(ep, EPOLL_CTL_MOD, s, &e));
    take(ep, 0);
    T(add(ep, c, EPOLLOUT, 2));
    take(ep, 0);
    T(epoll_ctl(ep, EPOLL_CTL_DEL, c, 0)), T(epoll_ctl(ep, EPOLL_CTL_DEL, s, 0));
    take(ep, 0);
    T(add(ep, s, EPOLLIN, 1));
    int d = dup(ep);
    Q(send(c, "more", 4, 0));
    take(d, 3000);
    RX(s, 8, 0);
    T(close(d)), T(close(ep));
    take(ep, 0);
    fflush(stdout);
    _exit(0);
}

static int ep, c, s, p[2];
static char* words[7];
static char numbers[4][16];
static void fresh(int flags) {
    tcp_pair(&c, &s);
    Q(pipe(p));
    ep = epoll_create1(flags);
    Q(add(ep, s, EPOLLIN, 1)), Q(add(ep, p[0], EPOLLIN, 3));
    Q(send(c, "data", 4, 0)), Q(write(p[1], "pipe", 4));
    int n[4] = {ep, s, c, p[0]};
    words[0] = self, words[1] = (char*)"other", words[6] = 0;
    for (int i = 0; i < 4; i++) sprintf(numbers[i], "%d", n[i]), words[2 + i] = numbers[i];
}
static void done(void) { close(ep), close(c), close(s), close(p[0]), close(p[1]); }

int main(int argc, char** argv) {
    diff_init();
    self = argv[0];
    if (argc == 6) other_program(argv);
    section("fork and exec");
    fresh(0);
    pid_t pid = fork();
    if (pid == 0) execv(self, words), _exit(9);
    reap(pid);
    say("and here it goes on");
    Q(send(c, "x", 1, 0));
    take(ep, 3000);
    RX(s, 8, 0);
    done();
    section("under another number");
    fresh(EPOLL_CLOEXEC);
    pid = fork();
    if (pid == 0) {
        dup2(ep, 40), close(ep);
        words[2] = (char*)"40";
        execv(self, words), _exit(9);
    }
    reap(pid);
    done();
    section("closed by exec");
    fresh(EPOLL_CLOEXEC);
    pid = fork();
    if (pid == 0) execv(self, words), _exit(9);
    reap(pid);
    take(ep, 0);
    done();
    section("posix_spawn");
    fresh(0);
    Q(posix_spawn(&pid, self, 0, 0, words, environ));
    reap(pid);
    done();
    section("sent in a message");
    int un[2];
    Q(socketpair(AF_UNIX, SOCK_DGRAM, 0, un));
    gate g = gate_new();
    pid = forked("receiver: ");
    char room[CMSG_SPACE(3 * sizeof(int))] = {0}, byte = 0;
    struct iovec iov = {&byte, 1};
    struct msghdr m = {0, 0, &iov, 1, room, sizeof room, 0};
    if (pid == 0) {
        int got[3];
        T(recvmsg(un[1], &m, 0));
        memcpy(got, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof got);
        take(got[0], 3000);
        RX(got[1], 8, 0);
        T(read(got[2], room, 8));
        take(got[0], 0);
        gate_open(g);
        _exit(0);
    }
    fresh(0);
    struct cmsghdr* h = CMSG_FIRSTHDR(&m);
    *h = (struct cmsghdr){CMSG_LEN(3 * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(h), (int[3]){ep, s, p[0]}, 3 * sizeof(int));
    Q(sendmsg(un[0], &m, 0));
    gate_wait(g);
    reap(pid);
    done();
    section("exec without fork");
    fresh(0);
    alarm(0);
    execv(self, words);
    return 9;
}
