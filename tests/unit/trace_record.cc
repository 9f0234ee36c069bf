// Recording and printing (core/trace/record.cc, dump.cc): in a child, because a process traces once.
#include <catch2/catch.hpp>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <signal.h>
#include <sstream>
#include <string>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "core/trace/record.h"

using namespace sockshim;

namespace {

// The trace that a process which did `work` left in its file; "" when there is no file.
std::string trace_of(u64 slots, const std::function<void()>& work, int* status = nullptr) {
    char dir[] = "/tmp/sockshim-trace-XXXXXX";
    REQUIRE(mkdtemp(dir));
    const std::string name = std::string(dir) + "/out";
    const pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        trace::start_recording(name.c_str(), slots);
        work();
        _exit(0);
    }
    int how = 0;
    waitpid(pid, &how, 0);
    if (status) *status = how;
    std::ifstream in(name);
    std::stringstream all;
    all << in.rdbuf();
    unlink(name.c_str());
    rmdir(dir);
    return all.str();
}

void close_call(unsigned long fd, long result = 0) {
    trace_begin(TRACE_CLOSE, &fd, 1);
    trace_end(result);
}

std::size_t count(const std::string& s, const std::string& what) {
    std::size_t n = 0;
    for (std::size_t at = 0; (at = s.find(what, at)) != std::string::npos; at += what.size()) ++n;
    return n;
}

// Whether the pieces stand in this order.
bool in_order(const std::string& s, std::initializer_list<const char*> pieces) {
    std::size_t at = 0;
    for (const char* piece : pieces) {
        at = s.find(piece, at);
        if (at == std::string::npos) return false;
        ++at;
    }
    return true;
}

} // namespace

TEST_CASE("trace: nothing when nothing happened") {
    CHECK(trace_of(64, [] { trace_dump("exit"); }).empty());
    // A shell that only starts programs is not worth a page.
    CHECK(trace_of(64, [] {
              unsigned long fd = 0;
              trace_begin(TRACE_FSTAT, &fd, 1);
              trace_end(-4096);
              trace_begin(TRACE_EXECVE, nullptr, 0);
              trace_dump("exec");
          }).empty());
}

TEST_CASE("trace: calls, then the table; a later dump has only what is new") {
    const std::string s = trace_of(64, [] {
        close_call(3);
        close_call(4, -EBADF);
        trace_dump("exec");
        trace_dump("exec");
        close_call(5);
        trace_dump("exit");
    });
    CHECK(count(s, "--- sockshim trace: ") == 2);
    CHECK(count(s, "close(3)") == 1);
    CHECK(in_order(s, {", exec, ", "close(3) = 0 <0.", "way: sys_close",
                       "close(4) = -1 EBADF (Bad file descriptor) <", "       2        1 ",
                       ", exit, ", "close(5)", "       3        1 "}));
}

TEST_CASE("trace: the ring's overflow is counted and said") {
    const std::string s = trace_of(16, [] {
        for (unsigned long i = 0; i < 100; ++i) close_call(i);
        trace_dump("exit");
    });
    CHECK(s.find("84 older calls were dropped (SOCKSHIM_TRACE_RING=16)") != std::string::npos);
    CHECK(count(s, " close(") == 16);
    CHECK(in_order(s, {"close(84)", "close(99)", "     100        0 "})); // the table has them all
}

TEST_CASE("trace: all threads in one order, ended ones too") {
    const std::string s = trace_of(4096, [] {
        // Turn and turn about.
        std::atomic<unsigned long> turn{0};
        std::vector<std::thread> threads;
        for (unsigned long me = 0; me < 4; ++me) {
            threads.emplace_back([&turn, me] {
                for (unsigned long round = 0; round < 25; ++round) {
                    while (turn.load() % 4 != me) std::this_thread::yield();
                    close_call(1000 + turn.load());
                    ++turn;
                }
            });
        }
        for (auto& t : threads) t.join();
        trace_dump("exit");
    });
    std::size_t at = 0;
    bool ordered = true;
    for (int i = 1000; i < 1100; ++i) {
        const std::size_t next = s.find("close(" + std::to_string(i) + ")");
        ordered = ordered && next != std::string::npos && next >= at;
        at = next;
    }
    CHECK(ordered);
}

TEST_CASE("trace: many short threads do not need many rings") {
    const std::string s = trace_of(64, [] {
        for (unsigned long i = 0; i < 300; ++i) std::thread([i] { close_call(i); }).join();
        if (trace::globals.ring_count.load() > 64) _exit(1);
        trace_dump("exit");
    });
    CHECK(count(s, " close(") == 300);
}

