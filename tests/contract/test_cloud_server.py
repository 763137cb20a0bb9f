"""The cloud contract's journal part over real HTTP: each answer that a box may meet, and what it leaves behind."""

import asyncio
import gzip
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from agent.cloud import wire
from agent.core.chain import ORIGIN, rechash
from agent.core.errors import SettingsInvalid
from agent.receiver import bodies, server
from agent.receiver.export import Show, lines
from agent.receiver.ledger import Ledger
from agent.receiver.ledger.urls import open_ledger, open_reader
from agent.receiver.server import DEFAULT_LIMITS, Receiver, serving
from agent.receiver.tokens import Tokens

ONE, TWO = (f"0199c0de-0000-7000-8000-00000000000{n}" for n in (1, 2))
WHEN = "2026-11-22T10:15:00.131Z"
ZERO = ORIGIN.hex()


class Answer(NamedTuple):
    status: int
    headers: Any
    body: Any


class Cloud:
    """A running server and a box's side of the conversation."""

    def __init__(self, url: str, session: aiohttp.ClientSession, ledger: Ledger, ledger_url: str) -> None:
        self.url, self.session, self.ledger, self.ledger_url = url, session, ledger, ledger_url

    async def call(self, method: str, path: str, **more: Any) -> Answer:
        """One request; its answer is checked for what every answer must be."""
        async with self.session.request(method, self.url + path, allow_redirects=False, **more) as answer:
            raw = await answer.read()
        media = answer.headers["Content-Type"].partition(";")[0]
        assert media == (wire.JSON_TYPE if answer.status < 300 else wire.PROBLEM_TYPE)
        body = json.loads(raw)
        if answer.status >= 300:
            problem = wire.read_problem(media, raw)
            assert problem.type.startswith("urn:nightsafe:")
            assert problem.status == answer.status
            assert problem.title
            assert problem.detail
        return Answer(answer.status, answer.headers, body)

    async def open(self, epoch: str = ONE, instance: str = "i1", **more: Any) -> Answer:
        body = {"epoch": epoch, "parent": None, "instance": instance, "reason": "created"} | more
        return await self.call("POST", "/v1/venues/demo/streams", json=body)

    async def stream(self, epoch: str = ONE) -> Any:
        return (await self.call("GET", f"/v1/venues/demo/streams/{epoch}")).body

    async def put(
        self,
        records: list[wire.Record],
        prevhash: bytes = ORIGIN,
        *,
        body: bytes | None = None,
        encoding: str | None = "gzip",
        at: str | None = None,
        epoch: str = ONE,
        instance: str = "i1",
        base64: bool = False,
        headers: dict[str, str | None] | None = None,
    ) -> Answer:
        """PUT records as a good box would, but for what is given."""
        body = wire.encode_batch("demo", epoch, records, base64) if body is None else body
        body = gzip.compress(body, 1) if encoding == "gzip" else body
        sent: dict[str, str | None] = {
            "Content-Type": wire.BATCH_TYPE,
            "Content-Encoding": encoding,
            "Content-Digest": wire.content_digest(body),
            "Nightsafe-Instance": instance,
            "Nightsafe-Prevhash": prevhash.hex(),
        }
        sent |= headers or {}
        at = at or f"{records[0].sequence}-{records[-1].sequence}"
        real = {name: value for name, value in sent.items() if value is not None}
        skip = {"Content-Type"} if sent["Content-Type"] is None else None
        path = f"/v1/venues/demo/streams/{epoch}/records/{at}"
        return await self.call("PUT", path, data=body, headers=real, skip_auto_headers=skip)

    async def hole(
        self, at: str, prevhash: bytes, last: bytes, instance: str = "i1", wrong: dict[str, Any] | None = None
    ) -> Answer:
        body = {"reason": "retention", "prevhash": prevhash.hex(), "rechash": last.hex()} | (wrong or {})
        path = f"/v1/venues/demo/streams/{ONE}/holes/{at}"
        return await self.call("PUT", path, json=body, headers={"Nightsafe-Instance": instance})

    async def exported(self, show: Show = "records") -> list[Any]:
        """The export's lines, parsed."""
        return [json.loads(line) for line in await self.exported_lines(show)]

    async def exported_lines(self, show: Show = "records") -> list[bytes]:
        reader = await open_reader(self.ledger_url)
        try:
            text = b"".join([chunk async for chunk in lines(reader, "demo", show)])
        finally:
            await reader.close()
        assert text == b"" or text.endswith(b"\n")
        return text.split(b"\n")[:-1]


@asynccontextmanager
async def running(
    tmp_path: Path, tokens: Tokens | None = None, limits: wire.Limits = DEFAULT_LIMITS
) -> AsyncIterator[Cloud]:
    ledger_url = f"sqlite:{tmp_path}/ledger.db"
    ledger = await open_ledger(ledger_url)
    try:
        async with (
            serving(Receiver(ledger, tokens, limits), "127.0.0.1", 0) as url,
            aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=20)) as session,
        ):
            yield Cloud(url, session, ledger, ledger_url)
    finally:
        await ledger.close()


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    async with running(tmp_path) as cloud:
        yield cloud


