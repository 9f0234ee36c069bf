// IPPROTO_IP options.
#include "diff.h"

#define GET(s, o) show_get(#o, s, IPPROTO_IP, o)
#define SETGET(s, o, v) show_setget(#o, s, IPPROTO_IP, o, v)

static void all(int s) {
    section("defaults");
    GET(s, IP_TOS), GET(s, IP_TTL), GET(s, IP_MULTICAST_TTL), GET(s, IP_MULTICAST_LOOP),
        GET(s, IP_MULTICAST_ALL), GET(s, IP_RECVERR);
    GET(s, IP_PKTINFO), GET(s, IP_RECVTTL), GET(s, IP_RECVTOS), GET(s, IP_RECVOPTS),
        GET(s, IP_RETOPTS), GET(s, IP_HDRINCL), GET(s, IP_FREEBIND);
    GET(s, IP_TRANSPARENT), GET(s, IP_MTU_DISCOVER), GET(s, IP_MTU), GET(s, IP_RECVORIGDSTADDR),
        GET(s, IP_MINTTL), GET(s, IP_NODEFRAG);
    GET(s, IP_BIND_ADDRESS_NO_PORT), GET(s, IP_CHECKSUM), GET(s, IP_RECVFRAGSIZE),
        GET(s, IP_ROUTER_ALERT), GET(s, IP_PASSSEC), GET(s, IP_UNICAST_IF);
    section("ttl and tos");
    static const int ttl[] = {1, 64, 255, 0, 256, -1, -2, 1000};
    for (int i = 0; i < 8; i++)
        SETGET(s, IP_TTL, ttl[i]), SETGET(s, IP_MINTTL, ttl[i]),
            SETGET(s, IP_MULTICAST_TTL, ttl[i]);
    static const int tos[] = {0, 1, 3, 0x10, 0x08, 0x04, 0x20, 0xb8, 0xff, 256, -1};
    for (int i = 0; i < 11; i++) SETGET(s, IP_TOS, tos[i]);
    say("priority after tos: %d", getint(s, SOL_SOCKET, SO_PRIORITY) >= 0);
    SETGET(s, IP_TOS, 0x10);
    V(getint(s, SOL_SOCKET, SO_PRIORITY));
    SETGET(s, IP_TOS, 0);
    V(getint(s, SOL_SOCKET, SO_PRIORITY));
    section("booleans");
    static const int bv[] = {1, 0, 5, -1, 0};
    for (int i = 0; i < 5; i++) {
        SETGET(s, IP_RECVERR, bv[i]), SETGET(s, IP_PKTINFO, bv[i]), SETGET(s, IP_RECVTTL, bv[i]),
            SETGET(s, IP_RECVTOS, bv[i]);
        SETGET(s, IP_FREEBIND, bv[i]), SETGET(s, IP_MULTICAST_LOOP, bv[i]),
            SETGET(s, IP_MULTICAST_ALL, bv[i]), SETGET(s, IP_RECVORIGDSTADDR, bv[i]);
        SETGET(s, IP_BIND_ADDRESS_NO_PORT, bv[i]), SETGET(s, IP_RECVOPTS, bv[i]),
            SETGET(s, IP_HDRINCL, bv[i]), SETGET(s, IP_NODEFRAG, bv[i]);
        SETGET(s, IP_CHECKSUM, bv[i]), SETGET(s, IP_RECVFRAGSIZE, bv[i]);
    }
    section("path mtu discovery");
    for (int v = -1; v <= 6; v++) SETGET(s, IP_MTU_DISCOVER, v);
    SETGET(s, IP_MTU, 1), SETGET(s, 9999, 1), SETGET(s, -1, 1), SETGET(s, 0, 1);
    section("lengths: one byte will do");
    static const int opts[] = {IP_TTL, IP_TOS, IP_RECVTTL, IP_MULTICAST_TTL, IP_MTU_DISCOVER, 9999};
    for (int o = 0; o < 6; o++)
        for (int len = 0; len <= 6; len++) {
            unsigned char b[8], z[8] = {2};
            memset(b, 0xee, sizeof b);
            errno = 0;
            int r = setsockopt(s, IPPROTO_IP, opts[o], z, len), e = errno;
            socklen_t l = len;
            errno = 0;
            int g = getsockopt(s, IPPROTO_IP, opts[o], b, &l);
            int e2 = errno, touched = 0;
            for (int k = 0; k < 8; k++) touched += b[k] != 0xee;
            say("option %d length %d: set %d %s, get %d %s length %d touched %d first %d", opts[o],
                len, r, en(e), g, en(e2), (int)l, touched, b[0]);
        }
    section("multicast membership errnos");
    struct ip_mreq mr = {{inet_addr("10.0.0.1")}, {htonl(INADDR_LOOPBACK)}};
    T(setsockopt(s, IPPROTO_IP, IP_ADD_MEMBERSHIP, &mr, sizeof mr)),
        T(setsockopt(s, IPPROTO_IP, IP_ADD_MEMBERSHIP, &mr, 4));
    mr.imr_multiaddr.s_addr = inet_addr("239.1.1.1");
    T(setsockopt(s, IPPROTO_IP, IP_DROP_MEMBERSHIP, &mr, sizeof mr));
    T(setsockopt(s, IPPROTO_IP, IP_ADD_MEMBERSHIP, &mr, sizeof mr)),
        T(setsockopt(s, IPPROTO_IP, IP_ADD_MEMBERSHIP, &mr, sizeof mr));
    T(setsockopt(s, IPPROTO_IP, IP_DROP_MEMBERSHIP, &mr, sizeof mr)),
        T(setsockopt(s, IPPROTO_IP, IP_DROP_MEMBERSHIP, &mr, sizeof mr));
    section("IP_OPTIONS");
    unsigned char op[44];
    socklen_t l = sizeof op;
    T(getsockopt(s, IPPROTO_IP, IP_OPTIONS, op, &l));
    V(l);
    memset(op, 1, sizeof op);
    T(setsockopt(s, IPPROTO_IP, IP_OPTIONS, op, 41)),
        T(setsockopt(s, IPPROTO_IP, IP_OPTIONS, op, 0));
}

