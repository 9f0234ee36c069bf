#include "core/base/diagnostic.h"

#include <cerrno>
#include <csignal>
#include <sys/resource.h>
#include <sys/stat.h>

#include "core/base/raw_syscall.h"
#include "core/base/seccomp.h"

namespace sockshim {
namespace {

constexpr u64 bit(int signal) { return u64{1} << (signal - 1); }
constexpr u64 of_writing = bit(SIGPIPE) | bit(SIGXFSZ);

constinit u64 size_limit = ~u64{0}; // RLIMIT_FSIZE as it was before the first filter

u64 pending() {
    u64 set = 0;
    raw_syscall(SYS_rt_sigpending, ptr_arg(&set), 8);
    return set & of_writing;
}

struct without_signals {
    u64 before = 0;
    u64 already = 0;

    without_signals() {
        raw_syscall(SYS_rt_sigprocmask, SIG_BLOCK, ptr_arg(&of_writing), ptr_arg(&before), 8);
        already = pending();
    }
    ~without_signals() {
        const timespec now{0, 0};
        if (const u64 ours = pending() & ~already) {
            raw_syscall(SYS_rt_sigtimedwait, ptr_arg(&ours), 0, ptr_arg(&now), 8);
        }
        raw_syscall(SYS_rt_sigprocmask, SIG_SETMASK, ptr_arg(&before), 0, 8);
    }
};

bool signals_can_be_taken() {
    return seccomp_permits(SYS_rt_sigprocmask, SIG_BLOCK) && seccomp_permits(SYS_rt_sigpending) &&
           seccomp_permits(SYS_rt_sigtimedwait);
}

// Nobody's end and no limit is met by writing this here.
bool no_signal_can_come(int fd, std::size_t n) {
    struct stat st {};
    if (raw_syscall(SYS_fstat, fd, ptr_arg(&st)) < 0) return false;
    if (S_ISCHR(st.st_mode)) return true;
    return S_ISREG(st.st_mode) && static_cast<u64>(st.st_size) + n <= size_limit;
}

} // namespace

long write_diagnostic(int fd, const char* bytes, std::size_t n) {
    const long size = static_cast<long>(n);
    if (!signals_can_be_taken()) {
        return no_signal_can_come(fd, n) ? raw_syscall(SYS_write, fd, ptr_arg(bytes), size)
                                         : -EPERM;
    }
    const without_signals guard;
    return raw_syscall(SYS_write, fd, ptr_arg(bytes), size);
}

void diagnostic_before_confinement() {
    rlimit limit{};
    if (raw_syscall(SYS_prlimit64, 0, RLIMIT_FSIZE, 0, ptr_arg(&limit)) == 0) {
        size_limit = limit.rlim_cur;
    }
}

} // namespace sockshim