def event_of(sequence: int, word: str = "x") -> bytes:
    return b'{"specversion":"1.0","id":"%s-%d","type":"t","data":{"n":%d}}' % (word.encode(), sequence, sequence)


def record(sequence: int, prevhash: bytes, event: bytes, event_id: str, device: str = "till-1") -> wire.Record:
    seal = rechash(prevhash, sequence, WHEN, device, event)
    return wire.Record(sequence, WHEN, "synced", "boot-1", sequence, device, event_id, event, seal)


def chain(first: int, last: int, prevhash: bytes = ORIGIN, word: str = "x") -> list[wire.Record]:
    made = []
    for sequence in range(first, last + 1):
        made.append(record(sequence, prevhash, event_of(sequence, word), f"{word}-{sequence}"))
        prevhash = made[-1].rechash
    return made


def chain_of(events: list[tuple[bytes, str]]) -> list[wire.Record]:
    """One record for each (event, id)."""
    made: list[wire.Record] = []
    for sequence, (event, event_id) in enumerate(events, 1):
        made.append(record(sequence, made[-1].rechash if made else ORIGIN, event, event_id))
    return made


# Health, and who may speak


async def test_health_needs_no_token_and_counts_as_an_answer(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("secret\n")
    async with running(tmp_path, Tokens(tokens)) as cloud:
        answer = await cloud.call("GET", "/v1/health")
    assert answer.status == 200
    assert wire.read_answer(wire.HealthAnswer, wire.JSON_TYPE, json.dumps(answer.body).encode()).status == "pass"


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("Bearer wrong", 401),
        ("Basic b25l", 401),
        ("Bearer ", 401),
        ("Bearer any-venue", 404),
        ("bearer any-venue", 404),
        ("Bearer of-demo", 404),
        ("Bearer of-other", 403),
    ],
)
async def test_a_token_opens_its_venue_and_no_other(tmp_path: Path, header: str | None, status: int) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("# the fleet\nany-venue\ndemo of-demo\nother of-other # spare\n")
    async with running(tmp_path, Tokens(tokens)) as cloud:
        headers = {} if header is None else {"Authorization": header}
        answer = await cloud.call("GET", f"/v1/venues/demo/streams/{ONE}", headers=headers)
    assert answer.status == status
    assert ("WWW-Authenticate" in answer.headers) == (status == 401)


