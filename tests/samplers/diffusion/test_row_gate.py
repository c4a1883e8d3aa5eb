from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from diffusers.hooks.hooks import HookRegistry

from gensift.denoising import families
from gensift.denoising.families import DenoiserFamily, declare_denoiser
from gensift.errors import ConfigError, DeviceError, UnsupportedPipelineError
from samplers.diffusion.row_gate import LiveRows, RowGate


class Doubler(torch.nn.Module):
    """Returns twice its input and remembers the calls; out of memory above `capacity` rows."""

    def __init__(self, capacity: int = 100) -> None:
        super().__init__()
        self.capacity = self.capacity_after_first_call = capacity
        self.seen: list[dict[str, Any]] = []

    def forward(
        self,
        x: torch.Tensor,
        labels: list[int] | None = None,
        extra: dict[str, Any] | None = None,
        table: torch.Tensor | None = None,
        shape: str = "tuple",
        **kwargs: Any,
    ) -> Any:
        if len(x) > self.capacity:
            raise torch.OutOfMemoryError("too many rows")
        self.capacity = self.capacity_after_first_call
        self.seen.append({"x": x, "labels": labels, "extra": extra, "table": table, **kwargs})
        return {"tuple": (2 * x,), "list": ([2 * row for row in x],), "shared": x.sum()}[shape]


@pytest.fixture(autouse=True)
def declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "_families", dict(families._families))
    declare_denoiser(
        DenoiserFamily(
            name="doubler",
            denoiser_class="Doubler",
            rows=("x",),
            row_list=(),
            nested=("extra",),
            groups=(1, 2),
        )
    )


def gated(live: LiveRows, max_rows: int | None = None, capacity: int = 100) -> tuple[Any, RowGate]:
    module, gate = Doubler(capacity), RowGate(live, max_rows)
    HookRegistry.check_if_exists_or_initialize(module).register_hook(gate, "gate")
    return module, gate


def rows(count: int) -> torch.Tensor:
    return torch.arange(1.0, count + 1).unsqueeze(1)


def test_prune_reports_positions_among_the_rows_alive_before() -> None:
    live = LiveRows(6)
    kept: list[list[int]] = []
    live.on_select.append(lambda positions: kept.append(list(positions)))
    live.prune([5, 1, 3])
    live.prune([1, 3, 5])
    live.prune([5, 3])
    assert kept == [[1, 3, 5], [1, 2]]
    assert live.alive == (3, 5)
    assert live.version == 2
    assert not live.is_full


@pytest.mark.parametrize("alive", [[], [0], [1, 1], [1, 9], [-1]])
def test_prune_refuses(alive: list[int]) -> None:
    live = LiveRows(4)
    live.prune([1, 2])
    with pytest.raises(ConfigError, match="row"):
        live.prune(alive)
    assert live.alive == (1, 2)


@pytest.mark.parametrize("max_rows", [None, 6, 7])
def test_all_alive_passes_the_very_objects(max_rows: int | None) -> None:
    module, gate = gated(LiveRows(6), max_rows)
    x, extra = rows(6), {"scale": 1.0}
    module(x, extra=extra)
    assert module.seen[0]["x"] is x
    assert module.seen[0]["extra"] is extra
    assert (gate.rows_run, gate.calls) == (6, 1)


def test_dead_rows_get_the_first_live_row_of_their_group() -> None:
    live = LiveRows(3)
    module, gate = gated(live)
    live.prune([1, 2])
    (output,) = module(rows(6))
    assert module.seen[0]["x"].flatten().tolist() == [2, 3, 5, 6]
    assert output.flatten().tolist() == [4, 4, 6, 10, 10, 12]
    assert (gate.rows_run, gate.calls) == (4, 1)


def test_groups_are_recomputed_per_call() -> None:
    live = LiveRows(3)
    module, _ = gated(live)
    live.prune([2])
    assert module(rows(6))[0].flatten().tolist() == [6, 6, 6, 12, 12, 12]
    assert module(rows(3))[0].flatten().tolist() == [6, 6, 6]


@pytest.mark.parametrize("count", [2, 4, 9])
def test_other_numbers_of_groups_are_refused(count: int) -> None:
    module, _ = gated(LiveRows(3))
    with pytest.raises(UnsupportedPipelineError, match="3 candidates it may have 3, 6"):
        module(rows(count))


