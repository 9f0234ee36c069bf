// Starting other programs from a process with sockets; what they inherit goes on working in them.
#include "diff.h"
#include <spawn.h>

extern char** environ;
static int c, s, l;
static struct sockaddr_in la;

// From here to the end of the child only the child prints.
static void child_reads(const char* text, pid_t p) {
    say("the child is sent: %.*s", (int)strcspn(text, "\n"), text);
    Q(send(c, text, strlen(text), 0));
    Q(shutdown(c, SHUT_WR));
    reap(p);
    close(c);
}
static void fresh(void) {
    c = dial(&la);
    s = accept(l, 0, 0);
}

int main(void) {
    diff_init();
    l = listener(8, &la);
    fcntl(l, F_SETFD, FD_CLOEXEC);
    char b[256];
    section("system and popen do not disturb");
    fresh();
    T(system("exit 3") == 3 << 8);
    T(system("echo from system"));
    FILE* f = popen("echo from popen; cat", "r");
    V(f != 0);
    V(fgets(b, sizeof b, f) != 0), say("%s", strtok(b, "\n"));
    T(pclose(f));
    T(send(c, "unharmed", 8, 0));
    RX(s, 16, 0);
    section("a child keeps an inherited descriptor open");
    close(c), close(s);
    fresh();
    char cmd[200];
    f = popen("cat >/dev/null", "w"); // inherits s: ends when its standard input does
    T(close(s));
    settle();
    PALL(c);
    T(send(c, "x", 1, 0));
    T(pclose(f));
    AW(c, POLLIN);
    PALL(c);
    RX(c, 4, 0);
    close(c);
    section("fork and exec: cat reads the accepted socket");
    fresh();
    pid_t p = fork();
    if (p == 0) {
        close(c);
        dup2(s, 0);
        close(s);
        execlp("cat", "cat", (char*)0);
        _exit(127);
    }
    close(s);
    child_reads("through cat\n", p);
    section("sh with an inherited number");
    fresh();
    int hi = fcntl(s, F_DUPFD, 7);
    dup2(s, 9), close(hi), close(s);
    p = fork();
    if (p == 0) {
        close(c);
        execl("/bin/sh", "sh", "-c", "read a <&9; echo got $a; cat <&9", (char*)0);
        _exit(127);
    }
    close(9);
    child_reads("line one\nline two\n", p);
    section("the child writes to the socket");
    fresh();
    p = fork();
    if (p == 0) {
        dup2(s, 1), close(s), close(c);
        execl("/bin/sh", "sh", "-c", "echo written by sh; echo more; exit 5", (char*)0);
        _exit(127);
    }
    close(s);
    RX(c, 64, MSG_WAITALL);
    reap(p);
    close(c);
    section("close on exec");
    fresh();
    fcntl(s, F_SETFD, FD_CLOEXEC);
    p = fork();
    if (p == 0) {
        close(c);
        dup2(s, 8);
        execl("/bin/sh", "sh", "-c", "sleep 0.3; cat <&8", (char*)0);
        _exit(127);
    }
    T(close(s));
    child_reads("only 8 is left\n", p);
    section("posix_spawn with file actions");
    fresh();
    posix_spawn_file_actions_t fa;
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_adddup2(&fa, s, 0);
    posix_spawn_file_actions_addclose(&fa, c);
    posix_spawn_file_actions_addclose(&fa, s);
    char* argv[] = {"cat", 0};
    V(posix_spawnp(&p, "cat", &fa, 0, argv, environ));
    close(s);
    child_reads("spawned\n", p);
    posix_spawn_file_actions_destroy(&fa);
    section("vfork and exec");
    fresh();
    p = vfork();
    if (p == 0) {
        dup2(s, 0);
        close(c), close(s);
        execl("/bin/cat", "cat", (char*)0);
        _exit(127);
    }
    V(fcntl(s, F_GETFD)), V(fcntl(c, F_GETFD)); // the child's close was its own
    close(s);
    child_reads("vforked\n", p);
    section("vfork whose exec fails");
    fresh();
    p = vfork();
    if (p == 0) {
        close(c), close(s);
        execl("/no/such/program", "x", (char*)0);
        _exit(127);
    }
    reap(p);
    T(send(c, "both live", 9, 0));
    RX(s, 16, 0);
    close(c), close(s);
    section("exec of ourselves: sockets survive without fork");
    fresh();
    Q(dup2(s, 9));
    snprintf(cmd, sizeof cmd, "cat <&9");
    p = fork();
    if (p == 0) {
        close(c), close(l), close(s);
        char* sh[] = {"sh", "-c", cmd, 0};
        execve("/bin/sh", sh, environ);
        _exit(127);
    }
    close(s), close(9);
    child_reads("after exec\n", p);
    section("a listener is inherited and accepted from in a new program: by file descriptor 3");
    int li = listener(4, &la);
    p = fork();
    if (p == 0) {
        dup2(li, 3);
        fcntl(3, F_SETFD, 0);
        execl("/usr/bin/env", "env", "sh", "-c", "exit 4", (char*)0);
        _exit(127);
    }
    reap(p);
    c = dial(&la);
    s = accept(li, 0, 0);
    T(send(c, "still accepting", 15, 0));
    RX(s, 32, 0);
    section("eight children at once write to one socket");
    pid_t k[8];
    for (int i = 0; i < 8; i++)
        if ((k[i] = fork()) == 0) {
            dup2(s, 1);
            execl("/bin/sh", "sh", "-c", "echo 1234567", (char*)0);
            _exit(127);
        }
    long n = 0, r;
    while (n < 64 && (r = recv(c, b, sizeof b, 0)) > 0) n += r;
    V(n);
    for (int i = 0; i < 8; i++) waitpid(k[i], 0, 0);
    return 0;
}
