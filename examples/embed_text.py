"""Text embedding: which sentence is nearest in meaning to the first?

    pip install tokenizers
    relaxc compile all-MiniLM-L6-v2.onnx -o build/embed.rxc
    python examples/embed_text.py build/embed.rxc tokenizer.json "a cat sleeps" "a kitten naps"

One artifact for any number of sentences of any length, if the ONNX file leaves both open.
"""

from __future__ import annotations

import sys

import numpy as np
from tokenizers import Tokenizer

import relaxc

TENSORS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


def embeddings(model: relaxc.Model, tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """[texts, width], each of length 1."""
    encoded = tokenizer.encode_batch(texts)
    feed = {
        info.name: np.array([getattr(e, TENSORS[info.name]) for e in encoded], np.int64)
        for info in model.inputs
    }
    result = next(iter(model.run(feed).values()))
    if result.ndim == 3:  # a vector per token: the mean of those that are no padding
        mask = feed["attention_mask"][..., None]
        result = (result * mask).sum(1) / mask.sum(1)
    normed: np.ndarray = result / np.linalg.norm(result, axis=1, keepdims=True)
    return normed


def main(artifact: str, vocabulary: str, *texts: str) -> None:
    """Print how similar each text is to the first."""
    model = relaxc.load(artifact)
    tokenizer = Tokenizer.from_file(vocabulary)
    fixed = model.inputs[0].shape[1]
    tokenizer.enable_truncation(fixed if isinstance(fixed, int) else 512)
    tokenizer.enable_padding(length=fixed if isinstance(fixed, int) else None)
    if isinstance(model.inputs[0].shape[0], int):  # one at a time
        vectors = np.concatenate([embeddings(model, tokenizer, [text]) for text in texts])
    else:
        vectors = embeddings(model, tokenizer, list(texts))
    for text, cosine in zip(texts[1:], vectors[1:] @ vectors[0]):
        print(f"{cosine:6.3f}  {text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
