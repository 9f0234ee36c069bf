// What sockets become in programs that are started with posix_spawn's file actions, forkpty, daemon, fexecve and
// execveat, and with an environment that knows nothing of a preload: each says which numbers are sockets, and answers.
#include "diff.h"
#include <pty.h>
#include <sched.h>
#include <spawn.h>

extern char** environ;
static char self[4096];
static int c, s;

// What stands on a number: S a socket that answers, N a socket without a peer, f anything else, - nothing.
static char kind_of(int fd) {
    struct sockaddr_in a;
    socklen_t l = sizeof a;
    struct stat st;
    if (fstat(fd, &st) < 0) return '-';
    if (!S_ISSOCK(st.st_mode)) return 'f';
    return getpeername(fd, SA(&a), &l) == 0 ? 'S' : 'N';
}

// The other program: argv is "other", the number to talk on, and those to tell about.
static int other(int n, char** v) {
    char line[64] = "";
    for (int i = 3; i < n; i++) line[i - 3] = kind_of(atoi(v[i]));
    const int fd = atoi(v[2]);
    dprintf(fd, "numbers %s\n", line);
    char got[16];
    long r = recv(fd, got, sizeof got, 0);
    if (r > 0) send(fd, got, r, 0);
    return 0;
}

static char* words[16];
static char** about(int talk, const int* tell, int n) {
    static char text[16][12];
    words[0] = self, words[1] = (char*)"other";
    snprintf(words[2] = text[2], 12, "%d", talk);
    for (int i = 0; i < n; i++) snprintf(words[3 + i] = text[3 + i], 12, "%d", tell[i]);
    words[3 + n] = 0;
    return words;
}

static void fresh(void) { tcp_pair(&c, &s); }
static void answers(pid_t p) {
    char b[64];
    int n = 0;
    while (n < 63 && recv(c, b + n, 1, 0) == 1 && b[n++] != '\n')
        ;
    bytes("says", b, n);
    Q(send(c, "echo", 4, 0));
    RX(c, 4, MSG_WAITALL);
    reap(p);
    RX(c, 1, 0);
    close(c);
}

static void actions(void) {
    posix_spawn_file_actions_t fa;
    pid_t p = 0;
    for (int how = 0; how < 7; how++) {
        fresh();
        int u = udp(0), hi = fcntl(s, F_DUPFD, 60), r;
        dup2(u, 61);
        posix_spawn_file_actions_init(&fa);
        switch (how) {
        case 0:
            section("adddup2 to a free number, to a used one, and to itself");
            fcntl(s, F_SETFD, FD_CLOEXEC);
            posix_spawn_file_actions_adddup2(&fa, s, 70);
            posix_spawn_file_actions_adddup2(&fa, u, 61);
            posix_spawn_file_actions_adddup2(&fa, s, s); // takes its FD_CLOEXEC away
            break;
        case 1:
            section("addclose");
            posix_spawn_file_actions_adddup2(&fa, s, 70);
            posix_spawn_file_actions_addclose(&fa, 60);
            posix_spawn_file_actions_addclose(&fa, 61);
            posix_spawn_file_actions_addclose(&fa, 999);
            break;
        case 2:
            section("addopen over sockets");
            posix_spawn_file_actions_adddup2(&fa, s, 70);
            posix_spawn_file_actions_addopen(&fa, 60, "/dev/null", O_RDWR, 0);
            posix_spawn_file_actions_addopen(&fa, 61, "/etc/passwd", O_RDONLY, 0);
            break;
        case 3:
            section("addclosefrom_np");
            posix_spawn_file_actions_adddup2(&fa, s, 50);
            posix_spawn_file_actions_addclosefrom_np(&fa, 51);
            posix_spawn_file_actions_adddup2(&fa, 50, 70);
            break;
        case 4:
            section("addfchdir_np, addchdir_np");
            posix_spawn_file_actions_adddup2(&fa, s, 70);
            posix_spawn_file_actions_addfchdir_np(&fa, open("/tmp", O_RDONLY | O_CLOEXEC));
            posix_spawn_file_actions_addchdir_np(&fa, "/");
            break;
        case 5:
            section("addfchdir_np of a socket");
            posix_spawn_file_actions_addfchdir_np(&fa, s);
            break;
        case 6:
            section("adddup2 of a closed number");
            posix_spawn_file_actions_addclose(&fa, s);
            posix_spawn_file_actions_adddup2(&fa, s, 70);
            break;
        }
        char* none[] = {0};
        for (int clean = 0; clean < 2; clean++) {
            int tell[] = {s, hi, 61, 70, c};
            char** v = about(70, tell, 4);
            r = posix_spawn(&p, self, &fa, 0, v, clean ? none : environ);
            say("posix_spawn, %s environment -> %s", clean ? "an empty" : "our", en(r));
            if (r) continue;
            if (clean) close(s), close(60), close(61);
            char b[64];
            int n = 0;
            while (n < 63 && recv(c, b + n, 1, 0) == 1 && b[n++] != '\n')
                ;
            bytes("says", b, n);
            Q(send(c, "echo", 4, 0));
            RX(c, 4, MSG_WAITALL);
            reap(p);
        }
        V(kind_of(c)), T(fcntl(70, F_GETFD));
        posix_spawn_file_actions_destroy(&fa);
        close(c), close(s), close(60), close(61), close(u);
    }
}

