# Thin names for scripts/.
.PHONY: check dist-check smoke-use-cases
check:
	scripts/test
dist-check:
	scripts/dist-check
smoke-use-cases:
	scripts/smoke-use-cases
