"""The `evaluate` module of re-identification: `evaluate.load("mmet/evaluation/reid")`, see `README.md` beside this."""
