"""Clients and interpreters of Debian's packages, natively and under the shim, with the same answers."""
import json, os, random, shutil, subprocess, time

from harness import *
from servers import LINES, nginx, web


# --- downloading -----------------------------------------------------------------------------------------

@case
@both_worlds
def wget(w, shim):
    """wget: a tree of 40 files by -r over one connection, --spider"""
    program = need("wget")
    port, url = web(w, shim)
    top, to = w.path("www-%d" % port), w.path("got-%d" % port)
    r = random.Random(1)
    for i in range(40):
        os.makedirs("%s/d%d" % (top, i % 4), exist_ok=True)
        with open("%s/d%d/f%d" % (top, i % 4, i), "wb") as f:
            f.write(r.randbytes(r.randrange(60000)))
    p = w.start(program, "-r", "-np", "-nH", "--no-verbose", "-P", to, url + "/", shim=shim).ok()
    os.unlink(to + "/index.html")
    for i in range(4):
        os.unlink("%s/d%d/index.html" % (to, i))
    shas = [tree(top), tree(to)]
    same("the tree", shas[0], shas[1])
    spider = w.start(program, "--spider", "--no-verbose", url + "/nothing", shim=shim)
    same("a page that is not there", 8, spider.wait())
    w.ours(port, shim)
    return shas, len(re.findall("URL:", p.err()))


def tree(top):
    return {os.path.relpath(os.path.join(d, f), top): file_sha(os.path.join(d, f)) for d, _, fs in os.walk(top) for f in fs}


@case
@both_worlds
def lftp(w, shim):
    """lftp: mirror with four connections at once, a file in three pieces (pget)"""
    program = need("lftp")
    port, url = web(w, shim)
    top, to = w.path("www-%d" % port), w.path("got-%d" % port)
    r = random.Random(2)
    for i in range(20):
        with open("%s/f%d" % (top, i), "wb") as f:
            f.write(r.randbytes(r.randrange(60000)))
    w.start(program, "-c", "set net:max-retries 2; set net:timeout 20; mirror -P 4 %s/ %s; pget -n 3 -O %s %s/larger -o pieces"
            % (url, to, to, url), env={"HOME": w.work}, shim=shim).ok()
    got = tree(to)
    same("in pieces", got["larger"], got.pop("pieces"))
    same("the tree", tree(top), got)
    w.ours(port, shim)
    return got


@case
@both_worlds
def busybox(w, shim):
    """busybox: wget, nc and httpd, a dynamic build"""
    program = need("busybox")
    if "libc.so" not in subprocess.run(["ldd", program], capture_output=True, text=True).stdout:
        raise Skip("this busybox is static")
    port, url = web(w, shim)
    w.start(program, "wget", "-q", "-O", w.path("got"), url + "/larger", shim=shim).ok()
    c = w.start(program, "nc", LOOPBACK, port, stdin=b"GET /who HTTP/1.0\r\n\r\n", shim=shim).ok()
    w.ours(port, shim)
    served = w.port()
    w.start(program, "httpd", "-f", "-p", "%s:%d" % (LOOPBACK, served), "-h", w.path("www-%d" % port), shim=shim, name="httpd")
    fetched = w.settle(lambda: w.start(need("curl"), "-sS", "http://%s:%d/larger" % (LOOPBACK, served), shim=shim), "httpd serves")
    w.ours(served, shim)
    return file_sha(w.path("got")), c.text().splitlines()[-1], sha(fetched.out())


