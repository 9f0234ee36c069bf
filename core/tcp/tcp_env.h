// What TCP needs from outside: the time, and somewhere to put packets (sans-I/O). The stack's own
// environment (core/inet/tcp_ipv4.cc) reads the clock and sends through IP; the tests' environment is a
// simulated clock and link.
#pragma once
#include "core/net/sk_buff.h"
#include "core/net/sock.h"

namespace sockshim {

struct tcp_env {
    u64 now_us;
    // Takes the packet (borrowed payload: copy it before returning). 0 or -errno (-ENOBUFS: lost locally).
    int (*queue_xmit)(tcp_env& env, const sk_buff& skb);
    u32 (*secure_isn)(tcp_env& env, be32 saddr, be32 daddr, u16 sport, u16 dport); // RFC 6528
    void* priv;
    sock* sk; // whose packet queue_xmit gets; null: an answer to a packet that met no sock
};

// The environment of this thread with the time of now: the real one, unless a test has put its own.
tcp_env& this_tcp_env();
extern constinit thread_local tcp_env* tcp_env_of_test;

} // namespace sockshim
