// A socket that is bound while other threads duplicate it: every number of it names one socket, also those that were
// under way, in another thread's call or in a message.
#include "diff.h"
#include <sched.h>

enum { ROUNDS = 4000, MANY = 16 };
static int s;
static volatile int stop;
static int copies[2][MANY];

static ino_t inode_of(int fd) {
    struct stat st;
    return fstat(fd, &st) ? 0 : st.st_ino;
}
// What stands at the number, whatever the library says of it.
static int is_socket(int fd) {
    char path[40], link[100] = "";
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return readlink(path, link, sizeof link - 1) > 0 && !strncmp(link, "socket:", 7);
}
static void* duplicates(void* arg) {
    int* const mine = copies[(long)arg];
    for (int i = 0; i < MANY && !stop; i++) mine[i] = i & 1 ? dup(s) : fcntl(s, F_DUPFD_CLOEXEC, 3);
    return 0;
}
static void send_fd(int to, int fd) {
    char b = 0, control[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec v = {&b, 1};
    struct msghdr m = {
        .msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr* c = CMSG_FIRSTHDR(&m);
    *c = (struct cmsghdr){
        .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)};
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    Q(sendmsg(to, &m, 0));
}
static int receive_fd(int from) {
    int fd = -1;
    char b, control[CMSG_SPACE(sizeof fd)];
    struct iovec v = {&b, 1};
    struct msghdr m = {
        .msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    if (Q(recvmsg(from, &m, 0)) == 1) memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
    return fd;
}

int main(void) {
    diff_init();
    struct sockaddr_in at = lo(0);
    socklen_t len = sizeof at;
    char b;
    int pair[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);

    section("in a message");
    for (int kind = SOCK_STREAM; kind <= SOCK_DGRAM; kind++) {
        at = lo(0);
        s = socket(AF_INET, kind, 0);
        send_fd(pair[0], s);
        T(bind(s, SA(&at), len));
        const int r = receive_fd(pair[1]);
        V(is_socket(s));
        V(is_socket(r));
        V(inode_of(s) == inode_of(r));
        close(s);
        if (kind == SOCK_STREAM) T(listen(r, 3));
        T(getsockname(r, SA(&at), &len));
        const int c = socket(AF_INET, kind, 0);
        T(connect(c, SA(&at), len));
        T(send(c, "x", 1, 0));
        const int a = kind == SOCK_STREAM ? accept(r, 0, 0) : dup(r);
        T(recv(a, &b, 1, 0));
        close(a);
        close(c);
        close(r);
    }

    section("under threads");
    int odd = 0;
    for (int i = 0; i < ROUNDS; i++) {
        s = socket(AF_INET, i & 1 ? SOCK_DGRAM : SOCK_STREAM, 0);
        at = lo(0);
        memset(copies, -1, sizeof copies);
        stop = 0;
        pthread_t t[2];
        for (long k = 0; k < 2; k++) t[k] = spawn_thread(duplicates, (void*)k);
        if (i & 2) sched_yield();
        if (bind(s, SA(&at), len)) odd++;
        stop = 1;
        for (int k = 0; k < 2; k++) pthread_join(t[k], 0);
        for (int* p = copies[0]; p < copies[0] + 2 * MANY; p++) {
            if (*p < 0) continue;
            if (!is_socket(*p) || inode_of(*p) != inode_of(s)) odd++;
            close(*p);
        }
        close(s);
        alarm(8);
    }
    V(odd);
    return 0;
}
