// Control messages of IP sockets, both ways (Linux: ip_cmsg_send, ip_cmsg_recv, __sock_cmsg_send).
#include "core/inet/ip_sockglue_internal.h"

#include <cerrno>
#include <cstring>
#include <ctime>
#include <netinet/udp.h>

#include <linux/capability.h>

#include "core/inet/route.h"

namespace sockshim {

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
    case SO_PRIORITY: static_cast<void>(sk); return data_len == sizeof(u32) ? 0 : -EINVAL;
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

// for_each_cmsghdr with CMSG_OK: a header that does not fit ends with EINVAL, what `visit` says too.
template <class Visit> static int for_each_cmsghdr(const msghdr_iter& msg, Visit visit) {
    const u32 total = msg.controllen;
    u32 at = 0;
    while (total >= sizeof(cmsghdr) && at <= total - sizeof(cmsghdr)) {
        cmsghdr h;
        std::memcpy(&h, msg.control + at, sizeof h);
        if (h.cmsg_len < sizeof h || h.cmsg_len > total - at) return -EINVAL;
        const u32 n = static_cast<u32>(h.cmsg_len - sizeof h);
        if (const int err = visit(h, msg.control + at + sizeof h, n)) return err;
        at += static_cast<u32>((h.cmsg_len + sizeof(long) - 1) & ~(sizeof(long) - 1));
    }
    return 0;
}

int ip_cmsg_send(sock& sk, const msghdr_iter& msg, ipcm_cookie& ipc, bool udp) {
    return for_each_cmsghdr(msg, [&](const cmsghdr& h, const u8* data, u32 n) {
        if (h.cmsg_level == SOL_SOCKET) return socket_cmsg_send(sk, h, n);
        if (h.cmsg_level == SOL_IP) return ip_level_cmsg_send(h, data, n, ipc);
        if (udp && h.cmsg_level == SOL_UDP) {
            if (h.cmsg_type != UDP_SEGMENT || n != sizeof ipc.gso_size) return -EINVAL;
            std::memcpy(&ipc.gso_size, data, sizeof ipc.gso_size);
        }
        return 0;
    });
}

int sock_cmsg_send(sock& sk, const msghdr_iter& msg) {
    return for_each_cmsghdr(msg, [&](const cmsghdr& h, const u8*, u32 n) {
        return h.cmsg_level == SOL_SOCKET ? socket_cmsg_send(sk, h, n) : 0;
    });
}

static be32 ip_route_source(be32 daddr) {
    rtable rt{};
    return ip_route_output(daddr, 0, 0, rt) ? daddr : rt.saddr;
}

be32 fib_compute_spec_dst(be32 saddr, be32 daddr) {
    const u8 type = inet_addr_type(daddr);
    return type == RTN_MULTICAST || type == RTN_BROADCAST ? ip_route_source(saddr) : daddr;
}

void ip_cmsg_recv(sock& sk, msghdr_iter& msg, const ip_received& packet) {
    const u16 flags = inet_sk(sk).cmsg_flags;
    if (flags & IP_CMSG_PKTINFO) {
        in_pktinfo info{};
        info.ipi_ifindex = packet.ifindex;
        info.ipi_addr.s_addr = packet.daddr;
        info.ipi_spec_dst.s_addr = packet.spec_dst;
        put_cmsg(msg, SOL_IP, IP_PKTINFO, sizeof info, &info);
    }
    if (flags & IP_CMSG_TTL) {
        const int val = packet.ttl;
        put_cmsg(msg, SOL_IP, IP_TTL, sizeof val, &val);
    }
    if (flags & IP_CMSG_TOS) put_cmsg(msg, SOL_IP, IP_TOS, sizeof packet.tos, &packet.tos);
    if (flags & IP_CMSG_ORIGDSTADDR) {
        sockaddr_in sin{};
        sin.sin_family = AF_INET;
        sin.sin_addr.s_addr = packet.daddr;
        sin.sin_port = __builtin_bswap16(packet.dport);
        put_cmsg(msg, SOL_IP, IP_ORIGDSTADDR, sizeof sin, &sin);
    }
    if (flags & cmsg_recvfragsize) {
        const int val = 0; // nothing is fragmented on the way over lo
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
