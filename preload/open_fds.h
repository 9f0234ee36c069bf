// Each descriptor number that this process has open, from the kernel. Touches no memory but the stack, so
// also for a vfork child, whose descriptors the table does not describe.
#pragma once
#include <fcntl.h>

#include "core/base/raw_syscall.h"
#include "core/base/types.h"

namespace sockshim {

// Calls visit(fd). Without /proc: the numbers below 256, open or not.
template <class Visit> void for_each_open_fd(Visit visit) {
    struct kernel_dirent {
        u64 inode;
        i64 next;
        u16 length;
        u8 type;
        char name[];
    };
    const long dir = raw_syscall(SYS_openat, AT_FDCWD, ptr_arg("/proc/self/fd"),
                                 O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0) {
        for (int fd = 0; fd < 256; ++fd) visit(fd);
        return;
    }
    alignas(8) char room[1024] = {};
    long n;
    while ((n = raw_syscall(SYS_getdents64, dir, ptr_arg(room), sizeof(room))) > 0) {
        for (long at = 0; at < n;) {
            const auto* const entry = reinterpret_cast<const kernel_dirent*>(room + at);
            at += entry->length;
            int fd = 0;
            const char* p = entry->name;
            while (*p >= '0' && *p <= '9') fd = fd * 10 + (*p++ - '0');
            if (p != entry->name && *p == 0 && fd != dir) visit(fd);
        }
    }
    raw_syscall(SYS_close, dir);
}

} // namespace sockshim
