// Options of level SOL_SOCKET (Linux: sk_setsockopt, sk_getsockopt in net/core/sock.c), with Linux's
// checks, in Linux's order. optval and optlen are the program's.
//
// What the stack has no use for is kept and told back, as Linux does for a device that does not use it:
// SO_MARK, SO_PRIORITY, SO_BUSY_POLL*, SO_MAX_PACING_RATE, SO_TXTIME, SO_NOFCS, SO_WIFI_STATUS,
// SO_TXREHASH, SO_CNX_ADVICE, SO_INCOMING_CPU, SO_DONTROUTE. Refused:
//   SO_ATTACH_FILTER, SO_ATTACH_BPF, SO_ATTACH_REUSEPORT_CBPF/EBPF  ENOPROTOOPT; there is no BPF machine
//   SO_RESERVE_MEM                                              EOPNOTSUPP, as without memory cgroups
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <ctime>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/errqueue.h>
#include <linux/filter.h>
#include <linux/net_tstamp.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <sys/utsname.h>

#include "core/arena/owner.h"
#include "core/base/raw_syscall.h"
#include "core/inet/inet_sock.h"
#include "core/inet/ip_sockglue.h"
#include "core/inet/loopback.h"
#include "core/net/kernel_half.h"
#include "core/net/proto.h"
#include "core/trace/trace.h"

// Newer than some of the headers that this is built with.
#ifndef SO_PREFER_BUSY_POLL
#define SO_PREFER_BUSY_POLL 69
#define SO_BUSY_POLL_BUDGET 70
#endif
#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif
#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif
#ifndef SO_RESERVE_MEM
#define SO_RESERVE_MEM 73
#endif
#ifndef SO_TXREHASH
#define SO_TXREHASH 74
#endif
#ifndef SO_RCVMARK
#define SO_RCVMARK 75
#endif
#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#define SO_PEERPIDFD 77
#endif
#ifndef SO_RCVPRIORITY
#define SO_RCVPRIORITY 82
#define SO_PASSRIGHTS 83
#endif
#ifndef SO_INQ
#define SO_INQ 84
#endif

