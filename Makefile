.PHONY: style test

style:
	ruff check --fix . && ruff format .

test:
	bash scripts/test.sh
