#include "core/inet/igmp.h"

#include <cerrno>
#include <cstring>

#include "core/base/crash_point.h"
#include "core/inet/ip.h"
#include "core/inet/loopback.h"
#include "core/inet/route.h"
#include "core/net/handover.h"
#include "core/trace/trace.h"

namespace sockshim {
namespace {

constexpr i32 lo_ifindex = 1;

ip_mc_socklist* list_of(const sock& sk) {
    u8* data = extent_data(extent::from_raw(inet_sk(sk).mc_list));
    return reinterpret_cast<ip_mc_socklist*>(data);
}

ip_mc_socklist* list_make(sock& sk) {
    if (ip_mc_socklist* have = list_of(sk)) return have;
    constexpr u32 bytes = igmp_max_memberships * sizeof(ip_mc_socklist);
    const extent e = extent_alloc(bytes);
    u8* data = e ? extent_data(e) : nullptr;
    if (!data) return nullptr;
    std::memset(data, 0, bytes);
    inet_sk(sk).mc_list = e.raw(); // before it is published: it cannot be lost
    SOCKSHIM_CRASH_POINT();
    extent_publish(e);
    return reinterpret_cast<ip_mc_socklist*>(data);
}

ip_mc_socklist* find(const sock& sk, be32 group, i32 ifindex) {
    ip_mc_socklist* list = list_of(sk);
    for (u32 i = 0; list && i < igmp_max_memberships; ++i) {
        if (list[i].multiaddr == group && (!ifindex || list[i].ifindex == ifindex)) return &list[i];
    }
    return nullptr;
}

u32 source_count(const ip_mc_socklist& m) { return min_of<u32>(m.count, igmp_max_msf); }

} // namespace

i32 ip_mc_find_dev(be32 address, i32 ifindex) {
    if (ifindex == lo_ifindex || (!ifindex && ipv4_is_loopback(address))) return lo_ifindex;
    if (ifindex) {
        char name[IFNAMSIZ];
        if (!dev_name_of_index(ifindex, name)) return 0;
    } else if (address && inet_addr_type(address) != RTN_LOCAL) {
        return 0;
    }
    // An interface of the host's, or none named: the kernel's route to the group says.
    if (network_hands_over()) return -EHANDOVER;
    return ifindex ? 0 : lo_ifindex;
}

int ip_mc_join_group(sock& sk, be32 group, be32 address, i32 ifindex, u8 mode) {
    trace_way("ip_mc_join_group");
    if (!ipv4_is_multicast(group)) return -EINVAL;
    const i32 dev = ip_mc_find_dev(address, ifindex);
    if (dev <= 0) return dev ? dev : -ENODEV;
    if (find(sk, group, dev)) return -EADDRINUSE;
    ip_mc_socklist* list = list_make(sk);
    if (!list) return -ENOBUFS;
    for (u32 i = 0; i < igmp_max_memberships; ++i) {
        if (list[i].multiaddr) continue;
        list[i] = {};
        list[i].ifindex = dev;
        list[i].sfmode = mode;
        asm volatile("" ::: "memory");
        list[i].multiaddr = group;
        return 0;
    }
    return -ENOBUFS;
}

int ip_mc_leave_group(sock& sk, be32 group, be32 address, i32 ifindex) {
    trace_way("ip_mc_leave_group");
    const i32 dev = ip_mc_find_dev(address, ifindex);
    if (dev == 0) return -ENODEV;
    // A group joined by address may be left without one.
    ip_mc_socklist* m = find(sk, group, dev < 0 ? ifindex : address || ifindex ? dev : 0);
    if (!m) return dev < 0 ? dev : -EADDRNOTAVAIL;
    m->multiaddr = 0;
    return 0;
}

int ip_mc_source(sock& sk, bool add, u8 omode, be32 group, be32 address, i32 ifindex, be32 source) {
    trace_way("ip_mc_source");
    if (!ipv4_is_multicast(group)) return -EINVAL;
    const i32 dev = ip_mc_find_dev(address, ifindex);
    if (dev <= 0) return dev ? dev : -ENODEV;
    ip_mc_socklist* m = find(sk, group, dev);
    if (!m) return -EINVAL;
    // One filter is either all-but or none-but; only an empty one may change sides.
    if (m->sfmode != omode) {
        if (m->count) return -EINVAL;
        m->sfmode = omode;
    }
    const u32 count = source_count(*m);
    u32 at = 0;
    while (at < count && m->sources[at] != source) ++at;
    if (!add) {
        if (at == count) return -EADDRNOTAVAIL;
        // The last included source takes the membership with it (RFC 3678, 4.1.3).
        if (count == 1 && omode == MCAST_INCLUDE) {
            m->multiaddr = 0;
            return 0;
        }
        m->sources[at] = m->sources[count - 1];
        m->count = static_cast<u8>(count - 1);
        return 0;
    }
    if (at < count) return -EADDRNOTAVAIL; // there already
    if (count >= igmp_max_msf) return -ENOBUFS;
    m->sources[count] = source;
    m->count = static_cast<u8>(count + 1);
    return 0;
}

int ip_mc_msfilter(sock& sk, be32 group, be32 address, i32 ifindex, u8 mode, const be32* sources,
                   u32 count) {
    if (!ipv4_is_multicast(group)) return -EINVAL;
    const i32 dev = ip_mc_find_dev(address, ifindex);
    if (dev <= 0) return dev ? dev : -ENODEV;
    if (mode == MCAST_INCLUDE && count == 0) return ip_mc_leave_group(sk, group, address, ifindex);
    ip_mc_socklist* m = find(sk, group, dev);
    if (!m) return -EINVAL;
    if (count > igmp_max_msf) return -ENOBUFS;
    m->count = 0;
    if (count) std::memcpy(m->sources, sources, count * sizeof(be32));
    m->sfmode = mode;
    m->count = static_cast<u8>(count);
    return 0;
}

int ip_mc_msfget(sock& sk, be32 group, be32 address, i32 ifindex, u8& mode, be32* sources,
                 u32& count) {
    if (!ipv4_is_multicast(group)) return -EINVAL;
    const i32 dev = ip_mc_find_dev(address, ifindex);
    if (dev <= 0) return dev ? dev : -ENODEV;
    const ip_mc_socklist* m = find(sk, group, dev);
    if (!m) return -EADDRNOTAVAIL;
    mode = m->sfmode;
    count = source_count(*m);
    std::memcpy(sources, m->sources, count * sizeof(be32));
    return 0;
}

bool ip_mc_sf_allow(const sock& sk, be32 group, be32 source, i32 ifindex) {
    if (!ipv4_is_multicast(group)) return true;
    const ip_mc_socklist* m = find(sk, group, ifindex);
    // IP_MULTICAST_ALL: a socket that joined nothing hears what others of the host joined.
    if (!m) return inet_test(sk, INET_MC_ALL);
    bool listed = false;
    for (u32 i = 0; i < source_count(*m); ++i) listed |= m->sources[i] == source;
    return listed == (m->sfmode == MCAST_INCLUDE);
}

bool ip_mc_member(const sock& sk, be32 group) { return find(sk, group, lo_ifindex) != nullptr; }

bool ip_mc_any_member(be32 group) {
    for (u32 i = 0, n = cells_committed(REGION_SOCK); i < n; ++i) {
        if (cell_word::state(cell_word_at(REGION_SOCK, i)) != CELL_LIVE) continue;
        const sock* sk = slab_at<sock>(i);
        if (sk && sk->__sk_common.skc_kind == SKC_KIND_SOCK && sk_family(*sk) == AF_INET &&
            ip_mc_member(*sk, group)) {
            return true;
        }
    }
    return false;
}

void ip_mc_visit(const sock& sk, void (*visit)(const ip_mc_socklist&, void*), void* arg) {
    const ip_mc_socklist* const list = list_of(sk);
    for (u32 i = 0; list && i < igmp_max_memberships; ++i) {
        if (list[i].multiaddr) visit(list[i], arg);
    }
}

void ip_mc_drop_socket(sock& sk) {
    extent_free(extent::from_raw(inet_sk(sk).mc_list));
    SOCKSHIM_CRASH_POINT();
    inet_sk(sk).mc_list = 0;
}

void ip_mc_extents(const sock& sk, void (*visit)(extent, void*), void* arg) {
    if (inet_sk(sk).mc_list) visit(extent::from_raw(inet_sk(sk).mc_list), arg);
}

} // namespace sockshim
