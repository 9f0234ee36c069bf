"""Fused path, packet path, and switching between them at random in the middle of transfers: same bytes, and
TCP_INFO that counts them."""
import errno, os, select, signal, socket, struct, subprocess, sys, threading

from harness import *


def pattern(seed, n):
    return random.Random(seed).randbytes(n)


def tcp_info(s):
    """Bytes acknowledged, bytes received."""
    raw = s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return struct.unpack_from("=Q", raw, 120)[0], struct.unpack_from("=Q", raw, 128)[0]


def exchange(s, mine, theirs, seed):
    """Sends `mine` while it receives `theirs`, both in pieces of random size; ends with FIN both ways."""
    r = random.Random(seed)
    problem = []

    def send():
        try:
            at = 0
            while at < len(mine):
                n = r.choice((1, 7, 100, 1460, 5000, 65536, 300000))
                at += s.send(mine[at:at + n])
            s.shutdown(socket.SHUT_WR)
        except Exception as e:
            problem.append(repr(e))
    sender = threading.Thread(target=send)
    sender.start()
    q, got, h = random.Random(seed + 1), 0, hashlib.sha256()
    while True:
        data = s.recv(q.choice((1, 10, 1000, 4096, 100000, 1 << 20)))
        if not data:
            break
        if theirs[got:got + len(data)] != data:
            at = next(i for i in range(len(data)) if theirs[got + i:got + i + 1] != data[i:i + 1])
            raise ValueError("wrong byte at %d of %d" % (got + at, len(theirs)))
        got += len(data)
        h.update(data)
    sender.join()
    if problem:
        raise ValueError(problem[0])
    if got != len(theirs):
        raise ValueError("%d bytes of %d" % (got, len(theirs)))


