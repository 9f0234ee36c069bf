// The buffer behind a stream_ring: creation, growth, and copies by stream offset.
//
// The ring's fields are shared memory and so untrusted: the size in use is bounded by the extent that
// is really there before a byte is touched, and positions are only ever used masked.
#include "core/tcp/stream_ring.h"

#include <cstring>

#include "core/base/crash_point.h"

namespace sockshim {

inline constexpr u32 ring_first_bytes = 1024; // an idle connection that has talked costs little

namespace {

struct ring_buffer {
    u8* data;
    u32 size; // power of two; 0: none
};

// stream_ring.buf: an extent's raw handle with log2(size) in bits that no cell index needs.
constexpr u32 log2_shift = 20;
constexpr u64 log2_mask = u64{0xff} << log2_shift;
static_assert(region_shapes[REGION_EXTENT_1K].max_cells <= 1u << log2_shift);

u64 pack_buffer(extent e, u32 size) {
    return e.raw() | static_cast<u64>(__builtin_ctz(size)) << log2_shift;
}
extent buffer_extent(u64 word) { return extent::from_raw(word & ~log2_mask); }

ring_buffer ring_buffer_of(const stream_ring& r) {
    const u64 word = r.buf.load();
    if (word == 0) return {nullptr, 0};
    const u32 log2 = (word & log2_mask) >> log2_shift;
    const extent e = buffer_extent(word);
    if (log2 > 31 || (1u << log2) > extent_bytes(e)) return {nullptr, 0};
    u8* data = extent_data(e);
    if (!data) return {nullptr, 0};
    return {data, 1u << log2};
}

u32 pow2_at_least(u64 v) {
    u32 size = ring_first_bytes;
    while (size < v && size < extent_max_bytes) size <<= 1;
    return size;
}

void copy_between(const ring_buffer& from, const ring_buffer& to, u64 offset, u64 end) {
    while (offset < end) {
        const u32 at = static_cast<u32>(offset) & (from.size - 1);
        const u32 into = static_cast<u32>(offset) & (to.size - 1);
        u64 n = min_of<u64>(end - offset, from.size - at);
        n = min_of<u64>(n, to.size - into);
        std::memcpy(to.data + into, from.data + at, n);
        offset += n;
    }
}

} // namespace

handle<stream_ring> ring_create(u64 at, u32 limit) {
    const handle<stream_ring> h = slab_alloc<stream_ring>();
    stream_ring* r = slab_get(h);
    if (!r) return {};
    std::memset(static_cast<void*>(r), 0, sizeof(*r));
    r->tail.store_relaxed(at);
    r->head.store_relaxed(at);
    r->head_seen = at;
    r->tail_seen = at;
    r->limit = limit;
    slab_publish(h);
    return h;
}

void ring_destroy(handle<stream_ring> h) {
    stream_ring* r = slab_get(h);
    if (!r) return;
    ring_release_buffer(*r);
    slab_free(h);
}

u32 ring_grow(stream_ring& r, u64 want_bytes, u64 upto) {
    const ring_buffer old = ring_buffer_of(r);
    const u64 head = r.head.load();
    // Reaching the limit is not an error: the caller looks at the size it got.
    const u64 need = min_of<u64>(upto - head + want_bytes, max_of(r.limit, ring_first_bytes));
    if (old.size >= need) return old.size;
    u32 size = pow2_at_least(need);
    extent e = extent_alloc(size);
    if (!e) return old.size;
    // Extents grow by fours: what has been paid for is used, as far as the limit allows.
    while (size < extent_bytes(e) && size < r.limit) size <<= 1;
    const ring_buffer fresh = {extent_data(e), size};
    if (!fresh.data) return old.size;
    if (old.size) copy_between(old, fresh, head, min_of(upto, head + old.size));
    extent_publish(e);
    const u64 previous = r.buf.load();
    SOCKSHIM_CRASH_POINT();
    r.buf.store(pack_buffer(e, size));
    r.size = size;
    SOCKSHIM_CRASH_POINT();
    if (previous) extent_free(buffer_extent(previous));
    return size;
}

void ring_release_buffer(stream_ring& r) {
    const u64 previous = r.buf.load();
    r.size = 0;
    r.buf.store(0);
    if (previous) extent_free(buffer_extent(previous));
}

extent ring_extent(const stream_ring& r) {
    const u64 word = r.buf.load();
    return word ? buffer_extent(word) : extent{};
}

i64 ring_write_iter(stream_ring& r, u64 offset, u32 n, iov_iter& from) {
    const ring_buffer b = ring_buffer_of(r);
    n = min_of(n, b.size);
    u32 done = 0;
    while (done < n) {
        const u32 at = static_cast<u32>(offset + done) & (b.size - 1);
        const u32 piece = min_of(n - done, b.size - at);
        const i64 got = copy_from_iter(b.data + at, piece, from);
        if (got < 0) return done ? static_cast<i64>(done) : got;
        done += static_cast<u32>(got);
        if (got < static_cast<i64>(piece)) break;
    }
    return done;
}

i64 ring_read_iter(stream_ring& r, u64 offset, u32 n, iov_iter& to) {
    const ring_buffer b = ring_buffer_of(r);
    n = min_of(n, b.size);
    u32 done = 0;
    while (done < n) {
        const u32 at = static_cast<u32>(offset + done) & (b.size - 1);
        const u32 piece = min_of(n - done, b.size - at);
        const i64 put = copy_to_iter(b.data + at, piece, to);
        if (put < 0) return done ? static_cast<i64>(done) : put;
        done += static_cast<u32>(put);
        if (put < static_cast<i64>(piece)) break;
    }
    return done;
}

void ring_write(stream_ring& r, u64 offset, const u8* from, u32 n) {
    const ring_buffer b = ring_buffer_of(r);
    n = min_of(n, b.size);
    if (n == 0) return;
    const u32 at = static_cast<u32>(offset) & (b.size - 1);
    const u32 first = min_of(n, b.size - at);
    std::memcpy(b.data + at, from, first);
    std::memcpy(b.data, from + first, n - first);
}

ring_span ring_peek(const stream_ring& r, u64 offset, u32 n) {
    const ring_buffer b = ring_buffer_of(r);
    n = min_of(n, b.size);
    if (n == 0) return {nullptr, 0, nullptr, 0};
    const u32 at = static_cast<u32>(offset) & (b.size - 1);
    const u32 first = min_of(n, b.size - at);
    return {b.data + at, first, first < n ? b.data : nullptr, n - first};
}

} // namespace sockshim
