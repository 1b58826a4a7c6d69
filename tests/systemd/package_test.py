#!/usr/bin/env python3
"""The Debian package of this build, installed on a pseudo-host with a real systemd, and used there by users without privileges."""
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))
import children  # noqa: E402
import sdhost  # noqa: E402

BUILD = pathlib.Path(os.environ.get("PYRO_BUILD", ROOT / "build"))
MACHINES = "pyro.slice/pyro-machines.service"


def setUpModule():
    if reason := sdhost.why_not():
        raise unittest.SkipTest(reason)
    global packages
    folder = tempfile.TemporaryDirectory(prefix="pyro-packages-")
    unittest.addModuleCleanup(folder.cleanup)
    packages = pathlib.Path(folder.name) / "packages"
    packages.mkdir()
    built = pathlib.Path(folder.name) / "built"
    # Compressed for speed: what is in it is what matters.
    subprocess.run(["cpack", "-G", "DEB", "-B", built, "-D", "CPACK_DEBIAN_COMPRESSION_TYPE=gzip"], cwd=BUILD, check=True, stdout=subprocess.DEVNULL)
    package = next(built.glob("*.deb"))
    package.rename(packages / "pyro.deb")
    # The next version: the same files, another number.
    subprocess.run(["dpkg-deb", "-R", packages / "pyro.deb", built / "next"], check=True)
    control = built / "next/DEBIAN/control"
    control.write_text(re.sub(r"^Version: .*$", "Version: 99.0", control.read_text(), flags=re.M))
    subprocess.run(["dpkg-deb", "-Zgzip", "-b", built / "next", packages / "next.deb"], check=True, stdout=subprocess.DEVNULL)


class PackageCase(unittest.TestCase):
    """Each class has a host of its own with the package installed and `debian:12` in its cache. ann and bob may use pyro, eve may not."""
    config = ""

    @classmethod
    def setUpClass(cls):
        cls.host = sdhost.SdHost(packages, BUILD / "test-environments/state", BUILD / "test-environments/registry")
        cls.addClassCleanup(cls.host.close)
        cls.host.run("rm", "-f", "/usr/sbin/policy-rc.d")  # images for containers have one that forbids every start
        cls.host.run("mkdir", "-p", "/etc/pyro", "/var/lib/pyro")
        cls.host.run("cp", "-a", "--sparse=always", "/run/show/state/.", "/var/lib/pyro")
        cls.host.write("/etc/pyro/pyrod.toml", cls.config)
        cls.install("pyro.deb")
        for user, groups in (("ann", ["-G", "pyro"]), ("bob", ["-G", "pyro"]), ("eve", [])):
            cls.host.run("useradd", "-m", *groups, user)

    @classmethod
    def install(cls, package):
        cls.host.run("dpkg", "-i", f"/run/show/packages/{package}", env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})

    def setUp(self):
        self.addCleanup(self.explain)

    def explain(self):
        if not self._outcome.success:
            print(self.host.run("journalctl", "-u", "pyrod.service", "-n", "30", "--no-pager", check=False).stdout)

    def systemctl(self, *words, **options):
        return self.host.run("systemctl", *words, **options)

    def show(self, unit, field):
        return self.systemctl("show", "-p", field, "--value", unit).stdout.strip()

    def pyro(self, *words, user="ann", check=True):
        return self.host.run("runuser", "-u", user, "--", "pyro", *words, check=check)

    def json(self, *words, user="ann"):
        at = words.index("--") if "--" in words else len(words)
        return json.loads(self.pyro(*words[:at], "--json", *words[at:], user=user).stdout)

    def journal(self, *matches):
        lines = self.host.run("journalctl", "-o", "json", "--no-pager", *matches).stdout.splitlines()
        return [json.loads(line) for line in lines]

    def machines(self):
        """The pids of QEMUs, as this host counts them."""
        out = self.host.run("pgrep", "-x", "qemu-system-x86", check=False).stdout.split()
        return {int(pid) for pid in out}

    def workspace(self, *options, user="ann"):
        made = self.json("workspace", "create", *options, "debian:12", user=user)["workspace_id"]
        self.addCleanup(lambda: self.pyro("workspace", "delete", made, user=user, check=False))
        return made

    def scopes(self):
        out = self.host.run("sh", "-c", f"find /sys/fs/cgroup -path '*{MACHINES}/pyro-*/*' -type d").stdout.splitlines()
        return {path.rsplit("/", 1)[1] for path in out}

    def logs(self, workspace, command, *options):
        return self.pyro("workspace", "logs", *options, "--exec", command, workspace).stdout

    def counting(self, workspace):
        """Begins a command that writes numbered lines, and returns its id."""
        command = self.json("workspace", "exec", "-d", workspace, "--", "sh", "-c",
                            "i=0; until [ -e /workspace/end ]; do echo line $i; i=$((i+1)); sleep 0.02; done; echo last $i")["exec_id"]
        self.host.until(lambda: "line 3\n" in self.logs(workspace, command), "the command writes")
        return command

    def counted(self, workspace, command):
        """It goes on; ended, its output is whole, each line once."""
        seen = len(self.logs(workspace, command))
        self.host.until(lambda: len(self.logs(workspace, command)) > seen, "the command goes on")
        self.pyro("workspace", "exec", workspace, "--", "touch", "/workspace/end")
        lines = self.logs(workspace, command, "--follow").splitlines()
        self.assertEqual(lines, [f"line {i}" for i in range(len(lines) - 1)] + [f"last {len(lines) - 1}"])


