"""Settings that must be made before jax or keras is first used."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import jax

# Four devices on one processor, for the tests of sharding.
jax.config.update("jax_num_cpu_devices", 4)
