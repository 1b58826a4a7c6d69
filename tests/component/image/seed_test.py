#!/usr/bin/env python3
"""pyro-image seed as the daemon runs it: as nobody, in its sandbox, on a stream that comes as it comes."""
import hashlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import threading
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests/support")]
sys.path[:0] = [str(ROOT / "tests/support/registry")]
import children  # noqa: E402

WORKER = pathlib.Path(os.environ.get("PYRO_BUILD", ROOT / "build")) / "bin/pyro-image"
WAIT = 60
NOBODY = 65534


def stream(entries):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.mode = 0o755
            if content is None:
                info.type = tarfile.DIRTYPE
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content or b""))
    return out.getvalue()


class SeedCase(unittest.TestCase):
    def seed(self, data, pieces=7777):
        image = os.memfd_create("seed")
        self.addCleanup(os.close, image)
        read_end, write_end = os.pipe()
        user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        options = children.reachable(WORKER, user)
        options = {**options, "pass_fds": [*options.get("pass_fds", []), read_end, image]}
        process = children.ends_with(self, subprocess.Popen([WORKER, "seed"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options))
        os.close(read_end)
        process.stdin.write(json.dumps({"stream_fd": read_end, "image_fd": image}).encode())
        process.stdin.close()

        def feed():
            with open(write_end, "wb", buffering=0) as pipe:
                try:
                    for at in range(0, len(data), pieces):
                        pipe.write(data[at:at + pieces])
                except BrokenPipeError:
                    pass  # it has seen enough
        feeder = threading.Thread(target=feed)
        feeder.start()
        with process.stdout:
            last = [json.loads(line) for line in process.stdout][-1]
        feeder.join()
        self.assertEqual(process.wait(WAIT), 0 if last["event"] == "result" else 1)
        return last, image

    def test_a_stream_becomes_a_clean_image(self):
        noise = os.urandom(3 << 20)
        data = stream([("dir", None), ("dir/file", b"content"), ("noise", noise)])
        last, image = self.seed(data)
        self.assertEqual({key: last[key] for key in ("event", "digest", "stream_bytes", "files", "directories", "symlinks", "bytes")},
                         {"event": "result", "digest": "sha256:" + hashlib.sha256(data).hexdigest(), "stream_bytes": len(data), "files": 2,
                          "directories": 1, "symlinks": 0, "bytes": 7 + len(noise)})
        path = f"/proc/self/fd/{image}"
        checked = subprocess.run(["e2fsck", "-fn", path], pass_fds=[image], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual(checked.returncode, 0, checked.stdout)
        held = subprocess.run(["debugfs", "-R", "cat /noise", path], pass_fds=[image], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        self.assertTrue(held.stdout == noise)

    def test_a_hostile_stream_is_refused_by_name(self):
        last, _ = self.seed(stream([("ok", b"x"), ("../escape", b"x")]))
        self.assertEqual((last["event"], last["code"], last["message"]),
                         ("error", "invalid_argument", 'the seed is refused: entry "../escape" leaves the tree by ".."'))

    def test_a_stream_that_breaks_off_is_refused(self):
        data = stream([("a", b"x" * 5000), ("b", b"x")])
        for end in (700, 1024, 512 + 5120, len(data) - 10240):
            last, _ = self.seed(data[:end])
            self.assertEqual((last["event"], last["code"]), ("error", "invalid_argument"), last)


if __name__ == "__main__":
    unittest.main()
