"""SmolLM2 135M Instruct, offline: real weights, from the GGUF file that `make weights` brings.

    make real

which is `make weights` and

    python launch/analyze.py --config=configs/smollm2_135m_instruct.py --output=outputs/smollm2_135m_instruct

The result is outputs/smollm2_135m_instruct/report.html. Measured on 2 CPU cores, in float32: 5 min 46 s in all, of
which convert takes 8 s, capture 79 s (1,200 instructions within the model's chat template), identify less than 1 s,
evaluate 9 s, ablate 4 min 5 s (the core of each of 6 categories and 5 random sets beside it, on 60 instructions) and
the report 3 s; 2.0 GB of memory at most.
"""

from ml_collections import ConfigDict

from sparcom_jax.settings import default_config


def get_config() -> ConfigDict:
    """The config of the one model."""
    config = default_config()
    config.pairs = ConfigDict({"smollm2": {"tuned": ".cache/SmolLM2-135M-Instruct.Q4_1.gguf"}})
    config.capture.template = "chat"
    config.ablate.per_category = 10
    config.ablate.draws = 20
    return config
