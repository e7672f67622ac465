"""StableHLO: the whole classifier as one portable program, by `jax.export`."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jtl.export.formats import ExportedOutputs, facts, timed
from jtl.export.inference import logits_of
from jtl.export.pixels import for_everywhere

if TYPE_CHECKING:
    from jtl.predict.classifier import Classifier

PLATFORMS = ("cpu", "cuda", "tpu")

LOADING = """\
import jax
with open("FILE", "rb") as file:
    program = jax.export.deserialize(bytearray(file.read()))
logits = program.call(images)  # uint8 RGB [N, H, W, 3], any N, H and W -> float32 [N, classes]"""


def exported(classifier: Classifier) -> jax.export.Exported:
    """The program from uint8 images [N, H, W, 3], N, H and W symbolic, to float32 logits.

    The params are constants in it. Of oneDNN it holds nothing: that is this process's.
    """
    call = functools.partial(
        logits_of,
        variables=classifier.variables,
        model=classifier.model,
        inputs=classifier.inputs,
    )
    batch, height, width = jax.export.symbolic_shape("batch, height, width")
    images = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.uint8)
    with for_everywhere():
        return jax.export.export(jax.jit(call), platforms=PLATFORMS)(images)


def write(classifier: Classifier, path: Path, samples: list[np.ndarray]) -> ExportedOutputs:
    """See `jtl.export.formats.ExportWriter`. Beside the program, `FILE.json` tells its classes."""
    path.write_bytes(exported(classifier).serialize())
    write_facts(path, classifier)
    program = jax.export.deserialize(bytearray(path.read_bytes()))
    logits = [np.asarray(jax.jit(program.call)(image[None]))[0] for image in samples]
    run = jax.jit(program.call)
    return ExportedOutputs(
        np.stack(logits),
        f"jax {jax.__version__}",
        LOADING,
        rounding=1e-2,
        milliseconds=timed(lambda: run(samples[0][None]).block_until_ready()),
    )


def write_facts(path: Path, classifier: Classifier) -> None:
    """Writes what a user must know beside an export, as `FILE.json`."""
    text = json.dumps(facts(classifier), indent=2, ensure_ascii=False)
    path.with_name(path.name + ".json").write_text(text + "\n", encoding="utf-8")
