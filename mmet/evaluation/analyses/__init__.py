"""Analyses beyond the metrics. Each is one file that says what it computes, shows and draws."""
