#!/usr/bin/env python3
"""pyro-image fetch against a real registry, and against one that does everything wrong."""
import contextlib
import hashlib
import json
import os
import pathlib
import select
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "tests/support/registry")]
import children  # noqa: E402
import fault_proxy  # noqa: E402
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

    def clear(self):
        for path in self.directory.iterdir():
            path.unlink()

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
            refused = self.fails("failed_precondition", registry)
            self.assertIn("log in", refused["hint"])
            self.assertEqual(refused["details"], {"credentials": "none"})
            wrong = self.fails("failed_precondition", registry, credentials={"username": "tester", "password": "wrong"})
            self.assertEqual(wrong["details"], {"credentials": "refused"})
            self.assertNotIn("wrong", json.dumps(wrong))
            self.fails("failed_precondition", registry, credentials={"identity_token": "tok"})
            self.assertTrue(self.succeeds(image, registry, credentials={"username": "tester", "password": "secret"})["authenticated"])

    def test_token(self):
        image = small_image()
        with oci.DockerRegistry("token") as registry:
            registry.push("app", "1", image)
            registry.push("public/app", "1", image)
            self.assertFalse(self.succeeds(image, registry, "public/app")["authenticated"])
            self.assertEqual(self.fails("failed_precondition", registry)["details"], {"credentials": "none"})
            wrong = self.fails("failed_precondition", registry, credentials={"username": "tester", "password": "wrong"})
            self.assertEqual(wrong["details"], {"credentials": "refused"})
            self.assertTrue(self.succeeds(image, registry, credentials={"username": "tester", "password": "secret"})["authenticated"])
            self.clear()
            self.assertTrue(self.succeeds(image, registry, credentials={"identity_token": "identity-of-tester"})["authenticated"])
            self.fails("failed_precondition", registry, credentials={"identity_token": "of-nobody"})

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
        self.succeeds(self.image, registry)
        self.assertEqual([h.get("Range") for k, n, h in registry.requests if n == target], ["bytes=700-", None])

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