@case
@both_worlds
def telnet(w, shim):
    """telnet: typed lines and their echo, from socat with a shell on the socket"""
    program, socat, port = need("telnet"), need("socat"), w.port()
    w.start(socat, "-d", "-d", "TCP-LISTEN:%d,bind=%s,fork,reuseaddr" % (port, LOOPBACK),
            "SYSTEM:'while read -r line; do echo you said \"$line\"; done',nofork", shim=shim,
            name="socat-server").until("listening on", "err")
    p = w.start(program, LOOPBACK, port, stdin=subprocess.PIPE, shim=shim)
    p.until("Escape character")
    for i in range(20):
        p.write("line %d\n" % i)
        p.until("you said line %d\\b" % i, "out")
    p.close_stdin()
    p.wait()
    w.ours(port, shim)
    return re.findall("you said line [0-9]+", p.text())


# --- load --------------------------------------------------------------------------------------------------

@case
@both_worlds
def ab(w, shim):
    """ab: 600 requests, 12 at once, each over its own connection, then kept alive, from nginx"""
    program = need("ab")
    port, url = nginx(w, shim)
    found = []
    for how in ([], ["-k"]):
        p = w.start(program, "-q", "-n", 600, "-c", 12, *how, url, shim=shim).ok()
        found += re.findall("(?:Complete requests|Failed requests|HTML transferred|Keep-Alive requests): +[0-9]+", p.text())
    w.ours(port, shim)
    return found


@case
@both_worlds
def wrk(w, shim):
    """wrk: two threads, 32 connections, one second, from nginx"""
    program = need("wrk")
    port, url = nginx(w, shim)
    p = w.start(program, "-t", 2, "-c", 32, "-d", "1s", "--timeout", "20s", url, shim=shim).ok()
    count = int(re.search("([0-9]+) requests in", p.text()).group(1))
    check(count > 100, "%d requests" % count)
    w.ours(port, shim)
    return re.findall("Socket errors.*|Non-2xx.*", p.text())


@case
@both_worlds
def iperf3(w, shim):
    """iperf3: 64 MB in one stream, in four, in one and four backwards, with sendfile; UDP both ways"""
    program, outcome = need("iperf3"), []

    def measure(*args):
        port = w.port()
        s = w.start(program, "-s", "-1", "-4", "-B", LOOPBACK, "-p", port, "--forceflush", shim=shim, name="iperf3-server")
        s.until("Server listening")
        c = w.start(program, "-c", LOOPBACK, "-4", "-p", port, "-J", *args, shim=shim).ok()
        s.ok()
        w.ours(port, shim)
        return json.loads(c.text())["end"]
    for what, args in (("one stream", []), ("four streams", ["-P", "4"]), ("one stream, -R", ["-R"]),
                       ("four streams, -R", ["-P", "4", "-R"]), ("one stream, -Z", ["-Z"])):
        end = measure("-n", "64M", *args)
        # (The server stops counting when the client says that it has sent all.)
        outcome.append((len(end["streams"]), end["sum_sent"]["bytes"] >= 64 << 20, end["sum_received"]["bytes"] >= 16 << 20))
        w.figure(what, "Gbit/s", end["sum_sent"]["bits_per_second"] / 1e9, shim)
    for args in ([], ["-R"]):
        end = measure("-u", "-b", "100M", "-t", "1", "-l", "1400", *args)
        outcome.append(end["sum"]["packets"] > 100)
    return outcome


