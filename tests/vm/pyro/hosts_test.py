#!/usr/bin/env python3
"""Claude Code, Codex and OpenCode themselves, configured by `pyro host connect`, each driving a workspace for a scripted model at a loopback address."""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "support"))
import pyro_site  # noqa: E402
import site_case  # noqa: E402
from mcp_shim import checkout  # noqa: E402
from scripted_model import ScriptedModel  # noqa: E402

PACKAGES = pyro_site.BUILD / "test-hosts/node_modules"
PATCH = "--- a/src/a.txt\n+++ b/src/a.txt\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n"
WAIT = 300  # seconds: a deadline that only a hang reaches


class Host:
    """One host: its program, what it needs to talk to the scripted model, how it is asked what is connected, how it is given a task."""

    def __init__(self, case, model_url):
        self.home, self.model_url = case.home, model_url
        self.env = {"HOME": str(case.home), "PATH": f"{case.bin}:/usr/bin:/bin", "TERM": "dumb", "LANG": "C.UTF-8"}


class ClaudeCode(Host):
    name, program = "claude-code", "@anthropic-ai/claude-code-linux-x64/claude"

    def configure(self):
        # No account, and nobody else's server is asked for anything.
        self.env |= {"ANTHROPIC_BASE_URL": self.model_url, "ANTHROPIC_API_KEY": "scripted", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1", "ENABLE_TOOL_SEARCH": "false"}
    listing, connected = ["claude", "mcp", "get", "pyro"], "Connected"
    task = ["claude", "-p", "mend it", "--allowedTools", "mcp__pyro"]


class Codex(Host):
    name, program = "codex", "@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex"

    def configure(self):
        with open(self.home / ".codex/config.toml", "a") as file:
            # Tools that delete or write to the host are asked about otherwise, and `codex exec` has nobody to ask.
            file.write(f'default_tools_approval_mode = "approve"\n\n[model_providers.scripted]\nname = "scripted"\nbase_url = "{self.model_url}/v1"\nwire_api = "responses"\n')
    listing, connected = ["codex", "mcp", "get", "pyro"], "enabled: true"  # it starts no server for that
    task = ["codex", "exec", "--skip-git-repo-check", "-c", 'model_provider="scripted"', "-m", "scripted", "mend it"]


class OpenCode(Host):
    name, program = "opencode", "opencode-linux-x64-baseline/bin/opencode"

    def configure(self):
        path = self.home / ".config/opencode/opencode.json"
        provider = {"npm": "@ai-sdk/openai-compatible", "name": "scripted", "options": {"baseURL": f"{self.model_url}/v1", "apiKey": "scripted"}, "models": {"scripted": {"name": "scripted"}}}
        path.write_text(json.dumps({**json.loads(path.read_text()), "provider": {"scripted": provider}, "model": "scripted/scripted", "autoupdate": False, "share": "disabled"}))
        self.env |= {"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_LSP_DOWNLOAD": "1"}
    listing, connected = ["opencode", "mcp", "list"], "connected"
    task = ["opencode", "run", "mend it"]


class RealHosts(site_case.SiteCase):
    config = "[templates]\nenabled = true\n"

    def setUp(self):
        super().setUp()
        folder = pathlib.Path(tempfile.mkdtemp(prefix="pyro-hosts-"))
        self.addCleanup(shutil.rmtree, folder)
        self.home, self.bin = folder / "home", folder / "bin"
        self.home.mkdir(), self.bin.mkdir()
        self.project = checkout(folder / "project", {"src/a.txt": "one\ntwo\nthree\n", "test.sh": "grep -q 2 src/a.txt\n"})
        self.steps = []

    def start(self, host, command):
        return subprocess.run(command, cwd=self.project, env=host.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=WAIT)

    def run_in(self, host, command, status=0):
        done = self.start(host, command)
        self.assertEqual(done.returncode, status, done.stdout)
        return done.stdout

    def script(self):
        """The loop, with what each answer has to say. The hosts put words of their own around a result."""
        def content(shown):
            self.steps.append(shown)
            return json.loads(shown[shown.index("{"):])
        made = content((yield "workspace_create", {"environment": "debian:12"}))
        workspace = {"workspace_id": made["workspace_id"]}
        self.assertEqual(made["seed"]["branch"], "main")
        self.assertEqual(content((yield "workspace_exec", {**workspace, "command": "sh test.sh"}))["exit_code"], 1)
        refused = content((yield "workspace_patch_apply", {**workspace, "patch": PATCH.replace("two", "zwei")}))
        self.assertEqual(refused["code"], "failed_precondition")
        self.assertEqual(content((yield "workspace_patch_apply", {**workspace, "patch": PATCH}))["changes"][0]["path"], "src/a.txt")
        self.assertEqual(content((yield "workspace_exec", {**workspace, "command": "sh test.sh && echo fine"}))["stdout"], "fine\n")
        self.assertIn("\n+2\n", content((yield "workspace_diff", workspace))["patch"])
        content((yield "workspace_delete", workspace))
        return "mended and proven"

    def trial(self, kind):
        program = PACKAGES / kind.program
        self.assertTrue(program.exists(), "scripts/test-node hosts installs the hosts")
        with ScriptedModel(self.script) as model:
            host = kind(self, model.url)
            (self.bin / host.task[0]).symlink_to(program)
            self.run_in(host, [pyro_site.BIN / "pyro", "host", "connect", host.name, "--socket", self.site.socket])
            host.configure()
            self.assertIn(host.connected, self.run_in(host, host.listing))
            found = json.loads(self.run_in(host, [pyro_site.BIN / "pyro", "host", "doctor", host.name, "--json"]))
            self.assertEqual([check["status"] for check in found["checks"]], ["pass"] * 4, found)
            done = self.start(host, host.task)
            self.assertIsNone(model.error, done.stdout)
            self.assertEqual(done.returncode, 0, done.stdout)
            said = done.stdout
            self.assertEqual(model.last_words, "mended and proven", said)
            self.assertIn("mended and proven", said)
            self.assertEqual(len(self.steps), 7)
            # The host has kept what we wrote, and it is still what it should be.
            self.assertIn("unchanged", self.run_in(host, [pyro_site.BIN / "pyro", "host", "connect", host.name, "--socket", self.site.socket]))
            self.run_in(host, [pyro_site.BIN / "pyro", "host", "disconnect", host.name])
            self.assertNotIn(host.connected, self.run_in(host, host.listing, status=self.GONE[host.name]))
        self.assertEqual(self.site.call("workspace.list")["workspaces"], [])

    # How the hosts' own commands end when they are asked for a server that they do not have.
    GONE = {"claude-code": 1, "codex": 1, "opencode": 0}

    def test_claude_code(self):
        self.trial(ClaudeCode)

    def test_codex(self):
        self.trial(Codex)

    def test_opencode(self):
        self.trial(OpenCode)


if __name__ == "__main__":
    unittest.main()
