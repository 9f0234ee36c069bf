// struct socket (Linux: net/socket.c), and the sock_no_* answers (net/core/sock.c).
//
// Life cycle of a socket cell, and who may call what:
//   sock_alloc     __sock_create, and sys_accept for the new connection: CLAIMED by this process
//   (create)       the family ties a sock to it
//   slab_publish   __sock_create, inet_accept: LIVE; from here on the reaper sees to it that somebody
//                  releases it (holder's death, or nobody on its carrier's lock)
//   sock_map_fd    dispatch/: the carrier, and the number that the program holds
//   sock_release   the last descriptor of the last process is gone: ops->release (which closes the sock;
//                  it may live on as an orphan), module_put, the cell is free
//   sock_free      instead of sock_release for a socket that got no operations yet
#include "core/net/socket.h"

#include <cerrno>
#include <sys/socket.h>

#include "core/net/eventpoll.h"
#include "core/net/module.h"
#include "core/net/proto.h"

namespace sockshim {

constinit thread_local bool current_exiting = false;

handle<socket> socket_handle(const socket& sock) {
    return slab_handle_at<socket>(cell_index_of(REGION_SOCKET, &sock));
}

socket* sock_alloc() {
    const handle<socket> h = slab_alloc<socket>();
    socket* sock = slab_get(h);
    if (!sock) return nullptr;
    __builtin_memset(static_cast<void*>(sock), 0, sizeof *sock);
    sock->state.store(SS_UNCONNECTED);
    sock->holder.store(holder_word(h, self_proc));
    return sock;
}

void sock_free(socket& sock) { slab_free(socket_handle(sock)); }

void sock_release(socket& sock) {
    if (sock.ops_id) {
        const proto_ops& ops = ops_of(sock.ops_id);
        eventpoll_release_socket(sock.sk);
        ops.release(sock);
        sock.ops_id = 0;
        module_put(ops.owner);
    }
    sock.state.store(SS_FREE);
    sock_free(sock);
}

void put_cmsg(msghdr_iter& msg, int level, int type, u32 len, const void* data) {
    cmsghdr head{};
    u32 whole = static_cast<u32>(CMSG_LEN(len));
    const u32 room = msg.out_control_len - msg.out_control_used;
    if (!msg.out_control || room < sizeof(cmsghdr)) {
        msg.flags |= MSG_CTRUNC;
        return;
    }
    if (room < whole) {
        msg.flags |= MSG_CTRUNC;
        whole = room;
    }
    head.cmsg_level = level;
    head.cmsg_type = type;
    head.cmsg_len = whole;
    u8* at = msg.out_control + msg.out_control_used;
    __builtin_memcpy(at, &head, sizeof head);
    __builtin_memcpy(at + sizeof head, data, whole - sizeof head);
    msg.out_control_used += min_of(static_cast<u32>(CMSG_SPACE(len)), room);
}

int sock_no_bind(socket&, const sockaddr*, u32) { return -EOPNOTSUPP; }
int sock_no_connect(socket&, const sockaddr*, u32, int) { return -EOPNOTSUPP; }
int sock_no_socketpair(socket&, socket&) { return -EOPNOTSUPP; }
int sock_no_accept(socket&, socket&, int) { return -EOPNOTSUPP; }
int sock_no_getname(socket&, sockaddr_storage*, int) { return -EOPNOTSUPP; }
u32 sock_no_poll(socket&) { return 0; }
int sock_no_ioctl(socket&, unsigned, unsigned long) { return -ENOTTY; }
int sock_no_listen(socket&, int) { return -EOPNOTSUPP; }
int sock_no_shutdown(socket&, int) { return -EOPNOTSUPP; }
int sock_no_setsockopt(socket&, int, int, const void*, u32) { return -EOPNOTSUPP; }
int sock_no_getsockopt(socket&, int, int, void*, u32*) { return -EOPNOTSUPP; }
i64 sock_no_sendmsg(socket&, msghdr_iter&) { return -EOPNOTSUPP; }
i64 sock_no_recvmsg(socket&, msghdr_iter&) { return -EOPNOTSUPP; }
int sock_no_mmap(socket&) { return -ENODEV; }
i64 sock_no_splice_read(socket&, int, u64, unsigned) { return -EINVAL; }
int sock_no_set_peek_off(sock&, int) { return -EOPNOTSUPP; }
i64 sock_no_peek_len(socket&) { return -EOPNOTSUPP; }

} // namespace sockshim
