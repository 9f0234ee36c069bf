// A socket as a file: dup, fcntl, fstat, the calls that a socket refuses, close_range, closefrom.
#include "diff.h"
#include <linux/close_range.h>
#include <sys/file.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <termios.h>

static void alive(const char* what, int fd) {
    errno = 0;
    int v = getint(fd, SOL_SOCKET, SO_TYPE);
    say("%s: type %d %s", what, v, v < 0 ? en(errno) : "");
}

int main(void) {
    diff_init();
    int c, s, d, p[2];
    char b[64];
    tcp_pair(&c, &s);
    pipe(p);
    section("dup");
    F(d = dup(s));
    T(send(c, "one", 3, 0));
    RX(d, 8, 0);
    T(fcntl(d, F_SETFL, O_NONBLOCK));
    V(fcntl(s, F_GETFL) & O_NONBLOCK);
    RX(s, 8, 0);
    T(fcntl(s, F_SETFL, 0));
    V(fcntl(d, F_GETFL) & O_NONBLOCK);
    T(setint(d, SOL_SOCKET, SO_KEEPALIVE, 1)), V(getint(s, SOL_SOCKET, SO_KEEPALIVE));
    T(close(s));
    T(send(c, "two", 3, 0));
    RX(d, 8, 0);
    PALL(c);
    T(dup2(d, d) == d), T(dup2(d, s) == s), T(dup2(-1, s)), T(dup2(9999, s)), T(dup2(d, -1)),
        T(dup2(d, 1 << 30));
    alive("s again", s);
    T(dup3(d, d, 0)), T(dup3(d, s, 1)), T(dup3(d, s, O_CLOEXEC) == s), V(fcntl(s, F_GETFD)),
        V(fcntl(d, F_GETFD));
    int e;
    T((e = fcntl(d, F_DUPFD, 300)) == 300), T(fcntl(d, F_DUPFD, 300) == 301),
        T(fcntl(d, F_DUPFD_CLOEXEC, 310) == 310);
    V(fcntl(310, F_GETFD)), V(fcntl(300, F_GETFD)), T(fcntl(d, F_DUPFD, -1)),
        T(fcntl(d, F_DUPFD, 1 << 30)), T(fcntl(9999, F_DUPFD, 0));
    T(send(c, "via 310", 7, 0));
    RX(310, 16, 0);
    close(300), close(301), close(310);
    section("dup2 over a connected socket closes it");
    int c2, s2;
    tcp_pair(&c2, &s2);
    T(dup2(p[0], s2) == s2);
    AW(c2, POLLIN);
    RX(c2, 8, 0);
    alive("s2", s2);
    T(dup2(s, p[1]) == p[1]);
    alive("p[1]", p[1]);
    RX(s2, 8, 0), T(read(s2, b, 1));
    T(dup2(c2, s2) == s2);
    close(c2), close(s2), close(p[0]), close(p[1]);
    section("fcntl");
    pipe(p);
    say("F_GETFL %#x", fcntl(s, F_GETFL));
    T(fcntl(s, F_SETFL, O_NONBLOCK | O_APPEND | O_RDONLY | O_CREAT));
    say("F_GETFL %#x", fcntl(s, F_GETFL));
    T(fcntl(s, F_SETFL, O_NONBLOCK | O_WRONLY));
    say("F_GETFL %#x", fcntl(s, F_GETFL));
    T(fcntl(s, F_SETFL, O_DIRECT));
    say("F_GETFL %#x", fcntl(s, F_GETFL));
    T(fcntl(s, F_SETFL, 0));
    T(fcntl(s, F_SETFD, 5)), V(fcntl(s, F_GETFD)), T(fcntl(s, F_SETFD, 0)), V(fcntl(s, F_GETFD));
    T(fcntl(s, 9999)), T(fcntl(s, F_GETPIPE_SZ)), T(fcntl(s, F_GETLEASE)),
        T(fcntl(s, F_SETLEASE, F_RDLCK)), T(fcntl(s, F_GET_SEALS));
    T(fcntl(9999, F_GETFL)), T(fcntl(-1, F_GETFD)), T(fcntl(-1, 9999));
    T(fcntl(s, F_SETSIG, SIGUSR1)), V(fcntl(s, F_GETSIG) == SIGUSR1), T(fcntl(s, F_SETSIG, 999)),
        T(fcntl(s, F_SETSIG, 0));
    section("fstat");
    struct stat st, st2;
    T(fstat(s, &st));
    V(S_ISSOCK(st.st_mode)), say("mode %o", st.st_mode), V(st.st_size), V(st.st_nlink),
        V(st.st_blksize), V(st.st_blocks), V(st.st_uid == getuid());
    T(fstat(d, &st2));
    V(st.st_ino == st2.st_ino), V(st.st_dev == st2.st_dev);
    T(fstat(c, &st2));
    V(st.st_ino == st2.st_ino), V(st.st_dev == st2.st_dev);
    T(fstatat(s, "", &st2, AT_EMPTY_PATH));
    V(S_ISSOCK(st2.st_mode));
    struct statx sx;
    T(statx(s, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &sx));
    V(S_ISSOCK(sx.stx_mode));
    V(sx.stx_mask), V(sx.stx_attributes), V(sx.stx_attributes_mask), V(sx.stx_blksize),
        V(sx.stx_nlink), V(sx.stx_size), V(sx.stx_blocks), V(sx.stx_btime.tv_sec);
    V(sx.stx_ino == st.st_ino), V(makedev(sx.stx_dev_major, sx.stx_dev_minor) == st.st_dev);
    T(statx(s, "", AT_EMPTY_PATH, STATX_ALL, &sx)), V(sx.stx_mask);
    T(statx(s, "", AT_EMPTY_PATH, STATX_TYPE, &sx)), V(sx.stx_mask), V(S_ISSOCK(sx.stx_mode));
    T(statx(s, "", AT_EMPTY_PATH, STATX_TYPE, (struct statx*)-4096l));
    int un = socket(AF_UNIX, SOCK_STREAM, 0); // whose is the kernel's
    T(fstat(un, &st2));
    V(st.st_dev == st2.st_dev), V(st.st_ino == st2.st_ino), V(st.st_blksize == st2.st_blksize);
    struct statx ux;
    T(statx(un, "", AT_EMPTY_PATH, STATX_ALL, &ux)), T(statx(s, "", AT_EMPTY_PATH, STATX_ALL, &sx));
    V(ux.stx_mnt_id == sx.stx_mnt_id);
    close(un);
    V(st.st_atim.tv_sec), V(st.st_mtim.tv_sec), V(st.st_mtim.tv_nsec),
        V(st.st_rdev); // the kernel gives some a change time, others none
    section("each socket has an inode of its own, and keeps it");
    uint64_t seen[64];
    int again = 0, changed = 0;
    for (int i = 0; i < 64; i++) {
        int t = tcp();
        fstat(t, &st2), seen[i] = st2.st_ino;
        setint(t, SOL_SOCKET, SO_KEEPALIVE, 1), fstat(t, &st2);
        changed += st2.st_ino != seen[i];
        for (int k = 0; k < i; k++) again += seen[k] == seen[i];
        close(t);
    }
    V(again), V(changed);
    T(fstat(9999, &st));
    struct statfs sf;
    T(fstatfs(s, &sf));
    say("f_type %#lx", (long)sf.f_type);
    section("not for sockets");
    T(lseek(s, 0, SEEK_SET)), T(lseek(s, 0, SEEK_CUR)), T(lseek(s, -1, 99)), T(lseek(9999, 0, 0));
    T(pread(s, b, 1, 0)), T(pwrite(s, b, 1, 0)), T(pread(s, b, 1, -1)), T(pread(s, b, 0, 0)),
        T(pwrite(s, b, 0, 5)), T(pread(9999, b, 1, 0));
    T(ftruncate(s, 0)), T(ftruncate(s, -1)), T(fsync(s)), T(fdatasync(s)), T(syncfs(s)),
        T(posix_fallocate(s, 0, 10)), T(fallocate(s, 0, 0, 10));
    T(posix_fadvise(s, 0, 0, POSIX_FADV_NORMAL)), T(readahead(s, 0, 10)), T(isatty(s)),
        T(tcgetattr(s, &(struct termios){0})), T(fchdir(s));
    int us = udp(0);
    T(mmap(0, 4096, PROT_READ, MAP_PRIVATE, us, 0) == MAP_FAILED ? -1 : 0),
        T(mmap(0, 4096, PROT_READ, MAP_SHARED, us, 0) == MAP_FAILED ? -1 : 0);
    close(us);
    T(flock(s, LOCK_SH)), T(flock(s, LOCK_UN));
    struct flock fl = {F_RDLCK, SEEK_SET, 0, 0, 0};
    T(fcntl(s, F_GETLK, &fl)), T(fcntl(s, F_SETLK, &fl)), T(fcntl(s, F_OFD_SETLK, &fl)),
        T(lockf(s, F_TLOCK, 0));
    T(syscall(SYS_getdents64, s, b, 64)), T(openat(s, "x", O_RDONLY)), T(ttyname(s) ? 0 : -1),
        T(copy_file_range(s, 0, c, 0, 10, 0)), T(sync_file_range(s, 0, 0, 0));
    section("socket calls on what is no socket");
    T(send(p[1], "x", 1, 0)), T(recv(p[0], b, 1, 0)), T(getsockname(p[0], 0, 0)),
        T(shutdown(p[0], 0)), T(sendmsg(p[1], &(struct msghdr){0}, 0)),
        T(recvmsg(p[0], &(struct msghdr){0}, 0));
    T(send(9999, "x", 1, 0)), T(recv(9999, b, 1, 0)), T(getpeername(-1, 0, 0)), T(close(9999)),
        T(close(-1)), T(read(9999, b, 1)), T(write(-1, b, 1));
    int opath = open("/tmp", O_PATH);
    T(send(opath, "x", 1, 0)), T(recv(opath, b, 1, 0)), T(listen(opath, 1));
    close(opath);
    section("read and write are recv and send");
    T(write(c, "written", 7));
    AW(s, POLLIN);
    T(read(s, b, 3)), T(read(s, b, 60));
    bytes("b", b, 4);
    section("fdopen");
    FILE* f = fdopen(dup(c), "r+");
    fprintf(f, "line %d\n", 1);
    fflush(f);
    RX(s, 32, 0);
    T(send(s, "answer\nmore\n", 12, 0));
    V(fgets(b, 64, f) != 0), say("%s", strtok(b, "\n")), V(fgets(b, 64, f) != 0),
        say("%s", strtok(b, "\n"));
    T(fclose(f));
    T(dprintf(c, "%s", "dprintf"));
    AW(s, POLLIN);
    RX(s, 16, 0);
    section("close_range and closefrom");
    int n = fcntl(s, F_DUPFD, 400);
    fcntl(s, F_DUPFD, 400), fcntl(c, F_DUPFD, 400);
    T(close_range(n, n, 0));
    alive("400", 400), alive("401", 401);
    T(close_range(401, 402, CLOSE_RANGE_CLOEXEC));
    V(fcntl(401, F_GETFD)), V(fcntl(402, F_GETFD));
    T(close_range(402, 401, 0)), T(close_range(401, 402, 0x80));
    T(close_range(401, ~0u, 0));
    alive("401", 401), alive("402", 402);
    fcntl(s, F_DUPFD, 400), fcntl(s, F_DUPFD, 401);
    closefrom(400);
    alive("400", 400), alive("401", 401), alive("s", s);
    T(send(c, "still", 5, 0));
    RX(s, 16, 0);
    tcp_pair(&c2, &s2);
    int low = c2 < s2 ? c2 : s2;
    closefrom(low);
    alive("c2", c2), alive("s2", s2);
    T(socket(AF_INET, SOCK_STREAM, 0) == low);
    return 0;
}
