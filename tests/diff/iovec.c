// readv, writev, sendmsg, recvmsg with many pieces; IOV_MAX; lengths that do not fit.
#include "diff.h"

static struct iovec v[1100];
static char src[100000], dst[100000];
static void cut(char* base, int n, int total) {
    int o = 0;
    for (int i = 0; i < n; i++) {
        int k = i == n - 1 ? total - o : (i * 37 + 11) % (2 * total / n + 1);
        if (k > total - o) k = total - o;
        v[i].iov_base = base + o, v[i].iov_len = k;
        o += k;
    }
}

int main(void) {
    diff_init();
    int c, s, u, w;
    tcp_pair(&c, &s);
    udp_pair(&u, &w);
    for (unsigned i = 0; i < sizeof src; i++) src[i] = i * 13 + i / 256;
    section("gather and scatter");
    static const int pieces[] = {1, 2, 7, 100, 1023, 1024};
    for (int i = 0; i < 6; i++) {
        int total = 20000;
        cut(src, pieces[i], total);
        errno = NOERR;
        long r = writev(c, v, pieces[i]);
        memset(dst, 0, sizeof dst);
        long n = recv(s, dst, total, MSG_WAITALL);
        say("writev %d pieces -> %ld %s; %ld same %d", pieces[i], r, en(errno), n,
            !memcmp(src, dst, total));
        send(c, src, total, 0);
        memset(dst, 0, sizeof dst);
        cut(dst, pieces[i], total);
        struct msghdr m = {0, 0, v, pieces[i], 0, 0, 0};
        n = recvmsg(s, &m, MSG_WAITALL);
        say("recvmsg %d pieces -> %ld same %d", pieces[i], n, !memcmp(src, dst, total));
        cut(src, pieces[i], total);
        r = sendmsg(u, &m, 0);
        memset(dst, 0, sizeof dst);
        cut(dst, pieces[i], total);
        n = readv(w, v, pieces[i]);
        say("udp: sendmsg %ld, readv %ld same %d", r, n, !memcmp(src, dst, total));
    }
    section("counts");
    cut(src, 1024, 2048);
    T(writev(c, v, 0)), T(writev(c, v, -1)), T(writev(c, v, 1025)), T(writev(c, v, 1 << 20)),
        T(readv(s, v, 0)), T(readv(s, v, -1)), T(readv(s, v, 1025));
    struct msghdr m = {0, 0, v, 1025, 0, 0, 0};
    T(sendmsg(c, &m, 0)), T(recvmsg(s, &m, 0));
    m.msg_iovlen = (size_t)-1;
    T(sendmsg(c, &m, 0)), T(recvmsg(s, &m, 0)), T(sendmsg(u, &m, 0));
    m.msg_iovlen = 0;
    T(sendmsg(c, &m, 0)), T(sendmsg(u, &m, 0));
    AW(w, POLLIN);
    T(recvmsg(w, &m, 0));
    T(recvmsg(s, &m, MSG_DONTWAIT));
    T(writev(-1, v, 1)), T(writev(9999, v, 1025)), T(readv(-1, v, -1));
    section("lengths");
    v[0].iov_base = src, v[0].iov_len = (size_t)-1;
    m.msg_iovlen = 1;
    T(writev(c, v, 1)), T(sendmsg(c, &m, 0)), T(readv(s, v, 1)), T(recvmsg(s, &m, MSG_DONTWAIT)),
        T(sendmsg(u, &m, 0));
    v[0].iov_len = 10, v[1].iov_base = src, v[1].iov_len = (size_t)1 << 63;
    T(writev(c, v, 2)), T(readv(s, v, 2));
    settle();
    RX(s, 64, MSG_DONTWAIT);
    v[0].iov_len = 40000, v[1].iov_len = 40000;
    m.msg_iovlen = 2;
    T(sendmsg(u, &m, 0));
    section("empty pieces");
    v[0].iov_base = 0, v[0].iov_len = 0, v[1].iov_base = "abc", v[1].iov_len = 3, v[2].iov_base = 0,
    v[2].iov_len = 0, v[3].iov_base = "de", v[3].iov_len = 2;
    T(writev(c, v, 4));
    AW(s, POLLIN);
    char a[4] = "....", b[4] = "....";
    struct iovec r[4] = {{a, 2}, {0, 0}, {b, 4}, {0, 0}};
    T(readv(s, r, 4));
    bytes("a", a, 4), bytes("b", b, 4);
    T(writev(c, v, 1));
    T(writev(u, v, 1)); // a datagram of no bytes? no: writev of nothing does nothing
    settle();
    T(recv(w, a, 4, MSG_DONTWAIT));
    m.msg_iovlen = 1;
    T(sendmsg(u, &m, 0));
    settle();
    T(recv(w, a, 4, MSG_DONTWAIT));
    section("a short read fills in order");
    T(send(c, "12345", 5, 0));
    AW(s, POLLIN);
    struct iovec q[3] = {{a, 1}, {b, 2}, {dst, 10}};
    T(readv(s, q, 3));
    bytes("a", a, 1), bytes("b", b, 2), bytes("c", dst, 2);
    section("offsets are refused");
    T(preadv(s, q, 3, 0)), T(pwritev(c, q, 3, 0)), T(preadv2(s, q, 1, -1, RWF_NOWAIT)),
        T(pwritev2(c, v + 1, 1, -1, 0)), T(preadv(s, q, 3, -5));
    AW(s, POLLIN);
    T(preadv2(s, q, 3, -1, 0));
    section("end of file and broken pipe");
    close(c);
    AW(s, POLLIN);
    T(readv(s, q, 3));
    T(shutdown(s, SHUT_WR));
    T(writev(s, v + 1, 1));
    m.msg_iov = v + 1;
    T(sendmsg(s, &m, MSG_NOSIGNAL));
    return 0;
}
