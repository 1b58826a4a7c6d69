"""A daemon that says what a test tells it to: for what the real one cannot be made to do to a client."""
import json
import os
import socket
import struct
import tempfile
import threading

IN, OUT, ERR, RESIZE, EOF = range(5)
WAIT = 60  # seconds: a deadline that only a hang reaches


def frame(stream, data):
    return struct.pack("<BI", stream, len(data)) + data


class Line:
    """A connection with its unread bytes."""

    def __init__(self, sock):
        self.sock, self.buffer = sock, b""

    def read_line(self):
        while b"\n" not in self.buffer:
            data = self.sock.recv(1 << 16)
            if not data:
                return None
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line

    def read_exactly(self, n):
        while len(self.buffer) < n:
            data = self.sock.recv(1 << 16)
            if not data:
                return None
            self.buffer += data
        out, self.buffer = self.buffer[:n], self.buffer[n:]
        return out

    def read_frame(self):
        header = self.read_exactly(5)
        if header is None:
            return None
        stream, size = struct.unpack("<BI", header)
        data = self.read_exactly(size)
        return None if data is None else (stream, data)  # cut off

    def send(self, message):
        self.sock.sendall(message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n")


class Call:
    """One request, as a test's handler sees it."""

    def __init__(self, daemon, line, request):
        self.daemon, self.line, self.id = daemon, line, request["id"]
        self.method, self.params = request["method"], request["params"]

    def notify(self, method, **params):
        self.line.send({"jsonrpc": "2.0", "method": method, "params": {"id": self.id, **params}})

    def answer(self, result):
        self.line.send({"jsonrpc": "2.0", "id": self.id, "result": result})

    def fail(self, code, message="it failed", hint="mend it", number=-32000, **details):
        self.line.send({"jsonrpc": "2.0", "id": self.id, "error": {"code": number, "message": message, "data": {
            "code": code, "message": message, "hint": hint, "retryable": code == "unavailable", "details": details}}})

    def start(self, ticket="t1", method="exec.started", ids={"vm_id": "vm1"}):
        """Says where to attach and waits for that connection."""
        self.notify(method, ticket=ticket, **ids)
        attached = self.daemon.attached(ticket)
        attached.send({"ok": True})
        return attached

    def take(self):
        """An upload: what came, and whether it ended with the end mark."""
        attached, data = self.start(method="stream.opened", ids={}), b""
        while (frame := attached.read_frame()) is not None and frame[0] == IN:
            data += frame[1]
        return data, frame is not None and frame == (EOF, bytes([IN]))

    def give(self, data, **result):
        """A download, with its answer."""
        attached = self.start(method="stream.opened", ids={})
        for at in range(0, len(data), 65536):
            attached.send(frame(OUT, data[at:at + 65536]))
        self.answer({**result, "stdout_bytes": len(data)})

    def ended(self, out=0, err=0, exit_code=0, **more):
        result = {"vm_id": "vm1", "timed_out": False, "oom": False, "duration_ms": 63, "execution_mode": "guest_tcg",
                  "environment": "debian:12", "environment_digest": "sha256:" + "a" * 64, "stdout_bytes": out, "stderr_bytes": err, **more}
        if exit_code is not None:
            result["exit_code"] = exit_code
        self.answer(result)


class FakePyrod:
    """Serves until closed. `handlers`: method -> f(Call). What clients sent is in `requests` and `cancelled`."""

    def __init__(self, version="0.1.0", hello=None, **handlers):
        self.handlers = {name.replace("__", "."): f for name, f in handlers.items()}
        self.version, self.hello = version, hello
        self.requests, self.cancelled, self.connections = [], threading.Event(), 0
        self.errors = []
        self.waiting, self.changed = {}, threading.Condition()
        self.folder = tempfile.TemporaryDirectory(prefix="pyro-cli-")
        self.path = os.path.join(self.folder.name, "s")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.folder.cleanup()
        if self.errors and exc[0] is None:
            raise self.errors[0]

    def attached(self, ticket):
        with self.changed:
            if not self.changed.wait_for(lambda: ticket in self.waiting, timeout=WAIT):
                raise AssertionError("the client did not attach")
            return self.waiting.pop(ticket)

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(Line(sock),), daemon=True).start()

    def _serve(self, line):
        try:
            first = line.read_line()
            if first is None:
                return
            first = json.loads(first)
            if "attach" in first:
                with self.changed:
                    self.waiting[first["attach"]] = line
                    self.changed.notify_all()
                return
            assert first["method"] == "rpc.hello" and first["params"] == {"version": "0.1.0", "features": []}, first
            if self.hello:
                return self.hello(line)
            line.send({"jsonrpc": "2.0", "id": first["id"], "result": {"version": self.version, "features": [], "server": "fake"}})
            while (text := line.read_line()) is not None:
                request = json.loads(text)
                if "id" not in request:
                    assert request["method"] == "rpc.cancel", request
                    self.cancelled.set()
                    continue
                call = Call(self, line, request)
                self.requests.append(call)
                handler = self.handlers[call.method]
                threading.Thread(target=self._guard, args=(handler, call), daemon=True).start()
        except (ConnectionError, OSError):
            pass
        except Exception as e:
            self.errors.append(e)
            line.sock.shutdown(socket.SHUT_RDWR)

    def _guard(self, handler, call):
        try:
            handler(call)
        except (ConnectionError, OSError):
            pass  # the client has gone, as some tests want it to
        except Exception as e:
            self.errors.append(e)
            call.line.sock.shutdown(socket.SHUT_RDWR)
