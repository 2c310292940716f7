"""An endpoint that speaks OpenAI's chat protocol and answers as a test wants it to."""

import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

Body = dict[str, Any]


def completion(text: str, likeliest: dict[str, float] | None = None) -> Body:
    """A chat completion of this text, with log-probabilities of its first token's alternatives."""
    top = [{"token": token, "logprob": logp, "bytes": None} for token, logp in (likeliest or {}).items()]
    first = {"token": text, "logprob": 0.0, "bytes": None, "top_logprobs": top}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "judge",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": text},
                "logprobs": {"content": [first]} if likeliest else None,
            }
        ],
        "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
    }


@dataclass
class Reply:
    """What goes back: a status, a body (JSON where it is no text), headers; ``drop`` closes the connection instead."""

    body: Body | str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False


@dataclass
class Judge:
    """The running endpoint; ``asked`` are the requests that it heard."""

    url: str = ""
    port: int = 0
    asked: list[Body] = field(default_factory=list)


@contextlib.contextmanager
def serving(answer: Callable[[int, Body], Reply], port: int = 0) -> Iterator[Judge]:
    """``answer`` is called with a request's number and body, one at a time."""
    judge, lock = Judge(), threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                reply = answer(len(judge.asked), body)
                judge.asked.append(body)
            if reply.drop:
                self.close_connection = True
                return
            content = (reply.body if isinstance(reply.body, str) else json.dumps(reply.body)).encode()
            self.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    judge.port, judge.url = server.server_port, f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()
