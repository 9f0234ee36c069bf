"""Where only one side is ours, or neither: what the kernel serves stays the kernel's, and sockets find their way
between the two worlds. Most cases run natively and shimmed and want the same outcome."""
import errno, fcntl, os, select, selectors, signal, socket, struct, subprocess, sys, threading

from harness import *


def outcome(call, *args):
    try:
        value = call(*args)
        return "ok" if value is None else value
    except OSError as e:
        return errno.errorcode.get(e.errno, type(e).__name__)


# --- servers without the shim --------------------------------------------------------------------------------

@guest
def echo_server(address, port, kind="tcp"):
    """Echo to EOF; datagrams go back reversed."""
    if kind == "udp":
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.bind((address, int(port)))
        print("ready", flush=True)
        while True:
            data, peer = s.recvfrom(65536)
            s.sendto(data[::-1], peer)
    listener = socket.create_server((address, int(port)), backlog=64)
    print("ready", flush=True)

    def echo(s):
        with s:
            while data := s.recv(65536):
                s.sendall(data)
    while True:
        s, _ = listener.accept()
        threading.Thread(target=echo, args=(s,), daemon=True).start()


def echo(w, port, shim, address=LOOPBACK, kind="tcp"):
    w.guest(echo_server, address, port, kind, shim=shim).until("ready")


def http_server(w, port, address, shim, data):
    os.makedirs(w.path("www"), exist_ok=True)
    w.file("www/f", data)
    p = w.start(PYTHON, "-m", "http.server", "--bind", address, "--directory", w.path("www"), port, shim=shim)
    p.until("Serving HTTP")
    return p


def curl(w, url, *args, **how):
    return w.start(need("curl"), "-sS", "--noproxy", "*", "--max-time", PATIENCE, "-o", w.path("got"), url,
                   *args, **how)


@case
def curl_from_the_kernel(w):
    """curl under the shim from a server without it: on 127.0.0.1, by name, on this machine's other address"""
    data = os.urandom(3000001)
    addresses = [LOOPBACK, own_address()]
    for address in filter(None, addresses):
        port = w.port()
        http_server(w, port, address, False, data)
        curl(w, "http://%s:%d/f" % (address, port)).ok()
        same("SHA-256 from %s" % address, sha(data), file_sha(w.path("got")))
        check(kernel_sockets(port), "that went through the kernel")
    port = w.port()
    http_server(w, port, LOOPBACK, False, data)
    curl(w, "http://localhost:%d/f" % port).ok()
    same("SHA-256 from localhost", sha(data), file_sha(w.path("got")))


@case
def both_ours_on_other_addresses(w):
    """both ends ours on this machine's own address, on 127.0.0.2, and bound to 0.0.0.0"""
    data = os.urandom(1000001)
    own = own_address()
    for bound, asked in ((LOOPBACK, LOOPBACK), ("127.0.0.2", "127.0.0.2"), ("0.0.0.0", LOOPBACK),
                         ("0.0.0.0", "127.1.2.3"), (own, own), ("0.0.0.0", own)):
        if not bound or not asked:
            continue
        port = w.port()
        http_server(w, port, bound, True, data)
        curl(w, "http://%s:%d/f" % (asked, port)).ok()
        same("SHA-256, bound to %s, asked at %s" % (bound, asked), sha(data), file_sha(w.path("got")))
        w.ours(port)


@case
def http_over_ipv6(w):
    """AF_INET6 is the kernel's: HTTP over ::1"""
    if not has_ipv6():
        raise Skip("no IPv6 here")
    port, data = w.port(), os.urandom(300001)
    http_server(w, port, "::1", True, data)
    curl(w, "-g", "http://[::1]:%d/f" % port).ok()
    same("SHA-256", sha(data), file_sha(w.path("got")))
    check(kernel_sockets(port), "that went through the kernel")


# --- refused and tried again ---------------------------------------------------------------------------------

