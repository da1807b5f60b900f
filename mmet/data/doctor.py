"""Check whether a dataset folder is fit to use: what is there, what should be there, what is wrong, how to fix it.

    python -m mmet.data.doctor market1501=/data/Market-1501-v15.09.15 'msmt17=/data/MSMT17_V2?train=train'
    python -m mmet.data.doctor --allow_partial --json finegpr=/data/FineGPR_Dataset

Exit code 0: every folder is fit to use. 1: some folder is not. 2: the arguments are wrong. `--allow_partial` accepts
incomplete folders; `--decode` decodes all pictures to find damage inside them.

A folder is unfit if it is not the dataset, lacks a part, has other counts than published, or has a person in both
training and test. Files that the loader leaves out are warnings, because the others can be used.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from mmet.argument_parser import OptionParser
from mmet.command_line import run_command
from mmet.data.data_argument import parse_data_argument
from mmet.data.diagnosis import Diagnosis, Finding, MaskTotals, Severity, diagnose
from mmet.data.paths import display
from mmet.starting import program_name

FIT, UNFIT, USAGE_ERROR = 0, 1, 2
"""Exit codes."""


def format_diagnosis(diagnosis: Diagnosis) -> str:
    """The diagnosis as text for a terminal."""
    lines = [f"{diagnosis.argument}: {diagnosis.title}", "", "  found:"]
    lines += [f"    {line}" for line in diagnosis.found_tree or ["nothing"]]
    if not diagnosis.fit or not diagnosis.splits:
        lines += ["  expected:", *(f"    {line}" for line in diagnosis.expected_tree.splitlines())]
    lines += ["", *_format_splits(diagnosis), *_format_masks(diagnosis.masks)]
    for finding in diagnosis.findings:
        lines += _format_finding(finding)
    lines += ["", f"  {'FIT to use' if diagnosis.fit else 'NOT FIT to use'}: {_tally(diagnosis.findings)}"]
    return "\n".join(display(line) for line in lines)


def _format_splits(diagnosis: Diagnosis) -> list[str]:
    if not diagnosis.splits:
        return []
    columns: tuple[str, ...] = (
        "split",
        "images",
        "published",
        "persons",
        "published",
        "captions",
        "published",
        "cameras",
        "masks",
    )
    rows = [columns]
    for split, totals in diagnosis.splits.items():
        expected = diagnosis.published.get(split)
        published = ("", "", "")
        if expected is not None:
            captions = f"{expected.captions:,}" if expected.captions else ""
            published = (f"{expected.images:,}", f"{expected.persons:,}", captions)
        counts = (f"{totals.images:,}", f"{totals.persons:,}", f"{totals.captions:,}")
        pairs = [cell for pair in zip(counts, published, strict=True) for cell in pair]
        rows.append((split, *pairs, f"{totals.cameras:,}", f"{totals.masks:,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(columns))]
    return [
        "  " + "  ".join(f"{cell:<{width}}" if not column else f"{cell:>{width}}" for column, (cell, width) in line)
        for line in (enumerate(zip(row, widths, strict=True)) for row in rows)
    ] + [""]


def _format_masks(masks: MaskTotals | None) -> list[str]:
    if masks is None:
        return []
    looked_at = "masks" if masks.looked_at == masks.masks else f"{masks.looked_at:,} of {masks.masks:,} masks, read,"
    shares = ""
    if masks.covered is not None and masks.covered_range is not None:
        low, high = masks.covered_range
        shares = f"cover {masks.covered:.0%} of their pictures (nine of ten {low:.0%} to {high:.0%}); "
    counts = f"{masks.nobody:,} show nobody, {masks.everybody:,} everybody, {masks.ambiguous:,} are unclear"
    return [f"  {looked_at} {shares}{counts}", ""]


def _format_finding(finding: Finding) -> list[str]:
    number = f"{finding.count:,} × " if finding.count > 1 else ""
    examples = f" ({', '.join(finding.examples)}{', …' if finding.count > len(finding.examples) else ''})"
    first, *more = f"{number}{finding.what}{examples if finding.examples else ''}".splitlines()
    lines = [f"  {finding.severity:7}  {first}", *(f"           {line}" for line in more)]
    return [*lines, f"           fix: {finding.fix}"] if finding.fix else lines


def _tally(findings: Sequence[Finding]) -> str:
    counts = Counter(finding.severity for finding in findings)
    severities: Sequence[Severity] = ("error", "warning", "note")
    return ", ".join(f"{counts[severity]} {severity}{'' if counts[severity] == 1 else 's'}" for severity in severities)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OptionParser(
        prog=program_name("python -m mmet.data.doctor"),
        description="Check whether dataset folders are fit to use, and say how to fix what is wrong.",
        epilog="Exit code: 0 all fit, 1 some not, 2 wrong arguments.",
    )
    parser.add_argument("data", nargs="+", metavar="NAME=DIR", help="dataset and folder, with options as for training")
    parser.add_argument("--allow_partial", action="store_true", help="accept incomplete folders as fit")
    parser.add_argument("--decode", action="store_true", help="decode every picture, to find damage inside")
    parser.add_argument("--json", action="store_true", help="print JSON, one list with an object for each folder")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine all folders and print the diagnoses; returns the exit code."""
    parser = build_parser()
    return run_command(parser.prog, lambda command: examine(parser, arguments))


def examine(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> int:
    """Parse the arguments, examine all folders and print the diagnoses; returns `FIT` or `UNFIT`."""
    options = parser.parse_args(arguments)
    data = [parse_data_argument(argument) for argument in options.data]
    diagnoses = [diagnose(argument, allow_partial=options.allow_partial, decode=options.decode) for argument in data]
    if options.json:
        print(json.dumps([asdict(diagnosis) for diagnosis in diagnoses], indent=1))
    else:
        print("\n\n".join(map(format_diagnosis, diagnoses)))
    return FIT if all(diagnosis.fit for diagnosis in diagnoses) else UNFIT


if __name__ == "__main__":
    sys.exit(main())
