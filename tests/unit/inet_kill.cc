// kill -9 at random moments of a process that binds, connects, listens and closes: what is left is whole,
// and the others go on.
#include "net_fixture.h"

#include <memory>

#include "core/inet/inet_connection_sock.h"
#include "core/net/skb_cell.h"

using namespace sockshim_test;

namespace {

// What the child does until it is killed: everything that touches the tables.
[[noreturn]] void churn(const handle<sock>& shared_listener, u16 shared_port) {
    std::vector<std::unique_ptr<test_sock>> held;
    sk_buff skb{};
    for (u32 i = 0;; ++i) {
        held.push_back(std::make_unique<test_sock>());
        test_sock& s = *held.back();
        switch (i % 4) {
        case 0: static_cast<void>(s.connect("127.0.0.1", shared_port)); break;
        case 1: static_cast<void>(s.bind("127.0.0.1", 0)); break;
        case 2:
            static_cast<void>(s.bind("127.0.0.1", 0));
            static_cast<void>(s.listen());
            break;
        default:
            // A connection made in the listener's name, as a client's thread does it.
            if (sock* listener = sk_lock_or_backlog(shared_listener, skb)) {
                sock& child = *s;
                inet_rcv_saddr(child) = inet_daddr(child) = addr("127.0.0.1");
                inet_dport(child) = static_cast<be16>(i);
                child.__sk_common.skc_state.store(TCP_ESTABLISHED);
                inet_bind_bucket_add(child, shared_port);
                if (inet_hash(child) == 0) inet_csk_reqsk_queue_add(*listener, child);
                release_sock(*listener);
            }
            break;
        }
        if (held.size() > 20) {
            // Children in the queue are the listener's; the rest is closed.
            for (auto& h : held) {
                if (inet_csk(**h).icsk_listener) h->h = {};
            }
            held.clear();
        }
    }
}

// What the reaper does for a dead process's socks, with nothing but the tables in play.
void bury(proc_id dead, const handle<sock>& keep) {
    sk_recover_locks(dead);
    for (u32 i = 0; i < cells_committed(REGION_SOCK); ++i) {
        const u64 w = cell_word_at(REGION_SOCK, i);
        if (cell_word::state(w) != CELL_LIVE || cell_word::owner(w) != dead) continue;
        sock& sk = *slab_at<sock>(i);
        if (inet_csk(sk).icsk_listener == keep) continue;
        test_prot.close(sk, 0);
    }
    forget_dead_children();
}

} // namespace

TEST_CASE("D5: the tables survive kills at random moments", "[inet][kill]") {
    test_sock listener;
    REQUIRE(listener.bind("127.0.0.1", 0) == 0);
    REQUIRE(listener.listen() == 0);
    const u16 port = inet_num(*listener);
    const u64 socks = arena_cells_in_use(REGION_SOCK);
    for (int round = 0; round < 150; ++round) {
        int name[2];
        REQUIRE(pipe(name) == 0);
        const pid_t pid = fork();
        REQUIRE(pid >= 0);
        if (pid == 0) {
            if (process_register() != 0) _exit(1);
            if (write(name[1], &self_proc, sizeof self_proc) < 0) _exit(1);
            churn(listener.h, port);
        }
        proc_id child = 0;
        REQUIRE(read(name[0], &child, sizeof child) == sizeof child);
        close(name[0]);
        close(name[1]);
        usleep(200 + get_random_u32() % 2000);
        kill(pid, SIGKILL);
        int status = 0;
        REQUIRE(waitpid(pid, &status, 0) == pid);
        REQUIRE(WIFSIGNALED(status));
        bury(child, listener.h);

        // Everything works: the queue gives its children in order of arrival, ...
        lock_sock(*listener);
        u32 taken = 0, last = 0;
        while (sock* c = inet_csk_reqsk_queue_remove(*listener)) {
            const u32 seq = inet_csk(*c).icsk_accept_seq;
            REQUIRE((taken == 0 || static_cast<i32>(seq - last) > 0));
            last = seq;
            ++taken;
            lock_sock(*c);
            release_sock(*c);
            test_prot.close(*c, 0);
        }
        REQUIRE(listener->sk_ack_backlog.load() == 0);
        release_sock(*listener);
        // ... the listener is found, connections can be made, bound ports are refused, free ones given.
        REQUIRE(inet_lookup_listener(0, 0, addr("127.0.0.1"), port) == listener.h);
        test_sock conn, bound, clash;
        REQUIRE(conn.connect("127.0.0.1", port) == 0);
        REQUIRE(inet_lookup_established(addr("127.0.0.1"), port, addr("127.0.0.1"), inet_num(*conn))
                    .sk == conn.h);
        REQUIRE(bound.bind("127.0.0.1", 0) == 0);
        REQUIRE(clash.bind("127.0.0.1", port) == -EADDRINUSE);
    }
    REQUIRE(arena_cells_in_use(REGION_SOCK) == socks);
}
