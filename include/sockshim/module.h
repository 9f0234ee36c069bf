// Writing a protocol family or a protocol of PF_INET as a loadable module.
//
// A module is a shared object in the directory that SOCKSHIM_MODULES names, called as Linux's module
// loader would call it:
//
//     net-pf-45.so                  family 45, loaded when a program first asks for socket(45, ...)
//     net-pf-2-proto-132-type-1.so  PF_INET, protocol 132, SOCK_STREAM: asked for first
//     net-pf-2-proto-132.so         PF_INET, protocol 132, any type: asked for second
//
// Its `extern "C" int sockshim_module_init()` (or a constructor) registers what it has. The source is
// written as a protocol of the library itself is: struct sock first in its own struct, one proto_ops and
// one proto table in designated-initialiser style, the functions below under their Linux names. Build:
//
//     c++ -std=gnu++20 -D_GNU_SOURCE -fPIC -shared -fno-exceptions -fno-rtti -I <sockshim>
//         -I <sockshim>/include net-pf-45.cc -o net-pf-45.so
//
// Nothing is linked against: libsockshim.so is in the program already. A module must be built from the
// headers of the library that loads it; registering checks SOCKSHIM_MODULE_ABI and refuses another's.
//
// What a module keeps about a socket stands in its sock cell (proto.obj_size bytes, at most 1024): that is
// shared memory, so no pointers, and another process may die between any two stores. Rules that
// matter: take sk_lock (lock_sock) for everything; never block with it held; publish by one store.
#pragma once
#include <cerrno>
#include <initializer_list>

#include "core/inet/inet_protosw.h"
#include "core/inet/inet_sock.h"
#include "core/net/family.h"
#include "core/net/proto.h"

#define SOCKSHIM_API extern "C" __attribute__((visibility("default")))

namespace sockshim {

// Of the structures that modules and library share.
constexpr u64 module_abi_of(std::initializer_list<u64> sizes) {
    u64 h = 0xcbf29ce484222325;
    for (const u64 s : sizes) h = (h ^ s) * 0x100000001b3;
    return h;
}
inline constexpr u64 SOCKSHIM_MODULE_ABI = module_abi_of(
    {1, sizeof(socket), sizeof(sock), sizeof(sock_common), sizeof(inet_sock), sizeof(proto_ops),
     sizeof(proto), sizeof(inet_protosw), sizeof(net_proto_family), sizeof(msghdr_iter),
     sizeof(wait_queue), offsetof(sock, sk_wq), offsetof(sock, sk_err), offsetof(socket, sk)});

} // namespace sockshim

// The exported functions (preload/exports_api.def). Modules use the inline names further down.
SOCKSHIM_API int sockshim_sock_register(const sockshim::net_proto_family* family,
                                        unsigned long abi);
SOCKSHIM_API void sockshim_sock_unregister(int family);
SOCKSHIM_API int sockshim_inet_register_protosw(sockshim::inet_protosw* p, unsigned long abi);
SOCKSHIM_API int sockshim_inet_unregister_protosw(sockshim::inet_protosw* p);
SOCKSHIM_API int sockshim_register_ops(const char* name, const sockshim::proto_ops* ops);
SOCKSHIM_API int sockshim_register_proto(const char* name, const sockshim::proto* prot);
// 0: inet_stream_ops, 1: inet_dgram_ops, 2: inet_sockraw_ops
SOCKSHIM_API const sockshim::proto_ops* sockshim_inet_ops(int which);
SOCKSHIM_API unsigned char sockshim_ops_id(const sockshim::proto_ops* ops);
SOCKSHIM_API sockshim::sock* sockshim_sk_alloc(int family, const sockshim::proto* prot);
SOCKSHIM_API void sockshim_sk_free(sockshim::sock* sk);
SOCKSHIM_API void sockshim_sock_init_data(sockshim::socket* sock, sockshim::sock* sk);
SOCKSHIM_API sockshim::sock* sockshim_sock_get(unsigned long raw_handle);
SOCKSHIM_API unsigned long sockshim_sock_handle(const sockshim::sock* sk);
SOCKSHIM_API sockshim::socket* sockshim_socket_get(unsigned long raw_handle);
SOCKSHIM_API unsigned long sockshim_socket_handle(const sockshim::socket* sock);
SOCKSHIM_API void sockshim_socket_publish(sockshim::socket* sock);
SOCKSHIM_API void sockshim_sock_graft(sockshim::sock* sk, sockshim::socket* parent);
SOCKSHIM_API void sockshim_lock_sock(sockshim::sock* sk);
SOCKSHIM_API sockshim::sock* sockshim_lock_sock_handle(unsigned long raw_handle);
SOCKSHIM_API void sockshim_lock_sock_pair(sockshim::sock* a, sockshim::sock* b);
SOCKSHIM_API void sockshim_release_sock(sockshim::sock* sk);
SOCKSHIM_API int sockshim_sock_error(sockshim::sock* sk);
SOCKSHIM_API void sockshim_sk_error_report(sockshim::sock* sk, int err);
SOCKSHIM_API void sockshim_sk_data_ready(sockshim::sock* sk);
SOCKSHIM_API void sockshim_sk_write_space(sockshim::sock* sk);
SOCKSHIM_API void sockshim_sk_state_change(sockshim::sock* sk);
// side: 0 for input, 1 for output. timeout_us < 0: for ever.
SOCKSHIM_API int sockshim_wait_on(sockshim::sock* sk, int side, bool (*ready)(void*), void* arg,
                                  long timeout_us);
