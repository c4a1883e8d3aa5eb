"""Small distributions outside of the tree, as other people would install them.

folder = make_distribution(tmp_path, "my-cache", source, {"gensift.caches": {"mine": "METHOD"}})
done = run_with(folder, "-m", "apps.commands.main", "list")
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

TESTS = Path(__file__).parents[1]


def make_distribution(
    folder: Path,
    name: str,
    source: str,
    entry_points: Mapping[str, Mapping[str, str]],
    *,
    summary: str = "Made by a test.",
) -> Path:
    """Write a distribution of one module into `folder`, which is returned.

    Args:
        folder: to be put on the path.
        name: of the distribution; its module has underscores for hyphens.
        source: of the module.
        entry_points: by group, for each name what it stands for in the module ("METHOD").
        summary: of the distribution, in one line.
    """
    module = name.replace("-", "_")
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nSummary: {summary}\n"
    )
    groups = (
        "\n".join([f"[{group}]", *(f"{key} = {module}:{value}" for key, value in points.items())])
        for group, points in entry_points.items()
    )
    (info / "entry_points.txt").write_text("\n\n".join(groups) + "\n")
    return folder


def run_with(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Python in `folder`, where what is installed there and the helpers of tests are found."""
    paths = [str(folder), str(TESTS), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
    )
