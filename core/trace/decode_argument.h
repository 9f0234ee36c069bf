// Private to the decoder: the arguments of a call by kind, and what its result shares with them.
#pragma once
#include <cstring>

#include "core/trace/decode.h"
#include "core/trace/record.h"

namespace sockshim::trace {

template <class T> bool chunk_as(T& to, const record& r, u32 arg, u32 part) {
    u32 n = 0;
    const u8* bytes = find_chunk(r, arg, part, n);
    if (!bytes || n < sizeof to) return false;
    std::memcpy(&to, bytes, sizeof to);
    return true;
}

inline bool failed(const record& r) { return r.result < 0 && r.result >= -4095; }

bool plain_wait(const record& r); // poll, select, epoll_wait as opposed to their p... forms
void put_argument(text& t, const record& r, u32 i, arg_kind kind);
void put_poll_fds(text& t, const record& r, u32 arg, bool results);
void put_fd_set(text& t, const record& r, u32 arg, u32 part);
void put_file_flags(text& t, u64 flags);

} // namespace sockshim::trace
