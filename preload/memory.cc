// memcpy, memmove, memset and memcmp of this library: libc's own, whatever stands before libc.
//
// Sanitizers put theirs there, which report what we do with shared memory and with the program's bad
// pointers, and which must not run in a thread that they do not know (core/sync/background.cc). The
// compiler's calls are bound to these here, for they are hidden.
#include <cstring>
#include <dlfcn.h>
#include <gnu/lib-names.h>

#include "core/base/types.h"

namespace {

// Until the constructor has run. (The asm keeps the loops from becoming calls of what they implement.)
void* forward_copy(void* to, const void* from, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) {
        static_cast<sockshim::u8*>(to)[i] = static_cast<const sockshim::u8*>(from)[i];
        asm volatile("" ::: "memory");
    }
    return to;
}
void* any_copy(void* to, const void* from, std::size_t n) {
    if (to <= from) return forward_copy(to, from, n);
    while (n--) {
        static_cast<sockshim::u8*>(to)[n] = static_cast<const sockshim::u8*>(from)[n];
        asm volatile("" ::: "memory");
    }
    return to;
}
void* fill(void* to, int value, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) {
        static_cast<sockshim::u8*>(to)[i] = static_cast<sockshim::u8>(value);
        asm volatile("" ::: "memory");
    }
    return to;
}
int compare(const void* a, const void* b, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) {
        const int d =
            static_cast<const sockshim::u8*>(a)[i] - static_cast<const sockshim::u8*>(b)[i];
        if (d) return d;
    }
    return 0;
}

constinit decltype(&forward_copy) libc_memcpy = forward_copy;
constinit decltype(&any_copy) libc_memmove = any_copy;
constinit decltype(&fill) libc_memset = fill;
constinit decltype(&compare) libc_memcmp = compare;

template <class Function> void bind(void* libc, const char* name, Function& slot) {
    if (void* const found = dlsym(libc, name)) slot = reinterpret_cast<Function>(found);
}

// Before the other constructors of ours.
__attribute__((constructor(101))) void bind_memory() {
    void* const libc = dlopen(LIBC_SO, RTLD_LAZY | RTLD_NOLOAD);
    if (!libc) return;
    bind(libc, "memcpy", libc_memcpy);
    bind(libc, "memmove", libc_memmove);
    bind(libc, "memset", libc_memset);
    bind(libc, "memcmp", libc_memcmp);
    dlclose(libc); // it stays: we are linked with it
}

} // namespace

extern "C" {
void* memcpy(void* __restrict to, const void* __restrict from, std::size_t n) noexcept {
    return libc_memcpy(to, from, n);
}
void* memmove(void* to, const void* from, std::size_t n) noexcept {
    return libc_memmove(to, from, n);
}
void* memset(void* to, int value, std::size_t n) noexcept { return libc_memset(to, value, n); }
int memcmp(const void* a, const void* b, std::size_t n) noexcept { return libc_memcmp(a, b, n); }
}
