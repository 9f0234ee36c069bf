// The arguments of a call, by kind.
#include <ctime>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <cstring>
#include <linux/sockios.h>

#include "core/trace/decode_argument.h"

namespace sockshim::trace {
namespace {

// --- times -------------------------------------------------------------------------------------------

// Milliseconds that the program gave to poll or epoll_wait; false when it must have been a timespec.
bool whole_ms(const record& r, u32 arg, i64& ms) {
    ms = -1;
    if (!r.a[arg]) return true;
    timespec ts;
    if (!chunk_as(ts, r, arg, PART_IN)) return false;
    ms = ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
    return ts.tv_nsec % 1000000 == 0;
}

void put_timeout(text& t, const record& r, u32 i) {
    i64 ms = 0;
    timespec ts;
    if (r.nr != TRACE_SELECT && r.nr != 19 && plain_wait(r)) {
        whole_ms(r, i, ms);
        t.dec(ms);
    } else if (chunk_as(ts, r, i, PART_IN)) {
        const bool micro = r.nr == TRACE_SELECT && plain_wait(r);
        t.puts("{tv_sec=").dec(ts.tv_sec).puts(micro ? ", tv_usec=" : ", tv_nsec=");
        t.dec(micro ? ts.tv_nsec / 1000 : ts.tv_nsec).put('}');
    } else {
        t.pointer(r.a[i]);
    }
}

constexpr u64 no_limit = ~u64{0};

arg_kind call_kind(const record& r, u32 i) {
    const call_row* row = find_call(r.nr);
    return row ? row->kinds[i] : A_NONE;
}

// Bytes of the program's buffers that mean something: what it sends, or what it got.
u64 moved(const record& r, bool input) {
    if (input || r.state != REC_DONE || failed(r)) return no_limit;
    return static_cast<u64>(r.result);
}

// --- messages ----------------------------------------------------------------------------------------

void put_iov(text& t, const record& r, u32 arg, u32 m16, u64 pointer, u64 count, u64 bytes) {
    u32 n = 0;
    const u8* chunk = find_chunk(r, arg, m16 + PART_IOV, n);
    if (!chunk) {
        t.pointer(pointer);
        return;
    }
    t.put('[');
    for (u32 k = 0; k < n / sizeof(iovec); ++k) {
        iovec v;
        std::memcpy(&v, chunk + k * sizeof v, sizeof v);
        t.puts(k ? ", {iov_base=" : "{iov_base=");
        u32 len = 0;
        const u64 here = min_of<u64>(v.iov_len, bytes);
        bytes -= here;
        if (const u8* data = find_chunk(r, arg, m16 + PART_DATA + k, len)) {
            t.quoted(data, len, len < here);
        } else if (!here) {
            t.puts("\"\"");
        } else {
            t.pointer(reinterpret_cast<u64>(v.iov_base));
        }
        t.puts(", iov_len=").udec(v.iov_len).put('}');
    }
    if (count > n / sizeof(iovec)) t.puts(", ...");
    t.put(']');
}

void put_message(text& t, const record& r, u32 arg, u32 m, u64 pointer, u64 bytes) {
    msghdr in, h;
    if (!chunk_as(in, r, arg, 16 * m + PART_IN)) {
        t.pointer(pointer);
        return;
    }
    const bool came = chunk_as(h, r, arg, 16 * m + PART_OUT);
    if (!came) h = in;
    u32 n = 0;
    t.puts("{msg_name=");
    const u8* name = find_chunk(r, arg, 16 * m + PART_NAME, n);
    if (name)
        put_address(t, name, n);
    else
        t.pointer(reinterpret_cast<u64>(h.msg_name));
    t.puts(", msg_namelen=").udec(in.msg_namelen);
    if (h.msg_namelen != in.msg_namelen) t.puts(" => ").udec(h.msg_namelen);
    t.puts(", msg_iov=");
    put_iov(t, r, arg, 16 * m, reinterpret_cast<u64>(h.msg_iov), h.msg_iovlen, bytes);
    t.puts(", msg_iovlen=").udec(h.msg_iovlen);
    if (const u8* control = find_chunk(r, arg, 16 * m + PART_CONTROL, n)) {
        t.puts(", msg_control=");
        put_control(t, control, n, n < h.msg_controllen);
    } else if (h.msg_controllen) {
        t.puts(", msg_control=").pointer(reinterpret_cast<u64>(h.msg_control));
    }
    t.puts(", msg_controllen=").udec(in.msg_controllen);
    if (h.msg_controllen != in.msg_controllen) t.puts(" => ").udec(h.msg_controllen);
    t.puts(", msg_flags=");
    put_flags(t, message_flags, came ? static_cast<u32>(h.msg_flags) : 0);
    t.put('}');
}

void put_messages(text& t, const record& r, u32 arg) {
    u64 n = static_cast<u64>(r.state == REC_DONE && r.result > 0 ? r.result : 0);
    if (!n) n = r.a[arg + 1];
    u32 m = 0;
    msghdr probe;
    for (; m < n && m < max_messages && chunk_as(probe, r, arg, 16 * m + PART_IN); ++m) {
        t.puts(m ? ", {msg_hdr=" : "[{msg_hdr=");
        u32 len = 0;
        const bool went = chunk_as(len, r, arg, 16 * m + PART_MSG_LEN);
        const bool input = call_kind(r, arg) == A_MMSG_IN;
        put_message(t, r, arg, m, 0, input ? no_limit : len);
        if (went) t.puts(", msg_len=").udec(len);
        t.put('}');
    }
    if (!m)
        t.pointer(r.a[arg]);
    else
        t.puts(m < n ? ", ...]" : "]");
}

// --- readiness ---------------------------------------------------------------------------------------

void put_epoll_event(text& t, const u8* bytes) {
    epoll_event e;
    std::memcpy(&e, bytes, sizeof e);
    const u64 data = e.data.u64;
    t.puts("{events=");
    put_flags(t, epoll_events, e.events);
    t.puts(", data={u32=").udec(static_cast<u32>(data)).puts(", u64=").udec(data).puts("}}");
}

void put_epoll_events(text& t, const record& r, u32 arg) {
    u32 n = 0;
    const u8* chunk = find_chunk(r, arg, PART_OUT, n);
    if (!chunk) {
        if (r.result == 0)
            t.puts("[]");
        else
            t.pointer(r.a[arg]);
        return;
    }
    t.put('[');
    const u32 count = n / static_cast<u32>(sizeof(epoll_event));
    for (u32 k = 0; k < count; ++k) {
        if (k) t.puts(", ");
        put_epoll_event(t, chunk + k * sizeof(epoll_event));
    }
    t.puts(count < static_cast<u64>(r.result) ? ", ...]" : "]");
}

void put_sigset(text& t, const record& r, u32 arg) {
    u64 set = 0;
    if (!chunk_as(set, r, arg, PART_IN)) {
        t.pointer(r.a[arg]);
        return;
    }
    // As strace does: what is missing, when most are there.
    const bool inverted = __builtin_popcountll(set) > 32;
    if (inverted) t.put('~'), set = ~set;
    t.put('[');
    bool first = true;
    for (u32 s = 1; s <= 64; ++s) {
        if (!(set >> (s - 1) & 1)) continue;
        if (!first) t.put(' ');
        if (const char* name = find_name(signals, s))
            t.puts(name);
        else
            t.puts("RT_").udec(s - 32);
        first = false;
    }
    t.put(']');
}

// --- descriptors -------------------------------------------------------------------------------------

void put_fcntl_argument(text& t, const record& r, u32 i) {
    const u64 v = r.a[i];
    switch (static_cast<int>(r.a[i - 1])) {
    case F_SETFD:
        if (v == FD_CLOEXEC)
            t.puts("FD_CLOEXEC");
        else if (v)
            t.hex(v);
        else
            t.put('0');
        break;
    case F_SETFL: put_file_flags(t, v); break;
    case F_SETSIG:
        if (const char* name = find_name(signals, v))
            t.puts("SIG").puts(name);
        else
            t.udec(v);
        break;
    case F_DUPFD:
    case F_DUPFD_CLOEXEC:
    case F_SETOWN:
    case F_SETPIPE_SZ: t.dec(static_cast<int>(v)); break;
    default: t.pointer(v);
    }
}

void put_ioctl_argument(text& t, const record& r, u32 i) {
    u32 n = 0;
    const u8* out = find_chunk(r, i, PART_OUT, n);
    const u8* bytes = out ? out : find_chunk(r, i, PART_IN, n);
    const u64 cmd = r.a[i - 1];
    int v = 0;
    if (!bytes) {
        t.pointer(r.a[i]);
    } else if (n == sizeof v) {
        std::memcpy(&v, bytes, sizeof v);
        t.put('[').dec(v).put(']');
    } else { // struct ifreq
        u32 len = 0;
        while (len < 16 && bytes[len]) ++len;
        t.puts("{ifr_name=").quoted(bytes, len, false);
        std::memcpy(&v, bytes + 16, sizeof v);
        if (!out || failed(r)) {
        } else if (cmd == SIOCGIFADDR || cmd == SIOCGIFNETMASK || cmd == SIOCGIFBRDADDR) {
            t.puts(", ifr_addr=");
            put_address(t, bytes + 16, 16);
        } else if (cmd == SIOCGIFINDEX || cmd == SIOCGIFNAME) {
            t.puts(", ifr_ifindex=").dec(v);
        } else if (cmd == SIOCGIFMTU) {
            t.puts(", ifr_mtu=").dec(v);
        } else if (cmd == SIOCGIFFLAGS) {
            t.puts(", ifr_flags=").hex(static_cast<u16>(v));
        }
        t.put('}');
    }
}

void put_stat(text& t, const record& r, u32 i) {
    struct stat st;
    if (!chunk_as(st, r, i, PART_OUT)) {
        t.pointer(r.a[i]);
        return;
    }
    t.puts("{st_mode=");
    put_name(t, file_types, st.st_mode & S_IFMT);
    t.put('|').oct(st.st_mode & 07777).puts(", st_size=").dec(st.st_size).puts(", ...}");
}

void put_offset_pointer(text& t, const record& r, u32 i) {
    i64 in = 0, out = 0;
    if (!chunk_as(in, r, i, PART_IN)) {
        t.pointer(r.a[i]);
        return;
    }
    t.put('[').dec(in);
    if (chunk_as(out, r, i, PART_OUT) && out != in) t.puts(" => ").dec(out);
    t.put(']');
}

// --- strings -----------------------------------------------------------------------------------------

bool put_string(text& t, const record& r, u32 arg, u32 part) {
    u32 n = 0;
    const u8* bytes = find_chunk(r, arg, part, n);
    if (!bytes || !n) return false;
    const bool whole = bytes[n - 1] == 0;
    t.quoted(bytes, n - (whole ? 1 : 0), !whole);
    return true;
}

void put_argv(text& t, const record& r, u32 i) {
    if (!put_string((t.put('['), t), r, i, 0)) {
        --t.used;
        t.pointer(r.a[i]);
        return;
    }
    u32 k = 1;
    for (; k < 6; ++k) {
        u32 n = 0;
        if (!find_chunk(r, i, k, n)) break;
        t.puts(", ");
        put_string(t, r, i, k);
    }
    u32 n = 0;
    t.puts(k == 6 && find_chunk(r, i, 6, n) ? ", ...]" : "]");
}

void put_data(text& t, const record& r, u32 i, u32 part, u64 whole) {
    u32 n = 0;
    const u8* bytes = find_chunk(r, i, part, n);
    if (bytes)
        t.quoted(bytes, n, n < whole);
    else if (!whole && r.a[i] && r.state == REC_DONE && !failed(r))
        t.puts("\"\"");
    else
        t.pointer(r.a[i]);
}

} // namespace

bool plain_wait(const record& r) { // without a signal mask
    i64 ms;
    if (r.nr == TRACE_POLL) return !r.a[3] && whole_ms(r, 2, ms);
    if (r.nr == TRACE_EPOLL_WAIT) return whole_ms(r, 3, ms);
    return r.nr == TRACE_SELECT && !r.a[5];
}

void put_poll_fds(text& t, const record& r, u32 arg, bool results) {
    u32 n = 0;
    const u8* chunk = find_chunk(r, arg, results ? PART_OUT : PART_IN, n);
    if (!chunk) {
        t.pointer(r.a[arg]);
        return;
    }
    t.put('[');
    const u32 count = n / static_cast<u32>(sizeof(pollfd));
    for (u32 k = 0; k < count; ++k) {
        pollfd p;
        std::memcpy(&p, chunk + k * sizeof p, sizeof p);
        t.puts(k ? ", {fd=" : "{fd=").dec(p.fd).puts(results ? ", revents=" : ", events=");
        put_flags(t, poll_events, static_cast<u16>(results ? p.revents : p.events));
        t.put('}');
    }
    const u64 whole = results ? static_cast<u64>(r.result) : r.a[arg + 1];
    t.puts(count < whole ? ", ...]" : "]");
}

void put_fd_set(text& t, const record& r, u32 arg, u32 part) {
    u32 n = 0;
    const u8* bits = find_chunk(r, arg, part, n);
    if (!bits) {
        t.pointer(r.a[arg]);
        return;
    }
    t.put('[');
    bool first = true;
    for (u32 fd = 0; fd < n * 8 && fd < r.a[0]; ++fd) {
        if (!(bits[fd / 8] >> (fd % 8) & 1)) continue;
        if (!first) t.put(' ');
        t.udec(fd);
        first = false;
    }
    if (r.a[0] > n * 8) t.puts(" ...");
    t.put(']');
}

void put_file_flags(text& t, u64 flags) {
    static constexpr const char* access[] = {"O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE"};
    t.puts(access[flags & 3]);
    if (flags & ~u64{3}) {
        t.put('|');
        put_flags(t, open_flags, flags & ~u64{3});
    }
}

void put_argument(text& t, const record& r, u32 i, arg_kind kind) {
    const u64 v = r.a[i];
    const int number = static_cast<int>(v);
    u32 n = 0;
    int before = 0, after = 0, pair[2];
    u64 count = 0;
    const u8* bytes = nullptr;
    switch (kind) {
    case A_NONE:
    case A_INT: t.dec(number); break;
    case A_ULONG: t.udec(v); break;
    case A_PTR: t.pointer(v); break;
    case A_OFFSET: t.dec(static_cast<i64>(v)); break;
    case A_OFFSET_PTR: put_offset_pointer(t, r, i); break;
    case A_FAMILY: put_name(t, families, static_cast<u32>(v)); break;
    case A_SOCK_TYPE: put_socket_type(t, static_cast<u32>(v)); break;
    case A_PROTOCOL: put_protocol(t, r.a[0], r.a[1], static_cast<u32>(v)); break;
    case A_ADDR_IN:
    case A_ADDR_OUT:
        bytes = find_chunk(r, i, kind == A_ADDR_IN ? PART_IN : PART_OUT, n);
        if (bytes)
            put_address(t, bytes, n);
        else
            t.pointer(v);
        break;
    case A_LEN_INOUT:
        if (!chunk_as(before, r, i, PART_IN)) {
            t.pointer(v);
            break;
        }
        t.put('[').dec(before);
        if (chunk_as(after, r, i, PART_OUT) && after != before) t.puts(" => ").dec(after);
        t.put(']');
        break;
    case A_DATA_IN: put_data(t, r, i, PART_IN, r.a[i + 1]); break;
    case A_DATA_OUT: put_data(t, r, i, PART_OUT, failed(r) ? 0 : static_cast<u64>(r.result)); break;
    case A_MSG_FLAGS: put_flags(t, message_flags, static_cast<u32>(v)); break;
    case A_HOW: put_name(t, shutdown_hows, static_cast<u32>(v)); break;
    case A_SOL: put_name(t, sockopt_levels, static_cast<u32>(v)); break;
    case A_OPT_NAME: put_option_name(t, static_cast<u32>(r.a[i - 1]), static_cast<u32>(v)); break;
    case A_OPT_IN:
    case A_OPT_OUT:
        bytes = find_chunk(r, i, kind == A_OPT_IN ? PART_IN : PART_OUT, n);
        if (bytes) {
            put_option_value(t, static_cast<u32>(r.a[i - 2]), static_cast<u32>(r.a[i - 1]), bytes,
                             n, n);
        } else {
            t.pointer(v);
        }
        break;
    case A_MSG_IN:
    case A_MSG_OUT: put_message(t, r, i, 0, v, moved(r, kind == A_MSG_IN)); break;
    case A_MMSG_IN:
    case A_MMSG_OUT: put_messages(t, r, i); break;
    case A_SOCK_FLAGS: put_flags(t, socket_type_flags, static_cast<u32>(v)); break;
    case A_PAIR:
        if (chunk_as(pair, r, i, PART_OUT))
            t.put('[').dec(pair[0]).puts(", ").dec(pair[1]).put(']');
        else
            t.pointer(v);
        break;
    case A_IOV_IN:
    case A_IOV_OUT: put_iov(t, r, i, 0, v, r.a[i + 1], moved(r, kind == A_IOV_IN)); break;
    case A_RWF: put_flags(t, rw_flags, static_cast<u32>(v)); break;
    case A_FILE_FLAGS: put_flags(t, open_flags, static_cast<u32>(v)); break;
    case A_CLOSE_RANGE: put_flags(t, close_range_flags, static_cast<u32>(v)); break;
    case A_FCNTL_CMD: put_name(t, fcntl_commands, static_cast<u32>(v)); break;
    case A_FCNTL_ARG: put_fcntl_argument(t, r, i); break;
    case A_IOCTL_CMD: put_name(t, ioctl_commands, static_cast<u32>(v)); break;
    case A_IOCTL_ARG: put_ioctl_argument(t, r, i); break;
    case A_STAT: put_stat(t, r, i); break;
    case A_WHENCE: put_name(t, whences, static_cast<u32>(v)); break;
    case A_SPLICE: put_flags(t, splice_flags, static_cast<u32>(v)); break;
    case A_POLL_FDS: put_poll_fds(t, r, i, false); break;
    case A_TIMEOUT: put_timeout(t, r, i); break;
    case A_SIGSET: put_sigset(t, r, i); break;
    case A_FD_SET: put_fd_set(t, r, i, PART_IN); break;
    case A_EPOLL_FLAGS: put_flags(t, epoll_create_flags, static_cast<u32>(v)); break;
    case A_EPOLL_OP: put_name(t, epoll_ops, static_cast<u32>(v)); break;
    case A_EPOLL_IN:
        bytes = find_chunk(r, i, PART_IN, n);
        if (bytes && r.a[1] != EPOLL_CTL_DEL)
            put_epoll_event(t, bytes);
        else
            t.pointer(v);
        break;
    case A_EPOLL_OUT: put_epoll_events(t, r, i); break;
    case A_AT_FD:
        if (number == AT_FDCWD)
            t.puts("AT_FDCWD");
        else
            t.dec(number);
        break;
    case A_AT_FLAGS: put_flags(t, at_flags, static_cast<u32>(v)); break;
    case A_PATH:
        if (!put_string(t, r, i, PART_IN)) t.pointer(v);
        break;
    case A_ARGV: put_argv(t, r, i); break;
    case A_ENVP:
        t.pointer(v);
        if (chunk_as(count, r, i, PART_IN)) t.puts(" /* ").udec(count).puts(" vars */");
        break;
    }
}

} // namespace sockshim::trace
