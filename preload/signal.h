// The program's signal handlers, with a trampoline of ours in front of them (core/sync/critical.h).
//
// The kernel's disposition is the truth about what is installed; the table here remembers what the
// program asked for where the kernel holds the trampoline instead. Until signals_activate() nothing
// is wrapped and everything goes straight to libc.
#pragma once
#include <csignal>

namespace sockshim {

// Once, when the process attaches to a network: puts the trampoline in front of the handlers that are
// installed already, and installs the handler for bad user pointers.
void signals_activate();

// sigaction as the program sees it. Returns 0, or -1 with errno.
int program_sigaction(int sig, const struct sigaction* act, struct sigaction* old);

// Exec keeps "ignored" and resets handlers; a signal that the program ignores while the kernel holds
// our trampoline is handed back to the kernel for the duration.
void signals_before_exec();
void signals_exec_failed();
void signals_after_fork_child();

// A handler is running on this thread: waits must look up.
void note_signal(bool interrupts);
// For a handler that finds its thread in a critical section: the signal comes again at its end.
void defer_signal(int sig, const siginfo_t* info, void* context);

} // namespace sockshim
