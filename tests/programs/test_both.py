"""Both sides at once: listeners and datagram sockets of ours serve programs with and without the shim; the port is taken
for both. Each case is run natively too, where the two kinds of clients are one."""
import errno, os, select, signal, socket, struct, subprocess, sys, threading, time

from harness import *

ROUNDS = 6


def errno_of(call, *args):
    try:
        call(*args)
        return "ok"
    except OSError as e:
        return errno.errorcode[e.errno]


# --- clients ------------------------------------------------------------------------------------------------------

@guest
def ask(port, kind, rounds, size="300"):
    """Connects, or sends, as often as asked, and wants each message back with the server's word before it."""
    for i in range(int(rounds)):
        data = os.urandom(1 + i * int(size))
        if kind == "udp":
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            if i % 2:
                s.connect((LOOPBACK, int(port)))
        else:
            s = socket.create_connection((LOOPBACK, int(port)))
        with s:
            s.settimeout(PATIENCE)
            if kind == "udp":
                s.send(data) if i % 2 else s.sendto(data, (LOOPBACK, int(port)))
                back, peer = s.recvfrom(65536)
                assert peer == (LOOPBACK, int(port)), peer
            else:
                sender = threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR)))
                sender.start()
                back = b"".join(iter(lambda: s.recv(1 << 16), b""))
                sender.join()
            assert back == b"got " + data, (i, len(back))
    print("fine")


def ask_both(w, port, kind="tcp", rounds=ROUNDS, size=300):
    """Clients of both kinds at the same time."""
    for p in [w.guest(ask, port, kind, rounds, size, shim=shim) for shim in (False, True, False, True)]:
        same("what a client %s the shim got" % ("under" if p.shim else "without"), "fine\n", p.ok().text())


# --- servers ------------------------------------------------------------------------------------------------------

def serve(connection):
    connection.settimeout(PATIENCE)
    with connection:
        data = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        connection.sendall(b"got " + data)


def ready_now(listener, how):
    """Waits until the listener is readable, in the way that is named."""
    if how == "poll":
        p = select.poll()
        p.register(listener, select.POLLIN)
        return lambda: p.poll()
    if how == "select":
        return lambda: select.select([listener], [], [])
    if how in ("epoll", "edge", "oneshot", "exclusive"):
        e = select.epoll()
        extra = {"epoll": 0, "edge": select.EPOLLET, "oneshot": select.EPOLLONESHOT,
                 "exclusive": select.EPOLLEXCLUSIVE}[how]
        e.register(listener, select.EPOLLIN | extra)

        def wait():
            if how == "oneshot":
                e.modify(listener, select.EPOLLIN | extra)
            e.poll()
        return wait
    return lambda: None


@guest
def server(port, how, workers="0"):
    """One process, or a parent and so many children, that accept until they are killed."""
    listener = socket.create_server((LOOPBACK, int(port)), backlog=64)
    if how == "late":  # registered before it listens
        listener.close()
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        e = select.epoll()
        e.register(listener, select.EPOLLIN)
        listener.bind((LOOPBACK, int(port)))
        listener.listen(64)
        wait = e.poll
    print("ready", flush=True)
    for _ in range(int(workers)):
        if os.fork() == 0:
            break
    if how != "late":
        listener.setblocking(how == "accept")
        wait = ready_now(listener, how)
    while True:
        wait()
        while True:
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                break
            connection.setblocking(True)
            serve(connection)
            if how != "edge":
                break


@guest
def datagram_server(port, how):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((LOOPBACK, int(port)))
    print("ready", flush=True)
    s.setblocking(how == "recv")
    wait = ready_now(s, how)
    while True:
        wait()
        while True:
            try:
                data, peer = s.recvfrom(65536)
            except BlockingIOError:
                break
            s.sendto(b"got " + data, peer)
            if how != "edge":
                break


@case
def waits(w):
    """accept, poll, select and epoll (level, edge, one-shot, exclusive, registered before listen) serve both kinds of clients"""
    for shim in (False, True):
        for how in ("accept", "poll", "select", "epoll", "edge", "oneshot", "exclusive", "late"):
            port = w.port()
            s = w.guest(server, port, how, shim=shim)
            s.until("ready")
            ask_both(w, port)
            s.kill()


@case
def datagrams(w):
    """recvfrom, poll, select and epoll on a bound datagram socket that both kinds of clients ask"""
    for shim in (False, True):
        for how in ("recv", "poll", "select", "epoll", "edge"):
            port = w.port()
            s = w.guest(datagram_server, port, how, shim=shim)
            s.until("ready")
            ask_both(w, port, "udp")
            s.kill()


