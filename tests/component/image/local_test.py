#!/usr/bin/env python3
"""Whose an environment is, names that users give, imports and commits, the disk they take: the cache with its real workers."""
import base64
import gzip
import io
import json
import os
import pathlib
import sqlite3
import subprocess
import sys
import tarfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "tests/support/registry"), str(ROOT / "tests/component/image")]
import cache_test  # noqa: E402
import children  # noqa: E402
import oci  # noqa: E402
from cache_test import CATALOG, WAIT, debian_like  # noqa: E402

ANN, BOB = 1000, 1001
CRASHED = 99


def rootfs(extra=None):
    return oci.layer({"bin": None, "bin/sh": b"#!", "etc": None, "etc/os-release": b"ID=own\n", **(extra or {})})


def archive(files):
    """{name: bytes | ("link", target)} -> a tar of these alone"""
    return oci.layer(files)


def layout_files(image, name="1", index=None):
    blobs = {**image.blobs, oci.digest(image.manifest): image.manifest, oci.digest(image.index): image.index}
    descriptor = {"mediaType": image.type, "digest": oci.digest(image.manifest), "size": len(image.manifest), "annotations": {"org.opencontainers.image.ref.name": name}}
    files = {f"blobs/sha256/{digest[7:]}": blob for digest, blob in blobs.items()}
    files["index.json"] = json.dumps(index or {"schemaVersion": 2, "manifests": [descriptor]}).encode()
    files["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    return files


def saved_files(image, names=("app:1",), first=0):
    config = oci.digest(image.config)[7:]
    files, layers = {f"{config}.json": image.config}, []
    for number, tar in enumerate(image.tars, first):
        files[f"layer{number}/layer.tar"] = tar
        layers.append(f"layer{number}/layer.tar")
    return files, {"Config": f"{config}.json", "RepoTags": list(names), "Layers": layers}


def saved(image, names=("app:1",)):
    files, entry = saved_files(image, names)
    return archive({**files, "manifest.json": json.dumps([entry]).encode()})


class LocalCase(cache_test.CacheCase):
    def put(self, data, name="file"):
        path = self.folder / name
        path.write_bytes(data)
        return str(path)

    def imports(self, name, data, **more):
        return self.last("import", name, file=self.put(data), **more)

    def import_fails(self, code, name, data, **more):
        error = self.imports(name, data, **more).get("error", {})
        self.assertEqual(error.get("code"), code, self.heard[-1])
        self.assertEqual(list((self.state / "environments").iterdir()), [])
        self.assertEqual(list((self.state / "blobs/sha256").iterdir()), [])
        return error

    def names(self, **who):
        return {line["name"]: line for line in self.lines("list", **who) if "state" in line and line["state"] != "available"}

    def cat(self, path, digest=None):
        directory = self.state / "environments" / digest[7:] if digest else self.environment()
        return subprocess.run(["debugfs", "-R", f"cat {path}", directory / "root.ext4"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout

    def listing(self, path, digest=None):
        directory = self.state / "environments" / digest[7:] if digest else self.environment()
        done = subprocess.run(["debugfs", "-R", f"ls -p {path}", directory / "root.ext4"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        return sorted(set(line.split("/")[5] for line in done.stdout.decode().split() if line) - {".", ".."})


class Login(oci.FaultyRegistry):
    """Says what it has to ann:secret-1000 and bob:secret-1001 only."""

    def __init__(self, images, closed=lambda kind, name: True):
        known = {"Basic " + base64.b64encode(f"{user}:secret".encode()).decode() for user in ("ann", "bob")}

        def fault(handler, kind, name):
            if not closed(kind, name) or handler.headers.get("Authorization") in known:
                return False
            handler.answer(401, b"{}", {"WWW-Authenticate": 'Basic realm="here"'})
            return True
        super().__init__(images, fault)


class Ownership(LocalCase):
    def login(self, images, **kwargs):
        registry = Login(images, **kwargs)
        self.addCleanup(registry.__exit__)
        return registry

    def as_user(self, registry, user=None, password="secret", **more):
        uid = {"ann": ANN, "bob": BOB, None: BOB}[user]
        given = {"credentials": {"registry": registry.host, "username": user, "password": password}} if user else {}
        return {"uid": uid, "registries": {registry.host: {"plain_http": True, "allow_private": True}}, **given, **more}

    def test_what_credentials_got_is_its_users(self):
        image = debian_like()
        registry = self.login({"team/app": image})
        name = f"{registry.host}/team/app:1"
        out = self.last("pull", name, **self.as_user(registry, "ann"))
        self.assertEqual(out["environment"]["row"], {"owner": ANN, "public": False, "source": "registry", "origin": f"{registry.host}/team/app"})
        digest = oci.digest(image.manifest)
        self.assertEqual(set(self.names(uid=ANN)), {name})
        self.assertEqual(self.names(uid=BOB), {})
        self.fails("not_found", "inspect", name, uid=BOB)
        self.fails("not_found", "inspect", digest, uid=BOB)
        self.fails("not_found", "inspect", digest[7:17], uid=BOB)
        self.fails("not_found", "remove", digest, uid=BOB)
        self.assertEqual(self.last("prune-all", uid=BOB)["removed"], [])
        self.fails("failed_precondition", "ensure", name, **self.as_user(registry))
        self.fails("failed_precondition", "ensure", name, **self.as_user(registry, "bob", "wrong"))
        self.assertEqual(self.last("usage", uid=BOB)["users"], {str(BOB): {"environments": 0, "bytes": 0}})

        # Root sees all of it.
        self.assertEqual(set(self.names(uid=0, admin=True)), {name})
        self.assertEqual(self.last("inspect", digest, uid=0, admin=True)["row"]["owner"], ANN)

        # The registry shows bob the same manifest: that is enough, and not a layer is fetched again.
        layers = sum(registry.count("blobs", layer) for layer in image.layer_digests)
        out = self.last("pull", name, **self.as_user(registry, "bob"))
        self.assertEqual(out["environment"]["row"]["owner"], BOB)
        self.assertEqual(sum(registry.count("blobs", layer) for layer in image.layer_digests), layers)
        self.assertEqual(set(self.names(uid=BOB)), {name})

        # Each has his own: one's removal is not the other's.
        self.assertEqual(self.last("prune-all", uid=ANN)["removed"], [name])
        self.assertEqual(self.names(uid=ANN), {})
        self.assertIn("digest", self.last("ensure", name, uid=BOB))
        self.assertEqual(self.last("remove", name, uid=BOB)["removed"], [name])
        self.assertEqual(list((self.state / "environments").iterdir()), [])
        self.assertEqual(list((self.state / "blobs/sha256").iterdir()), [])

    def test_a_digest_alone_gets_nobody_the_layer_behind_it(self):
        image = debian_like()
        registry = self.login({"team/app": image})
        self.assertTrue(self.last("pull", f"{registry.host}/team/app:1", **self.as_user(registry, "ann")).get("changed"))
        # Bob runs a registry of his own, which names ann's layers and has none of them.
        mine = oci.FaultyRegistry({"mine/app": image}, lambda handler, kind, name: name in image.layer_digests and (handler.answer(404) or True))
        self.addCleanup(mine.__exit__)
        for who in (self.as_user(mine), {**self.as_user(mine, "bob")}):
            self.fails("not_found", "pull", f"{mine.host}/mine/app:1", **who)
            self.assertGreater(mine.count("blobs", image.layer_digests[0]), 0)
        self.assertEqual(self.names(uid=BOB), {})

    def test_a_public_pull_makes_it_everybodys(self):
        image = debian_like()
        registry = self.login({"team/app": image, "open/app": image}, closed=lambda kind, name: False)
        closed = self.login({"team/app": image})
        self.last("pull", f"{closed.host}/team/app:1", **self.as_user(closed, "ann"))
        self.assertEqual(self.names(uid=1002), {})
        self.assertTrue(self.last("pull", f"{registry.host}/open/app:1", **self.as_user(registry))["environment"]["row"]["public"])
        # Its public name, not the one that ann has for it.
        self.assertEqual(set(self.names(uid=1002)), {f"{registry.host}/open/app:1"})
        self.fails("not_found", "inspect", f"{closed.host}/team/app:1", uid=1002)
        self.assertEqual(self.last("inspect", oci.digest(image.manifest), uid=1002)["row"]["origin"], f"{registry.host}/open/app")

    def test_an_import_is_its_users_whoever_has_the_same(self):
        out = self.imports("base", rootfs(), uid=ANN)
        self.assertEqual((out["changed"], out["environment"]["row"]["owner"], out["environment"]["row"]["public"]), (True, ANN, False))
        digest = out["environment"]["manifest"]["digest"]
        self.fails("not_found", "ensure", "@base", uid=BOB)
        self.fails("not_found", "ensure", "@base", uid=0, admin=True)  # a name is its owner's alone
        self.fails("not_found", "inspect", digest, uid=BOB)
        # He is not told that it was there; nor does the digest alone give it to him.
        out = self.imports("mine", rootfs(), uid=BOB, digest=digest)
        self.assertEqual((out["changed"], out["environment"]["row"]["owner"]), (True, BOB))
        self.assertGreater(out["downloaded"], 0)
        self.environment()  # one
        self.assertEqual(set(self.names(uid=0, admin=True)), {"@base", "@mine"})
        # Who has it is not asked for it again.
        again = self.last("import", "other", file="/dev/null", uid=BOB, digest=digest)
        self.assertEqual((again.get("changed"), again.get("downloaded")), (False, 0), again)


class Imports(LocalCase):
    settings = {"user": "7:8", "working_dir": "/etc", "env": ["A=b"], "cmd": ["sh"], "entrypoint": ["/bin/sh", "-c"]}

    def test_root_file_systems(self):
        import_of = {}
        for packing, data in {"plain": rootfs(), "gzip": gzip.compress(rootfs(), mtime=0),
                              "zstd": subprocess.run(["zstd", "-qc"], input=rootfs(), stdout=subprocess.PIPE, check=True).stdout}.items():
            out = self.imports(packing, data, settings=self.settings)
            self.assertTrue(out.get("changed"), out)
            import_of[packing] = out["environment"]["manifest"]["digest"]
            manifest = out["environment"]["manifest"]
            self.assertEqual(manifest["config"], {**self.settings, "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "A=b"]})
            self.assertEqual(out["environment"]["row"]["source"], "import")
            self.assertEqual(self.cat("/etc/os-release", manifest["digest"]), b"ID=own\n")
        self.assertEqual(len(set(import_of.values())), 3)
        self.assertEqual(self.last("inspect", "@gzip")["manifest"]["digest"], import_of["gzip"])
        same = self.imports("again", rootfs(), settings=self.settings)
        self.assertEqual((same["changed"], same["environment"]["manifest"]["digest"]), (False, import_of["plain"]))
        other = self.imports("other", rootfs())
        self.assertNotEqual(other["environment"]["manifest"]["digest"], import_of["plain"])

    def test_layouts_and_archives_are_told_apart(self):
        image, docker = debian_like(), oci.Image([rootfs()], config={"Cmd": ["x"], "Env": ["PATH=/bin"]})
        out = self.imports("layout", archive(layout_files(image)))
        self.assertEqual(out["environment"]["manifest"]["digest"], oci.digest(image.manifest), out)
        self.assertEqual(self.listing("/opt", oci.digest(image.manifest)), ["data"])
        packed = self.imports("packed", gzip.compress(archive(layout_files(image))))
        self.assertEqual((packed["changed"], packed["environment"]["manifest"]["digest"]), (False, oci.digest(image.manifest)))
        first = self.imports("saved", saved(docker))
        self.assertEqual(first["environment"]["manifest"]["config"]["cmd"], ["x"], first)
        self.assertEqual(self.cat("/etc/os-release", first["environment"]["manifest"]["digest"]), b"ID=own\n")
        self.assertFalse(self.imports("saved-again", gzip.compress(saved(docker)))["changed"])
        # A root file system may well have such files.
        root = self.imports("root", rootfs({"manifest.json": b"[]", "index.json": b"{}", "oci-layout": b"{}"}))
        self.assertEqual(root["environment"]["manifest"]["config"]["cmd"], [])
        # Layers that are links to others, as older docker saved them.
        files, entry = saved_files(docker)
        linked = {**files, "other/layer.tar": ("link", "../layer0/layer.tar")}
        entry = {**entry, "Layers": ["other/layer.tar"]}
        self.assertFalse(self.imports("linked", archive({**linked, "manifest.json": json.dumps([entry]).encode()}))["changed"])

    def test_one_of_several(self):
        one, two = oci.Image([rootfs()]), oci.Image([rootfs({"two": b"2"})])
        (files, first), (more, second) = saved_files(one, ["app:1"]), saved_files(two, ["host:5000/team/app:2", "app:latest"], first=1)
        both = archive({**files, **more, "manifest.json": json.dumps([first, second]).encode()})
        error = self.import_fails("invalid_argument", "x", both)
        self.assertIn("app:1", error["hint"])
        self.import_fails("not_found", "x", both, tag="app:3")
        digests = {self.imports(f"n{i}", both, tag=tag)["environment"]["manifest"]["digest"] for i, tag in enumerate(("app:1", "1"))}
        self.assertEqual(len(digests), 1)
        self.assertEqual(self.listing("/", self.imports("two", both, tag="host:5000/team/app:2")["environment"]["manifest"]["digest"]).count("two"), 1)

        descriptors = [{"mediaType": i.type, "digest": oci.digest(i.manifest), "size": len(i.manifest), "annotations": {"org.opencontainers.image.ref.name": t}}
                       for i, t in ((one, "1"), (two, "2"))]
        layout = archive({**layout_files(one), **layout_files(two, index={"schemaVersion": 2, "manifests": descriptors})})
        self.assertEqual(self.imports("l2", layout, tag="2")["environment"]["manifest"]["digest"], oci.digest(two.manifest))
        platforms = json.loads(two.index)
        self.assertEqual(self.imports("index", archive(layout_files(two, index=platforms)))["environment"]["manifest"]["digest"], oci.digest(two.manifest))

    def test_what_tools_write(self):
        image = debian_like()
        files = layout_files(image)
        layout = self.folder / "layout"
        for name, data in files.items():
            (layout / name).parent.mkdir(parents=True, exist_ok=True)
            (layout / name).write_bytes(data)
        for kind in ("oci-archive", "docker-archive"):
            path = self.folder / f"{kind}.tar"
            subprocess.run(["skopeo", "--insecure-policy", "copy", "--quiet", f"oci:{layout}:1", f"{kind}:{path}:app:1"], check=True)
            out = self.last("import", kind, file=str(path))
            self.assertEqual(self.listing("/opt", out["environment"]["manifest"]["digest"]), ["data"], out)
            self.assertEqual(out["environment"]["manifest"]["config"]["user"], "1000")

    def test_what_is_no_image(self):
        self.import_fails("invalid_argument", "x", b"")
        self.import_fails("invalid_argument", "x", b"hello " * 1000)
        self.import_fails("invalid_argument", "x", b"\0" * 10240)
        self.import_fails("invalid_argument", "x", gzip.compress(b"hello " * 1000))
        self.import_fails("invalid_argument", "x", gzip.compress(rootfs())[:-40])
        self.assertIn("xz -dc", self.import_fails("invalid_argument", "x", b"\xfd7zXZ\0" + b"\0" * 600)["hint"])
        self.assertIn("tar -C", self.import_fails("invalid_argument", "x", b"QFI\xfb" + b"\0" * 600)["hint"])
        self.import_fails("invalid_argument", "x", rootfs(), tag="1")
        self.import_fails("invalid_argument", "x", saved(debian_like()), settings={"user": "1"})
        self.import_fails("invalid_argument", "x", rootfs(), format="oci-archive")
        self.import_fails("invalid_argument", "x", rootfs(), format="docker-archive")
        self.import_fails("environment_invalid", "x", rootfs({"../evil": b""}), format="rootfs")

    def test_hostile_archives(self):
        image = debian_like()
        good = layout_files(image)
        layer = f"blobs/sha256/{image.layer_digests[0][7:]}"
        self.import_fails("environment_invalid", "x", archive({**good, layer: b"other"}))
        self.import_fails("invalid_argument", "x", archive({k: v for k, v in good.items() if k != layer}))
        self.import_fails("invalid_argument", "x", archive({**good, "index.json": b"[" * 100000}))
        self.import_fails("not_found", "x", archive({**good, "index.json": b'{"manifests": []}'}))
        self.import_fails("invalid_argument", "x", archive({**good, "index.json": b'{"manifests": 7}'}))
        self.import_fails("invalid_argument", "x", archive({**good, "../../etc/passwd": b""}))
        files, entry = saved_files(image)
        for change in ({"Config": "../../../etc/passwd"}, {"Layers": ["../../../etc/passwd", "x"]}, {"Layers": 7}, {"Config": None}):
            self.import_fails("invalid_argument", "x", archive({**files, "manifest.json": json.dumps([{**entry, **change}]).encode()}))
        loop = {"a": ("link", "b"), "b": ("link", "a")}
        self.import_fails("invalid_argument", "x", archive({**files, **loop, "manifest.json": json.dumps([{**entry, "Config": "a"}]).encode()}))
        wrong = oci.Image([rootfs()], architecture="arm64")
        self.import_fails("failed_precondition", "x", saved(wrong))
        lie = oci.Image([rootfs()])
        lie.tars = [rootfs({"more": b""})]
        self.import_fails("environment_invalid", "x", saved(lie))

    def test_a_stream_that_breaks_off_is_no_shorter_image(self):
        self.import_fails("unavailable", "x", rootfs({"data": oci.noise(1 << 20)}), breaks_off=500_000)
        self.assertTrue(self.imports("x", rootfs()).get("changed"))

    def test_names(self):
        for name in ("", "@", "A", "a b", "a/b", "-a", "a" * 129, "@@a", "ä", "a\n"):
            self.import_fails("invalid_argument", name, rootfs())
        self.assertTrue(self.imports("@debian:12", rootfs())["changed"])
        # It is not what the catalog calls that, nor what a registry would.
        self.assertEqual(self.state_of("debian:12")["state"], "available")
        self.assertEqual(self.last("inspect", "@debian:12")["state"], "installed")
        self.fails("not_found", "inspect", "docker.io/library/debian:12")
        error = self.fails("not_found", "ensure", "debian:12", registry=self.registry(fault=lambda handler, kind, name: handler.answer(404) or True))
        self.assertIn("@debian:12", error["hint"])
        # A name that is taken is not lost by accident.
        self.assertIn("--force", self.last("import", "debian:12", file=self.put(rootfs({"new": b""})))["error"]["hint"])
        out = self.imports("debian:12", rootfs({"new": b""}), force=True)
        self.assertNotEqual(out["previous"], out["environment"]["manifest"]["digest"])
        self.assertTrue(out["previous"].startswith("sha256:"))

    def test_remove(self):
        first = self.imports("a", rootfs())["environment"]["manifest"]["digest"]
        self.imports("b", rootfs())
        self.assertEqual(self.last("prune-all")["removed"], [])  # nobody could pull it again
        self.fails("failed_precondition", "remove", first)
        self.assertEqual(self.last("remove", "@a")["removed"], ["@a"])
        self.fails("not_found", "inspect", "@a")
        self.assertEqual(self.last("inspect", "@b")["state"], "installed")
        out = self.last("remove", "@b")
        self.assertEqual(out["removed"], ["@b"])
        self.assertGreater(out["freed"], 0)
        self.assertEqual(list((self.state / "environments").iterdir()) + list((self.state / "blobs/sha256").iterdir()), [])
        self.fails("not_found", "remove", "@b")
        self.imports("a", rootfs())
        self.imports("b", rootfs())
        self.assertEqual(sorted(self.last("remove", first, force=True)["removed"]), ["@a", "@b"])
        self.last("pull", "debian:12", registry=self.registry(), uid=BOB)
        self.fails("failed_precondition", "remove", "debian:12", uid=ANN)
        self.assertEqual(self.last("remove", "debian:12", uid=BOB)["removed"], ["debian:12"])

    def test_a_damaged_one_is_made_again_of_its_blobs(self):
        self.imports("a", rootfs())
        os.truncate(self.environment() / "root.ext4", 1 << 20)
        self.assertIn("pyro env pull @a", self.fails("environment_invalid", "ensure", "@a")["hint"])
        self.assertTrue(self.last("pull", "@a").get("changed"))
        self.must_be_clean()
        self.assertIn("digest", self.last("ensure", "@a"))
        blob = max((self.state / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
        blob.chmod(0o600)
        blob.write_bytes(b"x" * blob.stat().st_size)
        os.truncate(self.environment() / "root.ext4", 1 << 20)
        self.fails("environment_invalid", "pull", "@a")
        self.assertIn("import", self.fails("environment_invalid", "pull", "@a")["hint"])  # the damaged blob has gone
        self.assertEqual(self.imports("a", rootfs(), force=True).get("changed"), False)
        self.must_be_clean()


class Packages(LocalCase):
    dpkg = (b"Package: git\nStatus: install ok installed\nVersion: 1:2.39.5-0\n\nPackage: old\nStatus: deinstall ok config-files\nVersion: 1\n\n"
            b"Package: bash\nStatus: install ok installed\nVersion: 5.2.15-2+b7\n")
    apk = b"C:Q1\nP:musl\nV:1.2.5-r0\n\nP:busybox\nV:1.36.1-r29\n"

    def packages(self, files):
        digest = self.imports("p", rootfs(files), force=True)["environment"]["manifest"]["digest"]
        return [(p["name"], p["version"], p["manager"]) for p in self.lines("packages", digest)]

    def test_of_dpkg_and_apk(self):
        self.assertEqual(self.packages({"var": None, "var/lib": None, "var/lib/dpkg": None, "var/lib/dpkg/status": self.dpkg}),
                         [("bash", "5.2.15-2+b7", "dpkg"), ("git", "1:2.39.5-0", "dpkg")])
        self.assertEqual(self.packages({"lib": None, "lib/apk": None, "lib/apk/db": None, "lib/apk/db/installed": self.apk}),
                         [("busybox", "1.36.1-r29", "apk"), ("musl", "1.2.5-r0", "apk")])
        self.assertEqual(self.packages({"var": None, "var/lib": None, "var/lib/dpkg": None, "var/lib/dpkg/status.d": None,
                                        "var/lib/dpkg/status.d/base": b"Package: base-files\nVersion: 12\n"}), [("base-files", "12", "dpkg")])
        self.assertEqual(self.packages({}), [])
        self.assertEqual(self.packages({"var": None, "var/lib": None, "var/lib/dpkg": ("link", "/nowhere")}), [])


class Commit(LocalCase):
    """Of disks as QEMU's tools write them; machines' own are tests/vm's."""

    def plain_qcow2(self, raw, base):
        """A qcow2 image without a backing file's name of what differs, as machines' disks are."""
        out = self.folder / f"{len(list(self.folder.iterdir()))}.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", out], check=True)
        with open(raw, "rb") as new, open(base, "rb") as old:
            size, step, writes = os.stat(raw).st_size, 64 << 10, []
            at = 0
            while at < size:
                try:
                    at = os.lseek(new.fileno(), at, os.SEEK_DATA) // step * step
                except OSError:
                    break
                new.seek(at)
                old.seek(at)
                piece = new.read(step)
                if piece != old.read(step):
                    (self.folder / f"piece-{at}").write_bytes(piece)
                    writes.append(f"write -s {self.folder}/piece-{at} {at} {len(piece)}")
                at += step
        for i in range(0, len(writes), 50):
            subprocess.run(["qemu-io", "-f", "qcow2", *sum((["-c", w] for w in writes[i:i + 50]), []), out], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["qemu-img", "rebase", "-q", "-u", "-b", "", out], check=True)
        return out

    CHANGE = ("mkdir /home\nwrite PAYLOAD /home/file\nsymlink /home/link file\nrm /etc/os-release\nmkdir /.pyro\nwrite PAYLOAD /.pyro/secret\nmkdir /var\nmkdir /var/lib\n"
              "mkdir /var/lib/dbus\nwrite PAYLOAD /var/lib/dbus/machine-id\nwrite PAYLOAD /etc/machine-id\nwrite PAYLOAD /tmp/left\nwrite PAYLOAD /run/left\n"
              "mkdir /etc/ssh\nwrite PAYLOAD /etc/ssh/ssh_host_rsa_key\nwrite PAYLOAD /etc/ssh/sshd_config\nset_inode_field /home/file uid 1234\nset_inode_field /home/file mode 0104755\n"
              "ea_set /home/file user.note hello\n")

    def changed(self):
        self.imports("base", rootfs({"opt": None, "opt/data": oci.noise(300_000)}))
        base = self.environment() / "root.ext4"
        raw = self.folder / "changed.raw"
        subprocess.run(["cp", "--sparse=always", base, raw], check=True)
        raw.chmod(0o600)
        (self.folder / "payload").write_bytes(b"payload\n" * 100_000)
        (self.folder / "script").write_text(self.CHANGE.replace("PAYLOAD", str(self.folder / "payload")))
        subprocess.run(["debugfs", "-w", "-f", self.folder / "script", raw], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return [str(self.plain_qcow2(raw, base)), str(base)]

    def test_a_disk_becomes_an_environment(self):
        disk = self.changed()
        settings = {"user": "1234", "working_dir": "/home", "env": ["PATH=/bin"], "cmd": ["x"], "entrypoint": ["y"]}
        out = self.last("commit", "made", disk=disk, settings=settings)
        self.assertTrue(out.get("changed"), out)
        digest = out["environment"]["manifest"]["digest"]
        self.assertEqual(out["environment"]["manifest"]["config"], settings)
        self.assertEqual(out["environment"]["row"]["source"], "commit")
        root = self.state / "environments" / digest[7:] / "root.ext4"
        done = subprocess.run(["e2fsck", "-fn", root], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual(self.cat("/home/file", digest), b"payload\n" * 100_000)
        self.assertEqual(self.listing("/etc", digest), ["machine-id", "ssh"])
        self.assertEqual(self.cat("/etc/machine-id", digest), b"")
        self.assertEqual(self.cat("/var/lib/dbus/machine-id", digest), b"")
        self.assertEqual(self.listing("/etc/ssh", digest), ["sshd_config"])
        self.assertEqual(self.listing("/tmp", digest) + self.listing("/run", digest), [])
        self.assertNotIn(".pyro", self.listing("/", digest))
        self.assertEqual(len(self.cat("/opt/data", digest)), 300_000)
        stat = subprocess.run(["debugfs", "-R", "stat /home/file", root], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.decode()
        self.assertRegex(stat, r"Mode: +04755[\s\S]*User: +1234")
        self.assertIn("user.note", stat)
        # What lay in freed blocks is nowhere in it.
        self.assertNotIn(b"ID=own", root.read_bytes()[:64 << 20])
        # The same disk gives the same.
        self.assertEqual(self.last("commit", "again", disk=disk, settings=settings)["changed"], False)

    def test_links_holes_and_devices(self):
        image = rootfs({"a": b"one", "dev": None})
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar, tarfile.open(fileobj=io.BytesIO(image)) as old:
            for member in old:
                tar.addfile(member, old.extractfile(member) if member.isfile() else None)
            for name, kind, link in (("b", tarfile.LNKTYPE, "a"), ("pipe", tarfile.FIFOTYPE, ""), ("null", tarfile.CHRTYPE, "")):
                info = tarfile.TarInfo(name)
                info.type, info.linkname, info.devmajor, info.devminor = kind, link, 1, 3
                tar.addfile(info)
        self.imports("base", out.getvalue())
        raw = self.folder / "holes.raw"
        subprocess.run(["cp", "--sparse=always", self.environment() / "root.ext4", raw], check=True)
        raw.chmod(0o600)
        holes = self.folder / "holes"
        with open(holes, "wb") as file:
            file.seek(1 << 30)
            file.write(b"end")
            file.truncate(3 << 30)
        (self.folder / "script").write_text(f"write {holes} /holes\n")
        subprocess.run(["debugfs", "-w", "-f", self.folder / "script", raw], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        out = self.last("commit", "made", disk=[str(raw)])
        digest = out["environment"]["manifest"]["digest"]
        root = self.state / "environments" / digest[7:] / "root.ext4"

        def stat(path):
            return subprocess.run(["debugfs", "-R", f"stat {path}", root], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.decode()
        self.assertRegex(stat("/holes"), rf"Size: {3 << 30}[\s\S]*Blockcount: (8|16|24|32)\n")
        self.assertRegex(stat("/a"), r"Links: 2")
        self.assertEqual(stat("/a").split()[1], stat("/b").split()[1])
        self.assertRegex(stat("/null"), r"Type: character special")
        self.assertRegex(stat("/pipe"), r"Type: FIFO")
        self.assertLess(out["downloaded"], 1 << 20)

    def test_what_cannot_be_read_is_refused_and_leaves_nothing(self):
        disk = self.changed()
        before = sorted((self.state / "blobs/sha256").iterdir())

        def refused(code, path, change=None, keep=None):
            bad = self.folder / ("bad" + pathlib.Path(path).suffix)
            subprocess.run(["cp", "--sparse=always", path, bad], check=True)
            bad.chmod(0o600)
            with open(bad, "r+b") as file:
                if change:
                    file.seek(change[0])
                    file.write(change[1])
                if keep is not None:
                    file.truncate(keep)
            out = self.last("commit", "x", disk=[str(bad), disk[1]] if str(bad).endswith("qcow2") else [str(bad)])
            self.assertEqual(out.get("error", {}).get("code"), code, out)
            self.assertEqual(sorted((self.state / "blobs/sha256").iterdir()), before)
        refused("environment_invalid", disk[0], (0, b"XXXX"))
        refused("environment_invalid", disk[0], (8, b"\0\0\0\0\0\0\0\x09"))          # a backing file of its own
        refused("environment_invalid", disk[0], (20, b"\0\0\0\x3f"))                  # clusters of 2^63
        refused("environment_invalid", disk[0], (36, b"\x7f\xff\xff\xff"))            # a huge table
        refused("environment_invalid", disk[0], (32, b"\0\0\0\x01"))                  # encrypted
        refused("environment_invalid", disk[1], (1024 + 0x38, b"\0\0"))               # no ext4
        super_block = pathlib.Path(disk[1]).open("rb")
        super_block.seek(1024 + 0x60)
        flags = int.from_bytes(super_block.read(4), "little")
        super_block.close()
        refused("environment_invalid", disk[1], (1024 + 0x60, (flags | 0x8000).to_bytes(4, "little")))   # inline data
        unclean = self.folder / "unclean.raw"
        subprocess.run(["cp", "--sparse=always", disk[1], unclean], check=True)
        unclean.chmod(0o600)
        subprocess.run(["debugfs", "-w", "-R", "feature needs_recovery", unclean], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        refused("failed_precondition", str(unclean))


class Budget(LocalCase):
    def images(self, count, size=3 << 20):
        images = {f"library/app{i}": debian_like(seed=bytes([i]), size=size) for i in range(count)}
        registry = oci.FaultyRegistry(images)
        self.addCleanup(registry.__exit__)
        return registry

    def used(self):
        return self.last("usage")["used"]

    def age(self, name, seconds):
        with sqlite3.connect(self.state / "pyro.db") as db:
            db.execute("UPDATE environments SET last_used_at = last_used_at - ? WHERE digest = (SELECT digest FROM environment_references WHERE name = ?)", (seconds, name))
        db.close()

    def test_those_not_used_for_longest_go_first(self):
        registry = self.images(4)
        name = [f"docker.io/library/app{i}:1" for i in range(4)]
        self.last("pull", "app0:1", registry=registry)
        one = self.used()
        for i in (1, 2):
            self.last("pull", f"app{i}:1", registry=registry)
        self.age(name[0], 100)
        self.age(name[1], 200)
        budget = one * 3 + one // 2
        out = self.last("pull", "app3:1", registry=registry, budget=budget)
        self.assertTrue(out.get("changed"), out)
        self.assertEqual(set(self.names()), {name[0], name[2], name[3]})
        self.assertLessEqual(self.used(), budget)
        self.assertEqual(self.last("usage", budget=budget)["budget"], budget)

    def test_what_cannot_fit_is_said_before_it_is_downloaded(self):
        registry = self.images(1)
        error = self.fails("quota_exceeded", "pull", "app0:1", registry=registry, budget=5 << 20)
        self.assertIn("nothing was downloaded", error["message"])
        self.assertEqual(registry.count("blobs", registry.images["library/app0"].layer_digests[1]), 0)
        # What was made here is nobody's to take away for it.
        self.imports("mine", rootfs({"data": oci.noise(3 << 20)}))
        budget = self.used() + (4 << 20)
        self.fails("quota_exceeded", "pull", "app0:1", registry=registry, budget=budget)
        self.assertEqual(set(self.names()), {"@mine"})
        # And one that turns out too large goes again.
        error = self.last("import", "more", file=self.put(rootfs({"data": oci.noise(3 << 20, b"m")})), budget=budget)["error"]
        self.assertEqual(error["code"], "quota_exceeded")
        self.assertIn("env remove", error["hint"])

    def test_older_than_and_dry_run(self):
        registry = self.images(3)
        for i in range(3):
            self.last("pull", f"app{i}:1", registry=registry)
        for i, days in enumerate((10, 3)):
            self.age(f"docker.io/library/app{i}:1", days * 86400)
        before = self.used()
        would = self.last("prune-all", older_than=7 * 86400, dry_run=True)
        self.assertEqual(would["removed"], ["docker.io/library/app0:1"])
        self.assertEqual((len(self.names()), self.used()), (3, before))
        did = self.last("prune-all", older_than=7 * 86400)
        self.assertEqual(did["removed"], would["removed"])
        self.assertEqual(did["freed"] >> 20, would["freed"] >> 20)
        self.assertEqual(len(self.names()), 2)
        self.assertEqual(self.last("prune", older_than=86400)["removed"], [])  # what has a name stays without `all`

    def test_a_moved_tag_is_told_and_never_followed_by_itself(self):
        registry = self.images(1)
        first = self.last("pull", "app0:1", registry=registry)
        self.assertEqual((first["previous"], first["unresolved"]), ("", ""))
        old = first["environment"]["manifest"]["digest"]
        registry.images["library/app0"] = debian_like(b"new")
        self.assertEqual(self.last("ensure", "app0:1", registry=registry)["digest"], old)
        moved = self.last("pull", "app0:1", registry=registry)
        self.assertEqual((moved["changed"], moved["previous"]), (True, old))
        self.assertEqual(moved["environment"]["manifest"]["digest"], oci.digest(registry.images["library/app0"].manifest))
        self.assertEqual(self.last("inspect", old)["state"], "installed")
        same = self.last("pull", "app0:1", registry=registry)
        self.assertEqual((same["changed"], same["previous"], same["downloaded"]), (False, "", 0))
        # What names its digest cannot move, and nobody is asked.
        self.last("pull", f"app0:1@{moved['environment']['manifest']['digest']}", registry=registry)
        count = registry.count("manifests")
        self.last("pull", f"app0:1@{moved['environment']['manifest']['digest']}", registry=registry)
        self.assertEqual(registry.count("manifests"), count)

    def test_where_nobody_answers_what_is_there_stays(self):
        registry = self.images(1)
        self.last("pull", "app0:1", registry=registry)
        silence = oci.Silence()
        self.addCleanup(silence.close)
        out = self.last("pull", "app0:1", registry=silence)
        self.assertEqual(out["changed"], False)
        self.assertTrue(out["unresolved"])
        os.truncate(self.environment() / "root.ext4", 1 << 20)
        self.fails("unavailable", "pull", "app0:1", registry=silence)
        self.fails("unavailable", "pull", "app0:2", registry=silence)


POINTS = ("environment_fetched", "environment_built", "environment_blobs_kept", "environment_installed", "environment_recorded")


class Crashes(LocalCase):
    def start(self, command, *args, registry=None, crash=None, **more):
        env = {**os.environ, **({"PYRO_CRASH_AT": crash} if crash else {})}
        return children.ends_with(self, subprocess.Popen([cache_test.BIN / "env-tool", self.state, self.options(registry, **more), command, *args],
                                                         stdout=subprocess.PIPE, text=True, env=env))

    def dies(self, point, *args, **kwargs):
        process = self.start(*args, crash=point, **kwargs)
        with process.stdout:
            process.stdout.read()
        self.assertEqual(process.wait(WAIT), CRASHED, point)

    def clean(self):
        """Nothing is half there: what is listed is whole, prune leaves nothing that no row leads to."""
        for line in self.lines("list"):
            self.assertIn(line["state"], ("available", "installed"), line)
        self.last("prune")
        rows = {line["manifest"]["digest"] for line in self.lines("list") if "manifest" in line}
        self.assertEqual({"sha256:" + path.name for path in (self.state / "environments").iterdir()}, rows)
        for path in (self.state / "blobs/sha256").iterdir():
            self.assertEqual(oci.digest(path.read_bytes())[7:], path.name)
        return rows

    def test_a_pull_at_every_step(self):
        registry = self.registry()
        for point in POINTS:
            with self.subTest(point):
                self.dies(point, "pull", "debian:12", registry=registry)
                layers = registry.count("blobs", self.image.layer_digests[1])
                self.assertIn("digest", self.last("ensure", "debian:12", registry=registry))
                if point in ("environment_fetched", "environment_built"):
                    self.assertEqual(registry.count("blobs", self.image.layer_digests[1]), layers)  # it went on with what had come
                self.must_be_clean()
                self.assertEqual(self.clean(), {oci.digest(self.image.manifest)})
                self.last("prune-all")
                self.assertEqual(self.clean(), set())

    def test_imports_and_commits_at_every_step(self):
        for point in POINTS:
            with self.subTest(point):
                self.dies(point, "import", "a", file=self.put(rootfs()))
                there = self.clean()
                self.assertEqual(len(there), int(point == "environment_recorded"))
                out = self.imports("a", rootfs(), force=True)
                self.must_be_clean()
                root = str(self.environment() / "root.ext4")
                for other in (point, "environment_disk_copied"):
                    self.dies(other, "commit", "b", disk=[root], force=True)
                    self.assertLessEqual(len(self.clean()), 2)
                made = self.last("commit", "b", disk=[root], force=True)
                self.assertEqual(self.clean(), {out["environment"]["manifest"]["digest"], made["environment"]["manifest"]["digest"]})
                for name in ("@a", "@b"):
                    self.last("remove", name)
                self.assertEqual(self.clean(), set())

    def test_a_removal(self):
        self.imports("a", rootfs())
        self.dies("environment_swept", "remove", "@a")
        self.assertEqual(self.clean(), set())

    def test_a_worker_that_is_killed(self):
        big = rootfs({"data": oci.noise(24 << 20)})
        for subcommand in ("import", "build"):
            with self.subTest(subcommand):
                process = self.start("import", "a", file=self.put(big))
                for line in process.stdout:
                    if json.loads(line).get("phase") == subcommand:
                        break
                for pid in self.children_of(process.pid):
                    try:
                        os.kill(pid, 9)
                    except ProcessLookupError:
                        pass
                lines = [json.loads(line) for line in process.stdout]
                process.wait(WAIT)
                self.assertTrue(not lines or "error" in lines[-1] or lines[-1].get("changed") is not None, lines[-1:])
                self.clean()
                self.assertEqual(list((self.state / "ingest").iterdir()), [])
                self.last("import", "a", file=self.put(big), force=True)
                self.must_be_clean()
                self.last("remove", "@a")

    def children_of(self, pid):
        out = []
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            out += [int(word) for word in (task / "children").read_text().split()]
        return out

    @unittest.skipUnless(os.geteuid() == 0, "needs root to mount a small file system")
    def test_a_full_disk_at_every_step(self):
        # From too small for anything to large enough: it fails at one step after the other.
        data = rootfs({"data": oci.noise(2 << 20)})
        file = self.put(data)
        registry = self.registry(debian_like(size=2 << 20))
        run = self.folder / "run"
        failed = succeeded = 0
        for size in (1, 2, 3, 4, 5, 6, 8, 10, 14, 40):
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}m,mode=700", "tmpfs", self.state], check=True)
            try:
                for command in (("import", "a"), ("pull", "debian:12")):
                    out = self.last(*command, registry=registry, file=file, force=True, run=str(run))
                    if "error" in out:
                        failed += 1
                        self.assertEqual(out["error"]["code"], "quota_exceeded", (size, command, out))
                        listed = self.lines("list", run=str(run))
                        if "error" not in listed[-1]:
                            self.assertEqual({line["state"] for line in listed} - {"available", "installed"}, set())
                    else:
                        succeeded += 1
                    self.assertEqual(list((self.state / "ingest").rglob("*")) if (self.state / "ingest").exists() else [], [])
            finally:
                subprocess.run(["umount", "-l", self.state], check=True)
        self.assertGreater(failed, 4)
        self.assertGreater(succeeded, 1)
        self.last("list")  # the directory below the mounts is in order


if __name__ == "__main__":
    unittest.main()
