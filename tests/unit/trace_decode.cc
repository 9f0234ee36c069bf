// What a recorded call looks like (core/trace/decode_*.cc): as strace would write it.
#include <catch2/catch.hpp>

#include <arpa/inet.h>
#include <cstring>
#include <fcntl.h>
#include <initializer_list>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <string>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "core/trace/record.h"
#include "core/trace/text.h"

using namespace sockshim;
using namespace sockshim::trace;

namespace {

unsigned long word(const void* p) { return reinterpret_cast<unsigned long>(p); }
unsigned long word(long v) { return static_cast<unsigned long>(v); }

struct traced {
    record r{};

    traced(u32 nr, std::initializer_list<unsigned long> args) {
        r.nr = static_cast<u16>(nr);
        r.nargs = static_cast<u8>(args.size());
        std::size_t i = 0;
        for (unsigned long a : args) r.a[i++] = a;
        r.state = REC_OPEN;
        capture_begin(r);
    }
    traced& ends(long result) {
        r.result = result;
        r.duration = 123456;
        capture_end(r);
        r.state = REC_DONE;
        return *this;
    }
    std::string lines() const {
        static char bytes[block_size];
        text t(bytes);
        decode_record(t, r);
        return std::string(bytes, t.used);
    }
    // Without time, thread and way.
    std::string call() const {
        std::string s = lines();
        s.erase(0, s.find("] ") + 2);
        return s.substr(0, s.find('\n'));
    }
    std::string way() const {
        std::string s = lines();
        s.erase(0, s.find('\n') + 1);
        return s;
    }
};

std::string finished(u32 nr, std::initializer_list<unsigned long> args, long result) {
    std::string s = traced(nr, args).ends(result).call();
    const std::string tail = " <0.000123>";
    REQUIRE(s.size() > tail.size());
    REQUIRE(s.substr(s.size() - tail.size()) == tail);
    return s.substr(0, s.size() - tail.size());
}

sockaddr_in inet(const char* address, u16 port) {
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_port = htons(port);
    a.sin_addr.s_addr = inet_addr(address);
    return a;
}

} // namespace

TEST_CASE("trace: socket, listen and errors") {
    CHECK(finished(1, {AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0}, 3) ==
          "socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC, IPPROTO_IP) = 3");
    CHECK(finished(1, {AF_UNIX, SOCK_DGRAM, 0}, 4) == "socket(AF_UNIX, SOCK_DGRAM, 0) = 4");
    CHECK(finished(1, {99, 2, 0}, -EAFNOSUPPORT) ==
          "socket(0x63 /* AF_??? */, SOCK_DGRAM, 0) = -1 EAFNOSUPPORT (Address family not "
          "supported by protocol)");
    CHECK(finished(4, {3, 128}, 0) == "listen(3, 128) = 0");
    CHECK(finished(13, {3, SHUT_WR}, -ENOTCONN) ==
          "shutdown(3, SHUT_WR) = -1 ENOTCONN (Transport endpoint is not connected)");
    int pair[2] = {5, 6};
    CHECK(finished(8, {AF_UNIX, SOCK_STREAM, 0, word(pair)}, 0) ==
          "socketpair(AF_UNIX, SOCK_STREAM, 0, [5, 6]) = 0");
}

TEST_CASE("trace: addresses in and out") {
    sockaddr_in a = inet("127.0.0.1", 8000);
    CHECK(finished(3, {3, word(&a), sizeof a}, -ECONNREFUSED) ==
          "connect(3, {sa_family=AF_INET, sin_port=htons(8000), sin_addr=inet_addr(\"127.0.0.1\")},"
          " 16) = -1 ECONNREFUSED (Connection refused)");
    CHECK(finished(2, {3, 0, 16}, -EFAULT) == "bind(3, NULL, 16) = -1 EFAULT (Bad address)");
    CHECK(finished(2, {3, word(&a), 1}, -EINVAL) ==
          "bind(3, \"\\2\", 1) = -1 EINVAL (Invalid argument)");

    sockaddr_un u{};
    u.sun_family = AF_UNIX;
    std::strcpy(u.sun_path, "/tmp/x");
    CHECK(finished(3, {3, word(&u), sizeof u}, 0) ==
          "connect(3, {sa_family=AF_UNIX, sun_path=\"/tmp/x\"}, 110) = 0");
    std::memcpy(u.sun_path, "\0abs", 4);
    CHECK(finished(3, {3, word(&u), 6}, 0) ==
          "connect(3, {sa_family=AF_UNIX, sun_path=@\"abs\"}, 6) = 0");

    sockaddr_in6 six{};
    six.sin6_family = AF_INET6;
    six.sin6_port = htons(80);
    for (const char* s : {"::1", "::", "fe80::1:0:0:3", "1:0:0:4::", "1:2:3:4:5:6:7:8",
                          "::ffff:1.2.3.4", "2001:db8::ab:0:cd"}) {
        inet_pton(AF_INET6, s, &six.sin6_addr);
        CHECK(finished(3, {3, word(&six), sizeof six}, 0) ==
              std::string("connect(3, {sa_family=AF_INET6, sin6_port=htons(80), sin6_flowinfo="
                          "htonl(0), inet_pton(AF_INET6, \"") +
                  s + "\", &sin6_addr), sin6_scope_id=0}, 28) = 0");
    }

    // accept: the length is what the program made room for, then what came.
    sockaddr_storage from{};
    socklen_t len = sizeof from;
    traced t(5, {3, word(&from), word(&len)});
    CHECK(t.call() == "accept(3, <unfinished ...>) = ?");
    std::memcpy(&from, &a, sizeof a);
    len = sizeof a;
    CHECK(t.ends(4).call() == "accept(3, {sa_family=AF_INET, sin_port=htons(8000), "
                              "sin_addr=inet_addr(\"127.0.0.1\")}, [128 => 16]) = 4 <0.000123>");
}

