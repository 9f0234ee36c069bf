// What this process is in the network: attaching, fork, exec, exit.
#pragma once
#include "core/base/types.h"

namespace sockshim {

// Joins the network if need be (with the first socket of ours that the process makes or meets). 0 or
// -errno. `signals_activate` of preload/ is called through on_attach then.
int process_attach();
extern void (*on_attach)();

// The process is about to end: closes what the kernel would close, so that peers see it now and
// ports are free at once, rather than when a reaper comes by.
void process_exit();

} // namespace sockshim
