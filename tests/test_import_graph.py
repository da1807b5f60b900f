"""The house has floors: who imports whom, read from the source. No circle, no arrow upwards, no overlong file."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRAVELLING = sorted(path.stem for path in ROOT.glob("*_mmet.py"))
"""Modules that lie beside every checkpoint."""

FLOORS = (
    TRAVELLING,
    ("mmet.auto_classes", "mmet.starter"),
    ("mmet.starting", "mmet.stopping", "mmet.versions", "mmet.digests", "mmet.distributed", "mmet.field_checks"),
    ("mmet.markdown_table", "mmet.recipe_files", "mmet.whole_files", "mmet.figure_style"),
    ("mmet.argument_parser", "mmet.command_line", "mmet.folder_lock", "mmet.checkpoint_files", "mmet.exported_files"),
    ("mmet.data", "mmet.conversion"),
    ("mmet.evaluation.metrics",),
    ("mmet.evaluation.options", "mmet.evaluation.protocols"),
    ("mmet.evaluation.pairs", "mmet.evaluation.task_metrics"),
    ("mmet.evaluation.task_result", "mmet.evaluation.expansion"),
    ("mmet.evaluation.rescoring", "mmet.evaluation.record"),
    ("mmet.evaluation.search",),
    ("mmet.evaluation.systems",),
    ("mmet.evaluation.analyses",),
    ("mmet.evaluation.runner", "mmet.evaluation.results", "mmet.evaluation.arguments"),
    ("mmet.evaluation",),
    ("mmet.training",),
    ("mmet.report",),
    tuple(f"mmet.starter.{name}" for name in ("phrases", "sentences", "ship", "start")),
)
"""From the ground up; a module of another package may import all of these. A floor imports itself and those below."""

LONGEST = 600


def imports_at_the_top(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements that run with the module; those inside of functions run later and make no circle."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            waiting += ast.iter_child_nodes(node)


def read_graph() -> dict[str, set[str]]:
    """The project's modules, and which of them each imports."""
    paths = [*ROOT.glob("*_mmet.py"), *ROOT.glob("mmet/**/*.py")]
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths
    }
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        graph[name] = set()
        for node in imports_at_the_top(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names} & modules.keys()
            elif not node.level:
                parts = {f"{node.module}.{alias.name}" for alias in node.names}
                graph[name] |= parts & modules.keys() or {node.module} & modules.keys()
    return graph


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    return read_graph()


def floor_of(module: str) -> int:
    """The floor of the longest name that the module's begins with; above all of them where there is none."""
    names = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    parts = module.split(".")
    prefixes = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((names[prefix] for prefix in prefixes if prefix in names), len(FLOORS))


def test_modules__are_found(graph):
    assert {"modeling_mmet", "mmet.data", "mmet.evaluation.metrics.ranking"} <= graph.keys()
    assert "mmet.evaluation.metrics.counting" in graph["mmet.evaluation.metrics.ranking"]


def test_imports__form_no_circle(graph):
    """Modules that import nothing that is left are taken away until none is; what cannot be is a circle."""
    left = {name: set(imported) for name, imported in graph.items()}
    while free := [name for name, imported in left.items() if not imported & left.keys() - {name}]:
        for name in free:
            del left[name]
    assert left == {}


def test_imports__go_downwards(graph):
    upwards = {
        f"{name} -> {imported}"
        for name, imports in graph.items()
        for imported in imports
        if name != "mmet" and floor_of(imported) > floor_of(name)
    }
    assert upwards == set()


@pytest.mark.parametrize("module", TRAVELLING)
def test_travelling_modules__import_what_every_user_of_transformers_has(module):
    """Inside of a function a module may ask for more, and say so where it is missing."""
    of_transformers = {"transformers", "huggingface_hub", "torch", "numpy", "PIL"}
    allowed = {*of_transformers, *TRAVELLING, *sys.stdlib_module_names}
    tree = ast.parse((ROOT / f"{module}.py").read_text(encoding="utf-8"))
    for node in imports_at_the_top(tree):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or module).split(".")[0] in allowed


def test_files__fit_on_a_few_screens():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in ROOT.glob("mmet/**/*.py")}
    lengths |= {path: len(path.read_text(encoding="utf-8").splitlines()) for path in ROOT.glob("tests/**/*.py")}
    assert {str(path.relative_to(ROOT)): length for path, length in lengths.items() if length > LONGEST} == {}