@guest
def refusals(port, udp_port):
    port, udp_port = int(port), int(udp_port)
    s = socket.socket()
    print("blocking:", outcome(s.connect, (LOOPBACK, port)), outcome(s.connect, (LOOPBACK, port)))
    print("name:", outcome(s.getsockname)[0] if isinstance(outcome(s.getsockname), tuple) else "?",
          outcome(s.getpeername), outcome(s.send, b"x"), outcome(s.recv, 1))
    n = socket.socket()
    n.setblocking(False)
    first = n.connect_ex((LOOPBACK, port))
    ready = select.select([], [n], [], PATIENCE)[1]
    error = n.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    # Natively EINPROGRESS or ECONNREFUSED at once; both are right.
    print("non-blocking:", first in (errno.EINPROGRESS, errno.ECONNREFUSED), bool(ready),
          errno.errorcode.get(error or first))
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    u.connect((LOOPBACK, udp_port))
    u.settimeout(PATIENCE)
    print("udp:", outcome(u.send, b"x"), outcome(u.recv, 10), outcome(u.send, b"y"))


@case
@both_worlds
def refused(w, shim):
    """connections that nobody accepts: errors of connect, of the socket afterwards, of UDP"""
    c = w.start(need("curl"), "-sS", "--noproxy", "*", "http://%s:%d/" % (LOOPBACK, w.port()), shim=shim)
    status = c.wait()
    return status, w.guest(refusals, w.port(), w.port(), shim=shim).ok().text()


@guest
def try_again(port, turns):
    """The same socket number connects whenever a line comes, until it is connected."""
    s = socket.socket()
    number = s.fileno()
    for _ in range(int(turns)):
        result = s.connect_ex((LOOPBACK, int(port)))
        print("connect:", errno.errorcode.get(result, result), flush=True)
        if result == 0:
            break
        sys.stdin.readline()
    assert s.fileno() == number
    data = os.urandom(300000)
    threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR))).start()
    back = b"".join(iter(lambda: s.recv(65536), b""))
    print("echo:", back == data)


@case
def refused_then_ours(w):
    """a socket that was refused connects later, when a listener of ours has come: and is ours"""
    port = w.port()
    c = w.guest(try_again, port, 5, stdin=subprocess.PIPE)
    c.until("ECONNREFUSED")
    c.write("\n")
    wait_until("the second refusal", lambda: c.text().count("ECONNREFUSED") == 2)
    echo(w, port, True)
    c.write("\n")
    c.ok()
    same("what it said", ["connect: ECONNREFUSED"] * 2 + ["connect: 0", "echo: True"], c.text().splitlines())
    w.ours(port)


@case
def refused_then_the_kernels(w):
    """the same with a listener of the kernel's"""
    port = w.port()
    c = w.guest(try_again, port, 5, stdin=subprocess.PIPE)
    c.until("ECONNREFUSED")
    echo(w, port, False)
    c.write("\n")
    c.ok()
    same("what it said", ["connect: ECONNREFUSED", "connect: 0", "echo: True"], c.text().splitlines())


# --- sockets that turn out to be the kernel's ------------------------------------------------------------------

@guest
def handover(port, source_port):
    """Options set before connect are there after it, under the same number, by every name of the socket."""
    port, source_port = int(port), int(source_port)
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 50000)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 7, 0))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3))
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77)
    s.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 16)
    s.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 55)
    s.bind((LOOPBACK, source_port))
    s.connect((LOOPBACK, port))
    print("names:", s.getsockname() == (LOOPBACK, source_port), s.getpeername() == (LOOPBACK, port))
    for level, name in ((socket.SOL_SOCKET, socket.SO_REUSEADDR), (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                        (socket.SOL_SOCKET, socket.SO_RCVBUF), (socket.SOL_SOCKET, socket.SO_TYPE),
                        (socket.SOL_SOCKET, socket.SO_DOMAIN), (socket.SOL_SOCKET, socket.SO_PROTOCOL),
                        (socket.IPPROTO_TCP, socket.TCP_NODELAY), (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
                        (socket.IPPROTO_IP, socket.IP_TOS), (socket.IPPROTO_IP, socket.IP_TTL)):
        print(level, name, s.getsockopt(level, name))
    print("linger:", s.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))
    print("timeout:", s.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16))
    print("cloexec:", os.get_inheritable(s.fileno()))
    s.sendall(b"hello")
    print(s.recv(5))
    s = socket.socket()
    signals = []
    signal.signal(signal.SIGUSR1, lambda *_: signals.append(1))
    for command, value in ((fcntl.F_SETOWN, os.getpid()), (fcntl.F_SETSIG, signal.SIGUSR1),
                           (fcntl.F_SETFL, os.O_ASYNC)):
        fcntl.fcntl(s, command, value)
    s.connect((LOOPBACK, port))
    print("owner:", fcntl.fcntl(s, fcntl.F_GETOWN) == os.getpid(), fcntl.fcntl(s, fcntl.F_GETSIG) == signal.SIGUSR1,
          bool(fcntl.fcntl(s, fcntl.F_GETFL) & os.O_ASYNC))
    signals.clear()
    s.sendall(b"signal")
    wait_until("a signal", lambda: signals)


