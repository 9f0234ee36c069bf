// What works on descriptors themselves: closing, duplicating, asking what they are.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/arena/arena.h"
#include "preload/carrier_seen.h"
#include "preload/wrap.h"

using namespace sockshim;

// In a vfork child: the one descriptor of the library's own that the image to come may need. -1: none. (Its
// others the child may close; they are its parent's.)
static int kept_for_exec() { return in_vfork_child() ? arena_to_bequeath() : -1; }

static int close_all_but(int kept, unsigned first, unsigned last, int flags) {
    const auto keep = static_cast<unsigned>(kept);
    if (kept < 0 || keep < first || keep > last) return real::close_range(first, last, flags);
    int r = 0;
    if (first < keep) r = real::close_range(first, keep - 1, flags);
    if (r == 0 && keep < last) r = real::close_range(keep + 1, last, flags);
    return r;
}

SOCKSHIM_WRAP(int, close, (int fd)) {
    if (SOCKSHIM_LIKELY(fd_is_libc(fd))) {
        fd_closes(fd);
        return real::close(fd);
    }
    return ask([=] { return pthread_testcancel(), sys_close(fd); },
               [=] {
                   if (SOCKSHIM_LIKELY(!fd_is_internal(fd)) || fd != kept_for_exec()) {
                       return real::close(fd);
                   }
                   errno = EBADF;
                   return -1;
               });
}
SOCKSHIM_WRAP_ALIAS(__close, close)

SOCKSHIM_WRAP(int, close_range, (unsigned first, unsigned last, int flags)) {
    return ask([=] { return sys_close_range(first, last, static_cast<unsigned>(flags)); },
               [=] { return close_all_but(kept_for_exec(), first, last, flags); });
}

SOCKSHIM_WRAP(void, closefrom, (int low)) {
    const auto first = static_cast<unsigned>(max_of(low, 0));
    if (in_vfork_child()) {
        if (close_all_but(kept_for_exec(), first, ~0u, 0) == 0) return;
    } else if (sys_close_range(first, ~0u, 0) != SYS_NOT_OURS) {
        return;
    }
    real::closefrom(low);
}

SOCKSHIM_WRAP(int, dup, (int fd)) {
    return route(
        fd, [=] { return sys_dup(fd); }, [=] { return made(real::dup(fd)); });
}

SOCKSHIM_WRAP(int, dup2, (int fd, int to)) {
    return route(
        fd, to, [=] { return sys_dup2(fd, to); }, [=] { return made(real::dup2(fd, to)); });
}
SOCKSHIM_WRAP_ALIAS(__dup2, dup2)

SOCKSHIM_WRAP(int, dup3, (int fd, int to, int flags)) {
    return route(
        fd, to, [=] { return sys_dup3(fd, to, flags); },
        [=] { return made(real::dup3(fd, to, flags)); });
}

// A process group is a negative answer, which must not be taken for an errno; so libc asks this way too.
static int owner_of(int fd) {
    f_owner_ex owner{};
    bool libcs = false;
    const int r = ask([&] { return sys_fcntl(fd, F_GETOWN_EX, word(&owner)); },
                      [&] {
                          libcs = true;
                          return real::fcntl(fd, F_GETOWN, 0);
                      });
    if (libcs || r == -1) return r;
    return owner.type == F_OWNER_PGRP ? -owner.pid : owner.pid;
}

SOCKSHIM_WRAP(int, fcntl, (int fd, int cmd, unsigned long arg)) {
    if (SOCKSHIM_UNLIKELY(cmd == F_GETOWN) && !fd_is_libc(fd)) return owner_of(fd);
    return route(
        fd, [=] { return sys_fcntl(fd, cmd, arg); },
        [=] {
            const int r = real::fcntl(fd, cmd, arg);
            return cmd == F_DUPFD || cmd == F_DUPFD_CLOEXEC ? made(r) : r;
        });
}
SOCKSHIM_WRAP_ALIAS(fcntl64, fcntl)
SOCKSHIM_WRAP_ALIAS(__fcntl, fcntl)

SOCKSHIM_WRAP(int, ioctl, (int fd, unsigned long cmd, unsigned long arg)) {
    return route(
        fd, [=] { return sys_ioctl(fd, cmd, arg); }, [=] { return real::ioctl(fd, cmd, arg); });
}

SOCKSHIM_WRAP(int, fstat, (int fd, struct stat* st)) {
    return route(
        fd, [=] { return sys_fstat(fd, st); }, [=] { return real::fstat(fd, st); });
}
SOCKSHIM_WRAP_ALIAS(fstat64, fstat)

