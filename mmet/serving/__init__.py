"""A server that embeds pictures, sentences and pairs of both; see `mmet.serving.server`.

python -m mmet.serving --model outputs/demo/model
"""
