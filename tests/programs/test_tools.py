"""socat, ncat, iperf3, busybox, Perl, bash and redis with themselves under the shim."""
import json, os, signal, socket, subprocess, sys

from harness import *

LINES = b"".join(b"line %d\n" % i for i in range(20000))  # 208,890 bytes


def socat(w, *args, shim=True, **how):
    return w.start(need("socat"), *args, shim=shim, **how)


def socat_server(w, port, address, shim=True, kind="TCP-LISTEN", options="fork,reuseaddr", flags=()):
    where = "bind=%s" % LOOPBACK
    p = socat(w, "-d", "-d", *flags, "%s:%d,%s,%s" % (kind, port, where, options), address, shim=shim,
              name="socat-server")
    # UDP-LISTEN and TCP-LISTEN say so; UDP-RECVFROM says nothing.
    p.until("listening on" if "LISTEN" in kind else "receiving on|starting|N ", "err")
    return p


@case
def socat_pipe(w):
    """socat TCP-LISTEN,fork PIPE (echo) and socat - TCP"""
    port = w.port()
    server = socat_server(w, port, "PIPE")
    for i in range(6):
        p = socat(w, "-t", PATIENCE, "-", "TCP:%s:%d" % (LOOPBACK, port), stdin=LINES).ok()
        same("echo %d" % i, sha(LINES), sha(p.out()))
    w.ours(port)
    check(server.running(), "the server goes on")


@case
def socat_exec(w):
    """socat TCP-LISTEN,fork EXEC: cat over a socketpair; a shell that has our socket as stdin and stdout"""
    port = w.port()
    socat_server(w, port, "EXEC:cat")
    clients = [socat(w, "-t", PATIENCE, "-", "TCP:%s:%d" % (LOOPBACK, port), stdin=LINES) for _ in range(4)]
    for i, p in enumerate(clients):
        same("cat %d" % i, sha(LINES), sha(p.ok().out()))
    w.ours(port)
    # nofork: the program gets the connection itself as its descriptors 0 and 1.
    port = w.port()
    socat_server(w, port, "SYSTEM:'sort -r; echo done',nofork", options="fork,reuseaddr")
    p = socat(w, "-t", PATIENCE, "-", "TCP:%s:%d" % (LOOPBACK, port), stdin=b"a\nc\nb\n").ok()
    same("a shell on our socket", "c\nb\na\ndone\n", p.text())
    w.ours(port)


@case
def socat_exec_client(w):
    """a program whose stdin and stdout are a connected socket of ours (socat TCP EXEC,nofork)"""
    port = w.port()
    socat_server(w, port, "PIPE")
    p = socat(w, "TCP:%s:%d" % (LOOPBACK, port),
              "SYSTEM:'echo hello >&0; read answer; echo got $answer >%s',nofork" % w.path("answer"))
    p.wait()
    with open(w.path("answer")) as f:
        same("what it read back", "got hello\n", f.read())
    w.ours(port)


@case
def socat_udp(w):
    """socat UDP-RECVFROM,fork and UDP-LISTEN with UDP and UDP-SENDTO clients"""
    port = w.port()
    socat_server(w, port, "PIPE", kind="UDP-RECVFROM", options="fork", flags=("-d",))
    wait_until("its socket is bound", lambda: True)
    for kind in ("UDP", "UDP-SENDTO", "UDP-DATAGRAM"):
        def ask():
            p = socat(w, "-t", "1", "-", "%s:%s:%d" % (kind, LOOPBACK, port), stdin=b"datagram by " + kind.encode())
            p.wait()
            return p if p.out() else None
        p = wait_until("an answer by %s" % kind, ask)
        same(kind, "datagram by " + kind, p.text())
    w.ours(port)
    port = w.port()
    socat_server(w, port, "PIPE", kind="UDP-LISTEN", options="fork")
    p = socat(w, "-t", "1", "-", "UDP:%s:%d" % (LOOPBACK, port), stdin=b"to UDP-LISTEN")
    p.until("to UDP-LISTEN", "out")
    p.wait()
    w.ours(port)


@case
def socat_relay(w):
    """a chain: client, socat relay, server, all ours; 3 MB through it"""
    first, second, data = w.port(), w.port(), os.urandom(3000000)
    socat_server(w, second, "PIPE")
    socat_server(w, first, "TCP:%s:%d" % (LOOPBACK, second))
    p = socat(w, "-t", PATIENCE, "-", "TCP:%s:%d" % (LOOPBACK, first), stdin=data).ok()
    same("SHA-256 after both hops", sha(data), sha(p.out()))
    w.ours(first)
    w.ours(second)


