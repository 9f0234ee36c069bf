// RLIMIT_AS of a process that has sockets: what it sets is what it is told, by all the ways there are, and what it may
// allocate; its sockets go on.
#include "diff.h"

static const struct rlimit small = {400 << 20, 500 << 20};

static void show(const char* what, int r, const struct rlimit* l) {
    say("%s: %s, soft %lld KB, hard %lld KB", what, r ? en(errno) : "ok",
        (long long)l->rlim_cur >> 10, (long long)l->rlim_max >> 10);
}
static void ask(const char* who) {
    struct rlimit l = {0};
    say("%s", who);
    show(" getrlimit", getrlimit(RLIMIT_AS, &l), &l);
    memset(&l, 0, sizeof l);
    show(" prlimit", prlimit(getpid(), RLIMIT_AS, NULL, &l), &l);
    memset(&l, 0, sizeof l);
    show(" SYS_getrlimit", (int)syscall(SYS_getrlimit, RLIMIT_AS, &l), &l);
    memset(&l, 0, sizeof l);
    show(" SYS_prlimit64", (int)syscall(SYS_prlimit64, 0, RLIMIT_AS, NULL, &l), &l);
}
static void set(const char* what, rlim_t soft, rlim_t hard) {
    const struct rlimit l = {soft, hard};
    errno = NOERR;
    const int r = setrlimit(RLIMIT_AS, &l);
    say("%s: %d %s", what, r, en(errno));
}
static void allocate(const char* who) {
    for (size_t mb = 50; mb <= 1000; mb *= 20) {
        errno = NOERR;
        char* volatile p = malloc(mb << 20);
        say("%s: malloc of %zu MB: %s %s", who, mb, p ? "ok" : "no", en(errno));
        if (p) memset(p, 1, mb << 20);
        free(p);
    }
}
static void talk(const char* who) {
    static char out[300000], in[300000];
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    const int l = socket(AF_INET, SOCK_STREAM, 0), a = socket(AF_INET, SOCK_STREAM, 0);
    bind(l, SA(&at), len);
    listen(l, 1);
    getsockname(l, SA(&at), &len);
    const int connected = connect(a, SA(&at), len), b = accept(l, NULL, NULL);
    size_t got = 0;
    memset(out, 'x', sizeof out);
    for (size_t sent = 0; got < sizeof out;) {
        const ssize_t s = send(a, out + sent, sizeof out - sent, MSG_DONTWAIT);
        if (s > 0) sent += (size_t)s;
        const ssize_t r = recv(b, in + got, sizeof in - got, 0);
        if (r <= 0) {
            say("recv after %zu: %zd %s", got, r, en(errno));
            break;
        }
        got += (size_t)r;
    }
    say("%s: connected %d, %s", who, connected,
        memcmp(in, out, sizeof in) ? "DIFFERS" : "all bytes");
    close(a);
    close(b);
    close(l);
}
static void* of_thread(void* arg) {
    talk(arg);
    return NULL;
}

int main(void) {
    diff_init();
    struct rlimit l, was;
    section("before");
    const int s = socket(AF_INET, SOCK_DGRAM, 0);
    getrlimit(RLIMIT_AS, &was);
    ask("at first");

    section("set");
    set("soft above hard", 2, 1);
    set("set", small.rlim_cur, small.rlim_max);
    ask("set");
    allocate("set");
    talk("set");
    pthread_join(spawn_thread(of_thread, "in a thread"), NULL);

    section("ways");
    const struct rlimit other = {300 << 20, 500 << 20};
    show("prlimit, the former", prlimit(0, RLIMIT_AS, &other, &l), &l);
    show("SYS_prlimit64, the former", (int)syscall(SYS_prlimit64, getpid(), RLIMIT_AS, &small, &l),
         &l);
    say("SYS_setrlimit %ld", syscall(SYS_setrlimit, RLIMIT_AS, &other));
    ask("by others");
    say("of nobody: %d", prlimit(0, RLIMIT_AS, NULL, NULL));
    say("none to set: %d", (int)syscall(SYS_setrlimit, RLIMIT_AS, NULL));
    T(prlimit(0, RLIMIT_AS, (void*)8, NULL));
    T(prlimit(0, RLIMIT_AS, NULL, (void*)8));
    T(getrlimit(RLIMIT_AS, (void*)8));
    getrlimit(RLIMIT_DATA, &l);
    say("another limit: %d", setrlimit(RLIMIT_DATA, &l));

    section("children");
    pid_t pid = fork();
    if (pid == 0) {
        ask("a child");
        allocate("a child");
        talk("a child");
        _exit(0);
    }
    waitpid(pid, NULL, 0);
    pid = fork();
    if (pid == 0) {
        if (geteuid() == 0 && setresuid(65534, 65534, 65534)) say("SETUP: setresuid");
        set("without rights: the hard limit raised", small.rlim_cur, small.rlim_max + 1);
        set("left", small.rlim_cur, small.rlim_max);
        set("lowered", 200 << 20, 300 << 20);
        ask("without rights");
        set("raised again", 200 << 20, small.rlim_max);
        set("the soft one raised", 300 << 20, 300 << 20);
        ask("without rights");
        allocate("without rights");
        _exit(0);
    }
    waitpid(pid, NULL, 0);

    section("back");
    set("only soft", small.rlim_cur, was.rlim_max);
    ask("only soft");
    allocate("only soft");
    close(s);
    return 0;
}
