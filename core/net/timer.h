// Time for a whole network (DESIGN.md, D7): one background thread per process that has sockets; the one
// whose process holds the duty word runs everybody's timers and reaps the dead.
//
// Truth is each sock's sk_timer_us and each request's and timewait's deadline. The duty thread keeps a
// private heap of (deadline, cell), fed by a bitmap in the arena that says "look at this sock again"
// (setting a bit twice is harmless, so nothing here can be lost by a kill); a new holder of the duty
// starts by scanning the cells.
#pragma once
#include "core/net/sock.h"

namespace sockshim {

inline constexpr u32 TIMER_IDLE = 0;   // no socket of ours has needed it
inline constexpr u32 TIMER_WANTED = 1; // needed, not running (a forked child)
inline constexpr u32 TIMER_RUNNING = 2;
inline constexpr u32 TIMER_HELD = 3; // the process changes its credentials
extern a32 timer_thread_state;

// Called when a socket is first bound, connected or listening.
void timer_thread_start();
// A socket has come from another process or over exec: the next lookup of one starts the thread, for whoever
// bound or connected it may be gone.
void timer_thread_want();
// In a forked child: threads do not survive fork. The next lookup of a socket starts it again.
void timer_thread_forked();
// Around a change of the process's credentials, which the thread would not take part in: it ends, and another
// one begins with those of the calling thread. The duty passes on meanwhile.
u32 timer_thread_hold();
void timer_thread_release(u32 former, bool start);
// Something with a deadline at `deadline_us` was armed: wake the duty thread if it sleeps past that.
void timer_kick(u64 deadline_us);
// The duty thread must look at the processes: one joined, one is about to exec.
void timer_kick_processes();
// Somebody is to be woken whom this process cannot wake: it has no descriptor for his bell, or is confined.
void timer_kick_wakes();
// This process is about to be able to open nothing: keeps what it needs to be heard by whoever is on duty.
void timer_keep_bell();

} // namespace sockshim
