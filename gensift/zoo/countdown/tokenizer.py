"""The tokenizer of `countdown-llada`: one token per number, operator and word."""

from __future__ import annotations

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Punctuation, Sequence, WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from gensift.zoo.countdown.problems import MAX_RESULT, OPERATORS

PAD, MASK, EOS, UNKNOWN = SPECIAL = ("[PAD]", "[MASK]", "[EOS]", "[UNK]")
WORDS = ("use", "to", "make")
NUMBERS = tuple(str(number) for number in range(MAX_RESULT + 1))
VOCABULARY = (*SPECIAL, *WORDS, *OPERATORS, "(", ")", *NUMBERS)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Whole numbers and words; parentheses and operators need no blanks around them."""
    ids = {token: index for index, token in enumerate(VOCABULARY)}
    model = Tokenizer(WordLevel(ids, unk_token=UNKNOWN))
    model.normalizer = Lowercase()
    model.pre_tokenizer = Sequence([WhitespaceSplit(), Punctuation()])
    return PreTrainedTokenizerFast(
        tokenizer_object=model,
        pad_token=PAD,
        mask_token=MASK,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
