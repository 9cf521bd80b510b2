"""A bundle on the model that it was made with: the same session that a run gives, without the run."""

from stir_core.deploy.bundle.reading import Bundle
from stir_core.intervene.session import Session
from stir_core.models.loading import LoadedModel


def open_bundle(bundle: Bundle, model: LoadedModel) -> Session:
    """The bundle's library and settings on ``model``.

    Raises:
        MismatchError: the bundle was made with another model.
    """
    bundle.manifest.check_model(model.identity)
    return Session(bundle.manifest.run_config(), model, bundle.memory())
