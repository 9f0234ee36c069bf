// core/wire: header bytes both ways, and the checksums.
#include <catch2/catch.hpp>

#include <cstring>
#include <random>
#include <vector>

#include "core/wire/icmp.h"
#include "core/wire/ipv4.h"
#include "core/wire/tcp.h"
#include "core/wire/udp.h"

using namespace sockshim;
using namespace sockshim::wire;

TEST_CASE("wire checksum is RFC 1071's", "[wire]") {
    // The RFC's own example, section 3.
    const u8 example[] = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};
    CHECK(checksum(example, sizeof example) == static_cast<u16>(~0xddf2));
    static_assert(csum_fold(0xffff) == 0);

    std::mt19937 rng(1);
    std::vector<u8> bytes(257);
    for (auto& b : bytes) b = static_cast<u8>(rng());
    const u16 whole = checksum(bytes.data(), bytes.size());
    for (std::size_t cut = 0; cut <= bytes.size(); ++cut) {
        CHECK(csum_fold(csum_pieces(bytes.data(), cut, bytes.data() + cut, bytes.size() - cut)) ==
              whole);
    }
}

TEST_CASE("wire ipv4 header goes out and comes back", "[wire]") {
    const ipv4_header h{0x7f000001, 0x7f000002, 84, 7, ipv4_df, 20, 0x10, 63, 17};
    u8 bytes[84] = {};
    ipv4_emit(bytes, h);
    // An independent packet: what Linux sends for these fields.
    CHECK(bytes[0] == 0x45);
    CHECK(checksum(bytes, 20) == 0);
    ipv4_header back{};
    REQUIRE(ipv4_parse(bytes, sizeof bytes, back) == ip_verdict::ok);
    CHECK(back.saddr == h.saddr);
    CHECK(back.daddr == h.daddr);
    CHECK(back.total_len == h.total_len);
    CHECK(back.id == h.id);
    CHECK(back.frag == h.frag);
    CHECK(back.tos == h.tos);
    CHECK(back.ttl == h.ttl);
    CHECK(back.protocol == h.protocol);

    CHECK(ipv4_parse(bytes, 19, back) == ip_verdict::too_short);
    CHECK(ipv4_parse(bytes, 83, back) == ip_verdict::bad_total_len);
    bytes[8] = 1;
    CHECK(ipv4_parse(bytes, sizeof bytes, back) == ip_verdict::bad_checksum);
    bytes[0] = 0x44;
    CHECK(ipv4_parse(bytes, sizeof bytes, back) == ip_verdict::bad_header_len);
    bytes[0] = 0x4f;
    CHECK(ipv4_parse(bytes, 40, back) == ip_verdict::bad_header_len);
    bytes[0] = 0x65;
    CHECK(ipv4_parse(bytes, sizeof bytes, back) == ip_verdict::not_v4);
}

TEST_CASE("wire udp header", "[wire]") {
    const u8 payload[] = {'a', 'b', 'c'};
    u8 bytes[11];
    std::memcpy(bytes + 8, payload, 3);
    udp_emit(bytes, 1000, 53, 0x7f000001, 0x7f000001, csum_add(0, payload, 3), 3);
    wire::udp_header h{};
    REQUIRE(udp_parse(bytes, sizeof bytes, 0x7f000001, 0x7f000001, h) == udp_verdict::ok);
    CHECK(h.source == 1000);
    CHECK(h.dest == 53);
    CHECK(h.len == 11);
    CHECK(h.check != 0);
    bytes[10] ^= 1;
    CHECK(udp_parse(bytes, sizeof bytes, 0x7f000001, 0x7f000001, h) == udp_verdict::bad_checksum);
    put16(bytes + 6, 0); // no checksum
    CHECK(udp_parse(bytes, sizeof bytes, 0x7f000001, 0x7f000001, h) == udp_verdict::ok);
    put16(bytes + 4, 12);
    CHECK(udp_parse(bytes, sizeof bytes, 0x7f000001, 0x7f000001, h) == udp_verdict::bad_len);
    put16(bytes + 4, 7);
    CHECK(udp_parse(bytes, sizeof bytes, 0x7f000001, 0x7f000001, h) == udp_verdict::bad_len);
    CHECK(udp_parse(bytes, 7, 0x7f000001, 0x7f000001, h) == udp_verdict::too_short);
}

