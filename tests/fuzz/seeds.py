#!/usr/bin/env python3
"""Writes the first inputs of corpora, those that a person thought of: seeds.py FOLDER [target]."""
import gzip
import io
import pathlib
import subprocess
import sys
import tarfile


def tar(*members, form=tarfile.PAX_FORMAT):
    """(name, type, {attribute: value}, content) -> bytes"""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, kind, attributes, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.mtime, info.size = kind, 1700000000, len(content)
            for key, value in attributes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    end = out.getvalue().rstrip(b"\0")
    return end + bytes(-len(end) % 512 + 1024)  # instead of the padding to 10 KiB


FILE, DIRECTORY, LINK, HARD, FIFO, CHARACTER, BLOCK = (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE,
                                                       tarfile.CHRTYPE, tarfile.BLKTYPE)


def zstd(data):
    return subprocess.run(["zstd", "-q", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout


def layer():
    tree = tar(("d/", DIRECTORY, {"mode": 0o1777, "uid": 70000}, b""), ("d/f", FILE, {"mode": 0o4755}, b"content\n"), ("d/h", HARD, {"linkname": "d/f"}, b""),
               ("l", LINK, {"linkname": "d"}, b""), ("l/g", FILE, {}, b"through"), ("p", FIFO, {}, b""), ("c", CHARACTER, {"devmajor": 1, "devminor": 3}, b""),
               ("b", BLOCK, {"devmajor": 259, "devminor": 1048575}, b""))
    hides = tar(("d/f", FILE, {}, b"x"), ("d/.wh.f", FILE, {}, b""), ("d/.wh..wh..opq", FILE, {}, b""), (".wh.d", FILE, {}, b""), ("d", LINK, {"linkname": "/e"}, b""))
    pax = tar(("n" * 255, FILE, {"pax_headers": {"SCHILY.xattr.security.capability": "\x01\0\0\x02", "mtime": "-12.5", "LIBARCHIVE.xattr.user.a": "YQ"}}, b"1"),
              ("s", FILE, {"pax_headers": {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s", "GNU.sparse.realsize": "8192"}},
               b"1\n4096\n4\n".ljust(512, b"\0") + b"data"))
    gnu = tar(("g" * 200, LINK, {"linkname": "t" * 200}, b""), ("u", FILE, {"uid": 3000000, "mtime": -5}, b""), form=tarfile.GNU_FORMAT)
    yield "tree", b"\1" + tree
    yield "tree-gzip", b"\2" + tree
    yield "tree-zstd", b"\3" + tree
    yield "hides", b"\1" + hides
    yield "pax", b"\1" + pax
    yield "gnu", b"\1" + gnu
    yield "two-members", b"\0" + gzip.compress(tree[:1024], mtime=0) + gzip.compress(tree[1024:], mtime=0)
    yield "two-frames", b"\0" + zstd(tree[:1024]) + b"\x50\x2a\x4d\x18\x03\0\0\0abc" + zstd(tree[1024:])
    yield "skippable-first", b"\0\x50\x2a\x4d\x18\x03\0\0\0abc" + zstd(tree)
    yield "escape", b"\1" + tar(("../x", FILE, {}, b""), ("/x", FILE, {}, b""))


def operations():
    """The little language of tree_ops.hpp has no words a person would write: all of its bytes, in two orders, are a start."""
    yield "rising", bytes(range(256)) * 2
    yield "falling", bytes(range(255, -1, -1)) * 2
    yield "strides", bytes(i * 37 % 256 for i in range(1024))


TARGETS = {"layer": layer, "tree": operations, "ext4": operations}

if __name__ == "__main__":
    for target in sys.argv[2:] or TARGETS:
        folder = pathlib.Path(sys.argv[1]) / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in TARGETS[target]():
            (folder / name).write_bytes(data)
