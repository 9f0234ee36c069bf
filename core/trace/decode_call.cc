// A record as a line: time, thread, call, arguments, result, duration; and the way it took.
#include <fcntl.h>

#include <cstring>

#include "core/sync/uaccess.h"
#include "core/trace/decode_argument.h"

namespace sockshim::trace {
namespace {

bool is_output(arg_kind kind) {
    switch (kind) {
    case A_ADDR_OUT:
    case A_DATA_OUT:
    case A_OPT_OUT:
    case A_MSG_OUT:
    case A_MMSG_OUT:
    case A_PAIR:
    case A_IOV_OUT:
    case A_STAT:
    case A_EPOLL_OUT: return true;
    default: return false;
    }
}

// The call as the program most likely wrote it: poll and ppoll are one sys_ function.
const char* shown_name(const record& r, const call_row* row) {
    const bool plain = plain_wait(r);
    switch (r.nr) {
    case TRACE_POLL: return plain ? "poll" : "ppoll";
    case TRACE_SELECT: return plain ? "select" : "pselect6";
    case TRACE_EPOLL_WAIT: return !plain ? "epoll_pwait2" : r.a[4] ? "epoll_pwait" : "epoll_wait";
    default: return row ? row->name : nullptr;
    }
}

bool fcntl_takes_argument(u64 cmd) {
    switch (static_cast<int>(cmd)) {
    case F_GETFD:
    case F_GETFL:
    case F_GETOWN:
    case F_GETSIG:
    case F_GETLEASE:
    case F_GETPIPE_SZ:
    case F_GET_SEALS: return false;
    default: return true;
    }
}

// Whether the argument is printed at all: a mask that was not given, fcntl(fd, F_GETFL).
bool is_shown(const record& r, u32 i, arg_kind kind) {
    if (kind == A_FCNTL_ARG) return fcntl_takes_argument(r.a[i - 1]);
    return kind != A_SIGSET || r.a[i] || !plain_wait(r);
}

// --- the result --------------------------------------------------------------------------------------

void put_result_details(text& t, const record& r) {
    static constexpr const char* set_names[] = {"in", "out", "except"};
    const bool waits = r.nr == TRACE_POLL || r.nr == TRACE_SELECT;
    if (waits && r.result == 0) {
        t.puts(" (Timeout)");
    } else if (r.nr == TRACE_POLL) {
        t.puts(" (");
        put_poll_fds(t, r, 0, true);
        t.put(')');
    } else if (r.nr == TRACE_SELECT) {
        const char* separator = " (";
        for (u32 i = 1; i <= 3; ++i) {
            u32 n = 0;
            const u8* bits = find_chunk(r, i, PART_OUT, n);
            bool any = false;
            for (u32 k = 0; bits && k < n; ++k) any = any || bits[k];
            if (!any) continue;
            t.puts(separator).puts(set_names[i - 1]).put(' ');
            put_fd_set(t, r, i, PART_OUT);
            separator = ", ";
        }
        if (separator[0] == ',') t.put(')');
    } else if (r.nr == TRACE_FCNTL && r.a[1] == F_GETFL) {
        t.puts(" (flags ");
        put_file_flags(t, static_cast<u64>(r.result));
        t.put(')');
    } else if (r.nr == TRACE_FCNTL && r.a[1] == F_GETFD && r.result & FD_CLOEXEC) {
        t.puts(" (flags FD_CLOEXEC)");
    }
}

void put_result(text& t, const record& r) {
    t.puts(" = ");
    if (r.state == REC_OPEN || r.state == REC_ABANDONED || r.flags & REC_LIBC_UNKNOWN) {
        t.put('?');
    } else if (failed(r)) {
        t.puts("-1 ");
        put_error(t, static_cast<int>(-r.result));
    } else {
        if (r.nr == TRACE_FCNTL && (r.a[1] == F_GETFL || r.a[1] == F_GETFD) && r.result) {
            t.hex(static_cast<u64>(r.result));
        } else {
            t.dec(r.result);
        }
        put_result_details(t, r);
    }
    if (r.state == REC_DONE && !(r.flags & REC_LIBC_UNKNOWN)) {
        t.puts(" <").seconds(r.duration).put('>');
    }
}

void put_time(text& t, const record& r) {
    const u64 monotonic = r.start + (r.flags & REC_SHOWN && r.state == REC_DONE ? r.duration : 0);
    const u64 us = (monotonic + static_cast<u64>(globals.realtime_offset)) / 1000;
    const u64 second = us / 1000000 % 86400;
    t.zeros(second / 3600, 2).put(':').zeros(second / 60 % 60, 2).put(':').zeros(second % 60, 2);
    t.put('.').zeros(us % 1000000, 6);
}

// The names live in code; a module's code may be gone.
void put_function(text& t, const char* name) {
    char bytes[64];
    u32 n = 0;
    for (; n < sizeof bytes; ++n) {
        if (copy_from_user(bytes + n, name + n, 1)) {
            t.puts("?");
            return;
        }
        if (!bytes[n]) break;
    }
    t.put_n(bytes, n);
}

} // namespace

void decode_way(text& t, const record& r) {
    const call_row* row = find_call(r.nr);
    t.puts("  way: ");
    if (r.nr <= TRACE_SOCKETCALL_LAST)
        t.puts("socketcall ").udec(r.nr);
    else
        t.puts("sys_").puts(row ? row->name : "?");
    bool family = false; // "PF_INET inet_stream_connect"
    for (u32 i = 0; i < min_of<u32>(r.nway, max_way); ++i) {
        t.puts(family ? " " : " > ");
        const std::size_t from = t.used;
        put_function(t, r.way[i]);
        family = t.used - from > 3 && !std::memcmp(t.start + from, "PF_", 3);
    }
    if (r.flags & REC_WAY_OVERFLOW) t.puts(" > ...");
    if (r.flags & REC_LIBC) t.puts(" > handed over to libc");
    t.put('\n');
}

// Longer lines than the buffer are cut so that the way still fits.
static constexpr std::size_t way_room = 1200;

void decode_record(text& t, const record& r) {
    const call_row* row = find_call(r.nr);
    put_time(t, r);
    t.puts(" [").udec(r.tid).puts("] ");
    const char* name = shown_name(r, row);
    const bool open = r.state == REC_OPEN || r.state == REC_ABANDONED;
    if (r.flags & REC_SHOWN && !open) t.puts("<... ");
    if (name)
        t.puts(name);
    else
        t.puts("socketcall(").udec(r.nr).put(')');
    if (r.flags & REC_SHOWN && !open) t.puts(" resumed>");
    t.put('(');
    for (u32 i = 0; row && i < r.nargs && i < max_args; ++i) {
        if (!is_shown(r, i, row->kinds[i])) continue;
        if (i) t.puts(", ");
        if (open && is_output(row->kinds[i])) break;
        put_argument(t, r, i, row->kinds[i]);
    }
    if (open) t.puts(t.start[t.used - 1] == ' ' ? "<unfinished ...>" : " <unfinished ...>");
    t.put(')');
    put_result(t, r);
    if (t.full) t.used = t.room - way_room, t.full = false, t.puts("...");
    t.put('\n');
    decode_way(t, r);
}

} // namespace sockshim::trace
