"""What listings read of a sampler: the words of its class, without an import of torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from samplers.registry import SAMPLERS

NAMES = ("tts-var", "var-best-of-n", "var-importance", "policy")


def config_of(words: Any) -> Any:
    module, _, name = words["config"].partition(":")
    __import__(module)
    return getattr(sys.modules[module], name)


@pytest.mark.parametrize("name", NAMES)
def test_the_words_are_those_of_the_class(name: str) -> None:
    words, sampler = SAMPLERS.about(name), SAMPLERS.get(name)
    assert words["summary"] == (sampler.__doc__ or "").partition("\n")[0]
    for word in ("modality", "pipelines", "default_model"):
        assert words[word] == getattr(sampler, word)
    assert config_of(words) is sampler.config_class


def test_words_and_options_are_read_without_torch() -> None:
    code = (
        "import importlib, sys\n"
        "from samplers.registry import SAMPLERS\n"
        f"for name in {NAMES}:\n"
        "    module, _, options = SAMPLERS.about(name)['config'].partition(':')\n"
        "    getattr(importlib.import_module(module), options)()\n"
        "heavy = {'torch', 'diffusers', 'transformers'} & set(sys.modules)\n"
        "print(' '.join(sorted(heavy)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


def test_old_places_of_the_options_lead_to_the_same_classes() -> None:
    import samplers.autoregressive.config as config
    from samplers.autoregressive.search import NextScaleSearchConfig
    from samplers.autoregressive.tts_var import TTSVARConfig
    from samplers.autoregressive.var_importance import ImportanceConfig

    assert NextScaleSearchConfig is config.NextScaleSearchConfig
    assert ImportanceConfig is config.ImportanceConfig
    assert TTSVARConfig is config.TTSVARConfig
