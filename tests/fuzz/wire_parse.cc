// libFuzzer: arbitrary bytes through every parser of core/wire; what parses is emitted and must parse
// to the same again.
#include <cstdlib>
#include <cstring>

#include "core/wire/icmp.h"
#include "core/wire/ipv4.h"
#include "core/wire/tcp.h"
#include "core/wire/udp.h"

using namespace sockshim;
using namespace sockshim::wire;

static void check(bool ok) {
    if (!ok) abort();
}

static void tcp(const u8* data, std::size_t n) {
    wire::tcp_header h, again;
    if (tcp_parse(data, n, 1, 2, h, false) != tcp_verdict::ok) return;
    check(h.header_len <= n);
    u8 out[tcp_max_header];
    const u32 len = tcp_emit(out, h, 1, 2, 0, 0);
    check(len <= sizeof out && len == tcp_header_bytes(h));
    check(tcp_parse(out, len, 1, 2, again) == tcp_verdict::ok);
    check(again.seq == h.seq && again.ack == h.ack && again.flags == h.flags &&
          again.mss == h.mss && again.has_ts == h.has_ts && again.has_wscale == h.has_wscale &&
          again.num_sacks <= h.num_sacks);
}

static void udp(const u8* data, std::size_t n) {
    wire::udp_header h;
    if (udp_parse(data, n, 1, 2, h, false) != udp_verdict::ok) return;
    check(h.len >= udp_header_len && h.len <= n);
}

static void icmp(const u8* data, std::size_t n) {
    icmp_message m, again;
    if (icmp_parse(data, n, m, false) != icmp_verdict::ok) return;
    u8 out[icmp_header_len];
    icmp_emit(out, m, 0);
    check(icmp_parse(out, sizeof out, again) == icmp_verdict::ok);
    check(again.type == m.type && again.info == m.info);
    icmp_quote q;
    if (icmp_parse_quote(data + icmp_header_len, n - icmp_header_len, q)) {
        check(q.transport + q.transport_len <= data + n && q.transport_len >= 8);
    }
}

extern "C" int LLVMFuzzerTestOneInput(const u8* data, std::size_t n) {
    ipv4_header ip;
    if (ipv4_parse(data, n, ip, false) == ip_verdict::ok) {
        check(ip.header_len <= ip.total_len && ip.total_len <= n);
        tcp(data + ip.header_len, ip.total_len - ip.header_len);
        udp(data + ip.header_len, ip.total_len - ip.header_len);
        icmp(data + ip.header_len, ip.total_len - ip.header_len);
    }
    tcp(data, n);
    udp(data, n);
    icmp(data, n);
    return 0;
}
