"""Plans that bind nobody, under which the plug-in has to do as vLLM's own scheduler does; and requests of all kinds."""

from __future__ import annotations

from fake_engine import EOS, make_request
from vllm import SamplingParams
from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.request import Request

SEATS = 12
NESTED = {"policy": "nested_wait", "settings": {"thresholds": [10**6], "boundaries": [1024], "max_wait": 0.0}}
CHUNKED = {
    "policy": "wait_chunked",
    "settings": {"in_service": SEATS, "boundaries": [1], "chunk": 10**6, "gate": False, "max_wait": 0.0},
}
LIMITS = {"policy": "fluid_budget", "settings": {"batch_tokens": 10**6, "watermark": 0.0}}


def request(
    name, prompt, output, *, grammar=False, stop=(), resumable=False, images=(), sampling=None, **what
) -> Request:
    """As :func:`fake_engine.make_request`, with more kinds.

    Args:
        images: names of images of 10 tokens each, the first at token 5, 15 tokens apart.
        sampling: more arguments of ``SamplingParams``.
    """
    made = make_request(name, prompt, output, **{"tokens": [3 + hash(name) % 200] * prompt} | what)
    options = {"ignore_eos": True, "stop_token_ids": list(stop) or None} | (sampling or {})
    if grammar:
        options["structured_outputs"] = StructuredOutputsParams(regex="a*")
    params = SamplingParams(max_tokens=output, **options)
    params.update_from_generation_config({}, EOS)
    places = [PlaceholderRange(offset=5 + 15 * i, length=10) for i in range(len(images))]
    return Request(
        request_id=name,
        prompt_token_ids=list(made.prompt_token_ids),
        sampling_params=params,
        pooling_params=None,
        arrival_time=made.arrival_time,
        priority=made.priority,
        block_hasher=made._block_hasher,
        resumable=resumable,
        mm_features=[MultiModalFeatureSpec(None, "image", *image) for image in zip(images, places, strict=True)],
    )
