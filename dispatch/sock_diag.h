// Questions to the kernel about its sockets (sock_diag(7)).
#pragma once
#include <netinet/in.h>

namespace sockshim {

// Would a datagram for this local address find a UDP socket of the kernel's? True also where it cannot be asked. Binds
// nothing, so a server that starts meanwhile does not notice. About 5 us.
bool kernel_has_udp_taker(const sockaddr_in& at);

} // namespace sockshim
