"""SmolLM2 135M Instruct, offline: real weights, from the GGUF file that `make weights` brings.

    make real

which is `make weights` and

    python launch/analyze.py --config=configs/smollm2_135m_instruct.py --output=outputs/smollm2_135m_instruct

The result is outputs/smollm2_135m_instruct/report.html. Measured on 2 CPU cores with a matmul peak of 130 GFLOP/s, in
float32: convert takes 15 s, capture 5 min (1,200 instructions within the model's chat template), identify and
select 10 s, and a pass of ablate 6 s. It makes 247 of them, about 25 min: nothing off, 400 neurons of each of
6 categories, and 20 random sets of two kinds in the place of each, over 24 instructions that did not choose
them. Three times the peak takes a third of the time. Measured apart, beside other jobs: attribute 9 min (240
instructions), explore 1.5 min (60 units).
"""

from ml_collections import ConfigDict

from sparcom_jax.settings import default_config


def get_config() -> ConfigDict:
    """The config of the one model."""
    config = default_config()
    config.pairs = ConfigDict({"smollm2": {"tuned": ".cache/SmolLM2-135M-Instruct.Q4_1.gguf"}})
    config.capture.template = "chat"
    config.attribute.per_category = 40
    config.explore.top, config.explore.effects, config.explore.texts = 10, 4, True
    config.ablate.per_category = 4
    config.ablate.draws = 20
    return config
