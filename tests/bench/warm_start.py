#!/usr/bin/env python3
"""Warm start: `pyro bench` beside the floor (same kernel, same root, QEMU by hand, restored), in rounds that take turns.

warm_start.py [-n RUNS] [--rounds N] [--density VMS]      needs root, a build, and the suite's prepared environments (ctest -R vm.prepare)
"""
import argparse
import os
import re
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "support"))
import pyro_site  # noqa: E402


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("-n", type=int, default=5, help="runs of each kind in a round")
    ap.add_argument("--rounds", type=int, default=6)
    ap.add_argument("--density", type=int, default=0)
    a = ap.parse_args()
    # Idle VMs take a small part of the memory they are given, so that the quota is what is given, not what there is.
    site = pyro_site.Site("[limits]\nmem_mib = 1048576\nmem_mib_per_user = 1048576\n[templates]\nenabled = true\n").start()
    try:
        image = next((site.state / "environments").glob("*/*.ext4"))
        medians = {}
        left_out = []
        for _ in range(a.rounds):
            done = subprocess.run([sys.executable, f"{HERE}/floor/vm_floor.py", f"{pyro_site.BUILD}/guest/vmlinux", image, "-n", str(a.n)],
                                  check=True, stdout=subprocess.PIPE)
            medians.setdefault("floor (restored)", []).append(1000 * float(re.search(rb"command done ([\d.]+)", done.stdout).group(1)))
            report = site.json("bench", "-n", str(a.n), timeout=3600)
            for row in report["rows"]:
                medians.setdefault(row["name"], []).append(row["median_ms"])
            left_out = report["left_out"]
        print(f"`git --version`, {a.rounds} rounds of {a.n} runs each in turn, median (least, most) of the rounds' medians; "
              f"load average {os.getloadavg()[0]:.1f} {os.getloadavg()[1]:.1f} {os.getloadavg()[2]:.1f}; {report['execution_mode']}")
        for name, values in medians.items():
            print(f"  {name:17} {statistics.median(values):7.1f} ms ({min(values):.1f}, {max(values):.1f})")
        for one in left_out:
            print(f"  not compared: {one['name']}: {one['reason']}")
        if a.density:
            print(site.pyro("bench", "-n", "1", "--rows", "run", "--density", str(a.density), check=True, timeout=3600).stdout.decode())
    finally:
        site.close()


main()
