// send and recv flags on TCP: peek, waitall, dontwait, trunc, oob, more, nosignal; zero lengths; unknown flags.
#include "diff.h"

static int c, s;
static void* later(void* arg) {
    int* a = arg; // {tid, fd}
    wait_asleep(a[0]);
    send(a[1], "67", 2, 0);
    wait_asleep(a[0]);
    send(a[1], "89", 2, 0);
    return 0;
}
static void* later_close(void* arg) {
    int* a = arg;
    wait_asleep(a[0]);
    send(a[1], "67", 2, 0);
    wait_asleep(a[0]);
    shutdown(a[1], SHUT_WR);
    return 0;
}

int main(void) {
    diff_init();
    char b[64];
    tcp_pair(&c, &s);
    section("peek");
    T(send(c, "hello world", 11, 0));
    AW(s, POLLIN);
    RX(s, 5, MSG_PEEK), RX(s, 64, MSG_PEEK), RX(s, 5, MSG_PEEK), RX(s, 6, 0), RX(s, 64, MSG_PEEK),
        RX(s, 64, 0);
    RX(s, 64, MSG_DONTWAIT), RX(s, 64, MSG_DONTWAIT | MSG_PEEK);
    section("zero length");
    T(send(c, "", 0, 0)), T(write(c, "", 0)), T(send(c, "x", 0, MSG_DONTWAIT));
    settle();
    RX(s, 4, MSG_DONTWAIT);
    T(recv(s, b, 0, MSG_DONTWAIT)), T(read(s, b, 0)), T(recv(s, b, 0, MSG_DONTWAIT | MSG_WAITALL));
    int zarg[2] = {self_tid(), c};
    pthread_t zt =
        spawn_thread(later, zarg); // recv() of nothing waits for data, read() of nothing does not
    T(recv(s, b, 0, 0));
    pthread_join(zt, 0);
    RX(s, 4, MSG_WAITALL);
    T(send(c, "x", 1, 0));
    AW(s, POLLIN);
    T(recv(s, b, 0, 0));
    RX(s, 4, 0);
    section("truncate: bytes are thrown away");
    T(send(c, "0123456789", 10, 0));
    AW(s, POLLIN);
    T(recv(s, NULL, 4, MSG_TRUNC));
    memset(b, '.', sizeof b);
    T(recv(s, b, 2, MSG_TRUNC));
    bytes("buffer untouched", b, 4);
    T(recv(s, NULL, 2, MSG_TRUNC | MSG_PEEK));
    RX(s, 64, 0);
    section("wait for all");
    pthread_t t;
    int arg[2] = {self_tid(), c};
    T(send(c, "012345", 6, 0));
    t = spawn_thread(later, arg);
    RX(s, 10, MSG_WAITALL);
    pthread_join(t, 0);
    T(send(c, "012345", 6, 0));
    AW(s, POLLIN);
    RX(s, 10, MSG_WAITALL | MSG_DONTWAIT);
    T(send(c, "012345", 6, 0));
    t = spawn_thread(later, arg);
    RX(s, 10, MSG_WAITALL | MSG_PEEK);
    pthread_join(t, 0);
    RX(s, 64, 0);
    T(send(c, "012345", 6, 0));
    t = spawn_thread(later_close, arg);
    RX(s, 10, MSG_WAITALL);
    pthread_join(t, 0);
    RX(s, 10, MSG_WAITALL), RX(s, 10, 0);
    close(c), close(s);
    tcp_pair(&c, &s);
    struct timeval tv = {0, 80000};
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    T(send(c, "0123", 4, 0));
    RX(s, 10, MSG_WAITALL), RX(s, 10, MSG_WAITALL), RX(s, 10, 0);
    T(send(c, "0123", 4, 0));
    nonblock(s, 1);
    AW(s, POLLIN);
    RX(s, 10, MSG_WAITALL), RX(s, 10, MSG_WAITALL);
    nonblock(s, 0);
    tv.tv_usec = 0;
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);

    section("more, then flush");
    setint(c, IPPROTO_TCP, TCP_NODELAY, 0);
    T(send(c, "one ", 4, MSG_MORE)), T(send(c, "two ", 4, MSG_MORE)), T(send(c, "three", 5, 0));
    RX(s, 13, MSG_WAITALL);
    T(send(c, "held", 4, MSG_MORE));
    V(poll1(s, POLLIN, 60)); // held back for up to 200 ms
    T(setint(c, IPPROTO_TCP, TCP_NODELAY, 1));
    AW(s, POLLIN);
    RX(s, 64, 0);
    setint(c, IPPROTO_TCP, TCP_NODELAY, 0);
    T(send(c, "late", 4, MSG_MORE));
    AW(s, POLLIN);
    RX(s, 64, 0);
    section("cork");
    T(setint(c, IPPROTO_TCP, TCP_CORK, 1));
    T(send(c, "a", 1, 0)), T(send(c, "b", 1, 0));
    V(poll1(s, POLLIN, 60));
    T(setint(c, IPPROTO_TCP, TCP_CORK, 0));
    AW(s, POLLIN);
    RX(s, 64, 0);
    setint(c, IPPROTO_TCP, TCP_NODELAY, 1);
    section("flags that do nothing or are unknown");
    T(send(c, "n", 1, MSG_NOSIGNAL)), T(send(c, "r", 1, MSG_DONTROUTE)),
        T(send(c, "c", 1, MSG_CONFIRM)), T(send(c, "e", 1, MSG_EOR));
    T(send(c, "u", 1, 0x100000)), T(send(c, "k", 1, MSG_TRUNC)), T(send(c, "p", 1, MSG_PEEK)),
        T(send(c, "w", 1, MSG_WAITALL));
    T(send(c, "f", 1, MSG_FIN)), T(send(c, "s", 1, MSG_SYN)), T(send(c, "t", 1, MSG_RST)),
        T(send(c, "q", 1, MSG_ERRQUEUE));
    settle();
    RX(s, 64, 0);
    T(send(c, "abcdefgh", 8, 0));
    AW(s, POLLIN);
    RX(s, 1, MSG_NOSIGNAL), RX(s, 1, MSG_DONTROUTE), RX(s, 1, MSG_MORE), RX(s, 1, MSG_EOR),
        RX(s, 1, 0x100000), RX(s, 1, MSG_CMSG_CLOEXEC);
    RX(s, 64, 0);
    RX(s, 8, MSG_ERRQUEUE);
    RX(s, 8, MSG_OOB), RX(s, 8, MSG_OOB | MSG_PEEK);
    T(send(c, "", 0, MSG_OOB));
    section("sendto on a connected stream, names on receive");
    struct sockaddr_in a = lo(1);
    T(sendto(c, "x", 1, 0, SA(&a), sizeof a));
    a.sin_family = 77;
    T(sendto(c, "y", 1, 0, SA(&a), sizeof a)), T(sendto(c, "z", 1, 0, SA(&a), 3));
    T(sendto(c, "z", 1, 0, NULL, 16)), T(sendto(c, "z", 1, 0, SA(&a), 0));
    settle();
    struct sockaddr_storage ss;
    memset(&ss, 0xee, sizeof ss);
    socklen_t l = sizeof ss;
    T(recvfrom(s, b, 64, 0, SA(&ss), &l));
    V(l);
    V(ss.ss_family == 0xeeee);
    int u = tcp();
    T(sendto(u, "x", 1, MSG_NOSIGNAL, SA(&a), sizeof a)), T(send(u, "x", 1, 0)),
        T(write(u, "x", 1)), T(read(u, b, 1)), T(recv(u, b, 0, 0));
    T(send(u, "x", 0, 0));
    close(u);

    section("recvmsg: flags and lengths that come back");
    struct iovec iov = {b, 4};
    char ctl[64];
    struct msghdr m = {&ss, sizeof ss, &iov, 1, ctl, sizeof ctl, 0x7777};
    T(send(c, "0123456789", 10, 0));
    AW(s, POLLIN);
    T(recvmsg(s, &m, 0));
    V(m.msg_flags), V(m.msg_namelen), V(m.msg_controllen);
    m.msg_name = &ss, m.msg_namelen = sizeof ss, m.msg_controllen = sizeof ctl;
    T(recvmsg(s, &m, MSG_TRUNC));
    V(m.msg_flags);
    T(recvmsg(s, &m, MSG_CMSG_CLOEXEC));
    V(m.msg_flags);
    T(recvmsg(s, &m, MSG_DONTWAIT));
    V(m.msg_flags);
    section("control messages that a stream does not know");
    union {
        char b[CMSG_SPACE(sizeof(int))];
        struct cmsghdr h;
    } u1;
    memset(&u1, 0, sizeof u1);
    u1.h.cmsg_len = CMSG_LEN(sizeof(int)), u1.h.cmsg_level = SOL_SOCKET,
    u1.h.cmsg_type = SCM_RIGHTS;
    iov.iov_base = "cm", iov.iov_len = 2;
    struct msghdr sm = {0, 0, &iov, 1, &u1, sizeof u1, 0};
    T(sendmsg(c, &sm, 0));
    u1.h.cmsg_type = 99;
    T(sendmsg(c, &sm, 0));
    u1.h.cmsg_level = IPPROTO_IP, u1.h.cmsg_type = IP_TTL;
    T(sendmsg(c, &sm, 0));
    u1.h.cmsg_len = 3;
    T(sendmsg(c, &sm, 0));
    u1.h.cmsg_len = 300;
    T(sendmsg(c, &sm, 0));
    sm.msg_controllen = 5;
    T(sendmsg(c, &sm, 0));
    settle();
    RX(s, 64, MSG_DONTWAIT);

    section("broken pipe");
    T(close(s));
    AW(c, POLLIN);
    RX(c, 4, 0);
    T(send(c, "x", 1, 0)); // answered by a reset
    AW(c, POLLHUP);
    SOERR(c);
    T(send(c, "x", 1, 0)), T(send(c, "x", 1, MSG_NOSIGNAL)), T(write(c, "x", 1)),
        T(send(c, "", 0, 0)), T(send(c, "x", 1, MSG_OOB));
    RX(c, 4, 0);
    close(c);
    tcp_pair(&c, &s);
    T(shutdown(c, SHUT_WR));
    T(send(c, "x", 1, 0)), T(write(c, "x", 1)), T(send(c, "x", 1, MSG_NOSIGNAL)),
        T(send(c, "x", 0, 0)), T(send(c, "x", 1, MSG_DONTWAIT));
    signal(SIGPIPE, SIG_IGN);
    T(send(c, "x", 1, 0));
    close(c), close(s);

    section("a full send buffer");
    tcp_pair(&c, &s);
    static char big[65536];
    setint(s, SOL_SOCKET, SO_RCVBUF, 30000);
    long total = 0, r;
    while ((r = send(c, big, sizeof big, MSG_DONTWAIT)) > 0) total += r;
    settle();
    while ((r = send(c, big, sizeof big, MSG_DONTWAIT)) > 0) total += r;
    say("full: %ld %s, more than 100 KB: %d", r, en(errno), total > 100000);
    V(poll1(c, POLLOUT, 0));
    long got = 0;
    while (got < total && (r = recv(s, big, sizeof big, 0)) > 0) got += r;
    V(got == total);
    AW(c, POLLOUT);
    T(send(c, "room", 4, MSG_DONTWAIT));
    return 0;
}
