// Who refers to which published cell: the roots from which the reaper's sweep marks.
#pragma once
#include "core/arena/extent.h"

namespace sockshim {

struct stream_ring;
struct skb_cell;

// For references_mark_all's use: the cell is referred to.
void reference_mark(handle<stream_ring> h);
void reference_mark(handle<skb_cell> h);
void reference_mark(extent e);
// Walks every live sock, ring, packet and eventpoll and marks what they hold (core/net/references.cc).
void references_mark_all();

} // namespace sockshim
