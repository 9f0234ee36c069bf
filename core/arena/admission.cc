#include "core/arena/admission.h"

#include <cerrno>
#include <fcntl.h>
#include <sys/file.h>
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
constexpr u32 max_admitted = 32;
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

long set_acl(long fd, const char* which, const user_list& users, u16 perm) {
    acl a{};
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
bool read_acl(long fd, user_list& users) {
    acl a{};
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

// Carriers, bells and what belongs to the duty; not the arena and its lock, which nobody opens twice.
bool for_all(const char* name) {
    return name[0] == 's' || name[0] == 'b' || (name[0] == 'd' && name[1] == 'u');
}

template <class Visit> long for_each_file(long dir, Visit visit) {
    return for_each_dirent(dir, [&](const char* name) { return for_all(name) ? visit(name) : 0L; });
}

long admit_to_file(long dir, const char* name, const user_list& users) {
    const long fd = raw_syscall(SYS_openat, dir, ptr_arg(name),
                                O_RDWR | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC, 0);
    if (fd < 0) return fd == -ENOENT ? 0 : fd;
    const long r = set_acl(fd, access_acl, users, 06);
    raw_syscall(SYS_close, fd);
    return r;
}

// Who makes a file between the default ACL and the walk finds out himself (arena_make). The directory's
// own ACL comes last: it says that all of this has been done; who dies before it leaves it to the next.
long admit(long dir, u32 uid, u32 owner) {
    user_list users{};
    if (read_acl(dir, users) && users.has(uid)) return 0;
    // The owner by name: what an admitted user makes is that user's, and owners may lack capabilities.
    if (!users.add(owner) || !users.add(uid)) return -ENOSPC;
    if (const long r = set_acl(dir, default_acl, users, 07); r < 0) return r;
    SOCKSHIM_CRASH_POINT();
    the_arena.header->admitted.store(1);
    full_fence();
    const long r =
        for_each_file(dir, [&](const char* name) { return admit_to_file(dir, name, users); });
    SOCKSHIM_CRASH_POINT();
    return r < 0 ? r : set_acl(dir, access_acl, users, 07);
}

long lock_and_admit(long dir, u32 uid, u32 owner) {
    const long lock = arena_openat("lock", O_RDWR | O_CLOEXEC, 0);
    if (lock < 0) return lock;
    long r;
    while ((r = raw_syscall(SYS_flock, lock, LOCK_EX)) == -EINTR) {
    }
    if (r == 0) r = admit(dir, uid, owner);
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
        user_list users{};
        r = raw_syscall(SYS_fstat, dir, ptr_arg(&st));
        if (r == 0 && uid != st.st_uid && !(read_acl(dir, users) && users.has(uid))) {
            r = lock_and_admit(dir, uid, st.st_uid);
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
    user_list users{};
    const bool is = read_acl(fd, users);
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
            raw_syscall(SYS_unlinkat, fd, ptr_arg(name), 0);
            return 0L;
        });
    }
    raw_syscall(SYS_close, fd);
}

} // namespace sockshim
