#!/usr/bin/env python3
"""Makes what the VM tests start from, once per build folder: a Debian root, a registry that serves it as the official
image behind `debian:12`, and the state directory of a daemon that pulled it by its catalog name through a [mirror]."""
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "support"))
import pyro_site  # noqa: E402

PACKAGES = "git,ca-certificates,python3,procps"
OPTIONS = ["--variant=minbase", f"--include={PACKAGES}", "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
           "--dpkgopt=path-exclude=/usr/share/doc/*"]


def root_tar():
    cache = pathlib.Path(os.environ.get("PYRO_CACHE") or pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "pyro")
    cache.mkdir(parents=True, exist_ok=True)
    tar = cache / f"test-root-{hashlib.sha256(' '.join(OPTIONS).encode()).hexdigest()[:12]}.tar"
    if not tar.exists():
        temporary = tar.with_suffix(f".{os.getpid()}.tar")
        subprocess.run(["mmdebstrap", "--quiet", *OPTIONS, "bookworm", temporary], check=True)
        temporary.rename(tar)
    return tar


def oci_layout(tar, layout):
    run = lambda *args: subprocess.run(["umoci", *args], check=True, stdout=subprocess.DEVNULL)
    run("init", "--layout", str(layout))
    run("new", "--image", f"{layout}:12")
    run("raw", "add-layer", "--image", f"{layout}:12", str(tar))
    run("config", "--image", f"{layout}:12", "--architecture", "amd64", "--os", "linux",
        "--config.env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "--config.cmd", "bash", "--config.workingdir", "/")


def main():
    prepared = pyro_site.PREPARED
    if (prepared / "state").is_dir():
        print("prepared already")
        return
    shutil.rmtree(prepared, ignore_errors=True)
    work = prepared.with_suffix(".tmp")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    oci_layout(root_tar(), work / "oci")
    with pyro_site.registry(storage=work / "registry") as address:
        subprocess.run(["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", f"oci:{work}/oci:12",
                        f"docker://{address}/library/buildpack-deps:bookworm-scm"], check=True)
        site = pyro_site.Site(config=pyro_site.registry_config(), environments=False).start()
        try:
            done = site.pyro("env", "pull", "debian:12", timeout=600)
            print(done.stderr.decode(), end="")
            assert done.returncode == 0, f"{done.returncode}\n{site.log()}"
            environment = site.json("env", "inspect", "debian:12")["environment"]
            assert environment["state"] == "installed" and environment["source"] == "registry", environment
            site.stop()
            subprocess.run(["cp", "-a", "--sparse=always", site.state, work / "state"], check=True)
        finally:
            site.close()
    shutil.rmtree(work / "oci")
    work.rename(prepared)


main()
