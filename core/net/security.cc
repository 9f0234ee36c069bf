#include "core/net/security.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "core/base/config.h"

namespace sockshim {

constinit const security_operations* security_ops = nullptr;
constinit a8 security_ready{};

namespace {

enum deny_call : u8 {
    DENY_CREATE,
    DENY_POST_CREATE,
    DENY_SOCKETPAIR,
    DENY_BIND,
    DENY_CONNECT,
    DENY_LISTEN,
    DENY_ACCEPT,
    DENY_SENDMSG,
    DENY_RECVMSG,
    DENY_GETSOCKNAME,
    DENY_GETPEERNAME,
    DENY_GETSOCKOPT,
    DENY_SETSOCKOPT,
    DENY_SHUTDOWN,
    DENY_CALLS,
};
constexpr const char* deny_names[DENY_CALLS] = {
    "socket",  "post_create", "socketpair",  "bind",        "connect",    "listen",     "accept",
    "sendmsg", "recvmsg",     "getsockname", "getpeername", "getsockopt", "setsockopt", "shutdown"};

constinit int denied[DENY_CALLS]{};

int deny_create(int, int, int, int) { return -denied[DENY_CREATE]; }
int deny_post_create(socket&, int, int, int, int) { return -denied[DENY_POST_CREATE]; }
int deny_socketpair(socket&, socket&) { return -denied[DENY_SOCKETPAIR]; }
int deny_bind(socket&, const sockaddr*, u32) { return -denied[DENY_BIND]; }
int deny_connect(socket&, const sockaddr*, u32) { return -denied[DENY_CONNECT]; }
int deny_listen(socket&, int) { return -denied[DENY_LISTEN]; }
int deny_accept(socket&, socket&) { return -denied[DENY_ACCEPT]; }
int deny_sendmsg(socket&, const msghdr_iter&, u64) { return -denied[DENY_SENDMSG]; }
int deny_recvmsg(socket&, const msghdr_iter&, u64, int) { return -denied[DENY_RECVMSG]; }
int deny_getsockname(socket&) { return -denied[DENY_GETSOCKNAME]; }
int deny_getpeername(socket&) { return -denied[DENY_GETPEERNAME]; }
int deny_getsockopt(socket&, int, int) { return -denied[DENY_GETSOCKOPT]; }
int deny_setsockopt(socket&, int, int) { return -denied[DENY_SETSOCKOPT]; }
int deny_shutdown(socket&, int) { return -denied[DENY_SHUTDOWN]; }

constinit const security_operations deny_ops = {
    .name = "SOCKSHIM_DENY",
    .socket_create = deny_create,
    .socket_post_create = deny_post_create,
    .socket_socketpair = deny_socketpair,
    .socket_bind = deny_bind,
    .socket_connect = deny_connect,
    .socket_listen = deny_listen,
    .socket_accept = deny_accept,
    .socket_sendmsg = deny_sendmsg,
    .socket_recvmsg = deny_recvmsg,
    .socket_getsockname = deny_getsockname,
    .socket_getpeername = deny_getpeername,
    .socket_getsockopt = deny_getsockopt,
    .socket_setsockopt = deny_setsockopt,
    .socket_shutdown = deny_shutdown,
};

// "EACCES" or "13"; 0: neither.
int errno_by_name(const char* text, std::size_t len) {
    char name[32];
    if (len == 0 || len >= sizeof name) return 0;
    memcpy(name, text, len);
    name[len] = 0;
    char* end;
    const long number = strtol(name, &end, 10);
    if (*end == 0) return number > 0 && number < 4096 ? static_cast<int>(number) : 0;
    for (int e = 1; e < 134; ++e) {
        const char* known = strerrorname_np(e);
        if (known && strcmp(known, name) == 0) return e;
    }
    return 0;
}

bool parse_entry(const char* text, std::size_t len) {
    const auto* colon = static_cast<const char*>(memchr(text, ':', len));
    if (!colon) return false;
    const auto call_len = static_cast<std::size_t>(colon - text);
    const int err = errno_by_name(colon + 1, len - call_len - 1);
    if (!err) return false;
    for (int call = 0; call < DENY_CALLS; ++call) {
        if (strlen(deny_names[call]) == call_len && memcmp(deny_names[call], text, call_len) == 0) {
            denied[call] = err;
            return true;
        }
    }
    return false;
}

} // namespace

const security_operations* security_deny_policy(const char* spec) {
    if (!spec || !*spec) return nullptr;
    memset(denied, 0, sizeof denied);
    bool any = false;
    while (*spec) {
        const std::size_t len = strcspn(spec, ",");
        if (len) {
            if (parse_entry(spec, len)) {
                any = true;
            } else {
                char entry[64];
                const std::size_t n = min_of(len, sizeof entry - 1);
                memcpy(entry, spec, n);
                entry[n] = 0;
                notice("SOCKSHIM_DENY: `%s` is not call:ERRNO; ignored", entry);
            }
        }
        spec += len;
        if (*spec == ',') ++spec;
    }
    return any ? &deny_ops : nullptr;
}

const security_operations* security_ops_slow() {
    // Two threads may both parse: they write the same values.
    const security_operations* policy = security_deny_policy(config().deny);
    const security_operations* expected = nullptr;
    if (policy) {
        __atomic_compare_exchange_n(&security_ops, &expected, policy, false, __ATOMIC_SEQ_CST,
                                    __ATOMIC_ACQUIRE);
    }
    security_ready.store(1);
    return security_ops;
}

int security_register(const security_operations& ops) {
    security_policy();
    const security_operations* expected = nullptr;
    return __atomic_compare_exchange_n(&security_ops, &expected, &ops, false, __ATOMIC_SEQ_CST,
                                       __ATOMIC_ACQUIRE)
               ? 0
               : -EBUSY;
}

void security_unregister(const security_operations& ops) {
    const security_operations* expected = &ops;
    __atomic_compare_exchange_n(&security_ops, &expected,
                                static_cast<const security_operations*>(nullptr), false,
                                __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE);
}

} // namespace sockshim
