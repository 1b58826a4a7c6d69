#!/usr/bin/env python3
"""Workspaces by their wire: life, commands and what is kept of them, files, limits, restarts of the daemon."""
import os
import signal
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "support"))
import children  # noqa: E402
import site_case  # noqa: E402
from pyro_site import RpcError  # noqa: E402
from streams import Streamed, streamed, tar_of  # noqa: E402

SEED = {"source": "directory", "path": "/somewhere"}


class Workspaces(site_case.SiteCase):
    config = "[workspaces]\njournal_mib = 4\n"

    def create(self, tree=None, **params):
        if tree is not None:
            made, _, _ = streamed(self.site, "workspace.create", tar_of(tree), environment="debian:12", seed=SEED, **params)
        else:
            made = self.site.call("workspace.create", environment="debian:12", **params)
        self.addCleanup(self.delete, made["workspace_id"])
        self.assertEqual(made["state"], "running")
        return made["workspace_id"]

    def delete(self, workspace):
        """Of a test that failed half-way nothing stays for the next one to find."""
        self.site.start_again()
        try:
            self.site.call("workspace.delete", workspace_id=workspace)
        except RpcError as e:
            self.assertEqual(e.code, "not_found")

    def run_in(self, workspace, command, stdin=None, **params):
        if stdin is not None:
            params["interactive"] = True
        return streamed(self.site, "exec.start", stdin, workspace_id=workspace, command=command, **params)

    def output(self, workspace, command, **params):
        result, out, err = self.run_in(workspace, command, **params)
        self.assertEqual((result["exit_code"], err), (0, b""), (result, out, err))
        return out.decode()

    def detach(self, workspace, command, **params):
        return self.site.call("exec.start", workspace_id=workspace, command=command, detach=True, **params)["exec_id"]

    def exec_info(self, workspace, exec_id):
        return {one["exec_id"]: one for one in self.site.call("exec.list", workspace_id=workspace, all=True)["execs"]}[exec_id]

    def read(self, workspace, path, **params):
        return streamed(self.site, "file.read", workspace_id=workspace, path=path, **params)[1]

    def write(self, workspace, path, content, **params):
        return streamed(self.site, "file.write", content, workspace_id=workspace, path=path, **params)[0]

    def refused(self, code, method, stdin=None, **params):
        with self.assertRaises(RpcError) as raised:
            streamed(self.site, method, stdin, **params)
        self.assertEqual(raised.exception.code, code, raised.exception)
        return raised.exception.error["message"]

    # --- life

    def test_what_is_written_survives_a_stop_and_not_a_reset(self):
        ws = self.create({"kept": b"seeded\n", "dir": None, "dir/x": b"x"}, name="survivor")
        self.assertEqual(self.output(ws, "echo more >> kept; echo new > new; rm dir/x; echo out > /root/out; cat kept new"), "seeded\nmore\nnew\n")
        stopped = self.site.call("workspace.stop", workspace_id="survivor")
        self.assertEqual(stopped["state"], "stopped")
        self.assertEqual(self.site.call("workspace.stop", workspace_id=ws)["state"], "stopped")
        self.assertEqual(self.output(ws, "cat kept new /root/out; ls -A dir"), "seeded\nmore\nnew\nout\n")
        self.assertEqual(self.site.call("workspace.status", workspace_id=ws)["state"], "running")
        before = self.site.call("workspace.status", workspace_id=ws)
        reset = self.site.call("workspace.reset", workspace_id=ws)
        self.assertEqual((reset["workspace_id"], reset["name"], reset["state"]), (ws, "survivor", "running"))
        self.assertEqual(reset["created_at"], before["created_at"])
        self.assertEqual(self.site.call("exec.list", workspace_id=ws, all=True)["execs"], [])
        self.assertEqual(self.output(ws, "find . | sort; cat kept; ls /root/out 2>/dev/null; true"), ".\n./dir\n./dir/x\n./kept\nseeded\n")
        # And once more, from a workspace that sleeps.
        self.output(ws, "rm -rf /workspace/* ; touch here")
        self.site.call("workspace.stop", workspace_id=ws)
        self.site.call("workspace.reset", workspace_id=ws)
        self.assertEqual(self.output(ws, "cat kept; ls"), "seeded\ndir\nkept\n")

    def test_names_prefixes_labels_and_updates(self):
        ws = self.create(name="alpha", labels={"k": "v", "unset": "x"})
        other = self.create(labels={"k": "other"})
        status = lambda key: self.site.call("workspace.status", workspace_id=key)["workspace_id"]  # noqa: E731
        self.assertEqual(status("alpha"), ws)
        self.assertEqual(status(ws[:8]), ws)
        self.refused("not_found", "workspace.status", workspace_id="nobody")
        self.refused("failed_precondition", "workspace.create", environment="debian:12", name="alpha")
        for name in ("-x", "a b", "../x", "x" * 65, "\u00e9", ws):
            self.refused("invalid_argument", "workspace.create", environment="debian:12", name=name)
        self.assertEqual([w["workspace_id"] for w in self.site.call("workspace.list", labels={"k": "v"})["workspaces"]], [ws])
        updated = self.site.call("workspace.update", workspace_id="alpha", name="beta", labels={"k": "w", "new": "1"}, clear_labels=["unset"])
        self.assertEqual((updated["name"], updated["labels"]), ("beta", {"k": "w", "new": "1"}))
        self.refused("not_found", "workspace.status", workspace_id="alpha")
        self.site.call("workspace.update", workspace_id=other, name="alpha")
        self.refused("failed_precondition", "workspace.update", workspace_id=ws, name="alpha")
        self.assertNotIn("name", self.site.call("workspace.update", workspace_id=ws, clear_name=True))
        self.output(other, "true")
        listed = [w["workspace_id"] for w in self.site.call("workspace.list")["workspaces"]]
        self.assertEqual(set(listed), {ws, other})

    def test_its_machine_is_nobody_elses_to_use(self):
        ws = self.create()
        machine = self.output(ws, "hostname").strip()
        self.assertRegex(machine, "^[0-9a-f]{12}$")
        self.assertEqual(self.site.call("vm.list")["vms"], [])
        for method in ("vm.status", "vm.start", "vm.stop", "vm.delete", "vm.network_info"):
            self.refused("not_found", method, vm_id=machine)
        self.refused("not_found", "vm.exec", vm_id=machine, argv=["true"])
        self.assertEqual(self.output(ws, "hostname").strip(), machine)

    def test_time_puts_it_to_sleep_and_ends_it(self):
        sleeper = self.create(idle_seconds=1)
        self.output(sleeper, "echo here > file")
        self.site.until(lambda: self.site.call("workspace.status", workspace_id=sleeper)["state"] == "stopped", "the idle workspace sleeps")
        self.assertEqual(self.output(sleeper, "cat file"), "here\n")
        # While a command runs it is not idle.
        running = self.detach(sleeper, "sleep 3; cat file; echo done")
        result, out, _ = streamed(self.site, "exec.logs", workspace_id=sleeper, exec_id=running, follow=True)
        self.assertEqual((result["state"], out), ("exited", b"here\ndone\n"))
        brief = self.create(ttl_seconds=1)
        self.site.until(lambda: brief not in [w["workspace_id"] for w in self.site.call("workspace.list")["workspaces"]], "the TTL is over")
        self.refused("not_found", "exec.start", workspace_id=brief, command="true")
        self.assertEqual(self.site.call("workspace.reap_expired")["reaped"], [])

    def test_delete_works_from_every_state(self):
        for state in ("running", "busy", "stopped", "dead"):
            ws = self.create()
            if state == "busy":
                self.detach(ws, "sleep 100")
            if state == "stopped":
                self.site.call("workspace.stop", workspace_id=ws)
            if state == "dead":
                self.detach(ws, "echo c > /proc/sysrq-trigger; kill -9 -1; sleep 1; poweroff -f")
                for process in self.site.vm_processes():
                    os.kill(process, signal.SIGKILL)
            self.site.call("workspace.delete", workspace_id=ws)
            self.refused("not_found", "workspace.status", workspace_id=ws)
        # While it is made: the create fails, and nothing is left.
        call = Streamed(self.site, "workspace.create", environment="debian:12", seed=SEED)
        self.assertTrue(call.attached.wait(60))
        making = self.site.call("workspace.list")["workspaces"][0]
        self.assertEqual(making["state"], "creating")
        self.assertIn("still being made", self.refused("failed_precondition", "exec.start", workspace_id=making["workspace_id"], command="true"))
        self.site.call("workspace.delete", workspace_id=making["workspace_id"])
        call.send(tar_of({"a": b"a"}))
        call.end()
        with self.assertRaises(RpcError):
            call.wait()
        self.assertEqual(self.site.call("workspace.list")["workspaces"], [])

    # --- seeds

    def test_a_seed_is_taken_whole_or_not_at_all(self):
        whole = tar_of({"a": b"a" * 300000, "b": b"b"})
        call = Streamed(self.site, "workspace.create", environment="debian:12", seed=SEED)
        call.send(whole[:200000])
        call.leave()
        self.site.until(lambda: self.site.call("workspace.list")["workspaces"] == [], "the broken create is gone")
        # An end that is none: everything came, but nobody said that this was all.
        call = Streamed(self.site, "workspace.create", environment="debian:12", seed=SEED)
        call.send(whole)
        call.socket.shutdown(1)
        with self.assertRaises(RpcError) as raised:
            call.wait()
        self.assertEqual(raised.exception.code, "unavailable")
        for bad in (b"", b"x" * 10000, whole[:100000], tar_of({"../out": b"x"}), tar_of({"/abs": b"x"})):
            self.refused("invalid_argument", "workspace.create", bad, environment="debian:12", seed=SEED)
        self.assertEqual(self.site.call("workspace.list")["workspaces"], [])

    def test_the_same_seed_is_not_asked_for_twice_and_never_another_users(self):
        tree = {"f": b"content\n", "d": None, "d/l": ("link", "../f")}
        first = self.create(tree)
        digest = self.site.call("workspace.status", workspace_id=first)["seed_digest"]
        self.assertRegex(digest, "^sha256:[0-9a-f]{64}$")
        again = self.site.call("workspace.create", environment="debian:12", seed=SEED, seed_digest=digest)
        self.addCleanup(self.delete, again["workspace_id"])
        self.assertEqual(self.output(again["workspace_id"], "cat d/l; stat -c '%U %a %Y' f"), "content\nroot 644 1700000000\n")
        # What is not known is asked for, whatever the client says it is called.
        call = Streamed(self.site, "workspace.create", tar_of({"g": b"g"}), environment="debian:12", seed=SEED, seed_digest="sha256:" + "0" * 64)
        third = call.wait()
        self.addCleanup(self.delete, third["workspace_id"])
        self.assertIsNotNone(call.event)
        self.assertEqual(self.output(third["workspace_id"], "ls"), "g\n")
        self.assertNotEqual(third["seed_digest"], digest)

    # --- commands

    def test_streams_codes_and_places(self):
        ws = self.create({"sub": None})
        result, out, err = self.run_in(ws, "cat; echo err >&2; exit 7", stdin=b"in\0\xff" * 1000)
        self.assertEqual((result["exit_code"], out, err), (7, b"in\0\xff" * 1000, b"err\n"))
        self.assertEqual(self.output(ws, "pwd", cwd="sub"), "/workspace/sub\n")
        self.assertEqual(self.output(ws, "pwd", cwd="/tmp"), "/tmp\n")
        self.assertEqual(self.output(ws, "echo $A; id -un", env={"A": "b c"}, user="nobody"), "b c\nnobody\n")
        result, _, _ = streamed(self.site, "exec.start", workspace_id=ws, argv=["/no/such"])
        self.assertEqual(result["exit_code"], 127)
        result, _, _ = self.run_in(ws, "kill -KILL $$")
        self.assertEqual(result["signal"], 9)
        result, out, _ = self.run_in(ws, "echo begun; sleep 100", timeout_seconds=1)
        self.assertEqual((result["timed_out"], out), (True, b"begun\n"))
        self.assertNotIn("exit_code", result)
        result, _, _ = self.run_in(ws, "exec python3 -c 'kept = []\nwhile True: kept.append(b\"x\" * (16 << 20))'")
        self.assertTrue(result["oom"], result)
        self.assertEqual(self.output(ws, "echo alive"), "alive\n")
        self.refused("invalid_argument", "exec.start", workspace_id=ws)
        self.refused("invalid_argument", "exec.start", workspace_id=ws, argv=["true"], command="true")

    def test_a_terminal(self):
        ws = self.create()
        call = Streamed(self.site, "exec.start", workspace_id=ws, command="stty size; read line; echo got $line; tty", tty=True, cols=77, rows=33)
        call.until(b"33 77")
        call.send(b"hello\r")
        self.assertEqual(call.wait()["exit_code"], 0)
        self.assertIn(b"got hello", call.out)
        self.assertIn(b"/dev/pts/", call.out)

    def test_it_goes_on_when_its_client_dies_and_is_found_again(self):
        ws = self.create()
        call = Streamed(self.site, "exec.start", workspace_id=ws, interactive=True, command="echo one; read x; echo two $x; read y; echo three $y; sleep 0.2; exit 5")
        call.until(b"one\n")
        exec_id = call.event["exec_id"]
        call.leave()
        self.assertEqual(self.exec_info(ws, exec_id)["state"], "running")
        again = Streamed(self.site, "exec.attach", workspace_id=ws, exec_id=exec_id[:6], stdout_offset=2)
        again.until(b"e\n")
        again.send(b"X\n")
        again.until(b"two X\n")
        last = Streamed(self.site, "exec.attach", workspace_id=ws, exec_id=exec_id, stdout_offset=4)
        last.send(b"Y\n")
        for follower, seen in ((again, b"e\ntwo X\nthree Y\n"), (last, b"two X\nthree Y\n")):
            result = follower.wait()
            self.assertEqual((result["state"], result["exit_code"], follower.out), ("exited", 5, seen))
            self.assertEqual(result["stdout_bytes"], len(seen))
        result, out, _ = streamed(self.site, "exec.logs", workspace_id=ws)
        self.assertEqual((result["exec_id"], out), (exec_id, b"one\ntwo X\nthree Y\n"))
        self.refused("not_found", "exec.attach", workspace_id=ws, exec_id="ffff")

    def test_taking_the_call_back_ends_the_command(self):
        ws = self.create()
        call = Streamed(self.site, "exec.start", workspace_id=ws, command="(trap '' TERM INT; sleep 1000) & echo up; wait")
        call.until(b"up\n")
        call.cancel()
        with self.assertRaises(RpcError) as raised:
            call.wait()
        self.assertEqual(raised.exception.code, "cancelled")
        info = self.exec_info(ws, call.event["exec_id"])
        self.assertEqual((info["state"], info["cancelled"]), ("exited", True))
        self.assertEqual(self.output(ws, "pgrep -c sleep || true"), "0\n")

    def test_logs_wait_and_follow(self):
        ws = self.create()
        self.output(ws, "mkfifo /tmp/go")
        exec_id = self.detach(ws, "echo first; read x < /tmp/go; echo second; exit 3")
        result, out, _ = streamed(self.site, "exec.logs", workspace_id=ws, exec_id=exec_id, wait_seconds=60)
        self.assertEqual((out, result["state"]), (b"first\n", "running"))
        result, out, _ = streamed(self.site, "exec.logs", workspace_id=ws, exec_id=exec_id, stdout_offset=6, wait_seconds=1)
        self.assertEqual((out, result["state"]), (b"", "running"))
        waiting = Streamed(self.site, "exec.logs", workspace_id=ws, exec_id=exec_id, stdout_offset=6, wait_seconds=60)
        following = Streamed(self.site, "exec.logs", workspace_id=ws, exec_id=exec_id, follow=True)
        following.until(b"first\n")
        self.output(ws, "echo now > /tmp/go")
        result = following.wait()
        self.assertEqual((result["state"], result["exit_code"], following.out), ("exited", 3, b"first\nsecond\n"))
        waiting.wait()
        self.assertEqual(waiting.out, b"second\n")

    def test_of_much_output_head_and_tail_are_kept(self):
        ws = self.create()
        size = 6 << 20
        exec_id = self.detach(ws, f"head -c {size} /dev/zero | tr '\\0' x; echo; echo THE END")
        following = Streamed(self.site, "exec.logs", workspace_id=ws, exec_id=exec_id, follow=True)
        following.wait()
        info = self.exec_info(ws, exec_id)
        total = size + 9
        self.assertEqual(info["stdout_total"], total)
        kept = 2 << 20  # of this stream: half of the 4 MiB of both
        self.assertEqual(info["stdout_elided"], total - kept)
        result, out, _ = streamed(self.site, "exec.logs", workspace_id=ws, exec_id=exec_id)
        self.assertEqual((result["stdout_bytes"], len(out)), (kept, kept))
        self.assertTrue(out.endswith(b"x\nTHE END\n"))
        # Whoever started it and stays misses nothing, however slow.
        call = Streamed(self.site, "exec.start", workspace_id=ws, command=f"head -c {size} /dev/urandom | tee /tmp/sent; sha256sum < /tmp/sent >&2")
        call.wait()
        import hashlib
        self.assertEqual(hashlib.sha256(call.out).hexdigest().encode(), call.err.split()[0])

    def test_background_processes_are_allowed_and_seen(self):
        ws = self.create()
        self.assertEqual(self.output(ws, "sleep 1000 >/dev/null 2>&1 & sleep 1000 >/dev/null 2>&1 & echo left"), "left\n")
        self.assertEqual(self.site.call("workspace.status", workspace_id=ws)["background_processes"], 2)
        self.assertEqual(self.output(ws, "pgrep -c sleep; pkill sleep; true"), "2\n")
        self.site.until(lambda: self.site.call("workspace.status", workspace_id=ws)["background_processes"] == 0, "they are gone")

    def test_many_at_once_and_their_limit(self):
        ws = self.create()
        calls = [Streamed(self.site, "exec.start", workspace_id=ws, command=f"echo {i}; read x; echo $x {i}", interactive=True) for i in range(20)]
        for i, call in enumerate(calls):
            call.until(f"{i}\n".encode())
        self.assertEqual(self.site.call("workspace.status", workspace_id=ws)["running_execs"], 20)
        for i, call in enumerate(calls):
            call.send(b"line\n")
        for i, call in enumerate(calls):
            self.assertEqual(call.wait()["exit_code"], 0)
            self.assertEqual(call.out, f"{i}\nline {i}\n".encode())

    def test_kill(self):
        ws = self.create()
        exec_id = self.detach(ws, "trap 'echo usr1' USR1; trap 'echo term; exit 9' TERM; echo ready; while :; do sleep 0.05; done")
        following = Streamed(self.site, "exec.logs", workspace_id=ws, exec_id=exec_id, follow=True)
        following.until(b"ready\n")
        self.site.call("exec.kill", workspace_id=ws, exec_id=exec_id, signal="USR1")
        following.until(b"usr1\n")
        self.site.call("exec.kill", workspace_id=ws, exec_id=exec_id, signal="TERM")
        self.assertEqual(following.wait()["exit_code"], 9)
        stubborn = self.detach(ws, "trap '' TERM; sleep 1000; sleep 1000")
        self.assertEqual(self.site.call("exec.kill", workspace_id=ws, exec_id=stubborn)["state"], "exited")
        self.refused("failed_precondition", "exec.kill", workspace_id=ws, exec_id=stubborn)

    # --- files

    def test_files_are_listed_read_and_written(self):
        ws = self.create({"a": None, "a/b": b"b\n", "l": ("link", "a/b"), "out": ("link", "/etc/passwd")})
        self.assertEqual(self.write(ws, "new/deep/file", b"x" * 100000)["bytes_written"], 100000)
        self.write(ws, "/workspace/a/b", b"changed\n", mode="750")
        self.assertEqual(self.output(ws, "stat -c '%a %s' a/b new/deep/file"), "750 8\n644 100000\n")
        listed = self.site.call("file.list", workspace_id=ws, recursive=True)["entries"]
        self.assertEqual([(e["kind"], e["path"]) for e in listed],
                         [("directory", "a"), ("file", "a/b"), ("symlink", "l"), ("directory", "new"), ("directory", "new/deep"), ("file", "new/deep/file"), ("symlink", "out")])
        pages, cursor = [], {}
        while True:
            page = self.site.call("file.list", workspace_id=ws, recursive=True, limit=3, **cursor)
            pages += [e["path"] for e in page["entries"]]
            if "next_cursor" not in page:
                break
            cursor = {"cursor": page["next_cursor"]}
        self.assertEqual(pages, [e["path"] for e in listed])
        result, content, _ = streamed(self.site, "file.read", workspace_id=ws, path="new/deep/file", offset=99990, max_bytes=5)
        self.assertEqual((content, result["truncated"], result["size"]), (b"xxxxx", True, 100000))
        self.assertEqual(self.read(ws, "l"), b"changed\n")
        self.assertEqual(self.read(ws, "a/b", max_bytes=0), b"")
        for path in ("out", "../etc/passwd", "/etc/passwd", "a/../../etc/passwd", "no/such"):
            with self.assertRaises(RpcError):
                self.read(ws, path)
            if path != "no/such":
                with self.assertRaises(RpcError):
                    self.write(ws, path + ("/x" if path == "out" else ""), b"x")
        self.assertNotIn("x", self.output(ws, "cat /etc/passwd | head -c 1"))
        self.assertEqual(self.refused("not_found", "file.read", workspace_id=ws, path="no\nsuch")[:5], "read ")

    def test_a_write_that_breaks_off_changes_nothing(self):
        ws = self.create({"f": b"before\n"})
        call = Streamed(self.site, "file.write", workspace_id=ws, path="f")
        call.send(b"half")
        call.leave()
        self.assertEqual(self.read(ws, "f"), b"before\n")
        self.assertEqual(self.output(ws, "ls -A"), "f\n")
        call = Streamed(self.site, "workspace.sync_push", workspace_id=ws)
        call.send(tar_of({"f": b"other", "g": b"y" * 500000})[:100000])
        call.leave()
        self.site.until(lambda: self.output(ws, "ls -A") == "f\n", "the half sync is undone")
        self.assertEqual(self.read(ws, "f"), b"before\n")

    def test_sync_and_export(self):
        ws = self.create({"f": b"before\n"})
        done, _, _ = streamed(self.site, "workspace.sync_push", tar_of({"d": None, "d/x": b"1", "f": b"after\n"}), workspace_id=ws, dest="/workspace/in/here")
        self.assertEqual((done["files"], done["directories"]), (2, 1))
        self.assertEqual(self.output(ws, "cat f in/here/f; ls in/here/d"), "before\nafter\nx\n")
        done, tar, _ = streamed(self.site, "workspace.export", workspace_id=ws, path="in")
        import io
        import tarfile
        with tarfile.open(fileobj=io.BytesIO(tar)) as got:
            names = {m.name.rstrip("/") for m in got.getmembers()}
        self.assertEqual(names, {"in", "in/here", "in/here/d", "in/here/d/x", "in/here/f"})
        self.assertEqual(done["notes"], [])
        # What is taken out is said to be other than what was last shown, when it is.
        streamed(self.site, "workspace.diff", workspace_id=ws)
        self.assertEqual(streamed(self.site, "workspace.export", workspace_id=ws, path="in")[0]["notes"], [])
        self.output(ws, "echo later >> in/here/f")
        self.assertEqual(streamed(self.site, "workspace.export", workspace_id=ws, path="in")[0]["notes"], ["the workspace has changed since its last diff"])
        self.assertEqual(self.site.call("workspace.summary", workspace_id=ws)["exports"], 3)

    # --- others

    def test_another_user_finds_nothing(self):
        ws = self.create({"secret": b"of root\n"}, name="mine")
        digest = self.site.call("workspace.status", workspace_id=ws)["seed_digest"]
        exec_id = self.detach(ws, "echo private; sleep 100")
        site = self.site

        def act():
            said = {}

            def tried(what, method, stdin=None, **params):
                try:
                    said[what] = streamed(site, method, stdin, **params)[0]
                except RpcError as e:
                    said[what] = e.code

            for key in (ws, ws[:6], "mine"):
                tried(f"status {key}", "workspace.status", workspace_id=key)
            tried("list", "workspace.list")
            for method in ("workspace.start", "workspace.stop", "workspace.reset", "workspace.delete", "workspace.summary", "workspace.diff", "workspace.export",
                           "workspace.sync_push", "workspace.patch_apply", "exec.list", "file.list"):
                tried(method, method, b"" if method in ("workspace.sync_push", "workspace.patch_apply") else None, workspace_id=ws)
            tried("update", "workspace.update", workspace_id=ws, clear_name=True)
            tried("exec", "exec.start", workspace_id=ws, argv=["id"])
            tried("read", "file.read", workspace_id=ws, path="secret")
            tried("write", "file.write", b"x", workspace_id=ws, path="secret")
            for method in ("exec.attach", "exec.kill", "exec.logs"):
                tried(method, method, workspace_id=ws, exec_id=exec_id)
            # The same digest is no way to another user's files: what he has not sent is asked for.
            call = Streamed(site, "workspace.create", environment="debian:12", seed=SEED, seed_digest=digest)
            said["asked for the seed"] = call.attached.wait(60) and call.event is not None
            call.leave()
            return said

        said = children.as_uid(self, 65533, act, groups=[os.stat(self.site.socket).st_gid])
        self.assertEqual(said.pop("list"), {"workspaces": []})
        self.assertTrue(said.pop("asked for the seed"))
        self.assertEqual(set(said.values()), {"not_found"}, said)
        self.site.until(lambda: len(self.site.call("workspace.list")["workspaces"]) == 1, "the other user's half create is gone")
        self.assertEqual(self.read(ws, "secret"), b"of root\n")
        self.assertEqual(self.exec_info(ws, exec_id)["state"], "running")

    # --- limits of the guest

    def test_a_full_guest_stays_usable(self):
        ws = self.create()
        result, _, err = self.run_in(ws, "i=0; while mkdir -p d$i && touch d$i/a d$i/b; do i=$((i+1)); done 2>&1 | tail -1; df -i . | tail -1", timeout_seconds=20)
        self.run_in(ws, "dd if=/dev/zero of=/fill bs=1M count=100000 2>/dev/null; echo full > file")
        with self.assertRaises(RpcError) as raised:
            self.write(ws, "big", b"x" * 1000000)
        self.assertEqual(raised.exception.code, "quota_exceeded", raised.exception)
        self.site.call("workspace.reset", workspace_id=ws)
        self.assertEqual(self.output(ws, "ls -A; echo ok"), "ok\n")

    def test_a_fork_bomb_is_ended(self):
        ws = self.create()
        call = Streamed(self.site, "exec.start", workspace_id=ws, command="f() { f | f & }; f; echo lit; wait", timeout_seconds=5)
        try:
            call.wait()
        except RpcError:
            pass
        self.site.call("workspace.reset", workspace_id=ws)
        self.assertEqual(self.output(ws, "echo ok"), "ok\n")

    # --- the daemon goes and comes

    def dies_at(self, point, method, **params):
        """And comes back."""
        self.site.stop()
        self.site.start({"PYRO_CRASH_AT": point})
        with self.assertRaises((EOFError, OSError)):
            self.site.call(method, **params)
        self.site.daemon.wait(60)
        self.site.start()

    def test_a_restart_loses_nothing(self):
        ws = self.create({"f": b"f"}, name="lasting", labels={"a": "b"}, ttl_seconds=3600)
        sleeping = self.create(name="sleeping")
        self.output(sleeping, "echo slept > file")
        self.site.call("workspace.stop", workspace_id=sleeping)
        counting = self.detach(ws, "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; sleep 1; echo end; exit 4")
        stdin = Streamed(self.site, "exec.start", workspace_id=ws, command="while read x; do echo $x; done; echo over", interactive=True)
        stdin.send(b"before\n")
        stdin.until(b"before\n")
        for way in (self.site.kill, self.site.stop):
            before = self.site.call("workspace.status", workspace_id=ws)
            way()
            self.site.start()
            after = self.site.call("workspace.status", workspace_id="lasting")
            for same in ("workspace_id", "name", "labels", "state", "created_at", "expires_at", "seed_digest"):
                self.assertEqual(after[same], before[same])
        result, out, _ = streamed(self.site, "exec.logs", workspace_id=ws, exec_id=counting, follow=True)
        self.assertEqual((result["state"], result["exit_code"]), ("exited", 4))
        self.assertEqual(out.decode(), "".join(f"line {i}\n" for i in range(3000)) + "end\n")
        again = Streamed(self.site, "exec.attach", workspace_id=ws, exec_id=stdin.event["exec_id"])
        again.until(b"before\n")
        again.send(b"after\n")
        again.until(b"after\n")
        again.end()
        self.assertEqual(again.wait()["exit_code"], 0)
        self.assertEqual(again.out, b"before\nafter\nover\n")
        self.assertEqual(self.output("sleeping", "cat file"), "slept\n")
        self.assertEqual(self.output(ws, "cat f"), "f")

    def test_a_machine_that_dies_loses_its_commands_and_nothing_else(self):
        ws = self.create()
        self.output(ws, "echo synced > file; sync")
        exec_id = self.detach(ws, "echo begun; sleep 1000")
        self.run_in(ws, "true")
        for process in self.site.vm_processes():
            os.kill(process, signal.SIGKILL)
        self.site.until(lambda: self.exec_info(ws, exec_id)["state"] == "lost", "the command is known to be lost")
        self.assertEqual(self.output(ws, "cat file"), "synced\n")
        # With the daemon away at the same time, as after a crash of the host.
        exec_id = self.detach(ws, "sleep 1000")
        self.site.kill()
        for process in self.site.vm_processes():
            os.kill(process, signal.SIGKILL)
        self.site.start()
        self.assertEqual(self.exec_info(ws, exec_id)["state"], "lost")
        self.assertEqual(self.output(ws, "cat file"), "synced\n")

    def test_a_daemon_killed_at_any_step_leaves_all_or_nothing(self):
        for point in ("machine_recorded", "process_started", "workspace_machine", "workspace_recorded"):
            with self.subTest(create=point):
                self.dies_at(point, "workspace.create", environment="debian:12", name="half")
                there = self.site.call("workspace.list")["workspaces"]
                self.assertEqual([w["name"] for w in there], ["half"] if point == "workspace_recorded" else [])
                for one in there:
                    self.assertEqual(self.output(one["workspace_id"], "echo works"), "works\n")
                    self.site.call("workspace.delete", workspace_id=one["workspace_id"])
        for point, changed in (("workspace_reset_machine", True), ("workspace_reset", False)):
            with self.subTest(reset=point):
                ws = self.create()
                self.output(ws, "echo x > x; sync")
                self.dies_at(point, "workspace.reset", workspace_id=ws)
                self.assertEqual(self.output(ws, "ls"), "x\n" if changed else "")
                self.site.call("workspace.delete", workspace_id=ws)
        ws = self.create()
        self.dies_at("workspace_disk_removed", "workspace.delete", workspace_id=ws)
        self.delete(ws)


if __name__ == "__main__":
    unittest.main()
