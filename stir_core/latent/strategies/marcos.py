"""MARCOS: a Markov chain of thoughts whose randomness is recognised from the step in training and drawn in use."""

from typing import ClassVar, Literal

from jaxtyping import Float, Int
from torch import Tensor, nn

from stir_core.errors import ConfigError
from stir_core.latent.compress import StepEncoder
from stir_core.latent.frame import Latent, LatentOptions, LatentPhase, LatentRecipe, PerStep, Size, Unrolled, Weight
from stir_core.latent.strategies.sim_cot import SimCot, SimCotOptions


class MarcosOptions(SimCotOptions):
    """Options of MARCOS."""

    per_step: PerStep = 1
    """Latents for each reasoning step; one thought each, as published."""
    dims: Size = 8
    """Dimensions of a step's random part R."""
    l1: Weight = 1e-4
    """Weight of the mean absolute R."""
    nll: Literal["gaussian", "published"] = "gaussian"
    """The loss of the head that draws R. Published: the square is taken of (x - mean) / (2 var), so that it is no Gaussian's."""


class Marcos(SimCot):
    """A latent is the last state plus an MLP of R. A true recognition network: in training R is read from the step that comes next.

    At last all is held but a head, which learns a Gaussian over R from the state. Its mean, or a draw, is used to answer.
    """

    name = "marcos"
    about = "thoughts with a random part that an encoder of the step recognises, and a head draws"
    source = "arXiv 2509.25020"
    options_type: ClassVar[type[LatentOptions]] = MarcosOptions
    options: MarcosOptions

    def __init__(self, lm, markers, setting, options) -> None:
        super().__init__(lm, markers, setting, options)
        d = lm.config.hidden_size
        self.encoder = StepEncoder(lm, 1)
        if options.dims > d:
            raise ConfigError(f"option dims = {options.dims} is more than the {d} dimensions of a state: give at most {d}")
        self.recognised = nn.Linear(d, options.dims)
        self.random = nn.Sequential(nn.Linear(options.dims, d), nn.GELU(), nn.Linear(d, d))
        self.head = nn.Sequential(nn.Linear(d, d), nn.GELU(), nn.Linear(d, 2 * options.dims))

    def latent(self, state: Float[Tensor, "batch d_model"], noise: Tensor | None, step: Tensor | None = None) -> Latent:
        """R is the step's where it is given, else the Gaussian's mean, or a draw."""
        if step is not None:
            r = self.recognise(step)
        else:
            r, logvar = self.head(state).chunk(2, dim=-1)
            r = r if noise is None else r + (logvar / 2).exp() * noise[:, : self.options.dims]
        vector = self.scale * (state + self.random(r))
        return Latent(vector, vector)

    def recognise(self, steps: Int[Tensor, "n step"]) -> Float[Tensor, "n dims"]:
        """R of steps; none of it is negative."""
        return self.recognised(self.encoder(self.ended(steps))[:, 0]).relu()

    def phases(self, recipe: LatentRecipe, *, started: bool) -> list[LatentPhase]:
        """The head's phase, in which all else is held, is the second half of the last one."""
        others = ("lm.", "decoder.", "encoder.", "recognised.", "random.")
        *stages, last = [phase._replace(only=others) for phase in super().phases(recipe, started=started)]
        half = last.steps // 2
        return [*stages, last._replace(steps=last.steps - half), last._replace(steps=half, only=("head.",))]

    def losses(self, seen: Unrolled) -> dict[str, Float[Tensor, ""]]:
        """Text, decoder and the size of R; or in the last phase the head's loss."""
        terms = super().losses(seen)
        if seen.active:
            r = self.recognise(seen.batch.steps[:, : seen.replaced][seen.there])
            if not self.recognised.weight.requires_grad:
                mean, logvar = self.head(seen.states.detach())[seen.stands].chunk(2, dim=-1)
                terms["nll"] = self.nll(r.repeat_interleave(self.options.per_step, dim=0), mean, logvar).mean()
            else:
                terms["l1"] = self.options.l1 * r.abs().mean()
        return terms

    def nll(self, r: Float[Tensor, "*n"], mean: Float[Tensor, "*n"], logvar: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Of R under the Gaussian, for each dimension, up to a constant; or what is published in its place."""
        if self.options.nll == "published":
            return ((r - mean) / (2 * logvar.exp())).square() + logvar / 2
        return (r - mean).square() / (2 * logvar.exp()) + logvar / 2
