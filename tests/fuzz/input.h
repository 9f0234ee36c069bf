// libFuzzer's bytes as a target reads them: numbers and strings from the front, zeros when all is read.
#pragma once
#include <cstdlib>
#include <cstring>
#include <string>

#include "core/base/types.h"

namespace fuzz {

using sockshim::u16;
using sockshim::u32;
using sockshim::u64;
using sockshim::u8;

// A rule that is broken: libFuzzer keeps the input and shows the stack.
inline void check(bool ok) {
    if (!ok) abort();
}

class input {
public:
    input(const u8* data, std::size_t n) : at_(data), left_(n) {}

    bool empty() const { return left_ == 0; }
    u8 byte() { return any<u8>(); }
    template <class T> T any() {
        T out{};
        take(&out, sizeof out);
        return out;
    }
    // 0 to n - 1.
    u32 pick(u32 n) { return (n <= 256 ? any<u8>() : n <= 65536 ? any<u16>() : any<u32>()) % n; }
    bool one_in(u32 n) { return pick(n) == 1; }
    // One of a list.
    template <class T, std::size_t N> T of(const T (&list)[N]) {
        return list[pick(static_cast<u32>(N))];
    }
    // As many bytes as asked for; zeros where the input ends.
    std::string bytes(std::size_t n) {
        std::string out(n, '\0');
        take(out.data(), n);
        return out;
    }
    std::string rest() { return bytes(left_); }

private:
    void take(void* to, std::size_t n) {
        n = sockshim::min_of(n, left_);
        if (n) std::memcpy(to, at_, n);
        at_ += n;
        left_ -= n;
    }
    const u8* at_;
    std::size_t left_;
};

} // namespace fuzz
