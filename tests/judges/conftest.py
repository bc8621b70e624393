"""A scripted OpenAI-compatible server, for the cases in which a real one misbehaves."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

Script = Callable[["ScriptedServer", int, str], object]
"""`script(server, request number, text of the user message)`: a score, a string to say, or one of the actions below."""


class Status(tuple[int, str, dict[str, str]]):
    """Answer with `(status, message, headers)`."""


class Hang(float):
    """Say nothing for so many seconds."""


class Drip(float):
    """Send one byte at a time, for so many seconds."""


class Die:
    """Send half of a reply and close the connection."""


class Raw(str):
    """Send this body instead of a chat completion."""


class ScriptedServer:
    def __init__(self, script: Script) -> None:
        self.script = script
        self.seen: list[str] = []
        self.bodies: list[dict[str, object]] = []
        self.under_way = self.most_under_way = 0
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"owner": self}))
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def take(self, body: dict[str, object]) -> object:
        text = body["messages"][1]["content"]  # type: ignore[index]
        with self._lock:
            self.seen.append(text)
            self.bodies.append(body)
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
            number = len(self.seen)
        return self.script(self, number, text)

    def leave(self) -> None:
        with self._lock:
            self.under_way -= 1

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()


class _Handler(BaseHTTPRequestHandler):
    owner: ScriptedServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        action = self.owner.take(body)
        try:
            self._act(action)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            self.owner.leave()

    def _act(self, action: object) -> None:
        match action:
            case Status():
                status, message, headers = action
                self._send(
                    status, json.dumps({"error": {"message": message.replace("{key}", self.headers["Authorization"])}}), headers
                )
            case Hang():
                time.sleep(action)
                self.close_connection = True
            case Drip():
                self._send(200, "", {}, length=10_000)
                for _ in range(int(action / 0.02)):
                    self.wfile.write(b" ")
                    time.sleep(0.02)
                self.close_connection = True
            case Die():
                self._send(200, completion("3")[:40], {}, length=400)
                self.close_connection = True
            case Raw():
                self._send(200, action, {})
            case str():
                self._send(200, completion(action), {})
            case _:
                self._send(200, completion(json.dumps({"reason": "because", "score": action})), {})

    def _send(self, status: int, body: str, headers: dict[str, str], length: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body.encode()) if length is None else length))
        self.end_headers()
        self.wfile.write(body.encode())
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        return


def completion(text: str, finish_reason: str = "stop") -> str:
    """A chat completion of 100 prompt and 20 completion tokens."""
    return json.dumps(
        {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [{"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
        }
    )


@pytest.fixture
def serve() -> Iterator[Callable[[Script], ScriptedServer]]:
    """Starts servers, and stops them after the test."""
    servers: list[ScriptedServer] = []

    def start(script: Script) -> ScriptedServer:
        servers.append(ScriptedServer(script))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
