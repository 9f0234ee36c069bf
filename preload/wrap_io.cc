// Reading and writing by the calls that work on any descriptor.
#include <sys/sendfile.h>
#include <unistd.h>

#include "preload/wrap.h"

using namespace sockshim;

SOCKSHIM_WRAP(ssize_t, read, (int fd, void* buf, size_t n)) {
    return route_cancel(
        fd, [=] { return sys_read(fd, buf, n); }, [=] { return real::read(fd, buf, n); });
}
SOCKSHIM_WRAP_ALIAS(__read, read)

SOCKSHIM_WRAP(ssize_t, write, (int fd, const void* buf, size_t n)) {
    return route_cancel(
        fd, [=] { return sys_write(fd, buf, n); }, [=] { return real::write(fd, buf, n); });
}
SOCKSHIM_WRAP_ALIAS(__write, write)

SOCKSHIM_WRAP(ssize_t, readv, (int fd, const iovec* iov, int n)) {
    return route_cancel(
        fd, [=] { return sys_readv(fd, iov, n); }, [=] { return real::readv(fd, iov, n); });
}

SOCKSHIM_WRAP(ssize_t, writev, (int fd, const iovec* iov, int n)) {
    return route_cancel(
        fd, [=] { return sys_writev(fd, iov, n); }, [=] { return real::writev(fd, iov, n); });
}

// At an offset: ESPIPE on a socket, and EINVAL for a negative one before anything else is looked at.
SOCKSHIM_WRAP(ssize_t, pread, (int fd, void* buf, size_t n, off_t offset)) {
    return route_cancel(
        fd,
        [=] {
            const iovec iov = {buf, n};
            return offset < 0 ? -EINVAL : sys_preadv2(fd, &iov, 1, offset, 0);
        },
        [=] { return real::pread(fd, buf, n, offset); });
}
SOCKSHIM_WRAP_ALIAS(pread64, pread)
SOCKSHIM_WRAP_ALIAS(__pread64, pread)

SOCKSHIM_WRAP(ssize_t, pwrite, (int fd, const void* buf, size_t n, off_t offset)) {
    return route_cancel(
        fd,
        [=] {
            const iovec iov = {const_cast<void*>(buf), n};
            return offset < 0 ? -EINVAL : sys_pwritev2(fd, &iov, 1, offset, 0);
        },
        [=] { return real::pwrite(fd, buf, n, offset); });
}
SOCKSHIM_WRAP_ALIAS(pwrite64, pwrite)
SOCKSHIM_WRAP_ALIAS(__pwrite64, pwrite)

SOCKSHIM_WRAP(ssize_t, preadv, (int fd, const iovec* iov, int n, off_t offset)) {
    return route_cancel(
        fd, [=] { return offset < 0 ? -EINVAL : sys_preadv2(fd, iov, n, offset, 0); },
        [=] { return real::preadv(fd, iov, n, offset); });
}
SOCKSHIM_WRAP_ALIAS(preadv64, preadv)

SOCKSHIM_WRAP(ssize_t, pwritev, (int fd, const iovec* iov, int n, off_t offset)) {
    return route_cancel(
        fd, [=] { return offset < 0 ? -EINVAL : sys_pwritev2(fd, iov, n, offset, 0); },
        [=] { return real::pwritev(fd, iov, n, offset); });
}
SOCKSHIM_WRAP_ALIAS(pwritev64, pwritev)

SOCKSHIM_WRAP(ssize_t, preadv2, (int fd, const iovec* iov, int n, off_t offset, int flags)) {
    return route_cancel(
        fd, [=] { return sys_preadv2(fd, iov, n, offset, flags); },
        [=] { return real::preadv2(fd, iov, n, offset, flags); });
}
SOCKSHIM_WRAP_ALIAS(preadv64v2, preadv2)

SOCKSHIM_WRAP(ssize_t, pwritev2, (int fd, const iovec* iov, int n, off_t offset, int flags)) {
    return route_cancel(
        fd, [=] { return sys_pwritev2(fd, iov, n, offset, flags); },
        [=] { return real::pwritev2(fd, iov, n, offset, flags); });
}
SOCKSHIM_WRAP_ALIAS(pwritev64v2, pwritev2)

SOCKSHIM_WRAP(ssize_t, __read_chk, (int fd, void* buf, size_t n, size_t room)) {
    if (n > room) return real::__read_chk(fd, buf, n, room);
    return wrap_read(fd, buf, n);
}

SOCKSHIM_WRAP(ssize_t, __pread_chk, (int fd, void* buf, size_t n, off_t offset, size_t room)) {
    if (n > room) return real::__pread_chk(fd, buf, n, offset, room);
    return wrap_pread(fd, buf, n, offset);
}
SOCKSHIM_WRAP_ALIAS(__pread64_chk, __pread_chk)

SOCKSHIM_WRAP(ssize_t, sendfile, (int out, int in, off_t* offset, size_t n)) {
    return route(
        out, in, [=] { return sys_sendfile(out, in, offset, n); },
        [=] { return real::sendfile(out, in, offset, n); });
}
SOCKSHIM_WRAP_ALIAS(sendfile64, sendfile)

SOCKSHIM_WRAP(ssize_t, splice,
              (int in, loff_t* off_in, int out, loff_t* off_out, size_t n, unsigned flags)) {
    return route_cancel(
        in, out, [=] { return sys_splice(in, off_in, out, off_out, n, flags); },
        [=] { return real::splice(in, off_in, out, off_out, n, flags); });
}

SOCKSHIM_WRAP(ssize_t, tee, (int in, int out, size_t n, unsigned flags)) {
    return route_cancel(
        in, out, [=] { return sys_tee(in, out, n, flags); },
        [=] { return real::tee(in, out, n, flags); });
}

SOCKSHIM_WRAP(ssize_t, vmsplice, (int fd, const iovec* iov, size_t n, unsigned flags)) {
    return route_cancel(
        fd, [=] { return sys_vmsplice(fd, iov, n, flags); },
        [=] { return real::vmsplice(fd, iov, n, flags); });
}

SOCKSHIM_WRAP(ssize_t, copy_file_range,
              (int in, loff_t* off_in, int out, loff_t* off_out, size_t n, unsigned flags)) {
    return route_cancel(
        in, out, [=] { return sys_copy_file_range(in, off_in, out, off_out, n, flags); },
        [=] { return real::copy_file_range(in, off_in, out, off_out, n, flags); });
}
