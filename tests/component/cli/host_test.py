#!/usr/bin/env python3
"""pyro host: what it writes into chat hosts' files, what it leaves alone there, and what it finds wrong."""
import json
import os
import pathlib
import stat
import subprocess
import tempfile
import threading
import time
import tomllib
import unittest

from fake_pyrod import WAIT, FakePyrod
from program import PYRO, children

HOSTS = ("claude-code", "codex", "opencode")
COMMAND = [os.path.realpath(PYRO), "mcp", "serve"]
CLAUDE = """{
  "numStartups": 7,
  "oauthAccount": {"token": "secret"},
  "mcpServers": {
    "other": {
      "command": "x",
      "env": {"KEY": "secret"}
    }
  },
  "zebra": [1, 2]
}
"""
CODEX = """# mine
model = "m"

[mcp_servers.pyro] # ours
command = "/old/pyro"
args = ["mcp", "serve", "--mode", "inspect"]
startup_timeout_sec = 20 # slow disk
enabled = false

[mcp_servers.pyro.env]
A = "b"

[mcp_servers.other]
command = "x"
"""


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="pyro-host-")
        self.addCleanup(folder.cleanup)
        self.home = pathlib.Path(folder.name, "home")
        self.project = pathlib.Path(folder.name, "project")
        self.below = self.project / "src"
        for made in (self.home, self.below, self.project / ".git"):
            made.mkdir(parents=True)
        self.env = {"HOME": str(self.home), "PATH": "/usr/bin:/bin", "TERM": "dumb"}
        self.user_file = {"claude-code": self.home / ".claude.json", "codex": self.home / ".codex/config.toml", "opencode": self.home / ".config/opencode/opencode.json"}
        self.project_file = {"claude-code": self.project / ".mcp.json", "codex": self.project / ".codex/config.toml", "opencode": self.project / "opencode.json"}

    def pyro(self, *args, status=0, cwd=None, **env):
        done = subprocess.run([PYRO, "host", *args], cwd=cwd or self.below, env={**self.env, **env}, stdin=subprocess.DEVNULL, capture_output=True, timeout=WAIT, text=True,
                              errors="surrogateescape", **children.reachable(PYRO, {}))
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done

    def json(self, *args, **more):
        done = self.pyro(*args, "--json", **more)
        self.assertEqual(done.stderr, "")
        return json.loads(done.stdout)

    def command_in(self, host, path, name="pyro"):
        text = path.read_text()
        if host == "codex":
            entry = tomllib.loads(text)["mcp_servers"][name]
        else:
            entry = json.loads(text)["mcp" if host == "opencode" else "mcpServers"][name]
        return entry["command"] if host == "opencode" else [entry["command"], *entry["args"]]


