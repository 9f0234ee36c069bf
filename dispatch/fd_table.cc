// fd -> file -> socket. See fd_table.h.
#include "dispatch/fd_table.h"

#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/epoll.h>
#include <sys/single_threaded.h>
#include <sys/stat.h>

#include "core/arena/arena.h"
#include "core/arena/internal_fd.h"
#include "core/arena/owner.h"
#include "core/base/raw_syscall.h"
#include "core/net/carrier.h"
#include "core/net/eventpoll.h"
#include "core/net/kernel_half.h"
#include "core/net/reaper.h"
#include "core/net/timer.h"
#include "core/sync/critical.h"
#include "core/trace/trace.h"
#include "dispatch/process.h"

namespace sockshim {

constinit a32 fd_table[fd_table_size]{};
constinit thread_local held_refs held{};

namespace {

// What this process holds of one cell: descriptors that name it, and those plus the calls under way.
// The cell may be let go of when refs falls to 0.
struct file {
    a32 refs;
    a32 fds;
};
struct socket_file : file {
    a32 half; // number + 1 of a descriptor that is the kernel's half, when last seen; 0: none in this process
};
struct epoll_file : file {
    a32 kept; // number + 1 of a descriptor that keeps the kernel's half for calls under way
};
constexpr u32 max_eventpolls = region_shapes[REGION_EVENTPOLL].max_cells;
constinit socket_file socket_files[max_sockets]{};
constinit epoll_file epoll_files[max_eventpolls]{};
constinit a32 highest_fd{0};

constexpr u32 make_entry(fd_kind kind, u32 index) { return index << 3 | kind; }

// A handler that comes between a reference and its record might not come back.
class critical_scope {
public:
    critical_scope() { critical_enter(); }
    ~critical_scope() { critical_leave(); }
    critical_scope(const critical_scope&) = delete;
    critical_scope& operator=(const critical_scope&) = delete;
};

void note_held(u32 entry, const void* frame) {
    if (held.count < held_refs::most) held.at[held.count++] = {frame, entry};
}

void forget_held(u32 entry) {
    for (u32 i = held.count; i-- > 0;) {
        if (held.at[i].entry != entry) continue;
        for (; i + 1 < held.count; ++i) held.at[i] = held.at[i + 1];
        --held.count;
        return;
    }
}

// Takes a reference, for a call whose frame `frame` lies in, unless there is none left to join.
bool get_file(file& f, u32 entry, const void* frame) {
    const critical_scope together;
    u32 n = f.refs.load();
    while (n) {
        if (f.refs.cas(n, n + 1)) {
            note_held(entry, frame);
            return true;
        }
    }
    return false;
}

void put_socket(u32 index) {
    if (socket_files[index].refs.fetch_sub(1) != 1) return;
    const handle<socket> h = slab_handle_at<socket>(index);
    if (socket* s = slab_get(h)) socket_last_put(*s, h);
}

void internal_marked(int fd, bool ours);

void drop_kept(epoll_file& f) {
    const int kept = static_cast<int>(f.kept.exchange(0)) - 1;
    if (kept < 0) return;
    internal_marked(kept, false);
    raw_syscall(SYS_close, kept);
}

void put_epoll(u32 index) {
    epoll_file& f = epoll_files[index];
    if (f.refs.fetch_sub(1) != 1) return;
    drop_kept(f);
    eventpoll_put(index, self_proc);
}

// `fd` goes away, and this was its entry. Without a descriptor to be had, calls under way lose what the
// kernel's half would tell them.
void keep_kernel_half(int fd, u32 entry) {
    if (SOCKSHIM_LIKELY(fd_entry_kind(entry) != FD_EPOLL)) return;
    epoll_file& f = epoll_files[fd_entry_index(entry)];
    if (f.refs.load() == f.fds.load() || f.kept.load()) return;
    const int own = internal_fd_dup(fd);
    u32 none = 0;
    if (own < 0 || f.kept.cas(none, static_cast<u32>(own) + 1)) return;
    internal_marked(own, false);
    raw_syscall(SYS_close, own);
}

void note_highest(u32 fd) {
    u32 seen = highest_fd.load_relaxed();
    while (seen < fd && !highest_fd.cas(seen, fd)) {
    }
}

// The last number of it is gone: others who have the kernel's half watch it from here on.
void let_go_of_half(u32 index) {
    if (!socket_files[index].half.exchange(0)) return;
    if (socket* s = slab_at<socket>(index)) kernel_half_unwatch(*s, self_proc);
}

void drop_entry(u32 old) {
    switch (fd_entry_kind(old)) {
    case FD_SOCKET:
        if (socket_files[fd_entry_index(old)].fds.fetch_sub(1) == 1) {
            let_go_of_half(fd_entry_index(old));
        } else {
            fd_of_half(fd_entry_index(old)); // it may have been the number that was noted
        }
        put_socket(fd_entry_index(old));
        break;
    case FD_EPOLL:
        epoll_files[fd_entry_index(old)].fds.fetch_sub(1);
        put_epoll(fd_entry_index(old));
        break;
    default: break;
    }
}

// Replaces an entry; what stood there loses a descriptor.
void replace_entry(u32 fd, u32 entry) { drop_entry(fd_table[fd].exchange(entry)); }

bool is_half(int fd, const socket& s) {
    struct stat st {};
    return raw_syscall(SYS_fstat, fd, ptr_arg(&st)) == 0 && st.st_ino == s.kernel_inode.load();
}

// A number of the socket may have the carrier's file still: it came in a message from before the bind, or was not known then.
int another_half(u32 index) {
    const socket* const s = slab_at<socket>(index);
    for (u32 fd = 0; s && fd < fd_table_end(); ++fd) {
        const bool names = fd_table[fd].load() == make_entry(FD_SOCKET, index);
        if (names && is_half(static_cast<int>(fd), *s)) return static_cast<int>(fd);
    }
    return -1;
}

// `fd`, a new number of the socket, gets the half that this process has where it names the file still: that was
// duplicated, or sent, before the bind.
void duplicate_half(int fd, handle<socket> h) {
    const socket* const s = slab_get(h);
    if (!__libc_single_threaded) full_fence();
    if (SOCKSHIM_LIKELY(!s || !s->kernel_inode.load())) return;
    struct stat st {};
    if (raw_syscall(SYS_fstat, fd, ptr_arg(&st)) || !S_ISREG(st.st_mode)) return;
    if (!(carrier_identify(st) == h)) return;
    const int half = fd_of_half(h.index);
    const long k = half < 0 ? -EBADF : raw_syscall(SYS_fcntl, half, F_DUPFD_CLOEXEC, 0);
    if (k < 0) return;
    if (is_half(static_cast<int>(k), *s)) fd_replace_file(fd, static_cast<int>(k));
    raw_syscall(SYS_close, k);
}

u32 libc_entry(const struct stat& st) {
    return trace_enabled && S_ISSOCK(st.st_mode) ? FD_LIBC_TRACED : FD_LIBC;
}

// An epoll set that came from another process, or over exec: the half of ours that belongs to it.
bool adopt_epoll(int fd) {
    if (check_epoll(fd) || process_attach()) return false;
    if (fd_entry_kind(fd_table[fd].load()) == FD_EPOLL) return true; // process_attach has found it
    struct asked {
        u32 pid;
        int fd;
    } self{static_cast<u32>(raw_syscall(SYS_getpid)), fd};
    const handle<eventpoll> set = eventpoll_find(
        [](proc_id who, int theirs, void* arg) {
            const asked& a = *static_cast<const asked*>(arg);
            const u32 pid = proc_pid(who);
            return pid && same_file(a.pid, a.fd, pid, theirs);
        },
        &self);
    if (!set) return false;
    fd_install_epoll(fd, set.index);
    return true;
}

void internal_marked(int fd, bool ours) {
    if (static_cast<u32>(fd) >= fd_table_size) return;
    if (ours) note_highest(static_cast<u32>(fd));
    fd_table[fd].store(ours ? FD_INTERNAL : FD_UNKNOWN);
}

} // namespace

u32 fd_table_end() { return highest_fd.load() + 1; }

void fd_table_init() {
    internal_fd_marked = internal_marked;
    kernel_half_fd = fd_of_half;
    kernel_half_at = [](int fd) {
        const u32 entry = static_cast<u32>(fd) < fd_table_size ? fd_table[fd].load() : 0;
        return fd_entry_kind(entry) == FD_SOCKET ? slab_at<socket>(fd_entry_index(entry)) : nullptr;
    };
    kernel_half_for_each = [](void (*visit)(socket&, int)) {
        fd_table_for_each(
            [](int fd, u32 entry, void* arg) {
                if (fd_entry_kind(entry) != FD_SOCKET) return;
                socket* const s = slab_at<socket>(fd_entry_index(entry));
                if (s && fd_of_half(fd_entry_index(entry)) == fd) {
                    (*static_cast<void (**)(socket&, int)>(arg))(*s, fd);
                }
            },
            &visit);
    };
}

int fd_of_half(u32 index) {
    a32& half = socket_files[index].half;
    const u32 seen = half.load();
    if (!seen) return -1;
    const int fd = static_cast<int>(seen) - 1;
    if (fd_table[fd].load() == make_entry(FD_SOCKET, index)) return fd;
    // The kernel's signals name that number still, which may be another socket's next.
    const int other = another_half(index);
    u32 was = seen;
    if (!half.cas(was, static_cast<u32>(other + 1))) return other;
    socket* const s = other < 0 ? nullptr : slab_at<socket>(index);
    if (s) kernel_half_rewatch(*s, other);
    return other;
}

void fd_replace_file(int fd, int k) {
    const bool cloexec = raw_syscall(SYS_fcntl, fd, F_GETFD) & FD_CLOEXEC;
    raw_syscall(SYS_dup3, k, fd, cloexec ? O_CLOEXEC : 0);
}

void fd_has_half(u32 index, int fd) { socket_files[index].half.store(static_cast<u32>(fd + 1)); }

// The last reference of this process is gone. Whether it was the last of all is known at once for a
// socket that never left the process, else by its heartbeat.
void socket_last_put(socket& s, handle<socket> h) {
    if (s.flags.load() & SOCKF_SHARED) {
        socket_unhold(s, self_proc);
        carrier_let_go(s);
        // Asking the kernel about its half costs; others who say that they have it are believed.
        if (s.kernel_inode.load() && socket_vouched(s)) return;
        if (carrier_held(s)) {
            if (socket_unaccounted(s)) timer_kick_processes();
            return;
        }
        if (!socket_claim_shared(s, h)) return;
    } else if (s.holder.load() != holder_word(h, self_proc)) {
        return; // released, and the cell is somebody else's by now
    }
    sock_release(s);
}

// One look at the number decides, since other threads may close it and make it anew meanwhile.
fd_kind fd_look(int fd) {
    if (static_cast<u32>(fd) >= fd_table_size) return FD_LIBC;
    const u32 entry = fd_table[fd].load();
    if (entry != FD_UNKNOWN) return entry == FD_CLOSED ? FD_CLOSED : fd_entry_kind(entry);
    struct stat st {};
    if (raw_syscall(SYS_fstat, fd, ptr_arg(&st)) < 0) return FD_CLOSED; // stays unknown
    const bool half = S_ISSOCK(st.st_mode);
    if ((half ? kernel_half_looks_like(fd) : carrier_looks_like(st)) && process_attach() == 0) {
        const handle<socket> h = carrier_identify(st);
        if (h) {
            fd_install_duplicate(fd, h);
            if (half && !socket_files[h.index].half.load()) fd_has_half(h.index, fd);
            timer_thread_want();
            return FD_SOCKET;
        }
    }
    // The kernel's anonymous files have no type.
    if ((st.st_mode & S_IFMT) == 0 && adopt_epoll(fd)) return FD_EPOLL;
    u32 expected = FD_UNKNOWN;
    fd_table[fd].cas(expected, libc_entry(st));
    return FD_LIBC;
}

fd_kind fd_classify(int fd) {
    const fd_kind kind = fd_look(fd);
    return kind == FD_CLOSED ? FD_LIBC : kind;
}

void fd_installed(int fd) {
    if (static_cast<u32>(fd) >= fd_table_size) return;
    if (SOCKSHIM_UNLIKELY(trace_enabled)) {
        struct stat st {};
        raw_syscall(SYS_fstat, fd, ptr_arg(&st));
        replace_entry(static_cast<u32>(fd), libc_entry(st));
        return;
    }
    if (SOCKSHIM_LIKELY(fd_table[fd].load_relaxed() == FD_LIBC)) return;
    replace_entry(static_cast<u32>(fd), FD_LIBC);
}

void fd_install_socket(int fd, handle<socket> s) {
    const u32 at = static_cast<u32>(fd);
    if (at >= fd_table_size) return;
    socket_files[s.index].refs.fetch_add(1);
    if (socket_files[s.index].fds.fetch_add(1) == 0) {
        if (socket* sock = slab_get(s)) socket_hold(*sock);
    }
    note_highest(at);
    replace_entry(at, make_entry(FD_SOCKET, s.index));
}

void fd_install_duplicate(int fd, handle<socket> s) {
    fd_install_socket(fd, s);
    duplicate_half(fd, s);
    if (SOCKSHIM_LIKELY(__libc_single_threaded)) return;
    for (handle<socket> is; !((is = carrier_identify(fd)) == s); s = is) {
        u32 wrong = make_entry(FD_SOCKET, s.index);
        if (!fd_table[fd].cas(wrong, FD_UNKNOWN)) return; // who changed it has told the table
        drop_entry(make_entry(FD_SOCKET, s.index));
        if (!is) return;
        fd_install_socket(fd, is);
    }
}

void fd_install_epoll(int fd, u32 index) {
    const u32 at = static_cast<u32>(fd);
    if (at >= fd_table_size || index >= max_eventpolls) return;
    epoll_files[index].refs.fetch_add(1);
    epoll_files[index].fds.fetch_add(1);
    note_highest(at);
    replace_entry(at, make_entry(FD_EPOLL, index));
}

bool fd_is_unclassified_epoll(int fd) {
    return static_cast<u32>(fd) < fd_table_size && fd_table[fd].load() == FD_UNKNOWN &&
           check_epoll(fd) == 0;
}

// The question takes nothing: an event that cannot be stored stays (a null pointer).
int check_epoll(int fd) {
    const long r = raw_syscall(SYS_epoll_pwait, fd, 0, 1, 0, 0, 8);
    return r == -EINVAL || r == -EBADF ? static_cast<int>(r) : 0;
}

bool same_file(u32 pid, int fd, u32 other_pid, int other_fd) {
    return raw_syscall(SYS_kcmp, pid, other_pid, KCMP_FILE, fd, other_fd) == 0;
}

void fd_forget(int fd) {
    if (static_cast<u32>(fd) < fd_table_size) replace_entry(static_cast<u32>(fd), FD_UNKNOWN);
}

long fd_close(int fd) {
    u32 old;
    long r;
    {
        const critical_scope together;
        old = fd_table[fd].exchange(FD_CLOSED);
        keep_kernel_half(fd, old);
        r = raw_syscall(SYS_close, fd);
        u32 closed = FD_CLOSED; // unless somebody has it again
        fd_table[fd].cas(closed, FD_UNKNOWN);
    }
    drop_entry(old);
    return r;
}

int sockfd_lookup_light(int fd, socket_ref& ref) {
    if (static_cast<u32>(fd) >= fd_table_size) return static_cast<int>(SYS_NOT_OURS);
    for (;;) {
        const u32 entry = fd_table[fd].load();
        if (SOCKSHIM_UNLIKELY(fd_entry_kind(entry) != FD_SOCKET)) {
            if (fd_entry_kind(entry) == FD_INTERNAL) return -EBADF;
            const fd_kind kind = entry == FD_UNKNOWN || entry == FD_CLOSED ? fd_look(fd) : FD_LIBC;
            if (kind == FD_SOCKET) continue;
            return kind == FD_CLOSED ? -EBADF : static_cast<int>(SYS_NOT_OURS);
        }
        const u32 index = fd_entry_index(entry);
        if (SOCKSHIM_UNLIKELY(timer_thread_state.load_relaxed() == TIMER_WANTED)) {
            timer_thread_start();
        }
        ref = {slab_at<socket>(index), index, false};
        if (SOCKSHIM_UNLIKELY(!ref.sock)) return -EBADF;
        if (__libc_single_threaded) return 0;
        if (!get_file(socket_files[index], entry, &ref)) continue;
        ref.fput_needed = true;
        // The number may have been closed and made to name another socket meanwhile.
        if (fd_table[fd].load() == entry) return 0;
        fput_light(ref);
    }
}

void fput_light(const socket_ref& ref) {
    if (!ref.fput_needed) return;
    const critical_scope together;
    forget_held(make_entry(FD_SOCKET, ref.index));
    put_socket(ref.index);
}

// On its alternate stack a handler cannot compare; frames of a call that it interrupts are less deep than its own
// otherwise.
void held_put(const void* frame) {
    stack_t stack{};
    if (frame) raw_syscall(SYS_sigaltstack, 0, ptr_arg(&stack));
    if (frame && (stack.ss_flags & SS_ONSTACK)) return;
    const critical_scope together;
    for (u32 i = held.count; i-- > 0;) {
        if (frame && held.at[i].frame >= frame) continue;
        const u32 entry = held.at[i].entry;
        if (fd_entry_kind(entry) == FD_EPOLL)
            epoll_put_light({{}, entry, -1, true});
        else
            fput_light({nullptr, fd_entry_index(entry), true});
    }
}

[[gnu::noinline]] epoll_ref epoll_lookup_light(int fd) {
    for (;;) {
        const u32 entry = fd_table[fd].load();
        const u32 index = fd_entry_index(entry);
        if (fd_entry_kind(entry) != FD_EPOLL) return {};
        epoll_ref ref{slab_handle_at<eventpoll>(index), entry, fd, false};
        if (__libc_single_threaded) return ref;
        if (!get_file(epoll_files[index], entry, __builtin_frame_address(0))) continue;
        ref.fput_needed = true;
        if (fd_table[fd].load() == entry) return ref;
        epoll_put_light(ref);
    }
}

void epoll_put_light(const epoll_ref& ref) {
    if (!ref.fput_needed) return;
    const critical_scope together;
    forget_held(ref.entry);
    put_epoll(fd_entry_index(ref.entry));
}

int epoll_kernel_fd(const epoll_ref& ref) {
    if (SOCKSHIM_LIKELY(fd_table[ref.fd].load() == ref.entry)) return ref.fd;
    const u32 kept = epoll_files[fd_entry_index(ref.entry)].kept.load();
    return kept ? static_cast<int>(kept) - 1 : ref.fd;
}

void fd_replacing(int fd) { keep_kernel_half(fd, fd_table[fd].load()); }

u32 socket_fd_count(u32 index) { return index < max_sockets ? socket_files[index].fds.load() : 0; }

int fd_of_socket(u32 index) {
    for (u32 fd = 0; fd <= highest_fd.load(); ++fd) {
        if (fd_table[fd].load() == make_entry(FD_SOCKET, index)) return static_cast<int>(fd);
    }
    return -1;
}

void fd_table_for_each(void (*visit)(int fd, u32 entry, void* arg), void* arg) {
    const u32 last = highest_fd.load();
    for (u32 fd = 0; fd <= last; ++fd) {
        const u32 entry = fd_table[fd].load();
        if (fd_entry_kind(entry) == FD_SOCKET || fd_entry_kind(entry) == FD_EPOLL) {
            visit(static_cast<int>(fd), entry, arg);
        }
    }
}

void fd_table_forked() {
    // The parent's other threads, and the calls they were in, do not exist here.
    for (u32 fd = 0; fd < fd_table_end(); ++fd) {
        u32 closed = FD_CLOSED;
        fd_table[fd].cas(closed, FD_UNKNOWN);
    }
    fd_table_for_each(
        [](int, u32 entry, void*) {
            const u32 index = fd_entry_index(entry);
            if (fd_entry_kind(entry) != FD_SOCKET) return;
            file& f = socket_files[index];
            f.refs.store(f.fds.load());
            if (socket* sock = slab_at<socket>(index)) socket_hold(*sock);
        },
        nullptr);
    // But for those that a handler which forked has interrupted: they go on.
    for (u32 i = 0; i < held.count; ++i) {
        const u32 entry = held.at[i].entry;
        if (fd_entry_kind(entry) == FD_SOCKET)
            socket_files[fd_entry_index(entry)].refs.fetch_add(1);
    }
    for (u32 index = 0, n = cells_committed(REGION_EVENTPOLL); index < n; ++index) {
        epoll_file& f = epoll_files[index];
        if (f.refs.load_relaxed() == f.fds.load_relaxed()) continue;
        drop_kept(f);
        f.refs.store(f.fds.load() + 1);
        put_epoll(index); // only waited on by a thread that is not here: let go of
    }
}

} // namespace sockshim
