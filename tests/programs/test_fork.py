"""Descriptors of ours through fork, exec, dup, SCM_RIGHTS and programs that close everything. What the peer sees
is compared with the kernel where it can be told."""
import array, ctypes, errno, os, select, signal, socket, subprocess, sys, threading

from harness import *


def receive(s, n):
    data = b""
    while len(data) < n:
        part = s.recv(n - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def connect(port):
    return socket.create_connection((LOOPBACK, int(port)), timeout=PATIENCE)


def end_of(s):
    """How the connection ends: EOF or the error, after what bytes."""
    got = b""
    try:
        while part := s.recv(65536):
            got += part
        return "%r EOF" % got
    except OSError as e:
        return "%r %s" % (got, type(e).__name__)


def listen(port):
    s = socket.create_server((LOOPBACK, int(port)), backlog=128)
    return s


def ready(text="ready"):
    print(text, flush=True)


def reap():
    """Exit states of all children, sorted."""
    states = []
    while True:
        try:
            states.append(os.waitpid(-1, 0)[1])
        except ChildProcessError:
            return sorted(states)


# --- a listener shared by children --------------------------------------------------------------------------

@guest
def prefork(port, workers, requests):
    listener = listen(port)
    for _ in range(int(workers)):
        if os.fork() == 0:
            while True:
                s, _ = listener.accept()
                question = receive(s, 8)
                if question == b"end  now":
                    os._exit(0)
                s.sendall(b"%8d" % os.getpid() + question)
                s.close()
    listener.close()
    ready()
    ready("children %s" % reap())


@guest
def ask_prefork(port, workers, requests):
    pids = set()
    failures = []

    def ask(i):
        try:
            with connect(port) as s:
                s.sendall(b"%8d" % i)
                answer = receive(s, 16)
                if answer[8:] != b"%8d" % i or end_of(s) != "b'' EOF":
                    raise ValueError(answer)
                pids.add(answer[:8])
        except Exception as e:
            failures.append(repr(e))
    for first in range(0, int(requests), 25):
        batch = [threading.Thread(target=ask, args=(first + i,)) for i in range(25)]
        for t in batch:
            t.start()
        for t in batch:
            t.join()
    for _ in range(int(workers)):
        with connect(port) as s:
            s.sendall(b"end  now")
            end_of(s)
    print(len(pids), "children answered,", failures)


@case
def listener_of_five(w):
    """five children accept on one inherited listener; 300 requests, 25 at once; each child then ends"""
    port = w.port()
    s = w.guest(prefork, port, 5, 300)
    s.until("ready")
    c = w.guest(ask_prefork, port, 5, 300).ok()
    check(c.text().endswith("children answered, []\n"), "all requests were answered (%s)" % c.text().strip())
    s.ok()
    check("children [0, 0, 0, 0, 0]" in s.text(), "all five children ended well")
    w.ours(port)


@case
def a_child_is_killed(w):
    """kill -9 of a worker that waits in accept: the other workers serve on"""
    port = w.port()
    s = w.guest(prefork, port, 3, 0)
    s.until("ready")
    children = [p for p in session_of(s.pid) if p != s.pid]
    check(len(children) == 3, "three workers")
    os.kill(children[1], signal.SIGKILL)  # a grandchild of ours, in the session that we made
    c = w.guest(ask_prefork, port, 2, 50).ok()
    check("2 children answered, []" in c.text() or "1 children answered, []" in c.text(),
          "the others answered all (%s)" % c.text().strip())
    s.ok()
    check("children [0, 0, 9]" in s.text(), "two ended well, one was killed")
    w.ours(port)


@guest
def share_connection(port):
    """Parent and child use one connection in turns; it ends when the last of them closes it."""
    s = connect(port)
    for i in range(20):
        pid = os.fork()
        if pid == 0:
            s.sendall(b"child %2d " % i)
            assert receive(s, 9) == b"child %2d " % i
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0, i
        s.sendall(b"parent%2d " % i)
        assert receive(s, 9) == b"parent%2d " % i
    child = os.fork()
    if child == 0:
        assert sys.stdin.readline() == "go on\n"
        s.sendall(b"the last of the child")
        assert receive(s, 21) == b"the last of the child"
        os._exit(0)
    s.close()
    ready("closed in the parent")
    print("child", os.waitpid(child, 0)[1])


@guest
def echo_one(port):
    """Echoes one connection, then says how it ended."""
    s, _ = listen_and_say(port).accept()
    got = b""
    while data := s.recv(65536):
        got += data
        s.sendall(data)
    print(got[-30:], "EOF")


def listen_and_say(port):
    listener = listen(port)
    ready()
    return listener


@case
@both_worlds
def shared_connection(w, shim):
    """a connection used by parent and children in turns; closing it in one does not end it"""
    port = w.port()
    s = w.guest(echo_one, port, shim=shim)
    s.until("ready")
    c = w.guest(share_connection, port, shim=shim, stdin=subprocess.PIPE)
    c.until("closed in the parent")
    check(s.running(), "the peer has not seen an end while the child holds the connection")
    c.write("go on\n")
    outcome = c.ok().text(), s.ok().text()
    w.ours(port, shim)
    return outcome


@guest
def serve_after_churn(port):
    """Many short connections, so that their cells' carriers are kept open; then one that only a child holds."""
    listener = listen_and_say(port)
    for _ in range(40):
        s, _ = listener.accept()
        s.sendall(receive(s, 5))
        s.close()
    s, _ = listener.accept()
    child = os.fork()
    if child == 0:
        s.sendall(receive(s, 4))
        os._exit(0)
    s.close()
    print("child", os.waitpid(child, 0)[1], flush=True)
    sys.stdin.readline()


@guest
def churn(port):
    for _ in range(40):
        s = connect(port)
        s.sendall(b"short")
        assert receive(s, 5) == b"short"
        s.close()
    s = connect(port)
    s.sendall(b"last")
    print(end_of(s))


@case
@both_worlds
def shared_after_churn(w, shim):
    """a child's connection ends with the child, though its parent opened and closed many before it"""
    port = w.port()
    s = w.guest(serve_after_churn, port, shim=shim, stdin=subprocess.PIPE)
    s.until("ready")
    c = w.guest(churn, port, shim=shim)
    c.ok()
    check(s.running(), "the end came from the child, not from the parent")
    s.write("\n")
    outcome = c.text(), s.ok().text()
    w.ours(port, shim)
    return outcome


@guest
def fork_while_threads_work(port):
    """Forks 30 times while four threads send and receive; neither notices."""
    "127.0.0.1".encode("idna")      # Python imports it at the first connect, under a lock that fork may catch held
    stop, failures = [], []

    def work(i):
        try:
            with connect(port) as s:
                n = 0
                while not stop:
                    data = b"%d %d" % (i, n) * 50
                    s.sendall(data)
                    assert receive(s, len(data)) == data
                    n += 1
        except Exception as e:
            failures.append(repr(e))
    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    states = []
    for i in range(30):
        pid = os.fork()
        if pid == 0:
            with connect(port) as s:  # a child has a working stack of its own
                s.sendall(b"from child")
                os._exit(receive(s, 10) != b"from child")
        states.append(os.waitpid(pid, 0)[1])
    stop.append(True)
    for t in threads:
        t.join()
    print(failures, set(states))


@guest
def echo_many(port):
    listener = listen_and_say(port)

    def echo(s):
        with s:
            while data := s.recv(65536):
                s.sendall(data)
    while True:
        s, _ = listener.accept()
        threading.Thread(target=echo, args=(s,), daemon=True).start()


@case
def fork_in_threads(w):
    """fork 30 times while four threads transfer; the children connect too"""
    port = w.port()
    w.guest(echo_many, port).until("ready")
    c = w.guest(fork_while_threads_work, port).ok()
    same("failures, children", "[] {0}\n", c.text())
    w.ours(port)


# --- closing everything ------------------------------------------------------------------------------------------

@guest
def close_everything(port, how):
    libc = ctypes.CDLL(None, use_errno=True)
    held = [connect(port) for _ in range(3)]
    for i, s in enumerate(held):
        s.sendall(b"held %d" % i)
        receive(s, 6)
        s.detach()
    if how == "closerange":
        os.closerange(3, 4096)
    elif how == "loop":
        for fd in range(3, 1024):
            libc.close(fd)
    elif how == "close_range":
        assert libc.close_range(3, ctypes.c_uint(-1), 0) == 0
    elif how == "closefrom":
        libc.closefrom(3)
    elif how == "syscall":
        libc.syscall(436, 3, ctypes.c_uint(-1), 0)
    elif how == "cloexec":  # CLOSE_RANGE_CLOEXEC: nothing is closed yet
        assert libc.close_range(3, ctypes.c_uint(-1), 4) == 0
        for fd in range(3, 64):
            libc.shutdown(fd, 2)
            libc.close(fd)
    ready("closed")
    assert sys.stdin.readline() == "again\n"
    for _ in range(5):  # the shim lost none of its own descriptors
        with connect(port) as s:
            s.sendall(b"again!")
            print(receive(s, 6))


@guest
def count_ends(port):
    """Accepts eight connections, echoes, says when each ends."""
    listener = listen_and_say(port)

    def echo(s):
        with s:
            while data := s.recv(65536):
                s.sendall(data)
        ready("an end")
    threads = []
    for _ in range(8):
        s, _ = listener.accept()
        threads.append(threading.Thread(target=echo, args=(s,)))
        threads[-1].start()
    for t in threads:
        t.join()


def add_close_everything(how):
    def test(w):
        port = w.port()
        s = w.guest(count_ends, port)
        s.until("ready")
        c = w.guest(close_everything, port, how, stdin=subprocess.PIPE)
        c.until("closed")
        wait_until("the peer sees three ends", lambda: s.text().count("an end") == 3)
        say("the peer saw that all three were closed")
        c.write("again\n")
        same("five connections after that", "b'again!'\n" * 5, c.ok().text().split("closed\n")[1])
        s.ok()
        w.ours(port)
    test.__name__ = "close_all_by_" + how
    test.__doc__ = "a program that closes all its descriptors (%s) and then goes on" % how
    case(test)


for _how in ("closerange", "loop", "close_range", "closefrom", "syscall", "cloexec"):
    add_close_everything(_how)


@guest
def daemonise(port):
    """As daemons do it: fork, setsid, fork, chdir, close all, descriptors 0 to 2 on /dev/null; serves then."""
    listener = listen(port)
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    os.umask(0)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    keep = listener.fileno()
    os.closerange(3, keep)
    os.closerange(keep + 1, 4096)
    signal.alarm(int(PATIENCE) * 2)
    for _ in range(5):
        s, _ = listener.accept()
        while data := s.recv(100):
            s.sendall(data)
        s.close()


@guest
def echo_client(port, turns):
    for i in range(int(turns)):
        with connect(port) as s:
            s.sendall(b"hello %d" % i)
            s.shutdown(socket.SHUT_WR)
            print(end_of(s))


@case
def daemon(w):
    """a daemon (double fork, everything closed) serves on with the listener that it kept"""
    port = w.port()
    w.guest(daemonise, port).ok()
    c = w.guest(echo_client, port, 5).ok()
    same("answers", "".join("b'hello %d' EOF\n" % i for i in range(5)), c.text())
    w.ours(port)


# --- exec --------------------------------------------------------------------------------------------------------

@guest
def exec_server(port, how):
    """Accepts, and gives the connection to another program in several ways."""
    listener = listen_and_say(port)
    code = ("import socket\ns = socket.socket(fileno=%d)\n"
            "assert s.family == socket.AF_INET and s.getsockname()[1] == " + str(port) + "\n"
            "while data := s.recv(100): s.sendall(data)\n")
    s, _ = listener.accept()
    listener.close()
    os.set_inheritable(s.fileno(), True)
    if how == "exec":
        os.execv(PYTHON, [PYTHON, "-c", code % s.fileno()])
    elif how == "fork_exec":
        if os.fork() == 0:
            os.execv(PYTHON, [PYTHON, "-c", code % s.fileno()])
        s.close()
        sys.exit(os.wait()[1])
    elif how == "spawn":
        pid = os.posix_spawn(PYTHON, [PYTHON, "-c", code % s.fileno()], os.environ)
        s.close()
        sys.exit(os.waitpid(pid, 0)[1])
    elif how == "spawn_dup":  # posix_spawn's own dup2 puts it at 0 and 1
        pid = os.posix_spawn("/bin/cat", ["cat"], os.environ,
                             file_actions=[(os.POSIX_SPAWN_DUP2, s.fileno(), 0),
                                           (os.POSIX_SPAWN_DUP2, s.fileno(), 1)])
        s.close()
        sys.exit(os.waitpid(pid, 0)[1])
    elif how == "inetd":
        if os.fork() == 0:
            for fd in (0, 1):
                os.dup2(s.fileno(), fd)
            s.close()
            os.execv("/bin/sh", ["sh", "-c", "cat"])
        s.close()
        sys.exit(os.wait()[1])
    elif how == "shell":
        if os.fork() == 0:
            for fd in (0, 1):
                os.dup2(s.fileno(), fd)
            os.execv("/bin/sh", ["sh", "-c", "head -c 3; (cat)"])
        s.close()
        sys.exit(os.wait()[1])
    elif how == "system":
        n = s.fileno()
        sys.exit(os.system("cat <&%d >&%d" % (n, n)))
    elif how == "popen":
        for fd in (0, 1):
            os.dup2(s.fileno(), fd)
        s.close()
        text = subprocess.run(["cat"], stdout=subprocess.PIPE).stdout
        os.write(1, text)


@guest
def exec_client(port):
    with connect(port) as s:
        s.sendall(b"through exec")
        s.shutdown(socket.SHUT_WR)
        print(end_of(s))


def add_exec(how):
    def test(w, shim):
        port = w.port()
        s = w.guest(exec_server, port, how, shim=shim)
        s.until("ready")
        c = w.guest(exec_client, port, shim=shim).ok()
        s.ok()
        w.ours(port, shim)
        return c.text()
    test.__name__ = "accepted_socket_by_" + how
    test.__doc__ = "an accepted socket given to another program: %s" % how
    case(both_worlds(test))


for _how in ("exec", "fork_exec", "spawn", "spawn_dup", "inetd", "shell", "system", "popen"):
    add_exec(_how)


@guest
def reexec(port, turn, fd):
    """A server that executes itself anew with its listener, as for an upgrade, between any two connections."""
    turn = int(turn)
    listener = listen(port) if turn == 0 else socket.socket(fileno=int(fd))
    if turn == 0:
        ready()
    assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    s, _ = listener.accept()
    s.sendall(b"turn %d" % turn)
    s.close()
    if turn == 4:
        return
    os.set_inheritable(listener.fileno(), True)
    os.execv(PYTHON, [PYTHON, "-B", __file__, "--guest", "reexec", port, str(turn + 1), str(listener.fileno())])


@guest
def read_turns(port, turns):
    for _ in range(int(turns)):
        with connect(port) as s:
            print(end_of(s), flush=True)


@case
def listener_through_exec(w):
    """a listener survives four execs of its server; clients that come meanwhile wait in its backlog"""
    port = w.port()
    s = w.guest(reexec, port, 0, -1)
    s.until("ready")
    c = w.guest(read_turns, port, 5).ok()
    same("answers", "".join("b'turn %d' EOF\n" % i for i in range(5)), c.text())
    s.ok()
    w.ours(port)


@guest
def hold_without_shim(port, seconds):
    """A program without the preload inherits the connection: it ends when that program does, not before."""
    s = connect(port)
    s.sendall(b"last words")
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    os.set_inheritable(s.fileno(), True)
    pid = os.posix_spawn("/bin/sleep", ["sleep", seconds], environment)
    s.close()
    os.waitpid(pid, os.WNOHANG)
    ready("handed on")
    sys.stdin.readline()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    ready("ended")
    sys.stdin.readline()


@guest
def see_end(port):
    s, _ = listen_and_say(port).accept()
    print(receive(s, 10), flush=True)
    s.settimeout(0.7)
    try:
        print(end_of(s), flush=True)
    except TimeoutError:
        pass
    s.settimeout(PATIENCE)
    print(end_of(s), flush=True)


@case
@both_worlds
def held_by_a_stranger(w, shim):
    """a program without the preload that inherited a connection keeps it open; its end is the connection's"""
    port = w.port()
    s = w.guest(see_end, port, shim=shim)
    s.until("ready")
    c = w.guest(hold_without_shim, port, 1000, shim=shim, stdin=subprocess.PIPE)
    c.until("handed on")
    wait_until("no end within 0.7 s", lambda: "TimeoutError" in s.text() or "EOF" in s.text())
    c.write("\n")
    c.until("ended")
    s.wait()
    c.write("\n")
    c.ok()
    return s.text()


# --- SCM_RIGHTS --------------------------------------------------------------------------------------------------

@guest
def pass_socket(port, path):
    """Connects, and sends the connection over a unix socket to another program."""
    u = socket.socket(socket.AF_UNIX)
    u.connect(path)
    s = connect(port)
    s.sendall(b"begun by the sender; ")
    socket.send_fds(u, [b"here"], [s.fileno(), sys.stdout.fileno()])
    s.close()


@guest
def take_socket(path, delay):
    l = socket.socket(socket.AF_UNIX)
    l.bind(path)
    l.listen()
    ready()
    u, _ = l.accept()
    if delay == "late":
        # The sender is gone, and the descriptor lives only in the queue of the unix socket.
        sys.stdin.readline()
    message, fds, _, _ = socket.recv_fds(u, 10, 2)
    assert message == b"here" and len(fds) == 2, (message, fds)
    s = socket.socket(fileno=fds[0])
    assert s.family == socket.AF_INET and not os.get_blocking(fds[0])  # as its sender left it
    s.setblocking(True)
    s.sendall(b"ended by the receiver")
    s.shutdown(socket.SHUT_WR)
    print(end_of(s))


def scm(late):
    def test(w, shim):
        port, path = w.port(), w.path("u%d" % shim)
        echo = w.guest(echo_one, port, shim=shim)
        echo.until("ready")
        taker = w.guest(take_socket, path, "late" if late else "now", shim=shim, stdin=subprocess.PIPE)
        taker.until("ready")
        sender = w.guest(pass_socket, port, path, shim=shim)
        sender.ok()
        if late:
            time.sleep(0.3)
            taker.write("\n")
        outcome = taker.ok().text(), echo.ok().text()
        w.ours(port, shim)
        return outcome
    test.__name__ = "scm_rights" + ("_in_flight" if late else "")
    test.__doc__ = "a connection sent to another program over a unix socket" + \
        (", received after its sender has ended" if late else "")
    case(both_worlds(test))


scm(False)
scm(True)


@guest
def take_without_shim(path):
    """What a socket of ours is to a program that does not know us: an empty file, which no socket call takes."""
    l = socket.socket(socket.AF_UNIX)
    l.bind(path)
    l.listen()
    ready()
    u, _ = l.accept()
    _, (fd, _), _, _ = socket.recv_fds(u, 10, 2)
    libc = ctypes.CDLL(None, use_errno=True)
    room = ctypes.create_string_buffer(64)
    size = ctypes.c_int(64)

    def said(r):
        return r if r >= 0 else errno.errorcode[ctypes.get_errno()]
    for name, call in (("read", lambda: libc.read(fd, room, 9)), ("write", lambda: libc.write(fd, b"x", 1)),
                       ("send", lambda: libc.send(fd, b"x", 1, 0)), ("recv", lambda: libc.recv(fd, room, 9, 0)),
                       ("getsockname", lambda: libc.getsockname(fd, room, ctypes.byref(size))),
                       ("shutdown", lambda: libc.shutdown(fd, 2)), ("ftruncate", lambda: libc.ftruncate(fd, 0)),
                       ("close", lambda: libc.close(fd))):
        print(name, said(call()))


@case
def scm_rights_to_a_stranger(w):
    """a socket sent to a program without the shim: it gets nothing out of it, and does it no harm"""
    if NATIVE:
        raise Skip("only with the shim")
    port, path = w.port(), w.path("u")
    peer = w.guest(see_end, port)
    peer.until("ready")
    taker = w.guest(take_without_shim, path, shim=False)
    taker.until("ready")
    sender = w.guest(pass_socket, port, path, env={"SOCKSHIM_WARN": "1"})
    sender.may_say = True
    same("what is said", 1, sender.ok().err().count(
        " bypasses us: it is sent a socket, and has not loaded the library\n"))
    same("the stranger's calls", "read 0|write EBADF|send ENOTSOCK|recv ENOTSOCK|getsockname ENOTSOCK|shutdown ENOTSOCK|"
         "ftruncate EINVAL|close 0", "|".join(l for l in taker.ok().text().splitlines() if l != "ready"))
    # The last holder has let go of it, without a word: the peer sees the end all the same.
    same("the peer", ["b'he sender; ' EOF", "b'' EOF"], peer.ok().text().splitlines()[2:])


@guest
def scm_lost(port):
    """The only reference is in flight, and is lost with the unix socket: that ends the connection."""
    a, b = socket.socketpair()
    s = connect(port)
    s.sendall(b"in flight ")
    socket.send_fds(a, [b"x"], [s.fileno()])
    s.close()
    ready("in flight")
    sys.stdin.readline()
    a.close()
    b.close()
    ready("lost")
    sys.stdin.readline()


@case
@both_worlds
def scm_rights_lost(w, shim):
    """a connection whose only reference was in flight and is dropped: the peer sees its end"""
    port = w.port()
    s = w.guest(see_end, port, shim=shim)
    s.until("ready")
    c = w.guest(scm_lost, port, shim=shim, stdin=subprocess.PIPE)
    c.until("in flight")
    wait_until("no end within 0.7 s", lambda: "TimeoutError" in s.text() or "EOF" in s.text())
    c.write("\n")
    c.until("lost")
    s.wait()
    c.write("\n")
    c.ok()
    return s.text()


if __name__ == "__main__":
    main()
