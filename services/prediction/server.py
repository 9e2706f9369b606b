"""Assembly of the prediction service."""

from __future__ import annotations

from services._runtime.fair import FairPool
from services._runtime.server import Server, Service
from services._runtime.wire import OIP_SERVICE
from services.prediction.kserve import PredictBatcher, PredictModel
from services.prediction.settings import PredictionSettings
from services.prediction.state import Served, load
from services.process import serve


def build(settings: PredictionSettings, predictors: dict[str, Served]) -> Server:
    """Server of ``settings``; to be called in the event loop that runs it.

    Args:
        settings: All settings.
        predictors: From :func:`services.prediction.state.load`.

    Raises:
        UsageError: The settings contradict each other or expose the service.
    """
    settings.require_consistent()
    batcher = PredictBatcher(settings)
    pool = FairPool(settings.tensor_workers, settings.tensor_queue, "requests")
    models = [PredictModel(settings, served, batcher, pool) for served in predictors.values()]

    async def start() -> None:
        batcher.start()

    async def stop() -> None:
        await batcher.stop()
        pool.stop()

    # The protocol is the whole API: the runtime answers it, and there is no servicer to add.
    service = Service(name=OIP_SERVICE, register=lambda _: None, models=lambda: models, start=start, stop=stop)
    return Server(settings, service)


def run(settings: PredictionSettings) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        UsageError: The settings contradict each other or expose the service, a port is taken, or a bundle can neither
            classify nor segment nor regress.
        NotFound: A bundle does not exist.
        BundleError: A bundle is damaged.
    """
    settings.require_consistent()
    serve("prediction", settings, lambda: build(settings, load(settings)))
