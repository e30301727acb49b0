"""Write the models of the benchmarks as ONNX files, with seeded random weights.

    pip install -e .[zoo]
    python benchmarks/export_models.py FOLDER [--only NAME ...] [--batch 1 8]

The architectures are those of timm and transformers, plus a U-Net and an LSTM tagger written out
here. Speed doesn't depend on what a network has learned, but its numbers must stay in a sane range:
denormals are slow, and errors hide where a branch is multiplied by zero. So batch norms get the
statistics of real activations, and scales that start at zero or nearly so are drawn at random.
Every file is run in ONNX Runtime and compared with torch before it is kept. A batch other than 1
goes into the name: `resnet50_b8.onnx`. Models marked `free` have symbolic batch and sequence
dimensions, and one file for all sizes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

# The torchvision wheel that timm imports may be built for CUDA, and then does not load beside a
# torch without it: it declares shapes for operators that its missing library would have defined.
_DECLARED = torch.library.Library("torchvision", "FRAGMENT")
try:
    import torchvision  # noqa: F401
except ModuleNotFoundError:
    pass  # timm needs it, what is written out here does not
except RuntimeError:
    for _name in ("nms", "qnms"):
        _DECLARED.define(f"{_name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")

OPSET = 18
LARGEST_ERROR = 1e-4
SEQUENCE = 128


@dataclass(frozen=True)
class Source:
    """Where a benchmark model comes from.

    Attributes:
        build: makes the network, in evaluation mode.
        example: batch -> inputs by name, in the network's order.
        outputs: names of the results.
        is_free: whether batch and sequence stay symbolic.
    """

    build: Callable[[], nn.Module]
    example: Callable[[int], dict[str, Tensor]]
    outputs: tuple[str, ...]
    is_free: bool = False


class UNet(nn.Module):
    """Ronneberger et al. (2015) at a quarter of the width: three levels, 256x256, 21 classes."""

    def __init__(self, width: int = 32, classes: int = 21) -> None:
        super().__init__()
        widths = [width << level for level in range(4)]
        self.down = nn.ModuleList(map(_double_conv, [3, *widths[:2]], widths[:3]))
        self.bottom = _double_conv(widths[2], widths[3])
        pairs = list(zip(widths[:0:-1], widths[-2::-1]))
        self.widen = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairs)
        self.up = nn.ModuleList(_double_conv(a, b) for a, b in pairs)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """`[n, 3, h, w]` to `[n, classes, h, w]`; h and w are multiples of 8."""
        skips = []
        for block in self.down:
            skips.append(block(image))
            image = nn.functional.max_pool2d(skips[-1], 2)
        image = self.bottom(image)
        for widen, block in zip(self.widen, self.up):
            image = block(torch.cat([widen(image), skips.pop()], dim=1))
        return self.head(image)


def _double_conv(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers.append(nn.Conv2d(channels, outputs, 3, padding=1))
        layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class LstmTagger(nn.Module):
    """A label for every word: embedding, two bidirectional LSTM layers, projection."""

    def __init__(self, words: int = 10_000, width: int = 128, state: int = 256) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.lstm = nn.LSTM(width, state, num_layers=2, bidirectional=True, batch_first=True)
        self.project = nn.Linear(2 * state, 40)

    def forward(self, tokens: Tensor) -> Tensor:
        """`[n, words]` to `[n, words, 40]`."""
        return self.project(self.lstm(self.embed(tokens))[0])


class Encoder(nn.Module):
    """A BERT encoder with positional inputs and plain outputs."""

    def __init__(self, layers: int, hidden: int) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        self.bert = BertModel(
            BertConfig(
                num_hidden_layers=layers,
                hidden_size=hidden,
                num_attention_heads=12,
                intermediate_size=4 * hidden,
                attn_implementation="eager",
            )
        )

    def forward(self, tokens: Tensor, mask: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
        """Three times `[n, words]` to `[n, words, hidden]` and `[n, hidden]`."""
        result = self.bert(tokens, attention_mask=mask, token_type_ids=segments)
        return result.last_hidden_state, result.pooler_output


def _image_net(name: str, size: int = 224) -> Source:
    def build() -> nn.Module:
        import timm

        return timm.create_model(name, pretrained=False)

    return Source(build, lambda batch: {"image": torch.randn(batch, 3, size, size)}, ("scores",))


def _encoder(layers: int, hidden: int, is_free: bool) -> Source:
    def example(batch: int) -> dict[str, Tensor]:
        tokens = torch.randint(0, 30_000, (batch, SEQUENCE))
        return {
            "input_ids": tokens,
            "attention_mask": torch.ones_like(tokens),
            "token_type_ids": torch.zeros_like(tokens),
        }

    outputs = ("last_hidden_state", "pooler_output")
    return Source(lambda: Encoder(layers, hidden), example, outputs, is_free)


SOURCES = {
    "resnet18": _image_net("resnet18"),
    "resnet50": _image_net("resnet50"),
    "mobilenetv2": _image_net("mobilenetv2_100"),
    "minilm_static": _encoder(6, 384, is_free=False),
    "minilm_shape": _encoder(6, 384, is_free=True),
    "bert_base": _encoder(12, 768, is_free=True),
    "bert_base_s128": _encoder(12, 768, is_free=False),
    "mobilenetv3_large": _image_net("mobilenetv3_large_100"),
    "efficientnet_b0": _image_net("efficientnet_b0"),
    "densenet121": _image_net("densenet121"),
    "inception_v3": _image_net("inception_v3", 299),
    "convnext_tiny": _image_net("convnext_tiny"),
    "vit_tiny": _image_net("vit_tiny_patch16_224"),
    "vit_base": _image_net("vit_base_patch16_224"),
    "unet": Source(UNet, lambda batch: {"image": torch.randn(batch, 3, 256, 256)}, ("classes",)),
    "swin_tiny": _image_net("swin_tiny_patch4_window7_224"),
    "lstm_tagger": Source(
        LstmTagger, lambda batch: {"tokens": torch.randint(0, 10_000, (batch, 40))}, ("scores",)
    ),
}


def enliven(network: nn.Module, batch: dict[str, Tensor]) -> nn.Module:
    """Give norms and layer scales values like those of a trained network."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.1)
        norm.momentum = None  # then the statistics are the mean of all batches
        norm.train()
    for name, scale in network.named_parameters():
        if name.rpartition(".")[2] == "gamma":  # layer scale, which starts at 1e-6
            nn.init.uniform_(scale, 0.1, 0.5)
    if norms:
        network(*batch.values())
    return network.eval()


