#include "core/base/crash_point.h"

#ifdef SOCKSHIM_CRASH_POINTS
#include <csignal>

#include "core/base/atomic.h"
#include "core/base/config.h"
#include "core/base/raw_syscall.h"

namespace sockshim {

static constinit a64 passed{0};

void crash_point_passed() {
    const u64 at = config().kill_at;
    if (at && passed.fetch_add(1) + 1 == at) {
        raw_syscall(SYS_kill, raw_syscall(SYS_getpid), SIGKILL);
    }
}

} // namespace sockshim
#endif
