"""All that is to be known of an accelerator, in one command: does it give the right numbers, and how fast is it.

`__main__.py` starts the parts, each in a process of its own, and prints what they found; `record.py` is how a part says
what it found; the other files are the parts. Nothing here asks for more than jax, flax, numpy, torch, transformers,
safetensors, orbax-checkpoint, tensorstore, absl-py, jaxtyping and what these bring: a lent machine may have no more.
"""