@case
@both_worlds
def sockperf(w, shim):
    """sockperf: ping-pong and throughput over TCP, UDP and by epoll over both"""
    program, outcome = need("sockperf"), []
    for kind in (["--tcp"], []):
        port = w.port()
        s = w.start(program, "sr", "-i", LOOPBACK, "-p", port, *kind, shim=shim, name="sockperf-server")
        s.until("Warmup stage|using recvfrom|to terminate")
        by = "by TCP" if kind else "by UDP"
        p = w.start(program, "ping-pong", "-i", LOOPBACK, "-p", port, "-t", 1, "-m", 64, *kind, shim=shim).ok()
        outcome += re.findall("# dropped messages.*", p.text())
        way = float(re.search(r"Latency is ([\d.]+)", p.text()).group(1))  # microseconds, one way
        w.figure("ping-pong " + by, "round trips/s", 500000 / way, shim)
        p = w.start(program, "throughput", "-i", LOOPBACK, "-p", port, "-t", 1, "-m", 64, *kind, shim=shim).ok()
        w.figure("throughput " + by, "messages/s", float(re.search(r"Message Rate is (\d+)", p.text()).group(1)), shim)
        w.ours(port, shim)
    port, both = w.port(), w.port()
    feed = w.file("feed-%d" % port, ("T:%s:%d\nU:%s:%d\n" % (LOOPBACK, port, LOOPBACK, both)).encode())
    w.start(program, "sr", "-f", feed, "-F", "epoll", shim=shim, name="sockperf-server").until("to terminate|Warmup|using epoll")
    p = w.start(program, "ping-pong", "-f", feed, "-F", "epoll", "-t", 1, shim=shim).ok()
    outcome += re.findall("# dropped messages.*", p.text())
    for number in (port, both):
        w.ours(number, shim)
    return outcome


@case
@both_worlds
def nmap(w, shim):
    """nmap: -sT of open and closed ports, at once and one after the other"""
    program = need("nmap")
    port, _ = web(w, shim)
    closed = [w.port() for _ in range(6)]
    answers = []
    for args in ([], ["--max-parallelism", "1"]):
        p = w.start(program, "-sT", *args, "-Pn", "-n", "-p", ",".join(map(str, [port] + closed)), "-oG", "-", LOOPBACK, shim=shim)
        found = re.findall(r"(\d+)/(\w+)/tcp", p.ok().text())
        same("what is open", [str(port)], [number for number, state in found if state == "open"])
        answers.append(sorted(state for _, state in found))
    w.ours(port, shim)
    return answers


# --- interpreters --------------------------------------------------------------------------------------------

@guest
def asyncio_guest(port):
    """A server and 50 clients in one loop: streams, datagrams, sendfile."""
    import asyncio, tempfile

    async def serve(reader, writer):
        data = await reader.readexactly(100000)
        writer.write(data[::-1])
        with tempfile.TemporaryFile() as f:
            f.write(LINES)
            f.seek(0)
            await writer.drain()
            await asyncio.get_running_loop().sendfile(writer.transport, f)
        writer.close()

    async def client(n):
        reader, writer = await asyncio.open_connection(LOOPBACK, int(port))
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
        server = await asyncio.start_server(serve, LOOPBACK, int(port))
        for text in await asyncio.gather(*(client(n) for n in range(50))):
            print(text)
        server.close()
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(Echo, local_addr=(LOOPBACK, int(port)))
        for n in range(20):
            transport, asker = await loop.create_datagram_endpoint(Asker, remote_addr=(LOOPBACK, int(port)))
            transport.sendto(b"question %d" % n)
            print(await asyncio.wait_for(asker.answer, PATIENCE))
            transport.close()
    asyncio.run(everything())


@case
@both_worlds
def asyncio(w, shim):
    """python3: asyncio with 50 connections, sendfile and datagrams"""
    port = w.port()
    text = w.guest(asyncio_guest, port, shim=shim).ok().text()
    check(len(text.splitlines()) == 70, "70 answers")
    w.ours(port, shim)
    return sha(text.encode())


def answer_all(listener, count):
    """A process that got a listening socket from its parent."""
    for _ in range(count):
        connection, _ = listener.accept()
        with connection:
            stream = connection.makefile("rwb")
            stream.write(stream.readline().upper())
            stream.flush()


def ask_once(port, n):
    with socket.create_connection((LOOPBACK, port), timeout=PATIENCE) as s:
        s.sendall(b"from worker %d\n" % n)
        return s.makefile("rb").readline().decode()


