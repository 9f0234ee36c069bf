// fork, exec and exit. A child shares its parent's sockets: before anything can inherit a carrier, its
// heartbeat lock is taken, so that "who holds it" has one answer for all (core/net/carrier.h).
#include "dispatch/process.h"

#include <cerrno>
#include <fcntl.h>
#include <sys/mman.h>

#include "core/arena/admission.h"
#include "core/arena/arena.h"
#include "core/arena/owner.h"
#include "core/base/config.h"
#include "core/base/raw_syscall.h"
#include "core/net/carrier.h"
#include "core/net/doorbell.h"
#include "core/net/eventpoll.h"
#include "core/net/kernel_half.h"
#include "core/net/net_rx.h"
#include "core/net/reaper.h"
#include "core/net/timer.h"
#include "core/trace/trace.h"
#include "dispatch/fd_table.h"

namespace sockshim {

void (*on_attach)() = nullptr;
constinit a32 shut_out{0};

namespace {

constinit a32 prepared{0};
constinit u32 process_pid = 0;
constinit a32 memory_is_shared{0};
constinit a32 shut_out_said{0};

void share_all() {
    fd_table_for_each(
        [](int fd, u32 entry, void*) {
            if (fd_entry_kind(entry) != FD_SOCKET) return;
            if (socket* s = slab_at<socket>(fd_entry_index(entry))) {
                static_cast<void>(carrier_lock(*s, fd));
            }
        },
        nullptr);
}

// Numbers by which sets are found again where descriptors go: in another image, in a child that execs, in
// whoever gets them in a message.
void note_epolls() {
    fd_table_for_each(
        [](int fd, u32 entry, void*) {
            if (fd_entry_kind(entry) != FD_EPOLL) return;
            if (raw_syscall(SYS_fcntl, fd, F_GETFD) & FD_CLOEXEC) return;
            eventpoll_note_fd(fd_entry_index(entry), fd);
        },
        nullptr);
}

// What this process held before execve it holds as far as the descriptors have come over.
void succeed_former() {
    while (const proc_id former = process_former()) {
        eventpoll_forked(former, self_proc);
        eventpoll_for_each_held([](u32 index, int fd) {
            if (fd >= 0 && fd_is_unclassified_epoll(fd)) {
                fd_install_epoll(fd, index);
            } else {
                eventpoll_put(index, self_proc);
            }
        });
        process_retire(former);
    }
}

} // namespace

int process_attach() {
    if (SOCKSHIM_LIKELY(prepared.load() == 2)) return 0;
    fd_table_init(); // attaching opens a descriptor of ours
    int r = arena_attach();
    // A child forked while its parent was in here is under the parent's name still.
    const u32 pid = static_cast<u32>(raw_syscall(SYS_getpid));
    if (r == 0 && proc_pid(self_proc) != pid) r = process_register();
    if (r) return r;
    // Begun by a thread that stayed behind in the parent: begin again.
    if (prepared.load() == 1 && process_pid != pid) prepared.store(0);
    process_pid = pid;
    u32 expected = 0;
    if (prepared.cas(expected, 1)) {
        succeed_former();
        if (on_attach) on_attach();
        timer_kick_processes();
        prepared.store(2);
    }
    return 0;
}

bool process_shut_out_here() {
    const u32 why = shut_out.load();
    return (why & SHUT_OUT_USER) || ((why & SHUT_OUT_NAMESPACE) && !arena_is_here());
}

void process_shares_memory() { memory_is_shared.store(1); }

static bool own_pid() { return static_cast<u32>(raw_syscall(SYS_getpid)) == process_pid; }

bool process_is_self() { return SOCKSHIM_LIKELY(!memory_is_shared.load_relaxed()) || own_pid(); }

constinit a32 process_forks{0};

void process_before_fork() {
    if (prepared.load() != 2) return;
    share_all();
    eventpoll_fork_begins();
}

// No child: nobody will take up what was held for it.
void process_fork_failed() {
    if (prepared.load() == 2) eventpoll_fork_failed();
}

void process_after_fork_child() {
    if (prepared.load() != 2) {
        prepared.store(0);
        return;
    }
    process_pid = static_cast<u32>(raw_syscall(SYS_getpid));
    const proc_id parent = self_proc;
    if (process_register()) self_proc = parent; // all slots taken: live under the parent's name
    if (!arena_is_here()) process_changed_namespace(); // clone can do that
    carrier_forked();
    if (self_proc != parent) eventpoll_forked(parent, self_proc);
    fd_table_forked();
    share_all(); // what a fork behind our back left unlocked
    net_rx_fork_child();
    timer_thread_forked();
    timer_kick_processes();
    trace_after_fork_child();
}

void process_before_exec() {
    if (prepared.load() != 2 || !own_pid()) return; // a vfork child execs, not we
    share_all();
    note_epolls();
    kernel_half_for_each([](socket& s, int) { kernel_half_unwatch(s, self_proc); });
    process_exec(true);
    timer_kick_processes();
}

void process_exec_failed() {
    if (prepared.load() == 2 && own_pid()) process_exec(false);
}

void process_before_spawn() {
    if (prepared.load() != 2) return;
    share_all();
    note_epolls();
}

// Handlers of the program wait: one that changed credentials too would meet its own thread here.
identity_change process_before_identity(const u32* users, u32 count) {
    if (prepared.load() != 2 || !own_pid()) return {0, false};
    critical_enter();
    for (u32 i = 0; i < count; ++i) {
        // What cannot be done is seen afterwards, if the call is allowed at all.
        if (users[i] != ~0u) static_cast<void>(arena_admit(users[i]));
    }
    return {timer_thread_hold(), true};
}

void process_after_identity(identity_change change) {
    if (!change.under_way) return;
    const bool out = !arena_accessible();
    if (out)
        shut_out.fetch_or(SHUT_OUT_USER);
    else
        shut_out.fetch_and(~u32{SHUT_OUT_USER});
    if (out && !shut_out_said.exchange(1)) {
        notice("%s: no ACLs, so user %u cannot be admitted; new sockets go to the kernel",
               arena_directory(), static_cast<u32>(raw_syscall(SYS_geteuid)));
    }
    timer_thread_release(change.thread, !out);
    critical_leave();
}

void process_before_confinement() {
    if (prepared.load() != 2 || !own_pid()) return;
    critical_enter();
    timer_keep_bell();
    doorbell_keep();
    critical_leave();
}

void process_after_confinement(identity_change change) {
    if (!change.under_way) return;
    timer_thread_release(change.thread, true);
    critical_leave();
}

void process_exit() {
    if (prepared.load() != 2 || !own_pid()) return;
    const exiting_scope exiting;
    fd_table_for_each([](int fd, u32, void*) { sys_close(fd); }, nullptr);
}

} // namespace sockshim
