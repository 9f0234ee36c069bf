// The registry of protocol families (Linux: net_families in net/socket.c). Per process: a family is a
// table of functions.
#pragma once
#include "core/net/module.h"
#include "core/net/socket.h"

namespace sockshim {

inline constexpr int NPROTO = 46;   // AF_MAX of the kernels that this mirrors
inline constexpr int SOCK_MAX = 11; // SOCK_PACKET + 1

struct net_proto_family {
    int family;
    // Makes the sock: sets sock.ops_id and sock.sk. On failure it leaves nothing behind but the socket.
    int (*create)(socket& sock, int protocol, int kern);
    const module* owner; // null: built in
};

// 0, -ENOBUFS (family out of range), -EEXIST.
int sock_register(const net_proto_family& ops);
void sock_unregister(int family);
// Is the family one of ours? Tries to load net-pf-<family> when it is not there.
bool net_family_known(int family);
// Linux's sock_create: for the program; __sock_create with kern = 0.
int sock_create(int family, int type, int protocol, socket** res);

} // namespace sockshim
