// What SOCKSHIM_CATCH asks of libc's functions: new threads must be caught too, and nobody may block SIGSYS.
#include <cerrno>
#include <new>
#include <sys/mman.h>

#include "core/base/raw_syscall.h"
#include "preload/catch.h"
#include "preload/wrap.h"

using namespace sockshim;

namespace {

template <class Function> struct thread_start {
    Function fn;
    void* arg;
};

template <class Function> thread_start<Function>* new_start(Function fn, void* arg) {
    using start = thread_start<Function>;
    const long at = raw_syscall(SYS_mmap, 0, sizeof(start), PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at < 0 && at > -4096) return nullptr;
    return new (reinterpret_cast<void*>(at)) start{fn, arg};
}

template <class Function> void drop(thread_start<Function>* s) {
    raw_syscall(SYS_munmap, ptr_arg(s), sizeof *s);
}

template <class Function> auto run_caught(void* p) {
    auto* const given = static_cast<thread_start<Function>*>(p);
    const thread_start<Function> start = *given;
    drop(given);
    catch_thread();
    return start.fn(start.arg);
}

// The kernel's signals, without SIGSYS.
const sigset_t* without_sigsys(const sigset_t* set, sigset_t& room) {
    if (SOCKSHIM_LIKELY(!catching) || !set || in_vfork_child()) return set;
    u64 word;
    __builtin_memcpy(&word, set, sizeof word);
    word &= ~catch_bit;
    __builtin_memcpy(&room, &word, sizeof word);
    return &room;
}

int without_sigsys(int mask) {
    return catching ? static_cast<int>(static_cast<u32>(mask) & ~catch_bit) : mask;
}

} // namespace

SOCKSHIM_WRAP(int, pthread_create,
              (void* thread, const void* attr, void* (*fn)(void*), void* arg)) {
    using function = void* (*)(void*);
    if (SOCKSHIM_LIKELY(!catching)) return real::pthread_create(thread, attr, fn, arg);
    auto* const start = new_start<function>(fn, arg);
    if (!start) return EAGAIN;
    const int r = real::pthread_create(thread, attr, run_caught<function>, start);
    if (r != 0) drop(start);
    return r;
}

SOCKSHIM_WRAP(int, thrd_create, (void* thread, int (*fn)(void*), void* arg)) {
    using function = int (*)(void*);
    if (SOCKSHIM_LIKELY(!catching)) return real::thrd_create(thread, fn, arg);
    auto* const start = new_start<function>(fn, arg);
    constexpr int thrd_nomem = 3;
    if (!start) return thrd_nomem;
    const int r = real::thrd_create(thread, run_caught<function>, start);
    if (r != 0) drop(start);
    return r;
}

SOCKSHIM_WRAP(int, pthread_sigmask, (int how, const sigset_t* set, sigset_t* old)) {
    sigset_t room{};
    return real::pthread_sigmask(how, without_sigsys(set, room), old);
}

SOCKSHIM_WRAP(int, sigprocmask, (int how, const sigset_t* set, sigset_t* old)) {
    sigset_t room{};
    return real::sigprocmask(how, without_sigsys(set, room), old);
}

SOCKSHIM_WRAP(int, sigblock, (int mask)) { return real::sigblock(without_sigsys(mask)); }
SOCKSHIM_WRAP(int, sigsetmask, (int mask)) { return real::sigsetmask(without_sigsys(mask)); }

SOCKSHIM_WRAP(int, sighold, (int sig)) {
    return catching && sig == SIGSYS ? 0 : real::sighold(sig);
}