class Connect(Case):
    def test_twice_is_once_and_disconnect_takes_it_back(self):
        for host in HOSTS:
            for scope, files in (("user", self.user_file), ("project", self.project_file)):
                with self.subTest(host=host, scope=scope):
                    path = files[host]
                    done = self.json("connect", host, "--scope", scope, "--dry-run")
                    self.assertTrue(done["dry_run"])
                    self.assertFalse(path.exists())
                    done = self.json("connect", host, "--scope", scope)["changes"]
                    self.assertEqual([(c["scope"], c["file"], c["change"], c["command"]) for c in done], [(scope, str(path), "added", COMMAND)])
                    self.assertEqual(self.command_in(host, path), COMMAND)
                    self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600 if scope == "user" else 0o644)
                    before = path.read_bytes(), path.stat().st_ino
                    again = self.pyro("connect", host, "--scope", scope)
                    self.assertEqual(again.stdout, f"unchanged: pyro in {path} ({scope})\n")
                    self.assertEqual((path.read_bytes(), path.stat().st_ino), before)
                    self.assertEqual(self.json("repair", host, "--scope", scope)["changes"][0]["change"], "unchanged")
                    self.assertEqual(self.json("disconnect", host)["changes"][0]["change"], "removed")
                    self.assertNotIn("pyro", path.read_text())
                    self.assertEqual(self.json("disconnect", host)["changes"], [])
                    path.unlink()
                    self.assertEqual([p.name for p in path.parent.iterdir() if p.is_file()], [], "something was left behind")

    def test_all_else_in_the_file_stays(self):
        path = self.user_file["claude-code"]
        path.write_text(CLAUDE)
        path.chmod(0o640)
        done = self.pyro("connect", "claude-code", "--mode", "inspect")
        self.assertEqual(path.read_text(), CLAUDE.replace("""      "env": {"KEY": "secret"}
    }
""", """      "env": {"KEY": "secret"}
    },
    "pyro": {
      "type": "stdio",
      "command": "%s",
      "args": [
        "mcp",
        "serve",
        "--mode",
        "inspect"
      ]
    }
""" % COMMAND[0]))
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o640)
        self.assertNotIn("secret", done.stdout, "what is beside it is nobody's business")
        self.pyro("disconnect", "claude-code")
        self.assertEqual(path.read_text(), CLAUDE)

        path = self.user_file["codex"]
        path.parent.mkdir()
        path.write_text(CODEX)
        self.assertEqual(self.json("connect", "codex")["changes"][0]["change"], "changed")
        self.assertEqual(path.read_text(), CODEX.replace("/old/pyro", COMMAND[0]).replace(', "--mode", "inspect"', "").replace("enabled = false", "enabled = true"))

    def test_the_file_that_a_host_reads_last_is_taken(self):
        folder = self.home / ".config/opencode"
        folder.mkdir(parents=True)
        (folder / "opencode.json").write_text("{}")
        (folder / "opencode.jsonc").write_text('{\n  // models\n  "model": "m",\n}\n')
        self.pyro("connect", "opencode")
        self.assertEqual((folder / "opencode.json").read_text(), "{}")
        self.assertIn("// models", (folder / "opencode.jsonc").read_text())
        self.assertIn(COMMAND[0], (folder / "opencode.jsonc").read_text())
        self.pyro("disconnect", "opencode")
        self.assertEqual((folder / "opencode.jsonc").read_text(), '{\n  // models\n  "model": "m",\n  "mcp": {},\n}\n')

    def test_hosts_that_were_told_of_other_places(self):
        other = self.home / "elsewhere"
        for host, name, path in (("claude-code", "CLAUDE_CONFIG_DIR", other / ".claude.json"), ("codex", "CODEX_HOME", other / "config.toml"), ("opencode", "XDG_CONFIG_HOME", other / "opencode/opencode.json")):
            self.assertEqual(self.json("connect", host, **{name: str(other)})["changes"][0]["file"], str(path))
            self.assertEqual(self.command_in(host, path), COMMAND)

    def test_options_reach_the_server_with_whole_paths(self):
        done = self.json("connect", "codex", "--profile", "workspace-full", "--environment", "debian:12-build", "--project-path", "..", "--allow-path", "/a/./b/", "--allow-path", "c",
                         "--allow-host-compat", "--name", "sand-box", PYRO_SOCKET="/run/x/../other.sock")
        expected = [*COMMAND, "--profile", "workspace-full", "--environment", "debian:12-build", "--project-path", str(self.project), "--allow-path", "/a/b", "--allow-path", str(self.below / "c"),
                    "--allow-host-compat", "--socket", "/run/other.sock"]
        self.assertEqual(done["changes"][0]["command"], expected)
        self.assertEqual(self.command_in("codex", self.user_file["codex"], "sand-box"), expected)
        self.assertEqual(self.json("connect", "codex", "--repo-url", "https://x/y", "--repo-ref", "v1", "--socket", "s")["changes"][0]["command"],
                         [*COMMAND, "--repo-url", "https://x/y", "--repo-ref", "v1", "--socket", str(self.below / "s")])

    def test_every_profile_and_mode_is_one_of_the_servers(self):
        for option, values in (("--profile", ("vm-run", "workspace-core", "workspace-full")), ("--mode", ("repro-fix", "inspect"))):
            for value in values:
                self.assertEqual(self.json("connect", "codex", option, value, "--dry-run")["changes"][0]["command"], [*COMMAND, option, value])

    def test_print_config_touches_nothing(self):
        for host in HOSTS:
            done = self.json("print-config", host, "--no-project-source")
            self.assertEqual(done["command"], [*COMMAND, "--no-project-source"])
            self.assertEqual(done["file"], str(self.user_file[host]))
            made = self.home / "made"
            made.write_text(done["text"])
            self.assertEqual(self.command_in(host, made), done["command"])
            made.unlink()
            self.assertEqual(self.pyro("print-config", host, "--no-project-source").stdout, done["text"])
        self.assertEqual(list(self.home.iterdir()), [])

    def test_wrong_command_lines(self):
        for args, words in ((("connect",), "HOST"), (("connect", "vim"), "claude-code, codex, opencode"), (("connect", "codex", "--mode", "inspect", "--profile", "vm-run"), "exclude each other"), (("connect", "codex", "--scope", "local"), "local"),
                            (("connect", "codex", "--name", "a b"), "--name"), (("connect", "codex", "--repo-ref", "x"), "--repo-ref"), (("doctor", "codex", "--mode", "inspect"), "--mode")):
            with self.subTest(args):
                done = self.pyro(*args, status=2)
                self.assertIn(words, done.stderr)
                self.assertEqual(json.loads(self.pyro(*args, "--json", status=2).stdout)["error"]["code"], "invalid_argument")
        self.assertEqual(list(self.home.iterdir()), [])


