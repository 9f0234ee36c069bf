// Waiting on one sock. How long it stays awake: spin_wait.cc.
#include <cerrno>
#include <ctime>

#include "core/base/raw_syscall.h"
#include "core/net/spin_wait.h"
#include "core/sync/futex.h"

namespace sockshim {

// libc's, by way of the vdso: about 25 ns.
u64 monotonic_us() {
    timespec ts{};
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return static_cast<u64>(ts.tv_sec) * 1000000 + static_cast<u64>(ts.tv_nsec) / 1000;
}

u64 cycle_ticks() {
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
    u64 v;
    asm volatile("mrs %0, cntvct_el0" : "=r"(v));
    return v * 32; // usually some 25 to 100 MHz
#endif
}

i64 deadline_after(const timespec* relative) {
    if (!relative) return -1;
    constexpr i64 far_s = i64{1} << 40; // beyond this, for ever is as good
    if (relative->tv_sec > far_s) return -1;
    // Rounded up, and one more for the fraction that the clock's own reading has lost.
    return static_cast<i64>(monotonic_us()) + relative->tv_sec * 1000000 +
           (relative->tv_nsec + 999) / 1000 + 1;
}

int sleep_until(a32& word, u32 seen, i64 deadline_us) {
    i64 left = -1;
    if (deadline_us >= 0) {
        left = deadline_us - static_cast<i64>(monotonic_us());
        if (left <= 0) return -EAGAIN;
    }
    const int r = futex_wait(word, seen, left);
    return r == -EINTR ? -EINTR : 0; // -EAGAIN there means that the word has moved on
}

int wait_on(wait_queue& wq, wait_side side, bool (*ready)(void*), void* arg, i64 deadline_us) {
    const signal_sample signals;
    // Linux: sock_intr_errno. A wait with a timeout is never restarted.
    const auto interrupted = [&] {
        return deadline_us < 0 ? signals.without_restart() : signals.any();
    };
    if (ready(arg)) return 0;
    if (deadline_us >= 0 && deadline_us <= static_cast<i64>(monotonic_us())) return -EAGAIN;
    a32& word = side == WAIT_RX ? wq.rx_seq : wq.tx_seq;
    const u32 flag = side == WAIT_RX ? WQ_RX_SLEEP : WQ_TX_SLEEP;
    spin_wait patience(wq.spin_score);
    for (;;) {
        if (patience.pause()) {
            // First: a handler that feeds the socket its thread waits for runs, to the program, after the
            // call was interrupted.
            if (interrupted()) {
                patience.finish(false);
                return -EINTR;
            }
            if (ready(arg)) break;
            // Awake waits are shorter than a clock reading is worth, except at the very end.
            continue;
        }
        const sleeping_on declared(word);
        const u32 seen = word.load();
        // The word is read first and the flag set with a full barrier: a producer that sees no flag has
        // published before this look, one that sees it moves the word.
        wq.flags.fetch_or(flag);
        if (ready(arg)) break;
        if (interrupted()) {
            patience.finish(false);
            return -EINTR;
        }
        const int r = sleep_until(word, seen, deadline_us);
        if (interrupted()) {
            patience.finish(false);
            return -EINTR;
        }
        if (r == -EINTR || r == -EAGAIN) {
            if (ready(arg)) break;
            patience.finish(false);
            return r;
        }
        if (ready(arg)) break;
    }
    patience.finish(true, wq.woken_us.load_relaxed());
    return 0;
}

} // namespace sockshim
