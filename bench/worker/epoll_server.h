// Role: the server that both the 64-connections measure and the scaling measure run.
#pragma once

namespace bench {

// Accepts one connection, which is then non-blocking and watched by `epoll`.
int accept_into_epoll(int epoll, int listener);

// One thread, level-triggered: answers 64-byte requests until every connection has ended.
void answer_by_epoll(int epoll, unsigned connections);

} // namespace bench
