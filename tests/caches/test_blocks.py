from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import diffusers
import pytest
import torch
from diffusers.hooks._helpers import TransformerBlockRegistry
from helpers import tiny_models, tiny_policies
from helpers.tiny_pipelines import build
from torch import nn

from caches import blocks
from caches.blocks import (
    BlockFacts,
    DenoiserBlocks,
    PlacedUnit,
    Unit,
    block_classes,
    block_facts_of,
    body_blocks,
    declare_block,
    declare_denoiser_blocks,
    units_of,
)
from gensift.errors import ConfigError, DuplicateNameError, UnsupportedPipelineError

pytestmark = pytest.mark.usefixtures("no_grad")

# With what each tiny denoiser is varied, so that all parts of its blocks are met.
CHANGES: dict[str, dict[str, Any]] = {
    "sd15": {},
    "sdxl": {"transformer_layers_per_block": (1, 2)},
    "sd3": {"num_layers": 3, "dual_attention_layers": (0,), "qk_norm": "rms_norm"},
    "flux": {"num_layers": 2, "num_single_layers": 2},
    "pixart-sigma": {},
    "sana": {},
    "qwen-image": {},
    "z-image": {},
    "wan": {},
    "dit": {},
}
CASES = (*CHANGES, "flux-controlled", "flux2")
BODIES = tuple(name for name in CASES if name not in ("sd15", "sdxl", "flux2"))
# The text of the last block is read by nothing, and yet computed.
UNREAD = {"qwen-image": {"transformer_blocks.1.txt_mlp"}}


@pytest.fixture(scope="module")
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def own_declarations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_blocks", dict(blocks._blocks))
    monkeypatch.setattr(blocks, "_denoisers", dict(blocks._denoisers))


@dataclass(frozen=True)
class Case:
    """A denoiser and the arguments with which its pipeline calls it."""

    denoiser: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self) -> torch.Tensor:
        sample = self.denoiser(*self.args, **self.kwargs)[0]
        return torch.stack(sample) if isinstance(sample, list) else sample


@cache
def case(name: str) -> Case:
    if name == "flux2":
        return flux2()
    if name == "flux-controlled":
        plain = case("flux")
        rows, tokens = plain.kwargs["hidden_states"].shape[:2]
        samples = [torch.randn(rows, tokens, 32) for _ in range(2)]
        return Case(
            plain.denoiser,
            plain.args,
            {
                **plain.kwargs,
                "controlnet_block_samples": samples,
                "controlnet_single_block_samples": samples,
            },
        )
    pipe, call_kwargs = build(name)
    attribute = "unet" if hasattr(pipe, "unet") else "transformer"
    if changes := CHANGES[name]:
        former = getattr(pipe, attribute)
        # Without this entry, which has diffusers put defaults in the place of our changes.
        config = {k: v for k, v in former.config.items() if k != "_use_default_values"}
        setattr(pipe, attribute, type(former).from_config({**config, **changes}).eval())
    return first_call(pipe, getattr(pipe, attribute), call_kwargs([0, 1]))


def first_call(pipe: Any, denoiser: nn.Module, call_kwargs: dict[str, Any]) -> Case:
    class Reached(Exception):
        pass

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise Reached(args, kwargs)

    handle = denoiser.register_forward_pre_hook(stop, with_kwargs=True)
    with pytest.raises(Reached) as reached:
        pipe(**call_kwargs)
    handle.remove()
    return Case(denoiser, *reached.value.args)


def flux2() -> Case:
    torch.manual_seed(0)
    denoiser = diffusers.Flux2Transformer2DModel(
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
    ).eval()
    inputs = {
        "hidden_states": torch.randn(2, 6, 4),
        "encoder_hidden_states": torch.randn(2, 3, 16),
        "timestep": torch.tensor([0.5, 0.5]),
        "img_ids": torch.arange(24).reshape(6, 4),
        "txt_ids": torch.arange(12).reshape(3, 4),
        "guidance": torch.tensor([4.0, 4.0]),
    }
    return Case(denoiser, (), inputs)


