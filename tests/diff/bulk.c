// Bulk data in both directions, random piece sizes, blocking and non-blocking; half close at the end; hashes.
#include "diff.h"

#define TOTAL (24 << 20)
struct job {
    int fd;
    unsigned seed;
    long n;
    uint64_t h;
};
static unsigned rnd(unsigned* s) { return *s = *s * 1664525 + 1013904223, *s >> 8; }
static void fill(char* b, long n, long off) {
    for (long i = 0; i < n; i++) b[i] = (off + i) * 2654435761u >> 13;
}
static void* sender(void* a) {
    struct job* j = a;
    static __thread char b[70000];
    j->h = HASH0;
    while (j->n < TOTAL) {
        long k = rnd(&j->seed) % (rnd(&j->seed) % 4 ? 3000 : sizeof b) + 1, o = 0;
        if (k > TOTAL - j->n) k = TOTAL - j->n;
        fill(b, k, j->n);
        j->h = hash_add(j->h, b, k);
        while (o < k) {
            long r = rnd(&j->seed) & 1 ? send(j->fd, b + o, k - o, 0) : write(j->fd, b + o, k - o);
            if (r <= 0) {
                say("send: %s", en(errno));
                return 0;
            }
            o += r;
        }
        j->n += k;
    }
    shutdown(j->fd, SHUT_WR);
    return 0;
}
static void* receiver(void* a) {
    struct job* j = a;
    static __thread char b[70000];
    j->h = HASH0;
    for (;;) {
        long k = rnd(&j->seed) % (rnd(&j->seed) % 4 ? 3000 : sizeof b) + 1;
        long r = recv(j->fd, b, k, rnd(&j->seed) % 16 ? 0 : MSG_WAITALL);
        if (r <= 0) {
            if (r < 0) say("recv: %s", en(errno));
            return 0;
        }
        j->h = hash_add(j->h, b, r), j->n += r;
    }
}
// One loop moves both directions of one descriptor.
static void both(int fd, struct job* out, struct job* in) {
    static char b[70000];
    int eof = 0, sent_all = 0;
    long left = 0, pos = 0;
    out->h = in->h = HASH0;
    nonblock(fd, 1);
    while (!eof || !sent_all) {
        struct pollfd p = {fd, (eof ? 0 : POLLIN) | (sent_all ? 0 : POLLOUT), 0};
        if (poll(&p, 1, 5000) <= 0) {
            say("poll: stuck, sent %ld, received %ld", out->n, in->n);
            return;
        }
        if (p.revents & (POLLIN | POLLHUP | POLLERR) && !eof) {
            char r_[5000];
            long r = recv(fd, r_, rnd(&in->seed) % sizeof r_ + 1, 0);
            if (r == 0)
                eof = 1;
            else if (r > 0)
                in->h = hash_add(in->h, r_, r), in->n += r;
            else if (errno != EAGAIN) {
                say("recv: %s", en(errno));
                return;
            }
        }
        if (p.revents & POLLOUT && !sent_all) {
            if (!left) {
                left = rnd(&out->seed) % sizeof b + 1;
                if (left > TOTAL - out->n) left = TOTAL - out->n;
                fill(b, left, out->n);
                out->h = hash_add(out->h, b, left);
                pos = 0;
            }
            long r = send(fd, b + pos, left, 0);
            if (r > 0)
                pos += r, left -= r, out->n += r;
            else if (errno != EAGAIN) {
                say("send: %s", en(errno));
                return;
            }
            if (out->n == TOTAL) {
                sent_all = 1;
                shutdown(fd, SHUT_WR);
            }
        }
    }
}

int main(void) {
    diff_init();
    for (int mode = 0; mode < 3; mode++) {
        section(mode == 0   ? "blocking, four threads"
                : mode == 1 ? "non-blocking with poll, two processes"
                            : "blocking against non-blocking, small buffers");
        alarm(20);
        int c, s;
        tcp_pair(&c, &s);
        if (mode == 2)
            for (int i = 0; i < 2; i++)
                setint(i ? c : s, SOL_SOCKET, SO_SNDBUF, 20000),
                    setint(i ? c : s, SOL_SOCKET, SO_RCVBUF, 20000);
        struct job j[4] = {{c, 1, 0, 0}, {s, 2, 0, 0}, {s, 3, 0, 0}, {c, 4, 0, 0}};
        if (mode == 1) {
            gate g = gate_new();
            pid_t p = fork();
            if (p == 0) {
                alarm(20);
                close(c);
                both(s, &j[2], &j[1]);
                write(g.p[1], &j[1], sizeof j[1]), write(g.p[1], &j[2], sizeof j[2]);
                _exit(0);
            }
            close(s);
            both(c, &j[0], &j[3]);
            read(g.p[0], &j[1], sizeof j[1]), read(g.p[0], &j[2], sizeof j[2]);
            reap(p);
        } else {
            pthread_t t[4];
            t[0] = spawn_thread(sender, &j[0]), t[1] = spawn_thread(receiver, &j[1]);
            if (mode == 0)
                t[2] = spawn_thread(sender, &j[2]), t[3] = spawn_thread(receiver, &j[3]);
            else {
                pthread_join(t[0], 0), pthread_join(t[1], 0);
                t[2] = spawn_thread(sender, &j[2]), t[3] = spawn_thread(receiver, &j[3]);
                t[0] = t[2], t[1] = t[3];
            }
            pthread_join(t[2], 0), pthread_join(t[3], 0);
            if (mode == 0) pthread_join(t[0], 0), pthread_join(t[1], 0);
        }
        for (int i = 0; i < 4; i++) V(j[i].n);
        say("one way same: %d, the other way same: %d", j[0].h == j[1].h, j[2].h == j[3].h);
        say("hash %016llx", (unsigned long long)j[1].h);
        PALL(c);
        close(c), close(s);
    }
    return 0;
}
