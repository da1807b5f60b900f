"""Analyses beyond the metrics; each file holds the computation, the table and the figures of one."""
