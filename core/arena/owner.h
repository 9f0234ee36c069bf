// Processes of the network, and what becomes of what a dead one held.
#pragma once
#include "core/arena/layout.h"

namespace sockshim {

struct process_slot {
    // pid << 32 | generation << 2 | process_state: whoever finds it claimed knows by whom.
    a64 word;
    a64 start_time; // clock ticks since boot, /proc/<pid>/stat field 22; once it is live
    a32 exec_since; // seconds (monotonic) since execve was called, 0: not
    a32 between[3]; // ports for which a thread is between the two worlds, + 1; 0: free
};
SOCKSHIM_ARENA_TYPE(process_slot);

enum process_state : u32 { PROC_FREE = 0, PROC_CLAIMED = 1, PROC_LIVE = 2, PROC_REAPING = 3 };

// Takes a slot for the calling process and sets self_proc. 0, -EAGAIN (all 4095 taken) or -ESRCH (abroad, and
// nobody of the network could tell whether it lives).
int process_register();
// In another pid namespace than the network's (fork after unshare or setns, clone): it takes everybody for
// alive and leaves the judgement, and the duty, to those at home.
bool process_abroad();
// The name of this very process before execve, 0: it had none. Its slot stands as if it still ran, until
// process_retire leaves it to the reaper.
proc_id process_former();
void process_retire(proc_id former);
// Whether the process that `id` names still runs. A zombie, an exec'd image that did not come back and
// a reused pid are dead; abroad nobody is. May read /proc: not for fast paths.
bool proc_alive(proc_id id);
// pid of a live slot, 0: none.
u32 proc_pid(proc_id id);
// Who has the slot now; 0: nobody.
proc_id proc_of_slot(u32 slot);
// Marks the calling process as being in execve, or no longer. Is anybody?
void process_exec(bool begins);
bool process_execing();
bool proc_is_execing(proc_id id);
// Two worlds cannot be looked at in one instant. While it lives, the calling thread has looked for `port` (host order)
// in one, this network or the kernel, and not yet in the other; a fourth thread at once in a process stays unknown.
class between_worlds {
public:
    explicit between_worlds(u16 port);
    ~between_worlds();
    between_worlds(const between_worlds&) = delete;
    between_worlds& operator=(const between_worlds&) = delete;

private:
    a32* mark_ = nullptr;
};
// Returns when nobody is between the worlds for `port` who was when it was called; after 100 ms in any case (somebody
// was stopped there, or has died).
void between_worlds_wait(u16 port);
// Any live process but this one?
bool proc_any_alive();

// Slots of dead processes, for the reaper (core/net/reaper.cc): claims one dead slot for reaping and
// returns its id, 0 when there is none; process_reaped gives the slot back.
proc_id process_claim_dead();
void process_reaped(proc_id id);
// Frees the cells that `id` had claimed and not yet published.
void cells_free_claimed_by(proc_id id);

} // namespace sockshim
