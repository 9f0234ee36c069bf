"""curl against Python's http.server and against small servers of our own, all under the shim."""
import http.client, http.server, os, signal, socketserver, ssl, sys, urllib.request

from harness import *

MEGABYTES = int(os.environ.get("SHIMTEST_MB", "20"))


def curl(w, *args, shim=True, **how):
    return w.start(need("curl"), "-sS", "--noproxy", "*", "--max-time", PATIENCE, *args, shim=shim, **how)


def got(w, name):
    return file_sha(w.path(name))


def serve_files(w, port, address=LOOPBACK, shim=True, threads=True):
    """python3 -m http.server on the directory www."""
    os.makedirs(w.path("www"), exist_ok=True)
    p = w.start(PYTHON, "-m", "http.server", "--bind", address, "--directory", w.path("www"), port,
                shim=shim, name="http.server")
    p.until("Serving HTTP on")
    return p


def make_files(w, sizes):
    os.makedirs(w.path("www"), exist_ok=True)
    sums = {}
    for name, size in sizes.items():
        sums[name] = file_sha(w.file("www/" + name, os.urandom(size)))
    return sums


@case
def big_file(w):
    """python3, curl: curl fetches a big file from python3 -m http.server; SHA-256 compared, the kernel saw nothing"""
    port = w.port()
    sums = make_files(w, {"big": MEGABYTES * 1000000})
    server = serve_files(w, port)
    for i in range(2):
        curl(w, "-o", w.path("got"), "http://%s:%d/big" % (LOOPBACK, port)).ok()
        same("SHA-256 of %d MB" % MEGABYTES, sums["big"], got(w, "got"))
    w.ours(port)
    check(server.running(), "the server goes on")
    server.kill(signal.SIGINT)
    server.wait()


@case
def many_files(w):
    """python3, curl: several files by one curl, one after another and --parallel; HEAD, 404, by name"""
    port = w.port()
    sums = make_files(w, {"f%d" % i: size for i, size in
                          enumerate((0, 1, 1000, 65536, 65537, 300000, 1500000, 3000001))})
    serve_files(w, port)
    url = "http://%s:%d/" % (LOOPBACK, port)
    for how in ([], ["--parallel", "--parallel-max", "8"], ["--parallel-immediate", "--parallel"]):
        args = []
        for name in sums:
            args += ["-o", w.path("got." + name), url + name]
        curl(w, *how, *args).ok()
        same("SHA-256 of each, %s" % (how or "in turn"), sums, {n: got(w, "got." + n) for n in sums})
    head = curl(w, "-I", url + "f5").ok()
    check("Content-Length: 300000" in head.text() or "Content-length: 300000" in head.text().lower(), "HEAD answers")
    missing = curl(w, "-o", os.devnull, "-w", "%{http_code} %{remote_ip} %{remote_port}", url + "none").ok()
    same("404 and the peer's address", "404 %s %d" % (LOOPBACK, port), missing.text())
    named = curl(w, "-o", w.path("named"), "-4", "http://localhost:%d/f4" % port).ok()
    same("SHA-256 by the name localhost", sums["f4"], got(w, "named"))
    w.ours(port)


