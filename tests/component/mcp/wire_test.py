#!/usr/bin/env python3
"""The protocol library on the raw wire. usage: wire_test.py FIXTURE_SERVER"""
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "support"))
from children import ends_with  # noqa: E402

SERVER = sys.argv.pop(1)
LEGACY = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]
MODERN = "2026-07-28"
PREFIX = "io.modelcontextprotocol/"
MAX_LINE = 10 << 20


def meta(version=MODERN, capabilities=None, **more):
    return {PREFIX + "protocolVersion": version, PREFIX + "clientCapabilities": capabilities or {}, **more}


class Server:
    def __init__(self, case, *args, sockets=False):
        self.ids = 0
        self.others = []  # messages that came while another was awaited
        if sockets:  # what Node.js gives its children
            ours_in, theirs_in = socket.socketpair()
            ours_out, theirs_out = socket.socketpair()
            self.process = subprocess.Popen([SERVER, *args], stdin=theirs_in, stdout=theirs_out, stderr=subprocess.PIPE)
            theirs_in.close()
            theirs_out.close()
            self.stdin, self.stdout = ours_in.makefile("wb"), ours_out.makefile("rb")
            self.sockets = [ours_in, ours_out]
            case.addCleanup(lambda: [one.close() for one in (self.stdin, self.stdout, *self.sockets)])
        else:
            self.process = subprocess.Popen([SERVER, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            self.stdin, self.stdout = self.process.stdin, self.process.stdout
        ends_with(case, self.process)

    def write(self, data):
        self.stdin.write(data if isinstance(data, bytes) else data.encode())
        self.stdin.flush()

    def send(self, message):
        self.write(json.dumps(message) + "\n")

    def request(self, method, params=None, *, id=None, modern=False, **capabilities):
        """Sends it and returns its id."""
        self.ids += 1
        id = self.ids if id is None else id
        params = dict(params or {})
        if modern:
            params["_meta"] = {**meta(capabilities=capabilities), **params.get("_meta", {})}
        self.send({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
        return id

    def read(self):
        line = self.stdout.readline()
        if not line:
            raise EOFError("the server closed its output")
        assert line.endswith(b"\n")
        return json.loads(line)

    def next(self):
        return self.others.pop(0) if self.others else self.read()

    def answer(self, id):
        """The response to that id; what else comes is kept for next()."""
        kept = [one for one in self.others if "method" not in one and one.get("id") == id and type(one.get("id")) is type(id)]
        if kept:
            self.others.remove(kept[0])
            return kept[0]
        while True:
            message = self.read()
            if "method" not in message and message.get("id") == id and type(message.get("id")) is type(id):
                return message
            self.others.append(message)

    def ask(self, method, params=None, **more):
        return self.answer(self.request(method, params, **more))

    def call(self, tool, arguments=None, **more):
        return self.ask("tools/call", {"name": tool, "arguments": arguments or {}}, **more)

    def initialize(self, version="2025-11-25", capabilities=None):
        return self.ask("initialize", {"protocolVersion": version, "capabilities": capabilities or {}, "clientInfo": {"name": "wire", "version": "1"}})["result"]

    def end(self):
        self.stdin.close()
        if hasattr(self, "sockets"):
            self.sockets[0].shutdown(socket.SHUT_WR)
        return self.process.wait()


class Wire(unittest.TestCase):
    def server(self, *args, version=None, **more):
        server = Server(self, *args, **more)
        if version:
            server.initialize(version)
        return server

    def code(self, answer):
        self.assertNotIn("result", answer)
        return answer["error"]["code"]

    def test_framing(self):
        server = self.server()
        request = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"})
        server.write("\n   \n\r\n" + request + "\r\n")
        self.assertEqual(server.read(), {"jsonrpc": "2.0", "id": 1, "result": {}})
        for byte in request.encode():  # in as many pieces as there can be
            server.write(bytes([byte]))
        server.write("\n")
        self.assertEqual(server.read()["id"], 1)
        server.write("".join(json.dumps({"jsonrpc": "2.0", "id": i, "method": "ping"}) + "\n" for i in range(1000)))
        self.assertEqual([server.read()["id"] for _ in range(1000)], list(range(1000)))
        server.initialize()
        line = server.call("test_bytes", {"count": 100_000})["result"]["content"][0]["text"]
        self.assertEqual(line, "x" * 100_000)
        text = server.call("test_not_utf8")["result"]["content"][0]["text"]
        self.assertEqual(text, "good \ufffd bad")
        self.assertEqual(server.call("test_print")["result"]["content"][0]["text"], "printed")
        self.assertEqual(server.end(), 0)
        self.assertEqual(server.stdout.read(), b"")
        self.assertEqual(server.process.stderr.read(), b"printed\n")

    def test_broken_json(self):
        server = self.server()
        for line in (b"{", b"nonsense", b'{"jsonrpc":"2.0","id":1,"method":"ping"} trailing', b'{"a":"\xff"}', b"\x00", b"[" * 65 + b"]" * 65,
                     b"[" * 200_000, b'{"a":' * 70 + b"1" + b"}" * 70, b'{"jsonrpc":"2.0","id":1e999,"method":"ping"}'):
            server.write(line + b"\n")
            answer = server.read()
            self.assertEqual(self.code(answer), -32700, line[:60])
            self.assertNotIn("id", answer)
        self.assertEqual(server.ask("ping")["result"], {})
        old = self.server(version="2025-06-18")  # the member may be left out only since the next revision
        old.write("{\n")
        self.assertIsNone(old.read()["id"])

    def test_messages_that_are_none(self):
        server = self.server(version="2025-11-25")
        for value in (1, "word", None, True, {}, {"jsonrpc": "2.0"}, {"jsonrpc": "1.0", "method": "ping"}, {"method": "ping"},
                      {"jsonrpc": "2.0", "method": 1}, {"jsonrpc": "2.0", "result": {}}):
            server.send(value)
            answer = server.read()
            self.assertEqual((self.code(answer), "id" in answer), (-32600, False), value)
        server.send({"jsonrpc": "2.0", "id": 5, "method": "ping", "params": "word"})
        self.assertEqual(self.code(server.answer(5)), -32600)
        server.send({"jsonrpc": "2.0", "id": 5, "method": "ping", "params": [1]})
        self.assertEqual(self.code(server.answer(5)), -32602)
        server.send({"jsonrpc": "2.0", "id": 5})
        self.assertEqual(self.code(server.answer(5)), -32600)
        # Answers to questions that nobody asked, and notifications that nobody knows, are nothing to answer.
        server.send({"jsonrpc": "2.0", "id": "ask-1", "result": {}})
        server.send({"jsonrpc": "2.0", "id": 99, "error": {"code": 1, "message": "no"}})
        server.send({"jsonrpc": "2.0", "method": "notifications/of_another_world", "params": {}})
        server.send({"jsonrpc": "2.0", "method": "tools/list"})
        self.assertEqual(server.ask("ping")["result"], {})
        self.assertEqual(server.others, [])

    def test_ids(self):
        server = self.server()
        for id in ("1", 1, 0, -1, "", "\u00e9\n\"", 2**63 - 1, -2**63, 2**64 - 1, "x" * 10_000):
            self.assertEqual(server.ask("ping", id=id)["id"], id)
        for id in (None, 1.5, True, [1], {"a": 1}):
            server.send({"jsonrpc": "2.0", "id": id, "method": "ping"})
            answer = server.read()
            self.assertEqual((self.code(answer), "id" in answer), (-32600, False), id)

    def test_an_id_in_use(self):
        server = self.server(version="2025-11-25")
        server.request("tools/call", {"name": "test_wait", "arguments": {"gate": "a"}}, id=7)
        server.call("test_await_waiting", {"gate": "a", "count": 1})
        server.request("ping", id=7)
        self.assertEqual(self.code(server.answer(7)), -32600)
        self.assertEqual(server.ask("ping", id="7")["result"], {})  # another id
        server.call("test_open", {"gate": "a"})
        self.assertEqual(server.answer(7)["result"]["content"][0]["text"], "waited for a")
        self.assertEqual(server.ask("ping", id=7)["result"], {})  # free again

    def test_long_lines(self):
        server = self.server()
        def ping(size):
            line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"pad": ""}})
            return line.replace('"pad": "', '"pad": "' + "x" * (size - len(line)))
        server.write(ping(MAX_LINE) + "\n")
        self.assertEqual(server.read()["result"], {})
        for size in (MAX_LINE + 1, 4 * MAX_LINE):
            server.write(ping(size) + "\n" + ping(100) + "\n")
            answer = server.read()
            self.assertEqual((self.code(answer), "id" in answer), (-32600, False))
            self.assertEqual(server.read()["result"], {})
        server.initialize()
        self.assertEqual(self.code(server.call("test_bytes", {"count": MAX_LINE})), -32603)  # no client would read it
        self.assertEqual(server.ask("ping")["result"], {})

    def test_batches(self):
        batch = [{"jsonrpc": "2.0", "id": "a", "method": "ping"}, {"jsonrpc": "2.0", "method": "notifications/initialized"}, 1,
                 {"jsonrpc": "2.0", "id": "b", "method": "tools/call", "params": {"name": "test_simple_text"}},
                 {"jsonrpc": "2.0", "id": "a", "method": "nothing"}, {"jsonrpc": "2.0", "id": "c", "method": "initialize", "params": {"protocolVersion": "2025-03-26"}}]
        for version in [None] + LEGACY:
            server = self.server(version=version)
            server.send(batch)
            if version != "2025-03-26":
                self.assertEqual(self.code(server.read()), -32600, version)
                self.assertEqual(server.ask("ping")["result"], {})
                continue
            answers = server.read()
            self.assertEqual(sorted((one.get("id") or "", one.get("error", {}).get("code", 0)) for one in answers),
                             [("", -32600), ("a", -32601), ("a", 0), ("b", 0), ("c", -32600)])
            server.send([{"jsonrpc": "2.0", "method": "notifications/initialized"}])  # nothing to answer
            for bad in ([], [{"jsonrpc": "2.0", "id": 1, "method": "ping"}] * 101):
                server.send(bad)
                self.assertEqual(self.code(server.read()), -32600)
            # A call of a batch that is cancelled leaves its place empty, and all that is left ends the batch.
            wait = {"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "test_wait", "arguments": {"gate": "never"}}}
            server.send([{**wait, "id": 1}, {"jsonrpc": "2.0", "id": 2, "method": "ping"}])
            server.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
            self.assertEqual([one["id"] for one in server.read()], [2])
            server.send([{"jsonrpc": "2.0", "id": 3, "method": "tools/list", "params": {"_meta": meta()}}])
            self.assertEqual(self.code(server.read()[0]), -32600)
            self.assertEqual(server.ask("ping")["result"], {})

    def test_negotiation(self):
        for version in LEGACY:
            self.assertEqual(self.server().initialize(version)["protocolVersion"], version)
        server = self.server()
        for version in (MODERN, "1999-01-01", "next"):
            self.assertEqual(server.initialize(version)["protocolVersion"], "2025-11-25")
        for params in ({}, {"protocolVersion": 1}):
            self.assertEqual(self.code(server.ask("initialize", params)), -32602)
        server.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        self.assertIn("tools", server.ask("tools/list")["result"])

    def test_nothing_said_yet(self):
        server = self.server()
        self.assertEqual(server.ask("ping")["result"], {})
        answer = server.ask("tools/list")
        self.assertEqual(self.code(answer), -32602)
        for key in ("protocolVersion", "clientCapabilities"):
            self.assertIn(PREFIX + key, answer["error"]["message"])

    def test_modern_metadata(self):
        server = self.server()
        for bad in ({PREFIX + "protocolVersion": MODERN}, meta(version=1), {**meta(), PREFIX + "clientCapabilities": []},
                    {**meta(), PREFIX + "clientInfo": "me"}, {**meta(), PREFIX + "logLevel": "loud"}, {**meta(), "progressToken": 1.5}):
            self.assertEqual(self.code(server.ask("tools/list", {"_meta": bad})), -32602, bad)
        for version in ("2099-01-01", "2025-11-25"):
            answer = server.ask("tools/list", {"_meta": meta(version=version)})
            self.assertEqual(answer["error"]["code"], -32022)
            self.assertEqual(answer["error"]["data"], {"supported": [MODERN], "requested": version})
        for method in ("ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe", "tasks/get"):
            self.assertEqual(self.code(server.ask(method, modern=True)), -32601, method)

    def test_modern_results(self):
        server = self.server()
        found = server.ask("server/discover", modern=True)["result"]
        self.assertEqual((found["supportedVersions"], found["instructions"], found["resultType"]), ([MODERN], "For tests only.", "complete"))
        self.assertEqual(found["_meta"][PREFIX + "serverInfo"]["websiteUrl"], "https://example.org/")
        cached = {"server/discover": {}, "tools/list": {}, "prompts/list": {}, "resources/list": {}, "resources/templates/list": {}, "resources/read": {"uri": "test://static-text"}}
        others = {"tools/call": {"name": "test_simple_text"}, "prompts/get": {"name": "test_simple_prompt"},
                  "completion/complete": {"ref": {"type": "ref/prompt", "name": "test_prompt_with_arguments"}, "argument": {"name": "arg1", "value": ""}}}
        for method, params in {**cached, **others}.items():
            result = server.ask(method, params, modern=True)["result"]
            self.assertEqual(result["resultType"], "complete", method)
            self.assertEqual(result["_meta"][PREFIX + "serverInfo"]["name"], "fixture", method)
            self.assertEqual(("ttlMs" in result, result.get("cacheScope")), (True, "private") if method in cached else (False, None), method)
        server.initialize()
        for method, params in {**cached, **others}.items():
            if method == "server/discover":
                self.assertEqual(self.code(server.ask(method, params)), -32601)
                continue
            result = server.ask(method, params)["result"]
            self.assertFalse({"resultType", "ttlMs", "cacheScope", "_meta"} & result.keys(), method)

    def test_both_eras_on_one_pipe(self):
        server = self.server()
        self.assertEqual(server.ask("server/discover", modern=True)["result"]["supportedVersions"], [MODERN])
        self.assertEqual(server.initialize("2024-11-05")["protocolVersion"], "2024-11-05")
        for _ in range(3):
            self.assertNotIn("resultType", server.ask("tools/list")["result"])
            self.assertEqual(server.ask("tools/list", modern=True)["result"]["resultType"], "complete")
            self.assertNotIn("structuredContent", server.call("test_structured", {"a": 1, "b": 1})["result"])
            self.assertEqual(server.call("test_structured", {"a": 1, "b": 1}, modern=True)["result"]["structuredContent"], {"sum": 2})
        self.assertEqual(self.code(server.ask("resources/read", {"uri": "test://nothing"})), -32002)
        self.assertEqual(self.code(server.ask("resources/read", {"uri": "test://nothing"}, modern=True)), -32602)
        # One call of each at once; the ids are of one space.
        server.request("tools/call", {"name": "test_wait", "arguments": {"gate": "old"}}, id="old")
        server.request("tools/call", {"name": "test_wait", "arguments": {"gate": "new"}}, id="new", modern=True)
        server.call("test_open", {"gate": "new"}, modern=True)
        self.assertEqual(server.answer("new")["result"]["resultType"], "complete")
        server.call("test_open", {"gate": "old"})
        self.assertNotIn("resultType", server.answer("old")["result"])

    def test_what_each_revision_may_carry(self):
        for version in LEGACY:
            server = self.server()
            info = server.initialize(version)
            tool = next(one for one in server.ask("tools/list")["result"]["tools"] if one["name"] == "test_structured")
            old = version < "2025-06-18"
            self.assertEqual("title" in tool, not old)
            self.assertEqual("outputSchema" in tool, not old)
            self.assertEqual("_meta" in tool, not old)
            self.assertEqual("icons" in tool, version >= "2025-11-25")
            self.assertEqual(tool.get("annotations", {}).get("readOnlyHint"), True if version > "2024-11-05" else None)
            self.assertEqual(tool.get("annotations", {}).get("title"), "Add" if version == "2025-03-26" else None)
            self.assertEqual("completions" in info["capabilities"], version > "2024-11-05")
            self.assertEqual("title" in info["serverInfo"], not old)
            self.assertEqual("websiteUrl" in info["serverInfo"], version >= "2025-11-25")
            resource = server.ask("resources/list")["result"]["resources"][0]
            self.assertEqual(("title" in resource, "lastModified" in resource["annotations"]), (not old, not old))
            self.assertEqual("title" in server.ask("resources/templates/list")["result"]["resourceTemplates"][0], not old)
            self.assertEqual("title" in server.ask("prompts/list")["result"]["prompts"][1], not old)
            result = server.call("test_structured", {"a": 1, "b": 2})["result"]
            self.assertEqual(result["content"], [{"type": "text", "text": '{"sum":3}'}])
            self.assertEqual("structuredContent" in result, not old)
            audio = server.call("test_audio_content")["result"]["content"][0]
            self.assertEqual(audio["type"], "audio" if version > "2024-11-05" else "text")
            link = server.call("test_resource_link")["result"]["content"][0]
            self.assertEqual(link["type"], "text" if old else "resource_link")
            self.assertIn("test://static-text", json.dumps(link))
            server.request("tools/call", {"name": "test_tool_with_progress", "_meta": {"progressToken": 0}}, id="p")
            self.assertIn("reported", server.answer("p")["result"]["content"][0]["text"])
            notes = [one["params"] for one in server.others if one["method"] == "notifications/progress"]
            self.assertEqual([note["progress"] for note in notes], [0, 50, 100])
            self.assertEqual("message" in notes[0], version > "2024-11-05")

    def test_refused_calls(self):
        server = self.server(version="2025-11-25")
        for params in ({}, {"name": 1}, {"name": "nothing"}, {"name": "test_simple_text", "arguments": []}, {"name": "test_simple_text", "arguments": None}):
            self.assertEqual(self.code(server.ask("tools/call", params)), -32602, params)
        for arguments in ({}, {"a": 1}, {"a": 1, "b": "2"}, {"a": 1, "b": 2, "c": 3}, {"a": 1001, "b": 2}, {"a": 1.5, "b": 2}):
            result = server.call("test_structured", arguments)["result"]
            self.assertTrue(result["isError"], arguments)
            self.assertEqual(json.loads(result["content"][0]["text"])["code"], "invalid_argument")
            self.assertNotIn("structuredContent", result)
        broken = server.call("test_broken_handler")
        self.assertEqual(self.code(broken), -32603)
        self.assertNotIn("secret", json.dumps(broken))
        for method, params in (("prompts/get", {"name": "nothing"}), ("prompts/get", {"name": "test_prompt_with_arguments", "arguments": {"arg1": "x"}}),
                               ("prompts/get", {"name": "test_prompt_with_arguments", "arguments": {"arg1": 1, "arg2": "x"}}), ("resources/read", {}),
                               ("completion/complete", {}), ("completion/complete", {"ref": {"type": "ref/prompt", "name": "x"}, "argument": {"name": "a", "value": ""}}),
                               ("logging/setLevel", {"level": "loud"}), ("resources/subscribe", {})):
            self.assertEqual(self.code(server.ask(method, params)), -32602, (method, params))
        self.assertEqual(self.code(server.ask("nothing/at_all")), -32601)
        self.assertEqual(server.end(), 0)
        self.assertIn(b"a secret of the inside", server.process.stderr.read())

    def test_pages(self):
        for method, member in (("tools/list", "tools"), ("resources/list", "resources"), ("prompts/list", "prompts"), ("resources/templates/list", "resourceTemplates")):
            whole = self.server(version="2025-11-25").ask(method)["result"]
            self.assertNotIn("nextCursor", whole)
            server = self.server("2", version="2025-11-25")
            pages, cursor = [], {}
            while True:
                page = server.ask(method, cursor)["result"]
                self.assertLessEqual(len(page[member]), 2)
                pages += page[member]
                if "nextCursor" not in page:
                    break
                cursor = {"cursor": page["nextCursor"]}
            self.assertEqual(pages, whole[member])
            for bad in ("nonsense", "", 1, None, "cHJvbXB0czox"):
                self.assertEqual(self.code(server.ask(method, {"cursor": bad})), -32602, bad)
            other = "prompts/list" if method != "prompts/list" else "tools/list"
            if cursor:
                self.assertEqual(self.code(server.ask(other, cursor)), -32602)  # another list's

    def test_interleaving(self):
        server = self.server(version="2025-11-25")
        for i in range(20):
            server.request("tools/call", {"name": "test_wait", "arguments": {"gate": f"g{i}"}}, id=f"w{i}")
        for i in range(20):
            server.call("test_await_waiting", {"gate": f"g{i}", "count": 1})
        self.assertEqual(server.others, [])
        for i in reversed(range(20)):
            server.call("test_open", {"gate": f"g{i}"})
            self.assertEqual(server.answer(f"w{i}")["result"]["content"][0]["text"], f"waited for g{i}")

    def test_too_many_calls(self):
        server = self.server(version="2025-11-25")
        for i in range(32 + 256 + 5):
            server.request("tools/call", {"name": "test_wait", "arguments": {"gate": "g"}}, id=f"w{i}")
        for i in range(5):
            self.assertEqual(self.code(server.answer(f"w{288 + i}")), -32603)
        self.assertEqual(server.ask("ping")["result"], {})
        # Those that wait can be cancelled as well as those that run. That leaves room for one that lets the others go.
        for i in range(8, 288):
            server.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": f"w{i}"}})
        while "error" in server.call("test_open", {"gate": "g"}):
            pass
        for i in range(8):
            self.assertIn("result", server.answer(f"w{i}"))
        server.call("test_simple_text")
        self.assertEqual(server.others, [])  # no answers to the cancelled

    def test_cancellation(self):
        for modern in (False, True):
            server = self.server(version=None if modern else "2025-11-25")
            server.request("tools/call", {"name": "test_wait", "arguments": {"gate": "never"}, "_meta": {"progressToken": "t"}}, id="w", modern=modern)
            server.call("test_await_waiting", {"gate": "never", "count": 1}, modern=modern)
            for params in ({}, {"requestId": "unknown"}, {"requestId": None}, {"requestId": ["w"]}):
                server.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})
            server.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "w", "reason": "enough"}})
            server.call("test_await_stopped", {"count": 1}, modern=modern)
            server.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "w"}})
            server.call("test_simple_text", modern=modern)
            self.assertEqual([one.get("method") for one in server.others], ["notifications/progress"])  # and no answer
            self.assertEqual(server.end(), 0)
            self.assertEqual(server.stdout.read(), b"")

    def test_questions_to_a_legacy_client(self):
        server = Server(self)
        server.initialize("2025-06-18", {"elicitation": {}})
        server.request("tools/call", {"name": "test_elicitation", "arguments": {"message": "Who?"}}, id="e")
        question = server.next()
        self.assertEqual((question["method"], question["params"]["message"]), ("elicitation/create", "Who?"))
        server.send({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}})
        self.assertEqual(server.answer("e")["result"]["content"][0]["text"], "User response: action=decline")
        server.request("tools/call", {"name": "test_elicitation", "arguments": {"message": "Who?"}}, id="e")
        question = server.next()
        server.send({"jsonrpc": "2.0", "id": question["id"], "error": {"code": -1, "message": "not now"}})
        self.assertIn("not now", server.answer("e")["result"]["content"][0]["text"])
        server.request("tools/call", {"name": "test_elicitation", "arguments": {"message": "Who?"}}, id="e")
        question = server.next()
        server.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "e"}})
        taken_back = server.next()
        self.assertEqual((taken_back["method"], taken_back["params"]["requestId"]), ("notifications/cancelled", question["id"]))
        self.assertTrue(server.call("test_sampling", {"prompt": "x"})["result"]["isError"])  # not declared
        self.assertEqual(server.call("test_ask_if_possible")["result"]["content"][0]["text"], "could ask")
        pages_only = Server(self)
        pages_only.initialize("2025-11-25", {"elicitation": {"url": {}}})
        self.assertEqual(pages_only.call("test_ask_if_possible")["result"]["content"][0]["text"], "could not ask")
        older = Server(self)
        older.initialize("2025-03-26", {"elicitation": {}})  # that revision has none
        self.assertEqual(older.call("test_ask_if_possible")["result"]["content"][0]["text"], "could not ask")

    def test_questions_in_rounds(self):
        server = self.server()
        call = {"name": "test_two_questions", "arguments": {}}
        refused = server.ask("tools/call", call, modern=True)
        self.assertEqual((self.code(refused), refused["error"]["data"]), (-32021, {"requiredCapabilities": {"elicitation": {}}}))
        first = server.ask("tools/call", call, modern=True, elicitation={})["result"]
        self.assertEqual((first["resultType"], list(first["inputRequests"])), ("input_required", ["first"]))
        self.assertEqual(first["inputRequests"]["first"]["method"], "elicitation/create")
        self.assertNotIn("ttlMs", first)

        def retry(state, responses, **more):
            return server.ask("tools/call", {**call, "requestState": state, "inputResponses": responses, **more}, modern=True, elicitation={})
        word = lambda text: {"action": "accept", "content": {"word": text}}
        # An answer that is missing, or to what was not asked, is asked for again.
        for responses in ({}, {"second": word("early")}, {"first": "no object"}):
            self.assertEqual(list(retry(first["requestState"], responses)["result"]["inputRequests"]), ["first"])
        second = retry(first["requestState"], {"first": word("one")})["result"]
        self.assertEqual(list(second["inputRequests"]), ["second"])
        done = retry(second["requestState"], {"second": word("two")})["result"]
        self.assertEqual((done["resultType"], done["content"][0]["text"]), ("complete", "one two"))
        # Answers without the state are no answers; a state that is not ours, or of another call, is refused.
        again = server.ask("tools/call", {**call, "inputResponses": {"first": word("one")}}, modern=True, elicitation={})["result"]
        self.assertEqual(list(again["inputRequests"]), ["first"])
        state = first["requestState"]
        for bad in (state[:-4] + "AAA=", "x" + state, "nonsense", "", 1, state.split(".")[0] + "."):
            self.assertEqual(self.code(retry(bad, {"first": word("one")})), -32602, bad)
        self.assertEqual(self.code(retry(state, {}, name="test_elicitation", arguments={"message": "x"})), -32602)
        self.assertEqual(self.code(retry(state, {}, arguments={"other": 1})), -32602)
        other = Server(self)  # another process has another key
        self.assertEqual(self.code(other.ask("tools/call", {**call, "requestState": state}, modern=True, elicitation={})), -32602)

    def test_subscriptions(self):
        server = self.server()
        uri = "test://watched-resource"
        for bad in ({}, {"notifications": []}, {"notifications": {"resourcesListChanged": 1}}, {"notifications": {"resourceSubscriptions": "x"}}, {"notifications": {"resourceSubscriptions": [1]}}):
            self.assertEqual(self.code(server.ask("subscriptions/listen", bad, modern=True)), -32602, bad)
        wanted = {"resourcesListChanged": True, "toolsListChanged": True, "promptsListChanged": False, "resourceSubscriptions": [uri]}
        server.request("subscriptions/listen", {"notifications": wanted}, id="s", modern=True)
        accepted = server.read()
        self.assertEqual(accepted["method"], "notifications/subscriptions/acknowledged")
        self.assertEqual(accepted["params"], {"notifications": {"resourcesListChanged": True, "resourceSubscriptions": [uri]}, "_meta": {PREFIX + "subscriptionId": "s"}})
        server.call("test_touch", {"uri": "test://other"}, modern=True)
        server.call("test_touch", {"uri": uri}, modern=True)
        self.assertEqual([one["method"].split("/", 1)[1] for one in server.others], ["resources/list_changed", "resources/updated", "resources/list_changed"])
        self.assertTrue(all(one["params"]["_meta"] == {PREFIX + "subscriptionId": "s"} for one in server.others))
        server.others.clear()
        server.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "s"}})
        server.call("test_touch", {"uri": uri}, modern=True)
        self.assertEqual(server.others, [])
        # What asks for nothing that there is ends at once.
        done = server.ask("subscriptions/listen", {"notifications": {"toolsListChanged": True}}, id="none", modern=True)["result"]
        self.assertEqual((done["resultType"], done["_meta"][PREFIX + "subscriptionId"]), ("complete", "none"))
        self.assertEqual(server.next()["params"]["notifications"], {})
        for i in range(65):
            server.request("subscriptions/listen", {"notifications": {"resourcesListChanged": True}}, id=f"s{i}", modern=True)
        self.assertEqual(self.code(server.answer("s64")), -32603)
        # A server that is stopped ends them in good order.
        server.process.send_signal(signal.SIGTERM)
        for i in range(64):
            self.assertEqual(server.answer(f"s{i}")["result"]["_meta"][PREFIX + "subscriptionId"], f"s{i}")
        self.assertEqual(server.process.wait(), 0)

    def test_logging(self):
        server = self.server()
        call = {"name": "test_tool_with_logging"}
        server.ask("tools/call", call, modern=True)
        self.assertEqual(server.others, [])  # not asked for
        server.ask("tools/call", {**call, "_meta": {PREFIX + "logLevel": "info"}}, modern=True)
        self.assertEqual([one["params"]["level"] for one in server.others], ["info"] * 3)
        server.others.clear()
        server.initialize()
        server.ask("logging/setLevel", {"level": "warning"})
        server.ask("tools/call", call)
        self.assertEqual(server.others, [])

    def test_end_of_input(self):
        for sockets in (False, True):
            server = self.server(sockets=sockets, version="2025-11-25")
            for i in range(3):
                server.request("tools/call", {"name": "test_wait", "arguments": {"gate": "never"}}, id=f"w{i}")
            server.call("test_await_waiting", {"gate": "never", "count": 3})
            self.assertEqual(server.end(), 0)
            self.assertEqual(server.stdout.read(), b"")
        self.assertEqual(self.server().end(), 0)
        half = self.server()
        half.write('{"jsonrpc":"2.0","id":1,"method":"ping"}')  # without its end: no message
        self.assertEqual(half.end(), 0)
        self.assertEqual(half.stdout.read(), b"")

    def test_answers_before_the_end_of_input(self):
        server = self.server()
        server.write("".join(json.dumps({"jsonrpc": "2.0", "id": i, "method": "ping"}) + "\n" for i in range(500)))
        server.stdin.close()
        self.assertEqual(len(server.stdout.readlines()), 500)
        self.assertEqual(server.process.wait(), 0)

    def test_signals(self):
        for sent in ([signal.SIGTERM], [signal.SIGINT], [signal.SIGINT, signal.SIGTERM]):
            server = self.server(version="2025-11-25")
            server.request("tools/call", {"name": "test_wait", "arguments": {"gate": "never"}}, id="w")
            server.call("test_await_waiting", {"gate": "never", "count": 1})
            for one in sent:
                server.process.send_signal(one)
            self.assertEqual(server.process.wait(), 0)
            self.assertEqual(server.stdout.read(), b"")

    def test_a_handler_that_hears_of_nothing(self):
        server = self.server("100", "1", version="2025-11-25")
        server.request("tools/call", {"name": "test_deaf"}, id="d")
        server.call("test_await_waiting", {"gate": "deaf", "count": 1})
        self.assertEqual(server.end(), 0)
        self.assertIn(b"left behind", server.process.stderr.read())

    def test_nobody_reads(self):
        for sockets in (False, True):
            server = self.server(sockets=sockets, version="2025-11-25")
            server.request("tools/call", {"name": "test_wait", "arguments": {"gate": "never"}}, id="w")
            server.call("test_await_waiting", {"gate": "never", "count": 1})
            if sockets:
                server.stdout.close()
                server.sockets[1].close()
            else:
                server.stdout.close()  # heard of without a write
            self.assertEqual(server.process.wait(), 0)
        writing = self.server(version="2025-11-25")
        for i in range(3):
            writing.request("tools/call", {"name": "test_bytes", "arguments": {"count": 1_000_000}}, id=f"b{i}")
        self.assertIn(b"xxx", writing.stdout.read(10_000))  # in the middle of a line
        writing.stdout.close()
        self.assertEqual(writing.process.wait(), 0)

    def test_a_slow_reader(self):
        for sockets in (False, True):
            server = self.server(sockets=sockets, version="2025-11-25")
            for i in range(20):  # more than any pipe holds; nothing is read meanwhile
                server.request("tools/call", {"name": "test_bytes", "arguments": {"count": 1_000_000}}, id=f"b{i}")
            for i in range(200):
                server.request("ping", id=f"p{i}")
            for i in range(20):
                self.assertEqual(len(server.answer(f"b{i}")["result"]["content"][0]["text"]), 1_000_000)
            for i in range(200):
                self.assertEqual(server.answer(f"p{i}")["result"], {})
            self.assertEqual(server.end(), 0)

    def test_descriptors_of_the_parent(self):
        # The descriptors are shared with whoever else has them: they keep their flags.
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        self.addCleanup(os.close, writer)
        process = ends_with(self, subprocess.Popen([SERVER], stdin=subprocess.PIPE, stdout=writer))
        process.stdin.write(b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
        process.stdin.flush()
        self.assertEqual(json.loads(os.read(reader, 1000))["result"], {})
        self.assertTrue(os.get_blocking(writer))


if __name__ == "__main__":
    unittest.main()
