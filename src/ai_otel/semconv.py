# Generated from src/ai_otel/schema by `python tools/generate.py`. Do not edit.
# ruff: noqa: S105 (a token is a piece of text here, not a secret)
"""Names, units, buckets and legal values of everything that we emit."""

from typing import Final, NamedTuple


class Metric(NamedTuple):
    """One metric of the contract. `instrument` is counter, histogram, updowncounter or gauge; `value` int or double."""

    name: str
    scope: str
    """The instrumentation scope that it is in."""
    subject: str
    """The file of the contract that defines it."""
    instrument: str
    unit: str
    value: str
    description: str
    buckets: tuple[float, ...] | None
    attributes: tuple[str, ...]
    """Every attribute key that a point may carry."""


# Instrumentation scopes and their schema URLs
SCOPE_GEN_AI: Final = "ai_otel.gen_ai"
SCHEMA_URL_GEN_AI: Final[str | None] = None  # not known: the conventions do not publish it yet
SCOPE_HW: Final = "ai_otel.hw"
SCHEMA_URL_CORE: Final[str | None] = "https://opentelemetry.io/schemas/1.45.0"  # the core conventions
SCOPE: Final = "ai_otel"
SCHEMA_URL: Final[str | None] = None  # ai-otel's names have no published schema file


