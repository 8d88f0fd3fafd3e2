"""Where what jax traces is going to run: here, or elsewhere."""

import contextlib
from typing import Any

import jax

# The platform to trace for, "" for any, None for this one. jax traces anew where it differs, so what was compiled
# outside is not taken for it.
_elsewhere = jax.make_user_context(default_value=None)


def portable(platform: str | None = None) -> contextlib.AbstractContextManager[Any]:
    """A context in which nothing is chosen that is bound to this machine, so that what is traced in it can travel.

    ``with flax_rnn.portable(): exported = jax.export.export(jax.jit(model), platforms=["cpu", "cuda"])(x)``

    Args:
      platform: where it is going to run, ``"cpu"``, ``"gpu"`` or another one, so that loops are laid out for it; they
        run everywhere else, too. By default that of ``jax``.
    """
    return _elsewhere(platform or "")


def is_portable() -> bool:
    """Whether it has to run elsewhere, too."""
    return _elsewhere.value is not None


def platform() -> str:
    """The platform to trace for: ``"cpu"``, ``"gpu"``, ..."""
    return _elsewhere.value or jax.default_backend()


def launches() -> bool:
    """Whether each operation of a step is launched by itself there, as on a GPU, so that few are worth more work."""
    return platform() in ("gpu", "cuda", "rocm")
