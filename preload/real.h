// real::read(...) and so on: what the program's calls would have reached without us. Each one is bound
// at its first use (elf_lookup.h, then dlsym), for itself, under no lock; errno is kept. A function
// that libc does not have is its system call, or ENOSYS.
#pragma once
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <dirent.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "core/base/types.h"

struct file_handle;
struct rlimit;
struct statfs;
struct statvfs;
struct sockaddr_in;

namespace sockshim::real {

struct slot {
    void* function; // null until bound
    const char* name;
    void* (*stand_in)(); // address of what serves when libc has none
};

void* bind_slot(slot& s);

inline void* resolve(slot& s) {
    void* const function = __atomic_load_n(&s.function, __ATOMIC_RELAXED);
    return SOCKSHIM_LIKELY(function != nullptr) ? function : bind_slot(s);
}

// NOLINTBEGIN(bugprone-macro-parentheses): types and parameter lists
#define REAL(result, name, number, parameters, arguments)                                          \
    extern slot slot_##name;                                                                       \
    inline result name parameters {                                                                \
        return reinterpret_cast<result(*) parameters>(resolve(slot_##name)) arguments;             \
    }
#include "preload/real.def"
#undef REAL
// NOLINTEND(bugprone-macro-parentheses)

// The address of libc's syscall(), for entry.S.
void* syscall_address();

} // namespace sockshim::real
