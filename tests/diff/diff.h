// Helpers for the differential tests: every program prints a deterministic transcript of what the socket
// layer answered. Run natively and with the preload, the two transcripts must be identical (see run_diff).
#ifndef DIFF_H
#define DIFF_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define UNUSED __attribute__((unused))
#define SA(p) ((struct sockaddr*)(p))
#define NOERR 12345 // errno before each call: a successful call must leave it alone

static char diff_section[160] = "start";
static const char* diff_who = "";
static volatile sig_atomic_t diff_sigpipes;

UNUSED static const char* en(int e) {
    const char* n = e == 0 ? "0" : e == NOERR ? "(errno untouched)" : strerrorname_np(e);
    return n ? n : "E?";
}

UNUSED __attribute__((format(printf, 1, 2))) static void say(const char* fmt, ...) {
    char b[4096];
    int n = snprintf(b, sizeof b, "%s", diff_who), m;
    va_list ap;
    va_start(ap, fmt);
    m = vsnprintf(b + n, sizeof b - n - 1, fmt, ap);
    va_end(ap);
    n += m;
    if (n > (int)sizeof b - 2) n = sizeof b - 2;
    b[n++] = '\n';
    for (int o = 0; o < n;) {
        ssize_t w = write(1, b + o, n - o);
        if (w <= 0) break;
        o += w;
    }
}

static void diff_on_alarm(int sig) {
    (void)sig;
    char b[256] = "WATCHDOG: still in section: ";
    strcat(b, diff_section);
    strcat(b, "\n");
    if (write(1, b, strlen(b)) < 0) {
    }
    _exit(124);
}
static void diff_on_pipe(int sig) {
    (void)sig;
    diff_sigpipes = diff_sigpipes + 1;
}

// Names the section and gives it 8 seconds; the handler says where it hung.
UNUSED static void section(const char* t) {
    snprintf(diff_section, sizeof diff_section, "%s%s", diff_who, t);
    say("== %s", t);
    alarm(8);
}

UNUSED static void diff_init(void) {
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = diff_on_alarm;
    sigaction(SIGALRM, &a, 0);
    a.sa_handler = diff_on_pipe;
    sigaction(SIGPIPE, &a, 0);
    alarm(8);
}

// Descriptors up to this many, or the test is skipped (run_diff).
UNUSED static void need_descriptors(rlim_t n) {
    struct rlimit have;
    getrlimit(RLIMIT_NOFILE, &have);
    if (have.rlim_cur >= n) return;
    have.rlim_cur = n;
    if (have.rlim_max >= n && setrlimit(RLIMIT_NOFILE, &have) == 0) return;
    say("needs %ld descriptors, ulimit -n allows %ld", (long)n, (long)have.rlim_max);
    _exit(77);
}

// select() and FD_SETs above the descriptor table are not looked at, and the table's size depends on what the
// parent had open: make it 1024 places, as the library's own descriptors do.
UNUSED static void wide_table(void) {
    need_descriptors(1024);
    close(dup2(0, 1000));
}

UNUSED static void diff_report(const char* what, long r, int e, int isfd, int pipes) {
    const char* sp = diff_sigpipes != pipes ? " +SIGPIPE" : "";
    if (r == -1)
        say("%s -> -1 %s%s", what, en(e), sp);
    else if (isfd == 1)
        say("%s -> fd%s%s", what, e != NOERR ? " [errno changed]" : "", sp);
    else if (isfd == 2)
        say("%s -> ok%s%s", what, e != NOERR ? " [errno changed]" : "", sp);
    else
        say("%s -> %ld%s%s", what, r, e != NOERR ? " [errno changed]" : "", sp);
}

// T: print the call as written and its number. F: the result is a descriptor. Z: a number that may vary.
// Q: the same as T but only printed when it fails (set-up steps).
#define DIFF_STEP(x, str, kind)                                                                    \
    ({                                                                                             \
        int p_ = diff_sigpipes;                                                                    \
        errno = NOERR;                                                                             \
        long r_ = (long)(x);                                                                       \
        int e_ = errno;                                                                            \
        diff_report(str, r_, e_, kind, p_);                                                        \
        errno = e_;                                                                                \
        r_;                                                                                        \
    })
