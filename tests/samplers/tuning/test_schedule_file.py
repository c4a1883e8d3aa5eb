"""Fractions in a file must name the very steps that were found."""

from gensift.config import from_dict
from samplers.diffusion.config import TTSnapConfig
from samplers.diffusion.schedule import Checkpoint, PruningSchedule
from samplers.tuning.schedule_file import fraction_of, generate_config


def test_every_step_of_every_loop_is_found_again() -> None:
    for num_steps in [*range(2, 130), 250, 500, 999, 1000]:
        fractions = [fraction_of(index, num_steps) for index in range(num_steps - 1)]
        schedule = PruningSchedule(tuple(fractions), (0.5,) * len(fractions))
        found = [point.step_index for point in schedule.resolve(num_steps)]
        assert found == list(range(num_steps - 1))


def test_fractions_are_short_where_they_can_be() -> None:
    assert [fraction_of(index, 20) for index in (0, 6, 8, 12)] == [0.01, 0.3, 0.4, 0.6]


def test_the_options_are_those_of_the_sampler() -> None:
    points = (Checkpoint(2, 0.4), Checkpoint(6, 0.65))
    written = generate_config(points, 28)
    assert written["sampler"] == "ttsnap"
    config = from_dict(TTSnapConfig, written["options"])
    assert PruningSchedule(config.checkpoints, config.keep).resolve(28) == points
    assert generate_config((), 28) == {"sampler": "best-of-n"}
