"""Micro-benchmarks of the core."""
