#include "core/wire/tcp.h"

namespace sockshim::wire {

static void parse_options(const u8* p, std::size_t n, tcp_header& out) {
    while (n) {
        const u8 kind = p[0];
        if (kind == tcpopt_eol) return;
        if (kind == tcpopt_nop) {
            ++p;
            --n;
            continue;
        }
        if (n < 2 || p[1] < 2 || p[1] > n) return;
        const u8 len = p[1];
        switch (kind) {
        case tcpopt_mss:
            if (len == 4) out.mss = get16(p + 2);
            break;
        case tcpopt_window:
            if (len == 3) {
                out.has_wscale = true;
                out.wscale = min_of(p[2], tcp_max_wscale); // RFC 7323, 2.3
            }
            break;
        case tcpopt_sack_perm:
            if (len == 2) out.sack_permitted = true;
            break;
        case tcpopt_sack:
            if (len >= 10 && (len - 2) % 8 == 0) {
                const u8 blocks = static_cast<u8>(min_of((len - 2) / 8, 4));
                out.num_sacks = blocks;
                for (u8 i = 0; i < blocks; ++i) {
                    out.sacks[i] = {get32(p + 2 + 8 * i), get32(p + 6 + 8 * i)};
                }
            }
            break;
        case tcpopt_timestamp:
            if (len == 10) {
                out.has_ts = true;
                out.ts_val = get32(p + 2);
                out.ts_ecr = get32(p + 6);
            }
            break;
        default: break;
        }
        p += len;
        n -= len;
    }
}

tcp_verdict tcp_parse(const u8* data, std::size_t n, u32 saddr, u32 daddr, tcp_header& out,
                      bool verify_checksum) {
    if (n < tcp_min_header) return tcp_verdict::too_short;
    out = {};
    out.header_len = static_cast<u8>((data[12] >> 4) * 4);
    if (out.header_len < tcp_min_header || out.header_len > n) return tcp_verdict::bad_header_len;
    if (verify_checksum &&
        csum_fold(csum_add(csum_pseudo(saddr, daddr, 6, static_cast<u32>(n)), data, n))) {
        return tcp_verdict::bad_checksum;
    }
    out.source = get16(data);
    out.dest = get16(data + 2);
    out.seq = get32(data + 4);
    out.ack = get32(data + 8);
    out.flags = data[13];
    out.window = get16(data + 14);
    out.urg_ptr = get16(data + 18);
    parse_options(data + tcp_min_header, out.header_len - tcp_min_header, out);
    return tcp_verdict::ok;
}

namespace {

struct option_plan {
    u32 bytes; // of options, padded
    u8 sacks;
};

// Each option is padded to four bytes with NOPs in front, Linux's layout.
option_plan plan(const tcp_header& h) {
    u32 bytes = 0;
    if (h.mss) bytes += 4;
    if (h.sack_permitted && !h.has_ts) bytes += 4; // with timestamps it takes their NOPs' place
    if (h.has_ts) bytes += 12;
    if (h.has_wscale) bytes += 4;
    const u32 room = tcp_max_header - tcp_min_header - bytes;
    const u32 fit = room >= 12 ? (room - 4) / 8 : 0;
    const u8 sacks = static_cast<u8>(min_of<u32>(min_of<u32>(h.num_sacks, 4), fit));
    if (sacks) bytes += 4 + 8u * sacks;
    return {bytes, sacks};
}

} // namespace

u32 tcp_header_bytes(const tcp_header& h) { return tcp_min_header + plan(h).bytes; }

u32 tcp_emit(u8* data, const tcp_header& h, u32 saddr, u32 daddr, u64 payload_sum, std::size_t n) {
    const option_plan options = plan(h);
    const u32 header = tcp_min_header + options.bytes;
    put16(data, h.source);
    put16(data + 2, h.dest);
    put32(data + 4, h.seq);
    put32(data + 8, h.ack);
    data[12] = static_cast<u8>(header / 4 << 4);
    data[13] = h.flags;
    put16(data + 14, h.window);
    put16(data + 16, 0);
    put16(data + 18, h.urg_ptr);
    u8* p = data + tcp_min_header;
    if (h.mss) {
        p[0] = tcpopt_mss;
        p[1] = 4;
        put16(p + 2, h.mss);
        p += 4;
    }
    if (h.sack_permitted && !h.has_ts) {
        p[0] = p[1] = tcpopt_nop;
        p[2] = tcpopt_sack_perm;
        p[3] = 2;
        p += 4;
    }
    if (h.has_ts) {
        p[0] = h.sack_permitted ? tcpopt_sack_perm : tcpopt_nop;
        p[1] = h.sack_permitted ? 2 : tcpopt_nop;
        p[2] = tcpopt_timestamp;
        p[3] = 10;
        put32(p + 4, h.ts_val);
        put32(p + 8, h.ts_ecr);
        p += 12;
    }
    if (h.has_wscale) {
        p[0] = tcpopt_nop;
        p[1] = tcpopt_window;
        p[2] = 3;
        p[3] = min_of(h.wscale, tcp_max_wscale);
        p += 4;
    }
    if (options.sacks) {
        p[0] = p[1] = tcpopt_nop;
        p[2] = tcpopt_sack;
        p[3] = static_cast<u8>(2 + 8 * options.sacks);
        p += 4;
        for (u8 i = 0; i < options.sacks; ++i, p += 8) {
            put32(p, h.sacks[i].start);
            put32(p + 4, h.sacks[i].end);
        }
    }
    const u64 sum = csum_pseudo(saddr, daddr, 6, header + static_cast<u32>(n));
    put16(data + 16, csum_fold(csum_add(sum + payload_sum, data, header)));
    return header;
}

} // namespace sockshim::wire
