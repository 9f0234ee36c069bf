#include "core/base/seccomp.h"

#include <cerrno>
#include <cstring>
#include <linux/audit.h>
#include <linux/bpf_common.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>

#include "core/base/raw_syscall.h"

namespace sockshim {

constinit bool seccomp_active = false;

namespace {

constinit const seccomp_filter* newest = nullptr;
constinit thread_local bool exempt = false;

static_assert(sizeof(sock_instruction) == sizeof(sock_filter));

#if defined(__x86_64__)
constexpr u32 this_machine = AUDIT_ARCH_X86_64;
#else
constexpr u32 this_machine = AUDIT_ARCH_AARCH64;
#endif

bool arithmetic(u32& a, u32 operation, u32 v) {
    switch (operation) {
    case BPF_ADD: a += v; break;
    case BPF_SUB: a -= v; break;
    case BPF_MUL: a *= v; break;
    case BPF_DIV:
        if (!v) return false;
        a /= v;
        break;
    case BPF_MOD:
        if (!v) return false;
        a %= v;
        break;
    case BPF_OR: a |= v; break;
    case BPF_AND: a &= v; break;
    case BPF_XOR: a ^= v; break;
    case BPF_LSH: a = v < 32 ? a << v : 0; break;
    case BPF_RSH: a = v < 32 ? a >> v : 0; break;
    case BPF_NEG: a = 0 - a; break;
    default: return false;
    }
    return true;
}

bool taken(u32 a, u32 condition, u32 v) {
    switch (condition) {
    case BPF_JEQ: return a == v;
    case BPF_JGT: return a > v;
    case BPF_JGE: return a >= v;
    default: return a & v; // BPF_JSET
    }
}

// The kernel has checked the program before it took it: jumps go forward and inside, it ends in a return.
u32 run(const seccomp_filter& filter, const seccomp_data& data) {
    u32 a = 0, x = 0, memory[BPF_MEMWORDS] = {};
    for (u32 pc = 0; pc < filter.length; ++pc) {
        const sock_instruction& i = filter.program[pc];
        const u32 operand = BPF_SRC(i.code) == BPF_X ? x : i.k;
        switch (BPF_CLASS(i.code)) {
        case BPF_LD:
        case BPF_LDX: {
            u32 v = 0;
            switch (BPF_MODE(i.code)) {
            case BPF_ABS:
                if (i.k <= sizeof data - sizeof v) {
                    std::memcpy(&v, reinterpret_cast<const u8*>(&data) + i.k, sizeof v);
                }
                break;
            case BPF_LEN: v = sizeof data; break;
            case BPF_MEM: v = memory[i.k % BPF_MEMWORDS]; break;
            default: v = i.k; break; // BPF_IMM
            }
            (BPF_CLASS(i.code) == BPF_LD ? a : x) = v;
            break;
        }
        case BPF_ST: memory[i.k % BPF_MEMWORDS] = a; break;
        case BPF_STX: memory[i.k % BPF_MEMWORDS] = x; break;
        case BPF_ALU:
            if (!arithmetic(a, BPF_OP(i.code), operand)) return 0;
            break;
        case BPF_JMP:
            if (BPF_OP(i.code) == BPF_JA) {
                pc += i.k;
            } else {
                pc += taken(a, BPF_OP(i.code), operand) ? i.jt : i.jf;
            }
            break;
        case BPF_RET: return BPF_RVAL(i.code) == BPF_A ? a : i.k;
        default: // BPF_MISC
            if (BPF_MISCOP(i.code) == BPF_TAX) {
                x = a;
            } else {
                a = x;
            }
        }
    }
    return SECCOMP_RET_KILL_THREAD;
}

constexpr i32 action_of(u32 verdict) { return static_cast<i32>(verdict & SECCOMP_RET_ACTION_FULL); }

// Linux: seccomp_run_filters. All are asked, the strictest action counts, of equal ones the newest's.
u32 verdict_on(const seccomp_data& data) {
    u32 strictest = SECCOMP_RET_ALLOW;
    for (const seccomp_filter* f = __atomic_load_n(&newest, __ATOMIC_ACQUIRE); f; f = f->older) {
        const u32 verdict = run(*f, data);
        if (action_of(verdict) < action_of(strictest)) strictest = verdict;
    }
    return strictest;
}

} // namespace

bool seccomp_forbids_slow(long& answer, long nr, const long (&args)[6]) {
    if (exempt) return false;
    seccomp_data data{};
    data.nr = static_cast<int>(nr);
    data.arch = this_machine;
    for (int i = 0; i < 6; ++i) data.args[i] = static_cast<u64>(args[i]);
    const u32 verdict = verdict_on(data);
    switch (verdict & SECCOMP_RET_ACTION_FULL) {
    case SECCOMP_RET_ALLOW:
    case SECCOMP_RET_LOG: return false;
    case SECCOMP_RET_ERRNO:
        answer = -static_cast<long>(min_of<u32>(verdict & SECCOMP_RET_DATA, 4095));
        return true;
    // Somebody's handler, tracer or supervisor would be asked, and knows nothing of us.
    default: answer = -EPERM; return true;
    }
}

bool seccomp_permits(long nr, long first) {
    long answer;
    return !seccomp_forbids(answer, nr, first, 0, 0, 0, 0, 0);
}

static long bytes_of(u32 length) {
    return static_cast<long>(sizeof(seccomp_filter) + length * sizeof(sock_instruction));
}

seccomp_filter* seccomp_new(u32 length) {
    const long at = raw_syscall(SYS_mmap, 0, bytes_of(length), PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at < 0 && at > -4096) return nullptr;
    auto* const filter = reinterpret_cast<seccomp_filter*>(at);
    filter->length = length;
    return filter;
}

void seccomp_free(seccomp_filter& filter) {
    raw_syscall(SYS_munmap, ptr_arg(&filter), bytes_of(filter.length));
}

void seccomp_add(seccomp_filter& filter) {
    filter.older = __atomic_load_n(&newest, __ATOMIC_ACQUIRE);
    while (!__atomic_compare_exchange_n(&newest, &filter.older, &filter, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE)) {
    }
    __atomic_store_n(&seccomp_active, true, __ATOMIC_RELEASE);
}

// It stays in the list, which others may be reading.
void seccomp_withdraw(seccomp_filter& filter) {
    filter.program[0] = {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW};
}

void seccomp_exempt_thread() { exempt = true; }

} // namespace sockshim
