#include "preload/socket_stream.h"

#include <cerrno>
#include <fcntl.h>
#include <iterator>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/raw_syscall.h"
#include "preload/wrap.h"

extern "C" {
ssize_t wrap_read(int fd, void* buf, size_t n) asm("read");
ssize_t wrap_write(int fd, const void* buf, size_t n) asm("write");
int wrap_close(int fd) asm("close");
off_t wrap_lseek(int fd, off_t offset, int whence) asm("lseek");
int wrap_fstat(int fd, struct stat* st) asm("fstat");
int wrap_fcntl(int fd, int cmd, unsigned long arg) asm("fcntl");

// Libc's tables, for narrow and wide streams, the functions that stand in them, and its list of streams.
[[gnu::weak]] extern void* _IO_file_jumps[];
[[gnu::weak]] extern void* _IO_wfile_jumps[];
[[gnu::weak]] ssize_t _IO_file_read(FILE*, void*, ssize_t);
[[gnu::weak]] ssize_t _IO_file_write(FILE*, const void*, ssize_t);
[[gnu::weak]] off64_t _IO_file_seek(FILE*, off64_t, int);
[[gnu::weak]] int _IO_file_close(FILE*);
[[gnu::weak]] int _IO_file_stat(FILE*, void*);
[[gnu::weak]] extern FILE* _IO_list_all;
[[gnu::weak]] void _IO_list_lock();
[[gnu::weak]] void _IO_list_unlock();
}

namespace sockshim {
namespace {

bool on_socket(const FILE* stream) {
    const int fd = stream->_fileno;
    return SOCKSHIM_UNLIKELY(!fd_is_libc(fd)) && fd >= 0 && !in_vfork_child() &&
           fd_classify(fd) == FD_SOCKET;
}

ssize_t stream_read(FILE* stream, void* buf, ssize_t n) {
    if (!on_socket(stream)) return _IO_file_read(stream, buf, n);
    return wrap_read(stream->_fileno, buf, static_cast<size_t>(n));
}

ssize_t stream_write(FILE* stream, const void* data, ssize_t n) {
    if (!on_socket(stream)) return _IO_file_write(stream, data, n);
    const ssize_t done =
        write_to_socket(stream->_fileno, static_cast<const char*>(data), static_cast<size_t>(n));
    if (done < n) stream->_flags |= _IO_ERR_SEEN;
    return done;
}

off64_t stream_seek(FILE* stream, off64_t offset, int whence) {
    if (!on_socket(stream)) return _IO_file_seek(stream, offset, whence);
    return wrap_lseek(stream->_fileno, offset, whence);
}

int stream_close(FILE* stream) {
    if (on_socket(stream)) return wrap_close(stream->_fileno);
    if (fd_is_libc(stream->_fileno)) fd_closes(stream->_fileno);
    return _IO_file_close(stream);
}

int stream_stat(FILE* stream, void* st) {
    if (!on_socket(stream)) return _IO_file_stat(stream, st);
    return wrap_fstat(stream->_fileno, static_cast<struct stat*>(st));
}

// Where they stand in libc's tables (struct _IO_jump_t), which is part of its ABI.
struct replaced {
    u32 place;
    void* libcs;
    void* ours;
};
const replaced functions[] = {
    {14, reinterpret_cast<void*>(_IO_file_read), reinterpret_cast<void*>(stream_read)},
    {15, reinterpret_cast<void*>(_IO_file_write), reinterpret_cast<void*>(stream_write)},
    {16, reinterpret_cast<void*>(_IO_file_seek), reinterpret_cast<void*>(stream_seek)},
    {17, reinterpret_cast<void*>(_IO_file_close), reinterpret_cast<void*>(stream_close)},
    {18, reinterpret_cast<void*>(_IO_file_stat), reinterpret_cast<void*>(stream_stat)},
};

// The loader has made the tables' pages read-only; that they were is told by the program header.
struct read_only {
    u64 address;
    bool found;
};
int look_for_relro(dl_phdr_info* info, std::size_t, void* arg) {
    auto& asked = *static_cast<read_only*>(arg);
    for (int i = 0; i < info->dlpi_phnum; ++i) {
        const ElfW(Phdr)& ph = info->dlpi_phdr[i];
        if (ph.p_type != PT_GNU_RELRO) continue;
        const u64 from = info->dlpi_addr + ph.p_vaddr;
        asked.found = asked.found || (asked.address >= from && asked.address - from < ph.p_memsz);
    }
    return asked.found;
}

void replace_in(void** table) {
    if (!table) return;
    for (const replaced& f : functions) {
        if (!f.libcs || table[f.place] != f.libcs) return; // another libc, or done already
    }
    constexpr u64 page = 4096;
    const u64 first = reinterpret_cast<u64>(table + functions[0].place) & ~(page - 1);
    const u64 end = reinterpret_cast<u64>(table + functions[std::size(functions) - 1].place + 1);
    const long bytes = static_cast<long>(((end + page - 1) & ~(page - 1)) - first);
    read_only asked{reinterpret_cast<u64>(table), false};
    dl_iterate_phdr(look_for_relro, &asked);
    const long from = static_cast<long>(first);
    if (asked.found && raw_syscall(SYS_mprotect, from, bytes, PROT_READ | PROT_WRITE) != 0) return;
    for (const replaced& f : functions) {
        __atomic_store_n(table + f.place, f.ours, __ATOMIC_RELEASE);
    }
    if (asked.found) raw_syscall(SYS_mprotect, from, bytes, PROT_READ);
}

} // namespace

void streams_activate() {
    replace_in(_IO_file_jumps);
    replace_in(_IO_wfile_jumps);
}

ssize_t write_to_socket(int fd, const char* buf, size_t n) {
    size_t done = 0;
    while (done < n) {
        const ssize_t r = wrap_write(fd, buf + done, n - done);
        if (r <= 0) break;
        done += static_cast<size_t>(r);
    }
    return static_cast<ssize_t>(done);
}

// Libc asks the descriptor how it was opened, which a socket of the kernel's answers as ours would.
FILE* open_socket_stream(int fd, const char* mode) {
    const int k = static_cast<int>(raw_syscall(SYS_socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (k < 0) {
        errno = -k;
        return nullptr;
    }
    FILE* const stream = real::fdopen(k, mode);
    if (stream) {
        stream->_fileno = fd;
        if (raw_syscall(SYS_fcntl, k, F_GETFL) & O_APPEND) {
            const auto flags = static_cast<unsigned long>(wrap_fcntl(fd, F_GETFL, 0));
            wrap_fcntl(fd, F_SETFL, flags | O_APPEND);
        }
    }
    raw_syscall(SYS_close, k);
    return stream;
}

// A stream whose lock another thread holds, inside a read perhaps, has to be left alone.
bool flush_socket_streams() {
    if (!&_IO_list_all || !_IO_list_lock || !_IO_list_unlock) return fflush(nullptr) == 0;
    bool all = true;
    _IO_list_lock();
    for (FILE* stream = _IO_list_all; stream; stream = stream->_chain) {
        if (!on_socket(stream)) continue;
        if (ftrylockfile(stream) != 0) {
            all = false;
            continue;
        }
        fflush_unlocked(stream);
        funlockfile(stream);
    }
    _IO_list_unlock();
    return all;
}

} // namespace sockshim