TEST_CASE("trace: a handler's call inside a call") {
    const std::string s = trace_of(64, [] {
        unsigned long a[3] = {3, 0, 0};
        trace_begin(5, a, 3);
        signal(SIGUSR1, [](int) { close_call(7); });
        raise(SIGUSR1);
        trace_way("inet_accept");
        trace_end(4);
        trace_dump("exit");
    });
    CHECK(in_order(s, {"accept(3, NULL, NULL) = 4", "socketcall 5 > inet_accept", "close(7) = 0"}));
}

TEST_CASE("trace: a call still going on, and its end in the next dump") {
    const std::string s = trace_of(64, [] {
        unsigned long a[3] = {3, 0, 0};
        trace_begin(5, a, 3);
        trace_dump("exec");
        trace_end(4);
        trace_dump("exit");
    });
    CHECK(in_order(s, {"accept(3, <unfinished ...>) = ?", ", exit, ",
                       "<... accept resumed>(3, NULL, NULL) = 4"}));
}

// Calls from one depth of the stack, as the wrappers are.
[[gnu::noinline]] static void begin_at_depth(u32 nr) {
    unsigned long a[4] = {3, 0, 0, 0};
    trace_begin(nr, a, 3);
    asm volatile("" ::: "memory");
}

TEST_CASE("trace: calls left by longjmp do not pile up") {
    const std::string s = trace_of(64, [] {
        for (int i = 0; i < 20; ++i) begin_at_depth(5);
        begin_at_depth(2);
        trace_end(0);
        close_call(9);
        trace_dump("exit");
    });
    CHECK(count(s, "accept(3, <unfinished ...>) = ?") == 20);
    CHECK(in_order(s, {"bind(3, NULL, 0) = 0", "close(9) = 0"}));
}

TEST_CASE("trace: handed over to libc") {
    const std::string s = trace_of(64, [] {
        unsigned long a[3] = {1, 1, 0};
        trace_begin(1, a, 3);
        trace_handed_over();
        trace_end(-4096);
        trace_libc_result(5);
        trace_begin(1, a, 3);
        trace_handed_over();
        trace_end(-4096);
        unsigned long fd = 11; // none of ours: forgotten
        trace_begin(TRACE_CLOSE, &fd, 1);
        trace_end(-4096);
        close_call(12);
        trace_libc_result(99);
        trace_dump("exit");
    });
    CHECK(
        in_order(s, {"socket(AF_UNIX, SOCK_STREAM, 0) = 5 <", "socketcall 1 > handed over to libc",
                     "socket(AF_UNIX, SOCK_STREAM, 0) = ?", "close(12) = 0"}));
    CHECK(s.find("close(11)") == std::string::npos);
    CHECK(s.find("= 99") == std::string::npos);
}

TEST_CASE("trace: a fork child starts empty, also one that nobody announced") {
    for (const bool announced : {true, false}) {
        const std::string s = trace_of(64, [announced] {
            close_call(1);
            const long pid = announced ? fork() : syscall(SYS_fork);
            if (pid == 0) {
                if (announced) trace_after_fork_child();
                close_call(2);
                trace_dump("child");
                _exit(0);
            }
            waitpid(static_cast<pid_t>(pid), nullptr, 0);
            trace_dump("parent");
        });
        CAPTURE(s);
        CHECK(in_order(s, {"], child, ", "close(2)", "       1        0 ", "], parent, ",
                           "close(1)", "       1        0 "}));
        CHECK(count(s, "close(") == 2);
    }
}

TEST_CASE("trace: a vfork child leaves its parent's trace alone") {
    const std::string s = trace_of(64, [] {
        close_call(1);
        const pid_t pid = vfork();
        if (pid == 0) {
            trace_dump("exec");
            _exit(0);
        }
        waitpid(pid, nullptr, 0);
        trace_dump("exit");
    });
    CHECK(count(s, "--- sockshim trace") == 1);
    CHECK(s.find(", exit, ") != std::string::npos);
}

TEST_CASE("trace: without a limit the file grows as it goes") {
    int status = 0;
    const std::string s = trace_of(
        0,
        [] {
            close_call(1);
            for (int fd = 3; fd < 2000; ++fd) close(fd); // a daemon
            close_call(2);
            raise(SIGKILL);
        },
        &status);
    CHECK(WIFSIGNALED(status));
    CHECK(in_order(s, {"close(1) = 0", "close(2) = 0"}));
    const std::string whole = trace_of(0, [] {
        for (unsigned long i = 0; i < 1000; ++i) close_call(i);
        trace_dump("exit");
    });
    CHECK(in_order(whole, {"close(0)", "close(999)", ", exit, ", "    1000        0 "}));
}
