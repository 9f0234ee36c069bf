// stdio on sockets: every mode of fdopen, buffers, wide characters, seeking, streams whose number becomes a socket
// under them, standard streams, freopen, what is flushed at exit.
#include "diff.h"
#include <err.h>
#include <locale.h>
#include <stdio_ext.h>
#include <wchar.h>

static int c, s;
static void fresh(void) { tcp_pair(&c, &s); }
static void got(int n) {
    char b[70000];
    long r = recv(s, b, n, MSG_WAITALL);
    say("peer got %ld, hash %#lx", r, r > 0 ? (unsigned long)hash_add(HASH0, b, r) : 0);
    if (r > 0 && r < 200) bytes("data", b, r);
}
static void nothing(void) {
    char b;
    say("nothing yet: %s", recv(s, &b, 1, MSG_DONTWAIT | MSG_PEEK) < 0 ? en(errno) : "something");
}

static void modes(void) {
    static const char* const all[] = {"r",  "w",  "a",  "r+",          "w+", "a+", "rb", "wb+",
                                      "we", "rm", "wx", "r,ccs=UTF-8", "",   "q",  "+"};
    section("fdopen");
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++) {
        fresh();
        errno = NOERR;
        FILE* f = fdopen(c, all[i]);
        say("\"%s\": %s %s, fileno %s, flags %#x", all[i], f ? "a stream" : "null", en(errno),
            f && fileno(f) == c ? "right" : "-", fcntl(c, F_GETFL));
        if (f) {
            T(fputs("w", f)), T(fflush(f)), T(ferror(f) != 0), V(__fwritable(f) != 0),
                V(__freadable(f) != 0);
            clearerr(f);
            Q(send(s, "in\n", 3, 0));
            char line[8] = "";
            errno = NOERR;
            say("fgets: %s %s", fgets(line, 8, f) ? "line" : "null", en(errno));
            T(fclose(f)), T(fcntl(c, F_GETFD));
        } else {
            close(c);
        }
        char b[8];
        long r = recv(s, b, 8, 0);
        say("peer: %ld", r);
        close(s);
    }
    T(fdopen(999, "r") ? 0 : -1), T(fdopen(-1, "r") ? 0 : -1);
}

static void buffers(void) {
    section("buffers");
    fresh();
    FILE* f = fdopen(dup(c), "w");
    Q(fputs("held", f));
    nothing();
    V(__fpending(f)), T(fflush(f));
    got(4);
    T(setvbuf(f, 0, _IOLBF, 0));
    fputs("line ", f), nothing(), fputs("end\nrest", f);
    got(9), nothing();
    T(fflush_unlocked(f));
    got(4);
    T(setvbuf(f, 0, _IONBF, 0)), fputc('!', f);
    got(1);
    static char room[100];
    T(setvbuf(f, room, _IOFBF, sizeof room));
    for (int i = 0; i < 99; i++) fputc('a', f);
    nothing();
    fputs("bcd", f);
    got(100);
    T(fclose(f));
    got(2);
    RX(s, 4, MSG_DONTWAIT);
    close(c), close(s);
    section("as large as the default");
    fresh();
    f = fdopen(c, "w");
    fputc('x', f);
    V(__fbufsize(f));
    for (int i = 0; i < 10000; i++) fputc('y', f);
    V(__fpending(f));
    fflush(f);
    got(10001);
    section("much at once");
    static char big[60000];
    for (unsigned i = 0; i < sizeof big; i++) big[i] = i * 7 + i / 300;
    T(fwrite(big, 1, sizeof big, f)), T(fflush(f));
    got(sizeof big);
    T(fprintf(f, "%s %d %5.2f %-10s|", "text", 42, 2.5, "left")), fflush(f);
    got(25);
    T(fclose(f)), close(s);
    section("reading");
    fresh();
    f = fdopen(c, "r+");
    Q(send(s, "first\nsecond line\nword 42 3.5\nunget\0zero\nbinary....tail", 55, 0));
    settle();
    char *line = 0, w[32];
    size_t n = 0;
    T(getline(&line, &n, f)), say("%s", strtok(line, "\n"));
    T(getdelim(&line, &n, ' ', f)), say("%s", line);
    V(fgets(line, 100, f) != 0), say("%s", strtok(line, "\n"));
    int k;
    double d;
    T(fscanf(f, "%31s %d %lf\n", w, &k, &d)), say("%s %d %.1f", w, k, d);
    V(fgetc(f)), V(ungetc('U', f)), V(ungetc('V', f)), V(fgetc(f)), V(getc(f));
    T(getdelim(&line, &n, 0, f)), say("%s", line), T(getline(&line, &n, f));
    T(fread(w, 1, 10, f)), V(feof(f)), V(__fpending(f));
    T(fseek(f, 0, SEEK_SET)), T(fseek(f, 0, SEEK_CUR)), T(fseek(f, 0, SEEK_END)), T(ftell(f)),
        T(ftello(f));
    fpos_t pos;
    T(fgetpos(f, &pos)), T(fseeko(f, 1, SEEK_SET));
    rewind(f);
    say("rewind: %s", en(errno));
    T(fread(w, 1, 4, f)), bytes("tail", w, 4);
    fputs("both ways\n", f), fflush(f);
    got(10);
    shutdown(s, SHUT_WR);
    V(fgetc(f)), V(feof(f) != 0), V(ferror(f)), clearerr(f), V(feof(f));
    free(line);
    T(fclose(f)), close(s);
    section("errors");
    fresh();
    f = fdopen(c, "r+");
    nonblock(c, 1);
    V(fgetc(f)), say("%s", en(errno)), V(ferror(f) != 0), V(feof(f)), clearerr(f);
    Q(send(s, "ok", 2, 0));
    AW(c, POLLIN);
    V(fgetc(f)), V(fgetc(f)), V(fgetc(f)), clearerr(f);
    nonblock(c, 0);
    linger0(s), close(s);
    AW(c, POLLHUP);
    fputs("gone", f);
    T(fflush(f)), V(ferror(f) != 0), T(fputs("more", f) < 0), T(fflush(f)), T(fclose(f));
    fresh();
    f = fdopen(c, "w");
    fputs("lost", f);
    close(c);
    T(fclose(f));
    RX(s, 4, 0), close(s);
}

