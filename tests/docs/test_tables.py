"""The documentation's generated tables say what the code says."""

import subprocess
import sys
from pathlib import Path

TABLES = Path(__file__).parents[2] / "docs" / "tables.py"


def test_no_generated_table_is_out_of_date() -> None:
    done = subprocess.run([sys.executable, TABLES, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
