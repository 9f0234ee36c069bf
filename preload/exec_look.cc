#include "preload/exec_look.h"

#include <cerrno>
#include <cstring>
#include <elf.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "core/base/raw_syscall.h"
#include "core/trace/trace.h"
#include "preload/elf_lookup.h"

namespace sockshim {
namespace {

constexpr std::size_t path_room = 4096;
constexpr std::size_t head_room = 256; // as much as the kernel reads of a script (BINPRM_BUF_SIZE)
constexpr int max_interpreters = 5;    // scripts whose interpreter is a script; beyond it: ELOOP

#if defined(__x86_64__)
constexpr u16 our_machine = EM_X86_64;
#else
constexpr u16 our_machine = EM_AARCH64;
#endif

// A program file under inspection.
class program_file {
public:
    explicit program_file(const char* path) {
        if (raw_syscall(SYS_newfstatat, AT_FDCWD, ptr_arg(path), ptr_arg(&st_), 0) < 0) return;
        // Another kind of file is not executed, and opening it may have effects.
        if (!S_ISREG(st_.st_mode) ||
            raw_syscall(SYS_faccessat, AT_FDCWD, ptr_arg(path), X_OK) < 0) {
            return;
        }
        exists_ = true;
        fd_ = static_cast<int>(
            raw_syscall(SYS_openat, AT_FDCWD, ptr_arg(path), O_RDONLY | O_CLOEXEC | O_NOCTTY));
        if (fd_ < 0) return; // may be executed, not read
        const long n = read_at(head_, sizeof head_, 0);
        head_size_ = n > 0 ? static_cast<std::size_t>(n) : 0;
    }
    ~program_file() {
        if (fd_ >= 0) raw_syscall(SYS_close, fd_);
    }
    program_file(const program_file&) = delete;
    program_file& operator=(const program_file&) = delete;

    bool exists() const { return exists_; }

    // The first word behind "#!". False when it is no script.
    bool interpreter(char (&to)[head_room]) const {
        std::size_t at = 2;
        if (head_size_ < 3 || head_[0] != '#' || head_[1] != '!') return false;
        while (at < head_size_ && (head_[at] == ' ' || head_[at] == '\t')) ++at;
        std::size_t n = 0;
        for (; at < head_size_ && !std::strchr(" \t\n", head_[at]); ++at) to[n++] = head_[at];
        to[n] = 0;
        return n > 0;
    }

    const char* why_not() const {
        const char* const why = why_not_by_rights();
        return why || fd_ < 0 ? why : why_not_by_format();
    }

private:
    long read_at(void* to, std::size_t n, u64 at) const {
        return raw_syscall(SYS_pread64, fd_, ptr_arg(to), static_cast<long>(n),
                           static_cast<long>(at));
    }
    template <class T> bool read_object(T& to, u64 at) const {
        return read_at(&to, sizeof to, at) == static_cast<long>(sizeof to);
    }

