#!/usr/bin/env python3
"""Odd images, built by pyro-image as the daemon runs it, and unpacked by umoci: the trees are equal, name by name.

Where they are not meant to be, the case says so and why.
"""
import gzip
import hashlib
import json
import os
import pathlib
import resource
import stat
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "tests/support/registry")]
import children  # noqa: E402
from odd import Tar, digest, record, write_layout  # noqa: E402

BUILD = pathlib.Path(os.environ.get("PYRO_BUILD", ROOT / "build"))
WORKER, TREE = BUILD / "bin/pyro-image", BUILD / "bin/ext4-tree"
WAIT = 300  # seconds: a deadline that only a hang reaches
NOBODY = 65534
KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink", stat.S_IFCHR: "character", stat.S_IFBLK: "block", stat.S_IFIFO: "fifo"}
# What a machine needs to start is made where an image lacks it.
MADE = {b"workspace", b"proc", b"sys", b"dev", b"run", b"tmp", b"lost+found"}
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw=ep


def build(test, layers, limits=None, diff_ids=None, disk_bytes=1 << 30, working_dir="", prlimit=()):
    """pyro-image build as nobody: its answer, and a path to the image. `prlimit` are limits it is born with."""
    folder = tempfile.TemporaryDirectory(dir=BUILD, prefix="unpack-")
    test.addCleanup(folder.cleanup)
    image = os.open(pathlib.Path(folder.name) / "root.ext4", os.O_RDWR | os.O_CREAT, 0o600)
    test.addCleanup(os.close, image)
    fds, asked = [], []
    for i, layer in enumerate(layers):
        if isinstance(layer, pathlib.Path):
            fds.append(os.open(layer, os.O_RDONLY))
        else:
            fds.append(os.memfd_create("layer"))
            with open(fds[-1], "wb", closefd=False) as file:
                file.write(layer)
            os.lseek(fds[-1], 0, os.SEEK_SET)
        asked.append({"fd": fds[-1], "size": os.fstat(fds[-1]).st_size, **({"diff_id": diff_ids[i]} if diff_ids else {})})
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    options = children.reachable(WORKER, user)
    options = {**options, "pass_fds": [*options.get("pass_fds", []), image, *fds]}
    request = {"layers": asked, "image_fd": image, "disk_bytes": disk_bytes, "limits": limits or {}, "working_dir": working_dir}
    try:
        process = subprocess.Popen([WORKER, "build"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options,
                                   preexec_fn=lambda: [resource.setrlimit(what, limit) for what, limit in prlimit])
        test.addCleanup(process.wait)
        test.addCleanup(process.kill)  # before it; nothing, once it has ended
        out, _ = process.communicate(json.dumps(request).encode(), WAIT)
    finally:
        for fd in fds:
            os.close(fd)
    return json.loads(out.splitlines()[-1]), pathlib.Path(folder.name) / "root.ext4"


def with_no_ids(name, value):
    """An access control list as the kernel shows it: entries of the owner, the group and others have the id -1. libext2fs says 0."""
    if not name.startswith("system.posix_acl_"):
        return value
    entries = [value[at:at + 8] for at in range(4, len(value), 8)]
    return value[:4] + b"".join(entry if entry[0] in (2, 8) else entry[:4] + b"\xff" * 4 for entry in entries)


def tree_of_image(image):
    """{path: attributes}; hard links share the same `group`, a sorted tuple of names."""
    out = subprocess.run([TREE, image], stdout=subprocess.PIPE, check=True, timeout=WAIT).stdout
    tree, inodes = {}, {}
    for line in out.splitlines():
        one = json.loads(line)
        path = bytes.fromhex(one.pop("path"))
        inodes.setdefault(one.pop("ino"), []).append(path)
        one["mtime"] = tuple(one["mtime"])
        one["xattrs"] = {name: with_no_ids(name, bytes.fromhex(value)) for name, value in one["xattrs"].items()}
        if "target" in one:
            one["target"] = bytes.fromhex(one["target"])
        if "device" in one:
            one["device"] = tuple(one["device"])
        tree[path] = one
    for names in inodes.values():
        for name in names:
            tree[name]["group"] = tuple(sorted(names))
    return tree


def tree_of_directory(root):
    root = os.fsencode(root)
    tree, inodes = {}, {}

    def look(path):
        full = os.path.join(root, path) if path else root
        info = os.lstat(full)
        kind = KINDS[stat.S_IFMT(info.st_mode)]
        one = {"type": kind, "mode": stat.S_IMODE(info.st_mode), "uid": info.st_uid, "gid": info.st_gid,
               "mtime": (info.st_mtime_ns // 10**9, info.st_mtime_ns % 10**9), "links": info.st_nlink,
               "xattrs": {name: os.getxattr(full, name, follow_symlinks=False) for name in os.listxattr(full, follow_symlinks=False)}}
        if kind == "file":
            one["size"], one["sha256"] = info.st_size, hashlib.sha256(pathlib.Path(os.fsdecode(full)).read_bytes()).hexdigest()
        elif kind == "symlink":
            one["target"] = os.readlink(full)
        elif kind in ("character", "block"):
            one["device"] = (os.major(info.st_rdev), os.minor(info.st_rdev))
        tree[path] = one
        inodes.setdefault(info.st_ino, []).append(path)
        if kind == "directory":
            for name in os.listdir(full):
                look(path + b"/" + name if path else name)

    look(b"")
    for names in inodes.values():
        for name in names:
            tree[name]["group"] = tuple(sorted(names))
    return tree


def differences(ours, theirs, ignored=()):
    """Lines; `ignored` names attributes of paths that are not compared: {path: {attribute}}."""
    ignored = dict(ignored)
    out = []
    for path in sorted(ours.keys() | theirs.keys()):
        if path not in theirs:
            if path not in MADE:
                out.append(f"{path!r} is only in ours")
        elif path not in ours:
            out.append(f"{path!r} is only in umoci's")
        else:
            for key in sorted((ours[path].keys() | theirs[path].keys()) - {"allocated"} - set(ignored.get(path, ()))):
                if path == b"" and key == "links":
                    continue  # the root of ours has more in it
                if key == "mode" and ours[path]["type"] == "symlink":
                    continue  # Linux knows none
                if ours[path].get(key) != theirs[path].get(key):
                    out.append(f"{path!r}: {key} is {ours[path].get(key)!r}, umoci has {theirs[path].get(key)!r}")
    return out


@unittest.skipUnless(os.geteuid() == 0, "umoci keeps owners and devices as root only")
class EqualsUmoci(unittest.TestCase):
    maxDiff = None

    def compare(self, *tars, ignored=()):
        """Builds both; returns our tree once they are equal."""
        tars = [tar.bytes() if isinstance(tar, Tar) else tar for tar in tars]
        with tempfile.TemporaryDirectory(dir=BUILD, prefix="umoci-") as folder:
            folder = pathlib.Path(folder)
            layers = write_layout(folder / "layout", "odd", tars)
            answer, image = build(self, layers, diff_ids=[digest(tar) for tar in tars])
            self.assertEqual(answer["event"], "result", answer)
            done = subprocess.run(["umoci", "unpack", "--image", f"{folder}/layout:odd", folder / "bundle"], stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, timeout=WAIT)
            self.assertEqual(done.returncode, 0, done.stdout.decode(errors="replace"))
            theirs = tree_of_directory(folder / "bundle/rootfs")
        checked = subprocess.run(["e2fsck", "-fn", image], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=WAIT)
        self.assertEqual(checked.returncode, 0, checked.stdout)
        ours = tree_of_image(image)
        self.assertEqual(differences(ours, theirs, ignored), [])
        return ours

    def base(self):
        """A root with attributes of its own: umoci gives what a layer does not name the time of the unpacking."""
        return Tar().directory("./", mode=0o751, mtime=1600000000)

    def test_whiteouts(self):
        lower = self.base().directory("d").file("d/a", "a").file("d/b", "b").directory("d/sub").file("d/sub/c", "c").file("e", "e").directory("gone").file("gone/x", "x").link("l", "d")
        tree = self.compare(lower, self.base().file("d/.wh.a").file(".wh.gone").file(".wh.nothing").file("no-such/.wh.name").file(".wh.l").directory("d"))
        self.assertNotIn(b"d/a", tree)
        self.assertIn(b"d/b", tree)
        self.assertNotIn(b"gone", tree)
        self.assertNotIn(b"l", tree)
        self.assertNotIn(b"no-such", tree)

    def test_a_whiteout_and_a_file_of_one_name_in_one_layer(self):
        lower = self.base().file("f", "lower").directory("d").file("d/lower")
        for upper in (self.base().file(".wh.f").file("f", "upper").file(".wh.d").directory("d").file("d/upper"),
                      self.base().file("f", "upper").file(".wh.f").directory("d").file("d/upper").file(".wh.d")):
            with self.subTest():
                # umoci forgets to give the directory its time back once it has emptied it.
                tree = self.compare(lower, upper, ignored={b"d": {"mtime"}})
                self.assertIn(b"f", tree)
                self.assertIn(b"d/upper", tree)
                self.assertNotIn(b"d/lower", tree)

    def test_opaque_directories(self):
        lower = self.base().directory("d").file("d/a", "a").directory("d/sub").file("d/sub/c", "c")
        for upper in (self.base().directory("d").file("d/.wh..wh..opq").file("d/new", "n").directory("d/sub").file("d/sub/new"),
                      self.base().directory("d").file("d/new", "n").directory("d/sub").file("d/sub/new").file("d/.wh..wh..opq")):
            with self.subTest():
                tree = self.compare(lower, upper, ignored={b"d/sub": {"mtime"}})  # as above
                self.assertEqual({path for path in tree if path.startswith(b"d/")}, {b"d/new", b"d/sub", b"d/sub/new"})
        self.compare(lower, self.base().file("no/such/.wh..wh..opq").directory("no").directory("no/such"))

    def test_directories_links_and_files_in_each_others_place(self):
        lower = self.base().directory("real").file("real/old", "old").directory("d").file("d/in").file("f", "f").link("l", "real").link("absolute", "/real").link("up", "../../real")
        tree = self.compare(lower, self.base().link("d", "real").file("d/through", "t").file("absolute/second", "2").file("up/third", "3").directory("real"))
        self.assertEqual(tree[b"d"]["type"], "symlink")
        self.assertIn(b"real/through", tree)
        self.assertIn(b"real/second", tree)
        self.assertIn(b"real/third", tree)
        tree = self.compare(lower, self.base().file("d", "file").directory("f").file("f/in", "in").file("l", "no link"))
        self.assertEqual((tree[b"d"]["type"], tree[b"f"]["type"], tree[b"l"]["type"]), ("file", "directory", "file"))
        self.assertIn(b"real/old", tree)

    def test_hard_links(self):
        lower = self.base().directory("d").file("d/a", "content").hard("d/b", "d/a").link("s", "d/a").hard("s2", "s").add("p", Tar.FIFO).hard("p2", "p")
        tree = self.compare(lower)
        self.assertEqual(tree[b"d/a"]["links"], 2)
        self.assertEqual(tree[b"p"]["group"], (b"p", b"p2"))
        self.assertEqual(self.compare(lower, self.base().hard("c", "d/a").directory("d"))[b"c"]["links"], 3)
        # The target hidden in the layer that links to it, and in the next.
        tree = self.compare(lower, self.base().directory("d").hard("c", "d/a").file("d/.wh.a"))
        self.assertNotIn(b"d/a", tree)
        self.assertEqual(tree[b"c"]["group"], (b"c", b"d/b"))
        tree = self.compare(lower, self.base().file(".wh.d"), self.base().file("after"))
        self.assertNotIn(b"d", tree)
        # Replaced through one name: the other keeps the old content.
        tree = self.compare(lower, self.base().directory("d").file("d/a", "new"))
        self.assertEqual((tree[b"d/a"]["links"], tree[b"d/b"]["links"]), (1, 1))

    def test_attributes(self):
        tar = self.base().file("plain", "x", xattrs={"user.note": b"a\0\xff\n="}).file("ping", "x", xattrs={"security.capability": CAPABILITY})
        tar.file("trusted", xattrs={"trusted.kept": b"1"}).directory("d", xattrs={"user.of": b"d", "trusted.of": b"d"}).link("l", "plain", xattrs={"trusted.of": b"link"})
        acl = bytes.fromhex("02000000" "01000600ffffffff" "0200040039300000" "04000400ffffffff" "10000400ffffffff" "20000400ffffffff")
        tar.file("listed", xattrs={"system.posix_acl_access": acl}, mode=0o644).directory("lists", xattrs={"system.posix_acl_default": acl})
        tar.file("emptied", xattrs={"user.empty": b""}).file("other", pax=record("LIBARCHIVE.xattr.user.b", b"YmluYXJ5AP8"))
        for name, mode in (("suid", 0o4755), ("sgid", 0o2755), ("sticky", 0o1777), ("none", 0), ("all", 0o7777)):
            tar.file(name, "x", mode=mode).directory(name + ".d", mode=mode)
        tar.file("owned-suid", "x", mode=0o6755, uid=1000, gid=1001)
        # umoci knows one way of writing extended attributes only, and none that is empty.
        tree = self.compare(tar, ignored={b"other": {"xattrs"}, b"emptied": {"xattrs"}})
        self.assertEqual(tree[b"emptied"]["xattrs"], {"user.empty": b""})
        self.assertEqual(tree[b"ping"]["xattrs"], {"security.capability": CAPABILITY})
        self.assertEqual(tree[b"other"]["xattrs"], {"user.b": b"binary\0\xff"})
        self.assertEqual(tree[b"listed"]["xattrs"], {"system.posix_acl_access": acl})

    def test_attributes_of_lower_layers_go_with_them(self):
        lower = self.base().file("f", "x", xattrs={"user.a": b"1"}).directory("d", xattrs={"user.a": b"1"}, mode=0o700, uid=5)
        tree = self.compare(lower, self.base().file("f", "x").directory("d"))
        self.assertEqual(tree[b"d"]["xattrs"], {})
        self.assertEqual((tree[b"d"]["mode"], tree[b"d"]["uid"]), (0o755, 0))

    def test_devices(self):
        tar = self.base().add("null", Tar.CHARACTER, mode=0o666, device=(1, 3)).add("high", Tar.BLOCK, device=(259, 1048575)).add("tty", Tar.CHARACTER, device=(4, 300), uid=3)
        tar.add("fifo", Tar.FIFO, mode=0o622).add("zero", Tar.CHARACTER, device=(0, 0))
        tree = self.compare(tar)
        self.assertEqual(tree[b"high"]["device"], (259, 1048575))

    def test_owners(self):
        tar = self.base()
        for number in (1, 65535, 65536, 65537, 0o7777777, 3000000, 2**31, 2**32 - 2):
            tar.file(f"u{number}", uid=number).directory(f"g{number}", gid=number)
        self.assertEqual(self.compare(tar)[b"u4294967294"]["uid"], 2**32 - 2)

    def test_times(self):
        tar = self.base()
        times = [0, 1, -1, -(2**31), 2**31 - 1, 2**31, 2**32, 2**33 + 5, "1600000000.123456789", "1.5", "-1.5", "-1000000000.999999999"]
        for i, time in enumerate(times):
            tar.file(f"f{i}", "x", mtime=time).directory(f"d{i}", mtime=time).link(f"l{i}", "f0", mtime=time)
        tree = self.compare(tar)
        self.assertEqual(tree[b"f8"]["mtime"], (1600000000, 123456789))
        self.assertEqual(tree[b"f10"]["mtime"], (-2, 500000000))

    def test_names(self):
        tar = self.base()
        for name in (b"n" * 255, b"\xff\xfe not utf-8 \x80", "ä€𝄞".encode(), b"new\nline", b"back\\slash", b'quo"te\'s', b" leading", b"trailing ", b"-dash", b"*?[", b"\x01\x7f"):
            tar.file(name, name).directory(name[:250] + b".d").file(name[:250] + b".d/" + name, b"in").link(name[:250] + b".l", name)
        deep = b"/".join([b"p" * 200] * 17)
        for i in range(17):
            tar.directory(deep[:201 * (i + 1) - 1])
        tar.file(deep + b"/end", b"deep").hard("hard", deep + b"/end").link("long", b"t" * 3000)
        tree = self.compare(tar)
        self.assertIn(deep + b"/end", tree)
        self.assertEqual(len(tree[b"long"]["target"]), 3000)

    def test_a_directory_named_again(self):
        tree = self.compare(self.base().directory("d", mode=0o700).file("d/in").directory("d", mode=0o750).directory("./d/./", mode=0o711))
        self.assertEqual(tree[b"d"]["mode"], 0o711)

    def test_what_gnu_tar_writes(self):
        with tempfile.TemporaryDirectory(dir=BUILD, prefix="gnu-") as folder:
            folder = pathlib.Path(folder)
            with open(folder / "sparse", "wb") as file:
                for at in (4096, 1 << 20, (8 << 20) + 100):
                    file.seek(at)
                    file.write(b"data")
                file.truncate(32 << 20)
            with open(folder / "hole", "wb") as file:
                file.truncate(16 << 20)
            (folder / ("long" * 50)).symlink_to("target" * 40)
            os.link(folder / "sparse", folder / "sparse2")
            (folder / os.fsdecode(b"latin-\xe9")).write_bytes(b"x")
            for name in folder.iterdir():
                os.utime(name, (1600000000, 1600000000), follow_symlinks=False)
            os.utime(folder, (1600000000, 1600000000))
            for form in (["--format=gnu"], ["--format=posix", "--sparse-version=0.0"], ["--format=posix", "--sparse-version=0.1"],
                         ["--format=posix", "--sparse-version=1.0"]):
                with self.subTest(form=form):
                    tar = subprocess.run(["tar", "-c", "--sparse", *form, "-C", folder, "."], stdout=subprocess.PIPE, check=True, timeout=WAIT).stdout
                    if form == ["--format=gnu"]:  # umoci knows no sparse files of this kind
                        answer, image = build(self, [tar])
                        self.assertEqual(answer["event"], "result", answer)
                        tree = tree_of_image(image)
                        self.assertEqual(tree[b"sparse"]["sha256"], hashlib.sha256((folder / "sparse").read_bytes()).hexdigest())
                    else:
                        tree = self.compare(tar)
                    self.assertEqual(tree[b"sparse"]["size"], 32 << 20)
                    self.assertLessEqual(tree[b"sparse"]["allocated"], 64 << 10)
                    self.assertEqual(tree[b"hole"]["allocated"], 0)
                    self.assertEqual(tree[b"sparse"]["links"], 2)

    def test_absolute_names_begin_at_the_images_root(self):
        tree = self.compare(self.base().directory("/d").file("/d/f", "f").hard("/d/h", "/d/f").file("//d//./g", "g"), self.base().file("/d/.wh.g").directory("d"))
        self.assertEqual(tree[b"d/f"]["links"], 2)
        self.assertNotIn(b"d/g", tree)

    def test_directories_nobody_named(self):
        tar = self.base().file("made/on/the/way", "x")
        # umoci gives them the time of the unpacking; ours are the same in every build.
        time = {"mtime"}
        tree = self.compare(tar, ignored={b"": time, b"made": time, b"made/on": time, b"made/on/the": time})
        self.assertEqual(tree[b"made"]["mode"], 0o755)


def zstd(data):
    return subprocess.run(["zstd", "-q", "-c", "-1"], input=data, stdout=subprocess.PIPE, check=True, timeout=WAIT).stdout


class Worker(unittest.TestCase):
    def refused(self, layers, *words, **more):
        answer, _ = build(self, layers, **more)
        self.assertEqual((answer["event"], answer.get("code")), ("error", "environment_invalid"), answer)
        for word in words:
            self.assertIn(word, answer["message"])
        self.assertTrue(answer["hint"])

    def tree(self, layers, **more):
        answer, image = build(self, layers, **more)
        self.assertEqual(answer["event"], "result", answer)
        return tree_of_image(image)

    def test_what_packs_a_layer_is_seen_from_its_content(self):
        tar = Tar().directory("d").file("d/f", os.urandom(5000)).file("e", "e").bytes()
        skipped = bytes.fromhex("582a4d1805000000") + b"later"
        plain = self.tree([tar])
        for packed in (gzip.compress(tar), zstd(tar), gzip.compress(tar[:700]) + gzip.compress(tar[700:]), zstd(tar[:700]) + skipped + zstd(tar[700:]) + skipped,
                       skipped + zstd(tar)):
            with self.subTest(packed[:4].hex()):
                self.assertEqual(self.tree([packed], diff_ids=[digest(tar)]), plain)
        for tool in ("xz", "bzip2"):
            packed = subprocess.run([tool, "-c"], input=tar, stdout=subprocess.PIPE, check=True, timeout=WAIT).stdout
            self.refused([packed], "layer 1", "packed by " + tool)

    def test_the_longest_path(self):
        parts = [b"d%03d" % i + b"x" * 251 for i in range(15)] + [b"y" * 240, b"last"]
        path = b"/".join(parts)
        path += b"z" * (4096 - len(path))
        tree = self.tree([Tar().file(path, "deep").bytes()])
        self.assertIn(path, tree)
        self.refused([Tar().file(path + b"z", "").bytes()], "longer than 4096 bytes")
        self.refused([Tar().file("n" * 256, "").bytes()], "name longer than 255 bytes")

    def test_a_million_files(self):
        head = Tar().directory("0000000").data
        one = Tar().file("0000000/0000000", "x")
        header, body = bytes(one.data[:512]), bytes(one.data[512:])
        with tempfile.TemporaryDirectory(dir=BUILD, prefix="million-") as folder:
            path = pathlib.Path(folder) / "layer.tar"
            with open(path, "wb") as file:
                file.write(head)
                for i in range(1_000_000):
                    name = b"%07d/%07d" % (i // 10_000, i)
                    # A checksum is a sum: that of the template and the digits.
                    made = bytearray(header)
                    made[:15] = name
                    made[148:156] = b" " * 8
                    made[148:156] = b"%06o\0 " % sum(made)
                    file.write(made)
                    file.write(body)
                file.write(bytes(1024))
            answer, image = build(self, [path], disk_bytes=8 << 30)
        self.assertEqual(answer["event"], "result", answer)
        self.assertGreaterEqual(answer["entries"], 1_000_000)
        out = subprocess.run(["dumpe2fs", "-h", image], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, timeout=WAIT).stdout.decode()
        said = dict(line.split(":", 1) for line in out.splitlines() if ":" in line)
        self.assertGreater(int(said["Inode count"]), 1_000_000)
        self.assertGreater(int(said["Free inodes"]), 10_000)  # a guest can go on
        checked = subprocess.run(["e2fsck", "-fn", image], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=WAIT)
        self.assertEqual(checked.returncode, 0, checked.stdout)

    def test_bombs_are_named(self):
        self.refused([b"".join([Tar().file(f"f{i}").data for i in range(20)]) + bytes(1024)], "\"f10\" is one too many: the limit is 10", limits={"entries": 10})
        self.refused([gzip.compress(Tar().file("zeros", bytes(300 << 20)).bytes(), 9)], "200 times its size")
        self.refused([Tar().file("large", bytes(2 << 20)).bytes()], "limit of 1048576 bytes", limits={"total_bytes": 1 << 20})
        self.refused([Tar().file("d/" * 600 + "x").bytes()], "512 directories deep")
        self.refused([Tar().file("x", xattrs={"user.a": bytes(4000)}).bytes()], "more extended attributes than fit")
        self.refused([Tar().file("../x").bytes()], "\"../x\" leaves the tree")
        self.refused([Tar().hard("x", "../../etc/passwd").bytes()], "leaves the tree")
        self.refused([Tar().file("a/../x").bytes()], "leaves the tree")
        self.refused([Tar().file("f", "content").bytes()[:512]], "layer 1")
        # A member that says it is larger than all that may be.
        self.refused([Tar().add("f", size=0o77777777777, pax=record("size", b"999999999999999")).bytes()], "larger than the limit")

    def test_a_file_twice_in_a_layer(self):
        # The specification forbids it, docker and podman refuse it, umoci takes the last.
        self.refused([Tar().file("f", "one").file("d/g").file("./f", "two").bytes()], "layer 1", '"./f" is the second of its layer in that place')

    def test_files_of_holes_do_not_fill_the_disk(self):
        # A byte in each block: a sparse file takes far more of the disk than of its archive.
        size = 64 << 20
        places = range(0, size, 4096)
        table = f"{len(places)}\n{''.join(f'{at}{chr(10)}1{chr(10)}' for at in places)}".encode()
        table += bytes(-len(table) % 512)
        tar = Tar()
        for i in range(200):
            tar.file(f"GNUSparseFile.0/{i}", table + b"x" * len(places), pax=record("GNU.sparse.major", b"1") + record("GNU.sparse.minor", b"0") +
                     record("GNU.sparse.name", f"{i}".encode()) + record("GNU.sparse.realsize", f"{size}".encode()))
        one = Tar()
        one.data = tar.data[:len(tar.data) // 200]
        self.assertEqual(self.tree([one.bytes()])[b"0"]["allocated"], size)
        self.refused([tar.bytes()], "more of a disk than", limits={"total_bytes": size, "entries": 1000})

    def test_repeated_whiteouts_and_long_ways_take_no_time(self):
        # Each looked at all the others once; with a memory of what was hidden it is done when it is read.
        tar = Tar().directory("d")
        for i in range(60_000):
            tar.data += Tar().file(f"d/{i}").data
        marker = Tar().file("d/.wh..wh..opq").file(".wh.d").data
        tar.data += marker * 40_000
        self.assertIn(b"d/59999", self.tree([tar.bytes()], prlimit=[(resource.RLIMIT_CPU, (20, 30))]))
        way = "a/.." + "/a/.." * 800 + "/a"
        tar = Tar().directory("a").link("l0", way)
        for i in range(1, 40):
            tar.link(f"l{i}", f"l{i - 1}/../{way}")
        for i in range(4_000):
            tar.file(f"l30/{i}")
        self.refused([tar.bytes()], "lead through too many directories")

    def test_memory_is_bounded(self):
        tar = Tar()
        for i in range(60_000):
            tar.link(f"{i:07}", b"t" * 4000)
        self.refused([zstd(tar.bytes())], "more memory", prlimit=[(resource.RLIMIT_AS, (200 << 20, 200 << 20))])

    def test_processor_time_is_bounded(self):
        feed = subprocess.Popen(["head", "-c", "6G", "/dev/zero"], stdout=subprocess.PIPE)
        children.ends_with(self, feed)
        packed = subprocess.run(["zstd", "-q", "-c", "-1"], stdin=feed.stdout, stdout=subprocess.PIPE, check=True, timeout=WAIT).stdout
        tar = Tar()
        tar.header(b"zeros", Tar.FILE, size=6 << 30)
        self.refused([zstd(bytes(tar.data)) + packed], "processor time", limits={"ratio": 1_000_000}, disk_bytes=16 << 30,
                     prlimit=[(resource.RLIMIT_CPU, (1, 60))])

    def test_a_working_directory_is_made(self):
        tar = Tar().directory("srv", mode=0o700).link("app", "srv").file("file").bytes()
        tree = self.tree([tar], working_dir="/app/in/it")
        self.assertEqual((tree[b"srv/in/it"]["type"], tree[b"srv/in/it"]["mode"], tree[b"srv"]["mode"]), ("directory", 0o755, 0o700))
        self.assertIn(b"relative", self.tree([tar], working_dir="relative"))
        for blocked in ("/file/x", "/../up", "/"):
            self.assertEqual(self.tree([tar], working_dir=blocked).keys() - {b"up"}, self.tree([tar]).keys())


if __name__ == "__main__":
    unittest.main(verbosity=2)
