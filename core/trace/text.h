// A bounded line of text under construction, over somebody else's bytes. No allocation, no libc calls
// that take locks: the dump runs in signal handlers. What does not fit is dropped and `full` says so.
#pragma once
#include "core/base/types.h"

namespace sockshim::trace {

struct text {
    char* const start;
    const std::size_t room;
    std::size_t used = 0;
    bool full = false;

    text(char* buffer, std::size_t size) : start(buffer), room(size) {}
    template <std::size_t N> explicit text(char (&buffer)[N]) : text(buffer, N) {}

    text& put(char c);
    text& puts(const char* s);
    text& put_n(const char* s, std::size_t n);
    text& dec(i64 v);
    text& udec(u64 v);
    text& hex(u64 v);                            // with 0x
    text& hex_digits(u64 v, std::size_t digits); // without
    text& oct(u64 v);
    text& pad_to(std::size_t column); // blanks, at least one
    text& right(u64 v, std::size_t width);
    text& zeros(u64 v, std::size_t digits); // "000123"
    // ns as seconds with six decimals, as strace -T does
    text& seconds(u64 ns);
    // A C string literal: "GET /\r\n"..., octal escapes where C needs them; `more` adds the dots.
    text& quoted(const u8* data, std::size_t n, bool more);
    text& pointer(u64 v); // NULL or 0x...
};

} // namespace sockshim::trace
