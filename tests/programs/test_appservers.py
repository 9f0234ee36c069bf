"""Servers of applications, and the ways in which interpreters hand sockets to other processes: natively and under the shim."""
import multiprocessing, subprocess, time

from harness import *
from servers import LINES, answers, curl, debian_nginx, web_client, wrk_figure


def children(pid):
    with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
        return {int(p) for p in f.read().split()}


def under_load(w, shim, port, names, *actions):
    """Two clients that want right answers while the actions take place."""
    stop = w.path("stop-%d-%d" % (port, len(w.programs)))
    clients = [w.guest(web_client, port, stop, *names, module=__file__, shim=shim) for _ in range(2)]
    for action in actions:
        time.sleep(0.4)
        action()
    open(stop, "w").close()
    return sorted({c.ok().text() for c in clients})


# --- PHP ---------------------------------------------------------------------------------------------------

PHP = r"""<?php
switch ($_GET['what'] ?? '') {
case 'body': echo $_SERVER['REQUEST_METHOD'], ' ', hash('sha256', file_get_contents('php://input')); break;
case 'much': for ($i = 0; $i < 2000; $i++) { echo str_repeat("$i ", 2000), "\n"; if ($i % 500 == 0) flush(); } break;
case 'fetch': // from this web server, by PHP's own streams
    $s = stream_socket_client('tcp://' . $_SERVER['SERVER_ADDR'] . ':' . $_SERVER['SERVER_PORT'], $e, $t, 20);
    fwrite($s, "GET /page HTTP/1.0\r\n\r\n"); $all = stream_get_contents($s);
    echo hash('sha256', substr($all, strpos($all, "\r\n\r\n") + 4)); break;
default: echo $_SERVER['REMOTE_ADDR'], ' ', $_SERVER['SERVER_PROTOCOL'];
}
"""

POOL = """
[global]
pid = {top}/pid
error_log = {top}/error.log
process_control_timeout = 20s
[www]
user = www-data
group = www-data
listen = {address}:{port}
pm = dynamic
pm.max_children = 5
pm.start_servers = 2
pm.min_spare_servers = 1
pm.max_spare_servers = 3
pm.status_path = /status
"""


@case
@both_worlds
def php_fpm(w, shim):
    """php-fpm, nginx, curl, wrk: fastcgi over TCP; POST, 15 MB of output, streams from PHP, status, two reloads (SIGUSR2) under load"""
    if os.geteuid():
        raise Skip("not root")
    program = next(filter(None, (shutil.which("php-fpm8.%d" % n) for n in range(9, 0, -1))), None) or need("php-fpm")
    web, fpm = w.port(), w.port()
    top = w.path("php-%d" % fpm)
    os.mkdir(top)
    w.file(top + "/index.php", PHP.encode())
    w.file(top + "/page", LINES)
    debian_nginx(w, """server {{ listen {address}:{web}; root {top}; client_max_body_size 0;
        location ~ (\\.php|^/status)$ {{ include /etc/nginx/fastcgi.conf; fastcgi_pass {address}:{fpm}; }} }}
        """.format(address=LOOPBACK, web=web, fpm=fpm, top=top), shim)
    config = w.file(top + "/pool.conf", POOL.format(top=top, address=LOOPBACK, port=fpm).encode())
    master = w.start(program, "-F", "-n", "-y", config, shim=shim, name="php-fpm")
    url = "http://%s:%d/" % (LOOPBACK, web)
    wait_until("PHP answers", lambda: curl(w, url + "index.php", shim=shim).wait() == 0)
    outcome = [curl(w, url + "index.php?what=" + what, *options, shim=shim, stdin=LINES * 20).ok().out()
               for what, options in (("", []), ("body", ["-T", "-"]), ("body", ["--data-binary", "@-"]), ("much", []), ("fetch", []))]
    outcome[3] = sha(outcome[3])
    status = curl(w, url + "status", shim=shim).ok().text()
    outcome.append(re.findall("(listen queue(?: len)?|max children reached): +([0-9]+)", status))

    def reload():
        before = children(master.pid)
        master.kill(signal.SIGUSR2)
        wait_until("all workers are new", lambda: children(master.pid) and not children(master.pid) & before)
    outcome += under_load(w, shim, web, ["index.php", "index.php?what=much", "page"], reload, reload)
    wrk_figure(w, url + "index.php", shim, "short answers of PHP")
    for port in (web, fpm):
        w.ours(port, shim)
    master.kill(signal.SIGQUIT)
    outcome.append(master.wait())
    with open(top + "/error.log") as f:
        outcome += re.findall("(?:WARNING|ERROR|ALERT).*", f.read())
    return outcome


