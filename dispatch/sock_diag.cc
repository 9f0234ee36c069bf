#include "dispatch/sock_diag.h"

#include <cerrno>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <sys/socket.h>

#include "core/base/atomic.h"
#include "core/base/raw_syscall.h"
#include "core/inet/loopback.h"

namespace sockshim {
namespace {

struct diag_request {
    nlmsghdr header;
    inet_diag_req_v2 of;
};

struct diag_answer {
    nlmsghdr header;
    nlmsgerr error;
    char rest[512];
};

// 0: there is one. -ENOENT: there is none, or the kernel knows nothing of UDP here (udp_diag).
int udp_diag(const sockaddr_in& at) {
    const long fd = raw_syscall(SYS_socket, AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    if (fd < 0) return static_cast<int>(fd);
    diag_request ask{};
    ask.header.nlmsg_len = sizeof ask;
    ask.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
    ask.header.nlmsg_flags = NLM_F_REQUEST;
    ask.of.sdiag_family = AF_INET;
    ask.of.sdiag_protocol = IPPROTO_UDP;
    ask.of.idiag_states = ~u32{0};
    // Both ends the same: which of the two UDP's look-up takes for the local one has changed between kernels.
    ask.of.id.idiag_sport = ask.of.id.idiag_dport = at.sin_port;
    ask.of.id.idiag_src[0] = ask.of.id.idiag_dst[0] = at.sin_addr.s_addr;
    ask.of.id.idiag_if = LOOPBACK_IFINDEX;
    ask.of.id.idiag_cookie[0] = ask.of.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
    diag_answer answer{};
    long r = raw_syscall(SYS_sendto, fd, ptr_arg(&ask), sizeof ask, MSG_NOSIGNAL);
    // The kernel has answered by the time that the question is sent.
    if (r >= 0) {
        r = raw_syscall(SYS_recvfrom, fd, ptr_arg(&answer), sizeof answer, MSG_DONTWAIT);
    }
    raw_syscall(SYS_close, fd);
    if (r < 0) return static_cast<int>(r);
    if (r < static_cast<long>(sizeof answer.header)) return -EPROTO;
    return answer.header.nlmsg_type == NLMSG_ERROR ? answer.error.error : 0;
}

// Whether the kernel would tell: asked about a socket that is there. Three calls more for a process that cannot ask, of
// which each of its sockets comes here once, as it goes to the kernel then.
bool udp_diag_works() {
    const long k = raw_syscall(SYS_socket, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (k < 0) return false;
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    u32 len = sizeof at;
    const bool works = raw_syscall(SYS_bind, k, ptr_arg(&at), sizeof at) == 0 &&
                       raw_syscall(SYS_getsockname, k, ptr_arg(&at), ptr_arg(&len)) == 0 &&
                       udp_diag(at) == 0;
    raw_syscall(SYS_close, k);
    return works;
}

} // namespace

bool kernel_has_udp_taker(const sockaddr_in& at) {
    static constinit atomic_cell<u32> tells{0};
    if (!tells.load() && !udp_diag_works()) return true;
    tells.store(1);
    return udp_diag(at) != -ENOENT;
}

} // namespace sockshim
