// struct socket: the BSD side, one per carrier (include/linux/net.h). Arena type.
//
// Life cycle. sock_alloc claims a cell; __sock_create lets the family make the sock; sock_map_fd (in
// dispatch/) opens the carrier; sock_release runs ops->release when the last descriptor of the last
// process is gone (core/net/carrier.h tells), or when the reaper finds that nobody holds it.
#pragma once
#include "core/net/sock.h"
#include "core/sync/uaccess.h"

namespace sockshim {

struct proto_ops;
struct msghdr_iter;

enum socket_state : u8 { SS_FREE, SS_UNCONNECTED, SS_CONNECTING, SS_CONNECTED, SS_DISCONNECTING };

// socket.flags bits
inline constexpr u32 SOCKF_NONBLOCK = 1u << 0; // O_NONBLOCK of the open file description
inline constexpr u32 SOCKF_ASYNC = 1u << 1;    // O_ASYNC
inline constexpr u32 SOCKF_SHARED = 1u << 2;   // other processes may hold it: its carrier is locked
inline constexpr u32 SOCKF_NOSPACE = 1u << 3;
inline constexpr u32 SOCKF_PASSCRED = 1u << 4;
inline constexpr u32 SOCKF_HANDED_OVER = 1u
                                         << 5; // became the kernel's; this cell waits to be freed
inline constexpr u32 SOCKF_APPEND = 1u << 6;   // O_APPEND and O_NOATIME: kept, and shown by F_GETFL
inline constexpr u32 SOCKF_NOATIME = 1u << 7;
inline constexpr u32 SOCKF_MANY_HOLDERS = 1u << 8; // more than `holders` has room for

// Beside the proc_id in socket.holder: held by nobody any more, and this process releases it.
inline constexpr u64 holder_claimed = u64{1} << 30;

struct socket {
    a8 state; // socket_state
    u8 ops_id;
    i16 type; // SOCK_STREAM, ...
    a32 flags;
    handle<sock> sk;
    // proc_id of the one process that holds it. SOCKF_SHARED: of whoever made it, until one claims it.
    // Above that the cell's generation: asking who holds a shared socket takes a while, and whoever asked
    // about an earlier socket of this cell must not get the present one.
    a64 holder;
    u16 family;
    u16 protocol;
    i32 f_owner;      // F_SETOWN; negative: a process group
    i32 f_owner_sig;  // F_SETSIG
    i32 f_owner_type; // F_OWNER_*
    i32 f_async_fd;   // the number that O_ASYNC was set through: si_fd
    u64 module_data;  // for families from modules
    a64 kernel_inode; // sockfs inode of the kernel's half; 0: there is none (kernel_half.h)
    a64 half_alone_us; // since when only the kernel vouches for the half, as far as somebody looked; 0: others do
    a32 holders[8]; // proc_ids of who has it in his descriptor table (carrier.h)
};
SOCKSHIM_ARENA_TYPE(socket);
static_assert(sizeof(socket) <= 128);
template <> struct region_of<socket> { static constexpr region_id value = REGION_SOCKET; };

handle<socket> socket_handle(const socket& sock);
constexpr u64 holder_word(handle<socket> s, proc_id who) { return u64{s.gen} << 32 | who; }
// The calling process made it, or got it.
inline void socket_set_holder(socket& sock) {
    sock.holder.store(holder_word(socket_handle(sock), self_proc));
}
inline sock* socket_sk(const socket& sock) { return slab_get(sock.sk); }

inline bool socket_nonblock(const socket& s) { return s.flags.load_relaxed() & SOCKF_NONBLOCK; }

// A message on its way through the layers (Linux: struct msghdr inside the kernel).
struct msghdr_iter {
    sockaddr_storage* name; // ours; null when the caller gave none / wants none
    u32 namelen;            // in: bytes given; out: bytes written
    iov_iter iter;
    const u8* control; // send: our copy of the control messages; recv: null
    u32 controllen;
    u8* out_control; // recv: our buffer for control messages; put_cmsg appends
    u32 out_control_len;
    u32 out_control_used;
    int flags; // in: MSG_* of the call; out (recv): msg_flags
};
// Checks the socket-level control messages of a send; other levels are the protocol's. 0 or -errno.
int sock_cmsg_send(sock& sk, const msghdr_iter& msg);
// Appends a control message; sets MSG_CTRUNC when it does not fit.
void put_cmsg(msghdr_iter& msg, int level, int type, u32 len, const void* data);

// Claims a socket cell. Null: -ENFILE.
socket* sock_alloc();
void sock_free(socket& sock);
// Linux's __sock_create; on success *res is live and has its sock. Returns 0 or -errno.
// -EAFNOSUPPORT_LIBC is never returned: whether a family is ours is asked first, net_family_known().
int __sock_create(int family, int type, int protocol, socket** res);
void sock_release(socket& sock);
// Linux: send_sigurg. Urgent data have come: SIGURG for the owner that F_SETOWN named.
void sock_send_sigurg(const socket& sock);
// Linux's PF_EXITING: this thread closes for a process that is going or gone (exit, the reaper), and does
// not linger.
extern constinit thread_local bool current_exiting;

} // namespace sockshim