# --- a server of HTTP/1.1 with ranges, POST, chunks ---------------------------------------------------------

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    content = b""

    def log_message(self, *args):
        pass

    def do_GET(self):
        if self.path == "/chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            data, at, step = self.content, 0, 1
            while at < len(data):
                piece = data[at:at + step]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                at, step = at + step, step * 3 + 1
            self.wfile.write(b"0\r\n\r\n")
            return
        if self.path == "/half":
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.content)))
            self.end_headers()
            self.wfile.write(self.content[:len(self.content) // 2])
            time.sleep(1000)
        data, first = self.content, 0
        wanted = self.headers.get("Range")
        if wanted:
            a, b = wanted.split("=")[1].split("-")
            first = int(a) if a else len(data) - int(b)
            last = int(b) if a and b else len(data) - 1
            self.send_response(206)
            self.send_header("Content-Range", "bytes %d-%d/%d" % (first, last, len(data)))
            data = data[first:last + 1]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Peer", "%s %d" % self.client_address)
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self):
        length = self.headers.get("Content-Length")
        h, n = hashlib.sha256(), 0
        if length is not None:
            left = int(length)
            while left:
                block = self.rfile.read(min(left, 65536))
                h.update(block)
                n, left = n + len(block), left - len(block)
        else:
            while True:
                size = int(self.rfile.readline(), 16)
                h.update(self.rfile.read(size))
                n += size
                self.rfile.readline()
                if not size:
                    break
        answer = ("%d %s" % (n, h.hexdigest())).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_PUT = do_POST


@guest
def http_11(port, path, certificate=""):
    with open(path, "rb") as f:
        Handler.content = f.read()
    server = http.server.ThreadingHTTPServer((LOOPBACK, int(port)), Handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    print("ready", flush=True)
    server.serve_forever()


def serve_11(w, port, data, *args, shim=True):
    p = w.guest(http_11, port, w.file("content", data), *args, shim=shim)
    p.until("ready")
    return p


@case
def keep_alive(w):
    """python3, curl: many requests over one connection; ranges; chunks both ways; HTTP/1.0"""
    port, data = w.port(), os.urandom(700001)
    serve_11(w, port, data)
    url = "http://%s:%d/" % (LOOPBACK, port)
    args = []
    for i in range(30):
        args += ["-o", w.path("k%d" % i), url]
    p = curl(w, "-w", "%{num_connects} %{local_port}\n", *args).ok()
    same("connections made for 30 requests", 1, sum(int(l.split()[0]) for l in p.text().splitlines()))
    same("SHA-256 of all 30", {sha(data)}, {got(w, "k%d" % i) for i in range(30)})
    for wanted, expected in (("0-0", data[:1]), ("100000-", data[100000:]), ("-777", data[-777:]),
                             ("65535-131072", data[65535:131073])):
        curl(w, "-r", wanted, "-o", w.path("range"), url).ok()
        same("range " + wanted, sha(expected), got(w, "range"))
    curl(w, "-o", w.path("chunked"), url + "chunked").ok()
    same("chunked answer", sha(data), got(w, "chunked"))
    curl(w, "--http1.0", "-o", w.path("old"), url).ok()
    same("HTTP/1.0", sha(data), got(w, "old"))
    curl(w, "--limit-rate", "700k", "-o", w.path("slow"), url).ok()
    same("at a limited rate", sha(data), got(w, "slow"))
    w.ours(port)


@case
def upload(w):
    """python3, curl: POST and PUT, small, with Expect: 100-continue, chunked from a pipe; multipart"""
    port, data = w.port(), os.urandom(5000003)
    serve_11(w, port, b"")
    url = "http://%s:%d/" % (LOOPBACK, port)
    w.file("upload", data)
    expected = "%d %s" % (len(data), sha(data))
    same("POST of a file", expected, curl(w, "--data-binary", "@" + w.path("upload"), url).ok().text())
    same("PUT of a file", expected, curl(w, "-T", w.path("upload"), url).ok().text())
    same("POST with Expect", expected, curl(w, "-H", "Expect: 100-continue", "--expect100-timeout", "1",
                                            "--data-binary", "@" + w.path("upload"), url).ok().text())
    same("chunked from stdin", expected, curl(w, "-T", "-", url, stdin=data).ok().text())
    same("a small one", "3 " + sha(b"a=b"), curl(w, "-d", "a=b", url).ok().text())
    w.ours(port)


@case
def tls(w):
    """python3, curl: curl -k from Python's ssl; a Python client too"""
    need("openssl", "curl")
    certificate = make_certificate(w)
    port, data = w.port(), os.urandom(3000001)
    serve_11(w, port, data, certificate)
    url = "https://%s:%d/" % (LOOPBACK, port)
    curl(w, "-k", "-o", w.path("got"), url).ok()
    same("SHA-256 through TLS", sha(data), got(w, "got"))
    expected = "%d %s" % (len(data), sha(data))
    same("POST through TLS", expected, curl(w, "-k", "--data-binary", "@" + w.path("content"), url).ok().text())
    p = w.guest(fetch_python, url, "tls").ok()
    same("SHA-256 by Python's client", sha(data), p.text().strip())
    if shutil.which("openssl"):
        p = w.start("openssl", "s_client", "-quiet", "-connect", "%s:%d" % (LOOPBACK, port),
                    stdin=b"GET / HTTP/1.0\r\n\r\n")
        p.wait()
        body = p.out().split(b"\r\n\r\n", 1)[-1]
        same("SHA-256 by openssl s_client", sha(data), sha(body))
    w.ours(port)


def make_certificate(w):
    path = w.path("certificate.pem")
    w.start("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
            "-keyout", path + ".key", "-out", path + ".crt", shim=False).ok()
    with open(path, "wb") as out:
        for part in (".key", ".crt"):
            with open(path + part, "rb") as f:
                out.write(f.read())
    return path


@guest
def fetch_python(url, how=""):
    context = None
    if how == "tls":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}),
                                         urllib.request.HTTPSHandler(context=context))
    with opener.open(url, timeout=PATIENCE) as answer:
        print(sha(answer.read()))


@case
def python_client(w):
    """python3: urllib and http.client from http.server"""
    port = w.port()
    sums = make_files(w, {"f": 2000001})
    serve_files(w, port)
    p = w.guest(fetch_python, "http://%s:%d/f" % (LOOPBACK, port)).ok()
    same("SHA-256", sums["f"], p.text().strip())
    w.ours(port)


@case
@both_worlds
def server_killed(w, shim):
    """python3, curl: kill -9 of the server in mid-transfer: curl gets all that was sent and says that the rest is missing"""
    port, data = w.port(), os.urandom(2000000)
    server = serve_11(w, port, data, shim=shim)
    client = curl(w, "-o", w.path("part"), "http://%s:%d/half" % (LOOPBACK, port), shim=shim)
    wait_until("half of it came",
               lambda: os.path.exists(w.path("part")) and os.path.getsize(w.path("part")) >= 900000)
    server.kill()
    server.wait()
    status = client.wait()
    same("SHA-256 of the half that was sent", sha(data[:1000000]), got(w, "part"))
    os.unlink(w.path("part"))
    return status, re.sub(r"\d+", "N", client.err())


@case
@both_worlds
def client_killed(w, shim):
    """python3, curl: kill -9 of curl in mid-transfer: the server serves the next one"""
    port, data = w.port(), os.urandom(20000000)
    server = serve_11(w, port, data, shim=shim)
    url = "http://%s:%d/" % (LOOPBACK, port)
    for sig in (signal.SIGKILL, signal.SIGINT):
        client = curl(w, "--limit-rate", "300k", "-o", w.path("part"), url, shim=shim)
        wait_until("some bytes came", lambda: os.path.exists(w.path("part")) and os.path.getsize(w.path("part")))
        client.kill(sig)
        client.wait()
        os.unlink(w.path("part"))
    curl(w, "-o", w.path("got"), url, shim=shim).ok()
    same("SHA-256 by the next curl", sha(data), got(w, "got"))
    return server.running()


if __name__ == "__main__":
    main()
