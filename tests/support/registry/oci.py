"""OCI images made in memory, a registry that misbehaves on request, and docker-registry with every kind of login.

All on loopback. Standard library only.
"""
import base64
import contextlib
import gzip
import hashlib
import http.client
import http.server
import io
import json
import os
import pathlib
import random
import select
import signal
import socket
import ssl
import subprocess
import sys
import tarfile
import tempfile
import threading

HERE = pathlib.Path(__file__).resolve().parent
WAIT = 60  # seconds: a deadline that only a hang reaches
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def layer(files):
    """{name: bytes | ("link", target) | None for a directory} -> tar"""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.mtime = 1700000000
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
            elif isinstance(content, tuple):
                info.type, info.linkname = tarfile.SYMTYPE, content[1]
                tar.addfile(info)
            else:
                info.size, info.mode = len(content), 0o755
                tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


class Image:
    """Blobs and manifests of one image: index -> manifest -> configuration and layers."""

    def __init__(self, layers, config=None, docker=False, architecture="amd64", pack=True):
        self.tars = layers
        packed = [gzip.compress(tar, 1, mtime=0) if pack else tar for tar in layers]
        document = {"os": "linux", "architecture": architecture, "config": config or {"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["/bin/sh"], "WorkingDir": "/"},
                    "rootfs": {"type": "layers", "diff_ids": [digest(tar) for tar in layers]}}
        self.config = json.dumps(document).encode()
        self.blobs = {digest(blob): blob for blob in packed + [self.config]}
        layer_type = ("application/vnd.docker.image.rootfs.diff.tar.gzip" if docker else
                      "application/vnd.oci.image.layer.v1.tar" + ("+gzip" if pack else ""))
        self.type = DOCKER_MANIFEST if docker else MANIFEST
        self.index_type = DOCKER_LIST if docker else INDEX
        self.document = {"schemaVersion": 2, "mediaType": self.type,
                         "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(self.config), "size": len(self.config)},
                         "layers": [{"mediaType": layer_type, "digest": digest(blob), "size": len(blob)} for blob in packed]}
        self.layer_digests = [digest(blob) for blob in packed]
        self.seal()

    def seal(self):
        self.manifest = json.dumps(self.document).encode()
        self.index = json.dumps({"schemaVersion": 2, "mediaType": self.index_type, "manifests": [
            {"mediaType": self.type, "digest": "sha256:" + "0" * 64, "size": 9, "platform": {"os": "linux", "architecture": "arm64"}},
            {"mediaType": self.type, "digest": digest(self.manifest), "size": len(self.manifest), "platform": {"os": "linux", "architecture": "amd64"}}]}).encode()
        return self


def noise(size, seed=b"pyro"):
    return hashlib.shake_256(seed).digest(size)


class FaultyRegistry:
    """Serves images by repository; `fault(handler, kind, name)` may answer instead and return True.

    kind is "manifests", "blobs", "token" or "other". `requests` lists (kind, name, headers) in order.
    """

    def __init__(self, images, fault=None, tls=None, ranges=True):
        self.images, self.fault, self.ranges = images, fault, ranges
        self.requests = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = WAIT

            def do_GET(self):
                parts = self.path.split("?")[0].split("/")
                kind = next((k for k in ("manifests", "blobs", "token") if k in parts), "other")
                name = parts[-1]
                outer.requests.append((kind, name, dict(self.headers)))
                if outer.fault and outer.fault(self, kind, name):
                    return
                outer.serve(self, kind, name, "/".join(parts[2:-2]))

            def answer(self, status, body=b"", headers=None, announce=None):
                self.send_response(status)
                for key, value in (headers or {}).items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(body) if announce is None else announce))
                self.end_headers()
                self.wfile.write(body)
                self.wfile.flush()

            def hang_up(self):
                self.close_connection = True
                with contextlib.suppress(OSError):
                    self.connection.shutdown(2)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass  # a client that hangs up is part of the tests

        self.server = Server(("127.0.0.1", 0), Handler)
        self.scheme = "http"
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls / "srv.crt", tls / "srv.key")
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            self.scheme = "https"
        self.host = f"127.0.0.1:{self.server.server_port}"
        self.url = f"{self.scheme}://{self.host}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))  # how soon it hears of its end
        self.thread.start()

    def serve(self, handler, kind, name, repository):
        image = self.images.get(repository)
        if kind == "manifests" and image:
            if name.startswith("sha256:") and name == digest(image.manifest):
                return handler.answer(200, image.manifest, {"Content-Type": image.type, "Docker-Content-Digest": name})
            if not name.startswith("sha256:") or name == digest(image.index):
                return handler.answer(200, image.index, {"Content-Type": image.index_type, "Docker-Content-Digest": digest(image.index)})
        if kind == "blobs" and image and name in image.blobs:
            blob = image.blobs[name]
            wanted = handler.headers.get("Range")
            if wanted and self.ranges:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                if start >= len(blob):
                    return handler.answer(416)
                return handler.answer(206, blob[start:], {"Content-Range": f"bytes {start}-{len(blob) - 1}/{len(blob)}"})
            return handler.answer(200, blob)
        handler.answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')

    def count(self, kind, name=None):
        return sum(1 for k, n, _ in self.requests if k == kind and name in (None, n))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(WAIT)


