"""A model that follows a script, at a loopback address: in place of the one a chat host would ask. It speaks what the three hosts speak:
Anthropic's Messages, OpenAI's Responses and OpenAI's Chat Completions, all as event streams."""
import http.server
import json
import threading
import traceback


class ScriptedModel:
    """`script` is a generator function: it yields (tool, arguments) and is sent the text that the host shows its model for it; what it
    returns is the model's last words. A tool is named as the server has it; the host's own prefix is found in what it offers."""

    def __init__(self, script):
        self.lock = threading.Lock()
        self.script = script()
        self.step = next(self.script)
        self.call_id = None
        self.calls = 0
        self.last_words = None
        self.error = None
        self.offered = []
        self.requests = []
        model = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self, content_type, body, status=200):
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_HEAD(self):
                self.answer("text/plain", b"")

            def do_GET(self):
                self.answer("application/json", b'{"object": "list", "data": []}')

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
                path = self.path.partition("?")[0]
                dialect = next((dialect for end, dialect in DIALECTS.items() if path.endswith(end)), None)
                if dialect is None:
                    return self.answer("application/json", b"{}", 404)
                with model.lock:
                    model.requests.append((path, body))
                    try:
                        events = model.answer(dialect, body)
                    except Exception:  # the script's own checks among them: whoever runs the host sees it afterwards
                        model.error = model.error or traceback.format_exc()
                        return self.answer("application/json", b'{"error": {"message": "the script failed"}}', 400)
                self.answer("text/event-stream", "".join(events).encode())

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, dialect, body):
        offered = dialect.offered(body)
        if self.call_id is not None and (result := dialect.result(body, self.call_id)) is not None:
            self.call_id = None
            try:
                self.step = self.script.send(result)
            except StopIteration as end:
                self.step, self.last_words = None, end.value or "done"
        if self.step is None:
            return dialect.say(self.last_words)
        tool, arguments = self.step
        name = next((name for name in offered if name == tool or name.endswith("_" + tool)), None)
        if name is None:  # a request beside the conversation, for a title or the like
            return dialect.say("a title")
        self.offered = offered
        if self.call_id is None:
            self.calls += 1
            self.call_id = f"call_{self.calls}"
        return dialect.call(self.call_id, name, arguments, body)


def text_of(content):
    """Text out of whatever form a host wraps it in."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content if isinstance(part, dict))


def events(*each):
    return [f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in each]


class Messages:
    @staticmethod
    def offered(body):
        return [tool["name"] for tool in body.get("tools", [])]

    @staticmethod
    def result(body, call_id):
        for message in body["messages"]:
            for part in message["content"] if isinstance(message["content"], list) else []:
                if part["type"] == "tool_result" and part["tool_use_id"] == call_id:
                    return text_of(part["content"])
        return None

    @staticmethod
    def message(block, deltas, reason):
        start = {"id": "msg", "type": "message", "role": "assistant", "model": "scripted", "content": [], "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}
        return events({"type": "message_start", "message": start}, {"type": "content_block_start", "index": 0, "content_block": block},
                      *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas), {"type": "content_block_stop", "index": 0},
                      {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": {"output_tokens": 1}}, {"type": "message_stop"})

    @classmethod
    def say(cls, text):
        return cls.message({"type": "text", "text": ""}, [{"type": "text_delta", "text": text}], "end_turn")

    @classmethod
    def call(cls, call_id, name, arguments, _):
        return cls.message({"type": "tool_use", "id": call_id, "name": name, "input": {}}, [{"type": "input_json_delta", "partial_json": json.dumps(arguments)}], "tool_use")


class Responses:
    @staticmethod
    def tools(body):
        """Each with the namespace it is offered in."""
        for tool in body.get("tools", []):
            if tool["type"] == "namespace":
                yield from ((inner["name"], tool["name"]) for inner in tool["tools"])
            elif "name" in tool:
                yield tool["name"], None

    @classmethod
    def offered(cls, body):
        return [name for name, _ in cls.tools(body)]

    @staticmethod
    def result(body, call_id):
        for item in body["input"]:
            if item.get("type") == "function_call_output" and item["call_id"] == call_id:
                return text_of(item["output"])
        return None

    @staticmethod
    def response(item):
        done = {"id": "resp", "object": "response", "status": "completed", "model": "scripted", "output": [item], "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}}
        return events({"type": "response.created", "response": {"id": "resp", "object": "response", "status": "in_progress", "output": []}},
                      {"type": "response.output_item.added", "output_index": 0, "item": item}, {"type": "response.output_item.done", "output_index": 0, "item": item},
                      {"type": "response.completed", "response": done})

    @classmethod
    def say(cls, text):
        return cls.response({"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [{"type": "output_text", "text": text, "annotations": []}]})

    @classmethod
    def call(cls, call_id, name, arguments, body):
        namespace = dict(cls.tools(body))[name]
        return cls.response({"type": "function_call", "id": f"f{call_id}", "call_id": call_id, "name": name, "arguments": json.dumps(arguments), "status": "completed",
                             **({"namespace": namespace} if namespace else {})})


class ChatCompletions:
    @staticmethod
    def offered(body):
        return [tool["function"]["name"] for tool in body.get("tools", [])]

    @staticmethod
    def result(body, call_id):
        return next((text_of(message["content"]) for message in body["messages"] if message["role"] == "tool" and message["tool_call_id"] == call_id), None)

    @staticmethod
    def chunks(delta, reason):
        head = {"id": "chat", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
        each = [{**head, "choices": [{"index": 0, "delta": {"role": "assistant", **delta}, "finish_reason": None}]},
                {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}]
        return [f"data: {json.dumps(one)}\n\n" for one in each] + ["data: [DONE]\n\n"]

    @classmethod
    def say(cls, text):
        return cls.chunks({"content": text}, "stop")

    @classmethod
    def call(cls, call_id, name, arguments, _):
        return cls.chunks({"tool_calls": [{"index": 0, "id": call_id, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}]}, "tool_calls")


DIALECTS = {"/v1/messages": Messages, "/responses": Responses, "/chat/completions": ChatCompletions}