def test_shared_and_unlisted_arguments_pass_whole() -> None:
    live = LiveRows(4)
    module, _ = gated(live)
    live.prune([0, 3])
    table = torch.zeros(4, 3)
    extra = {
        "per_row": [rows(4), (rows(4),)],
        "one": rows(1),
        "scalar": torch.tensor(3.0),
        "scale": 0.5,
        "none": None,
    }
    module(rows(4), extra=extra, table=table, lora="a")
    seen = module.seen[0]
    assert seen["table"] is table
    assert seen["lora"] == "a"
    assert seen["extra"]["per_row"][0].flatten().tolist() == [1, 4]
    assert seen["extra"]["per_row"][1][0].flatten().tolist() == [1, 4]
    assert seen["extra"]["one"] is extra["one"]
    assert seen["extra"]["scalar"] is extra["scalar"]
    assert (seen["extra"]["scale"], seen["extra"]["none"]) == (0.5, None)


def test_wrong_size_names_the_argument() -> None:
    live = LiveRows(4)
    module, _ = gated(live)
    live.prune([0])
    with pytest.raises(UnsupportedPipelineError, match=r"extra\['image'\].*5 rows where 4"):
        module(rows(4), extra={"image": rows(5)})


def test_outputs_keep_their_type() -> None:
    live = LiveRows(3)
    module, _ = gated(live, max_rows=1)
    live.prune([0, 2])
    (output,) = module(rows(3), shape="list")
    assert isinstance(output, list)
    assert torch.cat(output).tolist() == [2, 2, 6]


def test_output_without_rows_is_refused() -> None:
    live = LiveRows(3)
    module, _ = gated(live)
    live.prune([0, 2])
    with pytest.raises(UnsupportedPipelineError, match="output"):
        module(rows(3), shape="shared")


def test_micro_batches_split_groups_anywhere() -> None:
    live = LiveRows(3)
    module, gate = gated(live, max_rows=3)
    live.prune([0, 2])
    assert module(rows(6))[0].flatten().tolist() == [2, 2, 6, 8, 8, 12]
    assert [len(call["x"]) for call in module.seen] == [3, 1]
    assert (gate.rows_run, gate.calls) == (4, 2)


def test_out_of_memory_halves_until_it_fits_and_warns_once() -> None:
    module, gate = gated(LiveRows(6), capacity=2)
    with pytest.warns(RuntimeWarning, match="12 denoiser rows") as record:
        output = module(rows(12))[0]
    assert len(record) == 1
    assert torch.equal(output, 2 * rows(12))
    assert gate.max_rows == 1
    assert (gate.rows_run, gate.calls) == (12, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module(rows(12))


def test_out_of_memory_in_a_late_micro_batch_keeps_what_was_done() -> None:
    module, gate = gated(LiveRows(6), max_rows=4)
    module.capacity_after_first_call = 1
    with pytest.warns(RuntimeWarning):
        output = module(rows(6))[0]
    assert torch.equal(output, 2 * rows(6))
    assert [len(call["x"]) for call in module.seen] == [4, 1, 1]
    assert (gate.rows_run, gate.calls) == (6, 3)


def test_out_of_memory_with_one_row_says_what_to_lower() -> None:
    module, _ = gated(LiveRows(2), capacity=0)
    with pytest.warns(RuntimeWarning), pytest.raises(DeviceError, match="Lower height"):
        module(rows(2))


def test_family_must_name_real_arguments() -> None:
    class Other(torch.nn.Module):
        def forward(self, y: torch.Tensor) -> torch.Tensor:
            return y

    declare_denoiser(DenoiserFamily(name="other", denoiser_class="Other", rows=("x",)))
    registry = HookRegistry.check_if_exists_or_initialize(Other())
    with pytest.raises(UnsupportedPipelineError, match=r"declares the argument 'x'.*takes y"):
        registry.register_hook(RowGate(LiveRows(1)), "gate")
    assert not registry.hooks


def test_closed_gate_lets_everything_through() -> None:
    live = LiveRows(3)
    module, gate = gated(live)
    live.prune([0])
    gate.close()
    assert torch.equal(module(rows(7))[0], 2 * rows(7))
    assert gate.calls == 0


@pytest.mark.parametrize("max_rows", [0, -1])
def test_max_rows_must_be_positive(max_rows: int) -> None:
    with pytest.raises(ConfigError, match="max_rows"):
        RowGate(LiveRows(1), max_rows)


def test_num_rows_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="num_rows"):
        LiveRows(0)


def test_branching_brings_rows_back_and_tells_where_they_come_from() -> None:
    live, told = LiveRows(6), []
    live.prune([0, 3])
    live.on_select.append(lambda positions: told.append(list(positions)))
    live.branch({0: 0, 1: 0, 2: 0, 3: 3, 5: 3})
    assert live.alive == (0, 1, 2, 3, 5) and told == [[0, 0, 0, 1, 1]] and live.version == 2
    for sources, expected in (({}, "choose among 0..5"), ({6: 0}, "0..5"), ({1: 4}, "from rows")):
        with pytest.raises(ConfigError, match=expected):
            live.branch(sources)
