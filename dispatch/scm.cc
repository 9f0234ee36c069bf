// Sockets of ours in SCM_RIGHTS messages of libc's unix sockets. The kernel carries the carriers; what
// is ours to do is the heartbeat before they leave, and knowing them when they arrive.
#include <sys/socket.h>

#include "core/net/carrier.h"
#include "core/net/eventpoll.h"
#include "core/sync/uaccess.h"
#include "dispatch/socketcall.h"

namespace sockshim {

namespace {

// Visits the descriptors in a message's control part. The header was the kernel's to judge: this runs
// on copies, and gives up at the first thing that does not fit.
template <class Visit> void for_each_right(const msghdr* umsg, Visit visit) {
    msghdr msg;
    if (get_user(msg, umsg) || !msg.msg_control) return;
    std::size_t at = 0;
    while (at + sizeof(cmsghdr) <= msg.msg_controllen) {
        const u8* const where = static_cast<const u8*>(msg.msg_control) + at;
        cmsghdr head;
        if (get_user(head, where) || head.cmsg_len < sizeof head ||
            head.cmsg_len > msg.msg_controllen - at) {
            return;
        }
        if (head.cmsg_level == SOL_SOCKET && head.cmsg_type == SCM_RIGHTS) {
            const std::size_t n = (head.cmsg_len - CMSG_LEN(0)) / sizeof(int);
            for (std::size_t i = 0; i < n; ++i) {
                int fd = -1;
                if (get_user(fd, where + CMSG_LEN(0) + i * sizeof(int))) return;
                visit(fd);
            }
        }
        at += CMSG_ALIGN(head.cmsg_len);
    }
}

} // namespace

void scm_received(msghdr* umsg) {
    for_each_right(umsg, [](int fd) {
        if (static_cast<u32>(fd) >= fd_table_size) return;
        // The number is new: whatever the table says of it is history.
        fd_forget(fd);
        if (fd_classify(fd) != FD_SOCKET) return;
        if (socket* s = slab_at<socket>(fd_entry_index(fd_table[fd].load()))) {
            static_cast<void>(carrier_lock(*s, fd));
        }
    });
}

bool scm_sending(const msghdr* umsg) {
    bool any = false;
    for_each_right(umsg, [&any](int fd) {
        const fd_kind kind = fd_classify(fd);
        const u32 index = fd_entry_index(fd_table[fd].load());
        if (kind == FD_EPOLL) eventpoll_note_fd(index, fd);
        if (kind != FD_SOCKET) return;
        any = true;
        if (socket* s = slab_at<socket>(index)) static_cast<void>(carrier_lock(*s, fd));
    });
    return any;
}

} // namespace sockshim
