"""A server of embeddings of pictures, sentences and both together; see `mmet.serving.server`.

python -m mmet.serving --model outputs/demo/model
"""
