"""Options that mean nothing batched are refused, and the message says what to do."""

from __future__ import annotations

import importlib
import subprocess
import sys
from typing import Any

import pytest
from helpers.llada import NEWLINE, PROMPTS, pipeline, tokenizer

from gensift.config import from_dict, to_dict
from gensift.errors import ConfigError, UnsupportedPipelineError
from gensift.pipelines.llada.settings import DecodingSettings
from samplers.registry import SAMPLERS
from samplers.text.adablock import AdaBlock
from samplers.text.building import (
    build_commit,
    build_window,
    end_of_text_ids,
    newline_ids,
)
from samplers.text.commit import Factor, Quota, Threshold, ThresholdOrQuota
from samplers.text.config import TextDecodeConfig
from samplers.text.decode import TextDecode
from samplers.text.odd import ODD, ODDConfig
from samplers.text.windows import Blocks, Sliding

IMPORT = """
import sys
from gensift.config import describe
from samplers.registry import SAMPLERS
from samplers.text.config import ODDConfig, TextDecodeConfig
assert len(describe(ODDConfig)) > len(describe(TextDecodeConfig)) > 5
assert SAMPLERS.about("odd")["config"] == "samplers.text.config:ODDConfig"
heavy = {"torch", "diffusers", "transformers"} & set(sys.modules)
assert not heavy, heavy
"""


def test_options_are_read_without_torch() -> None:
    subprocess.run([sys.executable, "-c", IMPORT], check=True)


@pytest.mark.parametrize("sampler", [TextDecode, ODD])
def test_what_listings_say_is_what_the_class_says(sampler: Any) -> None:
    about = SAMPLERS.about(sampler.name)
    module, _, name = about["config"].partition(":")
    assert getattr(importlib.import_module(module), name) is sampler.config_class
    assert about["summary"] == sampler.__doc__.splitlines()[0]
    for attribute in ("modality", "pipelines", "default_model"):
        assert about[attribute] == getattr(sampler, attribute)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "prefix without blocks": (
        {"kv": "prefix", "window": "sliding"},
        "`kv` prefix begins anew with every block, and window=sliding has none; take "
        "window=blocks, or kv=elastic",
    ),
    "dual without blocks": ({"kv": "dual", "window": "sliding"}, "take window=blocks, or kv=el"),
    "causal and adaptive": (
        {"attention": "block-causal", "window": "adablock"},
        "`attention` block-causal needs window=blocks",
    ),
    "causal and sliding": (
        {"attention": "context-causal", "window": "sliding"},
        "`attention` context-causal needs window=blocks",
    ),
    "causal and elastic": (
        {"attention": "block-causal", "kv": "elastic"},
        "goes with kv none, prefix or dual, not elastic",
    ),
    "threshold of entropy": (
        {"commit": "threshold", "confidence": "entropy"},
        "compares probabilities; take confidence=probability or margin, not entropy",
    ),
    "factor of chance": ({"commit": "factor", "confidence": "random"}, "not random"),
    "more out than in": (
        {"num_outputs": 4, "num_candidates": 3},
        "`num_outputs` 4 exceeds `num_candidates` 3",
    ),
    "unknown": ({"kv": "full"}, r"`kv` is 'full'; allowed: none \| prefix \| dual \| elastic"),
    "unknown option": ({"windows": "blocks"}, "`windows` is not an option.* Nearest: 'window'"),
    "nested": ({"elastic": {"track": 0}}, "`track` is 0; allowed: at least 1"),
    "share": ({"adablock": {"share": 1.5}}, "`share` is 1.5"),
}


@pytest.mark.parametrize("sampler", [TextDecode, ODD])
@pytest.mark.parametrize("name", REFUSED)
def test_combinations_that_mean_nothing(name: str, sampler: Any) -> None:
    options, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message) as caught:
        sampler(**options)
    assert "\n" not in str(caught.value)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        TextDecode(kv="dual", window="sliding", attention="block-causal")
    assert len(caught.value.problems) == 2
    with pytest.raises(ConfigError, match=r"2 problems: .*window=sliding.*`gate` is 'confidence'"):
        ODD(kv="dual", window="sliding", gate="confidence", quality=False)


CALLS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no threshold": ({"commit": "threshold"}, {}, "needs a threshold; give it with the call"),
    "no threshold either": ({"commit": "threshold-or-quota"}, {}, "needs a threshold"),
    "a threshold too many": (
        {"commit": "quota"},
        {"threshold": 0.9},
        "commit=quota takes no threshold; leave 0.9 out",
    ),
    "another": ({"commit": "factor"}, {"threshold": 0.5}, "commit=factor takes no threshold"),
    "no block": (
        {"attention": "block-causal"},
        {},
        "attention=block-causal goes by blocks; give block_length with the call",
    ),
    "no delimiter": ({"window": "adablock"}, {}, "give their ids: -o adablock.delimiters=11,13"),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_that_lack_something(name: str) -> None:
    options, call, message = CALLS[name]
    words = tokenizer()
    if name == "no delimiter":
        words = _without_newlines()
    with pytest.raises(ConfigError, match=message) as caught:
        TextDecode(**options)(pipeline(layers=1, words=words), PROMPTS[0], gen_length=4, **call)
    assert "\n" not in str(caught.value)


def _without_newlines() -> Any:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    ids = {"[UNK]": 0, "[MASK]": 1, "w3": 2, "w1": 3}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(ids, unk_token="[UNK]")),
        unk_token="[UNK]",
        mask_token="[MASK]",
    )


def test_options_stand_for_policies() -> None:
    words, plain = tokenizer(), DecodingSettings()
    sure = DecodingSettings(threshold=0.5, block_length=4)

    def commit(name: str, settings: DecodingSettings) -> Any:
        return type(build_commit(TextDecodeConfig(commit=name), settings))  # type: ignore[arg-type]

    assert commit("auto", plain) is Quota and commit("auto", sure) is Threshold
    assert commit("quota", plain) is Quota and commit("factor", plain) is Factor
    assert commit("threshold", sure) is Threshold
    assert commit("threshold-or-quota", sure) is ThresholdOrQuota
    assert type(build_window(TextDecodeConfig(), sure, words)) is Blocks
    assert type(build_window(TextDecodeConfig(window="sliding"), sure, words)) is Sliding
    assert type(build_window(TextDecodeConfig(window="adablock"), sure, words)) is AdaBlock
    assert newline_ids(words) == (NEWLINE,)
    assert end_of_text_ids(TextDecodeConfig(), [2, 5]) == ((), ())
    assert end_of_text_ids(TextDecodeConfig(end_of_text="late"), [2, 5]) == ((), (2, 5))
    assert end_of_text_ids(TextDecodeConfig(end_of_text="ban"), [2, 5]) == ((2, 5), ())


def test_configs_survive_json() -> None:
    config = ODDConfig(kv="elastic", elastic={"track": 3}, adablock={"delimiters": [4, 5]})  # type: ignore[arg-type]
    assert from_dict(ODDConfig, to_dict(config)) == config
    assert config.elastic.track == 3 and config.adablock.delimiters == (4, 5)


def test_an_infinite_threshold_can_be_told() -> None:
    config = TextDecodeConfig(adablock={"threshold": float("inf")})  # type: ignore[arg-type]
    assert config.adablock.threshold == float("inf")


def test_embeddings_need_a_model_that_shows_them() -> None:
    from helpers.llada import Oracle

    with pytest.raises(UnsupportedPipelineError, match="shows no table of embeddings; take feat"):
        ODD(features="embeddings", num_candidates=2)(pipeline(Oracle()), "w1", gen_length=4)