class Refused(Case):
    def refused(self, host, path, *words, status=125):
        before = path.read_bytes()
        for verb in ("connect", "disconnect", "repair"):
            error = json.loads(self.pyro(verb, host, "--json", status=status).stdout)["error"]
            self.assertIn(str(path), error["message"])
            self.assertTrue(error["hint"])
            for word in words:
                self.assertIn(word, error["message"])
        self.assertEqual(path.read_bytes(), before)
        self.assertEqual([p for p in path.parent.iterdir() if p.is_file()], [path], "something was left behind")

    def write(self, host, text):
        path = self.user_file[host]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
        return path

    def test_broken_files_with_the_place(self):
        self.refused("claude-code", self.write("claude-code", b'{\n  "mcpServers": {\n    "a": 1\n    "b": 2\n  }\n}\n'), "line 4, column 5")
        self.refused("claude-code", self.write("claude-code", b"{} // comment"), "line 1, column 4")
        self.refused("codex", self.write("codex", b"a = 1\n[b\n"), "line 2")
        self.refused("opencode", self.write("opencode", b'{"mcp": "\xff"}'), "line 1, column 9")
        path = self.write("opencode", b'{"mcp": []}')
        self.assertIn("line 1, column 9", self.pyro("connect", "opencode", status=125).stderr)
        self.assertEqual(path.read_bytes(), b'{"mcp": []}')

    def test_another_server_of_that_name(self):
        self.refused("claude-code", self.write("claude-code", b'{"mcpServers": {"pyro": {"type": "http", "url": "https://pyro"}}}'), "another server")
        self.refused("codex", self.write("codex", b'[mcp_servers.pyro]\ncommand = "npx"\nargs = ["pyro"]\n'), "another server")
        self.refused("opencode", self.write("opencode", b'{"mcp": {"pyro": {"type": "local", "command": ["/usr/bin/pyro", "bench"]}}}'), "another server")
        done = self.json("doctor", "opencode", status=1)
        self.assertIn("not pyro's", done["checks"][0]["detail"])

    def test_tables_that_are_not_written_out(self):
        path = self.write("codex", b'[mcp_servers]\npyro = { command = "/old/pyro", args = ["mcp", "serve"] }\n')
        before = path.read_bytes()
        error = json.loads(self.pyro("connect", "codex", "--json", status=125).stdout)["error"]
        self.assertEqual(error["code"], "failed_precondition")
        self.assertIn("[mcp_servers.pyro]", error["hint"])
        self.assertEqual(path.read_bytes(), before)

    def test_what_is_no_file(self):
        path = self.user_file["claude-code"]
        path.symlink_to(self.home / "nowhere")
        self.assertIn("leads nowhere", self.pyro("connect", "claude-code", status=125).stderr)
        self.assertTrue(path.is_symlink())
        path.unlink()
        os.mkfifo(path)
        self.assertIn("not a file", self.pyro("connect", "claude-code", status=125).stderr)

    def test_a_disk_that_is_full(self):
        path = self.write("claude-code", CLAUDE.encode())
        # As far as a program can tell: a write that fails half way.
        done = subprocess.run(["prlimit", "--fsize=64", PYRO, "host", "connect", "claude-code", "--json"], cwd=self.below, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=WAIT,
                              restore_signals=False)  # SIGXFSZ stays ignored
        self.assertEqual(done.returncode, 125)
        self.assertIn("is as it was", json.loads(done.stdout)["error"]["message"])
        self.assertEqual(path.read_text(), CLAUDE)
        self.assertEqual(list(self.home.iterdir()), [path])


