// Bad pointers inside messages: msghdr, iovec arrays, bases, names, control buffers, mmsghdr vectors, timeouts.
#include "bad.h"
#include <sys/sendfile.h>

static int c, s, u, v;
static struct sockaddr_in ua;
static char b[64];

static struct msghdr mh(void* name, int namelen, struct iovec* iov, size_t n, void* ctl,
                        size_t ctllen) {
    struct msghdr m;
    memset(&m, 0, sizeof m);
    m.msg_name = name, m.msg_namelen = namelen, m.msg_iov = iov, m.msg_iovlen = n,
    m.msg_control = ctl, m.msg_controllen = ctllen;
    return m;
}
static long smsg(int fd, struct msghdr m, int fl) { return sendmsg(fd, &m, fl); }
static long rmsg(int fd, struct msghdr m, int fl) { return recvmsg(fd, &m, fl); }
static void drain(int fd) {
    settle();
    for (;;) {
        int r = recv(fd, b, sizeof b, MSG_DONTWAIT);
        if (r < 0) {
            say("  drained: %s", en(errno));
            return;
        }
        bytes("left", b, r);
        if (r == 0 && fd == s) return;
    }
}

int main(void) {
    diff_init();
    bad_list();
    tcp_pair(&c, &s);
    u = udp(&ua), v = udp(0);
    nonblock(s, 1), nonblock(u, 1);
    struct iovec good = {"abcd", 4}, in = {b, sizeof b};

    section("sendmsg");
    for (int i = 0; i < 2; i++) {
        int fd = i ? v : c, to = i ? u : s;
        void* nm = i ? &ua : 0;
        int nl = i ? sizeof ua : 0;
        V(i);
        EACH_BAD(sendmsg(fd, BAD, 0));
        T(sendmsg(fd, NULL, 0));
        struct msghdr part = mh(nm, nl, &good, 1, 0, 0);
        T(sendmsg(fd, edge_of(&part, sizeof part, sizeof part - 8), 0));
        T(sendmsg(fd, edge_of(&part, sizeof part, sizeof part), 0));
        EACH_BAD(smsg(fd, mh(nm, nl, BAD, 1, 0, 0), 0));
        EACH_BAD(smsg(fd, mh(nm, nl, BAD, 0, 0, 0), 0));
        EACH_BAD(smsg(fd, mh(nm, nl, BAD, 2000, 0, 0), 0));
        EACH_BAD(smsg(fd, mh(nm, nl, (struct iovec[]){{BAD, 4}}, 1, 0, 0), 0));
        EACH_BAD(smsg(fd, mh(nm, nl, (struct iovec[]){{BAD, 0}}, 1, 0, 0), 0));
        EACH_BAD(smsg(fd, mh(nm, nl, (struct iovec[]){{"abcd", 4}, {BAD, 4}}, 2, 0, 0), 0));
        EACH_BAD(smsg(fd, mh(BAD, 16, &good, 1, 0, 0), 0));
        EACH_BAD(smsg(fd, mh(BAD, 0, &good, 1, 0, 0), 0));
        EACH_BAD(smsg(fd, mh(nm, nl, &good, 1, BAD, 24), 0));
        EACH_BAD(smsg(fd, mh(nm, nl, &good, 1, BAD, 0), 0));
        EACH_BAD(smsg(fd, mh(nm, nl, &good, 1, BAD, 1 << 20), 0));
        T(smsg(fd, mh(nm, nl, edge_of(&good, 16, 16), 1, 0, 0), 0));
        T(smsg(fd, mh(nm, nl, edge_of(&good, 16, 16), 2, 0, 0), 0));
        T(smsg(fd, mh(nm, nl, (struct iovec[]){{edge(4), 4}, {edge(4), 8}}, 2, 0, 0), 0));
        T(smsg(fd, mh(NULL, 16, &good, 1, 0, 0), 0));
        drain(to);
    }
    section("writev");
    EACH_BAD(writev(c, BAD, 1));
    EACH_BAD(writev(c, BAD, 0));
    EACH_BAD(writev(c, BAD, -1));
    EACH_BAD(writev(c, (struct iovec[]){{BAD, 5}}, 1));
    EACH_BAD(writev(c, (struct iovec[]){{"good", 4}, {BAD, 5}}, 2));
    drain(s);

    section("recvmsg");
    struct cmsghdr* ctl[16];
    for (int i = 0; i < 2; i++) {
        int from = i ? v : c, fd = i ? u : s;
        V(i);
        EACH_BAD(recvmsg(fd, BAD, 0));
        T(recvmsg(fd, NULL, 0));
#define AGAIN()                                                                                    \
    (i ? (void)sendto(from, "datagram", 8, 0, SA(&ua), sizeof ua)                                  \
       : (void)send(from, "datagram", 8, 0));                                                      \
    AW(fd, POLLIN)
#define RM(call)                                                                                   \
    AGAIN();                                                                                       \
    T(call);                                                                                       \
    drain(fd)
        RM(recvmsg(fd, (void*)bad_page, 0));
        RM(rmsg(fd, mh(0, 0, (void*)bad_page, 1, 0, 0), 0));
        RM(rmsg(fd, mh(0, 0, (void*)bad_page, 0, 0, 0), 0));
        RM(rmsg(fd, mh(0, 0, (struct iovec[]){{bad_page, 4}}, 1, 0, 0), 0));
        RM(rmsg(fd, mh(0, 0, (struct iovec[]){{bad_page, 4}}, 1, 0, 0), MSG_PEEK));
        RM(rmsg(fd, mh(0, 0, (struct iovec[]){{b, 4}, {bad_page, 4}}, 2, 0, 0), 0));
        RM(rmsg(fd, mh(0, 0, (struct iovec[]){{b, 8}, {bad_page, 4}}, 2, 0, 0), 0));
        RM(rmsg(fd, mh(bad_page, 16, &in, 1, 0, 0), 0));
        RM(rmsg(fd, mh(bad_page, 0, &in, 1, 0, 0), 0));
        RM(rmsg(fd, mh(0, 16, &in, 1, 0, 0), 0));
        RM(rmsg(fd, mh(b, -1, &in, 1, 0, 0), 0));
        RM(rmsg(fd, mh(0, 0, &in, 1, bad_page, 64), 0));
        struct msghdr* ro = (void*)ro_page;
        mprotect(ro_page, 4096, PROT_READ | PROT_WRITE);
        *ro = mh(0, 0, &in, 1, 0, 0);
        mprotect(ro_page, 4096, PROT_READ);
        RM(recvmsg(fd, ro, 0));
    }
    section("control buffer bad, with something to put there");
    setint(u, IPPROTO_IP, IP_PKTINFO, 1);
    for (int i = 1; i < 2; i++) {
        int from = v, fd = u;
        RM(rmsg(fd, mh(0, 0, &in, 1, bad_page, 64), 0));
        RM(rmsg(fd, mh(0, 0, &in, 1, edge(8), 64), 0));
        RM(rmsg(fd, mh(0, 0, &in, 1, ctl, sizeof ctl), 0));
    }
    section("readv");
    EACH_BAD(readv(s, BAD, 1));
    EACH_BAD(readv(s, BAD, 0));
    T(send(c, "stay here", 9, 0));
    AW(s, POLLIN);
    EACH_BAD(readv(s, BAD, 1));
    EACH_BAD(readv(s, (struct iovec[]){{BAD, 5}}, 1));
    EACH_BAD(readv(s, (struct iovec[]){{BAD, 0}}, 1));
    T(readv(s, (struct iovec[]){{b, 4}, {bad_page, 4}}, 2));
    drain(s);

    section("sendmmsg, recvmmsg");
    EACH_BAD(sendmmsg(v, BAD, 1, 0));
    EACH_BAD(sendmmsg(v, BAD, 0, 0));
    EACH_BAD(recvmmsg(u, BAD, 1, 0, 0));
    EACH_BAD(recvmmsg(u, BAD, 0, 0, 0));
    struct mmsghdr mm[3];
    for (int k = 0; k < 3; k++) {
        memset(&mm[k], 0, sizeof mm[k]);
        mm[k].msg_hdr = mh(&ua, sizeof ua, &good, 1, 0, 0);
    }
    EACH_BAD((mm[0].msg_hdr.msg_iov = BAD, sendmmsg(v, mm, 3, 0)));
    mm[0].msg_hdr.msg_iov = &good;
    EACH_BAD((mm[1].msg_hdr.msg_name = BAD, sendmmsg(v, mm, 3, 0)));
    V(mm[0].msg_len);
    mm[1].msg_hdr.msg_name = &ua;
    T(sendmmsg(v, edge_of(mm, sizeof mm, 2 * sizeof *mm), 3, 0));
    drain(u);
    struct mmsghdr rm[3];
    for (int k = 0; k < 3; k++) {
        memset(&rm[k], 0, sizeof rm[k]);
        rm[k].msg_hdr = mh(0, 0, &in, 1, 0, 0);
    }
    T(sendmmsg(v, mm, 3, 0));
    settle();
    rm[1].msg_hdr.msg_iov = (void*)bad_page;
    T(recvmmsg(u, rm, 3, 0, 0));
    V(rm[0].msg_len);
    drain(u);
    T(sendmmsg(v, mm, 3, 0));
    settle();
    rm[1].msg_hdr.msg_iov = &in;
    T(recvmmsg(u, edge_of(rm, sizeof rm, 2 * sizeof *rm), 3, 0, 0));
    drain(u);
    T(sendmmsg(v, mm, 2, 0));
    settle();
    EACH_BAD(recvmmsg(u, rm, 1, 0, BAD));
    struct timespec bt = {0, 2000000000};
    T(recvmmsg(u, rm, 1, 0, &bt));
    bt.tv_sec = -1, bt.tv_nsec = 0;
    T(recvmmsg(u, rm, 1, 0, &bt));
    drain(u);

    section("sendfile, splice");
    int f = open("/proc/self/exe", O_RDONLY), p[2];
    pipe(p);
    EACH_BAD(sendfile(c, f, BAD, 10));
    EACH_BAD(syscall(SYS_splice, f, BAD, c, 0, 10, 0));
    EACH_BAD(syscall(SYS_splice, s, BAD, p[1], 0, 10, SPLICE_F_NONBLOCK));
    EACH_BAD(syscall(SYS_splice, s, 0, p[1], BAD, 10, SPLICE_F_NONBLOCK));
    return 0;
}
