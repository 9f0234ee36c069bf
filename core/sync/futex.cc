#include "core/sync/futex.h"

#include <ctime>
#include <linux/futex.h>

#include "core/base/raw_syscall.h"

namespace sockshim {

int futex_wait(a32& word, u32 expected, i64 timeout_us) {
    timespec ts{timeout_us / 1000000, (timeout_us % 1000000) * 1000};
    return static_cast<int>(raw_syscall(SYS_futex, ptr_arg(&word), FUTEX_WAIT, expected,
                                        timeout_us < 0 ? 0 : ptr_arg(&ts)));
}

int futex_wake(a32& word, int count) {
    return static_cast<int>(raw_syscall(SYS_futex, ptr_arg(&word), FUTEX_WAKE, count));
}

} // namespace sockshim
