#include "core/inet/skb_wire.h"

#include <netinet/in.h>

#include "core/wire/icmp.h"
#include "core/wire/tcp.h"
#include "core/wire/udp.h"

namespace sockshim {
namespace {

u8 ttl_of(const sk_buff& skb) { return skb.ttl ? skb.ttl : u8{64}; }

wire::tcp_header to_wire(const tcp_header& h) {
    wire::tcp_header w{};
    w.source = h.source;
    w.dest = h.dest;
    w.seq = h.seq;
    w.ack = h.ack_seq;
    w.window = h.window;
    w.urg_ptr = h.urg_ptr;
    w.flags = h.flags;
    w.wscale = h.wscale;
    w.has_wscale = h.has_wscale;
    w.has_ts = h.has_ts;
    w.sack_permitted = h.sack_ok;
    w.num_sacks = min_of<u8>(h.num_sacks, 4);
    w.mss = h.mss;
    w.ts_val = h.ts_val;
    w.ts_ecr = h.ts_ecr;
    for (u8 i = 0; i < w.num_sacks; ++i) w.sacks[i] = {h.sacks[i].start_seq, h.sacks[i].end_seq};
    return w;
}

tcp_header from_wire(const wire::tcp_header& w) {
    tcp_header h{};
    h.source = w.source;
    h.dest = w.dest;
    h.seq = w.seq;
    h.ack_seq = w.ack;
    h.window = w.window;
    h.urg_ptr = w.urg_ptr;
    h.flags = w.flags;
    h.wscale = w.wscale;
    h.has_wscale = w.has_wscale;
    h.has_ts = w.has_ts;
    h.sack_ok = w.sack_permitted;
    h.num_sacks = w.num_sacks;
    h.mss = w.mss;
    h.ts_val = w.ts_val;
    h.ts_ecr = w.ts_ecr;
    for (u8 i = 0; i < h.num_sacks; ++i) h.sacks[i] = {w.sacks[i].start, w.sacks[i].end};
    return h;
}

void emit_ip(u8* to, be32 saddr, be32 daddr, u8 protocol, u8 ttl, u8 tos, bool df, u32 total) {
    wire::ipv4_header ip{};
    ip.saddr = ntohl(saddr);
    ip.daddr = ntohl(daddr);
    ip.total_len = static_cast<u16>(min_of<u32>(total, 0xffff));
    ip.frag = df ? wire::ipv4_df : 0;
    ip.tos = tos;
    ip.ttl = ttl;
    ip.protocol = protocol;
    wire::ipv4_emit(to, ip);
}

// The packet that an ICMP error is about, as far as the sk_buff remembers it: addresses, ports, sequence
// number. `room` bytes follow it.
u32 emit_quote(const icmp_header& h, u32 payload, u8* to) {
    using namespace wire;
    u8* t = to + ipv4_min_header;
    u32 transport = 0;
    switch (h.orig_protocol) {
    case IPPROTO_UDP:
        put16(t, h.orig_source);
        put16(t + 2, h.orig_dest);
        put16(t + 4, static_cast<u16>(udp_header_len + payload));
        put16(t + 6, 0);
        transport = udp_header_len;
        break;
    case IPPROTO_TCP:
        put16(t, h.orig_source);
        put16(t + 2, h.orig_dest);
        put32(t + 4, h.orig_seq);
        for (u32 i = 8; i < tcp_min_header; ++i) t[i] = 0;
        t[12] = 5 << 4;
        transport = tcp_min_header;
        break;
    case IPPROTO_ICMP:
        icmp_emit(t, {icmp_echo_request, 0, h.orig_source, h.orig_seq}, 0);
        transport = icmp_header_len;
        break;
    default: break;
    }
    emit_ip(to, h.orig_saddr, h.orig_daddr, h.orig_protocol, 64, 0, true,
            ipv4_min_header + transport + payload);
    return ipv4_min_header + transport;
}

} // namespace

u32 skb_emit_headers(const sk_buff& skb, u8 (&out)[skb_wire_max]) {
    using namespace wire;
    const u32 payload = skb.payload();
    const u64 sum = csum_pieces(skb.data, skb.len, skb.data2, skb.len2);
    u8* t = out + ipv4_min_header;
    u32 transport = 0;
    switch (skb.protocol) {
    case IPPROTO_TCP:
        transport = tcp_emit(t, to_wire(skb.tcp), ntohl(skb.saddr), ntohl(skb.daddr), sum, payload);
        break;
    case IPPROTO_UDP:
        udp_emit(t, skb.udp.source, skb.udp.dest, ntohl(skb.saddr), ntohl(skb.daddr), sum, payload);
        transport = udp_header_len;
        break;
    case IPPROTO_ICMP: {
        const icmp_message m{skb.icmp.type, skb.icmp.code, skb.icmp.id, skb.icmp.info};
        transport = icmp_header_len;
        u64 all = sum;
        if (icmp_is_error(m.type)) {
            const u32 quote = emit_quote(skb.icmp, payload, t + icmp_header_len);
            all = csum_add(all, t + icmp_header_len, quote); // of even length
            transport += quote;
        }
        icmp_emit(t, m, all);
        break;
    }
    default: break;
    }
    emit_ip(out, skb.saddr, skb.daddr, skb.protocol, ttl_of(skb), skb.tos, skb.ip_flags,
            ipv4_min_header + transport + payload);
    return ipv4_min_header + transport;
}

bool skb_parse_transport(const u8* data, u32 n, sk_buff& skb, bool verify) {
    using namespace wire;
    const u32 saddr = ntohl(skb.saddr), daddr = ntohl(skb.daddr);
    u32 header = 0;
    skb.data2 = nullptr;
    skb.len2 = 0;
    switch (skb.protocol) {
    case IPPROTO_TCP: {
        wire::tcp_header h;
        if (tcp_parse(data, n, saddr, daddr, h, verify) != tcp_verdict::ok) return false;
        skb.tcp = from_wire(h);
        header = h.header_len;
        break;
    }
    case IPPROTO_UDP: {
        wire::udp_header h;
        if (udp_parse(data, n, saddr, daddr, h, verify) != udp_verdict::ok) return false;
        skb.udp = {h.source, h.dest};
        header = udp_header_len;
        n = h.len;
        break;
    }
    case IPPROTO_ICMP: {
        icmp_message m;
        if (icmp_parse(data, n, m, verify) != icmp_verdict::ok) return false;
        skb.icmp = {};
        skb.icmp.type = m.type;
        skb.icmp.code = m.code;
        skb.icmp.id = m.id;
        skb.icmp.info = m.info;
        header = icmp_header_len;
        icmp_quote q;
        if (!icmp_is_error(m.type)) break;
        if (!icmp_parse_quote(data + header, n - header, q)) return false;
        skb.icmp.orig_protocol = q.ip.protocol;
        skb.icmp.orig_saddr = htonl(q.ip.saddr);
        skb.icmp.orig_daddr = htonl(q.ip.daddr);
        header += q.ip.header_len;
        if (q.ip.protocol == IPPROTO_ICMP) {
            skb.icmp.orig_source = get16(q.transport + 4);
            skb.icmp.orig_seq = get16(q.transport + 6);
            header += icmp_header_len;
        } else if (q.ip.protocol == IPPROTO_UDP || q.ip.protocol == IPPROTO_TCP) {
            skb.icmp.orig_source = get16(q.transport);
            skb.icmp.orig_dest = get16(q.transport + 2);
            if (q.ip.protocol == IPPROTO_TCP) {
                skb.icmp.orig_seq = get32(q.transport + 4);
                header += min_of(q.transport_len, tcp_min_header);
            } else {
                header += udp_header_len;
            }
        }
        break;
    }
    default: break;
    }
    skb.data = data + header;
    skb.len = n - header;
    return true;
}

bool skb_parse(const u8* data, u32 n, sk_buff& skb, bool verify) {
    wire::ipv4_header ip;
    if (wire::ipv4_parse(data, n, ip, verify) != wire::ip_verdict::ok) return false;
    if (ip.frag & (wire::ipv4_mf | wire::ipv4_offset_mask)) return false;
    skb = {};
    skb.saddr = htonl(ip.saddr);
    skb.daddr = htonl(ip.daddr);
    skb.protocol = ip.protocol;
    skb.ttl = ip.ttl;
    skb.tos = ip.tos;
    skb.ip_flags = (ip.frag & wire::ipv4_df) != 0;
    return skb_parse_transport(data + ip.header_len, u32{ip.total_len} - ip.header_len, skb,
                               verify);
}

} // namespace sockshim
