"""vLLM V1's scheduler as a simulator: exact, compiled."""
