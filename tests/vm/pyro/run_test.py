#!/usr/bin/env python3
"""`pyro run` as a user has it: streams, exit codes, users, terminals, time-outs, in real VMs."""
import contextlib
import fcntl
import hashlib
import json
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "support"))
import site_case  # noqa: E402


class Run(site_case.SiteCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if os.environ.get("PYRO_TEST_WARM"):  # what follows is about VMs that go on from an image, or from a spare
            start = lambda: cls.site.json("run", "debian:12", "--", "true")["start"]
            assert start() == "cold"
            cls.site.until(lambda: cls.site.call("system.status")["template_mem_mib"], "the template is ready")
            assert start() == "restored"

    def run_sh(self, script, *options, **kwargs):
        return self.site.pyro("run", "--timeout-seconds", "60", *options, "debian:12", "--", "sh", "-c", script, **kwargs)

    def test_git_version_on_stdout_and_everything_else_on_stderr(self):
        done = self.site.pyro("run", "--timeout-seconds", "60", "debian:12", "--", "git", "--version")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, rb"\Agit version 2\.\d+\.\d+.*\n\Z")
        self.assertIn(b"execution_mode=guest_", done.stderr)
        for line in done.stderr.decode().splitlines():
            self.assertRegex(line, r"^(pyro:|\[run\] )")

    def test_arguments_keep_their_borders(self):
        done = self.site.pyro("run", "debian:12", "printf", "<%s>", "a b", "", "$HOME", "-x", "--", "*", check=True)
        self.assertEqual(done.stdout, b"<a b><><$HOME><-x><--><*>")

    def test_streams_are_separate_and_binary_safe(self):
        data = os.urandom(300_000) + bytes(range(256))
        done = self.run_sh("cat; printf 'err\\377' >&2", "-i", input=data)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout, data)
        self.assertIn(b"err\xff", done.stderr)

    def test_end_of_input_is_passed_on_and_without_i_there_is_none(self):
        self.assertEqual(self.run_sh("wc -c", "-i", input=b"").stdout.strip(), b"0")
        self.assertEqual(self.run_sh("wc -c", input=b"not passed").stdout.strip(), b"0")

    def test_exit_codes_pass_unchanged(self):
        for code in (0, 1, 7, 123, 124, 125, 255):
            self.assertEqual(self.run_sh(f"exit {code}").returncode, code)

    def test_not_found_and_not_executable(self):
        done = self.site.pyro("run", "debian:12", "--", "no-such-program")
        self.assertEqual(done.returncode, 127)
        self.assertIn(b"no-such-program", done.stderr)
        self.assertEqual(self.site.pyro("run", "debian:12", "--", "/etc/passwd").returncode, 126)

    def test_a_signal_is_128_and_its_number(self):
        self.assertEqual(self.run_sh("kill -TERM $$").returncode, 128 + 15)
        report = self.site.json("run", "debian:12", "--", "sh", "-c", "kill -SEGV $$", code=128 + 11)
        self.assertEqual(report["signal"], 11)
        self.assertNotIn("exit_code", report)

    def test_json_has_everything(self):
        report = self.site.json("run", "debian:12", "--", "sh", "-c", "printf out; printf err >&2; exit 3", code=3)
        self.assertEqual((report["stdout"], report["stderr"], report["exit_code"]), ("out", "err", 3))
        for key in ("timed_out", "oom", "truncated"):
            self.assertIs(report[key], False)
        self.assertIn(report["execution_mode"], ("guest_kvm", "guest_tcg"))
        self.assertRegex(report["environment_digest"], r"^sha256:[0-9a-f]{64}$")
        self.assertGreaterEqual(report["duration_ms"], 0)

    def test_environment_workdir_and_user(self):
        done = self.run_sh('echo "$A|$PWD|$(id -un)|$HOME|$(hostname)"; id -G', "-e", "A=x y", "--workdir", "/usr/share", "--user", "nobody", check=True)
        first, groups = done.stdout.decode().splitlines()
        self.assertRegex(first, r"^x y\|/usr/share\|nobody\|/nonexistent\|")
        self.assertEqual(groups, "65534")
        done = self.run_sh('echo "$(id -u):$(id -g) $HOME $PATH"', check=True)
        self.assertRegex(done.stdout.decode(), r"^0:0 /root /usr/local/sbin:")
        self.assertEqual(self.run_sh("id -u; id -g", "--user", "1234:99", check=True).stdout, b"1234\n99\n")

    def test_the_guest_is_a_machine(self):
        done = self.run_sh("uname -r; cat /proc/1/comm; nproc; awk '/MemTotal/ {print $2}' /proc/meminfo; df -k / | tail -1 | awk '{print $2}';"
                           "mount | grep -c cgroup; ls /dev/pts /dev/shm > /dev/null && echo dev; ip -o addr 2>/dev/null | wc -l; cat /proc/sys/kernel/random/entropy_avail",
                           "--vcpu-count", "2", "--mem-mib", "512", "--disk-gib", "12", check=True)
        lines = done.stdout.decode().splitlines()
        self.assertNotEqual(lines[0], os.uname().release)
        self.assertEqual(lines[2], "2")
        self.assertTrue(400_000 < int(lines[3]) < 530_000, lines[3])
        self.assertGreater(int(lines[4]), 11 * 1024 * 1024)
        self.assertIn("dev", lines)

    def test_two_machines_are_two_machines(self):
        ids = {self.run_sh("cat /etc/machine-id /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid").stdout for _ in range(2)}
        self.assertEqual(len(ids), 2)

    def test_the_clock_is_right(self):
        before = time.time()
        guest = float(self.run_sh("date +%s.%N", check=True).stdout)
        self.assertTrue(before - 1 < guest < time.time() + 1, (before, guest))

    def test_time_out_ends_the_commands_whole_cgroup(self):
        done = self.site.pyro("run", "--timeout-seconds", "1", "debian:12", "--", "sh", "-c", "setsid sleep 1000 & sleep 1000")
        self.assertEqual(done.returncode, 124)
        self.assertIn(b"--timeout-seconds", done.stderr)
        report = self.site.json("run", "--timeout-seconds", "1", "debian:12", "--", "sh", "-c", "echo begun; sleep 1000", code=124)
        self.assertTrue(report["timed_out"])
        self.assertEqual(report["stdout"], "begun\n")

    def test_out_of_memory_is_said(self):
        report = self.site.json("run", "--mem-mib", "256", "--timeout-seconds", "120", "debian:12", "--", "python3", "-c", "x = []\nwhile True: x.append(bytearray(1 << 20))", code=137)
        self.assertTrue(report["oom"])

    def test_a_flood_is_cut_for_json_and_whole_for_a_pipe(self):
        report = self.site.json("run", "--timeout-seconds", "60", "debian:12", "--", "sh", "-c", "echo head; head -c 8M /dev/zero | tr '\\0' x; echo tail")
        self.assertTrue(report["truncated"])
        self.assertTrue(report["stdout"].startswith("head\n") and report["stdout"].endswith("tail\n"))
        self.assertLess(len(report["stdout"]), 4 << 20)
        done = self.run_sh("head -c 32M /dev/zero | tr '\\0' x")
        self.assertEqual(len(done.stdout), 32 << 20)
        self.assertEqual(hashlib.sha256(done.stdout).digest(), hashlib.sha256(b"x" * (32 << 20)).digest())

    def test_output_to_a_closed_pipe_ends_the_command(self):
        process = self.popen("run", "--timeout-seconds", "600", "debian:12", "--", "yes")
        self.assertEqual(process.stdout.read(4), b"y\ny\n")
        process.stdout.close()
        process.wait(site_case.site.WAIT)
        self.gone()

    def test_ctrl_c_stops_the_guest_command(self):
        process = self.popen("run", "--timeout-seconds", "600", "debian:12", "--", "sh", "-c", "echo begun; sleep 1000")
        self.assertEqual(process.stdout.readline(), b"begun\n")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=site_case.site.WAIT)
        self.assertEqual(process.returncode, 130)
        self.gone()

    def test_a_killed_client_takes_its_vm_with_it(self):
        process = self.popen("run", "--timeout-seconds", "600", "debian:12", "--", "sh", "-c", "echo begun; sleep 1000")
        self.assertEqual(process.stdout.readline(), b"begun\n")
        process.kill()
        process.wait()
        self.gone()

    def test_bad_input_is_refused_before_anything_starts(self):
        for args, code in ((["run", "--mem-mib", "1", "debian:12", "true"], 2), (["run", "--vcpu-count", "0", "debian:12", "true"], 2),
                           (["run", "--no-such-flag", "debian:12"], 2), (["run"], 2), (["run", "x" * 600, "true"], 2),
                           (["run", "no-such:environment/at all", "true"], 125), (["run", "../../etc", "true"], 125),
                           (["run", "a\x01b", "true"], 125)):
            done = self.site.pyro(*args)
            self.assertEqual(done.returncode, code, (args, done.stderr))
            self.assertIn(b"pyro:", done.stderr)
            self.assertEqual(done.stdout, b"")
            self.assertNotIn(b"Traceback", done.stderr)

    def test_a_terminal(self):
        pid, terminal = pty.fork()
        if pid == 0:
            os.environ.update(self.site.env, TERM="xterm")
            os.execv(site_case.site.BIN / "pyro", ["pyro", "run", "-it", "--timeout-seconds", "0", "debian:12"])
        process = os.pidfd_open(pid)

        def end():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):  # collected already
                os.waitpid(pid, 0)
            os.close(process)
            os.close(terminal)
        self.addCleanup(end)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
        seen = b""

        def expect(pattern):
            nonlocal seen
            deadline = time.monotonic() + site_case.site.WAIT
            while not (match := re.search(pattern, seen)):
                ready, _, _ = select.select([terminal], [], [], deadline - time.monotonic())
                self.assertTrue(ready, f"{pattern!r} never came: {seen!r}")
                try:
                    data = os.read(terminal, 65536)
                except OSError:
                    data = b""
                self.assertTrue(data, f"the terminal ended before {pattern!r}: {seen!r}")
                seen += data
            seen = seen[match.end():]

        expect(rb"[#$] ")
        os.write(terminal, b"stty size; tty; echo $TERM\n")
        expect(rb"33 101\r\n/dev/pts/\d+\r\nxterm\r\n")
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 90, 0, 0))
        os.kill(pid, signal.SIGWINCH)
        os.write(terminal, b"sh -c 'echo be''gun; exec sleep 1000'\n")
        expect(rb"begun\r\n")  # and exec: dash loses a signal that comes while it forks
        os.write(terminal, b"\x03")  # to the guest's foreground job, not to pyro
        expect(rb"[#$] ")
        os.write(terminal, b"stty size; exit 9\n")
        expect(rb"40 90\r\n")
        self.assertTrue(select.select([process], [], [], site_case.site.WAIT)[0], "it goes on")
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 9)

    def test_demo(self):
        done = self.site.pyro("demo", check=True)
        self.assertRegex(done.stdout.decode() + done.stderr.decode(), r"git version")
        self.assertTrue(done.stdout.decode().strip().splitlines()[-1])
        json.loads(self.site.pyro("demo", "--json", check=True).stdout)

    def gone(self):
        self.site.until(lambda: not self.site.json("vm", "list")["vms"] and not self.site.leftovers(), "the VM is gone")


if __name__ == "__main__":
    unittest.main()
