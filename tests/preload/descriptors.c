// Every call on descriptors that are libc's: results, errors and errno as without us.
#include "test.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <sys/uio.h>

static void files(void) {
    char name[] = "/tmp/preload-fd-XXXXXX", buf[64];
    const int fd = mkostemp(name, O_CLOEXEC);
    struct iovec iov[2] = {{"ab", 2}, {"cd", 2}}, in[2] = {{buf, 1}, {buf + 1, 9}};
    CHECK_KEEPS(write(fd, "0123456789", 10) == 10);
    CHECK_KEEPS(writev(fd, iov, 2) == 4);
    CHECK_KEEPS(lseek(fd, 0, SEEK_SET) == 0);
    CHECK_KEEPS(readv(fd, in, 2) == 10 && memcmp(buf, "0123456789", 10) == 0);
    CHECK_KEEPS(pread(fd, buf, 4, 10) == 4 && memcmp(buf, "abcd", 4) == 0);
    CHECK(pwrite(fd, "X", 1, 0) == 1 && pwritev(fd, iov, 2, 20) == 4);
    CHECK(preadv(fd, in, 2, 20) == 4 && preadv2(fd, in, 2, 0, 0) == 10 && buf[0] == 'X');
    CHECK(pwritev2(fd, iov, 1, 30, 0) == 2 && preadv2(fd, in, 1, -1, 0) == 1);
    CHECK_ERRNO(pread(fd, buf, 1, -2), EINVAL);
    CHECK_ERRNO(pread(-1, buf, 1, 0), EBADF);
    CHECK_ERRNO(read(12345, buf, 1), EBADF);
    CHECK_ERRNO(read(fd, (void*)8, 1), EFAULT);
    CHECK_ERRNO(write(2000000, buf, 1), EBADF);
    CHECK_ERRNO(lseek(fd, -1, SEEK_SET), EINVAL);

    struct stat st, st2;
    struct statx stx;
    CHECK_KEEPS(fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size == 32);
    CHECK(fstatat(fd, "", &st2, AT_EMPTY_PATH) == 0 && st2.st_ino == st.st_ino);
    CHECK(fstatat(AT_FDCWD, name, &st2, 0) == 0 && st2.st_ino == st.st_ino);
    CHECK(statx(fd, "", AT_EMPTY_PATH, STATX_INO, &stx) == 0 && stx.stx_ino == st.st_ino);
    CHECK(ftruncate(fd, 5) == 0 && fsync(fd) == 0 && fdatasync(fd) == 0);
    CHECK(!isatty(fd) && errno == ENOTTY);
    char* const m = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(m != MAP_FAILED && m[0] == 'X' && munmap(m, 4096) == 0);
    CHECK_ERRNO(mmap(NULL, 4096, PROT_READ, MAP_SHARED, 777, 0), EBADF);

    const int again = open(name, O_RDWR);
    CHECK(again >= 0 && sendfile(again, fd, &(off_t){0}, 5) == 5);
    CHECK(copy_file_range(fd, &(off64_t){0}, again, &(off64_t){5}, 5, 0) == 5);
    CHECK(close(again) == 0);
    CHECK_ERRNO(close(again), EBADF);
    CHECK_ERRNO(open("/does/not/exist", O_RDONLY), ENOENT);
    CHECK_ERRNO(open((const char*)8, O_RDONLY), EFAULT);
    const int at = openat(AT_FDCWD, name, O_RDONLY), made = creat(name, 0600);
    CHECK(at == again && made >= 0 && close(at) == 0 && close(made) == 0);
    CHECK(close(fd) == 0 && unlink(name) == 0);
}

