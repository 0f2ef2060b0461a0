"""Packages that not everyone needs, and how to install them."""

from __future__ import annotations

from vtok_codec.errors import PackageError

EXTRAS = {
    "torch": "torch",
    "pyarrow": "corpus",
    "pebble": "corpus",
    "fsspec": "corpus",
    "ray": "ray",
    "huggingface_hub": "hub",
    "onnxruntime": "onnx",
    "onnx": "export",
    "onnxscript": "export",
    "imageio_ffmpeg": "eval",
    "matplotlib": "eval",
    "pytorch_msssim": "eval",
    "scipy": "eval",
}
"""The extra of vtok that installs each package."""


def missing_package(package: str, user: str = "this") -> PackageError:
    """Return the error that tells how to install a package.

    Args:
        package: The package, one of `EXTRAS`.
        user: What needs it.
    """
    return PackageError(f"{user} needs the package {package}: pip install 'vtok-codec[{EXTRAS[package]}]'")
