// Loadable modules (Linux: kernel/module): shared objects from the directory that SOCKSHIM_MODULES
// names. A module counts its users in this process: one for each create in progress, one for each
// socket whose operations it owns. It stays mapped for good once loaded (sockets of other processes may
// come in by SCM_RIGHTS at any time); the count tells whether its tables may be unregistered.
#pragma once
#include "core/base/atomic.h"

namespace sockshim {

struct module {
    const char* name;
    mutable a32 refcnt; // of this process
    mutable a32 going;  // unregistering: no new users
};

// The library itself counts as "built in": null, always there.
bool try_module_get(const module* m);
void module_put(const module* m);
u32 module_refcount(const module& m);

// Loads <SOCKSHIM_MODULES>/<name>.so, once. True when it is loaded now, or was before. The module's
// constructor (or its sockshim_module_init) registers what it has.
bool request_module(const char* format, ...) __attribute__((format(printf, 1, 2)));
// Loads every module of the directory: a socket has come in whose tables nobody here knows.
void request_all_modules();

} // namespace sockshim
