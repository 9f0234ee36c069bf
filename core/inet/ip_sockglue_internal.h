// What ip_sockglue.cc, ip_getsockopt.cc and ip_cmsg.cc share. Nobody else includes this.
#pragma once
#include <cstddef>
#include <netinet/in.h>

#include "core/inet/ip_sockglue.h"

namespace sockshim {

// Options newer than libc's header.
inline constexpr int opt_local_port_range = 51;
inline constexpr int opt_protocol = 52;
// Flags beyond those that the rest of the stack looks at.
inline constexpr u16 cmsg_passsec = 1u << 6;
inline constexpr u16 cmsg_checksum = 1u << 7;
inline constexpr u16 cmsg_recvfragsize = 1u << 8;
inline constexpr u16 inet_recverr_rfc4884 = 1u << 9;

// What stands in front of an ip_msfilter's sources.
inline constexpr u32 msfilter_head = offsetof(ip_msfilter, imsf_slist);

inline const sockaddr_in* as_inet(const sockaddr_storage& ss) {
    return ss.ss_family == AF_INET ? reinterpret_cast<const sockaddr_in*>(&ss) : nullptr;
}

class sock_locked {
public:
    explicit sock_locked(sock& sk) : sk_(sk) { lock_sock(sk_); }
    ~sock_locked() { release_sock(sk_); }
    sock_locked(const sock_locked&) = delete;
    sock_locked& operator=(const sock_locked&) = delete;

private:
    sock& sk_;
};

} // namespace sockshim
