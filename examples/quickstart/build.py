"""A tiny language model with its own tokenizer, and a task that it learns by reward alone: sums of small numbers.

The model is an ordinary Qwen3 with random weights; it has never seen a number. ``build(directory)`` writes
``model/`` (a Hugging Face directory) and ``sums.jsonl``; the same directory content on every machine.
"""

import json
import sys
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers
from tokenizers.models import BPE

NUMBERS = range(1, 5)
SEED = 4

END = "<|end|>"
ROLES = ["<|system|>", "<|user|>", "<|assistant|>"]
VOCABULARY = [*"0123456789+=", END, *ROLES]

# "<|user|>3+4=<|assistant|>"; what the assistant says ends with <|end|>.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'] -}}"
    "{%- if message['role'] == 'assistant' -%}{{- '<|end|>' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def build(directory: Path) -> None:
    """Write ``directory/model`` and ``directory/sums.jsonl``."""
    directory.mkdir(parents=True, exist_ok=True)
    write_task(directory / "sums.jsonl")
    write_tokenizer(directory / "model")
    write_model(directory / "model")


def write_task(path: Path) -> None:
    rows = [{"input": f"{a}+{b}=", "label": str(a + b)} for a in NUMBERS for b in NUMBERS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_tokenizer(directory: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    # One token per character and no merges. Without an unknown token, other characters are dropped.
    tokenizer = Tokenizer(BPE(vocab={token: i for i, token in enumerate(VOCABULARY)}, merges=[]))
    tokenizer.normalizer = normalizers.Replace(Regex(r"\s+"), "")
    tokenizer.decoder = decoders.Fuse()
    # The roles are not special: in a response they are text like any other, and make it wrong.
    tokenizer.add_tokens([AddedToken(role, special=False, normalized=False) for role in ROLES])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=END,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=128,
    ).save_pretrained(directory)


def write_model(directory: Path) -> None:
    import torch
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    end = VOCABULARY.index(END)
    config = Qwen3Config(
        vocab_size=len(VOCABULARY),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=128,
        initializer_range=0.1,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=end,
        dtype="float32",
    )
    torch.manual_seed(SEED)
    model = Qwen3ForCausalLM(config).to(torch.float32)
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=end)
    model.save_pretrained(directory)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
