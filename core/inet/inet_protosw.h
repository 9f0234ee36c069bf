// Which protocol a (type, protocol) pair of PF_INET means (Linux: include/net/protocol.h and the inetsw
// table of af_inet.c). Per process.
#pragma once
#include "core/net/proto.h"

namespace sockshim {

inline constexpr u8 INET_PROTOSW_REUSE = 1;     // are ports automatically reusable?
inline constexpr u8 INET_PROTOSW_PERMANENT = 2; // permanent protocols are unremovable
inline constexpr u8 INET_PROTOSW_ICSK = 4;      // is this an inet_connection_sock?

struct inet_protosw {
    u16 type;     // SOCK_STREAM, ...: first half of the key
    u16 protocol; // second half; IPPROTO_IP: wild card
    const proto* prot;
    const proto_ops* ops;
    u8 flags; // INET_PROTOSW_*
    inet_protosw* next = nullptr;
};

// 0; -EINVAL for an illegal type, -EPERM for overriding a permanent protocol (refused with a message, as
// in Linux, where nobody is told otherwise). `p` must live until it is unregistered; its prot and ops
// must have ids (register_prot, register_ops).
int inet_register_protosw(inet_protosw& p);
int inet_unregister_protosw(inet_protosw& p); // -EPERM for permanent ones

extern const proto tcp_prot; // core/tcp/

// The entry for (type, protocol); `protocol` becomes the entry's when IPPROTO_IP was asked for. Null and
// the running errno when there is none.
const inet_protosw* inet_protosw_lookup(int type, int& protocol, int& err);

} // namespace sockshim
