"""LLaDA as a diffusers pipeline: from a prompt to text, by filling in masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from gensift.errors import ConfigError
from gensift.pipelines.llada.prompts import (
    Messages,
    PromptRows,
    Tokenizer,
    encode_chats,
    encode_prompts,
    given_rows,
)
from gensift.pipelines.llada.reference import ReferenceDecoding, Step
from gensift.pipelines.llada.settings import DecodingSettings
from gensift.pipelines.llada.transformer import LLaDATransformer, whole_logits
from gensift.protocols import Pipeline
from gensift.randomness import make_generators

END_OF_TURN = "<|eot_id|>"
StepEnd = Callable[[Pipeline, int, int, dict[str, Tensor]], Mapping[str, Tensor] | None]


@dataclass
class LLaDAPipelineOutput(BaseOutput):
    """What a call returns.

    Attributes:
        sequences: responses, int64 `(rows, gen_length)`; after its end a text is filled up with
            the token that ended it.
        texts: the same as text, without special tokens; None unless `output_type` is "text".
    """

    sequences: Tensor
    texts: list[str] | None = None


class LLaDAPipeline(DiffusionPipeline):
    """Text from a masked diffusion language model, block by block, surest tokens first.

    This is the reference decoding; `gensift.TextDecode` and `gensift.ODD` decode with caches,
    other windows and commit rules, and diversity.

    Args:
        transformer: `LLaDATransformer`, or any model with
            `(input_ids, attention_mask, position_ids) -> logits`.
        tokenizer: of transformers.
        shift_logits: whether the logits of a position are those of the token after it, as in Dream.

    Source: Nie et al. (arXiv 2502.09992), section 2.4 and its `generate.py`.
    """

    _callback_tensor_inputs = ("input_ids", "logits", "columns", "committed")

    def __init__(
        self,
        transformer: LLaDATransformer | nn.Module,
        tokenizer: Tokenizer,
        shift_logits: bool = False,
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, tokenizer=tokenizer)
        self.register_to_config(shift_logits=shift_logits)

    @property
    def mask_token_id(self) -> int:
        """The token that stands for what is not decided yet.

        Raises:
            ConfigError: neither the model nor the tokenizer names one.
        """
        found = _token_id(self.transformer, "mask_token_id")
        found = getattr(self.tokenizer, "mask_token_id", None) if found is None else found
        if found is None:
            raise ConfigError(
                f"{type(self.transformer).__name__} and its tokenizer name no mask token; set "
                "`mask_token_id` in the model's config, or `tokenizer.mask_token`."
            )
        return int(found)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end a text: end of sequence and, for chat models, end of turn."""
        listed = getattr(getattr(self.transformer, "config", None), "eos_token_id", None)
        ids = (
            *(listed if isinstance(listed, (list, tuple)) else (listed,)),
            getattr(self.tokenizer, "eos_token_id", None),
            _special_tokens(self.tokenizer).get(END_OF_TURN),
        )
        return tuple(dict.fromkeys(int(i) for i in ids if i is not None))

    @property
    def special_ids(self) -> tuple[int, ...]:
        """All tokens that are no text: those that end it, the mask, padding and the like."""
        known = (_token_id(self.transformer, "pad_token_id"), self.mask_token_id)
        listed = getattr(self.tokenizer, "all_special_ids", ())
        marked = _special_tokens(self.tokenizer).values()
        ids = (*self.stop_ids, *(i for i in known if i is not None), *listed, *marked)
        return tuple(dict.fromkeys(map(int, ids)))

    @property
    def context_length(self) -> int | None:
        """Longest sequence that the model knows; None if it does not say."""
        config = self.transformer.config
        for name in ("max_sequence_length", "max_position_embeddings"):
            if (length := getattr(config, name, None)) is not None:
                return int(length)
        return None

    def encode(
        self,
        prompt: str | Sequence[str] | None = None,
        messages: Messages | Sequence[Messages] | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        use_chat_template: bool = True,
        add_generation_prompt: bool = True,
    ) -> PromptRows:
        """Prompts as rows of tokens, one of the three ways.

        Raises:
            ConfigError: none or several are given, or one is empty.
        """
        given = [value is not None for value in (prompt, messages, input_ids)]
        if sum(given) != 1:
            raise ConfigError("Give one of `prompt`, `messages` and `input_ids`.")
        if input_ids is not None:
            return given_rows(input_ids, attention_mask)
        if prompt is not None:
            texts = [prompt] if isinstance(prompt, str) else list(prompt)
            if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
                raise ConfigError("A prompt is empty; give a text.")
            return encode_prompts(
                self.tokenizer,
                texts,
                use_chat_template=use_chat_template,
                add_generation_prompt=add_generation_prompt,
            )
        chats = _chats(messages)
        if not chats:
            raise ConfigError("`messages` is empty; give turns with role and content.")
        return encode_chats(self.tokenizer, chats, add_generation_prompt=add_generation_prompt)

    def check_length(self, prompt_length: int, gen_length: int) -> None:
        """Refuse a response that does not fit behind its prompt.

        Raises:
            ConfigError: prompt and response are longer than the context.
        """
        longest = self.context_length
        if gen_length < 1:
            raise ConfigError(f"`gen_length` is {gen_length}; give at least 1.")
        if longest is not None and prompt_length + gen_length > longest:
            raise ConfigError(
                f"The prompt has {prompt_length} tokens and `gen_length` is {gen_length}, but the "
                f"model's context holds {longest}; shorten one of them."
            )

    def predict(
        self,
        tokens: Tensor,
        is_real: Tensor,
        columns: Tensor,
        *,
        prompt_length: int,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        """Logits at some columns, with the mask token ruled out.

        Args:
            tokens: int64 `(rows, positions)`, prompt and response.
            is_real: bool `(rows, positions)`, false at padding.
            columns: int64 `(rows, width)`, counted from the start of the sequence.
            prompt_length: columns before the response.
            guidance_scale: above 1 pushes away from what the model says with the prompt masked;
                LLaDA's `cfg_scale` is one less.

        Returns:
            `(rows, width, vocabulary)`.
        """
        if guidance_scale != 1:
            masked_prompt = tokens.clone()
            masked_prompt[:, :prompt_length] = self.mask_token_id
            tokens, is_real, columns = (
                torch.cat(pair)
                for pair in ((tokens, masked_prompt), (is_real, is_real), (columns, columns))
            )
        logits = self._logits(tokens, is_real, columns)
        if guidance_scale != 1:
            cond, uncond = logits.chunk(2)
            logits = uncond + guidance_scale * (cond - uncond)
        return forbid(logits, [self.mask_token_id])

    def _logits(self, tokens: Tensor, is_real: Tensor, columns: Tensor) -> Tensor:
        logits = whole_logits(self.transformer, tokens, is_real)
        if self.config.shift_logits:
            columns = (columns - 1).clamp(min=0)
        return logits.gather(1, columns[..., None].expand(-1, -1, logits.shape[-1]))

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        messages: Messages | Sequence[Messages] | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        use_chat_template: bool = True,
        add_generation_prompt: bool = True,
        gen_length: int = 128,
        block_length: int | None = None,
        num_inference_steps: int = 128,
        temperature: float = 0.0,
        guidance_scale: float = 1.0,
        threshold: float | None = None,
        eos_early_stop: bool = True,
        num_texts_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "text",
        return_dict: bool = True,
        callback_on_step_end: StepEnd | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("input_ids",),
    ) -> LLaDAPipelineOutput | tuple[Tensor, list[str] | None]:
        """Write responses.

        Args:
            prompt: one or several texts; a turn of a chat where the tokenizer has a template.
            messages: a chat, or several, as turns with "role" and "content".
            input_ids: int64 `(rows, positions)`, padded on the left where `attention_mask` is 0.
            attention_mask: see `input_ids`.
            use_chat_template: whether `prompt` becomes a turn of a chat.
            add_generation_prompt: whether a chat ends with the header of the answer.
            gen_length, block_length, num_inference_steps, temperature, guidance_scale, threshold,
                eos_early_stop: see `DecodingSettings`.
            num_texts_per_prompt: rows per prompt.
            generator: one per row, or one that seeds the rows.
            output_type: "text" or "seq".
            return_dict: whether to return an `LLaDAPipelineOutput` or a tuple.
            callback_on_step_end: called as `(pipeline, step, step_in_block, tensors)`; `input_ids`
                that it returns take the place of the tokens.
            callback_on_step_end_tensor_inputs: which tensors it gets: `input_ids` (prompt and
                response), `logits` (rows, block, vocabulary) at `columns`, and `committed`, bool
                (rows, block), what this step has committed.

        Raises:
            ConfigError: an argument is out of range.
        """
        settings = DecodingSettings(
            gen_length=gen_length,
            block_length=block_length,
            num_inference_steps=num_inference_steps,
            temperature=temperature,
            guidance_scale=guidance_scale,
            threshold=threshold,
            eos_early_stop=eos_early_stop,
        )
        self._check_output(output_type, callback_on_step_end_tensor_inputs)
        rows = self.encode(
            prompt,
            messages,
            input_ids,
            attention_mask,
            use_chat_template=use_chat_template,
            add_generation_prompt=add_generation_prompt,
        )
        rows = rows.repeat(num_texts_per_prompt).to(self._execution_device)
        self.check_length(rows.tokens.shape[1], gen_length)
        generators = row_generators(generator, len(rows.tokens))
        decoding = ReferenceDecoding(self, rows, settings, generators)
        names = callback_on_step_end_tensor_inputs
        try:
            decoding.run(lambda step: self._call_back(callback_on_step_end, names, decoding, step))
        finally:
            self.maybe_free_model_hooks()
        texts = self.decode(decoding.response) if output_type == "text" else None
        if not return_dict:
            return decoding.response, texts
        return LLaDAPipelineOutput(sequences=decoding.response, texts=texts)

    def _call_back(
        self,
        callback: StepEnd | None,
        names: Sequence[str],
        decoding: ReferenceDecoding,
        step: Step,
    ) -> None:
        """Show the callback of a call the tensors that it asked for; it may replace the tokens."""
        if callback is None:
            return
        tensors = {"input_ids": decoding.tokens, "logits": step.logits}
        tensors |= {"columns": step.columns, "committed": step.committed}
        chosen = {name: tensors[name] for name in names}
        changed = callback(self, step.index, step.index_in_block, chosen)
        decoding.tokens = (changed or {}).get("input_ids", decoding.tokens)

    def decode(self, sequences: Tensor) -> list[str]:
        """Texts of responses, without special tokens."""
        texts: list[str] = self.tokenizer.batch_decode(sequences, skip_special_tokens=True)
        return texts

    def _check_output(self, output_type: str, tensor_inputs: Sequence[str]) -> None:
        if output_type not in ("text", "seq"):
            raise ConfigError(f"`output_type` is {output_type!r}; allowed: text, seq.")
        strangers = set(tensor_inputs) - set(self._callback_tensor_inputs)
        if strangers:
            raise ConfigError(
                f"`callback_on_step_end_tensor_inputs` names {', '.join(sorted(strangers))}; "
                f"allowed: {', '.join(self._callback_tensor_inputs)}."
            )