# Attribute keys
AI_OTEL_BEAM_ENGINE_INPUT_TOKENS: Final = "ai_otel.beam.engine.input_tokens"
AI_OTEL_BEAM_ENGINE_OUTPUT_TOKENS: Final = "ai_otel.beam.engine.output_tokens"
AI_OTEL_BEAM_WIDTH: Final = "ai_otel.beam.width"
AI_OTEL_CACHE_TIER: Final = "ai_otel.cache.tier"
AI_OTEL_COST_AMOUNT: Final = "ai_otel.cost.amount"
AI_OTEL_COST_CURRENCY: Final = "ai_otel.cost.currency"
AI_OTEL_DROP_REASON: Final = "ai_otel.drop.reason"
AI_OTEL_ENERGY_ABSENCE: Final = "ai_otel.energy.absence"
AI_OTEL_ENERGY_BUCKET: Final = "ai_otel.energy.bucket"
AI_OTEL_ENERGY_GPU: Final = "ai_otel.energy.gpu"
AI_OTEL_ENERGY_IDLE_SHARE: Final = "ai_otel.energy.idle_share"
AI_OTEL_ENERGY_METHOD: Final = "ai_otel.energy.method"
AI_OTEL_ENERGY_UNCERTAINTY: Final = "ai_otel.energy.uncertainty"
AI_OTEL_ENGINE_INDEX: Final = "ai_otel.engine.index"
AI_OTEL_ENGINE_NAME: Final = "ai_otel.engine.name"
AI_OTEL_ENGINE_VERSION: Final = "ai_otel.engine.version"
AI_OTEL_EXPORT_SIGNAL: Final = "ai_otel.export.signal"
AI_OTEL_FINISH_REASON: Final = "ai_otel.finish_reason"
AI_OTEL_GPU_ATTRIBUTION: Final = "ai_otel.gpu.attribution"
AI_OTEL_GPU_BATCH_MEAN: Final = "ai_otel.gpu.batch.mean"
AI_OTEL_GPU_CLOCK: Final = "ai_otel.gpu.clock"
AI_OTEL_GPU_IDS: Final = "ai_otel.gpu.ids"
AI_OTEL_GPU_INSTANCE_ID: Final = "ai_otel.gpu.instance.id"
AI_OTEL_GPU_INSTANCE_PROFILE: Final = "ai_otel.gpu.instance.profile"
AI_OTEL_GPU_LIMIT_TYPE: Final = "ai_otel.gpu.limit.type"
AI_OTEL_GPU_LINK: Final = "ai_otel.gpu.link"
AI_OTEL_GPU_PASS: Final = "ai_otel.gpu.pass"
AI_OTEL_GPU_PIPE: Final = "ai_otel.gpu.pipe"
AI_OTEL_GPU_POWER_MEAN: Final = "ai_otel.gpu.power.mean"
AI_OTEL_GPU_POWER_WINDOW: Final = "ai_otel.gpu.power.window"
AI_OTEL_GPU_READING: Final = "ai_otel.gpu.reading"
AI_OTEL_GPU_SELECTION: Final = "ai_otel.gpu.selection"
AI_OTEL_GPU_SHARING: Final = "ai_otel.gpu.sharing"
AI_OTEL_GPU_SUPPORT_STATE: Final = "ai_otel.gpu.support.state"
AI_OTEL_GPU_THROTTLE_REASON: Final = "ai_otel.gpu.throttle.reason"
AI_OTEL_GPU_TIME: Final = "ai_otel.gpu.time"
AI_OTEL_GPU_XID_CODE: Final = "ai_otel.gpu.xid.code"
AI_OTEL_HOOK_NAME: Final = "ai_otel.hook.name"
AI_OTEL_KV_TRANSFER_CONNECTOR: Final = "ai_otel.kv_transfer.connector"
AI_OTEL_KV_TRANSFER_DIRECTION: Final = "ai_otel.kv_transfer.direction"
AI_OTEL_LOAD_PHASE: Final = "ai_otel.load.phase"
AI_OTEL_LORA_NAME: Final = "ai_otel.lora.name"
AI_OTEL_OUTCOME: Final = "ai_otel.outcome"
AI_OTEL_PHASE: Final = "ai_otel.phase"
AI_OTEL_QUEUE: Final = "ai_otel.queue"
AI_OTEL_REQUEST_INFERENCE_COUNT: Final = "ai_otel.request.inference.count"
AI_OTEL_REQUEST_PREEMPTIONS: Final = "ai_otel.request.preemptions"
AI_OTEL_REQUEST_PRIORITY: Final = "ai_otel.request.priority"
AI_OTEL_SKIP_REASON: Final = "ai_otel.skip.reason"
AI_OTEL_SOURCE_METRIC: Final = "ai_otel.source.metric"
AI_OTEL_SPEC_DECODE_POSITION: Final = "ai_otel.spec_decode.position"
AI_OTEL_STATE: Final = "ai_otel.state"
AI_OTEL_TIME_TO_FIRST_TOKEN: Final = "ai_otel.time_to_first_token"
AI_OTEL_TIMING: Final = "ai_otel.timing"
AI_OTEL_WAIT_REASON: Final = "ai_otel.wait.reason"
CONTAINER_ID: Final = "container.id"
CONTAINER_NAME: Final = "container.name"
DEPLOYMENT_ENVIRONMENT_NAME: Final = "deployment.environment.name"
ERROR_TYPE: Final = "error.type"
GEN_AI_CONVERSATION_COMPACTED: Final = "gen_ai.conversation.compacted"
GEN_AI_CONVERSATION_ID: Final = "gen_ai.conversation.id"
GEN_AI_EMBEDDINGS_DIMENSION_COUNT: Final = "gen_ai.embeddings.dimension.count"
GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
GEN_AI_OUTPUT_TYPE: Final = "gen_ai.output.type"
GEN_AI_PROMPT_NAME: Final = "gen_ai.prompt.name"
GEN_AI_PROMPT_VERSION: Final = "gen_ai.prompt.version"
GEN_AI_PROVIDER_NAME: Final = "gen_ai.provider.name"
GEN_AI_REQUEST_CHOICE_COUNT: Final = "gen_ai.request.choice.count"
GEN_AI_REQUEST_ENCODING_FORMATS: Final = "gen_ai.request.encoding_formats"
GEN_AI_REQUEST_FREQUENCY_PENALTY: Final = "gen_ai.request.frequency_penalty"
GEN_AI_REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_REQUEST_PRESENCE_PENALTY: Final = "gen_ai.request.presence_penalty"
GEN_AI_REQUEST_PREVIOUS_RESPONSE_ID: Final = "gen_ai.request.previous_response.id"
GEN_AI_REQUEST_REASONING_LEVEL: Final = "gen_ai.request.reasoning.level"
GEN_AI_REQUEST_SEED: Final = "gen_ai.request.seed"
GEN_AI_REQUEST_STOP_SEQUENCES: Final = "gen_ai.request.stop_sequences"
GEN_AI_REQUEST_STREAM: Final = "gen_ai.request.stream"
GEN_AI_REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
GEN_AI_REQUEST_TOP_K: Final = "gen_ai.request.top_k"
GEN_AI_REQUEST_TOP_P: Final = "gen_ai.request.top_p"
GEN_AI_RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
GEN_AI_RESPONSE_ID: Final = "gen_ai.response.id"
GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
GEN_AI_USAGE_AUDIO_CACHE_READ_INPUT_TOKENS: Final = "gen_ai.usage.audio.cache_read.input_tokens"
GEN_AI_USAGE_AUDIO_INPUT_TOKENS: Final = "gen_ai.usage.audio.input_tokens"
GEN_AI_USAGE_AUDIO_OUTPUT_TOKENS: Final = "gen_ai.usage.audio.output_tokens"
GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
GEN_AI_USAGE_CACHE_WRITE_INPUT_TOKENS: Final = "gen_ai.usage.cache_write.input_tokens"
GEN_AI_USAGE_IMAGE_CACHE_READ_INPUT_TOKENS: Final = "gen_ai.usage.image.cache_read.input_tokens"
GEN_AI_USAGE_IMAGE_INPUT_TOKENS: Final = "gen_ai.usage.image.input_tokens"
GEN_AI_USAGE_IMAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.image.output_tokens"
GEN_AI_USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_USAGE_REASONING_OUTPUT_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
GEN_AI_USAGE_TEXT_CACHE_READ_INPUT_TOKENS: Final = "gen_ai.usage.text.cache_read.input_tokens"
GEN_AI_USAGE_TEXT_INPUT_TOKENS: Final = "gen_ai.usage.text.input_tokens"
GEN_AI_USAGE_TEXT_OUTPUT_TOKENS: Final = "gen_ai.usage.text.output_tokens"
HOST_ARCH: Final = "host.arch"
HOST_ID: Final = "host.id"
HOST_NAME: Final = "host.name"
HTTP_REQUEST_METHOD: Final = "http.request.method"
HTTP_RESPONSE_STATUS_CODE: Final = "http.response.status_code"
HTTP_ROUTE: Final = "http.route"
HW_DRIVER_VERSION: Final = "hw.driver_version"
HW_FIRMWARE_VERSION: Final = "hw.firmware_version"
HW_GPU_TASK: Final = "hw.gpu.task"
HW_ID: Final = "hw.id"
HW_LIMIT_TYPE: Final = "hw.limit_type"
HW_MODEL: Final = "hw.model"
HW_NAME: Final = "hw.name"
HW_PARENT: Final = "hw.parent"
HW_SENSOR_LOCATION: Final = "hw.sensor_location"
HW_SERIAL_NUMBER: Final = "hw.serial_number"
HW_STATE: Final = "hw.state"
HW_TYPE: Final = "hw.type"
HW_VENDOR: Final = "hw.vendor"
K8S_CLUSTER_NAME: Final = "k8s.cluster.name"
K8S_CONTAINER_NAME: Final = "k8s.container.name"
K8S_DEPLOYMENT_NAME: Final = "k8s.deployment.name"
K8S_NAMESPACE_NAME: Final = "k8s.namespace.name"
K8S_NODE_NAME: Final = "k8s.node.name"
K8S_POD_IP: Final = "k8s.pod.ip"
K8S_POD_NAME: Final = "k8s.pod.name"
K8S_POD_UID: Final = "k8s.pod.uid"
NETWORK_IO_DIRECTION: Final = "network.io.direction"
PROCESS_EXECUTABLE_NAME: Final = "process.executable.name"
PROCESS_PID: Final = "process.pid"
PROCESS_RUNTIME_NAME: Final = "process.runtime.name"
PROCESS_RUNTIME_VERSION: Final = "process.runtime.version"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
SERVICE_INSTANCE_ID: Final = "service.instance.id"
SERVICE_NAME: Final = "service.name"
SERVICE_NAMESPACE: Final = "service.namespace"
SERVICE_VERSION: Final = "service.version"
TELEMETRY_DISTRO_NAME: Final = "telemetry.distro.name"
TELEMETRY_DISTRO_VERSION: Final = "telemetry.distro.version"
TELEMETRY_SDK_LANGUAGE: Final = "telemetry.sdk.language"
TELEMETRY_SDK_NAME: Final = "telemetry.sdk.name"
TELEMETRY_SDK_VERSION: Final = "telemetry.sdk.version"