static void duplicates(void) {
    int p[2];
    char c;
    CHECK(pipe2(p, O_CLOEXEC | O_NONBLOCK) == 0);
    CHECK_ERRNO(read(p[0], &c, 1), EAGAIN);
    const int d = dup(p[1]);
    CHECK_KEEPS(dup2(d, 200) == 200);
    CHECK(dup3(d, 201, O_CLOEXEC) == 201 && fcntl(201, F_GETFD) == FD_CLOEXEC);
    CHECK(fcntl(d, F_DUPFD, 300) == 300 && fcntl(d, F_DUPFD_CLOEXEC, 300) == 301);
    CHECK(write(301, "x", 1) == 1 && read(p[0], &c, 1) == 1);
    CHECK(fcntl(p[0], F_GETFL) & O_NONBLOCK);
    CHECK(fcntl(p[0], F_SETFL, 0) == 0 && !(fcntl(p[0], F_GETFL) & O_NONBLOCK));
    int n = -1;
    CHECK(write(d, "ab", 2) == 2 && ioctl(p[0], FIONREAD, &n) == 0 && n == 2);
    CHECK_ERRNO(dup(-1), EBADF);
    CHECK_ERRNO(dup2(999, 5), EBADF);
    CHECK_ERRNO(dup3(d, d, 0), EINVAL);
    CHECK(dup2(d, d) == d);
    CHECK(close_range(200, 301, 0) == 0);
    CHECK_ERRNO(write(300, "x", 1), EBADF);
    dup2(d, 400);
    dup2(d, 500);
    closefrom(400);
    CHECK_ERRNO(fcntl(500, F_GETFD), EBADF);
    CHECK_ERRNO(close_range(10, 5, 0), EINVAL);

    int q[2];
    CHECK(pipe(q) == 0);
    CHECK(tee(p[0], q[1], 2, 0) == 2 && splice(p[0], NULL, q[1], NULL, 2, 0) == 2);
    CHECK(vmsplice(q[1], &(struct iovec){"zz", 2}, 1, 0) == 2);
    char all[8];
    CHECK(read(q[0], all, 8) == 6 && memcmp(all, "ababzz", 6) == 0);
    close(p[0]), close(p[1]), close(q[0]), close(q[1]), close(d);
}

static void waiting(void) {
    int p[2];
    CHECK(pipe(p) == 0);
    struct pollfd fds[3] = {{p[0], POLLIN, 0}, {-1, POLLIN, 9}, {p[1], POLLOUT, 0}};
    CHECK_KEEPS(poll(fds, 3, 0) == 1 && fds[0].revents == 0 && fds[1].revents == 0 &&
                fds[2].revents == POLLOUT);
    CHECK(poll(&(struct pollfd){888, POLLIN, 0}, 1, 0) == 1);
    CHECK_ERRNO(poll((struct pollfd*)8, 1, 0), EFAULT);
    CHECK(poll(NULL, 0, 1) == 0);
    CHECK(ppoll(fds, 1, &(struct timespec){0, 1000}, NULL) == 0);
    fd_set r, w;
    FD_ZERO(&r);
    FD_ZERO(&w);
    FD_SET(p[0], &r);
    FD_SET(p[1], &w);
    struct timeval t = {5, 0};
    CHECK_KEEPS(select(p[1] + 1, &r, &w, NULL, &t) == 1 && FD_ISSET(p[1], &w) &&
                !FD_ISSET(p[0], &r));
    CHECK(t.tv_sec == 4 || t.tv_sec == 5);
    FD_SET(p[0], &r);
    t = (struct timeval){0, 10000};
    CHECK(select(p[0] + 1, &r, NULL, NULL, &t) == 0 && t.tv_sec == 0 && t.tv_usec == 0);
    FD_SET(p[0], &r);
    CHECK(pselect(p[0] + 1, &r, NULL, NULL, &(struct timespec){0, 100}, NULL) == 0);
    CHECK_ERRNO(select(8, (fd_set*)8, NULL, NULL, &(struct timeval){0, 0}), EFAULT);
    CHECK_ERRNO(select(-1, NULL, NULL, NULL, NULL), EINVAL);
    FD_ZERO(&r);
    FD_SET(301, &r); // closed, and below what the kernel has room for
    CHECK_ERRNO(select(302, &r, NULL, NULL, &(struct timeval){0, 0}), EBADF);

    const int ep = epoll_create1(EPOLL_CLOEXEC), ep2 = epoll_create(1);
    struct epoll_event ev = {EPOLLOUT, {.u64 = 0x1122334455667788}}, got[4];
    CHECK(ep >= 0 && ep2 >= 0 && epoll_ctl(ep, EPOLL_CTL_ADD, p[1], &ev) == 0);
    CHECK_KEEPS(epoll_wait(ep, got, 4, 0) == 1 && got[0].data.u64 == ev.data.u64);
    CHECK(epoll_pwait(ep, got, 4, 0, NULL) == 1);
    CHECK(epoll_pwait2(ep, got, 4, &(struct timespec){0, 0}, NULL) == 1);
    ev.events = EPOLLIN;
    CHECK(epoll_ctl(ep2, EPOLL_CTL_ADD, ep, &ev) == 0 && epoll_wait(ep2, got, 4, 0) == 1);
    CHECK_ERRNO(epoll_ctl(ep, EPOLL_CTL_ADD, p[1], &ev), EEXIST);
    CHECK_ERRNO(epoll_ctl(ep, EPOLL_CTL_DEL, p[0], NULL), ENOENT);
    CHECK_ERRNO(epoll_ctl(p[0], EPOLL_CTL_ADD, p[1], &ev), EINVAL);
    CHECK_ERRNO(epoll_wait(ep, got, 0, 0), EINVAL);
    CHECK_ERRNO(epoll_create(0), EINVAL);
    CHECK_ERRNO(epoll_create1(1), EINVAL);
    close(ep), close(ep2), close(p[0]), close(p[1]);
}

