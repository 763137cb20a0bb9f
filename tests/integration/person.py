"""A person at the page, as a browser without scripts would do it: follows forms, keeps cookies, says where it is."""

import html
import json
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPMessage
from typing import IO, Any, NamedTuple

from tests.integration.machine import Box
from tests.tools import needs

PIN = "493817"
ATTRIBUTE = re.compile(r'([a-z]+)(?:="([^"]*)")?')


class Seen(NamedTuple):
    """An answer."""

    status: int
    headers: HTTPMessage
    text: str

    @property
    def where(self) -> str:
        """Where the browser is sent."""
        return str(self.headers["Location"])

    def form(self, action: str, nth: int = 0) -> dict[str, str]:
        """The fields of a form, with the values that the page gave them."""
        forms = re.findall(rf'<form method="post" action="{re.escape(action)}">(.*?)</form>', self.text, re.DOTALL)
        assert len(forms) > nth, f"no form to {action} on the page:\n{self.text}"
        inputs = [dict(ATTRIBUTE.findall(one)) for one in re.findall(r"<input ([^>]*)>", forms[nth])]
        sent = [one for one in inputs if one.get("type") != "checkbox" or "checked" in one]
        return {one["name"]: html.unescape(one.get("value", "")) for one in sent}


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


class Person:
    """Over TLS unless `scheme` says otherwise."""

    def __init__(self, box: Box, scheme: str = "https", host: str = "127.0.0.1") -> None:
        self.base = f"{scheme}://{host}:{box.pages[scheme]}"
        self.cookies: dict[str, str] = {}
        blind = ssl.create_default_context()
        blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
        self._opener = urllib.request.build_opener(_Stay, urllib.request.HTTPSHandler(context=blind))

    def ask(self, method: str, path: str, form: dict[str, str] | None = None, **headers: str | None) -> Seen:
        """One request; a header given as None is left out."""
        body = None if form is None else urllib.parse.urlencode(form).encode()
        return self._ask(method, path, body, **headers)

    def say(self, path: str, body: Any, **headers: str | None) -> Seen:
        """POST JSON, as a script of a page would."""
        return self._ask("POST", path, json.dumps(body).encode(), **{"Content_Type": "application/json"} | headers)

    def _ask(self, method: str, path: str, body: bytes | None, **headers: str | None) -> Seen:
        said: dict[str, str | None] = {"Origin": self.base, "Sec-Fetch-Site": "same-origin"} if body is not None else {}
        said |= {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookies:
            said.setdefault("Cookie", "; ".join(f"{name}={value}" for name, value in self.cookies.items()))
        given = {name: value for name, value in said.items() if value is not None}
        request = urllib.request.Request(self.base + path, body, given, method=method)
        try:
            with self._opener.open(request, timeout=20) as answer:
                seen = Seen(answer.status, answer.headers, answer.read().decode())
        except urllib.error.HTTPError as error:
            seen = Seen(error.code, error.headers, error.read().decode())
        for line in seen.headers.get_all("Set-Cookie", []):
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value.strip('"')
            if not self.cookies[name]:
                del self.cookies[name]
        return seen

    def look(self, path: str, **headers: str | None) -> Seen:
        return self.ask("GET", path, **headers)

    def send(self, path: str, form: dict[str, str], **headers: str | None) -> Seen:
        return self.ask("POST", path, form, **headers)

    def log_in(self, pin: str = PIN) -> Seen:
        return self.send("/login", {"pin": pin})

    def press(self, page: str, action: str, *, nth: int = 0, **typed: str) -> Seen:
        """Send the form of a page, with what was typed into it."""
        return self.send(action, self.look(page).form(action, nth) | typed)


def write_pin(box: Box, pin: str = PIN, mode: int = 0o600) -> None:
    """Into the file that the settings of `paged` name."""
    path = box.directory / "pin"
    path.write_text(f"{pin}\n")
    path.chmod(mode)


@contextmanager
def page_box() -> Iterator[Box]:
    """A running box of paired devices whose page acts for who knows `PIN`, which it never logs."""
    needs("mosquitto")
    page = {"listen_tls": "127.0.0.1:0", "pin_file": "pin"}
    box = Box(settings={"devices": {"open": False}, "web": page, "gate.tls": {}})
    write_pin(box)
    try:
        yield box.start()
        assert PIN not in box.text
        assert "Traceback" not in box.text
    finally:
        box.close()
