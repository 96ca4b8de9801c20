"""A tiny Llama that vLLM can load without a network, and engines that run it; skipped where vLLM is not installed."""

from __future__ import annotations

import importlib.util
import json
import os

import pytest

HAVE_VLLM = importlib.util.find_spec("vllm") is not None

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads of a tiny model only wait for each other
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,  # the smallest that vLLM's CPU attention takes
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "vocab_size": 256,
    "max_position_embeddings": 4096,
    "torch_dtype": "float32",
    "bos_token_id": 1,
    "eos_token_id": 2,
}

needs_vllm = pytest.mark.skipif(not HAVE_VLLM, reason="vLLM is not installed (requirements-vllm.lock)")


def pytest_collection_modifyitems(items):
    """Every test of this folder whose name says so needs vLLM itself."""
    for item in items:
        if "tests/engines/vllm_plugin/test_scheduler" in item.path.as_posix():
            item.add_marker(needs_vllm)


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
