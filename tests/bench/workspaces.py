#!/usr/bin/env python3
"""Workspaces beside what they are to be measured by, in rounds that take turns, whole CLI:

  create        a warm create beside a warm `pyro run -- true`                                   (goal 1.3)
  reset         beside a warm create                                                             (goal 2)
  start         of a stopped one, and `true` in it, beside the same restored by hand from an image that had opened no disk  (goal 1.5)
  seed          create from a tree of 10,000 files / 100 MB, new content each time, beside `tar -x` of it on this host  (goal 2)
  seed again    the same content beside an unseeded create                                       (goal 1.5)
  diff          20 of those files changed, beside `git status` of the tree in the same guest     (goal 1.5)
  list          50 workspaces beside none, per workspace                                         (goal 0.1 ms)

workspaces.py [-n RUNS] [--rounds N] [--no-spares]      needs root, a build, git, and the suite's prepared environments (ctest -R vm.prepare)
"""
import argparse
import os
import pathlib
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "support"))
import pyro_site  # noqa: E402

FILES, BYTES = 10_000, 100_000_000


class Bench:
    def __init__(self, site, work):
        self.site, self.work, self.took = site, work, {}

    def timed(self, row, *args, **kwargs):
        began = time.monotonic()
        done = self.site.pyro(*args, check=True, timeout=600, **kwargs)
        self.took.setdefault(row, []).append(1000 * (time.monotonic() - began))
        return done.stdout.decode().strip()

    def workspace(self, row, *options):
        return self.timed(row, "workspace", "create", "debian:12", "--id-only", *options)

    def settle(self):
        """The spare that a use left to be made is there: what is measured is a host that had a moment."""
        time.sleep(1.0)

    def small(self):
        self.settle()
        self.timed("run", "run", "debian:12", "--", "true")
        self.settle()
        ws = self.workspace("create")
        self.settle()
        self.timed("reset", "workspace", "reset", ws)
        self.timed("delete", "workspace", "delete", ws)

    def starts(self):
        image = next((self.site.state / "environments").glob("*/*.ext4"))
        done = subprocess.run([sys.executable, f"{HERE}/floor/vm_floor.py", f"{pyro_site.BUILD}/guest/vmlinux", image, "-n", "5", "-c", "true", "--bare"],
                              check=True, stdout=subprocess.PIPE)
        self.took.setdefault("floor", []).append(1000 * float(re.search(rb"command done ([\d.]+)", done.stdout).group(1)))
        ws = self.workspace("create for a start")
        for _ in range(5):
            self.site.pyro("workspace", "stop", ws, check=True)
            self.timed("start", "workspace", "exec", ws, "--", "true")
        self.site.pyro("workspace", "delete", ws, check=True)

    def tree(self):
        tree = self.work / "tree"
        if not tree.is_dir():
            rng = random.Random(1)
            for i in range(FILES):
                folder = tree / f"d{i // 100:03}"
                folder.mkdir(parents=True, exist_ok=True)
                words = [rng.choice(("alpha", "beta", "gamma", "delta")) for _ in range(BYTES // FILES // 7)]
                (folder / f"f{i:05}.txt").write_text("\n".join(" ".join(words[j:j + 8]) for j in range(0, len(words), 8)) + "\n")
        return tree

    def seeds(self):
        tree = self.tree()
        (tree / "different").write_text(str(time.time()))
        tar = self.work / "tree.tar"
        subprocess.run(["tar", "-C", tree, "-cf", tar, "."], check=True)
        to = self.work / "unpacked"
        shutil.rmtree(to, ignore_errors=True)
        to.mkdir()
        began = time.monotonic()
        subprocess.run(["tar", "-C", to, "-xf", tar], check=True)
        self.took.setdefault("tar -x", []).append(1000 * (time.monotonic() - began))
        shutil.rmtree(to)
        time.sleep(2.5)  # a tree that was changed just now is not trusted to be what it was
        self.site.pyro("workspace", "delete", self.workspace("seed", "--seed-path", str(tree)), check=True)
        self.settle()
        self.site.pyro("workspace", "delete", self.workspace("seed again", "--seed-path", str(tree)), check=True)
        self.settle()
        self.site.pyro("workspace", "delete", self.workspace("unseeded", ), check=True)

    def diffs(self):
        tree = self.work / "checkout"
        if not tree.is_dir():
            shutil.copytree(self.tree(), tree)
            env = {**os.environ, "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
            for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "all"]):
                subprocess.run(["git", "-C", tree, *words], check=True, env=env)
        ws = self.workspace("seed from a checkout", "--seed-path", str(tree))
        self.site.pyro("workspace", "exec", ws, "--", "sh", "-c", "for i in $(seq 100 119); do echo changed >> d${i%?}0/f${i%?}000.txt; echo x > d0$((i - 100 + 10))/f0$((i - 100 + 10))50.txt; done; git status --short | wc -l", check=True)
        for _ in range(3):
            self.timed("git status", "workspace", "exec", ws, "--", "git", "status", "--short")
            self.timed("diff", "workspace", "diff", ws)
        self.site.pyro("workspace", "delete", ws, check=True)

    def lists(self):
        for _ in range(20):
            self.timed("list none", "workspace", "list")
        made = []
        for i in range(50):
            ws = self.site.pyro("workspace", "create", "debian:12", "--id-only", check=True).stdout.decode().strip()
            made.append(ws)
            self.site.pyro("workspace", "stop", ws, check=True)
        for _ in range(20):
            self.timed("list 50", "workspace", "list")
        for ws in made:
            self.site.pyro("workspace", "delete", ws, check=True)

    def median(self, row):
        return statistics.median(self.took[row])

    def say(self, row, beside, goal):
        print(f"  {row:12} {self.median(row):8.1f} ms, {beside} {self.median(beside):8.1f} ms: {self.median(row) / self.median(beside):5.2f} x (goal: at most {goal})", flush=True)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("-n", type=int, default=20, help="small ones: run, create, reset")
    ap.add_argument("--rounds", type=int, default=5, help="large ones: seeds")
    ap.add_argument("--no-spares", action="store_true", help="every machine is restored on demand")
    a = ap.parse_args()
    site = pyro_site.Site("[templates]\nenabled = true\n" + ("[spares]\nper_template = 0\n" if a.no_spares else "")).start()
    work = pathlib.Path(tempfile.mkdtemp(prefix="pyro-bench-"))
    bench = Bench(site, work)
    try:
        site.pyro("prepare", check=True)
        for _ in range(a.n):
            bench.small()
        print(f"medians, {a.n} of the small and {a.rounds} of the large ones, taking turns; load average {os.getloadavg()[0]:.1f}")
        bench.say("create", "run", 1.3)
        bench.say("reset", "create", 2)
        for _ in range(a.rounds):
            bench.starts()
        bench.say("start", "floor", 1.5)
        for _ in range(a.rounds):
            bench.seeds()
        bench.say("seed", "tar -x", 2)
        bench.say("seed again", "unseeded", 1.5)
        bench.diffs()
        bench.say("diff", "git status", 1.5)
        bench.lists()
        each = (bench.median("list 50") - bench.median("list none")) / 50
        print(f"  list         {bench.median('list none'):8.1f} ms of none, {bench.median('list 50'):8.1f} ms of 50: {each:.3f} ms each (goal: under 0.1)")
    finally:
        shutil.rmtree(work)
        site.close()


main()
