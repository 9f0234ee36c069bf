// The interpreter of the program's filters, against what the kernel would say: seccomp(2) and the classic BPF that
// it takes.
#include <catch2/catch.hpp>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include "core/base/raw_syscall.h"
#include "core/base/seccomp.h"

using namespace sockshim;

namespace {

constexpr u32 field(std::size_t n) {
    return static_cast<u32>(offsetof(seccomp_data, args) + 8 * n);
}

using program = std::vector<sock_instruction>;

constexpr sock_instruction ret(u32 verdict) { return {BPF_RET | BPF_K, 0, 0, verdict}; }
constexpr sock_instruction load(u32 offset) { return {BPF_LD | BPF_W | BPF_ABS, 0, 0, offset}; }
constexpr sock_instruction equal(u32 k, u8 jt, u8 jf) {
    return {BPF_JMP | BPF_JEQ | BPF_K, jt, jf, k};
}

seccomp_filter& filter_of(const program& p) {
    seccomp_filter* const filter = seccomp_new(static_cast<u32>(p.size()));
    REQUIRE(filter);
    std::memcpy(filter->program, p.data(), p.size() * sizeof p[0]);
    return *filter;
}
void add(const program& p) { seccomp_add(filter_of(p)); }

// Filters stay for good: each case in a process of its own. What `body` answers comes back, 0 to 255.
template <class Body> int apart(Body body) {
    const pid_t pid = fork();
    if (pid == 0) _exit(body());
    int status = 0;
    REQUIRE(waitpid(pid, &status, 0) == pid);
    REQUIRE(WIFEXITED(status));
    return WEXITSTATUS(status);
}

// What the filter makes of getppid(a, b), in a process of its own: 0 for "made", else the errno.
int verdict_of(const program& p, long a = 0, long b = 0) {
    return apart([&] {
        add(p);
        long answer = 0;
        return seccomp_forbids(answer, SYS_getppid, a, b, 0, 0, 0, 0) ? static_cast<int>(-answer)
                                                                      : 0;
    });
}

} // namespace

TEST_CASE("seccomp: actions") {
    CHECK(verdict_of({ret(SECCOMP_RET_ALLOW)}) == 0);
    CHECK(verdict_of({ret(SECCOMP_RET_LOG)}) == 0);
    CHECK(verdict_of({ret(SECCOMP_RET_ERRNO | ENOSYS)}) == ENOSYS);
    for (const u32 action : {SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_THREAD, SECCOMP_RET_TRAP,
                             SECCOMP_RET_USER_NOTIF, SECCOMP_RET_TRACE}) {
        CHECK(verdict_of({ret(action)}) == EPERM);
    }
}

TEST_CASE("seccomp: what a program looks at") {
    const program by_number = {load(offsetof(seccomp_data, nr)), equal(SYS_getppid, 0, 1),
                               ret(SECCOMP_RET_ERRNO | 7), ret(SECCOMP_RET_ALLOW)};
    CHECK(verdict_of(by_number) == 7);
    const program by_machine = {
        load(offsetof(seccomp_data, arch)),
#if defined(__x86_64__)
        equal(AUDIT_ARCH_X86_64, 0, 1),
#else
        equal(AUDIT_ARCH_AARCH64, 0, 1),
#endif
        ret(SECCOMP_RET_ERRNO | 7),
        ret(SECCOMP_RET_ALLOW)
    };
    CHECK(verdict_of(by_machine) == 7);
    const program low = {load(field(1)), equal(0x5678, 0, 1), ret(SECCOMP_RET_ERRNO | 7),
                         ret(SECCOMP_RET_ALLOW)};
    const program high = {load(field(1) + 4), equal(0x1234, 0, 1), ret(SECCOMP_RET_ERRNO | 7),
                          ret(SECCOMP_RET_ALLOW)};
    constexpr long value = 0x123400005678;
    CHECK(verdict_of(low, 0, value) == 7);
    CHECK(verdict_of(high, 0, value) == 7);
    CHECK(verdict_of(low, value, 0) == 0);
}

