"""Write labelled tasks of the offline world with 2, 3 and 4 completions into one file.

python tasks.py --seed 100 --counts 300 200 200 -o tasks.jsonl
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from spct_plugin.tiny.tasks import labelled_tasks


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--counts", type=int, nargs=3, required=True, help="for n = 2, 3 and 4")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    with options.output.open("w", encoding="utf-8") as file:
        for n, count in enumerate(options.counts, start=2):
            for row in labelled_tasks(options.seed, count, n):
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
