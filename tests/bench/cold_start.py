#!/usr/bin/env python3
"""Cold start: `pyro run debian:12 -- true`, whole CLI, beside the floor (same kernel, same root, QEMU by hand), interleaved.

cold_start.py [-n RUNS]      needs root, a build, and the suite's prepared environments (ctest -R vm.prepare)
"""
import argparse
import os
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "support"))
import pyro_site  # noqa: E402


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("-n", type=int, default=15)
    runs = ap.parse_args().n
    site = pyro_site.Site().start()
    try:
        image = next((site.state / "environments").glob("*/*.ext4"))
        floor, ours = [], []
        for _ in range(runs):
            done = subprocess.run([sys.executable, f"{HERE}/floor/vm_floor.py", f"{pyro_site.BUILD}/guest/vmlinux", image, "-c", "true", "--cold"],
                                  check=True, stdout=subprocess.PIPE)
            floor.append(float(done.stdout))
            started = time.monotonic()
            site.pyro("run", "debian:12", "--", "true", check=True)
            ours.append(time.monotonic() - started)
        f, o = statistics.median(floor), statistics.median(ours)
        print(f"cold start, {runs} interleaved runs, medians: floor {f:.3f} s, pyro run {o:.3f} s, ratio {o / f:.2f} (goal: at most 1.25)")
    finally:
        site.close()


main()
