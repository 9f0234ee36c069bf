// A thread asleep on several things at once, and how it is woken.
//
// A waiter cell stands for one sleep. Where only things of ours are waited for the thread sleeps on the
// cell's futex word. Where kernel descriptors are in the set too (or a signal mask must be swapped
// atomically) it sleeps in one kernel ppoll, with its doorbell among the descriptors: a FIFO in the
// network's directory, named after the waiter cell, which whoever wakes it opens by name and writes one
// byte into; those that it rings often it keeps open. Nobody is rung who has not said that he sleeps, and only
// once.
//
// Doorbell descriptors are dear (an open and a close), so a process keeps its cells with their FIFO
// open between sleeps: as many as there were threads asleep at once, at high numbers, believed only as
// far as their inode is right.
#pragma once
#include "core/arena/internal_fd.h"
#include "core/net/wait_queue.h"

namespace sockshim {

// Who rings says so before he does, and the sleeper himself says when he is awake: a ring that died
// between the two is seen and made good.
enum waiter_state : u32 {
    WAITER_AWAKE,
    WAITER_FUTEX,
    WAITER_BELL,
    WAITER_FUTEX_RUNG,
    WAITER_BELL_RUNG,
    WAITER_BELL_ASKED, // who cannot open a bell has asked whoever is on duty to
};

struct waiter {
    a32 seq;     // futex word; moves with every ring
    a32 state;   // waiter_state
    a32 rung_us; // as wait_queue.woken_us
};
SOCKSHIM_ARENA_TYPE(waiter);
static_assert(sizeof(waiter) <= region_shapes[REGION_WAITER].cell_bytes);
template <> struct region_of<waiter> { static constexpr region_id value = REGION_WAITER; };

// A waiter cell in this thread's hands.
class waiter_ref {
public:
    waiter_ref() = default;
    ~waiter_ref() { release(); }
    waiter_ref(const waiter_ref&) = delete;
    waiter_ref& operator=(const waiter_ref&) = delete;

    // 0 or -ENOMEM. `bell`: one whose doorbell is open already, if there is any.
    int acquire(bool bell);
    void release();
    explicit operator bool() const { return static_cast<bool>(handle_); }
    handle<waiter> cell() const { return handle_; }
    waiter& operator*() const { return *waiter_; }
    waiter* operator->() const { return waiter_; }
    // The doorbell's descriptor, good for the coming sleep; -1: it cannot be had.
    int bell_fd();
    // Takes the byte out after a sleep that the doorbell, as bell_fd named it before, has ended.
    static void silence(int bell);

private:
    handle<waiter> handle_{};
    waiter* waiter_ = nullptr;
    internal_fd own_bell_{}; // when it is not one of the pool's
    internal_fd* bell_ = nullptr;
    i32 pool_index_ = -1;
};

// Hangs the waiter on a source (a sock or an eventpoll; wait_end and raw handle): it is rung when one of
// `events` comes. Look at the source after that. Null: the arena is full, or the source is no more.
// Undone by wait_entry_remove.
handle<wait_entry> waiter_link(handle<waiter> who, u8 kind, u64 source, u32 events);
// Wakes the waiter's thread if it sleeps and nobody else is at it. Any process.
void waiter_ring(handle<waiter> h);
bool waiter_asleep(handle<waiter> h);
// On duty: wakes for those who could not.
void waiters_wake_asked();
// About to be able to open none: keeps one bell for a thread of this process to sleep by.
void doorbell_keep();
// After a process's death: wakes every sleeper, since a ring may have died on its way.
void waiters_wake_all();
// Where FIFOs are made when the arena has no directory of its own (unit tests).
void doorbell_use_directory(const char* path);

} // namespace sockshim
