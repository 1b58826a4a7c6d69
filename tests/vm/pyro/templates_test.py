#!/usr/bin/env python3
"""Starts from memory images: how a VM got going, what a clone has of its own, its disk, what it cannot touch, and what becomes
of a run when anything of that is damaged, killed or full."""
import concurrent.futures
import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "support"))
import children  # noqa: E402
import pyro_site  # noqa: E402
from oci import FaultyRegistry, Image, layer  # noqa: E402

ON = "[templates]\nenabled = true\n"
NAMES = ("sh", "cat", "echo", "true", "head", "sync", "sleep", "mount", "printf", "sha256sum", "dd", "ls", "hostname")


def busybox():
    """An image with no more than a shell: boots and warms up sooner than a Debian, which has what most tests need."""
    files = {"bin": None, "etc": None, "root": None, "tmp": None, "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n",
             "bin/busybox": pathlib.Path("/usr/bin/busybox").read_bytes(), **{f"bin/{name}": ("link", "busybox") for name in NAMES}}
    return Image([layer(files)])


TINY = None    # its name
ORIGIN = None  # a state directory with debian:12, TINY and the templates of both


def setUpModule():
    global TINY, ORIGIN
    registry = FaultyRegistry({"tiny": busybox()})
    unittest.addModuleCleanup(registry.__exit__)
    TINY = f"{registry.host}/tiny:1"
    site = pyro_site.Site(f'[registry."{registry.host}"]\nplain_http = true\nallow_private = true\n{ON}')
    unittest.addModuleCleanup(site.close)
    site.start()
    for environment in ("debian:12", TINY):
        site.pyro("run", environment, "--", "true", check=True)
    site.until(lambda: len(templates_of(site)) == 2 and site.call("system.status")["templates"] == 2, "both templates are there")
    site.stop()
    ORIGIN = pathlib.Path(tempfile.mkdtemp(prefix="pyro-origin-", dir="/tmp"))
    unittest.addModuleCleanup(shutil.rmtree, ORIGIN)
    subprocess.run(["cp", "-a", "--sparse=always", f"{site.state}/.", ORIGIN], check=True)


def templates_of(site):
    """Their directories; one without a manifest is none."""
    folder = site.state / "templates"
    return {m.parent for m in folder.glob("*/manifest.json") if m.parent.suffix == ""} if folder.exists() else set()


def template_of(site, environment):
    digest = site.json("env", "inspect", environment)["environment"]["digest"]
    return next((d for d in templates_of(site) if json.loads((d / "manifest.json").read_text())["environment_digest"] == digest), None)


