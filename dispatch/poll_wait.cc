#include "dispatch/poll_wait.h"

#include <cerrno>
#include <sys/mman.h>

namespace sockshim {

namespace {

// How well staying awake has paid off in this thread's polls (spin_wait.h); no one queue could tell.
constinit thread_local a32 patience_score{};
// Steps of waiting awake between two questions to the kernel.
constexpr u32 kernel_every_steps = 16;

} // namespace

poll_wait::~poll_wait() {
    for (u32 i = 0; i < count_; ++i) {
        poll_item& it = items_[i];
        if (it.entry) wait_entry_remove(it.entry);
        if (it.ref.sock) fput_light(it.ref);
    }
}

bool poll_wait::add(int fd, u32 index, u32 want) {
    poll_item it{};
    it.index = index;
    it.want = want;
    if (fd_kind_of(fd) == FD_EPOLL) {
        const handle<eventpoll> set = eventpoll_of_fd(fd);
        if (!set) return false;
        it.source = ep_source::of(set);
    } else {
        if (sockfd_lookup_light(fd, it.ref)) return false;
        it.source = ep_source::of(it.ref.sock->sk);
    }
    items_[count_++] = it;
    return true;
}

u32 poll_wait::look() {
    u32 ready = 0;
    for (u32 i = 0; i < count_; ++i) {
        poll_item& it = items_[i];
        const u32 events = it.ref.sock ? ops_of(it.ref.sock->ops_id).poll(*it.ref.sock)
                                       : wait_source_poll(it.source.kind, it.source.raw);
        it.got = events & it.want;
        ready += it.got != 0;
    }
    return ready;
}

long poll_wait::ask_kernel_now(const sigset_t* mask) {
    if (!kernel_.any && !mask) return 0;
    const timespec zero{};
    bool rang = false;
    return kernel_.ask(kernel_, &zero, mask, -1, rang);
}

void poll_wait::register_all() {
    const bool bell = in_kernel_;
    if (waiter_.acquire(bell)) {
        nap_ = true;
        return;
    }
    for (u32 i = 0; i < count_; ++i) {
        poll_item& it = items_[i];
        it.entry = waiter_link(waiter_.cell(), it.source.kind, it.source.raw, it.want);
        if (!it.entry) nap_ = true;
    }
}

// 0: look again (`kernels` says what the kernel has seen meanwhile), -EAGAIN: the deadline, -EINTR.
int poll_wait::sleep(i64 deadline_us, const sigset_t* mask, const signal_sample& signals,
                     long& kernels) {
    in_kernel_ = kernel_.any || mask;
    if (!registered_) {
        registered_ = true;
        register_all();
    }
    const int bell = in_kernel_ && waiter_ ? waiter_.bell_fd() : -1;
    if (in_kernel_ && bell < 0) nap_ = true;
    i64 until = deadline_us;
    if (nap_) {
        const i64 soon = static_cast<i64>(monotonic_us()) + nap_us_;
        if (until < 0 || soon < until) until = soon;
        nap_us_ = min_of(nap_us_ * 2, longest_nap_us);
    }
    int result = 0;
    if (!in_kernel_ && waiter_) {
        const sleeping_on declared(waiter_->seq);
        const u32 seen = waiter_->seq.load();
        waiter_->state.exchange(WAITER_FUTEX);
        full_fence();
        if (!look()) result = signals.any() ? -EINTR : sleep_until(waiter_->seq, seen, until);
        waiter_->state.store(WAITER_AWAKE);
    } else {
        if (bell >= 0) waiter_->state.exchange(WAITER_BELL);
        full_fence();
        if (!look()) {
            timespec room;
            bool rang = false;
            kernels = signals.any()
                          ? -EINTR
                          : kernel_.ask(kernel_, time_left(until, room), mask, bell, rang);
            if (rang && bell >= 0) waiter_ref::silence(bell);
            if (kernels == 0 && !rang) result = -EAGAIN;
        }
        if (waiter_) waiter_->state.store(WAITER_AWAKE);
    }
    if (result == -EAGAIN && until != deadline_us) result = 0;
    return result;
}

// Linux: do_poll.
long poll_wait::wait(bool now, i64 deadline_us, const sigset_t* mask) {
    u32 ready = look();
    // With something of ours ready nothing may be delivered any more, so no mask.
    long kernels = ask_kernel_now(ready || !now ? nullptr : mask);
    if (kernels < 0) return kernels;
    if (ready || kernels || now) return ready + kernels;

    const signal_sample signals;
    spin_wait patience(patience_score);
    u32 steps = 0;
    long result;
    for (;;) {
        int end = 0;
        kernels = 0;
        bool asked = false;
        if (patience.pause()) {
            asked = ++steps % kernel_every_steps == 0;
            if (asked) kernels = ask_kernel_now(nullptr);
        } else {
            asked = kernel_.any;
            end = sleep(deadline_us, mask, signals, kernels);
        }
        // A handler that ran goes before what is ready now: it may have made it ready itself, and in
        // Linux would have run only after the call had ended.
        if (kernels < 0 || end == -EINTR || signals.any()) {
            result = kernels < 0 ? kernels : -EINTR;
            break;
        }
        ready = look();
        if (ready && !asked) {
            kernels = ask_kernel_now(nullptr);
            if (kernels < 0) kernels = 0;
        }
        result = ready + kernels;
        if (result || end) break; // at the deadline, 0
    }
    patience.finish(result > 0, waiter_ ? waiter_->rung_us.load_relaxed() : 0);
    return result;
}

scratch::scratch(void* stack, std::size_t stack_bytes, std::size_t need)
    : at_(static_cast<u8*>(stack)) {
    if (need <= stack_bytes) return;
    const long p = raw_syscall(SYS_mmap, 0, static_cast<long>(need), PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p < 0 && p > -4096) {
        at_ = nullptr;
        return;
    }
    mapped_ = reinterpret_cast<void*>(p);
    mapped_bytes_ = need;
    at_ = static_cast<u8*>(mapped_);
}

scratch::~scratch() {
    if (mapped_) raw_syscall(SYS_munmap, ptr_arg(mapped_), static_cast<long>(mapped_bytes_));
}

} // namespace sockshim
