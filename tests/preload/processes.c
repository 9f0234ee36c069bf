// Children of every make: what they do to descriptors stays theirs, and what they say comes back.
#include "test.h"

#include <sched.h>
#include <spawn.h>

extern char** environ;
static int p[2];

static void expect_line(const char* text) {
    char got[128] = {0};
    size_t n = 0;
    while (n < strlen(text)) {
        const ssize_t r = read(p[0], got + n, strlen(text) - n);
        if (r <= 0) break;
        n += (size_t)r;
    }
    if (strcmp(got, text) != 0) {
        ++failures;
        printf("expected '%s', got '%s'\n", text, got);
    }
}

static void vforks(void) {
    const int keep = open("/etc/passwd", O_RDONLY);
    char c;
    CHECK(keep >= 0);
    for (int i = 0; i < 20; ++i) {
        volatile int parents = 17;
        const pid_t pid = vfork();
        if (pid == 0) {
            parents = 18; // our memory
            close(keep);
            dup2(p[1], 1);
            dup2(p[1], keep); // the number that the parent still uses
            close_range(100, ~0u, 0);
            fcntl(1, F_SETFD, 0);
            execl("/bin/echo", "echo", "vforked", NULL);
            _exit(9);
        }
        CHECK(pid > 0 && parents == 18);
        CHECK(exit_status_of(pid) == 0);
        expect_line("vforked\n");
        CHECK(lseek(keep, 0, SEEK_SET) == 0 && read(keep, &c, 1) == 1 && c == 'r');
    }
    const pid_t pid = vfork();
    if (pid == 0) {
        execl("/does/not/exist", "x", NULL);
        _exit(errno == ENOENT ? 33 : 1);
    }
    CHECK(WEXITSTATUS(exit_status_of(pid)) == 33);
    close(keep);
    CHECK_ERRNO(fcntl(keep, F_GETFD), EBADF);
}

static int cloned(void* arg) { return write(p[1], arg, 7) != 7; }

static void clones(void) {
    static char stack[65536] __attribute__((aligned(16)));
    pid_t pid = clone(cloned, stack + sizeof stack, SIGCHLD, "cloned\n");
    CHECK(pid > 0 && exit_status_of(pid) == 0);
    expect_line("cloned\n");
    pid = clone(cloned, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, "shared\n");
    CHECK(pid > 0 && exit_status_of(pid) == 0);
    expect_line("shared\n");
    pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    if (pid == 0) _exit(write(p[1], "by call\n", 8) != 8);
    CHECK(exit_status_of(pid) == 0);
    expect_line("by call\n");
#ifdef SYS_clone3
    struct {
        unsigned long long flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
    } args = {.exit_signal = SIGCHLD};
    pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
    if (pid == 0) _exit(write(p[1], "clone3\n", 7) != 7);
    if (pid > 0) {
        CHECK(exit_status_of(pid) == 0);
        expect_line("clone3\n");
    }
    CHECK(syscall(SYS_clone3, NULL, 0) == -1);
#endif
    pid = _Fork();
    if (pid == 0) _exit(write(p[1], "_Fork\n", 6) != 6);
    CHECK(exit_status_of(pid) == 0);
    expect_line("_Fork\n");
}

static void spawns(void) {
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, p[1], 1);
    posix_spawn_file_actions_addclose(&actions, p[0]);
    char* argv[] = {"echo", "spawned", NULL};
    pid_t pid = -1;
    CHECK_KEEPS(posix_spawn(&pid, "/bin/echo", &actions, NULL, argv, environ) == 0);
    CHECK(exit_status_of(pid) == 0);
    expect_line("spawned\n");
    CHECK(posix_spawnp(&pid, "echo", &actions, NULL, argv, environ) == 0);
    CHECK(exit_status_of(pid) == 0);
    expect_line("spawned\n");
    CHECK(posix_spawn(&pid, "/does/not/exist", NULL, NULL, argv, environ) == ENOENT);
    posix_spawn_file_actions_destroy(&actions);
    CHECK(WEXITSTATUS(system("exit 5")) == 5);
    CHECK(system(NULL) != 0);
    char command[64];
    snprintf(command, sizeof command, "echo system >&%d", p[1]);
    CHECK(system(command) == 0);
    expect_line("system\n");
}

