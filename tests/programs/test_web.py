"""nginx as Debian configures it, under curl, wrk and h2load: every version of HTTP, TLS, natively and under the shim."""
from harness import *
from servers import answers, certificate, curl, debian_nginx, fetch_big, site, wrk_figure

# One server in the clear, one that takes HTTP/2 there at once, one with TLS, one that hands on by chunks.
SERVERS = """
    server {{
        listen {address}:{plain} {listen};
        root {site};
        location /pid {{ return 200 "$pid\\n"; }}
        location /put/ {{ alias {top}/; dav_methods PUT; client_max_body_size 0; }}
        location /chunked/ {{ proxy_pass http://{address}:{plain}/; proxy_http_version 1.0; }}
    }}
    server {{ listen {address}:{h2c} {listen} http2; root {site}; }}
    server {{
        listen {address}:{tls} {listen} ssl http2;
        ssl_certificate {crt};
        ssl_certificate_key {key};
        root {site};
    }}
"""


def start(w, shim, listen=""):
    """nginx with two workers that both answer; its ports."""
    site(w)
    crt, key = certificate(w)
    ports = dict(plain=w.port(), h2c=w.port(), tls=w.port())
    put = w.path("put-%d" % ports["plain"])
    os.mkdir(put)
    shutil.chown(put, "www-data")
    p = debian_nginx(w, SERVERS.format(address=LOOPBACK, listen=listen, site=w.path("site"), top=put, crt=crt, key=key,
                                       **ports), shim)
    p.put = put
    p.url = "http://%s:%d/" % (LOOPBACK, ports["plain"])
    p.h2c = "http://%s:%d/" % (LOOPBACK, ports["h2c"])
    p.tls = "https://%s:%d/" % (LOOPBACK, ports["tls"])
    p.ports = list(ports.values())
    answers(w, p.url + "small", shim)
    return p


@case
@both_worlds
def versions(w, shim):
    """nginx, curl, socat: HTTP/0.9, 1.0, 1.1 and 2, in the clear and by TLS; kept alive, gzip by chunks, PUT by chunks"""
    p, sums, crt = start(w, shim), site(w), certificate(w)[0]
    outcome = []
    for url, options in ((p.url, ["-0"]), (p.url, ["--http1.1"]), (p.url, ["--http2"]), (p.h2c, ["--http2-prior-knowledge"]),
                         (p.tls, ["--http1.0"]), (p.tls, ["--http1.1"]), (p.tls, ["--http2"]),
                         (p.tls, ["--http2", "--tls-max", "1.2"])):
        for name in ("small", "page"):
            c = curl(w, "--cacert", crt, *options, "-w", "%{stderr}%{http_version} %{http_code}", url + name, shim=shim).ok()
            outcome.append((options, c.err()))
            same("%s by %s" % (name, " ".join(options)), sums[name], sha(c.out()))
    # 0.9: what nginx answers to such a request, and what curl makes of such an answer
    bare = w.start(need("socat"), "-t", PATIENCE, "-", "TCP:%s:%d" % (LOOPBACK, p.ports[0]),
                   stdin=b"GET /lines.html\r\n", shim=shim).ok()
    same("HTTP/0.9 of nginx", sums["lines.html"], sha(bare.out()))
    port = w.port()
    w.start(need("socat"), "-d", "-d", "TCP-LISTEN:%d,bind=%s,fork,reuseaddr" % (port, LOOPBACK),
            "SYSTEM:'while read -r l; do test ${#l} -le 1 && break; done; cat %s'" % w.path("site/lines.html"), shim=shim,
            name="socat-server").until("listening on", "err")
    same("HTTP/0.9 of curl", sums["lines.html"], sha(curl(w, "--http0.9", "http://%s:%d/" % (LOOPBACK, port), shim=shim).ok().out()))
    w.ours(port, shim)
    # one connection for all
    c = curl(w, "-v", "--cacert", crt, p.tls + "page?[1-20]", shim=shim).ok()
    outcome.append(c.err().count("Re-using existing connection"))
    outcome.append(sha(c.out()))
    # chunks: compressed on the way; and a body of unknown length
    c = curl(w, "--compressed", "-D", w.path("head"), p.url + "chunked/lines.html", shim=shim).ok()
    with open(w.path("head")) as f:
        outcome.append(sorted(l for l in f.read().lower().splitlines() if "encoding" in l))
    same("chunks", sums["lines.html"], sha(c.out()))
    with open(w.path("site/big"), "rb") as f:
        body = f.read(20 << 20)
    c = curl(w, "-T", "-", "-w", "%{http_code}", p.url + "put/body", stdin=body, shim=shim).ok()
    outcome.append(c.text())
    same("PUT by chunks", sha(body), file_sha(p.put + "/body"))
    for port in p.ports:
        w.ours(port, shim)
    p.kill(signal.SIGQUIT)
    outcome.append(p.wait())
    return outcome


@case
@both_worlds
def big_file(w, shim):
    """nginx, curl: 100 MB by sendfile, by TLS, by HTTP/2 with TLS, and four times at once"""
    p, sums, crt = start(w, shim), site(w), certificate(w)[0]
    outcome = [fetch_big(w, p.url + "big", shim, "100 MB by sendfile"),
               fetch_big(w, p.tls + "big", shim, "100 MB by TLS", "--http1.1", "--cacert", crt),
               fetch_big(w, p.tls + "big", shim, "100 MB by HTTP/2 and TLS", "--http2", "--cacert", crt)]
    same("the file", [sums["big"]] * 3, outcome)
    several = [curl(w, "-o", w.path("part%d" % i), p.url + "big", shim=shim) for i in range(4)]
    [c.ok() for c in several]
    same("four times at once", {sums["big"]}, {file_sha(w.path("part%d" % i)) for i in range(4)})
    w.ours(p.ports[0], shim)
    return outcome


@case
@both_worlds
def load(w, shim):
    """nginx, wrk, h2load: `listen ... reuseport`, two workers; 1 KB and 100 KB kept alive, each over its own connection, by TLS; HTTP/2 with 10 connections of 10 streams"""
    h2load, p = need("h2load"), start(w, shim, "reuseport")
    seen = set()
    wait_until("both workers have served", lambda: seen.add(curl(w, p.url + "pid", shim=shim).ok().text()) or len(seen) == 2)
    wrk_figure(w, p.url + "small", shim, "1 KB")
    wrk_figure(w, p.url + "page", shim, "100 KB")
    wrk_figure(w, p.url + "small", shim, "1 KB, a connection each", "-H", "Connection: close")
    wrk_figure(w, p.tls + "page", shim, "100 KB by TLS")
    h2 = w.start(h2load, "-n", 9000, "-c", 10, "-m", 10, p.h2c + "small", shim=shim).ok().text()
    w.figure("1 KB by HTTP/2", "requests/s", float(re.search(r"([0-9.]+) req/s", h2).group(1)), shim)
    for port in p.ports:
        w.ours(port, shim)
    with open(os.path.join(p.top, "error.log")) as f:
        same("nginx's log", [], re.findall(r"\[(?:alert|crit|emerg|error)\].*", f.read()))
    return re.findall("requests: .*|status codes: .*", h2)


if __name__ == "__main__":
    main()
