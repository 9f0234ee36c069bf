// Where the trace goes: stderr, or a file that is opened when there is something to write, and again
// when the program closed it meanwhile.
#include <cerrno>
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>

#include "core/arena/internal_fd.h"
#include "core/base/config.h"
#include "core/base/diagnostic.h"
#include "core/base/raw_syscall.h"
#include "core/trace/record.h"
#include "core/trace/text.h"

namespace sockshim::trace {
namespace {

constinit internal_fd file{};
constinit a32 opening{}; // one thread opens at a time; the others open for themselves
constinit a32 complained{};

bool path_names_process() {
    for (const char* s = globals.path; *s; ++s) {
        if (s[0] == '%' && s[1] == 'p') return true;
    }
    return false;
}

int open_file() {
    char name[sizeof globals.path + 32];
    text t(name, sizeof name - 1);
    for (const char* s = globals.path; *s; ++s) {
        if (s[0] == '%' && s[1] == 'p')
            t.dec(globals.pid), ++s;
        else
            t.put(*s);
    }
    name[t.used] = 0;
    const long fd = raw_syscall(SYS_openat, AT_FDCWD, ptr_arg(name),
                                O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0600);
    if (fd < 0 && !complained.exchange(1)) notice("cannot write the trace to %s", name);
    return static_cast<int>(fd);
}

// The program may have put something else at number 2 (a daemon that closed its stderr): that is not for
// us to write into. What was there at the start, and what one appends to, is.
bool stderr_is_right() {
    struct stat st {};
    if (raw_syscall(SYS_fstat, 2, ptr_arg(&st)) < 0) return false;
    if (globals.stderr_known && st.st_dev == globals.stderr_dev &&
        st.st_ino == globals.stderr_ino) {
        return true;
    }
    if (S_ISCHR(st.st_mode) || S_ISFIFO(st.st_mode)) return true;
    return S_ISREG(st.st_mode) && raw_syscall(SYS_fcntl, 2, F_GETFL) & O_APPEND;
}

void write_all(int fd, const char* bytes, std::size_t n) {
    u32 patience = 20; // for a reader that is slow and a descriptor that does not block
    while (n) {
        const long done = write_diagnostic(fd, bytes, n);
        if (done > 0) {
            bytes += done;
            n -= static_cast<std::size_t>(done);
        } else if (done == -EAGAIN && patience--) {
            pollfd p{fd, POLLOUT, 0};
            timespec ts{0, 100000000};
            raw_syscall(SYS_ppoll, ptr_arg(&p), 1, ptr_arg(&ts), 0, 8);
        } else if (done != -EINTR) {
            return;
        }
    }
}

} // namespace

void emit(const char* bytes, std::size_t n) {
    if (!n) return;
    if (!globals.to_file) {
        if (stderr_is_right()) write_all(2, bytes, n);
        return;
    }
    int fd = internal_fd_number(file);
    u32 nobody = 0;
    if (fd >= 0) {
        write_all(fd, bytes, n);
    } else if (opening.cas(nobody, 1)) {
        fd = open_file();
        if (fd >= 0) {
            internal_fd_adopt(file, fd);
            fd = internal_fd_number(file);
            write_all(fd, bytes, n);
        }
        opening.store(0);
    } else if (fd = open_file(); fd >= 0) {
        write_all(fd, bytes, n);
        raw_syscall(SYS_close, fd);
    }
}

// With a descriptor of its own: the one that is kept may be another process's in this memory.
static bool say(const char* bytes, std::size_t n) {
    if (!globals.to_file) {
        const bool right = stderr_is_right();
        if (right) write_all(2, bytes, n);
        return right;
    }
    if (const int fd = open_file(); fd >= 0) {
        write_all(fd, bytes, n);
        raw_syscall(SYS_close, fd);
    }
    return false;
}

void forget_file() {
    opening.store(0);
    if (globals.to_file && path_names_process()) internal_fd_close(file);
}

} // namespace sockshim::trace

namespace sockshim {

bool trace_say(const char* what) {
    if (!trace_enabled) return false;
    char line[640];
    trace::text t(line, sizeof line - 1);
    t.puts("--- sockshim: [").dec(raw_syscall(SYS_getpid)).puts("] ").puts(what);
    line[t.used] = '\n';
    return trace::say(line, t.used + 1);
}

} // namespace sockshim
