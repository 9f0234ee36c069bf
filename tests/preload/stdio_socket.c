// stdio on inet sockets: fdopen, dprintf, freopen, buffers at exit, and stdin, stdout, stderr put on one.
#include "test.h"

#include <netinet/in.h>

static int ours, peer;
static char buf[16384];

static void connect_pair(int* a, int* b) {
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof any;
    const int listener = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(bind(listener, (struct sockaddr*)&any, len) == 0 && listen(listener, 1) == 0);
    CHECK(getsockname(listener, (struct sockaddr*)&any, &len) == 0);
    *a = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(*a, (struct sockaddr*)&any, len) == 0);
    *b = accept(listener, NULL, NULL);
    CHECK(*b >= 0 && close(listener) == 0);
}

static void expect(const char* text) {
    const size_t n = strlen(text);
    memset(buf, 0, sizeof buf);
    CHECK(recv(peer, buf, n, MSG_WAITALL) == (ssize_t)n && strcmp(buf, text) == 0);
}
static void put(const char* text) {
    CHECK(write(peer, text, strlen(text)) == (ssize_t)strlen(text));
}

static void streams(void) {
    FILE* const in = fdopen(ours, "r");
    FILE* const out = fdopen(dup(ours), "w");
    CHECK(in && out && fileno(in) == ours && fileno_unlocked(out) != ours);
    put("hello\nworld 42\n");
    CHECK(fgets(buf, 99, in) && strcmp(buf, "hello\n") == 0);
    int n = 0;
    CHECK(fgetc(in) == 'w' && ungetc('W', in) == 'W' && fscanf(in, "%s %d", buf, &n) == 2);
    CHECK(strcmp(buf, "World") == 0 && n == 42 && fgetc(in) == '\n');
    CHECK(fprintf(out, "line\n") == 5);
    CHECK_ERRNO(recv(peer, buf, 9, MSG_DONTWAIT), EAGAIN); // buffered
    CHECK(fflush(out) == 0);
    expect("line\n");
    CHECK_ERRNO(ftell(out), ESPIPE);
    CHECK_ERRNO(fseek(in, 0, SEEK_SET), ESPIPE);
    errno = 0;
    CHECK(fdopen(ours, "q") == NULL && errno == EINVAL);
    CHECK(setvbuf(out, NULL, _IONBF, 0) == 0 && fputs("unbuffered", out) >= 0);
    expect("unbuffered");
    CHECK(dprintf(ours, "num %d\n", 5) == 6);
    expect("num 5\n");
    CHECK(dprintf(ours, "%-9000d|", 5) == 9001);
    CHECK(recv(peer, buf, 9001, MSG_WAITALL) == 9001 && buf[9000] == '|');
    const int number = fileno(out);
    CHECK(fclose(out) == 0);
    CHECK_ERRNO(fcntl(number, F_GETFD), EBADF);

    FILE* other = fdopen(dup(ours), "r+");
    const int at = fileno(other);
    CHECK(fputs("x", other) >= 0 && fflush(other) == 0);
    expect("x");
    other = freopen("/etc/passwd", "r", other);
    CHECK(other && fileno(other) == at && fgets(buf, 99, other) && !strncmp(buf, "root", 4));
    CHECK(read(at, buf, 0) == 0 && fclose(other) == 0);
}

static void what_it_is(void) {
    struct stat st;
    CHECK(fstat(ours, &st) == 0 && S_ISSOCK(st.st_mode));
    CHECK(fstatat(ours, "", &st, AT_EMPTY_PATH) == 0 && S_ISSOCK(st.st_mode));
    CHECK_ERRNO(lseek(ours, 0, SEEK_CUR), ESPIPE);
    CHECK_ERRNO(pread(ours, buf, 1, 0), ESPIPE);
    CHECK_ERRNO(pread(ours, buf, 1, -1), EINVAL);
    const int udp = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK_ERRNO(mmap(NULL, 4096, PROT_READ, MAP_SHARED, udp, 0), ENODEV);
    CHECK(close(udp) == 0);
    CHECK(!isatty(ours) && errno == ENOTTY);
    CHECK_ERRNO(fsync(ours), EINVAL);
    CHECK_ERRNO(ftruncate(ours, 0), EINVAL);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", ours);
    CHECK_ERRNO(open(path, O_RDWR), ENXIO);
}

static void at_exit(void) {
    for (int quick = 0; quick < 2; ++quick) {
        const pid_t pid = fork();
        if (pid == 0) {
            FILE* const f = fdopen(ours, "w");
            fprintf(f, "unflushed%d", quick);
            if (quick) _exit(0);
            exit(0);
        }
        CHECK(exit_status_of(pid) == 0);
    }
    expect("unflushed0");
    CHECK_ERRNO(recv(peer, buf, 9, MSG_DONTWAIT), EAGAIN);
}

static void standard(void) {
    fflush(stdout);
    const int saved[3] = {dup(0), dup(1), dup(2)};
    printf("pending ");
    CHECK(dup2(ours, 1) == 1 && fileno(stdout) == 1);
    printf("more %d", 5);
    fflush(stdout);
    expect("pending more 5");
    puts("x");
    putchar('y');
    fflush(NULL);
    expect("x\ny");
    CHECK(dup2(saved[1], 1) == 1);
    puts("back on the real stdout");
    fflush(stdout);
    CHECK(dup2(ours, 0) == 0);
    put("line in\n");
    char other[99];
    CHECK(scanf("%98s %98s", buf, other) == 2 && strcmp(other, "in") == 0);
    CHECK(dup2(ours, 2) == 2);
    fprintf(stderr, "err%d", 1);
    expect("err1");
    errno = ENOENT;
    perror("perror");
    expect("perror: No such file or directory\n");
    dup2(saved[0], 0);
    dup2(saved[2], 2);
}

// The program that it executes finds the socket on 0 and 1, and talks to it by stdio.
static void executed(const char* self) {
    const pid_t pid = fork();
    if (pid == 0) {
        dup2(ours, 0);
        dup2(ours, 1);
        execl(self, self, "echo", NULL);
        _exit(1);
    }
    put("to the other program\n");
    expect("got to the other program\n");
    CHECK(exit_status_of(pid) == 0);
}

int main(int argc, char** argv) {
    if (argc > 1) {
        if (!fgets(buf, sizeof buf, stdin)) return 1;
        printf("got %s", buf);
        return 0;
    }
    maybe_socket();
    connect_pair(&ours, &peer);
    streams();
    what_it_is();
    at_exit();
    standard();
    executed(argv[0]);
    return finish_test();
}