@case
@both_worlds
def options_survive(w, shim):
    """a socket handed over to the kernel keeps its options, source port and flags"""
    port = w.port()
    echo(w, port, False)
    return w.guest(handover, port, w.port(), shim=shim).ok().text()


SOL_UDP, SOL_TCP, SOL_IP, SOL_SOCKET = 17, 6, 0, socket.SOL_SOCKET
LO = struct.pack("4s4si", bytes(4), bytes(4), 1)
# name: level, number, value. A value that is refused natively is refused under the shim.
ANY_OPTIONS = {
    "SO_DONTROUTE": (SOL_SOCKET, 5, 1), "SO_BROADCAST": (SOL_SOCKET, 6, 1), "SO_OOBINLINE": (SOL_SOCKET, 10, 1),
    "SO_NO_CHECK": (SOL_SOCKET, 11, 1), "SO_PRIORITY": (SOL_SOCKET, 12, 5), "SO_RCVLOWAT": (SOL_SOCKET, 18, 9),
    "SO_TIMESTAMPNS": (SOL_SOCKET, 35, 1), "SO_MARK": (SOL_SOCKET, 36, 77), "SO_TIMESTAMPING": (SOL_SOCKET, 37, 0x18),
    "SO_RXQ_OVFL": (SOL_SOCKET, 40, 1), "SO_WIFI_STATUS": (SOL_SOCKET, 41, 1), "SO_NOFCS": (SOL_SOCKET, 43, 1),
    "SO_SELECT_ERR_QUEUE": (SOL_SOCKET, 45, 1), "SO_BUSY_POLL": (SOL_SOCKET, 46, 50),
    "SO_MAX_PACING_RATE": (SOL_SOCKET, 47, struct.pack("Q", 1 << 33)), "SO_ZEROCOPY": (SOL_SOCKET, 60, 1),
    "SO_TXTIME": (SOL_SOCKET, 61, struct.pack("iI", 1, 2)), "SO_BINDTOIFINDEX": (SOL_SOCKET, 62, 1),
    "SO_PREFER_BUSY_POLL": (SOL_SOCKET, 69, 1), "SO_TXREHASH": (SOL_SOCKET, 74, 0), "SO_RCVMARK": (SOL_SOCKET, 75, 1),
    "IP_TOS": (SOL_IP, 1, 0x10), "IP_RECVOPTS": (SOL_IP, 6, 1), "IP_PKTINFO": (SOL_IP, 8, 1),
    "IP_MTU_DISCOVER": (SOL_IP, 10, 2), "IP_RECVERR": (SOL_IP, 11, 1), "IP_RECVTTL": (SOL_IP, 12, 1),
    "IP_RECVTOS": (SOL_IP, 13, 1), "IP_FREEBIND": (SOL_IP, 15, 1), "IP_PASSSEC": (SOL_IP, 18, 1),
    "IP_TRANSPARENT": (SOL_IP, 19, 1), "IP_RECVORIGDSTADDR": (SOL_IP, 20, 1), "IP_MINTTL": (SOL_IP, 21, 3),
    "IP_CHECKSUM": (SOL_IP, 23, 1), "IP_BIND_ADDRESS_NO_PORT": (SOL_IP, 24, 1), "IP_RECVFRAGSIZE": (SOL_IP, 25, 1),
    "IP_RECVERR_RFC4884": (SOL_IP, 26, 1), "IP_MULTICAST_TTL": (SOL_IP, 33, 4), "IP_MULTICAST_LOOP": (SOL_IP, 34, 0),
    "IP_MULTICAST_ALL": (SOL_IP, 49, 0), "IP_LOCAL_PORT_RANGE": (SOL_IP, 51, struct.pack("HH", 30000, 60000)),
}
TCP_OPTIONS = {
    "TCP_MAXSEG": (SOL_TCP, 2, 999), "TCP_CORK": (SOL_TCP, 3, 1), "TCP_KEEPINTVL": (SOL_TCP, 5, 33),
    "TCP_KEEPCNT": (SOL_TCP, 6, 4), "TCP_SYNCNT": (SOL_TCP, 7, 3), "TCP_LINGER2": (SOL_TCP, 8, 20),
    "TCP_DEFER_ACCEPT": (SOL_TCP, 9, 7), "TCP_WINDOW_CLAMP": (SOL_TCP, 10, 30000), "TCP_CONGESTION": (SOL_TCP, 13, b"reno"),
    "TCP_THIN_LINEAR_TIMEOUTS": (SOL_TCP, 16, 1), "TCP_USER_TIMEOUT": (SOL_TCP, 18, 5000),
    "TCP_NOTSENT_LOWAT": (SOL_TCP, 25, 40000), "TCP_INQ": (SOL_TCP, 36, 1),
}
UDP_OPTIONS = {
    "SO_PEEK_OFF": (SOL_SOCKET, 42, 3), "UDP_SEGMENT": (SOL_UDP, 103, 500), "UDP_GRO": (SOL_UDP, 104, 1),
    "IP_MULTICAST_IF": (SOL_IP, 32, LO), "IP_NODEFRAG": (SOL_IP, 22, 1), "IP_UNICAST_IF": (SOL_IP, 50, 1 << 24),
}


