"""Runs that both searches which copy candidates must pass: stochastic solvers, by short name."""

from __future__ import annotations

from typing import Any, NamedTuple

from helpers.speaking_pipelines import SIZE, speaking

STEPS = 8


class Solver(NamedTuple):
    """A pipeline by family and scheduler, and what its call needs for random steps."""

    family: str
    scheduler: str
    call: dict[str, Any]

    def pipe(self) -> Any:
        return speaking(self.family, self.scheduler)

    @property
    def arguments(self) -> dict[str, Any]:
        return {**SIZE, "num_inference_steps": STEPS, "output_type": "pt", **self.call}


SOLVERS = {
    "flow SDE": Solver("flux", "flow-euler", {}),
    "Euler ancestral": Solver("sd15", "euler-ancestral", {}),
    "DDIM": Solver("sd15", "ddim", {"eta": 1.0}),
    "DDPM": Solver("sd15", "ddpm", {}),
    "LCM": Solver("sd15", "lcm", {}),
    "SDE-DPM++": Solver("sd15", "sde-dpm++", {}),
}
