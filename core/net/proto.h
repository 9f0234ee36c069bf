// The two operations tables (include/linux/net.h, include/net/sock.h). Both are per process, const, and
// never in the arena: arena objects carry ops_id / skc_prot_id, looked up here.
#pragma once
#include "core/net/socket.h"

namespace sockshim {

struct module;

// Family level: hangs on struct socket. All user pointers have been copied by dispatch/ except optval,
// optlen, the ioctl argument and the iov bases, which are the program's (use uaccess.h). Returns
// -errno. No slot is ever null: what a family lacks is a sock_no_*.
struct proto_ops {
    int family;
    const module* owner;
    int (*release)(socket&);
    int (*bind)(socket&, const sockaddr*, u32 len);
    int (*connect)(socket&, const sockaddr*, u32 len, int flags); // flags: O_NONBLOCK
    int (*socketpair)(socket&, socket&);
    int (*accept)(socket&, socket& newsock, int flags);   // flags: O_NONBLOCK
    int (*getname)(socket&, sockaddr_storage*, int peer); // returns the address's length
    u32 (*poll)(socket&);
    int (*ioctl)(socket&, unsigned cmd, unsigned long arg);
    int (*listen)(socket&, int backlog);
    int (*shutdown)(socket&, int how); // SHUT_RD, ...
    int (*setsockopt)(socket&, int level, int optname, const void* optval, u32 optlen);
    int (*getsockopt)(socket&, int level, int optname, void* optval, u32* optlen);
    i64 (*sendmsg)(socket&, msghdr_iter&);
    i64 (*recvmsg)(socket&, msghdr_iter&);
    int (*mmap)(socket&);
    i64 (*splice_read)(socket&, int pipe_fd, u64 len, unsigned flags);
    int (*set_peek_off)(sock&, int);
    i64 (*peek_len)(socket&);
};

// Transport level: hangs on struct sock. As in Linux sk_lock is held in connect, disconnect, shutdown,
// hash, unhash, get_port, keepalive, backlog_rcv, release_cb, timer, repair; and is not in close, accept,
// ioctl, init, setsockopt, getsockopt, sendmsg, recvmsg, bind, poll. Datagram protocols' connect and
// disconnect take it themselves (inet_dgram_connect does not).
struct proto {
    const char* name;
    const module* owner;
    void (*close)(sock&, i64 timeout_us);
    int (*connect)(sock&, const sockaddr*, u32 len);
    int (*disconnect)(sock&, int flags);
    sock* (*accept)(sock&, int flags, int* err);
    int (*ioctl)(sock&, unsigned cmd, unsigned long arg);
    int (*init)(sock&);
    void (*destroy)(sock&);
    void (*shutdown)(sock&, int how); // how: RCV_SHUTDOWN | SEND_SHUTDOWN
    int (*setsockopt)(sock&, int level, int optname, const void* optval, u32 optlen);
    int (*getsockopt)(sock&, int level, int optname, void* optval, u32* optlen);
    void (*keepalive)(sock&, bool on);
    i64 (*sendmsg)(sock&, msghdr_iter&);
    i64 (*recvmsg)(sock&, msghdr_iter&);
    int (*bind)(sock&, const sockaddr*, u32 len); // null: inet_bind's own way
    void (*backlog_rcv)(sock&, const sk_buff&);   // sk_lock held
    void (*release_cb)(sock&);
    void (*timer)(sock&, u64 now_us); // the sock's deadline has passed; sk_lock held
    int (*hash)(sock&);
    void (*unhash)(sock&);
    int (*get_port)(sock&, u16 port); // 0: any; returns 0 or -EADDRINUSE
    u32 (*poll)(sock&);
    u32 obj_size;
    int sysctl_wmem[3];
    int sysctl_rmem[3];
    void (*repair)(sock&) = nullptr; // the lock's last owner died inside; null: nothing to mend
};

inline constexpr u32 max_protos = 256;
inline constexpr u32 max_ops = 256;

// Registers a table of this process under an id; every process of the network must agree on the
// ids: those of built-in tables are fixed, modules' are made from a name (module_table_id), so that
// processes agree without asking one another.
inline constexpr u8 PROT_TCP = 1, PROT_UDP = 2, PROT_RAW = 3, PROT_PING = 4, PROT_MODULE_FIRST = 8;
inline constexpr u8 OPS_INET_STREAM = 1, OPS_INET_DGRAM = 2, OPS_INET_RAW = 3, OPS_MODULE_FIRST = 8;

const proto& prot_of(u8 prot_id);   // unknown ids get proto_none, whose slots refuse
const proto_ops& ops_of(u8 ops_id); // likewise ops_none
u8 prot_id_of(const proto& p);
u8 ops_id_of(const proto_ops& o);
// False when another table has the id already (the built-in ones cannot be replaced), or when a proto_ops
// slot is null.
bool register_prot(u8 id, const proto& p);
bool register_ops(u8 id, const proto_ops& o);
// Names that collide on one id are refused by the second register_*: choose another name.
u8 module_table_id(const char* name);
bool proto_ops_complete(const proto_ops& o);

int sock_no_bind(socket&, const sockaddr*, u32);             // -EOPNOTSUPP
int sock_no_connect(socket&, const sockaddr*, u32, int);     // -EOPNOTSUPP
int sock_no_socketpair(socket&, socket&);                    // -EOPNOTSUPP
int sock_no_accept(socket&, socket&, int);                   // -EOPNOTSUPP
int sock_no_getname(socket&, sockaddr_storage*, int);        // -EOPNOTSUPP
u32 sock_no_poll(socket&);                                   // 0
int sock_no_ioctl(socket&, unsigned, unsigned long);         // -ENOTTY
int sock_no_listen(socket&, int);                            // -EOPNOTSUPP
int sock_no_shutdown(socket&, int);                          // -EOPNOTSUPP
int sock_no_setsockopt(socket&, int, int, const void*, u32); // -EOPNOTSUPP
int sock_no_getsockopt(socket&, int, int, void*, u32*);      // -EOPNOTSUPP
i64 sock_no_sendmsg(socket&, msghdr_iter&);                  // -EOPNOTSUPP
i64 sock_no_recvmsg(socket&, msghdr_iter&);                  // -EOPNOTSUPP
int sock_no_mmap(socket&);                                   // -ENODEV
i64 sock_no_splice_read(socket&, int, u64, unsigned);        // -EINVAL
int sock_no_set_peek_off(sock&, int);                        // -EOPNOTSUPP
i64 sock_no_peek_len(socket&);                               // -EOPNOTSUPP

} // namespace sockshim
