// What a program has set on a socket of ours, set again on the kernel's socket that takes its place.
#pragma once
#include "core/net/socket.h"

namespace sockshim {

// Before the bind: some options decide what may be bound.
void replay_options(socket& sock, struct sock& sk, int kfd);

} // namespace sockshim
