// The fortified forms of the calls (-D_FORTIFY_SOURCE=2): sizes are known, lengths are not constant.
#include "diff.h"

static volatile int n10 = 10, n0 = 0;

int main(void) {
    diff_init();
#if !defined __USE_FORTIFY_LEVEL || __USE_FORTIFY_LEVEL < 2
#error this one must be compiled with -O2 -D_FORTIFY_SOURCE=2
#endif
    char b[10];
    int c, s, u, v;
    tcp_pair(&c, &s), udp_pair(&u, &v);
    section("read, recv, recvfrom");
    T(send(c, "0123456789abcdefghij0123456789", 30, 0));
    AW(s, POLLIN);
    T(read(s, b, n10));
    bytes("b", b, 10);
    T(recv(s, b, n10, 0));
    bytes("b", b, 10);
    T(recvfrom(s, b, n10, MSG_PEEK, 0, 0)), T(recvfrom(s, b, n10, 0, 0, 0));
    bytes("b", b, 10);
    T(recv(s, b, n10, MSG_DONTWAIT)), T(read(s, b, n0)), T(read(9999, b, n10)),
        T(recv(9999, b, n10, 0)), T(recv(1, b, n10, 0));
    struct sockaddr_in a;
    socklen_t l = sizeof a;
    T(send(u, "datagram", 8, 0));
    T(recvfrom(v, b, n10, 0, SA(&a), &l));
    say("%s", addr_str(&a, l));
    T(pread(s, b, n10, 0));
    section("poll, ppoll, select");
    struct pollfd p[3] = {{s, POLLIN, 0}, {v, POLLIN, 0}, {c, POLLOUT, 0}};
    volatile int three = 3;
    struct timespec ts = {0, 0};
    T(poll(p, three, 0)), T(ppoll(p, three, &ts, 0));
    T(send(c, "x", 1, 0));
    settle();
    T(poll(p, three, 100));
    say("%s %s %s", pbits(p[0].revents), pbits(p[1].revents), pbits(p[2].revents));
    fd_set f;
    volatile int fd = s;
    FD_ZERO(&f);
    FD_SET(fd, &f);
    struct timeval tv = {0, 0};
    T(select(fd + 1, &f, 0, 0, &tv));
    V(FD_ISSET(fd, &f) != 0);
    RX(s, 4, 0);
    section("stdio on a socket");
    FILE *o = fdopen(dup(c), "w"), *i = fdopen(dup(s), "r");
    volatile int size = 32;
    char line[32];
    fprintf(o, "%s %d\n", "formatted", n10);
    fflush(o);
    V(fgets(line, size, i) != 0), say("%s", strtok(line, "\n"));
    fputs("0123456789\n", o), fflush(o);
    V(fread(b, 1, n10, i));
    bytes("b", b, 10);
    dprintf(c, "%d\n", 42);
    V(fgets(line, size, i) != 0), V(fgets(line, size, i) != 0), say("%s", strtok(line, "\n"));
    fclose(o), fclose(i);
    section("too long a length is caught");
    for (int k = 0; k < 4; k++) {
        pid_t q = fork();
        if (q == 0) {
            int dn = open("/dev/null", O_WRONLY);
            dup2(dn, 2);
            struct rlimit none = {0, 0};
            setrlimit(RLIMIT_CORE, &none);
            volatile int big = 11, four = 4;
            send(u, "d", 1, 0);
            if (k == 0)
                recv(v, b, big, 0);
            else if (k == 1)
                read(v, b, big);
            else if (k == 2)
                recvfrom(v, b, big, 0, 0, 0);
            else
                poll(p, four, 0);
            bytes("b", b, 1);
            _exit(0);
        }
        reap(q);
    }
    return 0;
}
