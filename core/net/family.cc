#include "core/net/family.h"

#include <cerrno>

#include "core/base/config.h"
#include "core/base/raw_syscall.h"
#include "core/inet/af_inet.h"
#include "core/net/handover.h"
#include "core/net/proto.h"
#include "core/net/security.h"
#include "core/trace/trace.h"

namespace sockshim {
namespace {

// What Linux writes to the kernel's log. A guest prints nothing unless asked (DESIGN.md, D8): whoever has
// asked for a trace sees it.
bool log_wanted() { return config().trace && *config().trace; }

// Constant-initialised, so that a socket made by another library's constructor finds PF_INET here.
template <class T> struct pointer_cell {
    const T* p;
    const T* load() const { return __atomic_load_n(&p, __ATOMIC_ACQUIRE); }
    bool cas(const T* expected, const T* desired) {
        return __atomic_compare_exchange_n(&p, &expected, desired, false, __ATOMIC_SEQ_CST,
                                           __ATOMIC_ACQUIRE);
    }
};

struct family_table {
    pointer_cell<net_proto_family> at[NPROTO];
};
constexpr family_table builtin_families() {
    family_table t{};
    t.at[PF_INET].p = &inet_family_ops;
    return t;
}
// Linux guards this with net_family_lock and readers with RCU. A slot is one pointer to a table that
// stays mapped for good (modules are never unloaded), so a store and a load do.
constinit family_table net_families = builtin_families();

const net_proto_family* family_at(int family) {
    return family < 0 || family >= NPROTO ? nullptr : net_families.at[family].load();
}

} // namespace

int sock_register(const net_proto_family& ops) {
    if (ops.family < 0 || ops.family >= NPROTO) {
        notice("protocol %d >= NPROTO(%d)", ops.family, NPROTO);
        return -ENOBUFS;
    }
    return net_families.at[ops.family].cas(nullptr, &ops) ? 0 : -EEXIST;
}

void sock_unregister(int family) {
    if (const net_proto_family* pf = family_at(family)) net_families.at[family].cas(pf, nullptr);
}

bool net_family_known(int family) {
    if (family < 0 || family >= NPROTO) return false;
    if (family_at(family)) return true;
    // PF_UNSPEC, PF_UNIX, PF_NETLINK and the like belong to libc unless the user has put a module there.
    request_module("net-pf-%d", family);
    return family_at(family) != nullptr;
}

int sock_create(int family, int type, int protocol, socket** res) {
    return __sock_create(family, type, protocol, res);
}

int __sock_create(int family, int type, int protocol, socket** res) {
    trace_way("sock_create");
    constexpr int kern = 0;
    *res = nullptr;
    if (family < 0 || family >= NPROTO) return -EAFNOSUPPORT;
    if (type < 0 || type >= SOCK_MAX) return -EINVAL;

    // Compatibility, as in Linux: "this uglymoron is moved from INET layer to here".
    if (family == PF_INET && type == SOCK_PACKET) {
        static constinit a32 warned{};
        if (!warned.exchange(1) && log_wanted()) {
            notice("process %d uses obsolete (PF_INET,SOCK_PACKET)",
                   static_cast<int>(raw_syscall(SYS_getpid)));
        }
        family = PF_PACKET;
    }

    int err = security_socket_create(family, type, protocol, kern);
    if (err) return err;

    socket* sock = sock_alloc();
    if (!sock) {
        if (log_wanted()) notice("socket: no more sockets");
        return -ENFILE;
    }
    sock->type = static_cast<i16>(type);
    sock->family = static_cast<u16>(family);

    const net_proto_family* pf = family_at(family);
    if (!pf) {
        request_module("net-pf-%d", family);
        pf = family_at(family);
    }
    if (!pf) {
        sock_free(*sock);
        return -ELIBC;
    }
    err = -EAFNOSUPPORT;
    // The module that has the create function must not go while it runs.
    if (!try_module_get(pf->owner)) {
        sock_free(*sock);
        return err;
    }
    err = pf->create(*sock, protocol, kern);
    if (err) {
        module_put(pf->owner);
        sock_free(*sock);
        // The kernel may have a protocol that nobody here knows (IPPROTO_MPTCP, SCTP), and answers with
        // the same errno when it has not.
        const bool unknown = err == -EPROTONOSUPPORT || err == -ESOCKTNOSUPPORT;
        return unknown && network_hands_over() ? -ELIBC : err;
    }
    // Now to bump the refcnt of the [loadable] module that owns this socket at sock_release time we
    // decrement its refcnt.
    const module* owner = ops_of(sock->ops_id).owner;
    if (!try_module_get(owner)) {
        module_put(pf->owner);
        sock_release(*sock);
        return -EAFNOSUPPORT;
    }
    module_put(pf->owner);
    sock->protocol = static_cast<u16>(protocol);
    if (struct sock* sk = socket_sk(*sock)) {
        sock->protocol = sk->sk_protocol;
        sk_publish(*sk);
    }
    slab_publish(socket_handle(*sock));
    err = security_socket_post_create(*sock, family, type, protocol, kern);
    if (err) {
        sock_release(*sock);
        return err;
    }
    *res = sock;
    return 0;
}

} // namespace sockshim
