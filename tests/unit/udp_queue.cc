// The datagram queue (core/inet/udp_queue.h): order, laps, writers that die, the account.
#include <catch2/catch.hpp>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <map>
#include <string>
#include <sys/mman.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "core/arena/arena.h"
#include "core/arena/owner.h"
#include "core/inet/udp.h"

using namespace sockshim;

namespace {

// A sock that is only a queue.
struct queue_fixture {
    sock* sk;
    dgram_queue* q;

    queue_fixture() {
        REQUIRE(arena_attach_private() == 0);
        sk = sk_alloc(AF_INET, udp_prot);
        REQUIRE(sk);
        sock_init_data(nullptr, *sk);
        sk_publish(*sk);
        q = &dgram_sk(*sk).rx;
    }
    ~queue_fixture() {
        dgram_queue_close(*q);
        sk_free(*sk);
    }
    bool prepare() { return dgram_prepare(*sk, *q); }
    dgram_result send(const void* data, std::size_t n, u16 sport = 1) {
        iovec iov{const_cast<void*>(data), n};
        iov_iter it{&iov, 1, 0, n};
        dgram_source s{};
        s.user = &it;
        s.user_len = static_cast<u32>(n);
        const dgram_meta meta{1, 2, sport, 9, 64, 0, 1, 0};
        return dgram_enqueue(*sk, *q, meta, s);
    }
    dgram_result send(const std::string& s) { return send(s.data(), s.size()); }
    int read(std::string& out, std::size_t room = 70000, bool peek = false, i32 peek_off = -1) {
        out.assign(room, '?');
        iovec iov{out.data(), room};
        iov_iter it{&iov, 1, 0, room};
        dgram_taken taken{};
        const int err = dgram_dequeue(*q, it, peek, peek_off, taken);
        out.resize(err ? 0 : taken.copied);
        last = taken;
        return err;
    }
    dgram_taken last{};
};

// A process that has been and gone.
proc_id dead_process() {
    auto* shared = static_cast<proc_id*>(
        mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    REQUIRE(shared != MAP_FAILED);
    const pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        if (process_register() == 0) *shared = self_proc;
        kill(getpid(), SIGKILL);
    }
    int status = 0;
    REQUIRE(waitpid(pid, &status, 0) == pid);
    const proc_id id = *shared;
    munmap(shared, 4096);
    REQUIRE(id);
    return id;
}

} // namespace

TEST_CASE_METHOD(queue_fixture, "udp queue: no ring until the first datagram", "[udp]") {
    std::string got;
    CHECK(read(got) == -EAGAIN);
    CHECK(send("x") == dgram_result::noring);
    CHECK_FALSE(dgram_readable(*q));
    CHECK(dgram_first_len(*q) == -1);
    REQUIRE(prepare());
    CHECK(send("x") == dgram_result::queued);
    CHECK(dgram_readable(*q));
    CHECK(dgram_first_len(*q) == 1);
    CHECK(read(got) == 0);
    CHECK(got == "x");
    CHECK(last.meta.sport == 1);
    CHECK(last.meta.saddr == 1);
    CHECK(read(got) == -EAGAIN);
}

TEST_CASE_METHOD(queue_fixture, "udp queue: order and content over many laps", "[udp]") {
    REQUIRE(prepare());
    const u64 before = arena_bytes_in_use();
    std::string got;
    u32 written = 0, taken = 0;
    for (u32 round = 0; round < 3000; ++round) {
        const u32 n = round % 7 + 1;
        for (u32 i = 0; i < n; ++i) {
            const std::string s = std::to_string(written) + std::string(written * 37 % 300, 'p');
            REQUIRE(send(s) == dgram_result::queued);
            ++written;
        }
        for (u32 i = 0; i < n; ++i) {
            REQUIRE(read(got) == 0);
            REQUIRE(got == std::to_string(taken) + std::string(taken * 37 % 300, 'p'));
            ++taken;
        }
    }
    CHECK(dgram_charged(*q) == 0);
    CHECK(arena_bytes_in_use() == before);
}

TEST_CASE_METHOD(queue_fixture, "udp queue: every length up to the inline limit, and big ones",
                 "[udp]") {
    REQUIRE(prepare());
    std::string got;
    for (std::size_t n : {0, 1, 79, 80, 81, 1023, 1024, 1025, 4096, 4097, 16385, 65507}) {
        std::string s(n, '\0');
        for (std::size_t i = 0; i < n; ++i) s[i] = static_cast<char>(i * 7 + n);
        REQUIRE(send(s) == dgram_result::queued);
        CHECK(dgram_first_len(*q) == static_cast<i64>(n));
        REQUIRE(read(got) == 0);
        CHECK(got == s);
        CHECK(last.len == n);
        // Too little room: the rest is lost, the length is told.
        REQUIRE(send(s) == dgram_result::queued);
        REQUIRE(read(got, n / 2) == 0);
        CHECK(got == s.substr(0, n / 2));
        CHECK(last.len == n);
        CHECK(read(got) == -EAGAIN);
    }
}