# Legal values of closed enums; of open ones, those that we use
CACHE_TIERS: Final = ("device", "host", "disk", "remote", "unknown")
DROP_REASONS: Final = ("queue_full", "queue_bytes", "fork", "stopped")
# fmt: off
ENERGY_ABSENCES: Final = (
    "shared", "unknown_sharing", "unknown_devices", "no_counter", "not_sampled", "other_server", "gap", "short",
    "unobserved", "timeout", "overload", "uncertain",
)
# fmt: on
ENERGY_BUCKETS: Final = ("request", "idle", "overhead", "other")
ENERGY_METHODS: Final = ("affine", "bin_tokens", "time_share", "exclusive")
FINISH_REASONS: Final = ("stop", "length", "content_filter", "tool_call", "error", "repetition")
GPU_ATTRIBUTIONS: Final = ("pod_resources", "dra")
GPU_CLOCKS: Final = ("sm", "memory", "video")
GPU_LIMIT_TYPES: Final = ("enforced", "requested", "default", "min", "max")
GPU_LINKS: Final = ("pcie", "nvlink", "xgmi", "c2c")
GPU_PASSES: Final = ("readings", "energy", "events")
GPU_PIPES: Final = ("tensor", "fp64", "fp32", "fp16", "int")
GPU_POWER_WINDOWS: Final = ("average", "instant")
GPU_SELECTIONS: Final = ("process_list", "engine", "environment", "container")
GPU_SHARINGS: Final = ("exclusive", "mig", "time_slicing", "mps", "claim")
GPU_SUPPORT_STATES: Final = ("ok", "not_supported", "no_permission", "not_found", "lost", "invalid", "error")
# fmt: off
GPU_THROTTLE_REASONS: Final = (
    "power_cap", "thermal", "sw_thermal", "hw_thermal", "hw_power_brake", "sync_boost", "board_limit",
    "low_utilization", "reliability", "any",
)
# fmt: on
KV_TRANSFER_DIRECTIONS: Final = ("load", "store")
OUTCOMES: Final = ("finished", "failed", "cancelled", "rejected", "abandoned")
PHASES: Final = ("total", "queue", "prefill", "decode", "compute_input", "compute", "compute_output")
QUEUES: Final = ("engine", "router", "batcher")
STATES: Final = ("awake", "asleep", "weights_offloaded", "weights_discarded", "paused")
TIMINGS: Final = ("engine", "observed")
WAIT_REASONS: Final = ("capacity", "deferred", "grammar", "api")
# fmt: off
OPERATIONS: Final = (
    "chat", "generate_content", "text_completion", "embeddings", "retrieval", "fetch_response", "create_agent",
    "invoke_agent", "execute_tool", "invoke_workflow", "plan", "search_memory", "create_memory", "update_memory",
    "upsert_memory", "delete_memory", "create_memory_store", "delete_memory_store", "rerank", "score", "classify",
    "tokenize", "detokenize", "pooling", "transcription", "translation", "speech", "infer",
)
# fmt: on


# Histogram boundaries
# fmt: off
BUCKETS_DURATION: Final[tuple[float, ...]] = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
)
# fmt: on
# fmt: off
BUCKETS_FIRST_TOKEN: Final[tuple[float, ...]] = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)
# fmt: on
# fmt: off
BUCKETS_OUTPUT_TOKEN: Final[tuple[float, ...]] = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
)
# fmt: on
# fmt: off
BUCKETS_TOKENS: Final[tuple[float, ...]] = (
    1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864,
)
# fmt: on
# fmt: off
BUCKETS_PHASE: Final[tuple[float, ...]] = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0, 120.0,
)
# fmt: on
# fmt: off
BUCKETS_TOKEN_INTERVAL: Final[tuple[float, ...]] = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
)
# fmt: on
BUCKETS_BATCH: Final[tuple[float, ...]] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
# fmt: off
BUCKETS_TRANSFER_DURATION: Final[tuple[float, ...]] = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)
# fmt: on
# fmt: off
BUCKETS_TRANSFER_SIZE: Final[tuple[float, ...]] = (
    4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864, 268435456, 1073741824, 4294967296,
)
# fmt: on
BUCKETS_ENERGY: Final[tuple[float, ...]] = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000)
BUCKETS_GPU_PASS: Final[tuple[float, ...]] = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)


# Attributes that several metrics share
_DEVICE_METRIC: Final[tuple[str, ...]] = (HW_ID, HW_NAME, HW_PARENT)
_ENGINE_METRIC: Final[tuple[str, ...]] = (GEN_AI_PROVIDER_NAME, GEN_AI_REQUEST_MODEL, AI_OTEL_ENGINE_INDEX)
# fmt: off
_GPU_METRIC: Final[tuple[str, ...]] = (
    HW_ID, HW_NAME, HW_PARENT, HW_DRIVER_VERSION, HW_FIRMWARE_VERSION, HW_MODEL, HW_SERIAL_NUMBER, HW_VENDOR,
)
# fmt: on
# fmt: off
_GPU_PART_METRIC: Final[tuple[str, ...]] = (
    HW_ID, HW_NAME, HW_PARENT, HW_DRIVER_VERSION, HW_FIRMWARE_VERSION, HW_MODEL, HW_SERIAL_NUMBER, HW_VENDOR,
    AI_OTEL_GPU_INSTANCE_ID, AI_OTEL_GPU_INSTANCE_PROFILE,
)
# fmt: on
_GPU_SHARE_METRIC: Final[tuple[str, ...]] = (HW_ID, AI_OTEL_GPU_INSTANCE_ID, AI_OTEL_ENERGY_BUCKET)
# fmt: off
_KV_TRANSFER_METRIC: Final[tuple[str, ...]] = (
    GEN_AI_PROVIDER_NAME, GEN_AI_REQUEST_MODEL, AI_OTEL_ENGINE_INDEX, AI_OTEL_KV_TRANSFER_CONNECTOR,
    AI_OTEL_KV_TRANSFER_DIRECTION,
)
# fmt: on
# fmt: off
_REQUEST_METRIC: Final[tuple[str, ...]] = (
    GEN_AI_OPERATION_NAME, GEN_AI_PROVIDER_NAME, GEN_AI_REQUEST_MODEL, GEN_AI_RESPONSE_MODEL, SERVER_ADDRESS,
    SERVER_PORT, AI_OTEL_ENGINE_INDEX,
)
# fmt: on


