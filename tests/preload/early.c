// Calls before the shim's constructor and after its destructor.
#include "test.h"

extern int early_failures;

int main(void) {
    CHECK(early_failures == 0);
    return finish_test();
}
