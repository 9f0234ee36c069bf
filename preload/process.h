// What this process is: has it met a socket of ours, is this code running in a vfork child, did
// somebody fork without telling us.
#pragma once
#include "core/base/atomic.h"

namespace sockshim {

// 1 once the process has sockets of ours (process_activate).
extern a32 process_active;

// Once, when the process attaches to a network.
void process_activate();

// A vfork child runs in its parent's memory: nothing of ours may be changed there, and the descriptor
// table describes the parent's descriptors. So every call of the child's goes straight to libc. The
// mark is the parent thread's own, which sleeps until the child is gone.
extern "C" {
extern constinit thread_local u32 sockshim_in_vfork;
}
inline bool in_vfork_child() { return SOCKSHIM_UNLIKELY(sockshim_in_vfork != 0); }

// 1; wiped to 0 by the kernel in a forked child (MADV_WIPEONFORK), so that a fork made without libc is
// noticed by the first call that matters. Null before process_activate.
extern a32* fork_page;
void fork_noticed();
inline void fork_check() {
    const a32* const page = fork_page;
    if (SOCKSHIM_UNLIKELY(page && page->load_relaxed() == 0)) fork_noticed();
}

// Around any fork that runs no atfork handlers. `before` answers whether `after` has work to do.
bool fork_prepare();
void fork_done_parent(bool prepared, bool made);
void fork_done_child(bool prepared);
// A fork of libc's, which runs them, has returned.
void fork_over_atfork(bool made);
// A child that execs is about to be made: the sockets that it inherits are no longer ours alone.
void share_sockets();

// A maker of descriptors has returned `fd`.
int fd_made(int fd);
// The calls that inspect sets of descriptors look at each of them only when this is true. The first
// such call looks at what exec has left us.
extern a32 inherited_known;
void classify_inherited();
inline bool process_may_have_sockets() {
    if (SOCKSHIM_UNLIKELY(!inherited_known.load_relaxed())) classify_inherited();
    return process_active.load_relaxed();
}

void process_at_load();
// The process ends without running libc's exit (`_exit`) or at the end of it. Async-signal-safe.
void process_at_exit(const char* why);

} // namespace sockshim
