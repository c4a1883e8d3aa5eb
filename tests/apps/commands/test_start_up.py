"""What commands load before they know what is asked of them."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module", ["apps.commands.main", "apps.commands.generate", "apps.jobs.results"]
)
def test_nothing_heavy_is_loaded_to_say_what_there_is(module):
    heavy = "{'torch', 'diffusers', 'transformers', 'gradio', 'mujoco'}"
    code = f"import sys, {module}; sys.exit(str({heavy} & sys.modules.keys() or '') or 0)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")
