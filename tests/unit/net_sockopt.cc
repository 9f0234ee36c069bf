// SOL_SOCKET: checks, minima, doubling, what is told back.
#include "net_fixture.h"

#include <climits>
#include <sys/socket.h>
#include <sys/time.h>

#include "core/inet/af_inet.h"
#include "core/net/family.h"

using namespace sockshim_test;

namespace {

struct opened {
    explicit opened(int type = SOCK_DGRAM) {
        REQUIRE(arena_attach_private() == 0);
        REQUIRE(sock_create(PF_INET, type, 0, &s) == 0);
    }
    ~opened() { sock_release(*s); }
    int set(int name, int value) {
        return sock_setsockopt(*s, SOL_SOCKET, name, &value, sizeof value);
    }
    template <class T> int set_as(int name, const T& value, u32 len = sizeof(T)) {
        return sock_setsockopt(*s, SOL_SOCKET, name, &value, len);
    }
    int get(int name) {
        int value = -12345;
        u32 len = sizeof value;
        const int err = sock_getsockopt(*s, SOL_SOCKET, name, &value, &len);
        return err ? err : value;
    }
    template <class T> int get_as(int name, T& value, u32& len) {
        return sock_getsockopt(*s, SOL_SOCKET, name, &value, &len);
    }
    sockshim::socket* s = nullptr;
};

} // namespace

TEST_CASE("buffer sizes are doubled and have a minimum", "[net]") {
    opened s;
    REQUIRE(s.set(SO_RCVBUF, 10000) == 0);
    REQUIRE(s.get(SO_RCVBUF) == 20000);
    REQUIRE(s.set(SO_RCVBUF, 0) == 0);
    REQUIRE(s.get(SO_RCVBUF) == SOCK_MIN_RCVBUF);
    REQUIRE(s.set(SO_SNDBUF, 1) == 0);
    REQUIRE(s.get(SO_SNDBUF) == SOCK_MIN_SNDBUF);
    REQUIRE(s.set(SO_SNDBUF, -1) == 0); // unsigned: as large as it gets
    REQUIRE(s.get(SO_SNDBUF) >= 2 * SK_WMEM_MAX);
    REQUIRE(s.get(72 /* SO_BUF_LOCK */) == 3);
}

TEST_CASE("flags are told back, types are not set", "[net]") {
    opened s;
    for (const int name : {SO_REUSEADDR, SO_REUSEPORT, SO_BROADCAST, SO_KEEPALIVE, SO_OOBINLINE,
                           SO_DONTROUTE, SO_RXQ_OVFL, SO_NO_CHECK, SO_SELECT_ERR_QUEUE}) {
        INFO(name);
        REQUIRE(s.get(name) == 0);
        REQUIRE(s.set(name, 5) == 0);
        REQUIRE(s.get(name) == 1);
        REQUIRE(s.set(name, 0) == 0);
        REQUIRE(s.get(name) == 0);
    }
    for (const int name :
         {SO_TYPE, SO_PROTOCOL, SO_DOMAIN, SO_ERROR, SO_SNDLOWAT, SO_ACCEPTCONN, 999}) {
        INFO(name);
        REQUIRE(s.set(name, 1) == -ENOPROTOOPT);
    }
    REQUIRE(s.get(SO_TYPE) == SOCK_DGRAM);
    REQUIRE(s.get(SO_PROTOCOL) == IPPROTO_UDP);
    REQUIRE(s.get(SO_DOMAIN) == AF_INET);
    REQUIRE(s.get(SO_SNDLOWAT) == 1);
    REQUIRE(s.get(999) == -ENOPROTOOPT);
}

TEST_CASE("lengths", "[net]") {
    opened s;
    REQUIRE(s.set_as(SO_REUSEADDR, short{1}) == -EINVAL);
    REQUIRE(s.set_as(SO_LINGER, int{1}) == -EINVAL);
    i64 wide = -1;
    u32 len = 2;
    REQUIRE(s.get_as(SO_TYPE, wide, len) == 0);
    REQUIRE(len == 2); // cut short
    len = 8;
    REQUIRE(s.get_as(SO_TYPE, wide, len) == 0);
    REQUIRE(len == 4);
    len = static_cast<u32>(-1);
    REQUIRE(s.get_as(SO_TYPE, wide, len) == -EINVAL);
}