static void wide(void) {
    section("wide characters");
    V(setlocale(LC_ALL, "C.UTF-8") != 0);
    fresh();
    FILE* f = fdopen(c, "r+");
    V(fwide(f, 1) > 0);
    V(fputwc(0xe9, f)), V(fputws(L"gr\u00fc\u00df \u20ac\n", f) >= 0),
        V(fwprintf(f, L"%ls %d", L"\u03b1\u03b2", 7));
    T(fflush(f));
    got(19);
    Q(send(s, "\xc3\xa9t\xc3\xa9 \xe2\x82\xac\nnext", 14, 0));
    V(fgetwc(f)), V(ungetwc(0x263a, f)), V(getwc(f));
    wchar_t line[32];
    V(fgetws(line, 32, f) != 0), V(line[0]), V(line[1]), V(line[3]), V(wcslen(line));
    wchar_t word[16];
    shutdown(s, SHUT_WR);
    V(fwscanf(f, L"%15ls", word)), V(wcscmp(word, L"next")), V(fgetwc(f) == WEOF);
    V(fputc('x', f)); // narrow, on a wide stream
    T(fclose(f));
    RX(s, 8, 0), close(s);
    fresh();
    f = fdopen(c, "w");
    V(fwide(f, -1) < 0), V(fputws(L"no", f)), fputs("narrow", f);
    T(fclose(f));
    RX(s, 16, 0), close(s);
    fresh();
    f = fdopen(c, "r");
    Q(send(s, "\xff\xfe", 2, 0));
    V(fgetwc(f) == WEOF), say("%s", en(errno)), V(ferror(f) != 0);
    T(fclose(f)), close(s);
}

