"""The systems of a table: baselines, backbones, the model, and models to compare with, one in memory at a time.

    lineup = Lineup.of("outputs/run", baselines=["chance"], backbones=["google/siglip-base-patch16-224"])
    for system in lineup.systems(): ...

Every folder and Hub name is checked first, and every backbone is tried on two pictures, so that errors are reported
before hours of embedding. Other weights are loaded when a system's turn comes; only the first model stays in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from configuration_mmet import MMETConfig
from mmet.evaluation.systems.backbones import load_backbone
from mmet.evaluation.systems.base import System
from mmet.evaluation.systems.baselines import ChanceSystem, ColorHistogramSystem, untrained_model
from mmet.evaluation.systems.cache import fingerprint_weights
from mmet.evaluation.systems.loading import check_checkpoint, load_any_embedder, load_system, name_systems
from mmet.evaluation.systems.model import ModelSystem
from mmet.field_checks import errors_about
from modeling_mmet import MMETForReID
from processing_mmet import MMETProcessor

MODEL = "model"
BASELINES = ("chance", "histogram", "untrained")


@dataclass
class Lineup:
    """The systems of a run, checked and not loaded.

    Attributes:
        source: folder or Hub name of the first model, whose row is `model`.
        baselines: out of `BASELINES`.
        backbones, compared, seeds: sources by row name.
        seed: random seed of the untrained model.
        rescore: whether MMET models re-score with their ITM heads.
        options: arguments of every `EmbeddingSystem`.
    """

    source: str
    baselines: Sequence[str]
    backbones: Mapping[str, str]
    compared: Mapping[str, str]
    seeds: Mapping[str, str]
    seed: int = 0
    rescore: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    _model: ModelSystem | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        source: str,
        *,
        baselines: Sequence[str] = (),
        backbones: Sequence[str] = (),
        compared: Sequence[str] = (),
        seeds: Sequence[str] = (),
        **settings: Any,
    ) -> Lineup:
        """
        Name and check all systems.

        Args:
            source: folder or Hub name of the first model.
            baselines: out of `BASELINES`.
            backbones, compared, seeds: as `name_systems` takes them.
            settings: the other attributes.

        Raises:
            ValueError: a source has no model of its kind, or names clash.
        """
        names: list[dict[str, str]] = []
        taken = {MODEL, *BASELINES}
        # Backbones are loaded to try them, and released again.
        checks: dict[str, Callable[[str], object]] = {
            "backbones": load_backbone,
            "compare": check_checkpoint,
            "seeds": check_checkpoint,
        }
        for argument, folders in zip(checks, (backbones, compared, seeds), strict=True):
            with errors_about(argument):
                names.append(name_systems(folders, taken))
            taken |= set(names[-1])
        with errors_about("model_name_or_path"):
            check_checkpoint(source)
        for argument, sources in reversed(list(zip(checks, names, strict=True))):  # the slow ones last
            for place in sources.values():
                with errors_about(argument):
                    checks[argument](place)
        return cls(source, baselines, backbones=names[0], compared=names[1], seeds=names[2], **settings)

    @property
    def sources(self) -> dict[str, str]:
        """Folder or Hub name of each row that was loaded from one."""
        return {**self.backbones, MODEL: self.source, **self.compared, **self.seeds}

    def model(self) -> ModelSystem:
        """The first model, loaded once."""
        if self._model is None:
            self._model = self._load(MODEL, self.source)
        return self._model

    def check_seeds(self) -> None:
        """Raise if two models of `seeds` are the same model.

        Raises:
            ValueError: two of the first model and `seeds` have the same weights; the standard deviation would be too
                small.
        """
        rows: dict[str, str] = {}
        for row, source in ({MODEL: self.source, **self.seeds} if self.seeds else {}).items():
            embedder = self.model().model if row == MODEL else load_any_embedder(source)[0]
            weights = fingerprint_weights(embedder)
            if weights in rows:
                raise ValueError(
                    f"--seeds: expected models trained with different seeds, received the very weights of "
                    f"{rows[weights]!r} again as {row!r} ({source}); leave it out"
                )
            rows[weights] = row

    def systems(self) -> Iterator[System]:
        """All systems in the order of the table's rows, each loaded when it is asked for."""
        if "chance" in self.baselines:
            yield ChanceSystem()
        if "histogram" in self.baselines:
            yield ColorHistogramSystem(**self.options)
        if "untrained" in self.baselines:
            yield self._untrained()
        for name, source in self.backbones.items():
            yield load_backbone(source, **{**self.options, "name": name})
        yield self.model()
        for name, source in {**self.compared, **self.seeds}.items():
            yield self._load(name, source)

    def _load(self, name: str, source: str) -> ModelSystem:
        return load_system(source, rescore=self.rescore, **{**self.options, "name": name})

    def _untrained(self) -> ModelSystem:
        config = MMETConfig.from_pretrained(self.source)
        processor = MMETProcessor.from_pretrained(self.source)
        fresh = untrained_model(MMETForReID, config, seed=self.seed)
        return ModelSystem(fresh, processor, **{**self.options, "name": "untrained"})
