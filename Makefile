# The two commands are `make demo` and `make test`; each is a script in scripts/ that can also be run by itself.
#   make demo MODEL=path.gguf   the demo with another GGUF model
#   make test CTEST_ARGS='-L plan' PYTEST_ARGS='-k variants'   a part of the tests
export MODEL CTEST_ARGS PYTEST_ARGS PYTHON

.PHONY: help demo test setup build format tidy clean

help:
	@echo 'make demo    build, fetch a small language model once, answer examples/prompts.jsonl'
	@echo 'make test    build and run all tests (C++ and Python)'
	@echo 'make build   build everything into build/release'
	@echo 'make format  format the C++ sources;  make tidy  run clang-tidy on what changed'
	@echo 'make clean   remove build/ (the model and .venv/ stay)'

demo:
	@scripts/demo

test:
	@scripts/test

setup:
	@scripts/setup

build: setup
	@scripts/build

format: setup
	@scripts/format

tidy: setup
	@scripts/tidy

clean:
	rm -rf build
