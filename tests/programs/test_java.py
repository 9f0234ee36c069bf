"""Java's sockets, natively and under the shim, with the same answers and exceptions (Sockets.java)."""
import re, subprocess

from harness import *


def compiled(w):
    """Compiled once for both worlds."""
    need("java")
    if not os.path.exists(w.path("classes")):
        w.run(need("javac"), "-d", w.path("classes"), os.path.join(HERE, "Sockets.java"), shim=False)


def java(w, shim, *args):
    return w.start(need("java"), "-Djava.net.preferIPv4Stack=true", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m",
                   "-cp", w.path("classes"), "Sockets", *args, shim=shim, name="java-" + args[0], stdin=subprocess.PIPE)


def server(w, shim, kind):
    port = w.port()
    return port, java(w, shim, kind, port)


@case
@both_worlds
def sockets(w, shim):
    """java: echo by Selector, threads and asynchronous channels to clients of each kind, DatagramChannel, HttpServer and HttpClient"""
    compiled(w)
    servers = [server(w, shim, kind) for kind in ("selector", "threads", "asynchronous", "datagram", "http")]
    for _, p in servers:
        p.until("ready", "out")
    client = java(w, shim, "client", *[port for port, _ in servers])
    client.ok()
    w.figure("round trips of a byte", "/s", float(re.search(r"rounds/s: (\d+)", client.err()).group(1)), shim)
    for port, p in servers:
        w.ours(port, shim)  # (while it is there: datagrams leave nothing behind)
        p.close_stdin()
        p.ok()
    return client.text()


@case
@both_worlds
def errors(w, shim):
    """java: exceptions: refused, timed out, closed or interrupted in a wait, reset; the options of a socket"""
    compiled(w)
    port, p = server(w, shim, "selector")
    p.until("ready", "out")
    text = java(w, shim, "errors", port, w.port()).ok().text()
    w.ours(port, shim)
    return text.splitlines()


if __name__ == "__main__":
    main()