#define T(x) DIFF_STEP(x, #x, 0)
#define F(x) DIFF_STEP(x, #x, 1)
#define Z(x) DIFF_STEP(x, #x, 2)
#define Q(x)                                                                                       \
    ({                                                                                             \
        errno = NOERR;                                                                             \
        long r_ = (long)(x);                                                                       \
        if (r_ == -1) diff_report(#x, r_, errno, 0, diff_sigpipes);                                \
        r_;                                                                                        \
    })
#define V(x) say("%s = %ld", #x, (long)(x)) // a value, not a call

// Bytes, escaped.
UNUSED static void bytes(const char* name, const void* p, long n) {
    const unsigned char* b = (const unsigned char*)p;
    char o[1400];
    int k = 0;
    for (long i = 0; i < n && k < 1300; i++)
        k += b[i] >= 32 && b[i] < 127 && b[i] != '\\' ? sprintf(o + k, "%c", b[i])
                                                      : sprintf(o + k, "\\%02x", b[i]);
    o[k] = 0;
    say("  %s: %ld \"%s\"", name, n, o);
}

UNUSED static uint64_t hash_add(uint64_t h, const void* p, size_t n) {
    const unsigned char* b = (const unsigned char*)p;
    for (size_t i = 0; i < n; i++) h = (h ^ b[i]) * 1099511628211ull;
    return h;
}
#define HASH0 14695981039346656037ull

// ---- time
UNUSED static long now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}
UNUSED static void nap(int ms) {
    struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    while (nanosleep(&t, &t) < 0 && errno == EINTR)
        ;
}
UNUSED static void settle(void) { nap(30); }
// Prints whether a call lasted at least LO ms (one ms of grace for clock granularity) and less than HI.
#define LASTED(t0, lo, hi)                                                                         \
    ({                                                                                             \
        long d_ = now_ms() - (t0);                                                                 \
        say("  lasted >= %d ms: %s, < %d ms: %s", lo, d_ >= (lo)-1 ? "yes" : "NO", hi,             \
            d_ < (hi) ? "yes" : "NO");                                                             \
    })

