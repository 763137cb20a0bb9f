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
ANSWER_BYTES_MAX: Final = 65_536


def post(directory: Path, path: str, body: dict[str, Any]) -> None:
    """Send one request; returns when it is done. Raises Held without an agent, Rejected with its words otherwise."""
    way = HTTPConnection("localhost", timeout=ANSWER_S_MAX)
    way.sock = socket(AF_UNIX, SOCK_STREAM)
    way.sock.settimeout(ANSWER_S_MAX)
    try:
        way.sock.connect(str(directory / SOCKET_NAME))
        way.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
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
    if answer.status != 204:
        raise _refused(answer.status, text)


def _refused(status: int, text: bytes) -> Rejected:
    try:
        problem = json.loads(text)
        return Rejected("refused", str(problem.get("detail") or problem.get("title")))
    except (ValueError, AttributeError):
        return Rejected("refused", f"The agent answered {status}.")
