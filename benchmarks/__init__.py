"""Speed, measured: each file is one comparison, and ``results/`` holds what the files wrote."""