// ---- poll
UNUSED static const char* pbits(int e) {
    static char buf[4][128];
    static int k;
    char* o = buf[k++ & 3];
    static const struct {
        int bit;
        const char* n;
    } t[] = {{POLLIN, "IN"},         {POLLPRI, "PRI"},       {POLLOUT, "OUT"},
             {POLLERR, "ERR"},       {POLLHUP, "HUP"},       {POLLNVAL, "NVAL"},
             {POLLRDNORM, "RDNORM"}, {POLLRDBAND, "RDBAND"}, {POLLWRNORM, "WRNORM"},
             {POLLWRBAND, "WRBAND"}, {POLLMSG, "MSG"},       {POLLRDHUP, "RDHUP"}};
    o[0] = 0;
    for (unsigned i = 0; i < sizeof t / sizeof *t; i++)
        if (e & t[i].bit) {
            if (*o) strcat(o, "|");
            strcat(o, t[i].n);
            e &= ~t[i].bit;
        }
    if (e) sprintf(o + strlen(o), "|%#x", e);
    if (!*o) strcpy(o, "-");
    return o;
}
UNUSED static int poll1(int fd, int ev, int ms) {
    struct pollfd p = {fd, (short)ev, 0};
    int r = poll(&p, 1, ms);
    return r < 0 ? -1 : p.revents;
}
// PB: what poll says now, for the usual bits.  PALL: for all bits.
#define PB(fd)                                                                                     \
    say("poll(%s) -> %s", #fd, pbits(poll1(fd, POLLIN | POLLOUT | POLLPRI | POLLRDHUP, 0)))
#define PALL(fd)                                                                                   \
    say("pollall(%s) -> %s", #fd,                                                                  \
        pbits(poll1(fd,                                                                            \
                    POLLIN | POLLOUT | POLLPRI | POLLRDHUP | POLLRDNORM | POLLRDBAND |             \
                        POLLWRNORM | POLLWRBAND | POLLMSG,                                         \
                    0)))
// AW: wait up to 5 s for one of the bits; silent unless it does not come.
#define AW(fd, ev)                                                                                 \
    ({                                                                                             \
        if (poll1(fd, ev, 5000) <= 0) say("await(%s, %s) TIMED OUT", #fd, #ev);                    \
    })

// ---- addresses and sockets
UNUSED static struct sockaddr_in ip4(const char* a, int port) {
    struct sockaddr_in s;
    memset(&s, 0, sizeof s);
    s.sin_family = AF_INET;
    s.sin_port = htons(port);
    s.sin_addr.s_addr = inet_addr(a);
    return s;
}
UNUSED static struct sockaddr_in lo(int port) { return ip4("127.0.0.1", port); }
UNUSED static const char* addr_str(const void* p, socklen_t len) {
    static char buf[4][96];
    static int k;
    char* o = buf[k++ & 3];
    const struct sockaddr_in* s = (const struct sockaddr_in*)p;
    if (len < sizeof *s)
        sprintf(o, "len %u", len);
    else if (s->sin_family != AF_INET)
        sprintf(o, "family %d len %u", s->sin_family, len);
    else
        sprintf(o, "AF_INET %s:%s len %u", inet_ntoa(s->sin_addr), s->sin_port ? "<port>" : "0",
                len);
    return o;
}
#define NAME(call, fd)                                                                             \
    ({                                                                                             \
        struct sockaddr_storage ss_;                                                               \
        socklen_t l_ = sizeof ss_;                                                                 \
        memset(&ss_, 0, sizeof ss_);                                                               \
        errno = NOERR;                                                                             \
        int r_ = call(fd, SA(&ss_), &l_);                                                          \
        say(#call "(%s) -> %s", #fd, r_ < 0 ? en(errno) : addr_str(&ss_, l_));                     \
    })
#define SOCKNAME(fd) NAME(getsockname, fd)
#define PEERNAME(fd) NAME(getpeername, fd)

UNUSED static int port_of(int fd) {
    struct sockaddr_in a;
    socklen_t l = sizeof a;
    memset(&a, 0, sizeof a);
    return getsockname(fd, SA(&a), &l) < 0 ? -1 : ntohs(a.sin_port);
}
UNUSED static int peer_port_of(int fd) {
    struct sockaddr_in a;
    socklen_t l = sizeof a;
    memset(&a, 0, sizeof a);
    return getpeername(fd, SA(&a), &l) < 0 ? -1 : ntohs(a.sin_port);
}
UNUSED static void die(const char* what) {
    say("SETUP FAILED: %s: %s", what, en(errno));
    _exit(3);
}
UNUSED static int sock(int type) {
    int s = socket(AF_INET, type, 0);
    if (s < 0) die("socket");
    return s;
}
UNUSED static int tcp(void) { return sock(SOCK_STREAM); }
// A socket bound to 127.0.0.1, port chosen by the system.
UNUSED static int bound(int type, struct sockaddr_in* a) {
    int s = sock(type);
    struct sockaddr_in b = lo(0);
    socklen_t l = sizeof b;
    if (bind(s, SA(&b), sizeof b) < 0 || getsockname(s, SA(&b), &l) < 0) die("bind");
    if (a) *a = b;
    return s;
}
UNUSED static int udp(struct sockaddr_in* a) { return bound(SOCK_DGRAM, a); }
UNUSED static int listener(int backlog, struct sockaddr_in* a) {
    int s = bound(SOCK_STREAM, a);
    if (listen(s, backlog) < 0) die("listen");
    return s;
}
UNUSED static int dial(const struct sockaddr_in* a) {
    int c = tcp();
    if (connect(c, SA(a), sizeof *a) < 0) die("connect");
    return c;
}
// A connected pair. Nagle is off at both ends: when small writes arrive must not hang on delayed ACKs.
UNUSED static void tcp_pair(int* c, int* s) {
    int on = 1;
    struct sockaddr_in a;
    int l = listener(8, &a);
    *c = dial(&a);
    *s = accept(l, 0, 0);
    if (*s < 0) die("accept");
    close(l);
    setsockopt(*c, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(*s, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}
UNUSED static void udp_pair(int* a, int* b) {
    struct sockaddr_in x, y;
    *a = udp(&x);
    *b = udp(&y);
    if (connect(*a, SA(&y), sizeof y) < 0 || connect(*b, SA(&x), sizeof x) < 0) die("connect");
}
UNUSED static void linger0(int s) {
    struct linger l = {1, 0};
    setsockopt(s, SOL_SOCKET, SO_LINGER, &l, sizeof l);
}
UNUSED static int nonblock(int s, int on) {
    int f = fcntl(s, F_GETFL);
    return fcntl(s, F_SETFL, on ? f | O_NONBLOCK : f & ~O_NONBLOCK);
}
// Until nothing more goes in: what is full is asked again, for buffers that grow.
UNUSED static void fill_up(int s) {
    static char big[1 << 20];
    nonblock(s, 1);
    for (int turns = 0; turns < 3; turns++) {
        while (send(s, big, sizeof big, 0) > 0) turns = 0;
        nap(100);
    }
    nonblock(s, 0);
}
UNUSED static int soerror(int s) {
    int v = -1;
    socklen_t l = sizeof v;
    return getsockopt(s, SOL_SOCKET, SO_ERROR, &v, &l) < 0 ? -1 : v;
}
#define SOERR(s) say("SO_ERROR(%s) = %s", #s, en(soerror(s)))
UNUSED static int setint(int s, int level, int opt, int v) {
    return setsockopt(s, level, opt, &v, sizeof v);
}
UNUSED static int getint(int s, int level, int opt) {
    int v = -99;
    socklen_t l = sizeof v;
    return getsockopt(s, level, opt, &v, &l) < 0 ? -1 : v;
}
// One option, read; or set and read back.
UNUSED static void show_get(const char* name, int s, int level, int opt) {
    errno = 0;
    int g = getint(s, level, opt), e = errno;
    say("get %s = %d %s", name, g, en(e));
}
UNUSED static void show_setget(const char* name, int s, int level, int opt, int v) {
    errno = 0;
    int r = setint(s, level, opt, v), e = errno;
    errno = 0;
    int g = getint(s, level, opt);
    say("set %s %d -> %d %s, get %d %s", name, v, r, en(e), g, en(errno));
}
// Receive what is there (waiting for the first byte) and print it.
#define RX(fd, n, flags)                                                                           \
    ({                                                                                             \
        char b_[n];                                                                                \
        errno = NOERR;                                                                             \
        long r_ = recv(fd, b_, n, flags);                                                          \
        int e_ = errno;                                                                            \
        diff_report("recv(" #fd ", buf, " #n ", " #flags ")", r_, e_, 0, diff_sigpipes);           \
        if (r_ > 0) bytes("data", b_, r_ < (n) ? r_ : (n));                                        \
        errno = e_;                                                                                \
        r_;                                                                                        \
    })

// ---- threads and processes
UNUSED static int self_tid(void) { return (int)syscall(SYS_gettid); }
// Waits until a thread (any process) has been asleep in three looks running, 3 s at most.
UNUSED static void wait_asleep(int tid) {
    char path[64], b[512];
    int seen = 0;
    for (int i = 0; i < 600 && seen < 3; i++) {
        snprintf(path, sizeof path, "/proc/%d/stat", tid);
        int f = open(path, O_RDONLY | O_CLOEXEC);
        int n = f < 0 ? -1 : (int)read(f, b, sizeof b - 1);
        if (f >= 0) close(f);
        if (n > 0) {
            b[n] = 0;
            char* p = strrchr(b, ')');
            seen = p && p[2] == 'S' ? seen + 1 : 0;
        }
        nap(5);
    }
}
UNUSED static pthread_t spawn_thread(void* (*f)(void*), void* arg) {
    pthread_t t;
    if (pthread_create(&t, 0, f, arg)) die("pthread_create");
    return t;
}
// A one-way gate between processes.
typedef struct {
    int p[2];
} gate;
UNUSED static gate gate_new(void) {
    gate g;
    if (pipe(g.p) < 0) die("pipe");
    return g;
}
UNUSED static void gate_open(gate g) {
    if (write(g.p[1], "x", 1) != 1) die("gate");
}
UNUSED static void gate_wait(gate g) {
    char c;
    while (read(g.p[0], &c, 1) < 0 && errno == EINTR)
        ;
}
UNUSED static pid_t forked(const char* who) {
    pid_t p = fork();
    if (p < 0) die("fork");
    if (p == 0) {
        diff_who = who;
        alarm(8);
    }
    return p;
}
UNUSED static void reap(pid_t p) {
    int st = 0;
    while (waitpid(p, &st, 0) < 0 && errno == EINTR)
        ;
    if (WIFSIGNALED(st))
        say("child: killed by signal %d", WTERMSIG(st));
    else
        say("child: exit %d", WEXITSTATUS(st));
}
#endif
