// The environment that exec gets: what the program set is there, in its order, and nothing else; but where a
// socket of ours is inherited, the library and its variables stand behind it.
#include "test.h"

#include <netinet/in.h>
#include <spawn.h>

extern char** environ;
static const char* self;
static int sock = -1;

static int is_shims(const char* variable) {
    return !strncmp(variable, "LD_PRELOAD=", 11) || !strncmp(variable, "SOCKSHIM_", 9);
}

// argv: "child", "with" or "without", number of variables, descriptor of a socket or -1.
static int child(char** argv) {
    const int with = !strcmp(argv[2], "with"), count = atoi(argv[3]), fd = atoi(argv[4]);
    int i = 0;
    for (; i < count; ++i) {
        char expected[32];
        snprintf(expected, sizeof expected, "V%d=%d", i, i * 7);
        CHECK(environ[i] && !strcmp(environ[i], expected));
        if (failures) return 1;
    }
    for (; environ[i]; ++i) CHECK(with && is_shims(environ[i]));
    const char* const preload = getenv("LD_PRELOAD");
    CHECK(!with == !preload);
    if (with) {
        CHECK(preload[0] == '/' && getenv("SOCKSHIM_DIR"));
        struct sockaddr_in a;
        socklen_t n = sizeof a;
        CHECK(getsockname(fd, (struct sockaddr*)&a, &n) == 0 && a.sin_family == AF_INET &&
              a.sin_port);
    }
    return failures != 0;
}

static char** variables(int count) {
    char** const env = malloc(((size_t)count + 1) * sizeof *env);
    for (int i = 0; i < count; ++i) {
        env[i] = malloc(24);
        snprintf(env[i], 24, "V%d=%d", i, i * 7);
    }
    env[count] = NULL;
    return env;
}

static const char* const kinds[] = {"vfork",   "vfork dup2",  "execve",       "execle",
                                    "execvpe", "fexecve",     "execveat",     "syscall",
                                    "environ", "posix_spawn", "with actions", "posix_spawnp"};
enum { number_of_kinds = sizeof kinds / sizeof *kinds };

static void become(const char* kind, char** argv, char** env) {
    if (!strcmp(kind, "execle")) {
        execle(self, argv[0], argv[1], argv[2], argv[3], argv[4], NULL, env);
    } else if (!strcmp(kind, "execvpe")) {
        execvpe(self, argv, env);
    } else if (!strcmp(kind, "fexecve")) {
        fexecve(open(self, O_RDONLY | O_CLOEXEC), argv, env);
    } else if (!strcmp(kind, "execveat")) {
        execveat(AT_FDCWD, self, argv, env, 0);
    } else if (!strcmp(kind, "syscall")) {
        syscall(SYS_execve, self, argv, env);
    } else if (!strcmp(kind, "environ")) {
        environ = env;
        execv(self, argv);
    } else {
        execve(self, argv, env);
    }
    _exit(9);
}

static void run(const char* kind, const char* with, int count, char** env) {
    char number[16], fd[16];
    snprintf(number, sizeof number, "%d", count);
    snprintf(fd, sizeof fd, "%d",
             strcmp(kind, "vfork dup2") && strcmp(kind, "with actions") ? sock : 77);
    char* argv[] = {"environment", "child", (char*)with, number, fd, NULL};
    pid_t pid = -1;
    if (!strncmp(kind, "posix_spawn", 11)) {
        CHECK((kind[11] ? posix_spawnp : posix_spawn)(&pid, self, NULL, NULL, argv, env) == 0);
    } else if (!strcmp(kind, "with actions")) {
        posix_spawn_file_actions_t actions;
        posix_spawn_file_actions_init(&actions);
        if (sock >= 0) posix_spawn_file_actions_adddup2(&actions, sock, 77);
        CHECK(posix_spawn(&pid, self, &actions, NULL, argv, env) == 0);
        posix_spawn_file_actions_destroy(&actions);
    } else if (!strncmp(kind, "vfork", 5)) {
        pid = vfork();
        if (pid == 0) {
            if (kind[5] && sock >= 0) dup2(sock, 77);
            execve(self, argv, env);
            _exit(9);
        }
    } else {
        pid = fork();
        if (pid == 0) become(kind, argv, env);
    }
    const int status = exit_status_of(pid);
    if (status != 0) {
        ++failures;
        printf("%s, %d variables, %s: %x\n", kind, count, with, status);
    }
}

