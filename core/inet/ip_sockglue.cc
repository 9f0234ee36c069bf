#include "core/inet/ip_sockglue.h"

#include <cerrno>
#include <cstring>
#include <ctime>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>

#include <linux/capability.h>

#include "core/base/raw_syscall.h"
#include "core/inet/dgram_sock.h"
#include "core/inet/errqueue.h"
#include "core/inet/igmp.h"
#include "core/inet/route.h"
#include "core/net/handover.h"
#include "core/sync/uaccess.h"

namespace sockshim {
namespace {

// What a route says of an address, 0 where there is none.
u32 ip_route_mtu(be32 daddr) {
    rtable rt{};
    return ip_route_output(daddr, 0, 0, rt) ? 0 : rt.mtu;
}
be32 ip_route_source(be32 daddr) {
    rtable rt{};
    return ip_route_output(daddr, 0, 0, rt) ? daddr : rt.saddr;
}

// Options newer than libc's header.
constexpr int opt_local_port_range = 51;
constexpr int opt_protocol = 52;
// Flags beyond those that the rest of the stack looks at.
constexpr u16 cmsg_passsec = 1u << 6;
constexpr u16 cmsg_checksum = 1u << 7;
constexpr u16 cmsg_recvfragsize = 1u << 8;
constexpr u16 inet_recverr_rfc4884 = 1u << 9;
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

class sock_locked {
  public:
    explicit sock_locked(sock& sk) : sk_(sk) { lock_sock(sk_); }
    ~sock_locked() { release_sock(sk_); }
    sock_locked(const sock_locked&) = delete;
    sock_locked& operator=(const sock_locked&) = delete;