class Files(Case):
    @staticmethod
    def watches(pid):
        def target(fd):
            try:
                return os.readlink(fd)
            except FileNotFoundError:  # closed meanwhile
                return ""
        return any("inotify" in target(fd) for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir())

    def test_links_lead_to_the_real_file_and_stay(self):
        dotfiles = self.home / "dotfiles"
        dotfiles.mkdir()
        real = dotfiles / "claude"
        real.write_text(CLAUDE)
        path = self.user_file["claude-code"]
        path.symlink_to("dotfiles/claude")
        self.pyro("connect", "claude-code")
        self.assertEqual(os.readlink(path), "dotfiles/claude")
        self.assertEqual(self.command_in("claude-code", real), COMMAND)

    def test_several_at_once_lose_nothing(self):
        names = [f"n{i}" for i in range(8)]
        running = [threading.Thread(target=self.pyro, args=("connect", host, "--name", name)) for host in HOSTS for name in names]
        for each in running:
            each.start()
        for each in running:
            each.join()
        for host in HOSTS:
            for name in names:
                self.assertEqual(self.command_in(host, self.user_file[host], name), COMMAND)

    def test_the_lock_of_claude_code_is_waited_for_unless_it_is_stale(self):
        path = self.user_file["claude-code"]
        path.write_text(CLAUDE)
        lock = self.home / ".claude.json.lock"
        lock.mkdir()
        running = children.ends_with(self, subprocess.Popen([PYRO, "host", "connect", "claude-code"], cwd=self.below, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, **children.reachable(PYRO, {})))
        # It watches for the lock's end once it has found it.
        deadline = time.monotonic() + WAIT
        while not self.watches(running.pid):
            self.assertLess(time.monotonic(), deadline)
        self.assertEqual(path.read_text(), CLAUDE)
        path.write_text(CLAUDE.replace("zebra", "yak"))
        lock.rmdir()
        self.assertEqual(running.wait(WAIT), 0)
        self.assertIn("yak", path.read_text())
        self.assertIn(COMMAND[0], path.read_text())
        self.assertFalse(lock.exists())
        lock.mkdir()
        os.utime(lock, (1, 1))
        self.pyro("disconnect", "claude-code")
        self.assertFalse(lock.exists())
        self.assertEqual(json.loads(path.read_text())["yak"], [1, 2])