TEST_CASE_METHOD(queue_fixture, "udp queue: charges as Linux does, drops when full", "[udp]") {
    REQUIRE(prepare());
    sk->sk_rcvbuf = 4608;
    u32 n = 0;
    while (send("12345678") == dgram_result::queued) ++n;
    CHECK(n == 4608 / 832);
    CHECK(dgram_charged(*q) == n * 832);
    CHECK(sk->sk_drops.load() == 1);
    std::string got;
    REQUIRE(read(got) == 0);
    CHECK(send("again") == dgram_result::queued);
    CHECK(send("again") == dgram_result::full);
    while (read(got) == 0) {
    }
    CHECK(dgram_charged(*q) == 0);
    // An empty queue takes one of any size.
    CHECK(send(std::string(60000, 'x')) == dgram_result::queued);
    CHECK(send("x") == dgram_result::full);
}

TEST_CASE_METHOD(queue_fixture, "udp queue: slots run out before a huge buffer does", "[udp]") {
    REQUIRE(prepare()); // 512 slots, for the default buffer
    sk->sk_rcvbuf = 100 << 20;
    u32 n = 0;
    while (send("x") == dgram_result::queued) ++n;
    CHECK(n == 512);
    std::string got;
    for (u32 i = 0; i < n; ++i) REQUIRE(read(got) == 0);
    CHECK(read(got) == -EAGAIN);
    CHECK(send("x") == dgram_result::queued);
}

TEST_CASE_METHOD(queue_fixture, "udp queue: peeking, with and without an offset", "[udp]") {
    REQUIRE(prepare());
    send("abcd");
    send("");
    send("efgh");
    std::string got;
    REQUIRE(read(got, 10, true) == 0);
    CHECK(got == "abcd");
    REQUIRE(read(got, 10, true, 0) == 0);
    CHECK(got == "abcd");
    REQUIRE(read(got, 10, true, 2) == 0);
    CHECK(got == "cd");
    REQUIRE(read(got, 10, true, 4) == 0); // the empty one, once
    CHECK(got.empty());
    REQUIRE(read(got, 10, true, 4) == 0);
    CHECK(got == "efgh");
    CHECK(read(got, 10, true, 8) == -EAGAIN);
    REQUIRE(read(got, 10) == 0);
    CHECK(got == "abcd");
    REQUIRE(read(got, 10) == 0);
    CHECK(got.empty());
    REQUIRE(read(got, 10) == 0);
    CHECK(got == "efgh");
}

TEST_CASE_METHOD(queue_fixture, "udp queue: a dead writer's slot holds nobody up", "[udp]") {
    REQUIRE(prepare());
    const proc_id dead = dead_process();
    std::string got;
    SECTION("one, at the head") {
        send("a");
        REQUIRE(dgram_test_claim(*sk, *q, dead));
        send("b");
        REQUIRE(read(got) == 0);
        CHECK(got == "a");
        CHECK(dgram_readable(*q));
        REQUIRE(read(got) == 0);
        CHECK(got == "b");
        CHECK_FALSE(dgram_readable(*q));
    }
    SECTION("so many that nothing fits any more, and no reader comes by") {
        const u32 most = SK_RMEM_DEFAULT / 832;
        for (u32 i = 0; i < most; ++i) REQUIRE(dgram_test_claim(*sk, *q, dead));
        CHECK(dgram_charged(*q) + 832 > static_cast<u32>(SK_RMEM_DEFAULT));
        // The writer that finds it full buries them.
        CHECK(send("alive") == dgram_result::queued);
        REQUIRE(read(got) == 0);
        CHECK(got == "alive");
        CHECK(dgram_charged(*q) == 0);
    }
    SECTION("traffic goes on past it, lap after lap, and its charge comes back") {
        for (int i = 0; i < 40; ++i) REQUIRE(dgram_test_claim(*sk, *q, dead));
        for (int i = 0; i < 5000; ++i) {
            REQUIRE(send(std::to_string(i)) == dgram_result::queued);
            REQUIRE(read(got) == 0);
            REQUIRE(got == std::to_string(i));
        }
        CHECK(dgram_charged(*q) == 0);
    }
    SECTION("closing frees the ring all the same") {
        const u64 with_ring = arena_bytes_in_use();
        REQUIRE(dgram_test_claim(*sk, *q, dead));
        CHECK(dgram_queue_close(*q));
        CHECK(arena_bytes_in_use() == with_ring - 65536);
    }
}

TEST_CASE_METHOD(queue_fixture, "udp queue: a slow writer is passed, and keeps the ring alive",
                 "[udp]") {
    REQUIRE(prepare());
    std::string got;
    REQUIRE(dgram_test_claim(*sk, *q, self_proc));
    for (int i = 0; i < 100; ++i) {
        REQUIRE(send("past") == dgram_result::queued);
        REQUIRE(read(got) == 0);
        CHECK(got == "past");
    }
    CHECK_FALSE(dgram_queue_close(*q)); // it may still write there
    CHECK(send("late") == dgram_result::closed);
}

