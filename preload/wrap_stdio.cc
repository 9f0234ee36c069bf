// stdio: what makes streams and takes them away (what they do on our sockets is in socket_stream.cc), and libc's
// printing to a number.
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <unistd.h>

#include "preload/carrier_seen.h"
#include "preload/exec_look.h"
#include "preload/socket_stream.h"
#include "preload/wrap.h"

using namespace sockshim;

namespace {

// Before libc closes the stream. (Ours closes by way of socket_stream.cc.)
void stream_leaves(FILE* stream) {
    if (fd_is_libc(stream->_fileno)) fd_closes(stream->_fileno);
}

FILE* made_stream(FILE* stream) {
    if (stream) made(stream->_fileno);
    return stream;
}

long print_to_socket(int fd, const char* format, va_list args) {
    char room[1024];
    char* text = room;
    va_list again;
    va_copy(again, args);
    int length = vsnprintf(room, sizeof(room), format, args);
    if (length >= static_cast<int>(sizeof(room))) length = vasprintf(&text, format, again);
    va_end(again);
    if (length < 0) return -1;
    const auto n = static_cast<size_t>(length);
    const ssize_t done = write_to_socket(fd, text, n);
    if (text != room) free(text);
    return done == length ? length : -1;
}

bool prints_to_us(int fd) {
    return SOCKSHIM_UNLIKELY(!fd_is_libc(fd)) && !in_vfork_child() && fd_classify(fd) == FD_SOCKET;
}

} // namespace

SOCKSHIM_WRAP(FILE*, fopen, (const char* path, const char* mode)) {
    if (names_socket(AT_FDCWD, path)) {
        errno = ENXIO;
        return nullptr;
    }
    return made_stream(real::fopen(path, mode));
}
SOCKSHIM_WRAP_ALIAS(fopen64, fopen)
SOCKSHIM_WRAP_ALIAS(_IO_fopen, fopen)

SOCKSHIM_WRAP(FILE*, fdopen, (int fd, const char* mode)) {
    if (SOCKSHIM_UNLIKELY(!fd_is_libc(fd)) && !in_vfork_child() && fd_classify(fd) == FD_SOCKET) {
        return open_socket_stream(fd, mode);
    }
    return real::fdopen(fd, mode);
}
SOCKSHIM_WRAP_ALIAS(_IO_fdopen, fdopen)

SOCKSHIM_WRAP(int, fclose, (FILE * stream)) {
    stream_leaves(stream);
    return real::fclose(stream);
}
SOCKSHIM_WRAP_ALIAS(_IO_fclose, fclose)

// Libc puts the new file on the old number with a dup3 of its own. What cannot be opened closes the stream all the
// same.
SOCKSHIM_WRAP(FILE*, freopen, (const char* path, const char* mode, FILE* stream)) {
    const int fd = stream->_fileno;
    const bool replaces = SOCKSHIM_UNLIKELY(!fd_is_libc(fd)) && fd >= 0 && !in_vfork_child() &&
                          fd_classify(fd) != FD_LIBC;
    const bool refused = path ? names_socket(AT_FDCWD, path) : replaces;
    FILE* const again = made_stream(real::freopen(refused ? "/dev/fd/-1" : path, mode, stream));
    if (!again && replaces) fd_forget(fd);
    if (refused) errno = ENXIO;
    return again;
}
SOCKSHIM_WRAP_ALIAS(freopen64, freopen)

SOCKSHIM_WRAP(FILE*, tmpfile, ()) { return made_stream(real::tmpfile()); }
SOCKSHIM_WRAP_ALIAS(tmpfile64, tmpfile)

SOCKSHIM_WRAP(FILE*, popen, (const char* command, const char* mode)) {
    share_sockets();
    const environ_lent env;
    look_at_shell(env.get());
    return made_stream(real::popen(command, mode));
}
SOCKSHIM_WRAP_ALIAS(_IO_popen, popen)

SOCKSHIM_WRAP(int, pclose, (FILE * stream)) {
    stream_leaves(stream);
    return real::pclose(stream);
}

SOCKSHIM_WRAP(int, vdprintf, (int fd, const char* format, va_list args)) {
    if (!prints_to_us(fd)) return real::vdprintf(fd, format, args);
    return static_cast<int>(print_to_socket(fd, format, args));
}

SOCKSHIM_WRAP(int, dprintf, (int fd, const char* format, ...)) {
    va_list args;
    va_start(args, format);
    const int r = wrap_vdprintf(fd, format, args);
    va_end(args);
    return r;
}

SOCKSHIM_WRAP(int, __vdprintf_chk, (int fd, int flag, const char* format, va_list args)) {
    if (!prints_to_us(fd)) return real::__vdprintf_chk(fd, flag, format, args);
    return static_cast<int>(print_to_socket(fd, format, args));
}

SOCKSHIM_WRAP(int, __dprintf_chk, (int fd, int flag, const char* format, ...)) {
    va_list args;
    va_start(args, format);
    const int r = wrap___vdprintf_chk(fd, flag, format, args);
    va_end(args);
    return r;
}
