"""PostgreSQL with its own clients: natively and under the shim, with the same answers."""
import glob, os, re, signal, subprocess

from harness import *
from servers import rows

NOBODY = 65534


class Postgres:
    """A cluster of its own; it refuses to be root, so all of it is nobody's, the network too."""

    def __init__(self, w, shim, top=None):
        self.w, self.shim, self.port = w, shim, w.port()
        self.top = top or w.path("pg-%d" % self.port)
        if os.getuid() == 0:
            for folder in (w.work, w.net):
                os.chown(folder, NOBODY, NOBODY)

    def start(self, program, *args, **how):
        found = glob.glob("/usr/lib/postgresql/*/bin/" + program)
        if not found:
            raise Skip("PostgreSQL is not installed")
        user = ["--reuid=%d" % NOBODY, "--regid=%d" % NOBODY, "--clear-groups"] if os.getuid() == 0 else []
        how.setdefault("env", {"HOME": self.w.work, "PGHOST": LOOPBACK, "PGPORT": self.port, "PGUSER": "tester",
                               "PGDATABASE": "postgres", "TZ": "UTC"})
        return self.w.start(need("setpriv"), *user, found[-1], *args, shim=self.shim, name=program, **how)

    def make(self):
        self.start("initdb", "-D", self.top, "-U", "tester", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync").ok()

    def serve(self, *options):
        settings = ["listen_addresses=" + LOOPBACK, "unix_socket_directories=", "port=%d" % self.port, "fsync=off",
                    "dynamic_shared_memory_type=mmap", "shared_buffers=32MB", "wal_keep_size=64MB", *options]
        self.server = self.start("postgres", "-D", self.top, *[a for s in settings for a in ("-c", s)])
        self.server.until("database system is ready to accept")

    def stop(self):
        self.server.kill(signal.SIGINT)
        same("the server's end", 0, self.server.wait())

    def psql(self, command, **how):
        return self.start("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", command, **how)

    def ask(self, command, **how):
        return self.psql(command, **how).ok().text()

    def table_sha(self, name):
        return sha(self.psql("copy (select * from %s order by 1) to stdout (format csv)" % name).ok().out())

    def bench(self, *args):
        report = self.start("pgbench", "-n", *args).ok().text()
        check("number of failed transactions: 0 " in report, "pgbench %s: none failed" % " ".join(map(str, args)))
        return float(re.search(r"tps = ([\d.]+)", report).group(1))


@case
@both_worlds
def postgres(w, shim):
    """postgres, psql, pgbench: 8 clients reading, 4 with transactions, COPY of 8 MB there and back, parallel workers"""
    p = Postgres(w, shim)
    p.make()
    p.serve()
    data = rows(40000, 400, 1)
    p.ask("create table t (i int primary key, s text)")
    p.ask("copy t from stdin (format csv)", stdin=data)
    same("SHA-256 of %d bytes by COPY there and back" % len(data), sha(data), p.table_sha("t"))
    p.start("pgbench", "-i", "-q", "-s", "1").ok()
    w.figure("pgbench -S -c 8", "transactions/s", p.bench("-S", "-c", 8, "-j", 2, "-T", 2), shim)
    p.bench("-S", "-C", "-c", 4, "-t", 15)  # a connection for each transaction
    p.bench("-M", "prepared", "-S", "-c", 4, "-t", 200)
    w.figure("pgbench -c 4", "transactions/s", p.bench("-c", 4, "-j", 2, "-t", 150), shim)
    sums = p.ask("select (select sum(abalance) from pgbench_accounts), (select sum(bbalance) from pgbench_branches), "
                 "(select sum(tbalance) from pgbench_tellers), (select sum(delta) from pgbench_history), "
                 "(select count(*) from pgbench_history)").strip().split("|")
    same("the sums of pgbench's tables", 1, len(set(sums[:4])))
    same("transactions recorded", "600", sums[4])
    plan = "set max_parallel_workers_per_gather = 2; set min_parallel_table_scan_size = 0; set parallel_setup_cost = 0; " \
           "set parallel_tuple_cost = 0; %s select sum(i), sum(length(s)), count(distinct s) from t"
    check("Workers Launched: 2" in p.ask(plan % "explain analyze"), "two parallel workers")
    answers = [p.ask(plan % "")]
    listener = p.start("psql", "-X", "-q", "-A", "-t", stdin=subprocess.PIPE)
    listener.write("listen news;\nselect 'listening';\n")
    listener.until("listening", "out")
    p.ask("notify news, 'hello'")
    wait_until("LISTEN hears NOTIFY", lambda: listener.write("select 'again';\n") or '"hello" received' in listener.text())
    slow = p.psql("select pg_sleep(1000)")
    wait_until("a cancelled query", lambda: "t" in p.ask("select pg_cancel_backend(pid) from pg_stat_activity where query "
                                                       "= 'select pg_sleep(1000)'"))
    answers += [slow.wait(), slow.err()]
    p.stop()
    w.ours(p.port, shim)
    return answers


@case
@both_worlds
def postgres_replica(w, shim):
    """postgres, psql, pgbench, pg_basebackup: a streaming replica; kill -9 of a backend under load, recovery, restart"""
    p = Postgres(w, shim)
    p.make()
    p.serve()
    p.ask("create table t (i int primary key, s text)")
    p.ask("copy t from stdin (format csv)", stdin=rows(20000, 400, 2))
    replica = Postgres(w, shim)
    p.start("pg_basebackup", "-D", replica.top, "-X", "stream", "-R", "-c", "fast", "--no-sync").ok()
    replica.serve()

    def follows(what):
        position = p.ask("select pg_current_wal_lsn()").strip()
        wait_until("the replica has " + what, lambda: replica.ask("select pg_last_wal_replay_lsn() >= '%s'" % position) == "t\n")
        answer = p.table_sha("t"), p.ask("select count(*) from t")
        same("what the replica has of " + what, answer, (replica.table_sha("t"), replica.ask("select count(*) from t")))
        return answer
    answers = [follows("the table")]
    p.ask("update t set s = 'new' || s where i % 3 = 0; insert into t select i + 20000, 'more' from generate_series(0, 999) i")
    answers.append(follows("its changes"))
    refused = replica.psql("delete from t")
    answers += [refused.wait(), refused.err()]

    p.start("pgbench", "-i", "-q", "-s", "1").ok()
    load = p.start("pgbench", "-n", "-c", 4, "-T", 1000)
    idle = p.start("psql", "-X", "-q", "-A", "-t", stdin=subprocess.PIPE)
    idle.write("select 'pid', pg_backend_pid();\n")
    victim = int(idle.until(r"pid\|(\d+)", "out").group(1))
    wait_until("transactions", lambda: int(p.ask("select count(*) from pgbench_history")) > 50)
    os.kill(victim, signal.SIGKILL)
    p.server.until("server process .* was terminated by signal 9")
    p.server.until("all server processes terminated; reinitializing(?s:.*)ready to accept connections")
    check(load.wait() != 0, "pgbench's connections ended")
    check("terminating connection because of crash of another server process" in load.err(), "and it was told why")
    idle.write("select 1;\n")
    check(idle.until(r"server closed the connection unexpectedly|connection to server was lost", "err"), "so did the victim's")
    p.bench("-c", 4, "-t", 50)
    answers.append(follows("what was there after the crash"))

    p.stop()
    p.serve()
    p.ask("delete from t where i % 2 = 0")
    answers.append(follows("what changed after a restart"))
    replica.stop()
    p.stop()
    for port in (p.port, replica.port):
        w.ours(port, shim)
    return answers

if __name__ == "__main__":
    main()
