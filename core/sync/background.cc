#include "core/sync/background.h"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <link.h>
#include <sched.h>
#include <sys/mman.h>

#include "core/base/raw_syscall.h"
#include "core/base/types.h"
#include "core/sync/futex.h"

namespace sockshim {
namespace {

constexpr u64 stack_bytes = 256 * 1024;
constexpr u64 tcb_bytes = 1024; // at and above the thread pointer: libc's head of struct pthread
constexpr u64 tls_limit = 1 << 20;

// The thread there is, and its memory.
constinit a32 thread_tid{0};
constinit u8* memory = nullptr;
constinit u64 memory_bytes = 0;

void free_memory() {
    if (memory) raw_syscall(SYS_munmap, ptr_arg(memory), static_cast<long>(memory_bytes));
    memory = nullptr;
}

// Where the calling thread's static TLS lies, ours and everybody's.
struct tls_layout {
    u8* low;
    u8* high;
    u8* own;           // our module's block in the calling thread
    const void* image; // what it is initialised with
    u64 image_bytes;
};

int look_at_module(dl_phdr_info* info, std::size_t, void* arg) {
    auto& layout = *static_cast<tls_layout*>(arg);
    if (!info->dlpi_tls_data) return 0;
    const auto self = reinterpret_cast<ElfW(Addr)>(&look_at_module);
    u64 bytes = 0, image_bytes = 0;
    const void* image = nullptr;
    bool own = false;
    for (int i = 0; i < info->dlpi_phnum; ++i) {
        const ElfW(Phdr)& ph = info->dlpi_phdr[i];
        const ElfW(Addr) at = info->dlpi_addr + ph.p_vaddr;
        if (ph.p_type == PT_TLS) {
            bytes = ph.p_memsz;
            image_bytes = ph.p_filesz;
            image = reinterpret_cast<const void*>(at);
        } else if (ph.p_type == PT_LOAD && self >= at && self < at + ph.p_memsz) {
            own = true;
        }
    }
    auto* const block = static_cast<u8*>(info->dlpi_tls_data);
    auto* const tp = static_cast<u8*>(__builtin_thread_pointer());
    // A block far from the thread pointer is a dynamically loaded library's, not static TLS.
    const u64 distance = static_cast<u64>(block < tp ? tp - block : block - tp);
    if (distance > tls_limit) return 0;
    layout.low = min_of(layout.low, block);
    layout.high = max_of(layout.high, block + bytes);
    if (own) {
        layout.own = block;
        layout.image = image;
        layout.image_bytes = image_bytes;
    }
    return 0;
}

u8* map_pages(u64 bytes) {
    const long p = raw_syscall(SYS_mmap, 0, static_cast<long>(bytes), PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    return p < 0 && p > -4096 ? nullptr : reinterpret_cast<u8*>(p);
}

// clone(flags, stack, tid, tid, tls) as each processor orders it; the new thread calls main and exits.
long clone_thread(unsigned long flags, u8* stack_top, a32* tid, u8* tls, void (*main)()) {
    auto** const top = reinterpret_cast<void (**)()>(stack_top - 16);
    *top = main;
#if defined(__x86_64__)
    long ret;
    register a32* r10 asm("r10") = tid;
    register u8* r8 asm("r8") = tls;
    asm volatile("syscall\n\t"
                 "test %%rax, %%rax\n\t"
                 "jnz 1f\n\t"
                 "xor %%ebp, %%ebp\n\t"
                 "mov (%%rsp), %%rax\n\t"
                 "call *%%rax\n\t"
                 "mov $60, %%eax\n\t"
                 "xor %%edi, %%edi\n\t"
                 "syscall\n\t"
                 "1:"
                 : "=a"(ret)
                 : "a"(SYS_clone), "D"(flags), "S"(top), "d"(tid), "r"(r10), "r"(r8)
                 : "rcx", "r11", "memory", "cc");
    return ret;
#else
    register long x8 asm("x8") = SYS_clone;
    register long x0 asm("x0") = static_cast<long>(flags);
    register void* x1 asm("x1") = top;
    register a32* x2 asm("x2") = tid;
    register u8* x3 asm("x3") = tls;
    register a32* x4 asm("x4") = tid;
    asm volatile("svc 0\n\t"
                 "cbnz x0, 1f\n\t"
                 "mov x29, xzr\n\t"
                 "ldr x9, [sp]\n\t"
                 "blr x9\n\t"
                 "mov x8, #93\n\t"
                 "mov x0, xzr\n\t"
                 "svc 0\n\t"
                 "1:"
                 : "+r"(x0)
                 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4)
                 : "x9", "x30", "memory", "cc");
    return x0;
#endif
}

} // namespace

bool background_thread(void (*main)()) {
    if (!background_join(0)) return false;
    auto* const tp = static_cast<u8*>(__builtin_thread_pointer());
    tls_layout layout{tp, tp + tcb_bytes, nullptr, nullptr, 0};
    dl_iterate_phdr(look_at_module, &layout);
    const u64 below = (static_cast<u64>(tp - layout.low) + 4095) & ~u64{4095};
    const u64 above = (static_cast<u64>(layout.high - tp) + 4095) & ~u64{4095};
    const u64 whole = stack_bytes + below + above;
    u8* const base = layout.own ? map_pages(whole) : nullptr;
    if (!base) return false;
    memory = base;
    memory_bytes = whole;
    raw_syscall(SYS_mprotect, ptr_arg(base), 4096, PROT_NONE); // the stack's guard
    // Zeroed but for our own initialised variables and the head of the thread's control block, which
    // points to itself and holds the stack protector's canary. Everybody else's are never looked at.
    u8* const new_tp = base + stack_bytes + below;
    std::memcpy(new_tp + (layout.own - tp), layout.image, layout.image_bytes);
#if defined(__x86_64__)
    std::memcpy(new_tp, tp, 0x40);
    const u64 self = reinterpret_cast<u64>(new_tp);
    std::memcpy(new_tp, &self, sizeof self);        // tcb
    std::memcpy(new_tp + 0x10, &self, sizeof self); // self
    const u64 none = 0;
    std::memcpy(new_tp + 0x08, &none, sizeof none); // dtv: no dynamic TLS here
#endif
    const u64 all = ~u64{0};
    u64 old = 0;
    raw_syscall(SYS_rt_sigprocmask, SIG_SETMASK, ptr_arg(&all), ptr_arg(&old), sizeof all);
    const unsigned long flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
                                CLONE_SYSVSEM | CLONE_SETTLS | CLONE_PARENT_SETTID |
                                CLONE_CHILD_CLEARTID;
    const long tid = clone_thread(flags, base + stack_bytes, &thread_tid, new_tp, main);
    raw_syscall(SYS_rt_sigprocmask, SIG_SETMASK, ptr_arg(&old), 0, sizeof old);
    if (tid > 0) return true;
    free_memory();
    return false;
}

// The kernel clears the word when the thread will not use its stack again, and wakes us.
bool background_join(i64 timeout_us) {
    while (const u32 tid = thread_tid.load()) {
        if (timeout_us == 0 || futex_wait(thread_tid, tid, timeout_us) == -ETIMEDOUT) {
            return thread_tid.load() == 0;
        }
    }
    free_memory();
    return true;
}

u32 background_tid() { return thread_tid.load(); }

void background_forked() {
    thread_tid.store(0);
    free_memory();
}

} // namespace sockshim
