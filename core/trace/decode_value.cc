// Values with an inside: addresses, socket options, control messages.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <cstring>
#include <linux/errqueue.h>
#include <linux/netlink.h>

#include "core/trace/decode.h"
#include "core/trace/record.h"

namespace sockshim::trace {
namespace {

template <class T> bool take(T& to, const u8* bytes, u32 n) {
    if (n < sizeof to) return false;
    std::memcpy(&to, bytes, sizeof to);
    return true;
}

u16 be16_at(const u8* p) { return static_cast<u16>(p[0] << 8 | p[1]); }

// RFC 5952, the longest run of zeros as "::".
void put_ipv6(text& t, const u8* a) {
    u32 best = 8, best_len = 1;
    for (u32 i = 0; i < 8; ++i) {
        u32 n = 0;
        while (i + n < 8 && !be16_at(a + 2 * (i + n))) ++n;
        if (n > best_len) best = i, best_len = n;
    }
    const bool mapped = best == 0 && best_len == 5 && be16_at(a + 10) == 0xffff;
    for (u32 i = 0; i < 8; ++i) {
        if (i == best) {
            t.puts("::");
            i += best_len - 1;
            continue;
        }
        if (i && i != best + best_len) t.put(':');
        if (mapped && i == 6) {
            put_ipv4(t, a + 12);
            return;
        }
        const u32 word = be16_at(a + 2 * i);
        bool started = false;
        for (int shift = 12; shift >= 0; shift -= 4) {
            const u32 digit = word >> shift & 15;
            if (!digit && !started && shift) continue;
            t.put("0123456789abcdef"[digit]);
            started = true;
        }
    }
}

void put_inet_addr(text& t, const u8* four) {
    t.puts("inet_addr(\"");
    put_ipv4(t, four);
    t.puts("\")");
}

void put_unix_path(text& t, const u8* path, u32 n) {
    if (!n) return;
    t.puts(", sun_path=");
    if (!path[0]) {
        t.put('@').quoted(path + 1, n - 1, false);
        return;
    }
    u32 len = 0;
    while (len < n && path[len]) ++len;
    t.quoted(path, len, false);
}

void put_tcp_info(text& t, const u8* bytes, u32 n) {
    static constexpr const char* states[] = {"0",
                                             "TCP_ESTABLISHED",
                                             "TCP_SYN_SENT",
                                             "TCP_SYN_RECV",
                                             "TCP_FIN_WAIT1",
                                             "TCP_FIN_WAIT2",
                                             "TCP_TIME_WAIT",
                                             "TCP_CLOSE",
                                             "TCP_CLOSE_WAIT",
                                             "TCP_LAST_ACK",
                                             "TCP_LISTEN",
                                             "TCP_CLOSING"};
    tcp_info info{};
    std::memcpy(&info, bytes, min_of<std::size_t>(n, sizeof info));
    t.puts("{tcpi_state=").puts(info.tcpi_state < 12 ? states[info.tcpi_state] : "?");
#define FIELD(name) t.puts(", " #name "=").udec(info.name)
    FIELD(tcpi_ca_state);
    FIELD(tcpi_retransmits);
    FIELD(tcpi_rto);
    FIELD(tcpi_snd_mss);
    FIELD(tcpi_rcv_mss);
    FIELD(tcpi_unacked);
    FIELD(tcpi_rtt);
    FIELD(tcpi_rttvar);
    FIELD(tcpi_snd_ssthresh);
    FIELD(tcpi_snd_cwnd);
    FIELD(tcpi_rcv_space);
    FIELD(tcpi_total_retrans);
#undef FIELD
    t.puts(", ...}");
}

enum option_shape { NUMBER, ERROR, TYPE, LINGER, TIMEVAL, NAME, ADDRESS, MREQ, CRED, INFO };

option_shape shape_of(u64 level, u64 name) {
    if (level == SOL_SOCKET) {
        switch (name) {
        case SO_ERROR: return ERROR;
        case SO_TYPE: return TYPE;
        case SO_LINGER: return LINGER;
        case 20: // SO_RCVTIMEO, SO_SNDTIMEO
        case 21: return TIMEVAL;
        case SO_BINDTODEVICE: return NAME;
        case SO_PEERCRED: return CRED;
        default: return NUMBER;
        }
    }
    if (level == SOL_TCP) {
        if (name == TCP_CONGESTION || name == TCP_ULP) return NAME;
        return name == TCP_INFO ? INFO : NUMBER;
    }
    if (level == SOL_IP) {
        if (name == IP_MULTICAST_IF) return ADDRESS;
        if (name == IP_ADD_MEMBERSHIP || name == IP_DROP_MEMBERSHIP) return MREQ;
    }
    return NUMBER;
}

const char* control_type(u64 level, u64 type) {
    if (level != SOL_SOCKET) return nullptr;
    switch (type) {
    case SCM_RIGHTS: return "SCM_RIGHTS";
    case SCM_CREDENTIALS: return "SCM_CREDENTIALS";
    case 29: return "SCM_TIMESTAMP";
    case 35: return "SCM_TIMESTAMPNS";
    case 37: return "SCM_TIMESTAMPING";
    default: return nullptr;
    }
}

void put_ints(text& t, const u8* bytes, u32 n) {
    t.put('[');
    for (u32 i = 0; i + sizeof(int) <= n; i += sizeof(int)) {
        int v = 0;
        std::memcpy(&v, bytes + i, sizeof v);
        if (i) t.puts(", ");
        t.dec(v);
    }
    t.put(']');
}

void put_control_data(text& t, u64 level, u64 type, const u8* data, u32 n) {
    if (level == SOL_SOCKET && type == SCM_RIGHTS) return put_ints(t, data, n);
    if (level == SOL_SOCKET && type == SCM_CREDENTIALS) {
        ucred c{};
        if (take(c, data, n)) {
            t.puts("{pid=").dec(c.pid).puts(", uid=").udec(c.uid).puts(", gid=").udec(c.gid);
            t.put('}');
            return;
        }
    }
    if (level == SOL_SOCKET && (type == 29 || type == 35)) {
        i64 pair[2];
        if (take(pair, data, n)) {
            t.puts("{tv_sec=").dec(pair[0]).puts(type == 29 ? ", tv_usec=" : ", tv_nsec=");
            t.dec(pair[1]).put('}');
            return;
        }
    }
    if (level == SOL_IP && type == IP_PKTINFO) {
        in_pktinfo p{};
        if (take(p, data, n)) {
            t.puts("{ipi_ifindex=").dec(p.ipi_ifindex).puts(", ipi_spec_dst=");
            put_inet_addr(t, reinterpret_cast<const u8*>(&p.ipi_spec_dst));
            t.puts(", ipi_addr=");
            put_inet_addr(t, reinterpret_cast<const u8*>(&p.ipi_addr));
            t.put('}');
            return;
        }
    }
    if (level == SOL_IP && type == IP_RECVERR) {
        sock_extended_err e{};
        if (take(e, data, n)) {
            t.puts("{ee_errno=").udec(e.ee_errno).puts(", ee_origin=").udec(e.ee_origin);
            t.puts(", ee_type=").udec(e.ee_type).puts(", ee_code=").udec(e.ee_code);
            t.puts(", ee_info=").udec(e.ee_info).puts(", ee_data=").udec(e.ee_data);
            if (n > sizeof e) {
                t.puts(", offender=");
                put_address(t, data + sizeof e, n - static_cast<u32>(sizeof e));
            }
            t.put('}');
            return;
        }
    }
    if (n == 1)
        t.put('[').udec(data[0]).put(']');
    else if (n == sizeof(int))
        put_ints(t, data, n);
    else
        t.quoted(data, min_of(n, preview), n > preview);
}

} // namespace

void put_ipv4(text& t, const u8* four) {
    t.udec(four[0]).put('.').udec(four[1]).put('.').udec(four[2]).put('.').udec(four[3]);
}

void put_protocol(text& t, u64 family, u64 type, u64 protocol) {
    static constexpr named netlink_rows[] = {{NETLINK_ROUTE, "NETLINK_ROUTE"},
                                             {NETLINK_USERSOCK, "NETLINK_USERSOCK"},
                                             {NETLINK_SOCK_DIAG, "NETLINK_SOCK_DIAG"},
                                             {NETLINK_NETFILTER, "NETLINK_NETFILTER"},
                                             {NETLINK_AUDIT, "NETLINK_AUDIT"},
                                             {NETLINK_GENERIC, "NETLINK_GENERIC"},
                                             {NETLINK_KOBJECT_UEVENT, "NETLINK_KOBJECT_UEVENT"}};
    static constexpr name_table netlink{netlink_rows, sizeof netlink_rows / sizeof(named),
                                        "NETLINK_"};
    if (family == AF_NETLINK)
        put_name(t, netlink, protocol);
    else if (family == AF_PACKET || (type & 15) == SOCK_PACKET)
        t.puts("htons(")
            .hex(static_cast<u16>((protocol & 255) << 8 | (protocol >> 8 & 255)))
            .put(')');
    else if (family == AF_INET || family == AF_INET6)
        put_name(t, ip_protocols, protocol);
    else
        t.dec(static_cast<int>(protocol));
}

void put_socket_type(text& t, u64 type) {
    constexpr u64 flags = SOCK_CLOEXEC | SOCK_NONBLOCK;
    put_name(t, socket_types, type & ~flags);
    if (type & flags) {
        t.put('|');
        put_flags(t, socket_type_flags, type & flags);
    }
}

void put_address(text& t, const u8* a, u32 n) {
    u16 family = 0;
    if (!take(family, a, n)) {
        t.quoted(a, n, false);
        return;
    }
    t.puts("{sa_family=");
    put_name(t, families, family);
    if (family == AF_INET && n >= sizeof(sockaddr_in)) {
        t.puts(", sin_port=htons(").udec(be16_at(a + 2)).puts("), sin_addr=");
        put_inet_addr(t, a + 4);
    } else if (family == AF_INET6 && n >= sizeof(sockaddr_in6)) {
        sockaddr_in6 in6;
        std::memcpy(&in6, a, sizeof in6);
        t.puts(", sin6_port=htons(").udec(be16_at(a + 2)).puts("), sin6_flowinfo=htonl(");
        t.udec(__builtin_bswap32(in6.sin6_flowinfo)).puts("), inet_pton(AF_INET6, \"");
        put_ipv6(t, a + 8);
        t.puts("\", &sin6_addr), sin6_scope_id=").udec(in6.sin6_scope_id);
    } else if (family == AF_UNIX) {
        put_unix_path(t, a + 2, n - 2);
    } else if (family == AF_NETLINK && n >= sizeof(sockaddr_nl)) {
        sockaddr_nl nl;
        std::memcpy(&nl, a, sizeof nl);
        t.puts(", nl_pid=").udec(nl.nl_pid).puts(", nl_groups=").hex_digits(nl.nl_groups, 8);
    } else if (n > 2) {
        t.puts(", sa_data=").quoted(a + 2, n - 2, false);
    }
    t.put('}');
}

void put_option_value(text& t, u64 level, u64 name, const u8* b, u32 n, u64 whole) {
    u32 len = 0;
    int v = 0;
    i64 pair[2];
    switch (shape_of(level, name)) {
    case LINGER:
        if (n < sizeof(linger)) break;
        std::memcpy(&v, b, sizeof v);
        t.puts("{l_onoff=").dec(v).puts(", l_linger=");
        std::memcpy(&v, b + sizeof v, sizeof v);
        t.dec(v).put('}');
        return;
    case TIMEVAL:
        if (!take(pair, b, n)) break;
        t.puts("{tv_sec=").dec(pair[0]).puts(", tv_usec=").dec(pair[1]).put('}');
        return;
    case NAME:
        while (len < n && b[len]) ++len;
        t.quoted(b, len, false);
        return;
    case ADDRESS:
        if (n != 4) break;
        put_inet_addr(t, b);
        return;
    case MREQ:
        if (n < 8) break;
        t.puts("{imr_multiaddr=");
        put_inet_addr(t, b);
        t.puts(n >= sizeof(ip_mreqn) ? ", imr_address=" : ", imr_interface=");
        put_inet_addr(t, b + 4);
        if (n >= sizeof(ip_mreqn)) {
            std::memcpy(&v, b + 8, sizeof v);
            t.puts(", imr_ifindex=").dec(v);
        }
        t.put('}');
        return;
    case CRED:
        if (n < sizeof(ucred)) break;
        put_control_data(t, SOL_SOCKET, SCM_CREDENTIALS, b, n);
        return;
    case ERROR:
    case TYPE:
        if (!take(v, b, n)) break;
        t.put('[');
        if (shape_of(level, name) == TYPE)
            put_name(t, socket_types, static_cast<u64>(v));
        else if (v)
            put_error_name(t, v);
        else
            t.put('0');
        t.put(']');
        return;
    case INFO: put_tcp_info(t, b, n); return;
    case NUMBER: break;
    }
    if (n == 1)
        t.put('[').udec(b[0]).put(']');
    else if (n == sizeof v)
        put_ints(t, b, n);
    else
        t.quoted(b, min_of(n, preview), whole > preview);
}

void put_control(text& t, const u8* bytes, u32 n, bool more) {
    t.put('[');
    u32 at = 0;
    while (at + sizeof(cmsghdr) <= n) {
        cmsghdr h;
        std::memcpy(&h, bytes + at, sizeof h);
        if (at) t.puts(", ");
        t.puts("{cmsg_len=").udec(h.cmsg_len).puts(", cmsg_level=");
        put_name(t, sockopt_levels, static_cast<u64>(h.cmsg_level));
        t.puts(", cmsg_type=");
        const u64 level = static_cast<u64>(h.cmsg_level), type = static_cast<u64>(h.cmsg_type);
        if (const char* name = control_type(level, type))
            t.puts(name);
        else
            put_option_name(t, level, type);
        if (h.cmsg_len < sizeof h) {
            t.put('}');
            break;
        }
        const u64 data = h.cmsg_len - sizeof h;
        if (data) {
            t.puts(", cmsg_data=");
            put_control_data(t, level, type, bytes + at + sizeof h,
                             static_cast<u32>(min_of<u64>(data, n - at - sizeof h)));
        }
        t.put('}');
        if (h.cmsg_len > n - at) break;
        at += static_cast<u32>((h.cmsg_len + 7) & ~std::size_t{7});
    }
    if (more) t.puts(", ...");
    t.put(']');
}

} // namespace sockshim::trace
