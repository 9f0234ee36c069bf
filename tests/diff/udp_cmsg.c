// Control messages on UDP: pktinfo, ttl, tos, timestamps; on receive and on send; truncated control buffers.
#include "diff.h"

static int u, v;
static struct sockaddr_in ua;

static void show(const char* what, size_t room, int flags) {
    char b[32], ctl[256];
    struct sockaddr_in a;
    struct iovec iov = {b, sizeof b};
    struct msghdr m = {&a, sizeof a, &iov, 1, ctl, room, 0};
    memset(ctl, 0, sizeof ctl);
    errno = NOERR;
    long r = recvmsg(u, &m, flags);
    say("%s: room %zu -> %ld %s, flags %#x, controllen %zu", what, room, r, en(errno), m.msg_flags,
        (size_t)m.msg_controllen);
    for (struct cmsghdr* h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
        if (h->cmsg_level == IPPROTO_IP && h->cmsg_type == IP_PKTINFO &&
            h->cmsg_len >= CMSG_LEN(sizeof(struct in_pktinfo))) {
            struct in_pktinfo* p = (void*)CMSG_DATA(h);
            char d[32], s[32];
            strcpy(d, inet_ntoa(p->ipi_addr)), strcpy(s, inet_ntoa(p->ipi_spec_dst));
            say("  PKTINFO ifindex %d addr %s spec %s", p->ipi_ifindex, d, s);
        } else if (h->cmsg_level == IPPROTO_IP && h->cmsg_type == IP_ORIGDSTADDR)
            say("  ORIGDSTADDR %s", addr_str(CMSG_DATA(h), h->cmsg_len - CMSG_LEN(0)));
        else if (h->cmsg_level == SOL_SOCKET)
            say("  SOL_SOCKET type %d len %zu", h->cmsg_type, h->cmsg_len);
        else if (h->cmsg_len == CMSG_LEN(1))
            say("  level %d type %d byte %d", h->cmsg_level, h->cmsg_type, *CMSG_DATA(h));
        else
            say("  level %d type %d len %zu int %d", h->cmsg_level, h->cmsg_type, h->cmsg_len,
                *(int*)CMSG_DATA(h));
    }
}
static long with(int level, int type, const void* data, size_t n, size_t len) {
    char ctl[128] = {0};
    struct iovec iov = {"cm", 2};
    struct msghdr m = {&ua, sizeof ua, &iov, 1, ctl, CMSG_SPACE(n), 0};
    struct cmsghdr* h = (void*)ctl;
    h->cmsg_level = level, h->cmsg_type = type, h->cmsg_len = len ? len : CMSG_LEN(n);
    memcpy(CMSG_DATA(h), data, n);
    return sendmsg(v, &m, 0);
}
#define HI() (sendto(v, "hi", 2, 0, SA(&ua), sizeof ua), ({ AW(u, POLLIN); }))

