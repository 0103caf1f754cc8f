"""A model for Triton's Python backend that takes as long as the request says; less than nothing it cannot do."""

from __future__ import annotations

import time

import triton_python_backend_utils as triton


class TritonPythonModel:
    """The class that the backend loads, by this name."""

    def execute(self, requests: list[triton.InferenceRequest]) -> list[triton.InferenceResponse]:
        return [answer(request) for request in requests]


def answer(request: triton.InferenceRequest) -> triton.InferenceResponse:
    """The one tensor comes back, after as many seconds as it says."""
    tensor = triton.get_input_tensor_by_name(request, "seconds")
    seconds = float(tensor.as_numpy()[0])
    if seconds < 0:
        raise ValueError("less than nothing")
    time.sleep(seconds)
    return triton.InferenceResponse([triton.Tensor("seconds", tensor.as_numpy())])
