#include "core/inet/route.h"

#include <cerrno>
#include <cstring>
#include <linux/netlink.h>
#include <sys/socket.h>

#include "core/base/raw_syscall.h"
#include "core/inet/ip.h"
#include "core/inet/loopback.h"
#include "core/net/handover.h"
#include "core/net/wait_queue.h"

namespace sockshim {
namespace {

// One route of the kernel's local table.
struct fib_entry {
    be32 dst;
    be32 mask;
    be32 prefsrc;
    u8 type;
};

inline constexpr u32 fib_max = 256;
inline constexpr u64 fib_age_us = 1000000;

// The kernel's local table as this process last saw it: two copies, so that readers need no lock. A
// reader may use the old copy while the new one is written, and the old one again a second later at the
// earliest.
struct fib_copy {
    fib_entry entries[fib_max];
    u32 count;
};
constinit fib_copy copies[2]{};
constinit a32 current{};
constinit a64 read_at_us{};
constinit a32 reading{};

be32 mask_of(u32 prefix_len) { return prefix_len ? htonl(~u32{0} << (32 - prefix_len)) : 0; }

// One RTM_NEWROUTE message; false when it is none of the local table's.
bool parse_route(const nlmsghdr& head, fib_entry& out) {
    if (head.nlmsg_len < NLMSG_LENGTH(sizeof(rtmsg))) return false;
    rtmsg rtm;
    memcpy(&rtm, reinterpret_cast<const u8*>(&head) + NLMSG_HDRLEN, sizeof rtm);
    if (rtm.rtm_table != RT_TABLE_LOCAL || rtm.rtm_family != AF_INET || rtm.rtm_dst_len > 32) {
        return false;
    }
    out = {0, mask_of(rtm.rtm_dst_len), 0, rtm.rtm_type};
    u32 at = NLMSG_HDRLEN + NLMSG_ALIGN(sizeof rtm);
    while (at + sizeof(rtattr) <= head.nlmsg_len) {
        rtattr attr;
        memcpy(&attr, reinterpret_cast<const u8*>(&head) + at, sizeof attr);
        if (attr.rta_len < sizeof attr || at + attr.rta_len > head.nlmsg_len) break;
        const u8* data = reinterpret_cast<const u8*>(&head) + at + RTA_LENGTH(0);
        if (attr.rta_len >= RTA_LENGTH(4)) {
            if (attr.rta_type == RTA_DST) memcpy(&out.dst, data, 4);
            if (attr.rta_type == RTA_PREFSRC) memcpy(&out.prefsrc, data, 4);
        }
        at += RTA_ALIGN(attr.rta_len);
    }
    return true;
}

// Asks the kernel for its IPv4 routes. False when it does not say (no netlink in a sandbox, no
// descriptor left): the caller keeps what it knows.
bool read_kernel_table(fib_copy& fib) {
    const long fd = raw_syscall(SYS_socket, AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0) return false;
    struct {
        nlmsghdr head;
        rtmsg route;
    } request{};
    request.head.nlmsg_len = sizeof request;
    request.head.nlmsg_type = RTM_GETROUTE;
    request.head.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    request.route.rtm_family = AF_INET;
    request.route.rtm_table = RT_TABLE_LOCAL;
    bool done = false, ok = false;
    u32 count = 0;
    if (raw_syscall(SYS_sendto, fd, ptr_arg(&request), sizeof request, 0, 0, 0) > 0) {
        alignas(nlmsghdr) u8 buffer[8192] = {};
        while (!done) {
            const long n = raw_syscall(SYS_recvfrom, fd, ptr_arg(buffer), sizeof buffer, 0, 0, 0);
            if (n == -EINTR) continue;
            if (n <= 0) break;
            const auto size = static_cast<u32>(n);
            for (u32 at = 0; at + NLMSG_HDRLEN <= size;) {
                const auto& head = *reinterpret_cast<const nlmsghdr*>(buffer + at);
                if (head.nlmsg_len < NLMSG_HDRLEN || at + head.nlmsg_len > size) break;
                if (head.nlmsg_type == NLMSG_DONE || head.nlmsg_type == NLMSG_ERROR) {
                    done = true;
                    ok = head.nlmsg_type == NLMSG_DONE;
                    break;
                }
                if (head.nlmsg_type == RTM_NEWROUTE && count < fib_max &&
                    parse_route(head, fib.entries[count])) {
                    ++count;
                }
                at += NLMSG_ALIGN(head.nlmsg_len);
            }
        }
    }
    raw_syscall(SYS_close, fd);
    if (ok) fib.count = count;
    return ok;
}

const fib_copy& local_table() {
    const u64 now = monotonic_us();
    const u64 read_at = read_at_us.load();
    u32 use = current.load();
    if (read_at == 0 || now - read_at > fib_age_us) {
        if (!reading.exchange(1)) {
            if (read_kernel_table(copies[1 - use])) {
                use = 1 - use;
                current.store(use);
            }
            read_at_us.store(now);
            reading.store(0);
        }
    }
    return copies[use];
}

// Longest prefix wins (fib_lookup).
const fib_entry* fib_lookup(be32 addr) {
    const fib_copy& fib = local_table();
    const fib_entry* best = nullptr;
    for (u32 i = 0; i < min_of(fib.count, fib_max); ++i) {
        const fib_entry& e = fib.entries[i];
        if ((addr & e.mask) != (e.dst & e.mask)) continue;
        if (!best || ntohl(e.mask) > ntohl(best->mask)) best = &e;
    }
    return best;
}

// 127/8 is the same on every host, and the fast path.
bool loopback_type(be32 addr, u8& type) {
    if (!ipv4_is_loopback(addr)) return false;
    type = addr == htonl(0x7fffffff) ? RTN_BROADCAST : RTN_LOCAL;
    return true;
}

} // namespace

u8 inet_addr_type(be32 addr) {
    u8 type = RTN_UNICAST;
    if (SOCKSHIM_LIKELY(loopback_type(addr, type))) return type;
    if (ipv4_is_zeronet(addr) || ipv4_is_lbcast(addr)) return RTN_BROADCAST;
    if (ipv4_is_multicast(addr)) return RTN_MULTICAST;
    // A virtual network has 127/8 alone until it is given addresses of its own.
    if (!network_hands_over()) return RTN_UNICAST;
    const fib_entry* e = fib_lookup(addr);
    return e ? e->type : u8{RTN_UNICAST};
}

int ip_route_output(be32& daddr, be32 saddr, i32 oif, rtable& rt) {
    if (saddr) {
        if (ipv4_is_multicast(saddr) || ipv4_is_lbcast(saddr)) return -EINVAL;
        if (inet_addr_type(saddr) != RTN_LOCAL) return -EINVAL;
    }
    const net_device* dev = &loopback_dev;
    if (oif && oif != dev->ifindex) {
        // Bound to an interface of the host's: local destinations are still reached through lo, as the
        // kernel's local table says (its routes name the interface and deliver by lo).
        char name[IFNAMSIZ];
        if (!dev_name_of_index(oif, name)) return -ENODEV;
    }
    if (daddr == 0) {
        daddr = saddr ? saddr : htonl(INADDR_LOOPBACK);
        if (!saddr) saddr = daddr;
    }
    const u8 type = inet_addr_type(daddr);
    if (type == RTN_UNICAST) return -ENETUNREACH;
    if (saddr == 0) {
        if (ipv4_is_loopback(daddr) || type != RTN_LOCAL) {
            saddr = htonl(INADDR_LOOPBACK); // the local route's preferred source
        } else {
            const fib_entry* e = fib_lookup(daddr);
            saddr = e && e->prefsrc ? e->prefsrc : daddr;
        }
    }
    rt.dev = dev;
    rt.saddr = saddr;
    rt.type = type;
    rt.mtu = static_cast<u16>(min_of(dev->mtu, IP_MAX_MTU));
    return 0;
}

void fib_flush() {
    read_at_us.store(0);
    reading.store(0);
}

} // namespace sockshim
