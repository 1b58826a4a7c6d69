#!/usr/bin/env python3
"""What breaks around pyro ends in a typed error and leaves nothing: files, programs and space that are missing or wrong."""
import json
import os
import pathlib
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "support"))
import pyro_site  # noqa: E402


class Faults(unittest.TestCase):
    def site(self, **kwargs):
        site = pyro_site.Site(**kwargs)
        self.addCleanup(site.close)
        return site

    def error_of(self, site, *args, code=125):
        done = site.pyro(*args[:args.index("--")] if "--" in args else args, "--json", *(args[args.index("--"):] if "--" in args else ()))
        self.assertEqual(done.returncode, code, (done.stdout, done.stderr))
        error = json.loads(done.stdout)["error"]
        self.assertEqual(set(error), {"code", "message", "hint", "retryable", "details"})
        self.assertTrue(error["message"])
        return error

    def environment_files(self, site):
        (directory,) = [d for d in (site.state / "environments").iterdir() if d.is_dir()]
        return directory

    def test_a_truncated_root_image_is_broken_and_the_next_pull_repairs_it(self):
        site = self.site(config=pyro_site.registry_config()).start()
        (image,) = self.environment_files(site).glob("*.ext4")
        os.truncate(image, 1 << 20)
        self.assertEqual(self.error_of(site, "run", "debian:12", "--", "true")["code"], "environment_invalid")
        listed = {e["name"]: e for e in site.json("env", "list")["environments"]}
        self.assertEqual(listed["debian:12"]["state"], "broken")
        with pyro_site.registry():
            self.assertTrue(site.json("env", "pull", "debian:12")["changed"])
        self.assertEqual(site.pyro("run", "debian:12", "--", "true").returncode, 0)

    def test_a_garbage_manifest_is_broken(self):
        site = self.site().start()
        (self.environment_files(site) / "manifest.json").write_text("{garbage")
        self.assertEqual(self.error_of(site, "run", "debian:12", "--", "true")["code"], "environment_invalid")

    def test_a_missing_qemu_is_named(self):
        site = self.site()
        site.config.write_text(site.config.read_text().replace("[guest]\n", '[guest]\nqemu = "/nonexistent/qemu-system-x86_64"\n'))
        site.start()
        error = self.error_of(site, "run", "debian:12", "--", "true")
        self.assertEqual(error["code"], "failed_precondition")
        self.assertIn("/nonexistent/qemu-system-x86_64", error["message"])
        doctor = json.loads(site.pyro("doctor", "--json").stdout)
        self.assertFalse(doctor["ok"])
        self.assertEqual(site.pyro("doctor").returncode, 1)

    def test_a_missing_kernel_is_named(self):
        site = self.site()
        site.config.write_text(site.config.read_text().replace("guest/vmlinux", "guest/no-such-kernel"))
        site.start()
        error = self.error_of(site, "run", "debian:12", "--", "true")
        self.assertEqual(error["code"], "failed_precondition")
        self.assertIn("no-such-kernel", error["message"])

    def test_a_guest_that_never_answers_is_given_up(self):
        site = self.site()
        # A kernel that is none: QEMU starts, the guest says nothing.
        garbage = site.path / "initramfs"
        garbage.write_bytes(b"not an initramfs")
        site.config.write_text(site.config.read_text().replace(f"{pyro_site.BUILD}/guest/initramfs", str(garbage)))
        site.start()
        error = self.error_of(site, "run", "debian:12", "--", "true")
        self.assertEqual(error["code"], "guest_failed")

    def test_no_space_on_the_state_directory(self):
        site = self.site(environments=False, config=pyro_site.registry_config())
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", site.state], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", site.state])
        site.start()
        with pyro_site.registry():
            self.assertEqual(self.error_of(site, "env", "pull", "debian:12")["code"], "quota_exceeded")
        self.assertEqual(site.leftovers(), [])
        site.stop()

    def test_two_daemons_do_not_share_a_state_directory(self):
        site = self.site().start()
        done = subprocess.run([site.pyrod, "--config", str(site.config)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=pyro_site.WAIT)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(b"another", done.stderr)
        self.assertEqual(site.pyro("vm", "list").returncode, 0)

    def test_bad_configurations_are_refused_with_the_place(self):
        for text, word in (("colour = 1", b"colour"), ("state_dir = 3", b"state_dir"), ("state_dir = ", b"line 1")):
            with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
                file.write(text)
                file.flush()
                done = subprocess.run([pyro_site.BIN / "pyrod", "--config", file.name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=pyro_site.WAIT)
                self.assertNotEqual(done.returncode, 0)
                self.assertIn(word, done.stderr)

    def test_a_database_of_a_newer_version_is_left_alone(self):
        site = self.site().start()
        site.stop()
        database = site.state / "pyro.db"
        with sqlite3.connect(database) as db:
            db.execute("PRAGMA user_version = 9999")
        before = database.read_bytes()
        done = subprocess.run([site.pyrod, "--config", str(site.config)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=pyro_site.WAIT)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(b"newer", done.stderr)
        self.assertEqual(database.read_bytes(), before)

    def test_without_a_daemon_everything_says_so(self):
        site = self.site(environments=False)
        for args in (["vm", "list"], ["run", "debian:12", "true"], ["env", "list"], ["demo"]):
            done = site.pyro(*args)
            self.assertEqual(done.returncode, 125, args)
            self.assertIn(b"pyrod", done.stderr)
        self.assertEqual(site.pyro("doctor").returncode, 1)

    def test_host_compat_only_where_it_is_asked_for_and_never_for_root(self):
        site = self.site()
        site.config.write_text(site.config.read_text().replace("[guest]\n", '[guest]\nqemu = "/nonexistent/qemu"\n'))
        site.start()
        self.assertEqual(self.error_of(site, "run", "--allow-host-compat", "debian:12", "--", "true")["code"], "failed_precondition")
        site.socket.chmod(0o666)

        def as_user(*args, **kwargs):
            return site.pyro(*args, user=12345, group=12345, extra_groups=[], **kwargs)

        self.assertEqual(as_user("run", "debian:12", "--", "true").returncode, 125)
        script = ("id -u; id -g; tail -n +3 /proc/net/dev | wc -l; find / -xdev -perm /6000 | wc -l; find /home /run -mindepth 1 | wc -l;"
                  f"test -e {site.path} -o -e {pyro_site.BUILD} && echo host files; ls /proc/self/fd | wc -l; exit 5")
        done = as_user("run", "--json", "--allow-host-compat", "debian:12", "--", "sh", "-c", script)
        self.assertEqual(done.returncode, 5, (done.stdout, done.stderr))
        report = json.loads(done.stdout)
        self.assertEqual(report["execution_mode"], "host_compat")
        # uid, gid, interfaces beside loopback's line, setuid files, what is in /home and /run, descriptors of `ls`: 0 to 3
        self.assertEqual(report["stdout"].split(), ["12345", "12345", "1", "0", "0", "4"], report["stderr"])
        self.assertEqual(as_user("run", "--allow-host-compat", "debian:12", "--", "no-such-program").returncode, 127)
        self.assertEqual(as_user("run", "--allow-host-compat", "--timeout-seconds", "1", "debian:12", "--", "sleep", "1000").returncode, 124)
        self.assertEqual(as_user("run", "--allow-host-compat", "-i", "debian:12", "--", "cat", input=b"\0\xff").stdout, b"\0\xff")


    def test_host_compat_may_be_forbidden(self):
        site = self.site(config="[host_compat]\nallow = false\n")
        site.config.write_text(site.config.read_text().replace("[guest]\n", '[guest]\nqemu = "/nonexistent/qemu"\n'))
        site.start()
        site.socket.chmod(0o666)
        done = site.pyro("run", "--json", "--allow-host-compat", "debian:12", "--", "true", user=12345, group=12345, extra_groups=[])
        self.assertEqual(done.returncode, 125)
        self.assertIn("forbids", json.loads(done.stdout)["error"]["message"])


if __name__ == "__main__":
    unittest.main()
