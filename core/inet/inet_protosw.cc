#include "core/inet/inet_protosw.h"

#include <cerrno>
#include <netinet/in.h>

#include "core/base/config.h"
#include "core/base/raw_syscall.h"
#include "core/inet/af_inet.h"
#include "core/inet/ping.h"
#include "core/inet/raw.h"
#include "core/inet/udp.h"
#include "core/net/family.h"

namespace sockshim {
namespace {

// Upon startup we insert all the elements in inetsw_array[] into the linked list inetsw: here the list
// is laid by the compiler, so that a socket made before our constructors finds it.
constinit inet_protosw raw_sw = {
    .type = SOCK_RAW,
    .protocol = IPPROTO_IP, // wild card
    .prot = &raw_prot,
    .ops = &inet_sockraw_ops,
    .flags = INET_PROTOSW_REUSE,
};
constinit inet_protosw icmp_sw = {
    .type = SOCK_DGRAM,
    .protocol = IPPROTO_ICMP,
    .prot = &ping_prot,
    .ops = &inet_sockraw_ops,
    .flags = INET_PROTOSW_REUSE,
};
constinit inet_protosw udp_sw = {
    .type = SOCK_DGRAM,
    .protocol = IPPROTO_UDP,
    .prot = &udp_prot,
    .ops = &inet_dgram_ops,
    .flags = INET_PROTOSW_PERMANENT,
    .next = &icmp_sw,
};
constinit inet_protosw tcp_sw = {
    .type = SOCK_STREAM,
    .protocol = IPPROTO_TCP,
    .prot = &tcp_prot,
    .ops = &inet_stream_ops,
    .flags = INET_PROTOSW_PERMANENT | INET_PROTOSW_ICSK,
};

struct protosw_lists {
    inet_protosw* at[SOCK_MAX];
};
constexpr protosw_lists builtin_lists() {
    protosw_lists t{};
    t.at[SOCK_STREAM] = &tcp_sw;
    t.at[SOCK_DGRAM] = &udp_sw;
    t.at[SOCK_RAW] = &raw_sw;
    return t;
}
constinit protosw_lists inetsw = builtin_lists();

// inetsw_lock: writers only. Readers walk the list without (Linux: RCU); entries outlive their readers
// because modules stay mapped.
constinit a32 inetsw_lock{};
struct writer {
    writer() {
        while (inetsw_lock.exchange(1)) raw_syscall(SYS_sched_yield);
    }
    ~writer() { inetsw_lock.store(0); }
    writer(const writer&) = delete;
    writer& operator=(const writer&) = delete;
};

inet_protosw* load(inet_protosw* const& link) { return __atomic_load_n(&link, __ATOMIC_ACQUIRE); }
void store(inet_protosw*& link, inet_protosw* p) { __atomic_store_n(&link, p, __ATOMIC_RELEASE); }

} // namespace

int inet_register_protosw(inet_protosw& p) {
    if (p.type >= SOCK_MAX) {
        notice("Ignoring attempt to register invalid socket type %d", p.type);
        return -EINVAL;
    }
    const writer lock;
    // If we are trying to override a permanent protocol, bail.
    inet_protosw** last_perm = &inetsw.at[p.type];
    for (inet_protosw* answer = *last_perm; answer; answer = answer->next) {
        // Check only the non-wild match.
        if (!(answer->flags & INET_PROTOSW_PERMANENT)) break;
        if (p.protocol == answer->protocol) {
            notice("Attempt to override permanent protocol %d", p.protocol);
            return -EPERM;
        }
        last_perm = &answer->next;
    }
    // After the last permanent entry, so that it does not override one when matched with a wild-card
    // protocol; but it may override any non-permanent one, and when it is removed the system returns to
    // the old behaviour by itself.
    p.next = *last_perm;
    store(*last_perm, &p);
    return 0;
}

int inet_unregister_protosw(inet_protosw& p) {
    if (p.flags & INET_PROTOSW_PERMANENT) {
        notice("Attempt to unregister permanent protocol %d", p.protocol);
        return -EPERM;
    }
    if (p.type >= SOCK_MAX) return -EINVAL;
    const writer lock;
    for (inet_protosw** link = &inetsw.at[p.type]; *link; link = &(*link)->next) {
        if (*link == &p) {
            store(*link, p.next);
            return 0;
        }
    }
    return -ENOENT;
}

const inet_protosw* inet_protosw_lookup(int type, int& protocol, int& err) {
    err = -ESOCKTNOSUPPORT;
    if (type < 0 || type >= SOCK_MAX) return nullptr;
    for (const inet_protosw* answer = load(inetsw.at[type]); answer; answer = load(answer->next)) {
        err = 0;
        if (protocol == answer->protocol) {
            // The non-wild match.
            if (protocol != IPPROTO_IP) return answer;
        } else {
            // The two wild cases.
            if (protocol == IPPROTO_IP) {
                protocol = answer->protocol;
                return answer;
            }
            if (answer->protocol == IPPROTO_IP) return answer;
        }
        err = -EPROTONOSUPPORT;
    }
    return nullptr;
}

} // namespace sockshim
