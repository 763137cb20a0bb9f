"""Devices that ask for cards to be taken on trust, until this process is killed: `card_promises.py FOLDER SEED`.

Says a line for each promise once it was made, and for each fate before it is acted on.
"""

import asyncio
import random
import sys
from pathlib import Path

from agent.core.commands import Command
from agent.core.policy import Ask
from tests.property.test_card_limits import House


def say(*words: object) -> None:
    print(*words, flush=True)


async def main(folder: Path, seed: int) -> None:
    chance, house = random.Random(seed), House(folder)
    await house.open()
    say("ready")

    async def ask(device: str, number: int) -> None:
        token = f"tok-{chance.randrange(4)}"
        wanted = Ask(device, f"p{seed}-{device}-{number}", token, chance.randrange(1, 60), "GBP")
        reply = await house.ask(wanted)
        if reply is not None and reply.status == "ok":
            say("promised", device, wanted.payment_id, token, wanted.amount)

    for number in range(10_000):
        await asyncio.gather(*(ask(f"till-{one}", number) for one in range(4)))
        if house.promised and chance.random() < 0.5:
            device, payment_id = chance.choice(sorted(house.promised))
            say("fated", device, payment_id)
            house.cards.command(Command("payment.posted", payment_id, "{}"))
            async with house.cards._one:
                await house.cards._settle()
            house.promised.pop((device, payment_id))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
