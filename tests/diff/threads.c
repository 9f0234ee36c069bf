// Threads: close and shutdown under a waiting reader, many senders of records, many acceptors, many receivers.
#include "diff.h"

static int c, s, l, u, tid;
static struct sockaddr_in la;
static volatile int result, err_;
static volatile sig_atomic_t up;
static int thread_tid;
static void* reader(void* a) {
    char b[16];
    thread_tid = self_tid();
    up = 1;
    errno = 0;
    result = recv(*(int*)a, b, 16, 0);
    err_ = errno;
    return 0;
}
static pthread_t start_reader(int* fd) {
    up = 0;
    pthread_t t = spawn_thread(reader, fd);
    while (!up) nap(1);
    wait_asleep(thread_tid);
    return t;
}
static int sums[8];
static void* record_sender(void* a) {
    int id = (int)(intptr_t)a;
    char rec[64];
    memset(rec, 'A' + id, sizeof rec);
    for (int i = 0; i < 500; i++)
        if (send(c, rec, sizeof rec, 0) != sizeof rec) return (void*)1;
    return 0;
}
static void* acceptor(void* a) {
    intptr_t n = 0;
    (void)a;
    for (;;) {
        int x = accept(l, 0, 0);
        if (x < 0) return (void*)-1;
        char b;
        if (recv(x, &b, 1, 0) == 1 && b == 'q') {
            close(x);
            return (void*)n;
        }
        send(x, &b, 1, 0);
        close(x);
        n++;
    }
}
static void* dgram_receiver(void* a) {
    intptr_t n = 0;
    char b[16];
    (void)a;
    while (recv(u, b, 16, 0) > 0 && b[0] != 'q') n++;
    return (void*)n;
}
static void* byte_receiver(void* a) {
    intptr_t n = 0, r;
    char b[97];
    (void)a;
    while ((r = recv(s, b, sizeof b, 0)) > 0) n += r;
    return (void*)n;
}
static void* echo(void* a) {
    int x = (int)(intptr_t)a;
    char b[256];
    long r;
    while ((r = recv(x, b, sizeof b, 0)) > 0)
        if (send(x, b, r, 0) != r) break;
    close(x);
    return 0;
}