int main(void) {
    diff_init();
    u = sock(SOCK_DGRAM), v = udp(0);
    struct sockaddr_in any = ip4("0.0.0.0", 0);
    T(bind(u, SA(&any), sizeof any));
    ua = lo(port_of(u));
    section("one at a time");
    HI(), show("nothing on", 256, 0);
    static const struct {
        int o;
        const char* n;
    } opt[] = {{IP_PKTINFO, "IP_PKTINFO"},
               {IP_RECVTTL, "IP_RECVTTL"},
               {IP_RECVTOS, "IP_RECVTOS"},
               {IP_RECVORIGDSTADDR, "IP_RECVORIGDSTADDR"},
               {IP_RECVOPTS, "IP_RECVOPTS"}};
    for (int i = 0; i < 5; i++) {
        setint(u, IPPROTO_IP, opt[i].o, 1);
        HI(), show(opt[i].n, 256, 0);
        setint(u, IPPROTO_IP, opt[i].o, 0);
    }
    section("to another loopback address, with ttl and tos of the sender");
    setint(u, IPPROTO_IP, IP_PKTINFO, 1), setint(u, IPPROTO_IP, IP_RECVTTL, 1),
        setint(u, IPPROTO_IP, IP_RECVTOS, 1);
    setint(v, IPPROTO_IP, IP_TTL, 17), setint(v, IPPROTO_IP, IP_TOS, 0x28);
    ua.sin_addr.s_addr = inet_addr("127.3.2.1");
    HI(), show("three", 256, 0);
    section("small control buffers");
    static const int rooms[] = {0,  1,  8,  15, 16, 17, 20, 24, 27, 28,
                                29, 32, 40, 48, 52, 56, 60, 64, 72, 80};
    for (unsigned i = 0; i < sizeof rooms / sizeof *rooms; i++) HI(), show("three", rooms[i], 0);
    HI(), show("peek", 256, MSG_PEEK), show("after peek", 256, MSG_CMSG_CLOEXEC);
    setint(u, IPPROTO_IP, IP_PKTINFO, 0), setint(u, IPPROTO_IP, IP_RECVTTL, 0),
        setint(u, IPPROTO_IP, IP_RECVTOS, 0);
    section("timestamps");
    setint(u, SOL_SOCKET, SO_TIMESTAMP, 1);
    HI(), show("SO_TIMESTAMP", 256, 0);
    setint(u, SOL_SOCKET, SO_TIMESTAMPNS, 1);
    HI(), show("SO_TIMESTAMPNS", 256, 0);
    setint(u, SOL_SOCKET, SO_TIMESTAMPNS, 0);
    HI(), show("off again", 256, 0);
    section("control messages on send");
    ua = lo(port_of(u));
    setint(u, IPPROTO_IP, IP_PKTINFO, 1), setint(u, IPPROTO_IP, IP_RECVTTL, 1),
        setint(u, IPPROTO_IP, IP_RECVTOS, 1);
    int n = 99;
    T(with(IPPROTO_IP, IP_TTL, &n, 4, 0));
    show("ttl 99", 256, 0);
    n = 0x10;
    T(with(IPPROTO_IP, IP_TOS, &n, 4, 0));
    show("tos 16", 256, 0);
    n = 0;
    T(with(IPPROTO_IP, IP_TTL, &n, 4, 0));
    n = 256;
    T(with(IPPROTO_IP, IP_TTL, &n, 4, 0)), T(with(IPPROTO_IP, IP_TTL, &n, 1, 0)),
        T(with(IPPROTO_IP, 999, &n, 4, 0)), T(with(SOL_SOCKET, 999, &n, 4, 0));
    T(with(77, 1, &n, 4, 0));
    show("unknown level is ignored", 256, MSG_DONTWAIT);
    T(with(IPPROTO_IP, IP_TTL, &n, 4, 3)), T(with(IPPROTO_IP, IP_TTL, &n, 4, 500));
    struct in_pktinfo pi;
    memset(&pi, 0, sizeof pi);
    pi.ipi_spec_dst.s_addr = inet_addr("127.0.0.77");
    close(v);
    v = sock(SOCK_DGRAM);
    T(bind(v, SA(&any), sizeof any));
    T(with(IPPROTO_IP, IP_PKTINFO, &pi, sizeof pi, 0));
    struct sockaddr_in a;
    socklen_t l = sizeof a;
    char b[8];
    T(recvfrom(u, b, 8, 0, SA(&a), &l));
    say("from %s", addr_str(&a, l));
    // (A source that is not ours: EINVAL before Linux 6.13 or so, ENETUNREACH since.)
    T(with(IPPROTO_IP, IP_PKTINFO, &pi, 4, 0));
    section("msg_flags given by the caller are not used");
    struct iovec iov = {b, 8};
    struct msghdr m = {0, 0, &iov, 1, 0, 0, MSG_PEEK | MSG_OOB};
    settle();
    while (recv(u, b, 8, MSG_DONTWAIT) > 0)
        ;
    HI();
    T(recvmsg(u, &m, 0));
    say("flags %#x", m.msg_flags);
    RX(u, 8, MSG_DONTWAIT);
    return 0;
}
