// SOL_SOCKET options: defaults that are stable, set then get, lengths, errnos.
#include "diff.h"

static void lens(const char* name, int s, int level, int opt, int v) {
    unsigned char b[64], set[64];
    static const int ls[] = {-1, 0, 1, 2, 3, 4, 5, 8, 16, 60};
    char out[600] = "";
    memset(set, 0, sizeof set);
    memcpy(set, &v, 4);
    for (unsigned i = 0; i < sizeof ls / sizeof *ls; i++) {
        errno = 0;
        int r = setsockopt(s, level, opt, set, ls[i]);
        sprintf(out + strlen(out), " %d:%s", ls[i], r ? en(errno) : "0");
    }
    say("%s set by length:%s", name, out);
    out[0] = 0;
    for (unsigned i = 0; i < sizeof ls / sizeof *ls; i++) {
        socklen_t l = ls[i];
        memset(b, 0xee, sizeof b);
        errno = 0;
        int r = getsockopt(s, level, opt, b, &l);
        int touched = 0;
        for (int k = 0; k < 64; k++)
            if (b[k] != 0xee) touched = k + 1;
        sprintf(out + strlen(out), " %d:%s/%d/%d", ls[i], r ? en(errno) : "0", (int)l, touched);
    }
    say("%s get by length (result/length/bytes touched):%s", name, out);
}
#define GET(s, o) show_get(#o, s, SOL_SOCKET, o)
#define SETGET(s, o, v) show_setget(#o, s, SOL_SOCKET, o, v)

