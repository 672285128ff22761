"""The conversion of MiniLM: complete, and the same every time."""

import json
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from deploy.local.models.minilm import LAYER_TENSORS, convert

VOCABULARY = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "##ing", "\u2028", "[x"]
WIDTH, LAYERS = 8, 2


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A BERT of two tiny layers."""
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "hidden_size": WIDTH,
                "intermediate_size": WIDTH,
                "num_attention_heads": 2,
                "num_hidden_layers": LAYERS,
                "max_position_embeddings": 4,
                "layer_norm_eps": 1e-12,
                "type_vocab_size": 2,
                "vocab_size": len(VOCABULARY),
            }
        )
    )
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    _write_safetensors(tmp_path / "model.safetensors", dict(_tensors()))
    return tmp_path


def _tensors() -> Iterator[tuple[str, np.ndarray]]:
    numbers = np.random.default_rng(1)
    sizes = {"word": len(VOCABULARY), "position": 4, "token_type": 2}
    for name, rows in sizes.items():
        yield f"embeddings.{name}_embeddings.weight", numbers.random((rows, WIDTH), np.float32)
    for part in ("weight", "bias"):
        yield f"embeddings.LayerNorm.{part}", numbers.random(WIDTH, np.float32)
    for layer in range(LAYERS):
        for name in LAYER_TENSORS:
            weight_shape = (WIDTH,) if "LayerNorm" in name else (WIDTH, WIDTH)
            yield f"encoder.layer.{layer}.{name}.weight", numbers.random(weight_shape, np.float32)
            yield f"encoder.layer.{layer}.{name}.bias", numbers.random(WIDTH, np.float32)


def _write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    header: dict[str, object] = {}
    data = b""
    for name, tensor in tensors.items():
        raw = tensor.astype("<f4").tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": offsets}
        data += raw
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)


def test_the_result_depends_on_the_input_alone(source: Path, tmp_path: Path) -> None:
    for name in ("first.gguf", "second.gguf"):
        convert(source, tmp_path / name)
    assert (tmp_path / "first.gguf").read_bytes() == (tmp_path / "second.gguf").read_bytes()


def test_every_tensor_and_token_arrives(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "model.gguf")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    converted = {tensor.name: tensor for tensor in reader.tensors}
    assert len(converted) == len(dict(_tensors()))
    original = dict(_tensors())["encoder.layer.1.attention.self.key.weight"]
    assert np.array_equal(np.asarray(converted["blk.1.attn_k.weight"].data), original.astype(np.float16))
    assert converted["blk.0.attn_output_norm.weight"].tensor_type == gguf.GGMLQuantizationType.F32
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    words = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert tokens == [*words, "\u2581the", "ing", "\u2581\u2028", "\u2581[x"]
    assert reader.fields["tokenizer.ggml.token_type"].contents() == [3, 5, 2, 3, 3, 3, 1, 1, 1, 1]
    assert reader.fields["tokenizer.ggml.bos_token_id"].contents() == 3