@guest
def multiprocessing_guest(port):
    """A listener given to a process, and asked by a pool's processes; a Manager over TCP. By every start method."""
    import multiprocessing
    from multiprocessing.connection import Client, Listener
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((LOOPBACK, int(port)))
            listener.listen(50)
            servers = [context.Process(target=answer_all, args=(listener, 6)) for _ in range(2)]
            [s.start() for s in servers]
            with context.Pool(3) as pool:
                print(method, pool.starmap(ask_once, [(int(port), n) for n in range(12)]))
            [s.join(PATIENCE) for s in servers]
            print([s.exitcode for s in servers])
        with Listener((LOOPBACK, int(port)), authkey=b"k") as listener:
            child = context.Process(target=talk, args=(int(port),))
            child.start()
            with listener.accept() as c:
                print(sha(c.recv_bytes()))
                c.send({"all": "well"})
            child.join(PATIENCE)
            print(child.exitcode)


def talk(port):
    from multiprocessing.connection import Client
    with Client((LOOPBACK, port), authkey=b"k") as c:
        c.send_bytes(random.Random(4).randbytes(1000000))
        assert c.recv() == {"all": "well"}


@case
@both_worlds
def multiprocessing(w, shim):
    """python3: multiprocessing by fork, spawn and forkserver: a listener handed to processes, a pool, Listener and Client"""
    port = w.port()
    text = w.guest(multiprocessing_guest, port, shim=shim).ok().text()
    w.ours(port, shim)
    return text


RUBY = r"""
require 'socket'; require 'digest'; require 'net/http'
port = ARGV[0].to_i
server = TCPServer.new('127.0.0.1', port)
Thread.new { loop { Thread.start(server.accept) { |c| while line = c.gets; c.puts line.chomp.reverse; end; c.close } } }
got = (0...8).map { |n| Thread.new { s = TCPSocket.new('127.0.0.1', port)
  text = (0...200).map { |i| s.puts "line #{i} of #{n}"; s.gets }.join; s.close; text } }.map(&:value)
puts Digest::SHA256.hexdigest(got.join)
pid = fork { s = TCPSocket.new('127.0.0.1', port); s.puts 'from a child'; exit!(s.gets == "dlihc a morf\n" ? 3 : 4) }
Process.wait(pid); puts $?.exitstatus
reader = UDPSocket.new; reader.bind('127.0.0.1', port)
UDPSocket.new.send('by datagram', 0, '127.0.0.1', port); puts reader.recvfrom(100)[0]
begin; server.accept_nonblock; rescue IO::WaitReadable; puts IO.select([server], nil, nil, 0).inspect; end
puts Digest::SHA256.hexdigest(Net::HTTP.get(URI(ARGV[1])))
"""

NODE = r"""
const net = require('net'), http = require('http'), crypto = require('crypto'), dgram = require('dgram');
const port = +process.argv[2], sha = (b) => crypto.createHash('sha256').update(b).digest('hex');
const server = http.createServer((q, a) => { const parts = []; q.on('data', (d) => parts.push(d));
    q.on('end', () => a.end(Buffer.concat(parts).reverse())); });
const ask = (n, agent) => new Promise((done, fail) => {
    const q = http.request({ host: '127.0.0.1', port, method: 'POST', path: '/' + n, agent }, (a) => { const parts = [];
        a.on('data', (d) => parts.push(d)); a.on('end', () => done(sha(Buffer.concat(parts)))); });
    q.on('error', fail); q.end(Buffer.alloc(50000 + n, 'text of ' + n)); });
server.listen(port, '127.0.0.1', async () => {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 8 });
    const found = await Promise.all([...Array(60).keys()].map((n) => ask(n, n % 2 ? agent : undefined)));
    console.log(sha(found.join())); agent.destroy();
    const s = dgram.createSocket('udp4'); s.on('message', (m, from) => { console.log('' + m); s.close(); server.close(); });
    s.bind(port, '127.0.0.1', () => { const c = dgram.createSocket('udp4'); c.send('by datagram', port, '127.0.0.1', () => c.close()); });
});
"""