class Installed(PackageCase):
    def test_a_connection_starts_it_and_a_user_runs_a_machine(self):
        self.systemctl("stop", "pyrod.service")
        self.assertEqual(self.show("pyrod.socket", "ActiveState"), "active")
        self.assertEqual(self.show("pyrod.service", "ActiveState"), "inactive")
        self.assertEqual(self.host.run("stat", "-c", "%U:%G %a", "/run/pyro/pyrod.sock").stdout, "root:pyro 660\n")
        done = self.pyro("run", "debian:12", "--", "sh", "-c", "cat /etc/debian_version; exit 3", check=False)
        self.assertEqual((done.returncode, done.stdout[:3]), (3, "12."), done.stderr)
        self.assertEqual(self.show("pyrod.service", "ActiveState"), "active")
        self.assertEqual(self.show("pyrod.service", "StatusText"), "Serving")
        refused = self.pyro("run", "debian:12", "--", "true", user="eve", check=False)
        self.assertEqual(refused.returncode, 125, refused.stderr)
        self.assertIn("group pyro", refused.stderr)

    def test_the_journal_says_who_did_what(self):
        workspace = self.workspace()
        ann, bob = (self.host.run("id", "-u", user).stdout.strip() for user in ("ann", "bob"))
        self.pyro("workspace", "delete", workspace, user="bob", check=False)
        made, = self.journal(f"PYRO_OBJECT={workspace}", f"PYRO_USER={ann}", "PYRO_METHOD=workspace.create")
        self.assertEqual((made["PYRO_OUTCOME"], made["PRIORITY"], made["_SYSTEMD_UNIT"]), ("done", "6", "pyrod.service"))
        self.assertTrue(int(made["PYRO_PID"]) > 1)
        foreign, = self.journal(f"PYRO_OBJECT={workspace}", f"PYRO_USER={bob}")
        self.assertEqual((foreign["PYRO_METHOD"], foreign["PYRO_OUTCOME"]), ("workspace.delete", "not_found"))

    def test_machines_have_limits_below_their_slice(self):
        workspace = self.workspace()
        self.pyro("workspace", "exec", workspace, "--", "true")
        self.assertRegex(self.pyro("doctor", check=False).stdout, rf"PASS  limits .*memory is limited, tasks are limited.*{MACHINES}")
        pid = min(self.machines())
        groups = self.host.run("cat", f"/proc/{pid}/cgroup").stdout
        self.assertRegex(groups, rf"memory:.*{MACHINES}/pyro-[0-9a-f]+/vm-|^0::/{MACHINES}/pyro-[0-9a-f]+/vm-")
        tree = self.host.run("systemd-cgls", "--no-pager", "-u", "pyro.slice").stdout
        self.assertIn(str(pid), tree)
        limits = self.host.run("sh", "-c", f"cat $(find /sys/fs/cgroup -path '*{MACHINES}/pyro-*/vm-*' -name memory.limit_in_bytes -o "
                                           f"-path '*{MACHINES}/pyro-*/vm-*' -name memory.max)").stdout.split()
        self.assertTrue(limits and all(int(limit) < 4 << 30 for limit in limits), limits)

    def test_exposure(self):
        said = self.host.run("systemd-analyze", "security", "--no-pager", "--threshold=40", "pyrod.service", check=False)
        self.assertEqual(said.returncode, 0, said.stdout)

    def test_memory_of_a_machine_is_seen_without_tracing_it(self):
        bounds = self.host.run("sh", "-c", "grep CapBnd /proc/$(systemctl show -p MainPID --value pyrod)/status").stdout
        self.assertEqual(int(bounds.split()[1], 16) >> 19 & 1, 0, "CAP_SYS_PTRACE")
        vm = self.json("vm", "create", "debian:12")["vm_id"]
        self.addCleanup(lambda: self.pyro("vm", "delete", vm, check=False))
        self.pyro("vm", "start", vm)
        self.assertGreater(self.json("vm", "status", vm)["memory_private_bytes"], 1 << 20)

    def test_a_restart_loses_no_output(self):
        workspace = self.workspace()
        command = self.counting(workspace)
        before = self.machines()
        self.systemctl("restart", "pyrod.service")
        self.counted(workspace, command)
        self.assertTrue(before & self.machines())

    def test_a_killed_daemon_comes_back_and_loses_no_output(self):
        workspace = self.workspace()
        command = self.counting(workspace)
        restarts, pid = int(self.show("pyrod.service", "NRestarts")), self.show("pyrod.service", "MainPID")
        self.host.run("kill", "-9", pid)
        self.counted(workspace, command)
        self.assertEqual(int(self.show("pyrod.service", "NRestarts")), restarts + 1)

    def test_a_hung_daemon_is_replaced_and_machines_stay(self):
        self.host.write("/run/systemd/system/pyrod.service.d/short.conf", "[Service]\nWatchdogSec=3s\n")
        self.addCleanup(self.systemctl, "daemon-reload")
        self.addCleanup(self.host.run, "rm", "-r", "/run/systemd/system/pyrod.service.d")
        self.systemctl("daemon-reload")
        workspace = self.workspace()
        self.pyro("workspace", "exec", workspace, "--", "touch", "/workspace/mine")
        self.systemctl("restart", "pyrod.service")
        restarts, pid = int(self.show("pyrod.service", "NRestarts")), self.show("pyrod.service", "MainPID")
        self.host.run("kill", "-STOP", pid)
        self.host.until(lambda: int(self.show("pyrod.service", "NRestarts")) > restarts, "the watchdog bites")
        self.pyro("workspace", "exec", workspace, "--", "test", "-e", "/workspace/mine")
        self.assertTrue([line for line in self.journal("-u", "pyrod.service") if "Watchdog timeout" in str(line["MESSAGE"])])

    def test_reload(self):
        self.addCleanup(self.systemctl, "reload", "pyrod.service")
        self.addCleanup(self.host.write, "/etc/pyro/pyrod.toml", self.config)
        self.systemctl("start", "pyrod.service")
        pid = self.show("pyrod.service", "MainPID")

        def vms_max():
            return re.search(r"of (\d+) VMs", self.pyro("doctor", check=False).stdout).group(1)
        self.host.write("/etc/pyro/pyrod.toml", self.config + "[limits]\nvms = 7\nsessions = 99\n")
        self.systemctl("reload", "pyrod.service")
        self.host.until(lambda: vms_max() == "7", "the limit holds")
        self.host.until(lambda: [line for line in self.journal("-u", "pyrod.service") if "with the next start of pyrod: limits.sessions" in str(line["MESSAGE"])],
                        "what waits is said")
        self.host.write("/etc/pyro/pyrod.toml", "[limits]\nvms = 0\n")
        refused = self.systemctl("reload", "pyrod.service", check=False)
        self.assertNotEqual(refused.returncode, 0)
        self.assertEqual((vms_max(), self.show("pyrod.service", "MainPID")), ("7", pid))

    def test_a_stopped_daemon_leaves_machines_and_ending_them_leaves_nothing(self):
        workspace = self.workspace("--seed-path", "/usr/share/doc/pyro")
        self.pyro("workspace", "exec", workspace, "--", "sh", "-c", "echo mine > /workspace/kept; sync")
        self.systemctl("stop", "pyrod.service")
        self.assertTrue(self.machines())
        self.assertEqual(self.host.run("pgrep", "-x", "pyrod", check=False).stdout, "")
        self.assertEqual(self.show("pyrod.service", "Result"), "success")
        self.systemctl("stop", "pyro-machines.service")
        self.assertEqual((self.machines(), self.scopes()), (set(), set()))
        self.pyro("workspace", "exec", workspace, "--", "test", "-e", "/workspace/kept", "-a", "-e", "/workspace/copyright")  # starts all again

    def test_an_upgrade_keeps_workspaces_running(self):
        workspace = self.workspace()
        command = self.counting(workspace)
        before, pid = self.machines(), self.show("pyrod.service", "MainPID")
        self.install("next.deb")
        self.assertNotEqual(self.show("pyrod.service", "MainPID"), pid)
        self.assertTrue(before & self.machines())
        self.counted(workspace, command)


