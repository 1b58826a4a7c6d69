#!/usr/bin/env python3
"""docs/use-cases/repro-fix-loop.md on real repositories with their own test suites, by the command line alone.

    tests/use_cases/repro_fix_loop.py [NAME...]       PYRO_BUILD: the build folder, ./build if not set

Prints what each step took. Needs apt and dpkg-dev; the build environment is pulled once into build/test-environments/use-cases."""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
os.environ.setdefault("PYRO_BUILD", str(ROOT / "build"))
sys.path.insert(0, str(ROOT / "tests" / "support"))
import pyro_site  # noqa: E402
import sources  # noqa: E402

CASES = {
    # name: (source package, environment, what is broken, how its own suite runs, a word of a failure)
    "c": ("zlib", "debian:12-build", [("uncompr.c", "err == Z_STREAM_END ? Z_OK", "err == Z_STREAM_END ? Z_BUF_ERROR")],
          "./configure >/dev/null && make -s test", b"uncompress error"),
    "perl": ("libtext-csv-perl", "debian:12-build", [("lib/Text/CSV_PP.pm", "sub eof {", "sub eof {\n    return 1;")],
             "prove -l t/10_base.t t/12_acc.t t/20_file.t t/30_types.t t/45_eol.t t/75_hashref.t", b"Failed"),
    "python": ("python3.11", "debian:12-build", [("Lib/textwrap.py", "if predicate(line)", "if not predicate(line)")],
               "PYTHONPATH=Lib python3 -m unittest -q test.test_textwrap", b"FAILED"),
}
PREPARED = pathlib.Path(os.environ["PYRO_BUILD"]) / "test-environments" / "use-cases"


class Loop:
    def __init__(self, site, name):
        self.site, self.name, self.took = site, name, {}

    def pyro(self, step, *args, code=0, **kwargs):
        began = time.monotonic()
        done = self.site.pyro("workspace", *args, timeout=1200, **kwargs)
        self.took[step] = time.monotonic() - began
        assert code is None or done.returncode == code, f"pyro workspace {' '.join(args)}: {done.returncode}\n{done.stdout.decode()[-3000:]}\n{done.stderr.decode()[-3000:]}"
        return done

    def run(self, work):
        package, environment, broken, suite, failure = CASES[self.name]
        checkout = work / self.name
        mend = sources.checkout(sources.fetch(package, PREPARED / "sources"), checkout, broken)
        size = sum(f.stat().st_size for f in checkout.rglob("*") if f.is_file() and ".git" not in f.parts)
        files = sum(1 for f in checkout.rglob("*") if f.is_file() and ".git" not in f.parts)
        ws = self.pyro("create", "create", environment, "--seed-path", str(checkout), "--name", f"fix-{self.name}", "--mem-mib", "2048", "--id-only").stdout.decode().strip()
        try:
            done = self.pyro("suite fails", "exec", ws, "--", "sh", "-c", suite, code=None)
            assert done.returncode not in (0, 124, 125, 126, 127) and failure in done.stdout + done.stderr, (done.returncode, done.stdout[-2000:], done.stderr[-2000:])
            path = broken[0][0]
            assert self.pyro("read", "file", "read", ws, path, "--max-bytes", "10000000", "--content-only").stdout == (checkout / path).read_bytes()
            self.pyro("patch", "patch", "apply", ws, "--patch-file", "-", input=mend)
            self.pyro("suite passes", "exec", ws, "--", "sh", "-c", suite)
            diff = self.pyro("diff", "diff", ws, path).stdout
            assert diff, "the diff is empty"
            back = work / f"{self.name}-back"
            subprocess.run(["git", "clone", "-q", str(checkout), str(back)], check=True)
            subprocess.run(["git", "-C", str(back), "apply", "--check", "-"], input=diff, check=True)
            subprocess.run(["git", "-C", str(back), "apply", "-"], input=diff, check=True)
            assert self.pyro("export", "export", ws, path, "--output", str(work / f"{self.name}-file")).returncode == 0
            assert (work / f"{self.name}-file").read_bytes() == (back / path).read_bytes()
            git = self.site.pyro("workspace", "exec", ws, "--", "git", "status", "--short", path)
            assert git.stdout.strip() == b"M " + path.encode(), (git.stdout, git.stderr)
            self.pyro("reset", "reset", ws)
            assert self.pyro("diff after reset", "diff", ws).stdout == b""
            assert self.site.pyro("workspace", "file", "read", ws, path, "--max-bytes", "10000000", "--content-only").stdout == (checkout / path).read_bytes()
        finally:
            self.pyro("delete", "delete", ws)
        print(f"{self.name}: {package}, {files} files, {size / 1e6:.1f} MB: " + ", ".join(f"{step} {took:.2f} s" for step, took in self.took.items()), flush=True)


def prepared_state(site_config):
    """A state directory with the environments, made once."""
    state = PREPARED / "state"
    if not state.is_dir():
        site = pyro_site.Site(config=site_config).start()
        try:
            print("building debian:12-build from the Debian archive, once ...", flush=True)
            done = site.pyro("env", "pull", "debian:12-build", timeout=1800)
            assert done.returncode == 0, done.stderr.decode()
            site.stop()
            PREPARED.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", "--sparse=always", site.state, state], check=True)
        finally:
            site.close()
    return state


def main(names):
    config = "[templates]\nenabled = true\n[environments]\nsources = [\"debian-archive\"]\n"
    site = pyro_site.Site(config=config, environments=prepared_state(config)).start()
    work = pathlib.Path(tempfile.mkdtemp(prefix="pyro-use-case-"))
    try:
        for name in names or CASES:
            Loop(site, name).run(work)
    finally:
        shutil.rmtree(work)
        site.close()


if __name__ == "__main__":
    main(sys.argv[1:])
