#!/usr/bin/env python3
"""Environments that users make: of workspaces, stopped, running and killed; of files; and that they are their users' alone."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "support"))
import children  # noqa: E402
import pyro_site  # noqa: E402
import site_case  # noqa: E402
from pyro_site import RpcError  # noqa: E402
from streams import streamed, tar_of  # noqa: E402

ANN, BOB = 64001, 64002
SEED = {"source": "directory", "path": "/somewhere"}
WRITER = "i=0; while :; do i=$((i+1)); echo $i > /root/count.new; mv /root/count.new /root/count; dd if=/dev/urandom of=/root/noise bs=64k count=4 2>/dev/null; done"


class Case(site_case.SiteCase):
    def setUp(self):
        super().setUp()
        self.addCleanup(self.forget)

    def forget(self):
        self.site.start_again()
        for workspace in self.site.call("workspace.list")["workspaces"]:
            self.site.call("workspace.delete", workspace_id=workspace["workspace_id"])
        for one in self.site.call("env.list")["environments"]:
            if one["name"].startswith("@"):
                self.site.call("env.remove", environment=one["digest"], force=True)

    def create(self, **params):
        return streamed(self.site, "workspace.create", tar_of({"mine": b"seeded\n"}), environment="debian:12", seed=SEED, **params)[0]["workspace_id"]

    def inside(self, workspace, command, **params):
        result, out, err = streamed(self.site, "exec.start", None, workspace_id=workspace, command=command, **params)
        self.assertEqual((result.get("exit_code"), err), (0, b""), (result, out, err))
        return out.decode()

    def run_in(self, environment, *command, **kwargs):
        done = self.site.pyro("run", environment, "--", *command, **kwargs)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.decode()

    def check(self, name):
        digest = self.site.call("env.inspect", environment=name)["environment"]["digest"]
        root = self.site.state / "environments" / digest[7:] / "root.ext4"
        done = subprocess.run(["e2fsck", "-fn", root], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual(done.returncode, 0, done.stdout)
        return digest

    def frozen_nowhere(self, workspace):
        self.assertEqual(self.inside(workspace, "touch /root/thawed && sync && echo yes"), "yes\n")


class Commits(Case):
    def test_a_running_workspace(self):
        ws = self.create()
        self.inside(ws, "mkdir /opt/tool; echo installed > /opt/tool/x; chown nobody /opt/tool/x; chmod 4755 /opt/tool/x; echo gone > /opt/gone; sync; rm /opt/gone;"
                        "echo left > /tmp/left; mkdir -p /etc/ssh; echo k > /etc/ssh/ssh_host_ed25519_key; echo new > /workspace/new")
        writer = self.site.call("exec.start", workspace_id=ws, command=WRITER, detach=True)["exec_id"]
        self.site.until(lambda: self.inside(ws, "cat /root/count 2>/dev/null; true"), "it has counted")
        machine_id = self.inside(ws, "cat /etc/machine-id")
        made = self.site.json("env", "commit", ws, "tool")
        self.assertEqual((made["changed"], made["environment"]["name"], made["environment"]["source"]), (True, "@tool", "commit"))
        digest = self.check("@tool")
        self.assertNotEqual(digest, self.site.call("env.inspect", environment="debian:12")["environment"]["digest"])
        # It went on.
        self.frozen_nowhere(ws)
        execs = {one["exec_id"]: one["state"] for one in self.site.call("exec.list", workspace_id=ws)["execs"]}
        self.assertEqual(execs.get(writer), "running")
        before = int(self.inside(ws, "cat /root/count"))
        self.site.until(lambda: int(self.inside(ws, "cat /root/count")) > before, "its command goes on")
        said = self.run_in("@tool", "sh", "-c", "stat -c '%a %U' /opt/tool/x; cat /opt/tool/x; test -s /root/count && echo counted; ls /opt /tmp /workspace /etc/ssh; test ! -e /.pyro && cat /etc/machine-id")
        self.assertTrue(said.startswith("4755 nobody\ninstalled\ncounted\n"), said)
        self.assertNotIn("left", said)
        self.assertNotIn("gone", said)
        self.assertNotIn("mine", said)
        self.assertNotIn("ssh_host", said)
        self.assertNotIn(machine_id.strip(), said)
        for field in ("user", "workdir", "env", "command"):
            self.assertEqual(self.site.json("env", "inspect", "@tool")[field], self.site.json("env", "inspect", "debian:12")[field])
        self.assertGreater(self.site.json("env", "inspect", "@tool")["package_count"], 50)
        # A workspace of it, and one made of that in turn; it is in use as long as that.
        second = self.site.call("workspace.create", environment="@tool")["workspace_id"]
        self.inside(second, "echo second > /opt/second")
        with self.assertRaises(RpcError) as raised:
            self.site.call("env.remove", environment="@tool")
        self.assertEqual(raised.exception.code, "failed_precondition")
        self.assertEqual(self.site.call("env.prune", all=True)["removed"], [])
        self.site.call("env.commit", workspace_id=second, name="second")
        self.assertEqual(self.run_in("@second", "cat", "/opt/tool/x", "/opt/second"), "installed\nsecond\n")
        self.check("@second")

    def test_a_stopped_one_and_one_whose_machine_was_killed(self):
        ws = self.create(name="sleeper")
        self.inside(ws, "echo one > /opt/one")
        self.site.call("workspace.stop", workspace_id=ws)
        self.site.call("env.commit", workspace_id="sleeper", name="one")
        self.assertEqual(self.site.call("workspace.status", workspace_id=ws)["state"], "stopped")
        self.check("@one")
        self.inside(ws, "echo two > /opt/two; sync")
        for pid in self.site.vm_processes():
            os.kill(pid, signal.SIGKILL)
        self.site.until(lambda: self.site.call("workspace.status", workspace_id=ws)["state"] == "stopped", "its machine has ended")
        self.site.call("env.commit", workspace_id=ws, name="two")
        self.check("@two")
        self.assertEqual(self.run_in("@two", "cat", "/opt/one", "/opt/two"), "one\ntwo\n")
        with self.assertRaises(RpcError) as raised:
            self.site.call("env.commit", workspace_id=ws, name="two")
        self.assertEqual(raised.exception.code, "failed_precondition")
        with self.assertRaises(RpcError) as raised:
            self.site.call("env.commit", workspace_id="nobody", name="x")
        self.assertEqual(raised.exception.code, "not_found")

    def test_a_daemon_that_dies_while_the_guest_stands_still(self):
        ws = self.create()
        self.inside(ws, "echo x > /opt/x")
        self.site.stop()
        self.site.start(env={"PYRO_CRASH_AT": "workspace_frozen"})
        with self.site.connect() as client:
            client.send("env.commit", workspace_id=ws, name="half")
            with self.assertRaises((EOFError, ConnectionError)):
                while True:
                    client.receive()
        self.site.daemon.wait(pyro_site.WAIT)
        self.site.daemon = None
        self.site.start()
        self.frozen_nowhere(ws)
        self.assertNotIn("@half", {one["name"] for one in self.site.call("env.list")["environments"]})
        self.site.call("env.commit", workspace_id=ws, name="half")
        self.check("@half")

    def test_a_commit_that_is_cancelled(self):
        ws = self.create()
        with self.site.connect() as client:
            client.send("env.commit", workspace_id=ws, name="never")
            client.wait_for("progress")
        self.site.until(lambda: not list((self.site.state / "ingest").iterdir()), "its files are gone")
        self.frozen_nowhere(ws)
        self.assertNotIn("@never", {one["name"] for one in self.site.call("env.list")["environments"]})


class WarmCommits(Case):
    config = "[templates]\nenabled = true\n"

    def test_of_a_machine_that_went_on_from_a_memory_image(self):
        self.site.json("prepare", "debian:12")
        ws = self.create()
        self.inside(ws, "echo warm > /opt/warm")
        self.assertNotEqual(self.site.call("workspace.status", workspace_id=ws)["start"], "cold")
        self.site.call("env.commit", workspace_id=ws, name="warm")
        self.check("@warm")
        for _ in range(2):
            self.assertEqual(self.run_in("@warm", "cat", "/opt/warm"), "warm\n")


class Users(Case):
    """Real users without privileges, with nothing in common but the socket."""

    def as_user(self, uid, act):
        return children.as_uid(self, uid, act, groups=[os.stat(self.site.socket).st_gid])

    def cli(self, uid, *args, **kwargs):
        return self.site.pyro(*args, "--json", user=uid, group=uid, extra_groups=[os.stat(self.site.socket).st_gid], **kwargs)

    def rootfs(self):
        """As a user would have it: the test's own root, without what makes it large."""
        return tar_of({"bin": None, "etc": None, "etc/os-release": b"ID=own\n"})

    def test_what_one_makes_another_does_not_find(self):
        done = self.cli(ANN, "env", "import", "base", "-", input=self.rootfs())
        self.assertEqual(done.returncode, 0, done.stdout)
        made = json.loads(done.stdout)
        digest = made["environment"]["digest"]
        self.assertEqual((made["environment"]["name"], made["environment"]["owner_uid"], made["environment"]["shared"]), ("@base", ANN, False))
        site = self.site

        def look():
            said = {}

            def tried(what, method, **params):
                try:
                    with site.connect() as client:
                        said[what] = client.call(method, **params)
                except RpcError as e:
                    said[what] = e.code
            tried("list", "env.list")
            for name in ("@base", digest, digest[7:20]):
                tried(f"inspect {name}", "env.inspect", environment=name)
                tried(f"remove {name}", "env.remove", environment=name)
            tried("prune", "env.prune", all=True)
            tried("run", "vm.run", environment="@base", argv=["true"])
            tried("create", "vm.create", environment="@base")
            tried("workspace", "workspace.create", environment="@base")
            tried("pull", "env.pull", environment="@base")
            tried("prepare", "env.prepare", environment="@base")
            return said
        said = self.as_user(BOB, look)
        listed = said.pop("list")
        self.assertEqual([one["name"] for one in listed["environments"] if one["name"].startswith("@")], [])
        self.assertNotIn(digest, json.dumps(listed))
        self.assertEqual(listed["usage"], [{"uid": BOB, "environments": 0, "size_bytes": 0}])
        self.assertEqual(said.pop("prune")["removed"], [])
        self.assertEqual(set(said.values()), {"not_found"}, said)
        mine = self.as_user(ANN, lambda: site.call("env.list"))
        self.assertEqual([one["name"] for one in mine["environments"] if one["name"].startswith("@")], ["@base"])
        self.assertEqual(mine["usage"][0]["environments"], 1)
        # Root sees whose it is.
        self.assertEqual(site.json("env", "inspect", digest)["environment"]["owner_uid"], ANN)
        self.assertEqual(json.loads(self.cli(ANN, "env", "remove", "@base").stdout)["removed"], ["@base"])

    def test_references_to_files(self):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="pyro-commit-"))
        self.addCleanup(shutil.rmtree, folder, True)
        folder.chmod(0o755)
        layout = folder / "Layout"
        with pyro_site.registry() as address:
            subprocess.run(["skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", f"docker://{address}/library/buildpack-deps:bookworm-scm",
                            f"oci:{layout}:v1"], check=True)
        # What all have already is known by its digest, and not sent.
        known = self.site.json("env", "pull", f"oci:{layout}:v1")
        self.assertEqual((known["downloaded_bytes"], known["environment"]["digest"]), (0, self.site.json("env", "inspect", "debian:12")["environment"]["digest"]))
        subprocess.run(["umoci", "config", "--image", f"{layout}:v1", "--config.env", "OWN=1"], check=True)
        pulled = self.site.json("env", "pull", f"oci:{layout}:v1")
        self.assertGreater(pulled["downloaded_bytes"], 1 << 20)
        self.assertTrue(pulled["environment"]["name"].startswith("@oci.layout.v1."), pulled)
        self.assertEqual(pulled["previous_digest"], known["environment"]["digest"])
        again = self.site.json("env", "pull", f"oci:{layout}:v1")
        self.assertEqual((again["downloaded_bytes"], again["environment"]["digest"]), (0, pulled["environment"]["digest"]))
        done = self.site.pyro("run", f"oci:{layout}:v1", "--", "sh", "-c", "git --version; echo $OWN")
        self.assertEqual((done.returncode, done.stdout[:11], done.stdout[-2:]), (0, b"git version", b"1\n"), done.stderr)
        created = self.site.json("workspace", "create", f"oci:{layout}:v1")
        self.assertEqual(created["environment"], pulled["environment"]["name"])
        self.assertEqual(self.site.pyro("run", "oci:/nonexistent", "--", "true").returncode, 125)


if __name__ == "__main__":
    unittest.main()