# --- Python ----------------------------------------------------------------------------------------------

WSGI = """
import hashlib
LINES = b"".join(b"line %d\\n" % i for i in range(20000))

def application(environ, start_response):
    path, length = environ["PATH_INFO"], int(environ.get("CONTENT_LENGTH") or 0)
    start_response("200 OK", [("Content-Type", "text/plain")])
    if path == "/body":
        return [hashlib.sha256(environ["wsgi.input"].read(length)).hexdigest().encode()]
    if path == "/page":
        return [LINES[at:at + 10000] for at in range(0, len(LINES), 10000)]
    return [environ["REMOTE_ADDR"].encode()]
"""

ASGI = """
import hashlib
LINES = b"".join(b"line %d\\n" % i for i in range(20000))

async def application(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/page":
        for at in range(0, len(LINES), 10000):
            await send({"type": "http.response.body", "body": LINES[at:at + 10000], "more_body": True})
        body = b""
    else:
        body = hashlib.sha256(body).hexdigest().encode() if scope["path"] == "/body" else scope["client"][0].encode()
    await send({"type": "http.response.body", "body": body})
"""


def questions(w, shim, url):
    """What each of the servers has to answer."""
    found = [curl(w, "-v", url + "page?[1-5]", shim=shim).ok(), curl(w, "--data-binary", "@-", url + "body", stdin=LINES * 30, shim=shim).ok(),
             curl(w, url, shim=shim).ok()]
    return [sha(p.out()) for p in found] + [found[0].err().count("Re-using existing connection")]


@case
@both_worlds
def gunicorn(w, shim):
    """gunicorn, curl, wrk: sync, gthread and gevent workers; SIGHUP, workers ended and replaced, a new master (SIGUSR2), all under load"""
    program, outcome = need("gunicorn"), []
    if subprocess.run([PYTHON, "-c", "import gevent"], stderr=subprocess.DEVNULL).returncode:
        raise Skip("gevent is not installed")
    w.file("wsgi.py", WSGI.encode())
    for kind, options in (("sync", []), ("gthread", ["--threads", 4]), ("gevent", [])):
        port = w.port()
        url, pid = "http://%s:%d/" % (LOOPBACK, port), w.path("pid-%d" % port)
        master = w.start(PYTHON, program, "-b", "%s:%d" % (LOOPBACK, port), "-w", 2, "-k", kind, "-p", pid, "--max-requests",
                         2000, *options, "wsgi", shim=shim, env={"PYTHONDONTWRITEBYTECODE": "1"}, name="gunicorn-" + kind)
        answers(w, url, shim)
        outcome.append((kind, questions(w, shim, url)))

        def are_new(before, pid=master.pid):
            wait_until("the workers are others", lambda: len(children(pid) - before) == 2 and not children(pid) & before)

        def hup():
            before = children(master.pid)
            master.kill(signal.SIGHUP)
            are_new(before)

        def worker():
            victim = min(children(master.pid))

            def replaced():
                now = children(master.pid)
                if victim in now:  # once more: one that has just been forked takes the signal for its master's
                    os.kill(victim, signal.SIGTERM)
                return victim not in now and len(now) == 2
            wait_until("there is another worker", replaced)

        def usr2():
            master.kill(signal.SIGUSR2)
            new = int(wait_until("there is a new master", lambda: os.path.exists(pid + ".2") and open(pid + ".2").read()))
            wait_until("it has two workers", lambda: len(children(new)) == 2)
            master.kill(signal.SIGTERM)
            outcome.append(master.wait())
        outcome += under_load(w, shim, port, ["", "page"], hup, worker, *([usr2] if kind == "sync" else []))
        wrk_figure(w, url, shim, "short answers, " + kind, may_end=True)
        w.ours(port, shim)
    return outcome