class Workers(PackageCase):
    """What inherits the unit's restrictions beside QEMU."""
    config = '[guest]\nkernel = "/nonexistent"\n'

    def start_empty(self, more):
        """With another configuration, and nothing in the cache."""
        self.systemctl("stop", "pyrod.service")
        self.host.write("/etc/pyro/pyrod.toml", self.config + more)
        self.host.run("sh", "-c", "rm -rf /var/lib/pyro/environments /var/lib/pyro/blobs /var/lib/pyro/pyro.db*")

    def test_a_pull_from_a_registry(self):
        self.host.write("/etc/registry.yml", "version: 0.1\nstorage:\n  filesystem: {rootdirectory: /run/show/registry}\n"
                        "http:\n  addr: 127.0.0.1:5000\n  secret: test\n")
        self.host.run("systemd-run", "--unit=registry", "docker-registry", "serve", "/etc/registry.yml")
        self.addCleanup(self.systemctl, "stop", "registry.service")
        self.start_empty("")
        self.pyro("env", "list")
        # The daemon runs already; a registry may come later.
        self.host.write("/etc/pyro/pyrod.toml", self.config + '[mirror]\n"docker.io" = "http://127.0.0.1:5000"\n'
                        '[registry."127.0.0.1:5000"]\nplain_http = true\nallow_private = true\n')
        self.systemctl("reload", "pyrod.service")
        self.host.until(lambda: [line for line in self.journal("-u", "pyrod.service") if "holds: mirror.docker.io" in str(line["MESSAGE"])], "it is read")
        self.pyro("env", "pull", "debian:12")
        found = self.json("env", "inspect", "debian:12")["environment"]
        self.assertEqual((found["state"], found["source"]), ("installed", "registry"))

    def test_a_sandbox_on_the_host(self):
        done = self.pyro("run", "--allow-host-compat", "debian:12", "--", "sh", "-c", "cat /etc/debian_version; id -un; ls /proc | grep -c '^[0-9]'", check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"^12\..*\n")

    def test_the_bootstrap_in_its_user_namespace(self):
        # What of mmdebstrap needs rights: devices aside, a proc of its own, files of other users, and setuid ones.
        self.host.write("/usr/local/bin/mmdebstrap", "#!/bin/sh -e\nmkdir /tmp/root /tmp/root/proc /tmp/root/bin\nmount -t proc proc /tmp/root/proc\n"
                        "test -e /tmp/root/proc/self/status\numount /tmp/root/proc\ncp /bin/busybox /tmp/root/bin/busybox\nln -s busybox /tmp/root/bin/sh\n"
                        "chmod 4755 /tmp/root/bin/busybox\nchown 5:5 /tmp/root/bin/sh -h\ntar -C /tmp/root -c .\n")
        self.host.run("chmod", "755", "/usr/local/bin/mmdebstrap")
        self.start_empty('[workers]\nmmdebstrap = "/usr/local/bin/mmdebstrap"\n[environments]\nsources = ["debian-archive"]\n')
        self.pyro("env", "pull", "debian:12")
        self.assertEqual(self.json("env", "inspect", "debian:12")["environment"]["source"], "debian-archive")


