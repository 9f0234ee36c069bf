// One wait of poll or select: the descriptors of ours in it, and the sleep on them and on the kernel's
// together (Linux: struct poll_wqueues and the loop of do_poll and do_select).
#pragma once
#include "core/net/proto.h"
#include "dispatch/readiness.h"

namespace sockshim {

// A descriptor of ours in the set. An epoll set is asked twice: our half here, the kernel's with the
// kernel's descriptors.
struct poll_item {
    socket_ref ref;   // a socket, kept from being released while we wait
    ep_source source; // what the wait hangs on
    u32 index;        // poll: of the pollfd; select: the descriptor's number
    u32 want;         // EPOLL* bits that end the wait
    u32 got;          // what of them there is
    handle<wait_entry> entry;
};

// What asks the kernel. poll and select have one each.
class kernel_side {
public:
    bool any = false; // is there something to ask about?
    // One system call. `bell`: a descriptor to be woken by besides, -1 for none; rang says whether it
    // was. How many descriptors are ready, without the bell, or -errno.
    long (*ask)(kernel_side& self, const timespec* timeout, const sigset_t* mask, int bell,
                bool& rang);
};

class poll_wait {
public:
    poll_wait(poll_item* items, kernel_side& kernel) : items_(items), kernel_(kernel) {}
    ~poll_wait();
    poll_wait(const poll_wait&) = delete;
    poll_wait& operator=(const poll_wait&) = delete;

    // Takes descriptor `fd`, known to be of kind FD_SOCKET or FD_EPOLL, into the set. False: it is
    // neither any more.
    bool add(int fd, u32 index, u32 want);
    u32 count() const { return count_; }
    const poll_item& operator[](u32 i) const { return items_[i]; }

    // Waits until something is ready. How many descriptors are: ours plus the kernel's (an epoll set
    // may count twice); 0 at the deadline; -EINTR and the kernel's errors. `now`: do not wait.
    long wait(bool now, i64 deadline_us, const sigset_t* mask);

private:
    u32 look();
    long ask_kernel_now(const sigset_t* mask);
    void register_all();
    int sleep(i64 deadline_us, const sigset_t* mask, const signal_sample& signals, long& kernels);

    poll_item* items_;
    kernel_side& kernel_;
    u32 count_ = 0;
    waiter_ref waiter_;
    bool registered_ = false;
    bool in_kernel_ = false;
    bool nap_ = false; // something could not be registered: look again soon
    i64 nap_us_ = first_nap_us;
};

// Room for a call's arrays: from the stack when they are small, else mapped for the call (nothing here
// may call malloc).
class scratch {
public:
    scratch(void* stack, std::size_t stack_bytes, std::size_t need);
    ~scratch();
    scratch(const scratch&) = delete;
    scratch& operator=(const scratch&) = delete;
    explicit operator bool() const { return at_; }
    // The next n objects, zeroed.
    template <class T> T* take(std::size_t n) {
        static_assert(alignof(T) <= 8);
        T* const p = reinterpret_cast<T*>(at_);
        at_ += (n * sizeof(T) + 7) & ~std::size_t{7};
        __builtin_memset(static_cast<void*>(p), 0, n * sizeof(T));
        return p;
    }

private:
    u8* at_;
    void* mapped_ = nullptr;
    std::size_t mapped_bytes_ = 0;
};

} // namespace sockshim
