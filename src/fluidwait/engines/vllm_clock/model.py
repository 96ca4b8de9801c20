"""A model for vLLM's configuration, small enough for tests to run it on a processor."""

from __future__ import annotations

EOS = 2

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
    "torch_dtype": "float32",
    "bos_token_id": 1,
    "eos_token_id": EOS,
}
"""Its ``config.json``, but for ``max_position_embeddings``. A scheduler alone never loads it."""
