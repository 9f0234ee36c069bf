// A descriptor of the library's own in a stranger's process: at a high number, close-on-exec, and
// believed only as far as its inode still is the one that was put there.
#pragma once
#include "core/base/atomic.h"

namespace sockshim {

struct internal_fd {
    a32 number_plus_1;
    u64 device;
    u64 inode;
};

// A duplicate of `fd` that is the library's own, or -errno.
int internal_fd_dup(int fd);
// Ends it.
void internal_fd_drop(int number);
// Moves fd to a high number and remembers it in `slot`.
void internal_fd_adopt(internal_fd& slot, int fd);
// Remembers a duplicate of fd at a high number; false when there is none.
bool internal_fd_adopt_high(internal_fd& slot, int fd);
// The number, or -1 when it was closed or replaced meanwhile.
int internal_fd_number(internal_fd& slot);
void internal_fd_close(internal_fd& slot);

// dispatch/ marks the number in its table; null in the core's tests.
extern void (*internal_fd_marked)(int fd, bool ours);

// File name of a socket cell's carrier.
void carrier_name(char (&name)[16], u32 index);

} // namespace sockshim
