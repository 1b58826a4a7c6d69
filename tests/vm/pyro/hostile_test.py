#!/usr/bin/env python3
"""A second user of the host who is in the group, and means ill: against another user, the daemon and the host. Both are real
uids; every attempt is a test. What must hold is that the other user is served and that nothing of his, or of root's, is seen."""
import contextlib
import http.server
import json
import os
import pathlib
import select
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "support"))
import children  # noqa: E402
import pyro_site  # noqa: E402
import site_case  # noqa: E402
from pyro_site import RpcError  # noqa: E402

VICTIM, MALLORY = 12345, 12346
WAIT = pyro_site.WAIT


def in_child(uid, body):
    """Runs `body` as that user in a process of its own; what it returns comes back as JSON, what it throws as its name."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            answer = {"value": body()}
        except BaseException as e:  # noqa: B902: reported
            answer = {"error": type(e).__name__, "text": str(e)}
        os.write(write, json.dumps(answer).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = json.loads(pipe.read())
    os.waitpid(pid, 0)
    return answer


def connect_as(uid, path):
    """A connection whose kernel-attested peer is `uid`."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(path)
            socket.send_fds(theirs, [b"."], [connection.fileno()])
            code = 0
        os._exit(code)
    theirs.close()
    _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    ours.close()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 and fds
    connection = socket.socket(fileno=fds[0])
    connection.settimeout(WAIT)
    return connection


class As(pyro_site.Client):
    """The wire, spoken by a user."""

    def __init__(self, uid, site, greet=True):
        self.uid, self.path = uid, str(site.socket)
        self.socket = connect_as(uid, self.path)
        self.file = self.socket.makefile("rb")
        self.next_id = 0
        self.notifications = []
        if greet:
            self.call("rpc.hello", version="0.1.0", features=[])

    def attach(self, ticket, uid=None):
        s = connect_as(self.uid if uid is None else uid, self.path)
        s.sendall(json.dumps({"attach": ticket}).encode() + b"\n")
        file = s.makefile("rb")
        answer = json.loads(file.readline() or b'{"error": {"message": "closed"}}')
        if "error" in answer:
            s.close()
            raise RpcError(answer["error"])
        return s, file

    def quiet(self):
        """Whether nothing has arrived."""
        return not select.select([self.socket], [], [], 0)[0]