static void common(int s) {
    section("defaults");
    GET(s, SO_TYPE), GET(s, SO_DOMAIN), GET(s, SO_PROTOCOL), GET(s, SO_ERROR),
        GET(s, SO_ACCEPTCONN), GET(s, SO_REUSEADDR);
    GET(s, SO_REUSEPORT), GET(s, SO_KEEPALIVE), GET(s, SO_BROADCAST), GET(s, SO_DONTROUTE),
        GET(s, SO_OOBINLINE), GET(s, SO_RCVLOWAT);
    GET(s, SO_SNDLOWAT), GET(s, SO_PRIORITY), GET(s, SO_MARK), GET(s, SO_TIMESTAMP),
        GET(s, SO_TIMESTAMPNS), GET(s, SO_TIMESTAMPING);
    GET(s, SO_NO_CHECK), GET(s, SO_DEBUG), GET(s, SO_LOCK_FILTER);
    GET(s, SO_RXQ_OVFL), GET(s, SO_SELECT_ERR_QUEUE), GET(s, SO_BSDCOMPAT), GET(s, SO_WIFI_STATUS),
        GET(s, SO_NOFCS), GET(s, SO_ZEROCOPY);
    V(getint(s, SOL_SOCKET, SO_TXREHASH) >= -1);
    say("default buffers at least 16 KiB: %d %d", getint(s, SOL_SOCKET, SO_SNDBUF) >= 16384,
        getint(s, SOL_SOCKET, SO_RCVBUF) >= 16384);
    section("unknown and read-only ones");
    static const int odd[] = {0, 79, 200, 9999, -1};
    for (int i = 0; i < 5; i++) {
        int v = 1;
        socklen_t l = 4;
        errno = 0;
        int r = setsockopt(s, SOL_SOCKET, odd[i], &v, 4), e = errno;
        int g = getsockopt(s, SOL_SOCKET, odd[i], &v, &l);
        say("option %d: set %d %s, get %d %s", odd[i], r, en(e), g, en(errno));
    }
    SETGET(s, SO_TYPE, 1), SETGET(s, SO_PROTOCOL, 1), SETGET(s, SO_DOMAIN, 1),
        SETGET(s, SO_ERROR, 1), SETGET(s, SO_ACCEPTCONN, 1);
    SETGET(s, SO_SNDLOWAT, 5), SETGET(s, SO_PEERCRED, 1), SETGET(s, SO_PEERNAME, 1);
    section("booleans");
    static const int vals[] = {1, 0, 7, -1, 256, 0};
    for (int i = 0; i < 6; i++) {
        int v = vals[i];
        SETGET(s, SO_REUSEADDR, v), SETGET(s, SO_REUSEPORT, v), SETGET(s, SO_KEEPALIVE, v),
            SETGET(s, SO_BROADCAST, v);
        SETGET(s, SO_DONTROUTE, v), SETGET(s, SO_OOBINLINE, v), SETGET(s, SO_TIMESTAMP, v),
            SETGET(s, SO_NO_CHECK, v);
        SETGET(s, SO_BSDCOMPAT, v), SETGET(s, SO_RXQ_OVFL, v), SETGET(s, SO_SELECT_ERR_QUEUE, v);
    }
    SETGET(s, SO_TIMESTAMP, 1), GET(s, SO_TIMESTAMPNS), SETGET(s, SO_TIMESTAMPNS, 1),
        GET(s, SO_TIMESTAMP), SETGET(s, SO_TIMESTAMPNS, 0);
    section("SO_ZEROCOPY");
    SETGET(s, SO_ZEROCOPY, 2), SETGET(s, SO_ZEROCOPY, 1), SETGET(s, SO_ZEROCOPY, 0);
    section("buffers");
    static const int bufs[] = {0,     1,     1000,   2303,   2304, 4000,   4608,
                               10000, 65536, 100000, 106496, -1,   INT_MIN};
    for (unsigned i = 0; i < sizeof bufs / sizeof *bufs; i++) {
        if (bufs[i] >= 0) SETGET(s, SO_SNDBUF, bufs[i]), SETGET(s, SO_RCVBUF, bufs[i]);
    }
    section("priority");
    static const int pr[] = {0, 1, 6, -1};
    for (int i = 0; i < 3; i++) SETGET(s, SO_PRIORITY, pr[i]);
    section("low water");
    static const int lw[] = {1, 2, 1000, 0, -1, INT_MAX, 1};
    for (int i = 0; i < 7; i++) SETGET(s, SO_RCVLOWAT, lw[i]);
    if (getint(s, SOL_SOCKET, SO_TYPE) == SOCK_DGRAM) { // on TCP only since Linux 6.9
        section("peek offset");
        SETGET(s, SO_PEEK_OFF, 5), SETGET(s, SO_PEEK_OFF, 0), SETGET(s, SO_PEEK_OFF, -1);
    }
    section("linger");
    static const struct linger lg[] = {{1, 5},    {0, 9},      {1, 0}, {7, 3},
                                       {-1, 100}, {1, 100000}, {0, 0}};
    for (int i = 0; i < 7; i++) {
        struct linger g = {-9, -9};
        socklen_t l = sizeof g;
        errno = 0;
        int r = setsockopt(s, SOL_SOCKET, SO_LINGER, &lg[i], sizeof lg[i]), e = errno;
        getsockopt(s, SOL_SOCKET, SO_LINGER, &g, &l);
        say("linger %d,%d -> %d %s, get %d,%d len %u", lg[i].l_onoff, lg[i].l_linger, r, en(e),
            g.l_onoff, g.l_linger, l);
    }
    section("timeouts");
    static const struct timeval tv[] = {
        {1, 500000}, {0, 0},   {0, 1},         {0, 999999},        {0, 1000000}, {0, -1},
        {-1, 0},     {100, 0}, {1LL << 40, 0}, {LONG_MAX, 999999}, {0, 0}};
    for (unsigned i = 0; i < sizeof tv / sizeof *tv; i++)
        for (int o = 0; o < 2; o++) {
            struct timeval g = {-9, -9};
            socklen_t l = sizeof g;
            errno = 0;
            int r = setsockopt(s, SOL_SOCKET, o ? SO_SNDTIMEO : SO_RCVTIMEO, &tv[i], sizeof *tv),
                e = errno;
            getsockopt(s, SOL_SOCKET, o ? SO_SNDTIMEO : SO_RCVTIMEO, &g, &l);
            if (tv[i].tv_usec == 1) // rounded up to a clock tick
                say("timeo 1 us -> %d %s, get > 0: %d", r, en(e), g.tv_usec > 0);
            else if (tv[i].tv_usec == 999999)
                say("timeo %ld,999999 -> %d %s, get sec %ld", (long)tv[i].tv_sec, r, en(e),
                    (long)g.tv_sec);
            else
                say("%s %ld,%ld -> %d %s, get %ld,%ld len %u", o ? "SNDTIMEO" : "RCVTIMEO",
                    (long)tv[i].tv_sec, (long)tv[i].tv_usec, r, en(e), (long)g.tv_sec,
                    (long)g.tv_usec, l);
        }
    section("lengths");
    lens("SO_REUSEADDR", s, SOL_SOCKET, SO_REUSEADDR, 0),
        lens("SO_KEEPALIVE", s, SOL_SOCKET, SO_KEEPALIVE, 0);
    lens("SO_LINGER", s, SOL_SOCKET, SO_LINGER, 0),
        lens("SO_RCVTIMEO", s, SOL_SOCKET, SO_RCVTIMEO, 0),
        lens("SO_TYPE", s, SOL_SOCKET, SO_TYPE, 0);
    lens("SO_ERROR", s, SOL_SOCKET, SO_ERROR, 0),
        lens("SO_RCVLOWAT", s, SOL_SOCKET, SO_RCVLOWAT, 1);
    lens("SO_BINDTODEVICE", s, SOL_SOCKET, SO_BINDTODEVICE, 0);
    section("other levels");
    for (int lv = -1; lv < 300; lv += 43) {
        if (lv == 0 || lv == 1 || lv == 6 || lv == 17) continue;
        int v = 1;
        socklen_t l = 4;
        errno = 0;
        int r = setsockopt(s, lv, 1, &v, 4), e = errno;
        int g = getsockopt(s, lv, 1, &v, &l);
        say("level %d: set %d %s, get %d %s", lv, r, en(e), g, en(errno));
    }
}