static void attributes(void) {
    section("posix_spawn with attributes");
    posix_spawnattr_t at;
    posix_spawnattr_init(&at);
    sigset_t set;
    sigfillset(&set);
    posix_spawnattr_setsigdefault(&at, &set);
    sigemptyset(&set);
    posix_spawnattr_setsigmask(&at, &set);
    posix_spawnattr_setflags(&at,
                             POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);
    fresh();
    pid_t p = 0;
    int tell[] = {s};
    V(posix_spawn(&p, self, 0, &at, about(s, tell, 1), environ));
    close(s);
    answers(p);
    posix_spawnattr_destroy(&at);
}

static void becoming(void) {
    static const char* const kinds[] = {"execve",  "execle",        "execvpe",
                                        "fexecve", "execveat path", "execveat fd",
                                        "syscall", "execv",         "clearenv"};
    char* none[] = {0};
    char* some[] = {(char*)"PATH=/bin", (char*)"X=1", 0};
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++)
        for (int clean = 0; clean < 2; clean++) {
            char title[64];
            snprintf(title, sizeof title, "%s, %s environment", kinds[i], clean ? "no" : "a small");
            section(title);
            fresh();
            pid_t p = fork();
            if (p == 0) {
                int tell[] = {s, c};
                close(c);
                char **v = about(s, tell, 2), **e = clean ? none : some;
                int exe = open(self, O_RDONLY | O_CLOEXEC);
                switch (i) {
                case 0: execve(self, v, e); break;
                case 1: execle(self, v[0], v[1], v[2], v[3], v[4], (char*)0, e); break;
                case 2: execvpe(self, v, e); break;
                case 3: fexecve(exe, v, e); break;
                case 4: execveat(AT_FDCWD, self, v, e, 0); break;
                case 5: execveat(exe, "", v, e, AT_EMPTY_PATH); break;
                case 6: syscall(SYS_execve, self, v, e); break;
                case 7: environ = e, execv(self, v); break;
                case 8:
                    clearenv();
                    if (!clean) setenv("A", "1", 1);
                    execv(self, v);
                    break;
                }
                _exit(127);
            }
            close(s);
            answers(p);
        }
}

