// The background thread and the duty. See timer.h.
//
// The thread has a descriptor table of its own (close_range with CLOSE_RANGE_UNSHARE), empty at first:
// what it opens is invisible to the program and survives a daemon that closes everything. The duty is
// a POSIX record lock on the file "duty"; the kernel takes it from who dies, and fork does not inherit it.
// Whoever has it watches all processes by pidfd.
//
// Who waits for the duty does not wait for the lock (that could not be called off without a signal) but
// for the end of all writers of the FIFO "duty.alive", which whoever is on duty keeps open, or for somebody
// to open "duty.call" for writing, which is how a process calls its thread back.
#include "core/net/timer.h"

#include <cerrno>
#include <ctime>
#include <fcntl.h>
#include <initializer_list>
#include <poll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "core/arena/admission.h"
#include "core/arena/arena.h"
#include "core/arena/internal_fd.h"
#include "core/arena/owner.h"
#include "core/arena/timer_map.h"
#include "core/base/config.h"
#include "core/base/raw_syscall.h"
#include "core/inet/inet_connection_sock.h"
#include "core/net/doorbell.h"
#include "core/net/kernel_half.h"
#include "core/net/proto.h"
#include "core/net/reaper.h"
#include "core/sync/background.h"

namespace sockshim {

constinit a32 timer_thread_state{0};

namespace {

constinit a32 called_back{0};      // the thread is to end
constinit bool filtered = false;   // the thread was made by one whose system calls are filtered
constinit internal_fd kept_bell{}; // of a process that may be able to open nothing

constexpr char bell_name[] = "duty.bell";
constexpr char alive_name[] = "duty.alive";
constexpr char call_name[] = "duty.call";
constexpr i64 call_again_us = 10000;
constexpr u32 calls = 500;
constexpr u64 sweep_every_us = 1000000;
// After a death, so many looks at what nothing refers to, the first so long after it, each next one
// after twice that: a request that the dead left behind takes seconds to be given up.
constexpr u32 sweeps_after_death = 9;
constexpr u64 sweep_lost_us = 50000;

// The duty thread gets up at whole ticks, as jiffies have it: deadlines of thousands of connections would
// else wake it for each. Later by up to a millisecond, never earlier.
constexpr u64 tick_us = 1024;
constexpr u64 tick_up(u64 us) {
    return us > ~u64{0} - tick_us ? us : (us + tick_us - 1) & ~(tick_us - 1);
}

// Binary heap of (deadline, sock cell), the duty thread's own. queued[] tells the deadline under which
// a cell stands in it, so that an entry that was overtaken is recognised and dropped.
struct heap_entry {
    u64 deadline_us;
    u32 index;
};
struct timer_heap {
    heap_entry* entries;
    u64* queued;
    u32 count;
};
constexpr u32 heap_capacity = 4 * max_sockets;
timer_heap heap{};

template <class T> T* map_array(u64 n) {
    const long p =
        raw_syscall(SYS_mmap, 0, static_cast<long>(n * sizeof(T)), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p < 0 && p > -4096 ? nullptr : reinterpret_cast<T*>(p);
}

void heap_push(u64 deadline_us, u32 index) {
    if (heap.queued[index] && heap.queued[index] <= deadline_us) return;
    if (heap.count == heap_capacity) return; // cannot be: overtaken entries are bounded by sweeps
    heap.queued[index] = deadline_us;
    u32 i = heap.count++;
    for (; i && heap.entries[(i - 1) / 2].deadline_us > deadline_us; i = (i - 1) / 2) {
        heap.entries[i] = heap.entries[(i - 1) / 2];
    }
    heap.entries[i] = {deadline_us, index};
}

heap_entry heap_pop() {
    const heap_entry top = heap.entries[0];
    const heap_entry last = heap.entries[--heap.count];
    u32 i = 0;
    for (u32 child; (child = 2 * i + 1) < heap.count; i = child) {
        if (child + 1 < heap.count &&
            heap.entries[child + 1].deadline_us < heap.entries[child].deadline_us) {
            ++child;
        }
        if (last.deadline_us <= heap.entries[child].deadline_us) break;
        heap.entries[i] = heap.entries[child];
    }
    if (heap.count) heap.entries[i] = last;
    return top;
}

void look_at(u32 index, void*) {
    const handle<sock> h = slab_handle_at<sock>(index);
    sock* sk = slab_get(h);
    if (!sk) return;
    const u64 deadline = sk->sk_timer_us.load();
    if (deadline)
        heap_push(deadline, index);
    else
        sk->sk_timer_queued_us.store(0);
}

void run_timers(u64 now) {
    timer_map_take(look_at, nullptr);
    while (heap.count && heap.entries[0].deadline_us <= now) {
        const heap_entry due = heap_pop();
        if (heap.queued[due.index] != due.deadline_us) continue; // overtaken
        heap.queued[due.index] = 0;
        const handle<sock> h = slab_handle_at<sock>(due.index);
        sock* sk = slab_get(h);
        if (!sk) continue;
        // From here on an arming sets the bit again; then its deadline is read.
        sk->sk_timer_queued_us.store(0);
        full_fence();
        const u64 deadline = sk->sk_timer_us.load();
        if (!deadline) continue;
        if (deadline > now) {
            sk->sk_timer_queued_us.store(deadline);
            heap_push(deadline, due.index);
            continue;
        }
        sk = lock_sock_handle(h);
        if (!sk) continue;
        if (sk->sk_timer_us.load() && sk->sk_timer_us.load() <= now) {
            sk_prot(*sk).timer(*sk, now);
            // A timer function that leaves a deadline in the past would be run for ever.
            if (const u64 next = sk->sk_timer_us.load(); next && next <= now) {
                sk_reset_timer(*sk, now + 1000);
            }
        }
        release_sock(*sk);
    }
}

constexpr timespec to_timespec(u64 us) {
    return {static_cast<time_t>(us / 1000000), static_cast<long>(us % 1000000 * 1000)};
}

// Who is watched: one pidfd per process slot.
struct watch {
    proc_id id;
    u32 pid;
    int fd;
};

struct duty_state {
    watch* watches;
    pollfd* polls;
    u32 count;
    bool unwatched; // some process could not be watched by pidfd: ask now and then
};

// The program has lowered RLIMIT_NOFILE so far that nobody can be watched and no bell be opened.
bool descriptors_scarce() {
    constexpr u64 enough = 32;
    rlimit limit{};
    return raw_syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, ptr_arg(&limit)) == 0 &&
           limit.rlim_cur < enough;
}

void drop_watch(duty_state& d, u32 i) {
    raw_syscall(SYS_close, d.watches[i].fd);
    d.watches[i] = d.watches[--d.count];
}

// True when one of them has died since the reaper looked: nothing else would tell of it.
bool watch_processes(duty_state& d) {
    bool died = false;
    for (u32 i = 0; i < d.count;) {
        if (proc_pid(d.watches[i].id) != d.watches[i].pid)
            drop_watch(d, i);
        else
            ++i;
    }
    d.unwatched = false;
    for (u32 slot = 1; slot <= max_processes; ++slot) {
        const proc_id id = proc_of_slot(slot);
        if (!id || id == self_proc) continue;
        bool known = false;
        for (u32 i = 0; i < d.count && !known; ++i) known = d.watches[i].id == id;
        if (known) continue;
        const u32 pid = proc_pid(id);
        if (!pid) continue;
        const long fd = raw_syscall(SYS_pidfd_open, pid, 0);
        if (fd < 0) {
            died = died || fd == -ESRCH;
            d.unwatched = true;
            continue;
        }
        d.watches[d.count++] = {id, pid, static_cast<int>(fd)};
    }
    return died;
}

// Some sockets only the kernel can vouch for: in flight in a message, or of a process that is on its way
// through execve, whose new image may not know us and so tells nobody what it closes. Their carriers are
// asked at growing intervals.
u64 exec_check_at(u64 now, u64 since_us) {
    return now + clamp_to<u64>(now - since_us, 1000, 1000000);
}

// True when a connection in TIME_WAIT or SYN_RECV has to be looked after.
bool sweep_minisocks(u64 now) {
    bool any = false;
    const u32 tws = cells_committed(REGION_TIMEWAIT);
    for (u32 i = 0; i < tws; ++i) {
        const handle<inet_timewait_sock> h = slab_handle_at<inet_timewait_sock>(i);
        if (inet_timewait_sock* tw = slab_get(h)) {
            if (tw->tw_deadline_us <= now)
                inet_twsk_expire(h);
            else
                any = true;
        }
    }
    const u32 reqs = cells_committed(REGION_REQUEST);
    for (u32 i = 0; i < reqs; ++i) {
        const handle<request_sock> h = slab_handle_at<request_sock>(i);
        if (request_sock* req = slab_get(h)) {
            if (req->timeout_us <= now) inet_reqsk_timer(h, now);
            any = true;
        }
    }
    return any;
}

// The arrays may be there from an earlier duty of this process, or of its parent.
bool begin_duty(duty_state& d) {
    if (!d.watches) d.watches = map_array<watch>(max_processes);
    if (!d.polls) d.polls = map_array<pollfd>(max_processes + 2);
    if (!heap.entries) heap.entries = map_array<heap_entry>(heap_capacity);
    if (!heap.queued) heap.queued = map_array<u64>(max_sockets);
    if (!d.watches || !d.polls || !heap.entries || !heap.queued) return false;
    d.count = heap.count = 0;
    raw_syscall(SYS_madvise, ptr_arg(heap.queued), max_sockets * sizeof(u64), MADV_DONTNEED);
    sweep_forget();
    return true;
}

constinit duty_state the_duty{};

void look_at_all() {
    for (u32 i = 0; i < cells_committed(REGION_SOCK); ++i) look_at(i, nullptr);
}

void on_duty(int bell, int signals) {
    duty_state& d = the_duty;
    if (!begin_duty(d)) return;

    timer_duty& duty = arena_timer_duty();
    duty.rung.store(0);
    full_fence();
    look_at_all();
    u64 next_sweep = 0, next_exec = 0, exec_since = 0, next_lost = 0;
    u32 sweeps =
        sweeps_after_death; // the last one on duty may have died in the middle of something
    bool processes = true, unaccounted = false;
    while (!called_back.load()) {
        u64 now = monotonic_us();
        // Who rang may have been killed before the byte was written.
        if (duty.rung.load()) {
            duty.rung.store(0);
            full_fence();
            processes = true;
        }
        if (duty.wakes.load() && duty.wakes.exchange(0)) {
            waiters_wake_asked();
            wait_queues_wake_asked();
        }
        if (processes) {
            if (descriptors_scarce()) break;
            // What the dead were in the middle of is judged by two sightings (sweep_unreferenced).
            bool died = true;
            for (int look = 0; died && look < 3; ++look) {
                if (reap_dead_processes()) sweeps = sweeps_after_death, next_lost = now;
                died = watch_processes(d);
            }
            unaccounted = sockets_unaccounted();
            processes = false;
        }
        if (unaccounted || process_execing()) {
            if (!exec_since) exec_since = now;
            if (now >= next_exec) {
                release_unheld_sockets();
                unaccounted = sockets_unaccounted();
                next_exec = exec_check_at(now, exec_since);
            }
        } else {
            exec_since = next_exec = 0;
        }
        run_timers(now);
        if (sweeps && now >= next_lost) {
            sweep_unreferenced();
            --sweeps;
            next_lost = now + (sweep_lost_us << (sweeps_after_death - 1 - sweeps));
        }
        bool minisocks = true;
        if (now >= next_sweep) {
            minisocks = sweep_minisocks(now);
            next_sweep = now + sweep_every_us;
        }
        u64 wake = heap.count ? heap.entries[0].deadline_us : ~u64{0};
        if (minisocks) wake = min_of(wake, next_sweep);
        if (sweeps) wake = min_of(wake, next_lost);
        if (exec_since) wake = min_of(wake, next_exec);
        if (d.unwatched) wake = min_of(wake, now + sweep_every_us);
        wake = tick_up(wake);
        duty.wake_us.store(wake);
        full_fence();
        // Armed between run_timers and the store above: its kick may have seen the old wake_us.
        timer_map_take(look_at, nullptr);
        if (heap.count && tick_up(heap.entries[0].deadline_us) < wake) continue;

        d.polls[0] = {bell, POLLIN, 0};
        d.polls[1] = {signals, POLLIN, 0};
        for (u32 i = 0; i < d.count; ++i) d.polls[i + 2] = {d.watches[i].fd, POLLIN, 0};
        now = monotonic_us();
        const timespec ts = to_timespec(wake > now ? wake - now : 0);
        const u32 n = d.count + 2;
        const long got =
            raw_syscall(SYS_ppoll, ptr_arg(d.polls), n, wake == ~u64{0} ? 0 : ptr_arg(&ts), 0, 8);
        if (got == -EINVAL) { // more descriptors than RLIMIT_NOFILE has become
            while (d.count) drop_watch(d, d.count - 1);
            processes = true;
            continue;
        }
        if (got <= 0) {
            processes = d.unwatched;
            continue;
        }
        if (d.polls[0].revents) {
            // Before reading and before looking: whoever rings from here on writes a new byte.
            duty.rung.store(0);
            full_fence();
            char bytes[64];
            raw_syscall(SYS_read, bell, ptr_arg(bytes), sizeof bytes);
            processes = true;
        }
        if (d.polls[1].revents) kernel_half_signalled(signals);
        for (u32 i = n - 1; i >= 2; --i) {
            if (d.polls[i].revents) {
                processes = true;
                drop_watch(d, i - 2);
            }
        }
    }
    while (d.count) drop_watch(d, d.count - 1);
}

int open_fifo(const char* name, int flags) {
    return arena_openat(name, flags | O_NONBLOCK | O_CLOEXEC, 0);
}

int have_fifo(const char* name, int flags) {
    const int fd = open_fifo(name, flags);
    if (fd != -ENOENT) return fd;
    arena_make_fifo(name);
    return open_fifo(name, flags);
}

long change_lock(int lock_fd, short type) {
    struct flock lock {};
    lock.l_type = type;
    return raw_syscall(SYS_fcntl, lock_fd, F_SETLK, ptr_arg(&lock));
}

// When the duty is this thread's: what says so to the others. -1: it was called back, or cannot have it.
int wait_for_duty(int lock_fd, int signals) {
    int alive = -1, call = -1;
    for (u64 pause_us = 0;;) {
        // Anew each time: what was called is over for this reader. Then look; who calls comes later.
        raw_syscall(SYS_close, call);
        call = have_fifo(call_name, O_RDONLY);
        if (called_back.load() || descriptors_scarce()) {
            raw_syscall(SYS_close, call);
            raw_syscall(SYS_close, alive);
            return -1;
        }
        // A writer before he has the lock: so there is no holder whose end would not be noticed, and
        // one before there is a reader, who else would not notice either.
        const int writer = have_fifo(alive_name, O_RDWR);
        if (change_lock(lock_fd, F_WRLCK) == 0) {
            raw_syscall(SYS_close, alive);
            raw_syscall(SYS_close, call);
            return writer;
        }
        raw_syscall(SYS_close, alive);
        alive = open_fifo(alive_name, O_RDONLY);
        raw_syscall(SYS_close, writer);
        pollfd waits[3] = {{call, 0, 0}, {signals, POLLIN, 0}, {alive, 0, 0}};
        // Should whoever is on duty have no descriptor for it, its end would seem to be seen all the time.
        const u64 began = monotonic_us();
        const timespec pause = to_timespec(pause_us), poor{1, 0};
        raw_syscall(SYS_ppoll, ptr_arg(waits), 2, ptr_arg(&pause), 0, 8);
        // Signals of the kernel's halves are no reason to ask for the duty again.
        for (;;) {
            if (waits[1].revents) kernel_half_signalled(signals);
            if (waits[0].revents || waits[2].revents) break;
            const long r = raw_syscall(SYS_ppoll, ptr_arg(waits), 3,
                                       alive < 0 || call < 0 ? ptr_arg(&poor) : 0, 0, 8);
            if (r <= 0) break;
        }
        const u64 next = min_of<u64>(2 * pause_us + 1000, 1000000);
        pause_us = monotonic_us() - began < next ? next : 0;
    }
}

// With hardly any descriptors: the duty is this thread's only while nobody else wants it, for a moment at a
// time, so that one who is left alone like this still sees others' ends and his own timers.
void duty_in_passing(int lock_fd, int signals) {
    constexpr timespec between{0, 250 * 1000000};
    if (!begin_duty(the_duty)) return;
    while (!called_back.load() && descriptors_scarce()) {
        timespec ts = between;
        pollfd told{signals, POLLIN, 0};
        raw_syscall(SYS_ppoll, ptr_arg(&told), 1, ptr_arg(&ts), 0, 8);
        if (told.revents) kernel_half_signalled(signals);
        if (change_lock(lock_fd, F_WRLCK)) continue;
        const u64 now = monotonic_us();
        reap_dead_processes();
        look_at_all();
        run_timers(now);
        sweep_minisocks(now);
        sweep_unreferenced();
        change_lock(lock_fd, F_UNLCK);
    }
}

void thread_main() {
    if (!filtered) seccomp_exempt_thread();
    if (arena_own_table()) return;
    raw_syscall(SYS_prctl, 15 /* PR_SET_NAME */, ptr_arg("sockshim"));
    const int lock_fd = arena_make("duty", O_RDWR | O_CLOEXEC);
    if (lock_fd < 0) return;
    const int signals = kernel_half_signals();
    while (!called_back.load()) {
        if (const int alive = wait_for_duty(lock_fd, signals); alive >= 0) {
            const int bell = have_fifo(bell_name, O_RDWR);
            on_duty(bell, signals);
            raw_syscall(SYS_close, bell);
            raw_syscall(SYS_close, alive);
            change_lock(lock_fd, F_UNLCK);
        } else {
            duty_in_passing(lock_fd, signals);
        }
    }
    // Before whoever called can go on: the thread's table may outlive its stack.
    raw_syscall(SYS_close, lock_fd);
}

void ring_bell() {
    timer_duty& duty = arena_timer_duty();
    // Another has rung, and what we have to tell is seen with what he has; but he may have been killed
    // before the byte was written, so he is believed for a short time only.
    constexpr u32 believed_ms = 20;
    const u32 now = static_cast<u32>(monotonic_us() / 1000) | 1;
    full_fence();
    u32 seen = duty.rung.load();
    if (seen && now - seen < believed_ms) return;
    if (!duty.rung.cas(seen, now)) return;
    const int kept = arena_has_own_table() ? -1 : internal_fd_number(kept_bell);
    const int fd = kept >= 0 ? kept : open_fifo(bell_name, O_WRONLY);
    if (fd < 0) {
        duty.rung.store(0);
        return; // nobody on duty yet: the next one looks at everything
    }
    raw_syscall(SYS_write, fd, ptr_arg("!"), 1);
    if (fd != kept) raw_syscall(SYS_close, fd);
}

// What the thread does. One that would be killed for it, or could do nothing, is not made.
bool thread_permitted() {
    for (const long call : {SYS_clone, SYS_close_range, SYS_openat, SYS_fcntl, SYS_ppoll}) {
        if (!seccomp_permits(call)) return false;
    }
    return true;
}

// Whether it is on duty or waits for it, now or in a moment: so both, and again.
void call_back() {
    called_back.store(1);
    full_fence();
    for (u32 tries = 0; tries < calls; ++tries) {
        raw_syscall(SYS_close, open_fifo(call_name, O_WRONLY));
        if (const int bell = open_fifo(bell_name, O_WRONLY); bell >= 0) {
            raw_syscall(SYS_write, bell, ptr_arg("!"), 1);
            raw_syscall(SYS_close, bell);
        }
        if (background_join(call_again_us)) return;
    }
    notice("the background thread does not end; it keeps its credentials until it does");
}

} // namespace

void timer_thread_start() {
    if (!arena_directory()[0] || process_abroad()) return;
    u32 seen;
    do {
        while ((seen = timer_thread_state.load()) == TIMER_HELD) raw_syscall(SYS_sched_yield);
        if (seen == TIMER_RUNNING) return;
    } while (!timer_thread_state.cas(seen, TIMER_RUNNING));
    if (!thread_permitted()) {
        timer_thread_state.store(TIMER_IDLE);
        return;
    }
    if (background_join(0)) {
        called_back.store(0);
        filtered = seccomp_active;
        if (background_thread(thread_main)) {
            kernel_half_for_each(kernel_half_rewatch);
            timer_kick_processes();
            return;
        }
    }
    timer_thread_state.store(TIMER_WANTED);
}

void timer_thread_want() {
    u32 idle = TIMER_IDLE;
    if (timer_thread_state.load_relaxed() == idle) timer_thread_state.cas(idle, TIMER_WANTED);
}

void timer_thread_forked() {
    background_forked();
    if (timer_thread_state.load() == TIMER_IDLE) return;
    timer_thread_state.store(process_abroad() ? TIMER_IDLE : TIMER_WANTED);
}

u32 timer_thread_hold() {
    for (;;) {
        u32 seen = timer_thread_state.load();
        if (seen == TIMER_HELD || !timer_thread_state.cas(seen, TIMER_HELD)) {
            raw_syscall(SYS_sched_yield);
            continue;
        }
        if (seen == TIMER_RUNNING) call_back();
        return seen;
    }
}

void timer_thread_release(u32 former, bool start) {
    timer_thread_state.store(former == TIMER_RUNNING ? TIMER_WANTED : former);
    if (start && former != TIMER_IDLE) timer_thread_start();
}

void timer_kick(u64 deadline_us) {
    full_fence();
    if (tick_up(deadline_us) < arena_timer_duty().wake_us.load()) ring_bell();
}

void timer_kick_processes() { ring_bell(); }

void timer_kick_wakes() {
    arena_timer_duty().wakes.store(1);
    ring_bell();
}

void timer_keep_bell() {
    if (!arena_directory()[0] || internal_fd_number(kept_bell) >= 0) return;
    const int fd = have_fifo(bell_name, O_RDWR);
    if (fd >= 0) internal_fd_adopt(kept_bell, fd);
}

void sk_reset_timer(sock& sk, u64 deadline_us) {
    sk.sk_timer_us.store(deadline_us);
    if (!deadline_us) return;
    full_fence();
    // The duty thread looks at this sock in time anyway and then sees the deadline that stands here.
    const u64 queued = sk.sk_timer_queued_us.load();
    if (queued && queued <= deadline_us) return;
    sk.sk_timer_queued_us.store(deadline_us);
    timer_map_set(sk_index(sk));
    timer_kick(deadline_us);
}

void sk_stop_timer(sock& sk) { sk.sk_timer_us.store(0); }

} // namespace sockshim
