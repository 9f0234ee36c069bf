"""OpenBSD netcat with itself: both directions, half close, UDP, scans, -k, and every way to end."""
import os, re, signal, subprocess, sys

from harness import *

MEGABYTE = 1 << 20


def server(w, port, *flags, shim=True, stdin=None):
    nc = need("nc")
    p = w.start(nc, "-v", *flags, "-l", LOOPBACK, port, shim=shim, stdin=stdin, name="nc-server")
    p.until(r"Listening on|Bound on")
    return p


def client(w, port, *flags, shim=True, stdin=None):
    return w.start(need("nc"), *flags, LOOPBACK, port, shim=shim, stdin=stdin, name="nc-client")


def plain(text, *ports):
    """Standard error without what differs from run to run."""
    for port in ports:
        text = text.replace(str(port), "PORT")
    return re.sub(r"(received on|Connection from) .*", r"\1 ...", text)


@case
@both_worlds
def megabyte_each_way(w, shim):
    """nc: 1 MB both ways at once, -N on both sides, hashes compared"""
    port, there, back = w.port(), os.urandom(MEGABYTE), os.urandom(MEGABYTE + 4321)
    s = server(w, port, "-N", shim=shim, stdin=back)
    c = client(w, port, "-N", shim=shim, stdin=subprocess.PIPE)
    c.write_and_end_after(there, "the client has got all", lambda: len(c.out()) >= len(back))
    statuses = c.wait(), s.wait()
    same("SHA-256 of what the server got", sha(there), sha(s.out()))
    same("SHA-256 of what the client got", sha(back), sha(c.out()))
    w.ours(port, shim)
    return statuses


@case
@both_worlds
def half_close(w, shim):
    """nc: after the server's FIN (-N) the client can still send, and the server receives it"""
    port = w.port()
    s = server(w, port, "-N", shim=shim, stdin=b"that is all\n")
    c = client(w, port, shim=shim, stdin=subprocess.PIPE)
    c.until("that is all", "out")
    for i in range(5):
        c.write("answer %d\n" % i)
        s.until("answer %d" % i, "out")
    check(s.running() and c.running(), "both go on after the FIN")
    c.close_stdin()
    statuses = c.wait(), s.wait()
    w.ours(port, shim)
    return statuses, s.text(), c.text()


@case
@both_worlds
def client_comes_first(w, shim):
    """nc: a client that comes too early is refused; the next one finds the server"""
    port = w.port()
    early = client(w, port, "-v", shim=shim, stdin=b"x")
    status = early.wait()
    s = server(w, port, "-N", shim=shim, stdin=b"hello")
    c = client(w, port, "-N", shim=shim, stdin=b"x")
    return status, plain(early.err(), port), c.wait(), s.wait(), c.text(), s.text()


@case
@both_worlds
def udp(w, shim):
    """nc: datagrams both ways (-u)"""
    port = w.port()
    s = server(w, port, "-u", shim=shim, stdin=subprocess.PIPE)
    c = client(w, port, "-u", shim=shim, stdin=subprocess.PIPE)
    for i in range(20):
        c.write("ping %d\n" % i)
        s.until(r"ping %d\n" % i, "out")
        s.write("pong %d\n" % i)
        c.until(r"pong %d\n" % i, "out")
    w.ours(port, shim)
    for p in (c, s):
        p.kill(signal.SIGTERM)
    return c.wait(), s.wait(), c.text(), s.text()


@case
@both_worlds
def scan(w, shim):
    """nc: nc -z: an open and a closed TCP port, a range, an open and a closed UDP port"""
    port, closed, datagrams = w.port(), w.port(), w.port()
    s = server(w, port, "-k", shim=shim)
    u = server(w, datagrams, "-u", "-k", shim=shim)
    found = []
    for flags, number in ((["-zv"], port), (["-zv"], closed), (["-zvn"], port),
                          (["-zvn"], "%d-%d" % (port, port)),
                          (["-zvu"], datagrams), (["-zvu"], closed)):
        p = w.start(need("nc"), *flags, LOOPBACK, number, shim=shim, name="nc-scan")
        found.append((flags, p.wait(), plain(p.err(), port, closed, datagrams)))
    check(s.running() and u.running(), "the servers survived the scans")
    return found


