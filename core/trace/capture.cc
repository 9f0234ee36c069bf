// Copies what a call's pointers point to, when it begins and when it ends. Bad pointers copy nothing and
// are printed as the numbers they are.
#include <ctime>
#include <netinet/in.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <cstring>
#include <linux/sockios.h>

#include "core/sync/uaccess.h"
#include "core/trace/record.h"

namespace sockshim::trace {
namespace {

constexpr u32 max_address = 112; // sockaddr_un is 110
constexpr u32 max_option = 112;
constexpr u32 max_control = 96;
constexpr u32 max_poll = 16;
constexpr u32 max_events = 12;
constexpr u32 max_strings = 6;
constexpr u64 no_limit = ~u64{0};

const void* at(u64 address) { return reinterpret_cast<const void*>(address); }

// Appends a chunk of n bytes of the program's at `user`; its bytes, or null.
const u8* push(record& r, u32 arg, u32 part, u64 user, u64 n) {
    const u64 size = (sizeof(chunk_head) + n + 3) & ~u64{3};
    if (!user || !n || r.blob_used + size > blob_size) return nullptr;
    u8* to = r.blob + r.blob_used;
    if (copy_from_user(to + sizeof(chunk_head), at(user), n)) return nullptr;
    const chunk_head head{static_cast<u8>(arg), static_cast<u8>(part), static_cast<u16>(n)};
    std::memcpy(to, &head, sizeof head);
    r.blob_used = static_cast<u16>(r.blob_used + size);
    return to + sizeof head;
}

// A string of at most `limit` bytes, its 0 included when it came that far; byte by byte, because what
// is behind the 0 is not ours to read.
void push_string(record& r, u32 arg, u32 part, u64 user, u64 limit) {
    u8 bytes[preview + 32];
    u64 n = 0;
    limit = min_of<u64>(limit, sizeof bytes);
    while (user && n < limit && !copy_from_user(bytes + n, at(user + n), 1)) {
        if (!bytes[n++]) break;
    }
    push(r, arg, part, n ? reinterpret_cast<u64>(bytes) : 0, n);
}

template <class T> bool fetch(T& to, u64 user) {
    return user && copy_from_user(&to, at(user), sizeof to) == 0;
}

u64 as_length(u64 arg) { // an int that should not be negative
    const int n = static_cast<int>(arg);
    return n < 0 ? 0 : static_cast<u64>(n);
}

// --- scatter/gather and messages ---------------------------------------------------------------------

void push_iov(record& r, u32 arg, u32 m16, u64 user, u64 n) {
    push(r, arg, m16 + PART_IOV, user, min_of<u64>(n, max_iov) * sizeof(iovec));
}

// Previews of the first `bytes` bytes that the captured iovecs lead to.
void push_iov_data(record& r, u32 arg, u32 m16, u64 bytes) {
    u32 len = 0;
    const u8* chunk = find_chunk(r, arg, m16 + PART_IOV, len);
    for (u32 k = 0; chunk && k < len / sizeof(iovec) && bytes; ++k) {
        iovec v;
        std::memcpy(&v, chunk + k * sizeof v, sizeof v);
        const u64 here = min_of<u64>(v.iov_len, bytes);
        push(r, arg, m16 + PART_DATA + k, reinterpret_cast<u64>(v.iov_base),
             min_of<u64>(here, preview));
        bytes -= here;
    }
}

void message_begin(record& r, u32 arg, u32 m, u64 user, bool input) {
    const u8* chunk = push(r, arg, 16 * m + PART_IN, user, sizeof(msghdr));
    if (!chunk) return;
    msghdr h;
    std::memcpy(&h, chunk, sizeof h);
    push_iov(r, arg, 16 * m, reinterpret_cast<u64>(h.msg_iov), h.msg_iovlen);
    if (!input) return;
    push(r, arg, 16 * m + PART_NAME, reinterpret_cast<u64>(h.msg_name),
         min_of<u64>(h.msg_namelen, max_address));
    push_iov_data(r, arg, 16 * m, no_limit);
    push(r, arg, 16 * m + PART_CONTROL, reinterpret_cast<u64>(h.msg_control),
         min_of<u64>(h.msg_controllen, max_control));
}

void message_end(record& r, u32 arg, u32 m, u64 user, u64 bytes) {
    const u8* chunk = push(r, arg, 16 * m + PART_OUT, user, sizeof(msghdr));
    if (!chunk) return;
    msghdr h;
    std::memcpy(&h, chunk, sizeof h);
    push(r, arg, 16 * m + PART_NAME, reinterpret_cast<u64>(h.msg_name),
         min_of<u64>(h.msg_namelen, max_address));
    push_iov_data(r, arg, 16 * m, bytes);
    push(r, arg, 16 * m + PART_CONTROL, reinterpret_cast<u64>(h.msg_control),
         min_of<u64>(h.msg_controllen, max_control));
}

// The bytes of the messages that went, and the messages that came.
void messages_end(record& r, u32 arg, bool output) {
    for (u32 m = 0; m < static_cast<u32>(r.result) && m < 1024; ++m) {
        const u64 user = r.a[arg] + m * sizeof(mmsghdr);
        u32 n = 0;
        if (!fetch(n, user + offsetof(mmsghdr, msg_len))) return;
        r.bytes += n;
        if (m >= max_messages) continue;
        if (output) message_end(r, arg, m, user, n);
        push(r, arg, 16 * m + PART_MSG_LEN, user + offsetof(mmsghdr, msg_len), sizeof n);
    }
}

// --- readiness ---------------------------------------------------------------------------------------

void ready_fds(record& r, u32 arg) {
    pollfd ready[max_poll];
    u32 n = 0;
    for (u64 i = 0; i < r.a[arg + 1] && i < 4096 && n < max_poll; ++i) {
        pollfd p;
        if (!fetch(p, r.a[arg] + i * sizeof p)) return;
        if (p.revents) ready[n++] = p;
    }
    push(r, arg, PART_OUT, reinterpret_cast<u64>(ready), n * sizeof(pollfd));
}

void fd_set_bits(record& r, u32 arg, u32 part) {
    push(r, arg, part, r.a[arg], min_of<u64>((as_length(r.a[0]) + 63) / 64 * 8, 128));
}

// --- ioctl -------------------------------------------------------------------------------------------

u64 ioctl_size(u64 cmd) {
    switch (cmd) {
    case FIONBIO:
    case FIOASYNC:
    case FIONREAD:
    case SIOCOUTQ:
    case SIOCATMARK:
    case SIOCSPGRP:
    case FIOSETOWN:
    case SIOCGPGRP:
    case FIOGETOWN: return sizeof(int);
    default: return cmd >= SIOCGIFNAME && cmd <= SIOCGIFINDEX + 1 ? 40 : 0; // struct ifreq
    }
}

void begin_argument(record& r, u32 i, arg_kind kind) {
    const u64 v = r.a[i];
    const u64 next = i + 1 < max_args ? r.a[i + 1] : 0;
    switch (kind) {
    case A_ADDR_IN: push(r, i, PART_IN, v, min_of<u64>(as_length(next), max_address)); break;
    case A_LEN_INOUT: push(r, i, PART_IN, v, sizeof(int)); break;
    case A_DATA_IN: push(r, i, PART_IN, v, min_of<u64>(next, preview)); break;
    case A_OPT_IN: push(r, i, PART_IN, v, min_of<u64>(as_length(next), max_option)); break;
    case A_MSG_IN: message_begin(r, i, 0, v, true); break;
    case A_MSG_OUT: message_begin(r, i, 0, v, false); break;
    case A_MMSG_IN:
    case A_MMSG_OUT:
        for (u32 m = 0; v && m < as_length(next) && m < max_messages; ++m) {
            message_begin(r, i, m, v + m * sizeof(mmsghdr), kind == A_MMSG_IN);
        }
        break;
    case A_IOV_IN:
        push_iov(r, i, 0, v, as_length(next));
        push_iov_data(r, i, 0, no_limit);
        break;
    case A_IOV_OUT: push_iov(r, i, 0, v, as_length(next)); break;
    case A_OFFSET_PTR: push(r, i, PART_IN, v, sizeof(i64)); break;
    case A_IOCTL_ARG: push(r, i, PART_IN, v, ioctl_size(r.a[i - 1])); break;
    case A_POLL_FDS: push(r, i, PART_IN, v, min_of<u64>(next, max_poll) * sizeof(pollfd)); break;
    case A_TIMEOUT: push(r, i, PART_IN, v, sizeof(timespec)); break;
    case A_SIGSET: push(r, i, PART_IN, v, sizeof(u64)); break;
    case A_FD_SET: fd_set_bits(r, i, PART_IN); break;
    case A_EPOLL_IN: push(r, i, PART_IN, v, sizeof(epoll_event)); break;
    case A_PATH: push_string(r, i, PART_IN, v, preview + 32); break;
    case A_ARGV:
        for (u32 k = 0; k <= max_strings; ++k) {
            u64 string = 0;
            if (!fetch(string, v + k * sizeof string) || !string) break;
            push_string(r, i, k, string, preview + 1);
        }
        break;
    case A_ENVP: {
        u64 count = 0, string = 0;
        while (count < 4096 && v && fetch(string, v + count * sizeof string) && string) ++count;
        push(r, i, PART_IN, v ? reinterpret_cast<u64>(&count) : 0, sizeof count);
        break;
    }
    default: break;
    }
}

// Only after success, except for lengths and times that are written anyway.
void end_argument(record& r, u32 i, arg_kind kind) {
    const u64 v = r.a[i];
    const u64 next = i + 1 < max_args ? r.a[i + 1] : 0;
    const u64 result = r.result < 0 ? 0 : static_cast<u64>(r.result);
    int len = 0;
    switch (kind) {
    case A_ADDR_OUT: {
        // No more than the program made room for, however long the address is.
        u32 given = 0;
        const u8* room = find_chunk(r, i + 1, PART_IN, given);
        int room_len = 0;
        if (!room || !fetch(len, next)) break;
        std::memcpy(&room_len, room, sizeof room_len);
        len = min_of(len, room_len);
        push(r, i, PART_OUT, v, min_of<u64>(as_length(static_cast<u64>(len)), max_address));
        break;
    }
    case A_LEN_INOUT: push(r, i, PART_OUT, v, sizeof(int)); break;
    case A_DATA_OUT: push(r, i, PART_OUT, v, min_of(min_of(result, next), u64{preview})); break;
    case A_OPT_OUT:
        if (fetch(len, next)) {
            push(r, i, PART_OUT, v, min_of<u64>(as_length(static_cast<u64>(len)), max_option));
        }
        break;
    case A_MSG_OUT: message_end(r, i, 0, v, result); break;
    case A_MMSG_OUT:
    case A_MMSG_IN: messages_end(r, i, kind == A_MMSG_OUT); break;
    case A_PAIR: push(r, i, PART_OUT, v, 2 * sizeof(int)); break;
    case A_IOV_OUT: push_iov_data(r, i, 0, result); break;
    case A_OFFSET_PTR: push(r, i, PART_OUT, v, sizeof(i64)); break;
    case A_IOCTL_ARG: push(r, i, PART_OUT, v, ioctl_size(r.a[i - 1])); break;
    case A_STAT: push(r, i, PART_OUT, v, sizeof(struct stat)); break;
    case A_POLL_FDS: ready_fds(r, i); break;
    case A_FD_SET:
        if (result) fd_set_bits(r, i, PART_OUT);
        break;
    case A_EPOLL_OUT:
        push(r, i, PART_OUT, v, min_of<u64>(result, max_events) * sizeof(epoll_event));
        break;
    default: break;
    }
}

} // namespace

const u8* find_chunk(const record& r, u32 arg, u32 part, u32& len) {
    u32 at_byte = 0;
    while (at_byte + sizeof(chunk_head) <= min_of<u32>(r.blob_used, blob_size)) {
        chunk_head head;
        std::memcpy(&head, r.blob + at_byte, sizeof head);
        if (at_byte + sizeof head + head.len > blob_size) break;
        if (head.arg == arg && head.part == part) {
            len = head.len;
            return r.blob + at_byte + sizeof head;
        }
        at_byte += static_cast<u32>((sizeof head + head.len + 3) & ~std::size_t{3});
    }
    return nullptr;
}

void capture_begin(record& r) {
    const call_row* row = find_call(r.nr);
    for (u32 i = 0; row && i < r.nargs; ++i) begin_argument(r, i, row->kinds[i]);
}

void capture_end(record& r) {
    const call_row* row = find_call(r.nr);
    if (!row || r.result < 0) return;
    if (row->moves_bytes) r.bytes = static_cast<u64>(r.result);
    for (u32 i = 0; i < r.nargs; ++i) end_argument(r, i, row->kinds[i]);
}

} // namespace sockshim::trace
