#!/usr/bin/env python3
"""`pyro workspace` as a user has it: seeds, commands that go on, files, patches, exports, in real VMs."""
import base64
import contextlib
import fcntl
import io
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import termios
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "support"))
import site_case  # noqa: E402

GIT = {**os.environ, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_AUTHOR_NAME": "n", "GIT_AUTHOR_EMAIL": "e",
       "GIT_COMMITTER_NAME": "n", "GIT_COMMITTER_EMAIL": "e"}
ODD = "a b\n\x1b\u00e9'\"$(x)"  # a file name as any other


def git(folder, *args, **kwargs):
    return subprocess.run(["git", "-C", str(folder), *args], check=True, stdout=subprocess.PIPE, env=GIT, **kwargs).stdout


def tree_of(folder):
    """Every path with what it is: mode and bytes, or the link's target."""
    return {str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else (path.stat().st_mode & 0o777, None if path.is_dir() else path.read_bytes())
            for path in sorted(pathlib.Path(folder).rglob("*"))}


class WorkspaceCli(site_case.SiteCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.site.env["XDG_CACHE_HOME"] = str(cls.site.path / "cache")

    def setUp(self):
        super().setUp()
        folder = tempfile.mkdtemp(prefix="pyro-workspace-cli-")
        self.addCleanup(shutil.rmtree, folder)
        self.folder = pathlib.Path(folder)

    def ws(self, *args, code=0, **kwargs):
        done = self.site.pyro("workspace", *args, **kwargs)
        self.assertEqual(done.returncode, code, f"{args}\n{done.stdout[-2000:]!r}\n{done.stderr[-2000:]!r}")
        return done

    def json(self, *args, **kwargs):
        return self.site.json("workspace", *args, **kwargs)

    def create(self, *args):
        made = self.json("create", "debian:12", *args)
        self.addCleanup(self.delete, made["workspace_id"])
        self.assertEqual(made["state"], "running")
        return made["workspace_id"]

    def delete(self, workspace):
        """Of a test that failed half-way nothing stays for the next one to find."""
        self.site.start_again()
        self.site.pyro("workspace", "delete", workspace)

    def sh(self, workspace, script, *options, **kwargs):
        return self.ws("exec", *options, workspace, "--", "sh", "-c", script, **kwargs)

    def directory(self):
        top = self.folder / "tree"
        (top / "sub" / "empty").mkdir(parents=True)
        (top / "kept").write_bytes(b"one\ntwo\nthree\n")
        (top / "sub" / ODD).write_bytes(bytes(range(256)) * 1000)
        (top / "sub" / "run").write_bytes(b"#!/bin/sh\necho ran\n")
        (top / "sub" / "run").chmod(0o755)
        (top / "link").symlink_to("sub/run")
        (top / "none").write_bytes(b"")
        return top

    def checkout(self):
        top = self.folder / "repo"
        (top / "src").mkdir(parents=True)
        (top / "src" / "a.txt").write_bytes(b"".join(b"line %d\n" % i for i in range(30)))
        (top / "src" / "b.bin").write_bytes(bytes(range(256)))
        (top / "gone").write_bytes(b"x\n")
        (top / ".gitignore").write_bytes(b"*.o\n")
        git(top, "init", "-q", "-b", "main"), git(top, "add", "-A"), git(top, "commit", "-qm", "first")
        (top / "gone").unlink()
        (top / "x.o").write_bytes(b"ignored")
        (top / "untracked").write_bytes(b"u")
        return top

    # --- seeds

    def test_a_directory_comes_and_goes_as_it_is(self):
        top = self.directory()
        ws = self.create("--seed-path", str(top), "--name", "from-directory", "--label", "k=v")
        self.assertEqual(self.sh("from-directory", "pwd; cat kept; ./link; ls -A sub/empty").stdout, b"/workspace\none\ntwo\nthree\nran\n")
        self.assertEqual(self.ws("file", "read", ws, f"sub/{ODD}", "--max-bytes", "1000000").stdout, bytes(range(256)) * 1000)
        self.assertEqual(self.ws("diff", ws).stdout, b"")
        out = self.folder / "out"
        self.ws("export", ws, "--output", str(out))
        self.assertEqual(tree_of(out), tree_of(top))
        # The same content again is known by its digest: nothing is sent, and the workspace has it.
        self.site.until(lambda: self.known(top), "the tree is settled, and remembered")
        self.assertEqual(self.sh("known", "cat kept").stdout, b"one\ntwo\nthree\n")
        (top / "kept").write_bytes(b"changed\n")
        self.assertEqual(self.sh(self.create("--seed-path", str(top)), "cat kept").stdout, b"changed\n")

    def known(self, top):
        made = self.create("--seed-path", str(top), "--name", "known")
        # What the daemon was told when it was asked, before anything could be packed.
        if self.json("status", made)["seed"]["files"] == 4:
            return True
        self.ws("delete", made)
        return False

    def test_archives_are_trees(self):
        top = self.directory()
        archive = self.folder / "tree.tgz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(top, arcname=".")
        self.assertEqual(self.sh(self.create("--seed-path", str(archive)), "cat kept; ./sub/run").stdout, b"one\ntwo\nthree\nran\n")
        hostile = self.folder / "hostile.tar"
        with tarfile.open(hostile, "w") as tar:
            tar.addfile(tarfile.TarInfo("../out"))
        self.assertIn(b"../out", self.ws("create", "debian:12", "--seed-path", str(hostile), "--name", "hostile", code=125).stderr)
        self.ws("status", "hostile", code=125)

    def test_a_checkout_is_its_tracked_files_and_works_with_git(self):
        top = self.checkout()
        made = self.json("create", "debian:12", "--seed-path", str(top), "--name", "from-git")
        ws = made["workspace_id"]
        self.addCleanup(self.delete, ws)
        self.assertEqual(made["skipped"], [{"path": "gone", "reason": "deleted"}])
        self.assertEqual((made["seed"]["commit"], made["seed"]["branch"]), (git(top, "rev-parse", "HEAD").decode().strip(), "main"))
        self.assertEqual(self.sh(ws, "git status --short; git log --format=%s; ls -A").stdout, b" D gone\nfirst\n.git\n.gitignore\nsrc\n")
        # What is done inside comes back as a patch that the checkout takes.
        self.sh(ws, "sed -i 's/line 7/LINE 7/' src/a.txt; mkdir new; printf 'no newline' > new/f; chmod 755 new/f; git mv src/a.txt src/c.txt; ln -s c.txt src/l")
        diff = self.ws("diff", ws)
        git(top, "apply", "-", input=diff.stdout)
        self.assertEqual(self.ws("file", "read", ws, "src/c.txt", "--content-only").stdout, (top / "src" / "c.txt").read_bytes())
        self.assertEqual(((top / "new" / "f").stat().st_mode & 0o777, os.readlink(top / "src" / "l")), (0o755, "c.txt"))
        document = self.json("diff", ws)
        self.assertEqual(document["patch"].encode(), diff.stdout)
        self.assertIn("new/f", [change["path"] for change in document["changes"]])
        self.assertEqual(self.ws("diff", ws, "new", "--verify").stdout.count(b"diff --git"), 1)
        patch = self.folder / "x.patch"
        self.ws("export", ws, "-o", str(patch))
        self.assertEqual(patch.read_bytes(), diff.stdout)
        self.ws("export", ws, "-o", str(patch), code=125)
        summary = self.ws("summary", ws).stdout.decode()
        self.assertIn("from-git", summary)
        self.assertRegex(summary, r"commands: +2\n")
        self.ws("reset", ws)
        self.assertEqual((self.ws("diff", ws).stdout, self.json("ps", "-a", ws)["execs"]), (b"", []))
        self.assertEqual(self.sh("from-git", "git log --format=%s").stdout, b"first\n")

    def test_what_cannot_be_a_seed_makes_no_workspace(self):
        tree = self.folder / "tree"
        tree.mkdir()
        (tree / "a").write_bytes(os.urandom(3 << 20))
        os.mkfifo(tree / "zz")
        before = self.json("list")["workspaces"]
        self.assertIn(b"zz is a fifo", self.ws("create", "debian:12", "--seed-path", str(tree), code=125).stderr)
        self.assertIn(b"No such file", self.ws("create", "debian:12", "--seed-path", str(self.folder / "none"), code=125).stderr)
        self.assertEqual(self.json("list")["workspaces"], before)

    # --- commands

    def test_exit_codes_and_streams(self):
        ws = self.create()
        for code in (0, 1, 124, 125, 255):
            self.sh(ws, f"exit {code}", code=code)
        self.assertIn(b"no-such", self.ws("exec", ws, "--", "no-such-program", code=127).stderr)
        self.sh(ws, "kill -TERM $$", code=143)
        self.assertIn(b"--timeout-seconds 1 ", self.sh(ws, "sleep 1000", "--timeout-seconds", "1", code=124).stderr)
        data = os.urandom(300_000)
        done = self.sh(ws, "cat; echo err >&2", "-i", input=data)
        self.assertEqual(done.stdout, data)
        self.assertRegex(done.stderr.decode(), rf"\Aerr\n\[exec\] workspace={ws} exec=\S+ exit_code=0 duration_ms=\d+\n\Z")
        report = self.json("exec", "-e", "A=x y", "--cwd", "/tmp", "--user", "nobody", ws, "--", "sh", "-c", 'echo "$A $PWD $(id -un)"; exit 3', code=3)
        self.assertEqual((report["stdout"], report["exit_code"], report["state"]), ("x y /tmp nobody\n", 3, "exited"))
        self.ws("exec", ws, code=2)
        self.ws("exec", "nobody", "--", "true", code=125)

    def test_what_is_detached_goes_on_and_can_be_followed(self):
        ws = self.create("--name", "loop")
        exec_id = self.ws("exec", "-d", "loop", "--", "sh", "-c", "echo begun; until [ -e go ]; do sleep 0.1; done; echo gone on; exit 5").stdout.decode().strip()
        self.assertIn(exec_id, self.ws("ps", "loop").stdout.decode())
        self.site.until(lambda: self.ws("logs", "loop").stdout == b"begun\n", "it has begun")
        # Whoever follows may leave; the command does not.
        for command in (["attach", "--no-stdin", "loop", exec_id], ["logs", "-f", "loop", "--exec", exec_id]):
            follower = self.popen("workspace", *command)
            self.assertEqual(follower.stdout.readline(), b"begun\n")
            follower.send_signal(signal.SIGINT)
            _, err = follower.communicate(timeout=site_case.site.WAIT)
            self.assertEqual(follower.returncode, 130)
            if command[0] == "attach":
                self.assertIn(f"`pyro workspace attach {ws} {exec_id} --stdout-offset 6`".encode(), err)
        follower = self.popen("workspace", "attach", "loop", exec_id, "--stdout-offset", "6")
        self.ws("file", "write", "loop", "go", "--text", "")
        out, err = follower.communicate(timeout=site_case.site.WAIT)
        self.assertEqual((follower.returncode, out), (5, b"gone on\n"), err)
        self.assertEqual(self.ws("ps", "loop").stdout.count(b"\n"), 1)
        self.assertIn(b"exited", self.ws("ps", "-a", "loop").stdout)
        report = self.json("logs", "loop")
        self.assertEqual((report["stdout"], report["exit_code"]), ("begun\ngone on\n", 5))

    def test_ctrl_c_ends_it_and_a_killed_client_does_not(self):
        ws = self.create()
        for number, ended in ((signal.SIGINT, True), (signal.SIGKILL, False)):
            client = self.popen("workspace", "exec", ws, "--", "sh", "-c", "echo begun; exec sleep 1000")
            self.assertEqual(client.stdout.readline(), b"begun\n")
            client.send_signal(number)
            client.communicate(timeout=site_case.site.WAIT)
            self.assertEqual(client.returncode, 130 if ended else -9)
            running = self.json("ps", ws)["execs"]
            self.assertEqual(len(running), 0 if ended else 1)
        killed = self.json("kill", ws, running[0]["exec_id"])
        self.assertEqual((killed["state"], killed["signal"]), ("exited", 9))

    def test_a_daemon_that_dies_leaves_a_way_back(self):
        ws = self.create()
        client = self.popen("workspace", "exec", ws, "--", "sh", "-c", "echo begun; until [ -e go ]; do sleep 0.1; done; echo gone on")
        self.assertEqual(client.stdout.readline(), b"begun\n")
        self.site.kill()
        _, err = client.communicate(timeout=site_case.site.WAIT)
        self.assertEqual(client.returncode, 125, err)
        way = re.search(rb"`pyro (workspace attach .*)`", err)[1].decode().split()
        self.site.start()
        follower = self.popen(*way)
        self.ws("file", "write", ws, "go", "-", input=b"")
        out, err = follower.communicate(timeout=site_case.site.WAIT)
        self.assertEqual((follower.returncode, out), (0, b"gone on\n"), err)

    def test_a_terminal_is_left_and_taken_up_again(self):
        ws = self.create()
        self.terminal("exec", "-it", ws)
        self.expect(rb"[#$] ")
        os.write(self.tty, b"stty size; tty; echo $TERM; pwd; echo left=$((40 + 2))\n")
        self.expect(rb"33 101\r\n/dev/pts/\d+\r\nxterm\r\n/workspace\r\nleft=42\r\n")
        os.write(self.tty, b"\x10")
        os.write(self.tty, b"\x11")
        way = self.expect(rb"`pyro workspace (attach .*)`")[1].decode().split()
        self.assertEqual(self.ended(), 0)
        self.assertEqual(len(self.json("ps", ws)["execs"]), 1)
        self.terminal(*way)
        self.expect(rb"Ctrl-P Ctrl-Q leaves")
        os.write(self.tty, b"stty size; echo again=$((40 + 3)); exit 9\n")
        self.expect(rb"33 101\r\nagain=43\r\n")
        self.assertEqual(self.ended(), 9)

    def terminal(self, *words):
        self.pid, self.tty = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
            os.environ.update(self.site.env, TERM="xterm")
            os.execv(site_case.site.BIN / "pyro", ["pyro", "workspace", *words])
        self.process, self.seen = os.pidfd_open(self.pid), b""
        self.addCleanup(self.end, self.pid, self.process, self.tty)

    def end(self, pid, process, tty):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # collected already
            os.waitpid(pid, 0)
        os.close(process)
        os.close(tty)

    def expect(self, pattern):
        while not (match := re.search(pattern, self.seen)):
            self.assertTrue(select.select([self.tty], [], [], site_case.site.WAIT)[0], f"{pattern!r} never came: {self.seen!r}")
            try:
                data = os.read(self.tty, 65536)
            except OSError:
                data = b""
            self.assertTrue(data, f"the terminal ended before {pattern!r}: {self.seen!r}")
            self.seen += data
        self.seen = self.seen[match.end():]
        return match

    def ended(self):
        self.assertTrue(select.select([self.process], [], [], site_case.site.WAIT)[0], "it goes on")
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    # --- files

    def test_files_are_written_listed_and_read(self):
        ws = self.create()
        self.ws("file", "write", ws, "a/b/c.txt", "--text", "-\u00e9\n", "--mode", "0750")
        big = os.urandom(5 << 20)
        self.ws("file", "write", ws, f"a/{ODD}", "-", input=big)
        path = self.folder / "empty"
        path.write_bytes(b"")
        self.ws("file", "write", ws, "/workspace/empty", "--text-file", str(path))
        self.assertEqual(self.ws("file", "read", ws, f"a/{ODD}", "--max-bytes", str(6 << 20)).stdout, big)
        done = self.ws("file", "read", ws, f"a/{ODD}")
        self.assertEqual(done.stdout, big[:65536])
        self.assertIn(b"pyro: there is more: --offset 65536 ", done.stderr)
        self.assertEqual(self.json("file", "read", ws, "a/b/c.txt")["content"], "-\u00e9\n")
        report = self.json("file", "read", ws, f"a/{ODD}", "--offset", "7", "--max-bytes", "50")
        self.assertEqual((report["encoding"], base64.b64decode(report["content"])), ("base64", big[7:57]))
        self.assertEqual(self.ws("file", "read", ws, "empty").stdout, b"")
        rows = self.ws("file", "list", ws, "-r").stdout.decode().splitlines()
        self.assertEqual(len(rows), 5)
        self.assertTrue(any(re.fullmatch(r"-rwxr-x--- +4  \S+ \S+  a/b/c\.txt", row) for row in rows), rows)
        self.assertFalse(any("\x1b" in row for row in rows))
        self.assertEqual(self.json("file", "list", ws, "a", "--recursive")["entries"][0]["path"], f"a/{ODD}")
        self.sh(ws, "mkdir many; cd many; seq -w 0 6000 | xargs touch")
        self.assertEqual(len(self.json("file", "list", ws, "many")["entries"]), 6001)
        for args in (("read", ws, "none"), ("read", ws, "../etc/passwd"), ("list", ws, "empty/x"), ("write", ws, "/etc/x", "--text", "x"), ("write", ws, "a", "--text", "x")):
            self.ws("file", *args, code=125)

    def test_patches_apply_whole_or_tell_why_not(self):
        ws = self.create("--seed-path", str(self.checkout()))
        patch = b"--- a/src/a.txt\n+++ b/src/a.txt\n@@ -3,3 +3,3 @@\n line 2\n-line 3\n+LINE 3\n line 4\n--- /dev/null\n+++ b/n\n@@ -0,0 +1 @@\n+n\n"
        done = self.ws("patch", "apply", ws, "-", input=patch)
        self.assertEqual(sorted(done.stdout.decode().split("\n")), ["", "added     n  +1 -0", "modified  src/a.txt  +1 -1"])
        again = self.ws("patch", "apply", ws, "--patch", patch.decode(), code=125).stderr.decode()
        for part in ("src/a.txt", "hunk 1", "expected", "line 3", "found", "LINE 3"):
            self.assertIn(part, again)
        self.assertIn("rejections", self.json("patch", "apply", ws, "--patch", patch.decode(), code=125)["error"]["details"])
        self.ws("patch", "apply", ws, "-", input=b"", code=125)
        self.assertEqual(self.ws("file", "read", ws, "n").stdout, b"n\n")

    def test_a_sync_adds_files_and_an_export_overwrites_none(self):
        ws = self.create()
        top = self.directory()
        done = self.ws("sync", "push", ws, str(top), "--dest", "/workspace/in/here")
        self.assertIn(b"pyro: pushed 4 files", done.stderr)
        self.assertEqual(self.sh(ws, "cd in/here; cat kept; ./link").stdout, b"one\ntwo\nthree\nran\n")
        out = self.folder / "out"
        self.ws("export", ws, "in/here/", "--output", str(out))
        self.assertEqual(tree_of(out), tree_of(top))
        self.assertIn(b"--force", self.ws("export", ws, "in/here", "--output", str(out), code=125).stderr)
        self.ws("export", ws, "in/here", "--output", str(out), "--force")
        one = self.folder / "one"
        self.ws("export", ws, "/workspace/in/here/sub/run", "--output", str(one))
        self.assertEqual((one.read_bytes(), one.stat().st_mode & 0o777), (b"#!/bin/sh\necho ran\n", 0o755))
        self.ws("export", ws, "in/here/sub/run", "--output", str(one), code=125)
        archive = self.folder / "x.tar.zst"
        self.ws("export", ws, "in", "--output", str(archive))
        plain = subprocess.run(["zstd", "-dc", str(archive)], check=True, stdout=subprocess.PIPE).stdout
        with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
            self.assertEqual(tar.extractfile("here/kept").read(), b"one\ntwo\nthree\n")
        self.ws("export", ws, "none", "--output", str(self.folder / "none"), code=125)
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()), ["one", "out", "tree", "x.tar.zst"])
        # And back in from what was exported.
        self.ws("sync", "push", ws, str(archive), "--dest", "again")
        self.assertEqual(self.sh(ws, "diff -r in again && echo same").stdout, b"same\n")

    # --- life

    def test_names_life_and_tables(self):
        ws = self.create("--name", "alpha", "--label", "a=b")
        rows = self.ws("list").stdout.decode().splitlines()
        self.assertTrue(any(re.match(rf"{ws} +alpha +running +debian:12 +", row) for row in rows), rows)
        self.ws("update", "alpha", "--name", "beta", "--clear-label", "a", "--label", "c=d")
        self.ws("status", "alpha", code=125)
        self.assertEqual(self.json("status", ws[:8])["labels"], {"c": "d"})
        self.sh("beta", "echo kept > file")
        self.ws("stop", "beta")
        self.assertIn(b"stopped", self.ws("status", "beta").stdout)
        self.assertEqual(self.sh("beta", "cat file").stdout, b"kept\n")
        self.ws("stop", "beta"), self.ws("start", "beta")
        self.ws("reset", "beta")
        self.sh("beta", "cat file", code=1)
        self.assertEqual(self.ws("create", "debian:12", "--name", "beta", "--id-only", code=125).stdout, b"")
        other = self.ws("create", "debian:12", "--id-only").stdout.decode().strip()
        self.ws("delete", other), self.ws("delete", "beta")
        self.assertEqual(self.json("status", ws, code=125)["error"]["code"], "not_found")


if __name__ == "__main__":
    unittest.main()
