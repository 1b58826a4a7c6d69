#!/usr/bin/env python3
"""`pyro mcp serve` on its wire, against real VMs: the loop, time, output, what of the host a model may touch, many at once."""
import base64
import contextlib
import ctypes
import http.server
import io
import json
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "support"))
import pyro_site  # noqa: E402
import site_case  # noqa: E402
from mcp_shim import Shim, ToolError, WAIT, checkout, git  # noqa: E402
from streams import Streamed, tar_of  # noqa: E402

FILES = {"src/a.txt": "one\ntwo\nthree\n", "test.sh": "grep -q 2 src/a.txt\n", ".gitignore": "*.o\n"}
PATCH = "--- a/src/a.txt\n+++ b/src/a.txt\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n"
MALLORY = 12346
LIMIT = 45  # seconds: no call takes longer


class Mcp(site_case.SiteCase):
    config = "[templates]\nenabled = true\n"

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="pyro-mcp-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.folder.chmod(0o755)
        self.home = self.folder / "home"
        (self.home / ".ssh").mkdir(parents=True)
        (self.home / ".ssh" / "id").write_text("SECRET\n")
        (self.home / ".bashrc").write_text("mine\n")
        self.temporary = self.folder / "tmp"
        self.temporary.mkdir()
        self.temporary.chmod(0o1777)
        self.project = checkout(self.folder / "project", FILES)
        (self.project / "x.o").write_text("ignored")
        self.addCleanup(self.delete_all)

    def delete_all(self):
        for workspace in self.site.call("workspace.list")["workspaces"]:
            self.site.call("workspace.delete", workspace_id=workspace["workspace_id"])

    def shim(self, *args, cwd=None, **options):
        # What a killed one was packing lies in TMPDIR.
        env = options.pop("env", None) or {**self.site.env, "HOME": str(self.home), "TMPDIR": str(self.temporary)}
        return Shim(self, *args, cwd=cwd or self.project, env=env, **options)

    def create(self, shim, **params):
        made = shim.call("workspace_create", environment="debian:12", **params)
        self.assertEqual(made["state"], "running")
        return made["workspace_id"]

    def refused(self, code, shim, tool, **arguments):
        with self.assertRaises(ToolError) as caught:
            shim.call(tool, **arguments)
        self.assertEqual(caught.exception.code, code, caught.exception)
        self.assertEqual(sorted(caught.exception.error), ["code", "details", "hint", "message", "retryable"])
        self.assertTrue(caught.exception.error["hint"], caught.exception)
        return caught.exception.error

    # --- the loop

    def test_the_loop(self):
        shim = self.shim()
        made = shim.call("workspace_create", environment="debian:12", name="fix", labels={"task": "1"})
        ws = made["workspace_id"]
        self.assertEqual((made["seed"]["source"], made["seed"]["branch"], made["seed"]["path"]), ("checkout", "main", str(self.project)))
        self.assertGreaterEqual(made["seed"]["files"], len(FILES))
        self.assertEqual([one["workspace_id"] for one in shim.call("workspace_list", labels={"task": "1"})["workspaces"]], [ws])
        failed = shim.call("workspace_exec", workspace_id="fix", command="ls; git status --short; sh test.sh")
        self.assertEqual((failed["exit_code"], failed["state"], failed["stdout"]), (1, "exited", "src\ntest.sh\n"))
        self.assertEqual(shim.call("workspace_file_read", workspace_id=ws, path="src/a.txt")["content"], FILES["src/a.txt"])
        self.assertEqual(shim.call("workspace_patch_apply", workspace_id=ws, patch=PATCH)["changes"][0]["path"], "src/a.txt")
        self.assertIn("expected at line 1", self.refused("failed_precondition", shim, "workspace_patch_apply", workspace_id=ws, patch=PATCH)["details"]["rejections"])
        self.assertEqual(shim.call("workspace_exec", workspace_id=ws, command="sh test.sh")["exit_code"], 0)
        self.assertEqual(shim.call("workspace_file_write", workspace_id=ws, path="new/note", text="note \u20ac\n")["bytes_written"], 9)
        entries = shim.call("workspace_file_list", workspace_id=ws, path="new")["entries"]
        self.assertEqual([(one["path"], one["size"]) for one in entries], [("new/note", 9)])
        diff = shim.call("workspace_diff", workspace_id=ws)
        self.assertEqual([(one["kind"], one["path"]) for one in diff["changes"]], [("added", "new/note"), ("modified", "src/a.txt")])
        only = shim.call("workspace_diff", workspace_id=ws, paths=["src"])
        exported = shim.call("workspace_export", workspace_id=ws, path="src", output_path="fix.patch")
        self.assertEqual(pathlib.Path(exported["output_path"]).read_text(), only["patch"])
        (self.project / "fix.patch").unlink()
        link = shim.start("workspace_export", workspace_id=ws, path="src/a.txt", output_path="an a").wait()["content"][1]
        self.assertEqual((link["type"], link["uri"], link["name"]), ("resource_link", f"file://{self.project}/an%20a", "an a"))
        (self.project / "an a").unlink()
        subprocess.run(["git", "-C", self.project, "apply", "-"], input=diff["patch"].encode(), check=True)
        self.assertEqual((self.project / "src/a.txt").read_text(), "one\n2\nthree\n")
        summary = shim.call("workspace_summary", workspace_id=ws)
        self.assertEqual([one["exit_code"] for one in summary["execs"]], [0, 1])
        self.assertEqual(summary["changes_total"], 2)
        self.assertEqual(shim.call("workspace_export", workspace_id=ws, path="new", output_path="out")["files"], 1)
        self.assertEqual((self.project / "out" / "note").read_text(), "note \u20ac\n")
        (self.folder / "outside").mkdir()
        self.assertEqual(shim.call("workspace_sync_push", workspace_id=ws, source_path="out", dest="/workspace/pushed")["files"], 1)
        self.assertEqual(shim.call("workspace_exec", workspace_id=ws, command="cat note", cwd="pushed", env={"A": "b"})["stdout"], "note \u20ac\n")
        self.assertEqual(shim.call("workspace_update", workspace_id=ws, clear_name=True, clear_labels=["task"])["labels"], {})
        self.assertEqual(shim.call("workspace_reset", workspace_id=ws)["state"], "running")
        self.assertEqual(shim.call("workspace_diff", workspace_id=ws)["patch"], "")
        self.assertEqual(shim.call("workspace_status", workspace_id=ws)["running_execs"], 0)
        self.assertEqual(shim.call("workspace_delete", workspace_id=ws), {"workspace_id": ws})
        self.assertIn("workspace_list", self.refused("not_found", shim, "workspace_status", workspace_id=ws)["hint"])
        self.assertEqual(shim.end(), 0)

    def test_one_run(self):
        shim = self.shim("--profile", "vm-run", "--environment", "debian:12")
        self.assertEqual([one["name"] for one in shim.request("tools/list").wait()["tools"]], ["vm_run"])
        result = shim.call("vm_run", command="echo out; echo err >&2; ls /workspace; exit 3")
        self.assertEqual((result["exit_code"], result["stdout"], result["execution_mode"][:5]), (3, "out\n", "guest"))
        self.assertTrue(result["stderr"].startswith("err\n"))
        self.assertTrue(shim.call("vm_run", command="sleep 1000", timeout_seconds=1)["timed_out"])
        self.refused("not_found", shim, "vm_run", command="true", run_id="op-nothing")
        self.assertEqual(self.site.call("vm.list")["vms"], [])

    def test_arguments_are_checked(self):
        shim = self.shim()
        for tool, arguments in (("workspace_exec", {"workspace_id": "x"}), ("workspace_exec", {"workspace_id": "x", "command": 1}), ("workspace_logs", {"workspace_id": "x", "wait_seconds": 46}),
                                ("vm_run", {"environment": "debian:12", "command": "true", "network": True}), ("workspace_create", {"environment": "debian:12", "secrets": {"A": "/etc/shadow"}}),
                                ("workspace_logs", {"workspace_id": "x", "cursor": "nonsense"}), ("workspace_file_read", {"workspace_id": "x", "path": "y", "max_bytes": 1 << 21})):
            with self.assertRaises(ToolError) as caught:
                shim.call(tool, **arguments)
            self.assertEqual(caught.exception.code, "invalid_argument", (tool, arguments))
        error = self.refused("failed_precondition", shim, "vm_run", environment="debian:12", command="true", allow_host_compat=True)
        self.assertIn("--allow-host-compat", error["message"])
        self.assertEqual(self.site.call("workspace.list")["workspaces"], [])

    # --- without a daemon

    def test_starting_needs_nothing_and_leaves_nothing(self):
        before = sorted(self.home.rglob("*"))
        scrubbed = {name: os.environ[name] for name in ("LANG", "PATH", "SHELL", "TERM", "TMPDIR", "USER") if name in os.environ}
        shim = self.shim("--socket", str(self.folder / "nobody"), "--project-path", "/nowhere", cwd="/", env={**scrubbed, "HOME": str(self.home)})
        self.assertEqual(len(shim.request("tools/list").wait()["tools"]), 18)
        self.assertEqual(shim.request("resources/list").wait()["resources"][0]["uri"], "pyro://workspaces")
        self.assertEqual(len(shim.request("resources/templates/list").wait()["resourceTemplates"]), 4)
        error = self.refused("unavailable", shim, "workspace_list")
        self.assertTrue(error["retryable"])
        self.assertIn("pyrod is not running", error["message"])
        self.assertEqual(shim.end(), 0)
        self.assertEqual(shim.process.stderr.read(), b"")
        self.assertEqual(sorted(self.home.rglob("*")), before)
        # With the socket named, that is all it needs.
        shim = self.shim("--socket", str(self.site.socket), env={**scrubbed, "HOME": str(self.home)})
        self.assertEqual(shim.call("workspace_list"), {"workspaces": []})

    def test_usage(self):
        for args, status, words in ((["--profile", "all"], 2, b"no profile"), (["--mode", "cold-start"], 125, b"services"), (["--mode", "review-eval"], 125, b"snapshots"), (["--help"], 0, b"")):
            done = self.site.pyro("mcp", "serve", *args)
            self.assertEqual(done.returncode, status, args)
            self.assertIn(words, done.stderr)
        for mode, count in (("repro-fix", 17), ("inspect", 9)):
            self.assertEqual(len(self.shim("--mode", mode).request("tools/list").wait()["tools"]), count)

    # --- output

    def behind_link(self, shim, result):
        """What the resource holds that a cut result links."""
        text, link = result["content"]
        self.assertEqual(json.loads(text["text"]), result["structuredContent"])
        self.assertEqual(link["type"], "resource_link")
        contents, = shim.request("resources/read", {"uri": link["uri"]}).wait()["contents"]
        self.assertEqual(contents["uri"], link["uri"])
        self.assertEqual(link.get("size", len(contents["text"].encode())), len(contents["text"].encode()))
        return contents["text"]

    def test_output_is_text_that_fits(self):
        shim = self.shim()
        ws = self.create(shim)
        odd = shim.call("workspace_exec", workspace_id=ws, command=r"printf '\033[31mred\033[0m \377\n'; printf 'fine' >&2")
        self.assertEqual((odd["stdout"], odd["stderr"], odd["truncated"]), ("red \ufffd\n", "fine", False))
        self.assertIn("no UTF-8", odd["notes"][0])
        raw = shim.call("workspace_logs", workspace_id=ws, exec_id=odd["exec_id"], keep_ansi=True)
        self.assertEqual(raw["stdout"], "\033[31mred\033[0m \ufffd\n")
        many = shim.start("workspace_exec", workspace_id=ws, command="seq 1 30000; echo error >&2").wait()
        self.assertLess(len(json.dumps(many["structuredContent"])), 32_000)
        whole = "".join(f"{i}\n" for i in range(1, 30001))
        self.assertEqual(sorted(self.behind_link(shim, many)), sorted(whole + "error\n"))  # the streams come as they like
        self.assertEqual(len(shim.start("workspace_exec", workspace_id=ws, command="echo little").wait()["content"]), 1)
        many = many["structuredContent"]
        self.assertTrue(many["truncated"] and many["stdout"].startswith("1\n2\n") and many["stdout"].endswith("29999\n30000\n"))
        self.assertRegex(many["stdout"], r"\[\d+ bytes left out; workspace_logs with exec_id \w+ has all of it\]")
        self.assertEqual(many["stderr"], "error\n")
        cursor, out, err = {}, "", ""
        while True:  # all of it, page by page
            page = shim.call("workspace_logs", workspace_id=ws, exec_id=many["exec_id"], **cursor)
            out, err = out + page["stdout"], err + page["stderr"]
            self.assertLess(len(json.dumps(page)), 32_000)
            if "cursor" not in page:
                break
            cursor = {"cursor": page["cursor"]}
        self.assertEqual((out, err), (whole, "error\n"))
        run = shim.call("vm_run", environment="debian:12", command="seq 1 30000")
        self.assertTrue(run["truncated"] and run["stdout"].endswith("30000\n"))

    def test_files_in_pieces(self):
        shim = self.shim("--no-project-source")
        made = shim.call("workspace_create", environment="debian:12")
        self.assertIn("/workspace is empty", made["notes"][0])
        ws = made["workspace_id"]
        text = "\u20ac" * 30_000
        shim.call("workspace_file_write", workspace_id=ws, path="euros", text=text)
        got, offset = "", 0
        while True:
            page = shim.call("workspace_file_read", workspace_id=ws, path="euros", offset=offset)
            self.assertEqual(page["encoding"], "utf-8")
            self.assertLessEqual(len(page["content"].encode()), 24 << 10)
            got += page["content"]
            if "next_offset" not in page:
                break
            offset = page["next_offset"]
        self.assertEqual(got, text)
        self.assertEqual(self.behind_link(shim, shim.start("workspace_file_read", workspace_id=ws, path="euros").wait()), text)
        shim.call("workspace_file_write", workspace_id=ws, path="a dir/50% {+x}?#\u20ac", text=text)
        self.assertEqual(self.behind_link(shim, shim.start("workspace_file_read", workspace_id=ws, path="a dir/50% {+x}?#\u20ac").wait()), text)
        shim.call("workspace_exec", workspace_id=ws, command="rm -r 'a dir'")
        self.assertEqual(shim.call("workspace_file_read", workspace_id=ws, path="euros", max_bytes=1 << 20)["content"], text)
        shim.call("workspace_exec", workspace_id=ws, command=r"printf '\0\377\376' > bin; for i in $(seq 1 400); do : > $(printf 'a-rather-long-name-of-a-file-number-%03d' $i); done; mkdir big; seq 1 9000 > big/a; seq 1 100 > big/b")
        binary = shim.call("workspace_file_read", workspace_id=ws, path="bin")
        self.assertEqual((binary["encoding"], base64.b64decode(binary["content"])), ("base64", b"\0\377\376"))
        names, cursor = [], {}
        while True:
            page = shim.call("workspace_file_list", workspace_id=ws, **cursor)
            self.assertLess(len(json.dumps(page)), 31_000)
            names += [one["path"] for one in page["entries"]]
            if "next_cursor" not in page:
                break
            cursor = {"cursor": page["next_cursor"]}
        self.assertEqual((len(names), len(set(names))), (403, 403))
        diff = shim.call("workspace_diff", workspace_id=ws, paths=["big"])
        self.assertEqual([one["path"] for one in diff["changes"]], ["big/a", "big/b"])
        self.assertIn("+++ b/big/b", diff["patch"])
        self.assertNotIn("+++ b/big/a", diff["patch"])
        self.assertIn("workspace_export", diff["notes"][0])
        self.assertIn("+++ b/big/a", self.behind_link(shim, shim.start("workspace_diff", workspace_id=ws).wait()))
        self.assertLess(len(json.dumps(shim.call("workspace_diff", workspace_id=ws))), 33_000)

    # --- time

    def process_of(self, workspace):
        """The pid of the workspace's QEMU, by the daemon's own records."""
        with contextlib.closing(sqlite3.connect(self.site.state / "pyro.db")) as db:
            machine, = db.execute("SELECT machine_id FROM workspaces WHERE id = ?", (workspace,)).fetchone()
        with contextlib.closing(sqlite3.connect(self.site.run_dir / "run.db")) as db:
            return db.execute("SELECT pid FROM machines WHERE id = ?", (machine,)).fetchone()[0]

    def runs(self):
        """Machines that are no workspace's."""
        with contextlib.closing(sqlite3.connect(self.site.state / "pyro.db")) as db:
            of_workspaces = {machine for (machine,) in db.execute("SELECT machine_id FROM workspaces")}
        return [one for one in self.site.call("vm.list")["vms"] if one["vm_id"] not in of_workspaces]

    def test_no_call_takes_long(self):
        """Everything that takes longer than a call may, at once."""
        shim = self.shim()
        frozen = self.create(shim, name="frozen")
        busy = self.create(shim, name="busy")
        process = self.process_of(frozen)
        began = time.monotonic()
        command = shim.start("workspace_exec", workspace_id=busy, command="echo first; sleep 55; echo second; exit 7", timeout_seconds=0)
        run = shim.start("vm_run", environment="debian:12", command="echo first; sleep 50; echo second; exit 8", timeout_seconds=100)
        os.kill(process, signal.SIGSTOP)
        try:
            patch = shim.start("workspace_patch_apply", workspace_id=frozen, patch=PATCH)
            status = shim.start("workspace_file_list", workspace_id=frozen)
            command_result, run_result = shim.content(command.wait()), shim.content(run.wait())
            patch_result, list_result = shim.content(patch.wait()), shim.content(status.wait())
            # The daemon bounds what it waits for a guest; here the guest is what is slow.
            took = time.monotonic() - began
            self.assertLess(took, LIMIT + 10)
        finally:
            os.kill(process, signal.SIGCONT)
        self.assertEqual((command_result["state"], command_result["stdout"]), ("running", "first\n"))
        self.assertEqual((run_result["state"], run_result["stdout"], run_result["cursor"]), ("running", "first\n", "6:0"))
        for answer in (patch_result, list_result):
            self.assertEqual(answer["state"], "running")
            self.assertIn("phase", answer)
        # About once a second, and growing.
        steps = [one["progress"] for one in command.progress]
        self.assertEqual(steps, sorted(set(steps)))
        self.assertGreater(len(steps), 30)
        # Repeated, they go on and are not begun again: the patch would not fit twice.
        again = shim.call("workspace_patch_apply", workspace_id="frozen", patch=PATCH, operation_id=patch_result["operation_id"])
        self.assertEqual(again["changes"][0]["path"], "src/a.txt")
        self.assertEqual(len(shim.call("workspace_file_list", workspace_id="frozen", operation_id=list_result["operation_id"])["entries"]), 4)
        self.refused("not_found", shim, "workspace_patch_apply", workspace_id="frozen", patch=PATCH, operation_id=patch_result["operation_id"])
        self.refused("not_found", shim, "workspace_reset", workspace_id="frozen", operation_id=list_result["operation_id"])
        ended = shim.call("vm_run", environment="debian:12", command="echo first", run_id=run_result["run_id"])
        self.assertEqual((ended["state"], ended["exit_code"], ended["stdout"]), ("exited", 8, "first\nsecond\n"))
        rest = shim.call("workspace_logs", workspace_id=busy, exec_id=command_result["exec_id"], cursor=command_result["cursor"], wait_seconds=45)
        self.assertEqual((rest["state"], rest["exit_code"], rest["stdout"]), ("exited", 7, "second\n"))
        self.assertNotIn("cursor", rest)

    def test_waiting_for_a_workspace(self):
        """One that another client makes: as long as that takes, or as long as was asked for."""
        shim = self.shim()
        made = Streamed(self.site, "workspace.create", environment="debian:12", name="slow", seed={"source": "directory", "path": "/x"})
        self.assertTrue(made.attached.wait(WAIT))
        self.assertEqual(shim.call("workspace_status", workspace_id="slow")["state"], "creating")
        self.assertEqual(shim.call("workspace_status", workspace_id="slow", wait_seconds=1)["state"], "creating")
        waiting = [shim.start("workspace_status", workspace_id="slow", wait_seconds=45) for _ in range(3)]
        shim.cancel(waiting.pop())
        made.send(tar_of({"a": b"a"}))
        made.end()
        self.assertEqual([shim.content(one.wait())["state"] for one in waiting], ["running", "running"])
        made.wait()
        self.assertEqual(shim.call("workspace_status", workspace_id="slow", wait_seconds=45)["state"], "running")
        # And one that comes to nothing.
        for end in ("leave", "delete"):
            made = Streamed(self.site, "workspace.create", environment="debian:12", name="never", seed={"source": "directory", "path": "/x"})
            self.assertTrue(made.attached.wait(WAIT))
            waiting = shim.start("workspace_status", workspace_id="never", wait_seconds=45)
            self.assertEqual(shim.call("workspace_status", workspace_id="never", wait_seconds=0)["state"], "creating")
            if end == "delete":
                self.site.call("workspace.delete", workspace_id="never")
            made.leave()
            with self.assertRaises(ToolError) as caught:
                shim.content(waiting.wait())
            self.assertEqual(caught.exception.code, "not_found")

    def test_waiting_for_a_workspace_that_this_server_makes(self):
        """It answers creating while it clones, when the daemon knows of nothing yet."""
        going_on, project = threading.Event(), self.project

        class Slow(http.server.BaseHTTPRequestHandler):
            """Git's smart protocol, of one repository."""

            def answer(self, kind, said, head=b"", *options):
                self.send_response(200)
                self.send_header("Content-Type", f"application/x-git-upload-pack-{kind}")
                self.end_headers()
                env = {**os.environ, "GIT_PROTOCOL": self.headers.get("Git-Protocol", "")}
                self.wfile.write(head + subprocess.run(["git", "upload-pack", "--stateless-rpc", *options, project], input=said, stdout=subprocess.PIPE, env=env, check=True).stdout)

            def do_GET(self):
                going_on.wait(WAIT)
                self.answer("advertisement", b"", b"001e# service=git-upload-pack\n0000", "--advertise-refs")

            def do_POST(self):
                self.answer("result", self.rfile.read(int(self.headers["Content-Length"])))

            def log_message(self, *_):
                pass
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            self.addCleanup(server.shutdown)
            shim = self.shim("--repo-url", f"http://127.0.0.1:{server.server_address[1]}/", cwd="/")
            answer = shim.call("workspace_create", environment="debian:12", name="cloned")
            self.assertEqual((answer["state"], answer["phase"]), ("creating", "clone"))
            for key in (answer["operation_id"], "cloned"):
                self.assertEqual(shim.call("workspace_status", workspace_id=key), answer)
                self.assertEqual(shim.call("workspace_status", workspace_id=key, wait_seconds=1), answer)
            taken_back = shim.start("workspace_status", workspace_id="cloned", wait_seconds=45)
            shim.cancel(taken_back)  # that ends the wait, not the create
            waiting = shim.start("workspace_status", workspace_id="cloned", wait_seconds=45)
            going_on.set()
            made = shim.content(waiting.wait())
            self.assertEqual((made["state"], made["name"]), ("running", "cloned"))
            self.assertEqual(shim.call("workspace_status", workspace_id=answer["operation_id"])["workspace_id"], made["workspace_id"])
            again = shim.call("workspace_create", environment="debian:12", name="cloned", operation_id=answer["operation_id"])
            self.assertEqual((again["workspace_id"], again["seed"]["source"]), (made["workspace_id"], "checkout"))
            self.assertEqual(len(shim.call("workspace_list")["workspaces"]), 1)

    def test_waiting_for_a_command(self):
        shim = self.shim()
        ws = self.create(shim)
        other = self.shim()
        waiting = other.start("workspace_exec", workspace_id=ws, command="echo begun; while [ ! -e go ]; do sleep 0.1; done; echo done", timeout_seconds=0)
        self.site.until(lambda: any(one["running_execs"] for one in shim.call("workspace_list")["workspaces"]), "it runs")
        self.site.until(lambda: shim.call("workspace_logs", workspace_id=ws)["stdout"], "it has begun")
        late = shim.call("workspace_logs", workspace_id=ws, wait_seconds=1)
        self.assertEqual((late["state"], late["stdout"], late["cursor"]), ("running", "begun\n", "6:0"))
        ended = shim.start("workspace_logs", workspace_id=ws, cursor="6:0", wait_seconds=45)
        shim.call("workspace_file_write", workspace_id=ws, path="go", text="")
        self.assertEqual(shim.content(ended.wait())["stdout"], "done\n")
        self.assertEqual(other.content(waiting.wait())["stdout"], "begun\ndone\n")

    def running(self, ws):
        return [one for one in self.site.call("exec.list", workspace_id=ws)["execs"] if one["state"] == "running" and one["stdout_total"] > 0]

    def test_cancelling_ends_the_command(self):
        shim = self.shim()
        ws = self.create(shim)
        command = shim.start("workspace_exec", workspace_id=ws, command="echo begun; sleep 1000", timeout_seconds=0)
        self.site.until(lambda: self.running(ws), "it runs")
        shim.cancel(command)
        self.site.until(lambda: not self.running(ws), "it was ended")
        self.assertTrue(self.site.call("exec.list", workspace_id=ws, all=True)["execs"][0]["cancelled"])
        self.assertEqual(shim.call("workspace_exec", workspace_id=ws, command="pgrep -x sleep")["exit_code"], 1)
        run = shim.start("vm_run", environment="debian:12", command="sleep 1000", timeout_seconds=0)
        self.site.until(lambda: [one for one in self.runs() if one["state"] == "running"], "it runs")
        shim.cancel(run)
        self.site.until(lambda: not self.runs(), "its machine is gone")
        # By a tool: of a command that another call waits for.
        command = shim.start("workspace_exec", workspace_id=ws, command="echo begun; sleep 1000", timeout_seconds=0)
        exec_id = self.site.until(lambda: self.running(ws), "it runs")[0]["exec_id"]
        self.assertEqual(shim.call("workspace_exec_cancel", workspace_id=ws, exec_id=exec_id)["state"], "exited")
        self.assertEqual(shim.content(command.wait())["signal"], 9)

    def test_killing_the_server_harms_nothing(self):
        shim = self.shim()
        ws = self.create(shim)
        shim.start("workspace_exec", workspace_id=ws, command="echo begun; while [ ! -e go ]; do sleep 0.1; done; echo done", timeout_seconds=0)
        exec_id = self.site.until(lambda: self.running(ws), "it runs")[0]["exec_id"]
        shim.process.kill()
        shim.process.wait()
        shim = self.shim()
        self.assertTrue(self.running(ws))
        shim.call("workspace_file_write", workspace_id=ws, path="go", text="")
        self.assertEqual(shim.call("workspace_logs", workspace_id=ws, exec_id=exec_id, wait_seconds=45)["stdout"], "begun\ndone\n")
        # In the middle of anything else: nothing half made is left.
        for tool, arguments in (("workspace_create", {"environment": "debian:12"}), ("vm_run", {"environment": "debian:12", "command": "sleep 1000"}), ("workspace_patch_apply", {"workspace_id": ws, "patch": PATCH})):
            for wait in (0, 0.02, 0.1):
                doomed = self.shim()
                call = doomed.start(tool, **arguments)
                call.done.wait(wait)
                doomed.process.kill()
                doomed.process.wait()
        self.site.until(lambda: not self.runs(), "no machine is left")
        self.site.until(lambda: all(one["state"] == "running" for one in self.site.call("workspace.list")["workspaces"]), "no workspace is left half made")
        self.assertIn(shim.call("workspace_exec", workspace_id=ws, command="sh test.sh")["exit_code"], (0, 1))

    def test_the_end_of_input_ends_what_runs(self):
        shim = self.shim()
        ws = self.create(shim)
        shim.start("workspace_exec", workspace_id=ws, command="echo begun; sleep 1000", timeout_seconds=0)
        self.site.until(lambda: self.running(ws), "it runs")
        self.assertEqual(shim.end(), 0)
        self.site.until(lambda: not self.running(ws), "it was ended")

    # --- projects

    def test_projects(self):
        listing = "ls -A | sort | tr '\\n' ' '"
        plain = self.folder / "plain"
        plain.mkdir()
        (plain / "p").write_text("p")
        for args, cwd, expected in ((["--project-path", str(self.project / "src")], "/", ".git .gitignore src test.sh "), (["--project-path", str(plain)], "/", "p "),
                                    (["--repo-url", f"file://{self.project}"], "/", ".git .gitignore src test.sh "), (["--repo-url", str(self.project), "--repo-ref", "main"], "/", ".git .gitignore src test.sh "),
                                    ([], self.project / "src", ".git .gitignore src test.sh "), ([], plain, ""), (["--no-project-source"], self.project, "")):
            with self.subTest(args=args, cwd=cwd):
                shim = self.shim(*args, cwd=cwd)
                ws = self.create(shim)
                self.assertEqual(shim.call("workspace_exec", workspace_id=ws, command=listing)["stdout"], expected)
                if ".git" in expected:
                    self.assertEqual(shim.call("workspace_exec", workspace_id=ws, command="git status --short; git log --oneline | wc -l")["stdout"], "1\n")
                shim.call("workspace_delete", workspace_id=ws)
        shim = self.shim()
        self.assertEqual(shim.call("workspace_exec", workspace_id=self.create(shim, seed_path=""), command=listing)["stdout"], "")
        self.assertEqual(shim.call("workspace_exec", workspace_id=self.create(shim, seed_path="src"), command=listing)["stdout"], "a.txt ")

    def test_a_broken_project_stops_nothing(self):
        broken = self.folder / "broken"
        broken.mkdir()
        (broken / ".git").write_text("gitdir: /nowhere/at/all\n")
        missing = self.folder / "missing"
        for args, cwd in ((["--project-path", str(missing)], "/"), ([], broken), (["--repo-url", f"file://{missing}"], "/"), (["--repo-url", "ext::sh -c 'touch /tmp/pyro-mcp-ran'"], "/")):
            with self.subTest(args=args):
                shim = self.shim(*args, cwd=cwd)
                with self.assertRaises(ToolError) as caught:
                    shim.call("workspace_create", environment="debian:12")
                self.assertTrue(caught.exception.error["hint"])
                self.assertEqual(shim.call("workspace_list"), {"workspaces": []})
                self.create(shim, seed_path="")
                self.delete_all()
        self.assertFalse(os.path.exists("/tmp/pyro-mcp-ran"))

    # --- what of the host a model may touch

    def outside(self):
        return {str(path): path.read_bytes() for path in sorted(self.folder.rglob("*")) if path.is_file() and not path.is_symlink() and not path.is_relative_to(self.project) and not path.is_relative_to(self.temporary)}

    def test_paths_that_lead_out(self):
        shim = self.shim()
        ws = self.create(shim)
        (self.project / "to-home").symlink_to(self.home)
        (self.project / "up").symlink_to("../home/.ssh")
        (self.project / "to-git").symlink_to(".git")
        before, in_git = self.outside(), sorted((self.project / ".git").rglob("*"))
        for path in (f"{self.home}/.ssh", f"{self.home}/.ssh/id", "../home/.ssh", f"{self.project}/../home/.ssh", "to-home/.ssh", "up", "up/id", "/etc", "/etc/shadow", "/proc/self/root/etc", "~/.ssh", "/"):
            with self.subTest(path=path):
                for tool, argument in (("workspace_create", {"environment": "debian:12", "seed_path": path}), ("workspace_sync_push", {"workspace_id": ws, "source_path": path})):
                    with self.assertRaises(ToolError) as caught:
                        shim.call(tool, **argument)
                    self.assertIn(caught.exception.code, ("failed_precondition", "not_found"))
        for path in (f"{self.home}/.bashrc", "to-home/.bashrc", "to-home/new", "up", "up/id", "../home/x", ".git/hooks/pre-commit", ".git/config", "to-git/hooks/post-checkout", ".bashrc", ".vscode/tasks.json",
                     ".", str(self.project), f"{self.project}/..", "..", "/tmp/pyro-mcp-out", "src/../../home/x"):
            for overwrite in (False, True):
                with self.subTest(path=path, overwrite=overwrite):
                    with self.assertRaises(ToolError) as caught:
                        shim.call("workspace_export", workspace_id=ws, path="src/a.txt", output_path=path, overwrite=overwrite)
                    self.assertIn(caught.exception.code, ("failed_precondition", "not_found"))
        self.assertIn("overwrite:true", self.refused("failed_precondition", shim, "workspace_export", workspace_id=ws, path="src/a.txt", output_path="src/a.txt")["hint"])
        self.refused("failed_precondition", shim, "workspace_export", workspace_id=ws, path="src/a.txt", output_path="src/x.patch/..")
        self.assertEqual((self.outside(), sorted((self.project / ".git").rglob("*"))), (before, in_git))
        self.assertFalse(os.path.exists("/tmp/pyro-mcp-out"))
        # What a .git by itself means is its checkout, without its configuration.
        (self.project / ".git" / "config").write_text((self.project / ".git" / "config").read_text() + "[remote \"origin\"]\n\turl = https://user:SECRET@x/y\n")
        ws = self.create(shim, seed_path=".git")
        self.assertEqual(shim.call("workspace_exec", workspace_id=ws, command="ls; grep -r SECRET . | wc -l")["stdout"], "src\ntest.sh\n0\n")
        # And what is allowed is.
        allowed = self.shim("--allow-path", str(self.home))
        self.assertEqual(allowed.call("workspace_sync_push", workspace_id=ws, source_path=f"{self.home}/.ssh", dest="/workspace/keys")["files"], 1)
        self.assertEqual(allowed.call("workspace_export", workspace_id=ws, path="src/a.txt", output_path=f"{self.home}/a")["files"], 1)
        self.refused("failed_precondition", allowed, "workspace_export", workspace_id=ws, path="src/a.txt", output_path=f"{self.home}/.profile")

    def test_what_a_guest_wrote_is_not_obeyed(self):
        shim = self.shim()
        ws = self.create(shim)
        shim.call("workspace_exec", workspace_id=ws, command="mkdir -p deep/.git/hooks deep/.GIT; echo x > deep/.git/hooks/post-checkout; echo x > deep/.GIT/config; echo gitdir: /etc > src/.git; "
                  f"ln -s {self.home} deep/out; ln -s ../../.. deep/up; echo ok > deep/ok")
        exported = shim.call("workspace_export", workspace_id=ws, output_path="all")
        self.assertIn(".git was left out", exported["notes"][0])
        names = sorted(str(path.relative_to(self.project / "all")) for path in (self.project / "all").rglob("*"))
        self.assertEqual(names, [".gitignore", "deep", "deep/ok", "deep/out", "deep/up", "src", "src/a.txt", "test.sh"])
        # Links that came along are not followed by what comes later.
        before = self.outside()
        for path in ("all/deep/out/x", "all/deep/up/x", "all/deep/out"):
            for overwrite in (False, True):
                self.refused("failed_precondition", shim, "workspace_export", workspace_id=ws, path="src/a.txt", output_path=path, overwrite=overwrite)
        self.refused("failed_precondition", shim, "workspace_export", workspace_id=ws, path="deep", output_path="all/deep/out", overwrite=True)
        self.assertEqual(self.outside(), before)
        # An archive is one file, and has all of it.
        shim.call("workspace_export", workspace_id=ws, output_path="all.tar.zst")
        with tarfile.open(fileobj=io.BytesIO(subprocess.run(["zstd", "-dcq", self.project / "all.tar.zst"], check=True, stdout=subprocess.PIPE).stdout)) as tar:
            self.assertIn("deep/.git/hooks/post-checkout", tar.getnames())

    def test_races_for_a_path(self):
        """A directory of the project that is a link to a secret half of the time."""
        shim = self.shim()
        ws = self.create(shim)
        (self.project / "swapped").mkdir()
        (self.project / "swapped" / "id").write_text("ours\n")
        checkout(self.project / "repo", {"id": "ours\n"})
        checkout(self.folder / "secret-repo", {"id": "SECRET\n"})
        (self.project / "evil").symlink_to(self.home / ".ssh")
        (self.project / "evil-repo").symlink_to(self.folder / "secret-repo")
        before, end = self.outside(), threading.Event()
        libc, exchange = ctypes.CDLL(None), 2

        def swap():
            while not end.is_set():
                for one, other in ((b"swapped", b"evil"), (b"repo", b"evil-repo")):
                    libc.renameat2(-100, bytes(self.project) + b"/" + one, -100, bytes(self.project) + b"/" + other, exchange)
        swapper = threading.Thread(target=swap)
        swapper.start()
        taken = written = 0
        try:
            for i in range(60):
                for source in ("swapped", "repo"):
                    with contextlib.suppress(ToolError):
                        shim.call("workspace_sync_push", workspace_id=ws, source_path=source, dest=f"/workspace/in/{source}{i}")
                        taken += 1
                for name in ("file", "x.patch"):
                    with contextlib.suppress(ToolError):
                        shim.call("workspace_export", workspace_id=ws, path="src/a.txt", output_path=f"swapped/{name}{i}")
                        written += 1
                with contextlib.suppress(ToolError):
                    shim.call("workspace_export", workspace_id=ws, path="src", output_path="swapped", overwrite=True)
        finally:
            end.set()
            swapper.join()
        self.assertTrue(taken and written, (taken, written))
        self.assertEqual(self.outside(), before)
        self.assertEqual(shim.call("workspace_exec", workspace_id=ws, command="grep -rl SECRET in | wc -l")["stdout"], "0\n")

    # --- many at once

    def test_eight_servers(self):
        shims = [self.shim() for _ in range(8)]
        failures = []

        def work(i, shim):
            try:
                ws = shim.call("workspace_create", environment="debian:12", name=f"eight-{i}", mem_mib=256)["workspace_id"]
                shim.call("workspace_file_write", workspace_id=ws, path="who", text=str(i))
                assert shim.call("workspace_exec", workspace_id=f"eight-{i}", command="cat who")["stdout"] == str(i)
                assert shim.call("workspace_export", workspace_id=ws, path="who", output_path=f"who-{i}")["files"] == 1
                assert shim.call("workspace_diff", workspace_id=ws, paths=["who"])["changes"][0]["kind"] == "added"
            except BaseException as e:  # noqa: B902
                failures.append((i, e))
        threads = [threading.Thread(target=work, args=item) for item in enumerate(shims)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        self.assertEqual(sorted(one["name"] for one in shims[0].call("workspace_list")["workspaces"]), [f"eight-{i}" for i in range(8)])
        self.assertEqual([(self.project / f"who-{i}").read_text() for i in range(8)], [str(i) for i in range(8)])

    def test_another_user_sees_nothing(self):
        self.site.socket.chmod(0o666)  # stands for membership of the group
        self.addCleanup(self.site.socket.chmod, 0o660)
        mine = self.create(self.shim(), name="mine")
        other = self.shim("--no-project-source", cwd="/", program=(pyro_site.BIN / "pyro-mcp",), user=MALLORY, group=MALLORY, extra_groups=[])
        self.assertEqual(other.call("workspace_list"), {"workspaces": []})
        for name in ("mine", mine):
            self.refused("not_found", other, "workspace_exec", workspace_id=name, command="true")
            self.refused("not_found", other, "workspace_logs", workspace_id=name)
            self.refused("not_found", other, "workspace_file_read", workspace_id=name, path="src/a.txt")
            with self.assertRaises(AssertionError):
                other.request("resources/read", {"uri": f"pyro://workspaces/{name}/files/src/a.txt"}).wait()

    # --- resources and prompts

    def test_resources_and_prompts(self):
        shim = self.shim()
        ws = self.create(shim, name="shown")
        exec_id = shim.call("workspace_exec", workspace_id=ws, command="echo said; echo 2 > src/a.txt; printf '\\377' > bin")["exec_id"]
        read = lambda uri: shim.request("resources/read", {"uri": uri}).wait()["contents"][0]  # noqa: E731
        self.assertEqual(json.loads(read("pyro://workspaces")["text"])["workspaces"][0]["name"], "shown")
        self.assertEqual(json.loads(read("pyro://workspaces/shown")["text"])["changes_total"], 2)
        self.assertIn("+2\n", read("pyro://workspaces/shown/diff")["text"])
        self.assertEqual(read(f"pyro://workspaces/shown/logs/{exec_id}")["text"], "said\n")
        self.assertEqual(read("pyro://workspaces/shown/files/src/a.txt")["text"], "2\n")
        self.assertEqual(base64.b64decode(read("pyro://workspaces/shown/files/bin")["blob"]), b"\377")
        completed = shim.request("completion/complete", {"ref": {"type": "ref/resource", "uri": "pyro://workspaces/{workspace_id}/diff"}, "argument": {"name": "workspace_id", "value": "sh"}}).wait()
        self.assertEqual(completed["completion"]["values"], ["shown"])
        prompt = shim.request("prompts/get", {"name": "repro-fix-loop", "arguments": {"failure": "make test"}}).wait()
        self.assertIn("make test", prompt["messages"][0]["content"]["text"])


if __name__ == "__main__":
    unittest.main()
