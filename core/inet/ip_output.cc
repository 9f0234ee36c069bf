#include "core/inet/ip.h"

#include <cerrno>

#include "core/inet/inet_sock.h"
#include "core/inet/loopback.h"
#include "core/inet/route.h"
#include "core/trace/trace.h"

namespace sockshim {

constinit ip_mib ip_statistics{};

namespace {

int ip_output(const sock* sk, const sk_buff& skb) {
    ip_statistics.out_requests.fetch_add(1);
    sk_buff out = skb;
    rtable rt;
    const i32 oif = sk ? sk->__sk_common.skc_bound_dev_if : 0;
    // A packet of a connection that is already up goes from where it came to: saddr is ours by then, and
    // stays so even when the host loses the address.
    int err = ip_route_output(out.daddr, 0, oif, rt);
    if (err) {
        ip_statistics.out_no_routes.fetch_add(1);
        return err;
    }
    if (out.saddr == 0) out.saddr = rt.saddr;
    if (out.tos == 0 && sk) out.tos = inet_sk(*sk).tos;
    if (out.ttl == 0) {
        const i16 uc_ttl = sk ? inet_sk(*sk).uc_ttl : i16{-1};
        const bool multicast = rt.type == RTN_MULTICAST;
        if (multicast) {
            out.ttl = sk ? inet_sk(*sk).mc_ttl : u8{1};
        } else {
            out.ttl = uc_ttl < 0 ? IPDEFTTL : static_cast<u8>(uc_ttl);
        }
    }
    // lo carries what IP can express: nothing is fragmented here.
    if (skb.payload() > rt.dev->mtu) {
        ip_statistics.out_discards.fetch_add(1);
        return -EMSGSIZE;
    }
    err = dev_queue_xmit(*rt.dev, out);
    if (err) ip_statistics.out_discards.fetch_add(1);
    return err;
}

} // namespace

int ip_queue_xmit(sock* sk, const sk_buff& skb) {
    trace_way("ip_queue_xmit");
    return ip_output(sk, skb);
}

int ip_send_skb(const sk_buff& skb) {
    trace_way("ip_send_skb");
    return ip_output(nullptr, skb);
}

} // namespace sockshim
