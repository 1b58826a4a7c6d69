#!/usr/bin/env python3
"""The commands of workspaces, against a daemon that says what a test wants."""
import base64
import hashlib
import io
import json
import os
import signal
import struct
import subprocess
import tarfile
import tempfile
import threading
import unittest

from fake_pyrod import EOF, ERR, FakePyrod, IN, OUT, RESIZE, WAIT, frame
from program import PYRO, OnTerminal, environment, pyro, start

WS = {"workspace_id": "ws-abc", "name": "fix", "state": "running", "environment": "debian:12", "environment_digest": "sha256:" + "b" * 64,
      "vcpu_count": 1, "mem_mib": 1024, "disk_gib": 8, "network_policy": "off", "labels": {}, "created_at": 1700000000,
      "last_activity_at": 1700000000, "running_execs": 0, "background_processes": 0}
EXEC = {"exec_id": "ex1", "workspace_id": "ws-abc", "state": "exited", "argv": ["sh", "-c", "a b"], "cwd": "/workspace", "tty": False, "exit_code": 0,
        "timed_out": False, "cancelled": False, "oom": False, "started_at": 1700000000, "duration_ms": 1234, "stdout_total": 0, "stderr_total": 0,
        "stdout_elided": 0, "stderr_elided": 0}
IDS = {"workspace_id": "ws-abc", "exec_id": "ex1"}
PATCH = b"diff --git a/f b/f\n--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n"
CHANGES = [{"kind": "modified", "path": "f", "added": 1, "removed": 1, "binary": False},
           {"kind": "added", "path": "i\x1b.png", "added": 0, "removed": 0, "binary": True}]


def outcome(call, out=b"", err=b"", **more):
    record = {**EXEC, "stdout_bytes": len(out), "stderr_bytes": len(err), **more}
    call.answer({key: value for key, value in record.items() if value is not None})


def command(out=b"", err=b"", **more):
    """A handler that runs a command with this output."""
    def handler(call):
        attached = call.start(ids=IDS)
        for stream, data in ((OUT, out), (ERR, err)):
            if data: attached.send(frame(stream, data))
        outcome(call, out, err, **more)
    return handler


