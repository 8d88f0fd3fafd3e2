"""Experiments: the sentiment of film reviews (`imdb.py`), and what gates are for (`memory.py`)."""
