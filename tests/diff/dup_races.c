// Numbers that come and go under threads that use them: whatever a call meets, it is one socket or none, nothing is
// lost, nothing leaks, and what was duplicated is the socket that it was duplicated from.
#include "diff.h"

enum { THREADS = 6 };
static volatile int stop;
static int c, s, top;
static struct sockaddr_in la;
static long odd; // what should not have been seen
static void note_odd(const char* what, long r) {
    char b[100];
    if (__atomic_fetch_add(&odd, 1, __ATOMIC_SEQ_CST) < 5) {
        int n = snprintf(b, sizeof b, "odd: %s -> %ld %s\n", what, r, r < 0 ? en(errno) : "");
        write(1, b, n);
    }
}
static void* until(void* (*f)(void*), int n, int ms) {
    pthread_t t[THREADS];
    stop = 0;
    for (long i = 0; i < n; i++) t[i] = spawn_thread(f, (void*)i);
    nap(ms);
    stop = 1;
    for (int i = 0; i < n; i++) pthread_join(t[i], 0);
    return 0;
}

// Duplicates by all ways, uses the duplicate, closes it: always the same socket, always there.
static ino_t inode_of(int fd) {
    struct stat st;
    return fstat(fd, &st) < 0 ? 0 : st.st_ino;
}
static ino_t s_inode;
static void* duplicates(void* arg) {
    long me = (long)arg;
    for (unsigned i = 0; !stop; i++) {
        int d = i % 4 == 0   ? dup(s)
                : i % 4 == 1 ? fcntl(s, F_DUPFD, 100 + (int)me)
                : i % 4 == 2 ? fcntl(s, F_DUPFD_CLOEXEC, 20)
                             : dup3(s, 300 + (int)me, O_CLOEXEC);
        if (d < 0) {
            note_odd("dup", d);
            continue;
        }
        if (inode_of(d) != s_inode) note_odd("inode", d);
        int f = fcntl(d, F_GETFD), want = i % 4 >= 2;
        if (f != want) note_odd("F_GETFD", f);
        char b;
        long r = recv(d, &b, 1, MSG_DONTWAIT | MSG_PEEK);
        if (r != 1 || b != 'k') note_odd("peek", r);
        if ((r = close(d))) note_odd("close", r);
    }
    return 0;
}

// One number, dup2ed over all the time with one of two sockets: a call on it meets the one or the other.
static int shared = 700, other_c, other_s;
static void* replaces(void* arg) {
    for (unsigned i = 0; !stop; i++)
        if (dup2((i + (long)arg) & 1 ? s : other_s, shared) != shared) note_odd("dup2", -1);
    return 0;
}
static void* uses(void* arg) {
    if ((long)arg < 2) return replaces(arg);
    while (!stop) {
        char b;
        long r = recv(shared, &b, 1, MSG_DONTWAIT | MSG_PEEK);
        if (r != 1 || (b != 'k' && b != 'o')) note_odd("peek shared", r);
        int t = getint(shared, SOL_SOCKET, SO_TYPE);
        if (t != SOCK_STREAM) note_odd("SO_TYPE", t);
        int d = fcntl(shared, F_DUPFD_CLOEXEC, 20);
        ino_t n = inode_of(d);
        if (n != s_inode && n != inode_of(other_s)) note_odd("inode of dup", d);
        if (close(d)) note_odd("close", d);
    }
    return 0;
}

