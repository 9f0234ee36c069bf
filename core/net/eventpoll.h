// struct eventpoll: our half of an epoll set (Linux: fs/eventpoll.c).
//
// The program's epfd is a real kernel epoll set, in which the kernel's descriptors are registered
// natively; beside it stands this arena object for the sockets of ours, shared by all who share the
// epfd. Each registration (Linux: epitem) is a wait_entry on its source's wait queue with a slot here:
// a wake sets the slot's bit in the ready map by one atomic OR, and epoll_wait takes bits and asks the
// sources again (Linux: ep_send_events). An epoll set inside another is registered in both halves.
//
// Ready map: one word for the first 64 slots; then words summarised 64 to 1 in two levels, so that
// epoll_wait costs the ready ones, not the registered ones. Slots' words and tables come in chunks that
// never move, so a waker needs no lock.
//
// Truth: a wait_entry belongs to the set when the slot table names it. Every order of stores is such
// that what the table names is linked; what is linked and not named is what a dead process left, and
// whoever meets it takes it away. Locks: source's wait queue, then `lock`. Whoever takes the lock over
// from the dead rebuilds the free list and marks every slot ready, for bits may have been in its hands.
#pragma once
#include "core/arena/extent.h"
#include "core/net/sock.h"
#include "core/net/wait_queue.h"

namespace sockshim {

// Linux: EP_PRIVATE_BITS. What is left of the events of a registration that EPOLLONESHOT disabled.
inline constexpr u32 ep_private_bits = EPOLLWAKEUP | EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE;

inline constexpr u32 ep_first_slots = 64;
inline constexpr u32 ep_chunks =
    6; // each brings the slots to four times what they were: 2^18 at last
inline constexpr u32 ep_max_slots = ep_first_slots << (2 * ep_chunks);
inline constexpr u32 ep_inline_holders = 12;

// A process that has the set in its descriptor table, and a number of it there: by that others who got
// the kernel's half from it learn which set it is. Stored in this order; 0: none, or not told.
struct ep_holder {
    a32 who; // proc_id
    a32 fd_plus_1;
};

struct eventpoll {
    // What wakers and those who look for events share.
    wait_queue
        wq; // threads in epoll_wait sleep on rx_seq or hang in the list; poll and outer sets too
    a64 ready0;  // slots 0 to 63
    a64 summary; // words 1 to 63 of the map
    a64 top;     // summary words 1 to 63, which stand in their chunks

