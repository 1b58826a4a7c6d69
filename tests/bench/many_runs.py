#!/usr/bin/env python3
"""Flatness: many runs one after the other; the medians of each hundred, and what the daemon holds after it.

many_runs.py [-n RUNS]      needs root, a build, and the suite's prepared environments (ctest -R vm.prepare)
"""
import argparse
import os
import re
import statistics
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import pyro_site  # noqa: E402


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("-n", type=int, default=1000)
    runs = ap.parse_args().n
    site = pyro_site.Site("[templates]\nenabled = true\n").start()
    try:
        site.until(lambda: site.json("run", "debian:12", "--", "true")["start"] == "spare", "there is a spare")
        print("    runs   medians: spare ms   (n)  restored ms   (n)   daemon: fds  RSS KiB   load")
        times = {"spare": [], "restored": []}
        for number in range(1, runs + 1):
            begun = time.monotonic()
            report = site.json("run", "debian:12", "--", "git", "--version")
            times[report["start"]].append((time.monotonic() - begun) * 1000)
            if number % 100 and number != runs:
                continue
            # What the last run left behind is done with once its successor waits.
            site.until(lambda: site.call("system.status")["spares"] == 1 and site.call("system.status")["vms"] == 0, "the daemon is idle")
            with open(f"/proc/{site.daemon.pid}/status") as status:
                rss = re.search(r"VmRSS:\s+(\d+)", status.read()).group(1)
            kinds = "".join(f"{statistics.median(times[kind]) if times[kind] else 0:{width}.1f} {len(times[kind]):5}" for kind, width in (("spare", 20), ("restored", 12)))
            print(f"{number:8}{kinds} {site.fds():13} {rss:>8} {os.getloadavg()[0]:6.1f}", flush=True)
            times = {"spare": [], "restored": []}
    finally:
        site.close()


main()