def all_options(kind, options, become_the_kernels):
    """One option a socket, so that none hides behind another."""
    for name, (level, number, value) in sorted(options.items()):
        s = socket.socket(socket.AF_INET, kind)
        refused = outcome(s.setsockopt, level, number, value)
        become_the_kernels(s)
        size = 8 if name in ("SO_MAX_PACING_RATE", "SO_TXTIME", "SO_TIMESTAMPING") else 16 if name == "TCP_CONGESTION" else 4
        print(name, refused, outcome(s.getsockopt, level, number, size))
        s.close()


@guest
def handover_all(port, udp_port):
    """Each option that a program can set is there after the socket became the kernel's, and unset ones are the kernel's."""
    port, udp_port = int(port), int(udp_port)
    connect = lambda s: outcome(s.connect, (LOOPBACK, port))
    all_options(socket.SOCK_STREAM, {**ANY_OPTIONS, **TCP_OPTIONS}, connect)
    send = lambda s: outcome(s.sendto, b"to the kernel", (LOOPBACK, udp_port))
    all_options(socket.SOCK_DGRAM, {**ANY_OPTIONS, **UDP_OPTIONS}, send)
    for kind, change, options in ((socket.SOCK_STREAM, connect, {**ANY_OPTIONS, **TCP_OPTIONS}),
                                  (socket.SOCK_DGRAM, send, {**ANY_OPTIONS, **UDP_OPTIONS})):
        s = socket.socket(socket.AF_INET, kind)
        change(s)
        for name, (level, number, value) in sorted(options.items()):
            if name not in ("TCP_MAXSEG", "TCP_WINDOW_CLAMP"):  # a connection's own
                print("unset", name, outcome(s.getsockopt, level, number, 16))
    # Groups on lo, with and without sources.
    for mode, sources in ((None, []), (0, ["127.0.0.5"]), (1, ["127.0.0.6", "127.0.0.7"])):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        address = struct.pack("HH4s120x", socket.AF_INET, 0, socket.inet_aton("239.1.2.3"))
        s.setsockopt(SOL_IP, 42, struct.pack("I4x", 1) + address)  # MCAST_JOIN_GROUP
        if mode is not None:
            listed = b"".join(struct.pack("HH4s120x", socket.AF_INET, 0, socket.inet_aton(a)) for a in sources)
            s.setsockopt(SOL_IP, 48, struct.pack("I4x", 1) + address + struct.pack("II", mode, len(sources)) + listed)
        send(s)
        print("again:", outcome(s.setsockopt, SOL_IP, 42, struct.pack("I4x", 1) + address))
        print("leave:", outcome(s.setsockopt, SOL_IP, 45, struct.pack("I4x", 1) + address))


