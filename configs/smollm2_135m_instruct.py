"""SmolLM2 135M Instruct, offline: real weights, from the GGUF file that `make weights` brings.

    make real

which is `make weights` and

    python launch/analyze.py --config=configs/smollm2_135m_instruct.py --output=outputs/smollm2_135m_instruct
"""

from ml_collections import ConfigDict

from sparcom_jax.settings import default_config


def get_config() -> ConfigDict:
    """The config of the one model."""
    config = default_config()
    config.pairs = ConfigDict({"smollm2": {"tuned": ".cache/SmolLM2-135M-Instruct.Q4_1.gguf"}})
    config.capture.template = "chat"
    config.ablate.per_category = 10
    config.ablate.draws = 5
    return config
