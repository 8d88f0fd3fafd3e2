"""Programs to read and to run: each is one file, needs no data, and takes less than a minute on two cores."""
