// The table of datagram sockets: UDP by local port, raw by protocol, ping by identifier, all in the
// network's udp_hash buckets (Linux: udp_table, raw_hashinfo, ping_table).
//
// A bucket's `head` is the chain's first sock (index + 1) in the low 19 bits and a count of changes above:
// whoever keeps the answer to a lookup keeps the word too, and looks again when it has changed. A chain
// links by skc_node (index + 1). Truth is each sock's skc_hashed and skc_hash; a chain whose lock's owner died
// is rebuilt from the cells.
#pragma once
#include "core/arena/arena.h"
#include "core/inet/inet_sock.h"
#include "core/net/proto.h"

namespace sockshim {

inline constexpr u32 dgram_head_bits = 19;
inline constexpr u32 dgram_head_mask = (1u << dgram_head_bits) - 1;
static_assert(max_sockets <= dgram_head_mask);

// The bucket of a key: UDP's local port, raw's protocol, ping's identifier.
hash_bucket& dgram_bucket(u8 prot_id, u32 key);
inline bool dgram_bucket_empty(u8 prot_id, u32 key) {
    return (dgram_bucket(prot_id, key).head.load_relaxed() & dgram_head_mask) == 0;
}

// A bucket locked, its chain whole.
class dgram_chain {
public:
    explicit dgram_chain(u8 prot_id, u32 key);
    ~dgram_chain();
    dgram_chain(const dgram_chain&) = delete;
    dgram_chain& operator=(const dgram_chain&) = delete;

    // The first and the next sock of this prot and key; null at the end.
    sock* first();
    sock* next(const sock& sk);
    void insert(sock& sk);
    void remove(sock& sk);
    // Something that lookups depend on has changed in a member (its address or peer).
    void touch();
    u32 word() const { return bucket_.head.load_relaxed(); }

private:
    sock* check(u32 link);
    void rebuild();
    hash_bucket& bucket_;
    u8 prot_id_;
    u32 key_;
    u32 steps_ = 0;
};

// Key under which `sk` is hashed.
u32 dgram_key_of(const sock& sk);
// Takes `sk` out of its chain; nothing if it is in none.
void dgram_unhash(sock& sk);

} // namespace sockshim
