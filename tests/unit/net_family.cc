// S5, S6, S8: the family registry and __sock_create; S9: security hooks; S11: inetsw.
#include "net_fixture.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>

#include "core/inet/af_inet.h"
#include "core/inet/inet_protosw.h"
#include "core/net/carrier.h"
#include "core/net/family.h"
#include "core/net/handover.h"
#include "core/net/reaper.h"
#include "core/net/security.h"

using namespace sockshim_test;

namespace {

constinit sockshim::module test_module = {.name = "test", .refcnt = {}, .going = {}};
u32 refs_in_create = 0;
int create_answer = 0;
int released = 0;

int family_release(sockshim::socket& s) {
    ++released;
    if (sock* sk = socket_sk(s)) sk_free(*sk);
    return 0;
}
u32 family_poll(sockshim::socket&) { return 0; }

const proto_ops family_ops = {
    .family = 44,
    .owner = &test_module,
    .release = family_release,
    .bind = sock_no_bind,
    .connect = sock_no_connect,
    .socketpair = sock_no_socketpair,
    .accept = sock_no_accept,
    .getname = sock_no_getname,
    .poll = family_poll,
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

int family_create(sockshim::socket& s, int, int) {
    refs_in_create = module_refcount(test_module);
    if (create_answer) return create_answer;
    sock* sk = sk_alloc(44, test_prot);
    sock_init_data(&s, *sk);
    s.ops_id = ops_id_of(family_ops);
    return 0;
}

const net_proto_family test_family = {.family = 44, .create = family_create, .owner = &test_module};

struct registered_family {
    registered_family() {
        test_sock attach; // the arena and test_prot's id
        register_ops(module_table_id("unit-test-family"), family_ops);
        REQUIRE(sock_register(test_family) == 0);
    }
    ~registered_family() { sock_unregister(44); }
};

int create(int family, int type, int protocol, sockshim::socket** s) {
    return sock_create(family, type, protocol, s);
}

int errno_of_create(int family, int type, int protocol = 0) {
    sockshim::socket* s = nullptr;
    const int err = create(family, type, protocol, &s);
    if (!err) sock_release(*s);
    return err;
}

} // namespace

TEST_CASE("S6 families register once and go again", "[net]") {
    const registered_family r;
    REQUIRE(net_family_known(44));
    REQUIRE(net_family_known(PF_INET));
    REQUIRE_FALSE(net_family_known(PF_UNIX));
    REQUIRE_FALSE(net_family_known(-1));
    REQUIRE_FALSE(net_family_known(NPROTO));
    REQUIRE(sock_register(test_family) == -EEXIST);
    const net_proto_family wild = {.family = NPROTO, .create = family_create, .owner = nullptr};
    REQUIRE(sock_register(wild) == -ENOBUFS);
    sock_unregister(44);
    REQUIRE_FALSE(net_family_known(44));
    REQUIRE(sock_register(test_family) == 0);
}

TEST_CASE("S5 __sock_create: ranges first, then the family", "[net]") {
    const registered_family r;
    REQUIRE(errno_of_create(-1, -1) == -EAFNOSUPPORT);
    REQUIRE(errno_of_create(NPROTO, 77) == -EAFNOSUPPORT);
    REQUIRE(errno_of_create(PF_INET, -1) == -EINVAL);
    REQUIRE(errno_of_create(PF_INET, SOCK_MAX) == -EINVAL);
    REQUIRE(errno_of_create(PF_UNIX, SOCK_MAX) == -EINVAL);
    REQUIRE(errno_of_create(PF_UNIX, SOCK_STREAM) == -ELIBC);
    REQUIRE(errno_of_create(PF_INET, SOCK_PACKET) == -ELIBC); // became PF_PACKET
}

TEST_CASE("a shared socket is claimed once, and the claimer's name stays", "[net]") {
    const registered_family r;
    sockshim::socket* s = nullptr;
    REQUIRE(create(44, SOCK_DGRAM, 0, &s) == 0);
    const handle<sockshim::socket> h = socket_handle(*s);
    CHECK_FALSE(socket_claim_shared(*s, h)); // its holder's alone
    s->flags.fetch_or(SOCKF_SHARED);
    CHECK(socket_unaccounted(*s));
    // Processes that find at the same time that nobody holds it, each by a name of its own.
    auto* const ready = static_cast<std::atomic<u32>*>(
        ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    REQUIRE(ready != MAP_FAILED);
    constexpr u32 claimers = 3;
    for (int round = 0; round < 100; ++round) {
        socket_set_holder(*s);
        ready->store(0);
        pid_t pids[claimers];
        for (u32 i = 0; i < claimers; ++i) {
            pids[i] = ::fork();
            if (pids[i]) continue;
            self_proc = 101 + i;
            ready->fetch_add(1);
            while (ready->load() < claimers) ::sched_yield();
            ::_exit(socket_claim_shared(*s, h));
        }
        u32 winner = 0;
        int winners = 0;
        for (u32 i = 0; i < claimers; ++i) {
            int status = 0;
            REQUIRE(::waitpid(pids[i], &status, 0) == pids[i]);
            if (WEXITSTATUS(status)) ++winners, winner = 101 + i;
        }
        REQUIRE(winners == 1);
        REQUIRE(s->holder.load() == (holder_word(h, winner) | holder_claimed));
    }
    ::munmap(ready, 4096);
    CHECK_FALSE(socket_unaccounted(*s));
    sock_release(*s);
}

TEST_CASE("a claim does not outlive its socket in the cell", "[net]") {
    const registered_family r;
    sockshim::socket *s = nullptr, *next = nullptr;
    REQUIRE(create(44, SOCK_DGRAM, 0, &s) == 0);
    s->flags.fetch_or(SOCKF_SHARED);
    const handle<sockshim::socket> h = socket_handle(*s);
    // Somebody saw that it is shared and asks who holds it. Meanwhile its last holder releases it, and the
    // cell gets a socket of the same process, shared as well.
    REQUIRE(socket_claim_shared(*s, h));
    sock_release(*s);
    CHECK_FALSE(socket_claim_shared(*s, h));
    REQUIRE(create(44, SOCK_DGRAM, 0, &next) == 0);
    REQUIRE(next == s);
    CHECK_FALSE(socket_claim_shared(*next, h));
    next->flags.fetch_or(SOCKF_SHARED);
    CHECK_FALSE(socket_claim_shared(*next, h));
    CHECK(socket_claim_shared(*next, socket_handle(*next)));
    sock_release(*next);
}

TEST_CASE("S5 module references stand around create and around sock->ops", "[net]") {
    const registered_family r;
    const u64 before = arena_cells_in_use(REGION_SOCKET);
    sockshim::socket* s = nullptr;
    REQUIRE(create(44, SOCK_DGRAM, 0, &s) == 0);
    REQUIRE(refs_in_create == 1);
    REQUIRE(module_refcount(test_module) == 1); // the socket's
    REQUIRE(s->type == SOCK_DGRAM);
    REQUIRE(s->holder.load() == holder_word(socket_handle(*s), self_proc));
    REQUIRE(cell_word::state(cell_word_at(REGION_SOCKET, socket_handle(*s).index)) == CELL_LIVE);
    REQUIRE(cell_word::state(cell_word_at(REGION_SOCK, s->sk.index)) == CELL_LIVE);
    released = 0;
    sock_release(*s);
    REQUIRE(released == 1);
    REQUIRE(module_refcount(test_module) == 0);
    create_answer = -ENOMEM;
    REQUIRE(errno_of_create(44, SOCK_DGRAM) == -ENOMEM);
    create_answer = 0;
    REQUIRE(module_refcount(test_module) == 0);
    test_module.going.store(1);
    REQUIRE(errno_of_create(44, SOCK_DGRAM) == -EAFNOSUPPORT);
    test_module.going.store(0);
    REQUIRE(arena_cells_in_use(REGION_SOCKET) == before);
}

TEST_CASE("an incomplete operations table is refused", "[net]") {
    proto_ops hollow = family_ops;
    hollow.mmap = nullptr;
    REQUIRE_FALSE(register_ops(module_table_id("hollow"), hollow));
    REQUIRE(proto_ops_complete(inet_stream_ops));
    REQUIRE(proto_ops_complete(inet_dgram_ops));
    REQUIRE(proto_ops_complete(inet_sockraw_ops));
    REQUIRE(proto_ops_complete(ops_of(0)));
    REQUIRE(proto_ops_complete(ops_of(255)));
    REQUIRE_FALSE(register_ops(OPS_INET_STREAM, family_ops));
    REQUIRE(&ops_of(OPS_INET_STREAM) == &inet_stream_ops);
}

TEST_CASE("S9 a policy denies with its errno", "[net]") {
    const registered_family r;
    const security_operations* policy =
        security_deny_policy("bind:EPERM,connect:13,,socket:EACCES,nonsense:EPERM,listen:EWHAT");
    REQUIRE(policy != nullptr);
    REQUIRE(security_deny_policy("") == nullptr);
    REQUIRE(security_deny_policy(nullptr) == nullptr);
    policy = security_deny_policy("bind:EPERM,connect:13,socket:EACCES,shutdown:EBUSY");
    sockshim::socket* s = nullptr;
    REQUIRE(create(44, SOCK_DGRAM, 0, &s) == 0);
    REQUIRE(security_socket_bind(*s, nullptr, 0) == 0);
    REQUIRE(security_register(*policy) == 0);
    REQUIRE(security_register(*policy) == -EBUSY);
    REQUIRE(security_socket_bind(*s, nullptr, 0) == -EPERM);
    REQUIRE(security_socket_connect(*s, nullptr, 0) == -EACCES);
    REQUIRE(security_socket_listen(*s, 1) == 0);
    REQUIRE(security_socket_shutdown(*s, 1) == -EBUSY);
    REQUIRE(errno_of_create(44, SOCK_DGRAM) == -EACCES);
    security_unregister(*policy);
    REQUIRE(security_socket_bind(*s, nullptr, 0) == 0);
    sock_release(*s);
}

TEST_CASE("S9 post_create takes the socket away again", "[net]") {
    const registered_family r;
    const security_operations* policy = security_deny_policy("post_create:EPERM");
    REQUIRE(security_register(*policy) == 0);
    released = 0;
    REQUIRE(errno_of_create(44, SOCK_DGRAM) == -EPERM);
    REQUIRE(released == 1);
    security_unregister(*policy);
}

TEST_CASE("S10 inetsw: the errno falls out of the walk", "[inet]") {
    const auto look = [](int type, int protocol) {
        int err = 0;
        const inet_protosw* p = inet_protosw_lookup(type, protocol, err);
        return p ? protocol : err;
    };
    REQUIRE(look(SOCK_STREAM, 0) == IPPROTO_TCP);
    REQUIRE(look(SOCK_STREAM, IPPROTO_TCP) == IPPROTO_TCP);
    REQUIRE(look(SOCK_STREAM, IPPROTO_UDP) == -EPROTONOSUPPORT);
    REQUIRE(look(SOCK_DGRAM, 0) == IPPROTO_UDP);
    REQUIRE(look(SOCK_DGRAM, IPPROTO_ICMP) == IPPROTO_ICMP);
    REQUIRE(look(SOCK_DGRAM, IPPROTO_TCP) == -EPROTONOSUPPORT);
    REQUIRE(look(SOCK_RAW, 89) == 89); // the entry is the wild card
    REQUIRE(look(SOCK_RAW, 0) == -EPROTONOSUPPORT);
    REQUIRE(look(SOCK_SEQPACKET, 0) == -ESOCKTNOSUPPORT);
    REQUIRE(look(SOCK_RDM, 17) == -ESOCKTNOSUPPORT);
    REQUIRE(look(99, 0) == -ESOCKTNOSUPPORT);
}

TEST_CASE("S11 inet_register_protosw: what may be overridden", "[inet]") {
    const auto prot_for = [](int type, int protocol) {
        int err = 0;
        const inet_protosw* p = inet_protosw_lookup(type, protocol, err);
        return p ? p->prot : nullptr;
    };
    inet_protosw p = {.type = SOCK_MAX,
                      .protocol = 200,
                      .prot = &test_prot,
                      .ops = &inet_dgram_ops,
                      .flags = INET_PROTOSW_REUSE};
    REQUIRE(inet_register_protosw(p) == -EINVAL);
    p.type = SOCK_STREAM;
    p.protocol = IPPROTO_TCP;
    REQUIRE(inet_register_protosw(p) == -EPERM); // permanent

    // A new protocol, then one in front of a built-in one that is not permanent.
    p.protocol = 200;
    REQUIRE(inet_register_protosw(p) == 0);
    REQUIRE(prot_for(SOCK_STREAM, 200) == &test_prot);
    REQUIRE(prot_for(SOCK_STREAM, 0) != &test_prot); // permanent ones come first for the wild card
    REQUIRE(inet_unregister_protosw(p) == 0);
    REQUIRE(prot_for(SOCK_STREAM, 200) == nullptr);
    REQUIRE(inet_unregister_protosw(p) == -ENOENT);

    const proto* icmp = prot_for(SOCK_DGRAM, IPPROTO_ICMP);
    p.type = SOCK_DGRAM;
    p.protocol = IPPROTO_ICMP;
    REQUIRE(inet_register_protosw(p) == 0);
    REQUIRE(prot_for(SOCK_DGRAM, IPPROTO_ICMP) == &test_prot);
    REQUIRE(inet_unregister_protosw(p) == 0);
    REQUIRE(prot_for(SOCK_DGRAM, IPPROTO_ICMP) == icmp); // the old behaviour is back

    p.flags = INET_PROTOSW_PERMANENT;
    REQUIRE(inet_unregister_protosw(p) == -EPERM);
}
