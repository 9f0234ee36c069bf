"""SIGKILL at counted steps of servers that both kinds of clients use: under the shim, and without it, by the kernel's half. After
each death the port is bound anew at once and serves both, and whoever shares the listener goes on."""
from steps import *


@guest
def successor():
    """Takes the dead one's port."""
    has = {}

    def stream(port):
        has["echo"] = echo_server(port)
        return "bound"

    def datagrams(port):
        has["socket"] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        has["socket"].bind((LOOPBACK, int(port)))
        return "bound"

    def one():
        data, peer = has["socket"].recvfrom(65536)
        has["socket"].sendto(data, peer)
        return "answered"

    def drop():
        has.pop("echo").end() if "echo" in has else has.pop("socket").close()
        return "dropped"
    answer({"stream": stream, "datagrams": datagrams, "one": one, "drop": drop})


@guest
def heir():
    """Starts the victim; they share a listener that the victim makes and watches (bequeath), or that this process does
    (inherit). Goes on with it when the victim is dead."""
    has = {}

    def start(scenario, victim, step, port, fd):
        has["victim"] = subprocess.Popen([victim, scenario, port, str(fd)], pass_fds=[fd],
                                         env={**os.environ, "SOCKSHIM_KILL_AT": step})

    def inherit(*args):
        has["echo"] = echo_server(args[-1])
        start("inherit", *args, has["echo"].listener.fileno())
        return "inherited"

    def bequeath(*args):
        here, there = socket.socketpair()
        with here, there:
            start("bequeath", *args, there.fileno())
            there.close()
            fds = socket.recv_fds(here, 1, 1)[1]
        if not fds:
            return "nothing"
        has["echo"] = Echo(socket.socket(fileno=fds[0]))
        return "inherited"

    def end():
        """It lives until it is told: that is a death too, of one who waits."""
        killed = has["victim"].poll() is not None
        has["victim"].kill()
        return "%d %s" % (has["victim"].wait(), "killed" if killed else "alive")

    def drop():
        has.pop("echo").end()
        return "dropped"
    answer({"inherit": inherit, "bequeath": bequeath, "end": end, "drop": drop})


def both_sides(w):
    n = network(w)
    n.outsider = n.speaker(caller, shim=False)
    n.successor = n.speaker(successor, module=__file__)
    return n


def calls(n, who, port, what, size=2000, how="call"):
    said = n.ask(who, "%s %d %d" % (how, port, size))
    if "WRONG" in said:
        raise Failure("%s: the client got %s" % (what, said))
    return said


def served(n, port, what, size=2000):
    for who, kind in ((n.outsider, "without"), (n.caller, "under")):
        said = calls(n, who, port, what, size)
        if said != "EOF after %d" % size:
            raise Failure("%s: afterwards a client %s the shim got %s" % (what, kind, said))


def bound_anew(n, port, what):
    said = n.ask(n.successor, "stream %d" % port)
    if said != "bound":
        raise Failure("%s: %s" % (what, said))
    served(n, port, what)
    n.ask(n.successor, "drop")


def four_clients(n, p, port, what):
    """Two of each kind; what each of them got."""
    if not listens(p):
        return []
    return [calls(n, who, port, what) for who in (n.outsider, n.caller) * 2]


@case
def listener(w):
    """a listener that clients of both kinds use is killed at its counted steps: the port is free at once, for both kinds"""
    n = both_sides(w)

    def attempt(k, what):
        port = w.port()
        p = w.start(tool("victim"), "both", port, env={"SOCKSHIM_KILL_AT": k})
        said = four_clients(n, p, port, what)
        died = ended_well(p, what)
        if not died and said != ["EOF after 2000"] * 4:
            raise Failure("%s: it came to its end and the clients got %s" % (what, said))
        bound_anew(n, port, what)
        return died
    go_through(n, "both", attempt)
    n.end_all()


@case
def datagrams(w):
    """a datagram socket that both kinds of clients ask is killed at its counted steps"""
    n = both_sides(w)

    def told(who, port, what, also):
        n.ask(who, "datagram %d" % port)

        def answered():
            said = n.ask(who, "heard")
            if said == "WRONG":
                raise Failure(what + ": a client got other bytes")
            return said == "echo" or also()
        wait_until("an answer (%s)" % what, answered)

    def attempt(k, what):
        port = w.port()
        p = w.start(tool("victim"), "datagrams", port, env={"SOCKSHIM_KILL_AT": k})
        if listens(p):
            for who in (n.outsider, n.caller) * 2:
                told(who, port, what, lambda: not p.running())
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.sendto(b"", (LOOPBACK, port))
        died = ended_well(p, what)
        said = n.ask(n.successor, "datagrams %d" % port)
        if said != "bound":
            raise Failure("%s: %s" % (what, said))
        for who in (n.outsider, n.caller):
            n.tell(n.successor, "one")
            told(who, port, what, lambda: False)
            n.hear(n.successor)
        n.ask(n.successor, "drop")
        return died
    go_through(n, "datagrams", attempt)
    n.end_all()


def add_shared_listener(scenario, who):
    def test(w):
        n = both_sides(w)
        n.heir = n.speaker(heir, module=__file__)

        def attempt(k, what):
            port = w.port()
            inherited = n.ask(n.heir, "%s %s %d %d" % (scenario, tool("victim"), k, port)) == "inherited"
            if inherited:
                calls(n, n.outsider, port, what, how="several")
                calls(n, n.caller, port, what)
                calls(n, n.outsider, port, what, how="several")
            status, state = n.ask(n.heir, "end").split()
            if status != "-9":
                raise Failure("%s: the victim ended with %s" % (what, status))
            if inherited:
                served(n, port, what)
                n.ask(n.heir, "drop")
            bound_anew(n, port, what)
            return state == "killed"
        go_through(n, scenario, attempt)
        n.end_all()
    test.__name__ = "shared_listener_" + scenario
    test.__doc__ = "of two who share a listener one, %s, is killed at his counted steps: the other goes on" % who
    case(test)


add_shared_listener("bequeath", "who watches it")
add_shared_listener("inherit", "who does not watch it")


@case
def instructions(w):
    """a death at any instruction of a listener that both kinds of clients use"""
    n = both_sides(w)

    def drive(p, port, what):
        four_clients(n, p, port, what)
        wait_until("its end", lambda: not p.running())
        bound_anew(n, port, what)
    step_through(n, "both", drive, min(3, INSTRUCTIONS))


case(leaks)

if __name__ == "__main__":
    main_of_crash_test()
