"""A kind of samples of somebody else's: one module outside of the tree, driven by all commands.

No file of ours names it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.plugins import make_distribution, run_with

SOURCE = '''
import math
import types
from dataclasses import dataclass

import numpy as np
import torch

from apps.console import out
from apps.modalities.base import Modality, Tab
from gensift.config import check, option
from gensift.cost import Cost
from gensift.trace import PromptTrace, Trace
from samplers.base import Plan, SamplerBase
from samplers.output import PlannedStage, PromptResult, SamplerOutput


class Synthesizer:
    """A pipeline that diffusers does not know: tones of noisy pitch."""

    dtype = torch.float32
    scheduler = None

    def __call__(self, prompt, pitch=440.0, generator=None):
        wave = pitch * (1 + 0.1 * torch.randn((), generator=generator).item())
        return types.SimpleNamespace(sounds=[np.sin(np.arange(8) * wave / 1000)])


class Sound(Modality):
    name = "sound"
    deed = "makes sounds"
    denial = "makes no sounds"
    samplers = "--sampler loudest"
    tab = Tab("Sounds", "their_sounds:build_tab")

    def default_rewards(self, model):
        return ("loudness",)

    def check_model(self, model):
        pass

    def load_pipeline(self, model, **settings):
        return Synthesizer()

    def claims(self, pipeline):
        return isinstance(pipeline, Synthesizer)

    def write_sample(self, files, sample, stem, about):
        files.write_json(f"{stem}.json", {"samples": sample.tolist(), "seed": about["seed"]})
        return {"file": f"{stem}.json"}

    def show(self, lines, *, is_reproducible):
        for line in lines:
            out.print(f"loudest of {line['prompt']}: {line['samples'][0]['file']}")


SOUND = Sound()


def load_loudness(*, device):
    def loudness(sounds, prompts):
        return torch.tensor([float(np.abs(sound).mean()) for sound in sounds])

    return loudness


@dataclass(frozen=True, kw_only=True)
class LoudestConfig:
    num_candidates: int = option(4, minimum=1, help="sounds per prompt")

    def __post_init__(self):
        check(self)


class Loudest(SamplerBase[LoudestConfig, Plan]):
    """Draws several sounds and keeps the loudest."""

    name = "loudest"
    modality = "sound"
    pipelines = "synthesizers"
    default_model = "tone"
    config_class = LoudestConfig

    def plan_request(self, request):
        count = self.config.num_candidates
        return Plan(
            num_candidates=count,
            num_prompts=request.num_prompts,
            peak_rows=1,
            stages=(PlannedStage(0, 1, count, 1),),
            cost=Cost(nfe=count * request.num_prompts),
        )

    def draw(self, request):
        plan, results = self.plan_request(request), []
        (score,) = self.reward.values()
        groups = request.seed_groups(plan.seeds_per_prompt)
        for prompt, seeds in zip(request.prompts, groups):
            sounds = [
                request.pipeline(
                    prompt,
                    generator=torch.Generator().manual_seed(seed),
                    **request.arguments,
                ).sounds[0]
                for seed in seeds
            ]
            scores = score(sounds, [prompt] * len(sounds)).tolist()
            best = max(range(len(sounds)), key=scores.__getitem__)
            results.append(
                PromptResult(
                    prompt=prompt,
                    samples=[sounds[best]],
                    rewards=(scores[best],),
                    all_rewards=({"loudness": scores[best]},),
                    seeds=(seeds[best],),
                    first_reward=scores[0],
                    mean_reward=sum(scores) / len(scores),
                )
            )
        traces = tuple(
            PromptTrace(prompt=prompt, prompt_index=at, seeds=tuple(seeds), stages=())
            for at, (prompt, seeds) in enumerate(zip(request.prompts, groups))
        )
        return SamplerOutput(results=tuple(results), cost=plan.cost, trace=Trace(prompts=traces))


def build_tab(context):
    """Builds the tab; a test reads what it offers."""
    from apps.web.choosing import models_of, samplers_of

    print("tab:", *samplers_of("sound"), *models_of("sound", ["tone", "shapes-flux"]))
'''

POINTS = {
    "gensift.modalities": {"sound": "SOUND"},
    "gensift.samplers": {"loudest": "Loudest"},
    "gensift.rewards": {"loudness": "load_loudness"},
}
GENERATE, GENSIFT = "apps.commands.generate", "apps.commands.main"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    return make_distribution(folder, "their-sounds", SOURCE, POINTS, summary="Sounds.")


def test_generate_makes_writes_and_reports_it_and_goes_on(installed: Path) -> None:
    command = ("-m", GENERATE, "--sampler", "loudest", "--prompt", "a", "--output", "run")
    done = run_with(installed, *command, "--call", "pitch=220")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("loudest of a: 0000-0.json\n")
    (line,) = map(json.loads, (installed / "run" / "results.jsonl").read_text().splitlines())
    (sample,) = line["samples"]
    assert sample["rewards"] == {"loudness": sample["reward"]}
    written = json.loads((installed / "run" / "0000-0.json").read_text())
    assert len(written["samples"]) == 8 and written["seed"] == str(sample["seed"])
    summary = json.loads((installed / "run" / "run.json").read_text())
    assert summary["config"]["call"] == {"pitch": 220}
    assert not (installed / "run" / "trace.png").exists()
    again = run_with(installed, *command, "--call", "pitch=220", "--json")
    assert json.loads(again.stdout)["prompts"][0]["resumed"] is True


MISTAKES = {
    ("--sampler", "loudest", "--stream"): "but loudest makes samples of another kind (sound)",
    ("--sampler", "loudest", "--call", "pich=1"): "Nearest: 'pitch'",
    ("--sampler", "ttsnap", "--model", "tone", "--reward", "loudness"): "'tone'",
}


def test_its_mistakes_are_refused_in_one_line(installed: Path) -> None:
    commands = [["--prompt", "a", *given, "--output", "refused"] for given in MISTAKES]
    script = f"from {GENERATE} import main\nprint(*map(main, {commands}))"
    done = run_with(installed, "-c", script)
    assert done.stdout.split() == ["2"] * len(MISTAKES)
    for line, refusal in zip(done.stderr.splitlines(), MISTAKES.values(), strict=True):
        assert refusal in line
    assert not (installed / "refused").exists()


def test_listings_name_it(installed: Path) -> None:
    found = json.loads(run_with(installed, "-m", GENSIFT, "list", "--json").stdout)
    assert "loudest" in found["samplers"] and "loudness" in found["rewards"]
    one = run_with(installed, "-m", GENERATE, "--list-samplers", "loudest")
    assert one.stdout.startswith("loudest: Draws several sounds and keeps the loudest.")
    assert "sounds per prompt" in one.stdout
    assert "loudest: Sounds. (from" in run_with(installed, "-m", GENERATE, "--list-samplers").stdout


APP = """
from apps.jobs.results import write_prompt
from apps.web.app_context import AppContext, prepared, run_folder
from apps.web.choosing import models_of, samplers_of
from apps.web.options import AppOptions
from apps.web.requests import read_request
from apps.web.tabs import tabs

found = dict(tabs())
print("tabs:", *found)
found["Sounds"](None)
print("others:", *models_of("image", ["tone", "shapes-flux"]))
print("elsewhere:", "loudest" in samplers_of("image"))

context = AppContext(AppOptions(allow_model=("tone",), allow_reward=("loudness",), output="app"))
given = {"sampler": "loudest", "prompt": "a"}
request = read_request(given, context.options, context.models)
with prepared(context, request) as session:
    output = session.run()
    with run_folder(context, session) as folder:
        line = write_prompt(folder, session.job, output, 0)
context.request_queue.close()
print("drawn:", len(output.samples), line["samples"][0]["file"])
"""


def test_the_app_offers_it_on_its_own_tab_and_draws_it(installed: Path) -> None:
    done = run_with(installed, "-c", APP)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "tabs: Pictures Text Policy Sounds Caches Runs",
        "tab: loudest tone",
        "others: shapes-flux",
        "elsewhere: False",
        "drawn: 1 0000-0.json",
    ]
