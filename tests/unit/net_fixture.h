// Socks for the tests of core/net and core/inet: a connection-oriented protocol with nothing in it but the
// tables of core/inet, so that they are tested without TCP.
#pragma once
#include <catch2/catch.hpp>

#include <arpa/inet.h>
#include <csignal>
#include <cstring>
#include <netinet/tcp.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include "core/arena/arena.h"
#include "core/arena/owner.h"
#include "core/inet/inet_hashtables.h"
#include "core/net/proto.h"

namespace sockshim_test {

using namespace sockshim;

// Packets that the protocol below was given, in order: the destination port of each.
extern std::vector<u16> received;
extern const proto test_prot;

inline be32 addr(const char* text) { return inet_addr(text); }

// A published sock of test_prot, bound to nothing; freed at the end of the scope.
class test_sock {
public:
    test_sock();
    ~test_sock();
    test_sock(test_sock&& o) noexcept : h(o.h) { o.h = {}; }
    test_sock(const test_sock&) = delete;
    test_sock& operator=(const test_sock&) = delete;
    sock& operator*() const { return *slab_get(h); }
    sock* operator->() const { return slab_get(h); }
    // As inet_bind does it. 0 or -errno.
    int bind(const char* where, u16 port);
    int listen();
    int connect(const char* to, u16 port);

    handle<sock> h;
};

// Runs `body` in a child that joins the arena under its own name and then dies by SIGKILL; its name.
template <class Body> proc_id in_killed_child(Body body) {
    int name[2];
    REQUIRE(pipe(name) == 0);
    const pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        if (process_register() == 0) {
            if (write(name[1], &self_proc, sizeof self_proc) < 0) _exit(1);
            body();
        }
        kill(getpid(), SIGKILL);
    }
    proc_id id = 0;
    REQUIRE(read(name[0], &id, sizeof id) == sizeof id);
    int status = 0;
    REQUIRE(waitpid(pid, &status, 0) == pid);
    REQUIRE(WIFSIGNALED(status));
    close(name[0]);
    close(name[1]);
    return id;
}

// Returns the dead children's slots.
inline void forget_dead_children() {
    while (const proc_id id = process_claim_dead()) {
        cells_free_claimed_by(id);
        process_reaped(id);
    }
}

} // namespace sockshim_test
