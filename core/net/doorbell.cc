#include "core/net/doorbell.h"

#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>

#include "core/arena/admission.h"
#include "core/arena/arena.h"
#include "core/base/crash_point.h"
#include "core/base/raw_syscall.h"
#include "core/net/timer.h"
#include "core/sync/futex.h"

namespace sockshim {

namespace {

// Cells that this process keeps with their FIFO open, and who has them (no more than so many threads
// of one process sleep in the kernel at once without paying for an open and a close each time).
struct pooled {
    a32 busy;
    handle<waiter> cell;
    internal_fd bell;
};
constexpr u32 pool_size = 128;
constinit pooled pool[pool_size]{};
constinit a32 pool_owner{0}; // proc_id

constinit const char* test_directory = nullptr;

void bell_name(char (&name)[16], u32 index) {
    name[0] = 'b';
    for (int i = 5; i >= 1; --i, index >>= 4) name[i] = "0123456789abcdef"[index & 15];
    name[6] = 0;
}

long open_bell(const char* name, int flags) {
    if (!test_directory) return arena_openat(name, flags | O_NONBLOCK | O_CLOEXEC, 0);
    const long dir = raw_syscall(SYS_openat, AT_FDCWD, ptr_arg(test_directory),
                                 O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
    if (dir < 0) return dir;
    const long fd = raw_syscall(SYS_openat, dir, ptr_arg(name), flags | O_NONBLOCK | O_CLOEXEC, 0);
    raw_syscall(SYS_close, dir);
    return fd;
}

long make_bell(const char* name) {
    if (!test_directory) return arena_make_fifo(name);
    const long dir = raw_syscall(SYS_openat, AT_FDCWD, ptr_arg(test_directory),
                                 O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
    if (dir < 0) return dir;
    const long r = raw_syscall(SYS_mknodat, dir, ptr_arg(name), S_IFIFO | 0600, 0);
    raw_syscall(SYS_close, dir);
    return r == -EEXIST ? 0 : r;
}

// The sleeper's end, open for writing too: a FIFO whose last writer has gone is "hung up" for ever
// after, which ppoll would report without being asked.
long open_sleeping_end(u32 index) {
    char name[16];
    bell_name(name, index);
    long fd = open_bell(name, O_RDWR);
    if (fd == -ENOENT) {
        if (const long r = make_bell(name); r < 0) return r;
        fd = open_bell(name, O_RDWR);
    }
    if (fd < 0) return fd;
    struct stat st {};
    raw_syscall(SYS_fstat, fd, ptr_arg(&st));
    if (S_ISFIFO(st.st_mode)) return fd;
    raw_syscall(SYS_close, fd);
    return -ENXIO;
}

// A descriptor kept for ringing in a process that has used up all its numbers.
constinit internal_fd spare{};
constinit a32 spare_busy{0};

void keep_spare() {
    if (spare.number_plus_1.load_relaxed() || arena_has_own_table()) return;
    u32 expected = 0;
    if (!spare_busy.cas(expected, 1)) return;
    const long fd = raw_syscall(SYS_openat, AT_FDCWD, ptr_arg("/"), O_PATH | O_CLOEXEC, 0);
    if (fd >= 0) internal_fd_adopt(spare, static_cast<int>(fd));
    spare_busy.store(0);
}

// Open for reading too: then there is a reader, and a write to a FIFO whose sleeper has just died is not
// a SIGPIPE for this program.
long open_ringing_end(u32 index) {
    char name[16];
    bell_name(name, index);
    long fd = open_bell(name, O_RDWR);
    if (fd == -EMFILE) {
        internal_fd_close(spare);
        fd = open_bell(name, O_RDWR);
    }
    return fd;
}

// Bells that this process rings again and again stay open: the FIFO of a cell is the same one for ever. One that
// was missed twice in a row is taken in, so that many sleepers in turn do not cost more than none kept.
struct kept_bell {
    a32 busy;
    u32 missed; // cell index + 1
    u32 kept;   // cell index + 1
    internal_fd fd;
};
constexpr u32 kept_bells = 32;
constinit kept_bell bells[kept_bells]{};

void write_byte(long fd) {
    const char byte = 0;
    raw_syscall(SYS_write, fd, ptr_arg(&byte), 1);
}

bool ring_kept(kept_bell& k, u32 index) {
    const int fd = k.kept == index + 1 ? internal_fd_number(k.fd) : -1;
    if (fd >= 0) write_byte(fd);
    return fd >= 0;
}

void keep_bell(kept_bell& k, u32 index, long fd) {
    const bool again = k.missed == index + 1;
    k.missed = index + 1;
    if (!again) return;
    internal_fd_close(k.fd);
    k.kept = internal_fd_adopt_high(k.fd, static_cast<int>(fd)) ? index + 1 : 0;
}

// False: it cannot be opened here.
bool ring_bell(u32 index) {
    kept_bell& k = bells[index % kept_bells];
    u32 expected = 0;
    const bool mine = !arena_has_own_table() && k.busy.cas(expected, 1);
    if (mine && ring_kept(k, index)) {
        k.busy.store(0);
        return true;
    }
    const long fd = open_ringing_end(index);
    if (fd >= 0) write_byte(fd);
    if (mine) {
        if (fd >= 0) keep_bell(k, index, fd);
        k.busy.store(0);
    }
    if (fd < 0) return fd == -ENOENT; // the sleeper is gone
    raw_syscall(SYS_close, fd);
    keep_spare();
    return true;
}

// The cells of a forked child's pool are its parent's, and so are the open FIFOs: reading from them
// would take the parent's bytes.
void own_pool() {
    constexpr u32 changing = ~0u;
    for (;;) {
        u32 owner = pool_owner.load();
        if (SOCKSHIM_LIKELY(owner == self_proc)) return;
        if (owner == changing || !pool_owner.cas(owner, changing)) {
            raw_syscall(SYS_sched_yield);
            continue;
        }
        critical_enter();
        for (pooled& p : pool) {
            internal_fd_close(p.bell);
            p.cell = {};
            p.busy.store(0);
        }
        pool_owner.store(self_proc);
        critical_leave();
        return;
    }
}

handle<waiter> new_cell() {
    const handle<waiter> h = slab_alloc<waiter>();
    if (waiter* w = slab_get(h)) w->state.store(WAITER_AWAKE);
    return h;
}

} // namespace

void doorbell_use_directory(const char* path) { test_directory = path; }

int waiter_ref::acquire(bool bell) {
    release();
    if (bell) {
        own_pool();
        for (u32 i = 0; i < pool_size; ++i) {
            pooled& p = pool[i];
            u32 expected = 0;
            if (p.busy.load_relaxed() || !p.busy.cas(expected, 1)) continue;
            pool_index_ = static_cast<i32>(i);
            if (!slab_get(p.cell)) p.cell = new_cell();
            handle_ = p.cell;
            bell_ = &p.bell;
            break;
        }
    }
    if (pool_index_ < 0) {
        handle_ = new_cell();
        bell_ = &own_bell_;
    }
    waiter_ = slab_get(handle_);
    if (!waiter_) {
        release();
        return -ENOMEM;
    }
    return 0;
}

void waiter_ref::release() {
    if (waiter_) waiter_->state.store(WAITER_AWAKE);
    if (pool_index_ >= 0) {
        pool[pool_index_].busy.store(0);
    } else if (waiter_) {
        internal_fd_close(own_bell_);
        slab_free(handle_);
    }
    pool_index_ = -1;
    handle_ = {};
    waiter_ = nullptr;
    bell_ = nullptr;
}

int waiter_ref::bell_fd() {
    if (const int fd = internal_fd_number(*bell_); fd >= 0) return fd;
    const long fd = open_sleeping_end(handle_.index);
    if (fd < 0) return static_cast<int>(fd);
    internal_fd_adopt(*bell_, static_cast<int>(fd));
    return static_cast<int>(bell_->number_plus_1.load()) - 1;
}

void waiter_ref::silence(int bell) {
    char bytes[64];
    raw_syscall(SYS_read, bell, ptr_arg(bytes), sizeof bytes);
}

handle<wait_entry> waiter_link(handle<waiter> who, u8 kind, u64 source, u32 events) {
    wait_queue* const wq = wait_source(kind, source);
    if (!wq) return {};
    const handle<wait_entry> h = slab_alloc<wait_entry>();
    wait_entry* const e = slab_get(h);
    if (!e) return {};
    e->next.store(0);
    e->source_kind = kind;
    e->target_kind = WAIT_THREAD;
    e->source = source;
    e->target = who.raw();
    e->events.store(events);
    e->fd = -1;
    e->owner = self_proc;
    wq->lock.lock_plain();
    const bool there = wait_source(kind, source) == wq;
    if (there) {
        slab_publish(h);
        wait_link(*wq, *e);
    } else {
        slab_free(h);
    }
    wq->lock.unlock();
    return there ? h : handle<wait_entry>{};
}

bool waiter_asleep(handle<waiter> h) {
    const waiter* w = slab_get(h);
    const u32 state = w ? w->state.load() : WAITER_AWAKE;
    return state == WAITER_FUTEX || state == WAITER_BELL;
}

namespace {

// The word moves first: a sleeper between his last look and the system call does not fall asleep.
constexpr int everybody = 1 << 30;

void ring(waiter& w, u32 index, u32 state) {
    SOCKSHIM_CRASH_POINT();
    critical_enter();
    w.rung_us.store_relaxed(static_cast<u32>(monotonic_us()));
    if (state != WAITER_FUTEX && state != WAITER_FUTEX_RUNG) {
        if (!ring_bell(index) && w.state.cas(state, WAITER_BELL_ASKED)) timer_kick_wakes();
    } else {
        w.seq.fetch_add(1);
        if (futex_wake(w.seq, everybody) < 0) timer_kick_wakes();
    }
    critical_leave();
}

} // namespace

void waiter_ring(handle<waiter> h) {
    waiter* const w = slab_get(h);
    if (!w) return;
    u32 state = w->state.load();
    if (state != WAITER_FUTEX && state != WAITER_BELL) return;
    const u32 rung = state == WAITER_FUTEX ? WAITER_FUTEX_RUNG : WAITER_BELL_RUNG;
    // One who went back to sleep meanwhile has looked meanwhile.
    if (w->state.cas(state, rung)) ring(*w, h.index, rung);
}

namespace {

template <class Visit> void for_each_waiter(Visit visit) {
    const u32 committed = cells_committed(REGION_WAITER);
    for (u32 i = 0; i < committed; ++i) {
        if (cell_word::state(cell_word_at(REGION_WAITER, i)) == CELL_FREE) continue;
        visit(*slab_at<waiter>(i), i);
    }
}

} // namespace

void waiters_wake_all() {
    for_each_waiter([](waiter& w, u32 i) {
        if (const u32 state = w.state.load(); state != WAITER_AWAKE) ring(w, i, state);
    });
}

void waiters_wake_asked() {
    for_each_waiter([](waiter& w, u32 i) {
        u32 state = w.state.load();
        if (state == WAITER_BELL_ASKED && w.state.cas(state, WAITER_BELL_RUNG)) ring_bell(i);
        if (state == WAITER_FUTEX_RUNG) futex_wake(w.seq, everybody); // mostly on his way
    });
}

void doorbell_keep() {
    waiter_ref one;
    if (one.acquire(true) == 0) one.bell_fd();
}

} // namespace sockshim
