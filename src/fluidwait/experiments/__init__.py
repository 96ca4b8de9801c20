"""Sweeps of policies over arrival rates, and their metrics, confidence intervals and stability boundaries."""
