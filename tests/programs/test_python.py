"""Python's own ways to serve and to connect: asyncio, threads, selectors, socketserver, multiprocessing,
subprocess. Each client checks the bytes; the case checks that the kernel saw none of them."""
import asyncio, multiprocessing, os, resource, selectors, signal, socket, socketserver, struct, subprocess, sys
import threading

from harness import *


def block(n, seed):
    """n bytes that both sides can make."""
    return random.Random(seed).randbytes(n)


def receive(s, n):
    parts = []
    while n:
        part = s.recv(min(n, 1 << 18))
        if not part:
            raise EOFError("%d bytes missing" % n)
        parts.append(part)
        n -= len(part)
    return b"".join(parts)


def connected(port):
    s = socket.create_connection((LOOPBACK, int(port)), timeout=PATIENCE)
    return s


# --- one client for all echo servers -------------------------------------------------------------------

@guest
def echo_clients(port, count, size, how="half"):
    """`count` connections at once; each sends `size` bytes while it reads them back."""
    failures = []

    def one(i):
        try:
            data = block(int(size), i)
            with connected(port) as s:
                sender = threading.Thread(target=lambda: (s.sendall(data), how == "half" and
                                                          s.shutdown(socket.SHUT_WR)))
                sender.start()
                back = receive(s, len(data))
                if how == "half" and s.recv(1) != b"":
                    raise EOFError("more than was sent")
                sender.join()
            if back != data:
                raise ValueError("wrong bytes on connection %d" % i)
        except Exception as e:
            failures.append("%d: %r" % (i, e))
    threads = [threading.Thread(target=one, args=(i,)) for i in range(int(count))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    print("\n".join(failures) or "all right")
    sys.exit(1 if failures else 0)


def check_echo(w, server, *, count=16, size=200000, how="half", port):
    server.until("ready")
    w.guest(echo_clients, port, count, size, how).ok()
    say("%d connections at once, %d bytes each there and back" % (count, size))
    w.guest(echo_clients, port, 1, 1, how).ok()
    w.ours(port)
    check(server.running(), "the server goes on")


# --- servers -----------------------------------------------------------------------------------------------

@guest
def serve_asyncio(port):
    async def echo(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
        writer.close()

    async def serve():
        server = await asyncio.start_server(echo, LOOPBACK, int(port))
        print("ready", flush=True)
        await server.serve_forever()
    asyncio.run(serve())


@guest
def asyncio_clients(port, count, size):
    async def one(i):
        reader, writer = await asyncio.open_connection(LOOPBACK, int(port))
        data = block(int(size), i)

        async def send():
            for at in range(0, len(data), 10007):
                writer.write(data[at:at + 10007])
                await writer.drain()
            writer.write_eof()
        _, back = await asyncio.gather(send(), reader.read(-1))
        writer.close()
        assert back == data, i

    async def all_of_them():
        await asyncio.wait_for(asyncio.gather(*(one(i) for i in range(int(count)))), PATIENCE)
    asyncio.run(all_of_them())


@case
def asyncio_streams(w):
    """asyncio: streams, 100 connections at once, and plain clients of it"""
    port = w.port()
    server = w.guest(serve_asyncio, port)
    server.until("ready")
    w.guest(asyncio_clients, port, 100, 50000).ok()
    say("100 asyncio clients")
    check_echo(w, server, port=port)


@guest
def asyncio_datagrams(port, role):
    class Server(asyncio.DatagramProtocol):
        def connection_made(self, transport):
            self.transport = transport

        def datagram_received(self, data, address):
            self.transport.sendto(data[::-1], address)

    class Client(asyncio.DatagramProtocol):
        def __init__(self, done):
            self.done, self.left = done, 200

        def connection_made(self, transport):
            self.transport = transport
            transport.sendto(b"%d" % self.left)

        def datagram_received(self, data, address):
            assert data == (b"%d" % self.left)[::-1], data
            self.left -= 1
            if self.left:
                self.transport.sendto(b"%d" % self.left)
            else:
                self.done.set_result(True)

        def error_received(self, problem):
            self.done.set_exception(problem)

    async def run():
        loop = asyncio.get_running_loop()
        if role == "server":
            await loop.create_datagram_endpoint(Server, local_addr=(LOOPBACK, int(port)))
            print("ready", flush=True)
            await asyncio.sleep(1000)
        done = loop.create_future()
        await loop.create_datagram_endpoint(lambda: Client(done), remote_addr=(LOOPBACK, int(port)))
        await asyncio.wait_for(done, PATIENCE)
    asyncio.run(run())


@case
def asyncio_udp(w):
    """asyncio datagram endpoints: 200 questions and answers"""
    port = w.port()
    w.guest(asyncio_datagrams, port, "server").until("ready")
    w.guest(asyncio_datagrams, port, "client").ok()
    w.ours(port)


@guest
def asyncio_files(port, path):
    """loop.sock_sendfile and loop.sendfile, that is sendfile(2) from a file to a socket of ours."""
    async def run():
        loop = asyncio.get_running_loop()

        async def give(reader, writer):
            which = await reader.readexactly(1)
            with open(path, "rb") as f:
                if which == b"t":
                    await loop.sendfile(writer.transport, f)
                else:
                    await writer.drain()
                    await loop.sendfile(writer.transport, f, offset=100, count=300000)
            writer.close()
        server = await asyncio.start_server(give, LOOPBACK, int(port))
        print("ready", flush=True)
        await server.serve_forever()
    asyncio.run(run())


@guest
def fetch_raw(port, question):
    with connected(port) as s:
        s.sendall(question.encode())
        h, n = hashlib.sha256(), 0
        while data := s.recv(100000):
            h.update(data)
            n += len(data)
    print(n, h.hexdigest())


@case
def asyncio_sendfile(w):
    """asyncio's sendfile"""
    port, data = w.port(), os.urandom(2000003)
    w.guest(asyncio_files, port, w.file("data", data)).until("ready")
    same("the whole file", "%d %s" % (len(data), sha(data)), w.guest(fetch_raw, port, "t").ok().text().strip())
    part = data[100:300100]
    same("a part of it", "%d %s" % (len(part), sha(part)), w.guest(fetch_raw, port, "p").ok().text().strip())
    w.ours(port)


@guest
def serve_threads(port):
    """A thread per connection, recv_into and send."""
    listener = socket.create_server((LOOPBACK, int(port)), backlog=64)
    print("ready", flush=True)

    def echo(s):
        room = bytearray(30000)
        with s:
            while n := s.recv_into(room):
                s.sendall(memoryview(room)[:n])
    while True:
        s, _ = listener.accept()
        threading.Thread(target=echo, args=(s,), daemon=True).start()


@case
def threads(w):
    """a thread per connection"""
    port = w.port()
    check_echo(w, w.guest(serve_threads, port), port=port)


@guest
def serve_selector(port, kind):
    """Non-blocking, one thread, readiness by epoll, poll or select."""
    selector = getattr(selectors, kind)()
    listener = socket.create_server((LOOPBACK, int(port)), backlog=128)
    listener.setblocking(False)
    selector.register(listener, selectors.EVENT_READ)
    pending = {}
    print("ready", flush=True)
    while True:
        for key, events in selector.select():
            s = key.fileobj
            if s is listener:
                s, _ = listener.accept()
                s.setblocking(False)
                selector.register(s, selectors.EVENT_READ)
                pending[s] = [bytearray(), False]
                continue
            held = pending[s]
            if events & selectors.EVENT_READ:
                try:
                    data = s.recv(65536)
                    held[0] += data
                    held[1] = not data
                except BlockingIOError:
                    pass
            if held[0]:
                try:
                    del held[0][:s.send(held[0])]
                except BlockingIOError:
                    pass
            wanted = (0 if held[1] or len(held[0]) > 500000 else selectors.EVENT_READ) | \
                (selectors.EVENT_WRITE if held[0] else 0)
            if wanted:
                selector.modify(s, wanted)
            else:
                selector.unregister(s)
                s.close()
                del pending[s]


def add_selector(kind):
    def test(w):
        port = w.port()
        check_echo(w, w.guest(serve_selector, port, kind), count=30, port=port)
    test.__name__ = "selectors_" + kind
    test.__doc__ = "a non-blocking server on selectors.%s, 30 connections at once" % kind
    case(test)


for _kind in ("EpollSelector", "PollSelector", "SelectSelector"):
    add_selector(_kind)


class EchoStream(socketserver.StreamRequestHandler):
    def handle(self):
        while data := self.rfile.read1(65536):
            self.wfile.write(data)


class EchoDatagram(socketserver.BaseRequestHandler):
    def handle(self):
        data, s = self.request
        s.sendto(data.upper(), self.client_address)


@guest
def serve_socketserver(port, kind):
    handler = EchoDatagram if "UDP" in kind else EchoStream
    server_class = getattr(socketserver, kind)
    server_class.allow_reuse_address = True
    server_class.max_children = 200
    server_class.max_packet_size = 65536
    server_class.request_queue_size = 128
    with server_class((LOOPBACK, int(port)), handler) as server:
        print("ready", flush=True)
        server.serve_forever(poll_interval=0.1)


@guest
def udp_client(port, count, size="20"):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(PATIENCE)
        s.connect((LOOPBACK, int(port)))
        for i in range(int(count)):
            data = (b"%d " % i) + b"x" * int(size)
            s.send(data)
            assert s.recv(65536) == data.upper(), i


def add_socketserver(kind):
    def test(w):
        port = w.port()
        server = w.guest(serve_socketserver, port, kind)
        if "UDP" in kind:
            server.until("ready")
            w.guest(udp_client, port, 30).ok()
            w.guest(udp_client, port, 5, 20000).ok()
            w.ours(port)
        else:
            check_echo(w, server, port=port, size=100000)
    test.__name__ = "socketserver_" + kind
    test.__doc__ = "socketserver." + kind
    case(test)


for _kind in ("ThreadingTCPServer", "ForkingTCPServer", "ThreadingUDPServer", "ForkingUDPServer"):
    add_socketserver(_kind)


# --- processes ---------------------------------------------------------------------------------------------

def echo_once(listener, served):
    """A worker: accepts `served` connections and echoes each to its end."""
    for _ in range(served):
        s, _ = listener.accept()
        with s:
            while data := s.recv(65536):
                s.sendall(data)


@guest
def serve_multiprocessing(port, method, workers, served):
    context = multiprocessing.get_context(method)
    listener = socket.create_server((LOOPBACK, int(port)), backlog=128)
    processes = [context.Process(target=echo_once, args=(listener, int(served))) for _ in range(int(workers))]
    for p in processes:
        p.start()
    listener.close()
    print("ready", flush=True)
    for p in processes:
        p.join()
    print("served", [p.exitcode for p in processes], flush=True)


def add_multiprocessing(method):
    def test(w):
        port = w.port()
        server = w.guest(serve_multiprocessing, port, method, 4, 4)
        server.until("ready")
        w.guest(echo_clients, port, 16, 100000).ok()
        server.ok()
        check("served [0, 0, 0, 0]" in server.text(), "four workers served four each and ended well")
        w.ours(port)
    test.__name__ = "multiprocessing_" + method
    test.__doc__ = "multiprocessing (%s): workers that got the listening socket" % method
    case(test)


for _method in ("fork", "spawn", "forkserver"):
    add_multiprocessing(_method)


@guest
def serve_pass_fds(port):
    """Each accepted socket goes to a fresh program by number (pass_fds), one end by stdin and stdout."""
    listener = socket.create_server((LOOPBACK, int(port)), backlog=64)
    print("ready", flush=True)
    code = ("import socket, sys\n"
            "s = socket.socket(fileno=int(sys.argv[1]))\n"
            "assert s.family == socket.AF_INET and s.type == socket.SOCK_STREAM, s\n"
            "assert s.getsockname()[1] == %d\n"
            "while data := s.recv(65536): s.sendall(data)\n" % int(port))
    children = []
    for i in range(6):
        s, _ = listener.accept()
        if i % 2:
            children.append(subprocess.Popen([PYTHON, "-c", code, str(s.fileno())], pass_fds=[s.fileno()]))
        else:
            children.append(subprocess.Popen(["cat"], stdin=s, stdout=s))
        s.close()
    print([c.wait() for c in children], flush=True)


@case
def subprocess_pass_fds(w):
    """subprocess: a socket passed by number to Python, and as stdin and stdout to cat"""
    port = w.port()
    server = w.guest(serve_pass_fds, port)
    server.until("ready")
    w.guest(echo_clients, port, 6, 100000).ok()
    server.ok()
    check("[0, 0, 0, 0, 0, 0]" in server.text(), "all children ended well")
    w.ours(port)


@guest
def options_and_ends():
    """In one process: socketpair-like connection to itself, timeouts, MSG_PEEK, makefile, sendmsg, errors."""
    listener = socket.create_server((LOOPBACK, 0))
    a = socket.create_connection(listener.getsockname(), timeout=PATIENCE)
    b, peer = listener.accept()
    assert peer == a.getsockname() and b.getpeername() == peer and a.getpeername() == listener.getsockname()
    a.settimeout(0.05)
    try:
        a.recv(1)
        raise SystemExit("no timeout")
    except TimeoutError:
        pass
    a.settimeout(PATIENCE)
    b.sendmsg([b"one", b"", b"two"])
    assert a.recv(100, socket.MSG_PEEK) == b"onetwo" == a.recv(100)
    f, g = a.makefile("rw"), b.makefile("rw")
    for i in range(100):
        f.write("line %d\n" % i)
        f.flush()
        assert g.readline() == "line %d\n" % i
    b.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    assert b.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert os.fstat(b.fileno()).st_mode & 0o170000 == 0o140000
    copy = os.dup(b.fileno())
    g.close(), b.close()
    os.write(copy, b"by dup")
    assert a.recv(100) == b"by dup"
    os.close(copy)
    assert a.recv(1) == b""
    a.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    f.close(), a.close(), listener.close()
    print("fine")


@case
def one_process(w):
    """both ends in one process: timeouts, MSG_PEEK, makefile, sendmsg, dup, fstat"""
    same("its verdict", "fine\n", w.guest(options_and_ends).ok().text())


@guest
def many_connections(count):
    """Holds many connections within one process and uses them in random order."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(int(count), hard // 2 - 50)
    listener = socket.create_server((LOOPBACK, 0), backlog=4096)
    pairs = []
    for i in range(count):
        a = socket.create_connection(listener.getsockname())
        b, _ = listener.accept()
        pairs.append((a, b))
    order = list(range(count))
    for seed in range(3):
        random.Random(seed).shuffle(order)
        for i in order:
            pairs[i][0].sendall(b"%d" % i)
        for i in reversed(order):
            assert pairs[i][1].recv(100) == b"%d" % i
    poller = selectors.DefaultSelector()
    for i, (a, b) in enumerate(pairs):
        poller.register(b, selectors.EVENT_READ, i)
    pairs[count // 2][0].send(b"x")
    ready = poller.select(PATIENCE)
    assert [k.data for k, _ in ready] == [count // 2], ready
    for a, b in pairs:
        a.close()
        assert b.recv(10) in (b"", b"x")
        b.close()
    print("fine")


@case
def many_in_one(w):
    """2,000 connections in one process, used in random order, one of them found by epoll"""
    same("its verdict", "fine\n", w.guest(many_connections, 2000).ok().text())


if __name__ == "__main__":
    main()
