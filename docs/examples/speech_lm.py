"""A small language model of speech codes: trained on a corpus of codes, then sampled back to sound.

    codecctl encode codecctl/assets/clips --out-dir codes --format shards
    python docs/examples/speech_lm.py codes sample.wav --steps 300

It has the parts that a larger one has, too: the delay pattern, one vocabulary for all codebooks, a causal transformer,
sampling. On a minute of speech it learns that minute by heart.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codecctl import Codec
from codecctl.audio.files import AudioWriter
from codecctl.codes import CodeDataset, delay, from_unigrams, to_unigrams, undelay
from codecctl.errors import CodecctlError

CONTEXT = 64  # steps that the model looks back on
WIDTH, N_LAYERS, N_HEADS = 128, 3, 4
BATCH_SIZE, LEARNING_RATE = 8, 2e-3
TEMPERATURE, TOP_K = 0.8, 20


class LanguageModel(nn.Module):
    """[B, T] steps of K codes each -> logits of the codes of the next step."""

    def __init__(self, codebook_sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = list(codebook_sizes)
        self.pad = sum(self.sizes)  # an entry of the vocabulary after those of all codebooks
        self.embedding = nn.Embedding(self.pad + 1, WIDTH)
        self.position = nn.Embedding(CONTEXT, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, N_HEADS, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, N_LAYERS, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, self.pad)
        nn.init.normal_(self.embedding.weight, std=0.1)

    def forward(self, steps: Tensor) -> tuple[Tensor, ...]:
        """Delayed entries of the vocabulary [B, K, T] -> for each codebook, logits [B, T, V]."""
        n_steps = steps.shape[-1]
        x = self.embedding(steps).sum(dim=1) + self.position.weight[:n_steps]  # [B, T, D]
        x = self.layers(x, nn.Transformer.generate_square_subsequent_mask(n_steps), is_causal=True)
        return self.head(x).split(self.sizes, dim=-1)

    def loss(self, steps: Tensor) -> Tensor:
        """Mean cross-entropy in nats of the codes of steps [B, K, T + 1], each from the steps before it."""
        losses, first = [], 0
        for k, logits in enumerate(self(steps[..., :-1])):
            target = steps[:, k, 1:]
            losses.append(F.cross_entropy(logits.mT, (target - first).where(target != self.pad, -100)))
            first += self.sizes[k]
        return torch.stack(losses).mean()

    @torch.inference_mode()
    def sample(self, n_frames: int) -> Tensor:
        """Codes [1, K, n_frames], drawn one step at a time."""
        n_codebooks = len(self.sizes)
        steps = torch.full((1, n_codebooks, 1), self.pad)
        for number in range(n_frames + n_codebooks - 1):
            step, first = torch.full((1, n_codebooks, 1), self.pad), 0
            for k, logits in enumerate(self(steps[..., -CONTEXT:])):
                best, entries = logits[0, -1].topk(min(TOP_K, self.sizes[k]))
                if k <= number < n_frames + k:  # the others are not within the sound
                    step[0, k] = first + entries[torch.multinomial((best / TEMPERATURE).softmax(dim=-1), 1)]
                first += self.sizes[k]
            steps = torch.cat([steps, step], dim=-1)
        return from_unigrams(undelay(steps[..., 1:]), self.sizes)


def train(model: LanguageModel, dataset: CodeDataset, n_steps: int) -> None:
    # One step of padding before each utterance: from it the model starts a sound.
    sounds = [
        F.pad(delay(to_unigrams(item.codes, model.sizes), model.pad), (1, 0), value=model.pad) for item in dataset
    ]
    sounds = [F.pad(sound, (0, max(0, CONTEXT + 1 - sound.shape[-1])), value=model.pad) for sound in sounds]
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, n_steps + 1)
    for number in range(1, n_steps + 1):
        crops = []
        for choice in torch.randint(len(sounds), (BATCH_SIZE,)).tolist():
            # A third of the crops are the starts of sounds, since a sample begins with one.
            start = int(torch.randint(sounds[choice].shape[-1] - CONTEXT, ()) * (torch.rand(()) > 1 / 3))
            crops.append(sounds[choice][:, start : start + CONTEXT + 1])
        loss = model.loss(torch.stack(crops))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if number in (1, n_steps) or number % 50 == 0:
            print(f"step {number}: {loss.item():.2f} nats a code", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("codes", type=Path, help="a folder that codecctl encode wrote")
    parser.add_argument("output", type=Path, help="a .wav or .flac for the sample")
    parser.add_argument("--checkpoint", default="starter", help="the model that made the codes")
    parser.add_argument("--steps", type=int, default=300, help="of the training")
    parser.add_argument("--codebooks", type=int, default=4, help="the first ones, of the model and the sample")
    parser.add_argument("--seconds", type=float, default=4.0, help="of the sample")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    try:
        dataset = CodeDataset(options.codes, n_codebooks=options.codebooks)
        codec = Codec.load(options.checkpoint, "cpu")
    except CodecctlError as error:
        parser.error(str(error))
    if codec.fingerprint != dataset.about.fingerprint:
        parser.error(f"{options.codes}: made by {dataset.about.fingerprint}, not by {options.checkpoint}")
    model = LanguageModel(dataset.codebook_sizes)
    train(model, dataset, options.steps)
    codes = model.eval().sample(round(options.seconds * codec.frame_rate))
    with AudioWriter(options.output, codec.sample_rate) as writer:
        writer.write(codec.decode(codes)[0].numpy())
    print(f"{options.output}: {codes.shape[-1]} frames, sampled")


if __name__ == "__main__":
    main()