static void makers(void) {
    const int fds[] = {eventfd(3, EFD_CLOEXEC),
                       timerfd_create(CLOCK_MONOTONIC, 0),
                       inotify_init(),
                       inotify_init1(IN_CLOEXEC),
                       memfd_create("m", 0),
                       posix_openpt(O_RDWR | O_NOCTTY),
                       open("/dev/null", O_RDWR),
                       open("/proc/self/status", O_RDONLY),
                       socket(AF_UNIX, SOCK_DGRAM, 0),
                       (int)syscall(SYS_pidfd_open, getpid(), 0)};
    for (size_t i = 0; i < sizeof fds / sizeof *fds; ++i) CHECK(fds[i] >= 0);
    unsigned long long value = 0;
    CHECK(read(fds[0], &value, 8) == 8 && value == 3);
    CHECK(isatty(fds[5]) == 1);
    const int stolen = (int)syscall(SYS_pidfd_getfd, fds[9], fds[6], 0);
    if (stolen >= 0) CHECK(write(stolen, "x", 1) == 1 && close(stolen) == 0);
    for (size_t i = 0; i < sizeof fds / sizeof *fds; ++i) CHECK_KEEPS(close(fds[i]) == 0);

    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    const int sfd = signalfd(-1, &set, 0);
    raise(SIGUSR1);
    struct signalfd_siginfo info;
    CHECK(read(sfd, &info, sizeof info) == sizeof info && info.ssi_signo == SIGUSR1);
    close(sfd);
}

