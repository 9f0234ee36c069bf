// Built into the probe library only, see probe.h.
#include "core/sync/critical.h"
#include "core/sync/uaccess.h"
#include "dispatch/fd_table.h"
#include "preload/signal.h"

#define PROBE extern "C" __attribute__((visibility("default")))

using namespace sockshim;

struct probe_state {
    unsigned critical, deferred, signals, interrupting;
};

PROBE void probe_attach() { signals_activate(); }
PROBE void probe_critical_enter() { critical_enter(); }
PROBE void probe_critical_leave() { critical_leave(); }
PROBE void probe_sleep_on(unsigned* word) { this_thread.sleeping_on = word; }
PROBE probe_state probe_state_of_thread() {
    return {this_thread.critical, this_thread.deferred, this_thread.signals,
            this_thread.interrupting};
}
PROBE int probe_copy_from_user(void* to, const void* user, unsigned long n) {
    return copy_from_user(to, user, n);
}
PROBE int probe_copy_to_user(void* user, const void* from, unsigned long n) {
    return copy_to_user(user, from, n);
}
PROBE int probe_entry_of(int fd) { return static_cast<int>(fd_table[fd].load()); }