def sparse_hash(path):
    """Of a file's content, wherever it has holes: those of a memory file fill up with zeros as clones look at them."""
    piece = 64 << 10
    out = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        at = 0
        while at < size:
            try:
                at = max(at, os.lseek(file.fileno(), at, os.SEEK_DATA) // piece * piece)
            except OSError:  # no more of it
                break
            data = os.pread(file.fileno(), piece, at)
            if data.strip(b"\0"):
                out.update(b"%d " % at + data)
            at += piece
    out.update(b"%d" % size)
    return out.hexdigest()


class WarmCase(unittest.TestCase):
    def site(self, config=ON, templates=True, start=True, **kwargs):
        """A daemon on a state directory like ORIGIN, or without its templates; started, it has read them."""
        site = pyro_site.Site(config, environments=ORIGIN, **kwargs)
        self.addCleanup(site.close)
        if not templates:
            shutil.rmtree(site.state / "templates")
        if start:
            site.start()
            if templates:
                self.until_ready(site)
        return site

    @staticmethod
    def status(site):
        return site.call("system.status")

    def until_ready(self, site, above=0):
        """All that is stored is in memory."""
        stored = sum((d / name).stat().st_blocks * 512 for d in templates_of(site) for name in ("memory", "devices"))
        wanted = max(above + 1, (stored >> 20) - 2)  # what the file system needs for itself is in the blocks, too
        site.until(lambda: self.status(site)["template_mem_mib"] >= wanted, "the templates are ready")

    def until_spare(self, site, count=1):
        site.until(lambda: self.status(site)["spares"] == count, f"{count} spares wait")

    def run_json(self, site, environment, script="true", *options, **kwargs):
        return site.json("run", "--timeout-seconds", "120", *options, environment, "--", "sh", "-c", script, **kwargs)

    def start_of(self, site, *options, environment=None):
        report = self.run_json(site, environment or TINY, "echo it runs", *options)
        self.assertEqual((report["exit_code"], report["stdout"]), (0, "it runs\n"))
        return report["start"]

    @staticmethod
    def together(count, act):
        """What `act` says to each number below the count, all at the same time."""
        with concurrent.futures.ThreadPoolExecutor(count) as pool:
            return list(pool.map(act, range(count)))

    def session(self, site, environment, script, *options):
        """A run that stays: it has said "begun", and reads lines."""
        process = children.ends_with(self, site.popen("run", "-i", "--timeout-seconds", "600", *options, environment, "--", "sh", "-c", script,
                                                      stdin=subprocess.PIPE))
        line = process.stdout.readline()
        self.assertEqual(line, b"begun\n", line or process.stderr.read())
        return process

    def end(self, process):
        process.stdin.close()
        process.stdin = None
        self.assertEqual(process.wait(pyro_site.WAIT), 0, process.stderr.read())

    def only_qemu(self, site):
        """A child of the daemon: without cgroups nothing else tells whose it is."""
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    command, rest = (entry / "stat").read_text().rsplit(")", 1)
                    if "qemu" in command and int(rest.split()[1]) == site.daemon.pid and rest.split()[0] != "Z":
                        found.append(int(entry.name))
        (qemu,) = found
        return qemu

    def nothing_is_left(self, site):
        """Of runs; and with the daemon's own guests gone as well, no lease is."""
        site.until(lambda: not site.files() and not site.leases()[0], "nothing is left")
        self.assertEqual([pid for pid in site.own_processes() if pid != site.daemon.pid], [])
        self.assertEqual(site.json("vm", "list")["vms"], [])


class Starts(WarmCase):
    def test_cold_then_from_its_template_then_a_spare_as_its_result_says(self):
        site = self.site(templates=False)
        self.assertEqual(self.start_of(site), "cold")
        self.until_ready(site)
        self.assertEqual(self.status(site)["templates"], 1)
        self.assertEqual(self.start_of(site, "--start", "restored"), "restored")
        self.until_spare(site)
        self.assertEqual(self.start_of(site, "--start", "restored"), "restored")
        self.assertEqual(self.start_of(site, "--start", "cold"), "cold")
        self.until_spare(site)  # still
        self.assertEqual(self.start_of(site), "spare")
        status = self.status(site)
        self.assertEqual([status[key] for key in ("boots", "starts_restored", "starts_spare", "boots_retried", "boots_failed")], [5, 2, 1, 0, 0])
        # Another size is another template; what the first one wrote is read by the next daemon.
        self.assertEqual(self.start_of(site, "--mem-mib", "300"), "cold")
        site.until(lambda: self.status(site)["templates"] == 2, "there is one of the other size")
        site.stop()
        site.start()
        self.until_ready(site)
        self.assertEqual(self.start_of(site), "restored")
        self.assertEqual(self.start_of(site, "--mem-mib", "300"), "restored")

    def test_switched_off_every_start_is_cold(self):
        site = self.site("[templates]\nenabled = false\n", start=False).start()
        for options in ([], ["--start", "spare"], ["--start", "restored"]):
            self.assertEqual(self.start_of(site, *options), "cold")
        self.nothing_is_left(site)
        self.assertEqual([self.status(site)[key] for key in ("templates", "template_mem_mib", "spares")], [0, 0, 0])

    def test_without_spares_every_start_is_from_the_image(self):
        site = self.site(ON + "[spares]\nper_template = 0\n")
        for _ in range(3):
            self.assertEqual(self.start_of(site), "restored")
            self.nothing_is_left(site)

    def test_a_spare_goes_after_its_time_and_one_that_was_taken_does_not(self):
        site = self.site(ON + "[spares]\nkeep_seconds = 2\n")
        self.assertEqual(self.start_of(site), "restored")
        self.until_spare(site)
        report = self.run_json(site, TINY, "sleep 3; echo lives")
        self.assertEqual((report["start"], report["stdout"]), ("spare", "lives\n"))
        self.until_spare(site)
        self.until_spare(site, 0)
        self.nothing_is_left(site)
        self.assertEqual(self.start_of(site), "restored")

    def test_an_idle_spare_uses_no_cpu_and_wakes_up_with_the_right_time(self):
        site = self.site()
        script = "echo begun; while read line; do date +%s.%N; done"

        def clock_is_right(process):
            before = time.time()
            process.stdin.write(b"\n")
            process.stdin.flush()
            guest = float(process.stdout.readline())
            after = time.time()
            self.assertTrue(before - 0.5 < guest < after + 0.5, (before, guest, after))
            self.end(process)

        for kind in ("cold", "restored"):
            clock_is_right(self.session(site, "debian:12", script, "--start", kind))
        self.until_spare(site)
        site.until(lambda: not site.leftovers(), "the runs are gone")
        spare = self.only_qemu(site)

        def ticks():
            with open(f"/proc/{spare}/stat") as file:
                return sum(map(int, file.read().rsplit(")", 1)[1].split()[11:13]))

        def idle():
            before = ticks()
            time.sleep(3)  # what is measured is what happens while nothing happens
            return ticks() - before <= 1
        site.until(idle, "its guest has come to rest")  # it has just been made
        process = self.session(site, "debian:12", script)
        self.assertEqual(site.vm_processes(), [spare])
        clock_is_right(process)


class Clones(WarmCase):
    COUNT = 64

    def test_each_is_one_of_its_own(self):
        site = self.site(ON + "[spares]\nper_template = 4\n")
        script = ("cat /etc/machine-id /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid; hostname; head -c 16 /dev/urandom | od -An -tx1;"
                  "python3 -c 'import os; print(os.getrandom(16).hex())'; tail -1 /etc/hosts")
        reports = []
        while len(reports) < self.COUNT:
            if reports:
                self.until_spare(site, 4)  # half of each batch
            reports += self.together(8, lambda _: self.run_json(site, "debian:12", script))
        kinds = [report["start"] for report in reports]
        self.assertNotIn("cold", kinds)
        self.assertGreaterEqual(min(kinds.count("restored"), kinds.count("spare")), self.COUNT // 4, kinds)

        names = ("machine-id", "boot_id", "uuid", "hostname", "urandom", "getrandom")
        patterns = (r"[0-9a-f]{32}", *2 * [r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"], r"[0-9a-f]{12}", *2 * [r"[0-9a-f]{32}"])
        seen = {name: set() for name in names}
        for report in reports:
            *values, hosts = report["stdout"].splitlines()
            values[4] = values[4].replace(" ", "")
            for name, pattern, value in zip(names, patterns, values, strict=True):
                self.assertRegex(value, rf"\A{pattern}\Z", name)
                seen[name].add(value)
            self.assertEqual(values[3], report["vm_id"])
            self.assertEqual(hosts, f"127.0.1.1\t{values[3]}")
        for name in names:
            self.assertEqual(len(seen[name]), self.COUNT, name)
        self.assertFalse(seen["boot_id"] & seen["uuid"])
        # Nor anything of the template's, which has ids of its own and is nobody.
        self.assertFalse({"0" * 32} & seen["machine-id"])

    def test_keys_made_in_them_differ(self):
        """The image has no ssh-keygen; this host's, of the same Debian, is brought along."""
        site = self.site(ON + "[spares]\nper_template = 2\n")
        tool = shutil.which("ssh-keygen")
        if not tool:
            self.skipTest("no ssh-keygen on this host")
        binary = pathlib.Path(tool).read_bytes()
        script = "cat > /tmp/keygen && chmod +x /tmp/keygen && /tmp/keygen -q -t ed25519 -N '' -C '' -f /tmp/key && cat /tmp/key.pub"
        if site.pyro("run", "-i", "debian:12", "--", "sh", "-c", "cat > /tmp/keygen; chmod +x /tmp/keygen; ! ldd /tmp/keygen | grep 'not found'", input=binary).returncode != 0:
            self.skipTest("this host's ssh-keygen does not run in the image")
        keys, kinds = [], []
        for _ in range(3):
            self.until_spare(site, 2)
            for kind in ("spare", "restored"):
                report = self.run_json(site, "debian:12", script, "-i", "--start", kind, input=binary)
                self.assertEqual(report["exit_code"], 0, report)
                keys.append(report["stdout"])
                kinds.append(report["start"])
        self.assertEqual(kinds, 3 * ["spare", "restored"])
        self.assertRegex(keys[0], r"\Assh-ed25519 \S+ *\n\Z")
        self.assertEqual(len(set(keys)), 6)

    def test_a_clone_has_all_of_its_memory(self):
        site = self.site()
        script = "python3 -c 'print(len(bytearray(b\"x\") * (860 << 20)))'"
        for kind in ("restored", "spare", "cold"):
            if kind == "spare":
                self.until_spare(site)
            report = self.run_json(site, "debian:12", script, "--mem-mib", "1024", "--start", kind)
            self.assertEqual((report["start"], report["stdout"]), (kind, f"{860 << 20}\n"))

    def test_an_image_does_not_keep_what_its_clones_were_the_first_to_touch(self):
        site = self.site()
        before = self.status(site)["template_mem_mib"]
        self.run_json(site, "debian:12", "python3 -c 'print(len(bytearray(b\"x\") * (700 << 20)))'", "--start", "restored")
        self.assertGreater(self.status(site)["template_mem_mib"], before + 256)
        self.assertNotEqual(self.start_of(site, environment="debian:12"), "cold")  # and has it renewed
        site.until(lambda: self.status(site)["template_mem_mib"] < before + 256, "a fresh copy took its place")
        self.assertNotEqual(self.start_of(site, environment="debian:12"), "cold")

    def test_twenty_at_once(self):
        site = self.site()
        self.start_of(site, "--mem-mib", "256")
        site.until(lambda: self.status(site)["templates"] == 3, "there is one of that size")
        self.until_ready(site)
        before = None
        for _ in range(2):  # the second round must not need more descriptors than the first
            reports = self.together(20, lambda n: self.run_json(site, TINY, f"echo {n}", "--mem-mib", "256"))
            self.assertEqual([report["stdout"] for report in reports], [f"{n}\n" for n in range(20)])
            self.assertLessEqual({report["start"] for report in reports}, {"restored", "spare"})
            site.until(lambda: not site.leftovers(), "nothing is left")
            self.until_spare(site)
            if before is not None:
                site.until(lambda: site.fds() <= before, "descriptors are back where they were")
            before = site.fds()
        status = self.status(site)
        self.assertEqual((status["boots_retried"], status["boots_failed"]), (0, 0))

    def test_a_spare_is_nobodys_in_the_count(self):
        site = self.site(ON + "[limits]\nvms = 1\nvms_per_user = 1\nmem_mib = 1024\nmem_mib_per_user = 1024\n")
        kinds = [self.start_of(site) for _ in range(4)]  # the one before may still be about to go
        self.assertNotIn("cold", kinds)
        site.until(lambda: not site.leftovers(), "the runs are gone")
        self.until_spare(site)
        status = self.status(site)
        self.assertEqual((status["vms"], status["mem_mib"]), (0, 0))
        process = self.session(site, TINY, "echo begun; cat")
        self.assertEqual(site.json("run", TINY, "--", "true", code=125)["error"]["code"], "quota_exceeded")  # there is a limit
        self.end(process)
        self.assertNotEqual(self.start_of(site), "cold")


class Disks(WarmCase):
    def layers(self, site, vm):
        """As qemu-img takes them."""
        (root,) = site.state.glob(f"environments/{site.json('env', 'inspect', 'debian:12')['environment']['digest'].removeprefix('sha256:')}/root.ext4")
        below = {"driver": "raw", "file": {"driver": "file", "filename": str(root), "locking": "off"}}
        for path in (site.state / f"vm/{vm}.base.qcow2", site.state / f"vm/{vm}.qcow2"):
            if path.exists():
                below = {"driver": "qcow2", "file": {"driver": "file", "filename": str(path), "locking": "off"}, "backing": below}
        return below

    def check(self, site, vm, end, path="/root/mark"):
        """As another host would find the disk: nothing to repair, no journal to replay, and the file ends as it should."""
        flat = site.path / "flat.raw"
        subprocess.run(["qemu-img", "convert", "-U", "-O", "raw", "json:" + json.dumps(self.layers(site, vm)), flat], check=True)
        done = subprocess.run(["e2fsck", "-fn", flat], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertNotRegex(done.stdout, "(?i)recover|journal|skipping")
        found = subprocess.run(["debugfs", "-R", f"cat {path}", flat], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.decode()
        self.assertTrue(end and found.endswith(end), found)
        flat.unlink()

    def test_every_kind_of_start_leaves_a_clean_file_system_with_what_was_written(self):
        site = self.site()
        write = "set -e; mkdir /root/tree; for i in $(seq 200); do echo $i > /root/tree/$i; done; cp -r /usr/lib/git-core /root/tree/git; rm -r /root/tree/1*; "
        for kind in ("cold", "restored", "spare"):
            with self.subTest(kind):
                if kind == "spare":
                    self.until_spare(site)
                process = self.session(site, "debian:12", write + "printf %s " + kind + " > /root/mark; sync; mount -o remount,ro /; echo begun; cat", "--start", kind)
                (vm,) = [vm["vm_id"] for vm in site.json("vm", "list")["vms"]]
                self.assertEqual((site.state / f"vm/{vm}.base.qcow2").exists(), kind != "cold")
                self.check(site, vm, kind)
                self.end(process)
                site.until(lambda: not site.leftovers(), "the run is gone")
        status = self.status(site)
        self.assertEqual((status["starts_restored"], status["starts_spare"]), (1, 1))

    def test_a_vm_stopped_and_started_from_an_image_again_keeps_its_disk(self):
        """What a command wrote before the stop is machine_test's: here no command can run without the end of its VM."""
        site = self.site()
        vm = site.json("vm", "create", "debian:12")["vm_id"]
        self.addCleanup(site.pyro, "vm", "delete", vm)
        for restored in (1, 1, 2):  # the pristine image, a boot of its own for want of one without a disk, that one
            site.json("vm", "start", vm)
            self.assertEqual(self.status(site)["starts_restored"], restored)
            site.until(lambda: self.status(site)["templates"] == 2 + (self.status(site)["boots"] > 1), "there is a template for stopped VMs")
            site.json("vm", "stop", vm)
            self.check(site, vm, "\n", "/etc/debian_version")
        report = site.json("vm", "exec", vm, "--", "sh", "-c", "touch /root/new; sync; mount | grep ' on / '; hostname")
        self.assertEqual(report["start"], "restored")
        self.assertRegex(report["stdout"], rf"\A/dev/vda on / type ext4 \(rw.*\n{vm}\n\Z")
        site.until(lambda: not site.leftovers(), "the VM is gone")

    def test_nobody_sees_what_another_wrote_and_what_all_start_from_stays(self):
        site = self.site()
        site.until(lambda: not site.leftovers(), "the daemon is at rest")
        template = template_of(site, "debian:12")
        (root,) = site.state.glob(f"environments/{json.loads((template / 'manifest.json').read_text())['environment_digest'].removeprefix('sha256:')}/root.ext4")
        held = [f"/proc/{site.daemon.pid}/fd/{fd}" for fd in os.listdir(f"/proc/{site.daemon.pid}/fd")
                if "pyro-template" in os.readlink(f"/proc/{site.daemon.pid}/fd/{fd}")]
        self.assertEqual(len(held), 4)  # memory and devices, of two
        everything = [root, *template.iterdir(), *held]
        before = [sparse_hash(path) for path in everything]
        writes = ("set -e; test ! -e /root/mine; echo $(hostname) > /root/mine; echo x >> /etc/passwd; rm /usr/bin/git; test -z \"$(grep -x x /etc/passwd | tail -n +2)\";"
                  "head -c 8M /dev/urandom > /var/tmp/noise; sync; ")
        stays = self.session(site, "debian:12", writes + "echo begun; cat; grep -qx $(hostname) /root/mine")
        results = []
        for _ in range(4):
            results += self.together(5, lambda _: self.run_json(site, "debian:12", writes + "cat /root/mine"))
        for report in results:
            self.assertEqual((report["exit_code"], report["stdout"]), (0, report["vm_id"] + "\n"), report["stderr"])
        self.assertLessEqual({report["start"] for report in results}, {"restored", "spare"})
        self.end(stays)
        self.assertEqual([sparse_hash(path) for path in everything], before)


class Walls(WarmCase):
    def attempts(self, path):
        """What can be done to the file behind it."""
        done = set()
        try:
            fd = os.open(path, os.O_RDWR)
        except PermissionError:
            return done
        done.add("open")
        if os.readlink(path).startswith("/memfd:"):
            tries = {"write": lambda: os.pwrite(fd, b"x", 4096), "truncate": lambda: os.ftruncate(fd, 4096), "grow": lambda: os.ftruncate(fd, 1 << 40),
                     "punch": lambda: subprocess.run(["fallocate", "-p", "-o", "0", "-l", "4096", f"/proc/self/fd/{fd}"], pass_fds=[fd], check=True,
                                                     stderr=subprocess.DEVNULL),
                     "map": lambda: mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
                     "seal": lambda: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)}
            for name, act in tries.items():
                with contextlib.suppress(OSError, subprocess.CalledProcessError):
                    act()
                    done.add(name)
        os.close(fd)
        return done

    def test_a_clone_cannot_change_what_others_start_from(self):
        site = self.site()
        vm = site.json("vm", "create", "debian:12")["vm_id"]
        self.addCleanup(site.pyro, "vm", "delete", vm)
        site.json("vm", "start", vm)
        self.assertEqual(self.status(site)["starts_restored"], 1)
        (qemu,) = site.vm_processes()
        uid = os.stat(f"/proc/{qemu}").st_uid
        self.assertGreaterEqual(uid, 2_000_000)
        files = {fd: os.readlink(f"/proc/{qemu}/fd/{fd}") for fd in os.listdir(f"/proc/{qemu}/fd")}
        memory = [fd for fd, target in files.items() if target.startswith("/memfd:pyro-template-memory")]
        shared = [fd for fd, target in files.items() if target.endswith((".base.qcow2", "/root.ext4", "/vmlinux", "/initramfs"))]
        own = [fd for fd, target in files.items() if target.endswith(f"/{vm}.qcow2")]
        self.assertTrue(memory and own)
        self.assertEqual({files[fd].rsplit("/", 1)[1] for fd in shared}, {f"{vm}.base.qcow2", "root.ext4", "vmlinux", "initramfs"})

        def mode(fd):
            with open(f"/proc/{qemu}/fdinfo/{fd}") as file:
                return int(re.search(r"flags:\s*(\d+)", file.read())[1], 8) & os.O_ACCMODE
        self.assertEqual({mode(fd) for fd in shared}, {os.O_RDONLY})
        self.assertEqual({mode(fd) for fd in own}, {os.O_RDWR})
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL

        def act():
            free = os.memfd_create("free", os.MFD_ALLOW_SEALING)  # shows that the attempts are good
            os.ftruncate(free, 8192)
            out = {"free": sorted(self.attempts(f"/proc/self/fd/{free}"))}
            for fd in memory:
                out[fd] = sorted(self.attempts(f"/proc/{qemu}/fd/{fd}"))
                opened = os.open(f"/proc/{qemu}/fd/{fd}", os.O_RDONLY)
                out[f"seals {fd}"] = fcntl.fcntl(opened, fcntl.F_GET_SEALS)
                view = mmap.mmap(opened, 4096, mmap.MAP_SHARED, mmap.PROT_READ)
                out[f"read {fd}"] = len(view[:])
            for fd in shared:
                out[fd] = sorted(self.attempts(f"/proc/{qemu}/fd/{fd}"))
            for path in (site.state / "templates", site.state / "vm", site.state / "environments"):
                try:
                    out[str(path)] = len(os.listdir(path))
                except PermissionError:
                    out[str(path)] = -1
            return out
        found = children.as_uid(self, uid, act)
        self.assertEqual(found["free"], ["grow", "map", "open", "punch", "seal", "truncate", "write"])
        for fd in memory:
            self.assertEqual((found[fd], found[f"seals {fd}"], found[f"read {fd}"]), (["open"], seals, 4096))
        for fd in shared:
            self.assertEqual(found[fd], [], files[fd])
        for name in ("templates", "vm", "environments"):
            self.assertEqual(found[str(site.state / name)], -1, name)
        # Even root cannot, by the daemon's own descriptors; and what is on the disk is root's alone.
        for fd in os.listdir(f"/proc/{site.daemon.pid}/fd"):
            if "pyro-template" in os.readlink(f"/proc/{site.daemon.pid}/fd/{fd}"):
                self.assertLessEqual(self.attempts(f"/proc/{site.daemon.pid}/fd/{fd}"), {"open"})
        modes = {path.name: path.stat().st_mode & 0o7777 for path in (site.state / "templates", *template_of(site, "debian:12").iterdir())}
        self.assertEqual(modes, {"templates": 0o700, "memory": 0o600, "devices": 0o600, "disk.qcow2": 0o400, "manifest.json": 0o600})
        for path in pyro_site.below(site.state / "templates"):
            self.assertEqual((path.stat().st_uid, path.stat().st_gid), (0, 0), path)
            self.assertTrue(path.is_file() or path.stat().st_mode & 0o7777 == 0o700, path)
        site.json("vm", "delete", vm)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    """One bit of what it holds."""
    with open(path, "r+b") as file:
        if path.name == "manifest.json":
            at = file.read().index(b'"memory": "sha256:') + 40
        else:
            begin = os.lseek(file.fileno(), 0, os.SEEK_DATA)
            at = (begin + os.lseek(file.fileno(), begin, os.SEEK_HOLE)) // 2
        byte = os.pread(file.fileno(), 1, at)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1]), at)


def garbage(path):
    size = min(path.stat().st_size, 1 << 20)
    path.unlink()
    path.write_bytes(os.urandom(size))


DAMAGES = (truncate, flip, garbage, pathlib.Path.unlink)
FILES = ("memory", "devices", "disk.qcow2", "manifest.json")


class Faults(WarmCase):
    def tiny_site(self, **kwargs):
        """With the template of TINY alone, which is read and built soonest."""
        site = self.site(start=False, **kwargs).start()
        template = template_of(site, TINY)
        site.stop()
        for other in templates_of(site) - {template}:
            shutil.rmtree(other)
        return site, template

    def test_files_damaged_while_the_daemon_was_away_are_never_used(self):
        site, template = self.tiny_site()
        whole = site.path / "whole"
        template.rename(whole)
        for at, name in enumerate(FILES):
            for number, damage in enumerate(DAMAGES):
                with self.subTest(f"{damage.__name__} {name}"):
                    site.stop()
                    shutil.rmtree(template, ignore_errors=True)
                    subprocess.run(["cp", "-a", "--sparse=always", whole, template], check=True)
                    damage(template / name)
                    site.start()
                    if number == at:  # each damage once with all that follows
                        self.assertEqual(self.start_of(site), "cold")
                        self.until_ready(site)
                        self.assertEqual(self.start_of(site, "--start", "restored"), "restored")
                        site.until(lambda: not site.leftovers(), "the run is gone")
                    else:
                        site.until(lambda: not template.exists(), "it is thrown away")
                        self.assertEqual(self.status(site)["templates"], 0)
        site.stop()
        # What all that was about: a whole one is used.
        shutil.rmtree(template, ignore_errors=True)
        whole.rename(template)
        site.start()
        self.until_ready(site)
        self.assertEqual(self.start_of(site), "restored")

    def test_a_disk_damaged_while_the_daemon_runs_is_not_used_and_neither_is_a_spare_on_it(self):
        site, template = self.tiny_site()
        site.start()
        self.until_ready(site)
        for damage in DAMAGES:
            with self.subTest(damage.__name__):
                self.start_of(site)
                self.until_spare(site)
                site.until(lambda: not site.leftovers(), "the run is gone")
                outdated = self.only_qemu(site)
                damage(template / "disk.qcow2")
                self.assertEqual(self.start_of(site), "cold")
                self.until_ready(site)
                site.until(lambda: template.exists(), "there is another")
                self.assertEqual(self.start_of(site), "restored")
                site.until(lambda: outdated not in site.own_processes(), "the spare of before is gone")

    def test_a_spare_that_was_killed_is_nobodys(self):
        site, _ = self.tiny_site()
        site.start()
        self.until_ready(site)
        for _ in range(3):
            self.start_of(site)
            self.until_spare(site)
            site.until(lambda: not site.leftovers(), "the run is gone")
            os.kill(self.only_qemu(site), signal.SIGKILL)
            self.assertEqual(self.start_of(site), "restored")
        self.assertEqual(self.status(site)["boots_failed"], 0)

    def test_no_space_for_a_template_is_no_trouble_for_a_run(self):
        site = self.site(start=False, templates=False)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g,mode=711", "tmpfs", site.state], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", site.state])
        subprocess.run(["cp", "-a", "--sparse=always", f"{ORIGIN}/.", site.state], check=True)
        shutil.rmtree(site.state / "templates")
        free = os.statvfs(site.state)
        filler = site.state / "filler"
        with open(filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - (32 << 20))  # for disks, not for a memory
        site.start()
        self.assertEqual(self.start_of(site, environment="debian:12"), "cold")
        site.until(lambda: "no template could be made: " in site.log(), "it was tried")
        self.assertIn("No space left on device", site.log())
        site.until(lambda: not site.leftovers(), "the run is gone")
        site.until(lambda: not list((site.state / "templates").iterdir()), "nothing half-made is left")
        self.nothing_is_left(site)
        self.assertEqual(self.start_of(site, environment="debian:12"), "cold")
        site.stop()
        filler.unlink()
        site.start()
        self.assertEqual(self.start_of(site, environment="debian:12"), "cold")
        self.until_ready(site)
        self.assertEqual(self.start_of(site, environment="debian:12"), "restored")
        site.stop()

    def test_two_templates_wanted_at_once(self):
        site = self.site(templates=False)
        processes = [children.ends_with(self, site.popen("run", environment, "--", "true")) for environment in ("debian:12", TINY)]
        for process in processes:
            self.assertEqual(process.wait(pyro_site.WAIT), 0, process.stderr.read())
        site.until(lambda: self.status(site)["templates"] == 2, "both are there")
        self.until_ready(site)
        for environment in ("debian:12", TINY):
            self.assertEqual(self.start_of(site, environment=environment), "restored")

    def test_a_daemon_killed_at_any_time_leaves_nothing(self):
        site = self.site(templates=False)
        folder = site.state / "templates"

        def after_a_kill():
            site.kill()
            site.start()
            site.until(lambda: not site.files() and not site.leases()[0] and not list(folder.glob("*.new")), "nothing is left")
            self.assertEqual([pid for pid in site.own_processes() if pid != site.daemon.pid], [])
            self.assertEqual(site.json("vm", "list")["vms"], [])

        with self.subTest("while one is built"):
            self.assertEqual(self.start_of(site), "cold")
            site.until(lambda: list(folder.glob("*.new")), "it is being built")
            after_a_kill()
            self.assertEqual(templates_of(site), set())
        with self.subTest("once it is saved"):
            self.assertEqual(self.start_of(site), "cold")
            site.until(lambda: templates_of(site), "it is there")
            after_a_kill()
            self.until_ready(site)
            self.assertEqual(self.start_of(site), "restored")
        with self.subTest("while a spare waits"):
            self.until_spare(site)
            after_a_kill()
            self.until_ready(site)
            self.assertEqual(self.start_of(site), "restored")

    def test_the_daemon_may_die_at_any_step_of_a_template(self):
        site = self.site(start=False, templates=False)
        for point in ("template_booting", "template_warm", "template_saved", "template_installed"):
            with self.subTest(point):
                site.stop()
                shutil.rmtree(site.state / "templates", ignore_errors=True)
                site.start(env={"PYRO_CRASH_AT": point})
                process = children.ends_with(self, site.popen("run", TINY, "--", "true"))
                self.assertEqual(site.daemon.wait(pyro_site.WAIT), 99)
                self.assertIn(process.wait(pyro_site.WAIT), (0, 125))  # it may have been done before
                site.start()
                self.nothing_is_left(site)
                there = point == "template_installed"
                self.assertEqual(len(templates_of(site)), there)
                self.assertEqual(list((site.state / "templates").glob("*.new")), [])
                if there:
                    self.until_ready(site)
                self.assertEqual(self.start_of(site), "restored" if there else "cold")

    def test_prune_while_spares_wait(self):
        site = self.site(pyro_site.registry_config() + '[environments]\nsources = ["registry"]\n' + ON)
        self.start_of(site, environment="debian:12")
        self.until_spare(site)
        site.until(lambda: not site.leftovers(), "the run is gone")
        self.assertIn("debian:12", site.json("env", "prune", "--all")["removed"])
        self.assertEqual(list((site.state / "environments").iterdir()), [])
        self.assertEqual(site.pyro("run", "debian:12", "--", "true").returncode, 125)  # there is none, and no registry
        with pyro_site.registry():
            report = self.run_json(site, "debian:12", "git --version")
        self.assertRegex(report["stdout"], r"\Agit version ")


if __name__ == "__main__":
    unittest.main()
