"""Servers that give a program a socket: inetd, systemd-socket-activate, socat, ncat; and tftp. Natively and under the shim,
with the same answers."""
import os, random, signal, socket, subprocess, time

from harness import *
from servers import LINES


def nc(w, shim, port, data, **how):
    return w.start(need("nc"), "-v", "-N", LOOPBACK, port, stdin=data, shim=shim, **how)


# --- inetd --------------------------------------------------------------------------------------------------

INETD = """
{address}:{cat} stream tcp nowait root /bin/cat cat
{address}:{shell} stream tcp nowait root /bin/sh sh {script}
{address}:{waits} stream tcp wait root {python} python3 -B {here}/test_inetd.py --guest takes_over
{address}:{tftp} dgram udp wait root /usr/sbin/in.tftpd in.tftpd -s -u root {files}
"""


@guest
def takes_over():
    """A `wait` service: it got the listener, serves three connections, and leaves it to inetd again."""
    with socket.socket(fileno=0) as listener:
        for i in range(3):
            with listener.accept()[0] as c:
                c.sendall(b"%d %d\n" % (i, len(c.makefile("rb").read())))


@case
@both_worlds
def inetd(w, shim):
    """inetd: nowait, wait with the listener handed over, tftpd on a datagram socket; SIGHUP adds a service"""
    if os.getuid():
        raise Skip("not root")
    program = need("inetd")
    ports = {name: w.port() for name in ("cat", "shell", "waits", "tftp")}
    files, data = files_of_tftp(w)
    script = w.file("service", b"read -r line; echo got $line; tr a-z A-Z; echo end\n")
    config = INETD.format(address=LOOPBACK, python=PYTHON, here=HERE, files=files, script=script, **ports)
    path = w.file("inetd-%d.conf" % ports["cat"], config.encode())
    p = w.start(program, "-i", path, shim=shim)
    answers = [sha(w.settle(lambda: nc(w, shim, ports["cat"], LINES), "inetd serves").out())]
    answers += [sha(c.ok().out()) for c in [nc(w, shim, ports["cat"], LINES) for _ in range(8)]]
    answers.append(sha(nc(w, shim, ports["shell"], LINES).ok().out()))
    for i in range(6):  # the service ends after three: inetd listens again
        answers.append(nc(w, shim, ports["waits"], b"x" * i).ok().text())
    same("the file by tftp", sha(data), tftp_get(w, shim, ports["tftp"]))
    more = w.port()
    w.file("inetd-%d.conf" % ports["cat"], (config + "%s:%d stream tcp nowait root /bin/echo echo more\n"
                                           % (LOOPBACK, more)).encode())
    p.kill(signal.SIGHUP)
    answers.append(w.settle(lambda: nc(w, shim, more, b""), "the service that was added").text())
    for port in (ports["cat"], ports["shell"], ports["waits"], more):
        w.ours(port, shim)
    check(p.running(), "inetd goes on")
    return answers


# --- tftp -----------------------------------------------------------------------------------------------------

def files_of_tftp(w):
    """Where a server that is in a chroot, and perhaps nobody, finds a file, and what is in it."""
    files, data = w.path("files-%d" % len(w.programs)), random.Random(1).randbytes(1 << 20)
    os.mkdir(files)
    with open(os.path.join(files, "f"), "wb") as f:
        f.write(data)
    for path in (w.work, files):
        os.chmod(path, 0o755)
    return files, data


def tftp_get(w, shim, port):
    got = w.path("got-%d" % len(w.programs))
    w.start(need("tftp"), "-m", "binary", LOOPBACK, port, "-c", "get", "f", got, shim=shim).ok()
    return file_sha(got)


@case
@both_worlds
def tftp(w, shim):
    """tftp, in.tftpd: a server begun by root for nobody in a chroot; 1 MB there and back, four clients at once"""
    if os.getuid():
        raise Skip("not root")
    program, client = need("in.tftpd", "tftp")
    port = w.port()
    files, data = files_of_tftp(w)
    os.chmod(os.path.join(files, "f"), 0o666)
    p = w.start(program, "-L", "-s", "-u", "nobody", "--address", "%s:%d" % (LOOPBACK, port), files, shim=shim)
    answers = [tftp_get(w, shim, port)]
    new = random.Random(2).randbytes(1 << 20)
    w.start(client, "-m", "binary", LOOPBACK, port, "-c", "put", w.file("new", new), "f", shim=shim).ok()
    same("what was put", sha(new), file_sha(os.path.join(files, "f")))
    several = [w.start(client, "-m", "binary", LOOPBACK, port, "-c", "get", "f", w.path("g%d-%d" % (i, port)), shim=shim)
               for i in range(4)]
    for c in several:
        c.ok()
    answers += [file_sha(w.path("g%d-%d" % (i, port))) for i in range(4)]
    missing = w.start(client, "-m", "binary", LOOPBACK, port, "-c", "get", "nothing", w.path("nothing"), shim=shim)
    answers += [missing.wait(), missing.text()]
    w.ours(port, shim)
    check(p.running(), "the server goes on")
    return answers


# --- systemd-socket-activate ---------------------------------------------------------------------------------

@guest
def activated():
    """Two listeners as descriptors 3 and 4, as sd_listen_fds(3) has it; ends when each has had two clients."""
    assert os.environ["LISTEN_FDS"] == "2" and os.environ["LISTEN_PID"] == str(os.getpid())
    listeners = [socket.socket(fileno=fd) for fd in (3, 4)]
    for number, l in enumerate(listeners * 2):
        with l.accept()[0] as c:
            c.sendall(b"%d %d %d\n" % (number, len(c.makefile("rb").read()), l.getsockname()[1] == c.getsockname()[1]))


