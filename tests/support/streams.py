"""Calls that carry bytes, as a script would make them: the call on one connection, frames on another."""
import struct
import threading

IN, OUT, ERR, RESIZE, EOF = range(5)


def frame(stream, data=b""):
    return struct.pack("<BI", stream, len(data)) + data


class Streamed:
    """One call under way. `stdin`: bytes to send, then the end; None: send() and end() as the test likes."""

    def __init__(self, site, method, stdin=None, **params):
        self.client = site.connect()
        self.request = self.client.send(method, **params)
        self.output = {OUT: b"", ERR: b""}
        self.attached = threading.Event()
        self.came = threading.Condition()
        self.socket = None
        self.ticket = None
        self.event = None
        self.stdin = stdin
        self.answer = None
        self.pump = None
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        try:
            while True:
                message = self.client.receive()
                if message.get("method") in ("exec.started", "stream.opened"):
                    self.event = message["params"]
                    self.pump = threading.Thread(target=self._pump, args=(self.event["ticket"],), daemon=True)
                    self.pump.start()
                elif message.get("id") == self.request and "method" not in message:
                    self.answer = message
                    return
        except (EOFError, OSError, ValueError):
            return
        finally:
            self.attached.set()

    def _pump(self, ticket):
        try:
            self.socket, file = self.client.attach(ticket)
        except Exception:  # the call has ended, and says why
            return
        self.attached.set()
        try:
            if self.stdin is not None:
                self.send(self.stdin)
                self.end()
            while header := file.read(5):
                stream, size = struct.unpack("<BI", header)
                data = file.read(size)
                with self.came:
                    if stream in self.output:
                        self.output[stream] += data
                    self.came.notify_all()
        except (OSError, struct.error, ValueError):
            pass
        finally:
            file.close()

    def send(self, data):
        assert self.attached.wait(60) and self.socket
        for at in range(0, len(data), 65536):
            self.socket.sendall(frame(IN, data[at:at + 65536]))

    def end(self):
        self.socket.sendall(frame(EOF, bytes([IN])))

    def until(self, text, stream=OUT, timeout=60):
        with self.came:
            assert self.came.wait_for(lambda: text in self.output[stream], timeout), self.output

    def cancel(self):
        self.client.notify("rpc.cancel", id=self.request)

    def leave(self):
        """As a client that is killed."""
        if self.socket:
            self.socket.shutdown(2)
            self.socket.close()
        self.client.socket.shutdown(2)
        self.client.close()

    def wait(self, timeout=120):
        """The result; raises what the call answered instead."""
        self.reader.join(timeout)
        assert not self.reader.is_alive(), "no answer"
        if self.pump:
            self.pump.join(timeout)
        if self.socket:
            self.socket.close()
        self.client.close()
        if self.answer is None:
            raise EOFError("the daemon closed the connection")
        if "error" in self.answer:
            import pyro_site
            raise pyro_site.RpcError(self.answer["error"])
        return self.answer["result"]

    @property
    def out(self):
        return self.output[OUT]

    @property
    def err(self):
        return self.output[ERR]


def streamed(site, method, stdin=None, **params):
    """The whole call: its result, what came on stdout, what came on stderr."""
    call = Streamed(site, method, stdin, **params)
    result = call.wait()
    return result, call.out, call.err


def tar_of(entries):
    """A canonical tar stream of {name: bytes | None for a directory | ("link", target)}."""
    import io
    import tarfile
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(entries):
            content = entries[name]
            info = tarfile.TarInfo(name)
            info.mtime = 1700000000
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
            elif isinstance(content, tuple):
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, content[1], 0o777
                tar.addfile(info)
            else:
                info.size, info.mode = len(content), 0o644
                tar.addfile(info, io.BytesIO(content))
    return out.getvalue()
