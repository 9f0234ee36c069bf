// Each descriptor number that this process has open, from the kernel. Touches no memory but the stack, so
// also for a vfork child, whose descriptors the table does not describe.
#pragma once
#include <fcntl.h>

#include "core/base/dirents.h"

namespace sockshim {

// Calls visit(fd). Without /proc: the numbers below 256, open or not.
template <class Visit> void for_each_open_fd(Visit visit) {
    const long dir = raw_syscall(SYS_openat, AT_FDCWD, ptr_arg("/proc/self/fd"),
                                 O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0) {
        for (int fd = 0; fd < 256; ++fd) visit(fd);
        return;
    }
    for_each_dirent(dir, [&](const char* name) {
        int fd = 0;
        const char* p = name;
        while (*p >= '0' && *p <= '9') fd = fd * 10 + (*p++ - '0');
        if (p != name && *p == 0 && fd != dir) visit(fd);
        return 0L;
    });
    raw_syscall(SYS_close, dir);
}

} // namespace sockshim
