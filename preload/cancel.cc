#include "preload/cancel.h"

#include <csignal>
#include <initializer_list>
#include <ucontext.h>
#include <unistd.h>

#include "core/base/raw_syscall.h"
#include "core/sync/critical.h"
#include "preload/signal.h"
#include "preload/wrap.h"

namespace sockshim {

constinit thread_local cancel_state this_cancel{};

namespace {

// Libc's signal for cancellation. Ours comes with another si_code, which libc's handler ignores.
constexpr int signal_of_libc = 32;

using info_handler = void (*)(int, siginfo_t*, void*);
struct kernel_action {
    info_handler handler;
    unsigned long flags;
    void* restorer;
    u64 mask;
};
constinit info_handler handler_of_libc = nullptr;

void on_cancel_signal(int sig, siginfo_t* info, void* context) {
    if (info->si_code == SI_QUEUE) {
        this_cancel.poked = 1;
        note_signal(true);
    } else if (this_thread.critical > 0) {
        defer_signal(sig, info, context); // asynchronous cancellation would leave locks behind
    } else {
        // Acts here and now if asynchronous: what the calls that it ends hold is not theirs any more.
        int type = PTHREAD_CANCEL_DEFERRED, state = PTHREAD_CANCEL_DISABLE;
        pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
        pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &type);
        const bool acts = state == PTHREAD_CANCEL_ENABLE && type == PTHREAD_CANCEL_ASYNCHRONOUS;
        if (acts && held.count) held_put(nullptr);
        pthread_setcanceltype(type, nullptr);
        pthread_setcancelstate(state, nullptr);
        handler_of_libc(sig, info, context);
    }
}

long kernel_sigaction(const kernel_action* act, kernel_action* old) {
    return raw_syscall(SYS_rt_sigaction, signal_of_libc, ptr_arg(act), ptr_arg(old), sizeof(u64));
}

void stand_before_libc() {
    kernel_action now{};
    if (kernel_sigaction(nullptr, &now) != 0 || now.handler == on_cancel_signal) return;
    if (reinterpret_cast<u64>(now.handler) <= 1) return;
    handler_of_libc = now.handler;
    now.handler = on_cancel_signal;
    kernel_sigaction(&now, nullptr);
}

// Libc installs its handler at the first pthread_cancel, and that one must meet ours already: so the first is of
// a thread that is there for nothing else.
void* wait_for_nothing(void*) {
    pause();
    return nullptr;
}
void have_libc_install() {
    if (handler_of_libc) return;
    pthread_t thread = 0;
    if (real::pthread_create(&thread, nullptr, wait_for_nothing, nullptr) != 0) return;
    real::pthread_cancel(thread);
    pthread_join(thread, nullptr);
    stand_before_libc();
}

void poke(u32 tid) {
    siginfo_t info = {};
    info.si_signo = signal_of_libc;
    info.si_code = SI_QUEUE;
    raw_syscall(SYS_rt_tgsigqueueinfo, raw_syscall(SYS_getpid), tid, signal_of_libc,
                ptr_arg(&info));
}

// Our thread-locals lie at one distance from every thread's control block.
const cancel_state& state_of(pthread_t thread) {
    const u64 distance = reinterpret_cast<u64>(&this_cancel) - static_cast<u64>(pthread_self());
    return *reinterpret_cast<const cancel_state*>(static_cast<u64>(thread) + distance);
}

} // namespace

void cancel_learn_tid() { this_cancel.tid = static_cast<u32>(raw_syscall(SYS_gettid)); }
void cancel_after_fork_child() { this_cancel.tid = 0; }

} // namespace sockshim

using namespace sockshim;

// The thread may be gone as soon as libc has told it: what is needed of it is read before. It may also
// have tested for cancellation just before and not have begun to wait, hence more than one poke.
SOCKSHIM_WRAP(int, pthread_cancel, (pthread_t thread)) {
    if (!process_active.load() || in_vfork_child()) return real::pthread_cancel(thread);
    have_libc_install();
    const cancel_state state = state_of(thread);
    const int r = real::pthread_cancel(thread);
    stand_before_libc();
    if (r == 0 && state.waiting && state.tid) {
        for (const long pause_us : {0, 50, 500}) {
            const timespec pause = {0, pause_us * 1000};
            if (pause_us) raw_syscall(SYS_nanosleep, ptr_arg(&pause), 0);
            poke(state.tid);
        }
    }
    return r;
}
