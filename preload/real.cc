#include "preload/real.h"

#include <cerrno>
#include <dlfcn.h>
#include <type_traits>

#include "core/base/raw_syscall.h"
#include "preload/elf_lookup.h"

namespace sockshim::real {
namespace {

constexpr long NONE = -1;

template <class T> long as_word(T v) {
    if constexpr (std::is_pointer_v<T>) {
        return reinterpret_cast<long>(v);
    } else if constexpr (std::is_class_v<T> || std::is_array_v<T>) {
        return 0;
    } else {
        return static_cast<long>(v);
    }
}

// What a slot is when libc has no such function.
template <long number, class Function> struct stand_in;
template <long number, class Result, class... Args> struct stand_in<number, Result (*)(Args...)> {
    static Result call(Args... args) {
        long r = -ENOSYS;
        if constexpr (number != NONE) r = raw_syscall(number, as_word(args)...);
        if (r < 0 && r > -4096) {
            errno = static_cast<int>(-r);
            r = -1;
        }
        if constexpr (std::is_same_v<Result, void*>) {
            return reinterpret_cast<void*>(r); // mmap: MAP_FAILED is -1
        } else if constexpr (std::is_pointer_v<Result>) {
            return nullptr;
        } else if constexpr (!std::is_void_v<Result>) {
            return static_cast<Result>(r);
        }
    }
    static void* address() { return reinterpret_cast<void*>(&call); }
};

constinit thread_local bool in_dlsym = false;

} // namespace

// dlsym may allocate, and the program's allocator may call what is being bound: then the stand-in
// serves this once.
void* bind_slot(slot& s) {
    void* found = elf_lookup_next(s.name);
    if (!found && !in_dlsym) {
        const int saved_errno = errno;
        in_dlsym = true;
        found = dlsym(RTLD_NEXT, s.name);
        in_dlsym = false;
        errno = saved_errno;
        if (!found) found = s.stand_in();
    }
    if (!found) return s.stand_in();
    __atomic_store_n(&s.function, found, __ATOMIC_RELAXED);
    return found;
}

// NOLINTBEGIN(bugprone-macro-parentheses)
#define REAL(result, name, number, parameters, arguments)                                          \
    constinit slot slot_##name = {nullptr, #name, &stand_in<number, result(*) parameters>::address};
#include "preload/real.def"
#undef REAL
// NOLINTEND(bugprone-macro-parentheses)

static long syscall_stand_in(long number, long a, long b, long c, long d, long e, long f) {
    const long r = raw_syscall(number, a, b, c, d, e, f);
    if (r >= 0 || r < -4095) return r;
    errno = static_cast<int>(-r);
    return -1;
}
static void* syscall_stand_in_address() { return reinterpret_cast<void*>(&syscall_stand_in); }
static constinit slot slot_syscall = {nullptr, "syscall", &syscall_stand_in_address};
void* syscall_address() { return resolve(slot_syscall); }

} // namespace sockshim::real