// Programs built for glibc before 2.33.
SOCKSHIM_WRAP(int, __fxstat, (int version, int fd, struct stat* st)) {
    return route(
        fd, [=] { return sys_fstat(fd, st); }, [=] { return real::__fxstat(version, fd, st); });
}
SOCKSHIM_WRAP_ALIAS(__fxstat64, __fxstat)

SOCKSHIM_WRAP(int, fstatat, (int dir, const char* path, struct stat* st, int flags)) {
    if (SOCKSHIM_LIKELY(!(flags & AT_EMPTY_PATH))) {
        return show_as_socket(real::fstatat(dir, path, st, flags), st);
    }
    return route(
        dir, [=] { return sys_fstatat(dir, path, st, flags); },
        [=] { return real::fstatat(dir, path, st, flags); });
}
SOCKSHIM_WRAP_ALIAS(fstatat64, fstatat)

SOCKSHIM_WRAP(int, __fxstatat,
              (int version, int dir, const char* path, struct stat* st, int flags)) {
    if (SOCKSHIM_LIKELY(!(flags & AT_EMPTY_PATH))) {
        return show_as_socket(real::__fxstatat(version, dir, path, st, flags), st);
    }
    return route(
        dir, [=] { return sys_fstatat(dir, path, st, flags); },
        [=] { return real::__fxstatat(version, dir, path, st, flags); });
}
SOCKSHIM_WRAP_ALIAS(__fxstatat64, __fxstatat)

SOCKSHIM_WRAP(int, statx, (int dir, const char* path, int flags, unsigned mask, struct statx* st)) {
    if (SOCKSHIM_LIKELY(!(flags & AT_EMPTY_PATH))) {
        return show_as_socket(real::statx(dir, path, flags, mask, st), st, mask);
    }
    return route(
        dir, [=] { return sys_statx(dir, path, flags, mask, st); },
        [=] { return real::statx(dir, path, flags, mask, st); });
}

SOCKSHIM_WRAP(off_t, lseek, (int fd, off_t offset, int whence)) {
    return route(
        fd, [=] { return sys_lseek(fd, offset, whence); },
        [=] { return real::lseek(fd, offset, whence); });
}
SOCKSHIM_WRAP_ALIAS(lseek64, lseek)
SOCKSHIM_WRAP_ALIAS(__lseek, lseek)

SOCKSHIM_WRAP(int, ftruncate, (int fd, off_t length)) {
    return route(
        fd, [=] { return sys_ftruncate(fd, length); }, [=] { return real::ftruncate(fd, length); });
}
SOCKSHIM_WRAP_ALIAS(ftruncate64, ftruncate)

SOCKSHIM_WRAP(int, fsync, (int fd)) {
    return route_cancel(
        fd, [=] { return sys_fsync(fd); }, [=] { return real::fsync(fd); });
}

SOCKSHIM_WRAP(int, fdatasync, (int fd)) {
    return route_cancel(
        fd, [=] { return sys_fsync(fd); }, [=] { return real::fdatasync(fd); });
}

SOCKSHIM_WRAP(int, isatty, (int fd)) {
    if (SOCKSHIM_LIKELY(fd_is_libc(fd)) || in_vfork_child()) return real::isatty(fd);
    const fd_kind kind = fd_classify(fd);
    if (kind == FD_LIBC) return real::isatty(fd);
    errno = kind == FD_INTERNAL ? EBADF : ENOTTY;
    return 0;
}

SOCKSHIM_WRAP(int, sockatmark, (int fd)) {
    if (SOCKSHIM_LIKELY(fd_is_libc(fd))) return real::sockatmark(fd);
    int mark = 0;
    return wrap_ioctl(fd, SIOCATMARK, word(&mark)) == -1 ? -1 : mark;
}

SOCKSHIM_WRAP(int, isfdtype, (int fd, int type)) {
    if (SOCKSHIM_LIKELY(fd_is_libc(fd))) return real::isfdtype(fd, type);
    struct stat st;
    const int saved_errno = errno; // libc's leaves it alone in any case
    const int r = wrap_fstat(fd, &st);
    errno = saved_errno;
    if (r == -1) return -1;
    return (st.st_mode & S_IFMT) == static_cast<mode_t>(type);
}

SOCKSHIM_WRAP(void*, mmap, (void* at, size_t len, int prot, int flags, int fd, off_t offset)) {
    if (SOCKSHIM_UNLIKELY(!(flags & MAP_ANONYMOUS) && !fd_is_libc(fd)) && !in_vfork_child()) {
        const long r = sys_mmap_check(fd);
        if (r != SYS_NOT_OURS) {
            errno = static_cast<int>(r < 0 ? -r : r);
            return MAP_FAILED;
        }
    }
    return real::mmap(at, len, prot, flags, fd, offset);
}
SOCKSHIM_WRAP_ALIAS(mmap64, mmap)
