"""Real repositories: Debian source packages, fetched once by the host's apt and made Git checkouts."""
import os
import pathlib
import shutil
import subprocess
import tempfile


def apt_lines():
    """deb-src lines for the archive the host's apt knows."""
    said = subprocess.run(["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT) $(CREATED_BY)"], check=True, capture_output=True, text=True).stdout
    for line in said.splitlines():
        site, release, component, kind = line.split(" ", 3)
        if kind == "Packages" and component == "main" and "security" not in release and "updates" not in release:
            return f"deb-src {site} {release} main\n"
    raise RuntimeError("apt knows no Debian archive: see /etc/apt/sources.list.d")


def fetch(package, cache):
    """The package's unpacked upstream tree, below `cache`."""
    cache = pathlib.Path(cache)
    tree = cache / package
    if tree.is_dir():
        return tree
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        for part in ("lists/partial", "cache/archives/partial"):
            (work / part).mkdir(parents=True)
        (work / "sources.list").write_text(apt_lines())
        options = ["-o", f"Dir::Etc::sourcelist={work}/sources.list", "-o", "Dir::Etc::sourceparts=-", "-o", f"Dir::State::lists={work}/lists",
                   "-o", f"Dir::Cache={work}/cache", "-o", "APT::Sandbox::User=root", "-qq"]
        subprocess.run(["apt-get", *options, "update"], check=True)
        subprocess.run(["apt-get", *options, "source", "--download-only", package], check=True, cwd=work)
        subprocess.run(["dpkg-source", "--no-check", "-x", *map(str, work.glob("*.dsc")), str(work / "tree")], check=True, stdout=subprocess.DEVNULL)
        cache.mkdir(parents=True, exist_ok=True)
        shutil.move(work / "tree", tree)
    return tree


def checkout(tree, to, broken=()):
    """A Git checkout of a copy of the tree with one commit, in which (path, old, new) were put wrong. Returns the patch that mends it."""
    subprocess.run(["cp", "-a", str(tree), str(to)], check=True)
    shutil.rmtree(pathlib.Path(to) / ".pc", ignore_errors=True)
    env = {**os.environ, "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b", "GIT_CONFIG_GLOBAL": "/dev/null"}
    git = lambda *args: subprocess.run(["git", "-C", str(to), *args], check=True, capture_output=True, env=env).stdout  # noqa: E731
    git("init", "-q")
    git("add", "-A", "-f")
    git("commit", "-q", "-m", "as released")
    for path, old, new in broken:
        file = pathlib.Path(to) / path
        text = file.read_text()
        assert old in text, (path, old)
        file.write_text(text.replace(old, new, 1))
    mend = git("diff", "-R")
    git("commit", "-q", "-a", "--allow-empty", "-m", "broken")
    return mend
