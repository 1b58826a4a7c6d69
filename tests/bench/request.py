#!/usr/bin/env python3
"""A request: `pyro vm list` from start to exit, beside the least a C program can do on the same socket, interleaved.

request.py [-n RUNS]      needs root and a build
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


def timed(command, env):
    started = time.monotonic()
    subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - started


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("-n", type=int, default=100)
    runs = ap.parse_args().n
    site = pyro_site.Site(environments=False).start()
    try:
        client = site.path / "client"
        subprocess.run(["cc", "-O2", "-o", client, f"{HERE}/request_client.c"], check=True)
        trivial, ours = [], []
        for _ in range(runs):
            trivial.append(timed([client, site.socket], site.env))
            ours.append(timed([pyro_site.BIN / "pyro", "vm", "list"], site.env))
        rss = next(line for line in open(f"/proc/{site.daemon.pid}/status") if line.startswith("VmRSS")).split()[1]
        t, o = statistics.median(trivial), statistics.median(ours)
        print(f"request, {runs} interleaved runs, medians: C client {t * 1000:.2f} ms, pyro vm list {o * 1000:.2f} ms (goal: under 10), "
              f"daemon {int(rss) / 1024:.1f} MiB resident (goal: under 30)")
    finally:
        site.close()


main()
