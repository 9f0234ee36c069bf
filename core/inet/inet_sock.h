// struct inet_sock (include/net/inet_sock.h). Arena type; sock is its first member.
#pragma once
#include "core/net/sock.h"

namespace sockshim {

enum inet_flags : u16 {
    INET_RECVERR = 1u << 0,
    INET_FREEBIND = 1u << 1,
    INET_HDRINCL = 1u << 2,
    INET_MC_LOOP = 1u << 3,
    INET_NODEFRAG = 1u << 4,
    INET_IS_ICSK = 1u << 5,
    INET_TRANSPARENT = 1u << 6,
    INET_BIND_ADDRESS_NO_PORT = 1u << 7,
    INET_MC_ALL = 1u << 8,
};

enum inet_cmsg_flags : u16 {
    IP_CMSG_PKTINFO = 1u << 0,
    IP_CMSG_TTL = 1u << 1,
    IP_CMSG_TOS = 1u << 2,
    IP_CMSG_RECVOPTS = 1u << 3,
    IP_CMSG_RETOPTS = 1u << 4,
    IP_CMSG_ORIGDSTADDR = 1u << 5,
};

struct inet_sock {
    struct sock sk;  // first: a sock& is an inet_sock& for AF_INET
    be32 inet_saddr; // source we send from
    be16 inet_sport;
    i16 uc_ttl; // -1: default
    u16 cmsg_flags;
    u16 inet_flags_;
    u8 tos;
    u8 min_ttl;
    u8 mc_ttl;
    u8 pmtudisc;
    u8 rcv_tos;
    i32 uc_index;
    i32 mc_index;
    be32 mc_addr;
    u32 inet_id;
    u32 local_port_range;
    u64 mc_list; // extent of joined groups, raw; 0: none
};
SOCKSHIM_ARENA_TYPE(inet_sock);

inline inet_sock& inet_sk(sock& sk) { return reinterpret_cast<inet_sock&>(sk); }
inline const inet_sock& inet_sk(const sock& sk) { return reinterpret_cast<const inet_sock&>(sk); }
inline be32& inet_daddr(sock& sk) { return sk.__sk_common.skc_daddr; }
inline be16& inet_dport(sock& sk) { return sk.__sk_common.skc_dport; }
inline be32& inet_rcv_saddr(sock& sk) { return sk.__sk_common.skc_rcv_saddr; }
inline u16& inet_num(sock& sk) { return sk.__sk_common.skc_num; }
inline bool inet_test(const sock& sk, inet_flags f) { return inet_sk(sk).inet_flags_ & f; }

} // namespace sockshim
