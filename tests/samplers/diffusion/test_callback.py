"""The public per-step callback, on a plain pipeline call and inside a search."""

import pytest
import torch
from helpers.tiny_pipelines import build

import gensift

FAMILIES = (("flux", None), ("sd15", "euler"), ("wan", None))


@pytest.mark.parametrize(("family", "scheduler"), FAMILIES)
def test_watching_changes_nothing_and_the_last_estimate_is_the_result(
    family: str, scheduler: str | None
) -> None:
    pipe, arguments = build(family, scheduler)
    plain = pipe(**arguments([1, 2], output_type="latent"), return_dict=False)[0]
    events = []
    with gensift.observe_steps(pipe, events.append):
        watched = pipe(**arguments([1, 2], output_type="latent"), return_dict=False)[0]
    assert torch.equal(plain, watched)
    assert [event.step_index for event in events] == list(range(len(events)))
    sigmas = [event.sigma for event in events]
    assert sigmas == sorted(sigmas, reverse=True) and sigmas[0] > 0
    assert torch.allclose(events[-1].pred_original_sample, events[-1].latents, atol=1e-5)


def test_a_returned_tensor_replaces_the_latents() -> None:
    pipe, arguments = build("flux")
    with gensift.observe_steps(pipe, lambda event: torch.zeros_like(event.latents)):
        latents = pipe(**arguments([1], output_type="latent"), return_dict=False)[0]
    assert not latents.any()


def test_inside_a_search_the_live_rows_are_those_of_the_search() -> None:
    pipe = gensift.load_pipeline("shapes-flux")
    pipe.set_progress_bar_config(disable=True)
    reward = gensift.load_reward("shapes-clip")
    sampler = gensift.TTSnap(reward, num_candidates=6, checkpoints=(0.3, 0.6), keep=(0.5, 0.5))
    seen = []
    with gensift.observe_steps(pipe, lambda event: seen.append(event.live_rows)):
        output = sampler(pipe, "a red circle", num_inference_steps=10)
    first, second, _ = output.trace.prompts[0].stages
    assert seen[0] == tuple(range(6))
    assert set(seen[5]) == set(first.kept)
    assert set(seen[9]) == set(second.kept)


def test_an_exception_in_the_callback_leaves_the_pipeline_as_it_was() -> None:
    pipe, arguments = build("flux")
    plain_step = pipe.scheduler.step

    def fail(event: gensift.StepEvent) -> None:
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"), gensift.observe_steps(pipe, fail):
        pipe(**arguments([1]))
    assert pipe.scheduler.step == plain_step
