"""all-MiniLM-L6-v2 from safetensors to the GGUF that llama.cpp reads.

llama.cpp's own converter needs PyTorch and transformers, two gigabytes for one small model; its BERT
layout is a renaming of tensors, so numpy and gguf's writer do. The result depends on the input alone
(no dates, no dictionaries' order), which is why its hash can be pinned.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

LAYER_TENSORS = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
CONTROL_TOKENS = {"[PAD]", "[CLS]", "[SEP]", "[MASK]"}
WORD_START = "\u2581"  # llama.cpp marks the start of a word, BERT its continuation ("##").


def convert(source: Path, target: Path) -> None:
    """`source` holds model.safetensors, config.json and vocab.txt; `target` is the file to write."""
    config = json.loads((source / "config.json").read_text())
    vocabulary = (source / "vocab.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert len(vocabulary) == config["vocab_size"]
    writer = gguf.GGUFWriter(target, "bert")
    _describe(writer, config)
    _add_tokenizer(writer, vocabulary)
    for name, tensor in _tensors(source / "model.safetensors", layer_count=config["num_hidden_layers"]):
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: gguf.GGUFWriter, config: dict[str, int]) -> None:
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_license("apache-2.0")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(value=False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_token_type_count(config["type_vocab_size"])


def _add_tokenizer(writer: gguf.GGUFWriter, vocabulary: list[str]) -> None:
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([_token(word) for word in vocabulary])
    writer.add_token_types([_token_type(word) for word in vocabulary])
    writer.add_bos_token_id(vocabulary.index("[CLS]"))
    writer.add_eos_token_id(vocabulary.index("[SEP]"))
    writer.add_sep_token_id(vocabulary.index("[SEP]"))
    writer.add_pad_token_id(vocabulary.index("[PAD]"))
    writer.add_unk_token_id(vocabulary.index("[UNK]"))
    writer.add_mask_token_id(vocabulary.index("[MASK]"))


def _is_special(word: str) -> bool:
    return word.startswith("[") and word.endswith("]")


def _token(word: str) -> str:
    if _is_special(word):
        return word
    return word.removeprefix("##") if word.startswith("##") else WORD_START + word


def _token_type(word: str) -> gguf.TokenType:
    if word == "[UNK]":
        return gguf.TokenType.UNKNOWN
    if word in CONTROL_TOKENS:
        return gguf.TokenType.CONTROL
    return gguf.TokenType.UNUSED if word.startswith("[unused") else gguf.TokenType.NORMAL


def _tensors(path: Path, *, layer_count: int) -> Iterator[tuple[str, np.ndarray]]:
    """In file order. Matrices become half precision; norms, biases and small tables stay whole."""
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_bytes))

        def read(name: str) -> np.ndarray:
            entry = header[name]
            assert entry["dtype"] == "F32", "the pinned weights are single precision"
            file.seek(8 + header_bytes + entry["data_offsets"][0])
            data = file.read(4 * math.prod(entry["shape"]))
            return np.frombuffer(data, np.dtype("<f4")).reshape(entry["shape"])

        yield "token_embd.weight", read("embeddings.word_embeddings.weight").astype(np.float16)
        yield "position_embd.weight", read("embeddings.position_embeddings.weight")
        yield "token_types.weight", read("embeddings.token_type_embeddings.weight")
        for part in ("weight", "bias"):
            yield f"token_embd_norm.{part}", read(f"embeddings.LayerNorm.{part}")
        for layer in range(layer_count):
            for theirs, ours in LAYER_TENSORS.items():
                for part in ("weight", "bias"):
                    tensor = read(f"encoder.layer.{layer}.{theirs}.{part}")
                    name = f"blk.{layer}.{ours}.{part}"
                    yield name, tensor.astype(np.float16) if tensor.ndim > 1 else tensor
