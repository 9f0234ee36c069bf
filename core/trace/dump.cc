// Printing what the rings hold: the calls of all threads in the order in which they began.
#include <ctime>

#include "core/base/config.h"
#include "core/base/raw_syscall.h"
#include "core/trace/record.h"
#include "core/trace/text.h"

namespace sockshim::trace {
namespace {

constinit char block_bytes[block_size];
constinit char line_bytes[block_size];
constinit record current{}; // the record being printed; all three belong to the thread that dumps

constexpr u64 no_key = ~u64{0};

__attribute__((no_sanitize("thread"))) u64 read_word(const u64& word) {
    return __atomic_load_n(&word, __ATOMIC_RELAXED);
}

void copy_record(record& to, const record& from) {
    auto* out = reinterpret_cast<u64*>(&to);
    auto* in = reinterpret_cast<const u64*>(&from);
    for (std::size_t i = 0; i < sizeof(record) / sizeof(u64); ++i) out[i] = read_word(in[i]);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
}

// The record of that number if it is still there: in its slot, or among the open calls.
record* locate(ring& r, u64 number) {
    record& slot = r.slot[number % r.slots];
    if (__atomic_load_n(&slot.serial, __ATOMIC_ACQUIRE) == number + 1) return &slot;
    for (record& c : r.open) {
        if (__atomic_load_n(&c.serial, __ATOMIC_ACQUIRE) == number + 1) return &c;
    }
    return nullptr;
}

// Copies the record into `current`; false when its thread overwrote it meanwhile.
bool fetch(ring& r, u64 number) {
    record* from = locate(r, number);
    if (!from) return false;
    copy_record(current, *from);
    if (current.serial != number + 1 || read_word(from->serial) != number + 1) return false;
    if (current.state == REC_OPEN) __atomic_fetch_or(&from->flags, REC_SHOWN, __ATOMIC_RELAXED);
    return true;
}

u64 key_of(ring& r) {
    for (; r.cursor < r.limit; ++r.cursor) {
        const record* at = locate(r, r.cursor);
        if (!at) {
            ++r.dropped;
            continue;
        }
        const u64 start = read_word(at->start);
        const bool late = at->state == REC_DONE && at->flags & REC_SHOWN;
        return late ? start + read_word(at->duration) : start;
    }
    return no_key;
}

// Sets each ring's range. Returns whether there is anything new.
bool set_ranges(u64& dropped) {
    bool any = false;
    for (ring* r = first_ring(); r; r = r->next) {
        r->limit = r->head.load();
        if (r->printed > r->limit) r->printed = r->limit; // a forgotten call's place was used again
        any = any || r->limit != r->printed;
        r->cursor = r->printed;
        r->key = no_key;
        if (r->slots) {
            if (r->limit - r->printed > r->slots) {
                r->cursor = r->limit - r->slots;
                r->dropped += r->cursor - r->printed;
            }
            r->key = key_of(*r);
        }
        dropped += r->dropped;
        r->printed = r->limit;
    }
    return any;
}

// What is written as it ends has no ring; what has not ended is said now.
void print_open(text& block) {
    for (ring* r = first_ring(); r; r = r->next) {
        if (r->slots) continue;
        for (record& c : r->open) {
            const u64 serial = __atomic_load_n(&c.serial, __ATOMIC_ACQUIRE);
            if (!serial || c.flags & REC_SHOWN) continue;
            copy_record(current, c);
            if (current.serial != serial || current.state != REC_OPEN) continue;
            __atomic_fetch_or(&c.flags, REC_SHOWN, __ATOMIC_RELAXED);
            text line(line_bytes);
            decode_record(line, current);
            add_lines(block, line);
        }
    }
}

void print_in_order(text& block) {
    for (;;) {
        ring* best = nullptr;
        u64 best_key = no_key, next_key = no_key;
        for (ring* r = first_ring(); r; r = r->next) {
            if (r->key < best_key)
                next_key = best_key, best_key = r->key, best = r;
            else if (r->key < next_key)
                next_key = r->key;
        }
        if (!best) return;
        // One thread usually has several in a row.
        while (best->key != no_key && best->key <= next_key) {
            if (fetch(*best, best->cursor) && current.state != REC_FORGOTTEN) {
                text line(line_bytes);
                decode_record(line, current);
                add_lines(block, line);
            }
            ++best->cursor;
            best->key = key_of(*best);
        }
    }
}

void put_date(text& t) {
    // Days since 1970 as a date (the Gregorian calendar's 400 years, counted from March).
    const i64 ns = static_cast<i64>(monotonic_ns()) + globals.realtime_offset;
    const i64 z = ns / 1000000000 / 86400 + 719468;
    const i64 era = z / 146097, day = z - era * 146097;
    const i64 year = (day - day / 1460 + day / 36524 - day / 146096) / 365;
    const i64 of_year = day - (365 * year + year / 4 - year / 100);
    const i64 mp = (5 * of_year + 2) / 153, month = mp < 10 ? mp + 3 : mp - 9;
    t.dec(year + era * 400 + (month <= 2)).put('-').zeros(static_cast<u64>(month), 2).put('-');
    t.zeros(static_cast<u64>(of_year - (153 * mp + 2) / 5 + 1), 2);
}

// A process that only forks and execs, or looked at files, has nothing to tell.
bool worth_telling() {
    if (globals.worth_telling.load()) return true;
    for (const ring* r = first_ring(); r; r = r->next) {
        for (u32 level = 0; level < min_of(r->depth.load(), max_nesting); ++level) {
            if (r->open[level].nr < TRACE_FORK) return true;
        }
    }
    return false;
}

// One thread prints. Waits a while for another that does, because the process ends when we return.
bool take_turn() {
    const u32 me = my_tid();
    for (u32 tries = 0; tries < 2000; ++tries) {
        u32 who = 0;
        if (globals.dumper.cas(who, me)) return true;
        if (who == me) return false; // a signal in the middle of the dump
        const timespec ms{0, 1000000};
        raw_syscall(SYS_nanosleep, ptr_arg(&ms), 0);
    }
    return false;
}

} // namespace

void emit_block(text& block) {
    emit(block.start, block.used);
    block.used = 0;
}

void add_lines(text& block, const text& lines) {
    if (block.used + lines.used > block.room) emit_block(block);
    block.put_n(lines.start, lines.used);
}

} // namespace sockshim::trace

namespace sockshim {

using namespace trace;

void trace_dump(const char* why) {
    if (!trace_enabled) return;
    if (is_unknown_fork_child()) return trace_after_fork_child();
    if (raw_syscall(SYS_getpid) != globals.pid) return; // a vfork child, in its parent's memory
    if (!worth_telling() || !take_turn()) return;
    u64 dropped = 0;
    if (set_ranges(dropped)) {
        text block(block_bytes);
        block.puts("--- sockshim trace: ").puts(globals.program).puts(" [").dec(globals.pid);
        block.puts("], ").puts(why).puts(", ");
        put_date(block);
        block.puts(" UTC ---\n");
        if (dropped) {
            block.udec(dropped).puts(dropped == 1 ? " older call was" : " older calls were");
            block.puts(" dropped (SOCKSHIM_TRACE_RING=").udec(globals.ring_slots).puts(")\n");
        }
        print_in_order(block);
        print_open(block);
        write_summary(block);
        emit_block(block);
    }
    globals.dumper.store(0);
}

} // namespace sockshim
