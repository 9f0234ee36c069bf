// Linked into early.c: its constructor runs before the shim's, its destructor after.
#include "test.h"

int early_failures = -1;

__attribute__((constructor)) static void early(void) {
    int p[2];
    char c;
    CHECK(pipe(p) == 0 && write(p[1], "x", 1) == 1 && read(p[0], &c, 1) == 1);
    CHECK_ERRNO(read(999, &c, 1), EBADF);
    CHECK(poll(&(struct pollfd){p[1], POLLOUT, 0}, 1, 0) == 1);
    signal(SIGUSR1, SIG_IGN);
    CHECK(signal(SIGUSR1, SIG_DFL) == SIG_IGN);
    maybe_socket();
    const pid_t pid = fork();
    if (pid == 0) _exit(7);
    CHECK(WEXITSTATUS(exit_status_of(pid)) == 7);
    const pid_t quick = vfork();
    if (quick == 0) _exit(8);
    CHECK(WEXITSTATUS(exit_status_of(quick)) == 8);
    CHECK(syscall(SYS_getpid) == getpid());
    close(p[0]);
    close(p[1]);
    early_failures = failures;
}

__attribute__((destructor)) static void late(void) {
    const int fd = open("/dev/null", O_WRONLY);
    if (fd < 0 || write(fd, "x", 1) != 1 || close(fd) != 0) puts("late calls fail");
}
