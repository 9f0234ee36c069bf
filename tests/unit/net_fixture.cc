#include "net_fixture.h"

namespace sockshim_test {

std::vector<u16> received;

namespace {

void test_close(sock& sk, i64) {
    lock_sock(sk);
    inet_unhash(sk);
    inet_put_port(sk);
    release_sock(sk);
    sk_free(sk);
}
void test_backlog_rcv(sock&, const sk_buff& skb) { received.push_back(skb.udp.dest); }
int test_init(sock&) { return 0; }
int test_disconnect(sock& sk, int) {
    inet_unhash(sk);
    sk.__sk_common.skc_state.store(TCP_CLOSE);
    return 0;
}

} // namespace

const proto test_prot = {
    .name = "TEST",
    .owner = nullptr,
    .close = test_close,
    .connect = nullptr,
    .disconnect = test_disconnect,
    .accept = inet_csk_accept,
    .ioctl = nullptr,
    .init = test_init,
    .destroy = nullptr,
    .shutdown = nullptr,
    .setsockopt = nullptr,
    .getsockopt = nullptr,
    .keepalive = nullptr,
    .sendmsg = nullptr,
    .recvmsg = nullptr,
    .bind = nullptr,
    .backlog_rcv = test_backlog_rcv,
    .release_cb = nullptr,
    .timer = nullptr,
    .hash = inet_hash,
    .unhash = inet_unhash,
    .get_port = inet_csk_get_port,
    .poll = nullptr,
    .obj_size = sizeof(inet_connection_sock),
    .sysctl_wmem = {},
    .sysctl_rmem = {},
};

test_sock::test_sock() : h{} {
    REQUIRE(arena_attach_private() == 0);
    register_prot(module_table_id("unit-test"), test_prot);
    sock* sk = sk_alloc(AF_INET, test_prot);
    REQUIRE(sk != nullptr);
    sock_init_data(nullptr, *sk);
    sk->sk_type = SOCK_STREAM;
    inet_sk(*sk).inet_flags_ = INET_IS_ICSK;
    sk_publish(*sk);
    h = sk_handle(*sk);
}

test_sock::~test_sock() {
    if (sock* sk = slab_get(h)) test_close(*sk, 0);
}

int test_sock::bind(const char* where, u16 port) {
    sock& sk = **this;
    lock_sock(sk);
    inet_rcv_saddr(sk) = inet_sk(sk).inet_saddr = addr(where);
    const int err = test_prot.get_port(sk, port);
    if (err) inet_rcv_saddr(sk) = inet_sk(sk).inet_saddr = 0;
    release_sock(sk);
    return err;
}

int test_sock::listen() {
    sock& sk = **this;
    lock_sock(sk);
    sk.sk_max_ack_backlog = 128;
    const int err = inet_csk_listen_start(sk);
    release_sock(sk);
    return err;
}

int test_sock::connect(const char* to, u16 port) {
    sock& sk = **this;
    lock_sock(sk);
    inet_daddr(sk) = addr(to);
    inet_dport(sk) = htons(port);
    inet_rcv_saddr(sk) = inet_sk(sk).inet_saddr = addr("127.0.0.1");
    sk.__sk_common.skc_state.store(TCP_SYN_SENT);
    const int err = inet_hash_connect(sk);
    if (!err) sk.__sk_common.skc_state.store(TCP_ESTABLISHED);
    release_sock(sk);
    return err;
}

} // namespace sockshim_test