async def test_a_token_that_is_taken_from_the_file_is_good_no_more(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("old\n")
    tokens = Tokens(path)
    assert tokens.judge("old", "demo") == "ok"
    path.write_text("newer\n")
    assert (tokens.judge("old", "demo"), tokens.judge("newer", "demo")) == ("unauthorized", "ok")
    path.unlink()
    assert tokens.judge("newer", "demo") == "ok"


def test_a_file_without_a_token_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("# nothing yet\n\n")
    with pytest.raises(SettingsInvalid, match="holds no token"):
        Tokens(path)
    with pytest.raises(SettingsInvalid, match="cannot be read"):
        Tokens(tmp_path / "none")


async def test_on_loopback_no_token_is_asked_for(cloud: Cloud) -> None:
    assert (await cloud.call("GET", f"/v1/venues/demo/streams/{ONE}")).status == 404
    answer = await cloud.call("GET", f"/v1/venues/demo/streams/{ONE}", headers={"Authorization": "Bearer whatever"})
    assert answer.status == 404


# Streams


async def test_a_stream_is_opened_once_and_bound_again(cloud: Cloud) -> None:
    first = await cloud.open()
    assert first.status == 201
    facts = {"epoch": ONE, "next": 1, "head": ZERO, "safe": 0, "state": "open"}
    limits = {"records": 5000, "bytes": 8388608, "min_interval_s": 0.0}
    assert {name: first.body[name] for name in facts} == facts
    assert first.body["limits"] == limits
    assert first.body["time"].endswith("Z")
    again = await cloud.open(instance="i2")
    assert again.status == 200
    seen = await cloud.stream()
    for body in (again.body, seen):
        assert {**body, "time": ""} == {**first.body, "time": ""}


async def test_an_unknown_stream_is_no_stream_for_every_call(cloud: Cloud) -> None:
    made = chain(1, 2)
    answers = [
        await cloud.call("GET", f"/v1/venues/demo/streams/{ONE}"),
        await cloud.call("GET", f"/v1/venues/demo/streams/{ONE}/hash?at=0"),
        await cloud.put(made),
        await cloud.hole("1-2", ORIGIN, made[1].rechash),
    ]
    assert {(one.status, one.body["type"]) for one in answers} == {(404, "urn:nightsafe:no-stream")}


@pytest.mark.parametrize(
    "wrong", [{"epoch": "1"}, {"parent": {}}, {"instance": None}, {"reason": "why not"}, {"parent": "x"}]
)
async def test_opening_with_a_broken_body_is_malformed(cloud: Cloud, wrong: dict[str, Any]) -> None:
    answer = await cloud.open(**wrong)
    assert (answer.status, answer.body["type"]) == (400, "urn:nightsafe:malformed")


async def test_hashes_are_told_for_the_search_of_the_last_common_record(cloud: Cloud) -> None:
    await cloud.open()
    made = chain(1, 3)
    await cloud.put(made)
    for at, expected in ((0, ZERO), (1, made[0].rechash.hex()), (3, made[2].rechash.hex())):
        answer = await cloud.call("GET", f"/v1/venues/demo/streams/{ONE}/hash?at={at}")
        assert answer.body == {"sequence": at, "rechash": expected}
    beyond = await cloud.call("GET", f"/v1/venues/demo/streams/{ONE}/hash?at=4")
    assert (beyond.status, beyond.body["type"]) == (404, "urn:nightsafe:no-record")
    assert (beyond.body["next"], beyond.body["head"]) == (4, made[2].rechash.hex())
    for query in ("", "?at=", "?at=-1", "?at=x", "?at=9999999999999"):
        answer = await cloud.call("GET", f"/v1/venues/demo/streams/{ONE}/hash{query}")
        assert (answer.status, answer.body["type"]) == (400, "urn:nightsafe:malformed")


async def test_a_fork_goes_on_in_a_child_stream(cloud: Cloud) -> None:
    await cloud.open()
    made = chain(1, 5)
    await cloud.put(made)
    parent = {"epoch": ONE, "sequence": 3, "rechash": made[2].rechash.hex()}
    child = await cloud.open(TWO, parent=parent, reason="forked")
    assert (child.status, child.body["next"], child.body["head"]) == (201, 1, made[2].rechash.hex())
    tail = chain(1, 2, made[2].rechash, "y")
    assert (await cloud.put(tail, made[2].rechash, epoch=TWO)).body["next"] == 3
    assert (await cloud.put(chain(6, 6, made[4].rechash), made[4].rechash)).body["next"] == 7
    ids = [line["id"].removeprefix("till-1/") for line in await cloud.exported()]
    assert ids == ["x-1", "x-2", "x-3", "x-4", "x-5", "x-6", "y-1", "y-2"]


async def test_a_parent_that_is_unknown_short_or_other_is_refused_with_words(cloud: Cloud) -> None:
    await cloud.open()
    made = chain(1, 3)
    await cloud.put(made)
    gone = "0199c0de-0000-7000-8000-000000000009"
    unknown = await cloud.open(TWO, parent={"epoch": gone, "sequence": 1, "rechash": "ab" * 32})
    short = await cloud.open(TWO, parent={"epoch": ONE, "sequence": 9, "rechash": "ab" * 32})
    other = await cloud.open(TWO, parent={"epoch": ONE, "sequence": 2, "rechash": "ab" * 32})
    assert (unknown.status, unknown.body["type"]) == (409, "urn:nightsafe:no-parent")
    assert gone in unknown.body["detail"]
    assert (short.status, short.body["type"], short.body["next"]) == (409, "urn:nightsafe:no-parent", 4)
    assert (other.status, other.body["type"], other.body["sequence"]) == (409, "urn:nightsafe:conflict", 2)
    assert (await cloud.call("GET", f"/v1/venues/demo/streams/{TWO}")).status == 404


async def test_a_closed_stream_is_gone_and_names_its_successor(cloud: Cloud) -> None:
    await cloud.open()
    made = chain(1, 2)
    await cloud.put(made[:1])
    await cloud.ledger.close_stream("demo", ONE, TWO)
    assert (await cloud.stream())["state"] == "closed"
    for answer in (await cloud.put(made[1:], made[0].rechash), await cloud.open()):
        assert (answer.status, answer.body["type"], answer.body["successor"]) == (410, "urn:nightsafe:closed", TWO)


# Records


async def test_a_batch_is_answered_when_it_is_committed(cloud: Cloud) -> None:
    await cloud.open()
    made = chain(1, 500)
    answer = await cloud.put(made)
    head = made[-1].rechash.hex()
    expected = {"next": 501, "head": head, "safe": 500, "accepted": 500, "duplicate": 0, "rejected": []}
    assert (answer.status, answer.body) == (200, expected)
    seen = await cloud.stream()
    assert (seen["next"], seen["head"], seen["safe"]) == (501, head, 500)


async def test_a_batch_may_come_without_an_encoding(cloud: Cloud) -> None:
    await cloud.open()
    made = chain(1, 4)
    assert (await cloud.put(made[:2], encoding=None)).body["next"] == 3
    more = await cloud.put(made[2:], made[1].rechash, encoding=None, headers={"Content-Encoding": "identity"})
    assert more.body["next"] == 5


async def test_an_answer_that_was_lost_costs_nothing(cloud: Cloud) -> None:
    await cloud.open()
    made = chain(1, 6)
    await cloud.put(made[:4])
    again = await cloud.put(made[:4])
    assert (again.status, again.body["accepted"], again.body["duplicate"]) == (200, 0, 4)
    overlap = await cloud.put(made[2:], made[1].rechash)
    assert (overlap.body["next"], overlap.body["accepted"], overlap.body["duplicate"]) == (7, 2, 2)
    assert len(await cloud.exported()) == 6


async def test_a_gap_tells_where_to_go_on(cloud: Cloud) -> None:
    await cloud.open()
    made = chain(1, 6)
    await cloud.put(made[:2])
    answer = await cloud.put(made[4:], made[3].rechash)
    assert (answer.status, answer.body["type"]) == (409, "urn:nightsafe:gap")
    assert (answer.body["next"], answer.body["head"]) == (3, made[1].rechash.hex())
    assert len(await cloud.exported()) == 2


async def test_other_content_at_a_sequence_is_a_conflict(cloud: Cloud) -> None:
    await cloud.open()
    made = chain(1, 4)
    await cloud.put(made)
    other = await cloud.put(made[:2] + chain(3, 5, made[1].rechash, "y"))
    assert (other.status, other.body["type"], other.body["sequence"]) == (409, "urn:nightsafe:conflict", 3)
    wrong = await cloud.put(chain(5, 5, b"\x01" * 32), b"\x01" * 32)
    assert (wrong.status, wrong.body["type"], wrong.body["sequence"]) == (409, "urn:nightsafe:conflict", 4)
    assert [line["data"]["id"] for line in await cloud.exported()] == ["x-1", "x-2", "x-3", "x-4"]


async def test_a_rechash_that_is_not_its_contents_is_a_conflict_after_the_prefix(cloud: Cloud) -> None:
    await cloud.open()
    made = chain(1, 5)
    made[2] = made[2]._replace(event=event_of(3, "z"), event_id="z-3")
    answer = await cloud.put(made)
    assert (answer.status, answer.body["type"], answer.body["sequence"]) == (409, "urn:nightsafe:conflict", 3)
    assert (answer.body["next"], answer.body["head"]) == (3, made[1].rechash.hex())
    assert len(await cloud.exported()) == 2
    first = await cloud.put(chain(3, 3, b"\x02" * 32), made[1].rechash)
    assert (first.status, first.body["sequence"], first.body["next"]) == (409, 3, 3)


async def test_any_other_instance_is_fenced(cloud: Cloud) -> None:
    await cloud.open(instance="i1")
    await cloud.open(instance="i2")
    made = chain(1, 2)
    for answer in (await cloud.put(made, instance="i1"), await cloud.hole("1-2", ORIGIN, made[1].rechash, "i1")):
        assert (answer.status, answer.body["type"]) == (409, "urn:nightsafe:fenced")
    assert (await cloud.put(made, instance="i2")).status == 200


async def test_a_body_that_does_not_agree_with_its_digest_is_malformed(cloud: Cloud) -> None:
    await cloud.open()
    made = chain(1, 2)
    plain = wire.encode_batch("demo", ONE, made)
    for digest in (wire.content_digest(plain), "sha-256=:AAAA:", "sha-512=:AAAA:", "nonsense", None):
        answer = await cloud.put(made, headers={"Content-Digest": digest})
        assert (answer.status, answer.body["type"]) == (400, "urn:nightsafe:malformed")
        assert "Want-Content-Digest" in answer.headers
    assert await cloud.exported() == []


@pytest.mark.parametrize("encoding", ["gzip", None])
async def test_a_body_cut_short_with_its_digest_is_malformed(cloud: Cloud, encoding: str | None) -> None:
    await cloud.open()
    whole = wire.encode_batch("demo", ONE, chain(1, 50))
    packed = gzip.compress(whole) if encoding else whole
    half = packed[: len(packed) // 2]
    headers = {"Content-Encoding": encoding}
    answer = await cloud.put([], body=half, encoding=None, headers=headers, at="1-50")
    assert (answer.status, answer.body["type"]) == (400, "urn:nightsafe:malformed")
    assert await cloud.exported() == []


async def test_a_connection_cut_within_the_body_leaves_nothing(cloud: Cloud) -> None:
    await cloud.open()
    body = gzip.compress(wire.encode_batch("demo", ONE, chain(1, 50)))
    host, port = cloud.url.removeprefix("http://").split(":")
    head = (
        f"PUT /v1/venues/demo/streams/{ONE}/records/1-50 HTTP/1.1\r\nHost: x\r\nContent-Type: {wire.BATCH_TYPE}\r\n"
        f"Content-Encoding: gzip\r\nContent-Digest: {wire.content_digest(body)}\r\nNightsafe-Instance: i1\r\n"
        f"Nightsafe-Prevhash: {ZERO}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    for cut in (0, len(body) // 2, len(body) - 1):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(head.encode() + body[:cut])
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    assert (await cloud.stream())["next"] == 1
    assert (await cloud.put(chain(1, 50))).status == 200


async def test_a_sender_that_falls_silent_is_cut_off(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "STALL_MAX_S", 0.05)
    await cloud.open()
    host, port = cloud.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = (
        f"PUT /v1/venues/demo/streams/{ONE}/records/1-1 HTTP/1.1\r\nHost: x\r\nContent-Type: {wire.BATCH_TYPE}\r\n"
        f"Nightsafe-Instance: i1\r\nNightsafe-Prevhash: {ZERO}\r\nContent-Length: 100\r\nConnection: close\r\n\r\n["
    )
    writer.write(head.encode())
    status = await asyncio.wait_for(reader.readline(), 5)
    assert b" 400 " in status
    writer.close()
    await writer.wait_closed()


async def test_a_gzip_bomb_is_too_large_before_it_is_unpacked(cloud: Cloud) -> None:
    await cloud.open()
    bomb = gzip.compress(b"[" + b" " * 60_000_000 + b"]", 9)
    assert len(bomb) < 100_000
    answer = await cloud.put([], body=bomb, encoding=None, headers={"Content-Encoding": "gzip"}, at="1-1")
    assert (answer.status, answer.body["limits"]["bytes"]) == (413, 8388608)
    members = gzip.compress(b" " * 1_000_000, 9) * 20
    answer = await cloud.put([], body=members, encoding=None, headers={"Content-Encoding": "gzip"}, at="1-1")
    assert answer.status == 413


@pytest.mark.parametrize(
    "broken",
    [b"", b"\x1f\x8b", b"junk", gzip.compress(b"[]") + b"junk", gzip.compress(b"") * 1025],
    ids=["nothing", "cut", "no gzip", "junk behind it", "too many members"],
)
async def test_a_broken_gzip_encoding_is_malformed(cloud: Cloud, broken: bytes) -> None:
    await cloud.open()
    answer = await cloud.put([], body=broken, encoding=None, headers={"Content-Encoding": "gzip"}, at="1-1")
    assert (answer.status, answer.body["type"]) == (400, "urn:nightsafe:malformed")


async def test_a_gzip_body_in_several_members_is_one_body(cloud: Cloud) -> None:
    await cloud.open()
    body = wire.encode_batch("demo", ONE, chain(1, 9))
    packed = b"".join(gzip.compress(body[at : at + 500]) for at in range(0, len(body), 500))
    answer = await cloud.put([], body=packed, encoding=None, headers={"Content-Encoding": "gzip"}, at="1-9")
    assert (answer.status, answer.body["next"]) == (200, 10)


async def test_a_batch_beyond_the_limits_is_told_them(tmp_path: Path) -> None:
    limits = wire.Limits(records=10, bytes=4000, min_interval_s=1.5)
    said = {"records": 10, "bytes": 4000, "min_interval_s": 1.5}
    async with running(tmp_path, limits=limits) as cloud:
        assert (await cloud.open()).body["limits"] == said
        made = chain(1, 11)
        for answer in (await cloud.put(made), await cloud.put(made[:9]), await cloud.put(made[:9], encoding=None)):
            assert (answer.status, answer.body["type"]) == (413, "urn:nightsafe:too-large")
            assert answer.body["limits"] == said
        assert (await cloud.put(made[:5])).status == 200


async def test_a_body_longer_than_it_may_be_is_not_read_to_its_end(cloud: Cloud) -> None:
    await cloud.open()

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(2000):
            yield b" " * 65536

    headers = {
        "Content-Type": wire.BATCH_TYPE,
        "Content-Digest": "sha-256=:AAAA:",
        "Nightsafe-Instance": "i1",
        "Nightsafe-Prevhash": ZERO,
    }
    path = f"{cloud.url}/v1/venues/demo/streams/{ONE}/records/1-1"
    try:
        async with cloud.session.put(path, data=endless(), headers=headers) as answer:
            assert answer.status == 413
    except aiohttp.ClientOSError:
        pass  # it may hang up on who goes on sending
    assert (await cloud.stream())["next"] == 1


async def test_when_too_much_is_held_a_box_is_asked_to_come_back(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    await cloud.open()
    monkeypatch.setattr(server, "HELD_BYTES_MAX", 10)
    answer = await cloud.put(chain(1, 1))
    assert (answer.status, answer.body["type"]) == (503, "urn:nightsafe:unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    monkeypatch.undo()
    assert (await cloud.put(chain(1, 1))).status == 200


async def test_a_ledger_that_cannot_store_now_is_503(tmp_path: Path) -> None:
    from agent.receiver.ledger.sqlite import SqliteLedger

    async with running(tmp_path) as cloud:
        await cloud.open()
        ledger = cloud.ledger
        assert isinstance(ledger, SqliteLedger)
        await ledger._thread.run(lambda: ledger._db.execute("pragma max_page_count = 1"))
        made = chain(1, 100)
        answer = await cloud.put(made)
        assert (answer.status, answer.body["type"]) == (503, "urn:nightsafe:unavailable")
        assert "Retry-After" in answer.headers
        await ledger._thread.run(lambda: ledger._db.execute("pragma max_page_count = 1000000"))
        assert (await cloud.put(made)).body["accepted"] == 100


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/json"}, 415),
        ({"Content-Type": None}, 415),
        ({"Content-Encoding": "br"}, 415),
        ({"Content-Encoding": "gzip, gzip"}, 415),
        ({"Nightsafe-Instance": None}, 400),
        ({"Nightsafe-Prevhash": None}, 400),
        ({"Nightsafe-Prevhash": "AB" * 32}, 400),
        ({"Nightsafe-Prevhash": "ab" * 31}, 400),
    ],
)
async def test_headers_that_are_missing_or_other_are_refused(
    cloud: Cloud, headers: dict[str, str | None], status: int
) -> None:
    await cloud.open()
    assert (await cloud.put(chain(1, 1), headers=headers)).status == status
    assert await cloud.exported() == []


@pytest.mark.parametrize("at", ["2-1", "0-1", "01-2", "1", "1-", "a-b", "1-2-3", "1-9999999999999", "+1-2"])
async def test_an_address_that_is_no_range_is_malformed(cloud: Cloud, at: str) -> None:
    await cloud.open()
    answer = await cloud.put(chain(1, 2), at=at)
    assert (answer.status, answer.body["type"]) == (400, "urn:nightsafe:malformed")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"00000000000000000002"', b'"00000000000000000003"'),
        (b'"00000000000000000002"', b'"2"'),
        (b"urn:nightsafe:demo", b"urn:nightsafe:other"),
        (ONE.encode(), TWO.encode()),
        (b'"device":"till-1"', b'"device":"Till 1"'),
        (WHEN.encode(), b"yesterday"),
        (b'"clock":"synced"', b'"clock":"maybe"'),
        (b'"clock":"synced",', b""),
        (b'"clock":"synced",', b'"clock":"synced","clock":"unsynced",'),
        (b'"data":{', b'"data_base64":"e30=","data":{'),
        (b'"data":{', b'"nodata":{'),
        (b'"n":2', b'"n":\xff'),
        (b'"n":2', b'"n":'),
        (b"[", b"{"),
        (b"[", b"["[:0]),
    ],
)
async def test_a_body_that_is_no_batch_for_its_address_is_malformed_and_leaves_nothing(
    cloud: Cloud, old: bytes, new: bytes
) -> None:
    await cloud.open()
    body = wire.encode_batch("demo", ONE, chain(1, 2))
    assert old in body
    answer = await cloud.put([], body=body.replace(old, new), at="1-2")
    assert (answer.status, answer.body["type"]) == (400, "urn:nightsafe:malformed")
    assert await cloud.exported() == []
    assert (await cloud.put(chain(1, 2))).status == 200


async def test_a_body_with_more_or_fewer_records_than_its_address_is_malformed(cloud: Cloud) -> None:
    await cloud.open()
    made = chain(1, 3)
    for at in ("1-2", "1-4"):
        assert (await cloud.put(made, at=at)).status == 400
    assert (await cloud.put([], body=b"[]", at="1-1")).status == 400


# Events


ODD_EVENTS = [
    (b'{"specversion":"1.0","id":"a","type":"t"}', "a"),
    (b'{ "type" :"t",\t"id":"\\u0062", "specversion" : "1.0" , "data":{"z":1,"a":[1.0,1e2,-0,"\\/\\u00e9"]} }', "b"),
    ('{"id":"ü/\\"\\\\","specversion":"1.0","type":"t","data":"\u2028\U0001f37a"}'.encode(), 'ü/"\\'),
    (b'{"specversion":"1.0","id":"d","type":"t","big":123456789012345678901234567890,"e":1E400}', "d"),
    (b'{\n "specversion": "1.0",\r\n "id": "e",\n "type": "t"\n}', "e"),
    (b'{"specversion":"1.0","id":"f","type":"t","data":"\x7f\xc2\x85"}', "f"),
]


async def test_events_are_kept_and_exported_byte_for_byte(cloud: Cloud) -> None:
    await cloud.open()
    made = chain_of(ODD_EVENTS)
    assert (await cloud.put(made)).body["rejected"] == []
    for line, (event, event_id) in zip(await cloud.exported_lines(), ODD_EVENTS, strict=True):
        parsed = json.loads(line)
        assert parsed["id"] == f"till-1/{event_id}"
        if b"\n" in event or b"\r" in event:
            assert "data" not in parsed
            assert b64decode(parsed["data_base64"]) == event
        else:
            assert line.endswith(b',"data":' + event + b"}")


async def test_the_export_is_the_batch_as_it_was_received(cloud: Cloud) -> None:
    await cloud.open()
    made = chain(1, 2500)
    await cloud.put(made[:2000])
    await cloud.put(made[2000:], made[1999].rechash)
    assert b"[" + b",".join(await cloud.exported_lines()) + b"]" == wire.encode_batch("demo", ONE, made)


async def test_another_sender_may_write_its_records_in_its_own_way(cloud: Cloud) -> None:
    await cloud.open()
    made = chain_of(ODD_EVENTS)
    body = wire.encode_batch("demo", ONE, made)
    start = b'{"specversion":"1.0","id":"till-1/'
    noted = b'{ "note":"\\u00e9\\n",\n ' + start[1:]
    answer = await cloud.put([], body=b" [ %b\n]" % body[1:-1].replace(start, noted), at=f"1-{len(made)}")
    assert (answer.status, answer.body["accepted"], answer.body["rejected"]) == (200, len(made), [])
    for line, (event, _) in zip(await cloud.exported_lines(), ODD_EVENTS, strict=True):
        assert json.loads(line)["note"] == "é\n"
        if b"\n" in event:
            assert b64decode(json.loads(line)["data_base64"]) == event
        else:
            assert event in line


async def test_events_may_travel_as_base64(cloud: Cloud) -> None:
    await cloud.open()
    made = chain_of(ODD_EVENTS)
    assert (await cloud.put(made, base64=True)).body["rejected"] == []
    assert [b64decode(line["data_base64"]) for line in await cloud.exported()] == [event for event, _ in ODD_EVENTS]
    again = await cloud.put(made)
    assert again.body["duplicate"] == len(made)


@pytest.mark.parametrize(
    ("event", "event_id"),
    [
        (b"[1,2]", "a"),
        (b"5", "a"),
        (b"null", "a"),
        (b'{"id":"a","type":"t"}', "a"),
        (b'{"specversion":"1.0","id":1,"type":"t"}', "1"),
        (b'{"specversion":"1.0","id":"a","type":null}', "a"),
        (b'{"specversion":"1.0","id":"other","type":"t"}', "a"),
    ],
)
async def test_a_record_that_is_no_event_is_kept_in_quarantine_and_blocks_nothing(
    cloud: Cloud, event: bytes, event_id: str
) -> None:
    await cloud.open()
    good = b'{"specversion":"1.0","id":"g","type":"t"}'
    made = chain_of([(good, "g"), (event, event_id), (good.replace(b"g", b"h"), "h")])
    answer = await cloud.put(made)
    assert (answer.status, answer.body["next"], answer.body["accepted"]) == (200, 4, 3)
    (rejected,) = answer.body["rejected"]
    assert (rejected["sequence"], rejected["type"]) == (2, "urn:nightsafe:schema")
    assert rejected["detail"]
    assert [line["id"] for line in await cloud.exported()] == ["till-1/g", "till-1/h"]
    (kept,) = await cloud.exported("rejected")
    assert (kept["epoch"], kept["sequence"]) == (ONE, 2)
    assert kept["record"]["rechash"] == made[1].rechash.hex()
    assert (await cloud.put(made)).body["rejected"] == [rejected]


@pytest.mark.parametrize("event", [b"\xff\xfe", b'{"a":"\xff"}', b'{"a":"\\ud800"}', b"{", b"[" * 100_000])
async def test_bytes_that_are_no_json_can_be_sent_as_base64_and_stand_in_quarantine(cloud: Cloud, event: bytes) -> None:
    await cloud.open()
    made = chain_of([(event, "a")])
    assert (await cloud.put(made)).status == 400
    answer = await cloud.put(made, base64=True)
    assert (answer.status, [one["sequence"] for one in answer.body["rejected"]]) == (200, [1])
    (kept,) = await cloud.exported("rejected")
    assert kept["record"]["data_base64"] == b64encode(event).decode()


# Holes


async def test_a_hole_is_declared_seen_and_gone_on_from(cloud: Cloud) -> None:
    await cloud.open()
    made = chain(1, 9)
    await cloud.put(made[:3])
    answer = await cloud.hole("4-6", made[2].rechash, made[5].rechash)
    assert (answer.status, answer.body["next"], answer.body["head"]) == (200, 7, made[5].rechash.hex())
    assert (answer.body["safe"], answer.body["epoch"]) == (6, ONE)
    assert (await cloud.hole("4-6", made[2].rechash, made[5].rechash)).body["next"] == 7
    assert (await cloud.put(made[6:], made[5].rechash)).body["next"] == 10
    assert [line["data"]["id"] for line in await cloud.exported()] == ["x-1", "x-2", "x-3", "x-7", "x-8", "x-9"]
    (hole,) = await cloud.exported("holes")
    assert (hole["epoch"], hole["first"], hole["last"], hole["reason"]) == (ONE, 4, 6, "retention")
    assert (hole["prevhash"], hole["rechash"]) == (made[2].rechash.hex(), made[5].rechash.hex())
    inside = await cloud.call("GET", f"/v1/venues/demo/streams/{ONE}/hash?at=5")
    assert (inside.status, inside.body["type"]) == (404, "urn:nightsafe:no-record")


async def test_a_hole_that_does_not_join_on_is_refused(cloud: Cloud) -> None:
    await cloud.open()
    made = chain(1, 9)
    await cloud.put(made[:3])
    gap = await cloud.hole("6-7", made[4].rechash, made[6].rechash)
    conflict = await cloud.hole("4-7", b"\x01" * 32, made[6].rechash)
    assert (gap.status, gap.body["type"], gap.body["next"]) == (409, "urn:nightsafe:gap", 4)
    assert (conflict.status, conflict.body["type"], conflict.body["sequence"]) == (409, "urn:nightsafe:conflict", 3)
    for wrong in ({"reason": ""}, {"prevhash": "x"}, {"rechash": None}):
        answer = await cloud.hole("4-7", made[2].rechash, made[6].rechash, wrong=wrong)
        assert (answer.status, answer.body["type"]) == (400, "urn:nightsafe:malformed")
    assert await cloud.exported("holes") == []


# Heartbeats, and everything else


async def test_a_heartbeat_is_kept_and_answered_with_the_time(cloud: Cloud) -> None:
    headers = {"Content-Type": wire.HEALTH_TYPE}
    answer = await cloud.call("PUT", "/v1/venues/demo/health", data=b'{"status":"warn"}', headers=headers)
    assert (answer.status, list(answer.body)) == (200, ["time"])
    reader = await open_reader(cloud.ledger_url)
    assert await reader.health("demo") == b'{"status":"warn"}'
    await reader.close()


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{}", {"Content-Type": "application/json"}, 415),
        (b"{}", {"Content-Encoding": "gzip"}, 415),
        (b"[]", {}, 400),
        (b"{", {}, 400),
        (b"{}", {"Content-Digest": "sha-256=:AAAA:"}, 400),
        (b'{"a":"' + b"x" * 300_000 + b'"}', {}, 413),
    ],
)
async def test_a_broken_heartbeat_is_refused(cloud: Cloud, body: bytes, headers: dict[str, str], status: int) -> None:
    sent = {"Content-Type": wire.HEALTH_TYPE} | headers
    assert (await cloud.call("PUT", "/v1/venues/demo/health", data=body, headers=sent)).status == status


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/venues/demo/commands", 404),
        ("POST", "/v1/venues/demo/requests/loyalty.balance", 404),
        ("GET", f"/v1/venues/Demo%20Bar/streams/{ONE}", 404),
        ("DELETE", f"/v1/venues/demo/streams/{ONE}", 405),
        ("GET", "/v1/venues/demo/streams", 405),
        ("POST", "/v1/health", 405),
    ],
)
async def test_what_the_contract_does_not_have_is_a_problem_too(
    cloud: Cloud, method: str, path: str, status: int
) -> None:
    answer = await cloud.call(method, path)
    assert answer.status == status
    assert ("Allow" in answer.headers) == (status == 405)


