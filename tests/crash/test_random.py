"""SIGKILL at random moments, of clients, servers, children, the process on timer duty; SIGSTOP. The survivors saw
an end, the others went on with right bytes, and the arena's use is back where it was."""
import fcntl

from crash import *

ROUNDS = int(os.environ.get("SHIMTEST_CRASH_ROUNDS", "40"))


def victim(w, *args, **how):
    return w.start(tool("victim"), *args, **how)


def killed_well(p, what):
    """The victim was killed, or came to its end; it saw nothing wrong."""
    status = p.wait()
    if status not in (-9, 0):
        raise Failure("victim (%s) ended with %d: %s" % (what, status, p.err()))


def need_shim():
    if NATIVE:
        raise Skip("only with the shim")


# --- a ---------------------------------------------------------------------------------------------------------------

@case
def clients(w):
    """(a) clients killed in mid-transfer: the server sees the end of each, another connection goes on"""
    n = Network(w)
    for i in range(ROUNDS):
        group = [victim(w, "stream", n.port) for _ in range(rng.randrange(1, 4))]
        time.sleep(rng.uniform(0, 0.04))
        for p in group:
            p.kill()
            killed_well(p, "round %d" % i)
        n.check("round %d" % i)
        n.measure("round %d" % i)
    accepted, _, _, ends = n.status()
    say("%d connections, ended by %s; the bystander made %d rounds" % (accepted, ends, n.rounds))
    n.end_all()
    keep(n)


@case
def servers(w):
    """(a) servers killed in mid-transfer: the client sees the end, and the port is free at once"""
    n = Network(w)
    outcomes = {}
    port = w.port()
    for i in range(ROUNDS):
        p = victim(w, "serve", port)
        p.until("listening")
        calling = threading.Thread(target=lambda: outcomes.__setitem__(i, n.ask(n.caller, "call %d 100000000" % port)))
        calling.start()
        time.sleep(rng.uniform(0, 0.04))
        p.kill()
        killed_well(p, "round %d" % i)
        calling.join(PATIENCE)
        if calling.is_alive():
            raise Failure("round %d: the client of a killed server saw no end" % i)
        if not re.match(r"(EOF|ConnectionResetError|BrokenPipeError) after \d+$|ConnectionRefusedError|"
                        r"ConnectionResetError", outcomes.get(i, "nothing")):
            raise Failure("round %d: the client of a killed server saw: %s" % (i, outcomes.get(i)))
        n.check("round %d" % i)
        n.measure("round %d" % i)
    kinds = {}
    for text in outcomes.values():
        kinds[text.split()[0]] = kinds.get(text.split()[0], 0) + 1
    say("what the clients saw: %s; the bystander made %d rounds" % (kinds, n.rounds))
    n.end_all()
    keep(n)


