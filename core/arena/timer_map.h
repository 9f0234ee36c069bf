// The arena's part of the network's timers: which sock cells the duty thread must look at again, who is
// on duty, and until when he sleeps. See core/net/timer.h.
#pragma once
#include "core/arena/arena.h"

namespace sockshim {

// "Look at this sock's deadline": idempotent, crash-safe.
void timer_map_set(u32 sock_index);
// Calls look(index) for every marked cell, clearing the mark first.
void timer_map_take(void (*look)(u32 index, void* arg), void* arg);

struct timer_duty {
    a64 wake_us; // when the duty thread will look next; ~0: only when rung
    a32 wakes;   // somebody could not wake a sleeper himself
    a32 rung;    // milliseconds, odd: since when the doorbell holds an unread byte; 0: it does not
};
SOCKSHIM_ARENA_TYPE(timer_duty);
timer_duty& arena_timer_duty();

} // namespace sockshim
