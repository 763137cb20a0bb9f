"""python -m tests.sim [N] [--seed S …] [--jobs J] [--story]: runs worlds by their seeds, and tells how each went."""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Final

from tests.sim.world import Verdict, run

SEEDS: Final = 25
"""The short form, as in CI: the seeds 1 to 25."""
STORY_LINES: Final = 80
"""How much of a failed world's story is printed unasked."""


def main() -> int:
    """The exit status: 0 when every oracle was content."""
    parser = argparse.ArgumentParser(prog="scripts/sim", description="Runs the box in simulated worlds.")
    parser.add_argument("seeds", nargs="?", type=int, default=SEEDS, metavar="N", help="run the seeds 1 to N")
    parser.add_argument("--seed", nargs="+", type=int, default=[], metavar="S", help="run these seeds instead")
    parser.add_argument("--from", dest="first", type=int, default=1, metavar="S", help="begin with this seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="J", help="processes at once")
    parser.add_argument("--story", action="store_true", help="print the whole story of each")
    given = parser.parse_args()
    seeds = given.seed or range(given.first, given.first + given.seeds)
    verdicts = [_show(verdict, given.story) for verdict in _run(seeds, given.jobs)]
    bad = [verdict.seed for verdict in verdicts if not verdict.good]
    print(
        f"{len(verdicts)} seeds: {sum(one.events_count for one in verdicts)} events, "
        f"{sum(one.told_count for one in verdicts)} acknowledgements, "
        f"{sum(one.receipts_count for one in verdicts)} receipts, "
        f"{sum(sum(one.faults.values()) for one in verdicts)} faults, "
        f"{sum(one.virtual_s for one in verdicts) / 3600:.1f} virtual hours "
        f"in {sum(one.real_s for one in verdicts):.0f} s of work; "
        f"longest recovery {max(one.recovery_s for one in verdicts):.0f} s; failed: {bad or 'none'}"
    )
    return 1 if bad else 0


def _run(seeds: Iterable[int], jobs: int) -> Iterator[Verdict]:
    """The verdicts in the order of the seeds; a world is alone in its process while it runs."""
    if jobs == 1:
        yield from map(run, seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(run, seeds)


def _show(verdict: Verdict, whole: bool) -> Verdict:
    if whole or not verdict.good:
        print(verdict.report(len(verdict.story) if whole else STORY_LINES), flush=True)
    else:
        print(verdict, flush=True)
    return verdict._replace(story=())


if __name__ == "__main__":
    sys.exit(main())
