"""A plain torch process in a trainer's place: it changes a Hugging Face model and sends it to the engines."""

from collections.abc import Iterator, Sequence

import torch
from transformers import AutoModelForCausalLM

from engines.protocols import PauseMode, WeightReceiver
from trainers.weights.collective import CollectiveSender, SyncStats


class HFTrainer:
    """Becomes a Ray actor in the tests."""

    def __init__(self, model_path: str):
        self._model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
        self._sender = CollectiveSender(backend="gloo", device="cpu", host="127.0.0.1")

    async def ready(self) -> None:
        """Answers once the process is up."""

    async def change(self, seed: int) -> None:
        """Move every weight by a random amount that shows in the log-probabilities."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self._model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)

    async def send(
        self,
        receivers: Sequence[WeightReceiver],
        version: int,
        *,
        pause_mode: PauseMode = "retract",
        bucket_bytes: int = 64 * 1024,
        cut: str | None = None,
        leave_out: str | None = None,
        timeout_s: float = 60.0,
    ) -> SyncStats:
        """``cut``: this tensor loses its last row. ``leave_out``: this one is not sent."""

        def tensors() -> Iterator[tuple[str, torch.Tensor]]:
            for name, tensor in self._model.state_dict().items():
                if name != leave_out:
                    yield name, tensor[:-1] if name == cut else tensor

        return await self._sender.send(
            receivers, tensors(), version, pause_mode=pause_mode, bucket_bytes=bucket_bytes, timeout_s=timeout_s
        )

    async def log_probs(self, prompt: list[int], output: list[int], temperature: float) -> list[float]:
        """Of each output token under softmax(logits / temperature)."""
        ids = torch.tensor([prompt + output])
        with torch.no_grad():
            logits = self._model(ids).logits[0, len(prompt) - 1 : -1] / temperature
        return torch.log_softmax(logits, -1).gather(1, ids[0, len(prompt) :, None])[:, 0].tolist()
