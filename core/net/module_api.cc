// The functions that protocol modules call, under C names (preload/exports_api.def).
#define SOCKSHIM_LIBRARY
#include "sockshim/module.h"

#include <cerrno>

#include "core/base/config.h"
#include "core/inet/af_inet.h"
#include "core/inet/ip.h"
#include "core/sync/uaccess.h"

using namespace sockshim;

namespace {

bool abi_matches(unsigned long abi) {
    if (abi == SOCKSHIM_MODULE_ABI) return true;
    notice("a module was built from other headers than this library; not loaded");
    return false;
}

handle<struct sock> sock_of(unsigned long raw) { return handle<struct sock>::from_raw(raw); }

} // namespace

int sockshim_sock_register(const net_proto_family* family, unsigned long abi) {
    return abi_matches(abi) ? sock_register(*family) : -ENOEXEC;
}
void sockshim_sock_unregister(int family) { sock_unregister(family); }

int sockshim_inet_register_protosw(inet_protosw* p, unsigned long abi) {
    return abi_matches(abi) ? inet_register_protosw(*p) : -ENOEXEC;
}
int sockshim_inet_unregister_protosw(inet_protosw* p) { return inet_unregister_protosw(*p); }

int sockshim_register_ops(const char* name, const proto_ops* ops) {
    return register_ops(module_table_id(name), *ops) ? 0 : -EEXIST;
}
int sockshim_register_proto(const char* name, const proto* prot) {
    return register_prot(module_table_id(name), *prot) ? 0 : -EEXIST;
}
const proto_ops* sockshim_inet_ops(int which) {
    return which == 0 ? &inet_stream_ops : which == 1 ? &inet_dgram_ops : &inet_sockraw_ops;
}
unsigned char sockshim_ops_id(const proto_ops* ops) { return ops_id_of(*ops); }

sock* sockshim_sk_alloc(int family, const proto* prot) { return sk_alloc(family, *prot); }
void sockshim_sk_free(sock* sk) { sk_free(*sk); }
void sockshim_sock_init_data(sockshim::socket* s, sock* sk) { sock_init_data(s, *sk); }
sock* sockshim_sock_get(unsigned long raw) { return slab_get(sock_of(raw)); }
unsigned long sockshim_sock_handle(const sock* sk) { return sk_handle(*sk).raw(); }
sockshim::socket* sockshim_socket_get(unsigned long raw) {
    return slab_get(handle<sockshim::socket>::from_raw(raw));
}
unsigned long sockshim_socket_handle(const sockshim::socket* s) { return socket_handle(*s).raw(); }
void sockshim_socket_publish(sockshim::socket* s) { slab_publish(socket_handle(*s)); }
void sockshim_sock_graft(sock* sk, sockshim::socket* parent) { sock_graft(*sk, *parent); }
void sockshim_lock_sock(sock* sk) { lock_sock(*sk); }
sock* sockshim_lock_sock_handle(unsigned long raw) { return lock_sock_handle(sock_of(raw)); }
void sockshim_lock_sock_pair(sock* a, sock* b) { lock_sock_pair(*a, *b); }
void sockshim_release_sock(sock* sk) { release_sock(*sk); }
int sockshim_sock_error(sock* sk) { return sock_error(*sk); }
void sockshim_sk_error_report(sock* sk, int err) { sk_error_report(*sk, err); }
void sockshim_sk_data_ready(sock* sk) { sk_data_ready(*sk); }
void sockshim_sk_write_space(sock* sk) { sk_write_space(*sk); }
void sockshim_sk_state_change(sock* sk) { sk_state_change(*sk); }

int sockshim_wait_on(sock* sk, int side, bool (*ready)(void*), void* arg, long timeout_us) {
    const i64 deadline = timeout_us < 0 ? -1 : static_cast<i64>(monotonic_us()) + timeout_us;
    return wait_on(sk->sk_wq, side ? WAIT_TX : WAIT_RX, ready, arg, deadline);
}

long sockshim_copy_from_iter(void* to, unsigned long n, iov_iter* it) {
    return copy_from_iter(to, n, *it);
}
long sockshim_copy_to_iter(const void* from, unsigned long n, iov_iter* it) {
    return copy_to_iter(from, n, *it);
}
int sockshim_copy_from_user(void* to, const void* user, unsigned long n) {
    return copy_from_user(to, user, n);
}
int sockshim_copy_to_user(void* user, const void* from, unsigned long n) {
    return copy_to_user(user, from, n);
}
void sockshim_put_cmsg(msghdr_iter* msg, int level, int type, unsigned len, const void* data) {
    put_cmsg(*msg, level, type, len, data);
}
int sockshim_ip_queue_xmit(sock* sk, const sk_buff* skb) { return ip_queue_xmit(sk, *skb); }