@case
def both_at_once(w):
    """(a) both ends of a connection killed at the same moment, without fused path and with switching too"""
    for env in ({}, {"SOCKSHIM_FUSE": "0"}, {"SOCKSHIM_FUSE_FLIP": "5"}):
        w.env = dict(env)
        n = Network(w) if not kept or kept[-1].world is not w else kept[-1]
        port = w.port()
        for i in range(max(4, ROUNDS // 6)):
            s = victim(w, "serve", port)
            s.until("listening")
            c = victim(w, "stream", port)
            time.sleep(rng.uniform(0, 0.03))
            for p in rng.sample([s, c], 2):
                p.kill()
            s.wait(), c.wait()
            n.bystander_goes_on("%s, round %d" % (env, i))
            n.measure("%s, round %d" % (env, i))
        if not kept or kept[-1].world is not w:
            keep(n)
    n.end_all()


@case
def listener_with_backlog(w):
    """(a) a listener killed with unaccepted connections: their clients see the end, the port is free"""
    n = Network(w)
    port = w.port()
    for i in range(10):
        p = w.guest(only_listen, port, module=__file__)
        p.until("ready")
        clients = [w.guest(connect_and_wait, port, module=__file__) for _ in range(3)]
        for c in clients:
            c.until("connected")
        p.kill()
        p.wait()
        ends = [c.ok().text().split()[1] for c in clients]
        if set(ends) - {"EOF", "ConnectionResetError"}:
            raise Failure("the clients saw %s" % ends)
        n.bystander_goes_on("round %d" % i)
        n.measure("round %d" % i)
    say("the clients of the last one saw %s" % ends)
    n.end_all()
    keep(n)


@guest
def only_listen(port):
    l = socket.create_server((LOOPBACK, int(port)), backlog=16)
    print("ready", flush=True)
    time.sleep(1000)


@guest
def connect_and_wait(port):
    s = socket.create_connection((LOOPBACK, int(port)))
    s.sendall(b"x" * 5000)
    print("connected", flush=True)
    try:
        print("EOF" if s.recv(10) == b"" else "DATA")
    except OSError as e:
        print(type(e).__name__)


# --- c ---------------------------------------------------------------------------------------------------------------

@guest
def share(port):
    """Parent and child hold one connection. Commands from stdin go to the child; the parent only sleeps."""
    s = socket.create_connection((LOOPBACK, int(port)))
    s.sendall(pattern(0, 100))
    receive(s, 100)
    child = os.fork()
    if child:
        print("child", child, flush=True)
        time.sleep(1000)
    offset = 100
    for line in sys.stdin:
        s.sendall(pattern(offset, 3000))
        assert receive(s, 3000) == pattern(offset, 3000)
        offset += 3000
        print("used", offset, flush=True)
    os._exit(0)


def receive(s, n):
    got = b""
    while len(got) < n:
        part = s.recv(n - len(got))
        if not part:
            raise EOFError
        got += part
    return got


@case
def shared_with_child(w):
    """(c) kill -9 of the parent while a child shares the connection: it goes on, and ends with the child"""
    n = Network(w)
    for i in range(6):
        p = w.guest(share, n.port, module=__file__, stdin=subprocess.PIPE)
        child = int(p.until(r"child (\d+)")[1])
        p.write("\n")
        p.until("used 3100")
        first = i % 2 == 0
        if first:
            p.kill()
            p.wait()
            time.sleep(0.05)
            p.write("\n")
            wait_until("the child uses the connection after its parent's death", lambda: "used 6100" in p.text())
            accepted, ended, _, _ = n.status()
            check(accepted == ended + 1, "the survivor still has the connection")
            os.kill(child, signal.SIGKILL)  # in the session that we made; its parent is dead
        else:
            os.kill(child, signal.SIGKILL)
            time.sleep(0.1)
            accepted, ended, _, _ = n.status()
            check(accepted == ended + 1, "the child's death ends nothing while the parent holds the connection")
            p.kill()
            p.wait()
        n.check("both dead, turn %d" % i)
        n.measure("turn %d" % i)
    n.end_all()
    keep(n)


# --- d ---------------------------------------------------------------------------------------------------------------

@case
def timer_duty(w):
    """(d) the process on timer duty is killed, repeatedly: another takes over, and all the dead are noticed"""
    need_shim()
    n = Network(w, bystanders=False)
    first = w.guest(one_socket, module=__file__)
    for i in range(8):
        streams = [victim(w, "stream", n.port) for _ in range(3)]
        time.sleep(0.05)
        holder = wait_until("somebody is on duty", lambda: duty_holder(w))
        mine = [p for p in w.programs if p.pid == holder]
        if not mine:
            raise Failure("process %d is on duty, which none of us started" % holder)
        holder = mine[0]
        say("on duty: %s" % holder.name)
        if holder in (n.survivor, n.caller, n.observer):
            # They are needed: another one shall have it.
            if holder is n.observer:
                old = n.observer
                n.observer = n.speaker(observer)
                old.kill()
                old.wait()
            elif holder is n.survivor:
                n.survivor.kill()
                n.survivor.wait()
                for p in streams:
                    p.wait()
                n.survivor = n.speaker(survivor, n.port)
            else:
                n.caller.kill()
                n.caller.wait()
                n.caller = n.speaker(caller)
        else:
            holder.kill()
            holder.wait()
        wait_until("another one is on duty", lambda: duty_holder(w) not in (None, holder.pid))
        for p in streams:
            if p.running():
                p.kill()
                p.wait()
        n.all_ended("turn %d" % i)
    first.end()
    n.end_all()
    if n.observer.running():
        say("the arena's use: %d, at the start %d" % (n.usage(), n.baseline))
    keep(n)


@guest
def busy_server(port, count):
    """The first of its network, so on duty: accepts while its other thread reaps."""
    def internal():
        return sorted(int(f) for f in os.listdir("/proc/self/fd") if int(f) >= 256)
    l = socket.create_server((LOOPBACK, int(port)), backlog=64)
    print("ready", flush=True)
    before = None
    for i in range(int(count)):
        s, _ = l.accept()
        for _ in range(20):
            socket.socket().close()
        with contextlib.suppress(ConnectionError):
            while s.recv(100):
                pass
        s.close()
        before = before or internal()
    # Up to eight carriers that come again and again may stay open (core/net/carrier.cc).
    more = set(internal()) - set(before)
    print("descriptors", set(before) <= set(internal()) and len(more) <= 8, before, internal())


@guest
def forking_client(port):
    """Dies with a connection that it shares with nobody any more: the reaper has to ask its carrier."""
    s = socket.create_connection((LOOPBACK, int(port)))
    s.sendall(b"x")
    if os.fork() == 0:
        os._exit(0)
    os.wait()
    os.kill(os.getpid(), signal.SIGKILL)


@case
def accepting_while_on_duty(w):
    """(d) the process on duty accepts and makes sockets while it reaps: no call fails, no descriptor is lost"""
    port, count = w.port(), 40
    s = w.guest(busy_server, port, count)
    s.until("ready")
    for i in range(0, count, 2):
        clients = [w.guest(forking_client, port) for _ in range(2)]
        for c in clients:
            if c.wait() != -signal.SIGKILL:
                raise Failure("a client: " + c.err())
    s.ok()
    check("descriptors True" in s.text(), "its own descriptors are as they were: " + s.text().strip()[-200:])


@case
def duty_stopped(w):
    """(d) the process on timer duty is stopped (SIGSTOP): a death meanwhile is noticed when it goes on, if not before"""
    need_shim()
    n = Network(w, bystanders=False)
    holder = wait_until("somebody is on duty", lambda: duty_holder(w))
    check(holder == n.observer.pid, "the observer is on duty")
    p = victim(w, "stream", n.port)
    wait_until("it is connected", lambda: n.status()[0] == 1)
    n.observer.kill(signal.SIGSTOP)
    time.sleep(0.1)
    p.kill()
    p.wait()
    time.sleep(3)
    accepted, ended, _, _ = n.status()
    n.observer.kill(signal.SIGCONT)
    n.all_ended("after SIGCONT")
    say("the end of a killed client was seen %s" % ("while it was stopped" if accepted == ended else
                                                   "only after SIGCONT (the kernel would not have waited)"))
    n.end_all()
    keep(n)


# --- e ---------------------------------------------------------------------------------------------------------------

@case
def stopped(w):
    """(e) SIGSTOP of either side for 2 s in mid-transfer, then SIGCONT: nothing is declared dead, all bytes arrive"""
    n = Network(w)
    port = w.port()
    server = victim(w, "serve", port)
    server.until("listening")
    outcome = {}
    calling = threading.Thread(target=lambda: outcome.update(text=n.ask(n.caller, "call %d 60000000" % port, 60)))
    calling.start()
    stream = victim(w, "stream", n.port)
    time.sleep(0.05)
    for p in (server, stream, n.caller, n.survivor):
        p.kill(signal.SIGSTOP)
        time.sleep(0.3)
        n.bystander_goes_on("while %s is stopped" % p.name)
        time.sleep(1.7)
        p.kill(signal.SIGCONT)
        n.bystander_goes_on("after %s was stopped" % p.name)
    calling.join(60)
    same("what the caller got", "EOF after 60000000", outcome.get("text"))
    check(stream.running(), "the client that was stopped goes on")
    check(n.status()[0] - n.status()[1] == 1 and n.status()[2] == 0, "and its server has it, with right bytes")
    stream.kill()
    stream.wait()
    n.check("at the end")
    n.end_all()
    keep(n)


case(leaks)

if __name__ == "__main__":
    main_of_crash_test()