    // The loader takes no LD_PRELOAD where the program gets rights that who executes it has not
    // (AT_SECURE; Linux: cap_bprm_creds_from_file).
    const char* why_not_by_rights() const {
        bool counts = raw_syscall(SYS_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1;
        struct statfs fs {};
        if (counts && fd_ >= 0 && raw_syscall(SYS_fstatfs, fd_, ptr_arg(&fs)) == 0) {
            counts = !(fs.f_flags & ST_NOSUID);
        }
        const long uid = raw_syscall(SYS_getuid), gid = raw_syscall(SYS_getgid);
        const bool sets_uid = counts && st_.st_mode & S_ISUID;
        const bool sets_gid = counts && (st_.st_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP);
        if (uid != (sets_uid ? static_cast<long>(st_.st_uid) : raw_syscall(SYS_geteuid))) {
            return sets_uid ? "it is set-user-id" : "the effective user is not the real one";
        }
        if (gid != (sets_gid ? static_cast<long>(st_.st_gid) : raw_syscall(SYS_getegid))) {
            return sets_gid ? "it is set-group-id" : "the effective group is not the real one";
        }
        const bool has_capabilities =
            counts && uid != 0 && fd_ >= 0 &&
            raw_syscall(SYS_fgetxattr, fd_, ptr_arg("security.capability"), 0, 0) > 0;
        return has_capabilities ? "it has file capabilities" : nullptr;
    }

    const char* why_not_by_format() const {
        Elf64_Ehdr elf;
        if (head_size_ < sizeof elf) return nullptr;
        std::memcpy(&elf, head_, sizeof elf);
        if (std::memcmp(elf.e_ident, ELFMAG, SELFMAG) != 0) return nullptr;
        if (elf.e_ident[EI_CLASS] != ELFCLASS64) return "it is no 64-bit program";
        if (elf.e_ident[EI_DATA] != ELFDATA2LSB || elf.e_machine != our_machine) {
            return "it is for another machine";
        }
        if (elf.e_type != ET_EXEC && elf.e_type != ET_DYN) return nullptr;
        u64 dynamic = 0, dynamic_size = 0;
        for (u64 i = 0; i < elf.e_phnum; ++i) {
            Elf64_Phdr segment;
            if (!read_object(segment, elf.e_phoff + i * elf.e_phentsize)) return nullptr;
            if (segment.p_type == PT_INTERP) return nullptr;
            if (segment.p_type == PT_DYNAMIC) {
                dynamic = segment.p_offset;
                dynamic_size = segment.p_filesz;
            }
        }
        if (is_library(dynamic, dynamic_size)) return nullptr;
        return "it is statically linked";
    }

    // A library that can be executed is the loader, with its program as argument, or prints its version.
    bool is_library(u64 dynamic, u64 size) const {
        for (u64 at = 0; at + sizeof(Elf64_Dyn) <= size; at += sizeof(Elf64_Dyn)) {
            Elf64_Dyn entry;
            if (!read_object(entry, dynamic + at) || entry.d_tag == DT_NULL) return false;
            if (entry.d_tag == DT_SONAME) return true;
        }
        return false;
    }

    struct stat st_ {};
    int fd_ = -1;
    bool exists_ = false;
    std::size_t head_size_ = 0;
    char head_[head_room];
};

// A line of text with a bound.
struct line {
    char text[512];
    std::size_t used = 0;

