#include "preload/socket_stream.h"

#include <cerrno>
#include <sys/types.h>

#include "dispatch/fd_table.h"
#include "preload/process.h"
#include "preload/real.h"

extern "C" {
ssize_t wrap_read(int fd, void* buf, size_t n) asm("read");
ssize_t wrap_write(int fd, const void* buf, size_t n) asm("write");
int wrap_close(int fd) asm("close");
}

namespace sockshim {
namespace {

// The open streams, for the last flush. A stream's cookie is its number and, above, its place here
// plus one; 0: there was no room.
constexpr u32 max_streams = 256;
constinit a64 streams[max_streams]{};
constinit a32 streams_without_place{};

void* make_cookie(int fd, u32 place_plus_1) {
    return reinterpret_cast<void*>(static_cast<u64>(place_plus_1) << 32 | static_cast<u32>(fd));
}
int fd_of_cookie(void* cookie) { return static_cast<int>(reinterpret_cast<u64>(cookie)); }
u32 place_of_cookie(void* cookie) { return static_cast<u32>(reinterpret_cast<u64>(cookie) >> 32); }

u32 claim_place() {
    for (u32 i = 0; i < max_streams; ++i) {
        u64 none = 0;
        if (streams[i].load() == 0 && streams[i].cas(none, 1)) return i + 1;
    }
    streams_without_place.fetch_add(1);
    return 0;
}

void give_back(u32 place_plus_1) {
    if (place_plus_1) {
        streams[place_plus_1 - 1].store(0);
    } else {
        streams_without_place.fetch_sub(1);
    }
}

ssize_t cookie_read(void* cookie, char* buf, size_t n) {
    return wrap_read(fd_of_cookie(cookie), buf, n);
}

// fopencookie's contract: 0, not -1, for an error; a short count is an error to stdio, so all of it.
ssize_t cookie_write(void* cookie, const char* buf, size_t n) {
    return write_to_socket(fd_of_cookie(cookie), buf, n);
}

int cookie_seek(void*, off64_t*, int) {
    errno = ESPIPE;
    return -1;
}

int cookie_close(void* cookie) {
    give_back(place_of_cookie(cookie));
    return wrap_close(fd_of_cookie(cookie));
}

} // namespace

ssize_t write_to_socket(int fd, const char* buf, size_t n) {
    size_t done = 0;
    while (done < n) {
        const ssize_t r = wrap_write(fd, buf + done, n - done);
        if (r <= 0) break;
        done += static_cast<size_t>(r);
    }
    return static_cast<ssize_t>(done);
}

FILE* open_socket_stream(int fd, const char* mode) {
    char plain[3] = {mode[0], 0, 0};
    for (const char* m = mode + 1; mode[0] && *m && *m != ','; ++m) {
        if (*m == '+') plain[1] = '+';
    }
    const cookie_io_functions_t functions = {cookie_read, cookie_write, cookie_seek, cookie_close};
    const u32 place = claim_place();
    FILE* const stream = fopencookie(make_cookie(fd, place), plain, functions);
    if (!stream) {
        give_back(place);
        return nullptr;
    }
    stream->_fileno = fd;
    if (place) streams[place - 1].store(reinterpret_cast<u64>(stream));
    return stream;
}

// A stream of libc's own kind, not one of the above: libc would close its number behind our back. The
// table pointer that tells them apart lies right behind libc's FILE.
bool is_socket_stream(FILE* stream) {
    static constinit a64 cookie_table{};
    if (!cookie_table.load()) {
        const cookie_io_functions_t none = {};
        FILE* const sample = fopencookie(nullptr, "r", none);
        if (!sample) return false;
        cookie_table.store(*reinterpret_cast<u64*>(sample + 1));
        real::fclose(sample);
    }
    return *reinterpret_cast<u64*>(stream + 1) == cookie_table.load();
}

// Libc's freopen turns the stream into one of its own without asking for our close function, and would
// write through the wide-character part, which streams like ours do not have.
void make_plain(FILE* stream) {
    for (a64& place : streams) {
        u64 expected = reinterpret_cast<u64>(stream);
        if (place.load() == expected) place.cas(expected, 0);
    }
    stream->_wide_data = nullptr;
}

// A stream whose lock another thread holds, inside a read perhaps, has to be left alone.
bool flush_socket_streams() {
    bool all = streams_without_place.load() == 0;
    for (a64& place : streams) {
        auto* const stream = reinterpret_cast<FILE*>(place.load());
        if (reinterpret_cast<u64>(stream) <= 1) continue;
        if (ftrylockfile(stream) != 0) {
            all = false;
            continue;
        }
        fflush_unlocked(stream);
        funlockfile(stream);
    }
    return all;
}

// A pointer that the program has taken from stdout before stays libc's own stream.
void adopt_standard_stream(int fd) {
    FILE** const place = fd == 0 ? &stdin : fd == 1 ? &stdout : &stderr;
    FILE* const old = *place;
    if (!old || old->_fileno != fd || is_socket_stream(old)) return;
    const int saved_errno = errno;
    FILE* const stream = open_socket_stream(fd, fd == 0 ? "r" : "w");
    errno = saved_errno;
    if (!stream) return;
    if (fd == 2) setvbuf(stream, nullptr, _IONBF, 0);
    // What was printed and not written yet goes where the number leads now.
    if (old->_IO_write_ptr > old->_IO_write_base) {
        fwrite(old->_IO_write_base, 1,
               static_cast<size_t>(old->_IO_write_ptr - old->_IO_write_base), stream);
        old->_IO_write_ptr = old->_IO_write_base;
    }
    *place = stream;
}

} // namespace sockshim
