"""Studies that are not sweeps over arrival rates: E11, the theorems in simulation, and E6, the design of segments."""
