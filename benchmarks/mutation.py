"""Mutation testing: small mistakes are put into a module one at a time, and its tests have to notice them.

A mistake swaps a comparison, an arithmetic or a boolean operator, drops a `not`, or changes a number or a truth value
inside a function. The process imports the package once and forks for each mistake; in the child, the functions of the
module get the changed code, wherever they were imported to, and pytest runs the tests that belong to the module until
one fails. A mistake that no test notices *survives*: it is printed with its line, and is either work for a test or
no mistake at all.

    python benchmarks/mutation.py                                        # all targets
    python benchmarks/mutation.py mmet.gallery.selection --sample 40
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib
import inspect
import os
import random
import runpy
import signal
import sys
import time
import types
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

TARGETS = {
    "mmet.training.masking": ["training/test_masking.py"],
    "mmet.training.sampling": ["training/test_sampling.py"],
    "mmet.evaluation.search": ["evaluation/test_search.py"],
    "mmet.evaluation.metrics.ranking": ["evaluation/metrics/test_ranking.py", "evaluation/metrics/test_counting.py"],
    "mmet.evaluation.metrics.counting": ["evaluation/metrics/test_counting.py", "evaluation/metrics/test_ranking.py"],
    "mmet.evaluation.metrics.matches": ["evaluation/metrics/test_matches.py", "evaluation/metrics/test_ranking.py"],
    "mmet.evaluation.protocols": ["evaluation/test_protocols.py", "evaluation/test_search.py"],
    "mmet.gallery.filters": ["gallery/test_filters.py", "gallery/test_gallery.py"],
    "mmet.gallery.probability": ["gallery/test_probability.py"],
    "mmet.gallery.columns": ["gallery/test_columns.py", "gallery/test_disk.py", "gallery/test_gallery.py"],
    "mmet.gallery.selection": ["gallery/test_selection.py", "gallery/test_disk.py", "gallery/test_gallery.py"],
}
"""Modules, and the tests of `tests/` that are to notice mistakes in them, the quickest first."""

SWAPPED: dict[type, type] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Break: ast.Continue,
}
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}

KILLED, SURVIVED, TIMED_OUT = "killed", "survived", "timed out"
_NOT_INSTALLED = 70
"""Exit code of a child that did not get as far as the tests."""


class Mutant(NamedTuple):
    """One mistake: the changed module, the line, and what was there before and after."""

    tree: ast.Module
    line: int
    change: str


def mutants_of(tree: ast.Module) -> Iterator[Mutant]:
    """Every mistake that can be put into the functions of a module."""
    for number, node in enumerate(_nodes_inside_functions(tree)):
        for variant in range(len(_changes(copy.deepcopy(node)))):
            changed = copy.deepcopy(tree)
            place = _nodes_inside_functions(changed)[number]
            before = ast.unparse(place)
            _changes(place)[variant]()
            ast.fix_missing_locations(changed)
            yield Mutant(changed, place.lineno, f"{before}  →  {ast.unparse(place)}")


def _nodes_inside_functions(tree: ast.Module) -> list[Any]:
    """Expressions and statements in bodies of functions, without annotations, docstrings and messages of errors."""
    nodes = []

    def visit(node: ast.AST, inside: bool) -> None:
        if isinstance(node, ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            return
        if inside and isinstance(node, ast.expr | ast.Break | ast.AugAssign):
            nodes.append(node)
        is_function = isinstance(node, ast.FunctionDef)
        children: Iterable[ast.AST] = node.body if isinstance(node, ast.FunctionDef) else ast.iter_child_nodes(node)
        for child in children:
            if not (isinstance(node, ast.AnnAssign) and child is node.annotation):
                visit(child, inside or is_function)

    visit(tree, False)
    return nodes


def _changes(node: Any) -> list[Any]:
    """Functions that each put one mistake into a node."""

    def setter(owner: Any, field: str, value: Any) -> Any:
        return lambda: setattr(owner, field, value)

    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
        return [setter(node, "ops", [SWAPPED[type(node.ops[0])](), *node.ops[1:]])]
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in SWAPPED:
        return [setter(node, "op", SWAPPED[type(node.op)]())]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.Invert | ast.USub):
        return [setter(node, "op", ast.UAdd())] if isinstance(node.op, ast.USub) else [_drop_not(node)]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
        return [setter(node.func, "id", CALLS[node.func.id])]
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        return [setter(node, "value", not node.value)]
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return [setter(node, "value", node.value + 1)]
    if isinstance(node, ast.IfExp):
        return [lambda: node.__dict__.update(body=node.orelse, orelse=node.body)]
    return []


def _drop_not(node: ast.UnaryOp) -> Any:
    """`not x` and `~x` become `not not x` and `~~x`, whose values are those of `x`."""
    return lambda: setattr(node, "operand", ast.UnaryOp(op=node.op, operand=node.operand))


def install(module: types.ModuleType, tree: ast.Module) -> None:
    """Give the functions and methods of a module the code of a changed one, in the objects that others imported."""
    changed: dict[str, Any] = {**vars(module)}
    exec(compile(tree, str(module.__file__), "exec"), changed)
    for name, old in list(vars(module).items()):
        if getattr(old, "__module__", None) == module.__name__ and name in changed:
            _take_over(old, changed[name])


def _take_over(old: Any, new: Any) -> None:
    if inspect.isclass(old):
        for name, part in list(vars(old).items()):
            if name in vars(new):
                _take_over(part, vars(new)[name])
        return
    for field in ("__wrapped__", "__func__", "fget", "func"):
        if not inspect.isfunction(old) and hasattr(old, field):
            _take_over(getattr(old, field), getattr(new, field))
            return
    if inspect.isfunction(old) and inspect.isfunction(new) and old.__code__.co_freevars == new.__code__.co_freevars:
        old.__code__, old.__defaults__, old.__kwdefaults__ = new.__code__, new.__defaults__, new.__kwdefaults__


def run_tests(tests: list[str], mutant: Mutant | None, module: types.ModuleType, limit: float) -> tuple[str, float]:
    """Run tests in a child with a mistake; the verdict and the seconds."""
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_child(tests, mutant, module)
    while time.monotonic() - start < limit:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            if code == _NOT_INSTALLED:
                raise SystemExit(f"the mistake could not be put in: {mutant.change if mutant else 'none'}")
            return SURVIVED if code == 0 else KILLED, time.monotonic() - start
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return TIMED_OUT, limit


def _be_child(tests: list[str], mutant: Mutant | None, module: types.ModuleType) -> None:
    import pytest

    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        if mutant is not None:
            with contextlib.suppress(ValueError):  # a closure that has other variables
                install(module, mutant.tree)
        options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", "--no-header", "--hypothesis-seed=0"]
        os._exit(int(pytest.main([*options, *tests])))
    finally:
        os._exit(_NOT_INSTALLED)


def test_module(name: str, tests: list[str], sample: int, seed: int) -> Counter[str]:
    """Put mistakes into one module; print the survivors and a line of counts."""
    module = importlib.import_module(name)
    for test in tests:  # what tests import is imported here, once for all children
        sys.path.insert(0, str(Path(test).resolve().parent))  # as pytest does: tests import their neighbours
        runpy.run_path(test)
    tree = ast.parse(Path(str(module.__file__)).read_text("utf-8"))
    mutants = list(mutants_of(tree))
    chosen = sorted(random.Random(seed).sample(range(len(mutants)), min(sample or len(mutants), len(mutants))))
    verdict, seconds = run_tests(tests, None, module, 3600)
    if verdict != SURVIVED:
        raise SystemExit(f"{name}: its tests fail without a mistake: {' '.join(tests)}")
    counts: Counter[str] = Counter()
    for number in chosen:
        mutant = mutants[number]
        verdict, _ = run_tests(tests, mutant, module, 10 * seconds + 30)
        counts[verdict] += 1
        if verdict == SURVIVED:
            print(f"  {name}:{mutant.line}  {mutant.change}", flush=True)
    noticed = counts[KILLED] + counts[TIMED_OUT]
    print(f"| {name} | {len(mutants)} | {len(chosen)} | {noticed} | {100 * noticed / len(chosen):.0f} % |", flush=True)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=list(TARGETS), help="out of the targets (default: all)")
    parser.add_argument("--sample", type=int, default=0, help="mistakes in each module, drawn (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.chdir(ROOT)
    import conftest  # noqa: F401  (once, for all children)

    print("| module | mistakes | tried | noticed | share |\n| --- | ---: | ---: | ---: | ---: |")
    total: Counter[str] = Counter()
    for name in arguments.modules:
        total += test_module(name, [f"tests/{test}" for test in TARGETS[name]], arguments.sample, arguments.seed)
    noticed = total[KILLED] + total[TIMED_OUT]
    print(
        f"\n{noticed} of {total.total()} noticed ({100 * noticed / total.total():.1f} %), {total[TIMED_OUT]} by time"
    )


if __name__ == "__main__":
    main()
