#include "core/inet/ip_sockglue_internal.h"

#include <cerrno>
#include <cstring>

#include <linux/capability.h>

#include "core/base/raw_syscall.h"
#include "core/inet/dgram_sock.h"
#include "core/inet/igmp.h"
#include "core/inet/route.h"
#include "core/net/handover.h"
#include "core/sync/uaccess.h"
#include "core/trace/trace.h"

namespace sockshim {
namespace {

constexpr u8 ect_mask = 3; // INET_ECN_MASK

// An int, or one byte of one (Linux accepts both for these options).
constexpr bool takes_int(int optname) {
    switch (optname) {
    case IP_PKTINFO:
    case IP_RECVTTL:
    case IP_RECVOPTS:
    case IP_RECVTOS:
    case IP_RETOPTS:
    case IP_TOS:
    case IP_TTL:
    case IP_HDRINCL:
    case IP_MTU_DISCOVER:
    case IP_RECVERR:
    case IP_ROUTER_ALERT:
    case IP_FREEBIND:
    case IP_PASSSEC:
    case IP_TRANSPARENT:
    case IP_MINTTL:
    case IP_NODEFRAG:
    case IP_BIND_ADDRESS_NO_PORT:
    case IP_UNICAST_IF:
    case IP_MULTICAST_TTL:
    case IP_MULTICAST_ALL:
    case IP_MULTICAST_LOOP:
    case IP_RECVORIGDSTADDR:
    case IP_CHECKSUM:
    case IP_RECVFRAGSIZE:
    case IP_RECVERR_RFC4884:
    case opt_local_port_range: return true;
    default: return false;
    }
}

// ip_tos2prio: the class of service that a TOS asks for.
u32 tos_priority(u8 tos) {
    constexpr u8 prio[4] = {0 /* best effort */, 2 /* bulk */, 6 /* interactive */,
                            4 /* interactive bulk */};
    return prio[(tos & 0x1e) >> 3];
}

void assign(u16& flags, u16 bit, bool on) {
    flags = static_cast<u16>(on ? flags | bit : flags & ~bit);
}

int set_multicast_if(sock& sk, const void* optval, u32 optlen) {
    inet_sock& inet = inet_sk(sk);
    if (sk.sk_type == SOCK_STREAM || optlen < sizeof(in_addr)) return -EINVAL;
    ip_mreqn mreq{};
    if (optlen >= sizeof(ip_mreqn)) {
        if (copy_from_user(&mreq, optval, sizeof(ip_mreqn))) return -EFAULT;
    } else if (optlen >= sizeof(ip_mreq)) {
        if (copy_from_user(&mreq, optval, sizeof(ip_mreq))) return -EFAULT;
    } else if (copy_from_user(&mreq.imr_address, optval, sizeof(in_addr))) {
        return -EFAULT;
    }
    if (!mreq.imr_ifindex && mreq.imr_address.s_addr == INADDR_ANY) {
        inet.mc_index = 0;
        inet.mc_addr = 0;
        return 0;
    }
    const i32 dev = ip_mc_find_dev(mreq.imr_address.s_addr, mreq.imr_ifindex);
    if (dev <= 0) return dev ? dev : -EADDRNOTAVAIL;
    mreq.imr_ifindex = dev;
    const i32 bound = sk.__sk_common.skc_bound_dev_if;
    if (bound && bound != mreq.imr_ifindex) return -EINVAL;
    inet.mc_index = mreq.imr_ifindex;
    inet.mc_addr = mreq.imr_address.s_addr;
    return 0;
}

int set_membership(sock& sk, int optname, const void* optval, u32 optlen) {
    if (inet_test(sk, INET_IS_ICSK)) return -EPROTO;
    ip_mreqn mreq{};
    if (optlen < sizeof(ip_mreq)) return -EINVAL;
    if (copy_from_user(
            &mreq, optval,
            min_of<u32>(optlen >= sizeof mreq ? sizeof mreq : sizeof(ip_mreq), sizeof mreq))) {
        return -EFAULT;
    }
    const be32 group = mreq.imr_multiaddr.s_addr, address = mreq.imr_address.s_addr;
    return optname == IP_ADD_MEMBERSHIP
               ? ip_mc_join_group(sk, group, address, mreq.imr_ifindex, MCAST_EXCLUDE)
               : ip_mc_leave_group(sk, group, address, mreq.imr_ifindex);
}

int change_source(sock& sk, int optname, be32 group, be32 address, i32 ifindex, be32 source) {
    switch (optname) {
    case IP_BLOCK_SOURCE:
    case MCAST_BLOCK_SOURCE:
        return ip_mc_source(sk, true, MCAST_EXCLUDE, group, address, ifindex, source);
    case IP_UNBLOCK_SOURCE:
    case MCAST_UNBLOCK_SOURCE:
        return ip_mc_source(sk, false, MCAST_EXCLUDE, group, address, ifindex, source);
    case IP_ADD_SOURCE_MEMBERSHIP:
    case MCAST_JOIN_SOURCE_GROUP: {
        const int err = ip_mc_join_group(sk, group, address, ifindex, MCAST_INCLUDE);
        if (err && err != -EADDRINUSE) return err;
        return ip_mc_source(sk, true, MCAST_INCLUDE, group, address, ifindex, source);
    }
    default: return ip_mc_source(sk, false, MCAST_INCLUDE, group, address, ifindex, source);
    }
}

int set_source(sock& sk, int optname, const void* optval, u32 optlen) {
    ip_mreq_source mreqs;
    if (optlen != sizeof mreqs) return -EINVAL;
    if (copy_from_user(&mreqs, optval, sizeof mreqs)) return -EFAULT;
    return change_source(sk, optname, mreqs.imr_multiaddr.s_addr, mreqs.imr_interface.s_addr, 0,
                         mreqs.imr_sourceaddr.s_addr);
}

int set_mcast_group(sock& sk, int optname, const void* optval, u32 optlen) {
    group_req greq;
    if (optlen < sizeof greq) return -EINVAL;
    if (copy_from_user(&greq, optval, sizeof greq)) return -EFAULT;
    const sockaddr_in* group = as_inet(greq.gr_group);
    if (!group) return -EINVAL;
    const i32 ifindex = static_cast<i32>(greq.gr_interface);
    return optname == MCAST_JOIN_GROUP
               ? ip_mc_join_group(sk, group->sin_addr.s_addr, 0, ifindex, MCAST_EXCLUDE)
               : ip_mc_leave_group(sk, group->sin_addr.s_addr, 0, ifindex);
}

int set_mcast_source(sock& sk, int optname, const void* optval, u32 optlen) {
    group_source_req greqs;
    if (optlen != sizeof greqs) return -EINVAL;
    if (copy_from_user(&greqs, optval, sizeof greqs)) return -EFAULT;
    const sockaddr_in* group = as_inet(greqs.gsr_group);
    const sockaddr_in* source = as_inet(greqs.gsr_source);
    if (!group || !source) return -EADDRNOTAVAIL;
    return change_source(sk, optname, group->sin_addr.s_addr, 0,
                         static_cast<i32>(greqs.gsr_interface), source->sin_addr.s_addr);
}

int set_msfilter(sock& sk, const void* optval, u32 optlen) {
    struct {
        be32 multiaddr, interface;
        u32 fmode, numsrc;
        be32 sources[igmp_max_msf];
    } f;
    static_assert(offsetof(decltype(f), sources) == msfilter_head);
    if (optlen < msfilter_head) return -EINVAL;
    if (copy_from_user(&f, optval, min_of<u32>(optlen, sizeof f))) return -EFAULT;
    if (f.numsrc > igmp_max_msf) return -ENOBUFS;
    if (msfilter_head + f.numsrc * sizeof(be32) > optlen) return -EINVAL;
    if (f.fmode != MCAST_INCLUDE && f.fmode != MCAST_EXCLUDE) return -EINVAL;
    return ip_mc_msfilter(sk, f.multiaddr, f.interface, 0, static_cast<u8>(f.fmode), f.sources,
                          f.numsrc);
}

int set_group_filter(sock& sk, const void* optval, u32 optlen) {
    constexpr u32 head = offsetof(group_filter, gf_slist);
    struct {
        alignas(group_filter) u8 bytes[head];
        sockaddr_storage list[igmp_max_msf];
    } f;
    if (optlen < head) return -EINVAL;
    if (copy_from_user(&f, optval, min_of<u32>(optlen, head + sizeof f.list))) return -EFAULT;
    group_filter gf{};
    std::memcpy(&gf, f.bytes, head);
    if (gf.gf_numsrc > igmp_max_msf) return -ENOBUFS;
    if (head + gf.gf_numsrc * sizeof(sockaddr_storage) > optlen) return -EINVAL;
    const sockaddr_in* group = as_inet(gf.gf_group);
    if (!group) return -EINVAL;
    be32 sources[igmp_max_msf];
    const auto* list = reinterpret_cast<const u8*>(&f) + head;
    for (u32 i = 0; i < gf.gf_numsrc; ++i) {
        sockaddr_in source;
        std::memcpy(&source, list + i * sizeof(sockaddr_storage), sizeof source);
        if (source.sin_family != AF_INET) return -EADDRNOTAVAIL;
        sources[i] = source.sin_addr.s_addr;
    }
    if (gf.gf_fmode != MCAST_INCLUDE && gf.gf_fmode != MCAST_EXCLUDE) return -EINVAL;
    return ip_mc_msfilter(sk, group->sin_addr.s_addr, 0, static_cast<i32>(gf.gf_interface),
                          static_cast<u8>(gf.gf_fmode), sources, gf.gf_numsrc);
}

int set_tos(sock& sk, int val) {
    inet_sock& inet = inet_sk(sk);
    u8 tos = static_cast<u8>(val);
    // TCP's ECN bits are TCP's own business.
    if (sk.sk_type == SOCK_STREAM) {
        tos = static_cast<u8>((tos & ~ect_mask) | (inet.tos & ect_mask));
    }
    if (inet.tos != tos) {
        inet.tos = tos;
        sk.sk_priority = tos_priority(tos);
    }
    return 0;
}

int set_int_option(sock& sk, int optname, int val, u32 optlen) {
    inet_sock& inet = inet_sk(sk);
    u16& flags = inet.inet_flags_;
    u16& cmsgs = inet.cmsg_flags;
    switch (optname) {
    case IP_RECVERR:
        assign(flags, INET_RECVERR, val);
        if (!val && sk_is_dgram(sk)) errqueue_purge(dgram_sk(sk).errq);
        return 0;
    case IP_RECVERR_RFC4884:
        if (val < 0 || val > 1) return -EINVAL;
        assign(flags, inet_recverr_rfc4884, val);
        return 0;
    case IP_PKTINFO: assign(cmsgs, IP_CMSG_PKTINFO, val); return 0;
    case IP_RECVTTL: assign(cmsgs, IP_CMSG_TTL, val); return 0;
    case IP_RECVTOS: assign(cmsgs, IP_CMSG_TOS, val); return 0;
    case IP_RECVOPTS: assign(cmsgs, IP_CMSG_RECVOPTS, val); return 0;
    case IP_RETOPTS: assign(cmsgs, IP_CMSG_RETOPTS, val); return 0;
    case IP_PASSSEC: assign(cmsgs, cmsg_passsec, val); return 0;
    case IP_RECVORIGDSTADDR: assign(cmsgs, IP_CMSG_ORIGDSTADDR, val); return 0;
    case IP_CHECKSUM: assign(cmsgs, cmsg_checksum, val); return 0;
    case IP_RECVFRAGSIZE:
        if (sk.sk_type != SOCK_RAW && sk.sk_type != SOCK_DGRAM) return -EINVAL;
        assign(cmsgs, cmsg_recvfragsize, val);
        return 0;
    case IP_FREEBIND:
        if (optlen < 1) return -EINVAL;
        assign(flags, INET_FREEBIND, val);
        return 0;
    case IP_HDRINCL:
        if (sk.sk_type != SOCK_RAW) return -ENOPROTOOPT;
        assign(flags, INET_HDRINCL, val);
        return 0;
    case IP_NODEFRAG:
        if (sk.sk_type != SOCK_RAW) return -ENOPROTOOPT;
        assign(flags, INET_NODEFRAG, val);
        return 0;
    case IP_MULTICAST_LOOP:
        if (optlen < 1) return -EINVAL;
        assign(flags, INET_MC_LOOP, val);
        return 0;
    case IP_MULTICAST_ALL:
        if (optlen < 1 || (val != 0 && val != 1)) return -EINVAL;
        assign(flags, INET_MC_ALL, val);
        return 0;
    case IP_TRANSPARENT:
        if (val && !net_capable(CAP_NET_RAW) && !net_capable(CAP_NET_ADMIN)) return -EPERM;
        if (optlen < 1) return -EINVAL;
        assign(flags, INET_TRANSPARENT, val);
        return 0;
    case IP_BIND_ADDRESS_NO_PORT: assign(flags, INET_BIND_ADDRESS_NO_PORT, val); return 0;
    case IP_TTL:
        if (optlen < 1 || (val != -1 && (val < 1 || val > 255))) return -EINVAL;
        inet.uc_ttl = static_cast<i16>(val);
        return 0;
    case IP_MINTTL:
        if (optlen < 1 || val < 0 || val > 255) return -EINVAL;
        inet.min_ttl = static_cast<u8>(val);
        return 0;
    case IP_MULTICAST_TTL:
        if (sk.sk_type == SOCK_STREAM || optlen < 1) return -EINVAL;
        if (val == -1) val = 1;
        if (val < 0 || val > 255) return -EINVAL;
        inet.mc_ttl = static_cast<u8>(val);
        return 0;
    case IP_MTU_DISCOVER:
        if (val < IP_PMTUDISC_DONT || val > IP_PMTUDISC_OMIT) return -EINVAL;
        inet.pmtudisc = static_cast<u8>(val);
        return 0;
    case IP_TOS: return set_tos(sk, val);
    case IP_UNICAST_IF: {
        if (optlen != sizeof(int)) return -EINVAL;
        const i32 ifindex = static_cast<i32>(__builtin_bswap32(static_cast<u32>(val)));
        if (ifindex == 0) {
            inet.uc_index = 0;
            return 0;
        }
        const i32 dev = ip_mc_find_dev(0, ifindex);
        if (dev <= 0) return dev ? dev : -EADDRNOTAVAIL;
        if (sk.__sk_common.skc_bound_dev_if) return -EINVAL;
        inet.uc_index = ifindex;
        return 0;
    }
    case opt_local_port_range: {
        if (optlen != sizeof(u32)) return -EINVAL;
        const u16 low = static_cast<u16>(val), high = static_cast<u16>(static_cast<u32>(val) >> 16);
        if (low && high && low > high) return -EINVAL;
        inet.local_port_range = static_cast<u32>(val);
        return 0;
    }
    case IP_ROUTER_ALERT:
        if (sk.sk_type != SOCK_RAW || inet_num(sk) == IPPROTO_RAW) return -EINVAL;
        return -ENOPROTOOPT;
    default: return -ENOPROTOOPT;
    }
}

} // namespace

bool net_capable(int cap) {
    if (!network_hands_over()) return true; // a virtual network is everybody's own
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2]{};
    if (raw_syscall(SYS_capget, ptr_arg(&header), ptr_arg(data)) < 0) return false;
    return data[cap >> 5].effective & (1u << (cap & 31));
}