def forbid(logits: Tensor, token_ids: Sequence[int]) -> Tensor:
    """Logits `(..., vocab)` with some tokens ruled out."""
    return logits.index_fill(-1, torch.tensor(list(token_ids), device=logits.device), -torch.inf)


def row_generators(
    generator: torch.Generator | Sequence[torch.Generator] | None, rows: int
) -> list[torch.Generator]:
    """One generator per row.

    Raises:
        ConfigError: a list of another length.
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        if len(generator) != rows:
            raise ConfigError(f"{len(generator)} generators were given for {rows} rows.")
        return list(generator)
    if generator is not None and rows == 1:
        return [generator]
    seeds = torch.randint(2**48, (rows,), generator=generator)
    return make_generators(seeds.tolist())


def _chats(messages: Messages | Sequence[Messages] | None) -> list[Messages]:
    """One or several chats as a list."""
    if not messages:
        return []
    if isinstance(messages[0], Mapping):
        return [cast(Messages, messages)]
    return list(cast(Sequence[Messages], messages))


def _special_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """Added tokens that are marked as special: published files name the end of turn only there."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {token.content: index for index, token in added.items() if token.special}


def _token_id(model: nn.Module, name: str) -> int | None:
    found = getattr(getattr(model, "config", None), name, None)
    return found if isinstance(found, int) else None
