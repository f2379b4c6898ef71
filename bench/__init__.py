"""Benchmarks of Quire and its parts; README.md says how to run and record each."""
