// socket(): families, types, protocols, flags, descriptor numbers, socketpair().
#include "diff.h"

static void probe(int f, int t, int p) {
    errno = NOERR;
    int s = socket(f, t, p), e = errno;
    if (s < 0) {
        say("socket(%d, %#x, %d) -> -1 %s", f, t, p, en(e));
        return;
    }
    say("socket(%d, %#x, %d) -> fd, FD %d FL %#x, domain %d type %d protocol %d%s", f, t, p,
        fcntl(s, F_GETFD), fcntl(s, F_GETFL), getint(s, SOL_SOCKET, SO_DOMAIN),
        getint(s, SOL_SOCKET, SO_TYPE), getint(s, SOL_SOCKET, SO_PROTOCOL),
        e != NOERR ? " [errno changed]" : "");
    close(s);
}

int main(void) {
    diff_init();
    section("families");
    static const int fam[] = {0, 1, 2, 10, 16, 46, 47, 50, 255, 1000, -1, INT_MAX, INT_MIN};
    for (unsigned i = 0; i < sizeof fam / sizeof *fam; i++)
        probe(fam[i], SOCK_STREAM, 0), probe(fam[i], SOCK_DGRAM, 0);
    section("types");
    for (int t = -1; t <= 16; t++) probe(AF_INET, t, 0);
    for (int t = -1; t <= 12; t++)
        if (t != 10) probe(0, t, 0);
    section("bad family and bad type: which first");
    probe(-1, -1, -1), probe(99, 77, 0), probe(AF_INET, 77, -1), probe(AF_INET, 6, 9999);
    section("protocols");
    static const int pr[] = {0,   1,   2,   4,   6,   17,   41, 58,      136,
                             255, 256, 261, 263, 264, 1000, -1, INT_MAX, INT_MIN};
    for (unsigned i = 0; i < sizeof pr / sizeof *pr; i++) {
        if (pr[i] != 1 && pr[i] != 58) probe(AF_INET, SOCK_DGRAM, pr[i]);
        probe(AF_INET, SOCK_STREAM, pr[i]);
        if (pr[i] == 0) probe(AF_INET, SOCK_RAW, pr[i]);
        probe(AF_INET, SOCK_SEQPACKET, pr[i] == 132 ? 0 : pr[i]);
        probe(AF_INET, SOCK_RDM, pr[i]);
    }
    section("flags");
    static const int fl[] = {SOCK_NONBLOCK, SOCK_CLOEXEC, SOCK_NONBLOCK | SOCK_CLOEXEC,
                             0x10,          0x100,        0x400,
                             0x1000,        0x100000,     O_APPEND,
                             O_ASYNC};
    for (unsigned i = 0; i < sizeof fl / sizeof *fl; i++) {
        probe(AF_INET, SOCK_STREAM | fl[i], 0);
        probe(AF_INET, SOCK_DGRAM | fl[i], 0);
        probe(99, SOCK_STREAM | fl[i], 0);
    }
    section("lowest number");
    int a = open("/dev/null", O_RDONLY);
    close(a);
    int s = tcp();
    V(s == a);
    int u = sock(SOCK_DGRAM);
    V(u == a + 1);
    close(s);
    s = sock(SOCK_DGRAM);
    V(s == a);
    struct sockaddr_in la;
    int l = listener(4, &la), c = dial(&la);
    V(l == a + 2);
    V(c == a + 3);
    close(u);
    int n = accept(l, 0, 0);
    V(n == a + 1);
    T(close(n)), T(close(n)), T(close(c)), T(close(l)), T(close(s)), T(close(s));

    section("descriptor limit");
    struct rlimit old, lim;
    getrlimit(RLIMIT_NOFILE, &old);
    l = listener(4, &la);
    c = dial(&la);
    lim = old;
    lim.rlim_cur = c + 1;
    setrlimit(RLIMIT_NOFILE, &lim);
    T(socket(AF_INET, SOCK_STREAM, 0));
    T(socket(AF_INET, SOCK_DGRAM, 0));
    T(socket(AF_INET, 99, 0));
    T(socket(99, SOCK_STREAM, 0));
    T(accept(l, 0, 0));
    T(dup(c));
    setrlimit(RLIMIT_NOFILE, &old);
    F(n = accept(l, 0, 0));
    T(send(c, "after", 5, 0));
    RX(n, 16, 0);
    close(n), close(c), close(l);

    section("socketpair");
    int sv[2] = {-7, -7};
    T(socketpair(AF_INET, SOCK_STREAM, 0, sv));
    T(socketpair(AF_INET, SOCK_DGRAM, 0, sv));
    T(socketpair(AF_INET, SOCK_STREAM, 17, sv));
    T(socketpair(AF_INET, SOCK_STREAM | 0x10, 0, sv));
    T(socketpair(AF_INET, 99, 0, sv));
    T(socketpair(99, SOCK_STREAM, 0, sv));
    V(sv[0]), V(sv[1]);
    a = open("/dev/null", O_RDONLY);
    V(a == s);
    close(a);
    T(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv));
    V(sv[0] == s), V(fcntl(sv[0], F_GETFD));
    section("many");
    need_descriptors(1024);
    int many[300], bad = 0;
    for (int i = 0; i < 300; i++)
        bad += (many[i] = socket(AF_INET, i & 1 ? SOCK_STREAM : SOCK_DGRAM, 0)) < 0;
    V(bad);
    for (int i = 0; i < 300; i++) bad += close(many[i]) != 0;
    V(bad);
    return 0;
}
