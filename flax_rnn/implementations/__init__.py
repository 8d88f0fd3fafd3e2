"""All steps: what a loop is, and the ways to evaluate it."""
