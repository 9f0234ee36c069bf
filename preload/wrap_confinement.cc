// Programs that confine themselves: filters on system calls, little memory, hardly any descriptors. From then on the
// library makes the calls that it is let make (core/base/seccomp.h), and others do for it what it cannot do.
#include "preload/wrap_confinement.h"

#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "core/arena/arena.h"
#include "core/base/diagnostic.h"
#include "core/base/raw_syscall.h"
#include "core/base/seccomp.h"
#include "core/net/timer.h"
#include "dispatch/process.h"
#include "preload/wrap.h"

using namespace sockshim;

namespace sockshim {
namespace {

struct program_header { // linux/filter.h: sock_fprog
    u16 length;
    const sock_instruction* program;
};
constexpr u16 longest_program = 4096; // BPF_MAXINSNS

// The program's filter in memory of ours; null where the kernel will refuse it, or there is no memory.
seccomp_filter* copy_of(const void* program) {
    program_header header{};
    if (get_user(header, program) || !header.length || header.length > longest_program) {
        return nullptr;
    }
    seccomp_filter* const filter = seccomp_new(header.length);
    if (filter &&
        copy_from_user(filter->program, header.program, header.length * sizeof(sock_instruction))) {
        seccomp_free(*filter);
        return nullptr;
    }
    return filter;
}

} // namespace

long confine(const void* program, bool everybody, confining_call call, void* arg) {
    if (in_vfork_child()) return call(arg); // its filter is its own, the memory its parent's
    fork_check();
    const int saved_errno = errno;
    seccomp_filter* const filter = copy_of(program);
    process_before_confinement();
    diagnostic_before_confinement();
    identity_change change{};
    if (everybody) change = process_before_identity(nullptr, 0);
    errno = saved_errno;
    critical_enter();
    if (filter && everybody) seccomp_add(*filter);
    const long r = call(arg);
    if (filter && everybody) {
        if (r < 0) seccomp_withdraw(*filter);
    } else if (filter) {
        r < 0 ? seccomp_free(*filter) : seccomp_add(*filter);
    }
    critical_leave();
    const int errno_of_call = errno;
    process_after_confinement(change);
    errno = errno_of_call;
    return r;
}

void before_limit(int resource, const rlimit* limit) {
    constexpr u64 few = 64;
    struct rlimit asked {};
    if (resource != RLIMIT_NOFILE || in_vfork_child() || get_user(asked, limit)) return;
    if (asked.rlim_cur >= few) return;
    const int saved_errno = errno;
    process_before_confinement();
    errno = saved_errno;
}

// A background thread on duty may have to leave it to others.
void after_limit(int resource) {
    if (resource != RLIMIT_NOFILE || !arena_attached() || in_vfork_child()) return;
    timer_kick_processes();
}

namespace {

// What the program has set of RLIMIT_AS, and what the kernel was given for it: as long as that is what the kernel
// says, the program is told the former.
struct told_limit {
    a64 asked, given;
};
constinit told_limit told_soft{}, told_hard{};

u64 as_told(const told_limit& told, u64 kernels) {
    return kernels == told.given.load() ? told.asked.load() : kernels;
}
rlimit as_told(const rlimit& kernels) {
    return {as_told(told_soft, kernels.rlim_cur), as_told(told_hard, kernels.rlim_max)};
}

void tell(told_limit& told, u64 asked, u64 given) {
    told.asked.store(asked);
    told.given.store(given);
}

u64 with_mapping(u64 limit) {
    const u64 more = arena_mapped_bytes();
    return limit < RLIM_INFINITY - more ? limit + more : RLIM_INFINITY;
}

long kernels_limit(const rlimit* limit, rlimit* former) {
    return raw_syscall(SYS_prlimit64, 0, RLIMIT_AS, ptr_arg(limit), ptr_arg(former));
}

long set_address_space(const rlimit& asked, rlimit& former) {
    rlimit given{with_mapping(asked.rlim_cur), with_mapping(asked.rlim_max)};
    if (asked.rlim_cur > asked.rlim_max) given = asked; // what the kernel says of that
    long r = kernels_limit(&given, &former);
    // The hard limit cannot be raised. Where the program has not asked for that, its soft one comes as near as may be.
    if (r == -EPERM && kernels_limit(nullptr, &former) == 0 &&
        asked.rlim_max <= as_told(former).rlim_max) {
        given.rlim_max = former.rlim_max;
        if (given.rlim_cur > given.rlim_max) given.rlim_cur = given.rlim_max;
        r = kernels_limit(&given, &former);
    }
    if (r) return r;
    former = as_told(former);
    tell(told_soft, asked.rlim_cur, given.rlim_cur);
    tell(told_hard, asked.rlim_max, given.rlim_max);
    return 0;
}

} // namespace

// What a child of vfork sets is for the program that it executes.
long limit_of_address_space(int pid, int resource, const rlimit* limit, rlimit* former) {
    if (resource != RLIMIT_AS || !arena_attached() || in_vfork_child()) return SYS_NOT_OURS;
    if (pid && pid != raw_syscall(SYS_getpid)) return SYS_NOT_OURS;
    rlimit asked{}, were{};
    if (limit && get_user(asked, limit)) return -EFAULT;
    const long r = limit ? set_address_space(asked, were) : kernels_limit(nullptr, &were);
    if (r) return r;
    if (!limit) were = as_told(were);
    return former ? put_user(were, former) : 0;
}

} // namespace sockshim

namespace {

struct prctl_words {
    int operation;
    unsigned long a, b, c, d;
};

long libc_prctl(void* arg) {
    const auto& w = *static_cast<const prctl_words*>(arg);
    return real::prctl(w.operation, w.a, w.b, w.c, w.d);
}

template <class Call>
[[gnu::always_inline]] inline int limited(pid_t pid, int resource, const rlimit* limit,
                                          rlimit* former, Call call) {
    const long ours = limit_of_address_space(pid, resource, limit, former);
    if (ours != SYS_NOT_OURS) return static_cast<int>(finish(ours));
    if (limit) before_limit(resource, limit);
    const int r = call();
    if (limit && r == 0) after_limit(resource);
    return r;
}

} // namespace

SOCKSHIM_WRAP(int, prctl,
              (int operation, unsigned long a, unsigned long b, unsigned long c, unsigned long d)) {
    prctl_words words{operation, a, b, c, d};
    const bool filter = operation == PR_SET_SECCOMP && a == SECCOMP_MODE_FILTER;
    if (SOCKSHIM_LIKELY(!filter)) return static_cast<int>(libc_prctl(&words));
    return static_cast<int>(confine(reinterpret_cast<const void*>(b), false, libc_prctl, &words));
}

SOCKSHIM_WRAP(int, getrlimit, (int resource, struct rlimit* limit)) {
    return limited(0, resource, nullptr, limit, [=] { return real::getrlimit(resource, limit); });
}
SOCKSHIM_WRAP_ALIAS(getrlimit64, getrlimit)

SOCKSHIM_WRAP(int, setrlimit, (int resource, const struct rlimit* limit)) {
    return limited(0, resource, limit, nullptr, [=] { return real::setrlimit(resource, limit); });
}
SOCKSHIM_WRAP_ALIAS(setrlimit64, setrlimit)

SOCKSHIM_WRAP(int, prlimit,
              (pid_t pid, int resource, const struct rlimit* limit, struct rlimit* former)) {
    return limited(pid, resource, limit, former,
                   [=] { return real::prlimit(pid, resource, limit, former); });
}
SOCKSHIM_WRAP_ALIAS(prlimit64, prlimit)
