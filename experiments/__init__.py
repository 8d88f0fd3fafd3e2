"""The IMDB sentiment experiment: data, model and training."""