def export(source: Source, batch: int, path: Path) -> float:
    """Write one model; return the relative norm of ONNX Runtime's difference to torch."""
    torch.manual_seed(0)
    network = enliven(source.build().eval(), source.example(4))
    # Of a symbolic dimension the example must not say 1: the exporter would take it for fixed.
    inputs = source.example(2 if source.is_free else batch)
    axes = {0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("sequence", max=512)}
    torch.onnx.export(
        network,
        tuple(inputs.values()),
        path,
        input_names=list(inputs),
        output_names=list(source.outputs),
        opset_version=OPSET,
        dynamo=True,
        dynamic_shapes=tuple(axes for _ in inputs) if source.is_free else None,
        external_data=False,
        verbose=False,
    )
    wanted = network(*inputs.values())
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    pairs = zip(found, [wanted] if isinstance(wanted, Tensor) else wanted)
    return max(float(np.linalg.norm(a - b.numpy()) / np.linalg.norm(a)) for a, b in pairs)


def main() -> int:
    """Export, report, and fail when ONNX Runtime disagrees with torch about a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=SOURCES, default=SOURCES)
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    torch.set_grad_enabled(False)
    is_ok = True
    for batch in args.batch:
        for name in args.only:
            if SOURCES[name].is_free and batch != args.batch[0]:
                continue
            is_plain = batch == 1 or SOURCES[name].is_free
            path = args.folder / (f"{name}.onnx" if is_plain else f"{name}_b{batch}.onnx")
            # Others may be waiting for the file: it gets its name when it is whole and right.
            partial = path.with_suffix(".partial")
            error = export(SOURCES[name], batch, partial)
            size = partial.stat().st_size / 1e6
            if error < LARGEST_ERROR:
                partial.replace(path)
            else:
                is_ok = False
            print(f"{path.name:24} {size:7.1f} MB  error {error:.1e}", flush=True)
    return 0 if is_ok else 1


if __name__ == "__main__":
    sys.exit(main())
