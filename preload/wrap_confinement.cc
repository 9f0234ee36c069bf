// Programs that confine themselves: filters on system calls, and hardly any descriptors. From then on the
// library makes the calls that it is let make (core/base/seccomp.h), and others do for it what it cannot do.
#include "preload/wrap_confinement.h"

#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "core/arena/arena.h"
#include "core/base/diagnostic.h"
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
[[gnu::always_inline]] inline int limited(int resource, const rlimit* limit, Call call) {
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

SOCKSHIM_WRAP(int, setrlimit, (int resource, const struct rlimit* limit)) {
    return limited(resource, limit, [=] { return real::setrlimit(resource, limit); });
}
SOCKSHIM_WRAP_ALIAS(setrlimit64, setrlimit)

SOCKSHIM_WRAP(int, prlimit,
              (pid_t pid, int resource, const struct rlimit* limit, struct rlimit* former)) {
    return limited(resource, limit, [=] { return real::prlimit(pid, resource, limit, former); });
}
SOCKSHIM_WRAP_ALIAS(prlimit64, prlimit)
