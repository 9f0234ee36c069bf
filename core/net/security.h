// Security hooks (Linux: security/security.c, the socket_* ones). One policy at a time; without one the
// hooks cost a load and a branch. A hook allows with 0 and denies with a negative errno.
#pragma once
#include "core/net/socket.h"

namespace sockshim {

// A null member allows. Addresses have been copied from the program; messages have not been looked at.
struct security_operations {
    const char* name;
    int (*socket_create)(int family, int type, int protocol, int kern);
    int (*socket_post_create)(socket&, int family, int type, int protocol, int kern);
    int (*socket_socketpair)(socket&, socket&);
    int (*socket_bind)(socket&, const sockaddr*, u32 len);
    int (*socket_connect)(socket&, const sockaddr*, u32 len);
    int (*socket_listen)(socket&, int backlog);
    int (*socket_accept)(socket&, socket& newsock);
    int (*socket_sendmsg)(socket&, const msghdr_iter&, u64 size);
    int (*socket_recvmsg)(socket&, const msghdr_iter&, u64 size, int flags);
    int (*socket_getsockname)(socket&);
    int (*socket_getpeername)(socket&);
    int (*socket_getsockopt)(socket&, int level, int optname);
    int (*socket_setsockopt)(socket&, int level, int optname);
    int (*socket_shutdown)(socket&, int how);
};

// The policy in force; null: everything is allowed. Read by the hooks only.
extern const security_operations* security_ops;

// 0, or -EBUSY when there is a policy already. SOCKSHIM_DENY counts as one.
int security_register(const security_operations& ops);
// Takes `ops` out again if it is the one in force.
void security_unregister(const security_operations& ops);
// The policy of a SOCKSHIM_DENY value ("connect:EACCES,bind:1"); null when it denies nothing. Bad entries
// get a notice each. Calls: socket post_create socketpair bind connect listen accept sendmsg recvmsg
// getsockname getpeername getsockopt setsockopt shutdown. Errnos by name or number.
const security_operations* security_deny_policy(const char* spec);

// Reads SOCKSHIM_DENY at the first socket of the process.
const security_operations* security_ops_slow();
extern a8 security_ready;
inline const security_operations* security_policy() {
    return SOCKSHIM_LIKELY(security_ready.load()) ? security_ops : security_ops_slow();
}

#define SOCKSHIM_SECURITY_HOOK(name, params, args)                                                 \
    inline int security_##name params {                                                            \
        const security_operations* p = security_policy();                                          \
        return SOCKSHIM_UNLIKELY(p && p->name) ? p->name args : 0;                                 \
    }
SOCKSHIM_SECURITY_HOOK(socket_create, (int family, int type, int protocol, int kern),
                       (family, type, protocol, kern))
SOCKSHIM_SECURITY_HOOK(socket_post_create,
                       (socket & sock, int family, int type, int protocol, int kern),
                       (sock, family, type, protocol, kern))
SOCKSHIM_SECURITY_HOOK(socket_socketpair, (socket & a, socket& b), (a, b))
SOCKSHIM_SECURITY_HOOK(socket_bind, (socket & sock, const sockaddr* addr, u32 len),
                       (sock, addr, len))
SOCKSHIM_SECURITY_HOOK(socket_connect, (socket & sock, const sockaddr* addr, u32 len),
                       (sock, addr, len))
SOCKSHIM_SECURITY_HOOK(socket_listen, (socket & sock, int backlog), (sock, backlog))
SOCKSHIM_SECURITY_HOOK(socket_accept, (socket & sock, socket& newsock), (sock, newsock))
SOCKSHIM_SECURITY_HOOK(socket_sendmsg, (socket & sock, const msghdr_iter& msg, u64 size),
                       (sock, msg, size))
SOCKSHIM_SECURITY_HOOK(socket_recvmsg, (socket & sock, const msghdr_iter& msg, u64 size, int flags),
                       (sock, msg, size, flags))
SOCKSHIM_SECURITY_HOOK(socket_getsockname, (socket & sock), (sock))
SOCKSHIM_SECURITY_HOOK(socket_getpeername, (socket & sock), (sock))
SOCKSHIM_SECURITY_HOOK(socket_getsockopt, (socket & sock, int level, int optname),
                       (sock, level, optname))
SOCKSHIM_SECURITY_HOOK(socket_setsockopt, (socket & sock, int level, int optname),
                       (sock, level, optname))
SOCKSHIM_SECURITY_HOOK(socket_shutdown, (socket & sock, int how), (sock, how))
#undef SOCKSHIM_SECURITY_HOOK

} // namespace sockshim