@case
@both_worlds
def keep_listening(w, shim):
    """nc: nc -k -l serves one client after another"""
    port = w.port()
    s = server(w, port, "-k", shim=shim)
    statuses = []
    for i in range(8):
        c = client(w, port, "-N", shim=shim, stdin=b"client %d\n" % i)
        s.until("client %d\n" % i, "out")
        statuses.append(c.wait())
    w.ours(port, shim)
    check(s.running(), "nc -k still listens")
    s.kill(signal.SIGINT)
    return statuses, s.wait(), s.text()


def ending(who, how, unread):
    """One side ends; what does the other see?"""
    def scenario(w, shim):
        port = w.port()
        s = server(w, port, shim=shim, stdin=subprocess.PIPE)
        c = client(w, port, shim=shim, stdin=subprocess.PIPE)
        c.write("from the client\n")
        s.write("from the server\n")
        s.until("from the client", "out")
        c.until("from the server", "out")
        victim, survivor = (c, s) if who == "client" else (s, c)
        if unread:  # the victim dies with bytes in its receive queue: the kernel answers with RST
            victim.kill(signal.SIGSTOP)
            survivor.write("never read\n")
            time.sleep(0.2)
        if how == "EOF":
            victim.close_stdin()
            survivor.close_stdin()
            time.sleep(0.2)
            check(s.running() and c.running(), "without -N the end of stdin ends nothing")
            victim.kill(signal.SIGINT)
        else:
            victim.kill(how)
            if unread and how != signal.SIGKILL:
                victim.kill(signal.SIGCONT)
        status = victim.wait()
        # A server ends with its peer; a client that saw FIN, not RST, goes on until its stdin ends.
        alone = False
        for _ in range(50):
            alone = alone or not survivor.running()
            time.sleep(0 if alone else 0.02)
        survivor.close_stdin()
        return (status, "by itself" if alone else "with its stdin", survivor.wait(), s.text(), c.text(),
                plain(s.err(), port), plain(c.err(), port))
    return scenario


def add_ending(who, how, unread=False):
    text = how if how == "EOF" else how.name
    name = "%s_ends_by_%s%s" % (who, text.lower(), "_unread" if unread else "")
    scenario = ending(who, how, unread)
    scenario.__name__ = name
    scenario.__doc__ = "the %s ends by %s%s: the other sees what it would natively" % (
        who, text, " with bytes unread" if unread else "")
    case(both_worlds(scenario))


for _who in ("client", "server"):
    for _how in ("EOF", signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        add_ending(_who, _how)
    add_ending(_who, signal.SIGKILL, unread=True)
    add_ending(_who, signal.SIGINT, unread=True)


@case
@both_worlds
def listener_killed(w, shim):
    """nc: kill -9 of a listener frees its port at once, for the next one and for refusals"""
    port = w.port()
    s = server(w, port, shim=shim)
    s.kill()
    s.wait()
    refused = client(w, port, "-v", shim=shim, stdin=b"")
    status = refused.wait()
    s = server(w, port, "-N", shim=shim, stdin=b"second\n")
    c = client(w, port, "-N", shim=shim, stdin=b"")
    return status, plain(refused.err(), port), c.wait(), s.wait(), c.text()


@case
@both_worlds
def shared_port(w, shim):
    """nc: two nc -l share a port (SO_REUSEPORT); each client reaches one of them, and both are reached"""
    port = w.port()
    servers = [server(w, port, "-N", shim=shim, stdin=b"%d\n" % i) for i in range(2)]
    answers = []
    for _ in range(2):
        c = client(w, port, "-N", shim=shim, stdin=b"hello\n")
        answers.append((c.wait(), c.text()))
        wait_until("one server less", lambda: sum(p.running() for p in servers) == 1 - len(answers) + 1)
    same("what the servers got", ["hello\n"] * 2, [p.text() for p in servers])
    return sorted(answers)


if __name__ == "__main__":
    main()
