"""A Qwen3-shaped model so small that a job runs on two cores, and its tokenizer: one token a character."""

import string
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

SPECIAL = ("<pad>", "<eos>", "<user>", "<assistant>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def build_tiny_model(directory: Path, *, seed: int = 0, **shape: int) -> Path:
    """Write a random model, in float32, and its tokenizer; returns ``directory``. ``shape``: other sizes, by the
    names of Qwen3Config."""
    tokenizer = _tokenizer()
    tokenizer.save_pretrained(directory)
    sizes = {
        "vocab_size": 128,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
    }
    config = Qwen3Config(
        **(sizes | shape),
        tie_word_embeddings=False,
        # Wide, so that the distributions are far from uniform and a wrong weight shows.
        initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    torch.manual_seed(seed)
    Qwen3ForCausalLM(config).to(torch.float32).save_pretrained(directory)
    return directory


def _tokenizer() -> PreTrainedTokenizerFast:
    alphabet = [*SPECIAL, *sorted(set(string.printable) - set("\r\x0b\x0c"))]
    inner = Tokenizer(models.WordLevel({token: index for index, token in enumerate(alphabet)}, unk_token="<pad>"))
    # As many tokenizers do, it drops a character that it does not know.
    inner.normalizer = normalizers.Replace("\r", "")
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), behavior="isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<pad>",
        additional_special_tokens=["<user>", "<assistant>"],
        chat_template=CHAT_TEMPLATE,
    )