// One number, opened and closed all the time: EBADF or the socket, and never another's bytes.
static void* opens(void* arg) {
    while (!stop) {
        int d = fcntl(s, F_DUPFD_CLOEXEC, shared);
        if (d < 0) note_odd("F_DUPFD", d);
        close(d);
    }
    return arg;
}
static void* meets(void* arg) {
    if ((long)arg < 2) return opens(arg);
    while (!stop) {
        char b;
        long r = recv(shared, &b, 1, MSG_DONTWAIT | MSG_PEEK);
        if (!(r == 1 && b == 'k') && !(r < 0 && errno == EBADF)) note_odd("peek", r);
        struct sockaddr_in a;
        socklen_t l = sizeof a;
        r = getsockname(shared, SA(&a), &l);
        if (!(r == 0 && a.sin_family == AF_INET) && !(r < 0 && errno == EBADF)) note_odd("name", r);
        int d = fcntl(shared, F_DUPFD, shared + 10);
        if (d >= 0) {
            if (inode_of(d) != s_inode) note_odd("dup of another", d);
            close(d);
        } else if (errno != EBADF) {
            note_odd("F_DUPFD", d);
        }
    }
    return 0;
}

// Whole connections through numbers that are used again at once: each says its own name.
static void* connections(void* arg) {
    for (unsigned i = 0; !stop; i++) {
        int k = tcp();
        if (connect(k, SA(&la), sizeof la)) {
            note_odd("connect", -1);
            close(k);
            continue;
        }
        unsigned said[2] = {(unsigned)(long)arg, i}, heard[2] = {0, 0};
        int d = dup(k);
        close(k);
        send(d, said, sizeof said, 0);
        long r = recv(d, heard, sizeof heard, MSG_WAITALL);
        if (r != sizeof heard || memcmp(said, heard, sizeof said)) note_odd("echo", r);
        close(d);
    }
    return 0;
}
static int l;
static void* serves(void* arg) {
    for (;;) {
        int a = accept(l, 0, 0);
        if (a < 0) return arg;
        int d = fcntl(a, F_DUPFD_CLOEXEC, 40);
        close(a);
        char b[8];
        long r = recv(d, b, 8, MSG_WAITALL);
        if (r > 0) send(d, b, r, 0);
        close(d);
    }
}

// A thread forks while others duplicate: no child holds what it should not.
static void* forks(void* arg) {
    if ((long)arg) return duplicates(arg);
    for (int i = 0; i < 20 && !stop; i++) {
        pid_t p = fork();
        if (p == 0) {
            alarm(8);
            char b;
            int d = fcntl(s, F_DUPFD, 500), ok = recv(d, &b, 1, MSG_PEEK) == 1 && b == 'k';
            closefrom(3);
            _exit(ok ? 0 : 1);
        }
        int st;
        waitpid(p, &st, 0);
        if (st) note_odd("child", st);
    }
    return 0;
}

static void ends(void) {
    V(odd);
    int open_now = 0;
    for (int i = 0; i < 1024; i++) open_now += fcntl(i, F_GETFD) >= 0;
    V(open_now - top);
}

int main(void) {
    diff_init();
    need_descriptors(1024);
    tcp_pair(&c, &s), tcp_pair(&other_c, &other_s);
    l = listener(64, &la);
    Q(send(c, "k", 1, 0)), Q(send(other_c, "o", 1, 0));
    AW(s, POLLIN), AW(other_s, POLLIN);
    s_inode = inode_of(s);
    for (int i = 0; i < 1024; i++) top += fcntl(i, F_GETFD) >= 0;
    section("duplicates by six threads");
    until(duplicates, 6, 300);
    ends();
    section("a number that is dup2ed over");
    dup2(s, shared);
    until(uses, 6, 300);
    close(shared);
    ends();
    section("a number that is opened and closed");
    until(meets, 5, 300);
    ends();
    section("connections");
    pthread_t server[2] = {spawn_thread(serves, 0), spawn_thread(serves, 0)};
    until(connections, 4, 300);
    shutdown(l, SHUT_RDWR);
    pthread_join(server[0], 0), pthread_join(server[1], 0);
    ends();
    section("forks beside duplicates");
    until(forks, 4, 300);
    ends();
    section("all of it was the same socket to the last");
    RX(s, 4, 0);
    T(send(c, "end", 3, 0));
    RX(s, 4, 0);
    close(s);
    RX(c, 4, 0);
    return 0;
}
