#include "core/net/net_rx.h"

#include <cerrno>

#include "core/inet/ip.h"
#include "core/net/skb_cell.h"
#include "core/sync/critical.h"

namespace sockshim {

net_rx_stats loopback_stats{};
constinit thread_local u32 sock_locks_held = 0;

namespace {

// struct softnet_data: one per thread. A list through skb_cell.next rather than a ring: a thread that
// sends nothing pays twenty bytes of thread-local storage.
struct softnet_data {
    handle<skb_cell> head;
    handle<skb_cell> tail;
    u32 length;
    bool running;
    // what is being delivered
    const sk_buff* current_skb;
    handle<skb_cell> current;
};
constinit thread_local softnet_data softnet{};

} // namespace

int netif_rx(const sk_buff& skb) {
    critical_enter(); // a signal handler that sends must not meet a half-linked queue
    int err = -ENOBUFS;
    if (softnet.length < netdev_max_backlog) {
        const handle<skb_cell> h = skb_cell_build(skb);
        if (h) {
            if (skb_cell* last = slab_get(softnet.tail)) {
                last->next.store_relaxed(skb_ref_of(h));
            } else {
                softnet.head = h;
            }
            softnet.tail = h;
            ++softnet.length;
            err = 0;
        }
    }
    // Statistics may lose a count between two threads; they are looked at by people.
    if (err) {
        ++loopback_stats.dropped;
    } else {
        ++loopback_stats.packets;
        loopback_stats.bytes += skb.payload();
    }
    critical_leave();
    return err;
}

bool net_rx_pending() { return softnet.length != 0; }

void net_rx_action() {
    if (softnet.length == 0 || softnet.running || sock_locks_held) return;
    critical_enter();
    softnet.running = true;
    while (softnet.length) {
        const handle<skb_cell> h = softnet.head;
        const skb_cell* cell = slab_get(h);
        if (!cell) { // somebody scribbled on the arena: what is behind this link is out of reach
            softnet.head = softnet.tail = {};
            softnet.length = 0;
            break;
        }
        softnet.head = skb_ref_handle(cell->next.load_relaxed());
        if (--softnet.length == 0 || !softnet.head) {
            softnet.head = softnet.tail = {};
            softnet.length = 0;
        }
        sk_buff skb;
        if (!skb_cell_view(h, skb)) continue;
        softnet.current = h;
        softnet.current_skb = &skb;
        ip_rcv(skb);
        softnet.current_skb = nullptr;
        if (softnet.current) skb_cell_free(softnet.current);
    }
    softnet.current = {};
    softnet.running = false;
    critical_leave();
}

handle<skb_cell> net_rx_steal(const sk_buff& skb) {
    if (softnet.current_skb != &skb) return {};
    const handle<skb_cell> h = softnet.current;
    softnet.current = {};
    return h;
}

void net_rx_fork_child() {
    softnet = {};
    sock_locks_held = 0;
}

} // namespace sockshim
