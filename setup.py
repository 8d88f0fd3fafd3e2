"""The native kernels, once for each kind of processor, and CUDA's launch; what cannot be compiled is left out."""

import copy
import os
import runpy
from pathlib import Path

import jax
from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

NATIVE, CUDA = Path("flax_rnn/implementations/native"), Path("flax_rnn/implementations/cuda")
BUILDS, CUDA_BUILDS = (runpy.run_path(str(folder / "builds.py")) for folder in (NATIVE, CUDA))
SOURCES = sorted(str(path) for path in (NATIVE / "src").glob("*.cc"))
HEADERS = sorted(str(path) for path in (NATIVE / "src").glob("*.h"))


def library(name, sources, digest, options, **others):
    """An extension that uses nothing of Python, and says of which sources it is."""
    return Extension(
        name,
        sources,
        include_dirs=[jax.ffi.include_dir()],
        define_macros=[("FLAX_RNN_DIGEST", f'"{digest}"')],
        extra_compile_args=["-std=gnu++17", "-O3", "-g0", *options],
        language="c++",
        optional=True,
        **others,
    )


class BuildKernels(build_ext):
    """Libraries that use nothing of Python: their names have no tag of it, and they have no `PyInit`."""

    def get_ext_filename(self, fullname):
        """Without the tag."""
        *packages, build = fullname.split(".")
        return os.path.join(*packages, BUILDS["file_name"](build))

    def get_export_symbols(self, ext):
        """None: the sources say what is visible."""
        return []

    def build_extension(self, ext):
        """Compiles it, unless the checkout has a library of these very sources."""
        there = Path(self.get_ext_filename(ext.name))
        digest = dict(ext.define_macros)["FLAX_RNN_DIGEST"].strip('"')
        if not self.force and there.is_file() and digest.encode() in there.read_bytes():
            to = Path(self.get_ext_fullpath(ext.name))
            self.mkpath(str(to.parent))
            self.copy_file(str(there), str(to))
        else:
            # The builds share their sources: in one folder, those made at once would overwrite each other's objects.
            own = copy.copy(self)
            own.build_temp = os.path.join(self.build_temp, ext.name.rpartition(".")[2])
            build_ext.build_extension(own, ext)


class Wheel(bdist_wheel):
    """For any Python: of this platform if there are kernels in it, and for any platform if none could be compiled."""

    def get_tag(self):
        """``py3-none-<platform>`` or ``py3-none-any``."""
        libraries = self.get_finalized_command("build_ext").get_outputs()
        platform = super().get_tag()[2] if any(map(os.path.exists, libraries)) else "any"
        return "py3", "none", platform


setup(
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": Wheel},
    ext_modules=[
        *(
            library(
                f"flax_rnn.implementations.native.{build}",
                SOURCES,
                BUILDS["digest"](),
                ["-Wno-psabi", *options],
                depends=HEADERS,
            )
            for build, options in BUILDS["OPTIONS"].items()
        ),
        *(
            library(
                f"flax_rnn.implementations.cuda.{build}",
                [str(CUDA / "launch" / "launch.cc")],
                CUDA_BUILDS["digest"](),
                options,
                libraries=["dl"],
            )
            for build, options in CUDA_BUILDS["OPTIONS"].items()
        ),
    ],
)
