// Typed cells of the arena.
//
// A cell is claimed by one compare-and-swap that writes the claimer's name into its word, so there is
// no instant at which a killed process can lose one: what is CLAIMED by a dead process is freed by the
// reaper (core/arena/owner.cc). Freeing bumps the generation, which makes every handle to it stale.
// Memory is type-stable: a cell's bytes stay mapped and keep their type after it was freed, so a late
// look at it is harmless and a late lock of it is noticed by validating the handle afterwards.
#pragma once
#include "core/arena/layout.h"

namespace sockshim {

// Which region a type lives in: specialised beside each arena type.
template <class T> struct region_of;

// Claims a cell. Returns its index and generation, gen 0 when the arena is full (-ENOBUFS to the
// caller's caller). The cell's bytes are whatever its last user left there: the caller initialises.
handle<void> cell_alloc(region_id region);
void cell_free(region_id region, handle<void> h);
// CLAIMED to LIVE: from here on the cell outlives its claimer.
void cell_publish(region_id region, handle<void> h);
// Where a region is mapped in this process, and how many of its cells are known to be committed (more may
// be meanwhile).
struct region_map {
    cell_word* words;
    u8* cells;
    a32 known;
};
extern region_map the_regions[REGION_COUNT];

// Null when h is stale, null or out of range.
void* cell_get_learning(region_id region, handle<void> h); // the rare half: not known yet, or null
[[gnu::always_inline]] inline void* cell_get(region_id region, handle<void> h) {
    const region_map& r = the_regions[region];
    if (SOCKSHIM_UNLIKELY(h.gen == 0 || h.index >= r.known.load_relaxed())) {
        return cell_get_learning(region, h);
    }
    const u64 w = r.words[h.index].word.load();
    if (cell_word::gen(w) != h.gen || cell_word::state(w) == CELL_FREE) return nullptr;
    return r.cells + u64{h.index} * region_shapes[region].cell_bytes;
}
// Which cell of its region a pointer got from the functions below is.
u32 cell_index_of(region_id region, const void* cell);
// The cell's bytes regardless of its state; null when the index was never committed.
void* cell_at(region_id region, u32 index);
u64 cell_word_at(region_id region, u32 index);
u32 cells_committed(region_id region);

template <class T> handle<T> slab_alloc() {
    handle<void> h = cell_alloc(region_of<T>::value);
    return {h.index, h.gen};
}
template <class T> void slab_free(handle<T> h) { cell_free(region_of<T>::value, {h.index, h.gen}); }
template <class T> void slab_publish(handle<T> h) {
    cell_publish(region_of<T>::value, {h.index, h.gen});
}
template <class T> T* slab_get(handle<T> h) {
    return static_cast<T*>(cell_get(region_of<T>::value, {h.index, h.gen}));
}
// The handle that names the cell `index` now; null handle when it is free.
template <class T> handle<T> slab_handle_at(u32 index) {
    const u64 w = cell_word_at(region_of<T>::value, index);
    if (cell_word::state(w) == CELL_FREE) return {};
    return {index, cell_word::gen(w)};
}
template <class T> T* slab_at(u32 index) {
    return static_cast<T*>(cell_at(region_of<T>::value, index));
}

} // namespace sockshim
