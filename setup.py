"""Installs the packages `tff_leak`, `computations` and `experiments`."""

import pathlib
import re

import setuptools

_ROOT = pathlib.Path(__file__).resolve().parent


def _version() -> str:
    """Reads the version from the source: importing it would need TensorFlow."""
    text = (_ROOT / "tff_leak" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE).group(1)


setuptools.setup(
    name="tff_leak",
    version=_version(),
    description="Measures what a federated-learning process leaks about its data.",
    license="Apache-2.0",
    packages=setuptools.find_packages(
        include=["tff_leak*", "computations*", "experiments*"]
    ),
    package_dir={"": "."},
    package_data={
        "tff_leak.report": ["*.j2", "**/*.j2"],
        "experiments": ["configs/*.flags"],
    },
    python_requires=">=3.11,<3.12",
    # What is imported, and how far it is known to work. requirements.lock has one
    # set that fulfils this; pip cannot find it by itself (README, "Why there is a
    # lock file"), so install the lock first and then this package with --no-deps.
    install_requires=[
        "absl-py",
        "attrs",
        "dp-accounting",
        "grpcio",
        "jinja2",
        "matplotlib",
        "numpy>=1.25,<2",
        "pillow",
        "portpicker",
        "protobuf>=4.21,<5",
        "scikit-image",
        "scikit-learn<1.5",
        "scipy",
        "tensorflow>=2.14,<2.15",
        "tensorflow-datasets>=4.9.4,<4.9.10",
        "tensorflow-empirical-privacy",
        "tensorflow-federated>=0.87,<0.88",
        "tensorflow-privacy",
        "tqdm",
    ],
    # Leak matrices on a cluster (tff_leak/runtime/ray_jobs.py). Tried: 2.52.1, the last
    # that takes the lock's `packaging`, and 2.60.
    extras_require={"ray": ["ray>=2.52"]},
)