SOCKSHIM_API long sockshim_copy_from_iter(void* to, unsigned long n, sockshim::iov_iter* it);
SOCKSHIM_API long sockshim_copy_to_iter(const void* from, unsigned long n, sockshim::iov_iter* it);
SOCKSHIM_API int sockshim_copy_from_user(void* to, const void* user, unsigned long n);
SOCKSHIM_API int sockshim_copy_to_user(void* user, const void* from, unsigned long n);
SOCKSHIM_API void sockshim_put_cmsg(sockshim::msghdr_iter* msg, int level, int type, unsigned len,
                                    const void* data);
SOCKSHIM_API int sockshim_ip_queue_xmit(sockshim::sock* sk, const sockshim::sk_buff* skb);

// The library's own names, for modules: a module's functions read like the library's.
#ifndef SOCKSHIM_LIBRARY
namespace sockshim {

inline int sock_register(const net_proto_family& f) {
    return sockshim_sock_register(&f, SOCKSHIM_MODULE_ABI);
}
inline void sock_unregister(int family) { sockshim_sock_unregister(family); }
inline int inet_register_protosw(inet_protosw& p) {
    return sockshim_inet_register_protosw(&p, SOCKSHIM_MODULE_ABI);
}
inline int inet_unregister_protosw(inet_protosw& p) { return sockshim_inet_unregister_protosw(&p); }
inline u8 ops_id_of(const proto_ops& o) { return sockshim_ops_id(&o); }

inline sock* sk_alloc(int family, const proto& p) { return sockshim_sk_alloc(family, &p); }
inline void sk_free(sock& sk) { sockshim_sk_free(&sk); }
inline void sock_init_data(socket* s, sock& sk) { sockshim_sock_init_data(s, &sk); }
inline handle<sock> sk_handle(const sock& sk) {
    return handle<sock>::from_raw(sockshim_sock_handle(&sk));
}
inline handle<socket> socket_handle(const socket& s) {
    return handle<socket>::from_raw(sockshim_socket_handle(&s));
}
// slab_get for the two kinds of cell that modules meet.
inline sock* sock_get(handle<sock> h) { return sockshim_sock_get(h.raw()); }
inline socket* socket_get(handle<socket> h) { return sockshim_socket_get(h.raw()); }
inline void sock_graft(sock& sk, socket& parent) { sockshim_sock_graft(&sk, &parent); }
inline void lock_sock(sock& sk) { sockshim_lock_sock(&sk); }
inline sock* lock_sock_handle(handle<sock> h) { return sockshim_lock_sock_handle(h.raw()); }
inline void lock_sock_pair(sock& a, sock& b) { sockshim_lock_sock_pair(&a, &b); }
inline void release_sock(sock& sk) { sockshim_release_sock(&sk); }
inline int sock_error(sock& sk) { return sockshim_sock_error(&sk); }
inline void sk_error_report(sock& sk, int err) { sockshim_sk_error_report(&sk, err); }
inline void sk_data_ready(sock& sk) { sockshim_sk_data_ready(&sk); }
inline void sk_write_space(sock& sk) { sockshim_sk_write_space(&sk); }
inline void sk_state_change(sock& sk) { sockshim_sk_state_change(&sk); }
inline i64 copy_from_iter(void* to, std::size_t n, iov_iter& it) {
    return sockshim_copy_from_iter(to, n, &it);
}
inline i64 copy_to_iter(const void* from, std::size_t n, iov_iter& it) {
    return sockshim_copy_to_iter(from, n, &it);
}
inline int copy_from_user(void* to, const void* user, std::size_t n) {
    return sockshim_copy_from_user(to, user, n);
}
inline int copy_to_user(void* user, const void* from, std::size_t n) {
    return sockshim_copy_to_user(user, from, n);
}
inline void put_cmsg(msghdr_iter& m, int level, int type, u32 len, const void* data) {
    sockshim_put_cmsg(&m, level, type, len, data);
}
inline int ip_queue_xmit(sock* sk, const sk_buff& skb) { return sockshim_ip_queue_xmit(sk, &skb); }

inline int sock_no_bind(socket&, const sockaddr*, u32) { return -EOPNOTSUPP; }
inline int sock_no_connect(socket&, const sockaddr*, u32, int) { return -EOPNOTSUPP; }
inline int sock_no_socketpair(socket&, socket&) { return -EOPNOTSUPP; }
inline int sock_no_accept(socket&, socket&, int) { return -EOPNOTSUPP; }
inline int sock_no_getname(socket&, sockaddr_storage*, int) { return -EOPNOTSUPP; }
inline u32 sock_no_poll(socket&) { return 0; }
inline int sock_no_ioctl(socket&, unsigned, unsigned long) { return -ENOTTY; }
inline int sock_no_listen(socket&, int) { return -EOPNOTSUPP; }
inline int sock_no_shutdown(socket&, int) { return -EOPNOTSUPP; }
inline int sock_no_setsockopt(socket&, int, int, const void*, u32) { return -EOPNOTSUPP; }
inline int sock_no_getsockopt(socket&, int, int, void*, u32*) { return -EOPNOTSUPP; }
inline i64 sock_no_sendmsg(socket&, msghdr_iter&) { return -EOPNOTSUPP; }
inline i64 sock_no_recvmsg(socket&, msghdr_iter&) { return -EOPNOTSUPP; }
inline int sock_no_mmap(socket&) { return -ENODEV; }
inline i64 sock_no_splice_read(socket&, int, u64, unsigned) { return -EINVAL; }
inline int sock_no_set_peek_off(sock&, int) { return -EOPNOTSUPP; }
inline i64 sock_no_peek_len(socket&) { return -EOPNOTSUPP; }

} // namespace sockshim
#endif
