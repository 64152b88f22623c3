# Every target sets up what it needs on a fresh machine: a virtual environment in .venv and the tested versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/quickstart
OUT ?= runs/bench.json
FUZZ_SECONDS ?= 600

.PHONY: quickstart test test-slow test-base test-clinic test-peers test-triton lint audit sbom fuzz format bench clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[train,serve,postgres,triton,demo,peft,embed,dev]'
	touch $@

# The page of `medssl serve`: built where npm is, left out where it is not.
PAGE := medssl/runtime/server/static/build.json
PAGE_IF_NPM := $(if $(shell command -v npm),$(PAGE))

quickstart: $(VENV)/.installed  ## the whole line on the built-in synthetic cohort; ends with $(RUN)/report.html
	$(BIN)/medssl quickstart --out $(RUN)

.PHONY: viewer
viewer: $(PAGE)  ## the page of `medssl serve`; needs Node.js with npm, which checks NiiVue against the hash of the lock file

$(PAGE): $(shell find deploy/viewer -name node_modules -prune -o -type f -print)
	npm --prefix deploy/viewer ci --ignore-scripts --omit=optional --no-audit --no-fund
	node deploy/viewer/build.js

test: $(VENV)/.installed $(PAGE_IF_NPM)  ## the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --durations 30 --durations-min 5

test-slow: $(VENV)/.installed  ## the long tests
	$(BIN)/python -m pytest -m 'slow and not gpu'

test-base: constraints.txt $(PAGE_IF_NPM)  ## the wheel, installed alone in a fresh environment without torch: its tests pass; then with what the image of the server holds
	rm -rf .venv-base dist
	$(PYTHON) -m venv .venv-base
	.venv-base/bin/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	.venv-base/bin/python -m pip install --quiet -c constraints.txt dist/medssl-*.whl
	cd .venv-base && bin/medssl --version && bin/medssl doctor
	.venv-base/bin/python -m pip install --quiet -c constraints.txt pytest pytest-xdist hypothesis SimpleITK
	.venv-base/bin/pytest -q -n 2 tests/test_base_install.py tests/imaging tests/runtime tests/hostile
	.venv-base/bin/python -m pip install --quiet -c constraints.txt "$$(echo dist/medssl-*.whl)[serve,sign]"
	cd .venv-base && bin/python -c 'import medssl.runtime.server.service, cryptography'  # else the tests would skip
	OMP_NUM_THREADS=1 .venv-base/bin/pytest -q -n 2 tests/test_base_install.py tests/runtime/test_signature.py tests/runtime/server \
	  $(patsubst %,--ignore tests/runtime/server/test_%.py,kill half_done results_that_return deserted_studies)  # long; make test runs them

test-clinic: $(VENV)/.installed  ## the server against a real archive: Orthanc with DICOMweb, DCMTK
	export PATH="$$PATH:/usr/sbin"; \
	command -v Orthanc >/dev/null && command -v storescu >/dev/null && command -v dciodvfy >/dev/null && ls /usr/lib/postgresql >/dev/null 2>&1 || { \
	  test "$$(id -u)" = 0 || { echo "make test-clinic needs orthanc, orthanc-dicomweb, dcmtk, dicom3tools and postgresql: let root install them" >&2; exit 1; }; \
	  apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
	  orthanc orthanc-dicomweb dcmtk dicom3tools postgresql; }
	PATH="$$PATH:/usr/sbin" $(BIN)/python -m pytest -q -m clinic tests/runtime/server tests/clinic

test-peers: pyproject.toml  ## encoders inside timm's and nnU-Net's own modules, which need torchvision and so another torch
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet '.[train,timm]' torch==2.14.1 torchvision==0.29.1 dynamic_network_architectures pytest
	PYTHONPATH=. .venv-peers/bin/python -m pytest -q tests/peers

test-triton: $(VENV)/.installed  ## NVIDIA's tritonserver computes what this machine does; its wheel needs numpy 1, and needs no GPU
	$(PYTHON) -m venv .venv-triton
	.venv-triton/bin/python -m pip install --quiet nvidia-pytriton==0.7.0 onnxruntime
	$(BIN)/python -m pytest -q -m slow tests/runtime/test_triton.py tests/runtime/server/test_endpoint.py

lint: $(VENV)/.installed  ## ruff, import contracts, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/python deploy/supply_chain.py pins

audit: $(VENV)/.installed  ## known weaknesses of everything in constraints.txt, from the advisory data base: needs the internet
	$(PYTHON) -m venv .venv-tools
	.venv-tools/bin/python -m pip install --quiet pip-audit
	.venv-tools/bin/pip-audit --no-deps --disable-pip --requirement constraints.txt

sbom: constraints.txt  ## dist/sbom-{base,serve}.json: what the clinic's installs, without and with server and signatures, are made of (CycloneDX), with their licences checked and their sizes told
	for extra in base serve; do \
	  rm -rf .venv-sbom && $(PYTHON) -m venv --without-pip .venv-sbom && \
	  $(PYTHON) -m pip --python .venv-sbom/bin/python install --quiet -c constraints.txt ".$$(test $$extra = base || echo [serve,sign])" && \
	  $(PYTHON) deploy/supply_chain.py licences .venv-sbom && $(PYTHON) deploy/supply_chain.py size .venv-sbom && \
	  $(PYTHON) -m venv .venv-tools && .venv-tools/bin/python -m pip install --quiet cyclonedx-bom && mkdir -p dist && \
	  .venv-tools/bin/cyclonedx-py environment --pyproject pyproject.toml --validate --output-file dist/sbom-$$extra.json .venv-sbom/bin/python || exit 1; \
	done

fuzz: pyproject.toml  ## coverage-guided fuzzing of the readers for FUZZ_SECONDS
	$(PYTHON) -m venv .venv-fuzz
	.venv-fuzz/bin/python -m pip install --quiet -c constraints.txt . atheris SimpleITK
	MEDSSL_MAX_IMAGE_GIB=0.125 .venv-fuzz/bin/python tests/fuzz/fuzz_readers.py runs/fuzz -seed=1 -max_total_time=$(FUZZ_SECONDS)

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed  ## side by side with peers; numbers in $(OUT)
	$(BIN)/medssl bench all --json $(OUT)

clean:
	rm -rf $(VENV) .venv-base .venv-peers .venv-triton .venv-tools .venv-sbom .venv-fuzz runs build dist
	rm -rf deploy/viewer/node_modules medssl/runtime/server/static
