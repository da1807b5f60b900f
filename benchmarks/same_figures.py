"""Compare the figures of two runs to the bit: did a change of training or metrics change anything that it should not?

    python benchmarks/same_figures.py before/trainer_state.json after/trainer_state.json
    python benchmarks/same_figures.py before/results.json after/results.json

Times, speeds, dates, versions and paths are left out: they differ between any two runs. Exit code 0: all figures are
equal. 1: some differ, and each is printed. 2: a file cannot be read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmet.whole_files import read_json

UNCOMPARED = (
    "created", "data_root", "date", "flos", "model", "path", "per_second", "root", "runtime", "seconds", "source",
    "start", "version",
)  # fmt: skip
"""Parts of the names of what differs between any two runs."""


def figures(content: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every number and text of nested JSON with its place, such as `log_history[3].loss`."""
    if isinstance(content, dict):
        for name, value in content.items():
            if not any(part in name for part in UNCOMPARED):
                yield from figures(value, f"{place}.{name}" if place else name)
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from figures(value, f"{place}[{number}]")
    else:
        yield place, content


def compare(before: Any, after: Any) -> list[str]:
    """One line for each figure that differs or that only one of the runs has."""
    old, new = dict(figures(before)), dict(figures(after))
    places = [place for place in dict.fromkeys([*old, *new]) if repr(old.get(place)) != repr(new.get(place))]
    return [f"{place}: {old.get(place, 'absent')!r} → {new.get(place, 'absent')!r}" for place in places]


def main(argv: Sequence[str] | None = None) -> int:
    """Compare two files and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("before", type=Path, help="trainer_state.json or results.json of the first run")
    parser.add_argument("after", type=Path, help="the same file of the second run")
    options = parser.parse_args(argv)
    try:
        contents = [read_json(path) for path in (options.before, options.after)]
    except (OSError, ValueError) as error:
        print(f"same_figures.py: {error}", file=sys.stderr)
        return 2
    differences = compare(*contents)
    print("\n".join(differences) if differences else f"{len(list(figures(contents[0]))):,} figures are equal")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