    alignas(cache_line) robust_lock lock;
    a32 items;        // registrations of ours
    a32 kernel_items; // registrations in the kernel's half, at most: a close takes them out silently
    a32 exclusive;    // registrations with EPOLLEXCLUSIVE were made: tell when somebody looks
    a32 nested;       // registrations of epoll sets were made: both halves may report one
    a32 looking;      // a thread in epoll_wait is awake
    a32 known;  // to all who have it: none is a kernel's set without our half in another process
    a32 direct; // threads that wait in the kernel's half alone, having seen no registration of ours
    a32 kicks_begun; // a descriptor that is always ready was put into the kernel's half to end such waits,
    a32 kicks_ended; // and taken out
    u32 slots;
    u32 free_head;         // slot + 1
    u32 rotor;             // slot to begin with next time, so that no one starves
    a32 turn;              // whose turn it is when only one event fits, ours or the kernel's
    a64 kernel_asked;      // cycle_ticks
    u64 chunks[ep_chunks]; // raw extent handles
    u64 holder_chunk;      // raw extent handle: holders beyond the inline ones
    ep_holder holders[ep_inline_holders];
    a32 table0[ep_first_slots]; // wait_entry index + 1, or ep_free_slot | next free slot + 1
};
SOCKSHIM_ARENA_TYPE(eventpoll);
static_assert(sizeof(eventpoll) <= region_shapes[REGION_EVENTPOLL].cell_bytes);
template <> struct region_of<eventpoll> { static constexpr region_id value = REGION_EVENTPOLL; };

// Makes a live set with this process as its only holder. Null handle: the arena is full.
handle<eventpoll> eventpoll_create();
// Process `holder` has closed its last descriptor of the set; the last holder's put frees it.
void eventpoll_put(u32 index, proc_id holder);
// In a child after fork: it holds what its parent holds. What the parent holds when it calls
// eventpoll_fork_begins just before the fork cannot go away before the child has got to this; a fork
// that failed is taken back.
void eventpoll_fork_begins();
void eventpoll_fork_failed();
void eventpoll_forked(proc_id parent, proc_id child);
// This process has the set at number `fd`, for others to ask by.
void eventpoll_note_fd(u32 index, int fd);
// Which set is it that somebody has at a number of his, of which `same` says that it is the one looked
// for? From then on this process holds it too. Null handle: none.
handle<eventpoll> eventpoll_find(bool (*same)(proc_id who, int fd, void* arg), void* arg);
// Sets that this process holds, each with the number that was noted (or -1).
void eventpoll_for_each_held(void (*visit)(u32 index, int fd));
// `dead` died: drops its holds, removes what it left linked or half removed, and wakes everybody in the
// network who may have been waiting for a wake that died with it. Idempotent.
void eventpoll_process_died(proc_id dead);
// The sock is about to be freed (its last descriptor was closed): takes it out of all sets.
void eventpoll_release_socket(handle<sock> h);
// `fd`, which named this sock, is now the kernel's: its registrations move to the kernel's half.
// In dispatch/eventpoll.cc, which knows the numbers of epoll sets.
void eventpoll_handed_over(handle<sock> h, int fd);

// What a registration is for: a sock or an inner set.
struct ep_source {
    u8 kind; // WAIT_SOCK, WAIT_EVENTPOLL
    u64 raw;
    static ep_source of(handle<sock> h) { return {WAIT_SOCK, h.raw()}; }
    static ep_source of(handle<eventpoll> h) { return {WAIT_EVENTPOLL, h.raw()}; }
};

// epoll_ctl's operations on our half; `events` as the program gave them, checked by dispatch/.
// 0 or -EEXIST, -ENOENT, -EINVAL, -ENOSPC, -ENOMEM, -EBADF (the set or the source is no more).
int ep_insert(handle<eventpoll> set, ep_source source, int fd, u32 events, u64 data);
int ep_modify(handle<eventpoll> set, ep_source source, int fd, u32 events, u64 data);
int ep_remove(handle<eventpoll> set, ep_source source, int fd);
// Is (source, fd) registered? Its events and data.
bool ep_find(handle<eventpoll> set, ep_source source, int fd, u32& events, u64& data);

// From a waker, in two steps, so that one who wakes finds all that one wake brought. First the slot is
// marked ready: `listening` when somebody must then be woken by eventpoll_wake, `attended` when somebody
// takes the event for sure: to be woken, or awake and looking.
struct ep_marked {
    bool listening;
    bool attended;
};
ep_marked eventpoll_mark(handle<eventpoll> set, u32 slot);
// Wakes one thread of the set, and all that poll it.
void eventpoll_wake(handle<eventpoll> set);
// A thread of the set was woken and goes away without having looked: another one shall.
void eventpoll_pass_on(eventpoll& ep);
// Wakes all threads of the set to look again (the kernel's half came to be used, the set is gone).
void eventpoll_wake_all(eventpoll& ep);
// May there be events? Three loads.
inline bool ep_events_available(const eventpoll& ep) {
    return (ep.ready0.load_relaxed() | ep.summary.load_relaxed() | ep.top.load_relaxed()) != 0;
}
// Takes up to `max` events to the program's array (Linux: ep_send_events). The number, -EFAULT when
// not even the first could be stored. `nested`: data of inner sets that were reported, up to
// nested_room of them.
struct nested_reported {
    static constexpr u32 room = 8;
    u32 count = 0;
    u64 data[room];
    int fds[room];
    u32 events[room];
};
int ep_send_events(eventpoll& ep, epoll_event* user, int max, nested_reported& nested);
// Linux: __ep_eventpoll_poll. EPOLLIN | EPOLLRDNORM when epoll_wait would return something of ours.
u32 eventpoll_poll(eventpoll& ep);
// The poll of whatever a registration or a waiting thread names; 0 for what is no more.
u32 wait_source_poll(u8 kind, u64 raw);

// Extents that live sets use, for whoever looks for unreferenced ones.
void eventpoll_visit_extents(void (*visit)(extent e, void* arg), void* arg);

} // namespace sockshim
