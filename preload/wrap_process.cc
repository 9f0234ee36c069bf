// Making processes, becoming another program, and leaving.
#include <alloca.h>
#include <fcntl.h>
#include <sched.h>
#include <spawn.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "core/base/raw_syscall.h"
#include "core/sync/uaccess.h"
#include "preload/exec_env.h"
#include "preload/exec_look.h"
#include "preload/signal.h"
#include "preload/wrap.h"

using namespace sockshim;

extern "C" {
int wrap_close(int fd) asm("close");
int wrap_dup2(int fd, int to) asm("dup2");
int wrap_open(const char* path, int flags, mode_t mode) asm("open");
int wrap_fstat(int fd, struct stat* st) asm("fstat");
}

namespace {

// Between these two the program is about to be replaced. A vfork child has had its sockets shared
// before it was made.
bool exec_begin(const char* path, char* const* argv, char* const* envp) {
    if (in_vfork_child()) return false;
    const unsigned long words[] = {word(path), word(argv), word(envp)};
    trace_begin(TRACE_EXECVE, words, 3);
    trace_dump("exec");
    if (!process_active.load()) return false;
    fork_check();
    process_before_exec();
    signals_before_exec();
    return true;
}

int exec_failed(bool begun, int r) {
    const int saved_errno = errno;
    if (begun) {
        signals_exec_failed();
        process_exec_failed();
    }
    if (!in_vfork_child()) trace_end(-saved_errno);
    errno = saved_errno;
    return r;
}

// What a fork of libc's that runs our atfork handlers has answered.
int forked(int pid) {
    const int saved_errno = errno;
    fork_over_atfork(pid >= 0);
    errno = saved_errno;
    return pid;
}

struct clone_start {
    int (*fn)(void*);
    void* arg;
    bool prepared;
};

int start_cloned_process(void* p) {
    const clone_start start = *static_cast<clone_start*>(p);
    fork_done_child(start.prepared);
    return start.fn(start.arg);
}

// NOLINTBEGIN(bugprone-macro-parentheses)
// argv of execl and its like, in the caller's frame as libc does it.
#define SOCKSHIM_COLLECT_ARGV(argv, first, args)                                                   \
    size_t argc_ = 1;                                                                              \
    va_list args;                                                                                  \
    va_start(args, first);                                                                         \
    while (va_arg(args, char*)) ++argc_;                                                           \
    va_end(args);                                                                                  \
    char** const argv = static_cast<char**>(alloca((argc_ + 1) * sizeof(char*)));                  \
    va_start(args, first);                                                                         \
    argv[0] = const_cast<char*>(first);                                                            \
    for (size_t i_ = 1; i_ <= argc_; ++i_) argv[i_] = va_arg(args, char*)
// NOLINTEND(bugprone-macro-parentheses)

} // namespace

// The work is done by our atfork handlers, which also see libc's own forks: they run last before the
// fork and first in the child (process_at_load).
SOCKSHIM_WRAP(pid_t, fork, ()) {
    trace_begin(TRACE_FORK, nullptr, 0);
    const pid_t pid = forked(real::fork());
    if (pid != 0) trace_end(pid < 0 ? -errno : pid);
    return pid;
}
SOCKSHIM_WRAP_ALIAS(__fork, fork)

// This one runs no handlers.
SOCKSHIM_WRAP(pid_t, _Fork, ()) {
    const bool prepared = fork_prepare();
    const pid_t pid = real::_Fork();
    if (pid == 0) {
        fork_done_child(prepared);
    } else {
        fork_done_parent(prepared, pid > 0);
    }
    return pid;
}

// About to be made: a process with descriptors of its own in our memory, its calls not marked as a vfork
// child's are.
static void memory_sharing_child() {
    share_sockets();
    process_shares_memory();
}

SOCKSHIM_WRAP(int, clone,
              (int (*fn)(void*), void* stack, int flags, void* arg, void* ptid, void* tls,
               void* ctid)) {
    if (!(flags & CLONE_VM)) {
        clone_start start = {fn, arg, fork_prepare()};
        const int pid = real::clone(start_cloned_process, stack, flags, &start, ptid, tls, ctid);
        fork_done_parent(start.prepared, pid >= 0);
        return pid;
    }
    // In our memory but not a thread, while we sleep: a vfork child on a stack of its own.
    const bool as_vfork = (flags & CLONE_VFORK) && !(flags & (CLONE_THREAD | CLONE_SETTLS));
    if (!as_vfork) {
        if (!(flags & CLONE_THREAD)) memory_sharing_child();
        return real::clone(fn, stack, flags, arg, ptid, tls, ctid);
    }
    share_sockets();
    const u32 before = sockshim_in_vfork;
    sockshim_in_vfork = 1;
    const int pid = real::clone(fn, stack, flags, arg, ptid, tls, ctid);
    sockshim_in_vfork = before;
    return pid;
}
SOCKSHIM_WRAP_ALIAS(__clone, clone)

// Called by entry.S. Where syscall(SYS_clone...) continues: in libc's function, by a jump that leaves
// no frame of ours on a stack that two processes may use, or in ours when the memory is copied.
extern "C" void* sockshim_clone_target(long number, unsigned long first) {
    u64 flags = first;
#ifdef SYS_clone3
    if (number == SYS_clone3) {
        if (!process_active.load()) return real::syscall_address();
        if (get_user(flags, reinterpret_cast<const void*>(first)) != 0) flags = CLONE_VM;
    }
#endif
    static_cast<void>(number);
    if (!(flags & CLONE_VM)) return nullptr;
    if (!(flags & CLONE_THREAD)) memory_sharing_child();
    return real::syscall_address();
}