def processes_of(uid):
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # Not what is dead and only not yet collected by whoever inherited it.
                if entry.stat().st_uid == uid and (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


class HostileCase(site_case.SiteCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.site.socket.chmod(0o666)  # stands for membership of the group

    def user(self, uid, **kwargs):
        client = As(uid, self.site, **kwargs)
        self.addCleanup(client.close)
        return client

    def create(self, client, **params):
        """A machine for one test, whatever becomes of that."""
        vm = client.call("vm.create", environment="debian:12", **params)["vm_id"]

        def delete():
            with contextlib.suppress(RpcError):  # deleted already
                client.call("vm.delete", vm_id=vm)
        self.addCleanup(delete)
        return vm

    def run_as(self, uid, *args, **kwargs):
        return children.ends_with(self, self.site.popen("run", *args, user=uid, group=uid, extra_groups=[], **kwargs))

    def refused(self, code, client, method, **params):
        with self.assertRaises(RpcError) as caught:
            client.call(method, **params)
        self.assertEqual(caught.exception.code, code, caught.exception)
        return caught.exception.error

    def cli(self, uid, *args, **kwargs):
        return self.site.pyro(*args, user=uid, group=uid, extra_groups=[], **kwargs)

    def serves_victim(self):
        with As(VICTIM, self.site) as client:
            self.assertIn("version", client.call("system.status"))
            self.assertTrue(client.call("env.list")["environments"])


class Neighbours(HostileCase):
    """Against another user's VM and calls."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        with As(VICTIM, cls.site) as victim:
            cls.vm = victim.call("vm.create", environment="debian:12", mem_mib=256)["vm_id"]
            victim.call("vm.start", vm_id=cls.vm)
        (cls.qemu,) = cls.site.vm_processes()

    @classmethod
    def tearDownClass(cls):
        with As(VICTIM, cls.site) as victim:
            assert victim.call("vm.status", vm_id=cls.vm)["state"] == "running", "the victim's VM did not survive"
            victim.call("vm.delete", vm_id=cls.vm)
        super().tearDownClass()

    def test_who_is_not_in_the_group_does_not_connect(self):
        self.site.socket.chmod(0o660)
        try:
            def connect():
                with socket.socket(socket.AF_UNIX) as s:
                    s.connect(str(self.site.socket))
            self.assertEqual(in_child(MALLORY, connect).get("error"), "PermissionError")
        finally:
            self.site.socket.chmod(0o666)

    def test_a_foreign_vm_is_not_found_by_any_method(self):
        mallory = self.user(MALLORY)
        self.assertEqual(mallory.call("vm.list")["vms"], [])
        self.assertEqual(mallory.call("vm.reap_expired")["reaped"], [])
        for method, extra in (("vm.status", {}), ("vm.start", {}), ("vm.stop", {}), ("vm.delete", {}), ("vm.network_info", {}), ("vm.exec", {"argv": ["id"]})):
            foreign = self.refused("not_found", mallory, method, vm_id=self.vm, **extra)
            absent = self.refused("not_found", mallory, method, vm_id="0123456789ab", **extra)
            # Not even the words tell a foreign VM from none.
            self.assertEqual(foreign["message"].replace(self.vm, "ID"), absent["message"].replace("0123456789ab", "ID"))

    def test_identity_cannot_be_claimed(self):
        mallory = self.user(MALLORY)
        for field in ("uid", "owner_uid", "peer", "user_id"):
            self.refused("invalid_argument", mallory, "vm.list", **{field: VICTIM})
        self.refused("invalid_argument", mallory, "vm.status", vm_id=self.vm, owner_uid=VICTIM)

    def test_a_stolen_ticket_is_worth_nothing_and_stays_the_victims(self):
        victim, mallory = self.user(VICTIM), self.user(MALLORY)
        request = victim.send("vm.run", environment="debian:12", argv=["sh", "-c", "cat; echo done"], interactive=True, mem_mib=256)
        ticket = victim.wait_for("exec.started")["ticket"]
        with self.assertRaises(RpcError) as stolen:
            mallory.attach(ticket)
        s, file = victim.attach(ticket)
        with self.assertRaises(RpcError) as again:
            victim.attach(ticket)
        self.assertEqual(str(stolen.exception), str(again.exception))  # nor does the answer say whether there is such a ticket
        s.shutdown(socket.SHUT_WR)
        self.assertIn(b"done", file.read())
        s.close()
        self.assertEqual(victim.result(request)["exit_code"], 0)
        with self.assertRaises(RpcError):
            victim.attach(ticket)

    def test_tickets_are_not_guessed(self):
        for guess in ("", "0" * 32, "f" * 32, "a" * 100000, "\0", "%s%n", "../" * 10, "' OR 1=1 --", None, 7, [], {"a": 1}):
            with As(MALLORY, self.site) as mallory, self.assertRaises(RpcError):
                mallory.attach(guess)
        self.serves_victim()

    def test_anothers_request_is_not_cancelled(self):
        victim, mallory = self.user(VICTIM), self.user(MALLORY)
        request = victim.send("vm.run", environment="debian:12", argv=["echo", "unharmed"], mem_mib=256)
        ticket = victim.wait_for("exec.started")["ticket"]
        for id_ in (request, str(request), 0, 1, 2, 3):
            mallory.notify("rpc.cancel", id=id_)
        mallory.call("system.status")  # the cancellations have been read
        s, file = victim.attach(ticket)
        self.assertIn(b"unharmed", file.read())
        s.close()
        self.assertEqual(victim.result(request)["exit_code"], 0)

    def test_hostile_vm_names(self):
        mallory = self.user(MALLORY)
        for name in ("../../etc/passwd", "..", "/", self.vm + "/..", "\x1b[2J", "x" * 64, "%n%n", self.vm.upper() + " ", "' OR '1'='1", "\u202e"):
            self.refused("not_found", mallory, "vm.status", vm_id=name)
        for name in ("", "x" * 65, "a\0b", None, 3, ["a"], {"vm_id": self.vm}):
            self.refused("invalid_argument", mallory, "vm.status", vm_id=name)

    def test_hostile_environment_names(self):
        mallory = self.user(MALLORY)
        before = pyro_site.below(self.site.state)
        for name in ("../../../etc", "/etc/passwd", "debian:../../x", "a/../b", "\x1b]0;owned\x07", "x" * 513, "file:///etc/shadow", "-oProxyCommand=x",
                     "a b", "a\nb", "\u202enaibed", "localhost/../x:y", "127.0.0.1:99999999/x", "oci:/etc", "x@sha256:../../../../etc/passwd" + "a" * 40):
            for method in ("env.pull", "env.inspect", "vm.run", "vm.create"):
                self.refused("invalid_argument", mallory, method, environment=name)
        self.assertEqual(pyro_site.below(self.site.state), before)

    def test_private_addresses_are_not_fetched_from(self):
        """The daemon's network is not lent: what listens on loopback is not asked."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            mallory = self.user(MALLORY)
            for host in ("127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254"):
                with self.assertRaises(RpcError) as caught:
                    mallory.call("env.pull", environment=f"{host}:{listener.getsockname()[1]}/a/b:c")
                self.assertNotEqual(caught.exception.code, "internal", caught.exception)
            self.assertEqual(select.select([listener], [], [], 0)[0], [], "something connected")

    def test_the_terminal_is_not_taken_over_by_what_pyro_prints(self):
        for args in (["run", "\x1b]0;owned\x07", "--", "true"], ["vm", "status", "\x1b[2J\x9b31m"], ["env", "inspect", "a\x1b[31m"], ["vm", "delete", "\x1b[8m"]):
            done = self.cli(MALLORY, *args)
            self.assertNotEqual(done.returncode, 0)
            for byte in (b"\x1b", b"\x07", b"\x9b"):
                self.assertNotIn(byte, done.stdout + done.stderr, (args, done.stderr))

    def test_a_dying_guests_console_is_shown_harmless(self):
        script = ("printf '\\033]0;owned\\007\\033[2J last words \\n' > /dev/ttyS0; sync; "
                  "python3 -c 'import ctypes; ctypes.CDLL(None).reboot(0x1234567)'; sleep 100")
        done = self.cli(MALLORY, "run", "--mem-mib", "256", "debian:12", "--", "sh", "-c", script)
        self.assertEqual(done.returncode, 125, done.stderr)
        for byte in (b"\x1b", b"\x07"):
            self.assertNotIn(byte, done.stderr)
        self.assertIn(b"last words", done.stderr)

    def test_the_daemons_files_are_closed(self):
        def attempts():
            opened = []
            for path in sorted(looked_at):
                for flags in (os.O_RDONLY, os.O_WRONLY):
                    with contextlib.suppress(OSError):
                        os.close(os.open(path, flags))
                        opened.append([path, flags])
                with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as s:
                    s.connect(path)
                    opened.append([path, "connect"])
            return opened
        looked_at = {str(p) for folder in (self.site.state, self.site.run_dir) for p in pyro_site.below(folder)}
        looked_at |= {str(self.site.state), str(self.site.state / "compat"), str(self.site.run_dir / "vm" / self.vm / "qmp")}
        opened = in_child(MALLORY, attempts)
        self.assertEqual([o for o in opened["value"] if o[1] != os.O_RDONLY], [])
        # Nothing can be read but what tells nothing; the databases, sockets and images are not among it.
        for path, _ in opened["value"]:
            self.assertTrue(os.path.isdir(path), path)
            self.assertNotIn(path, (str(self.site.state), str(self.site.state / "compat"), str(self.site.run_dir / "vm")))

    def test_nobody_may_touch_the_vm_process(self):
        def attempts():
            results = {}
            for name, attempt in (("signal", lambda: os.kill(self.qemu, signal.SIGKILL)), ("memory", lambda: open(f"/proc/{self.qemu}/mem", "rb")),
                                  ("descriptors", lambda: os.listdir(f"/proc/{self.qemu}/fd")), ("environment", lambda: open(f"/proc/{self.qemu}/environ", "rb").read()),
                                  ("root", lambda: os.listdir(f"/proc/{self.qemu}/root/")), ("daemon", lambda: os.kill(self.site.daemon.pid, signal.SIGTERM))):
                try:
                    attempt()
                    results[name] = "done"
                except PermissionError:
                    results[name] = "refused"
            return results
        for uid in (MALLORY, VICTIM):  # not even the owner: the VM is the daemon's
            self.assertEqual(set(in_child(uid, attempts)["value"].values()), {"refused"})

    def test_two_vms_never_share_a_uid(self):
        mallory = self.user(MALLORY)
        mallory.call("vm.start", vm_id=self.create(mallory, mem_mib=256))
        uids = [os.stat(f"/proc/{pid}").st_uid for pid in self.site.vm_processes()]
        self.assertEqual(len(uids), 2)
        self.assertEqual(len(set(uids)), 2)
        self.assertGreaterEqual(min(uids), 2_000_000)

    def test_a_users_quota_is_not_the_others(self):
        mallory, victim = self.user(MALLORY), self.user(VICTIM)
        made = []
        with self.assertRaises(RpcError) as full:
            while len(made) < 1000:
                made.append(self.create(mallory, mem_mib=128))
        self.assertEqual(full.exception.code, "quota_exceeded")
        victim.call("vm.delete", vm_id=self.create(victim, mem_mib=128))
        for vm in made:
            mallory.call("vm.delete", vm_id=vm)
        self.assertEqual(mallory.call("vm.list")["vms"], [])

    def test_connections_of_one_user_leave_room_for_the_others(self):
        taken = []
        try:
            for _ in range(400):
                taken.append(connect_as(MALLORY, str(self.site.socket)))
            self.serves_victim()
            limits = pathlib.Path(f"/proc/{self.site.daemon.pid}/limits").read_text()
            soft, hard = next(line for line in limits.splitlines() if line.startswith("Max open files")).split()[3:5]
            self.assertEqual(soft, hard, "the daemon uses what it may")
        finally:
            for s in taken:
                s.close()

    def test_half_lines_cost_a_bounded_amount_of_memory(self):
        def resident():
            text = pathlib.Path(f"/proc/{self.site.daemon.pid}/status").read_text()
            return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1]) // 1024
        before, taken = resident(), []
        try:
            for _ in range(200):
                s = connect_as(MALLORY, str(self.site.socket))
                taken.append(s)
                s.settimeout(5)
                with contextlib.suppress(OSError):
                    s.sendall(b'{"jsonrpc":"2.0","id":1,"method":"' + b"x" * (1 << 20))
            self.serves_victim()
            self.assertLess(resident() - before, 400, "MiB more for 200 MiB of half lines")
        finally:
            for s in taken:
                s.close()
        self.serves_victim()

    def test_answers_that_are_not_read_hold_up_nobody(self):
        mallory = self.user(MALLORY)
        mallory.socket.setblocking(False)
        line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "rpc.discover", "params": {}}).encode() + b"\n"
        with contextlib.suppress(OSError):
            for _ in range(5000):
                mallory.socket.send(line)
        self.serves_victim()

    def test_whole_comparisons_keep_no_look_waiting(self):
        mallory, victim = self.user(MALLORY), self.user(VICTIM)
        asked = [mallory.send("env.pull", environment="debian:12") for _ in range(60)]
        self.assertEqual(victim.call("env.inspect", environment="debian:12")["environment"]["state"], "installed")
        done = set()
        mallory.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for line in iter(mallory.file.readline, b""):
                done.add(json.loads(line).get("id"))
        self.assertLess(len(done & set(asked)), len(asked), "the victim had to wait for every one of them")

    def test_one_who_queues_for_boots_is_served_in_turn(self):
        mallory, victim = self.user(MALLORY), self.user(VICTIM)
        made = [self.create(mallory, mem_mib=128) for _ in range(12)]
        mine = self.create(victim, mem_mib=128)
        starts = [mallory.send("vm.start", vm_id=vm) for vm in made]
        mallory.call("system.status")  # all of them are queued
        victim.call("vm.start", vm_id=mine)
        states = [vm["state"] for vm in self.user(MALLORY).call("vm.list")["vms"]]
        self.assertIn("booting", states, "the victim was served last")
        for request in starts:
            mallory.notify("rpc.cancel", id=request)

    def test_frames_that_lie_end_the_liars_call_only(self):
        for garbage in (b"\x00\xff\xff\xff\xff", b"\x09\x01\x00\x00\x00x", b"\x03\x02\x00\x00\x00ab", b"\x01\x01\x00\x00\x00x" * 100, os.urandom(70000)):
            with As(MALLORY, self.site) as mallory:
                request = mallory.send("vm.run", environment="debian:12", argv=["sleep", "1000"], interactive=True, timeout_seconds=0, mem_mib=256)
                s, _ = mallory.attach(mallory.wait_for("exec.started")["ticket"])
                with contextlib.suppress(OSError):
                    s.sendall(garbage)
                    s.shutdown(socket.SHUT_RDWR)
                with self.assertRaises(RpcError) as caught:
                    mallory.result(request)
                self.assertNotEqual(caught.exception.code, "internal")
                s.close()

    def test_a_bound_run_goes_with_its_client(self):
        process = self.run_as(MALLORY, "--timeout-seconds", "0", "--mem-mib", "256", "debian:12", "--", "sh", "-c", "echo begun; sleep 1000")
        self.assertEqual(process.stdout.readline(), b"begun\n")
        process.kill()
        process.wait()
        with As(MALLORY, self.site) as mallory:
            self.site.until(lambda: mallory.call("vm.list")["vms"] == [], "the run went with its client")

    def test_a_time_to_live_ends_a_run_that_ignores_everything(self):
        done = self.cli(MALLORY, "run", "--json", "--ttl-seconds", "20", "--timeout-seconds", "0", "--mem-mib", "256", "debian:12", "--", "sh", "-c", "trap '' HUP INT TERM; sleep 1000")
        self.assertEqual(done.returncode, 125, done.stderr)
        self.assertIn("error", json.loads(done.stdout))

    def test_no_network_is_given_away(self):
        mallory = self.user(MALLORY)
        self.refused("network_denied", mallory, "vm.run", environment="debian:12", argv=["true"], network=True)
        self.refused("network_denied", mallory, "vm.create", environment="debian:12", network=True)

    def test_prune_takes_nothing_that_is_used(self):
        with As(MALLORY, self.site) as mallory:
            mallory.call("env.prune", all=True)
        with As(VICTIM, self.site) as victim:
            self.assertEqual(victim.call("env.inspect", environment="debian:12")["environment"]["state"], "installed")


