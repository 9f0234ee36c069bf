#include "preload/catch.h"

#include <cerrno>
#include <cstring>
#include <link.h>
#include <sched.h>
#include <sys/auxv.h>
#include <sys/prctl.h>

#include "core/base/raw_syscall.h"
#include "core/sync/uaccess.h"
#include "dispatch/syscalls.h"
#include "preload/exec_env.h"
#include "preload/process.h"
#include "preload/real.h"
#include "preload/signal.h"

namespace sockshim {

constinit bool catching = false;

#if defined(__x86_64__)

extern "C" {
extern const char sockshim_caught_again[], sockshim_caught_clone[], sockshim_caught_vfork[];
// Where the program goes on after a caught vfork.
constinit thread_local u64 sockshim_caught_return = 0;
void sockshim_before_vfork();
void* sockshim_clone_target(long number, unsigned long first);
}

namespace {

constexpr int set_dispatch = 59; // PR_SET_SYSCALL_USER_DISPATCH
constexpr int dispatch_on = 1;   // PR_SYS_DISPATCH_ON
constexpr int user_dispatch = 2; // si_code SYS_USER_DISPATCH
constexpr long long below = 136; // the red zone and a word

constinit u8 selector = 1; // SYSCALL_DISPATCH_FILTER_BLOCK
constinit u64 range_start = 0, range_end = 0;

struct text_search {
    u64 lo = ~u64{0}, hi = 0;
    u64 main_lo = 0, main_hi = 0;
    u32 found = 0;
    bool first = true, is_go = false;
};

// The note that Go's linker leaves: "Go", its identity.
bool has_go_note(const dl_phdr_info& info) {
    for (int i = 0; i < info.dlpi_phnum; ++i) {
        const auto& segment = info.dlpi_phdr[i];
        if (segment.p_type != PT_NOTE || segment.p_memsz < sizeof(ElfW(Nhdr)) + 4) continue;
        const auto* const note =
            reinterpret_cast<const ElfW(Nhdr)*>(info.dlpi_addr + segment.p_vaddr);
        if (note->n_namesz == 4 && !std::memcmp(note + 1, "Go\0", 4)) return true;
    }
    return false;
}

int look_at_object(dl_phdr_info* info, std::size_t, void* arg) {
    text_search& s = *static_cast<text_search*>(arg);
    const u64 libc = reinterpret_cast<u64>(real::syscall_address());
    const u64 ours = reinterpret_cast<u64>(&sockshim_caught_again);
    bool wanted = !s.first && info->dlpi_addr == getauxval(AT_BASE);
    u64 lo = ~u64{0}, hi = 0;
    for (int i = 0; i < info->dlpi_phnum; ++i) {
        const auto& segment = info->dlpi_phdr[i];
        if (segment.p_type != PT_LOAD || !(segment.p_flags & PF_X)) continue;
        const u64 start = info->dlpi_addr + segment.p_vaddr, end = start + segment.p_memsz;
        lo = min_of(lo, start);
        hi = max_of(hi, end);
        wanted = wanted || (libc >= start && libc < end) || (ours >= start && ours < end);
    }
    if (s.first) { // the program
        s.first = false;
        s.main_lo = lo;
        s.main_hi = hi;
        s.is_go = has_go_note(*info);
    } else if (wanted) {
        s.lo = min_of(s.lo, lo);
        s.hi = max_of(s.hi, hi);
        ++s.found;
    }
    return 0;
}

// The kernel gets the call, from our text, when the handler has returned: with the program's registers,
// mask and stack.
long go_on(greg_t* regs, const char* from) {
    const u64 back = static_cast<u64>(regs[REG_RIP]);
    if (put_user(back, reinterpret_cast<void*>(regs[REG_RSP] - below)) != 0) return -EFAULT;
    regs[REG_RSP] -= below;
    regs[REG_RIP] = reinterpret_cast<greg_t>(from);
    return SYS_NOT_OURS;
}

long go_on_as_vfork(greg_t* regs) {
    sockshim_before_vfork();
    sockshim_caught_return = static_cast<u64>(regs[REG_RIP]);
    regs[REG_RIP] = reinterpret_cast<greg_t>(sockshim_caught_vfork);
    return SYS_NOT_OURS;
}

long go_on_with_stack(greg_t* regs) {
    const u64 back = static_cast<u64>(regs[REG_RIP]);
    if (put_user(back, reinterpret_cast<void*>(regs[REG_RSI] - below)) != 0) return -EFAULT;
    const long r = go_on(regs, sockshim_caught_clone);
    if (r == SYS_NOT_OURS) regs[REG_RSI] -= below;
    return r;
}

// SYS_NOT_OURS when the context has been set up to go on.
long make_process(long nr, const long (&a)[6], greg_t* regs) {
    if (nr == SYS_vfork) return go_on_as_vfork(regs);
    u64 flags = static_cast<u64>(a[0]), stack = static_cast<u64>(a[1]);
    if (nr == SYS_clone3) {
        u64 args[6] = {}; // clone_args: the first are flags, and the sixth is stack
        if (get_user(args, reinterpret_cast<const void*>(a[0])) != 0) return -EFAULT;
        flags = args[0];
        stack = args[5];
        // Everybody knows kernels without it, and takes clone then.
        if (flags & CLONE_VM || stack) return -ENOSYS;
    }
    if (!(flags & CLONE_VM) && !stack) return caught_syscall(nr, a);
    if (!stack) return go_on_as_vfork(regs);
    sockshim_clone_target(nr, flags);
    return go_on_with_stack(regs);
}

u64& context_mask(ucontext_t* context) { return *reinterpret_cast<u64*>(&context->uc_sigmask); }

// The handler's return sets the mask.
long change_mask(const long (&a)[6], u64& mask) {
    u64 set = 0;
    const u64 before = mask;
    if (a[3] != sizeof set) return -EINVAL;
    if (a[1]) {
        if (get_user(set, reinterpret_cast<const void*>(a[1])) != 0) return -EFAULT;
        switch (static_cast<int>(a[0])) {
        case SIG_BLOCK: set |= before; break;
        case SIG_UNBLOCK: set = before & ~set; break;
        case SIG_SETMASK: break;
        default: return -EINVAL;
        }
        mask = set & ~catch_bit;
    }
    return a[2] ? put_user(before, reinterpret_cast<void*>(a[2])) : 0;
}

} // namespace

bool catch_thread() {
    catch_unblock();
    return raw_syscall(SYS_prctl, set_dispatch, dispatch_on, static_cast<long>(range_start),
                       static_cast<long>(range_end - range_start), ptr_arg(&selector)) == 0;
}

static const char* why_not_catch() {
    text_search s;
    dl_iterate_phdr(look_at_object, &s);
    if (s.found != 3 || (s.main_lo < s.hi && s.lo < s.main_hi)) {
        return "the program's text cannot be told from libc's";
    }
    if (s.is_go) return "Go's stacks have no room for a signal handler";
    range_start = s.lo;
    range_end = s.hi;
    return catch_thread() ? nullptr : "the kernel has no syscall user dispatch";
}

bool catch_call(const siginfo_t* info, ucontext_t* context) {
    if (!catching || info->si_code != user_dispatch) return false;
    const int saved_errno = errno;
    greg_t* const regs = context->uc_mcontext.gregs;
    const long nr = info->si_syscall;
    const long a[6] = {regs[REG_RDI], regs[REG_RSI], regs[REG_RDX],
                       regs[REG_R10], regs[REG_R8],  regs[REG_R9]};
    long r = SYS_NOT_OURS;
    switch (nr) {
    case SYS_rt_sigreturn: // its frame is where the stack is
        regs[REG_RIP] = reinterpret_cast<greg_t>(sockshim_caught_again);
        break;
    case SYS_rt_sigprocmask: r = change_mask(a, context_mask(context)); break;
    case SYS_vfork:
    case SYS_clone:
    case SYS_clone3: r = make_process(nr, a, regs); break;
    default:
        r = caught_syscall(nr, a);
        if (r == SYS_NOT_OURS) r = go_on(regs, sockshim_caught_again);
    }
    if (r != SYS_NOT_OURS) regs[REG_RAX] = r;
    errno = saved_errno;
    return true;
}

#else

bool catch_thread() { return false; }
static const char* why_not_catch() { return "there is no such thing on this machine"; }
bool catch_call(const siginfo_t*, ucontext_t*) { return false; }

#endif

void catch_start() {
    const configuration options = exec_options();
    if (!options.catch_calls || options.disable) return;
    if (const char* const why = why_not_catch()) {
        if (!options.quiet) notice("SOCKSHIM_CATCH: nothing is caught: %s", why);
        return;
    }
    catching = true;
    signals_activate();
}

void catch_unblock() {
    raw_syscall(SYS_rt_sigprocmask, SIG_UNBLOCK, ptr_arg(&catch_bit), 0, sizeof catch_bit);
}

long catch_sigprocmask(const long (&a)[6]) {
    u64 set = 0;
    if (!catching || !a[1] || a[0] == SIG_UNBLOCK || in_vfork_child()) return SYS_NOT_OURS;
    if (get_user(set, reinterpret_cast<const void*>(a[1])) != 0) return -EFAULT;
    set &= ~catch_bit;
    return raw_syscall(SYS_rt_sigprocmask, a[0], ptr_arg(&set), a[2], a[3]);
}

// The kernel's own structure has its members in another order.
long catch_sigaction(const long (&a)[6]) {
    struct {
        void (*handler)(int);
        unsigned long flags;
        void (*restorer)();
        u64 mask;
    } kernels{};
    if (!catching || a[0] != SIGSYS || in_vfork_child()) return SYS_NOT_OURS;
    if (a[3] != sizeof kernels.mask) return -EINVAL;
    struct sigaction act {
    }, old{};
    if (a[1]) {
        if (get_user(kernels, reinterpret_cast<const void*>(a[1])) != 0) return -EFAULT;
        act.sa_handler = kernels.handler;
        act.sa_flags = static_cast<int>(kernels.flags);
        __builtin_memcpy(&act.sa_mask, &kernels.mask, sizeof kernels.mask);
    }
    if (program_sigaction(SIGSYS, a[1] ? &act : nullptr, &old) != 0) return -errno;
    if (!a[2]) return 0;
    kernels.handler = old.sa_handler;
    kernels.flags = static_cast<unsigned>(old.sa_flags);
    kernels.restorer = old.sa_restorer;
    __builtin_memcpy(&kernels.mask, &old.sa_mask, sizeof kernels.mask);
    return put_user(kernels, reinterpret_cast<void*>(a[2]));
}

} // namespace sockshim
