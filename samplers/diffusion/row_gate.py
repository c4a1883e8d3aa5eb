"""The row gate: a denoiser hook that runs the live candidates only.

The pipeline keeps all its rows from start to end. The gate gathers the live rows of every batched
argument, runs the denoiser on those in micro-batches and hands back an output of full size.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from gensift.denoising.arguments import bind_arguments
from gensift.denoising.families import DenoiserFamily, family_of
from gensift.denoising.modules import ForwardHook
from gensift.denoising.row_selection import RowSelection, merge_rows, select_nested, select_rows
from gensift.denoising.rows_in_call import RowsInCall, WholeCall, running_rows
from gensift.errors import ConfigError, DeviceError, UnsupportedPipelineError
from gensift.protocols import AnyFunction, Arguments

OnSelect = Callable[[Sequence[int]], None]


class LiveRows:
    """Which candidates of a run are alive; one object is shared by all gates of a pipeline.

    Attributes:
        num_rows: candidates in the run; candidate `i` is row `i` of the pipeline's latents.
        alive: ascending rows that are still computed.
        version: grows by one whenever `alive` changes.
        on_select: called after each change with, for each row alive now, the position among the
            rows alive before of the one it continues; whatever stores tensors per live row selects
            these.
    """

    def __init__(self, num_rows: int) -> None:
        """Start with all of `num_rows` candidates alive.

        Raises:
            ConfigError: `num_rows` is below 1.
        """
        if num_rows < 1:
            raise ConfigError(f"num_rows is {num_rows}; a run needs at least one candidate.")
        self.num_rows = num_rows
        self.alive: tuple[int, ...] = tuple(range(num_rows))
        self.version = 0
        self.on_select: list[OnSelect] = []

    @property
    def is_full(self) -> bool:
        """Whether no candidate was dropped yet."""
        return len(self.alive) == self.num_rows

    def prune(self, alive: Iterable[int]) -> None:
        """Keep only the rows `alive`, given in any order.

        Raises:
            ConfigError: `alive` is empty, repeats a row, or names one that is not alive.
        """
        kept = sorted(alive)
        if not kept:
            raise ConfigError("No row would stay alive; keep at least one candidate.")
        if len(set(kept)) != len(kept) or not set(kept) <= set(self.alive):
            raise ConfigError(
                f"Cannot keep rows {kept}: alive are {list(self.alive)}; name each row once."
            )
        if tuple(kept) == self.alive:
            return
        self._replace(dict(zip(kept, kept, strict=True)))

    def branch(self, sources: Mapping[int, int]) -> None:
        """Make the rows `sources` alive, dead ones too: `row` goes on from the row `sources[row]`.

        Whoever calls this has put the latents of the sources into these rows.

        Raises:
            ConfigError: there is no row, one is out of range, or a source is not alive.
        """
        rows = sorted(sources)
        if not rows or rows[0] < 0 or rows[-1] >= self.num_rows:
            raise ConfigError(f"Cannot branch to rows {rows}; choose among 0..{self.num_rows - 1}.")
        if not set(sources.values()) <= set(self.alive):
            raise ConfigError(
                f"Cannot branch from rows {sorted(set(sources.values()))}: alive are "
                f"{list(self.alive)}; branch from those."
            )
        self._replace(sources)

    def _replace(self, sources: Mapping[int, int]) -> None:
        position = {row: index for index, row in enumerate(self.alive)}
        self.alive = tuple(sorted(sources))
        positions = [position[sources[row]] for row in self.alive]
        self.version += 1
        for callback in self.on_select:
            callback(positions)


class RowGate(ForwardHook):
    """Runs a denoiser on the live rows, in micro-batches, and fills up the dead ones.

    A dead row receives the output of the first live row of its group: zeros would turn into NaN in
    pipelines that divide by the norm of the prediction. With every row alive and no smaller
    `max_rows`, arguments and output pass untouched, so the result is bit-identical.

    Attributes:
        live: the shared alive set.
        max_rows: most denoiser rows (guidance included) per denoiser call, or None; halved when
            memory runs out.
        rows_run: denoiser rows computed so far (the NFE).
        calls: denoiser calls made so far, micro-batches counted singly.
    """

    def __init__(self, live: LiveRows, max_rows: int | None = None) -> None:
        """Raise ConfigError when `max_rows` is below 1."""
        super().__init__()
        if max_rows is not None and max_rows < 1:
            raise ConfigError(f"max_rows is {max_rows}; give at least 1, or None for no limit.")
        self.live = live
        self.max_rows = max_rows
        self.rows_run = 0
        self.calls = 0
        self.is_closed = False
        self._has_warned = False

    def initialize_hook(self, module: torch.nn.Module) -> torch.nn.Module:
        """Read family and signature from the denoiser class, as hooks hide those of the module.

        Raises:
            UnsupportedPipelineError: the class is not declared, or not with its real arguments.
        """
        self._family: DenoiserFamily = family_of(module)
        parameters = inspect.signature(type(module).forward).parameters
        if self._family.leading not in parameters:
            taken = ", ".join(list(parameters)[1:])
            raise UnsupportedPipelineError(
                f"Family {self._family.name!r} declares the argument {self._family.leading!r}, but "
                f"{type(module).__name__}.forward takes {taken}. Declare those that are batched."
            )
        return module

    def close(self) -> None:
        """Pass every later call through, even where something still holds this hook."""
        self.is_closed = True

    def new_forward(self, module: torch.nn.Module, *args: object, **kwargs: Any) -> Any:
        """Stand in for `module.forward`.

        Raises:
            UnsupportedPipelineError: the call does not fit the declared family.
            DeviceError: memory runs out with a single row.
        """
        denoise = self.plain_forward
        if self.is_closed:
            return denoise(*args, **kwargs)
        arguments = bind_arguments(module, args, kwargs)
        num_call_rows = len(arguments[self._family.leading])
        groups = self._groups(num_call_rows)
        call = WholeCall(num_call_rows, self.live.num_rows)
        if self.live.is_full and self._fits(num_call_rows):
            try:
                with running_rows(RowsInCall(call, tuple(range(num_call_rows)))):
                    output = denoise(*args, **kwargs)
            except torch.OutOfMemoryError as error:
                self._lower_max_rows(num_call_rows, error)
            else:
                self._count(num_call_rows)
                return output
        return self._run_live(denoise, arguments, call, groups)

    def _groups(self, num_call_rows: int) -> int:
        # Recomputed per call: skip-layer guidance and truncated guidance change it in mid-run.
        groups, rest = divmod(num_call_rows, self.live.num_rows)
        if rest or groups not in self._family.groups:
            allowed = ", ".join(str(g * self.live.num_rows) for g in self._family.groups)
            raise UnsupportedPipelineError(
                f"{self._family.denoiser_class} was called with {num_call_rows} rows; with "
                f"{self.live.num_rows} candidates it may have {allowed}. Make the number of "
                "candidates agree with the prompts and images per prompt of the pipeline call."
            )
        return groups

    def _fits(self, num_rows: int) -> bool:
        return self.max_rows is None or num_rows <= self.max_rows

    def _run_live(
        self,
        denoise: AnyFunction,
        arguments: Arguments,
        call: WholeCall,
        groups: int,
    ) -> Any:
        size = self.live.num_rows
        live = [row + group * size for group in range(groups) for row in self.live.alive]
        outputs: list[Any] = []
        start = 0
        while start < len(live):
            rows = RowSelection(live[start : start + (self.max_rows or len(live))])
            try:
                with running_rows(RowsInCall(call, rows.rows)):
                    output = denoise(**self._gather(arguments, call.num_rows, rows))
            except torch.OutOfMemoryError as error:
                self._lower_max_rows(len(rows), error)
                continue
            self._count(len(rows))
            outputs.append(output)
            start += len(rows)
        return merge_rows(outputs, self._source_of_rows(live, call.num_rows), len(live))

    def _gather(self, arguments: Arguments, num_call_rows: int, rows: RowSelection) -> Arguments:
        gathered = dict(arguments)
        for name in gathered.keys() & {*self._family.rows, *self._family.row_list}:
            gathered[name] = select_rows(arguments[name], num_call_rows, rows, name)
        for name in gathered.keys() & {*self._family.nested}:
            gathered[name] = select_nested(arguments[name], num_call_rows, rows, name)
        return gathered

    def _source_of_rows(self, live: list[int], num_call_rows: int) -> RowSelection:
        """For each row of the call: its place among the live rows, or that of its stand-in."""
        place = {row: index for index, row in enumerate(live)}
        per_group = len(self.live.alive)
        stand_in = [row // self.live.num_rows * per_group for row in range(num_call_rows)]
        return RowSelection([place.get(row, stand_in[row]) for row in range(num_call_rows)])

    def _count(self, num_rows: int) -> None:
        self.rows_run += num_rows
        self.calls += 1

    def _lower_max_rows(self, failed_rows: int, error: torch.OutOfMemoryError) -> None:
        if failed_rows == 1:
            raise DeviceError(
                f"Out of memory with a single row of {self._family.denoiser_class}. Lower height "
                "and width (or the number of frames), use a smaller dtype, or turn on offloading "
                "with `pipe.enable_model_cpu_offload()`."
            ) from error
        self.max_rows = failed_rows // 2
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"Out of memory with {failed_rows} denoiser rows; going on with micro-batches of "
                f"at most {self.max_rows}. Set max_rows to that to avoid the failed attempt.",
                RuntimeWarning,
                stacklevel=2,
            )
        torch.cuda.empty_cache()
