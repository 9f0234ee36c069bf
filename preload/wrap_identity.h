// What goes around a change of credentials, for libc's functions and for syscall().
#pragma once
#include <cerrno>
#include <initializer_list>

#include "core/base/raw_syscall.h"
#include "dispatch/process.h"
#include "preload/process.h"

namespace sockshim {

// Who gives up root's privileges before the first socket joins root's network now: it is there that his clients
// and his parent look for him.
inline void identity_joining(std::initializer_list<u32> users) {
    if (process_active.load_relaxed()) return;
    bool gives_up = false;
    for (const u32 user : users) gives_up = gives_up || (user != 0 && user != ~0u);
    if (!gives_up || raw_syscall(SYS_geteuid) != 0) return;
    const int saved_errno = errno;
    static_cast<void>(process_attach());
    errno = saved_errno;
}

// In a process that is attached, and not a vfork child. `users`: whom it becomes or may become.
template <class Call>
[[gnu::noinline]] auto identity_changing(std::initializer_list<u32> users, Call call) {
    const int saved_errno = errno;
    fork_check();
    const identity_change change =
        process_before_identity(users.begin(), static_cast<u32>(users.size()));
    errno = saved_errno;
    const auto r = call();
    const int errno_of_call = errno;
    process_after_identity(change);
    errno = errno_of_call;
    return r;
}

} // namespace sockshim
