// What this process is in the network: attaching, fork, exec, exit.
#pragma once
#include "core/base/atomic.h"

namespace sockshim {

// Joins the network if need be (with the first socket of ours that the process makes or meets). 0 or
// -errno. `signals_activate` of preload/ is called through on_attach then.
int process_attach();
extern void (*on_attach)();

// Around a call that changes the process's credentials or root: the users that it becomes are admitted to the
// network while it may still do that, and the background thread changes with it. ~0: no user.
struct identity_change {
    u32 thread; // what timer_thread_hold said
    bool under_way;
};
identity_change process_before_identity(const u32* users, u32 count);
void process_after_identity(identity_change change);
// New sockets are the kernel's: the process has become a user who is not admitted and can open no file of the
// network any more, or the calling thread has gone into another network namespace.
enum : u32 { SHUT_OUT_USER = 1, SHUT_OUT_NAMESPACE = 2 /* perhaps: each thread has its own */ };
extern a32 shut_out;
bool process_shut_out_here();
inline bool process_shut_out() {
    return SOCKSHIM_UNLIKELY(shut_out.load_relaxed() != 0) && process_shut_out_here();
}
// Some thread has changed its network namespace.
inline void process_changed_namespace() { shut_out.fetch_or(SHUT_OUT_NAMESPACE); }

// How often the process and those that it is a copy of have forked, with a network or without.
extern a32 process_forks;

// About to be able to open hardly anything (RLIMIT_NOFILE, a filter on system calls): what it will need to be
// woken and to wake others is opened now.
void process_before_confinement();
// `change`: what process_before_identity said, where all threads were confined, and the background thread had
// better not been there.
void process_after_confinement(identity_change change);

// The process is about to end: closes what the kernel would close, so that peers see it now and
// ports are free at once, rather than when a reaper comes by.
void process_exit();

} // namespace sockshim
