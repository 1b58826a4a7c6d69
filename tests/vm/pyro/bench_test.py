#!/usr/bin/env python3
"""`pyro bench`: every row, what is said of what cannot be compared, and that nothing stays behind. No figure is judged."""
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import unittest
from unittest import mock

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "support"))
import site_case  # noqa: E402

OWN_ROWS = ["run", "restored", "cold", "create", "exec", "reset"]

# In podman's place, so that every host compares something: says what it was asked, and runs the command in the tree (with
# a /dev/null, which a real one brings and git wants).
STAND_IN = r"""#!/bin/sh
echo "$*" >> {log}
case $1 in
    --version) echo stand-in 1 ;;
    run) {on_run} while [ "$1" != --rootfs ]; do shift; done; dir=$2; shift 2; touch "$dir/dev/null"; exec chroot "$dir" "$@" ;;
esac
"""


class Bench(site_case.SiteCase):
    config = "[templates]\nenabled = true\n"

    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory(prefix="pyro-bench-test-")
        self.addCleanup(folder.cleanup)
        self.programs, self.temporary = (pathlib.Path(folder.name) / name for name in ("programs", "temporary"))
        self.programs.mkdir()
        self.temporary.mkdir()
        self.log = pathlib.Path(folder.name) / "log"
        self.log.touch()
        self.with_environment(TMPDIR=self.temporary)

    def with_environment(self, **values):
        changed = mock.patch.dict(self.site.env, {name: str(value) for name, value in values.items()})
        changed.start()
        self.addCleanup(changed.stop)

    def stand_in(self, name, text):
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)
        self.with_environment(PATH=f"{self.programs}:{os.environ['PATH']}")

    def check_row(self, row, n):
        self.assertEqual(row["n"], n, row)
        self.assertGreater(row["median_ms"], 0)
        self.assertGreaterEqual(row["p95_ms"], row["median_ms"])

    def nothing_stays(self):
        self.assertEqual(list(self.temporary.iterdir()), [])
        self.assertEqual(self.site.json("vm", "list")["vms"], [])

    def test_every_row_and_the_density(self):
        self.stand_in("podman", STAND_IN.format(log=self.log, on_run=""))
        self.stand_in("docker", "#!/bin/sh\necho no daemon here >&2\nexit 1\n")
        report = self.site.json("bench", "-n", "2", "--density", "2", "--rows", ",".join(OWN_ROWS + ["podman", "docker"]))
        rows = {row["name"]: row for row in report["rows"]}
        self.assertEqual(list(rows), OWN_ROWS + ["podman"])
        for name, row in rows.items():
            self.check_row(row, 1 if name == "cold" else 2)
        self.assertEqual(rows["run"]["starts"], {"spare": 2})
        self.assertEqual(rows["restored"]["starts"], {"restored": 2})
        self.assertEqual(rows["cold"]["starts"], {"cold": 1})
        ratio = rows["run"]["median_ms"] / rows["podman"]["median_ms"]  # of figures that were rounded
        self.assertAlmostEqual(rows["podman"]["ratio"], ratio, delta=0.01 + ratio / 20)
        self.assertEqual(rows["podman"]["version"], "stand-in 1")
        self.assertEqual(report["left_out"], [{"name": "docker", "reason": "does not work here: no daemon here"}])
        self.assertIn(report["execution_mode"], ("guest_kvm", "guest_tcg"))
        self.assertEqual((report["host"]["cores"], report["command"]), (os.cpu_count(), ["git", "--version"]))
        self.assertRegex(report["pyro"]["qemu"], r"^\d+\.\d+")
        self.assertRegex(report["pyro"]["guest_kernel"], r"^\d+\.\d+")
        density = report["density"]
        for when in ("idle", "after_command"):
            self.assertTrue(1 << 20 < density[when]["private_bytes"] < 512 << 20, density)
        self.assertGreater(density["after_command"]["private_bytes"], density["idle"]["private_bytes"])
        calls = self.log.read_text()
        self.assertEqual(calls.count("run --rm --network=none"), 3, calls)  # the trial and two that count
        self.assertIn("rm --force --ignore", calls)
        self.nothing_stays()

    def test_in_words(self):
        done = self.site.pyro("bench", "--runs", "1", "--rows", "run,runsc", check=True).stdout.decode()
        self.assertRegex(done, r"(?m)^run +\d+\.\d ms +\d+\.\d ms +1 +1 (spare|restored)$")
        self.assertRegex(done, r"(?m)^(not compared: runsc: .+|runsc +\d.*)$")

    def test_the_installed_podman(self):
        if not shutil.which("podman"):
            self.skipTest("podman is not installed: not compared")
        report = self.site.json("bench", "-n", "2", "--rows", "run,podman")
        left_out = {one["name"]: one["reason"] for one in report["left_out"]}
        if "podman" in left_out:
            self.assertRegex(left_out["podman"], r"^does not work here: .+")
            self.skipTest(f"podman {left_out['podman']}")
        self.assertEqual([row["name"] for row in report["rows"]], ["run", "podman"])
        self.check_row(report["rows"][1], 2)
        self.nothing_stays()

    def test_a_wrong_row_is_wrong_usage(self):
        for rows in ("run,walk", ","):
            done = self.site.pyro("bench", "--rows", rows)
            self.assertEqual((done.returncode, done.stdout), (2, b""))
            self.assertIn(b"--rows", done.stderr)

    def test_a_command_that_fails_is_not_measured(self):
        error = self.site.json("bench", "--rows", "run", "--command", "ls /nowhere", code=125)["error"]
        self.assertIn("No such file", error["message"])

    def interrupted(self, process):
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=site_case.site.WAIT)
        self.assertEqual(process.returncode, 130, out)
        self.assertEqual(json.loads(out)["error"]["code"], "cancelled")
        self.nothing_stays()

    def test_ctrl_c_during_another_runtime_leaves_nothing(self):
        self.stand_in("podman", STAND_IN.format(log=self.log, on_run="exec sleep 1000;"))
        process = self.popen("bench", "--rows", "run,podman", "--json")
        self.site.until(lambda: "run --rm" in self.log.read_text(), "the trial began")
        self.assertTrue(list(self.temporary.iterdir()))
        self.interrupted(process)
        self.assertIn("rm --force", self.log.read_text())

    def test_ctrl_c_with_vms_leaves_nothing(self):
        process = self.popen("bench", "--rows", "run", "-n", "1", "--density", "4", "--json")
        self.site.until(lambda: sum(vm["state"] == "running" for vm in self.site.json("vm", "list")["vms"]) >= 2, "two of them run")
        self.interrupted(process)


if __name__ == "__main__":
    unittest.main()