@case
@both_worlds
def uvicorn(w, shim):
    """python3-uvicorn, python3-uvloop, curl, wrk: two workers of uvicorn (sockets passed to spawned processes) on uvloop and on asyncio"""
    outcome = []
    if subprocess.run([PYTHON, "-c", "import uvicorn, uvloop"], stderr=subprocess.DEVNULL).returncode:
        raise Skip("uvicorn or uvloop is not installed")
    w.file("asgi.py", ASGI.encode())
    for loop in ("uvloop", "asyncio"):
        port = w.port()
        url = "http://%s:%d/" % (LOOPBACK, port)
        master = w.start(PYTHON, "-B", "-m", "uvicorn", "--host", LOOPBACK, "--port", port, "--workers", 2, "--loop", loop,
                         "--no-access-log", "asgi:application", shim=shim, name="uvicorn-" + loop)
        answers(w, url, shim)
        wait_until("both workers serve", lambda: master.err().count("Application startup complete") == 2)
        outcome += [questions(w, shim, url), under_load(w, shim, port, ["", "page"])]
        wrk_figure(w, url, shim, "short answers, " + loop)
        w.ours(port, shim)
        master.kill(signal.SIGTERM)
        outcome.append(master.wait())
    return outcome


@guest
def uvloop_guest(port):
    """A server and 50 clients in one loop, a listener that somebody else made, datagrams, a child that gets a socket."""
    import asyncio, uvloop

    async def serve(reader, writer):
        data = await reader.readexactly(100000)
        writer.write(data[::-1])
        await writer.drain()
        writer.close()

    async def client(n, to):
        reader, writer = await asyncio.open_connection(LOOPBACK, to)
        writer.write(random.Random(n).randbytes(100000))
        data = await asyncio.wait_for(reader.read(-1), PATIENCE)
        writer.close()
        return sha(data)

    class Echo(asyncio.DatagramProtocol):
        def connection_made(self, transport):
            self.transport = transport

        def datagram_received(self, data, address):
            self.transport.sendto(data.upper(), address)

    class Asker(asyncio.DatagramProtocol):
        def __init__(self):
            self.answer = asyncio.get_running_loop().create_future()

        def datagram_received(self, data, address):
            self.answer.set_result(data)

    async def everything():
        loop, port_number = asyncio.get_running_loop(), int(port)
        print(type(loop).__module__)
        server = await asyncio.start_server(serve, LOOPBACK, port_number, backlog=100)
        print("\n".join(await asyncio.gather(*(client(n, port_number) for n in range(50)))))
        server.close()
        await server.wait_closed()
        with socket.create_server((LOOPBACK, port_number), backlog=100) as listener:
            server = await asyncio.start_server(serve, sock=listener)
            print("\n".join(await asyncio.gather(*(client(n, port_number) for n in range(20)))))
            server.close()
            await server.wait_closed()
        await loop.create_datagram_endpoint(Echo, local_addr=(LOOPBACK, port_number))
        for n in range(20):
            transport, asker = await loop.create_datagram_endpoint(Asker, remote_addr=(LOOPBACK, port_number))
            transport.sendto(b"question %d" % n)
            print(await asyncio.wait_for(asker.answer, PATIENCE))
            transport.close()
        # a child's standard input and output are one end of a connection, the loop has the other
        with socket.create_server((LOOPBACK, 0)) as listener:
            near, far = socket.create_connection(listener.getsockname()), listener.accept()[0]
        child = await asyncio.create_subprocess_exec("tr", "a-z", "A-Z", stdin=far, stdout=far)
        far.close()
        reader, writer = await asyncio.open_connection(sock=near)
        writer.write(LINES)
        writer.write_eof()
        print(sha(await asyncio.wait_for(reader.read(-1), PATIENCE)), await child.wait())
        writer.close()
    uvloop.install()
    asyncio.run(everything())


