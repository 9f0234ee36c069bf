// Network devices (Linux: struct net_device, drivers/net/loopback.c). A packet leaves IP through its
// device's transmit function; lo's puts it on the thread's receive queue.
#pragma once
#include <net/if.h>

#include "core/net/sk_buff.h"

namespace sockshim {

struct net_device;

struct net_device_ops {
    // Takes a copy. 0 or -errno.
    int (*ndo_start_xmit)(const net_device& dev, const sk_buff& skb);
};

struct net_device {
    char name[IFNAMSIZ];
    i32 ifindex;
    u32 mtu;
    u32 flags; // IFF_*
    const net_device_ops* netdev_ops;
};

inline constexpr i32 LOOPBACK_IFINDEX = 1;
extern const net_device loopback_dev;

const net_device* dev_get_by_index(i32 ifindex); // null: none
const net_device* dev_get_by_name(const char* name);
// Index of an interface, ours or the host kernel's; 0: there is none.
i32 dev_index_of_name(const char* name);
// Name of an interface, ours or the host kernel's. False: there is none.
bool dev_name_of_index(i32 ifindex, char (&name)[IFNAMSIZ]);

int dev_queue_xmit(const net_device& dev, const sk_buff& skb);

} // namespace sockshim