class Sandbox(HostileCase):
    """Out of the sandbox on the host that stands in for a VM where no guest boots."""

    @classmethod
    def setUpClass(cls):
        cls.site = pyro_site.Site()
        cls.site.config.write_text(cls.site.config.read_text().replace("[guest]\n", '[guest]\nqemu = "/nonexistent/qemu"\n'))
        cls.site.start()
        cls.addClassCleanup(cls.site.close)
        cls.site.socket.chmod(0o666)
        (cls.site.path / "host-file").write_text("of the host")
        cls.shell = subprocess.Popen([pyro_site.BIN / "pyro", "run", "-i", "--allow-host-compat", "--timeout-seconds", "0", "--ttl-seconds", "3600", "debian:12", "--", "sh"],
                                     env=cls.site.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                     **children.reachable(pyro_site.BIN / "pyro", {"user": MALLORY, "group": MALLORY, "extra_groups": []}))
        cls.addClassCleanup(cls.shell.wait)
        cls.addClassCleanup(cls.shell.kill)
        with As(MALLORY, cls.site) as mallory:
            cls.id = cls.site.until(lambda: mallory.call("vm.list")["vms"], "it is there")[0]["vm_id"]
        cls.tree = cls.site.state / "compat" / cls.id
        cls.shell.stdin.write(b"echo ready\n")  # answered once the tree is whole
        cls.shell.stdin.flush()
        assert cls.shell.stdout.readline() == b"ready\n"

    @classmethod
    def tearDownClass(cls):
        cls.shell.stdin.close()
        cls.shell.wait(WAIT)
        cls.shell.stdout.close()
        assert not list((cls.site.state / "compat").iterdir()), "the tree stayed"
        assert not processes_of(MALLORY), "processes stayed"
        super().tearDownClass()

    def inside(self, script):
        self.shell.stdin.write(f"( {script}\n) 2>&1; echo; echo END-$?\n".encode())
        self.shell.stdin.flush()
        lines = []
        for line in self.shell.stdout:
            if line.startswith(b"END-"):
                return b"".join(lines).decode(errors="replace").strip()
            lines.append(line)
        self.fail("the sandbox ended")

    def sandbox(self, *options, argv, **kwargs):
        return self.cli(MALLORY, "run", "--allow-host-compat", *options, "debian:12", "--", *argv, **kwargs)

    def test_no_file_of_the_host(self):
        for path in (self.site.path / "host-file", self.site.socket, self.site.state, pyro_site.BIN, "/tmp/" + self.site.path.name, "/proc/1/root" + str(self.site.path)):
            self.assertEqual(self.inside(f"test -e {path} && echo there"), "", path)
        self.assertNotEqual(self.inside("cat /etc/machine-id"), pathlib.Path("/etc/machine-id").read_text().strip() if os.path.exists("/etc/machine-id") else "-")
        self.assertEqual(self.inside("find / -maxdepth 2 -name host-file -o -maxdepth 2 -name oldroot"), "")

    def test_no_process_of_the_host(self):
        pids = self.inside("ls /proc | grep -c '^[0-9]*$'")
        self.assertLess(int(pids), 12)
        self.assertIn("No such process", self.inside(f"kill -9 {self.site.daemon.pid}"))
        self.serves_victim()

    def test_no_network_of_the_host(self):
        self.assertEqual(self.inside("tail -n +3 /proc/net/dev | grep -vc lo:"), "0")
        self.assertEqual(self.inside("wc -l < /proc/net/unix"), "1")
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            said = self.inside(f"python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", {listener.getsockname()[1]}), 3)' | tail -1")
            self.assertIn("Error", said)

    def test_no_privilege(self):
        status = dict(line.split(":", 1) for line in self.inside("cat /proc/self/status").splitlines() if ":" in line)
        self.assertEqual(status["Uid"].split(), [str(MALLORY)] * 4)
        self.assertEqual(status["Gid"].split(), [str(MALLORY)] * 4)
        self.assertEqual(status["Groups"].strip(), "")
        self.assertEqual(status["NoNewPrivs"].strip(), "1")
        for caps in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            self.assertEqual(int(status[caps], 16), 0, caps)
        self.assertEqual(self.inside("find / -xdev -perm /6000 | head -3"), "")
        self.assertNotIn("uid=0", self.inside("cp /usr/bin/id /tmp/id && chmod u+s,g+s /tmp/id && /tmp/id; su -c id < /dev/null"))

    def test_no_descriptor_of_the_daemon(self):
        self.assertEqual(self.inside("ls /proc/1/fd /proc/$$/fd > /tmp/fds; ls -l /proc/$$/fd | grep -c 'socket:\\|anon_inode\\|memfd\\|/var/\\|pyro'"), "0")
        self.assertEqual(self.inside("exec sh -c 'ls /proc/self/fd'").split()[:3], ["0", "1", "2"])
        self.assertNotIn("10", self.inside("ls /proc/self/fd").split())

    def test_no_device(self):
        names = set(self.inside("ls /dev").split())
        self.assertFalse(names & {"kvm", "sda", "vda", "mem", "kmsg", "loop0", "fuse", "net"}, names)
        self.assertIn("Operation not permitted", self.inside("mknod /tmp/disk b 8 0"))

    def test_what_it_writes_is_its_users_and_nowhere_else(self):
        self.inside("echo mine > /root/mine 2> /dev/null || mkdir -p /mine && echo mine > /mine/file; ln -s /etc/passwd /mine/link; ln -s ../../../../../../../../.. /mine/up")
        for path in self.tree.rglob("mine*"):
            self.assertEqual(path.lstat().st_uid, MALLORY)

    def test_another_user_does_not_reach_the_tree(self):
        for path in (self.tree, self.tree / "root", self.tree / "root" / "etc", self.tree / "root" / "etc" / "passwd", self.site.state / "compat"):
            answer = in_child(VICTIM, lambda: os.listdir(path) if path.is_dir() else path.read_text())
            self.assertEqual(answer.get("error"), "PermissionError", path)

    def test_the_tree_cannot_be_exchanged_from_outside(self):
        for attempt in (lambda: os.rename(self.tree, str(self.tree) + "-x"), lambda: os.symlink("/etc", self.site.state / "compat" / "planted"),
                        lambda: os.mkdir(self.site.state / "compat" / "planted"), lambda: os.chown(self.tree, VICTIM, VICTIM)):
            self.assertEqual(in_child(MALLORY, attempt).get("error"), "PermissionError")

    def test_processes_do_not_outlive_the_call(self):
        before = set(processes_of(MALLORY))
        done = self.sandbox(argv=["sh", "-c", "(setsid sh -c 'trap \"\" HUP TERM INT; sleep 1000 & sleep 1000' < /dev/null > /dev/null 2>&1 &) ; exit 3"])
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertEqual(set(processes_of(MALLORY)) - before, set())

    def test_a_time_to_live_ends_it_too(self):
        before = set(processes_of(MALLORY))
        done = self.sandbox("--ttl-seconds", "15", "--timeout-seconds", "0", argv=["sh", "-c", "trap '' TERM; echo begun; sleep 1000"])
        self.assertEqual(done.returncode, 125, done.stderr)
        self.assertIn(b"time to live", done.stderr)
        self.assertEqual(set(processes_of(MALLORY)) - before, set())

    def test_deleting_its_vm_ends_it(self):
        process = self.run_as(MALLORY, "--allow-host-compat", "--timeout-seconds", "0", "debian:12", "--", "sh", "-c", "echo begun; sleep 1000")
        self.assertEqual(process.stdout.readline(), b"begun\n")
        with As(MALLORY, self.site) as mallory:
            (vm,) = [vm["vm_id"] for vm in mallory.call("vm.list")["vms"] if vm["vm_id"] != self.id]
            mallory.call("vm.delete", vm_id=vm)
        process.communicate(timeout=WAIT)
        self.assertEqual(process.returncode, 125)

    def test_memory_is_what_was_asked_for(self):
        doctor = json.loads(self.site.pyro("doctor", "--json").stdout)
        limits = next(c for c in doctor["checks"] if c["name"] == "limits")["detail"]
        if ", memory is limited" not in limits:
            self.skipTest("this host lends no memory controller: " + limits)
        done = self.sandbox("--mem-mib", "128", argv=["sh", "-c", "head -c 600M /dev/zero > /run/filled && echo filled; ls -l /run"])
        self.assertNotIn(b"filled\n", done.stdout.replace(b"/run/filled", b""))

    def test_a_file_is_not_larger_than_the_disk(self):
        done = self.sandbox("--disk-gib", "8", argv=["sh", "-c", "truncate -s 7G /var/tmp/x && echo seven; truncate -s 9G /var/tmp/x && echo nine"])
        self.assertIn(b"seven", done.stdout)
        self.assertNotIn(b"nine", done.stdout)

    def test_a_deep_and_tangled_tree_is_removed_and_no_link_followed(self):
        outside = self.site.path / "outside"
        outside.mkdir(exist_ok=True)
        outside.chmod(0o777)
        (outside / "kept").write_text("kept")
        script = ("import os\n"
                  "os.mkdir('/var/tmp/t'); os.chdir('/var/tmp/t')\n"
                  f"os.symlink('{outside}', 'out')\n"
                  "for n in range(4000):\n"
                  f"    os.mkdir('d'); os.symlink('{outside}', 'l'); os.chdir('d')\n"
                  "os.chmod('/var/tmp/t', 0)\n"
                  "print('made')\n")
        done = self.sandbox(argv=["python3", "-c", script])
        self.assertEqual((done.returncode, done.stdout), (0, b"made\n"), done.stderr)
        self.assertEqual([p.name for p in (self.site.state / "compat").iterdir()], [self.id])
        self.assertEqual((outside / "kept").read_text(), "kept")

    def test_a_tree_that_grows_while_it_is_removed_is_removed(self):
        process = self.run_as(MALLORY, "-i", "--allow-host-compat", "--timeout-seconds", "0", "debian:12", "--", "sh", "-c", "echo begun; cat", stdin=subprocess.PIPE)
        self.assertEqual(process.stdout.readline(), b"begun\n")
        (tree,) = [p / "root" / "var" / "tmp" for p in (self.site.state / "compat").iterdir() if p.name != self.id]
        read, write = os.pipe()

        def grow():  # from outside, where the tree's user is at home: ever deeper, ever wider, until it is taken from him. Bounded: it is the host's disk
            os.chdir(tree)
            os.write(write, b".")
            for n in range(2_000):
                try:
                    open(f"f{n % 7}", "w").close()
                    os.mkdir("d")
                    os.chdir("d")
                except OSError:
                    break
        child = os.fork()
        if child == 0:
            os._exit(1 if "error" in in_child(MALLORY, grow) else 0)
        os.close(write)
        self.assertEqual(os.read(read, 1), b".", "it cannot even begin")
        process.communicate(timeout=WAIT)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)
        self.assertEqual([p.name for p in (self.site.state / "compat").iterdir()], [self.id])
        os.close(read)

    def test_arguments_are_no_options_of_the_sandbox(self):
        done = self.sandbox("-e", "--bind=/ /", "-e", "LD_PRELOAD=/nonexistent.so", "-w", "/tmp", argv=["--bind", "/", "/", "true"])
        self.assertEqual(done.returncode, 127, done.stderr)
        done = self.sandbox("-w", "--ro-bind", argv=["true"])
        self.assertNotEqual(done.returncode, 0)

    def test_root_is_refused(self):
        self.assertEqual(self.site.pyro("run", "--allow-host-compat", "debian:12", "--", "true").returncode, 125)


