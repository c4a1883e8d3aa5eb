"""Rotary positions against complex numbers."""

import torch
from helpers import official_layouts as official

from gensift.pipelines.infinity.rotary import rotary_angles
from gensift.pipelines.infinity.schedules import schedule_for
from gensift.pipelines.next_scale.attention import rotate
from gensift.pipelines.next_scale.scales import ScaleSchedule

CPU = torch.device("cpu")


def test_angles_are_those_of_places_on_the_reference_grid() -> None:
    schedule = schedule_for("0.06M", 1.333)
    assert schedule.reference == (72, 54)
    found = rotary_angles(schedule, 0, len(schedule), 16, CPU)
    wanted = official.rotary(schedule.scales, schedule.reference, 16)
    assert torch.allclose(found, wanted, atol=1e-4)


def test_places_are_rounded_half_to_even() -> None:
    """On a reference of 5 the places of 2 are 0 and 2.5, those of 4 are 0, 1.25, 2.5 and 3.75."""
    schedule = ScaleSchedule.of([(1, 1), (2, 2), (4, 4)], (5, 5))
    angles = rotary_angles(schedule, 0, 3, 4, CPU)
    assert angles.shape == (21, 2)
    rows = angles[:, 0].tolist()
    assert rows[1:5] == [0, 0, 2, 2]
    assert rows[5::4] == [0, 1, 2, 4]
    assert angles[1:5, 1].tolist() == [0, 2, 0, 2]


def test_part_of_a_schedule_is_a_part_of_the_angles() -> None:
    schedule = schedule_for("0.06M")
    whole = rotary_angles(schedule, 0, len(schedule), 16, CPU)
    begin, end = schedule.ends[2], schedule.ends[4]
    assert torch.equal(rotary_angles(schedule, 3, 5, 16, CPU), whole[begin:end])


def test_pairs_turn_as_complex_numbers_do() -> None:
    vectors, angles = torch.randn(2, 7, 3, 8), torch.randn(7, 4)
    pairs = torch.view_as_complex(vectors.reshape(2, 7, 3, 4, 2))
    turned = pairs * torch.exp(1j * angles)[:, None]
    assert torch.allclose(
        rotate(vectors, angles), torch.view_as_real(turned).flatten(-2), atol=1e-5
    )
