"""The house: imports point one way, stand at the top of files, and form no circle."""

import ast

import pytest

from s2llib.lock import imported, modules

# a module may import from its own floor and from those below it
FLOORS = (
    ("params", "store", "progress", "scores"),
    ("data", "models", "loop"),
    ("generate", "attacks", "defenses", "finetune", "metrics"),
    ("specs", "lab", "artifact"),
    ("compute",),
    ("scale", "studies"),
    ("report",),
    ("arguments", "command", "kernel", "run", "check", "estimate", "benchmark", "ship", "lock"),
)
# before anything is installed it answers --help
LAZY: set[str] = set()


def functions(tree: ast.AST) -> list[ast.AST]:
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))]


def drawing() -> dict[str, set[str]]:
    """{module: those that it imports, wherever in the file}."""
    known = modules()
    return {name: imported(ast.parse(path.read_text()), known) for name, path in known.items() if name}


def floor(module: str) -> int:
    top = module.partition(".")[0]
    return next(i for i, floor in enumerate(FLOORS) if top in floor)


def test_every_module_has_a_floor():
    assert {name.partition(".")[0] for name in modules() if name} == {name for floor in FLOORS for name in floor}


def test_imports_point_downwards():
    upwards = [(a, b) for a, others in drawing().items() for b in others if floor(b) > floor(a)]
    assert upwards == []


def test_no_circle_is_left():
    graph, done = drawing(), {}

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above[above.index(module) :], module))
        if module not in done:
            for other in sorted(graph.get(module, ())):
                visit(other, (*above, module))
            done[module] = True

    for module in sorted(graph):
        visit(module, ())


@pytest.mark.parametrize("module", sorted(name for name in modules() if name and name not in LAZY))
def test_the_library_is_imported_at_the_top(module):
    known = modules()
    inside = {name for function in functions(ast.parse(known[module].read_text())) for name in imported(function, known)}
    assert inside == set()
