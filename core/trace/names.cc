// Symbolic names: one table each. Add a row where a name is missing.
#include <csignal>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <linux/errqueue.h>
#include <linux/sockios.h>

#include "core/trace/decode.h"

namespace sockshim::trace {

#define N(name)                                                                                    \
    { static_cast<u64>(name), #name }
// TABLE(variable, prefix of unknown ones, rows)
#define TABLE(variable, prefix, ...)                                                               \
    static constexpr named variable##_rows[] = {__VA_ARGS__};                                      \
    constinit const name_table variable{variable##_rows, sizeof variable##_rows / sizeof(named),   \
                                        prefix};

TABLE(families, "AF_", N(AF_UNSPEC), N(AF_UNIX), N(AF_INET), N(AF_INET6), N(AF_NETLINK),
      N(AF_PACKET), N(AF_BLUETOOTH), N(AF_ALG), N(AF_VSOCK), N(AF_CAN), N(AF_XDP), N(AF_TIPC),
      N(AF_KEY), N(AF_RDS), N(AF_SMC), N(AF_QIPCRTR), N(AF_IPX), N(AF_APPLETALK), N(AF_AX25))
TABLE(socket_types, "SOCK_", N(SOCK_STREAM), N(SOCK_DGRAM), N(SOCK_RAW), N(SOCK_RDM),
      N(SOCK_SEQPACKET), N(SOCK_DCCP), N(SOCK_PACKET))
TABLE(socket_type_flags, "SOCK_", N(SOCK_CLOEXEC), N(SOCK_NONBLOCK))
TABLE(ip_protocols, "IPPROTO_", N(IPPROTO_IP), N(IPPROTO_ICMP), N(IPPROTO_IGMP), N(IPPROTO_IPIP),
      N(IPPROTO_TCP), N(IPPROTO_UDP), N(IPPROTO_DCCP), N(IPPROTO_IPV6), N(IPPROTO_GRE),
      N(IPPROTO_ESP), N(IPPROTO_AH), N(IPPROTO_ICMPV6), N(IPPROTO_SCTP), N(IPPROTO_UDPLITE),
      N(IPPROTO_MPTCP), N(IPPROTO_RAW))
TABLE(message_flags, "MSG_", N(MSG_OOB), N(MSG_PEEK), N(MSG_DONTROUTE), N(MSG_CTRUNC), N(MSG_PROXY),
      N(MSG_TRUNC), N(MSG_DONTWAIT), N(MSG_EOR), N(MSG_WAITALL), N(MSG_FIN), N(MSG_SYN),
      N(MSG_CONFIRM), N(MSG_RST), N(MSG_ERRQUEUE), N(MSG_NOSIGNAL), N(MSG_MORE), N(MSG_WAITFORONE),
      N(MSG_BATCH), N(MSG_ZEROCOPY), N(MSG_FASTOPEN), N(MSG_CMSG_CLOEXEC))
TABLE(shutdown_hows, "SHUT_", N(SHUT_RD), N(SHUT_WR), N(SHUT_RDWR))
TABLE(sockopt_levels, "SOL_", N(SOL_SOCKET), N(SOL_IP), N(SOL_TCP), N(SOL_UDP), N(SOL_IPV6),
      N(SOL_ICMPV6), N(SOL_RAW), N(SOL_PACKET), N(SOL_NETLINK), {132, "SOL_SCTP"}, {282, "SOL_TLS"},
      {284, "SOL_MPTCP"})
TABLE(poll_events, "POLL", N(POLLIN), N(POLLPRI), N(POLLOUT), N(POLLERR), N(POLLHUP), N(POLLNVAL),
      N(POLLRDNORM), N(POLLRDBAND), N(POLLWRNORM), N(POLLWRBAND), N(POLLMSG), N(POLLRDHUP))
TABLE(epoll_events, "EPOLL", N(EPOLLIN), N(EPOLLPRI), N(EPOLLOUT), N(EPOLLERR), N(EPOLLHUP),
      N(EPOLLRDNORM), N(EPOLLRDBAND), N(EPOLLWRNORM), N(EPOLLWRBAND), N(EPOLLMSG), N(EPOLLRDHUP),
      N(EPOLLEXCLUSIVE), N(EPOLLWAKEUP), N(EPOLLONESHOT), N(EPOLLET))
TABLE(epoll_ops, "EPOLL_CTL_", N(EPOLL_CTL_ADD), N(EPOLL_CTL_DEL), N(EPOLL_CTL_MOD))
TABLE(epoll_create_flags, "EPOLL_", N(EPOLL_CLOEXEC))
TABLE(fcntl_commands, "F_", N(F_DUPFD), N(F_GETFD), N(F_SETFD), N(F_GETFL), N(F_SETFL), N(F_GETLK),
      N(F_SETLK), N(F_SETLKW), N(F_SETOWN), N(F_GETOWN), N(F_SETSIG), N(F_GETSIG), N(F_SETOWN_EX),
      N(F_GETOWN_EX), N(F_OFD_GETLK), N(F_OFD_SETLK), N(F_OFD_SETLKW), N(F_SETLEASE), N(F_GETLEASE),
      N(F_NOTIFY), N(F_DUPFD_CLOEXEC), N(F_SETPIPE_SZ), N(F_GETPIPE_SZ), N(F_ADD_SEALS),
      N(F_GET_SEALS))
TABLE(open_flags, "O_", N(O_WRONLY), N(O_RDWR), N(O_CREAT), N(O_EXCL), N(O_APPEND), N(O_NONBLOCK),
      N(O_DSYNC), N(O_ASYNC), N(O_DIRECT), {0100000, "O_LARGEFILE"}, N(O_NOATIME), N(O_CLOEXEC),
      N(O_PATH))
TABLE(ioctl_commands, "", N(FIONREAD), N(FIONBIO), N(FIOASYNC), N(FIOCLEX), N(FIONCLEX),
      N(FIOGETOWN), N(FIOSETOWN), N(SIOCATMARK), N(SIOCGPGRP), N(SIOCSPGRP), N(SIOCOUTQ),
      N(SIOCGIFNAME), N(SIOCGIFCONF), N(SIOCGIFFLAGS), N(SIOCSIFFLAGS), N(SIOCGIFADDR),
      N(SIOCSIFADDR), N(SIOCGIFDSTADDR), N(SIOCGIFBRDADDR), N(SIOCGIFNETMASK), N(SIOCGIFMETRIC),
      N(SIOCGIFMTU), N(SIOCGIFHWADDR), N(SIOCGIFINDEX), N(SIOCETHTOOL), N(TCGETS), N(TCSETS),
      N(TIOCGWINSZ), N(TIOCGPGRP))
TABLE(whences, "SEEK_", N(SEEK_SET), N(SEEK_CUR), N(SEEK_END), N(SEEK_DATA), N(SEEK_HOLE))
TABLE(rw_flags, "RWF_", N(RWF_HIPRI), N(RWF_DSYNC), N(RWF_SYNC), N(RWF_NOWAIT), N(RWF_APPEND))
TABLE(splice_flags, "SPLICE_F_", N(SPLICE_F_MOVE), N(SPLICE_F_NONBLOCK), N(SPLICE_F_MORE),
      N(SPLICE_F_GIFT))
TABLE(close_range_flags, "CLOSE_RANGE_", {2, "CLOSE_RANGE_UNSHARE"}, {4, "CLOSE_RANGE_CLOEXEC"})
TABLE(at_flags, "AT_", N(AT_SYMLINK_NOFOLLOW), N(AT_SYMLINK_FOLLOW), N(AT_NO_AUTOMOUNT),
      N(AT_EMPTY_PATH), N(AT_STATX_FORCE_SYNC), N(AT_STATX_DONT_SYNC))
TABLE(file_types, "S_", N(S_IFSOCK), N(S_IFREG), N(S_IFDIR), N(S_IFCHR), N(S_IFBLK), N(S_IFIFO),
      N(S_IFLNK))
TABLE(signals, "SIG", {1, "HUP"}, {2, "INT"}, {3, "QUIT"}, {4, "ILL"}, {5, "TRAP"}, {6, "ABRT"},
      {7, "BUS"}, {8, "FPE"}, {9, "KILL"}, {10, "USR1"}, {11, "SEGV"}, {12, "USR2"}, {13, "PIPE"},
      {14, "ALRM"}, {15, "TERM"}, {16, "STKFLT"}, {17, "CHLD"}, {18, "CONT"}, {19, "STOP"},
      {20, "TSTP"}, {21, "TTIN"}, {22, "TTOU"}, {23, "URG"}, {24, "XCPU"}, {25, "XFSZ"},
      {26, "VTALRM"}, {27, "PROF"}, {28, "WINCH"}, {29, "IO"}, {30, "PWR"}, {31, "SYS"})

// Socket options by level.
TABLE(socket_options, "SO_", N(SO_DEBUG), N(SO_REUSEADDR), N(SO_TYPE), N(SO_ERROR), N(SO_DONTROUTE),
      N(SO_BROADCAST), N(SO_SNDBUF), N(SO_RCVBUF), N(SO_KEEPALIVE), N(SO_OOBINLINE), N(SO_NO_CHECK),
      N(SO_PRIORITY), N(SO_LINGER), N(SO_BSDCOMPAT), N(SO_REUSEPORT), N(SO_PASSCRED),
      N(SO_PEERCRED), N(SO_RCVLOWAT), N(SO_SNDLOWAT), {20, "SO_RCVTIMEO"}, {21, "SO_SNDTIMEO"},
      N(SO_BINDTODEVICE), N(SO_ATTACH_FILTER), N(SO_DETACH_FILTER), N(SO_PEERNAME),
      {29, "SO_TIMESTAMP"}, N(SO_ACCEPTCONN), N(SO_PEERSEC), N(SO_SNDBUFFORCE), N(SO_PASSSEC),
      {35, "SO_TIMESTAMPNS"}, N(SO_MARK), {37, "SO_TIMESTAMPING"}, N(SO_PROTOCOL), N(SO_DOMAIN),
      N(SO_RXQ_OVFL), N(SO_WIFI_STATUS), N(SO_PEEK_OFF), N(SO_NOFCS), N(SO_LOCK_FILTER),
      N(SO_SELECT_ERR_QUEUE), N(SO_BUSY_POLL), N(SO_MAX_PACING_RATE), N(SO_BPF_EXTENSIONS),
      N(SO_INCOMING_CPU), N(SO_ATTACH_BPF), N(SO_ATTACH_REUSEPORT_CBPF),
      N(SO_ATTACH_REUSEPORT_EBPF), N(SO_CNX_ADVICE), N(SO_MEMINFO), N(SO_INCOMING_NAPI_ID),
      N(SO_COOKIE), N(SO_PEERGROUPS), N(SO_ZEROCOPY), N(SO_TXTIME), N(SO_BINDTOIFINDEX),
      {63, "SO_TIMESTAMP_NEW"}, {64, "SO_TIMESTAMPNS_NEW"}, {66, "SO_RCVTIMEO_NEW"},
      {67, "SO_SNDTIMEO_NEW"}, {68, "SO_DETACH_REUSEPORT_BPF"}, {69, "SO_PREFER_BUSY_POLL"},
      {70, "SO_BUSY_POLL_BUDGET"}, {71, "SO_NETNS_COOKIE"}, {72, "SO_BUF_LOCK"},
      {73, "SO_RESERVE_MEM"}, {76, "SO_PASSPIDFD"}, {77, "SO_PEERPIDFD"})
TABLE(ip_options, "IP_", N(IP_TOS), N(IP_TTL), N(IP_HDRINCL), N(IP_OPTIONS), N(IP_ROUTER_ALERT),
      N(IP_RECVOPTS), N(IP_RETOPTS), N(IP_PKTINFO), {9, "IP_PKTOPTIONS"}, N(IP_MTU_DISCOVER),
      N(IP_RECVERR), N(IP_RECVTTL), N(IP_RECVTOS), N(IP_MTU), N(IP_FREEBIND), N(IP_IPSEC_POLICY),
      N(IP_XFRM_POLICY), N(IP_PASSSEC), N(IP_TRANSPARENT), N(IP_ORIGDSTADDR), N(IP_MINTTL),
      N(IP_NODEFRAG), N(IP_CHECKSUM), N(IP_BIND_ADDRESS_NO_PORT), N(IP_RECVFRAGSIZE),
      {26, "IP_RECVERR_RFC4884"}, N(IP_MULTICAST_IF), N(IP_MULTICAST_TTL), N(IP_MULTICAST_LOOP),
      N(IP_ADD_MEMBERSHIP), N(IP_DROP_MEMBERSHIP), N(IP_UNBLOCK_SOURCE), N(IP_BLOCK_SOURCE),
      N(IP_ADD_SOURCE_MEMBERSHIP), N(IP_DROP_SOURCE_MEMBERSHIP), N(IP_MSFILTER),
      N(MCAST_JOIN_GROUP), N(MCAST_BLOCK_SOURCE), N(MCAST_UNBLOCK_SOURCE), N(MCAST_LEAVE_GROUP),
      N(MCAST_JOIN_SOURCE_GROUP), N(MCAST_LEAVE_SOURCE_GROUP), N(MCAST_MSFILTER),
      N(IP_MULTICAST_ALL), N(IP_UNICAST_IF), {51, "IP_LOCAL_PORT_RANGE"}, {52, "IP_PROTOCOL"})
TABLE(tcp_options, "TCP_", N(TCP_NODELAY), N(TCP_MAXSEG), N(TCP_CORK), N(TCP_KEEPIDLE),
      N(TCP_KEEPINTVL), N(TCP_KEEPCNT), N(TCP_SYNCNT), N(TCP_LINGER2), N(TCP_DEFER_ACCEPT),
      N(TCP_WINDOW_CLAMP), N(TCP_INFO), N(TCP_QUICKACK), N(TCP_CONGESTION), N(TCP_MD5SIG),
      N(TCP_THIN_LINEAR_TIMEOUTS), N(TCP_THIN_DUPACK), N(TCP_USER_TIMEOUT), N(TCP_REPAIR),
      N(TCP_REPAIR_QUEUE), N(TCP_QUEUE_SEQ), N(TCP_REPAIR_OPTIONS), N(TCP_FASTOPEN),
      N(TCP_TIMESTAMP), N(TCP_NOTSENT_LOWAT), N(TCP_CC_INFO), N(TCP_SAVE_SYN), N(TCP_SAVED_SYN),
      N(TCP_REPAIR_WINDOW), N(TCP_FASTOPEN_CONNECT), N(TCP_ULP), N(TCP_MD5SIG_EXT),
      N(TCP_FASTOPEN_KEY), N(TCP_FASTOPEN_NO_COOKIE), N(TCP_ZEROCOPY_RECEIVE), N(TCP_INQ),
      N(TCP_TX_DELAY))
TABLE(udp_options, "UDP_", N(UDP_CORK), N(UDP_ENCAP), N(UDP_NO_CHECK6_TX), N(UDP_NO_CHECK6_RX),
      N(UDP_SEGMENT), N(UDP_GRO))
TABLE(ipv6_options, "IPV6_", N(IPV6_ADDRFORM), N(IPV6_CHECKSUM), N(IPV6_UNICAST_HOPS),
      N(IPV6_MULTICAST_IF), N(IPV6_MULTICAST_HOPS), N(IPV6_MULTICAST_LOOP), N(IPV6_JOIN_GROUP),
      N(IPV6_LEAVE_GROUP), N(IPV6_MTU_DISCOVER), N(IPV6_MTU), N(IPV6_RECVERR), N(IPV6_V6ONLY),
      N(IPV6_RECVPKTINFO), N(IPV6_PKTINFO), N(IPV6_RECVHOPLIMIT), N(IPV6_HOPLIMIT),
      N(IPV6_RECVTCLASS), N(IPV6_TCLASS))
TABLE(raw_options, "ICMP_", {1, "ICMP_FILTER"})
TABLE(no_options, "", {0, ""})

static const name_table& options_of(u64 level) {
    switch (level) {
    case SOL_SOCKET: return socket_options;
    case SOL_IP: return ip_options;
    case SOL_TCP: return tcp_options;
    case SOL_UDP: return udp_options;
    case SOL_IPV6: return ipv6_options;
    case SOL_RAW: return raw_options;
    default: return no_options;
    }
}

const char* find_name(const name_table& table, u64 value) {
    for (u32 i = 0; i < table.n; ++i) {
        if (table.rows[i].value == value) return table.rows[i].name;
    }
    return nullptr;
}

void put_name(text& t, const name_table& table, u64 value) {
    if (const char* name = find_name(table, value)) {
        t.puts(name);
        return;
    }
    t.hex(value);
    if (table.prefix[0]) t.puts(" /* ").puts(table.prefix).puts("??? */");
}

void put_flags(text& t, const name_table& table, u64 value) {
    if (!value) {
        t.put('0');
        return;
    }
    bool first = true;
    for (u32 i = 0; i < table.n; ++i) {
        const named& row = table.rows[i];
        if (!row.value || (value & row.value) != row.value) continue;
        if (!first) t.put('|');
        t.puts(row.name);
        first = false;
        value &= ~row.value;
    }
    if (!value) return;
    if (!first) t.put('|');
    t.hex(value);
    if (first) t.puts(" /* ").puts(table.prefix).puts("??? */");
}

void put_option_name(text& t, u64 level, u64 name) {
    const name_table& table = options_of(level);
    if (table.rows == no_options_rows)
        t.dec(static_cast<int>(name));
    else
        put_name(t, table, name);
}

} // namespace sockshim::trace
