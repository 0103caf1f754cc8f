"""A BentoML service that takes as long as the request says; less than nothing it cannot do."""

import time

import bentoml


@bentoml.service(workers=1, threads=8)
class Waiting:
    """One API."""

    @bentoml.api
    def wait(self, seconds: float) -> float:
        if seconds < 0:
            raise RuntimeError("less than nothing")
        time.sleep(seconds)
        return seconds
