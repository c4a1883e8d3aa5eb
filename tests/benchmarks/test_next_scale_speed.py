"""The speed of next-scale search, on a random-weight model of the zoo's size."""

import io
import json
from contextlib import redirect_stdout

import pytest
from helpers.zoo_sized import save_random_infinity

from apps.training.zoo.shapes_tokenizer import SCHEDULE
from benchmarks import next_scale_speed

COUNTS, PAIRS = (1, 2), 2


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    model = save_random_infinity(tmp_path_factory.mktemp("model"))
    folder = tmp_path_factory.mktemp("figures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(next_scale_speed, "COUNTS", COUNTS)
        patch.setattr(next_scale_speed, "in_fresh_process", _in_this_process)
        options = ["--model", str(model), "--pairs", str(PAIRS), "--output", str(folder)]
        next_scale_speed.main(options)
    return json.loads((folder / "next_scale_speed.json").read_text())


def _in_this_process(module, arguments):
    assert module == next_scale_speed.__name__
    printed = io.StringIO()
    with redirect_stdout(printed):
        next_scale_speed.main(arguments)
    return json.loads(printed.getvalue())


def test_what_was_measured_is_named(found) -> None:
    assert {"command", "hardware", "versions", "model"} <= found.keys()
    assert found["arguments"] == {"temperature": 1.0, "top_p": 0.0}


def test_the_engine_is_paired_with_the_plain_call(found) -> None:
    tokens = 2 * SCHEDULE.ends[-1]
    for row, count in zip(found["engine"], COUNTS, strict=True):
        compared = row["engine_over_plain"]
        assert compared["pairs"] == PAIRS
        assert row["engine"]["tokens"] == count * tokens
        assert row["engine"]["decodes"] == count
        assert row["plain"]["seconds_per_picture"] == row["plain"]["seconds"] / count
        assert row["is_accepted"] == (compared["ratio"] <= 1.05)


def test_the_share_of_gathering_is_that_of_its_part(found) -> None:
    for row, count in zip(found["tts_var"], COUNTS, strict=True):
        assert row["num_candidates"] == count
        assert row["decodes"] <= 21 * count
        assert sum(row["seconds_by_part"].values()) == pytest.approx(row["seconds"], rel=0.5)
        share = row["gather_over_all"]
        assert 0 < share["ratio"] < 1
        assert row["is_accepted"] == (share["ratio"] <= 0.03)


def test_peaks_are_given_above_the_model_and_in_all(found) -> None:
    rows = found["peak_memory"]
    assert [row["name"].split(",")[0] for row in rows] == ["best-of-n", "tts-var", "tts-var"]
    for row in rows:
        assert 0 <= row["search_mib"] < row["total_mib"]
    assert rows[0]["total_over_best_of_n"] == 1
