#!/usr/bin/env python3
"""Many at once: N restored runs started together, beside N one after the other, in rounds that take turns.

at_once.py [-c AT_ONCE] [--rounds N]      needs root, a build, and the suite's prepared environments (ctest -R vm.prepare)
"""
import argparse
import os
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import pyro_site  # noqa: E402


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("-c", type=int, default=8)
    ap.add_argument("--rounds", type=int, default=7)
    a = ap.parse_args()
    site = pyro_site.Site("[templates]\nenabled = true\n[spares]\nper_template = 0\n").start()
    command = ["run", "--json", "--start", "restored", "debian:12", "--", "git", "--version"]

    def start():
        return subprocess.Popen([pyro_site.BIN / "pyro", *command], env=site.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)

    def finish(process):
        said, _ = process.communicate()
        assert process.returncode == 0 and b'"start": "restored"' in said, said

    try:
        site.until(lambda: site.json("run", "debian:12", "--", "true")["start"] == "restored", "there is a template")
        single, together = [], []
        for _ in range(a.rounds):
            begun = time.monotonic()
            for _ in range(a.c):
                finish(start())
            single.append(time.monotonic() - begun)
            begun = time.monotonic()
            for process in [start() for _ in range(a.c)]:
                finish(process)
            together.append(time.monotonic() - begun)
        s, t = statistics.median(single), statistics.median(together)
        print(f"{a.c} restored runs of `git --version`, {a.rounds} rounds in turn, medians: one after the other {s * 1000:.0f} ms "
              f"({s * 1000 / a.c:.0f} ms each), all at once {t * 1000:.0f} ms: {t / s:.2f} x, {t * a.c / s:.1f} times one run; "
              f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
    finally:
        site.close()


main()
