// sendmmsg() and recvmmsg(): counts, partial results, timeouts, MSG_WAITFORONE.
#include "diff.h"

static struct mmsghdr mm[8];
static struct iovec iov[8];
static char buf[8][32];
static int u, v;
static void prep(void) {
    memset(mm, 0, sizeof mm);
    for (int i = 0; i < 8; i++) {
        iov[i].iov_base = buf[i], iov[i].iov_len = sizeof buf[i];
        mm[i].msg_hdr.msg_iov = &iov[i], mm[i].msg_hdr.msg_iovlen = 1;
        mm[i].msg_len = 777;
    }
}
static void show(int n) {
    for (int i = 0; i < n; i++) bytes("message", buf[i], mm[i].msg_len);
}
static int tid;
static void* later(void* arg) {
    (void)arg;
    wait_asleep(tid);
    send(v, "late1", 5, 0);
    wait_asleep(tid);
    send(v, "late2", 5, 0);
    return 0;
}

int main(void) {
    diff_init();
    udp_pair(&u, &v);
    tid = self_tid();
    section("send");
    prep();
    for (int i = 0; i < 5; i++) iov[i].iov_len = sprintf(buf[i], "number %d", i);
    T(sendmmsg(v, mm, 5, 0));
    V(mm[0].msg_len), V(mm[4].msg_len), V(mm[5].msg_len);
    T(sendmmsg(v, mm, 0, 0)), T(sendmmsg(-1, mm, 1, 0)), T(sendmmsg(0, mm, 1, 0)),
        T(sendmmsg(9999, mm, 0, 0));
    section("receive");
    prep();
    settle();
    T(recvmmsg(u, mm, 3, 0, 0));
    show(3);
    V(mm[3].msg_len);
    T(recvmmsg(u, mm, 8, MSG_WAITFORONE, 0));
    show(2);
    T(recvmmsg(u, mm, 8, MSG_DONTWAIT, 0)), T(recvmmsg(u, mm, 0, 0, 0)),
        T(recvmmsg(-1, mm, 1, 0, 0));
    section("wait for one");
    pthread_t t = spawn_thread(later, 0);
    T(recvmmsg(u, mm, 8, MSG_WAITFORONE, 0));
    show(1);
    RX(u, 16, 0);
    pthread_join(t, 0);
    section("wait for all");
    t = spawn_thread(later, 0);
    T(recvmmsg(u, mm, 2, 0, 0));
    show(2);
    pthread_join(t, 0);
    section("timeout is looked at after each datagram only");
    struct timespec ts = {0, 1};
    t = spawn_thread(later, 0);
    T(recvmmsg(u, mm, 2, 0, &ts));
    show(1);
    V(ts.tv_sec), V(ts.tv_nsec);
    RX(u, 16, 0);
    pthread_join(t, 0);
    ts.tv_sec = 5, ts.tv_nsec = 0;
    T(send(v, "quick", 5, 0));
    AW(u, POLLIN);
    T(recvmmsg(u, mm, 1, 0, &ts));
    V(ts.tv_sec >= 4);
    ts.tv_sec = 0, ts.tv_nsec = 0;
    T(send(v, "zero", 4, 0));
    AW(u, POLLIN);
    T(recvmmsg(u, mm, 4, 0, &ts));
    ts.tv_sec = (time_t)(~0ul >> 1), ts.tv_nsec = 999999999;
    T(send(v, "far", 3, 0)), T(send(v, "off", 3, 0));
    settle();
    T(recvmmsg(u, mm, 2, 0, &ts));
    V(ts.tv_sec > 1000000);
    section("truncated and named");
    struct sockaddr_in a;
    prep();
    iov[0].iov_len = 3;
    mm[0].msg_hdr.msg_name = &a, mm[0].msg_hdr.msg_namelen = sizeof a;
    T(send(v, "truncated", 9, 0));
    AW(u, POLLIN);
    T(recvmmsg(u, mm, 1, 0, 0));
    V(mm[0].msg_len), V(mm[0].msg_hdr.msg_flags == MSG_TRUNC), V(mm[0].msg_hdr.msg_namelen);
    section("an error in the middle");
    prep();
    static char huge[70000];
    for (int i = 0; i < 3; i++) iov[i].iov_len = 4;
    iov[1].iov_base = huge, iov[1].iov_len = sizeof huge;
    T(sendmmsg(v, mm, 3, 0));
    T(sendmmsg(v, mm + 1, 2, 0));
    settle();
    prep();
    T(recvmmsg(u, mm, 8, MSG_DONTWAIT, 0));
    section("a datagram, then nobody there");
    T(close(v));
    T(send(u, "x", 1, 0));
    AW(u, POLLERR);
    T(recvmmsg(u, mm, 8, MSG_DONTWAIT, 0)), T(recvmmsg(u, mm, 8, MSG_DONTWAIT, 0));
    section("on tcp");
    int c, s;
    tcp_pair(&c, &s);
    prep();
    for (int i = 0; i < 3; i++) iov[i].iov_len = sprintf(buf[i], "tcp%d ", i);
    T(sendmmsg(c, mm, 3, 0));
    V(mm[2].msg_len);
    settle();
    prep();
    iov[0].iov_len = 7, iov[1].iov_len = 3;
    T(recvmmsg(s, mm, 3, MSG_DONTWAIT, 0));
    show(3);
    T(recvmmsg(s, mm, 3, MSG_DONTWAIT, 0));
    close(c);
    AW(s, POLLIN);
    T(recvmmsg(s, mm, 3, 0, 0));
    V(mm[0].msg_len), V(mm[2].msg_len);
    T(shutdown(s, SHUT_WR));
    T(sendmmsg(s, mm, 3, MSG_NOSIGNAL)), T(sendmmsg(s, mm, 3, 0));
    section("more than IOV_MAX messages are cut");
    static struct mmsghdr many[1100];
    int x, y;
    udp_pair(&x, &y);
    struct iovec e = {"", 0};
    for (int i = 0; i < 1100; i++) many[i].msg_hdr.msg_iov = &e, many[i].msg_hdr.msg_iovlen = 1;
    T(sendmmsg(y, many, 1100, 0));
    return 0;
}
