// What becomes of a dead process's things (DESIGN.md, D5).
#pragma once
#include "core/arena/owner.h"
#include "core/net/socket.h"

namespace sockshim {

// Reaps every dead process: frees what it had claimed, ends the sockets that only it held as the kernel
// would at exit, asks the heartbeat of the shared ones. Idempotent and restartable; any process may
// call it. Returns how many processes were reaped.
int reap_dead_processes();
// An address is taken, perhaps by the dead: the kernel closes what a process held before anybody can know of
// its end, so this does it now instead of waiting for who is on duty. True: something was closed, or another
// process is closing a socket with that port, which takes as long as others want its processor; look again. No
// locks held.
bool reap_in_the_way(u16 family, u16 port);
// Of several processes that find a shared socket held by nobody, the one that gets true releases it. `h` is
// what named it before they looked: false when it has been released meanwhile, whoever is in the cell now.
bool socket_claim_shared(socket& s, handle<socket> h);
// Frees published cells that nothing refers to any more (a process died between unlinking and
// freeing). Two sightings are needed, so what is only passing by survives.
void sweep_unreferenced();
// What an earlier duty of this process saw, or its parent's, counts no more.
void sweep_forget();
// While it exists, closing on this thread does not linger: nobody waits for the dead.
struct exiting_scope {
    exiting_scope() { current_exiting = true; }
    ~exiting_scope() { current_exiting = false; }
    exiting_scope(const exiting_scope&) = delete;
    exiting_scope& operator=(const exiting_scope&) = delete;
};

// Is there a socket of which only its heartbeat lock tells whether somebody still has it?
bool sockets_unaccounted();
// Sockets under a heartbeat lock whose holders may have vanished without a word (an exec'd image
// that does not know us). Returns how many were released.
int release_unheld_sockets();

} // namespace sockshim