TEST_CASE("seccomp: arithmetic, memory, jumps") {
    struct operation {
        u16 code;
        u32 a, k, result;
    };
    const operation operations[] = {
        {BPF_ADD, 5, 3, 8},  {BPF_SUB, 5, 3, 2},       {BPF_MUL, 5, 3, 15},
        {BPF_DIV, 17, 3, 5}, {BPF_MOD, 17, 3, 2},      {BPF_OR, 5, 3, 7},
        {BPF_AND, 5, 3, 1},  {BPF_XOR, 5, 3, 6},       {BPF_LSH, 5, 3, 40},
        {BPF_RSH, 40, 3, 5}, {BPF_NEG, 1, 0, ~u32{0}}, {BPF_SUB, 0, 1, ~u32{0}},
    };
    for (const operation& o : operations) {
        CAPTURE(o.code);
        const program with_k = {{BPF_LD | BPF_IMM, 0, 0, o.a},
                                {static_cast<u16>(BPF_ALU | BPF_K | o.code), 0, 0, o.k},
                                equal(o.result, 0, 1),
                                ret(SECCOMP_RET_ERRNO | 7),
                                ret(SECCOMP_RET_ALLOW)};
        CHECK(verdict_of(with_k) == 7);
        const program with_x = {{BPF_LDX | BPF_IMM, 0, 0, o.k},
                                {BPF_LD | BPF_IMM, 0, 0, o.a},
                                {static_cast<u16>(BPF_ALU | BPF_X | o.code), 0, 0, 0},
                                equal(o.result, 0, 1),
                                ret(SECCOMP_RET_ERRNO | 7),
                                ret(SECCOMP_RET_ALLOW)};
        CHECK(verdict_of(with_x) == 7);
    }
    // By nothing: the kernel ends the program with 0, which kills.
    CHECK(verdict_of({{BPF_LD | BPF_IMM, 0, 0, 1},
                      {BPF_LDX | BPF_IMM, 0, 0, 0},
                      {BPF_ALU | BPF_DIV | BPF_X, 0, 0, 0},
                      ret(SECCOMP_RET_ALLOW)}) == EPERM);
    // Through memory and both registers, and returned from the accumulator.
    CHECK(verdict_of({{BPF_LD | BPF_IMM, 0, 0, SECCOMP_RET_ERRNO | 7},
                      {BPF_ST, 0, 0, 15},
                      {BPF_LDX | BPF_MEM, 0, 0, 15},
                      {BPF_LD | BPF_IMM, 0, 0, 0},
                      {BPF_MISC | BPF_TXA, 0, 0, 0},
                      {BPF_MISC | BPF_TAX, 0, 0, 0},
                      {BPF_STX, 0, 0, 3},
                      {BPF_LD | BPF_MEM, 0, 0, 3},
                      {BPF_RET | BPF_A, 0, 0, 0}}) == 7);
    CHECK(verdict_of({{BPF_LD | BPF_W | BPF_LEN, 0, 0, 0},
                      equal(sizeof(seccomp_data), 0, 1),
                      ret(SECCOMP_RET_ERRNO | 7),
                      ret(SECCOMP_RET_ALLOW)}) == 7);
    struct condition {
        u16 code;
        u32 a, k;
        bool taken;
    };
    const condition conditions[] = {
        {BPF_JGT, 5, 4, true},  {BPF_JGT, 5, 5, false}, {BPF_JGE, 5, 5, true},
        {BPF_JGE, 4, 5, false}, {BPF_JSET, 6, 2, true}, {BPF_JSET, 6, 9, false},
        {BPF_JEQ, 6, 6, true},  {BPF_JEQ, 6, 9, false}, {BPF_JGT, ~u32{0}, 5, true},
    };
    for (const condition& c : conditions) {
        CAPTURE(c.code, c.a, c.k);
        const int expected = c.taken ? 7 : 0;
        CHECK(verdict_of({{BPF_LD | BPF_IMM, 0, 0, c.a},
                          {static_cast<u16>(BPF_JMP | BPF_K | c.code), 1, 0, c.k},
                          ret(SECCOMP_RET_ALLOW),
                          ret(SECCOMP_RET_ERRNO | 7)}) == expected);
    }
    CHECK(verdict_of({{BPF_JMP | BPF_JA, 0, 0, 1}, ret(0), ret(SECCOMP_RET_ERRNO | 7)}) == 7);
}

TEST_CASE("seccomp: several filters, one withdrawn, an exempt thread, calls not made") {
    CHECK(apart([] {
              seccomp_filter& second = filter_of({ret(SECCOMP_RET_ALLOW)});
              add({ret(SECCOMP_RET_ERRNO | 7)});
              seccomp_add(second);
              long answer = 0;
              return seccomp_forbids(answer, SYS_getppid, 0, 0, 0, 0, 0, 0) && answer == -7;
          }) == 1);
    // Of equal actions the newest one's counts, and killing beats an errno.
    CHECK(apart([] {
              seccomp_filter& second = filter_of({ret(SECCOMP_RET_ERRNO | 8)});
              seccomp_filter& third = filter_of({ret(SECCOMP_RET_KILL_PROCESS)});
              add({ret(SECCOMP_RET_ERRNO | 7)});
              seccomp_add(second);
              const long first = raw_syscall(SYS_getppid);
              seccomp_add(third);
              return first == -8 && raw_syscall(SYS_getppid) == -EPERM;
          }) == 1);
    CHECK(apart([] {
              seccomp_filter* const filter = seccomp_new(1);
              filter->program[0] = ret(SECCOMP_RET_KILL_PROCESS);
              seccomp_add(*filter);
              const bool held = !seccomp_permits(SYS_getppid);
              seccomp_withdraw(*filter);
              return held && seccomp_permits(SYS_getppid);
          }) == 1);
    CHECK(apart([] {
              add({ret(SECCOMP_RET_KILL_PROCESS)});
              seccomp_exempt_thread();
              return raw_syscall(SYS_getppid) == getppid();
          }) == 1);
}
