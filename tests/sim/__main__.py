"""python -m tests.sim [SEED …] [--seeds N] [--story]: runs worlds by their seeds, and tells how each went."""

import argparse
import sys

from tests.sim.world import Verdict, run

STORY_LINES = 120


def main() -> int:
    """The exit status: 0 when every oracle was content."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("seed", nargs="*", type=int, help="seeds to run")
    parser.add_argument("--seeds", type=int, default=0, metavar="N", help="run the seeds 1 to N")
    parser.add_argument("--story", action="store_true", help="print the whole story of each")
    given = parser.parse_args()
    seeds = given.seed or range(1, (given.seeds or 25) + 1)
    verdicts = [_show(run(seed), given.story) for seed in seeds]
    bad = [verdict.seed for verdict in verdicts if not verdict.good]
    print(
        f"{len(verdicts)} seeds: {sum(one.events_count for one in verdicts)} events, "
        f"{sum(one.told_count for one in verdicts)} acknowledgements, "
        f"{sum(sum(one.faults.values()) for one in verdicts)} faults, "
        f"{sum(one.virtual_s for one in verdicts) / 3600:.1f} virtual hours "
        f"in {sum(one.real_s for one in verdicts):.1f} s; "
        f"longest recovery {max(one.recovery_s for one in verdicts):.0f} s; failed: {bad or 'none'}"
    )
    return 1 if bad else 0


def _show(verdict: Verdict, whole: bool) -> Verdict:
    faults = " ".join(f"{name}={count}" for name, count in sorted(verdict.faults.items()))
    print(
        f"seed {verdict.seed}: {'good' if verdict.good else 'FAILED'}  {verdict.events_count} events, "
        f"{verdict.records_count} records, {verdict.virtual_s / 3600:.2f} h, recovery {verdict.recovery_s:.0f} s, "
        f"{verdict.real_s:.2f} s real, {verdict.digest[:16]}  {faults}",
        flush=True,
    )
    if whole or not verdict.good:
        for line in verdict.story if whole else verdict.story[-STORY_LINES:]:
            print("   ", line)
    if not verdict.good:
        print(f"  seen again with: python -m tests.sim {verdict.seed} --story", flush=True)
    return verdict


if __name__ == "__main__":
    sys.exit(main())
