// The reading half of ip_sockglue.cc (Linux: do_ip_getsockopt).
#include "core/inet/ip_sockglue_internal.h"

#include <cerrno>
#include <cstring>

#include "core/inet/igmp.h"
#include "core/inet/route.h"
#include "core/sync/uaccess.h"
#include "core/trace/trace.h"

namespace sockshim {
namespace {

// 0: no route.
u32 ip_route_mtu(be32 daddr) {
    rtable rt{};
    return ip_route_output(daddr, 0, 0, rt) ? 0 : rt.mtu;
}

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
        const int err = ip_mc_msfget(sk, group->sin_addr.s_addr, 0,
                                     static_cast<i32>(head.gf_interface), mode, sources, count);
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
    trace_way("ip_getsockopt");
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

} // namespace sockshim