@guest
def activated_datagram():
    with socket.socket(fileno=3) as s:
        for _ in range(5):
            data, peer = s.recvfrom(2000)
            s.sendto(data[::-1], peer)


@guest
def ask_by_datagrams(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(PATIENCE)
        s.connect((LOOPBACK, int(port)))
        for i in range(5):
            s.send(b"datagram %d" % i)
            print(s.recv(2000))


@case
@both_worlds
def socket_activate(w, shim):
    """systemd-socket-activate: two listeners as 3 and 4, a datagram socket as 3, --inetd --accept; none hands LD_PRELOAD on"""
    program = need("systemd-socket-activate")

    def activate(kind, number, *command):
        ports = [w.port() for _ in range(number)]
        args = [a for p in ports for a in ("-l", "%s:%d" % (LOOPBACK, p))]
        w.start(program, *kind, *args, *command, shim=shim, name="activate").until("Listening on .*%d" % ports[-1])
        return ports
    me = os.path.join(HERE, "test_inetd.py")
    ports = activate((), 2, PYTHON, "-B", me, "--guest", "activated")
    answers = [nc(w, shim, ports[i % 2], b"x" * i).ok().text() for i in range(4)]
    ports += activate(("--datagram",), 1, PYTHON, "-B", me, "--guest", "activated_datagram")
    answers.append(w.guest(ask_by_datagrams, ports[-1], shim=shim).ok().text())
    accepting = activate(("--inetd", "--accept"), 1, "/bin/sh", "-c", "echo $REMOTE_ADDR; tr a-z A-Z; echo end")
    clients = [nc(w, shim, accepting[0], LINES) for _ in range(6)]
    answers += [sha(c.ok().out()) for c in clients]
    for port in ports[:2] + accepting:
        w.ours(port, shim)
    return answers


# --- socat and ncat ------------------------------------------------------------------------------------------

@case
@both_worlds
def socat(w, shim):
    """socat: EXEC by socketpair, pipes, a pty and the socket itself, a child for each client; a relay of relays, UDP"""
    program = need("socat")

    def server(address, kind="TCP-LISTEN", options="fork,reuseaddr"):
        port = w.port()
        w.start(program, "-d", "-d", "%s:%d,bind=%s,%s" % (kind, port, LOOPBACK, options), address, shim=shim,
                name="socat-server").until("listening on", "err")
        return port

    def client(port, data, to="TCP"):
        return w.start(program, "-t", PATIENCE, "-", "%s:%s:%d" % (to, LOOPBACK, port), stdin=data, shim=shim)
    answers, ports = [], []
    for how in ("EXEC:cat", "EXEC:cat,pipes", "SYSTEM:'sort -r; echo end',nofork", "SYSTEM:'tr a-z A-Z; echo end'"):
        ports.append(server(how))
        answers += [sha(c.ok().out()) for c in [client(ports[-1], LINES) for _ in range(4)]]
    ports.append(server("EXEC:'/bin/sh -c \"tty -s && stty -a; cat\"',pty,setsid,ctty,raw,echo=0"))
    typed = client(ports[-1], subprocess.PIPE)
    for i in range(10):
        typed.write("line %d\n" % i)
        typed.until("line %d\n" % i, "out")
    answers.append(sha(typed.out()))
    ports.append(server("TCP:%s:%d" % (LOOPBACK, ports[0])))
    ports.append(server("TCP:%s:%d" % (LOOPBACK, ports[-1])))
    answers += [sha(c.ok().out()) for c in [client(ports[-1], LINES * 20) for _ in range(3)]]
    udp = server("PIPE", kind="UDP-LISTEN", options="fork")
    p = w.start(program, "-t", "1", "-", "UDP:%s:%d" % (LOOPBACK, udp), stdin=b"a datagram", shim=shim)
    answers.append(p.until("a datagram", "out").group())
    for port in ports:
        w.ours(port, shim)
    return answers


@case
@both_worlds
def ncat(w, shim):
    """ncat: --exec, --sh-exec, --broker, --chat, --keep-open; a proxy by CONNECT"""
    program = need("ncat")

    def listen(*args, **how):
        port = w.port()
        p = w.start(program, "-v", "-n", "-4", *args, "-l", LOOPBACK, port, shim=shim, **how)
        p.until("Listening on")
        return port

    def client(port, stdin, *args):
        return w.start(program, "-n", *args, LOOPBACK, port, stdin=stdin, shim=shim)
    answers = []
    cat = listen("-k", "--exec", "/bin/cat")
    clients = [client(cat, subprocess.PIPE) for _ in range(4)]
    for c in clients:  # (ncat ends its program with the client's FIN, so the echo has to come first)
        c.write(LINES[:30000])
    for c in clients:
        wait_until("cat's echo", lambda: len(c.out()) == 30000)
        c.close_stdin()
        c.wait()
        answers.append(sha(c.out()))
    shell = listen("-k", "--sh-exec", "echo $NCAT_REMOTE_ADDR $NCAT_PROTO; seq 50000; echo end")
    answers += [sha(c.ok().out()) for c in [client(shell, None, "--recv-only") for _ in range(3)]]
    for how in ("--broker", "--chat"):
        port = listen(how)
        members = [client(port, subprocess.PIPE) for _ in range(3)]

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
        w.ours(port, shim)
    proxy = listen("--proxy-type", "http")
    through = client(shell, None, "--recv-only", "--proxy", "%s:%d" % (LOOPBACK, proxy), "--proxy-type", "http")
    answers.append(sha(through.ok().out()))
    for port in (cat, shell, proxy):
        w.ours(port, shim)
    return answers


if __name__ == "__main__":
    main()