CLUSTER = r"""
const cluster = require('cluster'), http = require('http'), port = +process.argv[2];
if (process.argv[3] == 'shared') cluster.schedulingPolicy = cluster.SCHED_NONE;
const ask = (n) => new Promise((done, fail) => http.get({ host: '127.0.0.1', port, path: '/' + n, agent: false }, (a) => {
    let text = ''; a.on('data', (d) => text += d); a.on('end', () => done(text)); }).on('error', fail));
let ready = 0;
if (cluster.isPrimary) {
    for (let i = 0; i < 3; i++) cluster.fork();
    cluster.on('listening', async () => { if (++ready < 3) return;
        console.log((await Promise.all([...Array(60).keys()].map(ask))).join()); cluster.disconnect(() => console.log('over')); });
} else http.createServer((q, a) => a.end(q.url)).listen(port, '127.0.0.1');
"""


@case
@both_worlds
def ruby(w, shim):
    """ruby: threads with TCPServer and TCPSocket, fork, UDPSocket, Net::HTTP"""
    program, port = need("ruby"), w.port()
    page, url = web(w, shim)
    p = w.start(program, "--disable=gems", "-e", RUBY, port, url + "/larger", shim=shim).ok()
    w.ours(port, shim)
    w.ours(page, shim)
    return p.text()


@case
@both_worlds
def node(w, shim):
    """node: 60 requests to its own http server, kept alive and not, and a datagram"""
    program, port = need("node"), w.port()
    p = w.start(program, w.file("program-%d.js" % port, NODE.encode()), port, shim=shim).ok()
    w.ours(port, shim)
    return p.text()


@case
@both_worlds
def node_cluster(w, shim):
    """node: a cluster of three; the primary accepts and passes connections on, or the listener is shared"""
    program, answers = need("node"), []
    for how in ("passed", "shared"):
        port = w.port()
        p = w.start(program, w.file("cluster-%d.js" % port, CLUSTER.encode()), port, how, shim=shim).ok()
        w.ours(port, shim)
        answers.append(p.text())
    return answers


PERL = r"""
use strict; use IO::Socket::INET; use IO::Select; $| = 1;
my $l = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $ARGV[0], Listen => 64, ReuseAddr => 1) or die $!;
my @pids; for my $n (1 .. 6) { my $pid = fork; if (!$pid) { close $l;
    my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $ARGV[0]) or die $!;
    for (1 .. 200) { print $s "line $_\n"; my $back = <$s>; die unless $back eq "LINE $_\n"; } close $s; exit 10 + $n; } push @pids, $pid; }
my $all = IO::Select->new($l); my $ends = 0; my %rest;
while ($ends < 6) { for my $s ($all->can_read(20)) {
    if ($s == $l) { $all->add(scalar $l->accept); next; }
    if (!sysread $s, my $data, 4096) { $all->remove($s); close $s; $ends++; next; }
    else { syswrite $s, uc $data; } } }
for (@pids) { waitpid $_, 0; print $? >> 8, "\n"; }
"""


@case
@both_worlds
def perl(w, shim):
    """perl: IO::Select over a listener and six children's connections"""
    port = w.port()
    p = w.start(need("perl"), "-e", PERL, port, shim=shim).ok()
    w.ours(port, shim)
    return p.text()


@case
@both_worlds
def bash(w, shim):
    """bash: /dev/tcp to a web server, the descriptor passed on to cat and sha256sum"""
    port, _ = web(w, shim)
    script = r"""exec 5<>/dev/tcp/127.0.0.1/$1; printf 'GET /larger HTTP/1.0\r\n\r\n' >&5
        while read -r line <&5 && [ "$line" != $'\r' ]; do :; done; cat <&5 | sha256sum; exec 5>&-"""
    p = w.start(need("bash"), "-c", script, "bash", port, shim=shim).ok()
    w.ours(port, shim)
    return p.text()


if __name__ == "__main__":
    main()
