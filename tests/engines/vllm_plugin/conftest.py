"""A tiny Llama that vLLM can load without a network, and engines that run it; skipped where vLLM is not installed."""

from __future__ import annotations

import importlib.util
import json
import os

import pytest

from fluidwait.engines.vllm.load.engine import engine_version
from fluidwait.engines.vllm_clock.model import LLAMA as SMALL

HAVE_VLLM = importlib.util.find_spec("vllm") is not None

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads of a tiny model only wait for each other
if HAVE_VLLM:  # vLLM 0.20 fails at start when threads are bound to no core
    first_core = str(min(os.sched_getaffinity(0)))
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", first_core if engine_version().startswith("0.20.") else "nobind")

LLAMA = SMALL | {"max_position_embeddings": 4096}


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory):
    """Folder of a Llama with random weights and no tokenizer: prompts are token ids below 256."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    (folder / "config.json").write_text(json.dumps(LLAMA))
    return folder


@pytest.fixture(scope="session")
def word_tokenizer(tmp_path_factory):
    """Folder of a tokenizer with a word for each of the tiny model's tokens: w0, w1, ..."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(LLAMA["vocab_size"])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    folder = tmp_path_factory.mktemp("words")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0", bos_token="w1", eos_token="w2").save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="session")
def character_tokenizer(tmp_path_factory):
    """Folder of a tokenizer with a token for each printable ASCII character; the rest are w98, w99, ..."""
    from tokenizers import Regex, Tokenizer, decoders
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>", *map(chr, range(32, 127))]
    words += [f"w{i}" for i in range(len(words), LLAMA["vocab_size"])]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    folder = tmp_path_factory.mktemp("characters")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def adapters(tmp_path_factory):
    """Folders of two LoRA adapters with random weights, strong enough to change the tiny model's tokens."""
    import torch
    from safetensors.torch import save_file

    rank, hidden = 8, LLAMA["hidden_size"]
    about = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 64_000,
        "target_modules": ["q_proj", "o_proj"],
        "bias": "none",
    }
    folders = []
    for seed in range(2):
        random = torch.Generator().manual_seed(seed)
        weights = {}
        for layer in range(LLAMA["num_hidden_layers"]):
            for module in about["target_modules"]:
                name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
                weights[f"{name}.lora_A.weight"] = torch.randn(rank, hidden, generator=random)
                weights[f"{name}.lora_B.weight"] = torch.randn(hidden, rank, generator=random)
        folder = tmp_path_factory.mktemp(f"adapter{seed}")
        save_file(weights, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(about))
        folders.append(folder)
    return folders


@pytest.fixture(scope="session")
def engine_options(tiny_llama):
    """Keyword arguments of ``vllm.LLM`` and ``vllm.EngineArgs`` for the tiny model on the CPU."""
    return {
        "model": str(tiny_llama),
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "dtype": "float32",
        "enforce_eager": True,  # no compilation: loads in seconds
        "max_model_len": 1024,
        "num_gpu_blocks_override": 64,
        "block_size": 32,
    }
