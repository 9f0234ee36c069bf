// stdio streams whose functions are ours: a cookie stream (fopencookie) that reads, writes and closes by
// the wrappers, with the descriptor's number in its _fileno, so that fileno() answers as for any other.
#pragma once
#include <cstdio>

#include "dispatch/fd_table.h"

namespace sockshim {

FILE* open_socket_stream(int fd, const char* mode);
bool is_socket_stream(FILE* stream);
// Before libc's freopen.
void make_plain(FILE* stream);
// All of it, or as much as goes before an error.
ssize_t write_to_socket(int fd, const char* buf, size_t n);

// 0, 1 or 2 has become a socket of ours: stdin, stdout or stderr must go through us as well.
void adopt_standard_stream(int fd);
// After a call that may have put a socket of ours on `fd`.
inline void standard_stream_check(long fd) {
    if (fd < 0 || fd > 2 || fd_entry_kind(fd_table[fd].load_relaxed()) != FD_SOCKET) return;
    adopt_standard_stream(static_cast<int>(fd));
}

} // namespace sockshim
