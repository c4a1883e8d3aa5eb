"""A cache method from another distribution: one file, one entry point, and everything takes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.plugins import make_distribution, run_with

SOURCE = '''
"""Answers a step with the latest evaluation but those that a stride names."""

from dataclasses import dataclass, replace

from caches.cache import Cache, DenoiserCache
from caches.fingerprint import Fingerprint, fingerprint_of, scheduled_sigmas
from caches.method import CacheMethod, Calibrated
from caches.options import CalibrationOptions
from caches.outputs import as_tensor, prediction_in, with_prediction
from caches.row_store import RowStore
from gensift.config import check, option


@dataclass(frozen=True, kw_only=True)
class StrideConfig:
    """Which steps are computed."""

    num_steps: int = option(minimum=1, help="steps")
    updates: tuple[int, ...] = option(help="steps that are computed")
    fingerprint: Fingerprint | None = None

    def __post_init__(self):
        check(self)

    @property
    def schedule(self):
        return {"denoiser": self.updates}

    def with_steps(self, num_steps):
        return replace(self, num_steps=num_steps)


@dataclass(frozen=True, kw_only=True)
class StrideOptions(CalibrationOptions):
    """How many steps there are from one computed step to the next."""

    stride: int = option(2, minimum=1, help="steps from one that is computed to the next")


class Stride(Cache):
    name = "stride"

    def make_part(self, module):
        return Part(self)


class Part(DenoiserCache):
    def __init__(self, cache):
        super().__init__(cache.tally)
        self.cache, self.kept, self.forms = cache, RowStore(), {}

    def run(self, call, given, denoise):
        rows, config = call.rows.rows, self.cache.config
        is_due = call.step_index is None or call.step_index in config.updates
        kept = None if is_due or not call.is_continuous else self.kept.get(call.context, rows)
        if kept is not None:
            self.tally.reused += len(rows)
            return with_prediction(self.forms[call.context], kept.clone())
        self.tally.computed += len(rows)
        self.tally.refused += 0 if is_due else len(rows)
        output = denoise()
        self.forms[call.context] = output
        self.kept.put(call.context, rows, as_tensor(prediction_in(output)).clone())
        return output

    def select(self, sources, num_candidates):
        self.kept.select(sources, num_candidates)

    def clear(self):
        self.kept.clear()
        self.forms.clear()

    @property
    def num_bytes(self):
        return self.kept.num_bytes


def calibrate(denoising, prompts, options, on_stage):
    on_stage("striding")
    denoising.run(prompts[:1])
    steps = len(denoising.pipe.scheduler.timesteps)
    updates = tuple(range(0, steps, options.stride))
    fingerprint = fingerprint_of(
        denoising.pipe,
        num_steps=steps,
        sigmas=scheduled_sigmas(denoising.pipe.scheduler),
        guidance_scale=denoising.guidance_scale,
        latents=(),
    )
    config = StrideConfig(num_steps=steps, updates=updates, fingerprint=fingerprint)
    return Calibrated(config, steps / len(updates))


METHOD = CacheMethod(
    name="stride",
    config_class=StrideConfig,
    cache_class=Stride,
    options_class=StrideOptions,
    calibrate=calibrate,
)
'''

SUITE = """
from helpers.cache_conformance import CacheConformance
from helpers.cached_runs import STEPS
from stride_cache import StrideConfig


class TestStride(CacheConformance):
    variants = ("stride",)
    families = ("flux",)

    def config_of(self, variant, pipe, updates):
        return StrideConfig(num_steps=STEPS, updates=tuple(updates))
"""

ASKED = [part for text in ("a", "b", "c", "d") for part in ("--prompt", f"{text} red circle")] + [
    "--steps",
    "4",
]

COMMANDS = """
import json, sys
from pathlib import Path
from apps.commands.generate import main as generate
from apps.commands.main import main as gensift

