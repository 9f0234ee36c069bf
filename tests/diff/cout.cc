// C++ streams whose number is a socket: std::cout, std::cin, std::cerr, wide ones, tied and not to stdio.
extern "C" {
#include "diff.h"
}
#include <iostream>
#include <string>

static int c, s;
static void got(int n) {
    std::string b(n, 0);
    const long r = recv(s, b.data(), n, MSG_WAITALL);
    bytes("peer got", b.data(), r);
}
static void as_standard(void (*what)()) {
    tcp_pair(&c, &s);
    const int saved[3] = {dup(0), dup(1), dup(2)};
    for (int i = 0; i < 3; i++) dup2(c, i);
    what();
    for (int i = 0; i < 3; i++) dup2(saved[i], i), close(saved[i]);
    close(c);
}

static void narrow() {
    std::cout << "cout " << 42 << ' ' << 2.5 << std::endl;
    std::cerr << "cerr ";
    std::clog << "clog" << std::flush;
    printf(" and printf"), fflush(stdout);
}
static void input() {
    send(s, "word 17\nwhole line\n", 19, 0);
    std::string w, line;
    int n = 0;
    std::cin >> w >> n;
    std::getline(std::cin, line), std::getline(std::cin, line);
    std::cout << w << '|' << n << '|' << line << std::flush;
}

int main(int argc, char** argv) {
    diff_init();
    section("in step with stdio");
    as_standard(narrow);
    got(14 + 9 + 11), got(1), close(s);
    section("reading");
    as_standard(input);
    got(18), got(1), close(s);
    section("what is left is written at exit");
    for (int sync = 0; sync < 2; sync++) {
        tcp_pair(&c, &s);
        const pid_t p = fork();
        if (p == 0) {
            dup2(c, 1), close(c), close(s);
            if (!sync) std::ios::sync_with_stdio(false);
            std::cout << "left in the buffer";
            exit(0);
        }
        close(c);
        reap(p);
        got(18), got(1), close(s);
    }
    section("wide");
    setlocale(LC_ALL, "C.UTF-8");
    tcp_pair(&c, &s);
    const pid_t p = fork();
    if (p == 0) {
        dup2(c, 1), close(c), close(s);
        std::locale::global(std::locale("C.UTF-8"));
        std::wcout << L"wide \u00e9 " << 3 << std::endl;
        exit(0);
    }
    close(c);
    reap(p);
    got(10), got(1), close(s);
    section("a program that is executed with it");
    if (argc == 1) {
        tcp_pair(&c, &s);
        const pid_t q = fork();
        if (q == 0) {
            for (int i = 0; i < 3; i++) dup2(c, i);
            close(c), close(s);
            execl("/bin/sh", "sh", "-c", "read a; echo got $a; echo on stderr >&2",
                  static_cast<char*>(nullptr));
            _exit(127);
        }
        close(c);
        send(s, "line\n", 5, 0);
        reap(q);
        got(9 + 10), got(1), close(s);
    }
    return argv[0] == nullptr;
}
