#include "core/arena/slab.h"

#include <cstring>

#include "core/arena/extent.h"
#include "core/arena/private.h"
#include "core/base/crash_point.h"

namespace sockshim {
namespace {

// Where to look first, per thread: cells that this thread freed last, then a rover. Hints only; a cell
// is anybody's until its word is swapped.
struct slab_hints {
    u32 rover;
    u32 count;
    u32 recent[14];
};
constinit thread_local slab_hints hints[REGION_COUNT]{};

// Cells that a search may look at before it asks for more memory instead.
constexpr u32 search_limit = 256;

bool claim(region_id region, u32 index, handle<void>& out) {
    a64& word = the_arena.words[region][index].word;
    u64 seen = word.load_relaxed();
    if (cell_word::state(seen) != CELL_FREE) return false;
    u32 gen = cell_word::gen(seen) + 1;
    if (gen == 0) gen = 1;
    if (!word.cas(seen, cell_word::make(gen, CELL_CLAIMED, self_proc))) return false;
    out = {index, gen};
    return true;
}

// Commits one more chunk. Two processes may commit the same one; only the count must move once.
bool grow(region_id region) {
    arena_header& h = *the_arena.header;
    const region_shape& shape = region_shapes[region];
    u32 have = h.committed[region].load();
    if (have >= shape.max_cells) return false;
    const u64 bytes = u64{shape.chunk_cells} * shape.cell_bytes;
    if (h.committed_bytes.load() + bytes > h.max_bytes.load()) return false;
    const u64 words_at = region_offset(region) + u64{have} * sizeof(cell_word);
    const u64 cells_at =
        region_offset(region) + region_words_bytes(region) + u64{have} * shape.cell_bytes;
    if (arena_commit(words_at, shape.chunk_cells * sizeof(cell_word)) ||
        arena_commit(cells_at, bytes)) {
        return false;
    }
    if (h.committed[region].cas(have, have + shape.chunk_cells)) h.committed_bytes.fetch_add(bytes);
    return true;
}

} // namespace

u32 cells_committed(region_id region) {
    return min_of(the_arena.header->committed[region].load(), region_shapes[region].max_cells);
}

handle<void> cell_alloc(region_id region) {
    slab_hints& hint = hints[region];
    handle<void> h{};
    while (hint.count) {
        const u32 index = hint.recent[--hint.count];
        if (index < cells_committed(region) && claim(region, index, h)) return h;
    }
    for (;;) {
        const u32 committed = cells_committed(region);
        const u32 looks = min_of(committed, search_limit);
        for (u32 i = 0; i < looks; ++i) {
            if (hint.rover >= committed) hint.rover = 0;
            if (claim(region, hint.rover++, h)) return h;
        }
        if (!grow(region)) {
            // Full, or no memory: only now is a look at every cell worth its time.
            for (u32 i = 0; i < committed; ++i) {
                if (claim(region, i, h)) return h;
            }
            return {};
        }
        hint.rover = committed;
    }
}

void cell_free(region_id region, handle<void> h) {
    if (h.gen == 0 || h.index >= cells_committed(region)) return;
    a64& word = the_arena.words[region][h.index].word;
    u64 seen = word.load();
    // Only the one who frees this generation frees the cell.
    if (cell_word::gen(seen) != h.gen || cell_word::state(seen) == CELL_FREE) return;
    SOCKSHIM_CRASH_POINT();
    if (!word.cas(seen, cell_word::make(h.gen, CELL_FREE, 0))) return;
    slab_hints& hint = hints[region];
    if (hint.count < sizeof hint.recent / sizeof hint.recent[0]) hint.recent[hint.count++] = h.index;
}

void cell_publish(region_id region, handle<void> h) {
    if (h.gen == 0 || h.index >= cells_committed(region)) return;
    SOCKSHIM_CRASH_POINT();
    the_arena.words[region][h.index].word.store(cell_word::make(h.gen, CELL_LIVE, self_proc));
    SOCKSHIM_CRASH_POINT();
}

void* cell_get(region_id region, handle<void> h) {
    if (h.gen == 0 || h.index >= cells_committed(region)) return nullptr;
    const u64 w = the_arena.words[region][h.index].word.load();
    if (cell_word::gen(w) != h.gen || cell_word::state(w) == CELL_FREE) return nullptr;
    return the_arena.cells[region] + u64{h.index} * region_shapes[region].cell_bytes;
}

void* cell_at(region_id region, u32 index) {
    if (index >= cells_committed(region)) return nullptr;
    return the_arena.cells[region] + u64{index} * region_shapes[region].cell_bytes;
}

u64 cell_word_at(region_id region, u32 index) {
    if (index >= cells_committed(region)) return 0;
    return the_arena.words[region][index].word.load();
}

u32 cell_index_of(region_id region, const void* cell) {
    const auto at = static_cast<const u8*>(cell) - the_arena.cells[region];
    return static_cast<u32>(static_cast<u64>(at) / region_shapes[region].cell_bytes);
}

void cells_free_claimed_by(proc_id id) {
    for (u32 r = 0; r < REGION_COUNT; ++r) {
        const u32 committed = cells_committed(static_cast<region_id>(r));
        for (u32 i = 0; i < committed; ++i) {
            const u64 w = the_arena.words[r][i].word.load_relaxed();
            if (cell_word::state(w) == CELL_CLAIMED && cell_word::owner(w) == id) {
                cell_free(static_cast<region_id>(r), {i, cell_word::gen(w)});
            }
        }
    }
}

extent extent_alloc(u32 bytes) {
    if (bytes > extent_max_bytes) return {};
    u32 cls = 0;
    while ((1024u << (2 * cls)) < bytes) ++cls;
    const handle<void> h = cell_alloc(static_cast<region_id>(REGION_EXTENT_1K + cls));
    return h.gen ? extent{h.index | cls << 28, h.gen} : extent{};
}

static region_id extent_region(extent e) {
    return static_cast<region_id>(REGION_EXTENT_1K + extent_class_of(e));
}

void extent_publish(extent e) { cell_publish(extent_region(e), {e.index & 0xfffffff, e.gen}); }

void extent_free(extent e) { cell_free(extent_region(e), {e.index & 0xfffffff, e.gen}); }

u8* extent_data(extent e) {
    return static_cast<u8*>(cell_get(extent_region(e), {e.index & 0xfffffff, e.gen}));
}

} // namespace sockshim
