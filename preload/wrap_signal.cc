// The calls that install handlers. All of libc's others end in libc's private sigaction, so they are
// written out here, with libc's flags.
#include <cerrno>
#include <csignal>

#include "preload/signal.h"
#include "preload/wrap.h"

using namespace sockshim;

namespace {

constinit a64 interrupting_signals{}; // siginterrupt(sig, 1)

sighandler_t install(int sig, sighandler_t handler, int flags, bool mask_itself) {
    if (handler == SIG_ERR || sig < 1 || sig > 64) {
        errno = EINVAL;
        return SIG_ERR;
    }
    struct sigaction act = {}, old;
    act.sa_handler = handler;
    act.sa_flags = flags;
    if (mask_itself) sigaddset(&act.sa_mask, sig);
    return program_sigaction(sig, &act, &old) == 0 ? old.sa_handler : SIG_ERR;
}

} // namespace

SOCKSHIM_WRAP(int, sigaction, (int sig, const struct sigaction* act, struct sigaction* old)) {
    return program_sigaction(sig, act, old);
}
SOCKSHIM_WRAP_ALIAS(__sigaction, sigaction)

SOCKSHIM_WRAP(sighandler_t, signal, (int sig, sighandler_t handler)) {
    const bool interrupts = sig >= 1 && sig <= 64 && (interrupting_signals.load() >> (sig - 1) & 1);
    return install(sig, handler, interrupts ? 0 : SA_RESTART, true);
}
SOCKSHIM_WRAP_ALIAS(bsd_signal, signal)
SOCKSHIM_WRAP_ALIAS(ssignal, signal)

SOCKSHIM_WRAP(sighandler_t, __sysv_signal, (int sig, sighandler_t handler)) {
    constexpr int sa_interrupt = 0x20000000;
    return install(sig, handler, static_cast<int>(SA_RESETHAND) | SA_NODEFER | sa_interrupt, false);
}
SOCKSHIM_WRAP_ALIAS(sysv_signal, __sysv_signal)

SOCKSHIM_WRAP(int, siginterrupt, (int sig, int interrupts)) {
    struct sigaction act;
    if (program_sigaction(sig, nullptr, &act) != 0) return -1;
    const u64 bit = 1ULL << (sig - 1);
    if (interrupts) {
        interrupting_signals.fetch_or(bit);
        act.sa_flags &= ~SA_RESTART;
    } else {
        interrupting_signals.fetch_and(~bit);
        act.sa_flags |= SA_RESTART;
    }
    return program_sigaction(sig, &act, nullptr);
}

SOCKSHIM_WRAP(sighandler_t, sigset, (int sig, sighandler_t handler)) {
    if (handler == SIG_ERR || sig < 1 || sig > 64) {
        errno = EINVAL;
        return SIG_ERR;
    }
    sigset_t one, before;
    sigemptyset(&one);
    sigaddset(&one, sig);
    struct sigaction act = {}, old;
    act.sa_handler = handler;
    const bool hold = handler == SIG_HOLD;
    if (hold && sigprocmask(SIG_BLOCK, &one, &before) != 0) return SIG_ERR;
    if (program_sigaction(sig, hold ? nullptr : &act, &old) != 0) return SIG_ERR;
    if (!hold && sigprocmask(SIG_UNBLOCK, &one, &before) != 0) return SIG_ERR;
    return sigismember(&before, sig) == 1 ? SIG_HOLD : old.sa_handler;
}

SOCKSHIM_WRAP(int, sigignore, (int sig)) {
    struct sigaction act = {};
    act.sa_handler = SIG_IGN;
    return program_sigaction(sig, &act, nullptr);
}
