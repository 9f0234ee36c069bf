// An atomic that may live in the arena: standard layout, trivially copyable, no constructor, so that
// zeroed shared memory is a valid object. Plain names mean acquire for loads, release for stores and
// sequential consistency for read-modify-write, the orders that shared-memory publication needs.
#pragma once
#include "core/base/types.h"

namespace sockshim {

template <class T> struct atomic_cell {
    T v_;

    T load() const { return __atomic_load_n(&v_, __ATOMIC_ACQUIRE); }
    T load_relaxed() const { return __atomic_load_n(&v_, __ATOMIC_RELAXED); }
    void store(T v) { __atomic_store_n(&v_, v, __ATOMIC_RELEASE); }
    void store_relaxed(T v) { __atomic_store_n(&v_, v, __ATOMIC_RELAXED); }
    T exchange(T v) { return __atomic_exchange_n(&v_, v, __ATOMIC_SEQ_CST); }
    T fetch_add(T v) { return __atomic_fetch_add(&v_, v, __ATOMIC_SEQ_CST); }
    T fetch_sub(T v) { return __atomic_fetch_sub(&v_, v, __ATOMIC_SEQ_CST); }
    T fetch_or(T v) { return __atomic_fetch_or(&v_, v, __ATOMIC_SEQ_CST); }
    T fetch_and(T v) { return __atomic_fetch_and(&v_, v, __ATOMIC_SEQ_CST); }
    // Stores what was there into `expected` when it differs.
    bool cas(T& expected, T desired) {
        return __atomic_compare_exchange_n(&v_, &expected, desired, false, __ATOMIC_SEQ_CST,
                                           __ATOMIC_ACQUIRE);
    }
};

using a8 = atomic_cell<u8>;
using a32 = atomic_cell<u32>;
using a64 = atomic_cell<u64>;

// Orders an earlier publication before a later look at a waiter's flag (the store/load case that
// acquire and release do not cover).
inline void full_fence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

inline void cpu_relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

} // namespace sockshim