@case
def socat_pty(w):
    """socat EXEC with a pty on the far side"""
    port = w.port()
    socat_server(w, port, "EXEC:'echo on a terminal',pty,setsid,ctty,raw,echo=0")
    p = socat(w, "-t", "2", "-", "TCP:%s:%d" % (LOOPBACK, port), stdin=b"").ok()
    check("on a terminal" in p.text(), "what the program on the pty said arrived")
    w.ours(port)


# --- ncat ---------------------------------------------------------------------------------------------------

@case
def ncat(w):
    """ncat: both ways, --exec, --keep-open, -u"""
    program, data = need("ncat"), os.urandom(1 << 20)
    port = w.port()
    s = w.start(program, "-v", "-n", "-4", "-l", LOOPBACK, port, stdin=data)
    s.until("Listening on")
    c = w.start(program, "-n", LOOPBACK, port, stdin=data)
    same("the server got", sha(data), sha((c.ok(), s.ok())[1].out()))
    same("the client got", sha(data), sha(c.out()))
    w.ours(port)
    port = w.port()
    w.start(program, "-v", "-n", "-4", "-k", "--exec", "/bin/cat", "-l", LOOPBACK, port).until("Listening on")
    for _ in range(4):  # (ncat ends its program with the client's FIN, so the echo has to come first)
        c = w.start(program, "-n", LOOPBACK, port, stdin=subprocess.PIPE)
        c.write(LINES[:30000])
        wait_until("cat's echo", lambda: len(c.out()) == 30000)
        c.close_stdin()
        c.wait()
        same("echo by --exec cat", sha(LINES[:30000]), sha(c.out()))
    w.ours(port)
    port = w.port()
    s = w.start(program, "-v", "-n", "-4", "-u", "-l", LOOPBACK, port, stdin=subprocess.PIPE)
    s.until("Listening on")
    c = w.start(program, "-n", "-u", LOOPBACK, port, stdin=subprocess.PIPE)
    c.write("ping\n")
    s.until("ping", "out")
    s.write("pong\n")
    c.until("pong", "out")
    w.ours(port)


@case
def ncat_broker(w):
    """ncat --broker: what one says, the others hear"""
    program, port = need("ncat"), w.port()
    w.start(program, "-v", "-n", "-4", "--broker", "-l", LOOPBACK, port).until("Listening on")
    members = [w.start(program, "-n", LOOPBACK, port, stdin=subprocess.PIPE) for _ in range(3)]

    def everyone_is_there():
        members[0].write("are you there?\n")
        time.sleep(0.05)
        return all("there" in m.text() for m in members[1:])
    wait_until("all members hear the first", everyone_is_there)
    for i, m in enumerate(members):
        m.write("this is %d\n" % i)
        for other in members:
            if other is not m:
                other.until("this is %d" % i, "out")
    w.ours(port)


# --- iperf3 -------------------------------------------------------------------------------------------------

def iperf(w, *args):
    program, port = need("iperf3"), w.port()
    s = w.start(program, "-s", "-1", "-4", "-B", LOOPBACK, "-p", port, "--forceflush", name="iperf3-server")
    s.until("Server listening")
    c = w.start(program, "-c", LOOPBACK, "-4", "-p", port, "-J", *args, name="iperf3-client").ok()
    s.ok()
    w.ours(port)
    report = json.loads(c.text())
    if "error" in report:
        raise Failure(report["error"])
    return report["end"]


@case
def iperf3(w):
    """iperf3, one stream of 1 s, backwards, two at once, both ways, UDP"""
    need("iperf3")
    for args in (["-t", "1"], ["-t", "1", "-R"], ["-n", "20M", "-P", "2"], ["-t", "1", "--bidir"],
                 ["-n", "20M", "-Z"]):
        end = iperf(w, *args)
        check(end["sum_received"]["bytes"] > 0, "%s: %d bytes" % (" ".join(args), end["sum_received"]["bytes"]))
    end = iperf(w, "-u", "-b", "20M", "-t", "1", "-l", "1400")
    check(end["sum"]["packets"] > 0, "UDP: %d datagrams" % end["sum"]["packets"])


# --- others -------------------------------------------------------------------------------------------------