TEST_CASE("trace: data is shown as a C string of at most 32 bytes") {
    const char text[] = "GET / HTTP/1.1\r\nHost: localhost:8000\r\n";
    CHECK(finished(9, {3, word(text), sizeof text - 1, MSG_NOSIGNAL}, 38) ==
          "send(3, \"GET / HTTP/1.1\\r\\nHost: localhost:\"..., 38, MSG_NOSIGNAL) = 38");
    const char odd[] = "a\"\\\0001\1\377";
    CHECK(finished(TRACE_WRITE, {3, word(odd), 7}, 7) ==
          "write(3, \"a\\\"\\\\\\0001\\1\\377\", 7) = 7");
    // Input is what it was at the time of the call.
    char changing[] = "before";
    traced t(9, {3, word(changing), 6, 0});
    std::strcpy(changing, "after!");
    CHECK(t.ends(6).call() == "send(3, \"before\", 6, 0) = 6 <0.000123>");
    // Output is what came, not the buffer.
    char buffer[100] = "xxxxxxxxxx";
    traced in(10, {3, word(buffer), sizeof buffer, MSG_PEEK | MSG_DONTWAIT});
    std::memcpy(buffer, "hello", 5);
    CHECK(in.ends(5).call() == "recv(3, \"hello\", 100, MSG_PEEK|MSG_DONTWAIT) = 5 <0.000123>");
    CHECK(in.r.bytes == 5);
    CHECK(finished(10, {3, word(buffer), 100, 0}, 0) == "recv(3, \"\", 100, 0) = 0");
    const std::string again = finished(10, {3, word(buffer), 100, 0}, -EAGAIN);
    CHECK(again.find("recv(3, 0x") == 0);
    CHECK(again.find(", 100, 0) = -1 EAGAIN (Resource temporarily unavailable)") !=
          std::string::npos);
    // MSG_TRUNC gives more than there was room for.
    CHECK(finished(10, {3, word(buffer), 2, MSG_TRUNC}, 50) ==
          "recv(3, \"he\"..., 2, MSG_TRUNC) = 50");
}

TEST_CASE("trace: socket options by name and shape") {
    int one = 1;
    CHECK(finished(14, {3, SOL_SOCKET, SO_REUSEADDR, word(&one), 4}, 0) ==
          "setsockopt(3, SOL_SOCKET, SO_REUSEADDR, [1], 4) = 0");
    linger lin{1, 5};
    CHECK(finished(14, {3, SOL_SOCKET, SO_LINGER, word(&lin), sizeof lin}, 0) ==
          "setsockopt(3, SOL_SOCKET, SO_LINGER, {l_onoff=1, l_linger=5}, 8) = 0");
    timeval tv{2, 7};
    CHECK(finished(14, {3, SOL_SOCKET, SO_RCVTIMEO, word(&tv), sizeof tv}, 0) ==
          "setsockopt(3, SOL_SOCKET, SO_RCVTIMEO, {tv_sec=2, tv_usec=7}, 16) = 0");
    CHECK(finished(14, {3, SOL_TCP, TCP_CONGESTION, word("reno"), 4}, 0) ==
          "setsockopt(3, SOL_TCP, TCP_CONGESTION, \"reno\", 4) = 0");
    CHECK(finished(14, {3, SOL_SOCKET, 999, word(&one), 4}, -ENOPROTOOPT) ==
          "setsockopt(3, SOL_SOCKET, 0x3e7 /* SO_??? */, [1], 4) = -1 ENOPROTOOPT (Protocol not "
          "available)");
    int error = ECONNREFUSED;
    socklen_t len = 4;
    CHECK(finished(15, {3, SOL_SOCKET, SO_ERROR, word(&error), word(&len)}, 0) ==
          "getsockopt(3, SOL_SOCKET, SO_ERROR, [ECONNREFUSED], [4]) = 0");
    tcp_info info{};
    info.tcpi_state = TCP_ESTABLISHED;
    len = sizeof info;
    CHECK(finished(15, {3, SOL_TCP, TCP_INFO, word(&info), word(&len)}, 0)
              .find("TCP_INFO, {tcpi_state=TCP_ESTABLISHED, tcpi_ca_state=0,") !=
          std::string::npos);
}

