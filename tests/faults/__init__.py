"""Faults that a program meets, brought about on purpose: ``python -m tests.faults``.

Each group is a file with a function ``cases(setting)``, which tries one thing after another and says how it ended.
"""
