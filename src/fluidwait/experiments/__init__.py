"""Running grids of points, and what is read off them: metrics, confidence intervals, the stability boundary."""
