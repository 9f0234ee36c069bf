#include "core/net/carrier.h"

#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>

#include "core/arena/admission.h"
#include "core/arena/arena.h"
#include "core/arena/internal_fd.h"
#include "core/arena/owner.h"
#include "core/base/crash_point.h"
#include "core/base/raw_syscall.h"
#include "core/net/kernel_half.h"

namespace sockshim {
namespace {

// A carrier's modification time: seconds say that it is one, nanoseconds say which cell. Reading them
// costs the fstat that identification needs anyway. (Not the size: RLIMIT_FSIZE would bite.)
constexpr i64 carrier_stamp = 0x50c4'0000;
constexpr i64 carrier_stamp_layout = 1;

// Makes the file of a cell that never had one, or lost it, and returns the descriptor of it: read-only
// though it is new, so that the program can hold it, and three system calls instead of five. Killed before
// the inode is stored: the next user of the cell stamps the file that is there.
int make(u32 index, const char* name, int flags) {
    int fd = arena_make(name, flags);
    if (fd < 0) return fd;
    const timespec times[2] = {{0, UTIME_OMIT},
                               {carrier_stamp + carrier_stamp_layout, static_cast<long>(index)}};
    long r = raw_syscall(SYS_utimensat, fd, 0, ptr_arg(times), 0);
    if (r ==
        -EPERM) { // such a file, and of another user: who is admitted may replace it, not stamp it
        raw_syscall(SYS_close, fd);
        arena_unlink(name);
        fd = arena_make(name, flags);
        if (fd < 0) return fd;
        r = raw_syscall(SYS_utimensat, fd, 0, ptr_arg(times), 0);
    }
    struct stat st {};
    if (r == 0) r = raw_syscall(SYS_fstat, fd, ptr_arg(&st));
    if (r < 0) {
        raw_syscall(SYS_close, fd);
        return static_cast<int>(r);
    }
    SOCKSHIM_CRASH_POINT();
    carrier_inode(index).store(st.st_ino);
    return fd;
}

// --- kept descriptions --------------------------------------------------------------------------------

// Who makes and closes connections all the time gets the same few cells again and again. Their carriers
// stay open at high numbers, for a dup and its close cost less than half of an open and its close. Kept is
// what was opened for the same cell twice without another cell in between, so that many sockets in a row
// cost nothing. One description never serves two holders: it is let go before the heartbeat lock can be
// taken on it, and in a forked child.
struct kept_carrier {
    a64 word; // cell + 1 above, number + 1 below, and kept_busy; 0: nothing
    u64 inode;
    a32 opened; // cell + 1 of the last real open
};
constexpr u32 kept_carriers = 8;
constinit kept_carrier kept_table[kept_carriers]{};
constexpr u64 kept_busy = u64{1} << 63; // somebody duplicates it

constexpr u64 kept_word(u32 index, int fd) {
    return static_cast<u64>(index + 1) << 32 | (static_cast<u32>(fd) + 1);
}
constexpr int kept_fd(u64 word) { return static_cast<int>(static_cast<u32>(word)) - 1; }

// A duplicate of what is kept for the cell, or -errno; -ENOENT: nothing is.
int kept_open(u32 index, bool cloexec) {
    kept_carrier& k = kept_table[index % kept_carriers];
    u64 word = k.word.load();
    if (word >> 32 != index + 1 || !k.word.cas(word, word | kept_busy)) return -ENOENT;
    if (k.inode != carrier_inode(index).load()) { // the cell got another file
        k.word.store(0);
        internal_fd_drop(kept_fd(word));
        return -ENOENT;
    }
    const long fd = raw_syscall(SYS_fcntl, kept_fd(word), cloexec ? F_DUPFD_CLOEXEC : F_DUPFD, 0);
    k.word.store(word);
    return static_cast<int>(fd);
}

void keep(u32 index, int fd) {
    kept_carrier& k = kept_table[index % kept_carriers];
    if (k.opened.exchange(index + 1) != index + 1) return;
    u64 former = k.word.load();
    if ((former & kept_busy) || !k.word.cas(former, kept_busy)) return;
    if (former) internal_fd_drop(kept_fd(former));
    const int high = internal_fd_dup(fd);
    k.inode = carrier_inode(index).load();
    k.word.store(high < 0 ? 0 : kept_word(index, high));
}

} // namespace

void carrier_let_go(const socket& sock) {
    const u32 index = socket_handle(sock).index;
    kept_carrier& k = kept_table[index % kept_carriers];
    u64 word = k.word.load();
    if (word >> 32 == index + 1 && k.word.cas(word, 0)) internal_fd_drop(kept_fd(word));
}

void carrier_forked() {
    for (kept_carrier& k : kept_table) {
        const u64 word = k.word.exchange(0);
        if (static_cast<u32>(word)) internal_fd_drop(kept_fd(word));
        k.opened.store(0);
    }
}

int carrier_open(const socket& sock, bool cloexec) {
    const u32 index = socket_handle(sock).index;
    const int kept = kept_open(index, cloexec);
    if (kept >= 0) return kept;
    const int flags = O_RDONLY | (cloexec ? O_CLOEXEC : 0);
    char name[16];
    carrier_name(name, index);
    if (carrier_inode(index).load()) {
        const int fd = arena_openat(name, flags, 0);
        if (fd >= 0) keep(index, fd);
        if (fd != -ENOENT) return fd;
    }
    return make(index, name, flags);
}

bool carrier_looks_like(const struct stat& st) {
    return S_ISREG(st.st_mode) && st.st_mtim.tv_sec == carrier_stamp + carrier_stamp_layout &&
           st.st_mtim.tv_nsec >= 0 && st.st_mtim.tv_nsec < static_cast<i64>(max_sockets);
}

bool carrier_looks_like(int fd) {
    struct stat st {};
    if (raw_syscall(SYS_fstat, fd, ptr_arg(&st))) return false;
    return S_ISSOCK(st.st_mode) ? kernel_half_looks_like(fd) : carrier_looks_like(st);
}

handle<socket> carrier_identify(int fd) {
    struct stat st {};
    return raw_syscall(SYS_fstat, fd, ptr_arg(&st)) == 0 ? carrier_identify(st) : handle<socket>{};
}

handle<socket> carrier_identify(const struct stat& st) {
    if (!arena_attached()) return {};
    if (S_ISSOCK(st.st_mode)) return kernel_half_find(st.st_ino);
    if (!carrier_looks_like(st) || st.st_dev != arena_device()) return {};
    const u32 index = static_cast<u32>(st.st_mtim.tv_nsec);
    if (carrier_inode(index).load() != st.st_ino) return {};
    return slab_handle_at<socket>(index);
}

int carrier_lock(socket& sock, int fd) {
    if (sock.flags.load() & SOCKF_SHARED) return 0;
    carrier_let_go(sock);
    if (sock.kernel_inode.load()) { // the kernel vouches for its own
        sock.flags.fetch_or(SOCKF_SHARED);
        return 0;
    }
    struct flock lock {};
    lock.l_type = F_RDLCK;
    const long r = raw_syscall(SYS_fcntl, fd, F_OFD_SETLK, ptr_arg(&lock));
    if (r < 0) return static_cast<int>(r);
    sock.flags.fetch_or(SOCKF_SHARED);
    return 0;
}

void socket_hold(socket& sock) {
    if (sock.half_alone_us.load_relaxed()) sock.half_alone_us.store(0);
    for (const a32& h : sock.holders) {
        if (h.load() == self_proc) return;
    }
    for (a32& h : sock.holders) {
        u32 nobody = 0;
        if (h.load() == 0 && h.cas(nobody, self_proc)) return;
    }
    sock.flags.fetch_or(SOCKF_MANY_HOLDERS);
}

bool socket_unhold(socket& sock, proc_id who) {
    for (a32& h : sock.holders) {
        u32 expected = who;
        if (h.load() == who && h.cas(expected, 0)) return true;
    }
    return sock.flags.load() & SOCKF_MANY_HOLDERS;
}

bool socket_unaccounted(const socket& sock) {
    const u32 flags = sock.flags.load();
    if (!(flags & SOCKF_SHARED) || (flags & SOCKF_MANY_HOLDERS)) return false;
    if (sock.holder.load() & holder_claimed) return false;
    for (const a32& h : sock.holders) {
        if (h.load()) return false;
    }
    return true;
}

bool socket_vouched(const socket& sock) {
    for (const a32& h : sock.holders) {
        const proc_id id = h.load();
        if (id && !proc_is_execing(id)) return true;
    }
    return false;
}

bool carrier_held(const socket& sock) {
    if (kernel_half_held(sock)) return true;
    char name[16];
    carrier_name(name, socket_handle(sock).index);
    // Asking for a write lock needs no right to take one, but an open file description of its own.
    const int fd = arena_openat(name, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) return true; // cannot ask: keep it
    struct flock lock {};
    lock.l_type = F_WRLCK;
    const long r = raw_syscall(SYS_fcntl, fd, F_OFD_GETLK, ptr_arg(&lock));
    raw_syscall(SYS_close, fd);
    return r < 0 || lock.l_type != F_UNLCK;
}

} // namespace sockshim