@guest
def gevent_guest(port):
    """Patched sockets: a StreamServer and 50 clients, Python's own threads and selectors turned into greenlets, datagrams, a child."""
    from gevent import monkey
    monkey.patch_all()
    import gevent, gevent.pool, gevent.server, threading, urllib.request, http.server
    from gevent import pywsgi

    def echo(s, address):
        for line in s.makefile("rb"):
            s.sendall(line[:-1][::-1] + b"\n")

    def client(n):
        with socket.create_connection((LOOPBACK, int(port)), timeout=PATIENCE) as s:
            stream, found = s.makefile("rwb"), hashlib.sha256()
            for i in range(50):
                stream.write(b"line %d of %d\n" % (i, n))
                stream.flush()
                found.update(stream.readline())
        return found.hexdigest()
    server = gevent.server.StreamServer((LOOPBACK, int(port)), echo, backlog=100)
    server.start()
    print("\n".join(gevent.pool.Pool(50).map(client, range(50))))
    server.stop()
    datagrams = gevent.server.DatagramServer((LOOPBACK, int(port)), lambda data, to: datagrams.sendto(data.upper(), to))
    datagrams.start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        for n in range(20):
            s.sendto(b"question %d" % n, (LOOPBACK, int(port)))
            print(s.recv(100))
    datagrams.stop()

    def application(environ, start_response):
        start_response("200 OK", [])
        return [environ["wsgi.input"].read(), LINES]
    web = pywsgi.WSGIServer((LOOPBACK, int(port)), application, log=None)
    web.start()
    jobs = [gevent.spawn(lambda n=n: sha(urllib.request.urlopen("http://%s:%s/" % (LOOPBACK, port), b"%d" % n * 30000).read()))
            for n in range(20)]
    gevent.joinall(jobs, timeout=PATIENCE)
    print([j.value for j in jobs])
    print(subprocess.run(["tr", "a-z", "A-Z"], input=b"by a child", stdout=subprocess.PIPE).stdout)
    web.stop()


def in_guest(w, shim, name, function):
    if subprocess.run([PYTHON, "-c", "import " + name], stderr=subprocess.DEVNULL).returncode:
        raise Skip(name + " is not installed")
    port = w.port()
    text = w.guest(function, port, shim=shim).ok().text()
    w.ours(port, shim)
    return text


@case
@both_worlds
def uvloop(w, shim):
    """python3-uvloop: 50 connections at once, a listener made elsewhere, datagrams, a child that has a socket as 0 and 1"""
    return in_guest(w, shim, "uvloop", uvloop_guest)


@case
@both_worlds
def gevent(w, shim):
    """python3-gevent: patched sockets, StreamServer and 50 clients, DatagramServer, pywsgi and urllib"""
    return in_guest(w, shim, "gevent", gevent_guest)


# --- sockets handed on ------------------------------------------------------------------------------------

def serve_what_comes(pipe, queue):
    """A process that gets connections and a listener through a pipe and a queue."""
    for _ in range(3):
        kind, s = pipe.recv()
        if kind == "listener":
            with s:
                s, _ = s.accept()
        with s, s.makefile("rwb") as stream:
            for line in stream:
                stream.write(line.upper())
                stream.flush()
    s = queue.get()
    s.sendall(b"through a queue\n")
    s.close()
    # and back: what it makes itself goes to its parent
    with socket.create_server((LOOPBACK, 0)) as listener:
        pipe.send(listener)
        pipe.recv()