int main(void) {
    diff_init();
    section("errnos");
    int v = 1, p[2];
    socklen_t l = 4;
    T(pipe(p));
    T(setsockopt(-1, SOL_SOCKET, SO_REUSEADDR, &v, 4)), T(setsockopt(9999, 77, 77, &v, 4)),
        T(setsockopt(p[0], SOL_SOCKET, SO_REUSEADDR, &v, 4));
    T(getsockopt(-1, SOL_SOCKET, SO_REUSEADDR, &v, &l)), T(getsockopt(9999, 77, 77, &v, &l)),
        T(getsockopt(p[0], SOL_SOCKET, SO_TYPE, &v, &l));
    int s = tcp(), u = sock(SOCK_DGRAM);
    say("---- tcp");
    common(s);
    say("---- udp");
    common(u);
    section("states");
    int c, d;
    struct sockaddr_in a;
    int li = listener(1, &a);
    GET(li, SO_ACCEPTCONN);
    tcp_pair(&c, &d);
    GET(c, SO_ACCEPTCONN), GET(c, SO_TYPE), GET(d, SO_PROTOCOL), GET(d, SO_REUSEADDR),
        GET(d, SO_ERROR);
    SETGET(li, SO_RCVLOWAT, 3), SETGET(c, SO_REUSEADDR, 1), SETGET(c, SO_REUSEPORT, 1);
    struct sockaddr_in pn;
    l = sizeof pn;
    T(getsockopt(c, SOL_SOCKET, SO_PEERNAME, &pn, &l));
    say("SO_PEERNAME: %s", addr_str(&pn, l));
    l = sizeof pn;
    T(getsockopt(s, SOL_SOCKET, SO_PEERNAME, &pn, &l));
    l = 4;
    T(getsockopt(c, SOL_SOCKET, SO_PEERNAME, &pn, &l));
    struct ucred {
        int pid, uid, gid;
    } cr;
    l = sizeof cr;
    T(getsockopt(c, SOL_SOCKET, SO_PEERCRED, &cr, &l));
    say("SO_PEERCRED of tcp: %d %d %d len %u", cr.pid, cr.uid, cr.gid, l);
    section("SO_RCVLOWAT at work");
    setint(d, SOL_SOCKET, SO_RCVLOWAT, 5);
    T(send(c, "abc", 3, 0));
    settle();
    V(poll1(d, POLLIN, 0));
    T(send(c, "de", 2, 0));
    AW(d, POLLIN);
    RX(d, 16, 0);
    section("bind to a device");
    l = 16;
    char dev[16] = "";
    T(setsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, "nosuchdev0", 11));
    T(getsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, dev, &l));
    V(l);
    return 0;
}
