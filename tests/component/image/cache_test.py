#!/usr/bin/env python3
"""The daemon's environment cache with its real workers, on registries that work, break off, or are not there."""
import contextlib
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "tests/support/registry")]
import children  # noqa: E402
import oci  # noqa: E402

BIN = pathlib.Path(os.environ.get("PYRO_BUILD", ROOT / "build")) / "bin"
WAIT = 120
CATALOG = "library/buildpack-deps"


def debian_like(seed=b"a", size=400_000):
    return oci.Image([oci.layer({"bin": None, "bin/sh": b"#!/bin/sh\n", "etc": None, "etc/os-release": b"ID=debian\n"}),
                      oci.layer({"opt": None, "opt/data": oci.noise(size, seed), "etc/.wh.os-release": b""})], config={"User": "1000", "Cmd": ["sh"], "Env": ["A=b"]})


def holds(entry, text):
    """Whether that process of /proc has a file open whose name contains the text. Files may close, and it may end, meanwhile."""
    with contextlib.suppress(OSError):
        for fd in os.listdir(entry / "fd"):
            with contextlib.suppress(OSError):
                if text in os.readlink(entry / "fd" / fd):
                    return True
    return False


def processes_with(text):
    return [int(entry.name) for entry in pathlib.Path("/proc").iterdir() if entry.name.isdigit() and holds(entry, text)]


def handles(pids):
    """Of those that still are."""
    out = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            out.append(os.pidfd_open(pid))
    return out


