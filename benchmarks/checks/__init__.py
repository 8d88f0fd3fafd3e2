"""What ``benchmarks.check`` compares: settings, the same layers in NumPy's float64, and the verdict on each."""