int ip_setsockopt(sock& sk, int level, int optname, const void* optval, u32 optlen) {
    trace_way("ip_setsockopt");
    if (level != SOL_IP) return -ENOPROTOOPT;
    if (takes_int(optname)) {
        int val = 0;
        if (optlen >= sizeof(int)) {
            if (get_user(val, optval)) return -EFAULT;
        } else if (optlen >= 1) {
            u8 byte;
            if (get_user(byte, optval)) return -EFAULT;
            val = byte;
        }
        sock_locked lock(sk);
        return set_int_option(sk, optname, val, optlen);
    }
    sock_locked lock(sk);
    switch (optname) {
    case IP_OPTIONS:
        if (optlen > 40) return -EINVAL;
        return optlen ? -ENOPROTOOPT : 0; // options in the header are not carried
    case IP_MULTICAST_IF: return set_multicast_if(sk, optval, optlen);
    case IP_ADD_MEMBERSHIP:
    case IP_DROP_MEMBERSHIP: return set_membership(sk, optname, optval, optlen);
    case IP_BLOCK_SOURCE:
    case IP_UNBLOCK_SOURCE:
    case IP_ADD_SOURCE_MEMBERSHIP:
    case IP_DROP_SOURCE_MEMBERSHIP: return set_source(sk, optname, optval, optlen);
    case MCAST_JOIN_GROUP:
    case MCAST_LEAVE_GROUP: return set_mcast_group(sk, optname, optval, optlen);
    case MCAST_BLOCK_SOURCE:
    case MCAST_UNBLOCK_SOURCE:
    case MCAST_JOIN_SOURCE_GROUP:
    case MCAST_LEAVE_SOURCE_GROUP: return set_mcast_source(sk, optname, optval, optlen);
    case IP_MSFILTER: return set_msfilter(sk, optval, optlen);
    case MCAST_MSFILTER: return set_group_filter(sk, optval, optlen);
    case IP_IPSEC_POLICY:
    case IP_XFRM_POLICY: return net_capable(CAP_NET_ADMIN) ? -ENOPROTOOPT : -EPERM;
    default: return -ENOPROTOOPT;
    }
}

} // namespace sockshim
