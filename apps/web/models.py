"""The models that visitors may use: a fixed list, each loaded once and kept."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from apps.jobs.devices import load_reward_on
from apps.jobs.options import GenerateOptions
from apps.jobs.preparation import RewardOptions, Rewards, load_model
from apps.modalities.registry import MODALITIES, PICTURES, AnyModality, check_pipeline
from apps.web.options import AppOptions
from gensift.conversion import strict_json
from gensift.errors import ConfigError
from gensift.protocols import JsonObject, Pipeline
from gensift.zoo.catalog import ZOO
from samplers.exchange import ALONE, Exchange

if TYPE_CHECKING:
    from rewards.protocol import Reward

MAX_LOADED = 4


@dataclass
class _Loaded:
    pipeline: Pipeline
    rewards: Rewards = field(default_factory=dict)


class Models:
    """Loads what is on the list when it is first asked for, and keeps the last few.

    Only the thread that works calls `load`, so a pipeline serves one request at a time.
    """

    def __init__(self, options: AppOptions) -> None:
        self._allowed = (*zoo_pipelines(), *options.allow_model)
        self._rewards = (*zoo_rewards(), *options.allow_reward)
        self._lock = threading.Lock()
        self._loaded: dict[str, _Loaded] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Models of the zoo, and those that were allowed."""
        return self._allowed

    @property
    def rewards(self) -> tuple[str, ...]:
        """Rewards that may be chosen."""
        return self._rewards

    def check(self, model: str) -> str:
        """Return `model`.

        Raises:
            ConfigError: it is not on the list.
        """
        if model not in self._allowed:
            raise ConfigError(
                f"Model {_short(model)} is not offered here. Offered: {', '.join(self._allowed)}. "
                "Whoever starts the app may add it by --allow-model."
            )
        return model

    def check_reward(self, reward: str) -> str:
        """Return `reward`.

        Raises:
            ConfigError: it is not on the list.
        """
        if reward not in self._rewards:
            raise ConfigError(
                f"Reward {_short(reward)} is not offered here. Offered: "
                f"{', '.join(self._rewards)}. Whoever starts the app may add it by --allow-reward."
            )
        return reward

    def load(
        self,
        options: GenerateOptions,
        model: str,
        of_rewards: RewardOptions,
        exchange: Exchange = ALONE,
        *,
        modality: AnyModality | None = None,
    ) -> tuple[Pipeline, Rewards]:
        """As `apps.jobs.preparation.load_models`, from memory where that was asked for before."""
        modality = modality or MODALITIES.get(PICTURES)
        found = self._pipeline(options, self.check(model), exchange, modality)
        check_pipeline(found.pipeline, model, modality)
        return found.pipeline, {
            name: self._reward(found, options, self.check_reward(name), given)
            for name, given in of_rewards.items()
        }

    def _pipeline(
        self, options: GenerateOptions, model: str, exchange: Exchange, modality: AnyModality
    ) -> _Loaded:
        with self._lock:
            found = self._loaded.pop(model, None) or _Loaded(
                load_model(options, model, exchange, modality)
            )
            self._loaded[model] = found  # the last one used is the last one dropped
            while len(self._loaded) > MAX_LOADED:
                del self._loaded[next(iter(self._loaded))]
            return found

    def _reward(
        self, found: _Loaded, options: GenerateOptions, name: str, given: JsonObject
    ) -> Reward:
        from gensift.pipelines.loading import resolve_device

        key = strict_json([name, given])
        if key not in found.rewards:
            device = resolve_device(options.device)
            found.rewards[key] = load_reward_on(device, name, given, is_offloaded=False)
        return found.rewards[key]


def zoo_pipelines() -> list[str]:
    """Zoo models that generate."""
    return [name for name, entry in ZOO.items() if entry.family.endswith("Pipeline")]


def zoo_rewards() -> list[str]:
    """Rewards that need nothing but the zoo."""
    return ["shapes-clip", "shapes-verifier", "countdown"]


def _short(name: object) -> str:
    text = repr(name)
    return text if len(text) <= 60 else f"{text[:60]}…"