int main(void) {
    diff_init();
    int s = tcp(), u = sock(SOCK_DGRAM);
    say("---- tcp");
    all(s);
    say("---- udp");
    all(u);
    section("on a connection");
    int c, d;
    tcp_pair(&c, &d);
    SETGET(c, IP_TTL, 44), SETGET(c, IP_TOS, 0x20), SETGET(c, IP_FREEBIND, 1),
        SETGET(c, IP_MTU_DISCOVER, 0), SETGET(c, IP_MTU_DISCOVER, 1);
    int c2, d2;
    tcp_pair(&c2, &d2);
    T(getint(c2, IPPROTO_IP, IP_MTU) > 1000);
    struct sockaddr_in a;
    int v = udp(&a);
    T(connect(u, SA(&a), sizeof a));
    T(getint(u, IPPROTO_IP, IP_MTU) > 1000);
    section("udp options");
    static const int uo[] = {1 /* UDP_CORK */, 103 /* UDP_SEGMENT */, 104 /* UDP_GRO */, 0, 99};
    for (int i = 0; i < 5; i++)
        for (int val = -1; val < 3; val++) {
            errno = 0;
            int r = setint(v, IPPROTO_UDP, uo[i], val), e = errno;
            errno = 0;
            int g = getint(v, IPPROTO_UDP, uo[i]);
            say("udp option %d value %d: set %d %s, get %d %s", uo[i], val, r, en(e), g, en(errno));
        }
    SETGET(v, IP_TTL, 3);
    T(setint(c, IPPROTO_UDP, 1, 1)), T(getint(c, IPPROTO_UDP, 1));
    return 0;
}
