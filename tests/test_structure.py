"""The shape of the code: how long, how typed, how connected, measured from its syntax trees.

How things are counted, over the five packages:

* `Any`: the name wherever it stands outside of imports and comments, also in quoted annotations
  and as `typing.Any`, per 1,000 lines that are not blank;
* `type: ignore`: comments of that kind, per 1,000 lines that are not blank;
* length of a function or file: lines from the first to the last, blank ones and docstrings too;
* circles: groups of modules that import each other, directly or through others, by any import
  there is: at the top, inside functions and under `TYPE_CHECKING`. What a module imports out of a
  package counts for the module of that name, or else for the package's `__init__`;
* shapes: a public function, or method of a public class, with `Tensor` in its signature has a
  docstring that names a shape, its own or that of its class: a tuple such as `(batch, ...)`, or a
  number (`scalar`). Exempt are properties, methods with underscores and overloads, and tensors by
  name, such as `dict[str, Tensor]`: each has the shape of its namesake.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("gensift", "samplers", "caches", "rewards", "apps")
MOST_ANY, MOST_IGNORES = 8.0, 0.5  # per 1,000 lines
MOST_FUNCTION_LINES, MOST_FILE_LINES = 80, 400

BY_NAME = r"(?:dict|Mapping)\[str, Tensor\]"
Function = ast.FunctionDef | ast.AsyncFunctionDef
SHAPE = re.compile(r"\(\s*(?:[\w.*+/ -]|len\(\w+\))+,[^()]*\)|\bscalar\b|0-d")


@cache
def sources() -> dict[str, str]:
    """Text of each module, by its file's path under the root."""
    files = (file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py")))
    return {file.relative_to(ROOT).as_posix(): file.read_text() for file in files}


@cache
def tree_of(path: str) -> ast.Module:
    return ast.parse(sources()[path])


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def filled_lines(text: str) -> int:
    return sum(bool(line.strip()) for line in text.splitlines())


def names_in(tree: ast.AST, name: str) -> int:
    """Occurrences of a name, quoted annotations included, imports not."""
    count = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            count += node.id == name
        elif isinstance(node, ast.Attribute):
            count += node.attr == name
        elif isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            count += quoted(node.annotation, name)
        elif isinstance(node, Function) and node.returns is not None:
            count += quoted(node.returns, name)
    return count


def quoted(annotation: ast.expr, name: str) -> int:
    texts = (
        n.value
        for n in ast.walk(annotation)
        if isinstance(n, ast.Constant) and isinstance(n.value, str)
    )
    return sum(len(re.findall(rf"\b{name}\b", text)) for text in texts)


def ignores_in(text: str) -> int:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = (token.string for token in tokens if token.type == tokenize.COMMENT)
    return sum(bool(re.search(r"#\s*type:\s*ignore", comment)) for comment in comments)


def per_thousand(counts: dict[str, int]) -> tuple[float, list[str]]:
    """Of all lines, and the files that have most."""
    lines = sum(map(filled_lines, sources().values()))
    worst = sorted(counts, key=lambda path: -counts[path])[:20]
    return 1000 * sum(counts.values()) / lines, [f"{path}: {counts[path]}" for path in worst]


def listed(title: str, found: list[str]) -> str:
    return "\n  ".join([f"{title} ({len(found)}):", *found])


def test_few_types_are_left_open() -> None:
    share, worst = per_thousand({path: names_in(tree_of(path), "Any") for path in sources()})
    title = f"`Any` {share:.1f} times per 1,000 lines, at most {MOST_ANY}; most of them"
    assert share <= MOST_ANY, listed(title, worst)


def test_few_types_are_ignored() -> None:
    share, worst = per_thousand({path: ignores_in(text) for path, text in sources().items()})
    title = f"`type: ignore` {share:.2f} times per 1,000 lines, at most {MOST_IGNORES}; most"
    assert share <= MOST_IGNORES, listed(title, worst)


def test_functions_are_short() -> None:
    found = [
        f"{path}:{node.lineno} {node.name}: {length}"
        for path in sources()
        for node in ast.walk(tree_of(path))
        if isinstance(node, Function)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > MOST_FUNCTION_LINES
    ]
    assert not found, listed(f"Functions of more than {MOST_FUNCTION_LINES} lines", found)


def test_files_are_short() -> None:
    lengths = {path: len(text.splitlines()) for path, text in sources().items()}
    found = [f"{path}: {length}" for path, length in lengths.items() if length > MOST_FILE_LINES]
    assert not found, listed(f"Files of more than {MOST_FILE_LINES} lines", found)


def imports_of(path: str, known: frozenset[str]) -> set[str]:
    name = module_name(path)
    package = name if path.endswith("__init__.py") else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in known else base)
    return (found & known) - {name}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of more than one node that reach each other, by Tarjan's algorithm."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = lowest[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], index[other])
        if lowest[node] == index[node]:
            at = stack.index(node)
            groups.append(sorted(stack[at:]))
            del stack[at:]

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return [group for group in groups if len(group) > 1]


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c", "e"}, "c": {"a"}, "d": {"a"}, "e": {"f"}, "f": {"e"}}
    assert sorted(circles(graph)) == [["a", "b", "c"], ["e", "f"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_modules_import_each_other() -> None:
    known = frozenset(map(module_name, sources()))
    graph = {module_name(path): imports_of(path, known) for path in sources()}
    found = [" <-> ".join(group) for group in circles(graph)]
    assert not found, listed("Circles of imports", found)


def public_functions(tree: ast.Module) -> Iterator[tuple[str, Function, str]]:
    """Name, node and the docstring of its class, of public functions and methods."""
    for node in tree.body:
        if isinstance(node, Function):
            if not node.name.startswith("_"):
                yield node.name, node, ""
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            about = ast.get_docstring(node) or ""
            for inner in node.body:
                if isinstance(inner, Function) and not inner.name.startswith("_"):
                    yield f"{node.name}.{inner.name}", inner, about


def takes_or_gives_tensors(node: Function) -> bool:
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    if decorators & {"overload", "typing.overload", "property", "functools.cached_property"}:
        return False
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    arguments += [a for a in (node.args.vararg, node.args.kwarg) if a is not None]
    annotations = [a.annotation for a in arguments if a.annotation is not None]
    annotations += [node.returns] if node.returns is not None else []
    texts = (re.sub(BY_NAME, "", ast.unparse(annotation)) for annotation in annotations)
    return any(re.search(r"\bTensor\b", text) for text in texts)


def test_docstrings_name_shapes() -> None:
    found = [
        f"{path}:{node.lineno} {name}"
        for path in sources()
        for name, node, about in public_functions(tree_of(path))
        if takes_or_gives_tensors(node)
        and not SHAPE.search(f"{ast.get_docstring(node) or ''}\n{about}")
    ]
    assert not found, listed("Tensors without a shape in the docstring", found)
