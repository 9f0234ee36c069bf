"""Web servers that several tests start, and what they serve."""
import os, random

from harness import *

LINES = b"".join(b"line %d\n" % i for i in range(20000))  # 208,890 bytes


def www(w, port, text, shim):
    """Python's web server with one small and one larger file."""
    top = w.path("www-%d" % port)
    os.mkdir(top)
    for name, data in (("who", text.encode()), ("larger", random.Random(text).randbytes(300000))):
        with open(os.path.join(top, name), "wb") as f:
            f.write(data)
    p = w.start(PYTHON, "-m", "http.server", "--protocol", "HTTP/1.1", "--bind", LOOPBACK, "--directory", top, port,
                shim=shim)
    p.until("Serving")
    return p


def web(w, shim):
    port = w.port()
    www(w, port, "the page\n", shim)
    return port, "http://%s:%d" % (LOOPBACK, port)


def nginx(w, shim):
    """A server that keeps up: two workers."""
    program, port = need("nginx"), w.port()
    top = w.path("nginx-%d" % port)
    os.mkdir(top)
    w.file("nginx-%d/page" % port, LINES)
    temporary = "".join("%s_temp_path %s/t;" % (n, top) for n in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root;" if os.getuid() == 0 else ""
    config = w.file("nginx-%d.conf" % port, ("""%s daemon off; worker_processes 2; pid %s/pid; error_log stderr;
        events { worker_connections 200; }
        http { access_log off; keepalive_requests 100000; %s server { listen %s:%d; root %s; } }
        """ % (user, top, temporary, LOOPBACK, port, top)).encode())
    w.start(program, "-e", "stderr", "-c", config, shim=shim, name="nginx")
    url = "http://%s:%d/page" % (LOOPBACK, port)
    w.settle(lambda: w.start(need("curl"), "-sS", "-o", "/dev/null", url, shim=shim), "nginx answers")
    return port, url
