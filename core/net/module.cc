#include "core/net/module.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>

#include "core/base/config.h"
#include "core/base/raw_syscall.h"
#include "core/trace/trace.h"

namespace sockshim {

bool try_module_get(const module* m) {
    if (!m) return true;
    m->refcnt.fetch_add(1);
    if (!m->going.load()) return true;
    module_put(m);
    return false;
}

void module_put(const module* m) {
    if (!m) return;
    // A socket that came from another process was counted there: never below zero.
    u32 seen = m->refcnt.load();
    while (seen && !m->refcnt.cas(seen, seen - 1)) {
    }
}

u32 module_refcount(const module& m) { return m.refcnt.load(); }

namespace {

// Names that were asked for already, with or without success: a program that polls for a family that
// nobody has should not cost a directory look-up each time. Hashes, since names are made by us.
constexpr u32 tried_slots = 512;
constinit a64 tried[tried_slots]{};

u64 hash_name(const char* name) {
    u64 h = 0xcbf29ce484222325;
    for (; *name; ++name) h = (h ^ static_cast<u8>(*name)) * 0x100000001b3;
    return h | 1;
}

// True for the first to ask.
bool first_try(const char* name) {
    const u64 h = hash_name(name);
    for (u32 i = 0; i < tried_slots; ++i) {
        a64& slot = tried[(h + i) % tried_slots];
        u64 seen = 0;
        if (slot.cas(seen, h)) return true;
        if (seen == h) return false;
    }
    return false;
}

// Only plain file names: what is loaded is code.
bool load(const char* name) {
    const char* dir = config().modules;
    if (!dir || !*dir) return false;
    char path[4096];
    const int n = snprintf(path, sizeof path, "%s/%s.so", dir, name);
    if (n < 0 || static_cast<std::size_t>(n) >= sizeof path) return false;
    if (raw_syscall(SYS_faccessat, AT_FDCWD, ptr_arg(path), 4 /* R_OK */) < 0) return false;
    if (!first_try(name)) return true;
    trace_way("request_module");
    void* object = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!object) {
        const char* why = dlerror();
        notice("cannot load module %s: %s", name, why ? why : "?");
        return false;
    }
    // A constructor may have done the work; a module in C may prefer a function.
    using init_fn = int (*)();
    if (auto init = reinterpret_cast<init_fn>(dlsym(object, "sockshim_module_init"))) {
        if (const int err = init()) notice("module %s refused to start: %d", name, err);
    }
    return true;
}

} // namespace

bool request_module(const char* format, ...) {
    char name[64];
    va_list ap;
    va_start(ap, format);
    const int n = vsnprintf(name, sizeof name, format, ap);
    va_end(ap);
    if (n < 0 || static_cast<std::size_t>(n) >= sizeof name) return false;
    return load(name);
}

void request_all_modules() {
    const char* dir = config().modules;
    if (!dir || !*dir || !first_try("*")) return;
    const long fd =
        raw_syscall(SYS_openat, AT_FDCWD, ptr_arg(dir), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    struct dirent64 {
        u64 ino;
        i64 off;
        u16 reclen;
        u8 type;
        char name[];
    };
    alignas(8) u8 buffer[4096] = {};
    long n;
    while ((n = raw_syscall(SYS_getdents64, fd, ptr_arg(buffer), sizeof buffer)) > 0) {
        for (long at = 0; at < n;) {
            const auto* entry = reinterpret_cast<const dirent64*>(buffer + at);
            at += entry->reclen;
            char name[64];
            const std::size_t len = strlen(entry->name);
            if (len < 4 || len >= sizeof name || memcmp(entry->name, "net-pf-", 7) != 0 ||
                memcmp(entry->name + len - 3, ".so", 3) != 0) {
                continue;
            }
            memcpy(name, entry->name, len - 3);
            name[len - 3] = 0;
            load(name);
        }
    }
    raw_syscall(SYS_close, fd);
}

} // namespace sockshim
