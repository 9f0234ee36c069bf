#!/usr/bin/env python3
"""Unmodified Python on families and protocols from modules. Runs under the preload with SOCKSHIM_MODULES set
(run_modules); prints what is wrong and exits 1."""
import os
import select
import socket
import sys

REVERSE = 45   # net-pf-45.so: a family that Python has no addresses for
QIPCRTR = 42   # net-pf-42.so: the same with a number whose addresses Python writes as (node, port)
MIRROR = 253   # net-pf-2-proto-253.so

bad = []


def check(what, got, wanted):
    if got != wanted:
        bad.append(f"{what}: got {got!r}, wanted {wanted!r}")


def errno_of(call, *args):
    try:
        call(*args)
    except OSError as e:
        return e.errno
    return 0


# --- a family: connected stream, one process
s = socket.socket(QIPCRTR, socket.SOCK_STREAM)
check("not connected", errno_of(s.send, b"x"), 107)
s.connect((7, 99))
check("getpeername", s.getpeername(), (7, 99))
check("connect twice", errno_of(s.connect, (7, 99)), 106)
check("send", s.send(b"hello, world"), 12)
check("recv", s.recv(5), b"dlrow")
check("recv the rest", s.recv(100), b" ,olleh")
s.setblocking(False)
check("empty", errno_of(s.recv, 1), 11)
s.setblocking(True)
check("listen", errno_of(s.listen), 95)
check("family", s.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN), QIPCRTR)
s.shutdown(socket.SHUT_WR)
check("end", s.recv(1), b"")
s.close()

# --- datagrams
d = socket.socket(QIPCRTR, socket.SOCK_DGRAM)
d.sendto(b"abc", (1, 2))
d.sendto(b"defg", (1, 2))
check("datagram 1", d.recv(100), b"cba")
check("datagram 2", d.recv(100), b"gfed")
d.close()

# --- a pair whose ends are in two processes, woken from poll
a, b = socket.socketpair(REVERSE, socket.SOCK_STREAM)
pid = os.fork()
if pid == 0:
    a.close()
    data = b.recv(100)
    b.send(b"child read " + data)
    os._exit(0)
b.close()
a.send(b"abc")
ready, _, _ = select.select([a], [], [], 10)
check("select", ready, [a])
check("from the child", a.recv(100), b"child read cba"[::-1])
os.waitpid(pid, 0)
check("end after the child's exit", a.recv(100), b"")
check("write after the child's exit", errno_of(a.send, b"x"), 32)
a.close()

# --- wrong types and protocols of the family, and a family that nobody has
check("type", errno_of(socket.socket, REVERSE, socket.SOCK_RAW) != 0, True)
check("protocol", errno_of(socket.socket, REVERSE, socket.SOCK_STREAM, 5) != 0, True)
check("no family", errno_of(socket.socket, 44, socket.SOCK_STREAM) != 0, True)

# --- a protocol of PF_INET
m = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, MIRROR)
check("protocol of PF_INET", m.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL), MIRROR)
m.connect(("127.0.0.1", 5))
m.send(b"reflect")
check("mirrored", m.recv(100), b"tcelfer")
m.settimeout(0.05)
try:
    m.recv(1)
    bad.append("mirror: recv returned")
except socket.timeout:
    pass
m.close()
check("mirror as a stream", errno_of(socket.socket, socket.AF_INET, socket.SOCK_STREAM, MIRROR) != 0, True)

# --- and the built-in ones go on
t = socket.socket()
t.bind(("127.0.0.1", 0))
t.listen()
t.close()

for line in bad:
    print(line)
sys.exit(1 if bad else 0)
