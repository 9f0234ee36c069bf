// Every other maker of descriptors: the number it returns is libc's from now on, whatever the table
// remembers about it. One look per call, a store when the table did not know.
#include <cstring>
#include <fcntl.h>
#include <mqueue.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "core/base/raw_syscall.h"
#include "core/net/carrier.h"
#include "preload/carrier_seen.h"
#include "preload/wrap.h"

using namespace sockshim;

namespace {

// /proc/self/fd/4, /dev/fd/4, /dev/stdin. The path was good enough for the kernel.
bool may_name_a_descriptor(const char* path) {
    return std::strstr(path, "/fd/") || std::strncmp(path, "/dev/std", 8) == 0;
}

int refused() {
    errno = ENXIO;
    return -1;
}

template <class Call>
[[gnu::always_inline]] inline int open_by(int dir, const char* path, int flags, Call call) {
    if (SOCKSHIM_UNLIKELY((flags & O_TRUNC) && names_socket(dir, path))) return refused();
    return opened(path, flags, call());
}

int made_pair(int r, const int* fds) {
    if (r == 0) {
        made(fds[0]);
        made(fds[1]);
    }
    return r;
}

} // namespace

bool sockshim::names_socket(int dir, const char* path) {
    if (!process_active.load_relaxed()) return false;
    const long fd = raw_syscall(SYS_openat, dir, ptr_arg(path), O_PATH | O_CLOEXEC, 0);
    if (fd < 0) return false;
    const bool ours = may_name_a_descriptor(path) && carrier_looks_like(static_cast<int>(fd));
    raw_syscall(SYS_close, fd);
    return ours;
}

int sockshim::opened(const char* path, int flags, int fd) {
    made(fd);
    if (SOCKSHIM_LIKELY(!process_active.load_relaxed()) || fd < 0 || (flags & O_PATH) ||
        in_vfork_child() || SOCKSHIM_LIKELY(!may_name_a_descriptor(path)) ||
        !carrier_looks_like(fd)) {
        return fd;
    }
    fd_forget(fd);
    raw_syscall(SYS_close, fd);
    return refused();
}

SOCKSHIM_WRAP(int, open, (const char* path, int flags, mode_t mode)) {
    return open_by(AT_FDCWD, path, flags, [=] { return real::open(path, flags, mode); });
}
SOCKSHIM_WRAP_ALIAS(open64, open)
SOCKSHIM_WRAP_ALIAS(__open, open)
SOCKSHIM_WRAP_ALIAS(__open64, open)

SOCKSHIM_WRAP(int, openat, (int dir, const char* path, int flags, mode_t mode)) {
    return open_by(dir, path, flags, [=] { return real::openat(dir, path, flags, mode); });
}
SOCKSHIM_WRAP_ALIAS(openat64, openat)

// Fortified: libc's own complains about O_CREAT without a mode.
SOCKSHIM_WRAP(int, __open_2, (const char* path, int flags)) {
    return open_by(AT_FDCWD, path, flags, [=] { return real::__open_2(path, flags); });
}
SOCKSHIM_WRAP_ALIAS(__open64_2, __open_2)

SOCKSHIM_WRAP(int, __openat_2, (int dir, const char* path, int flags)) {
    return open_by(dir, path, flags, [=] { return real::__openat_2(dir, path, flags); });
}
SOCKSHIM_WRAP_ALIAS(__openat64_2, __openat_2)

SOCKSHIM_WRAP(int, creat, (const char* path, mode_t mode)) {
    constexpr int flags = O_CREAT | O_WRONLY | O_TRUNC;
    return open_by(AT_FDCWD, path, flags, [=] { return real::creat(path, mode); });
}
SOCKSHIM_WRAP_ALIAS(creat64, creat)

SOCKSHIM_WRAP(int, open_by_handle_at, (int dir, file_handle* handle, int flags)) {
    return made(real::open_by_handle_at(dir, handle, flags));
}

