// Giving up privileges, root directories and namespaces. The calls are libc's; what we need of the file system, and a
// thread that libc does not know of, come along (process_before_identity).
#include <initializer_list>
#include <linux/nsfs.h>
#include <sched.h>
#include <sys/types.h>

#include "core/base/raw_syscall.h"
#include "dispatch/process.h"
#include "preload/wrap.h"
#include "preload/wrap_identity.h"

using namespace sockshim;

namespace {

template <class Call>
[[gnu::always_inline]] inline auto change(std::initializer_list<u32> users, Call call) {
    if (in_vfork_child()) return call();
    identity_joining(users);
    if (SOCKSHIM_LIKELY(!process_active.load_relaxed())) return call();
    return identity_changing(users, call);
}

} // namespace

SOCKSHIM_WRAP(int, setuid, (uid_t user)) {
    return change({user}, [=] { return real::setuid(user); });
}

SOCKSHIM_WRAP(int, seteuid, (uid_t user)) {
    return change({user}, [=] { return real::seteuid(user); });
}

SOCKSHIM_WRAP(int, setreuid, (uid_t real, uid_t effective)) {
    return change({real, effective}, [=] { return real::setreuid(real, effective); });
}

SOCKSHIM_WRAP(int, setresuid, (uid_t real, uid_t effective, uid_t saved)) {
    return change({real, effective, saved},
                  [=] { return real::setresuid(real, effective, saved); });
}

SOCKSHIM_WRAP(int, setfsuid, (uid_t user)) {
    return change({user}, [=] { return real::setfsuid(user); });
}

SOCKSHIM_WRAP(int, setgid, (gid_t group)) {
    return change({}, [=] { return real::setgid(group); });
}

SOCKSHIM_WRAP(int, setegid, (gid_t group)) {
    return change({}, [=] { return real::setegid(group); });
}

SOCKSHIM_WRAP(int, setregid, (gid_t real, gid_t effective)) {
    return change({}, [=] { return real::setregid(real, effective); });
}

SOCKSHIM_WRAP(int, setresgid, (gid_t real, gid_t effective, gid_t saved)) {
    return change({}, [=] { return real::setresgid(real, effective, saved); });
}

SOCKSHIM_WRAP(int, setfsgid, (gid_t group)) {
    return change({}, [=] { return real::setfsgid(group); });
}

SOCKSHIM_WRAP(int, setgroups, (size_t n, const gid_t* groups)) {
    return change({}, [=] { return real::setgroups(n, groups); });
}

// This one may ask a directory server for the groups, by sockets that want the thread: so the thread follows.
SOCKSHIM_WRAP(int, initgroups, (const char* user, gid_t group)) {
    const int r = real::initgroups(user, group);
    change({}, [] { return 0; });
    return r;
}

SOCKSHIM_WRAP(int, capset, (void* header, const void* data)) {
    return change({}, [=] { return real::capset(header, data); });
}

// Threads may have roots of their own (unshare), so that one changes like the credentials do.
SOCKSHIM_WRAP(int, chroot, (const char* path)) {
    return change({}, [=] { return real::chroot(path); });
}

// --- namespaces --------------------------------------------------------------------------------------------

namespace {

// `alone`: refused to a process of more than one thread.
template <class Call> int change_namespace(u32 kinds, bool alone, Call call) {
    if (in_vfork_child()) return call();
    const int r = alone ? change({}, call) : call();
    if (r == 0 && (kinds & CLONE_NEWNET)) process_changed_namespace();
    return r;
}

} // namespace

SOCKSHIM_WRAP(int, unshare, (int flags)) {
    constexpr int alone = CLONE_NEWUSER | CLONE_VM | CLONE_SIGHAND | CLONE_THREAD;
    return change_namespace(static_cast<u32>(flags), flags & alone,
                            [=] { return real::unshare(flags); });
}

SOCKSHIM_WRAP(int, setns, (int fd, int type)) {
    const long kind = type ? type : raw_syscall(SYS_ioctl, fd, NS_GET_NSTYPE);
    const u32 kinds = kind > 0 ? static_cast<u32>(kind) : 0;
    return change_namespace(kinds, kinds & (CLONE_NEWUSER | CLONE_NEWNS),
                            [=] { return real::setns(fd, type); });
}
