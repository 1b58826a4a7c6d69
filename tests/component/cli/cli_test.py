#!/usr/bin/env python3
"""The client against a daemon that misbehaves, and against terminals, pipes and signals."""
import base64
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import tempfile
import termios
import threading
import unittest

from fake_pyrod import EOF, ERR, FakePyrod, IN, OUT, RESIZE, WAIT, frame
from program import PYRO, OnTerminal, children, environment, pyro, start

VM = {"vm_id": "vm-abc", "state": "running", "environment": "debian:12", "environment_digest": "sha256:" + "b" * 64, "vcpu_count": 1,
      "mem_mib": 1024, "disk_gib": 8, "network": False, "created_at": 1700000000, "expires_at": 1700000600}
ENV = {"name": "debian:12", "reference": "docker.io/library/buildpack-deps:bookworm-scm", "state": "installed", "description": "Debian 12 with git"}


def output(out=b"", err=b"", **ended):
    """A handler that runs a command with this output."""
    def handler(call):
        attached = call.start()
        for stream, data in ((OUT, out), (ERR, err)):
            for at in range(0, len(data), 65536):
                attached.send(frame(stream, data[at:at + 65536]))
        call.ended(len(out), len(err), **ended)
    return handler


class Results(unittest.TestCase):
    def test_tables_and_documents(self):
        with FakePyrod(vm__list=lambda c: c.answer({"vms": [VM, {**VM, "vm_id": "vm-longer", "failure": "no \x1b[31mmemory"}]}),
                       env__inspect=lambda c: c.answer({"environment": ENV, "user": "", "workdir": "/w", "entrypoint": [], "command": ["sh", "-c", "a b"],
                                                        "env": {"A": "1"}, "layers": [{"digest": "sha256:" + "c" * 64, "size_bytes": 2048}], "later": 1})) as daemon:
            done = pyro(daemon, "vm", "list")
            lines = done.stdout.decode().splitlines()
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(lines[0].split(), "VM ID STATE ENVIRONMENT VCPU COUNT MEM MIB DISK GIB NETWORK CREATED EXPIRES FAILURE".split())
            self.assertEqual(lines[1].split()[:3], ["vm-abc", "running", "debian:12"])
            self.assertIn("2023-11-14 22:13:20", lines[1])
            self.assertEqual(lines[0].index("STATE"), lines[2].index("running"))
            self.assertIn("no \\x1b[31mmemory", lines[2])
            self.assertNotIn(b"\x1b", done.stdout)
            self.assertEqual(done.stderr, b"")
            done = pyro(daemon, "vm", "list", "--json")
            self.assertEqual(json.loads(done.stdout)["vms"][0], VM)
            done = pyro(daemon, "env", "inspect", "debian:12")
            text = done.stdout.decode()
            for part in ("environment:\n  name:", "workdir:", "command:       sh -c 'a b'\n", "env:\n  A=1\n", "DIGEST", "2.0 KiB"):
                self.assertIn(part, text)
            self.assertEqual(json.loads(pyro(daemon, "--json", "env", "inspect", "x").stdout)["later"], 1)

    def test_progress_is_marked_per_phase_and_silent_with_json(self):
        def pull(call):
            for phase, done in (("resolve", None), ("download", 1), ("download", 2), ("build", None)):
                call.notify("progress", phase=phase, **({"done": done, "total": 2} if done else {}))
            call.answer({"environment": ENV, "changed": True, "downloaded_bytes": 5 << 20})
        with FakePyrod(env__pull=pull) as daemon:
            done = pyro(daemon, "env", "pull", "debian:12")
            self.assertEqual(done.stderr.decode(), "[pull] phase=resolve\n[pull] phase=download\n[pull] phase=build\n")
            self.assertIn(b"5.0 MiB", done.stdout)
            done = pyro(daemon, "env", "pull", "debian:12", "--json")
            self.assertEqual(done.stderr, b"")
            self.assertEqual(json.loads(done.stdout)["changed"], True)

    def test_every_error_word_has_its_status(self):
        words = {"not_found": 125, "invalid_argument": 125, "failed_precondition": 125, "quota_exceeded": 125, "timeout": 124, "cancelled": 130,
                 "unavailable": 125, "guest_failed": 125, "environment_invalid": 125, "network_denied": 125, "internal": 125, "of_the_future": 125}
        for word, status in words.items():
            with self.subTest(word), FakePyrod(vm__status=lambda c, w=word: c.fail(w, "no such VM\x1b]0;x", "list them", vm_id="x")) as daemon:
                done = pyro(daemon, "vm", "status", "x")
                self.assertEqual((done.returncode, done.stdout, done.stderr.decode()), (status, b"", "pyro: no such VM\\x1b]0;x\npyro: list them\n"))
                done = pyro(daemon, "vm", "status", "x", "--json")
                error = json.loads(done.stdout)["error"]
                self.assertEqual((done.returncode, done.stderr, error["message"]), (status, b"", "no such VM\x1b]0;x"))
                self.assertEqual(error["details"], {"vm_id": "x"})
                self.assertEqual(set(error), {"code", "message", "hint", "retryable", "details"})

    def test_usage_errors_never_reach_the_daemon(self):
        with FakePyrod() as daemon:
            for args in (["frob"], ["run"], ["env", "pull", "a", "b"], ["run", "--mem-mib", "1", "x"], ["run", "--frob", "x"], ["vm", "status", "x" * 65],
                         ["run", "-e", "=", "x"], ["run", "-t", "x"], ["env", "frob"], ["workspace", "file", "frob"]):
                with self.subTest(args):
                    done = pyro(daemon, *args)
                    self.assertEqual((done.returncode, done.stdout), (2, b""))
                    self.assertTrue(done.stderr.startswith(b"pyro: ") and b"--help" in done.stderr, done.stderr)
            done = pyro(daemon, "run", "--json", "--mem-mib", "1", "x")
            self.assertEqual((done.returncode, json.loads(done.stdout)["error"]["message"]), (2, "--mem-mib: must be at least 128 and at most 262144"))
            self.assertEqual(daemon.connections, 0)

    def test_a_full_disk_is_told(self):
        with FakePyrod(vm__list=lambda c: c.answer({"vms": [VM]}), vm__run=output(b"x")) as daemon, open("/dev/full", "wb") as full:
            for args in (["vm", "list"], ["run", "x"]):
                done = subprocess.run([PYRO, *args], stdout=full, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment(daemon), timeout=WAIT)
                self.assertIn(b"No space left", done.stderr)
                self.assertEqual(done.returncode, 125)


