// What goes around a change of credentials, for libc's functions and for syscall().
#pragma once
#include <cerrno>
#include <initializer_list>

#include "dispatch/process.h"
#include "preload/process.h"

namespace sockshim {

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