ASKED = json.loads(sys.argv[1])
calibrate = ["calibrate", *ASKED, "--cache", "stride", "--output", "p.json"]
assert gensift([*calibrate, "-o", "stride=4"]) == 0
assert gensift([*calibrate, "-o", "strides=4"]) == 2
assert gensift([*calibrate, "--num-bubbling", "3"]) == 2
assert gensift([*calibrate, "-o", "stride=0"]) == 2
assert gensift(["calibrate", "--list-options"]) == 0
assert gensift(["list"]) == 0
drawn = ["--prompt", "a red circle", "--steps", "4", "-n", "2", "--output", "drawn"]
drawn += ["--sampler", "best-of-n"]
assert generate([*drawn, "--cache", "p.json"]) == 0
"""

IN_PYTHON = """
import gensift
from apps.web.cache_choice import calibrated_methods, choose_method
from apps.web.cache_work import CalibrationRequest
from stride_cache import StrideConfig, StrideOptions
from caches.calibrate import calibrate
import gradio as gr

pipe = gensift.load_pipeline("shapes-flux", dtype="float32")
pipe.set_progress_bar_config(disable=True)
cache = gensift.enable_cache(pipe, StrideConfig(num_steps=2, updates=(0,)))
pipe("a red circle", num_inference_steps=2, output_type="latent")
assert cache.name == "stride" and cache.report().reused_share == 0.5
gensift.disable_cache(pipe)
gensift.enable_cache(pipe, "p.json")
gensift.disable_cache(pipe)
found = calibrate(pipe, ["a"] * 4, StrideOptions(stride=3), num_inference_steps=4)
assert found.schedule == {"denoiser": (0, 3)} and found.profile.cache == "stride"

assert calibrated_methods()["stride"] is StrideOptions
with gr.Blocks():
    choice = choose_method("bac")
assert "stride" in [value for _, value in choice.method.choices]
values = [c.value for c in choice.components]
values[0] = "stride"
assert choice.read(values) == {"cache": "stride", "options": {}}
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    points = {"gensift.caches": {"stride": "METHOD"}}
    return make_distribution(folder, "stride-cache", SOURCE, points, summary="Every other step.")


@pytest.fixture(scope="module")
def commands(installed: Path) -> Any:
    return run_with(installed, "-c", COMMANDS, json.dumps(ASKED))


def test_commands_take_it(commands: Any, installed: Path) -> None:
    assert commands.returncode == 0, commands.stderr
    profile = json.loads((installed / "p.json").read_text())
    assert profile["cache"] == "stride" and profile["config"]["updates"] == [0]
    assert profile["report"]["options"]["stride"] == 4
    errors = [line for line in commands.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    assert "`strides`" in errors[0] and "stride" in errors[0]
    assert "`--num-bubbling` is no option of stride, but of bac; stride takes" in errors[1]
    assert "`stride` is 0; allowed: at least 1" in errors[2]


def test_lists_tell_of_it(commands: Any) -> None:
    text = " ".join(commands.stdout.split())
    assert "stride: Every other step. (from stride-cache)" in text
    assert "steps from one that is computed to the next" in text
    assert {"bac:", "ertacache:", "stride:"} <= set(text.split())


def test_generate_reuses_and_says_so(commands: Any, installed: Path) -> None:
    line = json.loads((installed / "drawn" / "results.jsonl").read_text().splitlines()[0])
    assert line["cost"]["cache_hits"] == 2 * 2 * 3  # candidates, guidance branches, steps
    run = json.loads((installed / "drawn" / "run.json").read_text())
    assert run["config"]["cache"]["name"] == "stride"


def test_python_and_the_page_take_it(commands: Any, installed: Path) -> None:
    done = run_with(installed, "-c", IN_PYTHON)
    assert done.returncode == 0, done.stderr


def test_it_can_take_the_conformance_suite(installed: Path) -> None:
    (installed / "test_stride.py").write_text(SUITE)
    done = run_with(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_stride.py")
    assert done.returncode == 0, done.stdout
    # The only tests left out are those against a second implementation.
    assert "6 passed, 1 skipped" in done.stdout


def test_a_class_registered_as_before_is_one_clear_error(tmp_path: Path) -> None:
    points = {"gensift.caches": {"stride": "Stride"}}
    folder = make_distribution(tmp_path, "stride-cache", SOURCE, points)
    arguments = [*ASKED, "--cache", "stride", "--output", "p.json"]
    done = run_with(folder, "-m", "apps.commands.main", "calibrate", *arguments)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and "which is not a cache method" in line


def test_nothing_here_names_it() -> None:
    tree = Path(__file__).parents[2]
    for folder in ("gensift", "caches", "samplers", "rewards", "apps"):
        for file in (tree / folder).rglob("*.py"):
            assert "stride_cache" not in file.read_text()
