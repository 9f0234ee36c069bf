"""gdb and strace attached to a running server (debugged.c): it goes on when they have left. Natively and under the shim."""
import os, re, signal, subprocess

from harness import *


def server(w, shim):
    program = w.path("debugged")
    if not os.path.exists(program):
        w.run(need("gcc"), "-g", "-O1", "-pthread", "-o", program, os.path.join(HERE, "debugged.c"), shim=False)
    port = w.port()
    p = w.start(program, port, shim=shim)
    p.until("ready", "out")
    return p, port


class Client:
    """nc, spoken to line by line."""

    def __init__(self, w, shim, port):
        self.p = w.start(need("nc"), "-N", LOOPBACK, port, stdin=subprocess.PIPE, shim=shim)
        self.said = b""

    def say(self, line):
        self.p.write(line)
        self.said += line

    def hears(self):
        wait_until("the client has its echo", lambda: len(self.p.out()) == len(self.said))
        if self.p.out() != self.said:
            raise Failure("the echo is another text")

    def ends(self):
        self.hears()
        self.p.close_stdin()
        self.p.ok()
        return sha(self.said)


@guest
def talker(port, stop_file):
    """Lines and their echoes until the file is there."""
    count = 0
    with socket.create_connection((LOOPBACK, int(port))) as s:
        stream = s.makefile("rwb")
        while not os.path.exists(stop_file):
            line = b"%d %s\n" % (count, b"x" * (count * 7 % 3000))
            stream.write(line)
            stream.flush()
            assert stream.readline() == line
            count += 1
            if count == 100:
                print("going", flush=True)
    print("fine")


def may_attach(w, p):
    """Without the right to do so there is nothing to test."""
    d = w.start(need("strace"), "-p", p.pid, shim=False)
    wait_until("strace has attached", lambda: "attached" in d.err() or not d.running())
    if not d.running():
        raise Skip("strace may not attach: " + d.err()[-200:])
    d.kill(signal.SIGINT)
    d.wait()


@case
@both_worlds
def gdb(w, shim):
    """gdb: attached eight times; a breakpoint in a connection's thread, out of the function, on by steps; detached, it goes on"""
    program = need("gdb")
    p, port = server(w, shim)
    may_attach(w, p)
    client, idle = Client(w, shim, port), Client(w, shim, port)
    for c in (client, idle):
        c.say(b"one\n")
        c.hears()

    def run(*commands):
        args = [a for c in commands for a in ("-ex", c)]
        return w.start(program, "-nx", "-batch", "-p", p.pid, "-ex", "set debuginfod enabled off", *args, shim=False)
    g = run("break debugged.c:give", "echo waiting\\n", "continue", "print n", "finish", "next", "print given", "delete", "detach")
    g.until("waiting", "out")
    client.say(b"two\n")
    g.ok()
    client.hears()
    answers = re.findall(r"hit Breakpoint 1, give|^\$\d+ = .*|^Value returned is .*", g.text(), re.M)
    # Now in take: the first time there is something to read, the second time `finish` has to wait for it.
    g = run("break debugged.c:take", "echo waiting\\n", "continue", "continue", "finish", "delete", "detach")
    g.until("waiting", "out")
    for line in (b"three\n", b"four\n"):
        client.say(line)
        client.hears()
    wait_until("it stopped twice", lambda: g.text().count("hit Breakpoint") == 2)
    time.sleep(0.3)
    client.say(b"five\n")
    g.ok()
    client.hears()
    answers.append(re.findall(r"Value returned is (.*)", g.text()))
    for _ in range(3):  # in all waits at once: accept, recv and poll
        run("thread apply all bt 3", "detach").ok()
        for c in (client, idle):
            c.say(b"more\n")
            c.hears()
    stop = w.path("stop-%d" % port)
    talkers = [w.guest(talker, port, stop, shim=shim) for _ in range(3)]
    for t in talkers:
        t.until("going")
    for _ in range(3):  # anywhere
        run("thread apply all bt 3", "detach").ok()
    open(stop, "w").close()
    answers += [t.ok().text() for t in talkers]
    answers += [client.ends(), idle.ends()]
    w.ours(port, shim)
    check(p.running(), "the server goes on")
    return answers


@case
@both_worlds
def strace(w, shim):
    """strace: -f attached to a server in use and one that waits, left again, four times"""
    program = need("strace")
    p, port = server(w, shim)
    may_attach(w, p)
    idle = Client(w, shim, port)
    idle.say(b"one\n")
    idle.hears()
    stop = w.path("stop-%d" % port)
    talkers = [w.guest(talker, port, stop, shim=shim) for _ in range(3)]
    for t in talkers:
        t.until("going")
    for i in range(4):
        record = w.path("record-%d" % i)
        d = w.start(program, "-f", "-o", record, "-p", p.pid, shim=False)
        d.until("attached", "err")
        wait_until("it has recorded calls", lambda: os.path.exists(record) and os.path.getsize(record) > 200)
        idle.say(b"more\n")
        idle.hears()
        d.kill(signal.SIGINT)
        d.wait()
        idle.say(b"and more\n")
        idle.hears()
    open(stop, "w").close()
    answers = [t.ok().text() for t in talkers] + [idle.ends()]
    w.ours(port, shim)
    check(p.running(), "the server goes on")
    return answers


if __name__ == "__main__":
    main()
