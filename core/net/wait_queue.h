// Who waits for a sock (or an eventpoll), and how they are woken.
//
// A thread that blocks in one call on one sock sets a bit in `flags` and sleeps on rx_seq or tx_seq by
// futex. Threads in poll/select on several sockets, and eventpolls, hang wait_entry cells into the
// list. A producer publishes, fences, looks at `flags`, and does nothing more when it is zero: nobody
// is rung who is not asleep.
//
// Killed at any store: an entry is linked and unlinked by one store each, so the list is whole whenever
// the lock is taken over; what a dead process left asleep, linked or half removed is put right by
// eventpoll_process_died (eventpoll.h).
#pragma once
#include <poll.h>
#include <sys/epoll.h>

#include "core/arena/slab.h"
#include "core/sync/robust_lock.h"

namespace sockshim {

inline constexpr u32 WQ_RX_SLEEP = 1u << 0; // somebody sleeps on rx_seq
inline constexpr u32 WQ_TX_SLEEP = 1u << 1; // somebody sleeps on tx_seq
inline constexpr u32 WQ_LIST = 1u << 2;     // the list is not empty
inline constexpr u32 WQ_ASYNC = 1u << 3;    // O_ASYNC: SIGIO to the owner
inline constexpr u32 WQ_ASKED = 1u << 4;    // sleepers to be woken by whoever is on duty

struct wait_queue {
    a32 flags;
    a32 rx_seq;
    a32 tx_seq;
    robust_lock lock; // guards the list
    a32 head;         // wait_entry index + 1
    a32 spin_score;   // how well staying awake has paid off here, see spin_wait.cc
    a32 waking;       // proc_id that has cleared a sleep flag and not yet woken the sleepers
    a32 woken_us;     // when sleepers were woken last, low half of monotonic_us
};
SOCKSHIM_ARENA_TYPE(wait_queue);

// What hangs on a source, and whom it rings.
enum wait_end : u8 { WAIT_NONE, WAIT_SOCK, WAIT_EVENTPOLL, WAIT_THREAD };

struct wait_entry {
    a32 next; // in the source's list, index + 1
    u8 source_kind;
    u8 target_kind;
    u16 reserved;
    u64 source;    // raw handle
    u64 target;    // raw handle
    a32 events;    // EPOLL* bits wanted
    i32 fd;        // as given to epoll_ctl
    u64 data;      // epoll_data
    u32 slot;      // the entry's bit in the eventpoll's ready map
    proc_id owner; // who puts it in or takes it out; WAIT_THREAD: whose thread
};
SOCKSHIM_ARENA_TYPE(wait_entry);
static_assert(sizeof(wait_entry) <= 64);
template <> struct region_of<wait_entry> { static constexpr region_id value = REGION_WAIT_ENTRY; };

// Slow half of the wake: wakes sleepers on rx_seq (mask has an input, hang-up or error bit) and tx_seq
// (output, hang-up or error), and rings list entries whose events meet `mask`. `wake_all` false: of the
// sleepers and exclusive entries one is enough (a listener's new connection).
void wake_up_slow(wait_queue& wq, u32 mask, bool wake_all);

// Precondition: what the waiter looks for has been published. Includes the fence.
inline void wake_up(wait_queue& wq, u32 mask, bool wake_all = true) {
    full_fence();
    if (SOCKSHIM_UNLIKELY(wq.flags.load_relaxed())) wake_up_slow(wq, mask, wake_all);
}
// Everybody who waits looks again, for nothing that the program should hear of by SIGIO.
void wake_quietly(wait_queue& wq);

// The queue that `kind` and the raw handle name; null when that is no more.
wait_queue* wait_source(u8 kind, u64 raw);
// Both under wq.lock. unlink: false when the entry is not in the list.
void wait_link(wait_queue& wq, wait_entry& e);
bool wait_unlink(wait_queue& wq, const wait_entry& e);
// After `dead` died: wakes whoever may wait for a wake that died with it.
void wait_queue_process_died(wait_queue& wq, proc_id dead);
// On duty: wakes whom others were not permitted to wake.
void wait_queues_wake_asked();
// Takes the entry out of its source's list, wherever that is by now, and frees it. No lock held.
void wait_entry_remove(handle<wait_entry> h);

// The same right after robust_lock::unlock, whose exchange is the fence already where locked
// instructions are full barriers.
inline bool anybody_waits_after_unlock(const wait_queue& wq) {
#if defined(__x86_64__)
    asm volatile("" ::: "memory");
#else
    full_fence();
#endif
    return wq.flags.load_relaxed() != 0;
}

enum wait_side { WAIT_RX, WAIT_TX };

// Blocks until ready(arg) or the deadline (absolute, CLOCK_MONOTONIC microseconds; < 0: for ever):
// look, spin, yield, sleep as D6 says. Precondition: no lock held. Returns 0, -EAGAIN at the deadline,
// -EINTR when a handler without SA_RESTART ran (or, with a deadline, any handler), -ERESTARTSYS is never
// returned: the loop restarts itself.
int wait_on(wait_queue& wq, wait_side side, bool (*ready)(void*), void* arg, i64 deadline_us);

u64 monotonic_us();
// The processor's own counter: a few nanoseconds to read, of unknown rate (some 1 to 5 GHz on x86,
// slower elsewhere). For "not again so soon" only.
u64 cycle_ticks();

} // namespace sockshim
