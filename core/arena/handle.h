// The only kind of reference that may stand inside the arena: an index and the generation that the
// cell had when the reference was made. A stale one is noticed when it is used (slab_get gives null).
#pragma once
#include "core/base/types.h"

namespace sockshim {

template <class T> struct handle {
    u32 index;
    u32 gen; // never 0 for a live cell, so the zeroed handle is the null handle

    explicit operator bool() const { return gen != 0; }
    friend bool operator==(handle a, handle b) { return a.index == b.index && a.gen == b.gen; }
    u64 raw() const { return (static_cast<u64>(gen) << 32) | index; }
    static handle from_raw(u64 v) { return {static_cast<u32>(v), static_cast<u32>(v >> 32)}; }
};

} // namespace sockshim
