#include "core/arena/internal_fd.h"

#include <cerrno>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "core/base/raw_syscall.h"

namespace sockshim {

void (*internal_fd_marked)(int fd, bool ours) = nullptr;

// High enough to be out of the program's way, low enough that the kernel's descriptor table (which fork
// copies up to the highest number) does not grow for our sake.
static constexpr u64 preferred_number = 960;

int internal_fd_dup(int fd) {
    rlimit limit{};
    raw_syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, ptr_arg(&limit));
    const u64 from = limit.rlim_cur > 64 ? min_of<u64>(preferred_number, limit.rlim_cur - 32) : 0;
    const long high = raw_syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, static_cast<long>(from));
    if (high >= 0 && internal_fd_marked) internal_fd_marked(static_cast<int>(high), true);
    return static_cast<int>(high);
}

void internal_fd_drop(int number) {
    if (internal_fd_marked) internal_fd_marked(number, false);
    raw_syscall(SYS_close, number);
}

static void remember(internal_fd& slot, int fd) {
    struct stat st {};
    raw_syscall(SYS_fstat, fd, ptr_arg(&st));
    slot.device = st.st_dev;
    slot.inode = st.st_ino;
    slot.number_plus_1.store(static_cast<u32>(fd) + 1);
}

void internal_fd_adopt(internal_fd& slot, int fd) {
    if (internal_fd_adopt_high(slot, fd)) {
        raw_syscall(SYS_close, fd);
        return;
    }
    if (internal_fd_marked) internal_fd_marked(fd, true);
    remember(slot, fd);
}

bool internal_fd_adopt_high(internal_fd& slot, int fd) {
    const int high = internal_fd_dup(fd);
    if (high >= 0) remember(slot, high);
    return high >= 0;
}

int internal_fd_number(internal_fd& slot) {
    const int fd = static_cast<int>(slot.number_plus_1.load()) - 1;
    if (fd < 0) return -1;
    struct stat st {};
    const long r = raw_syscall(SYS_fstat, fd, ptr_arg(&st));
    if (r == 0 && st.st_dev == slot.device && st.st_ino == slot.inode) return fd;
    // A filter on system calls that forbids the question hardly allows to replace what is there.
    if (r < 0 && r != -EBADF) return fd;
    slot.number_plus_1.store(0);
    if (internal_fd_marked) internal_fd_marked(fd, false);
    return -1;
}

void internal_fd_close(internal_fd& slot) {
    const int fd = internal_fd_number(slot);
    slot.number_plus_1.store(0);
    if (fd >= 0) internal_fd_drop(fd);
}

} // namespace sockshim
