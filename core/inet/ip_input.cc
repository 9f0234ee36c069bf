// The way in (Linux: ip_rcv, ip_local_deliver, ip_protocol_deliver_rcu in net/ipv4/ip_input.c).
#include "core/inet/ip.h"

#include <cerrno>
#include <linux/icmp.h>

#include "core/inet/icmp.h"
#include "core/inet/raw.h"
#include "core/inet/route.h"
#include "core/inet/udp.h"

namespace sockshim {
namespace {

constinit const net_protocol tcp_protocol = {.handler = tcp_v4_rcv, .err_handler = tcp_v4_err};
constinit const net_protocol udp_protocol = {.handler = udp_rcv, .err_handler = udp_err};
// icmp_rcv itself finds out whom an error is about.
constinit const net_protocol icmp_protocol = {.handler = icmp_rcv, .err_handler = nullptr};

struct protocol_table {
    const net_protocol* at[256];
};
constexpr protocol_table builtin_protocols() {
    protocol_table t{};
    t.at[IPPROTO_TCP] = &tcp_protocol;
    t.at[IPPROTO_UDP] = &udp_protocol;
    t.at[IPPROTO_ICMP] = &icmp_protocol;
    return t;
}
constinit protocol_table inet_protos = builtin_protocols();

bool replace(u8 protocol, const net_protocol* expected, const net_protocol* desired) {
    return __atomic_compare_exchange_n(&inet_protos.at[protocol], &expected, desired, false,
                                       __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE);
}

} // namespace

int inet_add_protocol(const net_protocol& prot, u8 protocol) {
    return replace(protocol, nullptr, &prot) ? 0 : -EEXIST;
}

int inet_del_protocol(const net_protocol& prot, u8 protocol) {
    return replace(protocol, &prot, nullptr) ? 0 : -ENOENT;
}

const net_protocol* inet_protocol(u8 protocol) {
    return __atomic_load_n(&inet_protos.at[protocol], __ATOMIC_ACQUIRE);
}

void ip_rcv(const sk_buff& skb) {
    ip_statistics.in_receives.fetch_add(1);
    // RFC 1122, 3.2.1.3: a source that is a multicast or broadcast address is discarded silently.
    if (ipv4_is_multicast(skb.saddr) || ipv4_is_lbcast(skb.saddr)) {
        ip_statistics.in_hdr_errors.fetch_add(1);
        return;
    }
    // ip_route_input: lo brings nothing that is to be forwarded.
    if (SOCKSHIM_UNLIKELY(!ipv4_is_loopback(skb.daddr)) &&
        inet_addr_type(skb.daddr) == RTN_UNICAST) {
        ip_statistics.in_addr_errors.fetch_add(1);
        return;
    }
    const bool raw = raw_local_deliver(skb);
    if (const net_protocol* prot = inet_protocol(skb.protocol)) {
        ip_statistics.in_delivers.fetch_add(1);
        prot->handler(skb);
    } else if (raw) {
        ip_statistics.in_delivers.fetch_add(1);
    } else {
        ip_statistics.in_unknown_protos.fetch_add(1);
        icmp_send(skb, ICMP_DEST_UNREACH, ICMP_PROT_UNREACH, 0);
    }
}

} // namespace sockshim
