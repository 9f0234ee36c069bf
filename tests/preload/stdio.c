// stdio on files and pipes, and the stale entries that libc's private opens and closes could leave.
#include "test.h"

int main(void) {
    maybe_socket();
    char name[] = "/tmp/preload-stdio-XXXXXX", line[64];
    const int fd = mkstemp(name);
    CHECK(fd >= 0);

    FILE* f = fdopen(fd, "r+");
    CHECK(f && fileno(f) == fd);
    CHECK(fputs("one\ntwo\n", f) >= 0 && fflush(f) == 0);
    rewind(f);
    CHECK(fgets(line, sizeof line, f) && strcmp(line, "one\n") == 0);
    CHECK(ftell(f) == 4);
    CHECK(fclose(f) == 0);
    CHECK_ERRNO(fcntl(fd, F_GETFD), EBADF);
    CHECK_ERRNO(close(fd), EBADF);

    f = fopen(name, "r");
    CHECK(f && fileno(f) == fd); // the number was free again
    CHECK(read(fd, line, 3) == 3 && memcmp(line, "one", 3) == 0);
    f = freopen("/dev/null", "w", f);
    CHECK(f && fileno(f) == fd);
    CHECK(write(fd, "x", 1) == 1);
    CHECK_KEEPS(fclose(f) == 0);

    f = tmpfile();
    CHECK(f && fprintf(f, "%d", 42) == 2 && fclose(f) == 0);

    int p[2];
    CHECK(pipe(p) == 0);
    CHECK(dprintf(p[1], "%s %d\n", "printed", 7) == 10);
    CHECK(read(p[0], line, sizeof line) == 10 && memcmp(line, "printed 7\n", 10) == 0);
    CHECK(dprintf(p[1], "%-3000d", 1) == 3000);
    char big[4096];
    CHECK(read(p[0], big, sizeof big) == 3000);
    CHECK_ERRNO(dprintf(-1, "x"), EBADF);

    FILE* in = fdopen(p[0], "r");
    FILE* out = fdopen(p[1], "w");
    CHECK(in && out && fprintf(out, "through\n") == 8 && fflush(out) == 0);
    CHECK(fgets(line, sizeof line, in) && strcmp(line, "through\n") == 0);
    CHECK(fclose(out) == 0 && fgets(line, sizeof line, in) == NULL && feof(in));
    CHECK(fclose(in) == 0);
    errno = 0;
    CHECK(fdopen(99, "r") == NULL && errno == EBADF);

    f = popen("cat; exit 3", "w");
    CHECK(f && fputs("", f) >= 0);
    int status = pclose(f);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 3);
    f = popen("echo from child", "r");
    CHECK(f && fgets(line, sizeof line, f) && strcmp(line, "from child\n") == 0 && pclose(f) == 0);

    // Many rounds over the same numbers by all makers.
    for (int i = 0; i < 50; ++i) {
        const int a = open(name, O_RDONLY);
        FILE* const g = fopen(name, "r");
        const int b = dup(a);
        CHECK(a >= 0 && g && b >= 0 && read(b, line, 3) == 3 && fgets(line, sizeof line, g));
        close(a);
        fclose(g);
        close(b);
    }
    unlink(name);
    return finish_test();
}
