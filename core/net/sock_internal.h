// What sock.cc and sock_backlog.cc share. Nobody else includes this.
#pragma once
#include "core/net/net_rx.h"
#include "core/net/proto.h"

namespace sockshim {

// Lock bookkeeping of the thread: release_sock works the thread's packets off when the last lock goes.
inline void sock_lock_acquired() { sock_locks_held = sock_locks_held + 1; }
inline void sock_lock_released() { sock_locks_held = sock_locks_held - 1; }
// Works the backlog off. sk_lock held.
void sk_backlog_drain(sock& sk);

} // namespace sockshim
