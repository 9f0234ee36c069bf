// Which table an id of the arena means in this process.
#include "core/net/proto.h"

#include <cerrno>

#include "core/inet/af_inet.h"
#include "core/inet/inet_protosw.h"
#include "core/inet/ping.h"
#include "core/inet/raw.h"
#include "core/inet/udp.h"
#include "core/net/module.h"

namespace sockshim {
namespace {

// What a sock gets whose protocol nobody here knows (a module that this process could not load, or an
// id that somebody scribbled over): every slot is there and refuses.
void none_close(sock&, i64) {}
int none_connect(sock&, const sockaddr*, u32) { return -EOPNOTSUPP; }
int none_disconnect(sock&, int) { return -EOPNOTSUPP; }
sock* none_accept(sock&, int, int* err) {
    *err = -EOPNOTSUPP;
    return nullptr;
}
int none_ioctl(sock&, unsigned, unsigned long) { return -ENOTTY; }
int none_init(sock&) { return -EOPNOTSUPP; }
void none_shutdown(sock&, int) {}
int none_setsockopt(sock&, int, int, const void*, u32) { return -EOPNOTSUPP; }
int none_getsockopt(sock&, int, int, void*, u32*) { return -EOPNOTSUPP; }
i64 none_sendmsg(sock&, msghdr_iter&) { return -EOPNOTSUPP; }
i64 none_recvmsg(sock&, msghdr_iter&) { return -EOPNOTSUPP; }
int none_bind(sock&, const sockaddr*, u32) { return -EOPNOTSUPP; }
void none_backlog_rcv(sock&, const sk_buff&) {}
void none_timer(sock& sk, u64) { sk.sk_timer_us.store(0); }
int none_hash(sock&) { return -EOPNOTSUPP; }
void none_unhash(sock&) {}
int none_get_port(sock&, u16) { return -EOPNOTSUPP; }
u32 none_poll(sock&) { return 0; }

constinit const proto proto_none = {
    .name = "none",
    .owner = nullptr,
    .close = none_close,
    .connect = none_connect,
    .disconnect = none_disconnect,
    .accept = none_accept,
    .ioctl = none_ioctl,
    .init = none_init,
    .destroy = nullptr,
    .shutdown = none_shutdown,
    .setsockopt = none_setsockopt,
    .getsockopt = none_getsockopt,
    .keepalive = nullptr,
    .sendmsg = none_sendmsg,
    .recvmsg = none_recvmsg,
    .bind = none_bind,
    .backlog_rcv = none_backlog_rcv,
    .release_cb = nullptr,
    .timer = none_timer,
    .hash = none_hash,
    .unhash = none_unhash,
    .get_port = none_get_port,
    .poll = none_poll,
    .obj_size = sizeof(sock),
    .sysctl_wmem = {},
    .sysctl_rmem = {},
};

int none_release(socket&) { return 0; }

constinit const proto_ops ops_none = {
    .family = PF_UNSPEC,
    .owner = nullptr,
    .release = none_release,
    .bind = sock_no_bind,
    .connect = sock_no_connect,
    .socketpair = sock_no_socketpair,
    .accept = sock_no_accept,
    .getname = sock_no_getname,
    .poll = sock_no_poll,
    .ioctl = sock_no_ioctl,
    .listen = sock_no_listen,
    .shutdown = sock_no_shutdown,
    .setsockopt = sock_no_setsockopt,
    .getsockopt = sock_no_getsockopt,
    .sendmsg = sock_no_sendmsg,
    .recvmsg = sock_no_recvmsg,
    .mmap = sock_no_mmap,
    .splice_read = sock_no_splice_read,
    .set_peek_off = sock_no_set_peek_off,
    .peek_len = sock_no_peek_len,
};

template <class T, u32 N> struct id_table {
    const T* at[N];

    const T* get(u8 id) const { return __atomic_load_n(&at[id], __ATOMIC_ACQUIRE); }
    bool put(u8 id, const T* entry) {
        const T* expected = nullptr;
        return __atomic_compare_exchange_n(&at[id], &expected, entry, false, __ATOMIC_SEQ_CST,
                                           __ATOMIC_ACQUIRE) ||
               expected == entry;
    }
    u8 find(const T* entry) const {
        for (u32 i = 0; i < N; ++i) {
            if (get(static_cast<u8>(i)) == entry) return static_cast<u8>(i);
        }
        return 0;
    }
};

// Constant-initialised: other libraries' constructors call socket() before ours run.
constexpr id_table<proto, max_protos> builtin_protos() {
    id_table<proto, max_protos> t{};
    t.at[PROT_TCP] = &tcp_prot;
    t.at[PROT_UDP] = &udp_prot;
    t.at[PROT_RAW] = &raw_prot;
    t.at[PROT_PING] = &ping_prot;
    return t;
}
constexpr id_table<proto_ops, max_ops> builtin_ops() {
    id_table<proto_ops, max_ops> t{};
    t.at[OPS_INET_STREAM] = &inet_stream_ops;
    t.at[OPS_INET_DGRAM] = &inet_dgram_ops;
    t.at[OPS_INET_RAW] = &inet_sockraw_ops;
    return t;
}
constinit id_table<proto, max_protos> protos = builtin_protos();
constinit id_table<proto_ops, max_ops> opses = builtin_ops();

} // namespace

const proto& prot_of(u8 prot_id) {
    const proto* p = protos.get(prot_id);
    if (SOCKSHIM_UNLIKELY(!p) && prot_id >= PROT_MODULE_FIRST) {
        request_all_modules();
        p = protos.get(prot_id);
    }
    return p ? *p : proto_none;
}

const proto_ops& ops_of(u8 ops_id) {
    const proto_ops* o = opses.get(ops_id);
    if (SOCKSHIM_UNLIKELY(!o) && ops_id >= OPS_MODULE_FIRST) {
        request_all_modules();
        o = opses.get(ops_id);
    }
    return o ? *o : ops_none;
}

u8 prot_id_of(const proto& p) { return protos.find(&p); }
u8 ops_id_of(const proto_ops& o) { return opses.find(&o); }
bool register_prot(u8 id, const proto& p) { return id && protos.put(id, &p); }
bool register_ops(u8 id, const proto_ops& o) {
    return id && proto_ops_complete(o) && opses.put(id, &o);
}

bool proto_ops_complete(const proto_ops& o) {
    return o.release && o.bind && o.connect && o.socketpair && o.accept && o.getname && o.poll &&
           o.ioctl && o.listen && o.shutdown && o.setsockopt && o.getsockopt && o.sendmsg &&
           o.recvmsg && o.mmap && o.splice_read && o.set_peek_off && o.peek_len;
}

u8 module_table_id(const char* name) {
    u32 h = 0x811c9dc5; // FNV-1a
    for (; *name; ++name) h = (h ^ static_cast<u8>(*name)) * 0x01000193;
    h ^= h >> 16;
    static_assert(PROT_MODULE_FIRST == OPS_MODULE_FIRST);
    return static_cast<u8>(PROT_MODULE_FIRST + h % (max_protos - PROT_MODULE_FIRST));
}

} // namespace sockshim