# Metrics
# fmt: off
GEN_AI_SERVER_REQUEST_DURATION: Final = Metric(
    name="gen_ai.server.request.duration", scope="ai_otel.gen_ai", subject="requests",
    instrument="histogram", unit="s", value="double",
    description="Time from arrival to the last byte or last output token.",
    buckets=BUCKETS_DURATION,
    attributes=(*_REQUEST_METRIC, ERROR_TYPE),
)
GEN_AI_SERVER_TIME_TO_FIRST_TOKEN: Final = Metric(
    name="gen_ai.server.time_to_first_token", scope="ai_otel.gen_ai", subject="requests",
    instrument="histogram", unit="s", value="double",
    description="Time from arrival to the first output token, queue and prefill included.",
    buckets=BUCKETS_FIRST_TOKEN,
    attributes=_REQUEST_METRIC,
)
GEN_AI_SERVER_TIME_PER_OUTPUT_TOKEN: Final = Metric(
    name="gen_ai.server.time_per_output_token", scope="ai_otel.gen_ai", subject="requests",
    instrument="histogram", unit="s", value="double",
    description="Mean time for each output token after the first, one sample per request.",
    buckets=BUCKETS_OUTPUT_TOKEN,
    attributes=_REQUEST_METRIC,
)
AI_OTEL_REQUEST_FINISHED: Final = Metric(
    name="ai_otel.request.finished", scope="ai_otel", subject="requests",
    instrument="counter", unit="{request}", value="int",
    description="Requests that the engine ended, successfully or not.",
    buckets=None,
    attributes=(*_REQUEST_METRIC, AI_OTEL_FINISH_REASON, ERROR_TYPE),
)
AI_OTEL_REQUEST_REJECTED: Final = Metric(
    name="ai_otel.request.rejected", scope="ai_otel", subject="requests",
    instrument="counter", unit="{request}", value="int",
    description="Requests refused by the API layer or at admission; the engine did no work for them.",
    buckets=None,
    attributes=(*_REQUEST_METRIC, ERROR_TYPE),
)
AI_OTEL_REQUEST_RUNNING: Final = Metric(
    name="ai_otel.request.running", scope="ai_otel", subject="requests",
    instrument="updowncounter", unit="{request}", value="int",
    description="Requests that the engine is computing.",
    buckets=None,
    attributes=_ENGINE_METRIC,
)
AI_OTEL_REQUEST_WAITING: Final = Metric(
    name="ai_otel.request.waiting", scope="ai_otel", subject="requests",
    instrument="updowncounter", unit="{request}", value="int",
    description="Requests that wait to be computed.",
    buckets=None,
    attributes=(*_ENGINE_METRIC, AI_OTEL_WAIT_REASON),
)
AI_OTEL_REQUEST_PREEMPTED: Final = Metric(
    name="ai_otel.request.preempted", scope="ai_otel", subject="requests",
    instrument="counter", unit="{preemption}", value="int",
    description="Preemptions of running requests.",
    buckets=None,
    attributes=_ENGINE_METRIC,
)
AI_OTEL_REQUEST_QUEUE_DURATION: Final = Metric(
    name="ai_otel.request.queue.duration", scope="ai_otel", subject="requests",
    instrument="histogram", unit="s", value="double",
    description="Time in the queue, until the request is scheduled for the first time.",
    buckets=BUCKETS_PHASE,
    attributes=(*_REQUEST_METRIC, AI_OTEL_QUEUE),
)
AI_OTEL_REQUEST_PREFILL_DURATION: Final = Metric(
    name="ai_otel.request.prefill.duration", scope="ai_otel", subject="requests",
    instrument="histogram", unit="s", value="double",
    description="Time from being scheduled to the first output token.",
    buckets=BUCKETS_PHASE,
    attributes=_REQUEST_METRIC,
)
AI_OTEL_REQUEST_DECODE_DURATION: Final = Metric(
    name="ai_otel.request.decode.duration", scope="ai_otel", subject="requests",
    instrument="histogram", unit="s", value="double",
    description="Time from the first output token to the last.",
    buckets=BUCKETS_DURATION,
    attributes=_REQUEST_METRIC,
)
AI_OTEL_REQUEST_INFERENCE_DURATION: Final = Metric(
    name="ai_otel.request.inference.duration", scope="ai_otel", subject="requests",
    instrument="histogram", unit="s", value="double",
    description="Time from being scheduled to the last output token.",
    buckets=BUCKETS_DURATION,
    attributes=_REQUEST_METRIC,
)
AI_OTEL_TOKEN_INTERVAL: Final = Metric(
    name="ai_otel.token.interval", scope="ai_otel", subject="requests",
    instrument="histogram", unit="s", value="double",
    description="Gap between two emissions of one request, one sample per gap.",
    buckets=BUCKETS_TOKEN_INTERVAL,
    attributes=_REQUEST_METRIC,
)
AI_OTEL_REQUEST_TIME: Final = Metric(
    name="ai_otel.request.time", scope="ai_otel", subject="requests",
    instrument="counter", unit="s", value="double",
    description="Time that all requests together spent in a phase, for engines that only keep sums.",
    buckets=None,
    attributes=(*_REQUEST_METRIC, AI_OTEL_PHASE),
)
AI_OTEL_REQUEST_ENERGY: Final = Metric(
    name="ai_otel.request.energy", scope="ai_otel", subject="requests",
    instrument="histogram", unit="J", value="double",
    description="Energy of the GPUs that is one request's share.",
    buckets=BUCKETS_ENERGY,
    attributes=(*_REQUEST_METRIC, AI_OTEL_ENERGY_METHOD),
)
AI_OTEL_USAGE_INPUT_TOKENS: Final = Metric(
    name="ai_otel.usage.input_tokens", scope="ai_otel", subject="usage",
    instrument="counter", unit="{token}", value="int",
    description="Input tokens, including cached tokens.",
    buckets=None,
    attributes=_REQUEST_METRIC,
)
AI_OTEL_USAGE_OUTPUT_TOKENS: Final = Metric(
    name="ai_otel.usage.output_tokens", scope="ai_otel", subject="usage",
    instrument="counter", unit="{token}", value="int",
    description="Output tokens, including those of cancelled requests.",
    buckets=None,
    attributes=_REQUEST_METRIC,
)
AI_OTEL_USAGE_CACHE_READ_INPUT_TOKENS: Final = Metric(
    name="ai_otel.usage.cache_read.input_tokens", scope="ai_otel", subject="usage",
    instrument="counter", unit="{token}", value="int",
    description="Input tokens served from a cache; included in the input tokens.",
    buckets=None,
    attributes=(*_REQUEST_METRIC, AI_OTEL_CACHE_TIER),
)
AI_OTEL_REQUEST_INPUT_TOKENS: Final = Metric(
    name="ai_otel.request.input_tokens", scope="ai_otel", subject="usage",
    instrument="histogram", unit="{token}", value="int",
    description="Input tokens of one request.",
    buckets=BUCKETS_TOKENS,
    attributes=_REQUEST_METRIC,
)
AI_OTEL_REQUEST_OUTPUT_TOKENS: Final = Metric(
    name="ai_otel.request.output_tokens", scope="ai_otel", subject="usage",
    instrument="histogram", unit="{token}", value="int",
    description="Output tokens of one request.",
    buckets=BUCKETS_TOKENS,
    attributes=_REQUEST_METRIC,
)
AI_OTEL_KV_CACHE_UTILIZATION: Final = Metric(
    name="ai_otel.kv_cache.utilization", scope="ai_otel", subject="cache",
    instrument="gauge", unit="1", value="double",
    description="Fraction of the KV cache in use, from 0 to 1.",
    buckets=None,
    attributes=(*_ENGINE_METRIC, AI_OTEL_CACHE_TIER),
)
AI_OTEL_KV_CACHE_CAPACITY: Final = Metric(
    name="ai_otel.kv_cache.capacity", scope="ai_otel", subject="cache",
    instrument="updowncounter", unit="{token}", value="int",
    description="Capacity of the KV cache in tokens.",
    buckets=None,
    attributes=(*_ENGINE_METRIC, AI_OTEL_CACHE_TIER),
)
AI_OTEL_KV_CACHE_USED: Final = Metric(
    name="ai_otel.kv_cache.used", scope="ai_otel", subject="cache",
    instrument="updowncounter", unit="{token}", value="int",
    description="Tokens that the KV cache currently holds for requests.",
    buckets=None,
    attributes=(*_ENGINE_METRIC, AI_OTEL_CACHE_TIER),
)
AI_OTEL_PREFIX_CACHE_QUERIED_TOKENS: Final = Metric(
    name="ai_otel.prefix_cache.queried_tokens", scope="ai_otel", subject="cache",
    instrument="counter", unit="{token}", value="int",
    description="Tokens queried in the prefix cache.",
    buckets=None,
    attributes=(*_ENGINE_METRIC, AI_OTEL_CACHE_TIER),
)
AI_OTEL_PREFIX_CACHE_HIT_TOKENS: Final = Metric(
    name="ai_otel.prefix_cache.hit_tokens", scope="ai_otel", subject="cache",
    instrument="counter", unit="{token}", value="int",
    description="Tokens found in the prefix cache.",
    buckets=None,
    attributes=(*_ENGINE_METRIC, AI_OTEL_CACHE_TIER),
)
AI_OTEL_SPEC_DECODE_DRAFTS: Final = Metric(
    name="ai_otel.spec_decode.drafts", scope="ai_otel", subject="engine",
    instrument="counter", unit="{draft}", value="int",
    description="Drafts that the target model verified.",
    buckets=None,
    attributes=_ENGINE_METRIC,
)
AI_OTEL_SPEC_DECODE_DRAFT_TOKENS: Final = Metric(
    name="ai_otel.spec_decode.draft_tokens", scope="ai_otel", subject="engine",
    instrument="counter", unit="{token}", value="int",
    description="Tokens that drafts proposed.",
    buckets=None,
    attributes=_ENGINE_METRIC,
)
AI_OTEL_SPEC_DECODE_ACCEPTED_TOKENS: Final = Metric(
    name="ai_otel.spec_decode.accepted_tokens", scope="ai_otel", subject="engine",
    instrument="counter", unit="{token}", value="int",
    description="Draft tokens that the target model accepted.",
    buckets=None,
    attributes=(*_ENGINE_METRIC, AI_OTEL_SPEC_DECODE_POSITION),
)
AI_OTEL_LORA_ADAPTER_RUNNING: Final = Metric(
    name="ai_otel.lora.adapter.running", scope="ai_otel", subject="engine",
    instrument="gauge", unit="{adapter}", value="int",
    description="LoRA adapters used by running requests.",
    buckets=None,
    attributes=(*_ENGINE_METRIC, AI_OTEL_LORA_NAME),
)
AI_OTEL_LORA_SLOT_USED: Final = Metric(
    name="ai_otel.lora.slot.used", scope="ai_otel", subject="engine",
    instrument="gauge", unit="{slot}", value="int",
    description="LoRA slots on the device that hold an adapter.",
    buckets=None,
    attributes=_ENGINE_METRIC,
)
AI_OTEL_LORA_SLOT_LIMIT: Final = Metric(
    name="ai_otel.lora.slot.limit", scope="ai_otel", subject="engine",
    instrument="gauge", unit="{slot}", value="int",
    description="LoRA slots on the device.",
    buckets=None,
    attributes=_ENGINE_METRIC,
)
AI_OTEL_BATCH_SIZE: Final = Metric(
    name="ai_otel.batch.size", scope="ai_otel", subject="engine",
    instrument="histogram", unit="{request}", value="int",
    description="Requests in one step of the engine.",
    buckets=BUCKETS_BATCH,
    attributes=_ENGINE_METRIC,
)
AI_OTEL_BATCH_TOKENS: Final = Metric(
    name="ai_otel.batch.tokens", scope="ai_otel", subject="engine",
    instrument="histogram", unit="{token}", value="int",
    description="Tokens in one step of the engine.",
    buckets=BUCKETS_TOKENS,
    attributes=_ENGINE_METRIC,
)
AI_OTEL_KV_TRANSFER_DURATION: Final = Metric(
    name="ai_otel.kv_transfer.duration", scope="ai_otel", subject="engine",
    instrument="histogram", unit="s", value="double",
    description="Duration of one transfer of KV blocks.",
    buckets=BUCKETS_TRANSFER_DURATION,
    attributes=_KV_TRANSFER_METRIC,
)
AI_OTEL_KV_TRANSFER_SIZE: Final = Metric(
    name="ai_otel.kv_transfer.size", scope="ai_otel", subject="engine",
    instrument="histogram", unit="By", value="int",
    description="Size of one transfer of KV blocks in bytes.",
    buckets=BUCKETS_TRANSFER_SIZE,
    attributes=_KV_TRANSFER_METRIC,
)
AI_OTEL_KV_TRANSFER_ERRORS: Final = Metric(
    name="ai_otel.kv_transfer.errors", scope="ai_otel", subject="engine",
    instrument="counter", unit="{error}", value="int",
    description="Transfers of KV blocks that failed.",
    buckets=None,
    attributes=(*_KV_TRANSFER_METRIC, ERROR_TYPE),
)
AI_OTEL_ENGINE_STATE: Final = Metric(
    name="ai_otel.engine.state", scope="ai_otel", subject="engine",
    instrument="gauge", unit="1", value="int",
    description="1 for the current state of the engine, 0 for the others.",
    buckets=None,
    attributes=(*_ENGINE_METRIC, AI_OTEL_STATE),
)
AI_OTEL_MODEL_LOAD_DURATION: Final = Metric(
    name="ai_otel.model.load.duration", scope="ai_otel", subject="engine",
    instrument="gauge", unit="s", value="double",
    description="Duration of model loading, by step.",
    buckets=None,
    attributes=(*_ENGINE_METRIC, AI_OTEL_LOAD_PHASE),
)
HW_GPU_UTILIZATION: Final = Metric(
    name="hw.gpu.utilization", scope="ai_otel.hw", subject="hardware",
    instrument="gauge", unit="1", value="double",
    description="Fraction of time that the GPU was busy, from 0 to 1.",
    buckets=None,
    attributes=(*_GPU_PART_METRIC, HW_GPU_TASK),
)
HW_GPU_MEMORY_USAGE: Final = Metric(
    name="hw.gpu.memory.usage", scope="ai_otel.hw", subject="hardware",
    instrument="updowncounter", unit="By", value="int",
    description="GPU memory in use.",
    buckets=None,
    attributes=_GPU_PART_METRIC,
)
HW_GPU_MEMORY_LIMIT: Final = Metric(
    name="hw.gpu.memory.limit", scope="ai_otel.hw", subject="hardware",
    instrument="updowncounter", unit="By", value="int",
    description="Total GPU memory.",
    buckets=None,
    attributes=_GPU_PART_METRIC,
)
HW_GPU_MEMORY_UTILIZATION: Final = Metric(
    name="hw.gpu.memory.utilization", scope="ai_otel.hw", subject="hardware",
    instrument="gauge", unit="1", value="double",
    description="Fraction of GPU memory in use, from 0 to 1.",
    buckets=None,
    attributes=_GPU_PART_METRIC,
)
HW_GPU_IO: Final = Metric(
    name="hw.gpu.io", scope="ai_otel.hw", subject="hardware",
    instrument="counter", unit="By", value="int",
    description="Bytes transferred over one kind of GPU link.",
    buckets=None,
    attributes=(*_GPU_METRIC, NETWORK_IO_DIRECTION, AI_OTEL_GPU_LINK),
)
HW_ENERGY: Final = Metric(
    name="hw.energy", scope="ai_otel.hw", subject="hardware",
    instrument="counter", unit="J", value="double",
    description="Energy consumed by the device.",
    buckets=None,
    attributes=(*_DEVICE_METRIC, HW_TYPE),
)
HW_POWER: Final = Metric(
    name="hw.power", scope="ai_otel.hw", subject="hardware",
    instrument="gauge", unit="W", value="double",
    description="Power drawn by the device.",
    buckets=None,
    attributes=(*_DEVICE_METRIC, HW_TYPE, AI_OTEL_GPU_POWER_WINDOW),
)
HW_TEMPERATURE: Final = Metric(
    name="hw.temperature", scope="ai_otel.hw", subject="hardware",
    instrument="gauge", unit="Cel", value="double",
    description="Temperature of one sensor.",
    buckets=None,
    attributes=(*_DEVICE_METRIC, HW_SENSOR_LOCATION),
)
HW_TEMPERATURE_LIMIT: Final = Metric(
    name="hw.temperature.limit", scope="ai_otel.hw", subject="hardware",
    instrument="gauge", unit="Cel", value="double",
    description="Temperature at which the device throttles or shuts down.",
    buckets=None,
    attributes=(*_DEVICE_METRIC, HW_SENSOR_LOCATION, HW_LIMIT_TYPE),
)
HW_FAN_SPEED_RATIO: Final = Metric(
    name="hw.fan.speed_ratio", scope="ai_otel.hw", subject="hardware",
    instrument="gauge", unit="1", value="double",
    description="Fan speed as a fraction of its maximum.",
    buckets=None,
    attributes=(*_DEVICE_METRIC, HW_SENSOR_LOCATION),
)
HW_ERRORS: Final = Metric(
    name="hw.errors", scope="ai_otel.hw", subject="hardware",
    instrument="counter", unit="{error}", value="int",
    description="Errors reported by the device; for GPU memory, corrected and uncorrected errors.",
    buckets=None,
    attributes=(*_GPU_METRIC, HW_TYPE, ERROR_TYPE),
)
HW_STATUS: Final = Metric(
    name="hw.status", scope="ai_otel.hw", subject="hardware",
    instrument="updowncounter", unit="1", value="int",
    description="1 for the current state of the device, 0 for the others.",
    buckets=None,
    attributes=(*_GPU_METRIC, HW_TYPE, HW_STATE),
)
AI_OTEL_GPU_MEMORY_RESERVED: Final = Metric(
    name="ai_otel.gpu.memory.reserved", scope="ai_otel", subject="hardware",
    instrument="updowncounter", unit="By", value="int",
    description="GPU memory reserved by driver and firmware.",
    buckets=None,
    attributes=_GPU_PART_METRIC,
)
AI_OTEL_GPU_MEMORY_BANDWIDTH_UTILIZATION: Final = Metric(
    name="ai_otel.gpu.memory.bandwidth.utilization", scope="ai_otel", subject="hardware",
    instrument="gauge", unit="1", value="double",
    description="Utilization of the memory interface by data, from 0 to 1.",
    buckets=None,
    attributes=_GPU_PART_METRIC,
)
AI_OTEL_GPU_MEMORY_CONTROLLER_UTILIZATION: Final = Metric(
    name="ai_otel.gpu.memory.controller.utilization", scope="ai_otel", subject="hardware",
    instrument="gauge", unit="1", value="double",
    description="Fraction of time in which memory was read or written, from 0 to 1.",
    buckets=None,
    attributes=_GPU_METRIC,
)
AI_OTEL_GPU_SM_ACTIVITY: Final = Metric(
    name="ai_otel.gpu.sm.activity", scope="ai_otel", subject="hardware",
    instrument="gauge", unit="1", value="double",
    description="Fraction of cycles in which a compute unit had work, averaged over all units, from 0 to 1.",
    buckets=None,
    attributes=_GPU_PART_METRIC,
)
AI_OTEL_GPU_SM_OCCUPANCY: Final = Metric(
    name="ai_otel.gpu.sm.occupancy", scope="ai_otel", subject="hardware",
    instrument="gauge", unit="1", value="double",
    description="Resident warps per compute unit as a fraction of the maximum, averaged over all units, from 0 to 1.",
    buckets=None,
    attributes=_GPU_PART_METRIC,
)
AI_OTEL_GPU_PIPE_ACTIVITY: Final = Metric(
    name="ai_otel.gpu.pipe.activity", scope="ai_otel", subject="hardware",
    instrument="gauge", unit="1", value="double",
    description="Fraction of cycles in which one kind of compute pipe was active, from 0 to 1.",
    buckets=None,
    attributes=(*_GPU_PART_METRIC, AI_OTEL_GPU_PIPE),
)
AI_OTEL_GPU_POWER_LIMIT: Final = Metric(
    name="ai_otel.gpu.power.limit", scope="ai_otel", subject="hardware",
    instrument="gauge", unit="W", value="double",
    description="Power limit of the device.",
    buckets=None,
    attributes=(*_GPU_METRIC, AI_OTEL_GPU_LIMIT_TYPE),
)
AI_OTEL_GPU_FREQUENCY: Final = Metric(
    name="ai_otel.gpu.frequency", scope="ai_otel", subject="hardware",
    instrument="gauge", unit="Hz", value="int",
    description="Clock frequency of one GPU domain.",
    buckets=None,
    attributes=(*_GPU_METRIC, AI_OTEL_GPU_CLOCK),
)
AI_OTEL_GPU_THROTTLE_TIME: Final = Metric(
    name="ai_otel.gpu.throttle.time", scope="ai_otel", subject="hardware",
    instrument="counter", unit="s", value="double",
    description="Time in which the GPU's clocks were throttled.",
    buckets=None,
    attributes=(*_GPU_METRIC, AI_OTEL_GPU_THROTTLE_REASON),
)
AI_OTEL_GPU_XID_LAST: Final = Metric(
    name="ai_otel.gpu.xid.last", scope="ai_otel", subject="hardware",
    instrument="gauge", unit="{xid}", value="int",
    description="Code of the last XID error, 0 if there was none.",
    buckets=None,
    attributes=_GPU_PART_METRIC,
)
AI_OTEL_GPU_XID_EVENTS: Final = Metric(
    name="ai_otel.gpu.xid.events", scope="ai_otel", subject="hardware",
    instrument="counter", unit="{event}", value="int",
    description="XID events of the driver since the monitor started, by code.",
    buckets=None,
    attributes=(*_GPU_PART_METRIC, AI_OTEL_GPU_XID_CODE),
)
HW_GPU_INFO: Final = Metric(
    name="hw.gpu.info", scope="ai_otel.hw", subject="hardware",
    instrument="gauge", unit="1", value="int",
    description="Always 1; its attributes identify the device.",
    buckets=None,
    attributes=_GPU_PART_METRIC,
)
AI_OTEL_GPU_PROCESS_MEMORY_USAGE: Final = Metric(
    name="ai_otel.gpu.process.memory.usage", scope="ai_otel", subject="hardware",
    instrument="updowncounter", unit="By", value="int",
    description="GPU memory held by one process of this container.",
    buckets=None,
    attributes=(*_GPU_PART_METRIC, PROCESS_PID),
)
AI_OTEL_GPU_ALLOCATION: Final = Metric(
    name="ai_otel.gpu.allocation", scope="ai_otel", subject="hardware",
    instrument="updowncounter", unit="1", value="int",
    description="1 for each container that a device is allocated to.",
    buckets=None,
    attributes=(
        *_GPU_PART_METRIC,
        K8S_NAMESPACE_NAME,
        K8S_POD_NAME,
        K8S_CONTAINER_NAME,
        K8S_POD_UID,
        AI_OTEL_GPU_SHARING,
        AI_OTEL_GPU_ATTRIBUTION,
    ),
)
AI_OTEL_GPU_ENERGY: Final = Metric(
    name="ai_otel.gpu.energy", scope="ai_otel", subject="hardware",
    instrument="counter", unit="J", value="double",
    description="Energy of the device, split by account.",
    buckets=None,
    attributes=(*_GPU_SHARE_METRIC, GEN_AI_REQUEST_MODEL),
)
AI_OTEL_GPU_TIME_METRIC: Final = Metric(
    name="ai_otel.gpu.time", scope="ai_otel", subject="hardware",
    instrument="counter", unit="s", value="double",
    description="Time of the device, split by account.",
    buckets=None,
    attributes=(*_GPU_SHARE_METRIC, GEN_AI_REQUEST_MODEL),
)
AI_OTEL_ENERGY_UNDEFERRED: Final = Metric(
    name="ai_otel.energy.undeferred", scope="ai_otel", subject="hardware",
    instrument="counter", unit="{request}", value="int",
    description="Requests that were exported without waiting for their energy.",
    buckets=None,
    attributes=(),
)
AI_OTEL_GPU_CONSERVATION_ERROR: Final = Metric(
    name="ai_otel.gpu.conservation.error", scope="ai_otel", subject="hardware",
    instrument="gauge", unit="1", value="double",
    description="Relative difference between the sum of the accounts and the device's energy.",
    buckets=None,
    attributes=_GPU_METRIC,
)
AI_OTEL_GPU_IDLE_POWER: Final = Metric(
    name="ai_otel.gpu.idle.power", scope="ai_otel", subject="hardware",
    instrument="gauge", unit="W", value="double",
    description="Power that the device draws with no request in flight.",
    buckets=None,
    attributes=_GPU_METRIC,
)
AI_OTEL_GPU_PASS_DURATION: Final = Metric(
    name="ai_otel.gpu.pass.duration", scope="ai_otel", subject="hardware",
    instrument="histogram", unit="s", value="double",
    description="Duration of one sample of all devices.",
    buckets=BUCKETS_GPU_PASS,
    attributes=(AI_OTEL_GPU_PASS,),
)
AI_OTEL_GPU_PASS_SKIPPED: Final = Metric(
    name="ai_otel.gpu.pass.skipped", scope="ai_otel", subject="hardware",
    instrument="counter", unit="{pass}", value="int",
    description="Device samples that were skipped because the previous one took too long.",
    buckets=None,
    attributes=(AI_OTEL_GPU_PASS,),
)
AI_OTEL_GPU_SUPPORT: Final = Metric(
    name="ai_otel.gpu.support", scope="ai_otel", subject="hardware",
    instrument="gauge", unit="1", value="int",
    description="Always 1; its attributes say whether a device reports a value, and why not.",
    buckets=None,
    attributes=(*_GPU_PART_METRIC, AI_OTEL_GPU_READING, AI_OTEL_GPU_SUPPORT_STATE),
)
AI_OTEL_RECORD_DROPPED: Final = Metric(
    name="ai_otel.record.dropped", scope="ai_otel", subject="health",
    instrument="counter", unit="{record}", value="int",
    description="Request records dropped before they were emitted.",
    buckets=None,
    attributes=(AI_OTEL_DROP_REASON,),
)
AI_OTEL_RECORD_OPEN: Final = Metric(
    name="ai_otel.record.open", scope="ai_otel", subject="health",
    instrument="updowncounter", unit="{record}", value="int",
    description="Request records that are open.",
    buckets=None,
    attributes=(),
)
AI_OTEL_EXPORT_SENT: Final = Metric(
    name="ai_otel.export.sent", scope="ai_otel", subject="health",
    instrument="counter", unit="{item}", value="int",
    description="Spans and metric points that the receiver accepted.",
    buckets=None,
    attributes=(AI_OTEL_EXPORT_SIGNAL,),
)
AI_OTEL_EXPORT_FAILED: Final = Metric(
    name="ai_otel.export.failed", scope="ai_otel", subject="health",
    instrument="counter", unit="{item}", value="int",
    description="Spans and metric points that the receiver refused, or did not accept in time.",
    buckets=None,
    attributes=(AI_OTEL_EXPORT_SIGNAL,),
)
AI_OTEL_EXPORT_DROPPED: Final = Metric(
    name="ai_otel.export.dropped", scope="ai_otel", subject="health",
    instrument="counter", unit="{item}", value="int",
    description="Spans dropped because the SDK's export queue was full.",
    buckets=None,
    attributes=(AI_OTEL_EXPORT_SIGNAL,),
)
AI_OTEL_HOOK_ERRORS: Final = Metric(
    name="ai_otel.hook.errors", scope="ai_otel", subject="health",
    instrument="counter", unit="{error}", value="int",
    description="Exceptions in ai-otel's hooks; none of them reached the application.",
    buckets=None,
    attributes=(AI_OTEL_HOOK_NAME,),
)
AI_OTEL_HOOK_DISABLED: Final = Metric(
    name="ai_otel.hook.disabled", scope="ai_otel", subject="health",
    instrument="updowncounter", unit="{hook}", value="int",
    description="Hooks disabled after repeated failures.",
    buckets=None,
    attributes=(AI_OTEL_HOOK_NAME,),
)
AI_OTEL_SOURCE_SKIPPED: Final = Metric(
    name="ai_otel.source.skipped", scope="ai_otel", subject="health",
    instrument="gauge", unit="{metric}", value="int",
    description="1 for each metric of a scraped endpoint that the mapping knows and could not use.",
    buckets=None,
    attributes=(AI_OTEL_SOURCE_METRIC, AI_OTEL_SKIP_REASON),
)
# fmt: on

