// libFuzzer: values of SOCKSHIM_* variables. What is taken is within its range, what is not taken changes
// nothing; SOCKSHIM_DENY's list may say anything.
#include <cerrno>

#include "core/base/config.h"
#include "core/net/security.h"
#include "tests/fuzz/input.h"

using namespace sockshim;
using fuzz::check;

namespace {

constexpr const char* names[] = {
#define X(name, field, kind, def, lo, hi, doc) name,
    SOCKSHIM_OPTIONS(X)
#undef X
};

[[maybe_unused]] void in_range(bool, u64, u64) {}
[[maybe_unused]] void in_range(u64 value, u64 lo, u64 hi) { check(value >= lo && value <= hi); }
[[maybe_unused]] void in_range(const char* value, u64, u64) { check(value != nullptr); }

[[maybe_unused]] bool same(bool a, bool b) { return a == b; }
[[maybe_unused]] bool same(u64 a, u64 b) { return a == b; }
[[maybe_unused]] bool same(const char* a, const char* b) { return !std::strcmp(a, b); }

void one_variable(fuzz::input& in) {
    std::string variable = in.one_in(8) ? "SOCKSHIM_" + in.bytes(4) : in.of(names);
    if (!in.one_in(8)) variable += '=';
    variable += in.rest();
    configuration c = default_configuration;
    const config_verdict verdict = config_take(c, variable.c_str());
    u32 changed = 0;
#define X(name, field, kind, def, lo, hi, doc)                                                     \
    in_range(c.field, lo, hi);                                                                     \
    changed += !same(c.field, default_configuration.field);
    SOCKSHIM_OPTIONS(X)
#undef X
    check(changed <= (verdict == config_verdict::taken ? 1 : 0));
}

void deny_list(fuzz::input& in) {
    const std::string list = in.rest();
    const security_operations* policy = security_deny_policy(list.c_str());
    if (!policy) return;
    sockshim::socket s{};
    const int r = policy->socket_bind(s, nullptr, 0);
    check(r <= 0 && r > -4096);
}

} // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
    setenv("SOCKSHIM_QUIET", "1", 1); // it says what it thinks of each entry
    config();
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const u8* data, std::size_t n) {
    fuzz::input in(data, n);
    if (in.one_in(2))
        deny_list(in);
    else
        one_variable(in);
    return 0;
}