@case
def much_data(w):
    """megabytes from and to a client without the shim"""
    for shim in (False, True):
        port = w.port()
        w.guest(server, port, "epoll", shim=shim).until("ready")
        ask_both(w, port, rounds=4, size=3000001)


@case
def prefork(w):
    """a listener inherited by three children; parent and children are killed one by one, whoever is left serves both kinds"""
    need_shim()
    for how in ("accept", "epoll"):
        port = w.port()
        s = w.guest(server, port, how, 3)
        s.until("ready")
        family = wait_until("the children", lambda: len(session_of(s.pid)) == 4 and session_of(s.pid))
        ask_both(w, port)
        for pid in family[:-1]:
            os.kill(pid, signal.SIGKILL)
            ask_both(w, port, rounds=4)


@guest
def moves(port, second):
    """A listener goes to another number, and a second one gets the first number: each hears of its own clients."""
    first = socket.create_server((LOOPBACK, int(port)))
    number = first.fileno()
    moved = socket.socket(fileno=os.dup2(number, 200))
    first.close()
    other = socket.create_server((LOOPBACK, int(second)))
    print("the number is another's:", other.fileno() == number, flush=True)
    for listener in (moved, other, moved, moved, other):
        print("waits", flush=True)
        serve(listener.accept()[0])
    print("served", flush=True)


@case
def numbers_change(w):
    """a listener that moved to another number, whose former one is another listener's"""
    for shim in (False, True):
        ports = w.port(), w.port()
        s = w.guest(moves, *ports, shim=shim)
        for i, turn in enumerate((0, 1, 0, 0, 1)):
            s.until("^(the .*: True\n)(waits\n){%d}$" % (i + 1), "out")
            time.sleep(0.1)
            same("the answer", "fine\n", w.guest(ask, ports[turn], "tcp", 1, shim=False).ok().text())
        s.until("served")
        s.ok()


# --- ports ---------------------------------------------------------------------------------------------------------

@guest
def holder(port, kind):
    """Binds, and lets go on request."""
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind != "udp" else socket.SOCK_DGRAM)
    s.bind((LOOPBACK, int(port)))
    if kind == "listen":
        s.listen()
    print("ready", flush=True)
    sys.stdin.readline()
    s.close()
    print("gone", flush=True)
    sys.stdin.readline()


@guest
def tries(port, kind):
    def one(reuse, address):
        s = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind != "udp" else socket.SOCK_DGRAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        r = errno_of(s.bind, (address, int(port)))
        if r == "ok" and kind == "listen":
            r = "ok, " + errno_of(s.listen)
        s.close()
        return r
    print([one(reuse, address) for reuse in (0, 1) for address in (LOOPBACK, "0.0.0.0", "127.0.0.2")])


@case
def address_in_use(w):
    """EADDRINUSE is the same whoever has the port and whoever wants it, and goes with its holder"""
    for kind in ("bind", "listen", "udp"):
        for has in (False, True):
            port = w.port()
            h = w.guest(holder, port, kind, shim=has, stdin=subprocess.PIPE)
            h.until("ready")
            answers = [w.guest(tries, port, kind, shim=wants).ok().text() for wants in (False, True)]
            same("%s, held by one %s the shim" % (kind, "under" if has else "without"), answers[0], answers[1])
            if not has:
                native = answers[0]
            same("the kernel's own answer", native, answers[0])
            h.write("\n")
            h.until("gone")
            free = [w.guest(tries, port, kind, shim=wants).ok().text() for wants in (False, True)]
            same("given back", [free[0], free[0]], free)
            check("EADDRINUSE" not in free[0], "the port is free")


@guest
def own_ports():
    """Ports that the kernel chooses: what is listened on can be bound by nobody else."""
    seen = set()
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        held = []
        for i in range(50):
            s = socket.socket(socket.AF_INET, kind)
            if i % 2 or kind == socket.SOCK_DGRAM:
                s.bind((LOOPBACK, 0))
            if kind == socket.SOCK_STREAM:
                s.listen()
            held.append(s)
        ports = [s.getsockname()[1] for s in held]
        assert len(set(ports)) == 50 and all(ports)
        seen |= set(ports)
        print([s.getsockname()[0] for s in held[:2]])
    print("fine")


@case
def chosen_ports(w):
    """bind to port 0 and listen without bind"""
    same("the answer", w.guest(own_ports, shim=False).ok().text(), w.guest(own_ports).ok().text())


# --- descriptors that travel -----------------------------------------------------------------------------------------

