// IPPROTO_TCP options.
#include "diff.h"

#define GET(s, o) show_get(#o, s, IPPROTO_TCP, o)
#define SETGET(s, o, v) show_setget(#o, s, IPPROTO_TCP, o, v)

int main(void) {
    diff_init();
    int s = tcp(), c, d, u = udp(0);
    struct sockaddr_in la;
    section("defaults");
    GET(s, TCP_NODELAY), GET(s, TCP_CORK), GET(s, TCP_DEFER_ACCEPT), GET(s, TCP_USER_TIMEOUT),
        GET(s, TCP_WINDOW_CLAMP);
    GET(s, TCP_QUICKACK), GET(s, TCP_FASTOPEN), GET(s, TCP_FASTOPEN_CONNECT), GET(s, TCP_REPAIR);
    GET(s, TCP_NOTSENT_LOWAT), GET(s, TCP_INQ), GET(s, TCP_THIN_LINEAR_TIMEOUTS),
        GET(s, TCP_THIN_DUPACK);
    GET(s, TCP_MAXSEG);
    section("booleans");
    static const int vals[] = {1, 0, 7, -1, 0};
    for (int i = 0; i < 5; i++) {
        SETGET(s, TCP_NODELAY, vals[i]), SETGET(s, TCP_CORK, vals[i]),
            SETGET(s, TCP_QUICKACK, vals[i]), SETGET(s, TCP_INQ, vals[i]);
        SETGET(s, TCP_THIN_LINEAR_TIMEOUTS, vals[i]), SETGET(s, TCP_THIN_DUPACK, vals[i]);
    }
    section("ranges");
    static const int ki[] = {1, 10, 7200, 32767, 32768, 0, -1};
    for (int i = 0; i < 7; i++) SETGET(s, TCP_KEEPIDLE, ki[i]), SETGET(s, TCP_KEEPINTVL, ki[i]);
    static const int kc[] = {1, 9, 127, 128, 0, -1};
    for (int i = 0; i < 6; i++) SETGET(s, TCP_KEEPCNT, kc[i]), SETGET(s, TCP_SYNCNT, kc[i]);
    static const int ut[] = {0, 1, 12345, INT_MAX, -1, 0};
    for (int i = 0; i < 6; i++) SETGET(s, TCP_USER_TIMEOUT, ut[i]);
    static const int l2[] = {5, 30, -1, -5};
    for (int i = 0; i < 4; i++) SETGET(s, TCP_LINGER2, l2[i]);
    static const int ms[] = {88, 500, 1400, 32767, 87, 0, 1, -1, 32768, 65535};
    for (int i = 0; i < 10; i++) SETGET(s, TCP_MAXSEG, ms[i]);
    static const int da[] = {1, 3, 5, 30, 0, -1};
    for (int i = 0; i < 6; i++) SETGET(s, TCP_DEFER_ACCEPT, da[i]);
    SETGET(s, TCP_NOTSENT_LOWAT, 16384), SETGET(s, TCP_NOTSENT_LOWAT, 0);
    SETGET(s, TCP_INFO, 1), SETGET(s, 9999, 1), SETGET(s, 0, 1), SETGET(s, -1, 1);
    SETGET(u, TCP_NODELAY, 1), SETGET(u, TCP_CORK, 1);
    section("window clamp");
    SETGET(s, TCP_WINDOW_CLAMP, 0), SETGET(s, TCP_WINDOW_CLAMP, 50000);
    section("congestion control names");
    char name[32];
    socklen_t l;
    static const char* names[] = {"reno", "nosuchcc", "", "renox",
                                  "a-name-that-is-much-too-long-for-this"};
    for (int i = 0; i < 5; i++) {
        errno = 0;
        int r = setsockopt(s, IPPROTO_TCP, TCP_CONGESTION, names[i], strlen(names[i])), e = errno;
        memset(name, '.', sizeof name);
        l = sizeof name;
        int g = getsockopt(s, IPPROTO_TCP, TCP_CONGESTION, name, &l);
        if (i == 0 || r)
            say("set '%s' -> %d %s; get %d len %u '%.16s'", names[i], r, en(e), g, l, name);
        else
            say("set '%s' -> %d", names[i], r);
    }
    setsockopt(s, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
    static const int gl[] = {0, 1, 4, 5, 15, 16, 17, 100, -1};
    for (int i = 0; i < 9; i++) {
        char big[128];
        memset(big, '.', sizeof big);
        l = gl[i];
        errno = 0;
        int r = getsockopt(s, IPPROTO_TCP, TCP_CONGESTION, big, &l);
        say("get name, length %d -> %d %s, length %d", gl[i], r, en(errno), (int)l);
        bytes("buffer", big, 18);
    }
    T(setsockopt(s, IPPROTO_TCP, TCP_CONGESTION, "reno", 0)),
        T(setsockopt(s, IPPROTO_TCP, TCP_CONGESTION, "reno\0\0\0\0", 8));
    T(setsockopt(s, IPPROTO_TCP, TCP_CONGESTION, "renofoo", 4));
    section("lengths");
    static const int opts[] = {TCP_NODELAY, TCP_MAXSEG, TCP_KEEPIDLE, TCP_INFO, TCP_QUICKACK};
    for (int o = 0; o < 5; o++)
        for (int len = -1; len <= 9; len++) {
            unsigned char b[16], z[16] = {1};
            memset(b, 0xee, sizeof b);
            errno = 0;
            int r = len == 9 ? 0 : setsockopt(s, IPPROTO_TCP, opts[o], z, len), e = errno;
            l = len;
            errno = 0;
            int g = getsockopt(s, IPPROTO_TCP, opts[o], b, &l);
            int touched = 0;
            for (int k = 0; k < 16; k++) touched += b[k] != 0xee;
            say("option %d length %d: set %d %s, get %d %s length %d touched %d", opts[o], len, r,
                en(e), g, en(errno), (int)l, touched);
        }
    section("TCP_INFO");
    struct tcp_info ti;
    memset(&ti, 0xee, sizeof ti);
    l = sizeof ti;
    T(getsockopt(s, IPPROTO_TCP, TCP_INFO, &ti, &l));
    V(l == sizeof ti), V(ti.tcpi_state);
    int li = listener(3, &la);
    l = sizeof ti;
    T(getsockopt(li, IPPROTO_TCP, TCP_INFO, &ti, &l));
    V(ti.tcpi_state), V(ti.tcpi_unacked), V(ti.tcpi_sacked);
    c = dial(&la);
    settle();
    l = sizeof ti;
    getsockopt(li, IPPROTO_TCP, TCP_INFO, &ti, &l);
    V(ti.tcpi_unacked), V(ti.tcpi_sacked);
    d = accept(li, 0, 0);
    l = sizeof ti;
    getsockopt(c, IPPROTO_TCP, TCP_INFO, &ti, &l);
    V(ti.tcpi_state), V(ti.tcpi_ca_state), V(ti.tcpi_retransmits), V(ti.tcpi_unacked),
        V(ti.tcpi_lost), V(ti.tcpi_total_retrans);
    l = 8;
    memset(&ti, 0xee, sizeof ti);
    T(getsockopt(c, IPPROTO_TCP, TCP_INFO, &ti, &l));
    V(l), V(((unsigned char*)&ti)[8] == 0xee);
    static const char* st[] = {"?",          "ESTABLISHED", "SYN_SENT",  "SYN_RECV",
                               "FIN_WAIT1",  "FIN_WAIT2",   "TIME_WAIT", "CLOSE",
                               "CLOSE_WAIT", "LAST_ACK",    "LISTEN",    "CLOSING"};
#define STATE(x)                                                                                   \
    l = sizeof ti;                                                                                 \
    getsockopt(x, IPPROTO_TCP, TCP_INFO, &ti, &l);                                                 \
    say("state(" #x ") = %s", ti.tcpi_state < 12 ? st[ti.tcpi_state] : "?")
    STATE(c);
    STATE(d);
    T(shutdown(c, SHUT_WR));
    settle();
    STATE(c);
    STATE(d);
    T(shutdown(d, SHUT_WR));
    settle();
    STATE(c);
    STATE(d);
    close(c), close(d);
    section("maxseg before connect limits the segment");
    c = tcp();
    T(setint(c, IPPROTO_TCP, TCP_MAXSEG, 1000));
    T(connect(c, SA(&la), sizeof la));
    d = accept(li, 0, 0);
    V(getint(d, IPPROTO_TCP, TCP_MAXSEG) <= 1000), V(getint(c, IPPROTO_TCP, TCP_MAXSEG) <= 1000);
    close(c), close(d);
    section("deferred accept");
    T(setint(li, IPPROTO_TCP, TCP_DEFER_ACCEPT, 5));
    c = dial(&la);
    V(poll1(li, POLLIN, 80));
    T(send(c, "now", 3, 0));
    AW(li, POLLIN);
    d = accept(li, 0, 0);
    RX(d, 8, MSG_DONTWAIT);
    close(c), close(d), close(li);
    section("quick ack on a connection");
    tcp_pair(&c, &d);
    T(setint(c, IPPROTO_TCP, TCP_QUICKACK, 1));
    GET(c, TCP_QUICKACK);
    T(setint(c, IPPROTO_TCP, TCP_QUICKACK, 0));
    GET(c, TCP_QUICKACK);
    SETGET(c, TCP_SYNCNT, 3), SETGET(c, TCP_KEEPIDLE, 33), SETGET(c, TCP_DEFER_ACCEPT, 1),
        SETGET(c, TCP_USER_TIMEOUT, 4444);
    section("TCP_INQ");
    T(setint(d, IPPROTO_TCP, TCP_INQ, 1));
    T(send(c, "0123456789", 10, 0));
    AW(d, POLLIN);
    char b[8], ctl[64];
    struct iovec iov = {b, 4};
    struct msghdr m = {0, 0, &iov, 1, ctl, sizeof ctl, 0};
    T(recvmsg(d, &m, 0));
    struct cmsghdr* h = CMSG_FIRSTHDR(&m);
    if (h)
        say("cmsg level %d type %d len %zu value %d", h->cmsg_level, h->cmsg_type, h->cmsg_len,
            *(int*)CMSG_DATA(h));
    return 0;
}
