// What /proc shows and opens: a shim that stands for sockets with files may be seen here.
#include "diff.h"

int main(void) {
    diff_init();
    int c, s;
    char path[64], l[128];
    tcp_pair(&c, &s);
    section("/proc/self/fd");
    snprintf(path, sizeof path, "/proc/self/fd/%d", s);
    memset(l, 0, sizeof l);
    V(readlink(path, l, 100) > 0);
    say("starts with '%.8s'", l);
    T(open(path, O_RDWR) < 0 ? -1 : 0), T(open(path, O_RDONLY) < 0 ? -1 : 0);
    struct stat st;
    T(stat(path, &st));
    V(S_ISSOCK(st.st_mode));
    T(lstat(path, &st));
    V(S_ISLNK(st.st_mode));
    T(access(path, R_OK));
    snprintf(path, sizeof path, "/dev/fd/%d", s);
    T(open(path, O_RDONLY) < 0 ? -1 : 0);
    T(openat(AT_FDCWD, path, O_RDWR)), T(openat64(AT_FDCWD, path, O_WRONLY)), T(creat(path, 0600)),
        T(syscall(SYS_openat, AT_FDCWD, path, O_RDONLY, 0)),
        T(syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_TRUNC, 0));
    V(fopen(path, "r") == 0), say("%s", en(errno));
    FILE* null = fopen("/dev/null", "r");
    V(freopen(path, "r", null) == 0), say("%s", en(errno));
    int high = fcntl(s, F_DUPFD, 100), low = dup(0);
    dup2(s, 0);
    T(open("/dev/stdin", O_RDONLY)), T(open("/dev/fd/0", O_RDWR)),
        T(open("/dev/stdin", O_PATH) < 0);
    dup2(low, 0), close(low), close(high);
    section("the same socket by all ways");
    struct stat st2;
    char number[16], want[64];
    T(fstat(s, &st));
    snprintf(want, sizeof want, "socket:[%lu]", (unsigned long)st.st_ino);
    V(readlink(path, l, sizeof l) == (long)strlen(want) && !memcmp(l, want, strlen(want)));
    T(readlink(path, l, 6)), say("cut: %.6s", l);
    snprintf(path, sizeof path, "/proc/%d/fd/%d", getpid(), s);
    V(readlink(path, l, sizeof l) == (long)strlen(want) && !memcmp(l, want, strlen(want)));
    T(stat(path, &st2)), V(st2.st_ino == st.st_ino), V(st2.st_dev == st.st_dev);
    int dir = open("/proc/self/fd", O_RDONLY | O_DIRECTORY);
    snprintf(number, sizeof number, "%d", s);
    V(readlinkat(dir, number, l, sizeof l) == (long)strlen(want) && !memcmp(l, want, strlen(want)));
    T(fstatat(dir, number, &st2, 0)), V(S_ISSOCK(st2.st_mode)), V(st2.st_ino == st.st_ino);
    T(fstatat(dir, number, &st2, AT_SYMLINK_NOFOLLOW)), V(S_ISLNK(st2.st_mode));
    struct statx sx;
    T(statx(dir, number, 0, STATX_BASIC_STATS, &sx)), V(S_ISSOCK(sx.stx_mode)),
        V(sx.stx_ino == st.st_ino);
    close(dir);
    section("what changes a file does a socket no harm");
    struct timespec times[2] = {{1, 1}, {2, 2}};
    T(fchmod(s, 0)), T(syscall(SYS_fchmod, s, 0)), T(fchown(s, -1, -1)), T(futimens(s, times)),
        T(isfdtype(s, S_IFSOCK)), T(isfdtype(s, S_IFREG));
    pid_t p = fork();
    if (p == 0) _exit(send(s, "child", 5, 0) != 5);
    reap(p);
    RX(c, 8, 0);
    T(lockf(s, F_LOCK, 0)), T(lockf(s, F_TEST, 0)), T(lockf(s, F_ULOCK, 0));
    section("descriptors that nobody opened");
    int extra =
        0; // the shim keeps one of its own at a high number, which says EBADF to the program
    for (int i = 0; i < 1024; i++) extra += fcntl(i, F_GETFD) >= 0;
    V(extra);
    return 0;
}