@guest
def becomes_another(port, how):
    """A listener made here goes on in a program that is executed, or in another process, and its maker is gone."""
    listener = socket.create_server((LOOPBACK, int(port)), backlog=64)
    if how == "exec":
        os.set_inheritable(listener.fileno(), True)
        os.execv(sys.executable, [sys.executable, "-B", sys.argv[0], "--guest", "inheritor", str(listener.fileno())])
    here, there = socket.socketpair()
    if os.fork() == 0:
        here.close()
        listener.close()
        listener = None
        _, fds, _, _ = socket.recv_fds(there, 1, 1)
        inheritor(fds[0], there)
    there.close()
    socket.send_fds(here, [b"x"], [listener.fileno()])
    listener.close()
    here.recv(1)
    os._exit(0)


@guest
def inheritor(fd, tell=None):
    listener = socket.socket(fileno=int(fd))
    print("ready", flush=True)
    if tell:
        tell.send(b"x")
    while True:
        serve(listener.accept()[0])


@case
def travels(w):
    """a listener over exec, and in a message whose sender ends: both kinds of clients are served"""
    for shim in (False, True):
        for how in ("exec", "message"):
            port = w.port()
            s = w.guest(becomes_another, port, how, shim=shim)
            s.until("ready")
            ask_both(w, port)
            s.end()


@guest
def starts_outsider(port):
    """A program without the shim inherits the listener; who made it serves no more."""
    listener = socket.create_server((LOOPBACK, int(port)), backlog=64)
    os.set_inheritable(listener.fileno(), True)
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("LD_PRELOAD", "SOCKSHIM_"))}
    os.execve(sys.executable, [sys.executable, "-B", sys.argv[0], "--guest", "inheritor", str(listener.fileno())], plain)


@case
def outsider_inherits(w):
    """a program without the shim that inherits our listener serves programs without the shim, and after a while those with it"""
    for shim in (False, True):
        port = w.port()
        s = w.guest(starts_outsider, port, shim=shim, env={"SOCKSHIM_KEEP_ENV": "0"})
        s.until("ready")
        for _ in range(2):
            same("the answer", "fine\n", w.guest(ask, port, "tcp", 4, shim=False).ok().text())
        if shim:
            # At first they meet our side, which nobody serves; then the kernel's.
            w.settle(lambda: w.guest(ask_or_reset, port), "a client under the shim is served")


@guest
def ask_or_reset(port):
    try:
        ask(port, "tcp", 4)
    except ConnectionResetError:
        sys.exit("refused, so to say")


# --- options, errors, other worlds ------------------------------------------------------------------------------------

