"""The simulated world's own rules: time, death, and a network that loses nothing by itself."""

import asyncio
from random import Random
from typing import Any

import pytest

from tests.sim.loop import Process, SimLoop, Stuck
from tests.sim.network import Link, Network
from tests.sim.wire import Gone, Wire


class Echo(asyncio.Protocol):
    """Says back what it hears."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


class World:
    """A loop with a server and a client on a link."""

    def __init__(self, split: float = 0.0) -> None:
        self.loop = SimLoop("test")
        self.network = self.loop.network = Network(self.loop)
        self.link = self.network.links["server"] = Link((0.01, 0.02), Random("test"))
        self.link.split = split
        self.server = Process(self.loop, "server", "test")
        self.client = Process(self.loop, "client", "test")
        self.server.context().run(self._listen)

    def _listen(self) -> None:
        self.network.listen("server", Echo).serving = True

    def run(self, work: Any) -> None:
        self.loop.run_until_complete(self.client.spawn(work, "client"))
        assert not self.loop.unhandled

    async def wire(self) -> Any:
        _, wire = await self.loop.create_unix_connection(lambda: Wire(4), "server")
        return wire


def test_time_leaps_to_what_is_due() -> None:
    world = World()
    world.run(asyncio.sleep(100_000))
    assert 100_000 <= world.loop.now_s < 100_001


def test_a_world_in_which_nothing_is_due_any_more_says_so() -> None:
    world = World()
    with pytest.raises(Stuck):
        world.run(asyncio.Event().wait())


def test_a_dead_process_does_nothing_any_more() -> None:
    world = World()
    done: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(1)
            done.append("went on")
        finally:
            asyncio.get_running_loop().call_soon(done.append, "cleaned up")

    async def watch() -> None:
        world.server.spawn(work(), "work")
        await asyncio.sleep(0.5)
        world.server.die()
        await asyncio.sleep(5)

    world.run(watch())
    assert done == []


def test_bytes_arrive_in_order_in_whatever_pieces() -> None:
    world = World(split=0.7)
    packets = [bytes((0x30, 100)) + bytes(100) for _ in range(50)]

    async def talk() -> None:
        wire = await world.wire()
        for packet in packets:
            wire.send(packet)
        heard = [await wire.packet(60) for _ in packets]
        assert [packet.body for packet in heard] == [bytes(100)] * 50

    world.run(talk())


def test_a_silent_way_holds_back_and_loses_nothing() -> None:
    world = World()

    async def talk() -> None:
        wire = await world.wire()
        world.link.hush()
        wire.send(b"\xc0\x00")
        assert await wire.packet(60) is None
        world.link.heal()
        assert (await wire.packet(1)).kind == 12

    world.run(talk())


@pytest.mark.parametrize("power", [False, True])
def test_the_end_of_a_process_is_told_by_its_kernel_and_the_end_of_power_by_nobody(power: bool) -> None:
    world = World()

    async def talk() -> None:
        wire = await world.wire()
        await asyncio.sleep(1)
        ends = tuple(world.server.parts["connections"])
        world.server.die()
        world.network.process_died(world.server, power)
        if power:
            wire.send(b"\xc0\x00")
            assert await wire.packet(60) is None
            world.network.machine_up(ends)
        with pytest.raises(Gone):
            await wire.packet(60)

    world.run(talk())
