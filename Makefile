# Everything runs in virtual environments of its own; what is missing is installed, or named.
# The work is done by devtools/bootstrap.sh.
.DEFAULT_GOAL := help
.PHONY: help demo test lint format docs bench conformance soak clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /    make \1\t/p' Makefile | expand -t 24

demo:  ## a chat over two servers, a worker and RabbitMQ; at a terminal, for your browser too
	@sh devtools/bootstrap.sh demo

test:  ## lint, types and all tests, on every Python that is here
	@sh devtools/bootstrap.sh test

lint:  ## only lint and types
	@sh devtools/bootstrap.sh lint

format:  ## format the code
	@sh devtools/bootstrap.sh format

docs:  ## the documentation as a site, in build/site
	@sh devtools/bootstrap.sh docs

bench:  ## measure, side by side with other layers (QUICK=1: in three minutes)
	@sh devtools/bootstrap.sh bench

conformance:  ## hold several layers against the Channel Layer Specification
	@sh devtools/bootstrap.sh conformance

# An argument, because SECONDS is a variable of some shells.
soak:  ## ten minutes of a site on a cluster whose nodes die and restart (SECONDS=120: two)
	@sh devtools/bootstrap.sh soak $(SECONDS)

clean:  ## remove everything that these commands made
	rm -rf .venv .tox .rabbitmq4 .logs .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache \
		build dist ./*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