  private:
    sock& sk_;
};

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
    if (copy_from_user(&mreq, optval, min_of<u32>(optlen >= sizeof mreq ? sizeof mreq : sizeof(ip_mreq),
                                                  sizeof mreq))) {
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

const sockaddr_in* as_inet(const sockaddr_storage& ss) {
    return ss.ss_family == AF_INET ? reinterpret_cast<const sockaddr_in*>(&ss) : nullptr;
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

constexpr u32 msfilter_head = offsetof(ip_msfilter, imsf_slist);

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

namespace {

int put_len(u32* optlen, int len) { return put_user(len, optlen); }

// IP_MSFILTER's answer: the head, then as many sources as the caller has room for.
int get_msfilter(sock& sk, void* optval, u32* optlen, int len) {
    ip_msfilter head;
    if (len < static_cast<int>(msfilter_head)) return -EINVAL;
    if (copy_from_user(&head, optval, msfilter_head)) return -EFAULT;
    be32 sources[igmp_max_msf];
    u32 count = 0;
    u8 mode = 0;
    {
        sock_locked lock(sk);
        const int err = ip_mc_msfget(sk, head.imsf_multiaddr.s_addr, head.imsf_interface.s_addr, 0,
                                     mode, sources, count);
        if (err) return err;
    }
    const u32 copied = min_of(count, head.imsf_numsrc);
    head.imsf_fmode = mode;
    head.imsf_numsrc = count;
    if (put_len(optlen, static_cast<int>(msfilter_head + copied * sizeof(be32))) ||
        copy_to_user(optval, &head, msfilter_head) ||
        copy_to_user(static_cast<u8*>(optval) + msfilter_head, sources, copied * sizeof(be32))) {
        return -EFAULT;
    }
    return 0;
}

int get_group_filter(sock& sk, void* optval, u32* optlen, int len) {
    constexpr u32 head_len = offsetof(group_filter, gf_slist);
    group_filter head;
    if (len < static_cast<int>(head_len)) return -EINVAL;
    if (copy_from_user(&head, optval, head_len)) return -EFAULT;
    const sockaddr_in* group = as_inet(head.gf_group);
    if (!group) return -EADDRNOTAVAIL;
    be32 sources[igmp_max_msf];
    u32 count = 0;
    u8 mode = 0;
    {
        sock_locked lock(sk);
        const int err =
            ip_mc_msfget(sk, group->sin_addr.s_addr, 0, static_cast<i32>(head.gf_interface), mode,
                         sources, count);
        if (err) return err;
    }
    const u32 copied = min_of(count, head.gf_numsrc);
    head.gf_fmode = mode;
    head.gf_numsrc = count;
    u8* to = static_cast<u8*>(optval);
    if (put_len(optlen, static_cast<int>(head_len + copied * sizeof(sockaddr_storage))) ||
        copy_to_user(to, &head, head_len)) {
        return -EFAULT;
    }
    for (u32 i = 0; i < copied; ++i) {
        sockaddr_storage one{};
        auto& in = reinterpret_cast<sockaddr_in&>(one);
        in.sin_family = AF_INET;
        in.sin_addr.s_addr = sources[i];
        if (copy_to_user(to + head_len + i * sizeof one, &one, sizeof one)) return -EFAULT;
    }
    return 0;
}

// IP_PKTOPTIONS: what a stream's last packet would have told by control message.
int get_pktoptions(sock& sk, void* optval, u32* optlen, int len) {
    if (sk.sk_type != SOCK_STREAM) return -ENOPROTOOPT;
    const inet_sock& inet = inet_sk(sk);
    alignas(cmsghdr) u8 buffer[128];
    msghdr_iter msg{};
    msg.out_control = buffer;
    msg.out_control_len = static_cast<u32>(min_of<int>(len, sizeof buffer));
    if (inet.cmsg_flags & IP_CMSG_PKTINFO) {
        in_pktinfo info{};
        info.ipi_addr.s_addr = inet.inet_saddr;
        info.ipi_spec_dst.s_addr = inet.inet_saddr;
        info.ipi_ifindex = inet.mc_index;
        put_cmsg(msg, SOL_IP, IP_PKTINFO, sizeof info, &info);
    }
    if (inet.cmsg_flags & IP_CMSG_TTL) {
        const int hlim = inet.mc_ttl;
        put_cmsg(msg, SOL_IP, IP_TTL, sizeof hlim, &hlim);
    }
    if (inet.cmsg_flags & IP_CMSG_TOS) {
        const int tos = inet.rcv_tos;
        put_cmsg(msg, SOL_IP, IP_TOS, sizeof tos, &tos);
    }
    if (copy_to_user(optval, buffer, msg.out_control_used)) return -EFAULT;
    return put_len(optlen, static_cast<int>(msg.out_control_used));
}

// False: not an option that is an int.
bool get_int_option(const sock& sk, int optname, int& val) {
    const inet_sock& inet = inet_sk(sk);
    const auto flag = [&](u16 bit) { return (inet.inet_flags_ & bit) != 0; };
    const auto cmsg = [&](u16 bit) { return (inet.cmsg_flags & bit) != 0; };
    switch (optname) {
    case IP_PKTINFO: val = cmsg(IP_CMSG_PKTINFO); break;
    case IP_RECVTTL: val = cmsg(IP_CMSG_TTL); break;
    case IP_RECVTOS: val = cmsg(IP_CMSG_TOS); break;
    case IP_RECVOPTS: val = cmsg(IP_CMSG_RECVOPTS); break;
    case IP_RETOPTS: val = cmsg(IP_CMSG_RETOPTS); break;
    case IP_PASSSEC: val = cmsg(cmsg_passsec); break;
    case IP_RECVORIGDSTADDR: val = cmsg(IP_CMSG_ORIGDSTADDR); break;
    case IP_CHECKSUM: val = cmsg(cmsg_checksum); break;
    case IP_RECVFRAGSIZE: val = cmsg(cmsg_recvfragsize); break;
    case IP_RECVERR: val = flag(INET_RECVERR); break;
    case IP_RECVERR_RFC4884: val = flag(inet_recverr_rfc4884); break;
    case IP_FREEBIND: val = flag(INET_FREEBIND); break;
    case IP_HDRINCL: val = flag(INET_HDRINCL); break;
    case IP_NODEFRAG: val = flag(INET_NODEFRAG); break;
    case IP_MULTICAST_LOOP: val = flag(INET_MC_LOOP); break;
    case IP_MULTICAST_ALL: val = flag(INET_MC_ALL); break;
    case IP_TRANSPARENT: val = flag(INET_TRANSPARENT); break;
    case IP_BIND_ADDRESS_NO_PORT: val = flag(INET_BIND_ADDRESS_NO_PORT); break;
    case IP_ROUTER_ALERT: val = 0; break;
    case IP_TTL: val = inet.uc_ttl < 0 ? 64 : inet.uc_ttl; break;
    case IP_MINTTL: val = inet.min_ttl; break;
    case IP_MULTICAST_TTL: val = inet.mc_ttl; break;
    case IP_MTU_DISCOVER: val = inet.pmtudisc; break;
    case IP_TOS: val = inet.tos; break;
    case IP_UNICAST_IF:
        val = static_cast<int>(__builtin_bswap32(static_cast<u32>(inet.uc_index)));
        break;
    case opt_local_port_range: val = static_cast<int>(inet.local_port_range); break;
    case opt_protocol: val = sk.__sk_common.skc_num; break;
    default: return false;
    }
    return true;
}

} // namespace

int ip_getsockopt(sock& sk, int level, int optname, void* optval, u32* optlen) {
    if (level != SOL_IP) return -EOPNOTSUPP;
    int len;
    if (get_user(len, optlen)) return -EFAULT;
    if (len < 0) return -EINVAL;
    int val;
    if (!get_int_option(sk, optname, val)) {
        switch (optname) {
        case IP_OPTIONS: return put_len(optlen, 0);
        case IP_MTU:
            // A route is what a connected socket has.
            if (!inet_daddr(sk)) return -ENOTCONN;
            val = static_cast<int>(ip_route_mtu(inet_daddr(sk)));
            if (!val) return -ENOTCONN;
            break;
        case IP_PKTOPTIONS: return get_pktoptions(sk, optval, optlen, len);
        case IP_MULTICAST_IF: {
            const in_addr addr{inet_sk(sk).mc_addr};
            len = min_of<int>(len, sizeof addr);
            if (put_len(optlen, len) ||
                copy_to_user(optval, &addr, static_cast<std::size_t>(len))) {
                return -EFAULT;
            }
            return 0;
        }
        case IP_MSFILTER: return get_msfilter(sk, optval, optlen, len);
        case MCAST_MSFILTER: return get_group_filter(sk, optval, optlen, len);
        default: return -ENOPROTOOPT;
        }
    }
    if (len < static_cast<int>(sizeof(int)) && len > 0 && val >= 0 && val <= 255) {
        const u8 byte = static_cast<u8>(val);
        if (put_len(optlen, 1) || put_user(byte, optval)) return -EFAULT;
        return 0;
    }
    len = min_of<int>(len, sizeof val);
    if (put_len(optlen, len) || copy_to_user(optval, &val, static_cast<std::size_t>(len))) {
        return -EFAULT;
    }
    return 0;
}

void ipcm_init_sk(ipcm_cookie& ipc, const sock& sk) {
    ipc = {};
    ipc.tos = -1;
    ipc.addr = inet_sk(sk).inet_saddr;
    ipc.oif = sk.__sk_common.skc_bound_dev_if;
    ipc.protocol = static_cast<u8>(sk.__sk_common.skc_num);
}

namespace {

// __sock_cmsg_send.
int socket_cmsg_send(sock& sk, const cmsghdr& h, u32 data_len) {
    switch (h.cmsg_type) {
    case SO_MARK:
        if (!net_capable(CAP_NET_RAW) && !net_capable(CAP_NET_ADMIN)) return -EPERM;
        return data_len == sizeof(u32) ? 0 : -EINVAL;
    case SO_TIMESTAMPING: return data_len == sizeof(u32) ? 0 : -EINVAL;
    case SO_TXTIME: return -EINVAL; // SCM_TXTIME needs SO_TXTIME, which has nothing to act on lo
    case SO_PRIORITY:
        static_cast<void>(sk);
        return data_len == sizeof(u32) ? 0 : -EINVAL;
    case SCM_RIGHTS: // silently ignored by IP, as by Linux
    case SCM_CREDENTIALS: return 0;
    default: return -EINVAL;
    }
}

int ip_level_cmsg_send(const cmsghdr& h, const u8* data, u32 n, ipcm_cookie& ipc) {
    int val;
    switch (h.cmsg_type) {
    case IP_RETOPTS: return n > 40 ? -EINVAL : n ? -ENOPROTOOPT : 0;
    case IP_PKTINFO: {
        in_pktinfo info;
        if (n != sizeof info) return -EINVAL;
        std::memcpy(&info, data, sizeof info);
        if (info.ipi_ifindex) ipc.oif = info.ipi_ifindex;
        ipc.addr = info.ipi_spec_dst.s_addr;
        return 0;
    }
    case IP_TTL:
        if (n != sizeof val) return -EINVAL;
        std::memcpy(&val, data, sizeof val);
        if (val < 1 || val > 255) return -EINVAL;
        ipc.ttl = static_cast<i16>(val);
        return 0;
    case IP_TOS:
        if (n == sizeof val) {
            std::memcpy(&val, data, sizeof val);
        } else if (n == 1) {
            val = data[0];
        } else {
            return -EINVAL;
        }
        if (val < 0 || val > 255) return -EINVAL;
        ipc.tos = static_cast<i16>(val);
        return 0;
    case opt_protocol:
        if (n != sizeof val) return -EINVAL;
        std::memcpy(&val, data, sizeof val);
        if (val < 1 || val > 255) return -EINVAL;
        ipc.protocol = static_cast<u8>(val);
        return 0;
    default: return -EINVAL;
    }
}

} // namespace

int ip_cmsg_send(sock& sk, const msghdr_iter& msg, ipcm_cookie& ipc, bool udp) {
    // for_each_cmsghdr with CMSG_OK: a header that does not fit ends with EINVAL.
    const u32 total = msg.controllen;
    u32 at = 0;
    while (total >= sizeof(cmsghdr) && at <= total - sizeof(cmsghdr)) {
        cmsghdr h;
        std::memcpy(&h, msg.control + at, sizeof h);
        if (h.cmsg_len < sizeof h || h.cmsg_len > total - at) return -EINVAL;
        const u32 n = static_cast<u32>(h.cmsg_len - sizeof h);
        const u8* data = msg.control + at + sizeof h;
        int err = 0;
        if (h.cmsg_level == SOL_SOCKET) {
            err = socket_cmsg_send(sk, h, n);
        } else if (h.cmsg_level == SOL_IP) {
            err = ip_level_cmsg_send(h, data, n, ipc);
        } else if (udp && h.cmsg_level == SOL_UDP) {
            if (h.cmsg_type != UDP_SEGMENT || n != sizeof ipc.gso_size) return -EINVAL;
            std::memcpy(&ipc.gso_size, data, sizeof ipc.gso_size);
        }
        if (err) return err;
        at += static_cast<u32>((h.cmsg_len + sizeof(long) - 1) & ~(sizeof(long) - 1));
    }
    return 0;
}

void ip_cmsg_recv(sock& sk, msghdr_iter& msg, be32 saddr, be32 daddr, u16 dport, u8 ttl, u8 tos,
                  u8 ifindex, u32 len) {
    const u16 flags = inet_sk(sk).cmsg_flags;
    if (flags & IP_CMSG_PKTINFO) {
        in_pktinfo info{};
        info.ipi_ifindex = ifindex;
        info.ipi_addr.s_addr = daddr;
        // fib_compute_spec_dst: for a multicast or broadcast, the local address that faces its source.
        const u8 type = inet_addr_type(daddr);
        info.ipi_spec_dst.s_addr =
            type == RTN_MULTICAST || type == RTN_BROADCAST ? ip_route_source(saddr) : daddr;
        put_cmsg(msg, SOL_IP, IP_PKTINFO, sizeof info, &info);
    }
    if (flags & IP_CMSG_TTL) {
        const int val = ttl;
        put_cmsg(msg, SOL_IP, IP_TTL, sizeof val, &val);
    }
    if (flags & IP_CMSG_TOS) put_cmsg(msg, SOL_IP, IP_TOS, sizeof tos, &tos);
    if (flags & IP_CMSG_ORIGDSTADDR) {
        sockaddr_in sin{};
        sin.sin_family = AF_INET;
        sin.sin_addr.s_addr = daddr;
        sin.sin_port = __builtin_bswap16(dport);
        put_cmsg(msg, SOL_IP, IP_ORIGDSTADDR, sizeof sin, &sin);
    }
    if (flags & cmsg_recvfragsize) {
        const int val = 0; // nothing is fragmented on the way over lo
        static_cast<void>(len);
        put_cmsg(msg, SOL_IP, IP_RECVFRAGSIZE, sizeof val, &val);
    }
}

void sock_recv_cmsgs(sock& sk, msghdr_iter& msg, i64 stamp_ns, u32 drops) {
    const u32 flags = sk.sk_flags.load_relaxed();
    if (SOCKSHIM_UNLIKELY(flags & (SOCK_TIMESTAMP | SOCK_RCVTSTAMPNS))) {
        timespec ts;
        if (stamp_ns) {
            ts = {stamp_ns / 1000000000, stamp_ns % 1000000000};
        } else {
            clock_gettime(CLOCK_REALTIME, &ts); // arrived before anybody asked for times
        }
        if (flags & SOCK_RCVTSTAMPNS) {
            put_cmsg(msg, SOL_SOCKET, SO_TIMESTAMPNS, sizeof ts, &ts);
        } else {
            const timeval tv{ts.tv_sec, ts.tv_nsec / 1000};
            put_cmsg(msg, SOL_SOCKET, SO_TIMESTAMP, sizeof tv, &tv);
        }
    }
    if (SOCKSHIM_UNLIKELY((flags & SOCK_RXQ_OVFL) && drops)) {
        put_cmsg(msg, SOL_SOCKET, SO_RXQ_OVFL, sizeof drops, &drops);
    }
}

} // namespace sockshim
