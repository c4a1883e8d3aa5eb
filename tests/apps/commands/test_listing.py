"""Listings cost nothing, are whole in a pipe, and say what the classes say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.plugins import make_distribution, run_with

from apps.commands.listing import summary_of
from gensift.registry import import_target
from rewards.registry import REWARDS
from samplers.registry import SAMPLERS

HEAVY = ("torch", "diffusers", "transformers", "gradio", "matplotlib")
GENERATE, GENSIFT = "apps.commands.generate", "apps.commands.main"

LISTINGS = {
    "samplers": (GENERATE, "--list-samplers"),
    "samplers as JSON": (GENERATE, "--list-samplers", "--json"),
    "rewards": (GENERATE, "--list-rewards"),
    "help of generate": (GENERATE, "--help"),
    "all": (GENSIFT, "list"),
    "zoo": (GENSIFT, "zoo", "list"),
    "help of gensift": (GENSIFT, "--help"),
}

PROBE = """
import sys
from {module} import main
code = main({arguments!r})
print("loaded:", *sorted({heavy!r} & sys.modules.keys()))
sys.exit(code)
"""


def listed(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = PROBE.format(module=module, arguments=list(arguments), heavy=set(HEAVY))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize("name", LISTINGS)
def test_a_listing_imports_nothing_heavy(name: str) -> None:
    done = listed(*LISTINGS[name])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "loaded:"


@pytest.mark.parametrize(
    ("listing", "names"),
    [
        ("samplers", SAMPLERS.names()),
        ("rewards", REWARDS.names()),
        ("all", [*SAMPLERS.names(), *REWARDS.names()]),
    ],
)
def test_names_are_whole_in_a_pipe(listing: str, names: Sequence[str]) -> None:
    words = listed(*LISTINGS[listing]).stdout.replace(":", " ").split()
    assert set(names) <= set(words)
    assert "…" not in " ".join(words)


def test_long_names_and_options_are_whole_in_a_pipe(tmp_path: Path) -> None:
    name = "a-sampler-of-" + "-".join(["very"] * 20) + "-long-name"
    field = "option_of_" + "_".join(["very"] * 20) + "_long_name"
    folder = make_distribution(tmp_path, "long-names", LONG.format(name=name, field=field), {
        "gensift.samplers": {name: "Long"},
    })  # fmt: skip
    shown = run_with(folder, "-m", GENERATE, "--list-samplers", name)
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert lines[0] == f"{name}: Samples nothing."
    assert any(line.startswith(f"{field} ") and line.rstrip().endswith("help.") for line in lines)
    assert name in run_with(folder, "-m", GENSIFT, "list").stdout


LONG = '''
from dataclasses import dataclass
from gensift.config import check, option
from samplers.base import SamplerBase

@dataclass(frozen=True, kw_only=True)
class Config:
    {field}: int = option(1, help="{field} again, and so much more than fits in a line of help.")
    def __post_init__(self): check(self)

class Long(SamplerBase):
    """Samples nothing."""
    name = "{name}"
    pipelines = "none"
    default_model = "none"
    config_class = Config
'''


def test_one_sampler_is_shown_alone(generate: Any) -> None:
    shown = generate("--list-samplers", "fake").out
    assert shown.startswith("fake: Searches nothing") and "num_candidates" in shown
    (only,) = generate("--list-samplers", "fake", "--json").document["samplers"]
    assert only["name"] == "fake" and only["options"]


def test_an_unknown_sampler_is_refused_with_the_nearest(generate: Any) -> None:
    assert "Nearest: 'fake'" in generate("--list-samplers", "fale").error


def test_a_name_without_an_option_is_refused(generate: Any) -> None:
    assert "'ttsnap' belongs to no option" in generate("ttsnap", "--prompt", "a").error


OTHERS = """
raise RuntimeError("a listing has imported this")
"""


def test_of_another_distribution_the_summary_is_said_and_nothing_imported(tmp_path: Path) -> None:
    folder = make_distribution(
        tmp_path,
        "their-sampler",
        OTHERS,
        {"gensift.samplers": {"theirs": "Theirs"}, "gensift.rewards": {"their-taste": "load"}},
        summary="Samples by taste.",
    )
    shown = run_with(folder, "-m", GENERATE, "--list-samplers")
    assert shown.returncode == 0, shown.stderr
    assert "theirs: Samples by taste. (from their-sampler)" in shown.stdout
    assert "Its options: generate --list-samplers theirs" in shown.stdout
    listed = run_with(folder, "-m", GENSIFT, "list", "--json")
    assert {"theirs"} <= set(json.loads(listed.stdout)["samplers"])
    assert (
        "  their-taste: Samples by taste. (from" in run_with(folder, "-m", GENSIFT, "list").stdout
    )


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_what_a_listing_says_is_what_the_class_says(name: str) -> None:
    about, cls = SAMPLERS.about(name), SAMPLERS.get(name)
    if not about:
        pytest.xfail(f"{name} has no words in samplers/registry.py yet")
    assert about["summary"] == summary_of(cls)
    assert about["modality"] == cls.modality
    assert about["pipelines"] == cls.pipelines
    assert about["default_model"] == cls.default_model
    assert import_target(about["config"], name) is cls.config_class


@pytest.mark.parametrize("name", REWARDS.names())
def test_each_reward_of_ours_has_a_summary(name: str) -> None:
    assert REWARDS.about(name)["summary"].endswith(".")
