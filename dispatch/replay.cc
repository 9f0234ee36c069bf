#include "dispatch/replay.h"

#include <cstddef>
#include <linux/icmp.h>
#include <linux/net_tstamp.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>

#include "core/base/raw_syscall.h"
#include "core/inet/igmp.h"
#include "core/inet/ip_sockglue_internal.h"
#include "core/net/proto.h"
#include "core/tcp/tcp.h"
#include "core/tcp/tcp_cong.h"
#include "core/trace/trace.h"

namespace sockshim {

namespace {

// An option whose value is a number, and what it is when nobody has set it: that is not replayed, for the
// kernel's own default is its administrator's to choose.
struct replayed_option {
    int level;
    int name;
    i64 preset;
};

// In this order: IP_TOS sets a priority too, and of the time stamps the later kind decides.
constexpr replayed_option replayed[] = {
    {SOL_SOCKET, SO_DEBUG, 0},
    {SOL_SOCKET, SO_REUSEADDR, 0},
    {SOL_SOCKET, SO_REUSEPORT, 0},
    {SOL_SOCKET, SO_KEEPALIVE, 0},
    {SOL_SOCKET, SO_DONTROUTE, 0},
    {SOL_SOCKET, SO_BROADCAST, 0},
    {SOL_SOCKET, SO_OOBINLINE, 0},
    {SOL_SOCKET, SO_NO_CHECK, 0},
    {SOL_SOCKET, SO_RCVLOWAT, 1},
    {SOL_SOCKET, SO_TIMESTAMPING_OLD, 0},
    {SOL_SOCKET, SO_TIMESTAMPING_NEW, 0},
    {SOL_SOCKET, SO_TIMESTAMP_OLD, 0},
    {SOL_SOCKET, SO_TIMESTAMPNS_OLD, 0},
    {SOL_SOCKET, SO_TIMESTAMP_NEW, 0},
    {SOL_SOCKET, SO_TIMESTAMPNS_NEW, 0},
    {SOL_SOCKET, SO_MARK, 0},
    {SOL_SOCKET, SO_RCVMARK, 0},
    {SOL_SOCKET, SO_RXQ_OVFL, 0},
    {SOL_SOCKET, SO_WIFI_STATUS, 0},
    {SOL_SOCKET, SO_PEEK_OFF, -1},
    {SOL_SOCKET, SO_NOFCS, 0},
    {SOL_SOCKET, SO_SELECT_ERR_QUEUE, 0},
    {SOL_SOCKET, SO_BUSY_POLL, 0},
    {SOL_SOCKET, SO_PREFER_BUSY_POLL, 0},
    {SOL_SOCKET, SO_MAX_PACING_RATE, -1},
    {SOL_SOCKET, SO_INCOMING_CPU, -1},
    {SOL_SOCKET, SO_ZEROCOPY, 0},
    {SOL_SOCKET, SO_TXREHASH, 1},
    {SOL_SOCKET, SO_BINDTOIFINDEX, 0},
    {SOL_IP, IP_TOS, 0},
    {SOL_SOCKET, SO_PRIORITY, 0},
    {SOL_IP, IP_RECVERR, 0},
    {SOL_IP, IP_RECVERR_RFC4884, 0},
    {SOL_IP, IP_PKTINFO, 0},
    {SOL_IP, IP_RECVTTL, 0},
    {SOL_IP, IP_RECVTOS, 0},
    {SOL_IP, IP_RECVOPTS, 0},
    {SOL_IP, IP_RETOPTS, 0},
    {SOL_IP, IP_PASSSEC, 0},
    {SOL_IP, IP_RECVORIGDSTADDR, 0},
    {SOL_IP, IP_CHECKSUM, 0},
    {SOL_IP, IP_RECVFRAGSIZE, 0},
    {SOL_IP, IP_FREEBIND, 0},
    {SOL_IP, IP_TRANSPARENT, 0},
    {SOL_IP, IP_NODEFRAG, 0},
    {SOL_IP, IP_MINTTL, 0},
    {SOL_IP, IP_MTU_DISCOVER, IP_PMTUDISC_WANT},
    {SOL_IP, IP_UNICAST_IF, 0},
    {SOL_IP, IP_MULTICAST_TTL, 1},
    {SOL_IP, IP_MULTICAST_LOOP, 1},
    {SOL_IP, IP_MULTICAST_ALL, 1},
    {SOL_IP, IP_BIND_ADDRESS_NO_PORT, 0},
    {SOL_IP, opt_local_port_range, 0},
};
constexpr replayed_option replayed_tcp[] = {
    {SOL_TCP, TCP_NODELAY, 0},
    {SOL_TCP, TCP_CORK, 0},
    {SOL_TCP, TCP_KEEPIDLE, TCP_KEEPALIVE_TIME_S},
    {SOL_TCP, TCP_KEEPINTVL, 75},
    {SOL_TCP, TCP_KEEPCNT, 9},
    {SOL_TCP, TCP_SYNCNT, TCP_SYN_RETRIES},
    {SOL_TCP, TCP_LINGER2, 60},
    {SOL_TCP, TCP_DEFER_ACCEPT, 0},
    {SOL_TCP, TCP_WINDOW_CLAMP, 0},
    {SOL_TCP, TCP_QUICKACK, 1},
    {SOL_TCP, TCP_USER_TIMEOUT, 0},
    {SOL_TCP, TCP_NOTSENT_LOWAT, 0},
    {SOL_TCP, TCP_INQ, 0},
    {SOL_TCP, TCP_THIN_LINEAR_TIMEOUTS, 0},
};
constexpr replayed_option replayed_dgram[] = {
    {SOL_UDP, UDP_CORK, 0},    {SOL_UDP, UDP_NO_CHECK6_TX, 0}, {SOL_UDP, UDP_NO_CHECK6_RX, 0},
    {SOL_UDP, UDP_SEGMENT, 0}, {SOL_UDP, UDP_GRO, 0},
};
constexpr replayed_option replayed_raw[] = {
    {SOL_IP, IP_HDRINCL, 0},
    {SOL_RAW, ICMP_FILTER, 0},
};

void set(int kfd, int level, int name, const void* value, std::size_t len) {
    raw_syscall(SYS_setsockopt, kfd, level, name, ptr_arg(value), static_cast<long>(len));
}

// Asked of our own layers, so that there is one place that knows its value.
void replay(socket& sock, int kfd, const replayed_option& o) {
    u64 value = 0;
    u32 len = sizeof value;
    const int err = o.level == SOL_SOCKET
                        ? sock_getsockopt(sock, o.level, o.name, &value, &len)
                        : ops_of(sock.ops_id).getsockopt(sock, o.level, o.name, &value, &len);
    if (err) return;
    const i64 number = len == sizeof(int) ? static_cast<i32>(value) : static_cast<i64>(value);
    if (number != o.preset) set(kfd, o.level, o.name, &value, len);
}

template <std::size_t n>
void replay_all(socket& sock, int kfd, const replayed_option (&options)[n]) {
    for (const replayed_option& o : options) replay(sock, kfd, o);
}

// Linux's group_filter, with room for as many sources as we keep.
struct source_filter {
    u32 interface;
    sockaddr_storage group;
    u32 mode;
    u32 count;
    sockaddr_storage sources[igmp_max_msf];
};
static_assert(offsetof(source_filter, sources) == offsetof(group_filter, gf_slist));

// Groups on lo: those on other interfaces have made the socket the kernel's before.
void replay_membership(const ip_mc_socklist& m, void* arg) {
    const int kfd = *static_cast<const int*>(arg);
    source_filter filter{};
    auto& group = reinterpret_cast<sockaddr_in&>(filter.group);
    group.sin_family = AF_INET;
    group.sin_addr.s_addr = m.multiaddr;
    group_req join{};
    join.gr_interface = filter.interface = static_cast<u32>(m.ifindex);
    join.gr_group = filter.group;
    set(kfd, SOL_IP, MCAST_JOIN_GROUP, &join, sizeof join);
    filter.mode = m.sfmode;
    filter.count = min_of<u32>(m.count, igmp_max_msf);
    if (m.sfmode == MCAST_EXCLUDE && !filter.count) return;
    for (u32 i = 0; i < filter.count; ++i) {
        auto& source = reinterpret_cast<sockaddr_in&>(filter.sources[i]);
        source.sin_family = AF_INET;
        source.sin_addr.s_addr = m.sources[i];
    }
    set(kfd, SOL_IP, MCAST_MSFILTER, &filter,
        offsetof(source_filter, sources) + filter.count * sizeof(sockaddr_storage));
}

void replay_timeout(int kfd, int name, i64 us) {
    if (us < 0) return;
    const timeval tv{us / 1000000, us % 1000000};
    set(kfd, SOL_SOCKET, name, &tv, sizeof tv);
}

} // namespace

void replay_options(socket& sock, struct sock& sk, int kfd) {
    const u32 way = trace_way_mark();
    const inet_sock& inet = inet_sk(sk);
    replay_all(sock, kfd, replayed);
    if (sock.type == SOCK_STREAM) {
        replay_all(sock, kfd, replayed_tcp);
        if (const int mss = tcp_sk(sk).user_mss) set(kfd, SOL_TCP, TCP_MAXSEG, &mss, sizeof mss);
        if (inet_csk(sk).icsk_ca_setsockopt) {
            const char* const name = tcp_ca_ops(sk).name;
            set(kfd, SOL_TCP, TCP_CONGESTION, name, __builtin_strlen(name));
        }
    } else if (sock.type == SOCK_RAW) {
        replay_all(sock, kfd, replayed_raw);
    } else {
        replay_all(sock, kfd, replayed_dgram);
    }
    if (sk.sk_busy_poll_budget != SK_BUSY_POLL_BUDGET) {
        const int budget = sk.sk_busy_poll_budget;
        set(kfd, SOL_SOCKET, SO_BUSY_POLL_BUDGET, &budget, sizeof budget);
    }
    if (sock_flag(sk, SOCK_TXTIME)) {
        const sock_txtime how{sk.sk_txtime_clockid, sk.sk_txtime_flags};
        set(kfd, SOL_SOCKET, SO_TXTIME, &how, sizeof how);
    }
    if (inet.uc_ttl > 0) {
        const int ttl = inet.uc_ttl;
        set(kfd, SOL_IP, IP_TTL, &ttl, sizeof ttl);
    }
    if (inet.mc_index) {
        const ip_mreqn from{{}, {inet.mc_addr}, inet.mc_index};
        set(kfd, SOL_IP, IP_MULTICAST_IF, &from, sizeof from);
    }
    ip_mc_visit(sk, replay_membership, &kfd);
    // Buffer sizes are stored doubled and only replayed when the program chose them.
    if (sk.sk_userlocks & SOCK_SNDBUF_LOCK) {
        const int v = sk.sk_sndbuf / 2;
        set(kfd, SOL_SOCKET, SO_SNDBUF, &v, sizeof v);
    }
    if (sk.sk_userlocks & SOCK_RCVBUF_LOCK) {
        const int v = sk.sk_rcvbuf / 2;
        set(kfd, SOL_SOCKET, SO_RCVBUF, &v, sizeof v);
    }
    if (sock_flag(sk, SOCK_LINGER)) {
        const linger l{1, sk.sk_lingertime_s};
        set(kfd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
    }
    replay_timeout(kfd, SO_RCVTIMEO, sk.sk_rcvtimeo_us);
    replay_timeout(kfd, SO_SNDTIMEO, sk.sk_sndtimeo_us);
    trace_way_cut(way);
}

} // namespace sockshim
