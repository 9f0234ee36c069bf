"""Web servers that several tests start, and what they serve."""
import os, random

from harness import *

LINES = b"".join(b"line %d\n" % i for i in range(20000))  # 208,890 bytes
BIG = 100 << 20
SIZES = {"small": 1024, "page": 102400, "big": BIG}


def rows(number, width, seed):
    """Lines of comma-separated values, of all lengths up to the width."""
    r = random.Random(seed)
    return b"".join(b"%d,%s\n" % (i, r.randbytes(r.randrange(width // 2)).hex().encode()) for i in range(number))


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


def site(w):
    """A directory that any user may read, with files of SIZES and one that compresses: names and hashes."""
    top = w.path("site")
    if not os.path.isdir(top):
        os.mkdir(top)
        os.chmod(w.work, 0o711)
        with open(os.path.join(top, "lines.html"), "wb") as f:
            f.write(LINES)
        r = random.Random(1)
        for name, size in SIZES.items():
            with open(os.path.join(top, name), "wb") as f:
                while f.tell() < size:
                    f.write(r.randbytes(min(size, 1 << 20)))
    return {name: file_sha(os.path.join(top, name)) for name in os.listdir(top)}


def certificate(w):
    """Files of a certificate that signs itself, for this machine's loopback, and of its key."""
    key, crt = w.path("key.pem"), w.path("crt.pem")
    if not os.path.exists(crt):
        w.run(need("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
              "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:" + LOOPBACK,
              "-keyout", key, "-out", crt, shim=False)
    return crt, key


NGINX = """
user www-data;
worker_processes 2;
daemon off;
pid {top}/pid;
error_log {top}/error.log;
events {{ worker_connections 768; }}
http {{
    sendfile on;
    tcp_nopush on;
    types_hash_max_size 2048;
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_prefer_server_ciphers on;
    access_log off;
    gzip on;
    client_body_temp_path {top}/body;
    proxy_temp_path {top}/proxy;
    fastcgi_temp_path {top}/fastcgi;
    uwsgi_temp_path {top}/uwsgi;
    scgi_temp_path {top}/scgi;
    {servers}
}}
"""


def debian_nginx(w, servers, shim):
    """nginx as Debian configures it, but for the servers, the directory, and two workers, which are www-data's."""
    if os.geteuid():
        raise Skip("not root")
    top = w.path("nginx-%d" % len(w.programs))
    os.mkdir(top)
    os.chmod(w.work, 0o711)
    config = w.file(os.path.join(top, "conf"), NGINX.format(top=top, servers=servers).encode())
    p = w.start(need("nginx"), "-e", "stderr", "-c", config, shim=shim, name="nginx")
    p.top = top
    return p


def curl(w, *args, shim, **how):
    return w.start(need("curl"), "-sS", "--fail", "--max-time", PATIENCE, *args, shim=shim, **how)


def answers(w, url, shim, *options):
    """Waits until a server answers its first request."""
    w.settle(lambda: curl(w, "-o", os.devnull, *options, url, shim=shim), url + " answers")


def fetch_big(w, url, shim, what, *options):
    """The big file: its hash, and a figure."""
    target = w.path("got-%s" % ("ours" if shim else "native"))
    p = curl(w, "-o", target, "-w", "%{speed_download}", *options, url, shim=shim).ok()
    w.figure(what, "MB/s", float(p.text()) / 1e6, shim)
    return file_sha(target)


def wrk_figure(w, url, shim, what, *options, may_end=False):
    """A second of wrk: nothing may fail, but by the ends of kept connections; its requests per second are a figure."""
    p = w.start(need("wrk"), "-t", 2, "-c", 32, "-d", "1s", "--timeout", "20s", *options, url, shim=shim).ok()
    same(what + ": errors", [], re.findall("Non-2xx.*" if may_end else "Socket errors.*|Non-2xx.*", p.text()))
    w.figure(what, "requests/s", float(re.search(r"Requests/sec: +([0-9.]+)", p.text()).group(1)), shim)


# --- haproxy ---------------------------------------------------------------------------------------------

# No idle connections to servers: with several threads haproxy 2.6 may crash when it ends with some, also with the kernel.
HAPROXY = """
global
    nbthread 2
    stats socket %(socket)s mode 600 level admin expose-fd listeners
defaults
    mode http
    timeout connect 20s
    timeout client 30s
    timeout server 30s
frontend in
    bind %(address)s:%(port)d
    http-request set-header X-Generation %(generation)s
    http-response set-header X-Generation %(generation)s
    default_backend servers
backend servers
    balance roundrobin
    server one %(address)s:%(one)d check inter 200ms pool-max-conn 0
    server two %(address)s:%(two)d check inter 200ms pool-max-conn 0
"""


class Haproxy:
    """Before two web servers. A new generation takes the listeners over from the one that runs."""

    def __init__(self, w, port, one, two, shim):
        self.w, self.shim, self.control = w, shim, w.path("haproxy-%d.sock" % port)
        self.config = dict(socket=self.control, address=LOOPBACK, port=port, one=one, two=two, generation=0)
        self.running = self._start()

    def _start(self, *args):
        self.config["generation"] += 1
        name = "haproxy-%d" % self.config["generation"]
        path = self.w.file("%s-%d.cfg" % (name, self.config["port"]), (HAPROXY % self.config).encode())
        p = self.w.start(need("haproxy"), "-db", "-f", path, *args, shim=self.shim, name=name)

        def answers():
            try:
                with socket.socket(socket.AF_UNIX) as s:
                    s.connect(self.control)
                    s.sendall(b"show info\n")
                    return b"Pid: %d\n" % p.pid in s.makefile("rb").read()
            except OSError:
                return False
        wait_until(name + " answers on its control socket", answers)
        return p

    def reload(self):
        before, self.running = self.running, self._start("-x", self.control, "-sf", str(self.running.pid))
        same("the one before ended", 0, before.wait())


@guest
def web_client(port, stop, *names):
    """Asks again and again until the file is there; each answer has to be right."""
    import http.client
    count, seen = 0, set()
    while not os.path.exists(stop) or count < 20:
        for name in names:
            c = http.client.HTTPConnection(LOOPBACK, int(port), timeout=PATIENCE)
            c.request("GET", "/" + name, headers={"Connection": "close"})
            r = c.getresponse()
            data = r.read()
            assert r.status == 200, r.status
            seen.add("%s %s" % (name, sha(data)))
            c.close()
        count += 1
    print("\n".join(sorted(seen)))