def run_side(sockets, me, size, seed):
    failures = []

    def one(i, s):
        try:
            mine, theirs = pattern(seed + 10 * i + me, size), pattern(seed + 10 * i + 1 - me, size)
            s.settimeout(PATIENCE)
            exchange(s, mine, theirs, seed + i)
            # The client's first byte says who it is; Linux counts the SYN of the side that connected,
            # and FINs.
            expected = (size + 3, size + 1) if me else (size + 1, size + 2)
            try:
                wait_until("TCP_INFO is as it should be", lambda: tcp_info(s) == expected, 10)
            except Failure:
                failures.append("TCP_INFO: %s acknowledged and received, expected %s" % (tcp_info(s), expected))
        except Exception as e:
            failures.append("connection %d: %r" % (i, e))
    threads = [threading.Thread(target=one, args=(i, s)) for i, s in enumerate(sockets)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    print("\n".join(failures) or "fine")
    sys.exit(bool(failures))


@guest
def server(port, count, size, seed):
    listener = socket.create_server((LOOPBACK, int(port)), backlog=64)
    print("ready", flush=True)
    sockets = {}
    for _ in range(int(count)):
        s, _ = listener.accept()
        sockets[s.recv(1)[0]] = s
    run_side([sockets[i] for i in range(int(count))], 0, int(size), int(seed))


@guest
def client(port, count, size, seed):
    sockets = []
    for i in range(int(count)):
        s = socket.create_connection((LOOPBACK, int(port)))
        s.sendall(bytes([i]))
        sockets.append(s)
    run_side(sockets, 1, int(size), int(seed))


def transfers(w, settings, count, size, shim=True):
    port, seed = w.port(), rng.randrange(1 << 30)
    server_env, client_env = settings if isinstance(settings, tuple) else (settings, settings)
    s = w.guest(server, port, count, size, seed, env=server_env, shim=shim)
    s.until("ready")
    c = w.guest(client, port, count, size, seed, env=client_env, shim=shim)
    problem = []
    for p in (c, s):
        if p.wait():
            problem.append("%s: %s" % (p.name, p.text()[-600:] + p.err()[-600:]))
    if problem:
        raise Failure("seed %d: %s" % (seed, "; ".join(problem)))
    say("%d connections, %d bytes each way on each: right bytes, right TCP_INFO" % (count, size))
    w.ours(port, shim)


def add(name, text, settings, count=3, size=3000000):
    def test(w):
        transfers(w, settings, count, size)
    test.__name__, test.__doc__ = name, text
    case(test)


@case
def natively(w):
    """the kernel passes the same checks"""
    transfers(w, {}, 3, 1000000, shim=False)


add("fused", "as it is by default", {})
add("flip_50", "SOCKSHIM_FUSE_FLIP=50 on both sides", {"SOCKSHIM_FUSE_FLIP": 50}, count=4, size=4000000)
add("flip_3", "SOCKSHIM_FUSE_FLIP=3: switches every few calls", {"SOCKSHIM_FUSE_FLIP": 3}, size=1000000)
add("flip_1", "SOCKSHIM_FUSE_FLIP=1: switches at each call", {"SOCKSHIM_FUSE_FLIP": 1}, count=2, size=300000)
add("flip_one_side", "only one side switches", ({"SOCKSHIM_FUSE_FLIP": 20}, {}))
add("packets", "SOCKSHIM_FUSE=0 on both sides", {"SOCKSHIM_FUSE": 0})
add("packets_one_side", "SOCKSHIM_FUSE=0 on one side", ({"SOCKSHIM_FUSE": 0}, {}), size=1000000)
add("no_spinning", "SOCKSHIM_SPIN_US=0 with SOCKSHIM_FUSE_FLIP=50",
    {"SOCKSHIM_SPIN_US": 0, "SOCKSHIM_FUSE_FLIP": 50}, size=1000000)


@case
def nc_and_curl(w):
    """nc both ways and curl from http.server with SOCKSHIM_FUSE_FLIP=50"""
    w.env["SOCKSHIM_FUSE_FLIP"] = "50"
    nc, curl = need("nc", "curl")
    port, there, back = w.port(), os.urandom(1 << 20), os.urandom(1 << 20)
    s = w.start(nc, "-v", "-N", "-l", LOOPBACK, port, stdin=back)
    s.until("Listening")
    c = w.start(nc, "-N", LOOPBACK, port, stdin=subprocess.PIPE)
    c.write_and_end_after(there, "nc has got all", lambda: len(c.out()) >= len(back))
    c.ok(), s.ok()
    same("nc's bytes", [sha(there), sha(back)], [sha(s.out()), sha(c.out())])
    w.ours(port)
    port, data = w.port(), os.urandom(10000000)
    os.mkdir(w.path("www"))
    w.file("www/f", data)
    w.start(PYTHON, "-m", "http.server", "--bind", LOOPBACK, "--directory", w.path("www"), port).until("Serving")
    for _ in range(2):
        w.start(curl, "-sS", "--noproxy", "*", "-o", w.path("got"), "http://%s:%d/f" % (LOOPBACK, port)).ok()
        same("curl's bytes", sha(data), file_sha(w.path("got")))
    w.ours(port)


@guest
def odd_things(rounds):
    """Both ends in one process: out-of-band bytes, MSG_PEEK, MSG_WAITALL, half close and reset between switches."""
    listener = socket.create_server((LOOPBACK, 0))
    r = random.Random(int(rounds))
    for n in range(int(rounds)):
        a = socket.create_connection(listener.getsockname())
        b, _ = listener.accept()
        pending = {a: b"", b: b""}  # bytes on their way to this end
        other = {a: b, b: a}
        for _ in range(r.randrange(5, 40)):
            s = r.choice((a, b))
            what = r.randrange(4)
            if what < 2 and len(pending[other[s]]) < 50000:
                data = r.randbytes(r.choice((1, 50, 3000, 20000)))
                s.sendall(data)
                pending[other[s]] += data
            elif pending[s]:
                k = r.randrange(1, len(pending[s]) + 1)
                if what == 2:
                    peeked = s.recv(k, socket.MSG_PEEK)
                    assert pending[s].startswith(peeked) and peeked
                got = s.recv(k, socket.MSG_WAITALL)
                assert got == pending[s][:k], (n, len(got), k)
                pending[s] = pending[s][k:]
        if n % 3 == 0:
            a.send(b"!", socket.MSG_OOB)
            assert select.select([], [], [b], PATIENCE)[2] == [b]
            assert b.recv(1, socket.MSG_OOB) == b"!"
            if pending[b]:
                assert b.recv(len(pending[b]) + 1) == pending[b]
            b.close(), a.close()
            continue
        if n % 3 == 1:
            a.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            a.close()
            try:
                while b.recv(100000):
                    pass
                raise AssertionError("EOF rather than a reset")
            except ConnectionResetError:
                pass
            b.close()
            continue
        a.shutdown(socket.SHUT_WR)
        left = b""
        while data := b.recv(65536):
            left += data
        assert left == pending[b], n
        if pending[a]:
            assert a.recv(len(pending[a]), socket.MSG_WAITALL) == pending[a]
        b.sendall(b"after your FIN")
        b.close()
        left = b""
        while data := a.recv(65536):
            left += data
        assert left == b"after your FIN", left
        a.close()
    print("fine")


@case
def odd_calls(w):
    """MSG_PEEK, MSG_WAITALL, urgent data, half close and reset, natively, fused and flipping"""
    for shim, env in ((False, {}), (True, {}), (True, {"SOCKSHIM_FUSE_FLIP": 3}), (True, {"SOCKSHIM_FUSE": 0})):
        same("verdict with %s" % (env if shim else "the kernel"), "fine\n",
             w.guest(odd_things, 60, shim=shim, env=env).ok().text())


if __name__ == "__main__":
    main()
