"""MariaDB with its own clients: natively and under the shim, with the same answers."""
import os, re, signal

from harness import *
from servers import rows

NOBODY = 65534


class MariaDB:
    """A server of its own, begun by root for nobody."""

    def __init__(self, w, shim):
        self.w, self.shim, self.port = w, shim, w.port()
        self.top = w.path("my-%d" % self.port)
        self.user = ["--user=nobody"] if os.getuid() == 0 else []

    def start(self, program, *args, **how):
        return self.w.start(need(program), "--no-defaults", *args, shim=self.shim, **how)

    def make(self):
        os.mkdir(self.top)
        if self.user:
            os.chmod(self.w.work, 0o711)
            os.chown(self.top, NOBODY, NOBODY)
        self.start("mariadb-install-db", "--datadir=" + self.top, "--auth-root-authentication-method=normal", "--skip-test-db",
                   "--innodb-flush-log-at-trx-commit=0", *self.user).ok()

    def serve(self):
        self.server = self.start("mariadbd", "--datadir=" + self.top, "--bind-address=" + LOOPBACK, "--port=%d" % self.port,
                                 "--socket=" + self.top + "/sock", "--pid-file=" + self.top + "/pid", "--max-connections=100",
                                 "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=32M", "--local-infile=1",
                                 *self.user)
        self.server.until("ready for connections")

    def client(self, program, *args, **how):
        return self.start(program, "--protocol=tcp", "-h", LOOPBACK, "-P", self.port, "-u", "root", *args, **how)

    def ask(self, command, **how):
        return self.client("mariadb", "--local-infile=1", "-N", "-B", "-e", command, **how).ok().text()

    def dump_sha(self, base):
        return sha(self.client("mariadb-dump", "--compact", "--skip-comments", "--order-by-primary", base, "t").ok().out())


@case
@both_worlds
def mariadb(w, shim):
    """mariadbd, mariadb, mariadb-slap, mariadb-dump: begun by root for nobody; 8 MB loaded and dumped, 40 connections, kill -9"""
    m = MariaDB(w, shim)
    m.make()
    m.serve()
    data = rows(40000, 400, 3)
    m.ask("create database a; create database b; create table a.t (i int primary key, s text) engine=innodb")
    m.ask("load data local infile '%s' into table a.t fields terminated by ','" % w.file("rows", data))
    same("SHA-256 of %d bytes loaded and asked for" % len(data), sha(data),
         sha(m.ask("select concat(i, ',', s) from a.t order by i").encode()))
    answers = [m.dump_sha("a"), m.ask("select count(*), sum(length(s)), count(distinct s) from a.t")]
    dump = m.client("mariadb-dump", "--skip-dump-date", "--order-by-primary", "a").ok().out()
    m.client("mariadb", "b", stdin=dump).ok()
    same("the copy made from the dump", answers[0], m.dump_sha("b"))
    queries = 4000
    slap = m.client("mariadb-slap", "--concurrency=40", "--iterations=1", "--number-of-queries=%d" % queries, "--auto-generate-sql",
                    "--auto-generate-sql-load-type=mixed", "--auto-generate-sql-guid-primary").ok().text()
    check("Number of clients running queries: 40" in slap, "mariadb-slap with 40 clients")
    w.figure("mariadb-slap, 40 clients", "queries/s",
             queries / max(0.001, float(re.search(r"Average number of seconds.*: ([\d.]+)", slap).group(1))), shim)
    m.ask("set global max_connections = 60")
    held = [m.client("mariadb", "-N", "-B", "-e", "select sleep(1000)") for _ in range(30)]
    wait_until("30 clients that wait", lambda: "30\n" == m.ask("select count(*) from information_schema.processlist "
                                                              "where info = 'select sleep(1000)'"))
    victims = m.ask("select id from information_schema.processlist where info = 'select sleep(1000)'").split()
    m.ask("; ".join("kill " + v for v in victims))
    answers += [sorted(h.wait() for h in held), sorted({re.sub(r"\d+", "N", h.err()) for h in held})]
    refused = m.client("mariadb", "-e", "select * from nothing.there")
    answers += [refused.wait(), refused.err()]

    m.ask("set global innodb_flush_log_at_trx_commit = 1; insert into b.t values (-1, 'just before')")
    m.server.kill(signal.SIGKILL)
    m.server.wait()
    m.serve()
    answers += [m.dump_sha("a"), m.ask("select count(*) from b.t")]
    m.client("mariadb-admin", "shutdown").ok()
    same("the server's end", 0, m.server.wait())
    w.ours(m.port, shim)
    return answers


if __name__ == "__main__":
    main()