async def test_many_venues_at_once_do_not_mix(cloud: Cloud) -> None:
    async def venue(name: str) -> None:
        streams = f"/v1/venues/{name}/streams"
        opened = {"epoch": ONE, "parent": None, "instance": name, "reason": "created"}
        assert (await cloud.call("POST", streams, json=opened)).status == 201
        made = chain(1, 300, word=name)
        for first in range(0, 300, 50):
            part = made[first : first + 50]
            body = wire.encode_batch(name, ONE, part)
            headers = {
                "Content-Type": wire.BATCH_TYPE,
                "Content-Digest": wire.content_digest(body),
                "Nightsafe-Instance": name,
                "Nightsafe-Prevhash": (made[first - 1].rechash if first else ORIGIN).hex(),
            }
            answer = await cloud.call(
                "PUT", f"{streams}/{ONE}/records/{first + 1}-{first + 50}", data=body, headers=headers
            )
            assert answer.body["next"] == first + 51

    names = [f"venue-{n}" for n in range(8)]
    await asyncio.gather(*(venue(name) for name in names))
    reader = await open_reader(cloud.ledger_url)
    for name in names:
        got = [json.loads(text)["data"]["id"] async for page in reader.records(name) for text in page]
        assert got == [f"{name}-{n}" for n in range(1, 301)]
    await reader.close()
