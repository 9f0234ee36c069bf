#include "preload/signal.h"

#include <cerrno>
#include <initializer_list>
#include <sched.h>
#include <ucontext.h>

#include "core/base/raw_syscall.h"
#include "core/sync/critical.h"
#include "core/trace/trace.h"
#include "preload/catch.h"
#include "preload/process.h"
#include "preload/real.h"

namespace sockshim {

[[noreturn]] void uaccess_fault_resume(); // core/sync/uaccess.cc

namespace {

constexpr int last_signal = 64;
constexpr int libc_private_first = 32, libc_private_last = 33; // cancellation, setxid

// What the program asked for. `word` is all the trampoline reads: the handler's address, and in the
// top bits, which no user address has, the flags that matter to it.
struct program_action {
    a64 word;
    struct sigaction view;
};
constexpr u64 word_siginfo = 1ULL << 63, word_restart = 1ULL << 62, word_once = 1ULL << 61;
constexpr u64 word_address = word_once - 1;

constinit program_action actions[last_signal + 1]{};
constinit a32 active{};
constinit bool catch_fatal = false; // a trace is wanted: see deaths by signal

void trampoline(int sig, siginfo_t* info, void* context);

constexpr u64 bit(int sig) { return 1ULL << (sig - 1); }
constexpr u64 synchronous =
    bit(SIGSEGV) | bit(SIGBUS) | bit(SIGFPE) | bit(SIGILL) | bit(SIGTRAP) | bit(SIGSYS);
constexpr u64 fatal_by_default = synchronous | bit(SIGHUP) | bit(SIGINT) | bit(SIGQUIT) |
                                 bit(SIGABRT) | bit(SIGPIPE) | bit(SIGALRM) | bit(SIGTERM) |
                                 bit(SIGUSR1) | bit(SIGUSR2) | bit(SIGXCPU) | bit(SIGXFSZ) |
                                 bit(SIGVTALRM) | bit(SIGPROF) | bit(SIGPOLL) | bit(SIGPWR);

// Changing an action: the table and the kernel's disposition together. Handlers may do it too, so
// the thread's signals are blocked meanwhile.
constinit a32 lock_word{};
class action_lock {
public:
    action_lock() {
        const u64 all = ~0ULL;
        raw_syscall(SYS_rt_sigprocmask, SIG_SETMASK, ptr_arg(&all), ptr_arg(&mask_), sizeof(u64));
        while (lock_word.exchange(1)) raw_syscall(SYS_sched_yield);
    }
    ~action_lock() {
        lock_word.store(0);
        raw_syscall(SYS_rt_sigprocmask, SIG_SETMASK, ptr_arg(&mask_), 0, sizeof(u64));
    }
    action_lock(const action_lock&) = delete;
    action_lock& operator=(const action_lock&) = delete;

private:
    u64 mask_;
};

using info_handler = void (*)(int, siginfo_t*, void*);
using plain_handler = void (*)(int);

u64 address_of(const struct sigaction& act) {
    return reinterpret_cast<u64>(act.sa_handler); // the union's other member is the same word
}
bool is_default(const struct sigaction& act) { return act.sa_handler == SIG_DFL; }
bool is_ignore(const struct sigaction& act) { return act.sa_handler == SIG_IGN; }
bool is_trampoline(const struct sigaction& act) { return act.sa_sigaction == trampoline; }

u64 word_of(const struct sigaction& act) {
    u64 w = address_of(act);
    if (act.sa_flags & SA_SIGINFO) w |= word_siginfo;
    if (act.sa_flags & SA_RESTART) w |= word_restart;
    if (act.sa_flags & static_cast<int>(SA_RESETHAND)) w |= word_once;
    return w;
}

bool needs_trampoline(int sig, const struct sigaction& act) {
    if (!is_default(act) && !is_ignore(act)) return true;
    if (sig == SIGSEGV || sig == SIGBUS) return true;
    if (sig == SIGSYS && catching) return true;
    return catch_fatal && is_default(act) && (fatal_by_default & bit(sig));
}

// With the lock held. SA_RESETHAND is done here, not by the kernel: a deferred signal comes twice.
int set_action(int sig, const struct sigaction& act) {
    struct sigaction kernels = act;
    const u64 before = actions[sig].word.load();
    const bool wrap = needs_trampoline(sig, act);
    if (wrap) {
        kernels.sa_sigaction = trampoline;
        kernels.sa_flags = (kernels.sa_flags | SA_SIGINFO) & ~static_cast<int>(SA_RESETHAND);
        if (is_default(act) || is_ignore(act)) kernels.sa_flags |= SA_ONSTACK | SA_RESTART;
        if (sig == SIGSYS && catching) {
            // A caught call goes on where the program was: its stack, its mask.
            kernels.sa_flags = SA_SIGINFO | SA_RESTART | SA_NODEFER;
            kernels.sa_mask = {};
        }
        actions[sig].word.store(word_of(act));
    }
    if (real::sigaction(sig, &kernels, nullptr) != 0) {
        actions[sig].word.store(before);
        return -1;
    }
    if (wrap) {
        struct sigaction now;
        real::sigaction(sig, nullptr, &now); // which flags the kernel knows
        const int ours = SA_SIGINFO | SA_ONSTACK | SA_RESTART | static_cast<int>(SA_RESETHAND);
        actions[sig].view = act;
        actions[sig].view.sa_flags = (now.sa_flags & ~ours) | (act.sa_flags & ours);
        actions[sig].view.sa_mask = now.sa_mask;
        actions[sig].view.sa_restorer = now.sa_restorer;
    }
    return 0;
}

bool requeue(int sig, const siginfo_t* info) {
    const long pid = raw_syscall(SYS_getpid), tid = raw_syscall(SYS_gettid);
    return raw_syscall(SYS_rt_tgsigqueueinfo, pid, tid, sig, ptr_arg(info)) == 0 ||
           raw_syscall(SYS_tgkill, pid, tid, sig) == 0;
}

// What the program's filter on its system calls forbids to requeue: called at the end of the critical
// section, without a context that it has interrupted.
constinit thread_local u64 held_signals = 0;
constinit thread_local siginfo_t held_info{}; // the last one's

// Raised by the instruction itself, as opposed to sent: returning to it raises it again.
bool is_fault(int sig, const siginfo_t* info) {
    return (synchronous & bit(sig)) && info->si_code > 0;
}

// A user copy met a bad address: go on in uaccess_fault_resume, on this thread's stack as after a call.
bool resume_copy(int sig, const siginfo_t* info, ucontext_t* context) {
    const thread_state& t = this_thread;
    if ((sig != SIGSEGV && sig != SIGBUS) || !t.fault_jump) return false;
    // An address that is not canonical has no si_addr.
    if (info->si_code != SI_KERNEL && (info->si_addr < t.fault_lo || info->si_addr >= t.fault_hi)) {
        return false;
    }
    mcontext_t& m = context->uc_mcontext;
#if defined(__x86_64__)
    constexpr long long red_zone = 128, direction_flag = 0x400;
    m.gregs[REG_RSP] = ((m.gregs[REG_RSP] - red_zone) & ~15LL) - 8;
    m.gregs[REG_RIP] = reinterpret_cast<greg_t>(&uaccess_fault_resume);
    m.gregs[REG_EFL] &= ~direction_flag;
#else
    m.sp &= ~15ULL;
    m.pc = reinterpret_cast<u64>(&uaccess_fault_resume);
#endif
    return true;
}

// The kernel's part of the context's mask is one word; what libc declares behind it is not there.
u64& context_mask(ucontext_t* context) { return *reinterpret_cast<u64*>(&context->uc_sigmask); }

// Later: with everything blocked but faults until the outermost critical section ends.
void defer(int sig, const siginfo_t* info, ucontext_t* context) {
    u64& mask = context_mask(context);
    if (!this_thread.deferred) this_thread.deferred_mask = mask;
    mask |= ~synchronous | bit(sig);
    this_thread.deferred = 1;
    if (requeue(sig, info)) return;
    held_signals |= bit(sig);
    held_info = *info;
}

void set_mask(u64 mask) {
    raw_syscall(SYS_rt_sigprocmask, SIG_SETMASK, ptr_arg(&mask), 0, sizeof mask);
}

[[gnu::noinline]] void deliver_held(u64 mask) {
    while (held_signals) {
        const int sig = __builtin_ctzll(held_signals) + 1;
        held_signals &= ~bit(sig);
        siginfo_t info{};
        if (held_info.si_signo == sig) info = held_info;
        info.si_signo = sig;
        ucontext_t none{};
        u64 during;
        __builtin_memcpy(&during, &actions[sig].view.sa_mask, sizeof during);
        set_mask(mask | during | bit(sig));
        trampoline(sig, &info, &none);
        set_mask(mask);
    }
}

void deliver_deferred() {
    const u64 mask = this_thread.deferred_mask;
    this_thread.deferred = 0;
    if (SOCKSHIM_UNLIKELY(held_signals != 0)) return deliver_held(mask);
    set_mask(mask);
}

// As if the kernel had found SIG_DFL: a fault is raised again by its instruction, what was sent is
// sent again.
void take_default(int sig, const siginfo_t* info, bool fault) {
    if ((fatal_by_default & bit(sig)) && !in_vfork_child()) {
        char why[] = "signal 00";
        why[7] = static_cast<char>('0' + sig / 10);
        why[8] = static_cast<char>('0' + sig % 10);
        trace_dump(why);
    }
    {
        const action_lock hold;
        struct sigaction now;
        if (real::sigaction(sig, nullptr, &now) == 0 && is_trampoline(now)) {
            now.sa_handler = SIG_DFL;
            now.sa_flags &= ~SA_SIGINFO;
            real::sigaction(sig, &now, nullptr);
        }
    }
    if (!fault) requeue(sig, info);
}

// SA_RESETHAND: one delivery takes the handler, all others find the default action.
bool take_once(int sig, u64 w) {
    const action_lock hold;
    if (actions[sig].word.load() != w) return false;
    struct sigaction gone = actions[sig].view;
    gone.sa_handler = SIG_DFL;
    set_action(sig, gone);
    if (!needs_trampoline(sig, gone)) actions[sig].word.store(0);
    return true;
}

void call_program(int sig, siginfo_t* info, void* context, u64 w) {
    thread_state& t = this_thread;
    note_signal(!(w & word_restart));
    if (SOCKSHIM_UNLIKELY(catching)) catch_unblock();
    // A fault inside the handler is the handler's, even while a copy is interrupted.
    void* const jump = t.fault_jump;
    const void *const lo = t.fault_lo, *const hi = t.fault_hi;
    t.fault_jump = nullptr;
    const u64 address = w & word_address;
    if (w & word_siginfo) {
        reinterpret_cast<info_handler>(address)(sig, info, context);
    } else {
        reinterpret_cast<plain_handler>(address)(sig);
    }
    t.fault_lo = lo;
    t.fault_hi = hi;
    t.fault_jump = jump;
}

void trampoline(int sig, siginfo_t* info, void* context) {
    auto* const interrupted = static_cast<ucontext_t*>(context);
    if (sig == SIGSYS && catch_call(info, interrupted)) return;
    const bool fault = is_fault(sig, info);
    if (fault && resume_copy(sig, info, interrupted)) return;
    if (SOCKSHIM_UNLIKELY(this_thread.critical > 0) && !fault) {
        defer(sig, info, interrupted);
        return;
    }
    const int saved_errno = errno;
    u64 w = actions[sig].word.load();
    if ((w & word_once) && (w & word_address) > 1 && !take_once(sig, w)) {
        w = actions[sig].word.load();
    }
    const u64 address = w & word_address;
    if (address == reinterpret_cast<u64>(SIG_DFL) ||
        (fault && address == reinterpret_cast<u64>(SIG_IGN))) {
        take_default(sig, info, fault);
        errno = saved_errno;
    } else if (address != reinterpret_cast<u64>(SIG_IGN)) {
        errno = saved_errno;
        call_program(sig, info, context, w);
    }
}

// The lock's holder reads the kernel's disposition and puts the trampoline in front if it is due.
void wrap_installed(int sig) {
    struct sigaction now;
    if (real::sigaction(sig, nullptr, &now) != 0 || is_trampoline(now)) return;
    if (needs_trampoline(sig, now) && set_action(sig, now) == 0) actions[sig].view = now;
}

bool is_programs(int sig) {
    return sig >= 1 && sig <= last_signal && sig != SIGKILL && sig != SIGSTOP &&
           (sig < libc_private_first || sig > libc_private_last);
}

// Only what libc's sigaction writes: the kernel's 64 signals.
void copy_out(struct sigaction* to, const struct sigaction& from) {
    to->sa_handler = from.sa_handler;
    __builtin_memcpy(&to->sa_mask, &from.sa_mask, sizeof(u64));
    to->sa_flags = from.sa_flags;
    to->sa_restorer = from.sa_restorer;
}

} // namespace

int program_sigaction(int sig, const struct sigaction* act, struct sigaction* old) {
    if (!active.load() || !is_programs(sig)) {
        const int r = real::sigaction(sig, act, old);
        if (r == 0 && act && SOCKSHIM_UNLIKELY(active.load()) && is_programs(sig)) {
            const action_lock hold; // activated meanwhile, perhaps past this signal
            wrap_installed(sig);
        }
        return r;
    }
    if (in_vfork_child()) { // its dispositions are its own, the table is its parent's
        const int r = real::sigaction(sig, act, old);
        if (r == 0 && old && is_trampoline(*old)) copy_out(old, actions[sig].view);
        return r;
    }
    struct sigaction before;
    int r;
    {
        const action_lock hold;
        r = real::sigaction(sig, nullptr, &before);
        if (r == 0 && is_trampoline(before)) before = actions[sig].view;
        if (r == 0 && act) r = set_action(sig, *act);
    }
    if (r == 0 && old) copy_out(old, before);
    return r;
}

void signals_activate() {
    {
        const action_lock hold;
        if (active.load()) return;
        critical_deferred = deliver_deferred;
        catch_fatal = trace_enabled;
        active.store(1);
        for (int sig = 1; sig <= last_signal; ++sig) {
            if (is_programs(sig)) wrap_installed(sig);
        }
    }
    process_activate();
}

static void ignored_to_kernel(bool hand_back) {
    if (!active.load_relaxed()) return;
    const action_lock hold;
    for (const int sig : {SIGSEGV, SIGBUS}) {
        if (!is_ignore(actions[sig].view)) continue;
        struct sigaction kernels;
        if (real::sigaction(sig, nullptr, &kernels) != 0) continue;
        if (hand_back && is_trampoline(kernels)) {
            real::sigaction(sig, &actions[sig].view, nullptr);
        } else if (!hand_back && is_ignore(kernels)) {
            set_action(sig, kernels);
        }
    }
}

void note_signal(bool interrupts) {
    thread_state& t = this_thread;
    ++t.signals;
    if (interrupts) ++t.interrupting;
    if (u32* const sleeping = t.sleeping_on) __atomic_fetch_add(sleeping, 1, __ATOMIC_SEQ_CST);
}

void defer_signal(int sig, const siginfo_t* info, void* context) {
    defer(sig, info, static_cast<ucontext_t*>(context));
}

void signals_before_exec() { ignored_to_kernel(true); }
void signals_exec_failed() { ignored_to_kernel(false); }
void signals_after_fork_child() { lock_word.store(0); }

} // namespace sockshim
