#!/usr/bin/env python3
"""What the process of a VM is and has, seen from outside: user, namespaces, file tree, descriptors, limits."""
import os
import pathlib
import re
import stat
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "support"))
import site_case  # noqa: E402

# Of the host's tree, and nothing else: the program, its libraries, its firmware.
SEEN = re.compile(r"/(etc/ld\.so\.cache|.*/qemu-system-x86_64|lib64/ld-[^/]*|.*/lib[^/]*\.so[^/]*|.*/qemu/accel-tcg-x86_64\.so"
                  r"|usr/share/(qemu|seabios)(/.*)?)")


class Process:
    def __init__(self, pid):
        self.pid = pid
        self.proc = pathlib.Path(f"/proc/{pid}")

    def fields(self, file):
        return dict(line.split(":\t", 1) for line in (self.proc / file).read_text().splitlines() if ":\t" in line)

    def namespace(self, kind):
        return os.readlink(self.proc / "ns" / kind)

    def mounts(self):
        """{mount point: (options of the mount and of its file system, kind)}"""
        found = {}
        for line in (self.proc / "mountinfo").read_text().splitlines():
            words = line.split()
            kind, _, of_all = words[words.index("-") + 1:]
            found[words[4]] = (words[5].split(",") + of_all.split(","), kind)
        return found

    def descriptors(self):
        """{number: (what it is, whether it may be written)}"""
        found = {}
        for number in os.listdir(self.proc / "fd"):
            flags = int(re.search(r"flags:\s*(\d+)", (self.proc / "fdinfo" / number).read_text())[1], 8)
            found[int(number)] = (os.readlink(self.proc / "fd" / number), flags & os.O_ACCMODE != os.O_RDONLY)
        return found