class Run(unittest.TestCase):
    def test_streams_footer_and_parameters(self):
        everything = bytes(range(256)) * 3
        with FakePyrod(vm__run=output(everything, b"oops\n", exit_code=7)) as daemon:
            done = pyro(daemon, "run", "-e", "A=1", "--env", "B=[x,y]", "debian:12", "--mem-mib", "256", "ls", "-la", "--json", "--", "a b", env={"PYRO_X": "1"})
            self.assertEqual(done.stdout, everything)
            self.assertEqual(done.stderr, b"oops\n[run] environment=debian:12 execution_mode=guest_tcg exit_code=7 duration_ms=63\n")
            self.assertEqual(done.returncode, 7)
            self.assertEqual(daemon.requests[0].params["argv"], ["ls", "-la", "--json", "--", "a b"])
            self.assertEqual(daemon.requests[0].params["env"], {"A": "1", "B": "[x,y]"})
            self.assertEqual(daemon.requests[0].params["mem_mib"], 256)

    def test_exit_statuses(self):
        cases = [(dict(exit_code=0), 0), (dict(exit_code=255), 255), (dict(exit_code=127, exec_error="no such file: foo"), 127),
                 (dict(exit_code=None, signal=9, oom=True), 137), (dict(exit_code=None, signal=15, timed_out=True), 124)]
        for ended, status in cases:
            with self.subTest(ended), FakePyrod(vm__run=output(**ended)) as daemon:
                done = pyro(daemon, "run", "debian:12", "foo")
                self.assertEqual(done.returncode, status)
                if "exec_error" in ended: self.assertIn(b"pyro: no such file: foo\n", done.stderr)
                if "timed_out" in ended: self.assertIn(b"--timeout-seconds 30", done.stderr)
                if "oom" in ended: self.assertIn(b" signal=9 oom=true ", done.stderr)

    def test_json_report(self):
        out = b"\xff\xfe caf\xc3\xa9 " + b"x" * (3 << 20) + b" end"
        with FakePyrod(vm__run=output(out, b"err", exit_code=3)) as daemon:
            done = pyro(daemon, "run", "--json", "debian:12", "foo")
            report = json.loads(done.stdout)
            self.assertEqual((done.returncode, done.stderr), (3, b""))
            self.assertTrue(report["truncated"] and report["stdout"].startswith("\ufffd\ufffd café x") and report["stdout"].endswith("x end"))
            self.assertLess(len(report["stdout"]), 1100000)
            self.assertEqual((report["stderr"], report["exit_code"], report["timed_out"]), ("err", 3, False))

    def test_the_answer_may_overtake_the_output(self):
        def overtaken(call):
            attached = call.start()
            call.ended(out=5 << 20)
            attached.send(b"".join(frame(OUT, b"y" * 65536) for _ in range(80)))
        with FakePyrod(vm__run=overtaken) as daemon:
            self.assertEqual(len(pyro(daemon, "run", "x", "y").stdout), 5 << 20)

    def test_frames_in_any_pieces(self):
        data = b"".join(frame(OUT, bytes([i]) * i) for i in range(1, 30)) + frame(EOF, bytes([OUT]))
        def pieces(call):
            attached = call.start()
            for i in range(len(data)): attached.send(data[i:i + 1])
            call.ended(out=sum(range(1, 30)))
        with FakePyrod(vm__run=pieces) as daemon:
            self.assertEqual(pyro(daemon, "run", "x", "y").stdout, b"".join(bytes([i]) * i for i in range(1, 30)))

    def echo(self, call):
        attached, total = call.start(), 0
        while True:
            stream, data = attached.read_frame()
            if stream == EOF:
                break
            self.assertEqual(stream, IN)
            total += len(data)
            attached.send(frame(OUT, data))
        call.ended(out=total)

    def test_stdin_is_passed_whole_with_its_end(self):
        big = os.urandom(1 << 20) * 16
        with FakePyrod(vm__run=self.echo) as daemon:
            self.assertEqual(pyro(daemon, "run", "-i", "x", "cat", stdin=big).stdout, big)
            self.assertEqual(pyro(daemon, "run", "-i", "x", "cat", stdin=b"").stdout, b"")
            with open(PYRO, "rb") as file:  # a file
                done = subprocess.run([PYRO, "run", "-i", "x", "cat"], stdin=file, capture_output=True, env=environment(daemon), timeout=WAIT)
                self.assertEqual(len(done.stdout), os.path.getsize(PYRO))
            # none at all
            done = subprocess.run(["sh", "-c", 'exec "$0" run -i x cat <&-', PYRO], capture_output=True, env=environment(daemon), timeout=WAIT)
            self.assertEqual((done.returncode, done.stdout), (0, b""), done.stderr)
        with FakePyrod(vm__run=output(b"done")) as daemon:  # without -i nothing is read
            read, write = os.pipe()
            done = subprocess.run([PYRO, "run", "x", "true"], stdin=read, capture_output=True, env=environment(daemon), timeout=WAIT)
            self.assertEqual(done.stdout, b"done")
            os.close(read), os.close(write)

    def test_a_reader_that_stalls_stops_the_sender(self):
        sent = {}
        def flood(call):
            attached = call.start()
            attached.sock.settimeout(1)
            data, at = frame(OUT, b"z" * 65536) * 512, 0
            try:
                while at < len(data): at += attached.sock.send(data[at:at + 65536])
            except TimeoutError:
                sent["stalled"] = at
            attached.sock.settimeout(None)
            reading.set()
            attached.send(data[at:])
            call.ended(out=512 * 65536)
        reading = threading.Event()
        with FakePyrod(vm__run=flood) as daemon:
            child = start(self, daemon, "run", "x", "y")
            self.assertTrue(reading.wait(WAIT))
            out, _ = child.communicate(timeout=WAIT)
            self.assertEqual(len(out), 512 * 65536)
            self.assertLess(sent["stalled"], 4 << 20)

    def test_a_closed_pipe_ends_it_quietly(self):
        def endless(call):
            attached = call.start()
            while True: attached.send(frame(OUT, b"line\n" * 1000))
        with FakePyrod(vm__run=endless) as daemon:
            child = start(self, daemon, "run", "x", "yes")
            self.assertEqual(child.stdout.readline(), b"line\n")
            child.stdout.close()
            self.assertEqual(child.wait(WAIT), 128 + signal.SIGPIPE)
            self.assertEqual(child.stderr.read(), b"")
            self.assertTrue(daemon.cancelled.wait(WAIT))