@guest
def handing_on(port):
    import multiprocessing.reduction as reduction
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        ours, theirs = context.Pipe()
        queue = context.Queue()
        child = context.Process(target=serve_what_comes, args=(theirs, queue))
        child.start()
        with socket.create_server((LOOPBACK, int(port)), backlog=20) as listener:
            def connection():
                return socket.create_connection((LOOPBACK, int(port)), timeout=PATIENCE)

            def talk(s):
                with s:
                    s.sendall(LINES[:20000])
                    s.shutdown(socket.SHUT_WR)
                    return sha(s.makefile("rb").read())
            for _ in range(2):
                s = connection()
                with listener.accept()[0] as far:
                    s.sendall(b"before\n")
                    ours.send(("connection", far))
                # the sender's copy is closed while the message may be in flight
                print(method, talk(s))
            ours.send(("listener", listener))
            print(talk(connection()))
            s = connection()
            queue.put(listener.accept()[0])
            print(s.makefile("rb").read())
            s.close()
        if not ours.poll(PATIENCE):
            raise TimeoutError
        with ours.recv() as back:
            client = socket.create_connection(back.getsockname(), timeout=PATIENCE)
            with back.accept()[0] as s:
                s.sendall(b"through the child's listener")
            print(client.makefile("rb").read())
            client.close()
        ours.send("over")
        child.join(PATIENCE)
        print(child.exitcode)
    # the same by hand: socket.send_fds, a datagram socket among them
    left, right = socket.socketpair()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as d, socket.create_server((LOOPBACK, int(port))) as listener:
        d.bind((LOOPBACK, int(port)))
        socket.send_fds(left, [b"two"], [d.fileno(), listener.fileno()])
    text, numbers, _, _ = socket.recv_fds(right, 10, 5)
    d, listener = (socket.socket(fileno=n) for n in numbers)
    print(text, d.type, d.getsockname()[0], listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    # subprocess: by number, and without numbers there is nothing
    for options in (dict(pass_fds=numbers), dict(close_fds=False), dict()):
        for n in numbers:
            os.set_inheritable(n, "close_fds" in options)
        code = """import os, socket, sys
for n in sys.argv[1:]:
    try:
        s = socket.socket(fileno=int(n)); print(s.type, s.getsockname()[0])
    except OSError as e: print(e.strerror)"""
        print(subprocess.run([PYTHON, "-c", code, *map(str, numbers)], stdout=subprocess.PIPE, text=True, **options).stdout)


@case
@both_worlds
def python_pipes(w, shim):
    """python3: connections and listeners through multiprocessing's pipes and queues (fork, spawn, forkserver), send_fds, subprocess with pass_fds"""
    port = w.port()
    text = w.guest(handing_on, port, shim=shim).ok().text()
    w.ours(port, shim)
    return text


NODE = r"""
const net = require('net'), http = require('http'), crypto = require('crypto'), cp = require('child_process');
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
const port = +process.argv[2], sha = (b) => crypto.createHash('sha256').update(b).digest('hex');
const lines = Buffer.from([...Array(20000).keys()].map((i) => 'line ' + i + '\n').join(''));
// sends all, ends, and wants all back
const talk = (n) => new Promise((done, fail) => { const parts = [];
    const s = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true }, () => s.end(Buffer.concat([lines, Buffer.from('of ' + n)])));
    s.on('data', (d) => parts.push(d)); s.on('end', () => done(sha(Buffer.concat(parts)))); s.on('error', fail); });
const echo = (s) => { s.on('data', (d) => s.write(d)); s.on('end', () => s.end()); s.resume(); };
const closed = (s) => new Promise((done) => s.close(done));
const listen = (s) => new Promise((done) => s.listen(port, '127.0.0.1', done));

async function handles() {
    const child = cp.fork(__filename, [port, 'child']);
    const said = (what) => new Promise((done) => { const look = (m) => { if (m === what) { child.off('message', look); done(); } }; child.on('message', look); });
    // the server: parent and child accept
    let server = net.createServer({ allowHalfOpen: true }, echo);
    await listen(server);
    const ready = said('listening');
    child.send('server', server); await ready;
    console.log('server', await Promise.all([...Array(20).keys()].map(talk)));
    const only = closed(server);  // from now on it is the child's alone
    console.log('of the child', await Promise.all([...Array(5).keys()].map(talk)));
    const shut = said('closed'); child.send('close'); await shut; await only;
    // sockets: each connection goes to the child, nothing read before
    server = net.createServer({ pauseOnConnect: true, allowHalfOpen: true }, (s) => child.send('socket', s));
    await listen(server);
    console.log('sockets', await Promise.all([...Array(20).keys()].map(talk)));
    await closed(server);
    child.disconnect();
    console.log(await new Promise((done) => child.on('exit', done)));
}

async function threads() {
    const server = http.createServer((q, a) => { const parts = []; q.on('data', (d) => parts.push(d));
        q.on('end', () => a.end(Buffer.concat(parts).reverse())); });
    await listen(server);
    const found = await Promise.all([...Array(4).keys()].map((n) => new Promise((done, fail) => {
        const w = new Worker(__filename, { argv: [port], workerData: n }); w.on('message', done); w.on('error', fail); })));
    console.log(found);
    await new Promise((done) => { server.close(done); server.closeAllConnections(); });
}

async function worker() {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 4 }), found = [];
    await Promise.all([...Array(30).keys()].map((n) => new Promise((done, fail) => {
        const q = http.request({ host: '127.0.0.1', port, method: 'POST', agent }, (a) => { const parts = [];
            a.on('data', (d) => parts.push(d)); a.on('end', () => { found[n] = sha(Buffer.concat(parts)); done(); }); });
        q.on('error', fail); q.end(Buffer.alloc(40000 + n, 'text of ' + workerData)); })));
    agent.destroy(); parentPort.postMessage(sha(found.join()));
}

if (!isMainThread) worker();
else if (process.argv[3] == 'child') {
    process.on('message', (m, handle) => {
        if (m === 'server') { this.server = handle; handle.on('connection', (s) => { s.allowHalfOpen = true; echo(s); }); process.send('listening'); }
        else if (m === 'close') this.server.close(() => process.send('closed'));
        else if (m === 'socket') { handle.allowHalfOpen = true; echo(handle); }
    });
} else handles().then(threads);
"""


@case
@both_worlds
def node_handles(w, shim):
    """node: a net.Server and single connections passed to a child, worker threads as clients of an http server, kept alive"""
    port = w.port()
    p = w.start(need("node"), w.file("handles-%d.js" % port, NODE.encode()), port, shim=shim).ok()
    w.ours(port, shim)
    return p.text()


HTTP = r"""
const http = require('http'), lines = Buffer.from([...Array(20000).keys()].map((i) => 'line ' + i + '\n').join(''));
http.createServer((q, a) => { if (q.url == '/page') { a.write(lines.subarray(0, 90000)); a.end(lines.subarray(90000)); } else a.end('short\n'); })
    .listen(+process.argv[2], '127.0.0.1', () => console.log('ready'));
"""


@case
@both_worlds
def node_http(w, shim):
    """node, curl, wrk: its http server under load"""
    port = w.port()
    url = "http://%s:%d/" % (LOOPBACK, port)
    w.start(need("node"), w.file("http-%d.js" % port, HTTP.encode()), port, shim=shim).until("ready")
    outcome = questions(w, shim, url), under_load(w, shim, port, ["", "page"])
    wrk_figure(w, url, shim, "short answers")
    wrk_figure(w, url + "page", shim, "200 KB by chunks")
    w.ours(port, shim)
    return outcome


if __name__ == "__main__":
    main()
