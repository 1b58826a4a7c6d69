#!/usr/bin/env python3
"""The one-shot life cycle taken apart: vm create, start, exec, stop, delete; restarts and deaths of the daemon."""
import os
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "support"))
import site_case  # noqa: E402
from pyro_site import RpcError  # noqa: E402


class Lifecycle(site_case.SiteCase):
    def create(self, *options):
        vm = self.site.json("vm", "create", *options, "debian:12")["vm_id"]
        self.addCleanup(self.delete, vm)
        return vm

    def delete(self, vm):
        """Of a test that failed half-way nothing stays for the next one to find."""
        self.site.start_again()
        self.site.pyro("vm", "delete", vm)

    def states(self):
        return {vm["vm_id"]: vm["state"] for vm in self.site.json("vm", "list")["vms"]}

    def test_create_start_exec_is_gone(self):
        vm = self.create()
        self.assertEqual(self.states()[vm], "stopped")
        started = self.site.json("vm", "start", vm)
        self.assertEqual(started["state"], "running")
        self.assertIn(started["execution_mode"], ("guest_kvm", "guest_tcg"))
        self.assertFalse(self.site.json("vm", "network-info", vm)["network"])
        done = self.site.pyro("vm", "exec", vm, "--", "sh", "-c", "cat /etc/debian_version; exit 4")
        self.assertEqual(done.returncode, 4)
        self.assertRegex(done.stdout, rb"^12\.")
        self.assertNotIn(vm, self.states())
        self.assertEqual(self.site.pyro("vm", "status", vm).returncode, 125)

    def test_exec_starts_what_is_not_started(self):
        vm = self.create()
        self.assertEqual(self.site.pyro("vm", "exec", vm, "--", "true", check=True).stdout, b"")
        self.assertNotIn(vm, self.states())

    def test_stop_keeps_the_disk_and_delete_takes_everything(self):
        vm = self.create()
        self.site.json("vm", "start", vm)
        self.assertEqual(self.site.json("vm", "stop", vm)["state"], "stopped")
        self.assertEqual(self.site.json("vm", "stop", vm)["state"], "stopped")
        self.assertEqual(self.site.json("vm", "start", vm)["state"], "running")
        self.site.json("vm", "delete", vm)
        self.assertNotIn(vm, self.states())
        done = self.site.pyro("vm", "delete", vm)
        self.assertEqual(done.returncode, 125)
        self.assertIn(b"there is no VM", done.stderr)

    def test_a_ttl_ends_it(self):
        vm = self.create("--ttl-seconds", "1")
        self.site.until(lambda: vm not in self.states(), "the TTL is over")
        self.assertEqual(self.site.json("vm", "reap-expired")["reaped"], [])

    def test_a_restarted_daemon_finds_its_machines(self):
        vm = self.create()
        self.site.json("vm", "start", vm)
        for restart in (self.site.stop, self.site.kill):
            restart()
            self.site.start()
            self.assertEqual(self.states().get(vm), "running")
        done = self.site.pyro("vm", "exec", vm, "--", "cat", "/proc/uptime", check=True)
        self.assertGreater(float(done.stdout.split()[0]), 0)
        self.assertNotIn(vm, self.states())

    def test_a_killed_daemon_ends_its_runs_and_leaves_nothing(self):
        process = self.popen("run", "--timeout-seconds", "600", "debian:12", "--", "sh", "-c", "echo begun; sleep 1000")
        self.assertEqual(process.stdout.readline(), b"begun\n")
        self.site.kill()
        _, err = process.communicate(timeout=site_case.site.WAIT)
        self.assertEqual(process.returncode, 125, err)
        self.site.start()
        self.assertEqual(self.site.json("vm", "list")["vms"], [])
        self.site.until(lambda: not self.site.leftovers(), "the rolled back run left nothing")

    def test_the_daemon_may_die_at_any_step(self):
        for point in ("machine_recorded", "overlay_written", "process_recorded", "process_started", "machine_running", "machine_stopping"):
            with self.subTest(point):
                self.site.stop()
                self.site.start(env={"PYRO_CRASH_AT": point})
                self.assertEqual(self.site.pyro("run", "debian:12", "--", "true").returncode, 125)
                self.site.daemon.wait(site_case.site.WAIT)
                self.site.start()
                self.assertEqual(self.site.json("vm", "list")["vms"], [])
                self.site.until(lambda: not self.site.leftovers(), "nothing is left")
                self.assertEqual(self.site.pyro("run", "debian:12", "--", "true").returncode, 0)

    def test_a_vm_whose_exec_lost_its_daemon_is_gone(self):
        vm = self.create()
        process = self.popen("vm", "exec", "--timeout-seconds", "600", vm, "--", "sh", "-c", "echo begun; sleep 1000")
        self.assertEqual(process.stdout.readline(), b"begun\n")
        self.site.kill()
        process.communicate(timeout=site_case.site.WAIT)
        self.assertEqual(process.returncode, 125)
        self.site.start()
        self.assertNotIn(vm, self.states())
        self.site.until(lambda: not self.site.leftovers(), "nothing is left")

    def test_a_killed_qemu_is_noticed_and_said(self):
        process = self.popen("run", "--timeout-seconds", "600", "debian:12", "--", "sh", "-c", "echo begun; sleep 1000")
        self.assertEqual(process.stdout.readline(), b"begun\n")
        (qemu,) = self.site.vm_processes()
        os.kill(qemu, 9)
        _, err = process.communicate(timeout=site_case.site.WAIT)
        self.assertEqual(process.returncode, 125)
        self.assertIn(b"pyro:", err)
        self.site.until(lambda: not self.site.leftovers(), "nothing is left")

    def test_twenty_at_once(self):
        results = []

        def one(n):
            results.append((n, self.site.pyro("run", "--timeout-seconds", "300", "--ttl-seconds", "3000", "--mem-mib", "256", "debian:12", "--", "echo", str(n), timeout=900)))

        before = None
        for _ in range(2):  # the second round must not need more descriptors than the first
            threads = [threading.Thread(target=one, args=(n,)) for n in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.site.until(lambda: not self.site.leftovers(), "nothing is left")
            if before is not None:
                self.site.until(lambda: self.site.fds() <= before, "descriptors are back where they were")
            before = self.site.fds()
        self.assertEqual(len(results), 40)
        for n, done in results:
            self.assertEqual((done.returncode, done.stdout), (0, f"{n}\n".encode()), done.stderr)

    def test_others_do_not_see_it(self):
        vm = self.create()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.setgroups([0])
                os.setresgid(0, 0, 0)
                os.setresuid(12345, 12345, 12345)
                with self.site.connect() as client:
                    assert client.call("vm.list")["vms"] == []
                    for method in ("vm.status", "vm.start", "vm.stop", "vm.delete", "vm.exec", "vm.network_info"):
                        try:
                            client.call(method, vm_id=vm, **({"argv": ["id"]} if method == "vm.exec" else {}))
                            raise AssertionError(f"{method} crossed users")
                        except RpcError as error:
                            assert error.code == "not_found", error
                code = 0
            finally:
                os._exit(code)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
        self.site.json("vm", "delete", vm)

    def test_an_idle_daemon_is_idle(self):
        def of_proc(name):
            with open(f"/proc/{self.site.daemon.pid}/{name}") as file:
                return file.read()

        ticks = lambda: sum(map(int, of_proc("stat").rsplit(")", 1)[1].split()[11:13]))
        self.site.pyro("vm", "list", check=True)
        time.sleep(1)  # what is measured is what happens while nothing happens
        before = ticks()
        time.sleep(3)
        self.assertLessEqual(ticks() - before, 1)
        if os.environ.get("PYRO_SANITIZED"):
            print("resident memory is not looked at: a sanitized daemon's says nothing of the product's")
            return
        rss = int(next(line for line in of_proc("status").splitlines() if line.startswith("VmRSS")).split()[1])
        self.assertLess(rss, 30 * 1024, "the daemon's resident memory in KiB")


if __name__ == "__main__":
    unittest.main()