class Credentials(unittest.TestCase):
    """They leave the user after a refusal that says they are missing, for the registry that he named, once."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="pyro-auth-")
        self.addCleanup(folder.cleanup)
        self.file = os.path.join(folder.name, "auth.json")
        with open(self.file, "w") as out:
            json.dump({"auths": {"ghcr.io": {"auth": base64.b64encode(b"me:word").decode()}, "other.example": {"username": "o", "password": "o"}}}, out)
        self.env = {"REGISTRY_AUTH_FILE": self.file}

    def asked(self, daemon):
        return [(call.method, call.params.get("credentials")) for call in daemon.requests]

    def refusing(self, details):
        """Refuses a pull without credentials, and a run before the pull."""
        pulled = []

        def pull(call):
            if "credentials" not in call.params:
                return call.fail("failed_precondition", **details)
            pulled.append(call)
            call.answer({"environment": ENV, "changed": True, "downloaded_bytes": 1})

        def run_(call):
            if not pulled:
                return call.fail("failed_precondition", **details)
            call.start()
            call.ended()
        return {"env__pull": pull, "vm__run": run_}

    MINE = {"registry": "ghcr.io", "username": "me", "password": "word"}

    def test_a_pull_is_repeated_with_them(self):
        with FakePyrod(**self.refusing({"credentials": "none"})) as daemon:
            done = pyro(daemon, "env", "pull", "--force", "ghcr.io/a/b:1", env=self.env)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(self.asked(daemon), [("env.pull", None), ("env.pull", self.MINE)])
            self.assertTrue(all(call.params["force"] for call in daemon.requests))

    def test_what_pulls_by_itself_is_repeated_behind_a_pull(self):
        with FakePyrod(**self.refusing({"credentials": "none"})) as daemon:
            done = pyro(daemon, "run", "ghcr.io/a/b:1", "--", "true", env=self.env)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(self.asked(daemon), [("vm.run", None), ("env.pull", self.MINE), ("vm.run", None)])

    def test_never_otherwise(self):
        for details, name in (({}, "ghcr.io/a"), ({"credentials": "refused"}, "ghcr.io/a"), ({"credentials": "none"}, "ghcr.io.evil.example/a"),
                              ({"credentials": "none"}, "docker.io/library/a"), ({"credentials": "none", "reference": "ghcr.io/a"}, "local")):
            with FakePyrod(**self.refusing(details)) as daemon:
                done = pyro(daemon, "env", "pull", name, env=self.env)
                self.assertEqual(done.returncode, 125)
                self.assertIn(b"it failed", done.stderr)
                self.assertEqual(self.asked(daemon), [("env.pull", None)])

    def test_a_helper_that_hangs_is_interrupted(self):
        folder = os.path.dirname(self.file)
        os.mkfifo(os.path.join(folder, "began"))
        with open(os.path.join(folder, "docker-credential-slow"), "w") as out:
            out.write(f"#!/bin/sh\necho began > {folder}/began\nexec sleep 600\n")
        os.chmod(out.name, 0o755)
        with open(self.file, "w") as out:
            json.dump({"credsStore": "slow"}, out)
        with FakePyrod(**self.refusing({"credentials": "none"})) as daemon:
            process = children.ends_with(self, subprocess.Popen([PYRO, "env", "pull", "ghcr.io/a"], stdin=subprocess.DEVNULL,
                                                                env=environment(daemon, **self.env, PATH=f"{folder}:{os.environ['PATH']}"), stderr=subprocess.PIPE))
            with open(os.path.join(folder, "began")) as began:
                began.read()
            process.send_signal(signal.SIGINT)
            self.assertEqual(process.wait(WAIT), 130)
            process.stderr.close()


class Signals(unittest.TestCase):
    def test_the_first_signal_cancels(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            def wait(call):
                call.start().send(frame(OUT, b"ready\n"))
                call.daemon.cancelled.wait(WAIT)
                call.fail("cancelled")
            with self.subTest(number), FakePyrod(vm__run=wait) as daemon:
                child = start(self, daemon, "run", "x", "sleep")
                self.assertEqual(child.stdout.readline(), b"ready\n")
                child.send_signal(number)
                self.assertEqual(child.wait(WAIT), 128 + number)
                self.assertTrue(daemon.cancelled.is_set())

    def test_the_second_signal_leaves(self):
        with FakePyrod(env__pull=lambda c: c.notify("progress", phase="download")) as daemon:
            child = start(self, daemon, "env", "pull", "x")
            self.assertEqual(child.stderr.readline(), b"[pull] phase=download\n")
            child.send_signal(signal.SIGINT)
            self.assertTrue(daemon.cancelled.wait(WAIT))
            child.send_signal(signal.SIGTERM)
            self.assertEqual(child.wait(WAIT), 128 + signal.SIGTERM)  # by the second one, not by patience with the first

    def test_json_says_cancelled(self):
        def wait(call):
            begun.set()
            call.daemon.cancelled.wait(WAIT)
            call.fail("cancelled")
        begun = threading.Event()
        with FakePyrod(vm__run=wait) as daemon:
            child = start(self, daemon, "run", "--json", "x", "sleep")
            self.assertTrue(begun.wait(WAIT))
            child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=WAIT)
            self.assertEqual((child.returncode, json.loads(out)["error"]["code"], err), (130, "cancelled", b""))


class Faults(unittest.TestCase):
    def failure(self, daemon, *args, status=125):
        done = pyro(daemon, *args)
        self.assertEqual(done.returncode, status, done.stderr)
        self.assertNotIn(b"terminate", done.stderr)
        self.assertTrue(all(line.startswith(b"pyro: ") for line in done.stderr.splitlines()), done.stderr)
        return done.stderr.decode()

    def test_no_daemon(self):
        self.assertIn("start it", self.failure(None, "vm", "list"))
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as left_over:
            left_over.bind(folder + "/s")
            self.assertIn("nothing answers", self.failure(None, "--socket", folder + "/s", "vm", "list"))
        self.assertIn("longer than 107 bytes", self.failure(None, "--socket", "/" + "x" * 200, "vm", "list"))

    @unittest.skipUnless(os.geteuid() == 0, "needs a second uid")
    def test_no_permission_names_the_group(self):
        with FakePyrod() as daemon:
            os.chmod(daemon.folder.name, 0o755)
            os.chmod(daemon.path, 0o600)
            done = pyro(daemon, "vm", "list", user=65534, group=65534, extra_groups=[])
            self.assertEqual(done.returncode, 125)
            self.assertIn(b"no permission", done.stderr)
            done = pyro(daemon, "doctor", "--json", user=65534, group=65534, extra_groups=[])
            checks = json.loads(done.stdout)["checks"]
            self.assertEqual((done.returncode, checks[0]["fix"]), (1, "sudo usermod -aG pyro $USER"))

    def test_versions(self):
        with FakePyrod(version="1.0.0") as daemon:
            self.assertIn("upgrade the client", self.failure(daemon, "vm", "list"))
        with FakePyrod(version="0.0.9", vm__run=lambda c: c.fail("invalid_argument", "user: is not a field of this request", "")) as daemon:
            self.assertIn("pyrod is 0.0.9, this client is 0.1.0: upgrade and restart pyrod", self.failure(daemon, "run", "-u", "root", "x"))
        with FakePyrod(vm__run=lambda c: c.fail("invalid_argument", "no", "")) as daemon:
            self.assertNotIn("upgrade", self.failure(daemon, "run", "x"))

    def test_a_greeting_that_is_none(self):
        for hello in (lambda l: l.send(b"HTTP/1.1 400 Bad Request\r\n\r\n"), lambda l: l.sock.close(), lambda l: l.send(b"\xff\x00\n"), lambda l: l.send(b"[1]\n"),
                      lambda l: l.send({"jsonrpc": "2.0", "id": 1, "result": {"version": 1}}), lambda l: l.sock.shutdown(socket.SHUT_WR)):
            with FakePyrod(hello=hello) as daemon:
                self.failure(daemon, "vm", "list")
        with FakePyrod(hello=lambda l: l.send({"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "m", "data": {
                "code": "quota_exceeded", "message": "too many sessions", "hint": "close some"}}})) as daemon:
            self.assertEqual(self.failure(daemon, "vm", "list"), "pyro: pyrod refused the connection: too many sessions\npyro: close some\n")

    def test_garbage_instead_of_an_answer(self):
        for answer in (b"garbage\n", b"{}\n", b'{"jsonrpc":"2.0","id":2}\n', b'{"id":2,"error":7}\n', b"[" * 100000 + b"\n", b'{"id":2,"result":' + b"[" * 1000000 + b"]" * 1000000 + b"}\n", b'{"id":2,"result":{"vms":7}}\n'[:-2] + b"\n",
                       b'{"id":null,"error":{"code":-32700,"message":"bad"}}\n'):
            with self.subTest(answer[:40]), FakePyrod(vm__list=lambda c, a=answer: c.line.send(a)) as daemon:
                self.failure(daemon, "vm", "list")

    def test_a_line_without_end(self):
        def flood(call):
            while True: call.line.send(b"x" * (1 << 20))
        with FakePyrod(vm__list=flood) as daemon:
            self.assertIn("more than 16 MiB", self.failure(daemon, "vm", "list"))

    def test_answers_of_others_and_unknown_notifications_are_passed_over(self):
        def chatty(call):
            call.line.send({"jsonrpc": "2.0", "id": 99, "result": {"vms": []}})
            call.line.send({"jsonrpc": "2.0", "method": "progress", "params": {"id": 99, "phase": "x"}})
            call.notify("of.the.future", a=1)
            call.answer({"vms": [VM]})
        with FakePyrod(vm__list=chatty) as daemon:
            self.assertIn(b"vm-abc", pyro(daemon, "vm", "list").stdout)

    def test_the_daemon_dies(self):
        def before(call): call.line.sock.shutdown(socket.SHUT_RDWR)
        def during(call):
            attached = call.start()
            attached.send(frame(OUT, b"some"))
            attached.sock.shutdown(socket.SHUT_RDWR)
            call.line.sock.shutdown(socket.SHUT_RDWR)
        for handler in (before, during):
            with FakePyrod(vm__run=handler) as daemon:
                self.assertIn("closed the connection before vm.run had ended", self.failure(daemon, "run", "x", "y"))

    def test_output_that_is_cut(self):
        def cut(call):
            attached = call.start()
            attached.send(frame(OUT, b"some")[:-2])
            attached.sock.shutdown(socket.SHUT_RDWR)
            call.ended(out=4)
        with FakePyrod(vm__run=cut) as daemon:
            self.assertIn("0 of 4 bytes", self.failure(daemon, "run", "x", "y"))
        with FakePyrod(vm__run=lambda c: c.ended(out=4)) as daemon:
            self.assertIn("0 of 4 bytes", self.failure(daemon, "run", "x", "y"))

    def test_bad_frames(self):
        for bad in (b"\x07\x00\x00\x00\x00", struct.pack("<BI", OUT, 65537), struct.pack("<BI", OUT, 1 << 31), frame(IN, b"x"), b"\xff" * 100):
            def handler(call, data=bad):
                call.start().send(data)
                call.daemon.cancelled.wait(WAIT)
            with self.subTest(bad), FakePyrod(vm__run=handler) as daemon:
                self.assertIn("nonsense", self.failure(daemon, "run", "x", "y"))

    def test_a_refused_ticket(self):
        def refuse(call):
            call.notify("exec.started", ticket="t", vm_id="v")
            call.daemon.attached("t").send({"ok": False, "error": {"code": "not_found", "message": "no such ticket", "hint": "", "retryable": False, "details": {}}})
            self.assertTrue(call.daemon.cancelled.wait(WAIT))
        def cancelled(call):
            refuse(call)
            call.fail("cancelled")
        def failed(call):  # the call ended first, and its ticket with it
            refuse(call)
            call.fail("guest_failed", "the guest does not boot")
        def left_out(call):
            refuse(call)
            call.ended(out=1)
        for handler, said in ((cancelled, "no such ticket"), (failed, "the guest does not boot"), (left_out, "no such ticket")):
            with self.subTest(handler), FakePyrod(vm__run=handler) as daemon:
                self.assertIn(said, self.failure(daemon, "run", "x", "y"))
        def silent(call):
            refuse(call)
            call.ended()
        with FakePyrod(vm__run=silent) as daemon:  # nothing was lost
            self.assertEqual(pyro(daemon, "run", "x", "true").returncode, 0)

    def test_an_error_after_output(self):
        def fails(call):
            attached = call.start()
            attached.send(frame(OUT, b"part of it"))
            call.fail("guest_failed", "the guest died")
            attached.sock.shutdown(socket.SHUT_RDWR)
        with FakePyrod(vm__run=fails) as daemon:
            done = pyro(daemon, "run", "x", "y")
            self.assertEqual((done.returncode, done.stdout), (125, b"part of it"))
            self.assertIn(b"the guest died", done.stderr)

    def test_arguments_that_json_cannot_carry(self):
        with FakePyrod() as daemon:
            done = pyro(daemon, "run", "x", b"\xff\xfe")
            self.assertEqual((done.returncode, done.stderr.splitlines()[0]), (2, b"pyro: CMD: is not valid UTF-8"))
            big = ["y" * 100000] * 12
            self.assertIn("larger than 1024 KiB", self.failure(daemon, "run", "x", *big))


class Doctor(unittest.TestCase):
    def test_findings(self):
        checks = [{"name": "kvm", "status": "warn", "detail": "a guest does not boot with it"}, {"name": "qemu", "status": "fail", "detail": "not found", "fix": "sudo apt install qemu"}]
        with FakePyrod(system__doctor=lambda c: c.answer({"ok": False, "execution_mode": "guest_tcg", "checks": checks})) as daemon:
            done = pyro(daemon, "doctor")
            self.assertEqual(done.returncode, 1)
            self.assertRegex(done.stdout.decode(), r"(?m)^PASS  socket   pyrod 0\.1\.0 answers")
            self.assertIn("FAIL  qemu     not found\n      fix: sudo apt install qemu\n", done.stdout.decode())
            self.assertTrue(done.stdout.endswith(b"3 passed, 1 warnings, 1 failed; VMs run as guest_tcg\n"))
        with FakePyrod(system__doctor=lambda c: c.answer({"ok": True, "execution_mode": "guest_kvm", "checks": checks[:1]})) as daemon:
            self.assertEqual(pyro(daemon, "doctor", "--environment", "debian:12").returncode, 0)
            self.assertEqual(daemon.requests[0].params, {"environment": "debian:12"})
        done = pyro(None, "doctor", "--json")
        self.assertEqual((done.returncode, json.loads(done.stdout)["ok"]), (1, False))


class Demo(unittest.TestCase):
    def daemon(self, **more):
        deleted = []
        handlers = dict(vm__create=lambda c: c.answer({**VM, "state": "creating"}), vm__start=lambda c: c.answer(VM), vm__exec=output(b"git version 2.39.5\n"),
                        vm__status=lambda c: c.fail("not_found"), vm__delete=lambda c: (deleted.append(c.params["vm_id"]), c.answer({"vm_id": "vm-abc"})))
        daemon = FakePyrod(**{**handlers, **more})
        daemon.deleted = deleted
        return daemon

    def test_the_life_cycle(self):
        with self.daemon() as daemon:
            done = pyro(daemon, "demo")
            lines = done.stdout.decode().splitlines()
            self.assertEqual([line.split()[0] for line in lines], ["create", "start", "exec", "delete", "demo:"])
            self.assertRegex(lines[-1], 'ok environment=debian:12 execution_mode=guest_tcg .*stdout="git version 2.39.5"$')
            self.assertEqual([c.method for c in daemon.requests], ["vm.create", "vm.start", "vm.exec", "vm.status"])
            document = json.loads(pyro(daemon, "demo", "--json").stdout)
            self.assertEqual([s["name"] for s in document["steps"]], ["create", "start", "exec", "delete"])

    def test_failures_are_told_and_cleaned(self):
        with self.daemon(vm__start=lambda c: c.fail("guest_failed", "no boot")) as daemon:
            done = pyro(daemon, "demo")
            self.assertEqual((done.returncode, daemon.deleted), (125, ["vm-abc"]))
            self.assertIn(b"no boot", done.stderr)
        with self.daemon(vm__status=lambda c: c.answer(VM)) as daemon:
            self.assertIn(b"still there", pyro(daemon, "demo").stderr)
        with self.daemon(vm__exec=output(exit_code=127)) as daemon:
            self.assertEqual(pyro(daemon, "demo").returncode, 125)


class Completion(unittest.TestCase):
    def bash(self, daemon, line):
        script = 'source <("$PYRO" completion bash); COMP_LINE=$1; COMP_POINT=${#1}; COMP_WORDBREAKS=" :="; compopt() { printf "nothing\\n"; }; _pyro; printf "%s\\n" "${COMPREPLY[@]}"'
        path = os.path.dirname(PYRO) + ":" + os.environ["PATH"]
        done = subprocess.run(["bash", "-c", script, "bash", line], capture_output=True, text=True, env=environment(daemon, PATH=path, PYRO=PYRO), timeout=WAIT)
        self.assertEqual(done.stderr, "")
        return done.stdout.split()

    def offered(self, daemon, line, expected):
        """What a daemon is asked for has a time limit, which a busy machine may miss: asked until it is met, as a person would."""
        for _ in range(20):
            if (last := self.bash(daemon, line)) == expected: break
        self.assertEqual(last, expected)

    def test_bash(self):
        with FakePyrod(env__list=lambda c: c.answer({"environments": [ENV, {**ENV, "name": "debian:12-base"}, {**ENV, "name": "$(rm)"}]}),
                       vm__list=lambda c: c.answer({"vms": [VM]})) as daemon:
            self.assertEqual(self.bash(daemon, "pyro e"), ["env"])
            self.assertEqual(self.bash(daemon, "pyro env "), ["list", "pull", "inspect", "prune", "remove", "import", "commit"])
            self.assertEqual(self.bash(daemon, "pyro run --mem"), ["--mem-mib"])
            self.offered(daemon, "pyro run --mem-mib 512 deb", ["debian:12", "debian:12-base"])
            self.offered(daemon, "pyro run debian:12-", ["12-base"])
            self.offered(daemon, "pyro vm status ", ["vm-abc"])
            self.assertEqual(self.bash(daemon, "pyro run -e A=1 debian:12 l"), [])
            self.assertEqual(self.bash(daemon, "pyro run --mem-mib "), ["nothing"])
            self.assertEqual(self.bash(daemon, "pyro vm list "), ["nothing"])
            self.assertEqual(self.bash(daemon, "pyro completion "), ["bash", "zsh", "fish"])
            self.offered(daemon, "pyro doctor --environment deb", ["debian:12", "debian:12-base"])
        self.assertEqual(self.bash(None, "pyro vm status "), [])

    def test_a_slow_daemon_does_not_hold_the_prompt(self):
        with FakePyrod(hello=lambda line: line.read_line()) as daemon:  # never answers: it ends by its own limit
            done = pyro(daemon, "__complete", "vm")
            self.assertEqual((done.returncode, done.stdout, done.stderr), (0, b"", b""))
        for args in ([], ["vm"], ["frob", "x", "y"]):
            self.assertEqual(pyro(None, "__complete", *args).returncode, 0)


class Terminal(OnTerminal):
    def test_raw_bytes_resize_and_restore(self):
        seen, attached_now, go = [], threading.Event(), threading.Event()
        def shell(call):
            attached = call.start()
            attached.send(frame(OUT, b"$ "))
            while (got := attached.read_frame()) is not None:
                seen.append(got)
                if got[0] == IN and b"q" in got[1]:
                    break
                if got[0] == RESIZE:
                    attached.send(frame(OUT, b"resized"))
                if got[0] == IN:
                    attached.send(frame(OUT, b"<" + got[1].hex().encode() + b">"))
            call.ended(out=sum([2, *(7 if s == RESIZE else 2 + 2 * len(d) for s, d in seen if b"q" not in d)]), exit_code=5)
        with FakePyrod(vm__run=shell) as daemon:
            self.start(daemon, "run", "-it", "-e", "X=1", "debian:12", "bash")
            self.read_until(b"$ ")
            params = daemon.requests[0].params
            self.assertEqual((params["tty"], params["interactive"], params["timeout_seconds"], params["env"]), (True, True, 0, {"X": "1", "TERM": "xterm"}))
            self.assertTrue(self.is_raw())
            os.write(self.master, b"\x03")  # after output it belongs to the guest
            self.read_until(b"<03>")
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 132, 0, 0))
            self.read_until(b"resized")
            self.assertIn((RESIZE, struct.pack("<HH", 132, 50)), seen)
            os.write(self.master, b"q")
            self.read_until(b"[run] environment=debian:12 execution_mode=guest_tcg exit_code=5")
            self.assertFalse(self.is_raw())
            self.assertEqual(self.ended(), 5)

    def test_restored_when_killed_or_cut(self):
        def wait(call):
            call.start().send(frame(OUT, b"$ "))
            self.call = call
            call.daemon.cancelled.wait(WAIT)
            call.fail("cancelled")
        for how in ("signal", "cut"):
            with self.subTest(how), FakePyrod(vm__run=wait) as daemon:
                self.start(daemon, "run", "-it", "debian:12")
                self.read_until(b"$ ")
                self.assertTrue(self.is_raw())
                if how == "signal":
                    os.kill(self.pid, signal.SIGTERM)
                else:
                    self.call.line.sock.shutdown(socket.SHUT_RDWR)
                    daemon.cancelled.set()
                    self.read_until(b"closed the connection")
                self.assertEqual(self.ended(), 143 if how == "signal" else 125)
                self.assertFalse(self.is_raw())

    def test_ctrl_c_while_booting_cancels(self):
        booting = threading.Event()
        def boot(call):
            call.start()
            booting.set()
            call.daemon.cancelled.wait(WAIT)
            call.fail("cancelled")
        with FakePyrod(vm__run=boot) as daemon:
            self.start(daemon, "run", "-it", "debian:12")
            self.assertTrue(booting.wait(WAIT))
            os.write(self.master, b"\x03")
            self.assertEqual(self.ended(), 130)

    def test_no_command_on_a_terminal_means_an_interactive_one(self):
        with FakePyrod(vm__run=output(b"hi\n")) as daemon:
            self.start(daemon, "run", "debian:12")
            self.read_until(b"[run]")
            self.assertEqual(self.ended(), 0)
            self.assertEqual((daemon.requests[0].params["tty"], daemon.requests[0].params["interactive"]), (True, True))
            self.assertNotIn("argv", daemon.requests[0].params)

    def test_progress_line_and_colour(self):
        def pull(call):
            call.notify("progress", phase="download", done=5 << 20, total=10 << 20)
            call.answer({"environment": ENV, "changed": True, "downloaded_bytes": 10 << 20})
        with FakePyrod(env__pull=pull) as daemon:
            self.start(daemon, "env", "pull", "debian:12")
            seen = self.read_until(b"downloaded_bytes")
            self.assertIn(b"download [############------------] 50% of 10.0 MiB", seen)
            self.assertIn(b"\x1b[32minstalled\x1b[0m", seen)
            self.assertEqual(self.ended(), 0)


if __name__ == "__main__":
    unittest.main(warnings="ignore")  # sockets of clients that have gone
