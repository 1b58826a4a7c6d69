"""Odd layers, byte by byte, and OCI layouts of them. Standard library only."""
import gzip
import hashlib
import json


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def record(key, value):
    """One record of a pax header."""
    body = b" " + key.encode() + b"=" + value + b"\n"
    size = len(body) + 1
    while len(str(size)) + len(body) != size:
        size = len(str(size)) + len(body)
    return str(size).encode() + body


class Tar:
    """Members in the order they are added. Names are bytes or text; what does not fit the old header goes into a pax header."""

    FILE, HARD, LINK, CHARACTER, BLOCK, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"

    def __init__(self):
        self.data = bytearray()

    def add(self, path, kind=FILE, content=b"", target=b"", mode=None, uid=0, gid=0, mtime=1700000000, device=(0, 0), xattrs=None, pax=b"", size=None):
        path, target = (text.encode() if isinstance(text, str) else text for text in (path, target))
        mode = mode if mode is not None else {self.DIRECTORY: 0o755, self.LINK: 0o777}.get(kind, 0o644)
        if len(path) > 100:
            pax += record("path", path)
        if len(target) > 100:
            pax += record("linkpath", target)
        if uid > 0o7777777:
            pax += record("uid", str(uid).encode())
        if gid > 0o7777777:
            pax += record("gid", str(gid).encode())
        if not isinstance(mtime, int) or not 0 <= mtime <= 0o77777777777:  # a text is written as it is
            pax += record("mtime", str(mtime).encode())
        for name, value in (xattrs or {}).items():
            pax += record("SCHILY.xattr." + name, value)
        if pax:
            self.header(b"pax", b"x", size=len(pax))
            self.body(pax)
        self.header(path, kind, target, mode, min(uid, 0o7777777), min(gid, 0o7777777), mtime if isinstance(mtime, int) else 0, device,
                    len(content) if size is None else size)
        self.body(content)
        return self

    def file(self, path, content=b"", **more):
        return self.add(path, self.FILE, content.encode() if isinstance(content, str) else content, **more)

    def directory(self, path, **more):
        return self.add(path, self.DIRECTORY, **more)

    def link(self, path, target, **more):
        return self.add(path, self.LINK, target=target, **more)

    def hard(self, path, target, **more):
        return self.add(path, self.HARD, target=target, **more)

    def header(self, path, kind, target=b"", mode=0o644, uid=0, gid=0, mtime=0, device=(0, 0), size=0):
        head = bytearray(512)

        def put(at, text):
            head[at:at + len(text)] = text

        put(0, path[:100])
        put(100, b"%07o" % mode)
        put(108, b"%07o" % uid)
        put(116, b"%07o" % gid)
        put(124, b"%011o" % size)
        put(136, b"%011o" % min(max(mtime, 0), 0o77777777777))
        put(156, kind)
        put(157, target[:100])
        put(257, b"ustar\00000")
        for at, number in ((329, device[0]), (337, device[1])):  # base 256 where seven octal digits are too few
            put(at, b"%07o" % number if number <= 0o7777777 else b"\x80" + number.to_bytes(7, "big"))
        put(148, b" " * 8)
        put(148, b"%06o\0" % sum(head))
        self.data += head

    def body(self, content):
        self.data += content + bytes(-len(content) % 512)

    def bytes(self):
        return bytes(self.data) + bytes(1024)


def write_layout(folder, tag, tars, config=None, pack=None, media_type="application/vnd.oci.image.layer.v1.tar+gzip"):
    """An OCI image layout. `pack` turns a tar into what is stored."""
    pack = pack or (lambda tar: gzip.compress(tar, 1, mtime=0))
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data, kind):
        (blobs / digest(data).removeprefix("sha256:")).write_bytes(data)
        return {"mediaType": kind, "digest": digest(data), "size": len(data)}

    layers = [put(pack(tar), media_type) for tar in tars]
    document = {"os": "linux", "architecture": "amd64", "config": config or {}, "rootfs": {"type": "layers", "diff_ids": [digest(tar) for tar in tars]}}
    described = put(json.dumps(document).encode(), "application/vnd.oci.image.config.v1+json")
    manifest = put(json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": described, "layers": layers}).encode(),
                   "application/vnd.oci.image.manifest.v1+json")
    manifest["annotations"] = {"org.opencontainers.image.ref.name": tag}
    (folder / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    return [blobs / layer["digest"].removeprefix("sha256:") for layer in layers]
