"""Every search that makes a trace shows its stages as they happen."""

from dataclasses import replace

import pytest

import gensift
from samplers.registry import SAMPLERS

IMAGE = [name for name in SAMPLERS.names() if SAMPLERS.get(name).modality == "image"]
FEW = {"num_candidates": 2}
OPTIONS = {
    "zero-order": {"rounds": 1, "neighbours": 2, **FEW},
    "local-refine": {"rounds": 1, "neighbours": 2, "survivors": 1, **FEW},
    "svdd": {},
    "tts-var": {"num_candidates": 1},
}


@pytest.fixture(scope="module")
def models():
    names = {SAMPLERS.get(name).default_model for name in IMAGE}
    return {name: gensift.load_pipeline(name, device="cpu") for name in names}


@pytest.fixture(scope="module")
def reward():
    return gensift.load_reward("shapes-clip")


def search(models, reward, name, **told):
    cls = SAMPLERS.get(name)
    pipe = models[cls.default_model]
    steps = {} if "infinity" in cls.default_model else {"num_inference_steps": 6}
    sampler = cls(reward, **OPTIONS.get(name, FEW))
    for attribute, value in told.items():
        setattr(sampler, attribute, value)
    return sampler(pipe, ["a red circle"], **steps)


@pytest.mark.parametrize("name", IMAGE)
def test_stages_are_shown_as_they_are_in_the_trace(models, reward, name):
    shown = []
    output = search(models, reward, name, on_stage=lambda at, stage: shown.append((at, stage)))
    stages = output.trace.prompts[0].stages
    assert [at for at, _ in shown] == [0] * len(stages)
    for (_, told), stage in zip(shown, stages, strict=True):
        # What is kept at the end of a round, later rounds may still change.
        same = replace(told, kept=stage.kept) if stage.is_final else told
        assert replace(same, round=stage.round) == stage


@pytest.mark.parametrize("name", ["ttsnap", "fk-steering", "var-best-of-n"])
def test_an_exception_ends_the_search_and_leaves_the_pipeline_clean(models, reward, name):
    class Stop(Exception):
        pass

    def stop(at, stage):
        raise Stop

    before = search(models, reward, name)
    with pytest.raises(Stop):
        search(models, reward, name, on_stage=stop)
    after = search(models, reward, name)
    assert (after.seeds, after.rewards) == (before.seeds, before.rewards)