def free_port():
    """For a server that takes a number only. Not of those that the kernel gives to outgoing connections, any of which could
    take it before the server does."""
    for port in random.sample(range(10_000, 32_768), 1000):
        with contextlib.suppress(OSError), socket.socket() as s:
            s.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


class Silence:
    """An address where nobody listens, nor comes to: its port is taken."""

    def __init__(self):
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.url = f"http://{self.host}"

    def close(self):
        self.socket.close()


class DockerRegistry:
    """The real one, by make-oci-env.sh; auth is none, basic or token."""

    def __init__(self, auth="none", tls=False):
        self.folder = tempfile.TemporaryDirectory(prefix="pyro-registry-")
        self.path = pathlib.Path(self.folder.name)
        self.port, self.auth_port, self.auth, self.tls = free_port(), free_port(), auth, tls
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"{'https' if tls else 'http'}://{self.host}"
        self.env = {**os.environ, "W": str(self.path), "PORT": str(self.port), "AUTHPORT": str(self.auth_port), "AUTH": auth, "TLS": str(int(tls))}
        self.tokens = None
        try:
            self.run("certs")
            if auth == "token":
                read, write = os.pipe()
                self.tokens = subprocess.Popen([sys.executable, str(HERE / "token-server.py"), str(self.path), str(self.auth_port), str(write)], pass_fds=[write])
                os.close(write)
                with os.fdopen(read) as pipe:
                    assert pipe.read() == "ready\n"
            self.run("registry")
        except BaseException:
            self.close()
            raise

    def run(self, what):
        subprocess.run(["bash", str(HERE / "make-oci-env.sh"), what], env=self.env, check=True, stdout=subprocess.DEVNULL, timeout=WAIT)

    def request(self, method, path, body=None, headers=None, scope=None):
        headers = dict(headers or {})
        login = "Basic " + base64.b64encode(b"tester:secret").decode()
        if self.auth == "basic":
            headers["Authorization"] = login
        if self.auth == "token":
            c = http.client.HTTPConnection("127.0.0.1", self.auth_port, timeout=WAIT)
            c.request("GET", f"/token?service=test-registry&scope=repository:{scope}:pull,push", headers={"Authorization": login})
            headers["Authorization"] = "Bearer " + json.loads(c.getresponse().read())["token"]
            c.close()
        context = ssl.create_default_context(cafile=str(self.path / "ca.crt")) if self.tls else None
        c = (http.client.HTTPSConnection("127.0.0.1", self.port, timeout=WAIT, context=context) if self.tls else
             http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT))
        c.request(method, path, body, headers)
        response = c.getresponse()
        data = response.read()
        result = response.status, dict(response.getheaders()), data
        c.close()
        return result

    def push(self, repository, tag, image):
        for name, blob in image.blobs.items():
            status, headers, data = self.request("POST", f"/v2/{repository}/blobs/uploads/", scope=repository)
            assert status == 202, (status, data)
            location = headers["Location"].split(self.host, 1)[-1]
            status, _, data = self.request("PUT", location + ("&" if "?" in location else "?") + "digest=" + name, blob,
                                           {"Content-Type": "application/octet-stream"}, scope=repository)
            assert status == 201, (status, data)
        # An index may only name manifests that are there.
        index = json.loads(image.index)
        index["manifests"] = index["manifests"][-1:]
        image.index = json.dumps(index).encode()
        for name, body, kind in ((digest(image.manifest), image.manifest, image.type), (tag, image.index, image.index_type)):
            status, _, data = self.request("PUT", f"/v2/{repository}/manifests/{name}", body, {"Content-Type": kind}, scope=repository)
            assert status == 201, (status, data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.tokens:
            self.tokens.kill()
            self.tokens.wait()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it was not started, or ended by itself
            fd = os.pidfd_open(int((self.path / "registry.pid").read_text()))
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            select.select([fd], [], [], WAIT)
            os.close(fd)
        self.folder.cleanup()
