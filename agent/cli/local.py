"""[cli] → web → agent. Asks the running agent to do something, over its Unix socket."""

import json
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket
from typing import Any, Final

from agent.core.errors import Held, Rejected
from agent.core.status import SOCKET_NAME

ANSWER_S_MAX: Final = 10.0
"""How long the agent may take to answer, in seconds."""
ANSWER_BYTES_MAX: Final = 1_048_576


def post(directory: Path, path: str, body: dict[str, Any]) -> None:
    """Have something done; returns when it is. Raises Held without an agent, Rejected with its words otherwise."""
    ask(directory, "POST", path, body)


def ask(directory: Path, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """One request; returns what is told, None where there is nothing to tell. Raises as `post` does."""
    way = HTTPConnection("localhost", timeout=ANSWER_S_MAX)
    way.sock = socket(AF_UNIX, SOCK_STREAM)
    way.sock.settimeout(ANSWER_S_MAX)
    try:
        way.sock.connect(str(directory / SOCKET_NAME))
        if method == "GET":  # a body that nobody reads may cut off the answer
            way.request(method, path)
        else:
            way.request(method, path, json.dumps(body or {}), {"Content-Type": "application/json"})
        answer = way.getresponse()
        text = answer.read(ANSWER_BYTES_MAX)
    except (OSError, HTTPException) as error:
        raise Held(
            "no_agent",
            f"No agent answers in {directory}: {error}.",
            "Start it (`systemctl start nightsafe`), then repeat.",
        ) from error
    finally:
        way.close()
    if answer.status == 204:
        return None
    if answer.status != 200:
        raise _refused(answer.status, text)
    return json.loads(text)


def _refused(status: int, text: bytes) -> Rejected:
    try:
        problem = json.loads(text)
        return Rejected("refused", str(problem.get("detail") or problem.get("title")))
    except (ValueError, AttributeError):
        return Rejected("refused", f"The agent answered {status}.")
