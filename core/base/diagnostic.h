// Writing what the library has to say (notices, the trace) into the program's stderr and into files, so that the
// program never pays for it: a reader that is gone and a file that may not grow (RLIMIT_FSIZE) have signals that
// kill, which are held back and taken.
#pragma once
#include <cstddef>

namespace sockshim {

// As write(2), with -errno. Async-signal-safe. -EPERM where a filter of the program's would not let us take the
// signals back, and one could come.
long write_diagnostic(int fd, const char* bytes, std::size_t n);

// Before a filter on system calls comes into force: what cannot be asked afterwards.
void diagnostic_before_confinement();

} // namespace sockshim
