#include "core/arena/slab.h"

#include <cstring>
#include <ctime>

#include "core/arena/extent.h"
#include "core/arena/private.h"
#include "core/base/crash_point.h"

namespace sockshim {

constinit region_map the_regions[REGION_COUNT]{};

namespace {

// Where to look first, per thread: cells that this thread freed last, then a rover. Hints only; a cell
// is anybody's until its word is swapped.
struct slab_hints {
    u32 rover;
    u32 count;
    u32 recent[14];
};
constinit thread_local slab_hints hints[REGION_COUNT]{};

// What others commit is populated here, too, when it is first met, by one system call instead of a page
// fault per page.
constexpr u32 populate_at_most = 1u << 20; // bytes: a newcomer does not map the whole network
constexpr u32 populate_cell_bytes = 4096;  // payload comes page by page

int commit_cells(region_id region, u32 from, u32 to);

void note_known(region_id region, u32 from, u32 to) { the_regions[region].known.cas(from, to); }

// The slow half of `known`. A newcomer (0 so far) maps only what it touches.
[[gnu::noinline]] bool learn(region_id region, u32 index) {
    u32 had = the_regions[region].known.load();
    const u32 now = cells_committed(region);
    if (index >= now) return false;
    if (now <= had) return true;
    const u32 cell_bytes = region_shapes[region].cell_bytes;
    const bool modest =
        had && cell_bytes <= populate_cell_bytes && now - had <= populate_at_most / cell_bytes;
    const u32 from = had;
    if (the_regions[region].known.cas(had, now) && modest) {
        static_cast<void>(commit_cells(region, from, now));
    }
    return true;
}

inline bool known(region_id region, u32 index) {
    return SOCKSHIM_LIKELY(index < the_regions[region].known.load_relaxed()) ||
           learn(region, index);
}

// Cells that a search may look at before it asks for more memory instead.
constexpr u32 search_limit = 256;
constexpr u32 search_limit_full = 32;

bool claim(region_id region, u32 index, handle<void>& out) {
    a64& word = the_regions[region].words[index].word;
    u64 seen = word.load_relaxed();
    if (cell_word::state(seen) != CELL_FREE) return false;
    u32 gen = cell_word::gen(seen) + 1;
    if (gen == 0) gen = 1;
    if (!word.cas(seen, cell_word::make(gen, CELL_CLAIMED, self_proc))) return false;
    out = {index, gen};
    return true;
}

// How much a region grows by when it has `have` cells: an eighth, so that ten thousand connections do not
// cost hundreds of system calls. All processes must agree on it, see grow.
u32 growth(const region_shape& shape, u32 have) {
    const u32 chunks = clamp_to<u32>(have / 8 / shape.chunk_cells, 1, 16);
    return min_of(chunks * shape.chunk_cells, shape.max_cells - have);
}

// Since when a search of all cells has found none, in coarse milliseconds; 0: cells were there.
constinit a64 full_since[REGION_COUNT]{};
constexpr u64 full_believed_ms = 50;

u64 coarse_ms() {
    timespec ts{};
    clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
    return static_cast<u64>(ts.tv_sec) * 1000 + static_cast<u64>(ts.tv_nsec) / 1000000;
}
bool full_lately(region_id region) {
    const u64 since = full_since[region].load_relaxed();
    return since && coarse_ms() - since < full_believed_ms;
}
void note_full(region_id region) { full_since[region].store_relaxed(coarse_ms()); }

u64 cells_offset(region_id region, u32 index) {
    return region_offset(region) + region_words_bytes(region) +
           u64{index} * region_shapes[region].cell_bytes;
}

int commit_cells(region_id region, u32 from, u32 to) {
    const u64 words_at = region_offset(region) + u64{from} * sizeof(cell_word);
    if (const int r = arena_commit(words_at, (to - from) * sizeof(cell_word))) return r;
    return arena_commit(cells_offset(region, from),
                        u64{to - from} * region_shapes[region].cell_bytes);
}

// Commits some more cells. Two processes may commit the same ones; only the count must move once.
bool grow(region_id region) {
    arena_header& h = *the_arena.header;
    const region_shape& shape = region_shapes[region];
    u32 have = h.committed[region].load();
    if (have >= shape.max_cells) return false;
    const u32 more = growth(shape, have);
    const u64 bytes = u64{more} * shape.cell_bytes;
    if (h.committed_bytes.load() + bytes > h.max_bytes.load()) return false;
    if (commit_cells(region, have, have + more)) return false;
    const u32 from = have;
    if (h.committed[region].cas(have, from + more)) h.committed_bytes.fetch_add(bytes);
    note_known(region, from, from + more);
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
        const u32 looks = min_of(committed, full_lately(region) ? search_limit_full : search_limit);
        for (u32 i = 0; i < looks; ++i) {
            if (hint.rover >= committed) hint.rover = 0;
            if (claim(region, hint.rover++, h)) return h;
        }
        if (!grow(region)) {
            // Full, or no memory: only now is a look at every cell worth its time, and not for each of
            // the many who come while it stays so (a quarter of a million TIME_WAITs).
            if (!full_lately(region)) {
                for (u32 i = 0; i < committed; ++i) {
                    if (claim(region, i, h)) return h;
                }
                note_full(region);
            }
            return {};
        }
        hint.rover = committed;
    }
}

void cell_free(region_id region, handle<void> h) {
    if (h.gen == 0 || !known(region, h.index)) return;
    a64& word = the_regions[region].words[h.index].word;
    u64 seen = word.load();
    // Only the one who frees this generation frees the cell.
    if (cell_word::gen(seen) != h.gen || cell_word::state(seen) == CELL_FREE) return;
    SOCKSHIM_CRASH_POINT();
    if (!word.cas(seen, cell_word::make(h.gen, CELL_FREE, 0))) return;
    slab_hints& hint = hints[region];
    if (hint.count < sizeof hint.recent / sizeof hint.recent[0])
        hint.recent[hint.count++] = h.index;
}

void cell_publish(region_id region, handle<void> h) {
    if (h.gen == 0 || !known(region, h.index)) return;
    SOCKSHIM_CRASH_POINT();
    a64& word = the_regions[region].words[h.index].word;
    u64 seen = word.load();
    // Whoever found it by what refers to it may have freed it by now.
    while (cell_word::gen(seen) == h.gen && cell_word::state(seen) == CELL_CLAIMED &&
           !word.cas(seen, cell_word::make(h.gen, CELL_LIVE, self_proc))) {
    }
    SOCKSHIM_CRASH_POINT();
}

void* cell_get_learning(region_id region, handle<void> h) {
    return h.gen && learn(region, h.index) ? cell_get(region, h) : nullptr;
}

void* cell_at(region_id region, u32 index) {
    if (!known(region, index)) return nullptr;
    return the_regions[region].cells + u64{index} * region_shapes[region].cell_bytes;
}

u64 cell_word_at(region_id region, u32 index) {
    if (!known(region, index)) return 0;
    return the_regions[region].words[index].word.load();
}

u32 cell_index_of(region_id region, const void* cell) {
    const auto at = static_cast<const u8*>(cell) - the_regions[region].cells;
    return static_cast<u32>(static_cast<u64>(at) / region_shapes[region].cell_bytes);
}

void cells_free_claimed_by(proc_id id) {
    for (u32 r = 0; r < REGION_COUNT; ++r) {
        const u32 committed = cells_committed(static_cast<region_id>(r));
        for (u32 i = 0; i < committed; ++i) {
            const u64 w = the_regions[r].words[i].word.load_relaxed();
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
    // Where memory has run out, a larger one that is free will do.
    for (; cls < extent_classes; ++cls) {
        const handle<void> h = cell_alloc(static_cast<region_id>(REGION_EXTENT_1K + cls));
        if (h.gen) return {h.index | cls << 28, h.gen};
    }
    return {};
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