class KilledSandbox(unittest.TestCase):
    def test_a_killed_daemons_sandboxes_go(self):
        site = pyro_site.Site()
        self.addCleanup(site.close)
        site.config.write_text(site.config.read_text().replace("[guest]\n", '[guest]\nqemu = "/nonexistent/qemu"\n'))
        site.start()
        site.socket.chmod(0o666)
        process = children.ends_with(self, site.popen("run", "--allow-host-compat", "--timeout-seconds", "0", "debian:12", "--", "sh", "-c",
                                                      "trap '' HUP TERM; (setsid sleep 1000 &); echo begun; sleep 1000", user=MALLORY, group=MALLORY, extra_groups=[]))
        self.assertEqual(process.stdout.readline(), b"begun\n")
        site.kill()
        process.communicate(timeout=WAIT)
        site.until(lambda: not processes_of(MALLORY), "the sandbox went with its daemon")
        site.start()
        self.assertEqual(list((site.state / "compat").iterdir()), [])
        self.assertEqual(site.call("vm.list")["vms"], [])
        self.assertEqual(site.call("system.status")["mem_mib"], 0)


class Greedy(HostileCase):
    """Against who pulls at the same time."""

    @classmethod
    def setUpClass(cls):
        cls.tarpit = socket.socket()
        cls.addClassCleanup(cls.tarpit.close)
        cls.tarpit.bind(("127.0.0.1", 0))
        cls.tarpit.listen(64)  # takes connections and says nothing
        cls.tarpit_host = f"127.0.0.1:{cls.tarpit.getsockname()[1]}"
        cls.config = pyro_site.registry_config() + f'[registry."{cls.tarpit_host}"]\nplain_http = true\nallow_private = true\n'
        super().setUpClass()

    def test_slow_registries_of_one_user_leave_places_for_the_others(self):
        mallory, victim = self.user(MALLORY), self.user(VICTIM)
        for n in range(8):
            mallory.send("env.pull", environment=f"{self.tarpit_host}/slow:{n}")
        mallory.send("env.pull", environment="debian:12", force=True)  # the victim's, behind his own slow ones
        mallory.call("system.status")
        with pyro_site.registry():
            self.assertTrue(victim.call("env.pull", environment="debian:12", force=True)["changed"])

    def test_a_registry_does_not_speak_to_the_terminal(self):
        text = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e" + "x" * 10000

        class Registry(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = json.dumps({"errors": [{"code": "DENIED" + text, "message": text, "detail": text}]}, ensure_ascii=False).encode()
                self.send_response(403, "\x1b[31mno")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Www-Authenticate", 'Basic realm="\x1b[31m"')
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass
        server = http.server.HTTPServer(("127.0.0.1", 0), Registry)
        self.addCleanup(server.server_close)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.shutdown)
        self.site.stop()
        host = f"127.0.0.1:{server.server_port}"
        self.site.config.write_text(self.site.config.read_text() + f'\n[registry."{host}"]\nplain_http = true\nallow_private = true\n')
        self.site.start()
        self.site.socket.chmod(0o666)
        done = self.cli(MALLORY, "env", "pull", f"{host}/a/b:c")
        self.assertEqual(done.returncode, 125, done.stderr)
        for shown in (done.stdout + done.stderr, self.site.log().encode()):
            for byte in (b"\x1b", b"\x07", b"\x9b"):
                self.assertNotIn(byte, shown)
        self.assertLess(len(done.stderr), 20000)

    def test_a_crash_in_the_middle_of_a_pull_leaves_nothing_claimed(self):
        self.site.stop()
        self.site.start()
        self.site.socket.chmod(0o666)
        mallory = self.user(MALLORY)
        mallory.send("env.pull", environment=f"{self.tarpit_host}/slow:crash")
        (worker,) = self.site.until(self.workers, "a worker runs")
        self.site.kill()
        self.assertTrue(select.select([worker], [], [], WAIT)[0], "the worker stays without its daemon")
        self.site.start()
        self.site.socket.chmod(0o666)
        with contextlib.closing(sqlite3.connect(self.site.run_dir / "run.db")) as db:
            self.assertEqual(db.execute("SELECT count(*) FROM uid_leases WHERE released = 0").fetchone()[0], 0)
        mark = f"pyro-{self.site.call('system.status')['instance']}"
        scopes = [name for path, folders, _ in os.walk("/sys/fs/cgroup") for name in folders if os.path.basename(path) == mark]
        self.assertEqual(scopes, [])

    def workers(self):
        """Of this daemon, as handles: others may run on this host."""
        found = []
        for pid, text in pyro_site.processes():
            with contextlib.suppress(OSError):
                if text.startswith("pyro-image fetch") and f"\nPPid:\t{self.site.daemon.pid}\n" in pathlib.Path(f"/proc/{pid}/status").read_text():
                    found.append(os.pidfd_open(pid))
                    self.addCleanup(os.close, found[-1])
        return found


class Start(unittest.TestCase):
    """What is found at the start: directories, files and leftovers that somebody prepared."""

    def site(self, **kwargs):
        site = pyro_site.Site(environments=False, **kwargs)
        self.addCleanup(site.close)
        return site

    def refused(self, site, *words):
        done = subprocess.run([site.pyrod, "--config", str(site.config)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=WAIT)
        self.assertNotEqual(done.returncode, 0)
        for word in words:
            self.assertIn(word, done.stderr)

    def test_an_old_sandboxs_tree_does_not_keep_it_from_starting(self):
        site = self.site()
        tree = site.state / "compat" / "0123456789ab"
        tree.mkdir(parents=True)
        os.chown(tree, MALLORY, MALLORY)

        def deepen():
            os.chdir(tree)
            for _ in range(1100):  # more than descriptors, and longer than a path may be; not more, the daemon's patience is 10 s and disks are slow
                os.mkdir("deeper")
                os.symlink("/etc", "l")
                os.chdir("deeper")
        self.assertNotIn("error", in_child(MALLORY, deepen))
        mounted = site.state / "compat" / "0123456789ac" / "mounted"
        mounted.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", mounted], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", mounted], stderr=subprocess.DEVNULL)
        (mounted / "kept").write_text("on another file system")
        site.start()
        self.assertEqual(list((site.state / "compat").iterdir()), [])
        site.stop()

    def test_an_old_tree_that_cannot_be_removed_is_told_and_left(self):
        site = self.site()
        stuck = site.state / "compat" / "0123456789ab" / "stuck"
        stuck.parent.mkdir(parents=True)
        stuck.write_text("immutable")
        if subprocess.run(["chattr", "+i", stuck], stderr=subprocess.DEVNULL).returncode != 0:
            self.skipTest("this file system has no immutable files")
        self.addCleanup(subprocess.run, ["chattr", "-i", stuck], stderr=subprocess.DEVNULL)
        site.start()
        self.assertIn("stays", site.log())
        subprocess.run(["chattr", "-i", stuck], check=True)
        site.stop()

    def test_a_configuration_anybody_may_write_is_refused(self):
        site = self.site()
        site.config.chmod(0o666)
        self.refused(site, b"may be written by anybody", b"chmod o-w")

    def test_relative_paths_are_refused(self):
        for key in ("state_dir", "run_dir", "socket"):
            site = self.site()
            site.config.write_text("\n".join(f'{key} = "relative/{key}"' if line.startswith(key + " ") else line for line in site.config.read_text().splitlines()))
            self.refused(site, key.encode(), b"absolute")

    def test_a_state_directory_of_another_user_is_refused(self):
        for name in ("state", "run"):
            site = self.site()
            (site.path / name).mkdir(exist_ok=True)
            os.chown(site.path / name, MALLORY, MALLORY)
            self.refused(site, b"belongs to uid")

    def test_a_socket_where_anybody_may_replace_it_is_refused(self):
        site = self.site()
        site.path.chmod(0o777)
        self.refused(site, b"replace")
        self.assertEqual(stat.S_IMODE(site.path.stat().st_mode), 0o777)

    def test_the_sockets_directory_stays_as_it_is(self):
        for mode in (0o1777, 0o700, 0o755):
            site = self.site()
            site.path.chmod(mode)
            site.start()
            self.assertEqual(stat.S_IMODE(site.path.stat().st_mode), mode)
            site.stop()

    def test_a_planted_socket_link_is_replaced_not_followed(self):
        site = self.site()
        precious = site.path / "precious"
        precious.write_text("root's")
        precious.chmod(0o600)
        site.socket.symlink_to(precious)
        site.start()
        self.assertTrue(stat.S_ISSOCK(site.socket.lstat().st_mode))
        self.assertEqual((precious.read_text(), stat.S_IMODE(precious.stat().st_mode)), ("root's", 0o600))
        site.stop()

    def test_a_served_socket_is_not_taken_over(self):
        first, second = self.site(), self.site()
        first.start()
        second.config.write_text(second.config.read_text().replace(str(second.socket), str(first.socket)))
        self.refused(second, b"another program serves")
        self.assertIn("version", first.call("system.status"))

    def test_modes_are_tightened(self):
        site = self.site()
        loose = [site.state, site.state / "blobs", site.state / "blobs" / "sha256", site.state / "environments", site.state / "ingest",
                 site.state / "downloads", site.state / "vm", site.state / "compat", site.run_dir, site.run_dir / "vm"]
        for directory in loose:
            directory.mkdir(exist_ok=True)
            directory.chmod(0o777)
        site.start()
        modes = {str(d.relative_to(site.path)): stat.S_IMODE(d.stat().st_mode) for d in loose}
        passable = {"state": 0o711, "state/compat": 0o711, "run": 0o755}
        self.assertEqual(modes, {name: passable.get(name, 0o700) for name in modes})
        for path in [*site.state.iterdir(), *site.run_dir.iterdir()]:
            if path.is_file():
                self.assertEqual(path.stat().st_mode & 0o077, 0, path)
        site.stop()

    def test_its_programs_get_an_ordinary_limit_of_files(self):
        site = self.site()
        fake = site.path / "pyro-image"
        fake.write_text("#!/bin/sh\nulimit -Sn >&2\n")
        fake.chmod(0o755)
        site.config.write_text(site.config.read_text().replace(f"{pyro_site.BIN}/pyro-image", str(fake)))
        site.start()
        with self.assertRaises(RpcError):
            site.call("env.pull", environment="nobody.example/a:b")
        self.assertIn("\n1024\n", "\n" + site.log())
        site.stop()


if __name__ == "__main__":
    unittest.main()
