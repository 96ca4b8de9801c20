"""E9 and E10: the iteration-time model and the policies on a real engine, recorded as bundles and drawn from them."""
