// Names of numbers, and values of several fields, as strace writes them. Private to core/trace/.
#pragma once
#include "core/trace/text.h"

namespace sockshim::trace {

struct named {
    u64 value;
    const char* name;
};

struct name_table {
    const named* rows;
    u32 n;
    const char* prefix; // of an unknown one: 0x63 /* AF_??? */
};

// names.cc
extern const name_table families, socket_types, socket_type_flags, ip_protocols, message_flags,
    shutdown_hows, sockopt_levels, poll_events, epoll_events, epoll_ops, epoll_create_flags,
    fcntl_commands, open_flags, ioctl_commands, whences, rw_flags, splice_flags, close_range_flags,
    at_flags, file_types, signals;
const char* find_name(const name_table& table, u64 value); // null when unknown
void put_name(text& t, const name_table& table, u64 value);
void put_flags(text& t, const name_table& table, u64 value); // A|B|0x40, 0
void put_option_name(text& t, u64 level, u64 name);
void put_error(text& t, int error); // ECONNREFUSED (Connection refused)
void put_error_name(text& t, int error);

// decode_value.cc
void put_protocol(text& t, u64 family, u64 type, u64 protocol);
void put_socket_type(text& t, u64 type);
void put_address(text& t, const u8* bytes, u32 n);
void put_option_value(text& t, u64 level, u64 name, const u8* bytes, u32 n, u64 whole);
void put_control(text& t, const u8* bytes, u32 n, bool more);
void put_ipv4(text& t, const u8* four);

} // namespace sockshim::trace
