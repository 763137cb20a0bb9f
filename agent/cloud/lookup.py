"""[cloud] Name lookups that cannot pile up: at most one thread per name waits for a resolver that does not answer.

getaddrinfo cannot be cancelled, and a dead resolver holds it for tens of seconds. A later caller joins the lookup that
is under way instead of starting another; the thread never delays the end of the process. Keeps no answers.
"""

import asyncio
import socket
import threading
from contextlib import suppress

from aiohttp.abc import AbstractResolver, ResolveResult

Found = list[ResolveResult] | OSError


class Lookup(AbstractResolver):
    """aiohttp's resolver over the system's. Raises OSError (gaierror) as getaddrinfo does."""

    def __init__(self) -> None:
        self._asked: dict[tuple[str, int, int], asyncio.Future[Found]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The host's addresses. Cancelling it leaves the lookup to the next caller."""
        key = (host, port, int(family))
        asked = self._asked.get(key)
        if asked is None:
            asked = self._asked[key] = self._ask(key)
        found = await asyncio.shield(asked)
        if isinstance(found, OSError):
            raise found
        return found

    async def close(self) -> None:
        """Nothing to release: a thread still waiting ends by itself, unheard."""

    def _ask(self, key: tuple[str, int, int]) -> asyncio.Future[Found]:
        loop = asyncio.get_running_loop()
        asked: asyncio.Future[Found] = loop.create_future()

        def settle(found: Found) -> None:
            del self._asked[key]
            if not asked.done():
                asked.set_result(found)

        def wait() -> None:
            found = _addresses(*key)
            with suppress(RuntimeError):  # the loop may be closed by now
                loop.call_soon_threadsafe(settle, found)

        threading.Thread(target=wait, name=f"lookup-{key[0]}", daemon=True).start()
        return asked


def _addresses(host: str, port: int, family: int) -> Found:
    try:
        infos = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    except OSError as error:
        return error
    except UnicodeError:
        return socket.gaierror(socket.EAI_NONAME, "not a name")
    return [
        ResolveResult(
            hostname=host,
            host=str(address[0]),
            port=int(address[1]),
            family=found_family,
            proto=proto,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )
        for found_family, _, proto, _, address in infos
    ]
