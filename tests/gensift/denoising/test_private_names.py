"""`gensift.denoising.modules` alone touches what diffusers does not document, read off the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TREE = Path(__file__).parents[3]
PACKAGES = ("gensift", "caches", "samplers", "rewards", "apps")
ADAPTER = Path("gensift/denoising/modules.py")
# Modules of diffusers whose pages in its documentation name what is imported from them here.
DOCUMENTED = (
    "diffusers",
    "diffusers.configuration_utils",
    "diffusers.hooks",
    "diffusers.models.modeling_outputs",
    "diffusers.utils",
)
# Private names of diffusers that classes of ours have, too.
ALSO_OURS = {"_step_index", "_context", "_execution_device", "_diffusers_hook", "_chunk_size"}
DOCUMENTED_NAMES = {
    "diffusers.utils.torch_utils": {"randn_tensor"},
    # The outputs of schedulers lie beside them.
    "diffusers.schedulers.scheduling_block_refinement": {"BlockRefinementSchedulerOutput"},
}


def is_private(name: object) -> bool:
    return isinstance(name, str) and name.startswith("_") and not name.startswith("__")


def is_own(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def defined_names(tree: ast.AST) -> Iterator[str]:
    """Everything that a module gives a name to, attributes of `self` among them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_own(node):
            yield node.attr


def imported_by(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "diffusers":
        module = node.module or ""
        names = {alias.name for alias in node.names}
        if module not in DOCUMENTED and not names <= DOCUMENTED_NAMES.get(module, set()):
            yield f"imports {', '.join(sorted(names))} from {module}"
    elif isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.startswith("diffusers.") and alias.name not in DOCUMENTED:
                yield f"imports {alias.name}"


def touched_by(node: ast.AST, own: set[str]) -> Iterator[str]:
    """Private attributes of foreign objects; what a class inherits is its own."""
    if isinstance(node, ast.Attribute) and is_private(node.attr):
        if node.attr not in own and not is_own(node):
            yield ast.unparse(node)
    elif isinstance(node, ast.Call) and getattr(node.func, "id", None) in (
        "getattr",
        "hasattr",
        "setattr",
        "delattr",
    ):
        name = getattr(node.args[1], "value", None)
        if is_private(name) and name not in own:
            yield ast.unparse(node)


def violations(tree: ast.AST, own: set[str]) -> list[str]:
    return [
        found for node in ast.walk(tree) for found in (*imported_by(node), *touched_by(node, own))
    ]


@pytest.fixture(scope="module")
def trees() -> dict[Path, ast.AST]:
    files = [file for package in PACKAGES for file in (TREE / package).rglob("*.py")]
    return {file.relative_to(TREE): ast.parse(file.read_text()) for file in files}


def test_nobody_else_touches_what_diffusers_does_not_document(trees: dict[Path, ast.AST]) -> None:
    own = {name for tree in trees.values() for name in defined_names(tree)} - ALSO_OURS
    found = {file: violations(tree, own) for file, tree in trees.items()}
    assert found.pop(ADAPTER), "the search finds nothing where there is something to find"
    assert {file: lines for file, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "from diffusers.hooks.hooks import ModelHook",
        "import diffusers.hooks.hooks",
        "from diffusers.utils.torch_utils import randn_tensor, unwrap_module",
        "device = pipe._execution_device",
        "pipe.scheduler._step = 3",
        "chunk = getattr(block, '_chunk_size', None)",
    ],
)
def test_the_search_finds(source: str) -> None:
    assert violations(ast.parse(source), set())
