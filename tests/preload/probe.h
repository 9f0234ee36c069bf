// What the probe library (the shim plus probe.cc) lets a test reach of its insides.
#pragma once

struct probe_state {
    unsigned critical, deferred, signals, interrupting;
};
void probe_attach(void); // as when the process makes its first socket
void probe_critical_enter(void);
void probe_critical_leave(void);
void probe_sleep_on(unsigned* word); // null: no longer
struct probe_state probe_state_of_thread(void);
int probe_copy_from_user(void* to, const void* user, unsigned long n);
int probe_copy_to_user(void* user, const void* from, unsigned long n);
int probe_entry_of(int fd); // the table's entry
