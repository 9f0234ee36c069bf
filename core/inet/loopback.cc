#include "core/inet/loopback.h"

#include <cstring>
#include <linux/sockios.h>
#include <sys/socket.h>

#include "core/base/raw_syscall.h"
#include "core/net/net_rx.h"

namespace sockshim {
namespace {

// loopback_xmit: what is sent is received, on this thread, once it holds no lock. No checksum is made
// or looked at, as in Linux (NETIF_F_HW_CSUM, and ip_summed == CHECKSUM_UNNECESSARY on the way in).
int loopback_xmit(const net_device&, const sk_buff& skb) { return netif_rx(skb); }

constinit const net_device_ops loopback_ops = {.ndo_start_xmit = loopback_xmit};

// An ioctl on a socket of the kernel's that lives no longer than the question.
long host_ifreq(unsigned long request, ifreq& ifr) {
    const long fd = raw_syscall(SYS_socket, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return fd;
    const long err = raw_syscall(SYS_ioctl, fd, static_cast<long>(request), ptr_arg(&ifr));
    raw_syscall(SYS_close, fd);
    return err;
}

} // namespace

constinit const net_device loopback_dev = {
    .name = "lo",
    .ifindex = LOOPBACK_IFINDEX,
    .mtu = 65536,
    .flags = IFF_UP | IFF_LOOPBACK | IFF_RUNNING,
    .netdev_ops = &loopback_ops,
};

const net_device* dev_get_by_index(i32 ifindex) {
    return ifindex == loopback_dev.ifindex ? &loopback_dev : nullptr;
}

const net_device* dev_get_by_name(const char* name) {
    return strncmp(name, loopback_dev.name, IFNAMSIZ) == 0 ? &loopback_dev : nullptr;
}

i32 dev_index_of_name(const char* name) {
    if (const net_device* dev = dev_get_by_name(name)) return dev->ifindex;
    ifreq ifr{};
    strncpy(ifr.ifr_name, name, IFNAMSIZ - 1);
    return host_ifreq(SIOCGIFINDEX, ifr) == 0 ? ifr.ifr_ifindex : 0;
}

bool dev_name_of_index(i32 ifindex, char (&name)[IFNAMSIZ]) {
    if (const net_device* dev = dev_get_by_index(ifindex)) {
        memcpy(name, dev->name, IFNAMSIZ);
        return true;
    }
    ifreq ifr{};
    ifr.ifr_ifindex = ifindex;
    if (host_ifreq(SIOCGIFNAME, ifr) != 0) return false;
    memcpy(name, ifr.ifr_name, IFNAMSIZ);
    return true;
}

int dev_queue_xmit(const net_device& dev, const sk_buff& skb) {
    return dev.netdev_ops->ndo_start_xmit(dev, skb);
}

} // namespace sockshim