    line& put(const char* s) {
        while (*s && used < sizeof text - 2) text[used++] = *s++;
        return *this;
    }
};

bool somebody_reads(const configuration& options) {
    return !options.disable && (trace_enabled || options.warn);
}

void say(const configuration& options, const char* program, const char* script, const char* why) {
    line out;
    out.put(program);
    if (script) out.put(" (interpreter of ").put(script).put(")");
    out.put(" bypasses us: ").put(why);
    out.text[out.used] = 0;
    const bool traced = trace_say(out.text);
    if (options.warn && !options.quiet && !traced) notice("%s", out.text);
}

void look(const configuration& options, const exec_environment& env, const char* path) {
    char interpreter[head_room];
    const char* program = path;
    for (int level = 0; level <= max_interpreters; ++level) {
        const program_file file(program);
        if (!file.exists()) return;
        if (file.interpreter(interpreter)) {
            program = interpreter;
            continue;
        }
        const char* why = file.why_not();
        if (!why) why = env.why_without_us();
        if (why) say(options, program, program == path ? nullptr : path, why);
        return;
    }
}

void number(line& to, int v) {
    char digits[16];
    std::size_t i = sizeof digits - 1;
    digits[i] = 0;
    do digits[--i] = static_cast<char>('0' + v % 10);
    while (v /= 10);
    to.put(digits + i);
}

// "directory/name", as the kernel shows the directory.
void look_below(const configuration& options, const exec_environment& env, int dir,
                const char* name) {
    line link;
    link.put("/proc/self/fd/");
    number(link, dir);
    link.text[link.used] = 0;
    char path[path_room];
    const long n =
        raw_syscall(SYS_readlinkat, AT_FDCWD, ptr_arg(link.text), ptr_arg(path), path_room);
    const std::size_t used = n < 0 ? 0 : static_cast<std::size_t>(n);
    if (n <= 0 || used + std::strlen(name) + 2 > path_room) return;
    path[used] = 0;
    if (*name) {
        path[used] = '/';
        std::strcpy(path + used + 1, name);
    }
    look(options, env, path);
}

} // namespace

void look_at_exec(const exec_environment& env, const char* path, int dir, int flags) {
    const configuration options = exec_options();
    if (!somebody_reads(options)) return;
    // Also says whether the program's pointer is a good one.
    const long found = raw_syscall(SYS_faccessat, dir, ptr_arg(path), F_OK);
    if (found < 0 && !(found == -ENOENT && flags & AT_EMPTY_PATH)) return;
    if (*path == '/' || dir == AT_FDCWD) {
        look(options, env, path);
    } else if (dir >= 0) {
        look_below(options, env, dir, path);
    }
}

void look_at_exec_in_path(const exec_environment& env, const char* file) {
    const configuration options = exec_options();
    if (!somebody_reads(options)) return;
    if (std::strchr(file, '/')) return look(options, env, file);
    const char* at = "/bin:/usr/bin";
    for (char** e = environ; e && *e; ++e) {
        if (!std::strncmp(*e, "PATH=", 5)) at = *e + 5;
    }
    const std::size_t length = std::strlen(file);
    char path[path_room];
    for (;; ++at) {
        std::size_t n = 0;
        while (*at && *at != ':' && n < path_room) path[n++] = *at++;
        if (length && n + length + 2 <= path_room) {
            if (n) path[n++] = '/';
            std::memcpy(path + n, file, length + 1);
            if (program_file(path).exists()) return look(options, env, path);
        }
        if (!*at) return;
    }
}

void look_at_shell(const exec_environment& env) { look_at_exec(env, "/bin/sh"); }

namespace {

// Is a file of our name among those that the process has mapped? Also when it cannot be told.
bool has_us(int pid) {
    const char* const path = elf_own_path();
    const char* const slash = std::strrchr(path, '/');
    const char* const name = slash ? slash + 1 : path;
    const std::size_t length = std::strlen(name);
    line maps;
    maps.put("/proc/");
    number(maps, pid);
    maps.put("/maps");
    maps.text[maps.used] = 0;
    const long fd = raw_syscall(SYS_openat, AT_FDCWD, ptr_arg(maps.text), O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return true;
    char text[1024];
    bool found = false;
    std::size_t matched = 0; // of the name, across what is read at a time
    for (long n; !found && (n = raw_syscall(SYS_read, fd, ptr_arg(text), sizeof text)) > 0;) {
        for (long i = 0; i < n && !found; ++i) {
            matched = text[i] == name[matched] ? matched + 1 : text[i] == name[0];
            found = matched == length;
        }
    }
    raw_syscall(SYS_close, fd);
    return found;
}

} // namespace

// Whom a unix socket is connected to is known as it was when it was connected.
void look_at_receiver(int unix_socket) {
    const configuration options = exec_options();
    if (!somebody_reads(options)) return;
    ucred peer{};
    socklen_t size = sizeof peer;
    if (raw_syscall(SYS_getsockopt, unix_socket, SOL_SOCKET, SO_PEERCRED, ptr_arg(&peer),
                    ptr_arg(&size)) != 0 ||
        peer.pid <= 0 || peer.pid == raw_syscall(SYS_getpid) || has_us(peer.pid)) {
        return;
    }
    line link;
    link.put("/proc/");
    number(link, peer.pid);
    link.put("/exe");
    link.text[link.used] = 0;
    char program[path_room];
    const long n = raw_syscall(SYS_readlinkat, AT_FDCWD, ptr_arg(link.text), ptr_arg(program),
                               sizeof program - 1);
    if (n <= 0) return;
    program[n] = 0;
    say(options, program, nullptr, "it is sent a socket, and has not loaded the library");
}

} // namespace sockshim
