#!/usr/bin/env python3
"""Builds the libFuzzer programs and runs one of them.

    run.py build BUILD/fuzz
    run.py run BUILD/fuzz NAME SECONDS [libFuzzer options]

What a run adds to the corpus stays in BUILD/fuzz/corpus/NAME, what ends the program in BUILD/fuzz/found. To keep what was
learnt: fuzz_NAME -merge=1 tests/fuzz/corpus/NAME BUILD/fuzz/corpus/NAME.
"""
import os
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def build(folder):
    subprocess.run(["cmake", "-S", str(ROOT), "--preset", "fuzz", "-B", str(folder)], check=True)
    names = re.findall(r"^\s*pyro_fuzz_target\((\w+)", (HERE / "CMakeLists.txt").read_text(), re.M)
    subprocess.run(["cmake", "--build", str(folder), "-j", os.environ.get("JOBS", "2"), "--target", *(f"fuzz_{name}" for name in names)], check=True)


def run(folder, name, seconds, *options):
    grown, found = folder / "corpus" / name, folder / "found"
    grown.mkdir(parents=True, exist_ok=True)
    found.mkdir(exist_ok=True)
    command = [folder / "bin" / f"fuzz_{name}", "-seed=1", f"-max_total_time={seconds}", "-timeout=30", "-rss_limit_mb=4096", "-print_final_stats=1",
               f"-artifact_prefix={found}/{name}-", *options, grown, HERE / "corpus" / name]
    os.execv(command[0], [str(word) for word in command])


if __name__ == "__main__":
    {"build": build, "run": run}[sys.argv[1]](pathlib.Path(sys.argv[2]), *sys.argv[3:])
