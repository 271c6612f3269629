"""SmolLM2 135M and its instruct version: a dense pair, small enough for a laptop.

    python launch/analyze.py --config=configs/smollm2_135m.py --output=outputs/smollm2_135m

The weights are public (Apache-2.0); the first run downloads them. The result is outputs/smollm2_135m/report.html.

The instruct version has been run on its real weights: configs/smollm2_135m_instruct.py has the times. The pair takes
twice as long, and has not been run. Sizes: 30 layers, F 1,536, D 576, 9 query heads, 3 of keys and values, vocabulary
49,152, tied; 134,515,008 parameters.

- Units: `mlp` 30 x 1,536 = 46,080 neurons; S(i) at epsilon 0.05 is the top 2,304 of them, and ties.
- Arrays: `mlp/positive_count` 92,160 bytes an instruction before compression (111 MB for the 1,200 of HexaInst).
- Memory: 0.5 GB of parameters in float32, 0.3 GB in the checkpoint's bfloat16.

Both are read without a chat template, so that they read the same.
"""

from ml_collections import ConfigDict

from sparcom_jax.settings import default_config


def get_config() -> ConfigDict:
    """The config of the pair."""
    config = default_config()
    config.pairs = ConfigDict({
        "smollm2-135m": {"base": "HuggingFaceTB/SmolLM2-135M", "tuned": "HuggingFaceTB/SmolLM2-135M-Instruct"},
    })  # fmt: skip
    return config