// Which function executes is the argument of the second life of this program.
static void execs(const char* self) {
    static const char* const kinds[] = {"execve", "execv",  "execvp",  "execvpe",  "execl",
                                        "execlp", "execle", "fexecve", "execveat", "syscall"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; ++i) {
        const char* const kind = kinds[i];
        char* argv[] = {"echo", (char*)kind, "x y", NULL};
        const pid_t pid = fork();
        if (pid == 0) {
            dup2(p[1], 1);
            execve("/does/not/exist", argv, environ); // fails first
            if (!strcmp(kind, "execve")) execve("/bin/echo", argv, environ);
            if (!strcmp(kind, "execv")) execv("/bin/echo", argv);
            if (!strcmp(kind, "execvp")) execvp("echo", argv);
            if (!strcmp(kind, "execvpe")) execvpe("echo", argv, environ);
            if (!strcmp(kind, "execl")) execl("/bin/echo", "echo", kind, "x y", NULL);
            if (!strcmp(kind, "execlp")) execlp("echo", "echo", kind, "x y", NULL);
            if (!strcmp(kind, "execle")) execle("/bin/echo", "echo", kind, "x y", NULL, environ);
            if (!strcmp(kind, "fexecve")) fexecve(open("/bin/echo", O_RDONLY), argv, environ);
            if (!strcmp(kind, "execveat")) execveat(AT_FDCWD, "/bin/echo", argv, environ, 0);
            if (!strcmp(kind, "syscall")) syscall(SYS_execve, "/bin/echo", argv, environ);
            _exit(9);
        }
        CHECK(exit_status_of(pid) == 0);
        char line[64];
        snprintf(line, sizeof line, "%s x y\n", kind);
        expect_line(line);
    }
    CHECK_ERRNO(execl("/does/not/exist", "x", NULL), ENOENT);
    // SIGSEGV ignored stays ignored across exec.
    const pid_t pid = fork();
    if (pid == 0) {
        signal(SIGSEGV, SIG_IGN);
        execl(self, self, "sigsegv-ignored", NULL);
        _exit(9);
    }
    CHECK(exit_status_of(pid) == 0);
}

static void exits(void) {
    for (int how = 0; how < 4; ++how) {
        const pid_t pid = fork();
        if (pid == 0) {
            if (how == 0) _exit(40);
            if (how == 1) _Exit(41);
            if (how == 2) quick_exit(42);
            syscall(SYS_exit_group, 43);
        }
        CHECK(WEXITSTATUS(exit_status_of(pid)) == 40 + how);
    }
}

static void daemons(void) {
    const pid_t pid = fork();
    if (pid == 0) {
        const int keep = dup(p[1]);
        if (daemon(0, 0) != 0) _exit(1);
        char cwd[16];
        char c;
        const int good = getcwd(cwd, sizeof cwd) && strcmp(cwd, "/") == 0 && read(0, &c, 1) == 0 &&
                         write(1, "lost", 4) == 4 && getppid() != pid && getsid(0) != 0;
        dprintf(keep, good ? "daemon\n" : "broken\n");
        _exit(0);
    }
    CHECK(exit_status_of(pid) == 0);
    expect_line("daemon\n");
}

static int order;
static void prepare(void) { order = order * 10 + 1; }
static void parent(void) { order = order * 10 + 2; }
static void child(void) { order = order * 10 + 3; }

static void* forking(void* arg) {
    (void)arg;
    for (int i = 0; i < 20; ++i) {
        const pid_t pid = fork();
        if (pid == 0) {
            void* const m = malloc(1000);
            free(m);
            _exit(close(open("/dev/null", O_RDWR)));
        }
        if (exit_status_of(pid) != 0) return "child failed";
    }
    return NULL;
}

int main(int argc, char** argv) {
    if (argc > 1) {
        struct sigaction act;
        sigaction(SIGSEGV, NULL, &act);
        return act.sa_handler != SIG_IGN;
    }
    maybe_socket();
    CHECK(pipe(p) == 0);
    pthread_atfork(prepare, parent, child);
    pid_t pid = fork();
    if (pid == 0) _exit(order == 13 ? 0 : 1);
    CHECK(exit_status_of(pid) == 0 && order == 12);

    vforks();
    clones();
    spawns();
    execs(argv[0]);
    exits();
    daemons();

    pthread_t threads[4];
    for (int i = 0; i < 4; ++i) pthread_create(&threads[i], NULL, forking, NULL);
    for (int i = 0; i < 4; ++i) {
        void* what = NULL;
        pthread_join(threads[i], &what);
        CHECK(what == NULL);
    }
    return finish_test();
}
