#include "core/sync/robust_lock.h"

#include <cerrno>
#include <sched.h>

#include "core/arena/owner.h"
#include "core/base/raw_syscall.h"
#include "core/sync/futex.h"
#include "core/sync/processors.h"

namespace sockshim {

constinit thread_local thread_state this_thread{};
void (*critical_deferred)() = nullptr;
constinit proc_id self_proc = 0;

// Spins and yields first: sections are short, and their owner may be waiting for this very core. Then
// sleeps with growing timeouts, each of which ends in the question whether the owner still lives.
bool robust_lock::lock_slow() {
    // With one processor the owner cannot get on while we spin: it was preempted, mostly by our waking.
    const int spins = has_other_processors() ? 100 : 0;
    constexpr int yields = 20;
    u32 mine = self_proc; // plus `waiters` once this thread has slept: others may sleep still
    i64 nap_us = 2000;
    for (int tries = 0;; ++tries) {
        u32 seen = word.load_relaxed();
        if ((seen & owner_mask) == 0) {
            if (word.cas(seen, mine | (seen & ~owner_mask))) return true;
            continue;
        }
        if (tries < spins) {
            cpu_relax();
            continue;
        }
        if (tries < spins + yields) {
            raw_syscall(SYS_sched_yield);
            continue;
        }
        if (!(seen & waiters) && !word.cas(seen, seen | waiters)) continue;
        mine = self_proc | waiters;
        if (futex_wait(word, seen | waiters, nap_us) != -ETIMEDOUT) continue;
        nap_us = min_of<i64>(nap_us * 2, 100000);
        const u32 owner = seen & owner_mask;
        if (owner == self_proc || proc_alive(owner)) continue;
        seen |= waiters;
        if (word.cas(seen, mine | (seen & pending))) return false;
    }
}

void robust_lock::wake_one() { futex_wake(word, 1); }

} // namespace sockshim
