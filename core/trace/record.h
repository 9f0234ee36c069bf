// What is recorded of a call, and where. Private to core/trace/.
//
// Each thread has a ring of records in memory of its own mapping; only that thread writes it. A call
// takes its place in the ring when it begins, so a ring is in the order of beginnings, and is written
// there when it ends; until then it lives in `open`. Rings outlast their threads; once there are many,
// a new thread goes on in the ring of a dead one (records say whose they are).
#pragma once
#include "core/base/atomic.h"
#include "core/trace/calls.h"

namespace sockshim::trace {

inline constexpr u32 max_args = 6;
inline constexpr u32 max_way = 14;
inline constexpr u32 max_nesting = 4;
inline constexpr u32 preview = 32; // bytes of data shown, as strace does
inline constexpr u32 blob_size = 560;
inline constexpr std::size_t block_size = 4096; // PIPE_BUF: written as a whole

enum record_state : u8 { REC_OPEN = 1, REC_DONE, REC_ABANDONED, REC_FORGOTTEN };

// record.flags
inline constexpr u8 REC_LIBC = 1;         // handed over
inline constexpr u8 REC_LIBC_UNKNOWN = 2; // and its result is (still) unknown
inline constexpr u8 REC_SHOWN = 4;        // printed as unfinished
inline constexpr u8 REC_WAY_OVERFLOW = 8;

// Copies of the program's memory: chunks {arg, part, length, bytes}, one after the other.
struct chunk_head {
    u8 arg;
    u8 part; // chunk_part, for message m of an mmsghdr array + 16 * m
    u16 len;
};
enum chunk_part : u8 {
    PART_IN,   // what the argument pointed to when the call began
    PART_OUT,  // and when it had ended
    PART_NAME, // msghdr: msg_name
    PART_IOV,  // msghdr: the iovec array
    PART_DATA, // + k: preview of the bytes of the k-th iovec
    PART_CONTROL = PART_DATA + 8,
    PART_MSG_LEN = 15 // mmsghdr: msg_len
};
inline constexpr u32 max_iov = 8;
inline constexpr u32 max_messages = 4;

struct record {
    u64 serial; // its number in the ring + 1; 0: empty
    u64 start;  // CLOCK_MONOTONIC, ns
    u64 duration;
    i64 result;
    u64 bytes;
    u64 a[max_args];
    const char* way[max_way];
    u64 frame; // stack address of the caller, tells calls that were left by longjmp
    u32 tid;
    u16 nr;
    u16 blob_used;
    u8 nargs;
    u8 nway;
    u8 state;
    u8 flags;
    alignas(8) u8 blob[blob_size];
};
static_assert(sizeof(record) % sizeof(u64) == 0);

struct call_totals {
    u64 calls;
    u64 errors;
    u64 total; // ns
    u64 max;
    u64 bytes;
    u64 timed; // calls with a duration
};

struct ring {
    ring* next;
    u64 mapped;  // bytes
    a32 owner;   // tid
    a32 depth;   // open calls
    u64 slots;   // 0: calls are written as they end
    a64 head;    // calls begun
    u64 printed; // dump: everything before is printed
    u64 dropped; // dump: overwritten unprinted, so far
    u64 cursor;  // dump: the next to print, up to limit, and its place in time
    u64 limit;
    u64 key;
    call_totals totals[call_count];
    record open[max_nesting];
    alignas(8) char line[max_nesting][block_size]; // for calls written as they end
    record slot[];
};

struct trace_globals {
    a64 rings; // ring*, newest first
    a32 ring_count;
    i32 pid;
    i64 realtime_offset; // CLOCK_REALTIME - CLOCK_MONOTONIC, ns
    u64 ring_slots;
    a32 dumper;        // tid of the thread that prints
    a32 worth_telling; // something else than fork and exec was called
    i32 to_file;
    u32 stderr_known;
    u64 stderr_dev, stderr_ino;
    char program[64];
    char path[1024]; // absolute, %p not yet replaced
};
extern trace_globals globals;

u64 monotonic_ns();
u32 my_tid();
ring* first_ring();

// capture.cc
void capture_begin(record& r);
void capture_end(record& r); // looks at r.result, sets r.bytes
// The chunk's bytes, null when there is none.
const u8* find_chunk(const record& r, u32 arg, u32 part, u32& len);

struct text;

// decode_call.cc: "12:34:56.123456 [tid] call(...) = result <time>\n  way: ...\n"
void decode_record(text& t, const record& r);
void decode_way(text& t, const record& r);

// record.cc: trace_start() by hand, for tests
void start_recording(const char* to, u64 slots);
// in a child of a fork that nobody announced?
bool is_unknown_fork_child();

// dump.cc
void forget_file();                          // a fork child opens its own
void emit(const char* bytes, std::size_t n); // whole lines, to stderr or the file

// summary.cc
void write_summary(text& block);
// Appends lines to the block; writes the block first when they do not fit.
void add_lines(text& block, const text& lines);
void emit_block(text& block);

} // namespace sockshim::trace
