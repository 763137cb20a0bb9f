"""[box] A real box for the cases: `nightsafe run` in a folder of its own, open to any device, on loopback.

Its cloud is away for ever: the contract with devices does not depend on it.
"""

import asyncio
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

from agent.tills.children import Child, any_free

START_MAX_S: Final = 30.0
"""Until it can store a record."""
LOOK_S: Final = 0.1
RESEND_S: Final = 0.5
"""Age of a hole at which this box asks; a venue's box waits two seconds."""


class Box:
    """Start it, restart it, stop it. `port` is where its gate listens."""

    def __init__(self, directory: Path) -> None:
        """Takes ports and writes the settings; starts nothing."""
        self.port = any_free()
        self._page = any_free(frozenset({self.port}))
        config = directory / "nightsafe.toml"
        config.write_text(_settings(directory, self.port, self._page), encoding="utf-8")
        command = [sys.executable, "-m", "agent", "run", "--config", str(config)]
        self._child = Child("The box", command, directory / "agent.log", restarts=False)

    async def start(self) -> None:
        """Returns when it is ready. ChildFailed when it does not come up."""
        self._child.start()
        loop = asyncio.get_running_loop()
        end_s = loop.time() + START_MAX_S
        while not await asyncio.to_thread(self._is_ready):
            if not self._child.alive or loop.time() > end_s:
                raise self._child.failure("did not come up")
            await asyncio.sleep(LOOK_S)

    async def restart(self) -> None:
        """Kill it as a power cut would, and start it again."""
        await asyncio.to_thread(self._child.kill)
        await self.start()

    async def stop(self) -> None:
        """End it in order."""
        await asyncio.to_thread(self._child.stop)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._page}/readyz", timeout=1.0) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def _settings(directory: Path, port: int, page: int) -> str:
    return f"""# Written by `nightsafe conform`.
[venue]
id = "conform"
name = "Conform"
location = "desk"

[state]
directory = "{directory / "state"}"

[gate]
listen = ["127.0.0.1:{port}"]

[devices]
open = true

[intake]
gap_resend_s = {RESEND_S}

[cloud]
url = "http://127.0.0.1:9"

[web]
listen = "127.0.0.1:{page}"
"""