TEST_CASE("linger and timeouts", "[net]") {
    opened s;
    REQUIRE(s.set_as(SO_LINGER, linger{1, 7}) == 0);
    linger l{};
    u32 len = sizeof l;
    REQUIRE(s.get_as(SO_LINGER, l, len) == 0);
    REQUIRE(l.l_onoff == 1);
    REQUIRE(l.l_linger == 7);

    REQUIRE(s.set_as(SO_RCVTIMEO, timeval{1, 1000000}) == -EDOM);
    REQUIRE(s.set_as(SO_RCVTIMEO, timeval{1, -1}) == -EDOM);
    REQUIRE(s.set_as(SO_RCVTIMEO, timeval{1, 1500}) == 0);
    timeval tv{};
    len = sizeof tv;
    REQUIRE(s.get_as(SO_RCVTIMEO, tv, len) == 0);
    REQUIRE(tv.tv_sec == 1);
    REQUIRE(tv.tv_usec >= 1500); // the next jiffy
    REQUIRE(tv.tv_usec <= 10000);
    REQUIRE(s.set_as(SO_RCVTIMEO, timeval{0, 0}) == 0);
    REQUIRE(sock_rcvtimeo(*socket_sk(*s.s), false) == MAX_SCHEDULE_TIMEOUT);
    REQUIRE(s.set_as(SO_SNDTIMEO, timeval{-1, 0}) == 0);
    REQUIRE(sock_sndtimeo(*socket_sk(*s.s), false) == 0);
}

TEST_CASE("SO_ERROR is taken", "[net]") {
    opened s;
    sk_error_report(*socket_sk(*s.s), ECONNREFUSED);
    REQUIRE(s.get(SO_ERROR) == ECONNREFUSED);
    REQUIRE(s.get(SO_ERROR) == 0);
}

TEST_CASE("timestamps: the four options share their flags as in Linux", "[net]") {
    opened s;
    REQUIRE(s.set(SO_TIMESTAMP, 1) == 0);
    REQUIRE(s.get(SO_TIMESTAMP) == 1);
    REQUIRE(s.get(SO_TIMESTAMPNS) == 0);
    REQUIRE(s.set(SO_TIMESTAMPNS, 1) == 0);
    REQUIRE(s.get(SO_TIMESTAMP) == 0);
    REQUIRE(s.get(SO_TIMESTAMPNS) == 1);
    REQUIRE(s.set(SO_TIMESTAMPNS, 0) == 0);
    REQUIRE(s.get(SO_TIMESTAMPNS) == 0);
    REQUIRE(s.set(SO_TIMESTAMPING, 1 << 30) == -EINVAL);
    REQUIRE(s.set(SO_TIMESTAMPING, 1 << 4) == 0);
    REQUIRE(s.get(SO_TIMESTAMPING) == 1 << 4);
}

TEST_CASE("binding to a device", "[net]") {
    opened s;
    REQUIRE(s.set_as(SO_BINDTODEVICE, "lo", 3) == 0);
    char name[16] = "xxxx";
    u32 len = sizeof name;
    REQUIRE(s.get_as(SO_BINDTODEVICE, name, len) == 0);
    REQUIRE(std::string(name) == "lo");
    REQUIRE(len == 3);
    len = 4;
    REQUIRE(s.get_as(SO_BINDTODEVICE, name, len) == -EINVAL);
    REQUIRE(s.get(SO_BINDTOIFINDEX) == 1);
    REQUIRE(s.set_as(SO_BINDTODEVICE, "nonesuch0", 10) == -ENODEV);
}

TEST_CASE("who is at the other end, and which socket this is", "[net]") {
    opened a, b;
    struct {
        int pid;
        unsigned uid, gid;
    } cred{1, 1, 1};
    u32 len = sizeof cred;
    REQUIRE(a.get_as(SO_PEERCRED, cred, len) == 0);
    REQUIRE(cred.pid == 0);
    REQUIRE(cred.uid == ~0u);
    u64 one = 0, two = 0;
    len = sizeof one;
    REQUIRE(a.get_as(SO_COOKIE, one, len) == 0);
    REQUIRE(b.get_as(SO_COOKIE, two, len) == 0);
    REQUIRE(one != two);
    len = 4;
    REQUIRE(a.get_as(SO_COOKIE, one, len) == -EINVAL);
    len = sizeof one;
    REQUIRE(a.get_as(SO_PEERNAME, one, len) == -ENOTCONN);
}
