"""`pyro mcp serve` and a client of it that has any number of calls under way."""
import itertools
import json
import os
import subprocess
import threading

import children
import pyro_site

WAIT = 120  # seconds: a deadline that only a hang reaches


def git(folder, *args):
    env = {**os.environ, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_AUTHOR_NAME": "n", "GIT_AUTHOR_EMAIL": "e", "GIT_COMMITTER_NAME": "n", "GIT_COMMITTER_EMAIL": "e"}
    return subprocess.run(["git", "-C", str(folder), *args], check=True, stdout=subprocess.PIPE, env=env).stdout


def checkout(folder, files):
    """A Git checkout with one commit of these."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    git(folder, "init", "-q", "-b", "main"), git(folder, "add", "-A"), git(folder, "commit", "-qm", "first")
    return folder


class ToolError(Exception):
    """A result with isError: the error's whole shape."""

    def __init__(self, error):
        super().__init__(json.dumps(error))
        self.error, self.code = error, error["code"]


class Pending:
    def __init__(self):
        self.done = threading.Event()
        self.message = None
        self.progress = []

    def wait(self, timeout=WAIT):
        assert self.done.wait(timeout), "no answer"
        assert self.message is not None, "the server ended"
        assert "error" not in self.message, self.message
        return self.message["result"]


class Shim:
    def __init__(self, case, *args, cwd="/", env=None, program=(pyro_site.BIN / "pyro", "mcp"), **options):
        self.process = subprocess.Popen([*program, "serve", *args], cwd=cwd, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        **children.reachable(program[0], options))
        children.ends_with(case, self.process)
        self.ids = itertools.count(1)
        self.lock = threading.Lock()
        self.pending = {}
        self.ended = False
        threading.Thread(target=self.read, daemon=True).start()
        self.server = self.request("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}).wait()

    def read(self):
        for line in self.process.stdout:
            message = json.loads(line)
            with self.lock:
                if "method" in message:
                    self.pending[message["params"]["progressToken"]].progress.append(message["params"])
                    continue
                pending = self.pending.pop(message["id"])
            pending.message = message
            pending.done.set()
        with self.lock:
            self.ended = True
            left, self.pending = self.pending, {}
        for pending in left.values():
            pending.done.set()

    def send(self, message):
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        self.process.stdin.flush()

    def request(self, method, params=None):
        pending = Pending()
        with self.lock:
            assert not self.ended, self.process.stderr.read()
            pending.id = next(self.ids)
            self.pending[pending.id] = pending
            self.send({"id": pending.id, "method": method, "params": {**(params or {}), "_meta": {"progressToken": pending.id}}})
        return pending

    def start(self, tool, **arguments):
        return self.request("tools/call", {"name": tool, "arguments": arguments})

    def cancel(self, pending):
        with self.lock:
            self.pending.pop(pending.id, None)
        self.send({"method": "notifications/cancelled", "params": {"requestId": pending.id}})

    @staticmethod
    def content(result):
        """Each form is complete by itself."""
        text = json.loads(result["content"][0]["text"])
        if result.get("isError"):
            raise ToolError(text)
        assert text == result["structuredContent"], result
        return text

    def call(self, tool, **arguments):
        return self.content(self.start(tool, **arguments).wait())

    def end(self):
        self.process.stdin.close()
        return self.process.wait(WAIT)
