// The roots of the sweep: what each kind of cell refers to, asked of the code that knows it.
#include "core/net/references.h"

#include "core/inet/dgram_sock.h"
#include "core/inet/igmp.h"
#include "core/net/eventpoll.h"
#include "core/net/skb_cell.h"
#include "core/tcp/tcp_sock.h"

namespace sockshim {

namespace {

void mark_extent(extent e, void*) { reference_mark(e); }

template <class T, class Visit> void for_each_live(Visit visit) {
    const u32 n = cells_committed(region_of<T>::value);
    for (u32 i = 0; i < n; ++i) {
        if (T* cell = slab_get(slab_handle_at<T>(i))) visit(*cell);
    }
}

void mark_backlog(const sock& sk) {
    skb_ref ref = sk.sk_backlog.load();
    for (u32 guard = 0; ref && guard < region_shapes[REGION_SKB].max_cells; ++guard) {
        const handle<skb_cell> h = skb_ref_handle(ref);
        const skb_cell* cell = slab_get(h);
        if (!cell) return;
        reference_mark(h);
        ref = cell->next.load();
    }
}

} // namespace

void references_mark_all() {
    for_each_live<sock>([](sock& sk) {
        mark_backlog(sk);
        if (sk.__sk_common.skc_family != AF_INET) return;
        ip_mc_extents(sk, mark_extent, nullptr);
        if (sk_is_dgram(sk)) {
            dgram_sock_extents(sk, mark_extent, nullptr);
        } else if (sk.__sk_common.skc_prot_id == PROT_TCP) {
            reference_mark(tcp_sk(sk).tx_ring);
            reference_mark(tcp_sk(sk).rx_ring);
        }
    });
    for_each_live<stream_ring>([](stream_ring& r) { reference_mark(ring_extent(r)); });
    for_each_live<skb_cell>([](skb_cell& cell) { reference_mark(cell.data); });
    eventpoll_visit_extents(mark_extent, nullptr);
}

} // namespace sockshim