class NetworkFaults(FetchCase):
    """A real registry behind a proxy that breaks its answers. Every case ends in success or a typed error with a hint, and
    nothing is visible that is not whole: succeeds() and fails() look."""
    PLACES = ("nothing", "status", "header", "headers", "body", "last")

    @classmethod
    def setUpClass(cls):
        cls.registry = oci.DockerRegistry()
        cls.addClassCleanup(cls.registry.close)
        cls.image = small_image()
        cls.registry.push("app", "1", cls.image)
        cls.steps = {"index": ("manifests", "1"), "manifest": ("manifests", oci.digest(cls.image.manifest)),
                     "config": ("blobs", oci.digest(cls.image.config)), "layer": ("blobs", cls.image.layer_digests[1])}

    def proxy(self, step, action, times=1):
        kind, name = self.steps[step]
        left = [times]
        lock = threading.Lock()

        def fault(request):
            with lock:
                if (request.kind, request.name) != (kind, name) or left[0] <= 0:
                    return None
                left[0] -= 1
                return action
        proxy = fault_proxy.FaultProxy(self.registry.host, fault)
        self.addCleanup(proxy.close)
        self.clear()
        return proxy

    def ends(self, code, proxy, **kwargs):
        last = self.fails(code, proxy, **kwargs)
        self.assertTrue(last["hint"], last)
        self.assertLess(len(proxy.requests), 40)
        return last

    def test_nothing_is_wrong(self):
        self.succeeds(self.image, self.proxy("index", None))

    def test_cuts_at_every_place(self):
        for step in self.steps:
            for place in self.PLACES:
                with self.subTest(step=step, place=place):
                    self.succeeds(self.image, self.proxy(step, fault_proxy.cut(place)))
                    proxy = self.proxy(step, fault_proxy.cut(place), times=99)
                    if step == "layer" and place in ("body", "last"):
                        self.fetch(proxy)  # each attempt gets nearer: it may get there
                    else:
                        self.ends("unavailable", proxy)
                    self.succeeds(self.image, self.proxy_again())

    def proxy_again(self):
        """Without faults and without clearing: what was left must do."""
        proxy = fault_proxy.FaultProxy(self.registry.host)
        self.addCleanup(proxy.close)
        return proxy

    def test_resets(self):
        for step in self.steps:
            self.succeeds(self.image, self.proxy(step, fault_proxy.reset))

    def test_stalls_are_given_up(self):
        for step, place in (("index", "nothing"), ("manifest", "header"), ("config", "body"), ("layer", "headers"), ("layer", "body")):
            with self.subTest(step=step, place=place):
                proxy = self.proxy(step, fault_proxy.stall(place), times=99)
                self.ends("unavailable", proxy, low_speed_seconds=1, document_seconds=1, attempts=2)
                self.succeeds(self.image, self.proxy(step, fault_proxy.stall(place)), low_speed_seconds=1, document_seconds=1)

    def test_headers_that_drip(self):
        for step in ("index", "layer"):
            self.ends("unavailable", self.proxy(step, fault_proxy.drip, 99), low_speed_seconds=1, document_seconds=1, attempts=1)

    def test_wrong_bytes(self):
        for step in self.steps:
            self.ends("environment_invalid", self.proxy(step, fault_proxy.wrong, 99))
            self.assertFalse((self.directory / (self.steps[step][1][7:] + ".part")).exists())

    def test_lengths_that_lie(self):
        for step in self.steps:
            with self.subTest(step=step):
                proxy = self.proxy(step, fault_proxy.short, 99)
                self.fetch(proxy)
                self.assertEqual(self.events[-1]["event"], "result" if step == "layer" and self.whole() else "error")
                self.ends("environment_invalid", self.proxy(step, fault_proxy.longer, 99))
                self.ends("unavailable", self.proxy(step, fault_proxy.lie(+5), 99), low_speed_seconds=1, document_seconds=2, attempts=2)
                self.assertIn(self.fetch(self.proxy(step, fault_proxy.lie(-5), 99)).get("code", "whole"), ("environment_invalid", "unavailable", "whole"))

    def whole(self):
        return (self.directory / self.image.layer_digests[1][7:]).exists()

    def test_not_http_and_huge_headers(self):
        for action in (fault_proxy.not_http, fault_proxy.say(200, [(f"X-{i}", "y" * 8000) for i in range(20)]), fault_proxy.say(200, [("X", "y" * 200_000)])):
            for step in self.steps:
                self.ends("unavailable", self.proxy(step, action, 99))

    def test_statuses_at_every_step(self):
        for step in self.steps:
            for status in (408, 429, 500, 502, 503, 504):
                self.succeeds(self.image, self.proxy(step, fault_proxy.say(status, [("Retry-After", "0")])))
            for status, code in ((400, "unavailable"), (401, "failed_precondition"), (403, "failed_precondition"), (404, "not_found"), (418, "unavailable"),
                                 (204, "unavailable"), (304, "unavailable")):
                self.ends(code, self.proxy(step, fault_proxy.say(status, body=b""), 99))

    def test_retry_after(self):
        proxy = self.proxy("index", fault_proxy.say(429, [("Retry-After", "86400")]), 99)
        last = self.ends("unavailable", proxy)
        self.assertIn("86400", last["hint"])
        self.assertEqual(proxy.count("manifests"), 1, "it was asked again too early")
        self.assertEqual(last["details"]["credentials"], "none")
        self.succeeds(self.image, self.proxy("index", fault_proxy.say(503, [("Retry-After", "Wed, 21 Oct 2015 07:28:00 GMT")])))
        self.succeeds(self.image, self.proxy("index", fault_proxy.say(503, [("Retry-After", "soon, I hope")])))

    def test_redirects(self):
        for step in self.steps:
            for location in ("http://169.254.169.254/latest/meta-data", "http://10.0.0.1/x", "http://[fe80::1]/x", "http://[::ffff:10.0.0.1]/",
                             "http://[64:ff9b::a00:1]/", "http://localhost:1/x", "http://0x7f000001/x", "http://2130706433/", "http://127.0.0.1/"):
                self.ends("network_denied", self.proxy(step, fault_proxy.say(307, [("Location", location)]), 99))
            self.ends("environment_invalid", self.proxy(step, fault_proxy.say(307), 99))

    def test_redirects_in_a_circle(self):
        for step in self.steps:
            kind, name = self.steps[step]
            action = fault_proxy.say(302, [("Location", f"/v2/app/{kind}/{name}")])
            self.assertIn("loop", self.ends("unavailable", self.proxy(step, action, 99))["message"])

    def test_a_name_that_means_a_private_address(self):
        class Named:
            host = f"localhost:{self.registry.port}"
            url = f"http://localhost:{self.registry.port}"
        last = self.fails("network_denied", Named, hosts={Named.host: {"plain_http": True}})
        self.assertIn("allow_private", last["hint"])
        self.succeeds(self.image, Named)

    def test_challenges_that_lead_nowhere(self):
        for challenge in ("Basic realm=x", "Negotiate", "Bearer", 'Bearer realm=""', "Bearer realm=x,,,=,", "\"", "Bearer " * 50, "=" * 200):
            for login in (None, {"username": "u", "password": "p"}, {"identity_token": "t"}):
                more = {"credentials": login} if login else {}
                last = self.fetch(self.proxy("index", fault_proxy.say(401, [("WWW-Authenticate", challenge)]), 99), **more)
                self.assertEqual(last["event"], "error")
                self.assertIn(last["code"], ("failed_precondition", "unavailable", "environment_invalid", "network_denied"))
                self.assertTrue(last["hint"])

    def test_tokens_that_do_not_help(self):
        asked = []

        def fault(request):
            if request.kind == "token":
                asked.append(request)
                return fault_proxy.say(200, body=b'{"token":"abc"}')
            return fault_proxy.say(401, [("WWW-Authenticate", f'Bearer realm="http://{request.headers["Host"]}/token",service="s"')])
        proxy = fault_proxy.FaultProxy(self.registry.host, fault)
        self.addCleanup(proxy.close)
        self.assertEqual(self.ends("failed_precondition", proxy)["details"], {"credentials": "none"})
        self.assertEqual(len(asked), 1)

    def test_an_expired_token_is_fetched_again(self):
        asked, good = [], []

        def fault(request):
            if request.kind == "token":
                asked.append(request)
                good[:] = [f"Bearer t{len(asked)}"]
                return fault_proxy.say(200, body=json.dumps({"access_token": f"t{len(asked)}"}).encode())
            if request.headers.get("Authorization") not in good:
                return fault_proxy.say(401, [("WWW-Authenticate", f'Basic realm="x", Bearer realm="http://{request.headers["Host"]}/token"')])
            if request.kind == "blobs" and len(asked) < 2:
                good.clear()
                return fault_proxy.say(401, [("WWW-Authenticate", f'Bearer realm="http://{request.headers["Host"]}/token"')])
            request.headers.__delitem__("Authorization")
            return None
        proxy = fault_proxy.FaultProxy(self.registry.host, fault)
        self.addCleanup(proxy.close)
        self.succeeds(self.image, proxy)
        self.assertEqual(len(asked), 2)

    def test_a_token_service_elsewhere_over_plain_http(self):
        """It must be listed itself; a registry cannot have credentials sent where nobody allowed it."""
        elsewhere = fault_proxy.FaultProxy(self.registry.host)
        self.addCleanup(elsewhere.close)
        url = elsewhere.url.replace("127.0.0.1", "127.0.0.2")

        def fault(request):
            return fault_proxy.say(401, [("WWW-Authenticate", f'Bearer realm="{url}/token"')])
        proxy = fault_proxy.FaultProxy(self.registry.host, fault)
        self.addCleanup(proxy.close)
        self.ends("network_denied", proxy, credentials={"username": "u", "password": "p"})
        self.assertEqual(elsewhere.requests, [])

    def test_through_a_proxy(self):
        through = HttpProxy(self.registry.port)
        self.addCleanup(through.close)

        class Far:
            host = "registry.example.test:5000"
            url = "http://registry.example.test:5000"
        hosts = {Far.host: {"plain_http": True}}
        self.succeeds(self.image, Far, hosts=hosts, http_proxy=through.url)
        self.assertTrue(all(line.startswith("GET http://registry.example.test:5000/v2/") for line in through.lines))
        # What is no name is judged here; what is on the list is asked without the proxy.
        before = len(through.lines)
        self.fails("network_denied", self.registry, hosts={self.registry.host: {"plain_http": True}}, http_proxy=through.url)
        self.fails("network_denied", self.registry, hosts={self.registry.host: {"plain_http": True}}, http_proxy=through.url, no_proxy="127.0.0.0/8")
        self.clear()
        self.succeeds(self.image, self.registry, http_proxy=through.url, no_proxy="example.org,127.0.0.1")
        self.assertEqual(len(through.lines), before)
        gone = oci.Silence()
        self.addCleanup(gone.close)
        self.assertEqual(self.fails("unavailable", Far, hosts=hosts, http_proxy=gone.url)["details"], {"cause": "unreachable"})

    def test_through_a_proxy_with_tls(self):
        image = small_image()
        with oci.DockerRegistry("basic", tls=True) as registry:
            registry.push("app", "1", image)
            through = Tunnels(registry.port)
            self.addCleanup(through.close)

            class Far:
                host = f"localhost:{registry.port}"
                url = f"https://localhost:{registry.port}"
            self.succeeds(image, Far, ca=registry.path / "ca.crt", https_proxy=through.url, credentials={"username": "tester", "password": "secret"})
            self.assertTrue(through.heads)
            for head in through.heads:
                self.assertTrue(head.startswith(f"CONNECT localhost:{registry.port} "))
                self.assertNotIn("authorization", head.lower())
            self.clear()
            through.refuse = True
            self.fails("unavailable", Far, ca=registry.path / "ca.crt", https_proxy=through.url)

    def test_layers_come_at_once_and_one_failure_ends_all(self):
        image = oci.Image([oci.layer({f"f{i}": oci.noise(200_000, str(i).encode())}) for i in range(6)])
        self.registry.push("many", "1", image)
        together = threading.Barrier(4)

        def fault(request):
            if request.name in image.layer_digests[:4]:
                together.wait(WAIT)  # broken, and with it the test, unless four are asked for at once
            return None
        proxy = fault_proxy.FaultProxy(self.registry.host, fault)
        self.addCleanup(proxy.close)
        last = self.fetch(proxy, "many")
        self.assertEqual(last["event"], "result", last)
        done = [event["done"] for event in self.events if event.get("phase") == "download"]
        self.assertEqual(done[-1], sum(layer["size"] for layer in last["layers"]))
        self.assertEqual(done, sorted(done))

        bad = image.layer_digests[2]
        proxy.fault = lambda request: (fault_proxy.wrong if request.name == bad else fault_proxy.stall("body") if request.name in image.layer_digests else None)
        self.clear()
        self.fails("environment_invalid", proxy, "many")  # long before the others are too slow


class HttpProxy:
    """Takes whole addresses and asks one local port whatever they name."""

    def __init__(self, port):
        self.lines = []
        self.inner = fault_proxy.FaultProxy(f"127.0.0.1:{port}", self.hear)
        self.url, self.close = self.inner.url, self.inner.close

    def hear(self, request):
        self.lines.append(f"{request.method} {request.path}")
        request.path = "/" + request.path.split("/", 3)[3]


class Tunnels:
    """A proxy of the CONNECT kind that leads to one local port."""

    def __init__(self, port):
        self.heads, self.refuse = [], False
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                head = b""
                while line := self.rfile.readline(65537).strip():
                    head += line + b"\n"
                outer.heads.append(head.decode())
                if outer.refuse:
                    self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                    return
                self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                with socket.create_connection(("127.0.0.1", port)) as far, contextlib.suppress(OSError):
                    other = {self.connection: far, far: self.connection}
                    while True:
                        for one in select.select(list(other), [], [])[0]:
                            data = one.recv(65536)
                            if not data:
                                return
                            other[one].sendall(data)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(WAIT)


if __name__ == "__main__":
    unittest.main()