TEST_CASE("trace: messages with iovecs and control") {
    char first[] = "abc\n", second[64];
    std::memset(second, 'x', sizeof second);
    iovec iov[2] = {{first, 4}, {second, 50}};
    union {
        cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control{};
    msghdr m{};
    m.msg_iov = iov;
    m.msg_iovlen = 2;
    m.msg_control = control.bytes;
    m.msg_controllen = sizeof control.bytes;
    cmsghdr* c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    const int fd = 1;
    std::memcpy(CMSG_DATA(c), &fd, sizeof fd);
    CHECK(finished(16, {3, word(&m), 0}, 54) ==
          "sendmsg(3, {msg_name=NULL, msg_namelen=0, msg_iov=[{iov_base=\"abc\\n\", iov_len=4}, "
          "{iov_base=\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"..., iov_len=50}], msg_iovlen=2, "
          "msg_control=[{cmsg_len=20, cmsg_level=SOL_SOCKET, cmsg_type=SCM_RIGHTS, "
          "cmsg_data=[1]}], msg_controllen=24, msg_flags=0}, 0) = 54");

    m.msg_controllen = 0;
    sockaddr_in a = inet("10.0.0.1", 53);
    m.msg_name = &a;
    m.msg_namelen = 128;
    traced t(17, {3, word(&m), 0});
    m.msg_namelen = 16;
    m.msg_flags = MSG_TRUNC;
    CHECK(
        t.ends(6).call() ==
        "recvmsg(3, {msg_name={sa_family=AF_INET, sin_port=htons(53), "
        "sin_addr=inet_addr(\"10.0.0.1\")}, msg_namelen=128 => 16, msg_iov=[{iov_base=\"abc\\n\", "
        "iov_len=4}, {iov_base=\"xx\", iov_len=50}], msg_iovlen=2, msg_controllen=0, "
        "msg_flags=MSG_TRUNC}, 0) = 6 <0.000123>");

    mmsghdr two[2]{};
    two[0].msg_hdr.msg_iov = two[1].msg_hdr.msg_iov = iov;
    two[0].msg_hdr.msg_iovlen = two[1].msg_hdr.msg_iovlen = 1;
    traced many(20, {3, word(two), 2, 0});
    two[0].msg_len = 4;
    CHECK(many.ends(1).call().find("iov_len=4}], msg_iovlen=1, msg_controllen=0, msg_flags=0}, "
                                   "msg_len=4}") != std::string::npos);
    CHECK(many.r.bytes == 4);
}

TEST_CASE("trace: waiting") {
    pollfd fds[2] = {{3, POLLIN | POLLOUT, 0}, {4, POLLIN, 0}};
    timespec ts{1, 0};
    traced p(TRACE_POLL, {word(fds), 2, word(&ts), 0});
    fds[0].revents = POLLIN;
    CHECK(p.ends(1).call() == "poll([{fd=3, events=POLLIN|POLLOUT}, {fd=4, events=POLLIN}], 2, "
                              "1000) = 1 ([{fd=3, revents=POLLIN}]) <0.000123>");
    CHECK(finished(TRACE_POLL, {word(fds), 1, 0, 0}, 0) ==
          "poll([{fd=3, events=POLLIN|POLLOUT}], 1, -1) = 0 (Timeout)");
    const u64 mask = 1u << (SIGINT - 1);
    CHECK(finished(TRACE_POLL, {0, 0, word(&ts), word(&mask)}, 0) ==
          "ppoll(NULL, 0, {tv_sec=1, tv_nsec=0}, [INT]) = 0 (Timeout)");

    fd_set in, out;
    FD_ZERO(&in);
    FD_ZERO(&out);
    FD_SET(3, &in);
    FD_SET(5, &in);
    FD_SET(4, &out);
    traced s(TRACE_SELECT, {6, word(&in), word(&out), 0, word(&ts), 0});
    FD_CLR(3, &in);
    CHECK(s.ends(2).call() == "select(6, [3 5], [4], NULL, {tv_sec=1, tv_usec=0}) = 2 (in [5], "
                              "out [4]) <0.000123>");

    epoll_event e{};
    e.events = EPOLLIN | EPOLLET;
    e.data.u64 = 7;
    CHECK(finished(TRACE_EPOLL_CTL, {9, EPOLL_CTL_ADD, 5, word(&e)}, 0) ==
          "epoll_ctl(9, EPOLL_CTL_ADD, 5, {events=EPOLLIN|EPOLLET, data={u32=7, u64=7}}) = 0");
    e.events = EPOLLIN;
    CHECK(finished(TRACE_EPOLL_WAIT, {9, word(&e), 8, 0, 0}, 1) ==
          "epoll_wait(9, [{events=EPOLLIN, data={u32=7, u64=7}}], 8, -1) = 1");
}

