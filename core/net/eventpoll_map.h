// Slots of an eventpoll: where a slot's word of the ready map, its summary and its table entry are.
// Shared by eventpoll.cc and eventpoll_ready.cc.
#pragma once
#include "core/net/eventpoll.h"

namespace sockshim {

inline constexpr u32 ep_free_slot = 1u << 31;

// Chunk k holds the words 4^k to 4^(k+1) - 1 of the map (of 64 slots each), in this order: summary words
// (from the third chunk on; before that eventpoll.summary is theirs), map words, table.
struct ep_chunk_shape {
    u32 first_word;
    u32 words;
    u32 summaries;
    constexpr u32 bytes() const { return summaries * 8 + words * 8 + words * 64 * 4; }
};
constexpr ep_chunk_shape ep_shape(u32 chunk) {
    const u32 first = 1u << (2 * chunk);
    const u32 words = 3 * first;
    return {first, words, first >= 64 ? words / 64 : 0};
}
static_assert(ep_shape(ep_chunks - 1).bytes() <= extent_max_bytes);

constexpr u32 ep_chunk_of_word(u32 word) {
    return (31 - static_cast<u32>(__builtin_clz(word))) / 2;
}
static_assert(ep_chunk_of_word(1) == 0 && ep_chunk_of_word(3) == 0 && ep_chunk_of_word(4) == 1 &&
              ep_chunk_of_word(15) == 1 && ep_chunk_of_word(4095) == 5);

// The three places of one word of the map; null when its chunk is gone.
struct ep_word {
    a64* bits;
    a64* summary; // null for word 0, which is its own summary
    a32* table;   // of its 64 slots
};

inline ep_word ep_word_at(eventpoll& ep, u32 word) {
    if (word == 0) return {&ep.ready0, nullptr, ep.table0};
    const u32 chunk = ep_chunk_of_word(word);
    if (chunk >= ep_chunks) return {};
    const ep_chunk_shape shape = ep_shape(chunk);
    u8* const bytes = extent_data(extent::from_raw(ep.chunks[chunk]));
    if (!bytes) return {};
    const u32 at = word - shape.first_word;
    a64* const words = reinterpret_cast<a64*>(bytes) + shape.summaries;
    a64* const summary = shape.summaries ? reinterpret_cast<a64*>(bytes) + at / 64 : &ep.summary;
    return {words + at, summary, reinterpret_cast<a32*>(words + shape.words) + u64{at} * 64};
}

// Sets bits of one word and of what stands above it. Bits first: whoever sees a summary finds them.
inline void ep_mark_word(eventpoll& ep, u32 word, const ep_word& w, u64 bits) {
    if ((w.bits->load() & bits) != bits) w.bits->fetch_or(bits);
    if (!w.summary) return;
    const u64 in_summary = u64{1} << word % 64;
    if (w.summary->load() & in_summary) return;
    w.summary->fetch_or(in_summary);
    if (word < 64) return;
    const u64 in_top = u64{1} << word / 64;
    if (!(ep.top.load() & in_top)) ep.top.fetch_or(in_top);
}

// The lock, taken over and repaired when its owner died.
void ep_lock(eventpoll& ep);
// Under the lock: takes out a registration whose source is no more, and its list with it.
void ep_erase_orphan(eventpoll& ep, wait_entry& e);
// Under the lock: everything registered counts as ready.
void ep_mark_all(eventpoll& ep);

} // namespace sockshim
