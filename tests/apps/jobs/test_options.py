import json

import pytest
from helpers.fake_search import FakeConfig
from hypothesis import given
from hypothesis import strategies as st

from apps.jobs.options import (
    GenerateOptions,
    call_arguments,
    parse_budget,
    read_options,
    reward_options,
    sampler_fields,
)
from gensift.errors import ConfigError

FORMATS = {
    "options.json": '{"steps": 7, "num-candidates": 8, "options": {"keep": [0.3]}}',
    "options.toml": "steps = 7\nnum_candidates = 8\n[options]\nkeep = [0.3]\n",
    "options.yaml": "steps: 7\nnum-candidates: 8\noptions:\n  keep: [0.3]\n",
}


def config_file(tmp_path, content):
    path = tmp_path / "options.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2000", (2000.0, None)),
        (2000.0, (2000.0, None)),
        ("2000nfe", (2000.0, "nfe")),
        ("3e12flops", (3e12, "flops")),
        ("3E+12 FLOPs", (3e12, "flops")),
        ("60s", (60.0, "seconds")),
        (" 1.5 seconds ", (1.5, "seconds")),
    ],
)
def test_budgets_are_an_amount_with_or_without_a_unit(text, expected):
    assert parse_budget(text) == expected


@pytest.mark.parametrize("text", ["", "s", "-3", "0", "0s", "nan", "inf", "1e999", "3 m", "1.2.3"])
def test_a_bad_budget_says_how_to_write_one(text):
    with pytest.raises(ConfigError, match="3e12flops"):
        parse_budget(text)


@given(st.text())
def test_any_text_is_a_positive_budget_or_a_clear_error(text):
    try:
        amount, unit = parse_budget(text)
    except ConfigError:
        return
    assert amount > 0 and unit in {None, "nfe", "flops", "seconds"}


@given(st.floats(min_value=1e-9, max_value=1e30), st.sampled_from(["nfe", "flops", "s"]))
def test_a_written_budget_is_read_back(amount, unit):
    assert parse_budget(f"{amount!r}{unit}")[0] == amount


@pytest.mark.parametrize("name", FORMATS)
def test_config_files_of_each_format_say_the_same(tmp_path, name):
    path = tmp_path / name
    path.write_text(FORMATS[name])
    options = read_options({}, path)
    assert (options.steps, options.num_candidates) == (7, 8)
    assert sampler_fields(options, FakeConfig) == {"num_candidates": 8, "keep": [0.3]}


def test_the_command_line_wins_over_the_file_and_the_file_over_defaults(tmp_path):
    path = config_file(tmp_path, {"steps": 7, "seed": 5, "options": {"keep": [0.3]}})
    options = read_options({"steps": 9, "override": ["keep=0.7,0.8"]}, path)
    assert (options.steps, options.seed, options.dtype) == (9, 5, "auto")
    assert sampler_fields(options, FakeConfig) == {"keep": [0.7, 0.8]}


def test_one_of_two_alternatives_on_the_command_line_replaces_the_other_in_the_file(tmp_path):
    path = config_file(tmp_path, {"num_candidates": 8, "prompts": "p.txt"})
    options = read_options({"budget": "60s", "prompt": ["a"]}, path)
    assert sampler_fields(options, FakeConfig) == {"budget": 60.0, "budget_unit": "seconds"}
    assert (options.prompt, options.prompts) == (("a",), None)


def test_a_single_text_does_for_a_list_in_a_file(tmp_path):
    options = read_options({}, config_file(tmp_path, {"prompt": "a, b", "reward": "clip-score"}))
    assert (options.prompt, options.reward) == (("a, b",), ("clip-score",))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"stepz": 3}, "Nearest: 'steps'"),
        ({"steps": "many"}, "allowed: int"),
        ({"steps": 0}, "at least 1"),
        ({"dtype": "float8"}, "auto | float32"),
        ({"options": 3}, "options"),
        ({"reward": ["a", "a"]}, "given twice"),
    ],
)
def test_a_bad_option_in_a_file_is_named_with_the_file(tmp_path, content, expected):
    with pytest.raises(ConfigError) as caught:
        read_options({}, config_file(tmp_path, content))
    assert expected in str(caught.value)
    assert "options.json" in str(caught.value)


def test_all_problems_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        read_options({"steps": 0, "seed": -1}, None)
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("given", "pair"),
    [
        ({"num_candidates": 4}, "num_candidates=8"),
        ({"outputs_per_prompt": 2}, "num_outputs=1"),
        ({"budget": "60s"}, "budget_unit=nfe"),
    ],
)
def test_saying_it_twice_is_refused(given, pair):
    options = read_options({**given, "override": [pair]}, None)
    with pytest.raises(ConfigError, match="give it once"):
        sampler_fields(options, FakeConfig)


def test_defaults_set_nothing_in_the_sampler():
    assert sampler_fields(GenerateOptions(), FakeConfig) == {}


CALL = ("prompt", "height", "negative_prompt", "num_inference_steps", "generator")


def test_call_arguments_are_json_or_text() -> None:
    options = GenerateOptions(call=("height=768", "negative_prompt=blurry, dark"))
    assert call_arguments(options, CALL) == {"height": 768, "negative_prompt": "blurry, dark"}


@pytest.mark.parametrize(
    ("entry", "advice"),
    [
        ("height", "write key=value"),
        ("hight=64", "'height'"),
        ("num_inference_steps=3", "--steps"),
        ("generator=1", "--seed"),
        ("latents=1", "no argument"),
    ],
)
def test_call_arguments_that_cannot_be_used_say_why(entry: str, advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        call_arguments(GenerateOptions(call=(entry,)), CALL)


def test_options_of_a_single_reward_need_no_name() -> None:
    options = GenerateOptions(reward_option=("model=ViT-B-32", "scale=100"))
    assert reward_options(options, ["clip-score"]) == {
        "clip-score": {"model": "ViT-B-32", "scale": 100}
    }


def test_options_of_several_rewards_name_theirs() -> None:
    options = GenerateOptions(reward_option=("b:scale=2", "a:scale=1"))
    assert reward_options(options, ["a", "b"]) == {"a": {"scale": 1}, "b": {"scale": 2}}


@pytest.mark.parametrize(
    ("entries", "advice"),
    [
        (("scale",), "no key=value"),
        (("scale=1",), "a:scale=1"),
        (("c:scale=1",), "names no reward"),
        (("a:scale=1", "a:scale=2"), "twice"),
    ],
)
def test_reward_options_that_cannot_be_used_say_why(entries: tuple[str, ...], advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        reward_options(GenerateOptions(reward_option=entries), ["a", "b"])
