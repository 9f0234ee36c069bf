#include "core/arena/admission.h"

#include <cerrno>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "core/arena/private.h"
#include "core/base/crash_point.h"
#include "core/base/dirents.h"
#include "core/base/raw_syscall.h"
#include "core/sync/critical.h"

namespace sockshim {
namespace {

// The kernel's form of an ACL in an extended attribute. (Both machines that we know are little-endian.)
enum : u16 {
    ACL_USER_OBJ = 0x01,
    ACL_USER = 0x02,
    ACL_GROUP_OBJ = 0x04,
    ACL_MASK = 0x10,
    ACL_OTHER = 0x20,
};
struct acl_entry {
    u16 tag;
    u16 perm;
    u32 id;
};
constexpr u32 acl_version = 2;
constexpr u32 max_admitted = 1024; // with the owner; an attribute holds eight times that
constexpr u32 acl_no_id = ~0u;
struct acl {
    u32 version;
    acl_entry entries[max_admitted + 4];
};
constexpr const char* access_acl = "system.posix_acl_access";
constexpr const char* default_acl = "system.posix_acl_default";

struct user_list {
    u32 count;
    u32 ids[max_admitted];
    bool has(u32 id) const {
        for (u32 i = 0; i < count; ++i) {
            if (ids[i] == id) return true;
        }
        return false;
    }
    bool add(u32 id) {
        if (has(id)) return true;
        if (count == max_admitted) return false;
        ids[count++] = id;
        return true;
    }
};

// Where a list and its ACL are worked on: more than a thread's stack may have. Mapped, so zeroed.
struct desk {
    acl a;
    user_list users;
};
class desk_ref {
public:
    desk_ref() {
        const long at = raw_syscall(SYS_mmap, 0, sizeof(desk), PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at >= 0 || at <= -4096) desk_ = reinterpret_cast<desk*>(at);
    }
    ~desk_ref() {
        if (desk_) raw_syscall(SYS_munmap, ptr_arg(desk_), sizeof(desk));
    }
    desk_ref(const desk_ref&) = delete;
    desk_ref& operator=(const desk_ref&) = delete;
    explicit operator bool() const { return desk_; }
    desk& operator*() const { return *desk_; }

private:
    desk* desk_ = nullptr;
};

long set_acl(long fd, const char* which, desk& d, u16 perm) {
    acl& a = d.a;
    const user_list& users = d.users;
    a.version = acl_version;
    acl_entry* e = a.entries;
    *e++ = {ACL_USER_OBJ, perm, acl_no_id};
    for (u32 i = 0; i < users.count; ++i) *e++ = {ACL_USER, perm, users.ids[i]};
    *e++ = {ACL_GROUP_OBJ, 0, acl_no_id};
    *e++ = {ACL_MASK, perm, acl_no_id};
    *e++ = {ACL_OTHER, 0, acl_no_id};
    const long bytes = reinterpret_cast<u8*>(e) - reinterpret_cast<u8*>(&a);
    return raw_syscall(SYS_fsetxattr, fd, ptr_arg(which), ptr_arg(&a), bytes, 0);
}

// Whom the ACL names. False: there is none, or it gives rights to others than users by name.
bool read_acl(long fd, desk& d) {
    acl& a = d.a;
    user_list& users = d.users;
    const long n = raw_syscall(SYS_fgetxattr, fd, ptr_arg(access_acl), ptr_arg(&a), sizeof a, 0);
    users.count = 0;
    if (n < static_cast<long>(sizeof a.version) || a.version != acl_version) return false;
    const u64 count = (static_cast<u64>(n) - sizeof a.version) / sizeof(acl_entry);
    for (u64 i = 0; i < count; ++i) {
        const acl_entry& e = a.entries[i];
        switch (e.tag) {
        case ACL_USER_OBJ:
        case ACL_MASK: break;
        case ACL_USER:
            if (!users.add(e.id)) return false;
            break;
        case ACL_GROUP_OBJ:
        case ACL_OTHER:
            if (e.perm) return false;
            break;
        default: return false;
        }
    }
    return true;
}

template <class Visit> long for_each_file(long dir, Visit visit) {
    return for_each_dirent(dir,
                           [&](const char* name) { return name[0] == '.' ? 0L : visit(name); });
}

// Not the arena and its lock, which make the network: carriers, bells and what belongs to the duty.
bool is_of_one_life(const char* name) {
    return name[0] == 's' || name[0] == 'b' || (name[0] == 'd' && name[1] == 'u');
}

long admit_to_file(long dir, const char* name, desk& d) {
    const long fd = raw_syscall(SYS_openat, dir, ptr_arg(name),
                                O_RDWR | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC, 0);
    if (fd < 0) return fd == -ENOENT ? 0 : fd;
    const long r = set_acl(fd, access_acl, d, 06);
    raw_syscall(SYS_close, fd);
    return r;
}

// Who makes a file between the default ACL and the walk finds out himself (arena_make). The directory's
// own ACL comes last: it says that all of this has been done; who dies before it leaves it to the next.
long admit(long dir, u32 uid, u32 owner, desk& d) {
    if (read_acl(dir, d) && d.users.has(uid)) return 0;
    // The owner by name: what an admitted user makes is that user's, and owners may lack capabilities.
    if (!d.users.add(owner) || !d.users.add(uid)) return -ENOSPC;
    if (const long r = set_acl(dir, default_acl, d, 07); r < 0) return r;
    SOCKSHIM_CRASH_POINT();
    the_arena.header->admitted.store(1);
    full_fence();
    const long r =
        for_each_file(dir, [&](const char* name) { return admit_to_file(dir, name, d); });
    SOCKSHIM_CRASH_POINT();
    return r < 0 ? r : set_acl(dir, access_acl, d, 07);
}

long lock_and_admit(long dir, u32 uid, u32 owner, desk& d) {
    const long lock = arena_openat("lock", O_RDWR | O_CLOEXEC, 0);
    if (lock < 0) return lock;
    long r;
    while ((r = raw_syscall(SYS_flock, lock, LOCK_EX)) == -EINTR) {
    }
    if (r == 0) r = admit(dir, uid, owner, d);
    raw_syscall(SYS_flock, lock, LOCK_UN);
    raw_syscall(SYS_close, lock);
    return r;
}

// The group's bits bound what a default ACL gives.
int file_mode() { return the_arena.header->admitted.load() ? 0660 : 0600; }

} // namespace

int arena_admit(u32 uid) {
    if (!arena_attached() || arena_is_private()) return 0;
    critical_enter();
    // Not the descriptor that we keep: O_PATH takes no attributes.
    const long dir = arena_openat(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    long r = dir;
    if (dir >= 0) {
        struct stat st {};
        r = raw_syscall(SYS_fstat, dir, ptr_arg(&st));
        if (r == 0 && uid != st.st_uid) {
            const desk_ref d;
            if (!d) {
                r = -ENOMEM;
            } else if (!read_acl(dir, *d) || !(*d).users.has(uid)) {
                r = lock_and_admit(dir, uid, st.st_uid, *d);
            }
        }
        raw_syscall(SYS_close, dir);
    }
    critical_leave();
    return static_cast<int>(r);
}

bool arena_accessible() {
    const int dir = arena_openat(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (dir >= 0) raw_syscall(SYS_close, dir);
    return dir != -EACCES;
}

int arena_make(const char* name, int flags) {
    const int mode = file_mode();
    const int fd = arena_openat(name, flags | O_CREAT, mode);
    if (fd >= 0 && mode != file_mode()) raw_syscall(SYS_fchmod, fd, file_mode());
    return fd;
}

int arena_make_fifo(const char* name) {
    const int dir = arena_openat(".", O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
    if (dir < 0) return dir;
    const int mode = file_mode();
    const long r = raw_syscall(SYS_mknodat, dir, ptr_arg(name), S_IFIFO | mode, 0);
    if (r == 0 && mode != file_mode()) {
        raw_syscall(SYS_fchmodat, dir, ptr_arg(name), file_mode());
    }
    raw_syscall(SYS_close, dir);
    return r == -EEXIST ? 0 : static_cast<int>(r);
}

int arena_unlink(const char* name) {
    const int dir = arena_openat(".", O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
    if (dir < 0) return dir;
    const long r = raw_syscall(SYS_unlinkat, dir, ptr_arg(name), 0);
    raw_syscall(SYS_close, dir);
    return static_cast<int>(r);
}

bool admission_is_acl(long dir) {
    const long fd =
        raw_syscall(SYS_openat, dir, ptr_arg("."), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0) return false;
    const desk_ref d;
    const bool is = d && read_acl(fd, *d);
    raw_syscall(SYS_close, fd);
    return is;
}

void admission_revoke(long dir) {
    const long fd =
        raw_syscall(SYS_openat, dir, ptr_arg("."), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0) return;
    if (raw_syscall(SYS_fgetxattr, fd, ptr_arg(default_acl), 0, 0, 0) > 0) {
        raw_syscall(SYS_fremovexattr, fd, ptr_arg(default_acl));
        raw_syscall(SYS_fremovexattr, fd, ptr_arg(access_acl));
        raw_syscall(SYS_fchmod, fd, 0700);
        for_each_file(fd, [&](const char* name) {
            if (is_of_one_life(name)) raw_syscall(SYS_unlinkat, fd, ptr_arg(name), 0);
            return 0L;
        });
        const long lock = raw_syscall(SYS_openat, fd, ptr_arg("lock"), O_RDONLY | O_CLOEXEC, 0);
        raw_syscall(SYS_fremovexattr, lock, ptr_arg(access_acl));
        raw_syscall(SYS_fchmod, lock, 0600);
        raw_syscall(SYS_close, lock);
    }
    raw_syscall(SYS_close, fd);
}

} // namespace sockshim
