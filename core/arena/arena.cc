// Joining and leaving the network's arena. See arena.h; layout in layout.h and private.h.
#include "core/arena/arena.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "core/arena/admission.h"
#include "core/arena/extent.h"
#include "core/arena/internal_fd.h"
#include "core/arena/private.h"
#include "core/arena/timer_map.h"
#include "core/base/config.h"
#include "core/base/raw_syscall.h"
#include "core/sync/uaccess.h"
#include "sockshim_layout.h" // generated

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE 2
#endif

namespace sockshim {

constinit mapping the_arena{};

namespace {

enum : u32 { attach_idle = 0, attach_under_way = 1, attach_done = 2, attach_failed = 3 };
constinit a32 attach_state{attach_idle};
constinit u64 arena_dev = 0;
constinit internal_fd directory{};
constinit internal_fd inherited{}; // the directory as a former image of this process had it
constinit u32 directory_owner = 0;
constinit char directory_path[320] = {};

constexpr u64 fnv(u64 h, u64 v) { return (h ^ v) * 0x100000001b3; }

// Two libraries share an arena only when this agrees. It covers what region_shapes and the offsets
// express; SOCKSHIM_LAYOUT (scripts/layout_hash) covers the inside of cells.
constexpr u64 layout_hash() {
    u64 h = 0xcbf29ce484222325;
    for (const region_shape& r : region_shapes) h = fnv(fnv(h, r.cell_bytes), r.max_cells);
    h = fnv(fnv(h, arena_reserved_bytes), sizeof(arena_header));
    return fnv(h, SOCKSHIM_LAYOUT);
}

void map_views(u8* base) {
    mapping& m = the_arena;
    m.base = base;
    m.header = reinterpret_cast<arena_header*>(base);
    m.hashes = reinterpret_cast<hash_area*>(base + hashes_offset);
    m.carrier_inodes = reinterpret_cast<a64*>(base + carrier_inodes_offset);
    m.timer_bits = reinterpret_cast<a64*>(base + timer_bits_offset);
    m.timer_summary = reinterpret_cast<a64*>(base + timer_summary_offset);
    u64 at = regions_offset;
    for (u32 r = 0; r < REGION_COUNT; ++r) {
        the_regions[r].words = reinterpret_cast<cell_word*>(base + at);
        the_regions[r].cells = base + at + region_words_bytes(r);
        at += region_words_bytes(r) + region_cells_bytes(r);
    }
}

u8* map_file(int fd, int flags) {
    const long p = raw_syscall(SYS_mmap, 0, arena_reserved_bytes, PROT_READ | PROT_WRITE,
                               flags | MAP_NORESERVE, fd, 0);
    if (p < 0 && p > -4096) return nullptr;
    raw_syscall(SYS_madvise, p, arena_reserved_bytes, MADV_DONTDUMP);
    return reinterpret_cast<u8*>(p);
}

void unmap(u8* base) { raw_syscall(SYS_munmap, ptr_arg(base), arena_reserved_bytes); }

// Which namespace: a link of /proc says; 0: there is none.
u64 namespace_at(const char* link) {
    struct stat st {};
    return raw_syscall(SYS_newfstatat, AT_FDCWD, ptr_arg(link), ptr_arg(&st)) < 0 ? 0 : st.st_ino;
}
u64 current_netns() { return namespace_at("/proc/thread-self/ns/net"); }

// A zeroed mapping becomes an empty arena.
int initialise(u64 netns) {
    if (arena_commit(0, regions_offset)) return -ENOMEM;
    arena_header& h = *the_arena.header;
    h.magic = arena_magic;
    h.layout_hash = layout_hash();
    h.netns_inode = netns;
    h.max_bytes.store(config().arena_max);
    h.duty.wake_us.store(~u64{0});
    raw_syscall(SYS_getrandom, ptr_arg(the_arena.hashes->secret), sizeof the_arena.hashes->secret,
                GRND_NONBLOCK);
    h.ready.store(1);
    return 0;
}

bool header_fits(u64 netns) {
    const arena_header& h = *the_arena.header;
    return h.magic == arena_magic && h.layout_hash == layout_hash() && h.netns_inode == netns &&
           h.ready.load() == 1;
}

// The whole arena in `dir`, not looked into yet. 0, also when it is damaged and `base` null, or -errno.
int map_existing(long dir, u8*& base) {
    const long fd =
        raw_syscall(SYS_openat, dir, ptr_arg("arena"), O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0);
    if (fd < 0) return static_cast<int>(fd);
    struct stat st {};
    const bool whole = raw_syscall(SYS_fstat, fd, ptr_arg(&st)) == 0 && S_ISREG(st.st_mode) &&
                       static_cast<u64>(st.st_size) == arena_reserved_bytes;
    base = whole ? map_file(static_cast<int>(fd), MAP_SHARED) : nullptr;
    raw_syscall(SYS_close, fd);
    return whole && !base ? -ENOMEM : 0;
}

// Nobody's but the owner's, and theirs whom a process of the network has admitted.
bool is_private(long dir, u32 mode) {
    return !(mode & 07) && (!(mode & 070) || admission_is_acl(dir));
}

class path_writer {
public:
    template <std::size_t n>
    explicit path_writer(char (&room)[n]) : at_(room), end_(room + n - 1) {}
    void put(const char* s) {
        while (*s && at_ < end_) *at_++ = *s++;
        *at_ = 0;
    }
    void put_number(u64 v, unsigned base) {
        char digits[24];
        int i = sizeof digits - 1;
        digits[i] = 0;
        do digits[--i] = "0123456789abcdef"[v % base];
        while (v /= base);
        put(digits + i);
    }

private:
    char* at_;
    char* const end_;
};

// The directory /<dir>/sockshim-<uid>/<net>-<netns>-<pidns>-<layout>, made if need be, the user's own, 0700.
long open_directory(u64 netns) {
    const unsigned uid = static_cast<unsigned>(raw_syscall(SYS_geteuid));
    path_writer path(directory_path);
    path.put(config().dir);
    path.put("/sockshim-");
    path.put_number(uid, 10);
    raw_syscall(SYS_mkdirat, AT_FDCWD, ptr_arg(directory_path), 0700);
    path.put("/");
    for (const char* c = config().net; *c; ++c) {
        const char one[2] = {*c == '/' ? '_' : *c, 0};
        path.put(one);
    }
    path.put("-");
    path.put_number(netns, 10);
    path.put("-");
    path.put_number(namespace_at("/proc/self/ns/pid"), 10);
    path.put("-");
    path.put_number(layout_hash(), 16);
    raw_syscall(SYS_mkdirat, AT_FDCWD, ptr_arg(directory_path), 0700);
    const long fd = raw_syscall(SYS_openat, AT_FDCWD, ptr_arg(directory_path),
                                O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
    if (fd < 0) return fd;
    struct stat st {};
    long r = raw_syscall(SYS_fstat, fd, ptr_arg(&st));
    if (r == 0 && (st.st_uid != uid || !is_private(fd, st.st_mode))) r = -EPERM;
    if (r < 0) {
        raw_syscall(SYS_close, fd);
        return r;
    }
    arena_dev = st.st_dev;
    directory_owner = st.st_uid;
    return fd;
}

// Where the descriptor says that it is; in a chroot a path that is none.
void name_directory(long fd) {
    char link[32];
    path_writer text(link);
    text.put("/proc/self/fd/");
    text.put_number(static_cast<u64>(fd), 10);
    const long n = raw_syscall(SYS_readlinkat, AT_FDCWD, ptr_arg(link), ptr_arg(directory_path),
                               sizeof directory_path - 1);
    if (n > 0 && directory_path[0] == '/') {
        directory_path[n] = 0;
    } else {
        path_writer(directory_path).put("/(inherited)");
    }
}

// The directory that this image was given by the one before it, whose user or root made it unreachable by
// path. It is there while this process holds sockets of it, so nothing is made here. A descriptor, or -errno.
long open_inherited(u64 netns) {
    const int number = internal_fd_number(inherited);
    if (number < 0) return -ENOENT;
    const long fd = raw_syscall(SYS_openat, number, ptr_arg("."),
                                O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
    if (fd < 0) return fd;
    struct stat st {};
    u8* base = nullptr;
    long r = raw_syscall(SYS_fstat, fd, ptr_arg(&st));
    if (r == 0) r = map_existing(fd, base);
    if (r == 0 && !base) r = -ENOENT;
    if (r == 0) {
        map_views(base);
        // Without /proc the namespace is not known, and the same as before execve.
        if (!header_fits(netns ? netns : the_arena.header->netns_inode)) {
            unmap(base);
            r = -ENOENT;
        }
    }
    if (r < 0) {
        raw_syscall(SYS_close, fd);
        return r;
    }
    arena_dev = st.st_dev;
    directory_owner = st.st_uid;
    name_directory(fd);
    return fd;
}

// Does anybody still hold a carrier of the network (an exec'd program that does not know us, say)?
bool any_carrier_held(long dir) {
    for (u32 i = 0; i < max_sockets; ++i) {
        if (i % 512 == 0 && the_arena.header->committed[REGION_SOCKET].load() <= i) return false;
        if (!the_arena.carrier_inodes[i].load()) continue;
        char name[16];
        carrier_name(name, i);
        const long fd = raw_syscall(SYS_openat, dir, ptr_arg(name), O_RDWR | O_CLOEXEC, 0);
        if (fd < 0) continue;
        struct flock lock {};
        lock.l_type = F_WRLCK;
        raw_syscall(SYS_fcntl, fd, F_OFD_GETLK, ptr_arg(&lock));
        raw_syscall(SYS_close, fd);
        if (lock.l_type != F_UNLCK) return true;
    }
    return false;
}

// Takes away what the last network left: its carriers must not be taken for the new one's.
void clear_directory(long dir) {
    char name[16];
    for (u32 i = 0; i < max_sockets; ++i) {
        carrier_name(name, i);
        if (raw_syscall(SYS_unlinkat, dir, ptr_arg(name), 0) == -ENOENT && i >= 64) break;
    }
}

// Under the directory's lock: join the arena that is there if anybody lives in it, else a fresh one.
int join_or_create(long dir, u64 netns) {
    u8* base = nullptr;
    const int existing = map_existing(dir, base);
    if (existing < 0 && existing != -ENOENT) return existing;
    if (base) {
        map_views(base);
        if (header_fits(netns) && (proc_any_alive() || any_carrier_held(dir))) return 0;
        unmap(base);
    } else if (existing == 0) {
        notice("%s/arena is damaged; starting the network afresh", directory_path);
    }
    clear_directory(dir);
    admission_revoke(dir);
    raw_syscall(SYS_unlinkat, dir, ptr_arg("arena.new"), 0);
    const long fd = raw_syscall(SYS_openat, dir, ptr_arg("arena.new"),
                                O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) return static_cast<int>(fd);
    rlimit limit{};
    raw_syscall(SYS_prlimit64, 0, RLIMIT_FSIZE, 0, ptr_arg(&limit));
    long r = limit.rlim_cur < arena_reserved_bytes
                 ? -EFBIG
                 : raw_syscall(SYS_ftruncate, fd, static_cast<long>(arena_reserved_bytes));
    base = r < 0 ? nullptr : map_file(static_cast<int>(fd), MAP_SHARED);
    raw_syscall(SYS_close, fd);
    if (!base) return r < 0 ? static_cast<int>(r) : -ENOMEM;
    map_views(base);
    r = initialise(netns);
    if (r == 0) {
        r = raw_syscall(SYS_renameat2, dir, ptr_arg("arena.new"), dir, ptr_arg("arena"), 0);
    }
    if (r < 0) {
        unmap(base);
        raw_syscall(SYS_unlinkat, dir, ptr_arg("arena.new"), 0);
    }
    return static_cast<int>(r);
}

int attach() {
    const u64 netns = current_netns();
    long dir = open_inherited(netns);
    const bool joined = dir >= 0;
    if (!joined) dir = open_directory(netns);
    if (dir < 0) return static_cast<int>(dir);
    const long lock = raw_syscall(SYS_openat, dir, ptr_arg("lock"),
                                  O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    int r = lock < 0 ? static_cast<int>(lock) : 0;
    if (r == 0) {
        while ((r = static_cast<int>(raw_syscall(SYS_flock, lock, LOCK_EX))) == -EINTR) {
        }
        if (r == 0 && !joined) r = join_or_create(dir, netns);
        if (r == 0) r = process_register();
        // Explicitly: a child forked meanwhile holds the same open file description.
        raw_syscall(SYS_flock, lock, LOCK_UN);
        raw_syscall(SYS_close, lock);
    }
    if (r < 0) {
        raw_syscall(SYS_close, dir);
        return r;
    }
    internal_fd_adopt(directory, static_cast<int>(dir));
    internal_fd_close(inherited);
    return 0;
}

// Does `directory_path` lead there, for who has this user's rights?
bool found_by_path() {
    struct stat st {};
    return raw_syscall(SYS_newfstatat, AT_FDCWD, ptr_arg(directory_path), ptr_arg(&st),
                       AT_SYMLINK_NOFOLLOW) == 0 &&
           st.st_dev == directory.device && st.st_ino == directory.inode;
}

const char* reason(int err) {
    switch (-err) {
    case EACCES:
    case EPERM: return "not this user's, or not private to him";
    case ENOSPC:
    case ENOMEM: return "no memory (full tmpfs, or a limit on address space)";
    case EFBIG: return "the limit on file size (ulimit -f) forbids the arena";
    case ENOTDIR:
    case ELOOP: return "something else stands where the directory should be";
    case EROFS: return "read-only";
    case EAGAIN: return "too many processes in this network";
    case ENOENT: return "no such directory";
    default: return "cannot be used";
    }
}

} // namespace

void carrier_name(char (&name)[16], u32 index) {
    name[0] = 's';
    for (int i = 5; i >= 1; --i, index >>= 4) name[i] = "0123456789abcdef"[index & 15];
    name[6] = 0;
}

int arena_commit(u64 offset, u64 bytes) {
    const u64 from = offset & ~(page_bytes - 1);
    const u64 to = page_up(offset + bytes);
    for (;;) {
        const long r = raw_syscall(SYS_madvise, ptr_arg(the_arena.base + from),
                                   static_cast<long>(to - from), MADV_POPULATE_WRITE);
        if (r == 0) return 0;
        if (r == -EINTR || r == -EAGAIN) continue;
        // A filter of the program's may know no such advice: then by touching, and catching the fault.
        const bool touched = seccomp_active && !fault_in_writable(the_arena.base + from, to - from);
        return touched ? 0 : -ENOMEM;
    }
}

// attach_state: attach_under_way carries the pid of who is at it, above the two low bits.
int arena_attach() {
    for (;;) {
        u32 seen = attach_state.load();
        if (SOCKSHIM_LIKELY(seen == attach_done)) return 0;
        if (seen == attach_failed || config().disable) return -ENOSYS;
        const u32 pid = static_cast<u32>(raw_syscall(SYS_getpid));
        if (seen != attach_idle) {
            // Another thread; in a forked child, one that stayed behind in the parent.
            if (seen >> 2 != pid)
                attach_state.cas(seen, attach_idle);
            else
                raw_syscall(SYS_sched_yield);
            continue;
        }
        if (!attach_state.cas(seen, pid << 2 | attach_under_way)) continue;
        critical_enter();
        const int r = attach();
        attach_state.store(r ? attach_failed : attach_done);
        critical_leave();
        if (r) notice("%s: %s (error %d); sockets go to the kernel", directory_path, reason(r), -r);
        return r;
    }
}

int arena_attach_private() {
    if (arena_attached()) return 0;
    u8* base = map_file(-1, MAP_SHARED | MAP_ANONYMOUS);
    if (!base) return -ENOMEM;
    map_views(base);
    int r = initialise(0);
    if (r == 0) r = process_register();
    if (r == 0) attach_state.store(attach_done);
    return r;
}

bool arena_is_private() { return arena_attached() && !directory_path[0]; }

bool arena_is_here() { return current_netns() == the_arena.header->netns_inode; }

bool arena_attached() { return attach_state.load() == attach_done; }

u64 arena_mapped_bytes() { return arena_attached() ? arena_reserved_bytes : 0; }

hash_area* arena_hash_area() { return the_arena.hashes; }

a64& carrier_inode(u32 socket_index) {
    return the_arena.carrier_inodes[socket_index % max_sockets];
}

u64 arena_device() { return arena_dev; }

timer_duty& arena_timer_duty() { return the_arena.header->duty; }

void timer_map_set(u32 sock_index) {
    const u32 word = sock_index % max_sockets / 64;
    const u64 bit = u64{1} << sock_index % 64;
    // Both are looked at each time: who set the first may have died before the second.
    const u64 summary = u64{1} << word % 64;
    if (!(the_arena.timer_bits[word].load() & bit)) the_arena.timer_bits[word].fetch_or(bit);
    if (!(the_arena.timer_summary[word / 64].load() & summary)) {
        the_arena.timer_summary[word / 64].fetch_or(summary);
    }
}

void timer_map_take(void (*look)(u32 index, void* arg), void* arg) {
    for (u32 s = 0; s < max_sockets / 64 / 64; ++s) {
        u64 words = the_arena.timer_summary[s].load();
        if (!words) continue;
        the_arena.timer_summary[s].fetch_and(~words);
        for (; words; words &= words - 1) {
            const u32 word = s * 64 + static_cast<u32>(__builtin_ctzll(words));
            u64 bits = the_arena.timer_bits[word].exchange(0);
            for (; bits; bits &= bits - 1) {
                look(word * 64 + static_cast<u32>(__builtin_ctzll(bits)), arg);
            }
        }
    }
}

static constinit thread_local int own_directory_plus_1 = 0;

void arena_use_own_directory(int fd) { own_directory_plus_1 = fd + 1; }
bool arena_has_own_table() { return own_directory_plus_1 != 0; }

int arena_own_table() {
    // By path nothing of the program's table need be copied: what is closed there meanwhile would stay open
    // here for a moment. Who has another root or another user by now must copy it up to the directory.
    const int kept = found_by_path() ? -1 : internal_fd_number(directory);
    long r = raw_syscall(SYS_close_range, kept + 1, ~0u, CLOSE_RANGE_UNSHARE);
    if (r < 0) return static_cast<int>(r);
    int dir = kept;
    if (kept >= 0 && internal_fd_number(directory) != kept) dir = -1; // replaced meanwhile
    if (kept > 0) raw_syscall(SYS_close_range, 0, kept - (dir >= 0 ? 1 : 0));
    if (dir < 0) {
        r = raw_syscall(SYS_openat, AT_FDCWD, ptr_arg(directory_path),
                        O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
        if (r < 0) return static_cast<int>(r);
        dir = static_cast<int>(r);
    }
    arena_use_own_directory(dir);
    return 0;
}

int arena_openat(const char* name, int flags, int mode) {
    if (own_directory_plus_1) {
        return static_cast<int>(raw_syscall(SYS_openat, own_directory_plus_1 - 1, ptr_arg(name),
                                            flags | O_NOFOLLOW, mode));
    }
    // The number is used as it is: verifying it first would cost as much as the open. Whoever replaced
    // it put no files of these names there, and then it is opened anew.
    for (int tries = 0; tries < 2; ++tries) {
        const int dir = static_cast<int>(directory.number_plus_1.load()) - 1;
        const long fd = raw_syscall(SYS_openat, dir, ptr_arg(name), flags | O_NOFOLLOW, mode);
        if (fd >= 0 || tries || (fd != -EBADF && fd != -ENOTDIR && fd != -ENOENT)) {
            return static_cast<int>(fd);
        }
        if (internal_fd_number(directory) >= 0) return static_cast<int>(fd);
        const long again = raw_syscall(SYS_openat, AT_FDCWD, ptr_arg(directory_path),
                                       O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
        if (again < 0) return static_cast<int>(again);
        internal_fd_adopt(directory, static_cast<int>(again));
    }
    return -EBADF;
}

void arena_inherit(int fd) {
    struct stat st {};
    if (raw_syscall(SYS_newfstatat, fd, ptr_arg("arena"), ptr_arg(&st), AT_SYMLINK_NOFOLLOW) == 0) {
        internal_fd_adopt(inherited, fd);
    }
}

int arena_to_bequeath() {
    internal_fd& which = arena_attached() ? directory : inherited;
    const bool own = arena_attached() &&
                     static_cast<u32>(raw_syscall(SYS_geteuid)) == directory_owner &&
                     found_by_path();
    return own ? -1 : static_cast<int>(which.number_plus_1.load()) - 1;
}

const char* arena_directory() { return directory_path; }

u64 arena_cells_in_use(region_id region) {
    u64 n = 0;
    const u32 committed = cells_committed(region);
    for (u32 i = 0; i < committed; ++i) {
        n += cell_word::state(cell_word_at(region, i)) != CELL_FREE;
    }
    return n;
}

u64 arena_bytes_in_use() {
    u64 bytes = 0;
    for (u32 r = 0; r < REGION_COUNT; ++r) {
        bytes += arena_cells_in_use(static_cast<region_id>(r)) * region_shapes[r].cell_bytes;
    }
    return bytes;
}

} // namespace sockshim

int sockshim_arena_usage(unsigned long long* bytes_in_use) {
    if (!sockshim::arena_attached()) return -1;
    *bytes_in_use = sockshim::arena_bytes_in_use();
    return 0;
}
