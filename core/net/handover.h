// Whose address is it (DESIGN.md, D9)?
#pragma once
#include <netinet/in.h>

#include "core/base/types.h"

namespace sockshim {

// "This call belongs to the kernel": dispatch/ turns the socket into a kernel socket and repeats it.
inline constexpr int EHANDOVER = 4097;
// A family or protocol that nobody registered: dispatch/ asks libc.
inline constexpr int ELIBC = 4098;
// An ioctl that the kernel answers better.
inline constexpr int ENOIOCTLCMD_SHIM = 4099;

// SOCKSHIM_SIDES: whom sockets of the default network meet.
enum sides_kind : u8 { SIDES_BOTH, SIDES_SHIM, SIDES_KERNEL };
sides_kind sides();

// True in the default network: what has no taker here goes to the kernel.
bool network_hands_over();

} // namespace sockshim