static void numbers(void) {
    section("a stream on a file whose number becomes a socket, and is a file again");
    fresh();
    FILE* f = fopen("/dev/null", "r+");
    int fd = fileno(f), old = dup(fd);
    fputs("into the void", f), fflush(f);
    dup2(c, fd);
    fputs("to the socket", f), fflush(f);
    got(13);
    Q(send(s, "back", 4, 0));
    V(fgetc(f));
    dup2(old, fd);
    fputs("void again", f), fflush(f);
    nothing();
    T(fclose(f)), close(old);
    section("freopen");
    f = fdopen(dup(c), "w");
    fd = fileno(f);
    fputs("flushed by freopen", f);
    f = freopen("/dev/null", "w", f);
    V(f && fileno(f) == fd);
    got(18);
    fputs("lost", f), T(fclose(f));
    f = fdopen(dup(c), "r");
    V(freopen("/no/such/file", "r", f) == 0), say("%s", en(errno));
    f = fdopen(dup(c), "r+"), fd = fileno(f);
    V(freopen(0, "r", f) == 0), say("%s", en(errno)), T(fcntl(fd, F_GETFD));
    close(c);
    AW(s, POLLIN);
    RX(s, 4, 0), close(s);
    section("fcloseall, tmpfile, popen beside sockets");
    fresh();
    f = fdopen(c, "w");
    FILE* p = popen("cat", "w");
    fputs("x", f), T(pclose(p)), T(fclose(f));
    got(1);
    close(s);
}

// The standard streams, the pointer to which was taken before.
static void standard(void) {
    section("stdout");
    fresh();
    FILE *out = stdout, *err = stderr, *in = stdin;
    int saved[3] = {dup(0), dup(1), dup(2)};
    setvbuf(stdout, 0, _IOFBF, 4096);
    dup2(c, 1);
    printf("printed %d ", 1), fprintf(out, "by the pointer "), fputs("puts ", out), putchar('!');
    fflush(stdout);
    dup2(saved[1], 1);
    got(31);
    section("stderr");
    dup2(c, 2);
    fprintf(err, "unbuffered "), fputs("err ", stderr);
    errno = EPIPE, perror("perror");
    warnx("warned %d", 5);
    errno = 0;
    dup2(saved[2], 2);
    got(11 + 4 + 20 + 18);
    section("stdin");
    dup2(c, 0);
    Q(send(s, "a line of input\n3 4\n", 20, 0));
    char b[64];
    int x = 0, y = 0;
    V(fgets(b, 64, in) != 0), say("%s", strtok(b, "\n")), T(scanf("%d %d", &x, &y)), V(x + y);
    dup2(saved[0], 0);
    for (int i = 0; i < 3; i++) close(saved[i]);
    close(c), close(s);
    section("flushed at exit, not by _exit");
    for (int how = 0; how < 5; how++) {
        fresh();
        pid_t pid = fork();
        if (pid == 0) {
            close(s);
            FILE* f = fdopen(c, "w");
            fprintf(f, "way %d", how);
            if (how == 0) exit(0);
            if (how == 1) _exit(0);
            if (how == 2) quick_exit(0);
            if (how == 3) { // many streams
                for (int i = 0; i < 300; i++) {
                    FILE* g = fdopen(dup(c), "w");
                    fputc('g', g);
                }
                exit(0);
            }
            if (how == 4) { // by another pointer, of a thread that holds no lock
                dup2(c, 1);
                setvbuf(stdout, 0, _IOFBF, 4096);
                printf(" and stdout");
                exit(0);
            }
        }
        close(c);
        waitpid(pid, 0, 0);
        char out2[400];
        long r = recv(s, out2, sizeof out2, MSG_WAITALL);
        int gs = 0;
        for (int i = 0; i < r; i++) gs += out2[i] == 'g';
        say("way %d: %ld bytes, %d", how, r, gs);
        close(s);
    }
}

static void* reads(void* f) {
    char b[16] = "";
    fgets(b, sizeof b, f);
    say("thread: %s", strtok(b, "\n"));
    return 0;
}
static void threads(void) {
    section("one thread reads a stream, another closes all at exit: the reader holds its lock");
    fresh();
    FILE* f = fdopen(c, "r");
    pthread_t t = spawn_thread(reads, f);
    nap(20);
    Q(send(s, "for the thread\n", 15, 0));
    pthread_join(t, 0);
    flockfile(f), funlockfile(f), V(ftrylockfile(f)), funlockfile(f);
    T(fclose(f)), close(s);
    section("dprintf");
    fresh();
    T(dprintf(c, "%s-%d", "number", 9)), T(dprintf(c, "%5000d", 1)), T(dprintf(999, "x"));
    got(5008);
    close(s);
    AW(c, POLLIN);
    linger0(c), close(c);
}

int main(void) {
    diff_init();
    modes();
    buffers();
    wide();
    numbers();
    standard();
    threads();
    return 0;
}
