#include "core/arena/owner.h"

#include <cerrno>
#include <ctime>
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>

#include "core/arena/private.h"
#include "core/base/crash_point.h"
#include "core/base/raw_syscall.h"

namespace sockshim {
namespace {

constexpr u32 gen_mask = (1u << proc_gen_bits) - 1;
constexpr u64 slot_word(u32 pid, u32 gen, process_state st) {
    return u64{pid} << 32 | u64{gen & gen_mask} << 2 | st;
}
constexpr process_state slot_state(u64 w) { return static_cast<process_state>(w & 3); }
constexpr u32 slot_gen(u64 w) { return static_cast<u32>(w) >> 2; }
constexpr u32 slot_pid(u64 w) { return static_cast<u32>(w >> 32); }
constexpr u64 with_state(u64 w, process_state st) { return (w & ~u64{3}) | st; }

proc_id make_id(u32 slot, u32 gen) { return slot << proc_gen_bits | (gen & gen_mask); }

// What /proc is one of: the network's pid namespace is the one in which its first process of this memory
// began. Elsewhere pids say other things, and nobody there can ask after the network's processes.
constinit u64 home_namespace = 0;
constinit a32 abroad{0};
constinit a32 strange_proc{0}; // /proc shows the pids of another namespace than ours

u64 pid_namespace() {
    struct stat st {};
    return raw_syscall(SYS_newfstatat, AT_FDCWD, ptr_arg("/proc/self/ns/pid"), ptr_arg(&st)) < 0
               ? 0
               : st.st_ino;
}

// Pid, state letter and start time from a process's stat file in /proc; false: there is none.
bool read_stat(const char* path, u32& pid, char& state, u64& start) {
    const long fd = raw_syscall(SYS_openat, AT_FDCWD, ptr_arg(path), O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return false;
    char text[768];
    const long got = raw_syscall(SYS_read, fd, ptr_arg(text), sizeof text - 1);
    raw_syscall(SYS_close, fd);
    if (got <= 0) return false;
    text[got] = 0;
    pid = 0;
    for (const char* d = text; *d >= '0' && *d <= '9'; ++d) {
        pid = pid * 10 + static_cast<u32>(*d - '0');
    }
    // The command name stands in parentheses and may hold anything: fields count from the last one.
    const char* p = text + got;
    while (p > text && *p != ')') --p;
    if (p == text || p[1] != ' ') return false;
    state = p[2];
    int field = 3;
    for (p += 2; *p && field < 22; ++p) field += *p == ' ';
    start = 0;
    for (; *p >= '0' && *p <= '9'; ++p) start = start * 10 + static_cast<u64>(*p - '0');
    return field == 22;
}

// Whether any thread of the process with this pid, whoever has it now, still runs: then its pidfd is not
// readable.
bool any_thread_runs(u32 pid) {
    const long fd = raw_syscall(SYS_pidfd_open, pid, 0);
    // EINVAL, or ENOENT of later kernels: a thread has the number.
    if (fd == -EINVAL || fd == -ENOENT) return false;
    if (fd < 0) return raw_syscall(SYS_kill, pid, 0) != -ESRCH;
    pollfd exited{static_cast<int>(fd), POLLIN, 0};
    const timespec now{};
    const long r = raw_syscall(SYS_ppoll, ptr_arg(&exited), 1, ptr_arg(&now), 0, 8);
    raw_syscall(SYS_close, fd);
    return r <= 0;
}

bool read_stat_of(u32 pid, char& state, u64& start) {
    if (strange_proc.load_relaxed()) return false;
    char path[32] = "/proc/";
    char* at = path + 6;
    char digits[12];
    int n = 0;
    for (u32 v = pid; v || !n; v /= 10) digits[n++] = static_cast<char>('0' + v % 10);
    while (n) *at++ = digits[--n];
    for (const char* s = "/stat"; *s; ++s) *at++ = *s;
    *at = 0;
    u32 same = 0;
    return read_stat(path, same, state, start);
}

bool runs(u32 pid, u64 start) {
    char state = 0;
    u64 begun = 0;
    // No /proc to ask (a chroot), or it hides other users' processes: the pid must do.
    if (!read_stat_of(pid, state, begun)) return any_thread_runs(pid);
    if (start && start != begun) return false;
    // A zombie may be no more than a main thread that ended before the others.
    return (state != 'Z' && state != 'X') || any_thread_runs(pid);
}

} // namespace

int process_register() {
    arena_header& h = *the_arena.header;
    u32 pid = static_cast<u32>(raw_syscall(SYS_getpid)), shown = pid;
    char state = 0;
    u64 start = 0;
    if (!read_stat("/proc/self/stat", shown, state, start)) start = 0;
    const u64 here = pid_namespace();
    if (!home_namespace) home_namespace = here;
    abroad.store(here && here != home_namespace);
    strange_proc.store(shown != pid);
    if (abroad.load()) {
        // The pid by which the network can know us, while /proc is still the one of home.
        if (shown == pid) return -ESRCH;
        pid = shown;
    } else if (shown != pid) {
        start = 0; // others could not compare it
    }
    for (u32 slot = 1; slot <= max_processes; ++slot) {
        process_slot& p = h.processes[slot];
        u64 seen = p.word.load();
        if (slot_state(seen) != PROC_FREE) continue;
        const u32 gen = (h.process_gen.fetch_add(1) + 1) & gen_mask;
        if (!p.word.cas(seen, slot_word(pid, gen, PROC_CLAIMED))) continue;
        SOCKSHIM_CRASH_POINT();
        p.start_time.store(start);
        p.exec_since.store(0);
        for (a32& port : p.between) port.store(0);
        p.word.store(slot_word(pid, gen, PROC_LIVE));
        self_proc = make_id(slot, gen);
        return 0;
    }
    return -EAGAIN;
}

proc_id process_former() {
    const process_slot& own = the_arena.header->processes[proc_slot_of(self_proc)];
    for (u32 slot = 1; slot <= max_processes; ++slot) {
        const process_slot& p = the_arena.header->processes[slot];
        const u64 w = p.word.load();
        if (&p == &own || slot_state(w) != PROC_LIVE || slot_pid(w) != slot_pid(own.word.load()))
            continue;
        // One of the two may have had no /proc to ask.
        const u64 theirs = p.start_time.load(), ours = own.start_time.load();
        if (!theirs || !ours || theirs == ours) return make_id(slot, slot_gen(w));
    }
    return 0;
}

void process_retire(proc_id former) {
    process_slot& p = the_arena.header->processes[proc_slot_of(former)];
    u64 w = p.word.load();
    if (slot_state(w) == PROC_LIVE) p.word.cas(w, with_state(w, PROC_REAPING));
}

bool proc_alive(proc_id id) {
    if (id == self_proc) return true;
    const u32 slot = proc_slot_of(id);
    if (slot == 0 || slot > max_processes) return false;
    const process_slot& p = the_arena.header->processes[slot];
    const u64 w = p.word.load();
    if (slot_gen(w) != proc_gen_of(id) || slot_state(w) == PROC_FREE ||
        slot_state(w) == PROC_REAPING) {
        return false;
    }
    // One that only claims its slot has not said yet when it began.
    return abroad.load_relaxed() ||
           runs(slot_pid(w), slot_state(w) == PROC_LIVE ? p.start_time.load() : 0);
}

bool process_abroad() { return abroad.load_relaxed(); }

u32 proc_pid(proc_id id) {
    const u32 slot = proc_slot_of(id);
    if (slot == 0 || slot > max_processes) return 0;
    const process_slot& p = the_arena.header->processes[slot];
    const u64 w = p.word.load();
    return slot_state(w) == PROC_LIVE && slot_gen(w) == proc_gen_of(id) ? slot_pid(w) : 0;
}

proc_id proc_of_slot(u32 slot) {
    const u64 w = the_arena.header->processes[slot].word.load();
    return slot_state(w) == PROC_LIVE ? make_id(slot, slot_gen(w)) : 0;
}

void process_exec(bool begins) {
    process_slot& p = the_arena.header->processes[proc_slot_of(self_proc)];
    timespec ts{};
    raw_syscall(SYS_clock_gettime, CLOCK_MONOTONIC, ptr_arg(&ts));
    p.exec_since.store(begins ? static_cast<u32>(ts.tv_sec) + 1 : 0);
}

bool proc_is_execing(proc_id id) {
    const u32 slot = proc_slot_of(id);
    return slot && slot <= max_processes && the_arena.header->processes[slot].exec_since.load();
}

bool process_execing() {
    for (u32 slot = 1; slot <= max_processes; ++slot) {
        const process_slot& p = the_arena.header->processes[slot];
        if (slot_state(p.word.load()) == PROC_LIVE && p.exec_since.load()) return true;
    }
    return false;
}

between_worlds::between_worlds(u16 port) {
    if (!self_proc) return;
    for (a32& mark : the_arena.header->processes[proc_slot_of(self_proc)].between) {
        u32 free = 0;
        if (!mark.cas(free, port + 1u)) continue;
        mark_ = &mark;
        full_fence(); // before the second look
        return;
    }
}

between_worlds::~between_worlds() {
    if (mark_) mark_->store(0);
}

void between_worlds_wait(u16 port) {
    constexpr int patience_ms = 100;
    full_fence(); // what the others' second look shall see is there
    int waited_ms = 0;
    for (u32 slot = 1; slot <= max_processes && waited_ms < patience_ms; ++slot) {
        const process_slot& p = the_arena.header->processes[slot];
        if (slot_state(p.word.load()) != PROC_LIVE) continue;
        for (const a32& mark : p.between) {
            while (mark.load() == port + 1u && waited_ms++ < patience_ms) {
                const timespec ms{0, 1000000};
                raw_syscall(SYS_nanosleep, ptr_arg(&ms), 0);
            }
        }
    }
}

bool proc_any_alive() {
    for (u32 slot = 1; slot <= max_processes; ++slot) {
        const process_slot& p = the_arena.header->processes[slot];
        const u64 w = p.word.load();
        if (slot_state(w) == PROC_FREE) continue;
        const proc_id id = make_id(slot, slot_gen(w));
        if (id != self_proc && proc_alive(id)) return true;
    }
    return false;
}

proc_id process_claim_dead() {
    for (u32 slot = 1; slot <= max_processes; ++slot) {
        process_slot& p = the_arena.header->processes[slot];
        u64 w = p.word.load();
        if (slot_state(w) == PROC_FREE) continue;
        const proc_id id = make_id(slot, slot_gen(w));
        if (id == self_proc) continue;
        // A slot in PROC_REAPING may belong to a reaper that died at it: reaping is idempotent, so
        // two reapers at once are only wasteful.
        if (slot_state(w) != PROC_REAPING) {
            if (proc_alive(id)) continue;
            if (!p.word.cas(w, with_state(w, PROC_REAPING))) continue;
        }
        return id;
    }
    return 0;
}

void process_reaped(proc_id id) {
    process_slot& p = the_arena.header->processes[proc_slot_of(id)];
    u64 w = p.word.load();
    if (slot_state(w) == PROC_REAPING && slot_gen(w) == proc_gen_of(id)) {
        p.word.cas(w, with_state(w, PROC_FREE));
    }
}

} // namespace sockshim
