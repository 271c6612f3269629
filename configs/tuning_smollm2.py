"""What can a category's units learn? SmolLM2 135M Instruct, offline: units, cores, random units, LoRA and all, on MATH.

    make weights
    python launch/analyze.py --config=configs/tuning_smollm2.py --output=outputs/tuning_smollm2

353 neurons of MATH by AUROC, 353 of its core by frequency, 353 random ones of the same layers and frequencies as the
former, and a LoRA of rank 2 beside every projection have equally many parameters, 610,000 of 134.5 million; each is
trained on the half of MATH that chose the units, at two learning rates, the better one with three seeds, for two
epochs. results/tunings-smollm2-tuned has the gain on the other half, what is forgotten of the other categories, the
share of the gain of training all parameters, and whether the units that changed are those that were trained. An hour
and a quarter on 2 cores; what came of it is in docs/validity.md.
"""

from ml_collections import ConfigDict

from sparcom_jax.settings import default_config


def get_config() -> ConfigDict:
    """The config of the one model."""
    config = default_config()
    config.pairs = ConfigDict({"smollm2": {"tuned": ".cache/SmolLM2-135M-Instruct.Q4_1.gguf"}})
    config.capture.template = "chat"
    config.identify.selector = "frequency"  # of its sets are the cores
    config.select.selector = "auroc,core"
    config.select.size = 353
    config.attribute.per_category = 4
    config.explore.top = 5
    config.ablate.per_category = 2
    config.ablate.draws = 5
    config.tune.category, config.tune.template = "MATH", "chat"
    config.tune.epochs, config.tune.per_category = 2, 20
    config.trainings = ConfigDict({
        "units:auroc:MATH": [1e-3, 5e-3],
        "units:core:MATH": [1e-3, 5e-3],
        "random:auroc:MATH": [1e-3, 5e-3],
        "lora:2": [1e-3, 2e-3],
        "all": [2e-5, 1e-4],
    })  # fmt: skip
    return config
