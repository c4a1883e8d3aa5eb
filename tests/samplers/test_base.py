"""The one base of all samplers, and what the registry says of each without importing it."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from gensift.config import check, option
from gensift.cost import Cost
from gensift.errors import ConfigError
from gensift.randomness import candidate_seeds
from gensift.trace import Trace
from samplers.base import Plan, Request, SamplerBase
from samplers.exchange import Alone
from samplers.output import SamplerOutput
from samplers.registry import SAMPLERS


@dataclass(frozen=True, kw_only=True)
class EchoConfig:
    count: int = option(3, minimum=1, help="how many")

    def __post_init__(self) -> None:
        check(self)


class Echo(SamplerBase[EchoConfig, Plan]):
    """Remembers what it was asked."""

    name: ClassVar[str] = "echo"
    pipelines: ClassVar[str] = "anything"
    default_model: ClassVar[str] = "none"
    config_class: ClassVar[type[Any]] = EchoConfig

    def plan_request(self, request: Request) -> Plan:
        count = self.config.count
        cost = Cost(nfe=count * request.num_prompts)
        return Plan(
            num_candidates=count,
            num_prompts=request.num_prompts,
            peak_rows=count,
            stages=(),
            cost=cost,
        )

    def draw(self, request: Request) -> SamplerOutput:
        self.request = request
        return SamplerOutput(results=(), cost=Cost(), trace=Trace())


class Two(Alone):
    size = 2


def pipe(*args: Any, **kwargs: Any) -> None:
    """Stands for a pipeline; it is not called."""


def test_options_come_as_a_config_or_as_its_fields_but_not_both() -> None:
    assert Echo(count=5).config == Echo(config=EchoConfig(count=5)).config
    with pytest.raises(ConfigError, match="Both `config` and single options"):
        Echo(config=EchoConfig(), count=5)
    with pytest.raises(ConfigError, match=r"`cuont`.*count"):
        Echo(cuont=5)
    with pytest.raises(ConfigError, match="count"):
        Echo(count=0)


def test_one_that_does_not_share_candidates_refuses_other_processes() -> None:
    with pytest.raises(ConfigError, match=r"Echo cannot share .* 2 processes"):
        Echo(exchange=Two())


def test_a_plan_needs_the_number_of_prompts_only() -> None:
    assert Echo(count=4).plan(pipe, 3).cost.nfe == 12
    assert Echo(count=4).plan(pipe, ["a", "b"]).cost.nfe == 8
    assert Echo(count=4).plan(pipe, "a").to_dict()["num_prompts"] == 1


@pytest.mark.parametrize("prompts", ["", " ", [], ["a", ""], ["a", None], None, 7, {"a": 1}])
def test_a_prompt_without_text_is_refused(prompts: Any) -> None:
    with pytest.raises(ConfigError, match="`prompts` is"):
        Echo()(pipe, prompts)


def test_seeds_are_those_given_or_derived_from_one_number() -> None:
    sampler = Echo()
    sampler(pipe, ["a", "b"], seed=7, height=8)
    assert sampler.request.prompts == ("a", "b")
    assert sampler.request.arguments == {"height": 8}
    assert sampler.request.seed_groups(3) == [candidate_seeds(7, at, 3) for at in (0, 1)]
    sampler(pipe, ["a", "b"], seeds=[[1], [2, 3]])
    assert sampler.request.seed_groups(3) == [[1], [2, 3]]
    sampler(pipe, ["a", "b"], seeds=[[1, 2]])
    with pytest.raises(ConfigError, match=r"`seeds` has 1 groups .* 2 prompt"):
        sampler.request.seed_groups(2)


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_the_registry_says_of_a_sampler_what_its_class_says(name: str) -> None:
    cls, about = SAMPLERS.get(name), dict(SAMPLERS.about(name))
    module, _, attribute = about.pop("config").partition(":")
    assert getattr(importlib.import_module(module), attribute) is cls.config_class
    assert about == {
        "summary": (cls.__doc__ or "").strip().partition("\n")[0],
        "modality": cls.modality,
        "pipelines": cls.pipelines,
        "default_model": cls.default_model,
    }
    assert issubclass(cls, SamplerBase) and cls.name == name


def test_options_of_all_samplers_are_read_without_torch() -> None:
    code = (
        "import importlib, sys\n"
        "from samplers.registry import SAMPLERS\n"
        "for name in SAMPLERS.names():\n"
        "    importlib.import_module(SAMPLERS.about(name)['config'].partition(':')[0])\n"
        "print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_old_places_of_the_options_lead_to_the_same_classes() -> None:
    import samplers.autoregressive.config as config
    from samplers.autoregressive.search import NextScaleSearchConfig
    from samplers.autoregressive.tts_var import TTSVARConfig
    from samplers.autoregressive.var_importance import ImportanceConfig

    assert NextScaleSearchConfig is config.NextScaleSearchConfig
    assert ImportanceConfig is config.ImportanceConfig
    assert TTSVARConfig is config.TTSVARConfig
