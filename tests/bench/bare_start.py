#!/usr/bin/env python3
"""A stopped VM's start to the end of its first command: `pyro vm exec VM -- true`, whole CLI, beside the floor (same kernel, same root,
a QEMU restored by hand from an image whose guest had not opened its disk), in rounds that take turns.

bare_start.py [-n RUNS] [--rounds N]      needs root, a build, and the suite's prepared environments (ctest -R vm.prepare)
"""
import argparse
import os
import re
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "support"))
import pyro_site  # noqa: E402


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("-n", type=int, default=5, help="runs of each kind in a round")
    ap.add_argument("--rounds", type=int, default=4)
    a = ap.parse_args()
    site = pyro_site.Site("[templates]\nenabled = true\n").start()
    try:
        site.pyro("prepare", check=True)
        image = next((site.state / "environments").glob("*/*.ext4"))
        floor, ours = [], []
        for _ in range(a.rounds):
            done = subprocess.run([sys.executable, f"{HERE}/floor/vm_floor.py", f"{pyro_site.BUILD}/guest/vmlinux", image, "-n", str(a.n), "-c", "true", "--bare"],
                                  check=True, stdout=subprocess.PIPE)
            floor.append(1000 * float(re.search(rb"command done ([\d.]+)", done.stdout).group(1)))
            for _ in range(a.n):
                vm = site.json("vm", "create", "debian:12")["vm_id"]
                for verb in ("start", "stop"):
                    site.pyro("vm", verb, vm, check=True)
                started = time.monotonic()
                report = site.json("vm", "exec", vm, "--", "true")
                ours.append(1000 * (time.monotonic() - started))
                assert report["start"] == "restored", report
        f, o = statistics.median(floor), statistics.median(ours)
        print(f"start of a stopped VM to its first command, {a.rounds} rounds of {a.n} in turn, medians: floor {f:.0f} ms, pyro vm exec {o:.0f} ms, "
              f"ratio {o / f:.2f} (goal: at most 1.25); load average {os.getloadavg()[0]:.1f}")
    finally:
        site.close()


main()
