// Routing (Linux: net/ipv4/fib_frontend.c, route.c). A network of ours has one device, lo, and delivers
// to local addresses only; what the host's kernel would send elsewhere is dispatch's to hand over.
#pragma once
#include <linux/rtnetlink.h>

#include "core/base/types.h"

namespace sockshim {

struct net_device;

// RTN_LOCAL, RTN_BROADCAST, RTN_MULTICAST or RTN_UNICAST: what the address is to this host. In the default
// network that is what the kernel's local table says (asked at most once a second); 127/8 needs no
// asking.
u8 inet_addr_type(be32 addr);

struct rtable {
    const net_device* dev;
    be32 saddr; // to send from
    u8 type;    // RTN_*
    u16 mtu;
};

// ip_route_output_key. daddr 0 means the host itself (it becomes 127.0.0.1, or saddr), as in Linux;
// saddr 0: choose; oif 0: any. 0; -EINVAL: saddr is no local address; -ENETUNREACH: daddr is not of this
// network; -ENODEV: no such device. On success daddr is the address that was meant.
int ip_route_output(be32& daddr, be32 saddr, i32 oif, rtable& rt);

// Forgets what the kernel said (tests, forked children).
void fib_flush();

} // namespace sockshim