# fmt: off
METRICS: Final[tuple[Metric, ...]] = (
    GEN_AI_SERVER_REQUEST_DURATION, GEN_AI_SERVER_TIME_TO_FIRST_TOKEN, GEN_AI_SERVER_TIME_PER_OUTPUT_TOKEN,
    AI_OTEL_REQUEST_FINISHED, AI_OTEL_REQUEST_REJECTED, AI_OTEL_REQUEST_RUNNING, AI_OTEL_REQUEST_WAITING,
    AI_OTEL_REQUEST_PREEMPTED, AI_OTEL_REQUEST_QUEUE_DURATION, AI_OTEL_REQUEST_PREFILL_DURATION,
    AI_OTEL_REQUEST_DECODE_DURATION, AI_OTEL_REQUEST_INFERENCE_DURATION, AI_OTEL_TOKEN_INTERVAL, AI_OTEL_REQUEST_TIME,
    AI_OTEL_REQUEST_ENERGY, AI_OTEL_USAGE_INPUT_TOKENS, AI_OTEL_USAGE_OUTPUT_TOKENS,
    AI_OTEL_USAGE_CACHE_READ_INPUT_TOKENS, AI_OTEL_REQUEST_INPUT_TOKENS, AI_OTEL_REQUEST_OUTPUT_TOKENS,
    AI_OTEL_KV_CACHE_UTILIZATION, AI_OTEL_KV_CACHE_CAPACITY, AI_OTEL_KV_CACHE_USED, AI_OTEL_PREFIX_CACHE_QUERIED_TOKENS,
    AI_OTEL_PREFIX_CACHE_HIT_TOKENS, AI_OTEL_SPEC_DECODE_DRAFTS, AI_OTEL_SPEC_DECODE_DRAFT_TOKENS,
    AI_OTEL_SPEC_DECODE_ACCEPTED_TOKENS, AI_OTEL_LORA_ADAPTER_RUNNING, AI_OTEL_LORA_SLOT_USED, AI_OTEL_LORA_SLOT_LIMIT,
    AI_OTEL_BATCH_SIZE, AI_OTEL_BATCH_TOKENS, AI_OTEL_KV_TRANSFER_DURATION, AI_OTEL_KV_TRANSFER_SIZE,
    AI_OTEL_KV_TRANSFER_ERRORS, AI_OTEL_ENGINE_STATE, AI_OTEL_MODEL_LOAD_DURATION, HW_GPU_UTILIZATION,
    HW_GPU_MEMORY_USAGE, HW_GPU_MEMORY_LIMIT, HW_GPU_MEMORY_UTILIZATION, HW_GPU_IO, HW_ENERGY, HW_POWER, HW_TEMPERATURE,
    HW_TEMPERATURE_LIMIT, HW_FAN_SPEED_RATIO, HW_ERRORS, HW_STATUS, AI_OTEL_GPU_MEMORY_RESERVED,
    AI_OTEL_GPU_MEMORY_BANDWIDTH_UTILIZATION, AI_OTEL_GPU_MEMORY_CONTROLLER_UTILIZATION, AI_OTEL_GPU_SM_ACTIVITY,
    AI_OTEL_GPU_SM_OCCUPANCY, AI_OTEL_GPU_PIPE_ACTIVITY, AI_OTEL_GPU_POWER_LIMIT, AI_OTEL_GPU_FREQUENCY,
    AI_OTEL_GPU_THROTTLE_TIME, AI_OTEL_GPU_XID_LAST, AI_OTEL_GPU_XID_EVENTS, HW_GPU_INFO,
    AI_OTEL_GPU_PROCESS_MEMORY_USAGE, AI_OTEL_GPU_ALLOCATION, AI_OTEL_GPU_ENERGY, AI_OTEL_GPU_TIME_METRIC,
    AI_OTEL_ENERGY_UNDEFERRED, AI_OTEL_GPU_CONSERVATION_ERROR, AI_OTEL_GPU_IDLE_POWER, AI_OTEL_GPU_PASS_DURATION,
    AI_OTEL_GPU_PASS_SKIPPED, AI_OTEL_GPU_SUPPORT, AI_OTEL_RECORD_DROPPED, AI_OTEL_RECORD_OPEN, AI_OTEL_EXPORT_SENT,
    AI_OTEL_EXPORT_FAILED, AI_OTEL_EXPORT_DROPPED, AI_OTEL_HOOK_ERRORS, AI_OTEL_HOOK_DISABLED, AI_OTEL_SOURCE_SKIPPED,
)
# fmt: on
