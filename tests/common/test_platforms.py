"""What is traced where: for the machine at hand, and for exports."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import pytest
from jax import export

from jtl.common.platforms import by_platform, everywhere


def doubled(x: jax.Array) -> jax.Array:
    return by_platform(x, cpu=lambda x: x + x, default=lambda x: x * 2)


def primitives(function) -> set[str]:
    """Names of what a function is traced to, on its branches too."""
    # A function of its own: JAX keeps what it traced, and asks nobody for the backend again.
    traced = jax.make_jaxpr(lambda x: function(x))(jnp.ones(3))
    return set(re.findall(r"= (\w+)", str(traced)))


def test_with_a_cpu_alone_nothing_else_is_traced():
    assert primitives(doubled) == {"add"}


def test_an_accelerator_beside_it_leaves_the_choice_to_the_lowering(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert {"add", "mul"} <= primitives(doubled)


@pytest.mark.parametrize(("platform", "operation"), [("cpu", "add"), ("cuda", "multiply")])
def test_a_program_for_everywhere_holds_what_its_platform_computes(platform, operation):
    run = jax.jit(doubled)
    x = jnp.ones(3)
    assert run(x).tolist() == [2, 2, 2]  # Traced for the CPU: not used again below.
    with everywhere():
        text = export.export(run, platforms=[platform])(x).mlir_module()
    assert set(re.findall(r"stablehlo\.(add|multiply)", text)) == {operation}