// Called by entry.S in the parent, before vfork.
extern "C" void sockshim_before_vfork() { share_sockets(); }

SOCKSHIM_WRAP(int, system, (const char* command)) {
    if (!command) return real::system(command);
    share_sockets();
    const environ_lent env;
    look_at_shell(env.get());
    return real::system(command);
}

static exec_descriptors spawned_with(const void* actions) {
    return actions ? exec_descriptors::any_may_stay : exec_descriptors::as_they_are;
}

SOCKSHIM_WRAP(int, posix_spawn,
              (pid_t * pid, const char* path, const void* actions, const void* attr,
               char* const* argv, char* const* envp)) {
    share_sockets();
    const exec_environment env(envp, spawned_with(actions));
    look_at_exec(env, path);
    return real::posix_spawn(pid, path, actions, attr, argv, env.get());
}

SOCKSHIM_WRAP(int, posix_spawnp,
              (pid_t * pid, const char* path, const void* actions, const void* attr,
               char* const* argv, char* const* envp)) {
    share_sockets();
    const exec_environment env(envp, spawned_with(actions));
    look_at_exec_in_path(env, path);
    return real::posix_spawnp(pid, path, actions, attr, argv, env.get());
}

// Libc's own dup2s to 0, 1 and 2 in the child pass no wrapper.
SOCKSHIM_WRAP(int, forkpty, (int* master, char* name, const void* term, const void* win)) {
    const int pid = forked(real::forkpty(master, name, term, win));
    if (pid > 0) made(*master);
    for (int fd = 0; pid == 0 && fd < 3; ++fd) made(fd);
    return pid;
}

SOCKSHIM_WRAP(int, execve, (const char* path, char* const* argv, char* const* envp)) {
    const bool begun = exec_begin(path, argv, envp);
    const exec_environment env(envp);
    look_at_exec(env, path);
    return exec_failed(begun, real::execve(path, argv, env.get()));
}

SOCKSHIM_WRAP(int, execv, (const char* path, char* const* argv)) {
    return wrap_execve(path, argv, environ);
}

SOCKSHIM_WRAP(int, execvpe, (const char* file, char* const* argv, char* const* envp)) {
    const bool begun = exec_begin(file, argv, envp);
    const exec_environment env(envp);
    look_at_exec_in_path(env, file);
    return exec_failed(begun, real::execvpe(file, argv, env.get()));
}

SOCKSHIM_WRAP(int, execvp, (const char* file, char* const* argv)) {
    return wrap_execvpe(file, argv, environ);
}

SOCKSHIM_WRAP(int, execl, (const char* path, const char* arg, ...)) {
    SOCKSHIM_COLLECT_ARGV(argv, arg, args);
    va_end(args);
    return wrap_execve(path, argv, environ);
}

SOCKSHIM_WRAP(int, execlp, (const char* file, const char* arg, ...)) {
    SOCKSHIM_COLLECT_ARGV(argv, arg, args);
    va_end(args);
    return wrap_execvpe(file, argv, environ);
}

SOCKSHIM_WRAP(int, execle, (const char* path, const char* arg, ...)) {
    SOCKSHIM_COLLECT_ARGV(argv, arg, args);
    char* const* const envp = va_arg(args, char* const*);
    va_end(args);
    return wrap_execve(path, argv, envp);
}

SOCKSHIM_WRAP(int, fexecve, (int fd, char* const* argv, char* const* envp)) {
    const bool begun = exec_begin("", argv, envp);
    const exec_environment env(envp);
    look_at_exec(env, "", fd, AT_EMPTY_PATH);
    return exec_failed(begun, real::fexecve(fd, argv, env.get()));
}

SOCKSHIM_WRAP(int, execveat,
              (int dir, const char* path, char* const* argv, char* const* envp, int flags)) {
    const bool begun = exec_begin(path, argv, envp);
    const exec_environment env(envp);
    look_at_exec(env, path, dir, flags);
    return exec_failed(begun, real::execveat(dir, path, argv, env.get(), flags));
}

// Libc's leaves without passing _exit in the parent, and replaces 0, 1 and 2 behind our back.
SOCKSHIM_WRAP(int, daemon, (int nochdir, int noclose)) {
    switch (forked(real::fork())) {
    case -1: return -1;
    case 0: break;
    default: process_at_exit("exit"); real::_exit(0);
    }
    if (setsid() == -1) return -1;
    if (!nochdir) static_cast<void>(chdir("/") == 0);
    if (noclose) return 0;
    const int fd = wrap_open("/dev/null", O_RDWR, 0);
    if (fd == -1) return -1;
    struct stat st;
    if (wrap_fstat(fd, &st) != 0 || !S_ISCHR(st.st_mode) || st.st_rdev != makedev(1, 3)) {
        wrap_close(fd);
        errno = ENODEV;
        return -1;
    }
    for (int to = 0; to < 3; ++to) wrap_dup2(fd, to);
    if (fd > 2) wrap_close(fd);
    return 0;
}

[[noreturn]] static void leave(int status) {
    process_at_exit("_exit");
    real::_exit(status);
    for (;;) raw_syscall(SYS_exit_group, status);
}

SOCKSHIM_WRAP(void, _exit, (int status)) { leave(status); }
SOCKSHIM_WRAP_ALIAS(_Exit, _exit)
