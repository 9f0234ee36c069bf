// The kernel's half of an epoll set: calls on it, kicks out of it, and how a set of the kernel's alone gets its half of
// ours.
#pragma once
#include "dispatch/readiness.h"

namespace sockshim {

// epoll_create1. The set is the kernel's; it is remembered that nobody else can have it from before a fork.
long kernel_epoll_create(int flags);
long kernel_epoll_ctl(int epfd, int op, int fd, const epoll_event* ev);
// epoll_pwait2 (a null timeout is for ever), without what kicks leave in the array; -EAGAIN: nothing else was there.
long kernel_epoll_wait(eventpoll& ep, int epfd, epoll_event* events, int max,
                       const timespec* timeout, const sigset_t* mask);
// Has the kernel's half registrations? Where /proc cannot tell: yes.
bool kernel_half_in_use(int epfd);

// ep_insert into the set of that number. Who waits in the kernel's half alone (eventpoll.direct) is kicked out.
int epoll_insert(int epfd, handle<eventpoll> set, ep_source source, int fd, u32 events, u64 data);

// Gives a kernel epoll set its half of ours. Dups of it that this process has get it too, and sets that
// it was put into; a set that a fork shared before this stays the kernel's in the other process.
handle<eventpoll> epoll_convert(int epfd);
// Another thread may put the first socket of ours in while this one sleeps: then it must not sleep in libc, which
// would not know of it.
bool epoll_convert_before_sleep(int epfd);

} // namespace sockshim
