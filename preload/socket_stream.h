// stdio on our sockets. Libc's streams read, write, seek and close inside libc, where no wrapper is passed, but by
// a table of functions for all streams on files. In that table ours stand before libc's, once the process has a
// socket of ours: so a stream is libc's own in every respect, wide or narrow, however it came to its number.
#pragma once
#include <cstdio>

namespace sockshim {

void streams_activate();
// fdopen.
FILE* open_socket_stream(int fd, const char* mode);
// All of it, or as much as goes before an error.
ssize_t write_to_socket(int fd, const char* buf, size_t n);
// Writes what streams on our sockets still hold, at exit. False when it cannot be sure: then libc will flush them
// after us, and the sockets must stay open.
bool flush_socket_streams();

} // namespace sockshim
