// libFuzzer: a program's socket calls with arbitrary arguments, through sockshim_socketcall and the file
// operations: addresses, message headers, iovecs, control messages, options of any level, name and
// length. Its pointers lead to the end of a page behind which nothing is, into nothing, or to where no
// program has memory. The calls are traced, so that the recorder reads the same pointers.
#include <arpa/inet.h>
#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <filesystem>
#include <linux/net.h>
#include <linux/sockios.h>
#include <netinet/udp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#include "core/inet/ip.h"
#include "core/inet/tcp_ipv4.h"
#include "core/net/net_rx.h"
#include "core/net/socket.h"
#include "core/sync/critical.h"
#include "core/trace/record.h"
#include "core/trace/trace.h"
#include "dispatch/fd_table.h"
#include "dispatch/syscalls.h"
#include "tests/fuzz/input.h"
#include "tests/fuzz/usage.h"
#include "tests/support/tcp_world.h"

using namespace sockshim;
using fuzz::check;

namespace {

// What preload/signal.cc does for a program: a copy that meets a bad pointer ends with EFAULT. All
// other faults are findings.
void on_fault(int sig, siginfo_t* info, void*) {
    const thread_state& t = this_thread;
    if (t.fault_jump && info->si_addr >= t.fault_lo && info->si_addr < t.fault_hi) {
        uaccess_fault_resume();
    }
    signal(sig, SIG_DFL); // the instruction faults again
}

// Memory of the program's: each thing that is put there ends where a page ends, and the next is missing.
class program_memory {
public:
    program_memory() {
        base_ = static_cast<u8*>(mmap(nullptr, slots * slot, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        check(base_ != MAP_FAILED);
        for (u32 i = 0; i < slots; i++) {
            check(mprotect(base_ + i * slot + room, slot - room, PROT_NONE) == 0);
        }
    }
    void clear() { used_ = 0; }
    u8* put(const void* data, std::size_t n) {
        check(used_ < slots && n <= room);
        u8* const at = base_ + used_++ * slot + room - n;
        if (n) std::memcpy(at, data, n);
        return at;
    }
    template <class T> T* put(const T& value) {
        return reinterpret_cast<T*>(put(&value, sizeof value));
    }
    u8* put(const std::string& s) { return put(s.data(), s.size()); }
    u8* missing() { return base_ + room; }

private:
    static constexpr std::size_t slot = 80 << 10, room = 72 << 10;
    static constexpr u32 slots = 128;
    u8* base_;
    u32 used_ = 0;
};

// TCP's time is the target's; its packets go through IP as ever.
struct clock_of_tcp {
    tcp_env env{};
    clock_of_tcp() {
        env.now_us = 1000000000;
        env.queue_xmit = [](tcp_env& e, const sk_buff& skb) {
            return e.sk ? ip_queue_xmit(e.sk, skb) : ip_send_skb(skb);
        };
        env.secure_isn = tcp_v4_secure_isn;
        tcp_env_of_test = &env;
    }
    void pass(u64 us) {
        const u64 end = env.now_us + us;
        for (u32 guard = 0; guard < 100000; guard++) {
            const u64 next = sockshim_test::next_tcp_timer();
            if (next > end) break;
            env.now_us = max_of(env.now_us, next);
            sockshim_test::fire_tcp_timers(env.now_us);
            net_rx_action();
        }
    }
};

class program {
public:
    program(fuzz::input& in, program_memory& memory, clock_of_tcp& clock)
        : in_(in), mem_(memory), clock_(clock) {
        for (u32 i = 0; i < 3; i++) open();
    }
    ~program() {
        for (const int fd : fds_) sys_close(fd);
        clock_.pass(u64{86400} * 1000000);
    }
    program(const program&) = delete;
    program& operator=(const program&) = delete;

    void step() {
        mem_.clear();
        const int fd = some();
        switch (in_.pick(17)) {
        case 0: open(); break;
        case 1: call(SYS_BIND, fd, address(), in_.of(address_lengths)); break;
        case 2: call(SYS_CONNECT, fd, address(), in_.of(address_lengths)); break;
        case 3: call(SYS_LISTEN, fd, in_.any<int>()); break;
        case 4:
            keep(call(SYS_ACCEPT4, fd, buffer(16), length(), in_.of<int>({0, SOCK_NONBLOCK, 7})));
            break;
        case 5:
            call(SYS_GETSOCKNAME + static_cast<int>(in_.pick(2)), fd, buffer(16), length());
            break;
        case 6:
            call(SYS_SENDTO, fd, buffer(in_.any<u16>()), size(), flags(), address(),
                 in_.of(address_lengths));
            break;
        case 7:
            call(SYS_RECVFROM, fd, buffer(in_.any<u16>()), size(), flags(), buffer(16), length());
            break;
        case 8: call(in_.of({SYS_SENDMSG, SYS_RECVMSG}), fd, pointer(message()), flags()); break;
        case 9: many(fd); break;
        case 10: call(SYS_SHUTDOWN, fd, in_.of({0, 1, 2, in_.any<int>()})); break;
        case 11:
        case 12: option(fd, true); break;
        case 13: option(fd, false); break;
        case 14: file_operation(fd); break;
        case 15: clock_.pass(in_.any<u32>() >> 8); break;
        default: duplicate_or_close(); break;
        }
    }

private:
    static constexpr int address_lengths[] = {16, 16, 16, 16, 16, 8, 0, 128, 129, -1};

    template <class... Words> long call(int nr, Words... words) {
        unsigned long args[] = {word(words)...};
        const long r = sockshim_socketcall(nr, args);
        check(r >= -4096);
        return r;
    }
    template <class T> static unsigned long word(T v) {
        if constexpr (std::is_pointer_v<T>) {
            return reinterpret_cast<unsigned long>(v);
        } else {
            return static_cast<unsigned long>(static_cast<long>(v));
        }
    }

    void keep(long fd) {
        if (fd >= 0) fds_.push_back(static_cast<int>(fd));
    }
    void open() {
        if (fds_.size() >= 12) return;
        const int type =
            in_.of<int>({SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_DGRAM, in_.any<int>()});
        const int protocol =
            in_.of<int>({0, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP, int{in_.byte()}});
        keep(call(SYS_SOCKET, AF_INET, type, protocol));
    }
    // A socket that does not block, or a number that is none.
    int some() {
        if (fds_.empty()) return in_.any<int>();
        const int fd = fds_[in_.pick(static_cast<u32>(fds_.size()))];
        const u32 entry = fd_table[fd].load();
        if (fd_entry_kind(entry) == FD_SOCKET) {
            slab_at<sockshim::socket>(fd_entry_index(entry))->flags.fetch_or(SOCKF_NONBLOCK);
        }
        return fd;
    }

    // Mostly what was meant.
    template <class T> T* pointer(T* meant) {
        switch (in_.pick(32)) {
        case 1: return nullptr;
        case 2: return reinterpret_cast<T*>(mem_.missing());
        case 3: return reinterpret_cast<T*>(~u64{0} << 20);
        default: return meant;
        }
    }
    u8* buffer(std::size_t n) { return pointer(mem_.put(in_.bytes(n))); }
    std::size_t size() {
        return in_.of(
            {std::size_t{in_.any<u16>()}, std::size_t{in_.byte()}, in_.any<std::size_t>()});
    }
    int flags() {
        return in_.of<int>({0, 0, MSG_PEEK, MSG_OOB, MSG_TRUNC, MSG_ERRQUEUE, MSG_MORE, MSG_WAITALL,
                            in_.any<int>()});
    }
    u8* length() {
        const int n = in_.of({16, 128, 0, 4, -1, in_.any<int>()});
        return pointer(mem_.put(&n, sizeof n));
    }
    sockaddr_in name() {
        sockaddr_in a{};
        a.sin_family = in_.of({sa_family_t{AF_INET}, sa_family_t{AF_INET}, sa_family_t{AF_INET},
                               sa_family_t{AF_UNSPEC}, in_.any<sa_family_t>()});
        a.sin_port = htons(static_cast<u16>(4000 + in_.pick(4)));
        a.sin_addr.s_addr =
            htonl(in_.of({u32{INADDR_LOOPBACK}, u32{INADDR_LOOPBACK}, u32{INADDR_ANY},
                          u32{INADDR_BROADCAST}, 0xe0000001u, 0x7fffffffu, in_.any<u32>()}));
        return a;
    }
    u8* address() {
        std::string a = in_.bytes(128);
        const sockaddr_in in = name();
        std::memcpy(a.data(), &in, sizeof in);
        return pointer(mem_.put(a.data(), in_.one_in(8) ? a.size() : sizeof in));
    }

    // Control messages, well formed but for what is not.
    std::string control() {
        std::string out;
        for (u32 n = in_.pick(4); n; n--) {
            const u32 len = in_.of({4u, 4u, 12u, 8u, 1u, 0u, in_.pick(64)});
            cmsghdr h{};
            h.cmsg_len = in_.one_in(8) ? in_.any<std::size_t>() : CMSG_LEN(len);
            h.cmsg_level = in_.of({SOL_SOCKET, SOL_IP, SOL_UDP, SOL_TCP, in_.any<int>()});
            h.cmsg_type = in_.of({int{in_.byte()}, in_.any<int>()});
            out.append(reinterpret_cast<const char*>(&h), sizeof h);
            out += in_.bytes(CMSG_ALIGN(len));
        }
        out.resize(out.size() - (in_.one_in(8) ? out.size() / 2 & ~std::size_t{7} : 0));
        return out;
    }
    msghdr header() {
        msghdr h{};
        if (in_.pick(2)) {
            h.msg_name = address();
            h.msg_namelen = static_cast<socklen_t>(in_.of(address_lengths));
        }
        std::vector<iovec> parts(in_.pick(4));
        for (iovec& part : parts) part = {buffer(in_.byte()), in_.one_in(8) ? size() : in_.byte()};
        h.msg_iov =
            reinterpret_cast<iovec*>(pointer(mem_.put(parts.data(), parts.size() * sizeof(iovec))));
        h.msg_iovlen = in_.one_in(16) ? in_.any<u16>() : parts.size();
        const std::string c = control();
        h.msg_control = pointer(mem_.put(c));
        h.msg_controllen = in_.one_in(8) ? size() : c.size();
        return h;
    }
    msghdr* message() { return mem_.put(header()); }
    void many(int fd) {
        mmsghdr several[3] = {};
        for (mmsghdr& m : several) m.msg_hdr = header();
        mmsghdr* const at = reinterpret_cast<mmsghdr*>(mem_.put(several, sizeof several));
        const unsigned n = in_.of({3u, 2u, 4u, in_.any<u32>()});
        if (in_.pick(2)) {
            call(SYS_SENDMMSG, fd, pointer(at), n, flags());
        } else {
            const timespec timeout{in_.of({time_t{0}, in_.any<time_t>()}), in_.any<int>()};
            call(SYS_RECVMMSG, fd, pointer(at), n, flags(), pointer(mem_.put(timeout)));
        }
    }

    void option(int fd, bool set) {
        const int level = in_.of({SOL_SOCKET, SOL_IP, SOL_TCP, SOL_UDP, SOL_RAW, in_.any<int>()});
        const int optname = in_.one_in(8) ? in_.any<int>() : static_cast<int>(in_.pick(128));
        const u32 n = in_.of({4u, 4u, 4u, 1u, 8u, 12u, 16u, 40u, u32{in_.byte()}});
        std::string value = in_.bytes(n);
        if (n == 4 && in_.pick(2))
            value = std::string(1, static_cast<char>(in_.pick(4))) + std::string(3, '\0');
        u8* const at = pointer(mem_.put(value));
        const int len = in_.one_in(8) ? in_.any<int>() : static_cast<int>(n);
        if (set) {
            call(SYS_SETSOCKOPT, fd, level, optname, at, len);
        } else {
            call(SYS_GETSOCKOPT, fd, level, optname, at, pointer(mem_.put(len)));
        }
    }

    void file_operation(int fd) {
        // Nothing that is set in the kernel, and no owner: SIGURG would go to a stranger.
        static constexpr unsigned long requests[] = {
            FIONREAD,       FIONBIO,     SIOCATMARK, SIOCOUTQ,    SIOCOUTQNSD,
            SIOCGSTAMP_OLD, SIOCGIFCONF, SIOCINQ,    SIOCGIFNAME, FIOGETOWN};
        std::vector<iovec> parts(in_.pick(4));
        for (iovec& part : parts) part = {buffer(in_.byte()), in_.byte()};
        auto* const iov =
            reinterpret_cast<iovec*>(pointer(mem_.put(parts.data(), parts.size() * sizeof(iovec))));
        const int n = in_.one_in(8) ? in_.any<int>() : static_cast<int>(parts.size());
        switch (in_.pick(6)) {
        case 0: sys_readv(fd, iov, n); break;
        case 1: sys_writev(fd, iov, n); break;
        case 2: sys_read(fd, buffer(64), size()); break;
        case 3: sys_write(fd, buffer(64), size()); break;
        case 4: sys_ioctl(fd, in_.of(requests), word(buffer(40))); break;
        default: {
            const timespec now{0, 0};
            pollfd p[2] = {{fd, in_.any<short>(), 0}, {some(), in_.any<short>(), 0}};
            auto* const at = reinterpret_cast<pollfd*>(mem_.put(p, sizeof p));
            sys_poll(pointer(at), in_.of({2u, 1u, 0u, 3u}), &now, nullptr);
        }
        }
    }
    void duplicate_or_close() {
        if (fds_.empty()) return;
        const u32 i = in_.pick(static_cast<u32>(fds_.size()));
        if (in_.pick(2)) {
            if (fds_.size() < 12) keep(sys_dup(fds_[i]));
        } else {
            sys_close(fds_[i]);
            fds_.erase(fds_.begin() + i);
        }
    }

    fuzz::input& in_;
    program_memory& mem_;
    clock_of_tcp& clock_;
    std::vector<int> fds_;
};

// An arena of our own, a directory for the carriers, a trace that nobody reads.
void set_up() {
    struct sigaction sa {};
    sa.sa_sigaction = on_fault;
    sa.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &sa, nullptr);
    sigaction(SIGBUS, &sa, nullptr);
    signal(SIGPIPE, SIG_IGN);
    check(arena_attach_private() == 0);
    fd_table_init();
    const char* tmp = getenv("TMPDIR");
    static std::string path = std::string(tmp ? tmp : "/tmp") + "/sockshim-fuzz-XXXXXX";
    check(mkdtemp(path.data()));
    atexit([] { std::filesystem::remove_all(path); });
    arena_use_own_directory(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    current_exiting = true; // nobody waits out SO_LINGER
    trace::start_recording("/dev/null", 64);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const u8* data, std::size_t n) {
    static const bool ready = (set_up(), true);
    static program_memory memory;
    static clock_of_tcp clock;
    static const fuzz::arena_usage before = fuzz::usage_now();
    check(ready);
    fuzz::input in(data, n);
    {
        program p(in, memory, clock);
        for (u32 steps = 0; !in.empty() && steps < 300; steps++) p.step();
    }
    trace_dump("exit");
    check(fuzz::nothing_lost(before));
    return 0;
}
