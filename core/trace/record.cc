// Recording: the rings, and what happens when a call begins, passes a function and ends.
#include "core/trace/record.h"

#include <cerrno>
#include <csignal>
#include <ctime>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "core/base/config.h"
#include "core/base/raw_syscall.h"
#include "core/trace/text.h"

namespace sockshim {

constinit bool trace_enabled = false;

namespace trace {

constinit trace_globals globals{};

namespace {

constexpr long result_not_ours = -4096; // SYS_NOT_OURS of dispatch/syscalls.h
constexpr u32 keep_rings = 64;          // beyond this, rings of dead threads are used again

constinit thread_local ring* my_ring = nullptr;

// In a page that a fork child gets zeroed: a child that nobody told us of finds 0 here.
constinit u32 always_alive = 1;
constinit u32* alive = &always_alive;

void barrier() { asm volatile("" ::: "memory"); }

u64 now_of(clockid_t clock) {
    timespec ts{};
    clock_gettime(clock, &ts);
    return static_cast<u64>(ts.tv_sec) * 1000000000 + static_cast<u64>(ts.tv_nsec);
}

ring* ring_at(u64 word) { return reinterpret_cast<ring*>(word); }

bool thread_is_dead(u32 tid) {
    return raw_syscall(SYS_tgkill, globals.pid, static_cast<long>(tid), 0) == -ESRCH;
}

// The words of a record go over one by one, because the dump may be reading them in another thread.
void store_record(record& to, const record& from) {
    auto* out = reinterpret_cast<u64*>(&to);
    auto* in = reinterpret_cast<const u64*>(&from);
    const std::size_t words =
        (offsetof(record, blob) + from.blob_used + sizeof(u64) - 1) / sizeof(u64);
    __atomic_store_n(&out[0], 0, __ATOMIC_RELAXED); // serial: nothing to see meanwhile
    __atomic_thread_fence(__ATOMIC_RELEASE);
    for (std::size_t i = 1; i < words; ++i) __atomic_store_n(&out[i], in[i], __ATOMIC_RELAXED);
    __atomic_store_n(&out[0], in[0], __ATOMIC_RELEASE);
}

void count(ring& r, const record& c) {
    const call_row* row = find_call(c.nr);
    if (!row) return;
    call_totals& t = r.totals[row - call_rows];
    ++t.calls;
    if (c.state != REC_DONE || c.flags & REC_LIBC_UNKNOWN) return;
    ++t.timed;
    t.total += c.duration;
    t.max = max_of(t.max, c.duration);
    t.bytes += c.bytes;
    if (c.result < 0 && c.result >= -4095) ++t.errors;
}

void write_now(ring& r, u32 level) {
    text t(r.line[level]);
    decode_record(t, r.open[level]);
    emit(t.start, t.used);
}

// The open call of `level` is over; it goes to its place in the ring.
void close_call(ring& r, u32 level, record_state state) {
    record& c = r.open[level];
    c.state = state;
    if (state != REC_FORGOTTEN) {
        if (c.nr < TRACE_FORK) globals.worth_telling.store_relaxed(1);
        count(r, c);
        if (!r.slots) write_now(r, level);
    }
    if (r.slots) {
        if (c.flags & REC_SHOWN && state != REC_FORGOTTEN) c.serial = r.head.fetch_add(1) + 1;
        u64 head = c.serial;
        const bool unseen = state == REC_FORGOTTEN && !(c.flags & REC_SHOWN);
        if (!(unseen && r.head.cas(head, head - 1)) && r.head.load() - (c.serial - 1) <= r.slots) {
            store_record(r.slot[(c.serial - 1) % r.slots], c);
        }
    }
    __atomic_store_n(&c.serial, 0, __ATOMIC_RELEASE);
    barrier();
    r.depth.store(level);
}

// The dead thread's ring that has the fewest records.
ring* adopt_ring(u32 tid) {
    ring* best = nullptr;
    u32 best_owner = 0;
    for (ring* r = first_ring(); r; r = r->next) {
        if (best && r->head.load() >= best->head.load()) continue;
        const u32 owner = r->owner.load();
        if (owner == tid || thread_is_dead(owner)) best = r, best_owner = owner;
    }
    if (!best || !best->owner.cas(best_owner, tid)) return nullptr;
    for (u32 depth = best->depth.load(); depth; depth = best->depth.load()) {
        close_call(*best, depth - 1, REC_ABANDONED); // pthread_exit, cancellation
    }
    return best;
}

ring* new_ring() {
    const u32 tid = my_tid();
    if (globals.ring_count.load() >= keep_rings) {
        if (ring* r = adopt_ring(tid)) return r;
    }
    const u64 size = sizeof(ring) + globals.ring_slots * sizeof(record);
    const long at = raw_syscall(SYS_mmap, 0, static_cast<long>(size), PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at < 0 && at >= -4095) return nullptr;
    ring* r = ring_at(static_cast<u64>(at));
    r->mapped = size;
    r->slots = globals.ring_slots;
    r->owner.store(tid);
    u64 first = globals.rings.load();
    do r->next = ring_at(first);
    while (!globals.rings.cas(first, reinterpret_cast<u64>(r)));
    globals.ring_count.fetch_add(1);
    return r;
}

bool on_signal_stack() {
    stack_t ss{};
    return raw_syscall(SYS_sigaltstack, 0, ptr_arg(&ss)) == 0 && ss.ss_flags & SS_ONSTACK;
}

// Calls that never came back: left by siglongjmp, or begun by a vfork child that is gone. A call that is
// still going on has its frame above this one, unless this one is on a signal stack.
void drop_stale(ring& r, u64 frame) {
    for (u32 depth = r.depth.load(); depth; depth = r.depth.load()) {
        const record& top = r.open[depth - 1];
        const bool stale = top.flags & REC_LIBC_UNKNOWN || depth == max_nesting ||
                           (top.frame <= frame && !on_signal_stack());
        if (!stale) return;
        close_call(r, depth - 1, top.flags & REC_LIBC_UNKNOWN ? REC_DONE : REC_ABANDONED);
    }
}

record* innermost() {
    ring* r = my_ring;
    if (!r) return nullptr;
    const u32 depth = r->depth.load_relaxed();
    return depth ? &r->open[depth - 1] : nullptr;
}

void finish(ring& r, u32 level, long result) {
    record& c = r.open[level];
    c.duration = monotonic_ns() - c.start;
    c.result = result;
    c.flags = static_cast<u8>(c.flags & ~REC_LIBC_UNKNOWN);
    capture_end(c);
    close_call(r, level, REC_DONE);
}

// Where the output goes. Relative names are resolved now, the program may change its directory.
void remember_sink(const char* to) {
    globals.to_file = !(to[0] == '1' && !to[1]);
    if (globals.to_file) {
        text path(globals.path, sizeof globals.path - 1);
        if (to[0] != '/' && raw_syscall(SYS_getcwd, ptr_arg(globals.path), 512) > 0) {
            while (globals.path[path.used]) ++path.used;
            path.put('/');
        }
        for (const char* s = to; *s; ++s) {
            if (s[0] == '%' && s[1] == 'n')
                path.puts(globals.program), ++s;
            else
                path.put(*s);
        }
        globals.path[path.used] = 0;
        return;
    }
    struct stat st {};
    if (raw_syscall(SYS_fstat, 2, ptr_arg(&st)) == 0) {
        globals.stderr_known = 1;
        globals.stderr_dev = st.st_dev;
        globals.stderr_ino = st.st_ino;
    }
}

} // namespace

u64 monotonic_ns() { return now_of(CLOCK_MONOTONIC); }
u32 my_tid() { return static_cast<u32>(raw_syscall(SYS_gettid)); }
ring* first_ring() { return ring_at(globals.rings.load()); }

} // namespace trace

using namespace trace;

void trace_start() { start_recording(config().trace, config().trace_ring); }

void trace::start_recording(const char* to, u64 slots) {
    globals.pid = static_cast<i32>(raw_syscall(SYS_getpid));
    globals.ring_slots = slots ? max_of<u64>(slots, 8) : 0;
    // From the first look at libc's clock on, it is bound and safe in signal handlers.
    globals.realtime_offset = static_cast<i64>(now_of(CLOCK_REALTIME) - now_of(CLOCK_MONOTONIC));
    text program(globals.program, sizeof globals.program - 1);
    for (const char* s = program_invocation_short_name; s && *s; ++s) program.put(*s);
    remember_sink(to);
    const long page =
        raw_syscall(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page > 0 && raw_syscall(SYS_madvise, page, 4096, MADV_WIPEONFORK) == 0) {
        alive = reinterpret_cast<u32*>(page);
        *alive = 1;
    }
    trace_enabled = true;
}

void trace_after_fork_child() {
    if (!trace_enabled) return;
    *alive = 1;
    globals.pid = static_cast<i32>(raw_syscall(SYS_getpid));
    globals.dumper.store(0);
    globals.worth_telling.store(0);
    ring* mine = my_ring;
    for (ring *r = first_ring(), *next; r; r = next) {
        next = r->next;
        if (r != mine) raw_syscall(SYS_munmap, ptr_arg(r), static_cast<long>(r->mapped));
    }
    globals.rings.store(reinterpret_cast<u64>(mine));
    globals.ring_count.store(mine ? 1 : 0);
    forget_file();
    if (!mine) return;
    mine->next = nullptr;
    mine->owner.store(my_tid());
    mine->depth.store(0);
    mine->head.store(0);
    mine->printed = mine->dropped = mine->cursor = 0;
    for (call_totals& t : mine->totals) t = {};
    for (record& c : mine->open) c.serial = 0;
}

bool trace::is_unknown_fork_child() { return *alive == 0; }

[[gnu::noinline]] void trace_begin_slow(u32 nr, const unsigned long* a, u32 nargs) {
    const u64 frame = reinterpret_cast<u64>(__builtin_frame_address(0));
    if (is_unknown_fork_child()) trace_after_fork_child();
    ring* r = my_ring;
    if (!r) {
        r = new_ring();
        if (!r) return;
        my_ring = r;
    }
    if (r->depth.load_relaxed()) drop_stale(*r, frame);
    const u32 level = r->depth.load_relaxed();
    r->depth.store(level + 1); // from here on a signal handler's call uses the next level
    barrier();
    record& c = r->open[level];
    __atomic_store_n(&c.serial, 0, __ATOMIC_RELEASE);
    c.state = REC_OPEN;
    c.flags = 0;
    c.nway = 0;
    c.blob_used = 0;
    c.duration = 0;
    c.bytes = 0;
    c.result = 0;
    c.frame = frame;
    c.nr = static_cast<u16>(nr);
    c.tid = r->owner.load_relaxed();
    c.nargs = static_cast<u8>(min_of(nargs, max_args));
    for (u32 i = 0; i < max_args; ++i) c.a[i] = i < c.nargs ? a[i] : 0;
    const u64 serial = r->head.fetch_add(1) + 1;
    c.start = monotonic_ns();
    capture_begin(c);
    __atomic_store_n(&c.serial, serial, __ATOMIC_RELEASE);
}

void trace_way_slow(const char* static_name) {
    record* c = innermost();
    if (!c || !static_name || c->flags & REC_LIBC_UNKNOWN) return;
    if (c->nway && c->way[c->nway - 1] == static_name) return; // a loop
    if (c->nway == max_way) {
        c->flags |= REC_WAY_OVERFLOW;
        return;
    }
    c->way[c->nway] = static_name;
    barrier();
    ++c->nway;
}

u32 trace_way_mark_slow() {
    const record* c = innermost();
    return c ? c->nway : 0;
}

void trace_way_cut_slow(u32 mark) {
    record* c = innermost();
    if (!c || c->nway <= mark) return;
    c->nway = static_cast<u8>(mark);
    if (mark < max_way) c->flags = static_cast<u8>(c->flags & ~REC_WAY_OVERFLOW);
}

void trace_handed_over_slow() {
    if (record* c = innermost()) c->flags |= REC_LIBC;
}

void trace_end_slow(long result) {
    ring* r = my_ring;
    if (!r) return;
    u32 depth = r->depth.load_relaxed();
    // The innermost may be one that waited for libc's answer and was left alone.
    for (; depth && r->open[depth - 1].flags & REC_LIBC_UNKNOWN; --depth) {
        close_call(*r, depth - 1, REC_DONE);
    }
    if (!depth) return; // begun in the parent, or before the ring
    record& c = r->open[depth - 1];
    if (result != result_not_ours) {
        finish(*r, depth - 1, result);
    } else if (c.flags & REC_LIBC) {
        c.flags |= REC_LIBC_UNKNOWN;
    } else {
        close_call(*r, depth - 1, REC_FORGOTTEN);
    }
}

void trace_libc_result_slow(long result) {
    ring* r = my_ring;
    if (!r) return;
    const u32 depth = r->depth.load_relaxed();
    if (depth && r->open[depth - 1].flags & REC_LIBC_UNKNOWN) finish(*r, depth - 1, result);
}

} // namespace sockshim
