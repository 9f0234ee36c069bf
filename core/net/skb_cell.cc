#include "core/net/skb_cell.h"

#include <cstring>

namespace sockshim {

skb_ref skb_ref_of(handle<skb_cell> h) {
    return h ? (h.gen << skb_ref_index_bits) | (h.index + 1) : 0;
}

handle<skb_cell> skb_ref_handle(skb_ref ref) {
    const u32 index_1 = ref & ((1u << skb_ref_index_bits) - 1);
    if (index_1 == 0) return {};
    const handle<skb_cell> h = slab_handle_at<skb_cell>(index_1 - 1);
    return skb_ref_of(h) == ref ? h : handle<skb_cell>{};
}

handle<skb_cell> skb_cell_build(const sk_buff& skb) {
    const u32 len = skb.payload();
    if (len > extent_max_bytes) return {};
    const handle<skb_cell> h = slab_alloc<skb_cell>();
    skb_cell* cell = slab_get(h);
    if (!cell) return {};
    cell->next.store_relaxed(0);
    cell->sk = 0;
    cell->data = {};
    cell->ifindex = 0;
    cell->len = len;
    u8* to = cell->bytes;
    if (len > skb_inline_bytes) {
        const extent e = extent_alloc(len);
        to = e ? extent_data(e) : nullptr;
        if (!to) {
            slab_free(h);
            return {};
        }
        cell->data = e;
    }
    __builtin_memcpy(cell->head, &skb, offsetof(sk_buff, data));
    if (skb.len) __builtin_memcpy(to, skb.data, skb.len);
    if (skb.len2) __builtin_memcpy(to + skb.len, skb.data2, skb.len2);
    return h;
}

bool skb_cell_view(handle<skb_cell> h, sk_buff& skb) {
    const skb_cell* cell = slab_get(h);
    if (!cell) return false;
    __builtin_memcpy(static_cast<void*>(&skb), cell->head, offsetof(sk_buff, data));
    skb.len2 = 0;
    skb.data2 = nullptr;
    // The arena's bytes are not trusted: the length is bounded by the room there is.
    if (cell->data) {
        skb.data = extent_data(cell->data);
        skb.len = min_of(cell->len, extent_bytes(cell->data));
        return skb.data != nullptr;
    }
    skb.data = cell->bytes;
    skb.len = min_of(cell->len, skb_inline_bytes);
    return true;
}

void skb_cell_publish(handle<skb_cell> h) {
    const skb_cell* cell = slab_get(h);
    if (!cell) return;
    if (cell->data) extent_publish(cell->data);
    slab_publish(h);
}

void skb_cell_free(handle<skb_cell> h) {
    skb_cell* cell = slab_get(h);
    if (!cell) return;
    const extent e = cell->data;
    if (e) extent_free(e);
    slab_free(h);
}

} // namespace sockshim