@case
@both_worlds
def all_options_survive(w, shim):
    """what was set on a socket is set on the kernel's that takes its place"""
    port, udp_port = w.port(), w.port()
    echo(w, port, False)
    echo(w, udp_port, False, kind="udp")
    return w.guest(handover_all, port, udp_port, shim=shim).ok().text()


@guest
def handover_shared(port):
    """dup, fork, epoll and non-blocking before the connect that hands the socket over."""
    port = int(port)
    s = socket.socket()
    d = s.dup()
    s.connect((LOOPBACK, port))
    s.sendall(b"by s ")
    print("dup sends:", outcome(d.send, b"by d"))
    got = b""
    while len(got) < 9:
        got += s.recv(100)
    print("dup:", got, outcome(d.getpeername) == (LOOPBACK, port))
    d.close()

    s = socket.socket()
    s.setblocking(False)
    e = select.epoll()
    e.register(s, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
    e.poll(0)  # an unconnected socket hangs up
    print("non-blocking connect:", s.connect_ex((LOOPBACK, port)) in (0, errno.EINPROGRESS))
    ready = e.poll(PATIENCE)
    print("epoll:", [(n == s.fileno(), bool(v & select.EPOLLOUT)) for n, v in ready])
    s.send(b"x")
    for _ in range(100):
        ready = e.poll(PATIENCE)
        if ready and ready[0][1] & select.EPOLLIN:
            break
    print("epoll in:", s.recv(10))

    s = socket.socket()
    if os.fork() == 0:
        s.connect((LOOPBACK, port))
        s.sendall(b"child")
        os._exit(s.recv(5) != b"child")
    print("child:", os.wait()[1])


@case
@both_worlds
def handed_over_by_all_names(w, shim):
    """the other names of a socket that is handed over: dup, epoll set, fork child"""
    port = w.port()
    echo(w, port, False)
    return w.guest(handover_shared, port, shim=shim).ok().text()


@guest
def outside():
    """No packet leaves: a datagram socket that is connected to an outside address has this machine's own."""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    print(outcome(s.connect, ("203.0.113.1", 9)))
    print(outcome(s.getpeername))
    name = outcome(s.getsockname)
    print(name[0] if isinstance(name, tuple) else name)


@case
@both_worlds
def outside_addresses(w, shim):
    """connecting a datagram socket to an outside address"""
    return w.guest(outside, shim=shim).ok().text()


# --- UDP -----------------------------------------------------------------------------------------------------

@guest
def datagrams(kernel_port, our_port):
    """A connected and an unconnected socket to a server of the kernel's; others to one of ours."""
    for port in filter(None, (int(kernel_port), int(our_port))):
        c = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        c.settimeout(PATIENCE)
        c.connect((LOOPBACK, port))
        u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        u.settimeout(PATIENCE)
        for i in range(50):
            data = os.urandom(1 + i * 200)
            c.send(data)
            assert c.recv(65536) == data[::-1]
            u.sendto(data, (LOOPBACK, port))
            back, peer = u.recvfrom(65536)
            assert back == data[::-1] and peer == (LOOPBACK, port), peer
    print("fine")


@case
def udp(w):
    """UDP to a server without the shim, connected and by sendto; and to one with it"""
    kernels, ours = w.port(), w.port()
    echo(w, kernels, False, kind="udp")
    echo(w, ours, True, kind="udp")
    same("its verdict", "fine\n", w.guest(datagrams, kernels, ours).ok().text())
    check(kernel_sockets(kernels, halves=True), "one of them is the kernel's")
    w.ours(ours)


# --- families that are not ours ---------------------------------------------------------------------------------

@guest
def families(directory, ipv6):
    a, b = socket.socketpair()
    a.sendall(b"pair")
    print("socketpair:", a.family.name, b.recv(10))
    path = os.path.join(directory, "unix%d" % os.getpid())
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    c = socket.socket(socket.AF_UNIX)
    c.connect(path)
    s, _ = listener.accept()
    c.sendall(b"unix")
    c.shutdown(socket.SHUT_WR)
    print("AF_UNIX:", s.recv(10), s.recv(10), os.path.basename(path).startswith("unix"))
    d, e = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    d.send(b"datagram")
    print("AF_UNIX SOCK_DGRAM:", e.recv(100))
    q, r = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    q.send(b"packet")
    print("AF_UNIX SOCK_SEQPACKET:", r.recv(100))
    n = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    n.bind((0, 0))
    # RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP
    n.send(struct.pack("=IHHIIBxHiII", 32, 18, 0x301, 1, 0, 0, 0, 0, 0, 0))
    print("AF_NETLINK:", b"lo\0" in n.recv(65536))
    print("interfaces:", ("lo" in [name for _, name in socket.if_nameindex()]))
    if ipv6 == "True":
        l6 = socket.create_server(("::1", 0), family=socket.AF_INET6)
        c6 = socket.create_connection(l6.getsockname()[:2])
        s6, _ = l6.accept()
        c6.sendall(b"six")
        print("AF_INET6:", s6.recv(10), c6.getpeername()[0])
        u6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        u6.bind(("::1", 0))
        u6.sendto(b"itself", u6.getsockname())
        print("AF_INET6 UDP:", u6.recv(100))
        m = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        cm = socket.create_connection((LOOPBACK, m.getsockname()[1]))
        sm, peer = m.accept()
        cm.sendall(b"mapped")
        print("IPv4 to a dual-stack listener:", sm.recv(10), peer[0])
    print("AF_INET 99:", outcome(socket.socket, socket.AF_INET, socket.SOCK_STREAM, 99))
    print("family 44:", outcome(socket.socket, 44, socket.SOCK_STREAM))
    # A machine without /etc/hosts, or without /etc/services, knows no such name: natively too.
    print("getaddrinfo:", outcome(lambda: sorted({i[4][0] for i in socket.getaddrinfo("localhost", 80, socket.AF_INET)})))
    print("gethostbyname:", outcome(socket.gethostbyname, "localhost"))
    print("getservbyname:", outcome(socket.getservbyname, "http"))
    print("unresolvable:", outcome(socket.gethostbyname, "no.such.name.invalid") in ("gaierror", "EPERM", "ok")
          or "an error")


@case
@both_worlds
def other_families(w, shim):
    """AF_UNIX, AF_NETLINK, AF_INET6 and names are unaffected"""
    return w.guest(families, w.work, has_ipv6(), shim=shim).ok().text()


@guest
def mixed_waiting(kernel_port, our_port):
    """select, poll and epoll over pipes, a socket of the kernel's and one of ours, each woken in turn."""
    pipe_in, pipe_out = os.pipe()
    k = socket.create_connection((LOOPBACK, int(kernel_port)))
    o = socket.create_connection((LOOPBACK, int(our_port)))
    for kind in ("SelectSelector", "PollSelector", "EpollSelector"):
        with getattr(selectors, kind)() as s:
            for name, source in (("pipe", pipe_in), ("kernel", k), ("ours", o)):
                s.register(source, selectors.EVENT_READ, name)
            assert s.select(0.01) == []
            for name, poke in (("ours", lambda: o.send(b"x")), ("pipe", lambda: os.write(pipe_out, b"x")),
                               ("kernel", lambda: k.send(b"x"))) * 5:
                threading.Timer(0.005, poke).start()
                ready = [key.data for key, _ in s.select(PATIENCE)]
                assert ready == [name], (kind, name, ready)
                if name == "pipe":
                    os.read(pipe_in, 1)
                else:
                    (o if name == "ours" else k).recv(1)
    print("fine")


@case
def waiting_for_both(w):
    """select, poll and epoll over pipes, the kernel's and our sockets at once"""
    kernels, ours = w.port(), w.port()
    echo(w, kernels, False)
    echo(w, ours, True)
    same("its verdict", "fine\n", w.guest(mixed_waiting, kernels, ours).ok().text())
    w.ours(ours)


if __name__ == "__main__":
    main()
