#include "preload/process.h"

#include <cerrno>
#include <cstdlib>
#include <pthread.h>
#include <sys/mman.h>

#include "core/arena/arena.h"
#include "core/base/config.h"
#include "core/base/raw_syscall.h"
#include "core/sync/critical.h"
#include "core/sync/robust_lock.h"
#include "core/trace/trace.h"
#include "dispatch/fd_table.h"
#include "dispatch/process.h"
#include "dispatch/syscalls.h"
#include "preload/cancel.h"
#include "preload/catch.h"
#include "preload/exec_env.h"
#include "preload/open_fds.h"
#include "preload/signal.h"
#include "preload/socket_stream.h"

namespace sockshim {

constinit a32 process_active{};
constinit a32 inherited_known{};
constinit a32* fork_page = nullptr;
constinit thread_local u32 sockshim_in_vfork = 0;

namespace {

constinit a32 atfork_registered{};
constinit thread_local bool prepared_atfork = false;

void atfork_prepare() { prepared_atfork = fork_prepare(); }
// Libc does not say whether there is a child: fork_over_atfork will.
void atfork_parent() { fork_done_parent(prepared_atfork, true); }
void atfork_child() { fork_done_child(prepared_atfork); }

// With handlers, forks that libc makes by itself (daemon, forkpty) are seen as well.
void register_atfork() {
    if (atfork_registered.exchange(1)) return;
    pthread_atfork(atfork_prepare, atfork_parent, atfork_child);
}

void make_fork_page() {
    constexpr long size = 4096;
    const long at =
        raw_syscall(SYS_mmap, 0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at < 0 && at > -4096) return;
    auto* const page = reinterpret_cast<a32*>(at);
    page->store(1);
    if (raw_syscall(SYS_madvise, at, size, MADV_WIPEONFORK) == 0) {
        fork_page = page;
    } else {
        raw_syscall(SYS_munmap, at, size);
    }
}

void become_child() {
    if (fork_page) fork_page->store(1);
    signals_after_fork_child();
    cancel_after_fork_child();
    process_after_fork_child();
}

} // namespace

void process_activate() {
    if (process_active.load()) return;
    register_atfork();
    make_fork_page();
    streams_activate();
    process_active.store(1);
}

bool fork_prepare() {
    if (in_vfork_child()) return false;
    process_forks.fetch_add(1);
    if (!process_active.load()) return false;
    fork_check();
    critical_enter(); // no handler of the program's between here and the end of either side
    process_before_fork();
    return true;
}

void fork_done_parent(bool prepared, bool made) {
    if (!prepared) return;
    if (!made) process_fork_failed();
    critical_leave();
}

void fork_over_atfork(bool made) {
    if (prepared_atfork && !made) process_fork_failed();
    prepared_atfork = false;
}

void fork_done_child(bool prepared) {
    if (SOCKSHIM_UNLIKELY(catching)) catch_thread();
    if (!prepared) return;
    become_child();
    critical_leave();
}

void share_sockets() {
    if (!process_active.load() || in_vfork_child()) return;
    fork_check();
    process_before_spawn();
}

void fork_noticed() {
    critical_enter();
    if (fork_page->exchange(1) == 0) {
        if (SOCKSHIM_UNLIKELY(catching)) catch_thread();
        become_child();
    }
    critical_leave();
}

int fd_made(int fd) {
    if (!in_vfork_child()) fd_installed(fd);
    return fd;
}

void classify_inherited() {
    if (in_vfork_child() || inherited_known.exchange(1) || process_active.load()) return;
    const int saved_errno = errno;
    for_each_open_fd([](int fd) {
        if (!fd_is_libc(fd)) fd_classify(fd);
    });
    errno = saved_errno;
}

// A trace is asked for before any socket is: deaths by signal must be seen from the start.
void process_at_load() {
    register_atfork();
    exec_env_remember();
    on_attach = signals_activate;
    if (getenv("SOCKSHIM_JOIN") && config().join) {
        fd_table_init(); // the descriptor is one of ours from here on
        arena_inherit(static_cast<int>(config().join));
    }
    const char* const trace = getenv("SOCKSHIM_TRACE");
    if (trace && *trace) trace_start();
    if (trace_enabled || self_proc) signals_activate(); // attached before we came to be
    if (getenv("SOCKSHIM_CATCH")) catch_start();
    for (int fd = 0; fd < 3; ++fd) {
        if (!fd_is_libc(fd)) fd_classify(fd); // a stream on it must find us there
    }
    at_quick_exit([] { process_at_exit("quick_exit"); });
}

void process_at_exit(const char* why) {
    if (in_vfork_child()) return;
    trace_dump(why);
    if (process_active.load()) process_exit();
}

} // namespace sockshim