@case
def busybox(w):
    """busybox nc and wget as clients (a dynamic build)"""
    program = need("busybox")
    linked = subprocess.run(["ldd", program], capture_output=True, text=True)
    if "libc.so" not in linked.stdout:
        raise Skip("this busybox is static")
    # (Its nc listens on :: and so is libc's; as a client it is ours.)
    port = w.port()
    socat_server(w, port, "PIPE")
    c = w.start(program, "nc", LOOPBACK, port, stdin=LINES).ok()
    same("busybox nc got its echo", sha(LINES), sha(c.out()))
    w.ours(port)
    if "wget" not in subprocess.run([program, "--list"], capture_output=True, text=True).stdout.split():
        return
    port, data = w.port(), os.urandom(1000000)
    os.mkdir(w.path("www"))
    w.file("www/f", data)
    w.start(PYTHON, "-m", "http.server", "--bind", LOOPBACK, "--directory", w.path("www"), port).until("Serving")
    w.start(program, "wget", "-q", "-O", w.path("got"), "http://%s:%d/f" % (LOOPBACK, port)).ok()
    same("busybox wget", sha(data), file_sha(w.path("got")))
    w.ours(port)


PERL_SERVER = r"""
use strict; use IO::Socket::INET; use IO::Select; $| = 1;
my $l = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $ARGV[0], Listen => 16, ReuseAddr => 1)
    or die "listen: $!";
print "ready\n";
for (1 .. $ARGV[1]) {
    my $c = $l->accept or die "accept: $!";
    defined(my $pid = fork) or die;
    if (!$pid) { close $l; while (my $line = <$c>) { print $c scalar reverse($line), "\n"; } exit 0; }
    close $c;
}
1 while wait != -1;
print "done\n";
"""

PERL_CLIENT = r"""
use strict; use IO::Socket::INET;
my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $ARGV[0], Timeout => 30) or die "connect: $!";
for (1 .. 500) {
    print $s "line $_ of $ARGV[1]\n"; $s->flush;
    <$s>; my $back = <$s>;  # reversed: the newline comes first
    my $expected = reverse("line $_ of $ARGV[1]");
    die "got $back" unless $back eq "$expected\n";
}
$s->shutdown(1); die "more" if defined <$s>;
print "fine\n";
"""


@case
def perl(w):
    """Perl's IO::Socket::INET, line by line through stdio layers, a fork per connection"""
    program, port = need("perl"), w.port()
    s = w.start(program, "-e", PERL_SERVER, port, 5)
    s.until("ready")
    clients = [w.start(program, "-e", PERL_CLIENT, port, i) for i in range(5)]
    same("the clients' verdicts", ["fine\n"] * 5, [c.ok().text() for c in clients])
    s.ok()
    w.ours(port)


@case
def bash(w):
    """bash with /dev/tcp: descriptors redirected, duplicated and given to children"""
    program, port = need("bash"), w.port()
    socat_server(w, port, "PIPE")
    script = r"""
        set -e
        exec 5<>/dev/tcp/127.0.0.1/$1
        echo hello >&5; read -r line <&5; echo "$line"
        exec 7<&5 8>&5 5>&-
        printf '%s\n' c a b >&8; for i in 1 2 3; do read -r line <&7; echo "$line"; done | sort
        (seq 1 5000 >&8) & head -n 5000 <&7 | sha256sum; wait
        exec 8>&- 7<&-
    """
    p = w.start(program, "-c", script, "bash", port).ok()
    numbers = "".join("%d\n" % i for i in range(1, 5001)).encode()
    same("what it read", "hello\na\nb\nc\n%s  -\n" % sha(numbers), p.text())
    w.ours(port)


@case
def redis(w):
    """redis-server, redis-cli, a transaction, a big value, publish and subscribe, pipelining"""
    server, cli = need("redis-server", "redis-cli")
    port = w.port()
    s = w.start(server, "--port", port, "--bind", LOOPBACK, "--save", "", "--appendonly", "no", "--dir", w.work)
    s.until("Ready to accept connections")

    def ask(*args, **how):
        return w.start(cli, "-h", LOOPBACK, "-p", port, *args, **how).ok().text()
    same("SET", "OK\n", ask("set", "key", "value"))
    same("GET", "value\n", ask("get", "key"))
    big = "".join(chr(97 + i % 26) for i in range(2000000))
    same("SET of 2 MB", "OK\n", ask("-x", "set", "big", stdin=big.encode()))
    same("GET of 2 MB", sha(big.encode() + b"\n"), sha(ask("get", "big").encode()))
    listener = w.start(cli, "-h", LOOPBACK, "-p", port, "subscribe", "news", stdin=subprocess.PIPE)
    listener.until("subscribe")
    same("PUBLISH", "1\n", ask("publish", "news", "hello"))
    listener.until("hello", "out")
    commands = b"".join(b"incr counter\r\n" for _ in range(10000))
    check("errors: 0, replies: 10000" in ask("--pipe", stdin=commands), "10,000 commands by --pipe")
    same("the counter", "10000\n", ask("get", "counter"))
    w.ours(port)


if __name__ == "__main__":
    main()
