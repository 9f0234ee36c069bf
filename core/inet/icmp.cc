#include "core/inet/icmp.h"

#include <cerrno>
#include <netinet/in.h>

#include "core/inet/ip.h"
#include "core/inet/ping.h"
#include "core/inet/raw.h"
#include "core/inet/route.h"
#include "core/trace/trace.h"
#include "core/wire/icmp.h"

namespace sockshim {
namespace {

struct icmp_err {
    int errnum;
    bool fatal;
};
// RFC 1122, 3.2.2.1: the codes of "destination unreachable" and what Linux makes of them.
constexpr icmp_err icmp_err_convert[] = {
    {ENETUNREACH, false},  // ICMP_NET_UNREACH
    {EHOSTUNREACH, false}, // ICMP_HOST_UNREACH
    {ENOPROTOOPT, true},   // ICMP_PROT_UNREACH
    {ECONNREFUSED, true},  // ICMP_PORT_UNREACH
    {EMSGSIZE, false},     // ICMP_FRAG_NEEDED
    {EOPNOTSUPP, false},   // ICMP_SR_FAILED
    {ENETUNREACH, true},   // ICMP_NET_UNKNOWN
    {EHOSTDOWN, true},     // ICMP_HOST_UNKNOWN
    {ENONET, true},        // ICMP_HOST_ISOLATED
    {ENETUNREACH, true},   // ICMP_NET_ANO
    {EHOSTUNREACH, true},  // ICMP_HOST_ANO
    {ENETUNREACH, false},  // ICMP_NET_UNR_TOS
    {EHOSTUNREACH, false}, // ICMP_HOST_UNR_TOS
    {EHOSTUNREACH, true},  // ICMP_PKT_FILTERED
    {EHOSTUNREACH, true},  // ICMP_PREC_VIOLATION
    {EHOSTUNREACH, true},  // ICMP_PREC_CUTOFF
};

// An error quotes as much of the packet as fits into 576 bytes (RFC 1812, 4.3.2.3), headers included.
constexpr u32 quoted_payload = 576 - 20 - 8 - 20 - 8;

void icmp_echo(const sk_buff& skb) {
    const u8 type = inet_addr_type(skb.daddr);
    // icmp_echo_ignore_broadcasts, on by default.
    if (type == RTN_MULTICAST || type == RTN_BROADCAST) return;
    sk_buff reply{};
    reply.saddr = skb.daddr;
    reply.daddr = skb.saddr;
    reply.protocol = IPPROTO_ICMP;
    reply.tos = skb.tos;
    reply.icmp.type = wire::icmp_echo_reply;
    reply.icmp.id = skb.icmp.id;
    reply.icmp.info = skb.icmp.info;
    reply.data = skb.data;
    reply.len = skb.len;
    reply.data2 = skb.data2;
    reply.len2 = skb.len2;
    static_cast<void>(ip_send_skb(reply));
}

// icmp_socket_deliver.
void deliver_error(const sk_buff& skb) {
    raw_icmp_error(skb);
    if (skb.icmp.orig_protocol == IPPROTO_ICMP) return ping_err(skb);
    const net_protocol* prot = inet_protocol(skb.icmp.orig_protocol);
    if (prot && prot->err_handler) prot->err_handler(skb);
}

} // namespace

int icmp_errno(u8 type, u8 code, bool& fatal) {
    fatal = false;
    switch (type) {
    case wire::icmp_time_exceeded: return EHOSTUNREACH;
    case wire::icmp_parameter_problem: fatal = true; return EPROTO;
    case wire::icmp_dest_unreach:
        if (code >= sizeof icmp_err_convert / sizeof icmp_err_convert[0]) return EHOSTUNREACH;
        fatal = icmp_err_convert[code].fatal;
        return icmp_err_convert[code].errnum;
    default: return 0; // source quench (RFC 6633), redirects: nobody's error
    }
}

void icmp_send(const sk_buff& about, u8 type, u8 code, u32 info) {
    trace_way("icmp_send");
    const u8 to = inet_addr_type(about.daddr);
    if (to == RTN_MULTICAST || to == RTN_BROADCAST || about.saddr == 0) return;
    if (about.protocol == IPPROTO_ICMP && wire::icmp_is_error(about.icmp.type)) return;
    sk_buff skb{};
    skb.saddr = to == RTN_LOCAL ? about.daddr : 0;
    skb.daddr = about.saddr;
    skb.protocol = IPPROTO_ICMP;
    skb.tos =
        static_cast<u8>((about.tos & 0x1e) | 0xc0); // internetwork control (RFC 1812, 4.3.2.5)
    icmp_header h{};
    h.type = type;
    h.code = code;
    h.info = info;
    h.orig_protocol = about.protocol;
    h.orig_saddr = about.saddr;
    h.orig_daddr = about.daddr;
    switch (about.protocol) {
    case IPPROTO_UDP:
        h.orig_source = about.udp.source;
        h.orig_dest = about.udp.dest;
        break;
    case IPPROTO_TCP:
        h.orig_source = about.tcp.source;
        h.orig_dest = about.tcp.dest;
        h.orig_seq = about.tcp.seq;
        break;
    case IPPROTO_ICMP:
        h.orig_source = about.icmp.id;
        h.orig_seq = about.icmp.info;
        break;
    default: break;
    }
    skb.icmp = h;
    skb.data = about.data;
    skb.len = min_of(about.len, quoted_payload);
    skb.data2 = about.data2;
    skb.len2 = min_of(about.len2, quoted_payload - skb.len);
    static_cast<void>(ip_send_skb(skb));
}

void icmp_rcv(const sk_buff& skb) {
    trace_way("icmp_rcv");
    switch (skb.icmp.type) {
    case wire::icmp_echo_request: icmp_echo(skb); break;
    case wire::icmp_echo_reply: ping_rcv(skb); break;
    case wire::icmp_dest_unreach:
    case wire::icmp_time_exceeded:
    case wire::icmp_parameter_problem: deliver_error(skb); break;
    default: break; // RFC 1122, 3.2.2: a message of unknown type is discarded silently
    }
}

} // namespace sockshim
