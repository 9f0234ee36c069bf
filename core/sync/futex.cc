#include "core/sync/futex.h"

#include <ctime>
#include <linux/futex.h>

#include "core/base/raw_syscall.h"

namespace sockshim {

// Where the program has forbidden itself futexes: a short sleep, by what it has not.
static void nap() {
    const timespec brief{0, 1000000};
    if (raw_syscall(SYS_ppoll, 0, 0, ptr_arg(&brief), 0, 8) == 0) return;
    raw_syscall(SYS_nanosleep, ptr_arg(&brief), 0);
}

int futex_wait(a32& word, u32 expected, i64 timeout_us) {
    const timespec ts{timeout_us / 1000000, (timeout_us % 1000000) * 1000};
    const long r = raw_syscall(SYS_futex, ptr_arg(&word), FUTEX_WAIT, expected,
                               timeout_us < 0 ? 0 : ptr_arg(&ts));
    if (SOCKSHIM_UNLIKELY(seccomp_active) && !seccomp_permits(SYS_futex, ptr_arg(&word))) nap();
    return static_cast<int>(r);
}

int futex_wake(a32& word, int count) {
    return static_cast<int>(raw_syscall(SYS_futex, ptr_arg(&word), FUTEX_WAKE, count));
}

} // namespace sockshim
