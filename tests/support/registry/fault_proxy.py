"""A proxy in front of a real registry that does to its answers what networks and broken servers do.

`fault(request)` may return what becomes of an answer: a function of (raw answer, writer), or None to pass it on. Standard
library only.
"""
import contextlib
import http.client
import socket
import socketserver
import threading

WAIT = 60


class Request:
    def __init__(self, method, path, headers):
        self.method, self.path, self.headers = method, path, headers
        parts = path.split("?")[0].split("/")
        self.kind = next((k for k in ("manifests", "blobs", "token") if k in parts), "other")
        self.name = parts[-1]


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def raw(self, length=None):
        head = f"HTTP/1.1 {self.status} Any\r\n" + "".join(f"{k}: {v}\r\n" for k, v in self.headers)
        head += f"Content-Length: {len(self.body) if length is None else length}\r\n\r\n"
        return head.encode("latin-1"), self.body


class FaultProxy:
    def __init__(self, upstream, fault=None):
        self.upstream, self.fault = upstream, fault
        self.requests = []
        self.closing = threading.Event()
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            timeout = WAIT

            def handle(self):
                with contextlib.suppress(OSError, http.client.HTTPException):
                    while self.one():
                        pass

            def one(self):
                line = self.rfile.readline(65537).decode("latin-1").split()
                if len(line) != 3:
                    return False
                headers = http.client.parse_headers(self.rfile)
                request = Request(line[0], line[1], headers)
                outer.requests.append(request)
                body = self.rfile.read(int(headers.get("Content-Length", 0)))
                action = outer.fault(request) if outer.fault else None
                answer = outer.ask(request, body)
                if action is None:
                    self.wfile.write(b"".join(answer.raw()))
                    return True
                return bool(action(answer, self))

            def send(self, data):
                self.wfile.write(data)
                self.wfile.flush()

            def hold(self):
                """Until the other side has gone, or the proxy is to end."""
                self.connection.settimeout(0.05)
                while not outer.closing.is_set():
                    with contextlib.suppress(TimeoutError):
                        if not self.connection.recv(4096):
                            return

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, *_):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_address[1]}"
        self.url = f"http://{self.host}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def ask(self, request, body):
        headers = {k: v for k, v in request.headers.items() if k.lower() not in ("host", "connection", "content-length")}
        with contextlib.closing(http.client.HTTPConnection(self.upstream, timeout=WAIT)) as connection:
            connection.request(request.method, request.path, body or None, headers)
            response = connection.getresponse()
            data = response.read()
            kept = [(k, v) for k, v in response.getheaders() if k.lower() not in ("content-length", "transfer-encoding", "connection")]
            return Answer(response.status, kept, data)

    def count(self, kind, name=None):
        return sum(1 for r in self.requests if r.kind == kind and name in (None, r.name))

    def close(self):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(WAIT)


# What may become of an answer. Each returns whether the connection goes on.

def cut(place):
    """Broken off: in 'nothing', 'status', 'header', 'headers' (all of them), 'body' (half of it), 'last' (all but a byte)."""
    def act(answer, to):
        head, body = answer.raw()
        to.send({"nothing": b"", "status": head[:7], "header": head[:len(head) // 2], "headers": head, "body": head + body[:len(body) // 2],
                 "last": head + body[:-1]}[place])
    return act


def reset(answer, to):
    head, body = answer.raw()
    to.send(head + body[:len(body) // 2])
    to.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    to.connection.close()


def stall(place):
    """As cut, but the connection stays open and nothing more comes."""
    def act(answer, to):
        cut(place)(answer, to)
        to.hold()
    return act


def drip(answer, to):
    """A header that never ends, a byte at a time."""
    to.send(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        to.send(b"x")
        if to.server.socket.fileno() < 0 or threading.Event().wait(0.05):
            return


def wrong(answer, to):
    """One bit of the body is another."""
    at = len(answer.body) // 2
    answer.body = answer.body[:at] + bytes([answer.body[at] ^ 1]) + answer.body[at + 1:]
    to.send(b"".join(answer.raw()))
    return True


def short(answer, to):
    """Half the body, announced as such."""
    answer.body = answer.body[:len(answer.body) // 2]
    to.send(b"".join(answer.raw()))
    return True


def longer(answer, to):
    answer.body += b"and more"
    to.send(b"".join(answer.raw()))
    return True


def lie(difference):
    """The length announced is not the body's."""
    def act(answer, to):
        head, body = answer.raw(max(0, len(answer.body) + difference))
        to.send(head + body)
    return act


def say(status, headers=(), body=b"{}"):
    def act(answer, to):
        to.send(b"".join(Answer(status, list(headers), body).raw()))
        return True
    return act


def not_http(answer, to):
    to.send(b"SSH-2.0-OpenSSH_9.2\r\n")