namespace sockshim {
namespace {

// A number from the host's /proc/sys, so that a program finds here the limits that it finds without us.
// Read once.
int host_sysctl(a32& cache, const char* path, int fallback) {
    if (const u32 v = cache.load()) return static_cast<int>(v);
    int value = fallback;
    const long fd = raw_syscall(SYS_openat, AT_FDCWD, ptr_arg(path), O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        char text[24] = {};
        if (raw_syscall(SYS_read, fd, ptr_arg(text), sizeof text - 1) > 0) {
            const long read = strtol(text, nullptr, 10);
            if (read > 0 && read <= INT_MAX) value = static_cast<int>(read);
        }
        raw_syscall(SYS_close, fd);
    }
    cache.store(static_cast<u32>(value));
    return value;
}

int sysctl_wmem_max() {
    static constinit a32 cache{};
    return host_sysctl(cache, "/proc/sys/net/core/wmem_max", SK_WMEM_MAX);
}
int sysctl_rmem_max() {
    static constinit a32 cache{};
    return host_sysctl(cache, "/proc/sys/net/core/rmem_max", SK_RMEM_MAX);
}

// The host kernel's version, major * 1000 + minor: a few options changed their answers over time, and
// the program should get the one that it would get here.
int kernel_version() {
    static constinit a32 cache{};
    if (const u32 v = cache.load()) return static_cast<int>(v);
    utsname u{};
    raw_syscall(SYS_uname, ptr_arg(&u));
    char* end = u.release;
    const long major = strtol(u.release, &end, 10);
    const long minor = *end == '.' ? strtol(end + 1, nullptr, 10) : 0;
    const long v = major * 1000 + minor;
    cache.store(static_cast<u32>(v));
    return static_cast<int>(v);
}

constexpr u8 SOCK_BUF_LOCK_BITS = SOCK_SNDBUF_LOCK | SOCK_RCVBUF_LOCK;

// Linux keeps timeouts in jiffies, and rounds up to the next one: 4 ms with Debian's CONFIG_HZ=250. The
// coarse clocks tick with them.
i64 jiffy_us() {
    static constinit a32 cache{};
    if (const u32 v = cache.load()) return v;
    timespec res{};
    raw_syscall(SYS_clock_getres, CLOCK_MONOTONIC_COARSE, ptr_arg(&res));
    const bool sane = res.tv_sec == 0 && res.tv_nsec >= 1000000 && res.tv_nsec <= 10000000;
    const u32 us = sane ? static_cast<u32>(res.tv_nsec / 1000) : 4000;
    cache.store(us);
    return us;
}

// sock_set_timeout. Both layouts of timeval are two 64-bit words here.
int set_timeout(i64& timeo_us, const void* optval, u32 optlen) {
    struct {
        i64 tv_sec;
        i64 tv_usec;
    } tv;
    if (optlen < sizeof tv) return -EINVAL;
    if (get_user(tv, optval)) return -EFAULT;
    if (tv.tv_usec < 0 || tv.tv_usec >= 1000000) return -EDOM;
    if (tv.tv_sec < 0) {
        timeo_us = 0;
        return 0;
    }
    timeo_us = MAX_SCHEDULE_TIMEOUT;
    if (tv.tv_sec == 0 && tv.tv_usec == 0) return 0;
    if (tv.tv_sec < LONG_MAX / 1000000 - 1) {
        const i64 tick = jiffy_us();
        timeo_us = tv.tv_sec * 1000000 + (tv.tv_usec + tick - 1) / tick * tick;
    }
    return 0;
}

bool sk_is_inet(const sock& sk) { return sk_family(sk) == AF_INET || sk_family(sk) == AF_INET6; }
bool sk_is_tcp(const sock& sk) {
    return sk_is_inet(sk) && sk.sk_type == SOCK_STREAM && sk.sk_protocol == IPPROTO_TCP;
}
bool sk_is_udp(const sock& sk) {
    return sk_is_inet(sk) && sk.sk_type == SOCK_DGRAM && sk.sk_protocol == IPPROTO_UDP;
}

// sock_setbindtodevice.
int set_bind_to_device(sock& sk, const void* optval, u32 optlen) {
    if (static_cast<int>(optlen) < 0) return -EINVAL;
    // Bind this socket to a particular device like "eth0", as specified in an ifreq structure. If the
    // device is "" the socket is bound to none.
    char name[IFNAMSIZ] = {};
    const u32 len = min_of<u32>(optlen, IFNAMSIZ - 1);
    if (len && copy_from_user(name, optval, len)) return -EFAULT;
    i32 index = 0;
    if (name[0]) {
        index = dev_index_of_name(name);
        if (!index) return -ENODEV;
    }
    lock_sock(sk);
    int err = -EPERM;
    i32& bound = sk.__sk_common.skc_bound_dev_if;
    if (!bound || net_capable(CAP_NET_RAW)) { // an unprivileged program may bind once
        bound = index;
        err = 0;
    }
    release_sock(sk);
    return err;
}

int bind_to_index(sock& sk, int index) {
    i32& bound = sk.__sk_common.skc_bound_dev_if;
    if (bound && !net_capable(CAP_NET_RAW)) return -EPERM;
    if (index < 0) return -EINVAL;
    bound = index;
    return 0;
}

// sock_set_timestamp.
void set_timestamp(sock& sk, int optname, bool on) {
    const bool is_new = optname == SO_TIMESTAMP_NEW || optname == SO_TIMESTAMPNS_NEW;
    const bool ns = optname == SO_TIMESTAMPNS_OLD || optname == SO_TIMESTAMPNS_NEW;
    sock_set_flag(sk, SOCK_TSTAMP_NEW, on && is_new);
    if (on) {
        sock_set_flag(sk, SOCK_RCVTSTAMPNS, ns);
        sock_set_flag(sk, SOCK_TIMESTAMP, true);
    } else {
        sock_set_flag(sk, SOCK_TIMESTAMP, false);
        sock_set_flag(sk, SOCK_RCVTSTAMPNS, false);
    }
}

constexpr u32 timestamping_mask = (1u << 18) - 1; // SOF_TIMESTAMPING_MASK of recent kernels
constexpr u32 timestamping_bind_phc = 1u << 15;
constexpr u32 timestamping_id_tcp = 1u << 16;

// sock_set_timestamping.
int set_timestamping(sock& sk, int optname, u32 flags, int bind_phc) {
    if (flags & ~timestamping_mask) return -EINVAL;
    if ((flags & timestamping_id_tcp) && !(flags & SOF_TIMESTAMPING_OPT_ID)) return -EINVAL;
    if ((flags & SOF_TIMESTAMPING_OPT_ID) && !(sk.sk_tsflags & SOF_TIMESTAMPING_OPT_ID) &&
        sk_is_tcp(sk) && ((1u << sk_state(sk)) & ((1u << TCP_CLOSE) | (1u << TCP_LISTEN)))) {
        return -EINVAL;
    }
    if ((flags & SOF_TIMESTAMPING_OPT_STATS) && !(flags & SOF_TIMESTAMPING_OPT_TSONLY)) {
        return -EINVAL;
    }
    if (flags & timestamping_bind_phc) return -EOPNOTSUPP; // lo has no clock of its own
    sk.sk_bind_phc = static_cast<i16>(bind_phc);
    sk.sk_tsflags = flags;
    sock_set_flag(sk, SOCK_TSTAMP_NEW, optname == SO_TIMESTAMPING_NEW);
    return 0;
}

void set_rcvbuf(sock& sk, int val) {
    val = min_of(val, INT_MAX / 2);
    sk.sk_userlocks |= SOCK_RCVBUF_LOCK;
    // We double it on the way in to account for "struct sk_buff" etc. overhead.
    sk.sk_rcvbuf = max_of(val * 2, SOCK_MIN_RCVBUF);
}

void set_sndbuf(sock& sk, int val) {
    val = min_of(val, INT_MAX / 2);
    sk.sk_userlocks |= SOCK_SNDBUF_LOCK;
    sk.sk_sndbuf = max_of(val * 2, SOCK_MIN_SNDBUF);
    sk_write_space(sk); // wake up sending tasks if we upped the value
}

// The options that need no lock. `*taken`: the option was one of them.
int set_unlocked(socket& sock, struct sock& sk, int optname, int val, const void* optval,
                 u32 optlen, bool* taken) {
    *taken = true;
    switch (optname) {
    case SO_PRIORITY:
        if ((val >= 0 && val <= 6) || net_capable(CAP_NET_RAW) || net_capable(CAP_NET_ADMIN)) {
            sk.sk_priority = static_cast<u32>(val);
            return 0;
        }
        return -EPERM;
    case SO_TYPE:
    case SO_PROTOCOL:
    case SO_DOMAIN:
    case SO_ERROR: return -ENOPROTOOPT;
    case SO_BUSY_POLL:
        if (val < 0) return -EINVAL;
        sk.sk_ll_usec = static_cast<u32>(val);
        return 0;
    case SO_PREFER_BUSY_POLL:
        if (val && !net_capable(CAP_NET_ADMIN)) return -EPERM;
        sock_set_flag(sk, SOCK_PREFER_BUSY_POLL, val != 0);
        return 0;
    case SO_BUSY_POLL_BUDGET:
        if (val > sk.sk_busy_poll_budget && !net_capable(CAP_NET_ADMIN)) return -EPERM;
        if (val < 0 || val > 0xffff) return -EINVAL;
        sk.sk_busy_poll_budget = static_cast<u16>(val);
        return 0;
    case SO_MAX_PACING_RATE: {
        u64 rate = static_cast<u32>(val) == ~0u ? ~u64{0} : static_cast<u32>(val);
        if (optlen >= sizeof rate && get_user(rate, optval)) return -EFAULT;
        sk.sk_max_pacing_rate = rate;
        return 0;
    }
    case SO_TXREHASH:
        if (!sk_is_tcp(sk)) return -EOPNOTSUPP;
        if (val < -1 || val > 1) return -EINVAL;
        sk.sk_txrehash = val == 0 ? 0 : 1; // -1: the host's default, on
        return 0;
    case SO_PEEK_OFF: return ops_of(sock.ops_id).set_peek_off(sk, val);
    default: *taken = false; return 0;
    }
}

int set_locked(sock& sk, int optname, int val, const void* optval, u32 optlen) {
    const bool on = val != 0;
    switch (optname) {
    case SO_DEBUG:
        if (on && !net_capable(CAP_NET_ADMIN)) return -EACCES;
        sock_set_flag(sk, SOCK_DBG, on);
        return 0;
    case SO_REUSEADDR: sk.__sk_common.skc_reuse = on; return 0;
    case SO_REUSEPORT:
        if (on && !sk_is_inet(sk)) return -EOPNOTSUPP;
        sk.__sk_common.skc_reuseport = on;
        // Linux takes it when the socket is made; nothing but reuseport groups looks at it.
        if (on) sk.sk_uid = static_cast<i32>(raw_syscall(SYS_geteuid));
        return 0;
    case SO_DONTROUTE: sock_set_flag(sk, SOCK_LOCALROUTE, on); return 0;
    case SO_BROADCAST: sock_set_flag(sk, SOCK_BROADCAST, on); return 0;
    case SO_SNDBUF:
        // Don't error on this: BSD doesn't, and if you think about it this is right. Otherwise apps have
        // to play 'guess the biggest size' games. RCVBUF/SNDBUF are treated in BSD as hints.
        set_sndbuf(sk, static_cast<int>(
                           min_of(static_cast<u32>(val), static_cast<u32>(sysctl_wmem_max()))));
        return 0;
    case SO_SNDBUFFORCE:
        if (!net_capable(CAP_NET_ADMIN)) return -EPERM;
        set_sndbuf(sk,
                   max_of(val, 0)); // no negative values (to prevent underflow, as val is doubled)
        return 0;
    case SO_RCVBUF:
        set_rcvbuf(sk, static_cast<int>(
                           min_of(static_cast<u32>(val), static_cast<u32>(sysctl_rmem_max()))));
        return 0;
    case SO_RCVBUFFORCE:
        if (!net_capable(CAP_NET_ADMIN)) return -EPERM;
        set_rcvbuf(sk, max_of(val, 0));
        return 0;
    case SO_KEEPALIVE:
        if (sk_prot(sk).keepalive) sk_prot(sk).keepalive(sk, on);
        sock_set_flag(sk, SOCK_KEEPOPEN, on);
        return 0;
    case SO_OOBINLINE: sock_set_flag(sk, SOCK_URGINLINE, on); return 0;
    case SO_NO_CHECK: sk.sk_no_check_tx = on; return 0;
    case SO_LINGER: {
        linger ling;
        if (optlen < sizeof ling) return -EINVAL; // 1003.1g
        if (get_user(ling, optval)) return -EFAULT;
        if (ling.l_onoff) {
            // Negative times are unsigned ones: longer than anybody waits.
            sk.sk_lingertime_s = ling.l_linger < 0 ? INT_MAX : ling.l_linger;
        }
        sock_set_flag(sk, SOCK_LINGER, ling.l_onoff != 0);
        return 0;
    }
    case SO_BSDCOMPAT: return 0;
    case SO_TIMESTAMP_OLD:
    case SO_TIMESTAMP_NEW:
    case SO_TIMESTAMPNS_OLD:
    case SO_TIMESTAMPNS_NEW: set_timestamp(sk, optname, on); return 0;
    case SO_TIMESTAMPING_OLD:
    case SO_TIMESTAMPING_NEW: {
        struct {
            int flags;
            int bind_phc;
        } ts{val, 0};
        if (optlen == sizeof ts && get_user(ts, optval)) return -EFAULT;
        return set_timestamping(sk, optname, static_cast<u32>(ts.flags), ts.bind_phc);
    }
    case SO_RCVLOWAT:
        if (val < 0) val = INT_MAX;
        if (sk_is_tcp(sk)) { // tcp_set_rcvlowat
            const int cap = sk.sk_userlocks & SOCK_RCVBUF_LOCK ? sk.sk_rcvbuf >> 1
                                                               : sk_prot(sk).sysctl_rmem[2] >> 1;
            val = min_of(val, cap);
        }
        sk.sk_rcvlowat = val ? val : 1;
        sk_data_ready(sk); // what waits may be enough now
        return 0;
    case SO_RCVTIMEO_OLD:
    case SO_RCVTIMEO_NEW: return set_timeout(sk.sk_rcvtimeo_us, optval, optlen);
    case SO_SNDTIMEO_OLD:
    case SO_SNDTIMEO_NEW: return set_timeout(sk.sk_sndtimeo_us, optval, optlen);
    case SO_DETACH_FILTER: // and SO_DETACH_BPF
        if (sock_flag(sk, SOCK_FILTER_LOCKED)) return -EPERM;
        return -ENOENT; // none is attached
    case SO_LOCK_FILTER:
        if (sock_flag(sk, SOCK_FILTER_LOCKED) && !on) return -EPERM;
        sock_set_flag(sk, SOCK_FILTER_LOCKED, on);
        return 0;
    case SO_DETACH_REUSEPORT_BPF: return -ENOENT;
    case SO_MARK:
        if (!net_capable(CAP_NET_RAW) && !net_capable(CAP_NET_ADMIN)) return -EPERM;
        sk.sk_mark = static_cast<u32>(val);
        return 0;
    case SO_RCVMARK:
        if (!net_capable(CAP_NET_RAW) && !net_capable(CAP_NET_ADMIN)) return -EPERM;
        sock_set_flag(sk, SOCK_RCVMARK, on);
        return 0;
    case SO_RCVPRIORITY:
        if (kernel_version() < 6014) return -ENOPROTOOPT;
        sock_set_flag(sk, SOCK_RCVPRIORITY, on);
        return 0;
    case SO_RXQ_OVFL: sock_set_flag(sk, SOCK_RXQ_OVFL, on); return 0;
    case SO_WIFI_STATUS: sock_set_flag(sk, SOCK_WIFI_STATUS, on); return 0;
    case SO_NOFCS: sock_set_flag(sk, SOCK_NOFCS, on); return 0;
    case SO_SELECT_ERR_QUEUE: sock_set_flag(sk, SOCK_SELECT_ERR_QUEUE, on); return 0;
    case SO_INCOMING_CPU: sk.sk_incoming_cpu = val; return 0;
    case SO_CNX_ADVICE: return 0; // 1: look for another route; there is one
    case SO_ZEROCOPY:
        if (!sk_is_tcp(sk) && !sk_is_udp(sk)) return -EOPNOTSUPP;
        if (val < 0 || val > 1) return -EINVAL;
        sock_set_flag(sk, SOCK_ZEROCOPY, on);
        return 0;
    case SO_TXTIME: {
        sock_txtime txtime;
        if (optlen != sizeof txtime) return -EINVAL;
        if (get_user(txtime, optval)) return -EFAULT;
        if (txtime.flags & ~static_cast<u32>(SOF_TXTIME_FLAGS_MASK)) return -EINVAL;
        // CLOCK_MONOTONIC is only used by sch_fq, and this packet scheduler has enough safeguards.
        if (txtime.clockid != CLOCK_MONOTONIC && !net_capable(CAP_NET_ADMIN)) return -EPERM;
        sock_set_flag(sk, SOCK_TXTIME, true);
        sk.sk_txtime_clockid = txtime.clockid;
        sk.sk_txtime_flags = static_cast<u8>(txtime.flags);
        return 0;
    }
    case SO_BINDTOIFINDEX: return bind_to_index(sk, val);
    case SO_BUF_LOCK:
        if (val & ~SOCK_BUF_LOCK_BITS) return -EINVAL;
        sk.sk_userlocks = static_cast<u8>(val | (sk.sk_userlocks & ~SOCK_BUF_LOCK_BITS));
        return 0;
    case SO_RESERVE_MEM: return val < 0 ? -EINVAL : -EOPNOTSUPP;
    case SO_PASSCRED:
    case SO_PASSSEC:
    case SO_PASSPIDFD:
    case SO_PASSRIGHTS:
        // They belong to AF_UNIX and its like. Older kernels took SO_PASSCRED from anybody.
        return kernel_version() >= 6016 ? -EOPNOTSUPP : -ENOPROTOOPT;
    default: return -ENOPROTOOPT;
    }
}

} // namespace

int sock_setsockopt(socket& sock, int, int optname, const void* optval, u32 optlen) {
    trace_way("sock_setsockopt");
    struct sock* sk = socket_sk(sock);
    if (!sk) return -EBADF;
    if (optname == SO_BINDTODEVICE) return set_bind_to_device(*sk, optval, optlen);

    int val;
    if (static_cast<int>(optlen) < static_cast<int>(sizeof val)) return -EINVAL;
    if (get_user(val, optval)) return -EFAULT;

    if (optname == SO_PASSCRED && kernel_version() < 6016) {
        if (val) {
            sock.flags.fetch_or(SOCKF_PASSCRED);
        } else {
            sock.flags.fetch_and(~SOCKF_PASSCRED);
        }
        return 0;
    }
    bool taken = false;
    int err = set_unlocked(sock, *sk, optname, val, optval, optlen, &taken);
    if (taken) return err;
    lock_sock(*sk);
    err = set_locked(*sk, optname, val, optval, optlen);
    release_sock(*sk);
    return err;
}

namespace {

// Bytes that await the program's reading or the peer's acknowledgement, for SO_MEMINFO.
u32 ask_bytes(sock& sk, unsigned cmd) {
    int bytes = 0;
    if (!sk_prot(sk).ioctl ||
        sk_prot(sk).ioctl(sk, cmd, reinterpret_cast<unsigned long>(&bytes)) != 0) {
        return 0;
    }
    return static_cast<u32>(max_of(bytes, 0));
}

union option_value {
    int val;
    u32 u;
    u64 val64;
    linger ling;
    struct {
        i64 sec;
        i64 usec;
    } tv;
    struct {
        i32 pid;
        u32 uid;
        u32 gid;
    } cred;
    u32 meminfo[9];
    sock_txtime txtime;
    struct {
        int flags;
        int bind_phc;
    } timestamping;
};

} // namespace

int sock_getsockopt(socket& sock, int, int optname, void* optval, u32* optlen) {
    trace_way("sock_getsockopt");
    struct sock* found = socket_sk(sock);
    if (!found) return -EBADF;
    struct sock& sk = *found;
    int len;
    if (get_user(len, optlen)) return -EFAULT;
    if (len < 0) return -EINVAL;

    option_value v{};
    __builtin_memset(static_cast<void*>(&v), 0, sizeof v);
    int lv = sizeof(int);
    switch (optname) {
    case SO_DEBUG: v.val = sock_flag(sk, SOCK_DBG); break;
    case SO_DONTROUTE: v.val = sock_flag(sk, SOCK_LOCALROUTE); break;
    case SO_BROADCAST: v.val = sock_flag(sk, SOCK_BROADCAST); break;
    case SO_SNDBUF: v.val = sk.sk_sndbuf; break;
    case SO_RCVBUF: v.val = sk.sk_rcvbuf; break;
    case SO_REUSEADDR: v.val = sk.__sk_common.skc_reuse; break;
    case SO_REUSEPORT: v.val = sk.__sk_common.skc_reuseport; break;
    case SO_KEEPALIVE: v.val = sock_flag(sk, SOCK_KEEPOPEN); break;
    case SO_TYPE: v.val = sk.sk_type; break;
    case SO_PROTOCOL: v.val = sk.sk_protocol; break;
    case SO_DOMAIN: v.val = sk_family(sk); break;
    case SO_ERROR:
        kernel_half_error(sk);
        v.val = -sock_error(sk);
        if (v.val == 0) v.val = __atomic_exchange_n(&sk.sk_err_soft, 0, __ATOMIC_SEQ_CST);
        break;
    case SO_OOBINLINE: v.val = sock_flag(sk, SOCK_URGINLINE); break;
    case SO_NO_CHECK: v.val = sk.sk_no_check_tx; break;
    case SO_PRIORITY: v.u = sk.sk_priority; break;
    case SO_LINGER:
        lv = sizeof v.ling;
        v.ling.l_onoff = sock_flag(sk, SOCK_LINGER);
        v.ling.l_linger = sk.sk_lingertime_s;
        break;
    case SO_BSDCOMPAT: break;
    case SO_TIMESTAMP_OLD:
        v.val = sock_flag(sk, SOCK_TIMESTAMP) && !sock_flag(sk, SOCK_TSTAMP_NEW) &&
                !sock_flag(sk, SOCK_RCVTSTAMPNS);
        break;
    case SO_TIMESTAMPNS_OLD:
        v.val = sock_flag(sk, SOCK_RCVTSTAMPNS) && !sock_flag(sk, SOCK_TSTAMP_NEW);
        break;
    case SO_TIMESTAMP_NEW:
        v.val = sock_flag(sk, SOCK_TIMESTAMP) && sock_flag(sk, SOCK_TSTAMP_NEW);
        break;
    case SO_TIMESTAMPNS_NEW:
        v.val = sock_flag(sk, SOCK_RCVTSTAMPNS) && sock_flag(sk, SOCK_TSTAMP_NEW);
        break;
    case SO_TIMESTAMPING_OLD:
    case SO_TIMESTAMPING_NEW:
        lv = sizeof v.timestamping;
        // The later-added case only: one whose flags are told by the option that set them.
        if (optname == SO_TIMESTAMPING_OLD || sock_flag(sk, SOCK_TSTAMP_NEW)) {
            v.timestamping.flags = static_cast<int>(sk.sk_tsflags);
            v.timestamping.bind_phc = sk.sk_bind_phc < 0 ? 0 : sk.sk_bind_phc;
        }
        break;
    case SO_RCVTIMEO_OLD:
    case SO_RCVTIMEO_NEW:
    case SO_SNDTIMEO_OLD:
    case SO_SNDTIMEO_NEW: {
        lv = sizeof v.tv;
        const bool rcv = optname == SO_RCVTIMEO_OLD || optname == SO_RCVTIMEO_NEW;
        const i64 timeo = rcv ? sk.sk_rcvtimeo_us : sk.sk_sndtimeo_us;
        if (timeo > 0) {
            v.tv.sec = timeo / 1000000;
            v.tv.usec = timeo % 1000000;
        }
        break;
    }
    case SO_RCVLOWAT: v.val = sk.sk_rcvlowat; break;
    case SO_SNDLOWAT: v.val = 1; break;
    case SO_PASSCRED:
        if (kernel_version() >= 6016) return -EOPNOTSUPP;
        v.val = (sock.flags.load() & SOCKF_PASSCRED) != 0;
        break;
    case SO_PASSSEC:
        if (kernel_version() >= 6016) return -EOPNOTSUPP;
        break;
    case SO_PASSPIDFD:
        if (kernel_version() >= 6016) return -EOPNOTSUPP;
        if (kernel_version() < 6005) return -ENOPROTOOPT;
        break;
    case SO_PASSRIGHTS: return kernel_version() >= 6016 ? -EOPNOTSUPP : -ENOPROTOOPT;
    case SO_PEERCRED:
        // Nobody vouches for an internet peer: pid 0, uid and gid -1.
        v.cred.uid = v.cred.gid = ~0u;
        lv = sizeof v.cred;
        len = min_of(len, lv);
        if (copy_to_user(optval, &v.cred, static_cast<u32>(len))) return -EFAULT;
        return put_user(len, optlen) ? -EFAULT : 0;
    case SO_PEERPIDFD: return kernel_version() >= 6005 ? -ENODATA : -ENOPROTOOPT;
    case SO_PEERGROUPS: return -ENODATA;
    case SO_PEERNAME: {
        sockaddr_storage peer;
        lv = ops_of(sock.ops_id).getname(sock, &peer, 2);
        if (lv < 0) return -ENOTCONN;
        if (lv < len) return -EINVAL;
        if (copy_to_user(optval, &peer, static_cast<u32>(len))) return -EFAULT;
        return put_user(len, optlen) ? -EFAULT : 0;
    }
    // Dubious BSD thing... Probably nobody even uses it, but the UNIX standard wants it for whatever
    // reason... -DaveM
    case SO_ACCEPTCONN: v.val = sk_state(sk) == TCP_LISTEN; break;
    case SO_PEERSEC: return -ENOPROTOOPT; // no security module that labels
    case SO_MARK: v.u = sk.sk_mark; break;
    case SO_RCVMARK: v.val = sock_flag(sk, SOCK_RCVMARK); break;
    case SO_RCVPRIORITY:
        if (kernel_version() < 6014) return -ENOPROTOOPT;
        v.val = sock_flag(sk, SOCK_RCVPRIORITY);
        break;
    case SO_RXQ_OVFL: v.val = sock_flag(sk, SOCK_RXQ_OVFL); break;
    case SO_WIFI_STATUS: v.val = sock_flag(sk, SOCK_WIFI_STATUS); break;
    case SO_PEEK_OFF: v.val = sk.sk_peek_off; break;
    case SO_NOFCS: v.val = sock_flag(sk, SOCK_NOFCS); break;
    case SO_BINDTODEVICE: {
        const i32 bound = sk.__sk_common.skc_bound_dev_if;
        int name_len = 0;
        if (bound) {
            if (len < IFNAMSIZ) return -EINVAL;
            char name[IFNAMSIZ] = {};
            if (!dev_name_of_index(bound, name)) return -ENODEV;
            name_len = static_cast<int>(__builtin_strlen(name)) + 1;
            if (copy_to_user(optval, name, static_cast<u32>(name_len))) return -EFAULT;
        }
        return put_user(name_len, optlen) ? -EFAULT : 0;
    }
    case SO_GET_FILTER: // also SO_ATTACH_FILTER: its length, in instructions
        return put_user(0, optlen) ? -EFAULT : 0;
    case SO_LOCK_FILTER: v.val = sock_flag(sk, SOCK_FILTER_LOCKED); break;
    case SO_BPF_EXTENSIONS: v.val = SKF_AD_MAX; break;
    case SO_SELECT_ERR_QUEUE: v.val = sock_flag(sk, SOCK_SELECT_ERR_QUEUE); break;
    case SO_BUSY_POLL: v.u = sk.sk_ll_usec; break;
    case SO_PREFER_BUSY_POLL: v.val = sock_flag(sk, SOCK_PREFER_BUSY_POLL); break;
    case SO_MAX_PACING_RATE:
        // 64 bits for who has room for them, else capped to 32.
        if (static_cast<u32>(len) >= sizeof v.val64) {
            lv = sizeof v.val64;
            v.val64 = sk.sk_max_pacing_rate;
        } else {
            v.u = static_cast<u32>(min_of(sk.sk_max_pacing_rate, u64{0xffffffff}));
        }
        break;
    case SO_INCOMING_CPU: v.val = sk.sk_incoming_cpu; break;
    case SO_MEMINFO: {
        // sk_get_meminfo: rmem_alloc, rcvbuf, wmem_alloc, sndbuf, fwd_alloc, wmem_queued, optmem,
        // backlog, drops.
        const u32 unread = sk_state(sk) == TCP_LISTEN ? 0 : ask_bytes(sk, 0x541b /* SIOCINQ */);
        const u32 unsent = sk_state(sk) == TCP_LISTEN ? 0 : ask_bytes(sk, 0x5411 /* SIOCOUTQ */);
        v.meminfo[0] = unread;
        v.meminfo[1] = static_cast<u32>(sk.sk_rcvbuf);
        v.meminfo[2] = unsent;
        v.meminfo[3] = static_cast<u32>(sk.sk_sndbuf);
        v.meminfo[5] = unsent;
        v.meminfo[8] = sk.sk_drops.load();
        len = min_of(len, static_cast<int>(sizeof v.meminfo));
        if (copy_to_user(optval, v.meminfo, static_cast<u32>(len))) return -EFAULT;
        return put_user(len, optlen) ? -EFAULT : 0;
    }
    case SO_INCOMING_NAPI_ID: v.val = 0; break;
    case SO_COOKIE:
        lv = sizeof(u64);
        if (len < lv) return -EINVAL;
        v.val64 = (static_cast<u64>(sk.__sk_common.skc_cookie) << 20) | (sk_index(sk) + 1);
        break;
    case SO_NETNS_COOKIE:
        lv = sizeof(u64);
        if (len != lv) return -EINVAL;
        v.val64 = 1; // init_net's
        break;
    case SO_ZEROCOPY: v.val = sock_flag(sk, SOCK_ZEROCOPY); break;
    case SO_TXTIME:
        lv = sizeof v.txtime;
        v.txtime.clockid = sk.sk_txtime_clockid;
        v.txtime.flags = sk.sk_txtime_flags;
        break;
    case SO_BINDTOIFINDEX: v.val = sk.__sk_common.skc_bound_dev_if; break;
    case SO_BUF_LOCK: v.val = sk.sk_userlocks & SOCK_BUF_LOCK_BITS; break;
    case SO_RESERVE_MEM: v.val = 0; break;
    case SO_TXREHASH:
        if (!sk_is_tcp(sk)) return -EOPNOTSUPP;
        v.val = sk.sk_txrehash;
        break;
    default:
        // We implement the SO_SNDLOWAT etc to not be settable (1003.1g 7).
        return -ENOPROTOOPT;
    }

    len = min_of(len, lv);
    if (copy_to_user(optval, &v, static_cast<u32>(len))) return -EFAULT;
    return put_user(len, optlen) ? -EFAULT : 0;
}

} // namespace sockshim
