"""Packages of others under our names are named, with the cure, in a fresh process."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gensift._shadows import MARK, SIBLINGS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A copy of our packages, as they lie in site-packages."""
    site = tmp_path / "site"
    for name in ("gensift", *SIBLINGS):
        ignored = shutil.ignore_patterns("models", "__pycache__", "training")
        shutil.copytree(ROOT / name, site / name, ignore=ignored)
    return site


def install(site: Path, distribution: str, *files: str) -> None:
    """Put a distribution over what is there, as pip does: its files win."""
    for file in files:
        (site / file).parent.mkdir(exist_ok=True)
        (site / file).write_text('"""Somebody else\'s."""\n')
    info = site / f"{distribution}-2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 2.1\n")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def run(site: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    # First on the path, before the tree that the environment may have installed.
    start = (
        "import sys, runpy; sys.path.insert(0, sys.argv.pop(1)); sys.argv.pop(0); "
        "exec(sys.argv[0]) if len(sys.argv) == 1 else runpy.run_path(sys.argv[0], run_name='x')"
    )
    return subprocess.run(
        [sys.executable, "-c", start, str(site), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd or site.parent,
        check=False,
    )


def test_our_packages_bear_the_mark() -> None:
    assert all(MARK in (ROOT / name / "__init__.py").read_bytes() for name in SIBLINGS)


def test_untouched_packages_pass(site: Path) -> None:
    done = run(site, "import gensift; print(gensift.__file__)")
    assert done.stdout.strip() == str(site / "gensift" / "__init__.py"), done.stderr


@pytest.mark.parametrize("name", SIBLINGS)
def test_an_overwritten_package_is_named_with_its_culprit(site: Path, name: str) -> None:
    install(site, f"py-{name}", f"{name}/__init__.py", f"{name}/other.py")
    done = run(site, "import gensift")
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and line.startswith("ImportError: ")
    assert f"package '{name}' in {site} was overwritten (of the distribution py-{name} 2.1)" in line
    assert "pip install --force-reinstall --no-deps gensift" in line


def test_a_package_that_went_with_its_culprit_is_to_be_installed_again(site: Path) -> None:
    shutil.rmtree(site / "caches")
    done = run(site, "import sys; sys.path = [p for p in sys.path if p == sys.path[0] or "
               "'python3' in p and 'site-packages' not in p]; import gensift")  # fmt: skip
    assert "but Python finds nowhere. Install gensift again" in done.stderr.splitlines()[-1]


def test_a_distribution_before_ours_is_named(site: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    install(other, "rewards", "rewards/__init__.py")
    done = run(site, f"sys.path.insert(0, {str(other)!r}); import gensift")
    line = done.stderr.splitlines()[-1]
    assert f"Python finds {other / 'rewards/__init__.py'} (of the distribution rewards 2.1)" in line
    assert "Rename or move that file, or run from another folder" in line


def test_a_command_says_one_line(site: Path, tmp_path: Path) -> None:
    install(site, "py-rewards", "rewards/__init__.py")
    script = tmp_path / "generate"
    script.write_text("import sys; sys.argv = ['generate']; import gensift")
    done = run(site, str(script), "--version")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: gensift's package 'rewards'")


@pytest.mark.parametrize("command", [[], ["generate"]])
def test_the_module_runs_from_any_folder(tmp_path: Path, command: list[str]) -> None:
    """Also from one with a folder called apps; only then is it first on the path."""
    (tmp_path / "apps").mkdir()
    (tmp_path / "apps" / "__init__.py").write_text("raise SystemExit('not ours')")
    done = subprocess.run(
        [sys.executable, "-m", "gensift", *command, "--version"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("gensift ")