// Descriptors in messages, and the other socket calls on a family that is not ours.
static void unix_sockets(void) {
    int s[2];
    char buf[16];
    CHECK_KEEPS(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
    CHECK(send(s[0], "one", 3, 0) == 3 && recv(s[1], buf, sizeof buf, MSG_PEEK) == 3);
    CHECK(recvfrom(s[1], buf, sizeof buf, 0, NULL, NULL) == 3);
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {.header = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
    struct iovec iov = {buf, 1};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof control};
    const int passed = open("/etc/passwd", O_RDONLY);
    memcpy(CMSG_DATA(&control.header), &passed, sizeof passed);
    CHECK(sendmsg(s[0], &msg, 0) == 1);
    memset(&control, 0, sizeof control);
    CHECK(recvmsg(s[1], &msg, 0) == 1);
    int got = -1;
    memcpy(&got, CMSG_DATA(&control.header), sizeof got);
    CHECK(got >= 0 && got != passed && read(got, buf, 4) == 4 && memcmp(buf, "root", 4) == 0);
    CHECK(close(got) == 0 && close(passed) == 0);
    struct mmsghdr many[2] = {{.msg_hdr = {.msg_iov = &iov, .msg_iovlen = 1}},
                              {.msg_hdr = {.msg_iov = &iov, .msg_iovlen = 1}}};
    CHECK(sendmmsg(s[0], many, 2, 0) == 2 && recvmmsg(s[1], many, 1, MSG_DONTWAIT, NULL) == 1);
    CHECK_ERRNO(sendmsg(s[0], (struct msghdr*)8, 0), EFAULT);
    CHECK_ERRNO(recvmsg(s[0], (struct msghdr*)8, MSG_DONTWAIT), EFAULT);
    CHECK_ERRNO(bind(0, NULL, 0), ENOTSOCK);
    CHECK_ERRNO(connect(999, NULL, 0), EBADF);
    CHECK(shutdown(s[0], SHUT_WR) == 0 && recv(s[1], buf, 16, 0) == 1 &&
          recv(s[1], buf, 16, 0) == 0);
    int type = 0;
    socklen_t len = sizeof type;
    CHECK(getsockopt(s[0], SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_STREAM);
    CHECK(setsockopt(s[0], SOL_SOCKET, SO_SNDBUF, &type, sizeof type) == 0);
    close(s[0]), close(s[1]);
    CHECK_ERRNO(socket(12345, SOCK_STREAM, 0), EAFNOSUPPORT);
}

static void by_number(void) {
    int p[2];
    char buf[8];
    CHECK(syscall(SYS_pipe2, p, O_CLOEXEC) == 0);
    CHECK(syscall(SYS_write, p[1], "abc", 3) == 3 && syscall(SYS_read, p[0], buf, 8) == 3);
    CHECK_ERRNO(syscall(SYS_read, 999, buf, 1), EBADF);
    CHECK_ERRNO(syscall(SYS_lseek, p[0], 0, SEEK_SET), ESPIPE);
    const int d = (int)syscall(SYS_dup, p[0]);
    CHECK(d >= 0 && syscall(SYS_close, d) == 0);
    CHECK_ERRNO(syscall(SYS_close, d), EBADF);
    CHECK(syscall(SYS_getpid) == getpid());
    CHECK_ERRNO(syscall(99999), ENOSYS);
    struct pollfd one = {p[0], POLLIN, 0};
    CHECK(syscall(SYS_ppoll, &one, 1, &(struct timespec){0, 0}, NULL, 0) == 0);
    fd_set r;
    FD_ZERO(&r);
    FD_SET(p[0], &r);
    CHECK(syscall(SYS_pselect6, p[0] + 1, &r, NULL, NULL, &(struct timespec){0, 0}, NULL) == 0);
    void* const m =
        (void*)syscall(SYS_mmap, NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(m != MAP_FAILED && munmap(m, 4096) == 0);
    close(p[0]), close(p[1]);
}

int main(void) {
    struct rlimit have;
    if (getrlimit(RLIMIT_NOFILE, &have) == 0 && have.rlim_cur < 1024) {
        have.rlim_cur = 1024;
        if (setrlimit(RLIMIT_NOFILE, &have)) {
            puts("ulimit -n allows less than 1024");
            return 77;
        }
    }
    maybe_socket();
    files();
    duplicates();
    waiting();
    makers();
    unix_sockets();
    by_number();
    return finish_test();
}
