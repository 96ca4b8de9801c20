"""Fluid model: equilibrium, thresholds, segments and safety buffer of the paper, and their calibrated counterparts."""
