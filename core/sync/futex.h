// Futexes on words of the arena (shared between processes) by raw system call.
#pragma once
#include "core/base/atomic.h"

namespace sockshim {

// Sleeps while *word == expected. timeout_us < 0: for ever. Returns 0 when woken, else -EAGAIN (the
// word differed), -ETIMEDOUT, -EINTR.
int futex_wait(a32& word, u32 expected, i64 timeout_us);
// Wakes up to `count` sleepers; returns how many.
int futex_wake(a32& word, int count);

} // namespace sockshim