int main(void) {
    diff_init();
    tid = self_tid();
    section("close under a reader: it goes on waiting and gets the data");
    tcp_pair(&c, &s);
    int num = s;
    pthread_t t = start_reader(&num);
    T(close(s));
    T(fcntl(s, F_GETFD));
    settle();
    T(send(c, "late", 4, 0));
    pthread_join(t, 0);
    V(result), say("%s", en(err_));
    AW(c, POLLIN); // the reader held the last reference: now it is closed
    PALL(c);
    RX(c, 4, 0);
    close(c);
    section("close under a reader, then the peer closes");
    tcp_pair(&c, &s);
    num = s;
    t = start_reader(&num);
    T(close(s));
    T(close(c));
    pthread_join(t, 0);
    V(result), say("%s", en(err_));
    section("shutdown wakes the reader");
    tcp_pair(&c, &s);
    num = s;
    t = start_reader(&num);
    T(shutdown(s, SHUT_RD));
    pthread_join(t, 0);
    V(result), say("%s", en(err_));
    close(c), close(s);
    section("udp: close under a reader");
    struct sockaddr_in ua;
    u = udp(&ua);
    num = u;
    t = start_reader(&num);
    T(close(u));
    int v = sock(SOCK_DGRAM);
    T(sendto(v, "late", 4, 0, SA(&ua), sizeof ua));
    pthread_join(t, 0);
    V(result), say("%s", en(err_));
    section("the number is used again while the old reader waits");
    tcp_pair(&c, &s);
    num = s;
    t = start_reader(&num);
    T(close(s));
    int tmp = udp(&ua), again = num;
    T(dup2(tmp, num) == num);
    close(tmp);
    T(sendto(v, "other", 5, 0, SA(&ua), sizeof ua));
    T(send(c, "mine", 4, 0));
    pthread_join(t, 0);
    V(result), say("%s", en(err_));
    RX(again, 16, 0);
    close(c), close(again);
    section("shutdown of a listener wakes accept");
    l = listener(2, &la);
    pthread_t q;
    q = spawn_thread(acceptor, 0);
    nap(60);
    T(shutdown(l, SHUT_RD));
    void* res;
    pthread_join(q, &res);
    V((intptr_t)res);
    close(l);

    section("eight senders of records on one stream");
    tcp_pair(&c, &s);
    pthread_t th[8];
    for (int i = 0; i < 8; i++) th[i] = spawn_thread(record_sender, (void*)(intptr_t)i);
    int torn = 0;
    for (int i = 0; i < 8 * 500; i++) {
        char rec[64];
        if (recv(s, rec, sizeof rec, MSG_WAITALL) != sizeof rec) {
            say("short record");
            break;
        }
        for (int k = 1; k < 64; k++) torn += rec[k] != rec[0];
        if (rec[0] >= 'A' && rec[0] < 'I') sums[rec[0] - 'A']++;
    }
    for (int i = 0; i < 8; i++) pthread_join(th[i], 0);
    V(torn);
    for (int i = 0; i < 8; i++) V(sums[i]);
    close(c), close(s);
    section("four acceptors on one listener");
    l = listener(64, &la);
    for (int i = 0; i < 4; i++) th[i] = spawn_thread(acceptor, 0);
    int ok = 0;
    for (int i = 0; i < 100; i++) {
        c = dial(&la);
        char b = '0' + i % 10, r = 0;
        send(c, &b, 1, 0);
        ok += recv(c, &r, 1, 0) == 1 && r == b;
        close(c);
    }
    for (int i = 0; i < 4; i++) {
        c = dial(&la);
        send(c, "q", 1, 0);
        recv(c, &(char){0}, 1, 0);
        close(c);
    }
    long total = 0;
    for (int i = 0; i < 4; i++) {
        pthread_join(th[i], &res);
        total += (intptr_t)res;
    }
    V(ok), V(total);
    close(l);
    section("four receivers of datagrams: each comes once");
    u = udp(&ua);
    for (int i = 0; i < 4; i++) th[i] = spawn_thread(dgram_receiver, 0);
    for (int i = 0; i < 200; i++) {
        sendto(v, "d", 1, 0, SA(&ua), sizeof ua);
        if (i % 20 == 19) nap(2);
    }
    settle();
    for (int i = 0; i < 4; i++) sendto(v, "q", 1, 0, SA(&ua), sizeof ua);
    total = 0;
    for (int i = 0; i < 4; i++) {
        pthread_join(th[i], &res);
        total += (intptr_t)res;
    }
    V(total);
    section("four receivers of one stream: no byte twice");
    tcp_pair(&c, &s);
    for (int i = 0; i < 4; i++) th[i] = spawn_thread(byte_receiver, 0);
    static char big[200000];
    T(send(c, big, sizeof big, 0));
    T(shutdown(c, SHUT_WR));
    total = 0;
    for (int i = 0; i < 4; i++) {
        pthread_join(th[i], &res);
        total += (intptr_t)res;
    }
    V(total);
    close(c), close(s);
    section("thirty-two connections, a thread each");
    l = listener(64, &la);
    pthread_t et[32];
    int cs[32];
    for (int i = 0; i < 32; i++) {
        cs[i] = dial(&la);
        et[i] = spawn_thread(echo, (void*)(intptr_t)accept(l, 0, 0));
    }
    ok = 0;
    for (int round = 0; round < 20; round++)
        for (int i = 0; i < 32; i++) {
            char m[32], r[32];
            int n = sprintf(m, "round %d conn %d", round, i);
            send(cs[i], m, n, 0);
            ok += recv(cs[i], r, n, MSG_WAITALL) == n && !memcmp(m, r, n);
        }
    V(ok);
    for (int i = 0; i < 32; i++) {
        close(cs[i]);
        pthread_join(et[i], 0);
    }
    section("one thread sends while the other receives on the same descriptor");
    tcp_pair(&c, &s);
    t = spawn_thread(echo, (void*)(intptr_t)s);
    num = c;
    pthread_t r2 = start_reader(&num);
    T(send(c, "full duplex", 11, 0));
    pthread_join(r2, 0);
    V(result);
    T(shutdown(c, SHUT_WR));
    pthread_join(t, 0);
    return 0;
}