TEST_CASE_METHOD(queue_fixture, "udp queue: killed writers, at any moment", "[udp]") {
    REQUIRE(prepare());
    const u64 before = arena_bytes_in_use();
    std::string got;
    for (int round = 0; round < 40; ++round) {
        const pid_t pid = fork();
        REQUIRE(pid >= 0);
        if (pid == 0) {
            if (process_register()) _exit(1);
            const std::string small(40, 's'), big(3000, 'b');
            for (u32 i = 0;; ++i) static_cast<void>(send(i & 1 ? small : big));
        }
        u32 seen = 0;
        while (seen < 200) {
            if (read(got) != 0) continue;
            REQUIRE((got == std::string(40, 's') || got == std::string(3000, 'b')));
            ++seen;
        }
        kill(pid, SIGKILL);
        int status = 0;
        REQUIRE(waitpid(pid, &status, 0) == pid);
        REQUIRE(WIFSIGNALED(status));
        while (const proc_id id = process_claim_dead()) {
            cells_free_claimed_by(id);
            process_reaped(id);
        }
        while (read(got) == 0) {
        }
    }
    // Whatever the dead left in the way goes as traffic passes.
    for (int i = 0; i < 2000; ++i) {
        REQUIRE(send("x") == dgram_result::queued);
        REQUIRE(read(got) == 0);
    }
    CHECK(dgram_charged(*q) == 0);
    CHECK(arena_bytes_in_use() == before);
}

TEST_CASE_METHOD(queue_fixture, "udp queue: many writers, two readers, nothing twice, nothing torn",
                 "[udp]") {
    REQUIRE(prepare());
    constexpr u32 writers = 4, each = 20000;
    std::atomic<u64> dropped{0};
    std::atomic<u32> running{writers};
    std::vector<std::thread> threads;
    for (u32 w = 0; w < writers; ++w) {
        threads.emplace_back([&, w] {
            std::vector<u32> buffer(400);
            for (u32 i = 0; i < each; ++i) {
                const u32 words = i % 50 == 0 ? 400 : 4;
                for (u32 k = 0; k < words; ++k) buffer[k] = w << 24 | i;
                for (;;) {
                    const dgram_result r = send(buffer.data(), words * 4, static_cast<u16>(w));
                    if (r == dgram_result::queued) break;
                    if (r != dgram_result::full) abort();
                    dropped.fetch_add(1);
                    std::this_thread::yield();
                }
            }
            running.fetch_sub(1);
        });
    }
    std::vector<std::vector<u32>> got(2);
    std::atomic<bool> torn{false};
    std::vector<std::thread> readers;
    for (u32 r = 0; r < 2; ++r) {
        readers.emplace_back([&, r] {
            std::vector<u32> buffer(400);
            for (;;) {
                const bool over = running.load() == 0;
                iovec iov{buffer.data(), buffer.size() * 4};
                iov_iter it{&iov, 1, 0, iov.iov_len};
                dgram_taken taken{};
                if (dgram_dequeue(*q, it, false, -1, taken)) {
                    if (over) return;
                    std::this_thread::yield();
                    continue;
                }
                for (u32 k = 1; k < taken.len / 4; ++k) {
                    if (buffer[k] != buffer[0]) torn = true;
                }
                if (buffer[0] >> 24 != taken.meta.sport) torn = true;
                got[r].push_back(buffer[0]);
            }
        });
    }
    for (auto& t : threads) t.join();
    for (auto& t : readers) t.join();
    CHECK_FALSE(torn);
    std::vector<u32> count(writers * each);
    for (const auto& one : got) {
        std::vector<u32> last_of(writers, 0);
        for (u32 v : one) {
            const u32 w = v >> 24, i = v & 0xffffff;
            REQUIRE(w < writers);
            REQUIRE(i < each);
            ++count[w * each + i];
            // What one reader gets from one writer comes in the writer's order.
            REQUIRE((i == 0 || i > last_of[w] || last_of[w] == 0));
            last_of[w] = i;
        }
    }
    for (u32 c : count) REQUIRE(c == 1);
    CHECK(dgram_charged(*q) == 0);
}

TEST_CASE("udp queue: close gives everything back and stops writers", "[udp]") {
    REQUIRE(arena_attach_private() == 0);
    const u64 before = arena_bytes_in_use();
    {
        queue_fixture f;
        REQUIRE(f.prepare());
        for (int i = 0; i < 20; ++i) f.send(std::string(5000, 'x'));
        f.send("small");
        CHECK(dgram_queue_close(*f.q));
        CHECK(f.send("late") == dgram_result::noring);
        CHECK_FALSE(f.prepare());
    }
    CHECK(arena_bytes_in_use() == before);
}
