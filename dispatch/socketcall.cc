// sockshim_socketcall: the one way in for every interposed socket call (Linux: sys_socketcall).
#include "dispatch/socketcall.h"

#include <cerrno>

#include "core/sync/uaccess.h"
#include "core/trace/trace.h"

using namespace sockshim;

namespace sockshim {

int audit_socketcall(int call, u32 nargs, const unsigned long* a) {
    trace_begin(static_cast<u32>(call), a, nargs);
    return 0;
}

namespace {

template <class T> T* user_ptr(unsigned long word) { return reinterpret_cast<T*>(word); }
int as_int(unsigned long word) { return static_cast<int>(word); }

long carry_out(int call, const unsigned long* a) {
    switch (call) {
    case SYS_SOCKET: return sys_socket(as_int(a[0]), as_int(a[1]), as_int(a[2]));
    case SYS_BIND: return sys_bind(as_int(a[0]), user_ptr<const sockaddr>(a[1]), as_int(a[2]));
    case SYS_CONNECT:
        return sys_connect(as_int(a[0]), user_ptr<const sockaddr>(a[1]), as_int(a[2]));
    case SYS_LISTEN: return sys_listen(as_int(a[0]), as_int(a[1]));
    case SYS_ACCEPT:
        return sys_accept4(as_int(a[0]), user_ptr<sockaddr>(a[1]), user_ptr<socklen_t>(a[2]), 0);
    case SYS_GETSOCKNAME:
        return sys_getsockname(as_int(a[0]), user_ptr<sockaddr>(a[1]), user_ptr<socklen_t>(a[2]));
    case SYS_GETPEERNAME:
        return sys_getpeername(as_int(a[0]), user_ptr<sockaddr>(a[1]), user_ptr<socklen_t>(a[2]));
    case SYS_SOCKETPAIR:
        return sys_socketpair(as_int(a[0]), as_int(a[1]), as_int(a[2]), user_ptr<int>(a[3]));
    case SYS_SEND:
        return sys_sendto(as_int(a[0]), user_ptr<const void>(a[1]), a[2],
                          static_cast<unsigned>(a[3]), nullptr, 0);
    case SYS_RECV:
        return sys_recvfrom(as_int(a[0]), user_ptr<void>(a[1]), a[2], static_cast<unsigned>(a[3]),
                            nullptr, nullptr);
    case SYS_SENDTO:
        return sys_sendto(as_int(a[0]), user_ptr<const void>(a[1]), a[2],
                          static_cast<unsigned>(a[3]), user_ptr<const sockaddr>(a[4]),
                          as_int(a[5]));
    case SYS_RECVFROM:
        return sys_recvfrom(as_int(a[0]), user_ptr<void>(a[1]), a[2], static_cast<unsigned>(a[3]),
                            user_ptr<sockaddr>(a[4]), user_ptr<socklen_t>(a[5]));
    case SYS_SHUTDOWN: return sys_shutdown(as_int(a[0]), as_int(a[1]));
    case SYS_SETSOCKOPT:
        return sys_setsockopt(as_int(a[0]), as_int(a[1]), as_int(a[2]), user_ptr<const void>(a[3]),
                              as_int(a[4]));
    case SYS_GETSOCKOPT:
        return sys_getsockopt(as_int(a[0]), as_int(a[1]), as_int(a[2]), user_ptr<void>(a[3]),
                              user_ptr<socklen_t>(a[4]));
    case SYS_SENDMSG:
        return sys_sendmsg(as_int(a[0]), user_ptr<const msghdr>(a[1]), static_cast<unsigned>(a[2]));
    case SYS_RECVMSG:
        return sys_recvmsg(as_int(a[0]), user_ptr<msghdr>(a[1]), static_cast<unsigned>(a[2]));
    case SYS_ACCEPT4:
        return sys_accept4(as_int(a[0]), user_ptr<sockaddr>(a[1]), user_ptr<socklen_t>(a[2]),
                           as_int(a[3]));
    case SYS_RECVMMSG:
        return sys_recvmmsg(as_int(a[0]), user_ptr<mmsghdr>(a[1]), static_cast<unsigned>(a[2]),
                            static_cast<unsigned>(a[3]), user_ptr<timespec>(a[4]));
    case SYS_SENDMMSG:
        return sys_sendmmsg(as_int(a[0]), user_ptr<mmsghdr>(a[1]), static_cast<unsigned>(a[2]),
                            static_cast<unsigned>(a[3]));
    default: return -EINVAL;
    }
}

} // namespace
} // namespace sockshim

long sockshim_socketcall(int call, unsigned long* args) {
    if (call < 1 || call > SYS_SENDMMSG) return -EINVAL;
    const u32 nargs = socketcall_nargs[static_cast<u32>(call)];
    unsigned long copy[6];
    const unsigned long* a = copy;
    // The wrappers' words lie in the frame that called this one: they are there, and nobody changes them.
    constexpr std::size_t callers_frame = 512;
    if (SOCKSHIM_LIKELY(reinterpret_cast<u64>(args) -
                            reinterpret_cast<u64>(__builtin_frame_address(0)) <
                        callers_frame)) {
        a = args;
    } else if (copy_from_user(copy, args, nargs * sizeof copy[0])) {
        return -EFAULT;
    }
    if (const int err = audit_socketcall(call, nargs, a)) return err;
    const long result = carry_out(call, a);
    if (result == SYS_NOT_OURS) trace_handed_over();
    trace_end(result);
    return result;
}
