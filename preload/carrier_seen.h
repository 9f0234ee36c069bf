// Carriers as /proc shows them (/proc/self/fd/4, /dev/fd/4): links to sockets and not to files of ours.
#pragma once
#include <sys/stat.h>

#include "preload/process.h"

namespace sockshim {

// What libc's stat answered, made a socket's answer when it is a carrier's.
void carrier_to_socket(struct stat& st);
void carrier_to_socket(struct statx& st, unsigned mask);
inline int show_as_socket(int r, struct stat* st) {
    if (SOCKSHIM_UNLIKELY(r == 0 && S_ISREG(st->st_mode) && process_active.load_relaxed())) {
        carrier_to_socket(*st);
    }
    return r;
}
inline int show_as_socket(int r, struct statx* st, unsigned mask) {
    if (SOCKSHIM_UNLIKELY(r == 0 && S_ISREG(st->stx_mode) && process_active.load_relaxed())) {
        carrier_to_socket(*st, mask);
    }
    return r;
}

// Opening a socket by such a name is ENXIO. A carrier is a file: what would truncate it is looked at before,
bool names_socket(int dir, const char* path);
// everything else when libc has opened it: `fd`, or -1.
int opened(const char* path, int flags, int fd);

} // namespace sockshim
