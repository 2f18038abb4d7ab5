"""Put the evaluations of several seeds side by side, as Markdown.

    python summary.py ../../runs/tiny/0 ../../runs/tiny/1 ../../runs/tiny/2

Every cell is the mean over the seeds in percent, and the lowest and highest of them; with the meta
RM also how many paired 95 % intervals against plain voting lie above (+) and below (-) zero.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Groups = list[dict[str, Any]]
"""One "groups" entry of `spct eval --json` per seed, all of the same n."""

KS = (1, 2, 4, 8, 16, 32)


def read(runs: Iterable[Path], name: str) -> Iterator[Groups]:
    """Read an evaluation of every run that has it; one list per n."""
    paths = [run / name for run in runs]
    found = [json.loads(p.read_text()) for p in paths if p.exists() and p.stat().st_size]
    for at in range(len(found[0]["groups"]) if found else 0):
        yield [one["groups"][at] for one in found]


def cell(values: list[float]) -> str:
    """Write a mean and its range."""
    mean = sum(values) / len(values)
    spread = (
        "" if len(set(values)) == 1 else f" ({100 * min(values):.1f} to {100 * max(values):.1f})"
    )
    return f"{100 * mean:.1f}{spread}"


def signs(seeds: Groups, at: int) -> str:
    """Count the seeds in which the difference to plain voting is beyond its interval."""
    over = [one["meta"][at]["over_plain"] for one in seeds]
    above = sum(one["low"] > 0 for one in over)
    below = sum(one["high"] < 0 for one in over)
    return f" {above}+ {below}-"


def rows(stage: str, seeds: Groups) -> Iterator[str]:
    """Write the rows of one stage and one n."""
    n = seeds[0]["n"]
    plain = {point["k"]: cell(values(seeds, "plain", at)) for at, point in points(seeds, "plain")}
    greedy = cell([one["greedy"]["value"] for one in seeds])
    yield line(stage, n, greedy, plain)
    scored = [one for one in seeds if one["meta"]]
    if scored:
        meta = {
            point["k"]: cell(values(scored, "meta", at)) + signs(scored, at)
            for at, point in points(scored, "meta")
        }
        yield line(f"{stage}, meta RM", n, "", meta)


def points(seeds: Groups, way: str) -> Iterable[tuple[int, dict[str, Any]]]:
    """Number the points of one way of voting."""
    return enumerate(seeds[0][way])


def values(seeds: Groups, way: str, at: int) -> list[float]:
    """Give one point of every seed."""
    return [one[way][at]["value"] for one in seeds]


def line(stage: str, n: int | str, greedy: str, by_k: dict[int, str]) -> str:
    """Write one row; what was not measured stays empty."""
    return f"| {stage} | {n} | {greedy} | {' | '.join(by_k.get(k, '') for k in KS)} |"


def main() -> None:
    """Print the table of the stages, and one line per ablation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    options = parser.parse_args()
    print(line("judge", "n", "greedy", {k: f"k = {k}" for k in KS}))
    print("|---" * (3 + len(KS)) + "|")
    for stage in ("cold", "rft", "rl"):
        for seeds in read(options.runs, f"eval_{stage}.json"):
            print("\n".join(rows(stage, seeds)))
    for name in ("no_rejection", "no_hints", "no_principles", "no_kl"):
        for seeds in read(options.runs, f"{name}/eval.json"):
            print("\n".join(rows(name, seeds)))


if __name__ == "__main__":
    main()
