"""Decoders by name, and methods as users write them: ``stir:k_scale=0.3,library=shuffled``."""

import difflib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module

from stir_core.config import GateConfig, section_from
from stir_core.errors import ConfigError
from stir_core.evaluate.decoders.base import Bench, Decoder, Question, Value
from stir_core.evaluate.decoders.stepwise import STIR
from stir_core.findings import Answer
from stir_core.intervene.travel import received_batch, sent_batch
from stir_core.models.loading import LoadedModel
from stir_core.models.workers import Parcel
from stir_core.records import Problem
from stir_core.store.libraries import LIBRARIES


def _defined() -> dict[str, Decoder]:
    """Every decoder that a file of this folder defines at its top level; the baseline first, the others by name."""
    package = __name__.rpartition(".")[0]
    names = [info.name for info in pkgutil.iter_modules(import_module(package).__path__) if info.name != "registry"]
    values = [value for name in names for value in vars(import_module(f"{package}.{name}")).values()]
    decoders = {value.name: value for value in values if isinstance(value, Decoder)}
    return dict(sorted(decoders.items(), key=lambda item: (item[0] != "vanilla", item[0])))


_OWN: dict[str, Decoder] = _defined()
DECODERS: dict[str, Decoder] = dict(_OWN)
"""All decoders by name; a file of this folder or :func:`register_decoder` adds another."""
ABLATIONS: dict[str, str] = {
    "stir": "stir",
    "no memory": "stir:variant=no_memory",
    "no probing": "stir:variant=no_probing",
    "random vector": "stir:variant=random_vector",
    "norm-matched random vector": "stir:noise=matched,variant=random_vector",
    "random choice": "stir:variant=random_choice",
    "shuffled labels": "stir:library=shuffled",
    "length-matched pairs": "stir:library=length_matched",
    "zero vectors": "stir:library=zero",
}
"""STIR and its ablations, as methods."""


def register_decoder(decoder: Decoder) -> None:
    """Add a decoder in this process; one of the same name that was registered before is replaced.

    Raises:
        ConfigError: one of the built-in decoders has that name.
    """
    if decoder.name in _OWN:
        raise ConfigError(f"{decoder.name} is one of the built-in decoders ({', '.join(_OWN)}): choose another name")
    DECODERS[decoder.name] = decoder


@dataclass(frozen=True)
class Method:
    """A decoder with its parameters."""

    name: str
    """Canonical: the decoder's name, then the parameters that differ from its defaults, in alphabetical order."""
    decoder: Decoder
    parameters: dict[str, Value]
    """All of them; for ``stir`` only those that were given, since the others are the run's."""

    def answer(self, bench: Bench, questions: list[Question]) -> Iterator[Answer]:
        """Answers with the method's name, as they end; not graded or timed.

        Raises:
            ConfigError: the model has workers, which do not know a decoder that was registered in this process.
        """
        if (workers := bench.model.workers) is not None:
            if self.decoder is not _OWN.get(self.decoder.name):
                raise ConfigError(f"{self.decoder.name} was registered in this process, so workers do not know it: leave out --executor")
            # a decoder that has no such parameter may look into the basis
            library = str(self.parameters.get("library", "basis"))
            common = sent_batch([bench.libraries(library)], bench.settings)
            common.plain.update(method=self.name, gate=bench.gate.model_dump(mode="json"), library=library)
            common.plain.update(sampling=bench.sampling, engine=bench.engine)
            items = (Parcel([q.problem.model_dump_json(), q.prompt_ids, q.seed, q.boxed]) for q in questions)
            for _, result in workers.share(answer_shard, common, items, bench.settings.rows or len(questions)):
                yield Answer.model_validate_json(result.plain)
            return
        for answer in self.decoder.decode(bench, questions, self.parameters):
            yield answer.replaced(method=self.name)


def answer_shard(model: LoadedModel, common: Parcel, shard: Parcel) -> Iterator[tuple[int, Parcel]]:
    """A worker's part of :meth:`Method.answer`."""
    (memory,), settings = received_batch(common)
    gate = section_from(GateConfig, common.plain["gate"])
    library, sampling, engine = (common.plain[key] for key in ("library", "sampling", "engine"))
    bench = Bench(model, settings, gate, {library: memory}.__getitem__, tuple(sampling), engine)
    questions = [Question(Problem.model_validate_json(problem), *rest) for _, (problem, *rest) in shard.plain]
    numbers = {(q.problem.id, q.seed): number for q, (number, _) in zip(questions, shard.plain, strict=True)}
    for answer in method(common.plain["method"]).answer(bench, questions):
        yield numbers[answer.problem_id, answer.seed], Parcel(answer.model_dump_json())


def method(text: str) -> Method:
    """A method from its text: a decoder's name, or ``name:key=value,key=value``.

    Raises:
        ConfigError: no such decoder or parameter, or a value that it cannot take.
    """
    name, _, rest = text.strip().partition(":")
    if name not in DECODERS:
        close = difflib.get_close_matches(name, DECODERS, n=1)
        raise ConfigError(f"unknown method {name!r}: " + (f"did you mean {close[0]}?" if close else f"take one of {', '.join(DECODERS)}"))
    decoder = DECODERS[name]
    pairs = [_parameter(decoder, part) for part in filter(None, rest.split(","))]
    given = dict(pairs)
    if twice := [key for key in given if [name for name, _ in pairs].count(key) > 1]:
        raise ConfigError(f"method {text[:200]}: {twice[0]} is given twice: give it once")
    defaults = {key: decoder.parameters[key] for key in ("library", "layer", "at")} if decoder is STIR else dict(decoder.parameters)
    if decoder is STIR:
        try:
            section_from(GateConfig, {key: value for key, value in given.items() if key not in defaults})
        except ConfigError as error:
            raise ConfigError(f"method {text}: {error}") from None
    parameters = defaults | given
    if parameters.get("library", "basis") not in LIBRARIES:
        raise ConfigError(f"method {text}: there is no library {parameters['library']!r}: take one of {', '.join(LIBRARIES)}")
    differing = [key for key, value in sorted(given.items()) if key not in defaults or value != defaults[key]]
    suffix = ",".join(f"{key}={_written(given[key])}" for key in differing)
    return Method(f"{name}:{suffix}" if suffix else name, decoder, parameters)


def methods(texts: list[str]) -> list[Method]:
    """Methods from their texts, each once, in order.

    Raises:
        ConfigError: see :func:`method`.
    """
    return list({parsed.name: parsed for parsed in map(method, texts)}.values())


def _parameter(decoder: Decoder, part: str) -> tuple[str, Value]:
    key, mark, text = part.partition("=")
    key = key.strip()
    if not mark or key not in decoder.parameters:
        close = difflib.get_close_matches(key, decoder.parameters, n=1)
        known = f"did you mean {close[0]}?" if close else f"its parameters: {', '.join(decoder.parameters) or 'none'}"
        raise ConfigError(f"method {decoder.name} has no parameter {key!r}: {known}")
    default, text = decoder.parameters[key], text.strip()
    try:
        if isinstance(default, bool):
            return key, {"true": True, "false": False}[text.lower()]
        if isinstance(default, str):
            return key, text
        if "_" in text:
            raise ValueError(text)  # Python reads 2_5 as 25
        return key, int(text) if isinstance(default, int) else float(text)
    except (ValueError, KeyError):
        kind = {bool: "true or false", int: "a whole number", float: "a number"}[type(default)]
        raise ConfigError(f"method {decoder.name}: {key} = {text!r} is not {kind}") from None


def _written(value: Value) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if isinstance(value, bool) else str(value)
