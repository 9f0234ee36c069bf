// The table at the end: per call counts, errors, times and bytes over all threads since the start,
// dropped records included, the most expensive first.
#include "core/trace/record.h"
#include "core/trace/text.h"

namespace sockshim::trace {
namespace {

constinit call_totals sums[call_count]{}; // belong to the thread that dumps
constinit char line_bytes[160];

void add_up() {
    for (call_totals& s : sums) s = {};
    for (const ring* r = first_ring(); r; r = r->next) {
        for (u32 i = 0; i < call_count; ++i) {
            const call_totals& t = r->totals[i];
            call_totals& s = sums[i];
            s.calls += t.calls;
            s.timed += t.timed;
            s.errors += t.errors;
            s.total += t.total;
            s.max = max_of(s.max, t.max);
            s.bytes += t.bytes;
        }
        for (u32 level = 0; level < min_of(r->depth.load(), max_nesting); ++level) {
            // Still going on: counted, without a time.
            if (const call_row* row = find_call(r->open[level].nr)) ++sums[row - call_rows].calls;
        }
    }
}

text& column(text& t, u64 v, bool there) {
    if (there) return t.put(' ').right(v, 13);
    return t.puts("             -");
}

text& micros(text& t, u64 ns, bool there) {
    if (!there) return t.puts("             -");
    return t.put(' ').right(ns / 1000, 9).put('.').zeros(ns % 1000, 3);
}

} // namespace

void write_summary(text& block) {
    add_up();
    text heading(line_bytes);
    heading.puts(
        "   calls   errors      total us       mean us        max us         bytes call\n");
    add_lines(block, heading);
    call_totals all{};
    for (;;) {
        u32 best = call_count;
        for (u32 i = 0; i < call_count; ++i) {
            if (!sums[i].calls) continue;
            if (best == call_count || sums[i].total > sums[best].total) best = i;
        }
        if (best == call_count) break;
        call_totals& s = sums[best];
        text t(line_bytes);
        t.right(s.calls, 8).put(' ').right(s.errors, 8);
        micros(t, s.total, s.timed);
        micros(t, s.timed ? s.total / s.timed : 0, s.timed);
        micros(t, s.max, s.timed);
        column(t, s.bytes, call_rows[best].moves_bytes || s.bytes).put(' ');
        t.puts(call_rows[best].name).put('\n');
        add_lines(block, t);
        all.calls += s.calls;
        all.errors += s.errors;
        all.total += s.total;
        all.bytes += s.bytes;
        s.calls = 0; // printed
    }
    text t(line_bytes);
    t.right(all.calls, 8).put(' ').right(all.errors, 8);
    micros(t, all.total, true).puts("                             ").right(all.bytes, 13);
    t.puts(" all\n");
    add_lines(block, t);
}

} // namespace sockshim::trace