TEST_CASE("trace: descriptors") {
    CHECK(finished(TRACE_FCNTL, {3, F_SETFL, O_RDWR | O_NONBLOCK}, 0) ==
          "fcntl(3, F_SETFL, O_RDWR|O_NONBLOCK) = 0");
    CHECK(finished(TRACE_FCNTL, {3, F_GETFL, 0}, O_RDWR | O_NONBLOCK) ==
          "fcntl(3, F_GETFL) = 0x802 (flags O_RDWR|O_NONBLOCK)");
    CHECK(finished(TRACE_FCNTL, {3, F_SETFD, FD_CLOEXEC}, 0) ==
          "fcntl(3, F_SETFD, FD_CLOEXEC) = 0");
    int n = 17;
    CHECK(finished(TRACE_IOCTL, {3, 0x541b, word(&n)}, 0) == "ioctl(3, FIONREAD, [17]) = 0");
    CHECK(finished(TRACE_LSEEK, {3, 0, SEEK_CUR}, -ESPIPE) ==
          "lseek(3, 0, SEEK_CUR) = -1 ESPIPE (Illegal seek)");
    i64 offset = 100;
    traced f(TRACE_SENDFILE, {3, 4, word(&offset), 5});
    offset = 105;
    CHECK(f.ends(5).call() == "sendfile(3, 4, [100 => 105], 5) = 5 <0.000123>");
    const char* argv[] = {"nc", "-l", nullptr};
    traced x(TRACE_EXECVE, {word("/bin/nc"), word(argv), 0});
    CHECK(x.call() == "execve(\"/bin/nc\", [\"nc\", \"-l\"], NULL <unfinished ...>) = ?");
}

TEST_CASE("trace: the way and the time") {
    traced t(3, {3, 0, 0});
    t.r.way[0] = "PF_INET";
    t.r.way[1] = "inet_stream_connect";
    t.r.way[2] = "tcp_v4_connect";
    t.r.nway = 3;
    CHECK(t.way() == "  way: socketcall 3 > PF_INET inet_stream_connect > tcp_v4_connect\n");
    t.r.nway = 0;
    t.r.flags = REC_LIBC;
    CHECK(t.way() == "  way: socketcall 3 > handed over to libc\n");
    traced c(TRACE_CLOSE, {3});
    CHECK(c.way() == "  way: sys_close\n");
    c.r.tid = 77;
    c.r.start = (u64{86400} + 12 * 3600 + 34 * 60 + 56) * 1000000000 + 123456789;
    const i64 before = globals.realtime_offset;
    globals.realtime_offset = 0;
    CHECK(c.ends(0).lines() == "12:34:56.123456 [77] close(3) = 0 <0.000123>\n  way: sys_close\n");
    globals.realtime_offset = before;
}

TEST_CASE("trace: what does not fit is cut, not lost") {
    char strings[max_iov][40];
    std::memset(strings, 1, sizeof strings); // four characters each
    iovec iov[100];
    for (int i = 0; i < 100; ++i) iov[i] = {strings[i % 8], 40};
    traced t(TRACE_WRITEV, {3, word(iov), 100});
    t.r.nway = max_way;
    for (auto& w : t.r.way) w = "a_function_with_a_name_that_is_nearly_sixty_characters_long";
    const std::string s = t.ends(4000).lines();
    CHECK(s.size() <= block_size);
    CHECK(s.back() == '\n');
    CHECK(s.find(", ...], 100) = 4000") != std::string::npos);
    // Nonsense from the program.
    CHECK(finished(3, {3, word(iov), word(-5)}, -EINVAL).find("connect(3, 0x") == 0);
    CHECK(finished(21, {}, -EINVAL) == "socketcall(21)() = -1 EINVAL (Invalid argument)");
    // Every call and every option bit prints something and stays in bounds.
    for (const call_row& row : call_rows) {
        for (unsigned long v : {0ul, 1ul, 5ul, word(-1), 0x7fffffff5a5aul}) {
            record r{};
            r.nr = static_cast<u16>(row.nr);
            r.nargs = 6;
            for (auto& a : r.a) a = v;
            r.state = REC_DONE;
            r.result = static_cast<long>(v);
            char bytes[block_size];
            text line(bytes);
            decode_record(line, r);
            CHECK(line.used > 20);
            CHECK(bytes[line.used - 1] == '\n');
        }
    }
}
