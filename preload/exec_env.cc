#include "preload/exec_env.h"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/arena/arena.h"
#include "core/base/raw_syscall.h"
#include "core/net/carrier.h"
#include "dispatch/fd_table.h"
#include "preload/elf_lookup.h"
#include "preload/open_fds.h"

namespace sockshim {
namespace {

constexpr char preload_name[] = "LD_PRELOAD=";
constexpr std::size_t preload_length = sizeof preload_name - 1;
constexpr char option_prefix[] = "SOCKSHIM_";
constexpr char join_name[] = "SOCKSHIM_JOIN=";

// "NAME=value" one behind the other, LD_PRELOAD first, then an empty one. Null until the constructor ran.
constinit const char* kept = nullptr;
constinit bool by_environment = false; // LD_PRELOAD is what brought us in, and the first of `kept`
constinit char small_room[2048]{};

bool starts_with(const char* s, const char* prefix) {
    return std::strncmp(s, prefix, std::strlen(prefix)) == 0;
}

const char* file_name(const char* path) {
    const char* const slash = std::strrchr(path, '/');
    return slash ? slash + 1 : path;
}

template <class Visit> void for_each_kept(Visit visit) {
    for (const char* s = kept; s && *s; s += std::strlen(s) + 1) visit(s);
}

// What the program gives to exec may be any address, and the kernel says so, not a fault of ours. There
// may be no handler for faults yet, so the kernel is asked, once a page: it copies a mask before it
// looks at what to do with it.
class careful {
public:
    bool readable(const void* p) {
        const u64 page = reinterpret_cast<u64>(p) >> 12;
        if (page == known_) return true;
        if (page == 0) return false; // a null mask is none
        constexpr int no_such_how = -1;
        if (raw_syscall(SYS_rt_sigprocmask, no_such_how, static_cast<long>(page << 12), 0,
                        sizeof(u64)) == -EFAULT) {
            return false;
        }
        known_ = page;
        return true;
    }
    // Of two strings, `given` the program's: is it `name`= ...? `name` ends with its '='.
    bool is_variable(const char* given, const char* name, bool& bad) {
        for (;; ++given, ++name) {
            if (!readable(given)) return bad = true, false;
            if (*given != *name) return false;
            if (*name == '=') return true;
        }
    }
    // Does the program's string have `part` in it?
    bool contains(const char* given, const char* part, bool& bad) {
        for (;; ++given) {
            const char *g = given, *p = part;
            for (;; ++g, ++p) {
                if (!*p) return true;
                if (!readable(g)) return bad = true, false;
                if (*g != *p) break;
            }
            if (!*given) return false;
        }
    }

private:
    u64 known_ = ~u64{0};
};

bool carriers_inherited(exec_descriptors which) {
    bool found = false;
    for_each_open_fd([&](int fd) {
        if (found) return;
        const long flags = raw_syscall(SYS_fcntl, fd, F_GETFD);
        if (flags < 0 || !carrier_looks_like(fd)) return;
        if (!(flags & FD_CLOEXEC)) {
            found = true;
        } else if (which == exec_descriptors::any_may_stay &&
                   static_cast<u32>(fd) < fd_table_size) {
            found = fd_entry_kind(fd_table[fd].load()) != FD_INTERNAL;
        }
    });
    return found;
}

bool named_in_preload() {
    for (char** e = environ; e && *e; ++e) {
        if (!starts_with(*e, preload_name)) continue;
        return std::strstr(*e + preload_length, file_name(elf_own_path())) != nullptr;
    }
    return false;
}

// Asked when it must be, and once: it looks at each descriptor.
class carrier_question {
public:
    explicit carrier_question(exec_descriptors which) : which_(which) {}
    bool inherited() {
        if (!asked_) {
            asked_ = true;
            answer_ = carriers_inherited(which_);
        }
        return answer_;
    }

private:
    exec_descriptors which_;
    bool asked_ = false, answer_ = false;
};

bool kept_wanted(const configuration& options, carrier_question& carriers) {
    if (options.disable) return false;
    return options.keep_env == 2 || (options.keep_env == 1 && carriers.inherited());
}

} // namespace

void exec_env_remember() {
    char directory[1024];
    const char* const own = elf_own_path();
    std::size_t directory_length = 0, size = 1;
    by_environment = named_in_preload();
    if (by_environment) {
        if (*own != '/') { // relative to a directory that the program may leave
            const long n = raw_syscall(SYS_getcwd, ptr_arg(directory), sizeof directory - 1);
            if (n <= 0) {
                by_environment = false;
            } else {
                directory[n - 1] = '/';
                directory_length = static_cast<std::size_t>(n);
            }
        }
        size += preload_length + directory_length + std::strlen(own) + 1;
    }
    for (char** e = environ; e && *e; ++e) {
        if (starts_with(*e, option_prefix)) size += std::strlen(*e) + 1;
    }
    char* to = small_room;
    if (size > sizeof small_room) {
        const long at = raw_syscall(SYS_mmap, 0, static_cast<long>(size), PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at < 0 && at > -4096) {
            by_environment = false;
            return;
        }
        to = reinterpret_cast<char*>(at);
    }
    const char* const start = to;
    const auto put = [&](const char* s, std::size_t n) {
        to = static_cast<char*>(std::memcpy(to, s, n)) + n;
    };
    if (by_environment) {
        put(preload_name, preload_length);
        put(directory, directory_length);
        put(own, std::strlen(own) + 1);
    }
    for (char** e = environ; e && *e; ++e) {
        if (starts_with(*e, option_prefix)) put(*e, std::strlen(*e) + 1);
    }
    *to = 0;
    kept = start;
    config_remember(kept);
}

configuration exec_options() {
    configuration options = default_configuration;
    for_each_kept([&](const char* s) { config_take(options, s); });
    return options;
}

exec_environment::exec_environment(char* const* given, exec_descriptors which) : given_(given) {
    if (!kept || !by_environment) return;
    careful array, strings;
    bool bad = false;
    const char* preload = nullptr;
    std::size_t n = 0;
    for (; given; ++n) {
        if (!array.readable(given + n)) return; // EFAULT, says the kernel
        const char* const variable = given[n];
        if (!variable) break;
        if (!preload && strings.is_variable(variable, preload_name, bad)) preload = variable;
        if (bad) return;
    }
    if (preload) {
        if (!strings.contains(preload, file_name(kept), bad)) {
            why_without_us_ = "its LD_PRELOAD does not name us";
            return;
        }
    }
    carrier_question carriers(which);
    const configuration options = exec_options();
    const bool with_kept = !preload && kept_wanted(options, carriers);
    if (preload || with_kept) {
        const int directory = arena_to_bequeath();
        const bool always = options.keep_env == 2;
        if (directory >= 0 && (always || carriers.inherited())) bequeath(directory);
    }
    if (with_kept || bequeathed_ >= 0) make(n, with_kept);
    if (!preload && !made_) why_without_us_ = "its environment has no LD_PRELOAD";
}

// Inherited it is until the exec has failed, or a child has done it.
void exec_environment::bequeath(int fd) {
    if (raw_syscall(SYS_fcntl, fd, F_SETFD, 0) < 0) return;
    bequeathed_ = fd;
    char digits[12];
    int n = 0;
    do digits[n++] = static_cast<char>('0' + fd % 10);
    while (fd /= 10);
    char* to = join_;
    for (const char* s = join_name; *s; ++s) *to++ = *s;
    while (n) *to++ = digits[--n];
}

exec_environment::~exec_environment() {
    if (bequeathed_ >= 0) raw_syscall(SYS_fcntl, bequeathed_, F_SETFD, FD_CLOEXEC);
    if (mapped_) raw_syscall(SYS_munmap, ptr_arg(made_), static_cast<long>(mapped_));
}

// Behind what was given, in its order; a variable that the caller has set is the caller's. A vfork child
// that execs leaves a mapping, if there was need for one, to its parent.
void exec_environment::make(std::size_t given, bool with_kept) {
    std::size_t room = given + 2;
    if (with_kept) for_each_kept([&](const char*) { ++room; });
    char** to = on_stack_;
    if (room > few) {
        const std::size_t bytes = room * sizeof(char*);
        const long at = raw_syscall(SYS_mmap, 0, static_cast<long>(bytes), PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at < 0 && at > -4096) return;
        to = reinterpret_cast<char**>(at);
        mapped_ = bytes;
    }
    careful strings;
    bool bad = false;
    std::size_t end = 0;
    for (std::size_t i = 0; i < given; ++i) {
        if (!strings.is_variable(given_[i], join_name, bad)) to[end++] = given_[i];
    }
    const std::size_t theirs = end;
    for_each_kept([&](const char* s) {
        bool set = !with_kept || starts_with(s, join_name);
        for (std::size_t i = 0; i < theirs && !set; ++i) set = strings.is_variable(to[i], s, bad);
        if (!set) to[end++] = const_cast<char*>(s);
    });
    if (bequeathed_ >= 0) to[end++] = join_;
    to[end] = nullptr;
    made_ = to;
}

// A cancelled thread would leave it behind.
environ_lent::environ_lent() : was_(environ), env_(was_) {
    if (env_.get() == was_) return;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state_);
    environ = const_cast<char**>(env_.get());
}

environ_lent::~environ_lent() {
    if (env_.get() == was_) return;
    if (environ == env_.get()) environ = was_; // or another thread has changed it
    pthread_setcancelstate(cancel_state_, nullptr);
}

} // namespace sockshim
