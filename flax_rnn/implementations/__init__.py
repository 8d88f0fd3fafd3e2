"""All steps: what a loop is, and the ways to evaluate it.

A new one is a module or folder with an ``Implementation``, and a line in ``choice.IMPLEMENTATIONS``.
"""
