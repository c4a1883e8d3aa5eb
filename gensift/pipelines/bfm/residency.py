"""One segment in device memory at a time, the next one brought closer while it works."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gensift.errors import ConfigError

AHEAD = 0.2
"""Share of a segment that is fetched ahead, which comes on top of the one at work."""


class SegmentResidency:
    """Moves segments of a blockwise model in and out of device memory.

    All segments have the same shapes, so the device holds one set of slots, which the parameters
    of the present segment are views of, and some room for the first parameters of the next one.
    Weights are not changed on the device, so nothing is ever written back. FRN comes to the device
    when it is first used, and stays.

    Attributes:
        active: index of the segment in the slots, or None.
        bytes_moved: from host to device so far.
    """

    def __init__(self, model: Any, device: torch.device | str, ahead: float = AHEAD) -> None:
        """Bring everything but segments and FRN to `device`; segments stay in (pinned) host memory.

        Raises:
            ConfigError: `ahead` is not in [0, 1].
        """
        if not 0 <= ahead <= 1:
            raise ConfigError(f"`ahead` is {ahead}; give a share of a segment from 0 to 1.")
        self._model = model
        self._device = torch.device(device)
        self._segments = {index: model.segments[index] for index in model.loaded_segments()}
        self._home = {index: self._to_host(part) for index, part in self._segments.items()}
        self._on_device = [
            child for name, child in model.named_children() if name not in ("segments", "frn")
        ]
        for child in self._on_device:
            child.to(self._device)
        if model.has_approximation:
            model.frn.cpu()
        shapes = next(iter(self._home.values()))
        self._slots = {name: self._empty_like(value) for name, value in shapes.items()}
        room = ahead * sum(value.nbytes for value in shapes.values())
        self._staging = {name: self._empty_like(shapes[name]) for name in _first(shapes, room)}
        is_cuda = self._device.type == "cuda"
        self._stream = torch.cuda.Stream(self._device) if is_cuda else None
        self._staged: int | None = None
        self.active: int | None = None
        self.bytes_moved = 0

    @property
    def bytes_on_device(self) -> int:
        """Parameters on the device: shared parts, slots, and what is fetched ahead."""
        shared = sum(value.nbytes for part in self._on_device for value in _tensors(part))
        own = [*self._slots.values(), *self._staging.values()]
        return shared + sum(value.nbytes for value in own)

    def activate(self, segment: int) -> None:
        """Make `segment` the one in the slots, and begin to fetch the one that follows it."""
        if segment == self.active or segment not in self._segments:
            return
        self._release()
        self._fill(segment)
        self._point(segment, self._slots)
        self.active = segment
        if segment + 1 in self._segments:
            self._fetch_ahead(segment + 1)

    def bring_approximation(self) -> None:
        """Have FRN on the device."""
        if self._model.frn not in self._on_device:
            self._on_device.append(self._model.frn.to(self._device))

    def remove(self) -> None:
        """Leave all segments in host memory; the rest of the model stays where it is."""
        self._release()
        if self._stream is not None:
            # What is being fetched must not land in memory that has a new owner.
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
        self._slots, self._staging = {}, {}

    def _release(self) -> None:
        if self.active is not None:
            self._point(self.active, self._home[self.active])
            self.active = None

    def _fill(self, segment: int) -> None:
        is_staged = self._staged == segment
        if is_staged and self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
        for name, slot in self._slots.items():
            if is_staged and name in self._staging:
                slot.copy_(self._staging[name])
            else:
                self._move(self._home[segment][name], slot)

    def _fetch_ahead(self, segment: int) -> None:
        if self._stream is None:
            self._stage(segment)
            return
        # What fills the slots from the staging room must be through with it.
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            self._stage(segment)

    def _stage(self, segment: int) -> None:
        for name, room in self._staging.items():
            self._move(self._home[segment][name], room)
        self._staged = segment

    def _move(self, source: Tensor, target: Tensor) -> None:
        target.copy_(source, non_blocking=True)
        self.bytes_moved += target.nbytes

    def _point(self, segment: int, tensors: dict[str, Tensor]) -> None:
        for name, parameter in self._segments[segment].named_parameters():
            parameter.data = tensors[name]

    def _to_host(self, part: nn.Module) -> dict[str, Tensor]:
        home: dict[str, Tensor] = {}
        for name, parameter in part.named_parameters():
            kept = parameter.detach().cpu()
            home[name] = kept.pin_memory() if self._device.type == "cuda" else kept
            parameter.data = home[name]
        return home

    def _empty_like(self, value: Tensor) -> Tensor:
        return torch.empty_like(value, device=self._device, pin_memory=False)


def _first(tensors: dict[str, Tensor], room: float) -> Iterator[str]:
    """Names, in order, of those that fit into `room` bytes together."""
    for name, value in tensors.items():
        if value.nbytes <= room:
            room -= value.nbytes
            yield name


def _tensors(part: nn.Module) -> Iterator[Tensor]:
    yield from part.parameters()
    yield from part.buffers()
