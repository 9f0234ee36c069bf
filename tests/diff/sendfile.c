// sendfile, splice, tee on sockets.
#include "diff.h"
#include <sys/sendfile.h>

static char data[150000], got[200000];
static uint64_t recv_hash(int s, long n) {
    long g = recv(s, got, n, MSG_WAITALL);
    if (g != n) say("short: %ld of %ld", g, n);
    return hash_add(HASH0, got, g > 0 ? g : 0);
}
static int c, s;
static void* drain(void* a) {
    uint64_t *h = a, x = HASH0;
    long r;
    static char b[5003];
    while ((r = recv(s, b, sizeof b, 0)) > 0) x = hash_add(x, b, r);
    *h = x;
    return 0;
}
int main(void) {
    diff_init();
    for (unsigned i = 0; i < sizeof data; i++) data[i] = i * 11 + i / 509;
    char name[] = "/tmp/diff_sendfileXXXXXX";
    int f = mkstemp(name), p[2];
    unlink(name);
    T(write(f, data, sizeof data));
    tcp_pair(&c, &s);
    pipe(p);
    section("sendfile with and without an offset");
    lseek(f, 0, SEEK_SET);
    T(sendfile(c, f, 0, 10000));
    V(recv_hash(s, 10000) == hash_add(HASH0, data, 10000));
    T(lseek(f, 0, SEEK_CUR));
    off_t o = 5000;
    T(sendfile(c, f, &o, 20000));
    V(o), T(lseek(f, 0, SEEK_CUR));
    V(recv_hash(s, 20000) == hash_add(HASH0, data + 5000, 20000));
    o = sizeof data - 100;
    T(sendfile(c, f, &o, 1000)), V(o);
    V(recv_hash(s, 100) == hash_add(HASH0, data + sizeof data - 100, 100));
    T(sendfile(c, f, &o, 1000)), T(sendfile(c, f, 0, 0));
    o = 1 << 30;
    T(sendfile(c, f, &o, 10)), V(o);
    section("errnos");
    o = -1;
    T(sendfile(c, f, &o, 10)), T(sendfile(9999, f, 0, 10)), T(sendfile(c, 9999, 0, 10)),
        T(sendfile(c, -1, 0, 10));
    o = 0;
    T(sendfile(c, p[0], &o, 10)), T(sendfile(c, s, &o, 10));
    T(send(c, "in", 2, 0));
    AW(s, POLLIN);
    T(sendfile(c, s, 0, 2) < 0 ? -1 : 0);
    RX(s, 8, MSG_DONTWAIT);
    T(sendfile(f, s, 0, 0) < 0 ? -1 : 0);
    int un = tcp();
    lseek(f, 0, SEEK_SET);
    T(sendfile(un, f, 0, 10));
    T(lseek(f, 0, SEEK_CUR));
    int wo = open("/dev/null", O_WRONLY), ro = open("/dev/null", O_RDONLY);
    T(sendfile(c, wo, 0, 10)), T(sendfile(ro, f, 0, 10));
    section("a whole file through a small buffer");
    uint64_t h = 0;
    pthread_t t = spawn_thread(drain, &h);
    o = 0;
    long r, n = 0;
    while (n < (long)sizeof data && (r = sendfile(c, f, &o, sizeof data)) > 0) n += r;
    V(n);
    T(shutdown(c, SHUT_WR));
    pthread_join(t, 0);
    V(h == hash_add(HASH0, data, sizeof data));
    lseek(f, 0, SEEK_SET);
    T(sendfile(c, f, 0, 10));
    close(c), close(s);
    section("splice file to pipe to socket to pipe");
    tcp_pair(&c, &s);
    loff_t lo_ = 1000;
    T(splice(f, &lo_, p[1], 0, 3000, 0)), V(lo_);
    T(splice(p[0], 0, c, 0, 3000, SPLICE_F_MOVE));
    V(recv_hash(s, 3000) == hash_add(HASH0, data + 1000, 3000));
    T(send(c, data, 2000, 0));
    AW(s, POLLIN);
    T(splice(s, 0, p[1], 0, 2000, 0));
    T(read(p[0], got, 2000));
    V(memcmp(got, data, 2000));
    nonblock(s, 1); // SPLICE_F_NONBLOCK alone does not keep a socket from waiting
    T(splice(s, 0, p[1], 0, 2000, SPLICE_F_NONBLOCK)), T(splice(s, 0, p[1], 0, 2000, 0));
    T(splice(p[0], 0, c, 0, 10, SPLICE_F_NONBLOCK)), T(splice(s, 0, c, 0, 10, 0)),
        T(splice(f, 0, c, 0, 10, 0));
    nonblock(s, 0);
    T(splice(p[0], &lo_, c, 0, 10, 0)), T(splice(p[0], 0, c, &lo_, 10, 0)),
        T(splice(9999, 0, c, 0, 10, 0)), T(splice(p[0], 0, 9999, 0, 10, 0)), T(tee(s, p[1], 10, 0));
    T(write(p[1], "vm", 2));
    struct iovec v = {"splice", 6};
    T(vmsplice(p[1], &v, 1, 0));
    T(splice(p[0], 0, c, 0, 8, 0));
    RX(s, 8, MSG_WAITALL);
    T(vmsplice(s, &v, 1, 0));
    section("nothing to move, or nowhere to move it");
    T(splice(s, 0, p[1], 0, 0, 0)), T(splice(s, 0, p[1], 0, 0, 99)), T(splice(s, 0, 9999, 0, 0, 0)),
        T(splice(f, 0, c, 0, 0, 0)), T(splice(s, 0, p[1], 0, 1, 99));
    T(tee(s, p[1], 0, 0)), T(tee(s, p[1], 0, 99)), T(tee(s, 9999, 0, 0)), T(tee(s, 9999, 1, 0)),
        T(tee(9999, s, 1, 0)), T(tee(p[0], s, 1, 0)), T(tee(p[1], s, 1, 0)), T(tee(s, p[0], 1, 0)),
        T(tee(s, s, 1, 0)), T(tee(p[0], c, 0, 0));
    struct iovec none = {"", 0}, bad = {(void*)-4096l, 6};
    T(vmsplice(s, &v, 0, 0)), T(vmsplice(s, &none, 1, 0)), T(vmsplice(s, &v, 1, 99)),
        T(vmsplice(s, 0, 1, 0)), T(vmsplice(s, &bad, 1, 0)), T(vmsplice(s, &v, 99999, 0));
    T(syscall(SYS_tee, s, p[1], 0l, 0)), T(syscall(SYS_vmsplice, s, &v, 1l, 0));
    close(c);
    AW(s, POLLIN);
    T(splice(s, 0, p[1], 0, 10, 0));
    section("udp");
    int a, b;
    udp_pair(&a, &b);
    lseek(f, 0, SEEK_SET);
    T(sendfile(a, f, 0, 1000));
    AW(b, POLLIN);
    V(recv_hash(b, 1000) == hash_add(HASH0, data, 1000));
    return 0;
}
