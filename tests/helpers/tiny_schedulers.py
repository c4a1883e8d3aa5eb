"""Schedulers by short name, with the settings that real checkpoints give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers

VP = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
}
_FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
_MU = {"use_dynamic_shifting": True, "time_shift_type": "exponential"}

SCHEDULERS: dict[str, Callable[[], Any]] = {
    "ddim": lambda: diffusers.DDIMScheduler(clip_sample=False, **VP),
    "ddpm": lambda: diffusers.DDPMScheduler(clip_sample=False, **VP),
    "pndm": lambda: diffusers.PNDMScheduler(skip_prk_steps=True, **VP),
    "euler": lambda: diffusers.EulerDiscreteScheduler(**VP),
    "euler-ancestral": lambda: diffusers.EulerAncestralDiscreteScheduler(**VP),
    "dpm++": lambda: diffusers.DPMSolverMultistepScheduler(**VP),
    "sde-dpm++": lambda: diffusers.DPMSolverMultistepScheduler(
        algorithm_type="sde-dpmsolver++", **VP
    ),
    "unipc": lambda: diffusers.UniPCMultistepScheduler(**VP),
    "lcm": lambda: diffusers.LCMScheduler(**VP),
    "heun": lambda: diffusers.HeunDiscreteScheduler(**VP),
    "flow-euler": lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    "flow-dpm++": lambda: diffusers.DPMSolverMultistepScheduler(**_FLOW),
    "flow-dpm++-mu": lambda: diffusers.DPMSolverMultistepScheduler(**_FLOW, **_MU),
    "flow-unipc": lambda: diffusers.UniPCMultistepScheduler(**_FLOW),
    "flow-unipc-mu": lambda: diffusers.UniPCMultistepScheduler(**_FLOW, **_MU),
}
