// Urgent data: MSG_OOB, the mark, SO_OOBINLINE, POLLPRI, SIGURG.
#include "diff.h"

static volatile sig_atomic_t urg;
static void on_urg(int sig) {
    (void)sig;
    urg++;
}
static int c, s;
static int mark(void) {
    int n = -1;
    return ioctl(s, 0x8905 /* SIOCATMARK */, &n) < 0 ? -1 : n;
}

int main(void) {
    diff_init();
    signal(SIGURG, on_urg);
    section("nothing urgent");
    tcp_pair(&c, &s);
    RX(s, 4, MSG_OOB);
    V(mark());
    V(sockatmark(s));
    section("one urgent byte in the middle");
    T(send(c, "abc", 3, 0)), T(send(c, "X", 1, MSG_OOB)), T(send(c, "def", 3, 0));
    settle();
    PALL(s);
    V(mark());
    RX(s, 16, MSG_PEEK);
    RX(s, 1, MSG_OOB | MSG_PEEK), RX(s, 16, MSG_OOB), RX(s, 1, MSG_OOB);
    PALL(s);
    RX(s, 16, 0); // stops at the mark
    V(mark());
    V(sockatmark(s));
    RX(s, 16, 0);
    V(mark());
    PALL(s);
    RX(s, 1, MSG_OOB);
    section("the last byte of a piece is the urgent one");
    T(send(c, "urgent", 6, MSG_OOB));
    settle();
    RX(s, 4, MSG_OOB);
    RX(s, 16, 0);
    V(mark());
    RX(s, 16, MSG_DONTWAIT);
    V(mark());
    section("a new one replaces the old");
    T(send(c, "1", 1, MSG_OOB)), T(send(c, "ab", 2, 0)), T(send(c, "2", 1, MSG_OOB)),
        T(send(c, "cd", 2, 0));
    settle();
    RX(s, 4, MSG_OOB);
    RX(s, 16, 0), V(mark()), RX(s, 16, 0), RX(s, 16, MSG_DONTWAIT);
    section("in line");
    T(setint(s, SOL_SOCKET, SO_OOBINLINE, 1));
    T(send(c, "abc", 3, 0)), T(send(c, "X", 1, MSG_OOB)), T(send(c, "def", 3, 0));
    settle();
    RX(s, 4, MSG_OOB);
    PALL(s);
    RX(s, 16, 0);
    V(mark());
    PALL(s);
    RX(s, 16, 0);
    V(mark());
    T(setint(s, SOL_SOCKET, SO_OOBINLINE, 0));
    section("read past an unread urgent byte");
    T(send(c, "p", 1, 0)), T(send(c, "U", 1, MSG_OOB)), T(send(c, "q", 1, 0));
    settle();
    RX(s, 1, 0), RX(s, 4, 0);
    RX(s, 1, MSG_OOB);
    section("select's exception set");
    T(send(c, "E", 1, MSG_OOB));
    settle();
    fd_set x;
    FD_ZERO(&x);
    FD_SET(s, &x);
    struct timeval tv = {1, 0};
    T(select(s + 1, 0, 0, &x, &tv));
    RX(s, 1, MSG_OOB);
    FD_SET(s, &x);
    tv.tv_sec = 0;
    T(select(s + 1, 0, 0, &x, &tv));
    section("waiting for POLLPRI");
    int pid = fork();
    if (pid == 0) {
        alarm(5);
        wait_asleep(getppid());
        send(c, "P", 1, MSG_OOB);
        _exit(0);
    }
    say("poll: %s", pbits(poll1(s, POLLPRI, 5000)));
    reap(pid);
    RX(s, 4, MSG_OOB);
    section("SIGURG");
    V(urg); // nobody owns it yet
    T(fcntl(s, F_SETOWN, getpid()));
    T(send(c, "S", 1, MSG_OOB));
    for (int i = 0; i < 200 && !urg; i++) nap(5);
    V(urg);
    RX(s, 1, MSG_OOB);
    T(fcntl(s, F_SETOWN, 0));
    T(send(c, "T", 1, MSG_OOB));
    settle();
    V(urg);
    section("recvmsg says MSG_OOB");
    char b[4];
    struct iovec iov = {b, 4};
    struct msghdr m = {0, 0, &iov, 1, 0, 0, 0};
    T(recvmsg(s, &m, MSG_OOB));
    say("flags %#x", m.msg_flags);
    section("urgent and end of file");
    recv(s, (char[8]){0}, 8, MSG_DONTWAIT);
    T(send(c, "Z", 1, MSG_OOB)), T(shutdown(c, SHUT_WR));
    settle();
    PALL(s);
    RX(s, 1, MSG_OOB);
    RX(s, 8, 0), RX(s, 8, 0), RX(s, 1, MSG_OOB);
    close(c), close(s);
    section("on sockets where it makes no sense");
    int l = listener(1, 0), u = udp(0), f = tcp();
    RX(l, 1, MSG_OOB), RX(u, 1, MSG_OOB | MSG_DONTWAIT), RX(f, 1, MSG_OOB);
    T(send(f, "x", 1, MSG_OOB | MSG_NOSIGNAL)), T(send(u, "x", 1, MSG_OOB));
    return 0;
}