@contextmanager
def answering(answers: dict[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Calls of the modules are answered by functions; the modules do not run."""
    try:
        for module, answer in answers.items():
            module.forward = answer
        yield
    finally:
        for module in answers:
            del module.forward


@contextmanager
def listening(
    modules: list[nn.Module], heard: Callable[[nn.Module, tuple[Any, ...], Any], None]
) -> Iterator[None]:
    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(heard).remove)
        yield


def outputs_of(given: Case, units: list[PlacedUnit]) -> tuple[torch.Tensor, list[Any]]:
    kept: dict[nn.Module, Any] = {}
    with listening([unit.module for unit in units], lambda m, _, output: kept.update({m: output})):
        sample = given.run()
    return sample, [kept[unit.module] for unit in units]


def without_channels(*args: Any, **kwargs: Any) -> torch.Tensor:
    hidden: torch.Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden.new_empty(*hidden.shape[:-1], 0)


def reuse(units: list[PlacedUnit], outputs: list[Any]) -> dict[nn.Module, Callable[..., Any]]:
    answers: dict[nn.Module, Callable[..., Any]] = {}
    for unit, output in zip(units, outputs, strict=True):
        answers[unit.module] = lambda *args, _kept=output, **kwargs: _kept
        answers |= dict.fromkeys(unit.also, without_channels)
    return answers


def zeros_like(output: Any) -> Any:
    if isinstance(output, torch.Tensor):
        return torch.zeros_like(output)
    return tuple(torch.zeros_like(each) for each in output)


def copied(output: Any) -> list[torch.Tensor]:
    return [each.clone() for each in ([output] if isinstance(output, torch.Tensor) else output)]


@pytest.mark.parametrize("name", CASES)
def test_every_unit_runs_once_and_in_order(name: str) -> None:
    given = case(name)
    units = units_of(given.denoiser)
    run: list[nn.Module] = []
    modules = [module for unit in units for module in (*unit.also, unit.module)]
    with listening(modules, lambda module, *_: run.append(module)):
        given.run()
    outputs = [unit.module for unit in units]
    assert len(run) == len(set(run)) == len(modules)
    assert [module for module in run if module in set(outputs)] == outputs
    for unit in units:
        assert all(run.index(module) < run.index(unit.module) for module in unit.also)


@pytest.mark.parametrize("name", CASES)
def test_kept_outputs_stand_for_the_modules(name: str) -> None:
    given = case(name)
    units = units_of(given.denoiser)
    sample, outputs = outputs_of(given, units)
    before = [copied(output) for output in outputs]
    skipped = [module for unit in units for module in (unit.module, *unit.also)]
    inner = [child for module in skipped for child in list(module.modules())[1:]]
    ran: list[nn.Module] = []
    with (
        answering(reuse(units, outputs)),
        listening(inner, lambda module, *_: ran.append(module)),
    ):
        assert torch.equal(given.run(), sample)
    assert inner
    assert not ran
    # Nothing may write into what is kept.
    for output, original in zip(outputs, before, strict=True):
        assert all(map(torch.equal, copied(output), original))
    assert torch.equal(given.run(), sample)


@pytest.mark.parametrize("name", CASES)
def test_each_unit_can_be_reused_alone(name: str) -> None:
    given = case(name)
    units = units_of(given.denoiser)
    sample, outputs = outputs_of(given, units)
    unread = set()
    for unit, output in zip(units, outputs, strict=True):
        with answering(reuse([unit], [output])):
            assert torch.equal(given.run(), sample), unit.name
        with answering(reuse([unit], [zeros_like(output)])):
            if torch.equal(given.run(), sample):
                unread.add(unit.name)
    assert unread == UNREAD.get(name, set())


def streams_of(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    facts = block_facts_of(block)
    given = inspect.signature(type(block).forward).bind(block, *args, **kwargs).arguments
    return {
        "hidden": given[facts.hidden_argument],
        "encoder": given.get(facts.encoder_argument or ""),
    }


def returned(block: nn.Module, streams: dict[str, Any]) -> Any:
    results = tuple(streams[stream] for stream in block_facts_of(block).returns)
    return results if len(results) > 1 else results[0]


def hidden_of(block: nn.Module, output: Any) -> torch.Tensor:
    returns = block_facts_of(block).returns
    hidden: torch.Tensor = output[returns.index("hidden")] if len(returns) > 1 else output
    return hidden


@pytest.mark.parametrize("name", BODIES)
def test_one_difference_stands_for_the_body(name: str) -> None:
    given = case(name)
    body = body_blocks(given.denoiser)
    inputs: dict[nn.Module, torch.Tensor] = {}
    outputs: dict[nn.Module, torch.Tensor] = {}

    def heard(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        assert module not in inputs
        inputs[module] = streams_of(module, args, kwargs)["hidden"]
        outputs[module] = hidden_of(module, output)

    with ExitStack() as stack:
        for block in body:
            stack.callback(block.register_forward_hook(heard, with_kwargs=True).remove)
        sample = given.run()
    assert list(inputs) == body
    difference = outputs[body[-1]] - inputs[body[0]]

    def passed_over(block: nn.Module) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            streams = streams_of(block, args, kwargs)
            if block is body[-1]:
                streams["hidden"] = inputs[body[0]] + difference
            return returned(block, streams)

        return forward

    with answering({block: passed_over(block) for block in body}):
        torch.testing.assert_close(given.run(), sample, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_names_and_layers(name: str) -> None:
    given = case(name)
    units = units_of(given.denoiser)
    names = [unit.name for unit in units]
    layers = [unit.layer for unit in units]
    assert len(set(names)) == len(names)
    assert layers == sorted(layers)
    assert sorted(set(layers)) == list(range(layers[-1] + 1))
    modules = dict(given.denoiser.named_modules())
    for unit in units:
        path, _, last = unit.name.rpartition(".")
        assert path in modules
        assert last == "fused" or modules[unit.name] is unit.module


def names_and_kinds(name: str) -> list[tuple[str, str]]:
    return [(unit.name, unit.kind) for unit in units_of(case(name).denoiser)]


def test_units_of_single_blocks_are_fused() -> None:
    assert names_and_kinds("flux")[2:] == [
        ("transformer_blocks.0.ff_context", "feed-forward"),
        ("transformer_blocks.1.attn", "joint-attention"),
        ("transformer_blocks.1.ff", "feed-forward"),
        ("transformer_blocks.1.ff_context", "feed-forward"),
        ("single_transformer_blocks.0.fused", "fused"),
        ("single_transformer_blocks.1.fused", "fused"),
    ]


def test_absent_parts_are_left_out() -> None:
    first, middle, last = "transformer_blocks.0", "transformer_blocks.1", "transformer_blocks.2"
    assert [name for name, _ in names_and_kinds("sd3")] == [
        *(f"{first}.{unit}" for unit in ("attn", "attn2", "ff", "ff_context")),
        *(f"{middle}.{unit}" for unit in ("attn", "ff", "ff_context")),
        *(f"{last}.{unit}" for unit in ("attn", "ff")),
    ]
    assert [kind for _, kind in names_and_kinds("dit")] == ["self-attention", "feed-forward"] * 2


def test_refiners_come_first() -> None:
    blocks_in_order = dict.fromkeys(n.rpartition(".")[0] for n, _ in names_and_kinds("z-image"))
    assert " ".join(blocks_in_order) == "noise_refiner.0 context_refiner.0 layers.0 layers.1"


def test_the_middle_of_a_unet_lies_between_its_ends() -> None:
    stages = dict.fromkeys(name.partition(".")[0] for name, _ in names_and_kinds("sdxl"))
    assert list(stages) == ["down_blocks", "mid_block", "up_blocks"]


def test_kind_follows_the_input_of_the_attention() -> None:
    units = units_of(tiny_models.unet(only_cross_attention=True))
    kinds = {(u.name.partition(".")[0], u.kind) for u in units if u.name.endswith("attn1")}
    # diffusers builds the middle without that option.
    assert kinds == {
        ("down_blocks", "cross-attention"),
        ("mid_block", "self-attention"),
        ("up_blocks", "cross-attention"),
    }

    dit = tiny_models.dit_transformer()
    dit.transformer_blocks[0] = diffusers.models.attention.BasicTransformerBlock(
        16, 2, 8, double_self_attention=True
    )
    kinds_in_order = [unit.kind for unit in units_of(dit)[:3]]
    assert kinds_in_order == ["self-attention", "self-attention", "feed-forward"]


def test_compiling_changes_no_name() -> None:
    dit = tiny_models.dit_transformer()
    names = [unit.name for unit in units_of(dit)]
    body = body_blocks(dit)
    dit.transformer_blocks[0] = torch.compile(dit.transformer_blocks[0], backend="eager")
    compiled: Any = torch.compile(dit, backend="eager")
    assert [unit.name for unit in units_of(compiled)] == names
    # What the denoiser calls, not what lies within it.
    assert body_blocks(compiled) == [dit.transformer_blocks[0], body[1]]


def test_every_declaration_is_met() -> None:
    models = [*(case(name).denoiser for name in CASES), tiny_policies.transformer()]
    denoisers = {type(model).__name__: model for model in models}
    assert set(denoisers) == set(blocks._denoisers)
    met = {
        type(module).__name__: module
        for denoiser in denoisers.values()
        for module in denoiser.modules()
        if type(module).__name__ in block_classes()
    }
    assert set(met) == set(block_classes())
    for block in met.values():
        facts = block_facts_of(block)
        for unit in facts.units:
            assert all(hasattr(block, name) for name in (unit.output, *unit.also))
        arguments = {facts.hidden_argument, facts.encoder_argument} - {None}
        assert arguments <= set(inspect.signature(type(block).forward).parameters)
        # diffusers has facts of its own on most of them.
        sana = diffusers.models.transformers.sana_transformer.SanaTransformerBlock
        if type(block) not in (sana, nn.TransformerDecoderLayer):
            known = TransformerBlockRegistry.get(type(block))
            assert facts.returns.index("hidden") == known.return_hidden_states_index
            text = facts.returns.index("encoder") if "encoder" in facts.returns else None
            assert text == known.return_encoder_hidden_states_index


def test_feed_forward_in_chunks_is_refused() -> None:
    sd3 = tiny_models.sd3_transformer()
    sd3.enable_forward_chunking(1)
    with pytest.raises(UnsupportedPipelineError, match=r"transformer_blocks\.0 .*chunks of 1"):
        units_of(sd3)
    sd3.disable_forward_chunking()
    assert units_of(sd3)


@pytest.mark.parametrize("name", ["sd15", "flux2"])
def test_a_denoiser_without_a_body_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedPipelineError, match=r"FluxTransformer2DModel.*sub-blocks"):
        body_blocks(case(name).denoiser)


def test_unknown_denoiser_is_told_how_to_be_declared(own_declarations: None) -> None:
    class Mystery(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([MysteryBlock()])

    class MysteryBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = nn.Linear(2, 2)

    for ask in (units_of, body_blocks):
        with pytest.raises(UnsupportedPipelineError, match=r"Mystery.*declare_denoiser_blocks"):
            ask(Mystery())

    declare_denoiser_blocks(
        DenoiserBlocks(denoiser_class="Mystery", stages=("layers",), body=("layers",))
    )
    with pytest.raises(UnsupportedPipelineError, match=r"nothing to cache.*declare_block"):
        units_of(Mystery())
    with pytest.raises(UnsupportedPipelineError, match=r"MysteryBlock.*declare_block"):
        body_blocks(Mystery())

    units = (Unit("mlp", "feed-forward", "mlp"),)
    declare_block(BlockFacts(block_class="MysteryBlock", units=units))
    mystery = Mystery()
    assert [unit.module for unit in units_of(mystery)] == [mystery.layers[0].mlp]
    assert body_blocks(mystery) == list(mystery.layers)


def test_a_body_without_blocks_is_refused() -> None:
    dit = tiny_models.dit_transformer()
    dit.transformer_blocks = nn.ModuleList()
    for ask in (units_of, body_blocks):
        with pytest.raises(UnsupportedPipelineError, match="nothing to cache"):
            ask(dit)


def test_subclasses_are_found_and_strangers_of_the_same_name_are_not() -> None:
    class Tuned(diffusers.models.attention.JointTransformerBlock):  # type: ignore[misc]
        pass

    class JointTransformerBlock(nn.Module):
        pass

    sd3 = tiny_models.sd3_transformer()
    sd3.transformer_blocks[0] = Tuned(16, 2, 8)
    assert units_of(sd3)[0].name == "transformer_blocks.0.attn"
    sd3.transformer_blocks[0] = JointTransformerBlock()
    with pytest.raises(UnsupportedPipelineError, match=r"test_blocks.*has no 'attn'"):
        units_of(sd3)


def test_declaring_twice(own_declarations: None) -> None:
    units = (Unit("mlp", "feed-forward", "mlp"),)
    for _ in range(2):
        declare_block(BlockFacts(block_class="Mystery", units=units))
        declare_denoiser_blocks(DenoiserBlocks(denoiser_class="Mystery", stages=("layers",)))
    with pytest.raises(DuplicateNameError, match="Mystery"):
        declare_block(BlockFacts(block_class="Mystery", units=units, hidden_argument="x"))
    with pytest.raises(DuplicateNameError, match="Mystery"):
        declare_denoiser_blocks(DenoiserBlocks(denoiser_class="Mystery", stages=("blocks",)))


def test_all_problems_in_one_error() -> None:
    unit = Unit("a", "convolution", "b")  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as refusal:
        BlockFacts(
            block_class="Bad",
            units=(unit, unit),
            returns=("encoder", "encoder"),
            encoder_argument=None,
        )
    assert len(refusal.value.problems) == 5
    with pytest.raises(ConfigError, match="empty"):
        BlockFacts(block_class="Bad", units=())
    with pytest.raises(ConfigError) as refusal:
        DenoiserBlocks(denoiser_class="Bad", stages=(), body=("layers",))
    assert len(refusal.value.problems) == 2
