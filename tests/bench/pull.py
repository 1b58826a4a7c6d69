#!/usr/bin/env python3
"""An image with one layer of 80 MB, from docker-registry on loopback to a root that boots: `pyro env pull`, beside skopeo copy, umoci
unpack and mke2fs -d, in turn.

pull.py [-n RUNS]      needs root, a build, skopeo, umoci and e2fsprogs. The layer is what this host's /usr begins with.
"""
import argparse
import gzip
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "support"))
import pyro_site  # noqa: E402
from oci import DockerRegistry, Image  # noqa: E402

WANTED = 80_000_000


class Counted:
    """Counts what is written, and hands it on."""

    def __init__(self, to):
        self.to, self.count = to, 0

    def write(self, data):
        self.count += len(data)
        return self.to.write(data)


def layer(folder):
    """A tar of files of /usr, in the order of their names, that gzip makes 80 MB of."""
    path = folder / "layer.tar"
    with open(os.devnull, "wb") as null, open(path, "wb") as file:
        counted = Counted(null)
        measure = gzip.GzipFile(fileobj=counted, mode="wb", compresslevel=1, mtime=0)

        class Both:
            def write(self, data):
                file.write(data)
                measure.write(data)
                return len(data)
        with tarfile.open(fileobj=Both(), mode="w|", format=tarfile.PAX_FORMAT) as tar:
            for root, folders, files in os.walk("/usr"):
                folders.sort()
                tar.add(root, root[1:], recursive=False)
                for name in sorted(files):
                    if os.lstat(os.path.join(root, name)).st_size < 4 << 20:  # so that the size is about the wanted one
                        tar.add(os.path.join(root, name), os.path.join(root, name)[1:], recursive=False)
                    if counted.count >= WANTED:
                        break
                if counted.count >= WANTED:
                    break
    return path.read_bytes()


def timed(*command):
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - started


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("-n", type=int, default=3)
    runs = ap.parse_args().n
    with tempfile.TemporaryDirectory(prefix="pyro-bench-", dir="/var/tmp") as work, DockerRegistry() as registry:
        work = pathlib.Path(work)
        tar = layer(work)
        image = Image([tar])
        packed = max(len(blob) for blob in image.blobs.values())
        registry.push("bench/pull", "1", image)
        site = pyro_site.Site(f'[registry."{registry.host}"]\nplain_http = true\nallow_private = true\n', environments=False).start()
        reference = f"{registry.host}/bench/pull:1"
        ours, theirs, steps = [], [], []
        try:
            for _ in range(runs):
                for name in ("oci", "bundle"):
                    shutil.rmtree(work / name, ignore_errors=True)
                (work / "root.ext4").unlink(missing_ok=True)
                parts = [timed("skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", f"docker://{reference}", f"oci:{work}/oci:1"),
                         timed("umoci", "unpack", "--image", f"{work}/oci:1", work / "bundle"),
                         timed("mke2fs", "-q", "-t", "ext4", "-d", work / "bundle/rootfs", work / "root.ext4", "8G")]
                steps.append(parts)
                theirs.append(sum(parts))
                started = time.monotonic()
                site.pyro("env", "pull", reference, check=True)
                ours.append(time.monotonic() - started)
                site.pyro("env", "prune", "--all", check=True)
        finally:
            site.close()
        o, t = statistics.median(ours), statistics.median(theirs)
        by_step = " + ".join(f"{statistics.median(column):.2f}" for column in zip(*steps))
        print(f"pull of one layer, {packed / 1e6:.0f} MB packed and {len(tar) / 1e6:.0f} MB unpacked, {runs} runs in turn, medians: pyro env pull {o:.2f} s, "
              f"skopeo copy + umoci unpack + mke2fs -d {by_step} = {t:.2f} s: {o / t:.2f} x (goal: at most 1.0)")


main()