def tar(*members):
    """A stream as guests send it. Each: (name, content) with None for a directory; or a TarInfo."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            name, content = member
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            else:
                info.size, info.mode = len(content), 0o644
            archive.addfile(info, io.BytesIO(content or b""))
    return data.getvalue()


class InFolder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="pyro-cli-ws-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def write(self, name, data=b"content\n"):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), "wb") as file:
            file.write(data)
        return self.path(name)

    def read(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()

    def names(self):
        return sorted(os.path.relpath(os.path.join(at, name), self.folder) for at, folders, files in os.walk(self.folder) for name in folders + files)


class Create(InFolder):
    """Streams of seeds, and what is remembered of them."""

    def setUp(self):
        super().setUp()
        self.streams, self.wanted = [], True

    def seed(self, call):
        if "seed" in call.params and self.wanted:
            data, ended = call.take()
            self.streams.append(data if ended else None)
        call.answer({**WS, "seed_digest": call.params.get("seed_digest", "sha256:" + "a" * 64)})

    def create(self, daemon, *args):
        return pyro(daemon, "workspace", "create", "debian:12", *args, env={"XDG_CACHE_HOME": self.path("cache")})

    def test_without_a_seed_nothing_is_sent(self):
        with FakePyrod(workspace__create=self.seed) as daemon:
            done = self.create(daemon, "--name", "fix", "--label", "a=b")
            self.assertEqual((done.returncode, done.stdout), (0, b"workspace_id: ws-abc\nname:         fix\nstate:        running\n"), done.stderr)
            self.assertEqual(done.stderr, b"pyro: next: `pyro workspace exec fix -- COMMAND`\n")
            self.assertEqual(daemon.requests[0].params, {"environment": "debian:12", "name": "fix", "labels": {"a": "b"}})
            self.assertEqual(self.create(daemon, "--id-only").stdout, b"ws-abc\n")
            self.assertEqual(json.loads(self.create(daemon, "--json").stdout), WS | {"seed_digest": "sha256:" + "a" * 64})

    def test_a_directory_is_streamed_once_and_then_known(self):
        self.write("tree/a\xff\x1b.txt".encode("latin-1").decode("utf-8", "surrogateescape"), b"x" * 300000)
        self.write("tree/sub/b", b"")
        with FakePyrod(workspace__create=self.seed) as daemon:
            done = self.create(daemon, "--seed-path", self.path("tree"))
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(b"seed:         2 files, 293.0 KiB, of the directory " + self.path("tree").encode(), done.stdout)
            self.assertEqual(daemon.requests[0].params["seed"], {"source": "directory", "path": self.path("tree"), "files": 0, "bytes": 0, "skipped": 0})
            self.assertNotIn("seed_digest", daemon.requests[0].params)
            with tarfile.open(fileobj=io.BytesIO(self.streams[0])) as archive:
                self.assertEqual(len(archive.getnames()), 3)
            # What has just changed is not relied on; soon it is.
            digest = "sha256:" + hashlib.sha256(self.streams[0]).hexdigest()
            while "seed_digest" not in (params := daemon.requests[-1].params):
                self.assertEqual(self.create(daemon, "--seed-path", self.path("tree")).returncode, 0)
            self.assertEqual((params["seed_digest"], params["seed"]["files"], params["seed"]["bytes"]), (digest, 2, 300000))
            self.assertEqual(self.streams[-1], self.streams[0])  # it was wanted nevertheless
            self.wanted, count = False, len(self.streams)
            done = self.create(daemon, "--seed-path", self.path("tree"), "--json")
            self.assertEqual((len(self.streams), json.loads(done.stdout)["seed_digest"], json.loads(done.stdout)["skipped"]), (count, digest, []))
            # Anything that changes is seen.
            for change in (lambda: os.chmod(self.path("tree", "sub", "b"), 0o600), lambda: os.utime(self.path("tree", "sub", "b"), (1, 1)),
                           lambda: self.write("tree/sub/c"), lambda: os.rename(self.path("tree", "sub"), self.path("tree", "bus"))):
                change()
                self.create(daemon, "--seed-path", self.path("tree"))
                self.assertNotIn("seed_digest", daemon.requests[-1].params)
            self.assertEqual(os.stat(self.path("cache", "pyro", "seeds")).st_mode & 0o777, 0o700)

    def test_what_a_checkout_leaves_out_is_named(self):
        def git(*args):
            subprocess.run(["git", "-C", self.path("repo"), "-c", "user.name=n", "-c", "user.email=e", *args], check=True, capture_output=True)
        for name in ("kept", "gone\n"): self.write("repo/" + name)
        git("init", "-q", "-b", "main"), git("add", "-A"), git("commit", "-qm", "m")
        os.unlink(self.path("repo", "gone\n"))
        self.write("repo/untracked")
        with FakePyrod(workspace__create=self.seed) as daemon:
            done = self.create(daemon, "--seed-path", self.path("repo"))
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertRegex(done.stdout.decode(), r"of the checkout .* at [0-9a-f]{12} \(main\)\n")
            self.assertIn(b"pyro: left out gone\\x0a: deleted\n", done.stderr)
            document = json.loads(self.create(daemon, "--seed-path", self.path("repo"), "--json").stdout)
            self.assertEqual(document["skipped"], [{"path": "gone\n", "reason": "deleted"}])

    def test_what_cannot_be_a_seed_makes_nothing(self):
        with FakePyrod() as daemon:
            self.write("file", b"no archive, and cannot be known as none before it is read")
            for path, said in ((self.path("none"), b"No such file"), ("/dev/null", b"neither a directory nor a file")):
                done = self.create(daemon, "--seed-path", path)
                self.assertEqual(done.returncode, 125)
                self.assertIn(said, done.stderr)
            self.assertEqual(daemon.connections, 0)

    def test_a_source_that_fails_midway_is_never_taken_for_the_whole(self):
        for at in range(30): self.write(f"tree/{at:02}", os.urandom(100000))
        os.mkfifo(self.path("tree", "zz"))
        with FakePyrod(workspace__create=lambda c: (self.streams.append(c.take()), c.daemon.cancelled.wait(WAIT), c.fail("cancelled"))) as daemon:
            done = self.create(daemon, "--seed-path", self.path("tree"))
            self.assertEqual((done.returncode, done.stdout), (125, b""))
            self.assertIn(b"/zz is a fifo\n", done.stderr)
            self.assertTrue(daemon.cancelled.is_set())

    def test_the_daemon_s_own_error_is_told(self):
        for at in range(30): self.write(f"tree/{at:02}", os.urandom(100000))
        def refuse(call):
            attached = call.start(method="stream.opened", ids={})
            attached.read_frame()
            call.fail("quota_exceeded", "the disk is full")
            attached.sock.shutdown(2)
        with FakePyrod(workspace__create=refuse) as daemon:
            done = self.create(daemon, "--seed-path", self.path("tree"))
            self.assertEqual((done.returncode, done.stderr.splitlines()[0]), (125, b"pyro: the disk is full"))

    def test_ctrl_c_cancels(self):
        self.write("tree/a", os.urandom(3000000))
        taken = threading.Event()
        def stall(call):
            attached = call.start(method="stream.opened", ids={})
            attached.read_frame()
            taken.set()
            call.daemon.cancelled.wait(WAIT)
            call.fail("cancelled")
            attached.sock.shutdown(2)
        with FakePyrod(workspace__create=stall) as daemon:
            child = start(self, daemon, "workspace", "create", "debian:12", "--seed-path", self.path("tree"))
            self.assertTrue(taken.wait(WAIT))
            child.send_signal(signal.SIGINT)
            self.assertEqual(child.wait(WAIT), 130)

    def test_sync_push(self):
        self.write("tree/a")
        def push(call):
            data, ended = call.take()
            self.streams.append(data if ended else None)
            call.answer({"workspace_id": "ws-abc", "files": 1, "directories": 0, "symlinks": 0, "bytes": 8, "left_out": 0, "notes": [], "stdout_bytes": 0})
        with FakePyrod(workspace__sync_push=push) as daemon:
            done = pyro(daemon, "workspace", "sync", "push", "fix", self.path("tree"), "--dest", "/workspace/x")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(b"files:        1\n", done.stdout)
            self.assertNotIn(b"stdout_bytes", done.stdout)
            self.assertEqual(daemon.requests[0].params, {"workspace_id": "fix", "dest": "/workspace/x"})
            with tarfile.open(fileobj=io.BytesIO(self.streams[0])) as archive:
                self.assertEqual(archive.getnames(), ["a"])


class Exec(InFolder):
    def test_streams_footer_and_exit_status(self):
        cases = [(dict(exit_code=0), 0), (dict(exit_code=255), 255), (dict(exit_code=127, exec_error="no such file: foo"), 127),
                 (dict(exit_code=None, signal=9, oom=True), 137), (dict(exit_code=None, signal=9, timed_out=True), 124), (dict(exit_code=None, state="lost"), 125)]
        for ended, status in cases:
            with self.subTest(ended), FakePyrod(exec__start=command(b"out", b"err\n", **ended)) as daemon:
                done = pyro(daemon, "workspace", "exec", "fix", "--timeout-seconds", "7", "--cwd", "src", "-e", "A=1", "--", "ls", "-l", "a b")
                self.assertEqual((done.returncode, done.stdout), (status, b"out"))
                self.assertTrue(done.stderr.startswith(b"err\n"))
                self.assertIn(b"[exec] workspace=ws-abc exec=ex1 ", done.stderr)
                if "timed_out" in ended: self.assertIn(b"--timeout-seconds 7 ", done.stderr)
                if "state" in ended: self.assertIn(b"nobody knows", done.stderr)
                self.assertEqual(daemon.requests[0].params, {"workspace_id": "fix", "timeout_seconds": 7, "cwd": "src", "env": {"A": "1"}, "argv": ["ls", "-l", "a b"]})

    def test_json_and_detach(self):
        with FakePyrod(exec__start=command(b"o\xff", b"e", exit_code=3)) as daemon:
            done = pyro(daemon, "workspace", "exec", "--json", "fix", "x")
            report = json.loads(done.stdout)
            self.assertEqual((done.returncode, done.stderr, report["stdout"], report["stderr"], report["exit_code"], report["truncated"]), (3, b"", "o\ufffd", "e", 3, False))
            self.assertNotIn("stdout_bytes", report)
        with FakePyrod(exec__start=lambda c: outcome(c, state="running", exit_code=None, duration_ms=None)) as daemon:
            done = pyro(daemon, "workspace", "exec", "-d", "fix", "sleep", "9")
            self.assertEqual((done.returncode, done.stdout, done.stderr), (0, b"ex1\n", b""))
            self.assertEqual(daemon.requests[0].params["detach"], True)
            self.assertEqual(json.loads(pyro(daemon, "workspace", "exec", "-d", "--json", "fix", "x").stdout)["exec_id"], "ex1")
            self.assertEqual(pyro(daemon, "workspace", "exec", "-d", "-t", "fix", "x").returncode, 0)  # with a terminal of its own
            for wrong in (["-d", "-i", "fix", "x"], ["fix"], ["fix", "--"], ["-t", "fix", "x"]):
                self.assertEqual(pyro(daemon, "workspace", "exec", *wrong).returncode, 2)

    def test_input_is_passed_with_its_end(self):
        def cat(call):
            attached, total = call.start(ids=IDS), b""
            while (got := attached.read_frame())[0] == IN: total += got[1]
            attached.send(frame(OUT, total))
            outcome(call, total)
        with FakePyrod(exec__start=cat) as daemon:
            self.assertEqual(pyro(daemon, "workspace", "exec", "-i", "fix", "cat", stdin=b"in").stdout, b"in")

    def test_ctrl_c_cancels(self):
        def wait(call):
            attached = call.start(ids=IDS)
            attached.send(frame(OUT, b"ready\n"))
            call.daemon.cancelled.wait(WAIT)
            call.fail("cancelled")
            attached.sock.shutdown(2)
        with FakePyrod(exec__start=wait) as daemon:
            child = start(self, daemon, "workspace", "exec", "fix", "sleep")
            self.assertEqual(child.stdout.readline(), b"ready\n")
            child.send_signal(signal.SIGINT)
            self.assertEqual(child.wait(WAIT), 130)
            self.assertTrue(daemon.cancelled.is_set())

    def test_a_broken_connection_says_how_to_reattach(self):
        def dies(call):
            attached = call.start(ids=IDS)
            attached.send(frame(OUT, b"part\n") + frame(ERR, b"of it"))
            written.wait(WAIT)
            call.line.sock.shutdown(2)
        for args, said in (([], b"`pyro workspace attach ws-abc ex1 --stdout-offset 5 --stderr-offset 5`"), (["--json"], b"`pyro workspace attach ws-abc ex1`")):
            written = threading.Event()
            with FakePyrod(exec__start=dies) as daemon:
                child = start(self, daemon, "workspace", "exec", *args, "fix", "x")
                if not args:
                    self.assertEqual((child.stdout.readline(), child.stderr.read(5)), (b"part\n", b"of it"))
                written.set()
                out, err = child.communicate(timeout=WAIT)
                self.assertEqual(child.returncode, 125)
                self.assertIn(said, out if args else err)

    def test_output_that_was_cut_can_be_taken_up(self):
        def cut(call):
            attached = call.start(ids=IDS)
            attached.send(frame(OUT, b"part"))
            attached.sock.shutdown(2)
            outcome(call, b"part of it")
        with FakePyrod(exec__start=cut) as daemon:
            done = pyro(daemon, "workspace", "exec", "fix", "x")
            self.assertEqual((done.returncode, done.stdout), (125, b"part"))
            self.assertTrue(done.stderr.endswith(b"4 of 10 bytes came\npyro: the command may go on without us: `pyro workspace attach ws-abc ex1 --stdout-offset 4`\n"), done.stderr)

    def test_attach_leaves_on_ctrl_c(self):
        def follow(call):
            call.start(ids=IDS).send(frame(OUT, b"seven b"))
            self.assertIsNone(call.line.read_line())  # closed, not cancelled
            left.set()
        left = threading.Event()
        with FakePyrod(exec__attach=follow, exec__list=lambda c: c.answer({"execs": [EXEC]})) as daemon:
            child = start(self, daemon, "workspace", "attach", "fix", "ex1", "--stdout-offset", "10", "--no-stdin")
            self.assertEqual(child.stdout.read(7), b"seven b")
            child.send_signal(signal.SIGINT)
            _, err = child.communicate(timeout=WAIT)
            self.assertEqual((child.returncode, err), (130, b"pyro: left; the command goes on: `pyro workspace attach ws-abc ex1 --stdout-offset 17`\n"))
            self.assertFalse(daemon.cancelled.is_set())
        with FakePyrod(exec__attach=command(b"the rest", exit_code=4), exec__list=lambda c: c.answer({"execs": [EXEC]})) as daemon:
            done = pyro(daemon, "workspace", "attach", "fix", "ex1")
            self.assertEqual((done.returncode, done.stdout), (4, b"the rest"))

    def test_logs(self):
        with FakePyrod(exec__logs=command(b"out", b"err\n", stdout_elided=100, state="running", exit_code=None)) as daemon:
            done = pyro(daemon, "workspace", "logs", "fix", "--exec", "ex1", "-f")
            self.assertEqual((done.returncode, done.stdout), (0, b"out"))
            self.assertEqual(done.stderr, b"err\npyro: 100 bytes of standard output, from its middle, are not kept any more\n")
            self.assertEqual(daemon.requests[0].params, {"workspace_id": "fix", "exec_id": "ex1", "follow": True})
            report = json.loads(pyro(daemon, "workspace", "logs", "fix", "--json").stdout)
            self.assertEqual((report["stdout"], report["stderr"], report["truncated"]), ("out", "err\n", True))

    def test_tables(self):
        with FakePyrod(exec__list=lambda c: c.answer({"execs": [EXEC, {**EXEC, "exec_id": "ex2", "argv": ["x\x1b" * 50], "state": "running"}]}),
                       workspace__list=lambda c: c.answer({"workspaces": [WS, {**WS, "workspace_id": "ws-longer", "state": "failed"}]}),
                       workspace__summary=lambda c: c.answer({"workspace": WS, "since": 1700000000, "execs": [EXEC], "execs_total": 70, "changes": CHANGES,
                                                              "changes_total": 2, "exports": 1})) as daemon:
            lines = pyro(daemon, "workspace", "ps", "-a", "fix").stdout.decode().splitlines()
            self.assertEqual(lines[0].split(), "EXEC STATE ENDED TOOK STARTED COMMAND".split())
            self.assertTrue(lines[1].endswith("  sh -c 'a b'") and "1.2 s" in lines[1], lines)
            self.assertNotIn("\x1b", lines[2])
            lines = pyro(daemon, "workspace", "list").stdout.decode().splitlines()
            self.assertEqual(lines[0].split(), "WORKSPACE NAME STATE ENVIRONMENT LAST ACTIVITY".split())
            self.assertRegex(lines[1], r"^ws-abc     fix   running  debian:12    \d+ days ago$")
            text = pyro(daemon, "workspace", "summary", "fix").stdout.decode()
            for part in ("workspace: fix (ws-abc), running, debian:12\n", "commands:  70, these are 1 of them\n  EXEC ", "changes:   2\n  modified  f  +1 -1\n", "exports:   1\n"):
                self.assertIn(part, text)
            self.assertEqual(json.loads(pyro(daemon, "workspace", "summary", "fix", "--json").stdout)["execs_total"], 70)

    def test_a_group_alone_says_what_there_is(self):
        for words in (["workspace"], ["workspace", "file"], ["vm"]):
            done = pyro(None, *words)
            self.assertEqual(done.returncode, 0)
            self.assertTrue(done.stdout.startswith(b"usage: pyro " + " ".join(words).encode() + b" COMMAND"))


class Files(InFolder):
    def test_read(self):
        def read(data, truncated=False):
            return lambda c: c.give(data, workspace_id="ws-abc", path="f", size=9, mode="0644", offset=2, truncated=truncated)
        with FakePyrod(file__read=read(b"\x00\xff", True)) as daemon:
            done = pyro(daemon, "workspace", "file", "read", "fix", "f", "--max-bytes", "2")
            self.assertEqual((done.returncode, done.stdout), (0, b"\x00\xff"))
            self.assertEqual(done.stderr, b"[file] path=f size=9 mode=0644 offset=2\npyro: there is more: --offset 4 goes on from here, --max-bytes takes more at once\n")
            self.assertEqual(pyro(daemon, "workspace", "file", "read", "fix", "f", "--content-only").stderr.count(b"\n"), 1)
            self.assertNotIn("content_only", daemon.requests[-1].params)
            report = json.loads(pyro(daemon, "workspace", "file", "read", "fix", "f", "--json").stdout)
            self.assertEqual((report["encoding"], base64.b64decode(report["content"])), ("base64", b"\x00\xff"))
        with FakePyrod(file__read=read("é\x01".encode())) as daemon:
            report = json.loads(pyro(daemon, "workspace", "file", "read", "fix", "f", "--json").stdout)
            self.assertEqual((report["encoding"], report["content"], "stdout_bytes" in report), ("utf-8", "é\x01", False))
        with FakePyrod(file__read=read(b"")) as daemon:
            self.assertEqual(pyro(daemon, "workspace", "file", "read", "fix", "f").stdout, b"")
        with FakePyrod(file__read=read(b"x" * (8 << 20))) as daemon:  # whoever reads has gone
            child = start(self, daemon, "workspace", "file", "read", "fix", "f")
            self.assertEqual(child.stdout.read(1), b"x")
            child.stdout.close()
            self.assertEqual(child.wait(WAIT), 128 + signal.SIGPIPE)

    def test_write(self):
        got = []
        def write(call):
            got.append(call.take())
            call.answer({"workspace_id": "ws-abc", "path": "f", "bytes_written": len(got[-1][0])})
        big = os.urandom(1 << 20)
        with FakePyrod(file__write=write) as daemon:
            for args, stdin, data in ((["--text", "-a\nb"], b"", b"-a\nb"), (["--text", ""], b"", b""), (["-"], big, big), (["-"], b"", b""), (["--text-file", self.write("big", big)], b"", big)):
                done = pyro(daemon, "workspace", "file", "write", "fix", "f", *args, stdin=stdin)
                self.assertEqual((done.returncode, got[-1]), (0, (data, True)), done.stderr)
                self.assertEqual(daemon.requests[-1].params, {"workspace_id": "fix", "path": "f"})
            count = daemon.connections
            for args, status in (([], 2), (["--text", "a", "-"], 2), (["x"], 2), (["--text-file", self.path("none")], 125), (["--text-file", self.folder], 125)):
                self.assertEqual(pyro(daemon, "workspace", "file", "write", "fix", "f", *args).returncode, status)
            self.assertEqual(daemon.connections, count)

    def test_input_that_cannot_be_read_is_no_end(self):
        with FakePyrod(file__write=lambda c: (c.start(method="stream.opened", ids={}), c.daemon.cancelled.wait(WAIT), c.fail("cancelled"))) as daemon:
            folder = os.open(self.folder, os.O_RDONLY)
            self.addCleanup(os.close, folder)
            done = subprocess.run([PYRO, "workspace", "file", "write", "fix", "f", "-"], stdin=folder, capture_output=True, env=environment(daemon), timeout=WAIT)
            self.assertEqual(done.returncode, 125)
            self.assertIn(b"Is a directory", done.stderr)
            self.assertTrue(daemon.cancelled.is_set())

    def test_list(self):
        def entry(path, kind="file", **more):
            return {"kind": kind, "path": path, "size": 7, "mode": "0755", "modified_at": 1700000000, **more}
        pages = {None: {"entries": [entry("a\n"), entry("d", "directory", mode="1777")], "next_cursor": "c1", "notes": []},
                 "c1": {"entries": [entry("l", "symlink", target="x\x1b", size=12)], "notes": ["d/e: unreadable"]}}
        with FakePyrod(file__list=lambda c: c.answer({"workspace_id": "ws-abc", **pages[c.params.get("cursor")]})) as daemon:
            done = pyro(daemon, "workspace", "file", "list", "fix", "sub", "-r")
            self.assertEqual(done.stdout.decode(), "-rwxr-xr-x  7  2023-11-14 22:13:20  a\\x0a\ndrwxrwxrwt  7  2023-11-14 22:13:20  d\nlrwxr-xr-x  12  2023-11-14 22:13:20  l -> x\\x1b\n")
            self.assertEqual(done.stderr, b"pyro: d/e: unreadable\n")
            self.assertEqual(daemon.requests[1].params, {"workspace_id": "fix", "path": "sub", "recursive": True, "limit": 5000, "cursor": "c1"})
            document = json.loads(pyro(daemon, "workspace", "file", "list", "fix", "--json").stdout)
            self.assertEqual(([e["path"] for e in document["entries"]], document["notes"], "next_cursor" in document), (["a\n", "d", "l"], ["d/e: unreadable"], False))
            done = pyro(daemon, "workspace", "file", "list", "fix", "--limit", "2")
            self.assertEqual((done.stdout.count(b"\n"), done.stderr), (2, b"pyro: there is more: --cursor c1\n"))
            self.assertEqual(json.loads(pyro(daemon, "workspace", "file", "list", "fix", "--limit", "2", "--json").stdout)["next_cursor"], "c1")

    def test_patch(self):
        def apply(call):
            self.assertEqual(call.take(), (PATCH, True))
            call.answer({"workspace_id": "ws-abc", "changes": CHANGES[:1], "changes_left_out": 0})
        with FakePyrod(workspace__patch_apply=apply) as daemon:
            for args, stdin in ((["-"], PATCH), (["--patch", PATCH.decode()], b""), (["--patch-file", self.write("p", PATCH)], b"")):
                done = pyro(daemon, "workspace", "patch", "apply", "fix", *args, stdin=stdin)
                self.assertEqual((done.returncode, done.stdout), (0, b"modified  f  +1 -1\n"), done.stderr)
        details = {"rejections": "f\x1b: hunk 2 (line 9 of the patch): it differs\n  expected at line 4:\n    a\n  found:\n    c\n", "rejected": "1"}
        with FakePyrod(workspace__patch_apply=lambda c: (c.take(), c.fail("failed_precondition", "the patch does not fit", **details))) as daemon:
            done = pyro(daemon, "workspace", "patch", "apply", "fix", "--patch-file", "-", stdin=PATCH)
            self.assertEqual((done.returncode, done.stderr.decode().splitlines()), (125, [
                "pyro: f\\x1b: hunk 2 (line 9 of the patch): it differs", "pyro:   expected at line 4:", "pyro:     a", "pyro:   found:", "pyro:     c",
                "pyro: the patch does not fit", "pyro: mend it"]))
            self.assertEqual(json.loads(pyro(daemon, "workspace", "patch", "apply", "fix", "-", "--json", stdin=PATCH).stdout)["error"]["details"], details)

    def test_diff(self):
        with FakePyrod(workspace__diff=lambda c: c.give(PATCH, workspace_id="ws-abc", changes=CHANGES, changes_left_out=3)) as daemon:
            done = pyro(daemon, "workspace", "diff", "fix", "src", "--verify", "a b")
            self.assertEqual((done.returncode, done.stdout), (0, PATCH))
            self.assertEqual(done.stderr, b"pyro: modified  f  +1 -1\npyro: added     i\\x1b.png  (binary, not in the patch)\npyro: and 3 more\npyro: 5 files changed, +1 -1\n")
            self.assertEqual(daemon.requests[0].params, {"workspace_id": "fix", "paths": ["src", "a b"], "verify": True})
            document = json.loads(pyro(daemon, "workspace", "diff", "fix", "--json").stdout)
            self.assertEqual((document["patch"], document["changes"]), (PATCH.decode(), CHANGES))
        with FakePyrod(workspace__diff=lambda c: c.give(b"", workspace_id="ws-abc", changes=[], changes_left_out=0)) as daemon:
            self.assertEqual((lambda d: (d.returncode, d.stdout, d.stderr))(pyro(daemon, "workspace", "diff", "fix")), (0, b"", b"pyro: nothing has changed\n"))


class Export(InFolder):
    RESULT = {"workspace_id": "ws-abc", "files": 1, "directories": 0, "symlinks": 0, "bytes": 3, "left_out": 0, "notes": []}

    def export(self, data, *args, **more):
        with FakePyrod(workspace__export=lambda c: c.give(data, **self.RESULT), **more) as daemon:
            done = pyro(daemon, "workspace", "export", "fix", *args)
            self.assertEqual(sorted(name for name in self.names() if ".pyro" in name), [])
            self.done, self.connections = done, daemon.connections
            return done.returncode

    def test_a_tree_and_parts_of_it(self):
        whole = tar(("src", None), ("src/a", b"one"), ("src/sub", None), ("src/sub/b", b"two" * 100000))
        self.assertEqual(self.export(whole, "--output", self.path("out")), 0, self.done.stderr if hasattr(self, "done") else "")
        self.assertEqual((self.names(), self.read("out/src/a")), (["out", "out/src", "out/src/a", "out/src/sub", "out/src/sub/b"], b"one"))
        self.assertEqual(self.export(whole, "/workspace/src/", "--output", self.path("part")), 0)
        self.assertEqual(self.read("part/sub/b"), b"two" * 100000)
        self.assertEqual(self.export(tar(("src", None), ("src/a", b"one")), "src/a", "--output", self.path("file")), 0, self.done.stderr)
        self.assertEqual(self.read("file"), b"one")
        self.assertEqual(self.export(tar(("src/a", b"new")), "src/a", "--output", self.path("out", "src", "a")), 125)
        self.assertIn(b"--force", self.done.stderr)
        self.assertEqual(self.connections, 0)
        self.assertEqual(self.export(tar(("src/a", b"new")), "src/a", "--output", self.path("out", "src", "a"), "--force"), 0)
        self.assertEqual(self.read("out/src/a"), b"new")

    def test_archives(self):
        for path, data, names in (([], tar(("d", None), ("d/a", b"one")), ["d", "d/a"]), (["d"], tar(("d", None), ("d/a", b"one")), ["a"]), (["d/a"], tar(("d/a", b"one")), ["a"])):
            output = self.path("x.tar.zst")
            self.assertEqual(self.export(data, *path, "--output", output, "--force"), 0, self.done.stderr if hasattr(self, "done") else "")
            plain = subprocess.run(["zstd", "-dc", output], capture_output=True, check=True).stdout
            with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
                self.assertEqual(archive.getnames(), names)
        self.assertEqual(self.export(b"", "--output", output), 125)
        self.assertEqual(self.connections, 0)

    def test_merging_overwrites_nothing_unless_forced(self):
        self.write("out/a", b"mine")
        data = tar(("a", b"one"), ("b", b"two"))
        self.assertEqual(self.export(data, "--output", self.path("out")), 125)
        self.assertIn(b"out/a exists", self.done.stderr)
        self.assertEqual((self.names(), self.read("out/a")), (["out", "out/a"], b"mine"))
        self.assertEqual(self.export(data, "--output", self.path("out"), "--force"), 0)
        self.assertEqual((self.read("out/a"), self.read("out/b")), (b"one", b"two"))

    def test_what_is_refused_or_broken_off_leaves_nothing(self):
        link = tarfile.TarInfo("s")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        device = tarfile.TarInfo("null")
        device.type, device.devmajor, device.devminor = tarfile.CHRTYPE, 1, 3
        for data, args, said in ((tar(("../x", b"")), [], b".."), (tar(device), [], b"device"), (tar(("a", b"one"))[:1000], [], b""), (tar(link), ["s"], b"symbolic link"), (b"", [], b"")):
            self.assertEqual(self.export(data, *args, "--output", self.path("out")), 125, data[:100])
            self.assertIn(said, self.done.stderr)
            self.assertEqual(self.names(), [])
        def fails(call):  # all of it came, and it is worth nothing
            attached = call.start(method="stream.opened", ids={})
            attached.send(frame(OUT, tar(("a", b"one"))))
            call.fail("guest_failed", "the guest died")
            attached.sock.shutdown(2)
        def cut(call):
            call.start(method="stream.opened", ids={}).send(frame(OUT, tar(("a", b"one"))))
            call.line.sock.shutdown(2)
        for handler, said in ((fails, b"the guest died"), (cut, b"closed the connection")):
            with FakePyrod(workspace__export=handler) as daemon:
                done = pyro(daemon, "workspace", "export", "fix", "--output", self.path("out"))
                self.assertEqual((done.returncode, self.names()), (125, []))
                self.assertIn(said, done.stderr)

    def test_a_refused_entry_stops_a_big_stream(self):
        def endless(call):
            attached = call.start(method="stream.opened", ids={})
            attached.send(frame(OUT, tar(("../x", b""))[:1024]))
            while True: attached.send(frame(OUT, bytes(65536)))
        with FakePyrod(workspace__export=endless) as daemon:
            done = pyro(daemon, "workspace", "export", "fix", "--output", self.path("out"))
            self.assertEqual((done.returncode, self.names()), (125, []))
            self.assertTrue(daemon.cancelled.wait(WAIT))

    def test_a_patch_file(self):
        diff = lambda c: c.give(PATCH, workspace_id="ws-abc", changes=CHANGES, changes_left_out=0)
        output = self.path("x.patch")
        for args, paths in (([], None), (["src"], ["src"]), (["/workspace"], None)):
            with FakePyrod(workspace__diff=diff) as daemon:
                done = pyro(daemon, "workspace", "export", "fix", *args, "-o", output, "--force")
                self.assertEqual((done.returncode, self.read("x.patch"), self.names()), (0, PATCH, ["x.patch"]), done.stderr)
                self.assertEqual(daemon.requests[0].params.get("paths") or None, paths)
        with FakePyrod(workspace__diff=diff) as daemon:
            self.assertEqual(pyro(daemon, "workspace", "export", "fix", "-o", output).returncode, 125)
            self.assertEqual(daemon.connections, 0)
        with FakePyrod(workspace__diff=lambda c: c.fail("guest_failed", "no")) as daemon:
            self.assertEqual(pyro(daemon, "workspace", "export", "fix", "-o", self.path("y.patch")).returncode, 125)
            self.assertEqual(self.names(), ["x.patch"])


class Terminal(OnTerminal):
    def test_ctrl_p_ctrl_q_leaves(self):
        seen, gone = [], threading.Event()
        def shell(call):
            attached = call.start(ids=IDS)
            attached.send(frame(OUT, b"$ "))
            while (got := attached.read_frame()) is not None:
                if got[0] == IN:
                    seen.append(got[1])
                    attached.send(frame(OUT, b"<" + got[1].hex().encode() + b">"))
            gone.set()
        for words, running in ((["exec", "-it", "fix", "bash"], None), (["attach", "fix", "ex1"], {**EXEC, "tty": True, "state": "running"})):
            gone.clear()
            with FakePyrod(exec__start=shell, exec__attach=shell, exec__list=lambda c: c.answer({"execs": [running]})) as daemon:
                self.start(daemon, "workspace", *words)
                self.read_until(b"$ ")
                self.assertTrue(self.is_raw())
                os.write(self.master, b"\x03")
                self.read_until(b"<03>")
                os.write(self.master, b"\x10")  # held until it is clear what it begins
                os.write(self.master, b"x")
                self.read_until(b"78>")
                os.write(self.master, b"\x10")
                os.write(self.master, b"\x11")
                self.read_until(b"pyro: left; the command goes on: `pyro workspace attach ws-abc ex1 --stdout-offset")
                self.assertEqual(self.ended(), 0)
                self.assertFalse(self.is_raw())
                self.assertTrue(gone.wait(WAIT))
                self.assertFalse(daemon.cancelled.is_set())


class Completion(unittest.TestCase):
    def test_candidates(self):
        daemon = FakePyrod(workspace__list=lambda c: c.answer({"workspaces": [WS, {**WS, "workspace_id": "ws-2", "name": "$(rm)", "state": "stopped"}]}),
                           exec__list=lambda c: c.answer({"execs": [EXEC]} if c.params == {"workspace_id": "fix", "all": True} else {"execs": []}))
        with daemon:
            def offered(*words):  # the time limit may be missed on a busy machine
                for _ in range(20):
                    if out := pyro(daemon, "__complete", *words).stdout.decode(): return out
            self.assertEqual(offered("workspace", ""), "fix\trunning debian:12\nws-abc\trunning debian:12 fix\nws-2\tstopped debian:12 $(rm)\n")
            self.assertEqual(offered("exec", "fix"), "ex1\texited sh -c 'a b'\n")

    def shell(self, daemon, name, line):
        path = os.path.dirname(PYRO) + ":" + os.environ["PATH"]
        script = {"bash": 'source <(pyro completion bash); COMP_LINE=$1; COMP_POINT=${#1}; COMP_WORDBREAKS=" "; compopt() { :; }; _pyro; printf "%s\\n" "${COMPREPLY[@]}"',
                  "fish": "pyro completion fish | source; complete -C $argv[1] | string replace -r '\\t.*' ''"}[name]
        words = [name, "-c", script] + (["bash"] if name == "bash" else []) + [line]
        done = subprocess.run(words, capture_output=True, text=True, env=environment(daemon, PATH=path), timeout=WAIT)
        self.assertEqual(done.stderr, "")
        return done.stdout.split()

    def test_words_of_three_levels(self):
        shells = ["bash"] + (["fish"] if any(os.access(os.path.join(p, "fish"), os.X_OK) for p in os.environ["PATH"].split(":")) else [])
        with FakePyrod(workspace__list=lambda c: c.answer({"workspaces": [WS]}), exec__list=lambda c: c.answer({"execs": [EXEC]} if c.params["workspace_id"] == "fix" else {"execs": []})) as daemon:
            for name in shells:
                for line, expected in (("pyro workspace fi", {"file"}), ("pyro workspace file ", {"list", "read", "write"}), ("pyro workspace patch ap", {"apply"}),
                                       ("pyro workspace attach ", {"fix", "ws-abc"}), ("pyro workspace attach fix ", {"ex1"}), ("pyro workspace logs fix --exec ", {"ex1"}),
                                       ("pyro workspace file list ", {"fix", "ws-abc"}), ("pyro workspace export fix --ou", {"--output"})):
                    with self.subTest(name, line=line):
                        for _ in range(20):
                            if (last := set(self.shell(daemon, name, line))) == expected: break
                        self.assertEqual(last, expected)


if __name__ == "__main__":
    unittest.main(warnings="ignore")  # sockets of clients that have gone
