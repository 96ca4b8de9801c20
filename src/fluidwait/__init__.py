"""fluidwait: fluid-guided online scheduling of LLM inference under a KV-memory constraint."""

__version__ = "0.1.0"
