#!/usr/bin/env python3
"""The daemon's RPC against real sockets: what clients may do wrong, and what it may cost others."""
import json
import os
import resource
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

SERVER = sys.argv.pop(1)
with open(SERVER, "rb") as program:
    SANITIZED = b"__asan_init" in program.read()
# Freed memory would stay in the sanitizer's quarantine and count as used.
os.environ["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=0:thread_local_quarantine_size_kb=0"
WAIT = int(os.environ.get("PYRO_TEST_WAIT", 60))  # seconds: a deadline that only a hang reaches


class Server:
    def __init__(self, **limits):
        self.directory = tempfile.TemporaryDirectory(prefix="pyro-rpc-")
        os.chmod(self.directory.name, 0o755)
        self.path = self.directory.name + "/sock"
        self.log = open(self.directory.name + "/log", "w+")
        self.clients = []
        self.stopping = False
        self.process = subprocess.Popen([SERVER, self.path, *(f"{k}={v}" for k, v in limits.items())],
                                        stdout=subprocess.PIPE, stderr=self.log, text=True)
        if self.process.stdout.readline() != "ready\n":
            self.process.kill()
            raise AssertionError(f"the server did not start ({self.process.wait()}): {self.errors()}")

    def errors(self):
        self.log.seek(0)
        return self.log.read()

    def memory(self):
        """Resident now, in KiB."""
        with open(f"/proc/{self.process.pid}/status") as status:
            return int(next(line for line in status if line.startswith("VmRSS")).split()[1])

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def stop(self):
        if not self.stopping:
            self.process.terminate()
        try:
            out, _ = self.process.communicate(timeout=WAIT)
        except subprocess.TimeoutExpired:  # told by its exit status
            self.process.kill()
            out, _ = self.process.communicate()
        errors = self.errors()
        for client in self.clients:
            client.close()
        self.log.close()
        self.directory.cleanup()
        return self.process.returncode, out, errors


class Client:
    def __init__(self, server, hello=True):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(WAIT)
        server.clients.append(self)
        self.socket.connect(server.path)
        self.buffer = b""
        self.next_id = 1
        self.kept = []
        if hello:
            self.hello()

    def hello(self, version="0.1.0"):
        answer = self.call("rpc.hello", version=version)
        assert answer["result"]["server"] == "pyrod", answer
        return answer["result"]

    def send(self, data):
        self.socket.sendall(data if isinstance(data, bytes) else (json.dumps(data) + "\n").encode())

    def request(self, method, id=None, **params):
        if id is None:
            id, self.next_id = self.next_id, self.next_id + 1
        self.send({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
        return id

    def cancel(self, id):
        self.send({"jsonrpc": "2.0", "method": "rpc.cancel", "params": {"id": id}})

    def line(self):
        while b"\n" not in self.buffer:
            data = self.socket.recv(1 << 16)
            if not data:
                return None
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line

    def message(self):
        line = self.line()
        return None if line is None else json.loads(line)

    def answer(self, id):
        """The response to `id`; other messages are kept for later."""
        for message in self.kept:
            if "method" not in message and message["id"] == id:
                self.kept.remove(message)
                return message
        while True:
            message = self.message()
            assert message is not None, "the connection ended"
            if "method" not in message and message["id"] == id:
                return message
            self.kept.append(message)

    def notification(self, method):
        for message in self.kept:
            if message.get("method") == method:
                self.kept.remove(message)
                return message["params"]
        while True:
            message = self.message()
            assert message is not None, "the connection ended"
            if message.get("method") == method:
                return message["params"]
            self.kept.append(message)

    def call(self, method, **params):
        return self.answer(self.request(method, **params))

    def closed(self):
        """Reads to the end; True when the daemon closed."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass
        return True

    def close(self):
        self.socket.close()


def attach(server, ticket):
    client = Client(server, hello=False)
    client.send({"attach": ticket})
    client.reply = client.message()
    return client


def frame(stream, data):
    return struct.pack("<BI", stream, len(data)) + data


def read_frame(client):
    def exactly(n):
        while len(client.buffer) < n:
            data = client.socket.recv(1 << 16)
            if not data:
                return None
            client.buffer += data
        data, client.buffer = client.buffer[:n], client.buffer[n:]
        return data
    header = exactly(5)
    if header is None:
        return None
    stream, length = struct.unpack("<BI", header)
    assert length <= 65536
    return stream, exactly(length) if length else b""


class Case(unittest.TestCase):
    limits = {}

    def setUp(self):
        self.server = Server(**self.limits)
        self.addCleanup(self.finish)

    def finish(self):
        code, out, errors = self.server.stop()
        self.assertEqual(code, 0, errors)
        self.assertEqual(out, "gone: 0 connections, 0 tickets\n")  # it joined all it had
        self.logged = errors

    def client(self, **options):
        return Client(self.server, **options)

    def assertError(self, answer, word, number=None):
        error = answer["error"]
        self.assertEqual(set(error), {"code", "message", "data"})
        self.assertEqual(set(error["data"]), {"code", "message", "hint", "retryable", "details"})
        self.assertEqual(error["data"]["code"], word, error)
        self.assertEqual(error["message"], error["data"]["message"])
        if number is not None:
            self.assertEqual(error["code"], number, error)
        return error["data"]

    def until(self, client, text):
        """Until the daemon's own count says so: each look is a round trip, and the count changes as closes are noticed."""
        deadline = time.monotonic() + WAIT
        while (now := client.call("test.status")["result"]["text"]) != text:
            self.assertLess(time.monotonic(), deadline, f"{now}, not {text}")


class Messages(Case):
    def test_hello_comes_first_and_is_answered(self):
        client = self.client(hello=False)
        data = self.assertError(client.call("test.echo", text="x"), "failed_precondition")
        self.assertIn("rpc.hello", data["message"])
        self.assertEqual(json.loads(data["hint"][len("send "):-len(" first")])["method"], "rpc.hello")
        self.assertEqual(client.call("rpc.discover")["result"]["openrpc"], "1.3.2")  # before hello as after
        result = client.hello()
        self.assertEqual(result["version"], "0.1.0")
        self.assertIn("attach", result["features"])
        self.assertEqual(client.call("test.echo", text="x")["result"], {"text": "x", "count": 1})

    def test_hello_and_a_request_in_one_packet(self):
        client = self.client(hello=False)
        client.send(b'{"jsonrpc":"2.0","id":0,"method":"rpc.hello","params":{"version":"9.9","later":1}}\n'
                    b'\n'
                    b'{"jsonrpc":"2.0","id":1,"method":"test.echo","params":{"text":"a"}}\r\n')
        self.assertEqual(client.answer(0)["result"]["server"], "pyrod")
        self.assertEqual(client.answer(1)["result"]["text"], "a")

    def test_ids_keep_their_type(self):
        client = self.client()
        for id in (7, "7", 0, -1, "", "ü\n", 2**63 - 1):
            client.request("test.echo", id=id, text="x")
            self.assertEqual(client.message()["id"], id)
        for id in (1.5, True, None, [1], {"a": 1}, 2**63, 10**30):
            client.send({"jsonrpc": "2.0", "id": id, "method": "test.echo", "params": {"text": "x"}})
            answer = client.message()
            self.assertIsNone(answer["id"])
            self.assertError(answer, "invalid_argument", -32600 if id != 10**30 else None)
        self.assertEqual(client.call("test.echo", text="still here")["result"]["text"], "still here")

    def test_malformed_messages_are_refused_and_the_connection_goes_on(self):
        client = self.client()
        deep = b"[" * 10_000 + b"]" * 10_000
        for line, number in [
                (b"garbage", -32700), (b"{", -32700), (b'{"a":1,}', -32700), (b"\x00\x01\x02", -32700), (b"NaN", -32700),
                (b'{"jsonrpc":"2.0","id":1,"method":"test.echo","params":{"text":"\xff"}}', -32700),
                (b'{"jsonrpc":"2.0","id":1,"method":"test.echo","params":{"text":"\\ud800"}}', -32700),
                (b'{"jsonrpc":"2.0","id":1,"method":"test.echo","params":{"text":"a","text":"b"}}', -32700),
                (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"test.echo"}', -32700),
                (b'{"jsonrpc":"2.0","id":1,"method":"test.echo","params":{"count":1e999}}', -32700),
                (deep, -32700), (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, -32700), (b"[" * 500_000, -32700),
                (b"[]", -32600), (b'[{"jsonrpc":"2.0","id":1,"method":"test.echo"}]', -32600), (b'"text"', -32600), (b"1", -32600),
                (b"{}", -32600), (b'{"id":1,"method":"test.echo"}', -32600), (b'{"jsonrpc":"1.0","id":1,"method":"x"}', -32600),
                (b'{"jsonrpc":"2.0","id":1}', -32600), (b'{"jsonrpc":"2.0","id":1,"method":5}', -32600),
                (b'{"jsonrpc":"2.0","id":1,"method":"test.echo","params":[1]}', -32600),
                (b'{"jsonrpc":"2.0","id":1,"method":"test.echo","params":null}', -32600),
                (b'{"jsonrpc":"2.0","id":1,"method":"test.echo","params":{},"more":1}', -32600),
                (b'{"jsonrpc":"2.0","method":"test.echo","params":{"text":"no id"}}', -32600)]:
            with self.subTest(line=line[:60]):
                client.send(line + b"\n")
                self.assertError(client.message(), "invalid_argument", number)
        self.assertEqual(client.call("test.echo", text="still here")["result"]["text"], "still here")

    def test_depth_has_a_border(self):
        client = self.client()
        # The message and params are two levels.
        for depth, number in ((62, -32602), (63, -32700)):
            nested = "[" * depth + "]" * depth
            client.send(b'{"jsonrpc":"2.0","id":1,"method":"test.echo","params":{"text":%s}}\n' % nested.encode())
            self.assertError(client.message(), "invalid_argument", number)

    def test_parameters_are_checked(self):
        client = self.client()
        for params, text in [({}, "text: is missing"), ({"text": 5}, "text: expected a string"), ({"text": None}, "text"),
                             ({"text": "x", "count": "1"}, "count: expected an integer"), ({"text": "x", "count": -1}, "count"),
                             ({"text": "x", "count": 2**63}, "count"), ({"text": "x\0"}, "NUL"),
                             ({"text": "x", "colour": "red"}, "colour: is not a field")]:
            data = self.assertError(client.call("test.echo", **params), "invalid_argument", -32602)
            self.assertIn(text, data["message"])

    def test_an_unknown_field_between_versions_says_which_side_to_upgrade(self):
        for version, advice in (("0.9.0", "upgrade pyrod"), ("0.0.9", "upgrade the client"), ("0.1.0", ""), ("garbage", "upgrade the client")):
            client = self.client(hello=False)
            client.hello(version)
            data = self.assertError(client.call("test.echo", text="x", colour="red"), "invalid_argument")
            self.assertEqual(data["details"], {"unknown_field": "colour"})
            self.assertTrue(data["hint"].endswith(advice), data)
            self.assertEqual(bool(data["hint"]), bool(advice))

    def test_an_unknown_method_says_what_is_near(self):
        client = self.client()
        data = self.assertError(client.call("test.ecko"), "not_found", -32601)
        self.assertIn("did you mean test.echo", data["hint"])
        data = self.assertError(client.call("x" * 100_000), "not_found", -32601)
        self.assertIn("rpc.discover", data["hint"])
        self.assertLess(len(data["message"]), 200)

    def test_errors_have_their_numbers_and_no_leak(self):
        client = self.client()
        for word, number in [("not_found", 1001), ("invalid_argument", -32602), ("failed_precondition", 1003), ("quota_exceeded", 1004),
                             ("timeout", 1005), ("cancelled", 1006), ("unavailable", 1007), ("guest_failed", 1008),
                             ("environment_invalid", 1009), ("network_denied", 1010), ("internal", -32603)]:
            self.assertError(client.call("test.fail", text=word), word, number)
        data = self.assertError(client.call("test.fail", text="typed"), "guest_failed")
        self.assertEqual(data, {"code": "guest_failed", "message": "it \ufffd broke", "hint": "mend it", "retryable": True,
                                "details": {"noun": "guest"}})
        data = self.assertError(client.call("test.fail", text="exception"), "internal", -32603)
        self.assertNotIn("42", json.dumps(data))
        self.assertIn("the secret is 42??]0;owned???", self.server.errors())  # on one line, and nothing a terminal obeys

    def test_half_a_message_and_a_message_in_pieces(self):
        half = self.client()
        half.send(b'{"jsonrpc":"2.0","id":1,"method":"test.echo","par')
        client = self.client()
        self.assertEqual(client.call("test.echo", text="others work")["result"]["text"], "others work")
        for byte in b'ams":{"text":"slow"}}\n':
            half.send(bytes([byte]))
        self.assertEqual(half.message()["result"]["text"], "slow")
        half.send(b'{"jsonrpc":"2.0","id":2')
        half.close()
        self.until(client, "1 connections, 0 tickets")

    def test_a_half_closed_client_gets_its_answers(self):
        """printf ... | socat - UNIX-CONNECT:... ends its side at once and still wants to read."""
        client = self.client()
        client.request("test.gate", id=5, text="late")
        client.socket.shutdown(socket.SHUT_WR)
        other = self.client()
        other.call("test.release", text="late")
        self.assertEqual(client.answer(5)["result"]["text"], "late")
        self.assertIsNone(client.message())

    def test_a_half_closed_client_that_goes_is_noticed(self):
        client = self.client()
        client.request("test.wait", text="half")
        client.socket.shutdown(socket.SHUT_WR)
        other = self.client()
        other.call("test.status")
        client.close()
        other.call("test.stopped", text="half")

    def test_who_called_is_the_kernels_word(self):
        client = self.client()
        me = client.call("test.whoami")["result"]
        self.assertEqual((me["uid"], me["gid"], me["pid"]), (os.getuid(), os.getgid(), os.getpid()))
        self.assertEqual(me["groups"], ",".join(map(str, sorted(os.getgroups()))))
        self.assertTrue(me["admin"])
        self.assertEqual(client.call("test.admin", text="x")["result"], {})


class LongLines(Case):
    def test_a_hundred_megabytes_without_a_newline(self):
        client = self.client()
        client.call("test.echo", text="warm")
        before = self.server.memory()
        chunk = b"x" * (1 << 20)
        with self.assertRaises((BrokenPipeError, ConnectionResetError)):
            for _ in range(100):
                client.socket.sendall(chunk)
        self.assertError(client.message(), "invalid_argument", -32600)
        self.assertTrue(client.closed())
        self.assertLess(self.server.memory() - before, 16 << 10)

    def test_the_same_as_the_first_line(self):
        client = self.client(hello=False)
        with self.assertRaises((BrokenPipeError, ConnectionResetError)):
            for _ in range(100):
                client.socket.sendall(b"x" * (1 << 20))
        self.assertError(client.message(), "invalid_argument")
        self.assertTrue(client.closed())

    def test_the_longest_line_is_one_mebibyte(self):
        client = self.client()
        head, tail = b'{"jsonrpc":"2.0","id":1,"method":"test.echo","params":{"text":"', b'"}}'
        fill = b"x" * ((1 << 20) - len(head) - len(tail))
        client.send(head + fill + tail + b"\n")
        self.assertEqual(len(client.message()["result"]["text"]), len(fill))
        client.send(head + fill + b"x" + tail + b"\n")
        self.assertError(client.message(), "invalid_argument", -32600)
        self.assertTrue(client.closed())

    def test_it_stops_the_calls_of_its_connection(self):
        client = self.client()
        client.request("test.wait", text="long")
        other = self.client()
        try:
            client.socket.sendall(b"x" * (2 << 20))
        except OSError:
            pass
        other.call("test.stopped", text="long")


class ManyRequests(Case):
    limits = {"in_flight": 8}

    def test_a_thousand_at_once_are_all_answered(self):
        client = self.client()
        lines = [json.dumps({"jsonrpc": "2.0", "id": f"r{i}", "method": "test.gate", "params": {"text": "all"}}) for i in range(1000)]
        sender = threading.Thread(target=client.send, args=(("\n".join(lines) + "\n").encode(),))
        sender.start()
        refused = [client.message() for _ in range(992)]
        sender.join()
        for answer in refused:
            self.assertTrue(self.assertError(answer, "quota_exceeded")["retryable"])
        self.client().call("test.release", text="all")
        served = [client.message() for _ in range(8)]
        self.assertTrue(all("result" in answer for answer in served))
        self.assertEqual({a["id"] for a in refused + served}, {f"r{i}" for i in range(1000)})
        self.assertEqual(client.call("test.echo", text="on it goes")["result"]["text"], "on it goes")

    def test_one_id_once_at_a_time(self):
        client = self.client()
        client.request("test.gate", id="a", text="once")
        client.request("test.echo", id="a", text="twice")
        self.assertError(client.message(), "invalid_argument", -32600)
        client.call("test.release", text="once")
        self.assertEqual(client.answer("a")["result"]["text"], "once")
        client.request("test.echo", id="a", text="again")
        self.assertEqual(client.answer("a")["result"]["text"], "again")


class LargeRequests(Case):
    limits = {"in_flight_bytes": 3 << 20}

    def test_what_a_user_keeps_the_daemon_holding_is_bounded_over_all_sessions(self):
        clients = [self.client() for _ in range(4)]
        large = "x" * (1000 << 10)
        for client in clients[:3]:
            client.request("test.wait", id="w", text=large)
            client.call("test.status")
        clients[3].request("test.wait", id="w", text=large)
        self.assertTrue(self.assertError(clients[3].answer("w"), "quota_exceeded")["retryable"])
        self.assertEqual(clients[3].call("test.echo", text="small")["result"]["text"], "small")
        clients[0].cancel("w")
        self.assertError(clients[0].answer("w"), "cancelled")
        self.assertEqual(len(clients[3].call("test.echo", text=large)["result"]["text"]), len(large))
        clients[1].close()
        self.until(clients[0], "3 connections, 0 tickets")
        clients[3].request("test.wait", id="w", text=large)
        clients[3].cancel("w")
        self.assertError(clients[3].answer("w"), "cancelled")


class Cancelling(Case):
    def test_a_cancelled_call_says_so_and_others_go_on(self):
        client = self.client()
        first, second = client.request("test.wait", text="first"), client.request("test.wait", id="1", text="second")
        self.assertNotEqual(first, second)
        client.cancel(first)
        self.assertError(client.answer(first), "cancelled", 1006)
        client.call("test.stopped", text="first")
        client.cancel("1")
        self.assertError(client.answer("1"), "cancelled")

    def test_cancel_races(self):
        client = self.client()
        client.cancel("never was")
        for i in range(200):  # before it starts, while it runs, after it ended: one answer each
            id = client.request("test.echo" if i % 2 else "test.wait", text=f"race{i}")
            if i % 4 < 2:
                client.call("test.status")
            client.cancel(id)
            client.cancel(id)
            answer = client.answer(id)
            if i % 2:
                self.assertIn("result", answer)
            else:
                self.assertError(answer, "cancelled")
        self.assertEqual(client.kept, [])

    def test_cancel_as_a_request(self):
        client = self.client()
        id = client.request("test.wait", text="x")
        self.assertError(client.call("rpc.cancel"), "invalid_argument", -32602)
        client.send({"jsonrpc": "2.0", "id": "c", "method": "rpc.cancel", "params": {"id": id}})
        self.assertEqual(client.answer("c")["result"], {})
        self.assertError(client.answer(id), "cancelled")

    def test_a_client_that_goes_stops_its_calls_and_no_others(self):
        client, other = self.client(), self.client()
        for i in range(5):
            client.request("test.wait", text=f"gone{i}")
        kept = other.request("test.wait", text="kept")
        client.close()
        for i in range(5):
            other.call("test.stopped", text=f"gone{i}")
        self.until(other, "1 connections, 0 tickets")
        other.cancel(kept)
        self.assertError(other.answer(kept), "cancelled")

    def test_a_daemon_that_stops_answers_first(self):
        client = self.client()
        id = client.request("test.wait", text="x")
        client.call("test.status")
        self.server.process.terminate()
        self.server.stopping = True
        self.assertTrue(self.assertError(client.answer(id), "unavailable")["retryable"])
        self.assertIsNone(client.message())


class SlowReaders(Case):
    limits = {"queue_bytes": 65536, "write_ms": 500}

    def test_a_client_that_never_reads_is_dropped_and_harms_nobody(self):
        slow, other = self.client(), self.client()
        slow.request("test.wait", text="slow")
        for _ in range(40):
            slow.request("test.echo", text="x" * 100, count=1000)
        for _ in range(50):
            self.assertEqual(other.call("test.echo", text="quick")["result"]["text"], "quick")
        other.call("test.stopped", text="slow")  # its calls are stopped once an answer waited too long
        self.until(other, "1 connections, 0 tickets")

    def test_a_flood_of_garbage_without_reading_is_bounded(self):
        client, other = self.client(), self.client()
        before = self.server.memory()
        try:
            for _ in range(2000):
                client.socket.sendall(b"garbage\n" * 1000)
        except OSError:
            pass
        else:
            self.fail("two million refusals found a place")
        self.assertLess(self.server.memory() - before, 16 << 10)
        self.assertEqual(other.call("test.echo", text="quick")["result"]["text"], "quick")


class PatientWithReaders(Case):
    limits = {"queue_bytes": 65536, "write_ms": 3_600_000}

    def test_progress_is_coalesced_or_dropped_but_the_answer_comes(self):
        client = self.client()
        before = self.server.memory()
        id = client.request("test.report", text="phase", count=100_000)
        answer = client.answer(id)
        self.assertEqual(answer["result"], {})
        reports = [m["params"] for m in client.kept]
        self.assertGreater(len(reports), 0)
        self.assertLess(len(reports), 1000)
        self.assertEqual(reports[-1], {"id": id, "phase": "phase", "done": 100_000})
        self.assertLess(self.server.memory() - before, 16 << 10)

    def test_a_daemon_that_stops_does_not_wait_for_who_does_not_read(self):
        slow = self.client()
        for _ in range(20):
            slow.request("test.echo", text="x" * 100, count=1000)
        self.client().call("test.status")  # and finish() stops it


class Sessions(Case):
    limits = {"sessions": 7, "sessions_per_uid": 3, "first_line_ms": 60000}

    def test_sessions_of_one_user_are_bounded_and_places_come_back(self):
        clients = [self.client() for _ in range(3)]
        fourth = self.client(hello=False)
        fourth.request("rpc.hello", version="1")
        self.assertError(fourth.message(), "quota_exceeded")
        self.assertIsNone(fourth.message())
        clients[0].close()
        self.until(clients[1], "2 connections, 0 tickets")
        self.client()

    def test_silent_connections_are_bounded_too(self):
        client = self.client()
        silent = [self.client(hello=False) for _ in range(5)]
        refused = self.client(hello=False)
        self.assertError(refused.message(), "quota_exceeded")
        silent[0].close()
        self.until(client, "5 connections, 0 tickets")
        self.client()


class AllSessions(Case):
    limits = {"sessions": 2}

    def test_sessions_of_all_users_are_bounded(self):
        clients = [self.client() for _ in range(2)]
        third = self.client(hello=False)
        self.assertError(third.message(), "quota_exceeded")
        clients[0].close()
        self.until(clients[1], "1 connections, 0 tickets")
        self.client()


class Silence(Case):
    limits = {"first_line_ms": 50}

    def test_who_says_nothing_is_told_and_dropped(self):
        client = self.client(hello=False)
        self.assertError(client.message(), "timeout")
        self.assertIsNone(client.message())


@unittest.skipIf(SANITIZED, "the sanitizer's own checks need descriptors")
class Descriptors(Case):
    def test_without_descriptors_it_recovers(self):
        clients = [self.client() for _ in range(3)]
        limit = self.server.descriptors()
        resource.prlimit(self.server.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
        waiting = self.client(hello=False)  # in the kernel's queue
        waiting.request("rpc.hello", id=0, version="1")
        self.assertEqual(clients[0].call("test.echo", text="x")["result"]["text"], "x")
        clients[1].close()
        self.assertEqual(waiting.answer(0)["result"]["server"], "pyrod")


class Attach(Case):
    def start(self, client, method, **params):
        id = client.request(method, text="x", **params)
        started = client.notification("exec.started")
        self.assertEqual(started["id"], id)
        self.assertRegex(started["ticket"], "^[0-9a-f]{32}$")
        return id, started["ticket"]

    def test_frames_go_both_ways(self):
        client = self.client()
        id, ticket = self.start(client, "test.attach_echo")
        stream = attach(self.server, ticket)
        self.assertEqual(stream.reply, {"ok": True})
        stream.send(frame(0, b"hello \x00\xff\n") + frame(0, b"") + frame(3, struct.pack("<HH", 120, 30)) + frame(0, b"y" * 65536) + frame(4, b"\0"))
        self.assertEqual(read_frame(stream), (1, b"hello \x00\xff\n"))
        self.assertEqual(read_frame(stream), (1, b"120x30"))
        self.assertEqual(read_frame(stream), (1, b"y" * 65536))
        self.assertEqual(read_frame(stream), (4, b"\x01"))
        self.assertIsNone(read_frame(stream))
        self.assertEqual(client.answer(id)["result"]["count"], 9 + 6 + 65536)

    def test_frames_right_behind_the_ticket(self):
        client = self.client()
        id, ticket = self.start(client, "test.attach_echo")
        stream = Client(self.server, hello=False)
        data = b'{"attach":"%s"}\n' % ticket.encode() + frame(0, b"early") + frame(4, b"\0")
        for byte in data:  # a byte at a time: no border is special
            stream.send(bytes([byte]))
        self.assertEqual(stream.message(), {"ok": True})
        self.assertEqual(read_frame(stream), (1, b"early"))
        self.assertEqual(client.answer(id)["result"]["count"], 5)

    def test_frames_a_client_may_not_send(self):
        client = self.client()
        for bad in (frame(1, b"x"), frame(2, b"x"), frame(5, b"x"), frame(255, b""), struct.pack("<BI", 0, 65537), struct.pack("<BI", 0, 2**32 - 1),
                    frame(3, b"abc"), frame(3, b"\0\0\0\0"), frame(4, b""), frame(4, b"\x01"), frame(4, b"\x03")):
            with self.subTest(bad=bad[:8]):
                id, ticket = self.start(client, "test.attach_echo")
                stream = attach(self.server, ticket)
                stream.send(bad)
                self.assertError(client.answer(id), "invalid_argument")
                self.assertTrue(stream.closed())

    def test_an_end_in_the_middle_of_a_frame(self):
        client = self.client()
        for cut in range(1, 8):
            id, ticket = self.start(client, "test.attach_echo")
            stream = attach(self.server, ticket)
            stream.send(frame(0, b"abc")[:cut])
            stream.close()
            self.assertError(client.answer(id), "unavailable")

    def assertNoTicket(self, ticket):
        stream = attach(self.server, ticket)
        self.assertFalse(stream.reply["ok"])
        self.assertEqual(stream.reply["error"]["code"], "not_found")
        self.assertEqual(set(stream.reply["error"]), {"code", "message", "hint", "retryable", "details"})
        self.assertTrue(stream.closed())

    def test_a_ticket_is_used_once(self):
        client = self.client()
        id, ticket = self.start(client, "test.attach_echo")
        stream = attach(self.server, ticket)
        self.assertNoTicket(ticket)
        stream.send(frame(0, b"mine") + frame(4, b"\0"))
        self.assertEqual(read_frame(stream), (1, b"mine"))
        self.assertEqual(client.answer(id)["result"]["count"], 4)
        self.assertNoTicket(ticket)

    def test_a_ticket_ends_with_its_call(self):
        client = self.client()
        id, ticket = self.start(client, "test.attach_unused")
        client.answer(id)
        self.assertNoTicket(ticket)
        id, ticket = self.start(client, "test.attach_echo")
        client.cancel(id)
        self.assertError(client.answer(id), "cancelled")
        self.assertNoTicket(ticket)
        id, ticket = self.start(client, "test.attach_echo")
        other = self.client()
        client.close()
        self.until(other, "1 connections, 0 tickets")
        self.assertNoTicket(ticket)

    def test_wrong_tickets_and_no_tickets(self):
        self.assertNoTicket("0" * 32)
        self.assertNoTicket("")
        self.assertNoTicket("x" * 4000)
        client = self.client(hello=False)
        client.send({"attach": "0" * 32, "more": 1})  # not an attach: a session's first, malformed message
        self.assertError(client.message(), "invalid_argument", -32600)

    def test_an_attached_client_that_goes_ends_what_it_attached_to(self):
        client = self.client()
        id, ticket = self.start(client, "test.attach_echo")
        attach(self.server, ticket).close()
        self.assertError(client.answer(id), "unavailable")  # its last frame found nobody

    def test_two_writers_back_pressure_and_order(self):
        client, other = self.client(), self.client()
        id, ticket = self.start(client, "test.attach_flood", count=100)
        stream = attach(self.server, ticket)
        # Nobody reads: the writers stop at what the socket holds, 20 MB are not even near, and others are served. The kernel
        # says when the socket is full: the amount waiting in it stays what it is across round trips.
        deadline, last = time.monotonic() + WAIT, None
        while True:
            flooded = [other.call("test.flooded")["result"]["count"] for _ in range(20)][-1]
            if flooded == last and flooded > 0:
                break
            last = flooded
            self.assertLess(time.monotonic(), deadline)
        self.assertLess(flooded, 2_000_000)
        self.assertLess(self.server.memory(), 120 << 10 if SANITIZED else 40 << 10)
        totals = {1: 0, 2: 0}
        while (got := read_frame(stream)) is not None:
            self.assertEqual(set(got[1]), {ord("o") if got[0] == 1 else ord("e")})
            totals[got[0]] += len(got[1])
        self.assertEqual(totals, {1: 10_000_000, 2: 10_000_000})
        self.assertEqual(client.answer(id)["result"]["count"], 20_000_000)

    def test_a_cancel_reaches_a_writer_that_waits(self):
        client, other = self.client(), self.client()
        id, ticket = self.start(client, "test.attach_flood", count=1000)
        stream = attach(self.server, ticket)
        while other.call("test.flooded")["result"]["count"] < 100_000:
            pass
        client.cancel(id)
        self.assertError(client.answer(id), "cancelled")
        self.assertTrue(stream.closed())

    def test_directions(self):
        client = self.client()
        id, ticket = self.start(client, "test.attach_one_way")
        stream = attach(self.server, ticket)
        self.assertEqual(stream.reply, {"ok": True})
        stream.send(b"z" * 1_000_000)
        self.assertEqual(stream.socket.recv(1), b"")  # nothing comes that way
        stream.socket.shutdown(socket.SHUT_WR)
        self.assertEqual(client.answer(id)["result"]["count"], 1_000_000)
        id, ticket = self.start(client, "test.attach_flood", count=0)
        stream = attach(self.server, ticket)
        with self.assertRaises(OSError):  # nothing goes that way
            for _ in range(100):
                stream.send(b"z" * 100_000)
        client.answer(id)

    @unittest.skipUnless(os.getuid() == 0, "needs root: another user's process")
    def test_another_users_ticket_is_not_found_and_stays_good(self):
        client = self.client()
        id, ticket = self.start(client, "test.attach_echo")
        self.assertEqual(self.as_nobody(lambda: attach(self.server, ticket).reply)["error"]["code"], "not_found")
        stream = attach(self.server, ticket)
        self.assertEqual(stream.reply, {"ok": True})
        stream.send(frame(4, b"\0"))
        self.assertEqual(client.answer(id)["result"]["count"], 0)

    @unittest.skipUnless(os.getuid() == 0, "needs root: another user's process")
    def test_another_user_is_himself_and_no_administrator(self):
        me = self.as_nobody(lambda: Client(self.server).call("test.whoami"))["result"]
        self.assertEqual((me["uid"], me["gid"], me["groups"], me["admin"]), (65534, 65533, "65531,65532", False))
        refused = self.as_nobody(lambda: Client(self.server).call("test.admin", nonsense=1))
        self.assertError(refused, "failed_precondition")  # before its parameters are looked at

    @unittest.skipUnless(os.getuid() == 0, "needs root: another user's process")
    def test_another_user_cannot_cancel(self):
        client = self.client()
        id = client.request("test.wait", text="mine")
        other = self.as_nobody(lambda: [c := Client(self.server), c.cancel(id), c.call("test.echo", text="done")][-1])
        self.assertEqual(other["result"]["text"], "done")
        self.assertNotIn("error", client.call("test.status"))
        client.cancel(id)
        self.assertError(client.answer(id), "cancelled")

    def as_nobody(self, function):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setgroups([65531, 65532])
                os.setresgid(65533, 65533, 65533)
                os.setresuid(65534, 65534, 65534)
                os.write(write, json.dumps(function()).encode())
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            answer = pipe.read()
        os.waitpid(child, 0)
        return json.loads(answer)


class ExpiredTickets(Case):
    limits = {"ticket_ms": 20}

    def test_nobody_came(self):
        client = self.client()
        id = client.request("test.attach_echo", text="x")
        ticket = client.notification("exec.started")["ticket"]
        self.assertError(client.answer(id), "timeout")
        self.assertEqual(attach(self.server, ticket).reply["error"]["code"], "not_found")


class Leaks(Case):
    def test_nothing_is_left_of_many_rough_clients(self):
        other = self.client()
        other.call("test.status")
        before = self.server.descriptors()
        for i in range(300):
            client = Client(self.server)
            client.request("test.wait", text=f"leak{i}")
            if i % 3 == 0:
                client.request("test.attach_echo", text="x")
                stream = attach(self.server, client.notification("exec.started")["ticket"])
                stream.send(frame(0, b"abc")[: i % 8])
                stream.close()
            if i % 5 == 0:
                client.send(b"garbage\n{")
            client.close()
        self.until(other, "1 connections, 0 tickets")
        self.assertEqual(self.server.descriptors(), before)


if __name__ == "__main__":
    unittest.main(verbosity=2)