class Jail(site_case.SiteCase):
    config = "[templates]\nenabled = true\n"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # Restored on demand, and from a spare.
        assert cls.site.json("run", "debian:12", "--", "true")["start"] == "cold"
        cls.site.until(lambda: cls.site.call("system.status")["template_mem_mib"], "the template is ready")
        assert cls.site.json("run", "debian:12", "--", "true")["start"] == "restored"
        cls.site.until(lambda: cls.site.call("system.status")["spares"], "a spare waits")
        cls.vms = []
        for _ in range(3):
            vm = cls.site.json("vm", "create", "debian:12")["vm_id"]
            cls.vms.append(vm)
            cls.site.json("vm", "start", vm)
        cls.qemus = [Process(pid) for pid in cls.site.vm_processes()]

    @classmethod
    def tearDownClass(cls):
        for vm in cls.vms:
            cls.site.pyro("vm", "delete", vm)
        super().tearDownClass()

    def test_every_task_is_a_user_of_its_own_without_any_right(self):
        self.assertGreaterEqual(len(self.qemus), 3)
        uids = set()
        for qemu in self.qemus:
            tasks = os.listdir(qemu.proc / "task")
            self.assertGreaterEqual(len(tasks), 2)
            for task in tasks:
                status = qemu.fields(f"task/{task}/status")
                self.assertGreaterEqual(min(map(int, status["Uid"].split())), 2_000_000)
                self.assertEqual(set(status["Uid"].split()), set(status["Gid"].split()))
                self.assertEqual(status["Groups"].strip(), "")
                for caps in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                    self.assertEqual(int(status[caps], 16), 0, caps)
                self.assertEqual(status["NoNewPrivs"], "1")
                self.assertEqual(status["Seccomp"], "2")
                uids.add((qemu.pid, status["Uid"]))
        self.assertEqual(len({uid for _, uid in uids}), len(self.qemus))

    def test_namespaces_are_nobody_elses(self):
        for kind in ("mnt", "pid", "net", "ipc", "uts"):
            seen = [qemu.namespace(kind) for qemu in self.qemus]
            self.assertEqual(len(set(seen)), len(seen), kind)
            self.assertNotIn(os.readlink(f"/proc/{self.site.daemon.pid}/ns/{kind}"), seen)
        for qemu in self.qemus:
            self.assertEqual(qemu.fields("status")["NSpid"].split()[1:], ["1"])

    def test_the_file_tree_has_qemu_and_nothing_else(self):
        for qemu in self.qemus:
            files = []
            for path, folders, names in os.walk(qemu.proc / "root"):
                here = path.removeprefix(str(qemu.proc / "root"))
                if here == "/proc":  # of processes alone
                    self.assertEqual(set(names + folders), {"1", "self", "thread-self"})
                    names, folders[:] = [], []
                files += [f"{here}/{name}" for name in names]
                files += [f"{here}/{name}" for name in folders if not os.listdir(os.path.join(path, name))]
            self.assertGreater(len(files), 20)
            self.assertEqual([file for file in files if not SEEN.fullmatch(file)], [])
            self.assertEqual(os.readlink(qemu.proc / "cwd"), "/")

    def test_nothing_mounted_may_be_written_or_gives_rights(self):
        for qemu in self.qemus:
            mounts = qemu.mounts()
            self.assertEqual(mounts["/"][1], "tmpfs")
            for point, (options, kind) in mounts.items():
                self.assertIn("nosuid", options, point)
                self.assertIn("nodev", options, point)
                if kind == "proc":
                    self.assertEqual(point, "/proc")
                    self.assertIn("noexec", options)
                else:
                    self.assertIn("ro", options, point)
            # Not even by root, who would be the daemon.
            with self.assertRaises(OSError):
                os.close(os.open(qemu.proc / "root" / "new", os.O_CREAT | os.O_WRONLY))

    def test_of_all_descriptors_only_its_own_disk_can_be_written(self):
        overlays = []
        for qemu in self.qemus:
            for number, (what, writable) in qemu.descriptors().items():
                if re.match(r"(socket|pipe|anon_inode):", what) or what == "/dev/null":
                    continue
                if writable and not what.startswith("/memfd:"):
                    self.assertRegex(what, rf"^{re.escape(str(self.site.state))}/(vm|workspaces)/.*\.qcow2$")
                    overlays.append((qemu.pid, what))
                mode = os.stat(qemu.proc / "fd" / str(number)).st_mode
                self.assertTrue(stat.S_ISREG(mode), f"{number}: {what}")
        by_file = {}
        for pid, what in overlays:
            by_file.setdefault(what, set()).add(pid)
        self.assertEqual({what for what, pids in by_file.items() if len(pids) > 1}, set())
        self.assertEqual(len(by_file), len(self.qemus))

    def test_memory_of_an_image_cannot_be_changed_through_what_a_clone_holds(self):
        restored = 0
        for qemu in self.qemus:
            for number, (what, _) in qemu.descriptors().items():
                if not what.startswith("/memfd:") or "seed-frame" in what:
                    continue
                restored += 1
                with self.assertRaises(PermissionError):  # sealed: nobody writes it, however it is opened
                    with open(qemu.proc / "fd" / str(number), "r+b", buffering=0) as memory:
                        memory.write(b"x")
        self.assertGreater(restored, 0)

    def test_environment_and_limits(self):
        for qemu in self.qemus:
            self.assertEqual((qemu.proc / "environ").read_bytes(), b"")
            limits = {line[:26].strip(): line[26:].split()[:2] for line in (qemu.proc / "limits").read_text().splitlines()[1:]}
            self.assertEqual(limits["Max core file size"], ["0", "0"])
            self.assertEqual(limits["Max open files"], ["256", "256"])
            self.assertEqual(limits["Max locked memory"], ["0", "0"])
            self.assertLess(int(limits["Max processes"][1]), 1000)
            self.assertLess(int(limits["Max file size"][1]), 9 << 30)


if __name__ == "__main__":
    unittest.main(verbosity=2)