SOCKSHIM_WRAP(int, pipe, (int* fds)) { return made_pair(real::pipe(fds), fds); }
SOCKSHIM_WRAP_ALIAS(__pipe, pipe)
SOCKSHIM_WRAP(int, pipe2, (int* fds, int flags)) { return made_pair(real::pipe2(fds, flags), fds); }

SOCKSHIM_WRAP(int, eventfd, (unsigned value, int flags)) {
    return made(real::eventfd(value, flags));
}
SOCKSHIM_WRAP(int, timerfd_create, (int clock, int flags)) {
    return made(real::timerfd_create(clock, flags));
}
SOCKSHIM_WRAP(int, signalfd, (int fd, const sigset_t* mask, int flags)) {
    return made(real::signalfd(fd, mask, flags));
}
SOCKSHIM_WRAP(int, inotify_init, ()) { return made(real::inotify_init()); }
SOCKSHIM_WRAP(int, inotify_init1, (int flags)) { return made(real::inotify_init1(flags)); }
SOCKSHIM_WRAP(int, fanotify_init, (unsigned flags, unsigned event_flags)) {
    return made(real::fanotify_init(flags, event_flags));
}
SOCKSHIM_WRAP(int, memfd_create, (const char* name, unsigned flags)) {
    return made(real::memfd_create(name, flags));
}
SOCKSHIM_WRAP(int, pidfd_open, (pid_t pid, unsigned flags)) {
    return made(real::pidfd_open(pid, flags));
}

// What comes from another process may be a socket of ours: unknown, not libc's.
SOCKSHIM_WRAP(int, pidfd_getfd, (int pidfd, int fd, unsigned flags)) {
    const int got = made(real::pidfd_getfd(pidfd, fd, flags));
    if (got >= 0 && static_cast<u32>(got) < fd_table_size && !in_vfork_child()) {
        fd_table[static_cast<u32>(got)].store_relaxed(FD_UNKNOWN);
    }
    return got;
}

SOCKSHIM_WRAP(int, mkstemp, (char* name)) { return made(real::mkstemp(name)); }
SOCKSHIM_WRAP_ALIAS(mkstemp64, mkstemp)
SOCKSHIM_WRAP(int, mkostemp, (char* name, int flags)) { return made(real::mkostemp(name, flags)); }
SOCKSHIM_WRAP_ALIAS(mkostemp64, mkostemp)
SOCKSHIM_WRAP(int, mkstemps, (char* name, int suffix)) {
    return made(real::mkstemps(name, suffix));
}
SOCKSHIM_WRAP_ALIAS(mkstemps64, mkstemps)
SOCKSHIM_WRAP(int, mkostemps, (char* name, int suffix, int flags)) {
    return made(real::mkostemps(name, suffix, flags));
}
SOCKSHIM_WRAP_ALIAS(mkostemps64, mkostemps)

SOCKSHIM_WRAP(int, shm_open, (const char* name, int flags, mode_t mode)) {
    return made(real::shm_open(name, flags, mode));
}
SOCKSHIM_WRAP(int, mq_open, (const char* name, int flags, mode_t mode, void* attr)) {
    return made(real::mq_open(name, flags, mode, attr));
}

SOCKSHIM_WRAP(int, posix_openpt, (int flags)) { return made(real::posix_openpt(flags)); }
SOCKSHIM_WRAP(int, getpt, ()) { return made(real::getpt()); }

SOCKSHIM_WRAP(int, openpty,
              (int* master, int* slave, char* name, const void* term, const void* win)) {
    const int r = real::openpty(master, slave, name, term, win);
    if (r == 0) {
        made(*master);
        made(*slave);
    }
    return r;
}

// Libc puts the terminal on 0, 1 and 2 and closes `fd`.
SOCKSHIM_WRAP(int, login_tty, (int fd)) {
    const int r = real::login_tty(fd);
    for (int i = 0; r == 0 && i < 3; ++i) made(i);
    return r;
}

SOCKSHIM_WRAP(DIR*, opendir, (const char* path)) {
    DIR* const dir = real::opendir(path);
    if (dir) made(dirfd(dir));
    return dir;
}