TEST_CASE("wire icmp messages", "[wire]") {
    u8 bytes[8 + 4] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4};
    icmp_emit(bytes, {icmp_echo_request, 0, 0x1234, 0x5678}, csum_add(0, bytes + 8, 4));
    icmp_message m{};
    REQUIRE(icmp_parse(bytes, sizeof bytes, m) == icmp_verdict::ok);
    CHECK(m.type == icmp_echo_request);
    CHECK(m.id == 0x1234);
    CHECK(m.info == 0x5678);
    bytes[11] ^= 0x80;
    CHECK(icmp_parse(bytes, sizeof bytes, m) == icmp_verdict::bad_checksum);
    CHECK(icmp_parse(bytes, 7, m) == icmp_verdict::too_short);

    icmp_emit(bytes, {icmp_dest_unreach, icmp_frag_needed, 0, 1400}, csum_add(0, bytes + 8, 4));
    REQUIRE(icmp_parse(bytes, sizeof bytes, m) == icmp_verdict::ok);
    CHECK(m.info == 1400);
    CHECK(icmp_is_error(m.type));
    CHECK_FALSE(icmp_is_error(icmp_echo_reply));

    u8 quoted[28] = {};
    ipv4_emit(quoted, {1, 2, 1500, 3, 0, 20, 0, 64, 17});
    icmp_quote q{};
    REQUIRE(icmp_parse_quote(quoted, sizeof quoted, q));
    CHECK(q.ip.total_len == 1500);
    CHECK(q.transport_len == 8);
    CHECK_FALSE(icmp_parse_quote(quoted, 27, q));
    quoted[0] = 0x46;
    CHECK_FALSE(icmp_parse_quote(quoted, sizeof quoted, q));
}

TEST_CASE("wire tcp header with every option", "[wire]") {
    wire::tcp_header h{};
    h.source = 4000;
    h.dest = 80;
    h.seq = 0xdeadbeef;
    h.ack = 0x01020304;
    h.window = 1024;
    h.flags = 0x12;
    SECTION("SYN") {
        h.mss = 65495;
        h.has_wscale = true;
        h.wscale = 7;
        h.has_ts = true;
        h.ts_val = 1;
        h.ts_ecr = 2;
        h.sack_permitted = true;
        CHECK(tcp_header_bytes(h) == 40); // as Linux's SYN
    }
    SECTION("SYN without timestamps") {
        h.mss = 1460;
        h.sack_permitted = true;
        CHECK(tcp_header_bytes(h) == 28);
    }
    SECTION("SACK blocks with timestamps: three fit") {
        h.has_ts = true;
        h.num_sacks = 4;
        for (u32 i = 0; i < 4; ++i) h.sacks[i] = {i * 10, i * 10 + 5};
        CHECK(tcp_header_bytes(h) == 60);
    }
    SECTION("no options") { CHECK(tcp_header_bytes(h) == 20); }
    const u8 payload[] = {9, 8, 7};
    u8 bytes[tcp_max_header + 3];
    const u32 n = tcp_emit(bytes, h, 5, 6, csum_add(0, payload, 3), 3);
    REQUIRE(n == tcp_header_bytes(h));
    std::memcpy(bytes + n, payload, 3);
    wire::tcp_header back{};
    REQUIRE(tcp_parse(bytes, n + 3, 5, 6, back) == tcp_verdict::ok);
    CHECK(back.header_len == n);
    CHECK(back.seq == h.seq);
    CHECK(back.ack == h.ack);
    CHECK(back.flags == h.flags);
    CHECK(back.mss == h.mss);
    CHECK(back.has_wscale == h.has_wscale);
    CHECK(back.wscale == h.wscale);
    CHECK(back.has_ts == h.has_ts);
    CHECK(back.ts_val == h.ts_val);
    CHECK(back.sack_permitted == h.sack_permitted);
    CHECK(back.num_sacks == (h.num_sacks ? 3 : 0));
    for (u32 i = 0; i < back.num_sacks; ++i) CHECK(back.sacks[i].end == h.sacks[i].end);
    bytes[n] ^= 1;
    CHECK(tcp_parse(bytes, n + 3, 5, 6, back) == tcp_verdict::bad_checksum);
}

TEST_CASE("wire tcp options that lie about their length", "[wire]") {
    u8 bytes[40] = {};
    bytes[12] = 10 << 4;
    const auto parse = [&](std::initializer_list<u8> options) {
        std::memset(bytes + 20, 1, 20); // NOPs
        std::memcpy(bytes + 20, options.begin(), options.size());
        wire::tcp_header h{};
        REQUIRE(tcp_parse(bytes, sizeof bytes, 0, 0, h, false) == tcp_verdict::ok);
        return h;
    };
    CHECK(parse({2, 4, 5, 0xb4}).mss == 1460);
    CHECK(parse({2, 3, 5, 0xb4}).mss == 0);
    CHECK(parse({0, 2, 4, 5, 0xb4}).mss == 0);     // after the end
    CHECK(parse({99, 0, 2, 4, 5, 0xb4}).mss == 0); // zero length ends it
    CHECK(parse({99, 200, 2, 4, 5, 0xb4}).mss == 0);
    CHECK(parse({99, 3, 0, 2, 4, 5, 0xb4}).mss == 1460); // unknown: skipped
    CHECK(parse({3, 3, 200}).wscale == 14);
    bytes[12] = 4 << 4;
    wire::tcp_header h{};
    CHECK(tcp_parse(bytes, sizeof bytes, 0, 0, h, false) == tcp_verdict::bad_header_len);
    bytes[12] = 15 << 4;
    CHECK(tcp_parse(bytes, sizeof bytes, 0, 0, h, false) == tcp_verdict::bad_header_len);
}
