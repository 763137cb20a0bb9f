"""pages → [web: paper] → people. What all pages share: one frame, one style, one script, one policy, text escaped.

Never decides what a page says.
"""

from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import aiohttp_jinja2
import jinja2
from aiohttp import web

from agent.core.instants import local_time, to_ms
from agent.core.sessions import Session
from agent.core.status import Snapshot
from agent.web.guard import POLICY, policy

PAGES: Final = Path(__file__).parent / "pages"
LOADER: Final = jinja2.FileSystemLoader(PAGES)


def _hash_of(name: str) -> str:
    """A file of ours, as the policy names what stands within a page: jinja drops the line break at its end."""
    text = (PAGES / name).read_text(encoding="utf-8").removesuffix("\n")
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


STYLE_HASH: Final = _hash_of("style.css")
SCRIPT_HASH: Final = _hash_of("countdown.js")


def set_up(app: web.Application) -> None:
    """Have the application render our pages."""
    aiohttp_jinja2.setup(app, loader=LOADER, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)


class Paper:
    """One answer to one person, by one snapshot."""

    def __init__(self, request: web.Request, snapshot: Snapshot) -> None:
        self._request = request
        self._snapshot = snapshot
        self._zone = ZoneInfo(snapshot.details.timezone)
        self.now_ms = to_ms(snapshot.status.time)

    def local(self, at: str) -> str:
        """An instant as people at the venue say it."""
        return local_time(at, self._zone, self.now_ms)

    def show(
        self,
        name: str,
        *,
        status_code: int = 200,
        refresh_s: int | None = None,
        session: Session | None = None,
        forms: bool = False,
        script: bool = False,
        **said: Any,
    ) -> web.Response:
        """The page `name`; `session` is the reader's, `forms` and `script` tell whether it has any."""
        context: dict[str, Any] = {
            "details": self._snapshot.details,
            "local": self.local,
            "refresh_s": refresh_s,
            "session": session,
            "script": script,
            **said,
        }
        answer = aiohttp_jinja2.render_template(name, self._request, context, status=status_code)
        with_forms = forms or session is not None
        answer.headers[POLICY] = policy(STYLE_HASH, script_hash=SCRIPT_HASH if script else "", forms=with_forms)
        return answer
