// The carrier: the real descriptor behind a socket of ours (DESIGN.md, D3).
//
// One small file per socket cell in the network's directory, named after the cell's index and opened
// read-only; its inode says which socket a descriptor is, to any process that got it by any way. An OFD
// read lock on the carrier's open file description is the socket's heartbeat: taken just before the
// socket can become known to another process (fork, exec, SCM_RIGHTS), and asked for with F_OFD_GETLK
// by whoever wants to know whether anybody still holds the socket.
#pragma once
#include "core/net/socket.h"

struct stat;

namespace sockshim {

// Opens the carrier of `sock` at the lowest free number, as an open file description that no other socket
// has. Returns the fd or -errno (EMFILE, ENFILE, ENOMEM). cloexec: O_CLOEXEC.
int carrier_open(const socket& sock, bool cloexec);
// Lets go of what is kept open for the socket's cell: before the heartbeat is taken, or asked for when others
// took it (a fork or a message that nobody told us of).
void carrier_let_go(const socket& sock);
// In a forked child: what the parent keeps open for carrier_open is not the child's to keep.
void carrier_forked();
// Which socket is the descriptor a carrier of, in the attached network? Null handle: none. One fstat.
handle<socket> carrier_identify(int fd);
handle<socket> carrier_identify(const struct stat& st);
// True when `fd` is a carrier of a network of ours at all, attached or not (then attach and identify).
bool carrier_looks_like(int fd);
bool carrier_looks_like(const struct stat& st);
// Takes the heartbeat lock through any of the socket's descriptors and sets SOCKF_SHARED.
int carrier_lock(socket& sock, int fd);
// Who has the socket in his descriptor table, as far as they told: with it the duty thread knows which
// sockets only the kernel vouches for (in flight in a message, or held by a program that does not know us),
// and asks their heartbeat now and then. A hint: what counts is carrier_held.
void socket_hold(socket& sock);
bool socket_unhold(socket& sock, proc_id who); // false: he did not
bool socket_unaccounted(const socket& sock);
// Some process that holds it lets go of it itself (it does not become another program just now): nobody else
// may take what that process is about to put.
bool socket_vouched(const socket& sock);
// Does anybody hold the socket's heartbeat lock?
bool carrier_held(const socket& sock);

} // namespace sockshim
