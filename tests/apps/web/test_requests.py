import shlex
from dataclasses import replace

import pytest
from helpers.fake_search import FakePlan

from apps.commands.generate import GenerateOptions, read_options
from apps.web.models import Models
from apps.web.options import AppOptions
from apps.web.requests import check_plan, command_line, generate_options, read_request
from gensift.cost import Cost
from gensift.errors import GensiftError

LIMITS = AppOptions(max_candidates=16, max_steps=50, max_prompt=200, max_side=256, max_seconds=60)
MODELS = Models(LIMITS)


def read(**given):
    return read_request({"prompt": "a red circle", **given}, LIMITS, MODELS)


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"prompt": "x" * 10_000}, "10000 characters"),
        ({"prompt": " "}, "blank"),
        ({"prompt": "\ud800"}, "Unicode"),
        ({"prompt": 7}, "`prompt`"),
        ({"sampler": "../../x"}, "not a registered sampler"),
        ({"sampler": ["ttsnap"]}, "`sampler`"),
        ({"model": "../.."}, "not offered"),
        ({"model": "/etc"}, "not offered"),
        ({"model": "black-forest-labs/FLUX.1-dev"}, "--allow-model"),
        ({"reward": "os:system"}, "not offered"),
        ({"reward": "clip-score"}, "--allow-reward"),
        ({"cache": "/etc/passwd"}, "not offered"),
        ({"num_candidates": 10**9}, "at most 16"),
        ({"num_candidates": 0}, "num_candidates"),
        ({"num_candidates": "many"}, "num_candidates"),
        ({"num_candidates": float("nan")}, "num_candidates"),
        ({"steps": 51}, "at most 50"),
        ({"width": 10**6}, "at most 256"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**70}, "seed"),
        ({"options": "none"}, "options"),
        ({"options": {"nonsense": 1}}, "nonsense"),
        ({"options": {"preview_decoder": "/etc/passwd"}}, "preview_decoder"),
        ({"options": {"preview_decoder": "madebyollin/taef1"}}, "preview_decoder"),
        ({"sampler": "tts-var", "options": {"embedding": "../../model"}}, "embedding"),
        ({"options": {"budget": 1e9, "budget_unit": "seconds"}}, "at most 60"),
        ({"options": {"num_candidates": 10**9}}, "at most 16"),
        ({"secret": 1}, "secret"),
    ],
)
def test_what_is_not_allowed_is_refused_in_one_line(given, part):
    with pytest.raises(GensiftError) as caught:
        read(**given)
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_allowed_models_and_rewards_pass():
    models = Models(replace(LIMITS, allow_model=("a/b",), allow_reward=("clip-score",)))
    given = {"prompt": "a", "model": "a/b", "reward": "clip-score"}
    assert read_request(given, LIMITS, models).model == "a/b"


@pytest.mark.parametrize(
    ("nfe", "tokens", "count", "is_refused"),
    [(50_000, 0, 16, False), (50_001, 0, 4, True), (0, 50_000_001, 4, True), (1, 0, 17, True)],
)
def test_a_plan_of_too_much_work_is_refused(nfe, tokens, count, is_refused):
    plan = FakePlan(num_candidates=count, cost=Cost(nfe=nfe, tokens=tokens), stages=(), peak_rows=1)
    if not is_refused:
        check_plan(plan, LIMITS)
        return
    with pytest.raises(GensiftError, match="at most"):
        check_plan(plan, LIMITS)


def test_the_command_line_says_the_same_as_the_request():
    request = read(
        prompt="it's a 'red' circle",
        num_candidates=4,
        seed=3,
        steps=7,
        width=64,
        height=64,
        options={"checkpoints": [0.3], "keep": [0.5]},
    )
    words = shlex.split(command_line(request))[1:]
    given = dict(zip(words[::2], words[1::2], strict=True))
    assert given["--prompt"] == "it's a 'red' circle"
    parsed = read_options(
        {
            "sampler": given["--sampler"],
            "prompt": [given["--prompt"]],
            "num_candidates": int(given["-n"]),
            "seed": int(given["--seed"]),
            "steps": int(given["--steps"]),
            "call": [words[i + 1] for i, word in enumerate(words) if word == "--call"],
            "override": [words[i + 1] for i, word in enumerate(words) if word == "-o"],
        },
        None,
    )
    from apps.jobs.options import sampler_fields
    from samplers.registry import SAMPLERS

    mine, config_class = generate_options(request, LIMITS), SAMPLERS.get("ttsnap").config_class
    assert isinstance(parsed, GenerateOptions)
    left, right = (config_class(**sampler_fields(o, config_class)) for o in (parsed, mine))
    assert left == right
    assert (parsed.call, parsed.seed, parsed.steps) == (mine.call, mine.seed, mine.steps)
