"""outbox → [webhook] → support's own service. Posts a letter's facts as JSON, and nothing else.

Redirects are not followed, answers are bounded and not read for more than their status. Never sends the cloud's token.
"""

import ssl
from typing import Final

import aiohttp
import msgspec

from agent.cloud.lookup import Lookup
from agent.cloud.probe import words_of
from agent.core.errors import Rejected, Transient
from agent.core.letters import Letter, message_id

TIMEOUT_S: Final = 30.0
LATER: Final = frozenset({408, 425, 429})
"""Statuses below 500 after which a later try may succeed."""


class Webhook:
    """Posts to each letter's URL. `tls` overrides the system's trust store."""

    def __init__(self, venue: str, tls: ssl.SSLContext | None = None) -> None:
        self._venue = venue
        self._tls = tls

    async def send(self, letter: Letter) -> str:
        """Returns after a 2xx answer, with its status.

        Raises Transient where a later try may succeed, Rejected where it never will.
        """
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "nightsafe",
            "Idempotency-Key": message_id(self._venue, letter.key).strip("<>"),
        }
        connector = aiohttp.TCPConnector(ssl=True if self._tls is None else self._tls, resolver=Lookup())
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        body = msgspec.json.encode(letter.facts)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.post(letter.to, data=body, headers=headers, allow_redirects=False) as answer,
            ):
                status = answer.status
        except (aiohttp.ClientError, OSError, ValueError) as error:
            text = f"The webhook was not reached: {words_of(error)}."
            raise Transient("webhook_away", text, "It is tried again by itself.") from error
        if 200 <= status < 300:
            return f"status {status}"
        said = f"The webhook answers {status}."
        if status >= 500 or status in LATER:
            raise Transient("webhook_later", said, "It is tried again by itself.")
        raise Rejected("webhook_refused", said, "Look at webhook_url in [alerts].")
