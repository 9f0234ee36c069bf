// What /proc shows and opens: a shim that stands for sockets with files may be seen here.
#include "diff.h"

int main(void)
{
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
    section("descriptors that nobody opened");
    int extra = 0;
    for (int i = 0; i < 1024; i++)
        extra += fcntl(i, F_GETFD) >= 0;
    V(extra);
    return 0;
}