static void terminal(void) {
    section("forkpty: the child's terminal stands where a socket stood");
    fresh();
    int saved = dup(0), master = -1;
    dup2(s, 0);
    pid_t p = forkpty(&master, 0, 0, 0);
    if (p == 0) {
        char k[8] = {kind_of(0), kind_of(1), kind_of(2), kind_of(s), kind_of(c)};
        int tty = isatty(0) && isatty(1);
        close(c);
        int n = dprintf(s, "%s %s, read %s\n", k, tty ? "a terminal" : "no terminal",
                        recv(0, k, 1, 0) < 0 ? en(errno) : "?");
        _exit(n < 0);
    }
    dup2(saved, 0), close(saved), close(s);
    V(p > 0), V(kind_of(master)), V(isatty(master));
    reap(p);
    RX(c, 64, MSG_WAITALL);
    close(c), close(master);

    section("daemon keeps the sockets and puts /dev/null on 0, 1, 2");
    fresh();
    p = fork();
    if (p == 0) {
        dup2(s, 0), dup2(s, 1), dup2(s, 2);
        int r = daemon(0, 0);
        char k[8] = {kind_of(0), kind_of(1), kind_of(2), kind_of(s), kind_of(c)};
        close(c);
        dprintf(s, "%d %s\n", r, k);
        _exit(0);
    }
    close(s);
    reap(p);
    RX(c, 64, MSG_WAITALL);
    close(c);
    section("daemon without closing");
    fresh();
    p = fork();
    if (p == 0) {
        dup2(s, 1);
        int r = daemon(1, 1);
        char k[8] = {kind_of(1), kind_of(s), kind_of(c)};
        close(c);
        dprintf(1, "%d %s\n", r, k);
        _exit(0);
    }
    close(s);
    reap(p);
    RX(c, 64, MSG_WAITALL);
    close(c);
}

static void shells(void) {
    char cmd[100];
    section("system and popen with sockets at low and high numbers");
    fresh();
    int at9 = dup2(s, 9);
    snprintf(cmd, sizeof cmd, "echo by system >&%d", at9);
    T(system(cmd));
    RX(c, 32, 0);
    FILE* f = popen("cat >&9", "w");
    fputs("by popen\n", f);
    T(pclose(f));
    RX(c, 32, 0);
    f = popen("head -c 6 <&9", "r");
    Q(send(c, "inward", 6, 0));
    char b[32] = "";
    V(fread(b, 1, sizeof b, f)), say("%s", b);
    T(pclose(f));
    f = popen("cat <&9", "re");
    Q(send(c, "two", 3, 0)), shutdown(c, SHUT_WR);
    V(fread(b, 1, sizeof b, f));
    T(pclose(f));
    RX(s, 4, 0);
    T(close(9));
    close(s);
    RX(c, 4, 0);
    close(c);
    section("system with an empty environment: the program still finds its socket");
    fresh();
    dup2(s, 9), close(s), fcntl(c, F_SETFD, FD_CLOEXEC);
    char** was = environ;
    char* none[] = {0};
    environ = none;
    snprintf(cmd, sizeof cmd, "/bin/echo reached >&9");
    T(system(cmd));
    f = popen(cmd, "r");
    T(pclose(f));
    environ = was;
    close(9);
    RX(c, 16, MSG_WAITALL);
    RX(c, 1, 0);
    close(c);
}

static int cloned(void* arg) {
    (void)arg;
    dprintf(s, "clone %c%c\n", kind_of(s), kind_of(c));
    _exit(close(c));
}

static void made(void) {
    static char stack[65536] __attribute__((aligned(16)));
    pid_t p = 0;
    for (int how = 0; how < 5; how++) {
        static const char* const kinds[] = {"_Fork", "clone", "syscall(SYS_clone)",
                                            "syscall(SYS_clone3)", "vfork"};
        section(kinds[how]);
        fresh();
        struct {
            unsigned long long flags, pidfd, child_tid, parent_tid, exit_signal, stack, size, tls;
        } args = {.exit_signal = SIGCHLD};
        switch (how) {
        case 0: p = _Fork(); break;
        case 1: p = clone(cloned, stack + sizeof stack, SIGCHLD, 0); break;
        case 2: p = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0); break;
        case 3: p = syscall(SYS_clone3, &args, sizeof args); break;
        case 4: p = vfork(); break;
        }
        if (p == 0) {
            if (how == 4) {
                close(c), dup2(s, 8);
                execl("/bin/sh", "sh", "-c", "echo vforked >&8", (char*)0);
                _exit(127);
            }
            cloned(0);
        }
        V(p > 0);
        close(s);
        reap(p);
        RX(c, 32, MSG_WAITALL);
        V(kind_of(c));
        close(c);
    }
}

int main(int n, char** v) {
    if (n > 2) return other(n, v);
    diff_init();
    readlink("/proc/self/exe", self, sizeof self - 1);
    actions();
    attributes();
    becoming();
    terminal();
    shells();
    made();
    return 0;
}
