PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint types clean

demo: .venv/installed
	XLA_FLAGS="$(XLA_FLAGS) --xla_force_host_platform_device_count=2" \
	$(BIN)/python launch/analyze.py --config=configs/demo.py --output=outputs/demo

test: .venv/installed lint types
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
	rm -rf outputs .venv build *.egg-info
