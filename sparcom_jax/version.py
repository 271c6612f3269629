"""The version, where a clone that nobody installed can read it, too."""

VERSION = "0.2.0"
