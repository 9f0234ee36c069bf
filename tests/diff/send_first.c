// Everything is sent before anybody reads: what the kernel's buffers hold (some 4 MB), ours do.
#include "diff.h"

enum { SIZE = 3 << 20 };
static unsigned char out[SIZE], in[SIZE];

static void fill(unsigned seed) {
    for (int i = 0; i < SIZE; i++) out[i] = (seed = seed * 1664525 + 1013904223) >> 24;
}
static void send_all(int fd, int piece) {
    for (int n = 0; n < SIZE;) {
        long r = send(fd, out + n, SIZE - n < piece ? SIZE - n : piece, 0);
        if (r <= 0) die("send");
        n += r;
    }
}
static void read_all(int fd) {
    memset(in, 0, SIZE);
    long n = recv(fd, in, SIZE, MSG_WAITALL);
    say("read %ld, %s", n, memcmp(in, out, SIZE) ? "WRONG" : "as sent");
}
// Only told that it may send.
static void send_when_told(int fd) {
    nonblock(fd, 1);
    int ep = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLOUT};
    if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e) < 0) die("epoll_ctl");
    for (int n = 0; n < SIZE;) {
        if (epoll_wait(ep, &e, 1, 5000) != 1) {
            say("never writable again, after %d", n);
            break;
        }
        long r = send(fd, out + n, SIZE - n, 0);
        if (r < 0 && errno != EAGAIN) die("send");
        if (r > 0) n += r;
    }
    close(ep);
    nonblock(fd, 0);
}
// As much as goes in, given time: bounded where the program has chosen the sizes.
static void until_full(int fd, long most) {
    long total = 0, r;
    nonblock(fd, 1);
    for (int turn = 0; turn < 4; turn++) {
        while ((r = send(fd, out, 4096, 0)) > 0) total += r;
        nap(60);
    }
    say("%s", total <= most ? "bounded" : "NOT bounded");
}

int main(void) {
    int a, b, pieces[] = {100, 65536, SIZE};
    diff_init();
    for (int i = 0; i < 3; i++) {
        section("one thread, both ends");
        tcp_pair(&a, &b);
        fill(i);
        send_all(a, pieces[i]);
        send_all(b, pieces[2 - i]);
        read_all(a);
        read_all(b);
        close(a), close(b);
    }
    section("writable");
    tcp_pair(&a, &b);
    send_when_told(a);
    read_all(b);
    // And again: what has been emptied holds as much.
    send_when_told(a);
    send_when_told(b);
    read_all(a);
    read_all(b);
    close(a), close(b);

    section("two processes, both send first");
    tcp_pair(&a, &b);
    if (fork() == 0) {
        close(a);
        send_all(b, 65536);
        read_all(b);
        _exit(0);
    }
    close(b);
    send_all(a, 65536);
    wait(0);
    read_all(a);
    close(a);

    section("chosen sizes");
    tcp_pair(&a, &b);
    setsockopt(a, SOL_SOCKET, SO_SNDBUF, &(int){8192}, sizeof(int));
    setsockopt(b, SOL_SOCKET, SO_RCVBUF, &(int){8192}, sizeof(int));
    until_full(a, 512 << 10);
    return 0;
}
