"""Dependencies run one way: apps -> samplers -> {caches, rewards} -> gensift."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {
    "gensift": set(),
    "caches": {"gensift"},
    "rewards": {"gensift"},
    "samplers": {"gensift", "caches", "rewards"},
    "apps": {"gensift", "caches", "rewards", "samplers"},
}


def imported_siblings(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.append(node.module)
    return {name.split(".")[0] for name in names} & set(MAY_IMPORT)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_those_below_it(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    wrong = {
        f"{file.relative_to(ROOT)} -> {name}"
        for file in files
        for name in imported_siblings(file) - {package} - MAY_IMPORT[package]
    }
    assert not wrong


def test_the_facade_imports_no_heavy_library() -> None:
    code = "import sys, gensift; print([m for m in ('torch', 'diffusers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_every_public_name_resolves_and_unknown_ones_do_not() -> None:
    import gensift

    for name in gensift.__all__:
        assert getattr(gensift, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        gensift.Nonsense  # noqa: B018


def test_a_shadowing_module_is_named(tmp_path: Path) -> None:
    shadow = tmp_path / "samplers.py"
    shadow.write_text("")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; import gensift"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert "ImportError" in done.stderr
    assert str(shadow) in done.stderr
