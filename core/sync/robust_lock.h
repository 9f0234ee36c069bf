// A lock in the arena that outlives its owner.
//
// The word holds the owner's proc_id (0: free) and a flag that somebody sleeps on it. No kernel list is
// involved: a waiter that has slept for a while asks whether the owner's process still lives, and takes
// the lock over when it does not. Whoever takes over is told, and repairs what the lock guards.
// Between lock() and unlock() the thread is in a critical section (critical.h).
//
// Order of locks: sk_lock < tx_lock < rx_lock < hash bucket < wait queue < eventpoll; among
// several of one kind, the lower cell index first.
#pragma once
#include "core/arena/layout.h"
#include "core/sync/critical.h"

namespace sockshim {

extern proc_id self_proc; // 0 before this process has attached to an arena

struct robust_lock {
    a32 word;

    static constexpr u32 waiters = 1u << 31;
    static constexpr u32 pending = 1u << 30; // work left for the holder (sk_lock's backlog)
    static constexpr u32 owner_mask = (1u << 30) - 1;

    // False when the previous owner died inside: the lock is held all the same, and its object
    // must be repaired.
    [[nodiscard]] bool lock() {
        critical_enter();
        u32 expected = 0;
        if (SOCKSHIM_LIKELY(word.cas(expected, self_proc))) return true;
        return lock_slow();
    }
    // For locks whose object needs no repair.
    void lock_plain() { static_cast<void>(lock()); }
    [[nodiscard]] bool try_lock() {
        critical_enter();
        u32 expected = 0;
        if (SOCKSHIM_LIKELY(word.cas(expected, self_proc))) return true;
        critical_leave();
        return false;
    }
    void unlock() {
        if (SOCKSHIM_UNLIKELY(word.exchange(0) & waiters)) wake_one();
        critical_leave();
    }
    bool held_by_self() const { return (word.load_relaxed() & owner_mask) == self_proc; }

    bool lock_slow();
    void wake_one();
};
SOCKSHIM_ARENA_TYPE(robust_lock);

class lock_guard {
public:
    explicit lock_guard(robust_lock& l) : lock_(l) { clean_ = lock_.lock(); }
    ~lock_guard() { lock_.unlock(); }
    lock_guard(const lock_guard&) = delete;
    lock_guard& operator=(const lock_guard&) = delete;
    bool owner_died() const { return !clean_; }

private:
    robust_lock& lock_;
    bool clean_;
};

} // namespace sockshim