class Doctor(Case):
    def checks(self, host, *args, **more):
        found = self.json("doctor", host, *args, **more)
        return {check["name"]: check for check in found["checks"]}

    def program(self, name, text):
        path = self.home / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)
        self.env["PATH"] = f"{path.parent}:/usr/bin:/bin"
        return path

    def test_all_is_well(self):
        for host, program in zip(HOSTS, ("claude", "codex", "opencode")):
            self.program(program, "echo 'WARNING: noise' >&2; echo 1.2.3\n")
            with self.subTest(host), FakePyrod(workspace__list=lambda c: c.answer({"workspaces": []})) as daemon:
                self.json("connect", host, PYRO_SOCKET=daemon.path)
                for env in ({}, {"PYRO_SOCKET": daemon.path}):
                    found = self.checks(host, **env)
                    self.assertEqual({name: check["status"] for name, check in found.items()}, dict.fromkeys(("config", "host", "server", "daemon"), "pass"))
                self.assertEqual(found["host"]["detail"], f"{program} 1.2.3")
                self.assertIn("18 tools", found["server"]["detail"])
                self.assertIn(daemon.path, found["daemon"]["detail"])

    def test_nothing_there(self):
        found = self.checks("codex", status=1)
        self.assertEqual(found["config"]["fix"], "pyro host connect codex")
        self.assertEqual(found["host"]["status"], "warn")
        self.assertEqual(json.loads(self.pyro("repair", "codex", "--json", status=125).stdout)["error"]["code"], "not_found")

    def test_drift_is_shown_and_mended(self):
        path = self.user_file["codex"]
        path.parent.mkdir()
        path.write_text(CODEX)
        found = self.checks("codex", status=1)
        self.assertIn("/old/pyro mcp serve --mode inspect", found["config"]["detail"])
        self.assertEqual(found["config"]["fix"], "pyro host repair codex")
        self.assertNotIn("server", found, "one that is switched off is not started")
        diff = self.json("repair", "codex", "--dry-run")["changes"][0]["diff"]
        self.assertEqual(path.read_text(), CODEX)
        self.assertEqual(diff, f'-command = "/old/pyro"\n+command = "{COMMAND[0]}"\n-enabled = false\n+enabled = true\n')
        self.assertEqual(self.json("repair", "codex")["changes"][0]["diff"], diff)
        self.assertEqual(path.read_text(), CODEX.replace("/old/pyro", COMMAND[0]).replace("enabled = false", "enabled = true"))
        self.assertEqual(self.checks("codex", status=1)["config"]["status"], "pass")  # only the daemon is away
        self.json("repair", "codex", "--profile", "vm-run")
        self.assertEqual(self.command_in("codex", path), [*COMMAND, "--profile", "vm-run"])

    def test_another_socket_is_drift(self):
        self.json("connect", "opencode", "--mode", "inspect", PYRO_SOCKET="/one")
        self.assertEqual(self.checks("opencode", status=1)["config"]["status"], "pass")
        self.assertEqual(self.checks("opencode", status=1, PYRO_SOCKET="/two")["config"]["status"], "fail")
        self.json("repair", "opencode", PYRO_SOCKET="/two")
        self.assertEqual(self.command_in("opencode", self.user_file["opencode"]), [*COMMAND, "--mode", "inspect", "--socket", "/two"])

    def test_a_server_that_does_not_start(self):
        path = self.user_file["codex"]
        self.json("connect", "codex")
        path.write_text(path.read_text().replace('"serve"', '"serve", "--mod"'))
        found = self.checks("codex", status=1)
        self.assertIn("there is no option --mod", found["server"]["detail"])
        path.write_text(path.read_text().replace(COMMAND[0], "/nowhere/pyro"))
        self.assertIn("/nowhere/pyro", self.checks("codex", status=1)["server"]["detail"])
        noisy = self.program("pyro", "echo hello\n")
        path.write_text(f'[mcp_servers.pyro]\ncommand = "{noisy}"\nargs = ["mcp", "serve"]\n')
        self.assertIn("hello", self.checks("codex", status=1)["server"]["detail"])

    def test_a_host_with_a_scrubbed_environment(self):
        """Codex gives a server neither PYRO_SOCKET nor anything else of ours."""
        seen = self.home / "seen"
        with FakePyrod(workspace__list=lambda c: c.answer({"workspaces": []})) as daemon:
            path = self.user_file["codex"]
            path.parent.mkdir()
            wrapper = self.program("pyro", f'env > {seen}; exec {PYRO} "$@"\n')
            entry = f'[mcp_servers.pyro]\ncommand = "{wrapper}"\nargs = ["mcp", "serve"]\n'
            path.write_text(entry)
            found = self.checks("codex", status=1, PYRO_SOCKET=daemon.path, SECRET="x", LANG="C")
            self.assertEqual((found["server"]["status"], found["daemon"]["status"]), ("pass", "fail"))
            names = {line.split("=")[0] for line in seen.read_text().splitlines()}
            self.assertEqual(names - {"PWD", "_", "OLDPWD", "SHLVL"}, {"HOME", "LANG", "PATH", "TERM"})
            path.write_text(entry + f'[mcp_servers.pyro.env]\nPYRO_SOCKET = "{daemon.path}"\n')
            self.assertEqual(self.checks("codex", status=1)["daemon"]["status"], "pass")
            self.assertIn(f"PYRO_SOCKET={daemon.path}", seen.read_text())
            path.write_text(entry + 'env_vars = ["PYRO_SOCKET"]\n')
            self.assertEqual(self.checks("codex", status=1, PYRO_SOCKET=daemon.path)["daemon"]["status"], "pass")

    def test_an_entry_nearer_to_the_project_counts(self):
        self.json("connect", "claude-code")
        self.json("connect", "claude-code", "--scope", "local", "--profile", "vm-run")
        self.assertEqual(json.loads(self.user_file["claude-code"].read_text())["projects"][str(self.below)]["mcpServers"]["pyro"]["args"][2:], ["--profile", "vm-run"])
        found = self.json("doctor", "claude-code", status=1)["checks"]
        self.assertEqual([check["name"] for check in found].count("config"), 2)
        self.assertIn(": 1 tools", next(check for check in found if check["name"] == "server")["detail"])
        self.assertEqual([c["scope"] for c in self.json("disconnect", "claude-code")["changes"]], ["user", "local"])

    def test_a_plain_name_in_a_file_for_all_is_no_drift(self):
        self.program("pyro", f'exec {PYRO} "$@"\n')
        self.project_file["claude-code"].write_text('{"mcpServers": {"pyro": {"command": "pyro", "args": ["mcp", "serve"]}}}')
        self.assertEqual(self.checks("claude-code", status=1)["config"]["status"], "pass")

    def test_interrupted_while_a_server_is_silent(self):
        silent = self.program("pyro", "exec sleep 1000\n")
        path = self.user_file["codex"]
        path.parent.mkdir()
        path.write_text(f'[mcp_servers.pyro]\ncommand = "{silent}"\nargs = ["mcp", "serve"]\n')
        running = children.ends_with(self, subprocess.Popen([PYRO, "host", "doctor", "codex"], cwd=self.below, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, **children.reachable(PYRO, {})))
        deadline = time.monotonic() + WAIT
        children_file = pathlib.Path(f"/proc/{running.pid}/task/{running.pid}/children")
        while not (inside := children_file.read_text().split()) or pathlib.Path(f"/proc/{inside[0]}/comm").read_text() != "sleep\n":
            self.assertLess(time.monotonic(), deadline)
        running.send_signal(2)
        self.assertEqual(running.wait(WAIT), 130)
        self.assertFalse(pathlib.Path(f"/proc/{inside[0]}").exists())


if __name__ == "__main__":
    unittest.main()
