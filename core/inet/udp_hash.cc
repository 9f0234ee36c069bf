#include "core/inet/udp_hash.h"

namespace sockshim {
namespace {

// Ports as they are, so that a run of bound ports spreads; the others are moved out of their way.
constexpr u32 bucket_of(u8 prot_id, u32 key) {
    if (prot_id == PROT_RAW) key = key * 167 + 2903;
    if (prot_id == PROT_PING) key += 1361;
    return key % udp_hash_buckets;
}

bool is_member(const sock& sk, u32 bucket) {
    const sock_common& c = sk.__sk_common;
    const bool dgram =
        c.skc_prot_id == PROT_UDP || c.skc_prot_id == PROT_RAW || c.skc_prot_id == PROT_PING;
    return dgram && c.skc_kind == SKC_KIND_SOCK && (c.skc_hashed & SKC_HASHED_MAIN) &&
           c.skc_hash == bucket;
}

u32 changed(u32 word, u32 link) {
    return ((word & ~dgram_head_mask) + (1u << dgram_head_bits)) | (link & dgram_head_mask);
}

} // namespace

hash_bucket& dgram_bucket(u8 prot_id, u32 key) {
    return arena_hash_area()->udp_hash[bucket_of(prot_id, key)];
}

u32 dgram_key_of(const sock& sk) { return sk.__sk_common.skc_num; }

dgram_chain::dgram_chain(u8 prot_id, u32 key)
    : bucket_(dgram_bucket(prot_id, key)), prot_id_(prot_id), key_(key) {
    bool whole = bucket_.lock.lock();
    // A member whose cell was freed under the chain cuts it. Walked here once, so that a walk later
    // sees all there is.
    u32 link = word() & dgram_head_mask;
    for (u32 steps = 0; whole && link; ++steps) {
        const sock* sk = check(link);
        if (!sk || steps > max_sockets) {
            whole = false;
            break;
        }
        link = sk->__sk_common.skc_node;
    }
    if (!whole) rebuild();
}

dgram_chain::~dgram_chain() { bucket_.lock.unlock(); }

sock* dgram_chain::check(u32 link) {
    if (link == 0) return nullptr;
    const u32 index = link - 1;
    if (index >= cells_committed(REGION_SOCK) || !slab_handle_at<sock>(index)) return nullptr;
    sock* const sk = slab_at<sock>(index);
    return is_member(*sk, bucket_of(prot_id_, key_)) ? sk : nullptr;
}

void dgram_chain::rebuild() {
    const u32 bucket = bucket_of(prot_id_, key_);
    u32 link = 0;
    for (u32 i = 0, n = cells_committed(REGION_SOCK); i < n; ++i) {
        if (!slab_handle_at<sock>(i)) continue;
        sock* const sk = slab_at<sock>(i);
        if (!is_member(*sk, bucket)) continue;
        sk->__sk_common.skc_node = link;
        link = i + 1;
    }
    bucket_.head.store(changed(word(), link));
}

sock* dgram_chain::first() {
    steps_ = 0;
    sock* sk = check(word() & dgram_head_mask);
    if (!sk) return nullptr;
    if (sk->__sk_common.skc_prot_id == prot_id_ && dgram_key_of(*sk) == key_) return sk;
    return next(*sk);
}

sock* dgram_chain::next(const sock& from) {
    const sock* at = &from;
    while (++steps_ <= max_sockets) {
        sock* sk = check(at->__sk_common.skc_node);
        if (!sk) return nullptr;
        if (sk->__sk_common.skc_prot_id == prot_id_ && dgram_key_of(*sk) == key_) return sk;
        at = sk;
    }
    return nullptr;
}

void dgram_chain::insert(sock& sk) {
    sock_common& c = sk.__sk_common;
    c.skc_hash = bucket_of(prot_id_, key_);
    c.skc_node = word() & dgram_head_mask;
    c.skc_hashed |= SKC_HASHED_MAIN;
    bucket_.head.store(changed(word(), sk_index(sk) + 1));
}

void dgram_chain::remove(sock& sk) {
    sock_common& c = sk.__sk_common;
    const u32 self = sk_index(sk) + 1;
    const u32 behind = c.skc_node;
    c.skc_hashed &= static_cast<u8>(~SKC_HASHED_MAIN);
    u32 link = word() & dgram_head_mask;
    if (link == self) {
        bucket_.head.store(changed(word(), behind));
        return;
    }
    for (u32 steps = 0; link && steps <= max_sockets; ++steps) {
        sock* at = check(link);
        if (!at) break;
        if (at->__sk_common.skc_node == self) {
            at->__sk_common.skc_node = behind;
            break;
        }
        link = at->__sk_common.skc_node;
    }
    touch();
}

void dgram_chain::touch() { bucket_.head.store(changed(word(), word())); }

void dgram_unhash(sock& sk) {
    if (!(sk.__sk_common.skc_hashed & SKC_HASHED_MAIN)) return;
    dgram_chain chain(sk.__sk_common.skc_prot_id, dgram_key_of(sk));
    if (sk.__sk_common.skc_hashed & SKC_HASHED_MAIN) chain.remove(sk);
}

} // namespace sockshim