class CacheCase(unittest.TestCase):
    def setUp(self):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="pyro-cache-"))
        self.addCleanup(shutil.rmtree, folder, True)
        folder.chmod(0o711)
        self.state = folder / "state"
        self.state.mkdir(mode=0o700)
        self.folder = folder
        self.addCleanup(self.nothing_is_left)

    def nothing_is_left(self):
        self.assertEqual(list((self.state / "ingest").rglob("*")), [])
        self.assertEqual(processes_with(str(self.folder)), [])

    def options(self, registry=None, **more):
        mirrors = {"docker.io": registry.url} if registry else {}
        return json.dumps({"worker": str(BIN / "pyro-image"), "mirrors": mirrors, "sources": ["registry"], **more})

    def start(self, command, *args, registry=None, **more):
        return children.ends_with(self, subprocess.Popen([BIN / "env-tool", self.state, self.options(registry, **more), command, *args], stdout=subprocess.PIPE, text=True))

    def lines(self, command, *args, **kwargs):
        process = self.start(command, *args, **kwargs)
        with process.stdout:
            lines = [json.loads(line) for line in process.stdout]
        self.assertIn(process.wait(WAIT), (0, 1))
        self.heard = lines
        return lines

    def last(self, *args, **kwargs):
        return self.lines(*args, **kwargs)[-1]

    def fails(self, code, *args, **kwargs):
        error = self.last(*args, **kwargs).get("error", {})
        self.assertEqual(error.get("code"), code, self.heard[-1])
        return error

    def registry(self, image=None, fault=None, **kwargs):
        self.image = image or debian_like()
        registry = oci.FaultyRegistry({CATALOG: self.image, "library/app": self.image}, fault, **kwargs)
        self.addCleanup(registry.__exit__)
        return registry

    def state_of(self, name="debian:12"):
        return {line["name"]: line for line in self.lines("list")}[name]

    def environment(self):
        (directory,) = (self.state / "environments").iterdir()
        return directory

    def must_be_clean(self):
        done = subprocess.run(["e2fsck", "-fn", self.environment() / "root.ext4"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"})
        self.assertEqual(done.returncode, 0, done.stdout)


class Pulls(CacheCase):
    def test_by_catalog_name_through_a_mirror(self):
        image = debian_like()
        with oci.DockerRegistry() as registry:
            registry.push(CATALOG, "bookworm-scm", image)
            out = self.last("pull", "debian:12", registry=registry)
        self.assertTrue(out["changed"])
        phases = [line["phase"] for line in self.heard if "phase" in line]
        self.assertEqual([p for i, p in enumerate(phases) if i == 0 or p != phases[i - 1]][:3], ["resolve", "download", "verify"])
        self.assertEqual(phases[-1], "ready")
        self.must_be_clean()
        manifest = out["environment"]["manifest"]
        self.assertEqual(manifest["digest"], oci.digest(image.manifest))
        self.assertEqual(manifest["source"]["kind"], "registry")
        self.assertEqual(manifest["config"]["user"], "1000")
        self.assertEqual(out["environment"]["state"], "installed")
        again = self.last("pull", "debian:12", registry=registry)  # which has gone
        self.assertFalse(again["changed"])
        listing = subprocess.run(["debugfs", "-R", "ls -p /etc", self.environment() / "root.ext4"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
        self.assertNotIn(b"os-release", listing)
        self.assertEqual(sorted(p.name for p in (self.state / "blobs/sha256").iterdir()),
                         sorted(name[7:] for name in [*image.layer_digests, oci.digest(image.config), oci.digest(image.manifest)]))
        for path in [*(self.state / "blobs/sha256").iterdir(), *self.environment().iterdir()]:
            self.assertEqual(path.stat().st_uid, os.geteuid())
        self.assertEqual(list((self.state / "downloads").iterdir()), [])

    def test_any_reference_and_the_same_image_under_two_names(self):
        registry = self.registry()
        self.last("pull", "debian:12", registry=registry)
        blobs = registry.count("blobs")
        out = self.last("pull", "app:1", registry=registry)
        self.assertEqual(out["environment"]["name"], "docker.io/library/app:1")
        self.assertFalse(out["changed"])
        self.assertEqual(registry.count("blobs"), blobs + 1)  # the configuration; the layers were there
        self.environment()  # one
        self.assertEqual(self.last("inspect", oci.digest(self.image.manifest))["state"], "installed")
        self.assertEqual(self.last("inspect", oci.digest(self.image.manifest)[7:15])["state"], "installed")
        self.fails("not_found", "inspect", "app:2")
        self.fails("not_found", "inspect", oci.digest(b"none"))
        self.fails("invalid_argument", "inspect", "../etc/passwd")

    def test_force_builds_again_and_gives_the_same(self):
        registry = self.registry()
        before = self.last("pull", "debian:12", registry=registry)["environment"]["manifest"]["root"]["digest"]
        out = self.last("force", "debian:12", registry=registry)
        self.assertTrue(out["changed"])
        self.assertEqual(out["environment"]["manifest"]["root"]["digest"], before)

    def test_waiters_share_one_pull(self):
        registry = self.registry()
        lines = self.lines("together", "debian:12", registry=registry)
        self.assertEqual({line.get("digest") for line in lines[:4]}, {oci.digest(self.image.manifest)})
        self.assertTrue(all(line["heard"] for line in lines[:4]))
        self.assertEqual(registry.count("blobs", self.image.layer_digests[1]), 1)
        self.assertEqual(lines[-1], {"jobs": 0})

    def test_one_who_leaves_does_not_stop_the_others(self):
        registry = self.registry()
        lines = {line["waiter"]: line for line in self.lines("one-leaves", "debian:12", registry=registry)[:4]}
        self.assertTrue(lines[0].get("cancelled"))
        for number in (1, 2, 3):
            self.assertIn("digest", lines[number])

    def test_when_all_leave_the_work_stops_and_the_next_pull_goes_on_from_there(self):
        release = threading.Event()
        self.addCleanup(release.set)
        image = debian_like(size=6 << 20)
        target = image.layer_digests[1]

        def fault(handler, kind, name):
            if name != target or handler.headers.get("Range"):
                return False
            handler.answer(200, image.blobs[name][:4 << 20], announce=len(image.blobs[name]))
            release.wait(WAIT)
            handler.hang_up()
            return True
        registry = self.registry(image, fault)
        lines = self.lines("all-leave", "debian:12", registry=registry)
        self.assertTrue(all(line.get("cancelled") for line in lines[:4]), lines)
        self.assertEqual(self.state_of()["state"], "available")
        release.set()
        self.assertTrue(self.last("pull", "debian:12", registry=registry)["changed"])
        ranges = [headers.get("Range") for kind, name, headers in registry.requests if name == target]
        self.assertGreater(int(ranges[-1].removeprefix("bytes=").rstrip("-")), 0)

    def test_a_killed_daemon_leaves_nothing_half_visible(self):
        release = threading.Event()
        self.addCleanup(release.set)
        image = debian_like(size=6 << 20)

        def fault(handler, kind, name):
            if name != image.layer_digests[1] or handler.headers.get("Range"):
                return False
            handler.answer(200, image.blobs[name][:4 << 20], announce=len(image.blobs[name]))
            release.wait(WAIT)
            handler.hang_up()
            return True
        registry = self.registry(image, fault)
        process = self.start("pull", "debian:12", registry=registry)
        for line in process.stdout:
            event = json.loads(line)
            if event.get("digest") == image.layer_digests[1] and event["done"] > 1 << 20:
                break
        workers = handles(pid for pid in processes_with(str(self.folder)) if pid != process.pid)
        self.assertTrue(workers)
        process.kill()
        process.wait(WAIT)
        for fd in workers:  # the kernel ends them with the daemon
            self.assertTrue(select.select([fd], [], [], WAIT)[0])
            os.close(fd)
        release.set()
        self.assertEqual(self.state_of()["state"], "available")
        self.assertTrue(self.last("pull", "debian:12", registry=registry)["changed"])
        self.must_be_clean()


class Damage(CacheCase):
    def setUp(self):
        super().setUp()
        self.good = self.registry()
        self.assertTrue(self.last("pull", "debian:12", registry=self.good)["changed"])
        self.root = self.environment() / "root.ext4"

    def broken_until_pulled(self):
        self.assertEqual(self.state_of()["state"], "broken")
        self.assertTrue(self.state_of()["problem"])
        error = self.fails("environment_invalid", "ensure", "debian:12", registry=self.good)
        self.assertIn("pyro env pull", error["hint"])
        self.assertTrue(self.last("pull", "debian:12", registry=self.good)["changed"])
        self.assertEqual(self.state_of()["state"], "installed")
        self.assertIn("digest", self.last("ensure", "debian:12"))
        self.must_be_clean()

    def test_a_truncated_root_image(self):
        os.truncate(self.root, 1 << 20)
        self.broken_until_pulled()

    def test_a_missing_root_image(self):
        self.root.unlink()
        self.broken_until_pulled()

    def test_a_changed_root_image(self):
        with open(self.root, "r+b") as file:
            file.seek(5 << 30)
            file.write(b"changed")
        self.broken_until_pulled()

    def test_a_changed_root_image_that_kept_its_time_is_found_by_a_pull(self):
        before = self.root.stat()
        with open(self.root, "r+b") as file:
            file.seek(1 << 20)
            file.write(b"changed")
        os.utime(self.root, ns=(before.st_atime_ns, before.st_mtime_ns))
        self.assertTrue(self.last("pull", "debian:12", registry=self.good)["changed"])
        self.must_be_clean()

    def test_garbage_for_a_manifest(self):
        for text in ("{garbage", "", "{}", "[]", (self.environment() / "manifest.json").read_text().replace('"format": 1', '"format": 2')):
            (self.environment() / "manifest.json").write_text(text)
            self.broken_until_pulled()

    def test_missing_files(self):
        (self.environment() / "manifest.json").unlink()
        self.broken_until_pulled()
        shutil.rmtree(self.environment())
        self.assertEqual(self.state_of()["state"], "broken")

    def test_a_copy_with_other_inodes_is_looked_at_and_taken(self):
        copy = self.root.with_suffix(".copy")
        subprocess.run(["cp", "--sparse=always", self.root, copy], check=True)
        copy.rename(self.root)
        self.assertIn("digest", self.last("ensure", "debian:12"))

    def test_a_damaged_blob_is_found_and_replaced(self):
        blob = self.state / "blobs/sha256" / self.image.layer_digests[1][7:]
        blob.chmod(0o600)
        with open(blob, "r+b") as file:
            file.write(b"damage")
        self.fails("environment_invalid", "force", "debian:12", registry=self.good)
        self.assertTrue(self.last("force", "debian:12", registry=self.good)["changed"])


class Refusals(CacheCase):
    def test_registry_errors_reach_the_caller_and_leave_nothing(self):
        answers = {401: "failed_precondition", 404: "not_found", 429: "unavailable", 500: "unavailable"}
        for status, code in answers.items():
            def fault(handler, kind, name, status=status):
                handler.answer(status, b"{}", {"Retry-After": "0"})
                return True
            # An answer is an answer: the archive is not asked instead.
            self.fails(code, "pull", "debian:12", registry=self.registry(fault=fault), sources=["registry", "debian-archive"], mmdebstrap="/nonexistent")
            self.assertEqual(self.state_of()["state"], "available")

    def test_a_layer_that_cannot_be_unpacked_leaves_nothing(self):
        image = oci.Image([oci.layer({"ok": b"1"}), oci.layer({"../evil": b"2"})])
        error = self.fails("environment_invalid", "pull", "debian:12", registry=self.registry(image))
        self.assertIn("../evil", error["message"])
        self.assertEqual(list((self.state / "environments").iterdir()), [])

    def test_bad_names(self):
        for name in ("", "../x", "a b", "UPPER:x", "x" * 300):
            self.fails("invalid_argument", "pull", name)

    def test_a_missing_worker_is_named(self):
        error = self.fails("failed_precondition", "pull", "debian:12", registry=self.registry(), worker="/nonexistent/pyro-image")
        self.assertIn("/nonexistent/pyro-image", error["message"])

    @unittest.skipUnless(os.geteuid() == 0, "needs root to mount a small file system")
    def test_no_space(self):
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs", self.state], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", self.state], check=True)
        for size in (40 << 20, 16 << 20):  # while loading, and while building
            self.fails("quota_exceeded", "pull", "debian:12", registry=self.registry(debian_like(size=size)))
            self.assertEqual(list((self.state / "ingest").rglob("*")), [])
            self.assertEqual(list((self.state / "environments").iterdir()), [])
            self.assertEqual(self.state_of()["state"], "available")


class Prune(CacheCase):
    def test_what_has_a_name_or_a_lease_stays(self):
        registry = self.registry()
        self.last("pull", "debian:12", registry=registry)
        self.assertEqual(self.last("prune")["removed"], [])
        self.assertEqual(self.last("prune-leased", "debian:12")["removed"], [])
        self.assertEqual(self.state_of()["state"], "installed")
        # The name moves on; what it led to before has none any more.
        registry.images[CATALOG] = debian_like(b"b")
        self.last("force", "debian:12", registry=registry)
        out = self.last("prune")
        self.assertEqual(out["removed"], [oci.digest(self.image.manifest)])
        self.assertGreater(out["freed"], 400_000)
        self.must_be_clean()
        out = self.last("prune-all")
        self.assertEqual(out["removed"], ["debian:12"])
        for folder in ("environments", "blobs/sha256", "downloads"):
            self.assertEqual(list((self.state / folder).iterdir()), [])


    def test_a_pull_begun_while_prune_removes_finds_what_it_counts_on(self):
        registry = self.registry()
        self.last("pull", "debian:12", registry=registry)
        blobs = self.state / "blobs/sha256"
        wanted = sorted(path.name for path in blobs.iterdir())
        for n in range(20_000):  # prune comes to them first, and has to do with them for a while
            (blobs / f"{n:064x}").touch()
        line = self.last("pull-while-pruned", "debian:12", registry=registry)
        self.assertEqual(line.get("digest"), oci.digest(self.image.manifest), line)
        self.assertEqual(sorted(path.name for path in blobs.iterdir()), wanted)
        self.assertEqual(self.state_of()["state"], "installed")


# Stands in for mmdebstrap where the archive itself is not the point: what it may do shows in what it packs.
FAKE_MMDEBSTRAP = r"""#!/bin/sh
set -e
echo "I: pretending" >&2
root=$(mktemp -d)
mkdir -p "$root/etc" "$root/home/user"
id -u > "$root/etc/uid"
grep NoNewPrivs /proc/self/status > "$root/etc/nnp"
cat /proc/self/uid_map > "$root/etc/uid_map"
ls /tmp | wc -l > "$root/etc/tmp-entries"
echo "$@" > "$root/etc/arguments"
chown 1000:1000 "$root/home/user"
chmod 4755 "$root/etc/uid"
tar -C "$root" -c .
rm -r "$root"
"""


@unittest.skipUnless(os.geteuid() == 0, "only a daemon that runs as root has ids to give")
class Archive(CacheCase):
    def fake(self, text=FAKE_MMDEBSTRAP):
        folder = tempfile.TemporaryDirectory(prefix="pyro-fake-", dir="/var/tmp")  # in the namespace /tmp is another
        self.addCleanup(folder.cleanup)
        os.chmod(folder.name, 0o755)
        path = pathlib.Path(folder.name) / "mmdebstrap"
        path.write_text(text)
        path.chmod(0o755)
        return str(path)

    def gone(self):
        silence = oci.Silence()
        self.addCleanup(silence.close)
        return silence

    def test_where_no_registry_can_be_reached_the_archive_is_the_source(self):
        out = self.last("pull", "debian:12", registry=self.gone(), sources=["registry", "debian-archive"], mmdebstrap=self.fake())
        self.assertTrue(out.get("changed"), out)
        manifest = out["environment"]["manifest"]
        self.assertEqual(manifest["source"]["kind"], "debian-archive")
        self.assertEqual(manifest["source"]["manifest_digest"], "")
        self.assertTrue(any("trying the next source" in line.get("message", "") for line in self.heard))
        self.assertIn("pretending", [line.get("message") for line in self.heard])
        self.must_be_clean()
        (tar,) = manifest["layers"]
        self.assertEqual(oci.digest((self.state / "blobs/sha256" / tar["digest"][7:]).read_bytes()), tar["digest"])

        def cat(path):
            return subprocess.run(["debugfs", "-R", f"cat {path}", self.environment() / "root.ext4"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.decode()
        self.assertEqual(cat("/etc/uid").strip(), "0")
        self.assertEqual(cat("/etc/nnp").split(), ["NoNewPrivs:", "1"])
        self.assertEqual(cat("/etc/tmp-entries").strip(), "1")
        (zero, outside, one), _ = (line.split() for line in cat("/etc/uid_map").splitlines())
        self.assertEqual((zero, one), ("0", "1"))
        self.assertGreaterEqual(int(outside), 2000000)
        self.assertIn("--include=ca-certificates,", cat("/etc/arguments"))
        self.assertTrue(cat("/etc/arguments").rstrip().endswith("bookworm -"))
        stat = subprocess.run(["debugfs", "-R", "stat /home/user", self.environment() / "root.ext4"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.decode()
        self.assertRegex(stat, r"User: +1000 +Group: +1000")
        # It does not pass for the official image.
        self.fails("unavailable", "ensure", "docker.io/library/buildpack-deps:bookworm-scm", registry=self.gone(), sources=["registry", "debian-archive"])

    def test_a_failing_archive_is_told_with_its_words(self):
        error = self.fails("unavailable", "pull", "debian:12", sources=["debian-archive"], mmdebstrap=self.fake("#!/bin/sh\necho 'E: no mirror today' >&2\nexit 1\n"))
        self.assertIn("no mirror today", error["message"])
        self.fails("unavailable", "pull", "debian:12", sources=["debian-archive"], mmdebstrap="/nonexistent")

    def test_a_killed_daemon_ends_the_bootstrap_with_all_it_started(self):
        # It says that it holds when all it starts is there to stay: one in its group, one that left it.
        process = self.start("pull", "debian:12", sources=["debian-archive"], mmdebstrap=self.fake(
            "#!/bin/sh\nmkfifo /tmp/wait /tmp/hold\nsetsid sh -c 'read x < /tmp/hold' &\necho 'I: holding' >&2\nread x < /tmp/wait\n"))
        for line in process.stdout:
            if json.loads(line).get("message") == "holding":
                break
        below = handles(self.descendants(process.pid))  # mkfifo was one of them
        self.assertGreaterEqual(len(below), 3)
        process.kill()
        process.wait(WAIT)
        for fd in below:
            self.assertTrue(select.select([fd], [], [], WAIT)[0])
            os.close(fd)
        self.assertEqual(self.state_of()["state"], "available")  # the start of the next one tidies up

    def descendants(self, pid):
        parents = {}
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    parents.setdefault(int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]), []).append(int(entry.name))
        found, todo = [], [pid]
        while todo:
            below = parents.get(todo.pop(), [])
            found += below
            todo += below
        return found


if __name__ == "__main__":
    unittest.main()
