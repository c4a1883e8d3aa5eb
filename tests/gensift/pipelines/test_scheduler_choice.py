"""A solver takes the place of the model's own with its config, or is refused by name."""

from types import SimpleNamespace

import pytest
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from helpers import next_scale

import gensift
from gensift.errors import ConfigError
from gensift.pipelines.loading import _set_scheduler


def test_the_config_of_the_model_is_kept() -> None:
    own = EulerDiscreteScheduler(beta_start=0.001, prediction_type="v_prediction")
    pipe = SimpleNamespace(scheduler=own)
    _set_scheduler(pipe, "DDIMScheduler")
    assert isinstance(pipe.scheduler, DDIMScheduler)
    config = pipe.scheduler.config
    assert (config.beta_start, config.prediction_type) == (0.001, "v_prediction")


def test_what_does_not_fit_is_refused_with_what_does() -> None:
    with pytest.raises(ConfigError, match=r"FluxPipeline.*FlowMatchEulerDiscreteScheduler"):
        gensift.load_pipeline("shapes-flux", scheduler="DDIMScheduler")


def test_a_pipeline_without_a_scheduler_takes_none() -> None:
    with pytest.raises(ConfigError, match="VARPipeline has no scheduler; 'DDIMScheduler' was"):
        _set_scheduler(next_scale.build("var"), "DDIMScheduler")
