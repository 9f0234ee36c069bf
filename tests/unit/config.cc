// SOCKSHIM_* variables: what is taken, what is refused, and that a refusal changes nothing.
#include <catch2/catch.hpp>

#include <string>

#include "core/base/config.h"

using namespace sockshim;

TEST_CASE("config: numbers have units and a range", "[base]") {
    configuration c = default_configuration;
    REQUIRE(config_take(c, "SOCKSHIM_ARENA_MAX=64m") == config_verdict::taken);
    REQUIRE(c.arena_max == 64 << 20);
    REQUIRE(config_take(c, "SOCKSHIM_ARENA_MAX=16G") == config_verdict::taken);
    REQUIRE(c.arena_max == 16ull << 30);
    for (const char* bad :
         {"", "m", "-1", "+5", " 5m", "0x400000", "4mm", "1.5g", "1m", "17g",
          "18446744073709551616", "18446744073709551615k", "99999999999999999999999999"}) {
        INFO(bad);
        REQUIRE(config_take(c, ("SOCKSHIM_ARENA_MAX=" + std::string(bad)).c_str()) ==
                config_verdict::bad);
        REQUIRE(c.arena_max == 16ull << 30);
    }
}

TEST_CASE("config: flags and texts", "[base]") {
    configuration c = default_configuration;
    REQUIRE(c.fuse);
    for (const char* no : {"0", "off", "no", "false", ""}) {
        c.fuse = true;
        REQUIRE(config_take(c, ("SOCKSHIM_FUSE=" + std::string(no)).c_str()) ==
                config_verdict::taken);
        REQUIRE_FALSE(c.fuse);
    }
    REQUIRE(config_take(c, "SOCKSHIM_FUSE=maybe") == config_verdict::bad);
    REQUIRE(config_take(c, "SOCKSHIM_NET=a=b") == config_verdict::taken);
    REQUIRE(std::string(c.net) == "a=b");
}

TEST_CASE("config: whose variable it is", "[base]") {
    configuration c = default_configuration;
    REQUIRE(config_take(c, "PATH=/bin") == config_verdict::foreign);
    REQUIRE(config_take(c, "SOCKSHIM_NET") == config_verdict::foreign);
    REQUIRE(config_take(c, "SOCKSHIM_NE=x") == config_verdict::unknown);
    REQUIRE(config_take(c, "SOCKSHIM_NETS=x") == config_verdict::unknown);
    REQUIRE(config_take(c, "SOCKSHIM_=x") == config_verdict::unknown);
}
