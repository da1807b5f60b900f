"""The house has floors: who imports whom, read from the source. No circle, no arrow upwards, no overlong file."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable, Iterator
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
    ("mmet.gallery",),
    ("mmet.explain", "mmet.export", "mmet.footage", "mmet.serving"),
    ("mmet.ablate", "mmet.app"),
    tuple(f"mmet.starter.{name}" for name in ("matching", "phrases", "sentences", "ship", "start")),
)
"""From the ground up. A floor imports itself and those below; packages on one floor do not import each other."""

LONGEST, LONGEST_MODEL = 600, 1600


def imports_at_the_top(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements that run with the module; those inside of functions run later and make no circle."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            waiting += ast.iter_child_nodes(node)


def read_graph(select: Callable[[ast.Module], Iterable[ast.AST]]) -> dict[str, set[str]]:
    """The project's modules, and which of them each imports by the statements that `select` yields."""
    paths = [*ROOT.glob("*_mmet.py"), *ROOT.glob("mmet/**/*.py")]
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths
    }
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        graph[name] = set()
        for node in select(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names} & modules.keys()
            elif isinstance(node, ast.ImportFrom) and not node.level:
                parts = {f"{node.module}.{alias.name}" for alias in node.names}
                graph[name] |= parts & modules.keys() or {node.module} & modules.keys()
    return graph


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    return read_graph(imports_at_the_top)


@pytest.fixture(scope="module")
def full_graph() -> dict[str, set[str]]:
    """With the imports inside of functions as well."""
    return read_graph(ast.walk)


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


def test_imports__go_downwards(graph, full_graph):
    assert upward_imports(graph) == set()
    # The pipeline that searches galleries says in a message that it needs the package.
    assert upward_imports(full_graph) == {"pipelines_mmet -> mmet.gallery"}


def upward_imports(graph: dict[str, set[str]]) -> set[str]:
    return {
        f"{name} -> {imported}"
        for name, imports in graph.items()
        for imported in imports
        if name != "mmet" and floor_of(imported) > floor_of(name)
    }


def test_modules__have_a_floor(graph):
    assert [name for name in graph if floor_of(name) == len(FLOORS)] == ["mmet"]


def test_rooms_of_one_floor__do_not_import_each_other(full_graph):
    packages = {name for floor in FLOORS for name in floor if (ROOT / name.replace(".", "/")).is_dir()}
    rooms = {name: next((room for room in packages if f"{name}.".startswith(f"{room}.")), None) for name in full_graph}
    across = {
        f"{name} -> {imported}"
        for name, imports in full_graph.items()
        for imported in imports
        if rooms[name] and rooms[imported] and rooms[name] != rooms[imported] and floor_of(name) == floor_of(imported)
    }
    assert across == set()


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
    paths = [
        path for pattern in ("*.py", "mmet/**/*.py", "tests/**/*.py", "benchmarks/*.py") for path in ROOT.glob(pattern)
    ]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    assert lengths.pop("modeling_mmet.py") < LONGEST_MODEL
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}