static void all_kinds(const char* with, int count) {
    char** const env = variables(count);
    for (int k = 0; k < number_of_kinds; ++k) {
        const int stays = !strcmp(kinds[k], "vfork dup2") || !strcmp(kinds[k], "with actions");
        const int cloexec = sock >= 0 && fcntl(sock, F_GETFD) & FD_CLOEXEC;
        run(kinds[k], cloexec && stays ? "with" : with, count, env);
    }
}

// The kernel's verdict on what is no environment.
static void bad_environments(void) {
    char* const argv[] = {"true", NULL};
    char* const bad[] = {"A=1", (char*)8, NULL};
    char* const end = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(end + 4096, 4096);
    char** const unfinished = (char**)(end + 4096) - 2;
    unfinished[0] = unfinished[1] = "B=2";
    CHECK_ERRNO(execve("/bin/true", argv, (char**)8), EFAULT);
    CHECK_ERRNO(execve("/bin/true", argv, bad), EFAULT);
    CHECK_ERRNO(execve("/bin/true", argv, unfinished), EFAULT);
    // A variable may be shorter than what is looked for, and end with its page.
    char* const last = end + 4096 - 3;
    memcpy(last, "LD", 3);
    char* const short_one[] = {last, NULL};
    pid_t pid = vfork();
    if (pid == 0) {
        execve("/bin/true", argv, short_one);
        _exit(9);
    }
    CHECK(exit_status_of(pid) == 0);
    pid = vfork();
    if (pid == 0) {
        execve("/bin/true", argv, NULL);
        _exit(9);
    }
    CHECK(exit_status_of(pid) == 0);
}

// A program that says what LD_PRELOAD shall be is taken at its word.
static void own_preload(void) {
    char* env[] = {"LD_PRELOAD=", "V0=0", NULL};
    char* argv[] = {"sh", "-c", "test \"$(env | grep -c -e ^LD_PRELOAD= -e ^SOCKSHIM_)\" = 1",
                    NULL};
    const pid_t pid = fork();
    if (pid == 0) {
        execve("/bin/sh", argv, env);
        _exit(9);
    }
    CHECK(exit_status_of(pid) == 0);
}

int main(int argc, char** argv) {
    if (argc == 5) return child(argv);
    static char path[4096];
    CHECK(readlink("/proc/self/exe", path, sizeof path - 1) > 0);
    self = path;
    const char* with = "without";
    if (getenv("PRELOAD_TEST_SOCKET")) {
        sock = socket(AF_INET, SOCK_DGRAM, 0);
        const struct sockaddr_in a = {.sin_family = AF_INET,
                                      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        CHECK(bind(sock, (const struct sockaddr*)&a, sizeof a) == 0);
        with = "with";
    }
    all_kinds(with, 0);
    all_kinds(with, 3);
    all_kinds(with, 20000);
    bad_environments();
    own_preload();
    if (sock >= 0) {
        CHECK(fcntl(sock, F_SETFD, FD_CLOEXEC) == 0);
        all_kinds("without", 3);
    }
    // What is remembered is not the environment's own memory.
    for (char** e = environ; *e; ++e) memset(*e, 'x', strlen(*e));
    if (sock >= 0) CHECK(fcntl(sock, F_SETFD, 0) == 0);
    run("vfork", with, 0, variables(0));
    return finish_test();
}