class Removed(PackageCase):
    def test_removing_keeps_the_state_and_purging_does_not(self):
        workspace = self.workspace()
        self.pyro("workspace", "exec", workspace, "--", "sh", "-c", "echo mine > /workspace/kept; sync")
        self.host.run("dpkg", "-r", "pyro")
        self.assertEqual((self.machines(), self.scopes()), (set(), set()))
        self.assertFalse(self.host.run("pgrep", "-x", "pyrod", check=False).stdout)
        self.assertNotEqual(self.host.run("test", "-e", "/run/pyro/pyrod.sock", check=False).returncode, 0)
        self.install("pyro.deb")
        self.pyro("workspace", "exec", workspace, "--", "test", "-e", "/workspace/kept")
        self.host.run("dpkg", "-r", "pyro")
        # A process that is left, of whatever: its disk may be there.
        self.host.run("systemd-run", "--slice=pyro.slice", "--unit=left", "sleep", "infinity")
        self.assertNotEqual(self.host.run("dpkg", "-P", "pyro", check=False).returncode, 0)
        self.host.run("test", "-e", "/var/lib/pyro/pyro.db")
        self.systemctl("stop", "left.service")
        self.host.run("dpkg", "-P", "pyro")
        for path in ("/var/lib/pyro", "/run/pyro", "/etc/pyro", "/usr/lib/pyro", "/usr/sbin/pyrod"):
            self.assertNotEqual(self.host.run("test", "-e", path, check=False).returncode, 0, path)


if __name__ == "__main__":
    unittest.main()
