// The names in a directory, read without libc (no allocation, no lock: also for a vfork child).
#pragma once
#include "core/base/raw_syscall.h"
#include "core/base/types.h"

namespace sockshim {

// linux_dirent64, as getdents64 writes it.
struct kernel_dirent {
    u64 inode;
    i64 next;
    u16 length;
    u8 type;
    char name[];
};

// Calls visit(name) for each entry until it answers something negative. That, 0 at the end, or -errno.
template <class Visit> long for_each_dirent(long dir, Visit visit) {
    alignas(8) char room[1024] = {};
    long n;
    while ((n = raw_syscall(SYS_getdents64, dir, ptr_arg(room), sizeof(room))) > 0) {
        for (long at = 0; at < n;) {
            const auto* const entry = reinterpret_cast<const kernel_dirent*>(room + at);
            at += entry->length;
            if (const long r = visit(entry->name); r < 0) return r;
        }
    }
    return n;
}

} // namespace sockshim