@guest
def options(port):
    """What is set on the listener, before and after bind, holds on what it accepts; so do names and shutdown."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.bind((LOOPBACK, int(port)))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 7, 0))
    listener.listen()
    print("ready", flush=True)
    for _ in range(2):
        c, peer = listener.accept()
        print(c.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), c.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
              struct.unpack("ll", c.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16)), c.getsockname(),
              peer == c.getpeername(), c.recv(1), flush=True)
        c.close()
    listener.settimeout(0.05)
    print("times out:", timed_out(listener))
    listener.shutdown(socket.SHUT_RD)
    listener.settimeout(None)
    print(errno_of(listener.accept), flush=True)
    sys.stdin.readline()


def timed_out(listener):
    try:
        listener.accept()
    except TimeoutError:
        return True
    return False


@guest
def one_byte(port):
    with socket.create_connection((LOOPBACK, int(port))) as s:
        s.send(b"x")
        s.recv(1)
    print("fine")


@case
def accepted_options(w):
    """options of the listener on accepted sockets of both kinds; after shutdown both kinds are refused"""
    said = []
    for shim in (False, True):
        port = w.port()
        s = w.guest(options, port, shim=shim, stdin=subprocess.PIPE)
        s.until("ready")
        w.guest(one_byte, port, shim=False).ok()
        w.guest(one_byte, port).ok()
        s.until("EINVAL")
        said.append(s.text().replace(str(port), "PORT"))
        for client in (False, True):
            p = w.guest(one_byte, port, shim=client)
            check(p.wait() != 0 and "refused" in p.err(), "refused after shutdown")
    same("what the server saw", said[0], said[1])


@guest
def bound_client(port, udp_port):
    """Bound sockets as clients: of a server of the kernel's, and of one of ours; then refused."""
    for to in (int(port), int(udp_port)):
        u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        u.bind((LOOPBACK, 0))
        u.settimeout(PATIENCE)
        mine = u.getsockname()
        u.sendto(b"a", (LOOPBACK, to))
        print(u.recvfrom(10)[0], u.getsockname() == mine)
        u.connect((LOOPBACK, to))
        u.send(b"bc")
        print(u.recv(10), u.getpeername() == (LOOPBACK, to))
    u.connect((LOOPBACK, 1))
    u.send(b"nobody")
    wait_until("the refusal", lambda: select.select([u], [], [], 0)[0])
    print(errno_of(u.recv, 10), u.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


@case
def datagram_clients(w):
    """a bound datagram socket talks to servers of both kinds, and hears that there is none"""
    kernels, ours = w.port(), w.port()
    w.guest(datagram_server, kernels, "recv", shim=False).until("ready")
    w.guest(datagram_server, ours, "recv").until("ready")
    same("the outcome", w.guest(bound_client, kernels, ours, shim=False).ok().text(),
         w.guest(bound_client, kernels, ours).ok().text())


@guest
def bound_streams(port, mine):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((LOOPBACK, int(mine)))
    print(errno_of(s.connect, (LOOPBACK, 1)))
    s.connect((LOOPBACK, int(port)))
    s.sendall(b"x")
    s.shutdown(socket.SHUT_WR)
    print(s.recv(100), s.getsockname() == (LOOPBACK, int(mine)))


@case
def stream_clients(w):
    """a bound stream socket connects to servers of both kinds from its port"""
    said = []
    for client in (False, True):
        for shim in (False, True):
            port = w.port()
            w.guest(server, port, "accept", shim=shim).until("ready")
            said.append(w.guest(bound_streams, port, w.port(), shim=client).ok().text())
    same("the outcomes", [said[0]] * 4, said)


@case
def one_side_alone(w):
    """SOCKSHIM_SIDES: `shim` is not seen by the kernel, `kernel` makes nothing of ours"""
    need_shim()
    port = w.port()
    alone = {"SOCKSHIM_SIDES": "shim"}
    w.guest(server, port, "accept", env=alone).until("ready")
    same("a client under the shim", "fine\n", w.guest(ask, port, "tcp", 3, env=alone).ok().text())
    p = w.guest(ask, port, "tcp", 1, shim=False)
    check(p.wait() != 0 and "refused" in p.err(), "a client without the shim is refused")
    check(not kernel_sockets(port, halves=True), "the kernel has nothing of the port")
    port = w.port()
    w.guest(server, port, "accept", env={"SOCKSHIM_SIDES": "kernel"}).until("ready")
    ask_both(w, port)
    check(kernel_sockets(port), "all of that was the kernel's")


@guest
def asks_early(port, kind):
    """A client that asks without a pause while its server starts, again and again."""
    port, in_kernel = int(port), 0
    for _ in range(100):
        child = os.fork()
        if child == 0:
            time.sleep(0.002)
            s = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind((LOOPBACK, port))
            if kind == "tcp":
                s.listen()
                s = s.accept()[0]
                s.sendall(s.recv(1))
            else:
                s.sendto(*s.recvfrom(1))
            os._exit(0)
        answered = False
        while not answered:
            s = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
            s.settimeout(PATIENCE)
            try:
                s.connect((LOOPBACK, port))
                s.send(b"x")
                answered = s.recv(1) == b"x"
            except ConnectionRefusedError:
                pass
            in_kernel += answered and bool(kernel_sockets(port))
            s.close()
        os.waitpid(child, 0)
    print("by the kernel:", bool(in_kernel))


@case
def starting_servers(w):
    """a client that asks in the very instant in which its server binds and listens meets it in our network"""
    for kind in ("tcp", "udp"):
        same("with the kernel", "by the kernel: True\n", w.guest(asks_early, w.port(), kind, shim=False).ok().text())
        if not NATIVE:
            same("ours", "by the kernel: False\n", w.guest(asks_early, w.port(), kind).ok().text())


# --- real programs -------------------------------------------------------------------------------------------------------

@case
def redis_and_dig(w):
    """redis-server and dnsmasq under the shim, asked by redis-cli and dig with and without it"""
    redis, cli = need("redis-server"), need("redis-cli")
    port = w.port()
    w.start(redis, "--port", port, "--bind", LOOPBACK, "--save", "", "--dir", w.work).until("Ready to accept")
    for i, shim in enumerate((False, True, False, True)):
        w.run(cli, "-p", port, "set", "k%d" % i, "v%d" % i, shim=shim)
        same("what the other kind reads", "v%d\n" % i, w.run(cli, "-p", port, "get", "k%d" % i, shim=not shim).text())
    dnsmasq, dig = need("dnsmasq"), need("dig")
    port = w.port()
    d = w.start(dnsmasq, "--no-daemon", "--no-resolv", "--no-hosts", "--port", port, "--listen-address", LOOPBACK,
                "--bind-interfaces", "--address=/host.test/192.0.2.7", "--conf-file=/dev/null", "--user=root")
    d.until("started")
    for shim in (False, True):
        for way in ("+notcp", "+tcp"):
            p = w.run(dig, "@" + LOOPBACK, "-p", port, "host.test", "+short", way, shim=shim)
            same("%s %s the shim" % (way, "under" if shim else "without"), "192.0.2.7\n", p.text())


if __name__ == "__main__":
    main()
