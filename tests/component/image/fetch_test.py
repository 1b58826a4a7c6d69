#!/usr/bin/env python3
"""pyro-image fetch against a real registry, and against one that does everything wrong."""
import contextlib
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "tests/support/registry")]
import children  # noqa: E402
import oci  # noqa: E402

WORKER = pathlib.Path(os.environ.get("PYRO_BUILD", ROOT / "build")) / "bin/pyro-image"
WAIT = 60
NOBODY = 65534


def small_image(**kwargs):
    return oci.Image([oci.layer({"bin": None, "bin/sh": b"#!"}), oci.layer({"etc": None, "etc/x": oci.noise(300_000)})], **kwargs)


class FetchCase(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="pyro-fetch-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.folder.chmod(0o711)
        self.directory = self.folder / "ingest"
        self.directory.mkdir()
        if os.geteuid() == 0:
            os.chown(self.directory, NOBODY, NOBODY)

    def start(self, registry, repository="app", selector="1", hosts=None, ca=None, **more):
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        fds = [fd]
        policy = {"plain_http": registry.url.startswith("http:"), "allow_private": True}
        if ca:
            fds.append(os.open(ca, os.O_RDONLY))
            policy["ca_fd"] = fds[-1]
        request = {"reference": f"{repository}:{selector}", "endpoint": registry.url, "repository": repository, "selector": selector,
                   "directory_fd": fd, "hosts": {registry.host: policy} if hosts is None else hosts, "attempts": 3, "retry_base_ms": 5, **more}
        user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        options = children.reachable(WORKER, user)
        options = {**options, "pass_fds": [*options.get("pass_fds", []), *fds]}
        process = children.ends_with(self, subprocess.Popen([WORKER, "fetch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options))
        for one in fds:
            os.close(one)
        process.stdin.write(json.dumps(request).encode())
        process.stdin.close()
        return process

    def fetch(self, *args, **kwargs):
        process = self.start(*args, **kwargs)
        with process.stdout:
            events = [json.loads(line) for line in process.stdout]
        code = process.wait(WAIT)
        last = events[-1]
        self.assertEqual(code, 0 if last["event"] == "result" else 1)
        self.assertIn(last["event"], ("result", "error"))
        self.events = events
        return last

    def succeeds(self, image, *args, **kwargs):
        last = self.fetch(*args, **kwargs)
        self.assertEqual(last["event"], "result", last)
        self.assertEqual(last["manifest_digest"], oci.digest(image.manifest))
        self.assertEqual([entry["digest"] for entry in last["layers"]], image.layer_digests)
        for name in [*image.layer_digests, oci.digest(image.config), oci.digest(image.manifest)]:
            data = (self.directory / name[7:]).read_bytes()
            self.assertEqual(oci.digest(data), name)
        self.assertEqual(list(self.directory.glob("*.part")), [])
        return last

    def fails(self, code, *args, **kwargs):
        last = self.fetch(*args, **kwargs)
        self.assertEqual(last["event"], "error", last)
        self.assertEqual(last["code"], code, last)
        self.assertTrue(last["message"])
        for path in self.directory.iterdir():  # what is there under its name is whole
            if path.suffix != ".part":
                self.assertEqual(hashlib.sha256(path.read_bytes()).hexdigest(), path.name)
        return last


class RealRegistry(FetchCase):
    def test_anonymous(self):
        image, docker = small_image(), small_image(docker=True)
        with oci.DockerRegistry() as registry:
            registry.push("a/b", "1", image)
            registry.push("docker", "1", docker)
            last = self.succeeds(image, registry, "a/b")
            self.assertEqual(last["config"]["cmd"], ["/bin/sh"])
            self.assertEqual(last["resolved_digest"], oci.digest(image.index))
            self.succeeds(docker, registry, "docker")
            self.succeeds(image, registry, "a/b", oci.digest(image.index))
            self.succeeds(image, registry, "a/b", oci.digest(image.manifest))
            self.fails("not_found", registry, "a/b", "2")
            self.fails("not_found", registry, "a/none")
            self.fails("not_found", registry, "a/b", oci.digest(b"nothing"))

    def test_basic(self):
        image = small_image()
        with oci.DockerRegistry("basic") as registry:
            registry.push("app", "1", image)
            self.assertIn("credentials", self.fails("failed_precondition", registry)["hint"])
            self.fails("failed_precondition", registry, credentials={"username": "tester", "password": "wrong"})
            self.succeeds(image, registry, credentials={"username": "tester", "password": "secret"})

    def test_token(self):
        image = small_image()
        with oci.DockerRegistry("token") as registry:
            registry.push("app", "1", image)
            registry.push("public/app", "1", image)
            self.succeeds(image, registry, "public/app")
            self.fails("failed_precondition", registry)
            self.fails("failed_precondition", registry, credentials={"username": "tester", "password": "wrong"})
            self.succeeds(image, registry, credentials={"username": "tester", "password": "secret"})

    def test_tls(self):
        image = small_image()
        with oci.DockerRegistry(tls=True) as registry:
            registry.push("app", "1", image)
            self.assertIn("certificate", self.fails("failed_precondition", registry)["message"])
            self.succeeds(image, registry, ca=registry.path / "ca.crt")


class Faults(FetchCase):
    def registry(self, fault=None, image=None, **kwargs):
        self.image = image or small_image()
        registry = oci.FaultyRegistry({"app": self.image}, fault, **kwargs)
        self.addCleanup(registry.__exit__)
        return registry

    def statuses(self, kind, *statuses, headers=None):
        """The first answers of that kind are these, the rest is right; None cuts the connection."""
        left = list(statuses)

        def fault(handler, asked, name):
            if asked != kind or not left:
                return False
            status = left.pop(0)
            handler.hang_up() if status is None else handler.answer(status, b"{}", headers)
            return True
        return fault

    def test_a_good_one(self):
        registry = self.registry()
        self.succeeds(self.image, registry)
        phases = {event.get("phase") for event in self.events}
        self.assertTrue({"resolve", "download"} <= phases)
        before = registry.count("blobs")
        self.succeeds(self.image, registry)  # what is there is not loaded again
        self.assertEqual(registry.count("blobs"), before + 1)  # the configuration

    def test_blobs_the_daemon_has_are_not_loaded(self):
        registry = self.registry()
        have = [name[7:] for name in self.image.layer_digests]
        self.assertEqual(self.fetch(registry, have=have)["event"], "result")
        for name in self.image.layer_digests:
            self.assertEqual(registry.count("blobs", name), 0)

    def test_refusals_are_typed(self):
        for status, code in ((401, "failed_precondition"), (403, "failed_precondition"), (404, "not_found"), (400, "unavailable")):
            registry = self.registry(self.statuses("manifests", *[status] * 9))
            last = self.fails(code, registry)
            self.assertEqual(registry.count("manifests"), 1, "tried again for nothing")
            self.assertNotIn("cause", last["details"])

    def test_what_passes_is_tried_again(self):
        for status in (429, 500, 502, 503, 504, None):
            registry = self.registry(self.statuses("manifests", status, status, headers={"Retry-After": "0"}))
            self.succeeds(self.image, registry)
            self.assertGreaterEqual(registry.count("manifests"), 4)

    def test_what_does_not_pass_ends(self):
        for status in (429, 500, None):
            registry = self.registry(self.statuses("manifests", *[status] * 99, headers={"Retry-After": "0"}))
            last = self.fails("unavailable", registry)
            self.assertTrue(last["retryable"])
            self.assertLessEqual(registry.count("manifests"), 8)

    def test_retry_after_is_honoured(self):
        registry = self.registry(self.statuses("manifests", 429, headers={"Retry-After": "1"}))
        self.succeeds(self.image, registry)

    def test_a_wrong_digest_is_never_kept(self):
        target = small_image().layer_digests[1]

        def fault(handler, kind, name):
            if kind != "blobs" or name != target:
                return False
            handler.answer(200, bytes(len(self.image.blobs[name])))
            return True
        registry = self.registry(fault)
        self.fails("environment_invalid", registry)
        self.assertEqual(registry.count("blobs", target), 1)
        self.assertFalse((self.directory / target[7:]).exists())
        self.assertFalse((self.directory / (target[7:] + ".part")).exists())

    def test_manifests_are_verified(self):
        def claims(handler, kind, name):
            if kind != "manifests" or not name.startswith("sha256:"):
                return False
            handler.answer(200, self.image.manifest + b" ", {"Content-Type": self.image.type})
            return True
        self.fails("environment_invalid", self.registry(claims))

        def header(handler, kind, name):
            if kind != "manifests":
                return False
            handler.answer(200, self.image.index, {"Content-Type": oci.INDEX, "Docker-Content-Digest": oci.digest(b"other")})
            return True
        self.fails("environment_invalid", self.registry(header))

    def test_a_short_body_is_continued(self):
        for ranges in (True, False):
            with self.subTest(ranges=ranges):
                target = small_image().layer_digests[1]
                cut = []

                def fault(handler, kind, name):
                    if kind != "blobs" or name != target or len(cut) >= 2:
                        return False
                    cut.append(handler.headers.get("Range"))
                    start = int(cut[-1].removeprefix("bytes=").rstrip("-")) if cut[-1] and ranges else 0
                    blob = self.image.blobs[name]
                    status = 206 if start else 200
                    handler.answer(status, blob[start:start + 100_000], {"Content-Range": f"bytes {start}-{len(blob) - 1}/{len(blob)}"} if start else {},
                                   announce=len(blob) - start)
                    handler.hang_up()
                    return True
                registry = self.registry(fault, ranges=ranges)
                self.succeeds(self.image, registry)
                self.assertIsNone(cut[0])
                self.assertEqual(cut[1], "bytes=100000-")
                for path in self.directory.iterdir():
                    path.unlink()

    def test_a_short_body_for_ever_ends_and_is_resumed_by_the_next(self):
        target = small_image().layer_digests[1]

        def fault(handler, kind, name):
            if kind != "blobs" or name != target:
                return False
            blob = self.image.blobs[name]
            start = int((handler.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
            handler.answer(206 if start else 200, blob[start:start + 1000], {"Content-Range": f"bytes {start}-{len(blob) - 1}/{len(blob)}"}, announce=len(blob) - start)
            handler.hang_up()
            return True
        registry = self.registry(fault)
        self.fails("unavailable", registry)
        part = self.directory / (target[7:] + ".part")
        self.assertEqual(part.stat().st_size, 3000)
        registry.fault = None
        self.succeeds(self.image, registry)
        self.assertEqual([h.get("Range") for k, n, h in registry.requests if n == target][-1], "bytes=3000-")

    def test_a_damaged_half_is_not_built_upon(self):
        registry = self.registry()
        target = self.image.layer_digests[1]
        part = self.directory / (target[7:] + ".part")
        part.write_bytes(b"damaged" * 100)
        if os.geteuid() == 0:
            os.chown(part, NOBODY, NOBODY)
        self.fails("environment_invalid", registry)
        self.assertFalse(part.exists())
        self.succeeds(self.image, registry)

    def test_a_body_longer_than_announced_is_refused(self):
        target = small_image().layer_digests[0]

        def fault(handler, kind, name):
            if name != target:
                return False
            handler.answer(200, self.image.blobs[name] + b"more")
            return True
        self.fails("environment_invalid", self.registry(fault))

    def test_redirects(self):
        def loop(handler, kind, name):
            handler.answer(302, b"", {"Location": handler.path})
            return True
        registry = self.registry(loop)
        self.assertIn("redirect", self.fails("unavailable", registry)["message"])
        self.assertLess(len(registry.requests), 10)

        def away(location):
            def fault(handler, kind, name):
                if kind != "blobs":
                    return False
                handler.answer(307, b"", {"Location": location})
                return True
            return fault
        for location in ("file:///etc/passwd", "http://user:pw@127.0.0.1/", "", "gopher://x/"):
            self.fails("environment_invalid", self.registry(away(location)))
        self.fails("network_denied", self.registry(away("http://10.1.2.3/x")))

    def test_credentials_stay_at_home(self):
        image = small_image()
        elsewhere = self.registry(image=image)

        def fault(handler, kind, name):
            if not handler.headers.get("Authorization"):
                handler.answer(401, b"", {"WWW-Authenticate": 'Basic realm="x"'})
                return True
            if kind != "blobs":
                return False
            handler.answer(307, b"", {"Location": f"{elsewhere.url}/v2/app/blobs/{name}"})
            return True
        home = self.registry(fault, image)
        hosts = {host: {"plain_http": True, "allow_private": True} for host in (home.host, elsewhere.host)}
        self.succeeds(image, home, hosts=hosts, credentials={"username": "u", "password": "p"})
        self.assertTrue(elsewhere.requests)
        self.assertTrue(all("Authorization" not in headers for _, _, headers in elsewhere.requests))

    def test_no_way_down_from_https(self):
        folder = tempfile.TemporaryDirectory(prefix="pyro-certs-")
        self.addCleanup(folder.cleanup)
        subprocess.run(["bash", ROOT / "tests/support/registry/make-oci-env.sh", "certs"], env={**os.environ, "W": folder.name}, check=True)
        certs = pathlib.Path(folder.name)
        plain = self.registry()

        def fault(handler, kind, name):
            handler.answer(307, b"", {"Location": f"{plain.url}{handler.path}"})
            return True
        registry = self.registry(fault, tls=certs)
        self.fails("network_denied", registry, ca=certs / "ca.crt")
        self.assertEqual(plain.requests, [])

        def token(handler, kind, name):
            handler.answer(401, b"", {"WWW-Authenticate": f'Bearer realm="{plain.url}/token",service="x"'})
            return True
        self.fails("network_denied", self.registry(token, tls=certs), ca=certs / "ca.crt")
        self.assertEqual(plain.requests, [])

    def test_token_realms_are_checked(self):
        for realm in ("http://10.0.0.1/token", "http://169.254.169.254/latest"):
            def fault(handler, kind, name, realm=realm):
                handler.answer(401, b"", {"WWW-Authenticate": f'Bearer realm="{realm}",service="x"'})
                return True
            self.fails("network_denied", self.registry(fault))
        for header in ("Bearer", 'Bearer service="x"', 'Bearer realm="file:///etc/shadow"', 'Bearer realm="' + "x" * 20000):
            def fault(handler, kind, name, header=header):
                handler.answer(401, b"", {"WWW-Authenticate": header})
                return True
            self.fetch(self.registry(fault))
            self.assertEqual(self.events[-1]["event"], "error")

    def test_bad_tokens(self):
        for body in (b"", b"[]", b'{"token":7}', b'{"token":"a\\r\\nX-Evil: 1"}', b"x" * 2_000_000):
            def fault(handler, kind, name, body=body):
                if kind == "token":
                    handler.answer(200, body)
                else:
                    handler.answer(401, b"", {"WWW-Authenticate": f'Bearer realm="http://{handler.headers["Host"]}/token",service="x"'})
                return True
            self.fetch(self.registry(fault))
            self.assertEqual(self.events[-1]["event"], "error")
            self.assertIn(self.events[-1]["code"], ("unavailable", "environment_invalid"))

    def test_slow_bytes_are_given_up(self):
        release = threading.Event()
        self.addCleanup(release.set)

        def fault(handler, kind, name):
            if kind != "blobs" or name == oci.digest(self.image.config):
                return False
            with contextlib.suppress(OSError):
                handler.answer(200, self.image.blobs[name][:10], announce=len(self.image.blobs[name]))
            release.wait(WAIT)
            handler.hang_up()
            return True
        self.fails("unavailable", self.registry(fault), low_speed_seconds=1, low_speed_bytes=100, attempts=1)

    def test_sizes_are_bounded(self):
        def large(handler, kind, name):
            handler.answer(200, b" " * (5 << 20), {"Content-Type": oci.INDEX})
            return True
        self.fails("environment_invalid", self.registry(large))

        def heads(handler, kind, name):
            handler.answer(200, b"{}", {f"X-{i}": "y" * 5000 for i in range(40)})
            return True
        self.fails("unavailable", self.registry(heads))
        self.fails("quota_exceeded", self.registry(), max_bytes=1000)

    def test_garbage_documents(self):
        for body in (b"", b"{", b"[]", b"null", b"[" * 100_000, b"\xff\xfe", b'{"layers":[],"config":{}}', b'{"manifests":{}}'):
            def fault(handler, kind, name, body=body):
                handler.answer(200, body, {"Content-Type": oci.MANIFEST})
                return True
            self.fails("environment_invalid", self.registry(fault))

    def test_other_architectures_are_named(self):
        image = small_image(architecture="arm64")
        self.assertIn("arm64", self.fails("failed_precondition", self.registry(image=image))["message"])

    def test_private_and_plain_only_where_allowed(self):
        registry = self.registry()
        self.assertIn("allow_private", self.fails("network_denied", registry, hosts={registry.host: {"plain_http": True}})["hint"])
        self.assertIn("plain_http", self.fails("network_denied", registry, hosts={registry.host: {"allow_private": True}})["hint"])
        self.assertEqual(registry.requests, [])

    def test_nobody_there_is_told_from_a_refusal(self):
        gone = oci.Silence()
        self.addCleanup(gone.close)
        self.assertEqual(self.fails("unavailable", gone)["details"], {"cause": "unreachable"})

        class Unknown:
            host = "registry.invalid"
            url = "http://registry.invalid"
        self.assertEqual(self.fails("unavailable", Unknown)["details"], {"cause": "unreachable"})

    def test_the_worker_is_confined_and_a_killed_one_leaves_what_can_be_resumed(self):
        target = small_image().layer_digests[1]
        arrived, release = threading.Event(), threading.Event()
        self.addCleanup(release.set)

        def fault(handler, kind, name):
            if name != target or release.is_set():
                return False
            handler.answer(200, self.image.blobs[name][:200_000], announce=len(self.image.blobs[name]))
            arrived.set()
            release.wait(WAIT)
            handler.hang_up()
            return True
        registry = self.registry(fault)
        process = self.start(registry)
        self.assertTrue(arrived.wait(WAIT))
        status = dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines() if ":\t" in line)
        self.assertEqual(status["Seccomp"].strip(), "2")
        self.assertEqual(status["NoNewPrivs"].strip(), "1")
        self.assertEqual(int(status["CapEff"], 16), 0)
        for line in process.stdout:  # until the half layer has been written
            event = json.loads(line)
            if event.get("digest") == target and event["done"] > 0:
                break
        process.kill()
        process.wait(WAIT)
        release.set()
        self.assertTrue((self.directory / (target[7:] + ".part")).exists())
        self.assertFalse((self.directory / target[7:]).exists())
        self.succeeds(self.image, registry)


if __name__ == "__main__":
    unittest.main()
