// IP_RECVERR and MSG_ERRQUEUE on UDP.
#include "diff.h"
#include <linux/errqueue.h>
#include <netinet/ip_icmp.h>

static void show(int fd, size_t room, size_t name) {
    char b[32], ctl[512];
    struct sockaddr_in a;
    memset(&a, 0, sizeof a);
    struct iovec v = {b, 3};
    struct msghdr m = {&a, name, &v, 1, ctl, room, 0};
    errno = NOERR;
    long r = recvmsg(fd, &m, MSG_ERRQUEUE);
    say("recvmsg(ERRQUEUE, room %zu) -> %ld %s, flags %#x", room, r, en(errno),
        r < 0 ? 0 : m.msg_flags);
    if (r < 0) return;
    bytes("data", b, r < 3 ? r : 3);
    say("  name %s", name ? addr_str(&a, m.msg_namelen) : "-");
    for (struct cmsghdr* h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
        if (h->cmsg_len < CMSG_LEN(sizeof(struct sock_extended_err)))
            say("  cmsg level %d type %d cut to %zu", h->cmsg_level, h->cmsg_type, h->cmsg_len);
        else if (h->cmsg_level == IPPROTO_IP && h->cmsg_type == IP_RECVERR) {
            struct sock_extended_err* e = (void*)CMSG_DATA(h);
            struct sockaddr_in* o = (void*)SO_EE_OFFENDER(e);
            say("  RECVERR %s origin %d type %d code %d info %u data %u, offender %s",
                en(e->ee_errno), e->ee_origin, e->ee_type, e->ee_code, e->ee_info, e->ee_data,
                o->sin_family == AF_INET ? inet_ntoa(o->sin_addr) : "none");
        } else
            say("  cmsg level %d type %d", h->cmsg_level, h->cmsg_type);
    }
}

int main(void) {
    diff_init();
    struct sockaddr_in nobody, aa;
    int x = udp(&nobody), u = udp(0), a = udp(&aa);
    close(x);
    section("empty");
    show(u, 256, 16);
    section("connected");
    T(setint(u, IPPROTO_IP, IP_RECVERR, 1));
    T(connect(u, SA(&nobody), sizeof nobody));
    T(send(u, "refused", 7, 0));
    AW(u, POLLERR);
    PALL(u);
    show(u, 256, 16);
    PALL(u);
    SOERR(u);
    show(u, 256, 16);
    section("the error itself is reported as well");
    T(send(u, "r", 1, 0));
    AW(u, POLLERR);
    RX(u, 4, MSG_DONTWAIT), RX(u, 4, MSG_DONTWAIT);
    PALL(u);
    show(u, 256, 16);
    PALL(u);
    section("not connected: with IP_RECVERR the error arrives");
    int v = udp(0);
    T(setint(v, IPPROTO_IP, IP_RECVERR, 1));
    T(sendto(v, "who", 3, 0, SA(&nobody), sizeof nobody));
    AW(v, POLLERR);
    PALL(v);
    T(sendto(v, "x", 1, 0, SA(&aa), sizeof aa));
    T(sendto(v, "y", 1, 0, SA(&aa), sizeof aa));
    RX(a, 4, 0);
    show(v, 256, 16);
    SOERR(v);
    section("several wait");
    T(sendto(v, "one", 3, 0, SA(&nobody), sizeof nobody));
    AW(v, POLLERR);
    SOERR(v);
    T(sendto(v, "two", 3, 0, SA(&nobody), sizeof nobody));
    settle();
    show(v, 256, 16);
    PALL(v);
    show(v, 256, 16);
    PALL(v);
    SOERR(v);
    section("small buffers");
    T(sendto(v, "abc", 3, 0, SA(&nobody), sizeof nobody));
    AW(v, POLLERR);
    show(v, 0, 0);
    SOERR(v);
    T(sendto(v, "abc", 3, 0, SA(&nobody), sizeof nobody));
    AW(v, POLLERR);
    show(v, 20, 8);
    SOERR(v);
    section("too big a datagram");
    static char big[70000];
    T(sendto(v, big, 66000, 0, SA(&aa), sizeof aa));
    show(v, 256, 16);
    section("switched off: the queue is thrown away");
    T(sendto(v, "abc", 3, 0, SA(&nobody), sizeof nobody));
    AW(v, POLLERR);
    T(setint(v, IPPROTO_IP, IP_RECVERR, 0));
    show(v, 256, 16);
    SOERR(v);
    section("tcp");
    int c, s;
    tcp_pair(&c, &s);
    T(setint(c, IPPROTO_IP, IP_RECVERR, 1));
    show(c, 256, 16);
    return 0;
}
