import datetime

from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Selection(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SELECTION_UNSPECIFIED: _ClassVar[Selection]
    SELECTION_ALL: _ClassVar[Selection]
    SELECTION_FRACTION: _ClassVar[Selection]
    SELECTION_WEIGHTED: _ClassVar[Selection]

class LatePolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LATE_POLICY_UNSPECIFIED: _ClassVar[LatePolicy]
    LATE_POLICY_DROP: _ClassVar[LatePolicy]
    LATE_POLICY_FOLD: _ClassVar[LatePolicy]

class MissedQuorum(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MISSED_QUORUM_UNSPECIFIED: _ClassVar[MissedQuorum]
    MISSED_QUORUM_WAIT: _ClassVar[MissedQuorum]
    MISSED_QUORUM_FAIL: _ClassVar[MissedQuorum]

class DpMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DP_MODE_UNSPECIFIED: _ClassVar[DpMode]
    DP_MODE_SERVER: _ClassVar[DpMode]
    DP_MODE_SILO: _ClassVar[DpMode]

class Robust(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROBUST_UNSPECIFIED: _ClassVar[Robust]
    ROBUST_MEDIAN: _ClassVar[Robust]
    ROBUST_TRIMMED_MEAN: _ClassVar[Robust]
    ROBUST_MULTI_KRUM: _ClassVar[Robust]

class RunStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RUN_STATUS_UNSPECIFIED: _ClassVar[RunStatus]
    RUN_STATUS_RUNNING: _ClassVar[RunStatus]
    RUN_STATUS_PAUSED: _ClassVar[RunStatus]
    RUN_STATUS_FINISHED: _ClassVar[RunStatus]
    RUN_STATUS_FAILED: _ClassVar[RunStatus]
    RUN_STATUS_CANCELLED: _ClassVar[RunStatus]

class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PHASE_UNSPECIFIED: _ClassVar[Phase]
    PHASE_KEYS: _ClassVar[Phase]
    PHASE_SHARES: _ClassVar[Phase]
    PHASE_OPEN: _ClassVar[Phase]
    PHASE_SEALED: _ClassVar[Phase]
    PHASE_EVALUATION: _ClassVar[Phase]

class TaskKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_KIND_UNSPECIFIED: _ClassVar[TaskKind]
    TASK_KIND_TRAIN: _ClassVar[TaskKind]
    TASK_KIND_EVALUATE: _ClassVar[TaskKind]
    TASK_KIND_KEYS: _ClassVar[TaskKind]
    TASK_KIND_SHARES: _ClassVar[TaskKind]
    TASK_KIND_UNMASK: _ClassVar[TaskKind]
    TASK_KIND_ABANDON: _ClassVar[TaskKind]
    TASK_KIND_END: _ClassVar[TaskKind]

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_ACCEPTED: _ClassVar[Verdict]
    VERDICT_FOLDED: _ClassVar[Verdict]
    VERDICT_DROPPED: _ClassVar[Verdict]
    VERDICT_REFUSED: _ClassVar[Verdict]
SELECTION_UNSPECIFIED: Selection
SELECTION_ALL: Selection
SELECTION_FRACTION: Selection
SELECTION_WEIGHTED: Selection
LATE_POLICY_UNSPECIFIED: LatePolicy
LATE_POLICY_DROP: LatePolicy
LATE_POLICY_FOLD: LatePolicy
MISSED_QUORUM_UNSPECIFIED: MissedQuorum
MISSED_QUORUM_WAIT: MissedQuorum
MISSED_QUORUM_FAIL: MissedQuorum
DP_MODE_UNSPECIFIED: DpMode
DP_MODE_SERVER: DpMode
DP_MODE_SILO: DpMode
ROBUST_UNSPECIFIED: Robust
ROBUST_MEDIAN: Robust
ROBUST_TRIMMED_MEAN: Robust
ROBUST_MULTI_KRUM: Robust
RUN_STATUS_UNSPECIFIED: RunStatus
RUN_STATUS_RUNNING: RunStatus
RUN_STATUS_PAUSED: RunStatus
RUN_STATUS_FINISHED: RunStatus
RUN_STATUS_FAILED: RunStatus
RUN_STATUS_CANCELLED: RunStatus
PHASE_UNSPECIFIED: Phase
PHASE_KEYS: Phase
PHASE_SHARES: Phase
PHASE_OPEN: Phase
PHASE_SEALED: Phase
PHASE_EVALUATION: Phase
TASK_KIND_UNSPECIFIED: TaskKind
TASK_KIND_TRAIN: TaskKind
TASK_KIND_EVALUATE: TaskKind
TASK_KIND_KEYS: TaskKind
TASK_KIND_SHARES: TaskKind
TASK_KIND_UNMASK: TaskKind
TASK_KIND_ABANDON: TaskKind
TASK_KIND_END: TaskKind
VERDICT_UNSPECIFIED: Verdict
VERDICT_ACCEPTED: Verdict
VERDICT_FOLDED: Verdict
VERDICT_DROPPED: Verdict
VERDICT_REFUSED: Verdict

class Manifest(_message.Message):
    __slots__ = ("length", "chunks")
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    length: int
    chunks: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, length: _Optional[int] = ..., chunks: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("index", "data")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    index: int
    data: bytes
    def __init__(self, index: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class RoundPolicy(_message.Message):
    __slots__ = ("rounds", "min_silos", "quorum", "modality_quorum", "deadline", "over_selection", "selection", "fraction", "late", "late_discount", "missed_quorum", "evaluate_every", "target_metric", "target_value", "target_is_minimum")
    class ModalityQuorumEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    MIN_SILOS_FIELD_NUMBER: _ClassVar[int]
    QUORUM_FIELD_NUMBER: _ClassVar[int]
    MODALITY_QUORUM_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    OVER_SELECTION_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    LATE_DISCOUNT_FIELD_NUMBER: _ClassVar[int]
    MISSED_QUORUM_FIELD_NUMBER: _ClassVar[int]
    EVALUATE_EVERY_FIELD_NUMBER: _ClassVar[int]
    TARGET_METRIC_FIELD_NUMBER: _ClassVar[int]
    TARGET_VALUE_FIELD_NUMBER: _ClassVar[int]
    TARGET_IS_MINIMUM_FIELD_NUMBER: _ClassVar[int]
    rounds: int
    min_silos: int
    quorum: int
    modality_quorum: _containers.ScalarMap[str, int]
    deadline: _duration_pb2.Duration
    over_selection: float
    selection: Selection
    fraction: float
    late: LatePolicy
    late_discount: float
    missed_quorum: MissedQuorum
    evaluate_every: int
    target_metric: str
    target_value: float
    target_is_minimum: bool
    def __init__(self, rounds: _Optional[int] = ..., min_silos: _Optional[int] = ..., quorum: _Optional[int] = ..., modality_quorum: _Optional[_Mapping[str, int]] = ..., deadline: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., over_selection: _Optional[float] = ..., selection: _Optional[_Union[Selection, str]] = ..., fraction: _Optional[float] = ..., late: _Optional[_Union[LatePolicy, str]] = ..., late_discount: _Optional[float] = ..., missed_quorum: _Optional[_Union[MissedQuorum, str]] = ..., evaluate_every: _Optional[int] = ..., target_metric: _Optional[str] = ..., target_value: _Optional[float] = ..., target_is_minimum: _Optional[bool] = ...) -> None: ...

class PrivacyPolicy(_message.Message):
    __slots__ = ("dp", "clip_norm", "noise_multiplier", "delta", "max_epsilon", "secure_aggregation", "threshold", "fraction_bits", "robust", "byzantine_share")
    DP_FIELD_NUMBER: _ClassVar[int]
    CLIP_NORM_FIELD_NUMBER: _ClassVar[int]
    NOISE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    MAX_EPSILON_FIELD_NUMBER: _ClassVar[int]
    SECURE_AGGREGATION_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    FRACTION_BITS_FIELD_NUMBER: _ClassVar[int]
    ROBUST_FIELD_NUMBER: _ClassVar[int]
    BYZANTINE_SHARE_FIELD_NUMBER: _ClassVar[int]
    dp: DpMode
    clip_norm: float
    noise_multiplier: float
    delta: float
    max_epsilon: float
    secure_aggregation: bool
    threshold: int
    fraction_bits: int
    robust: Robust
    byzantine_share: float
    def __init__(self, dp: _Optional[_Union[DpMode, str]] = ..., clip_norm: _Optional[float] = ..., noise_multiplier: _Optional[float] = ..., delta: _Optional[float] = ..., max_epsilon: _Optional[float] = ..., secure_aggregation: _Optional[bool] = ..., threshold: _Optional[int] = ..., fraction_bits: _Optional[int] = ..., robust: _Optional[_Union[Robust, str]] = ..., byzantine_share: _Optional[float] = ...) -> None: ...

class DataContract(_message.Message):
    __slots__ = ("modalities", "min_samples", "max_update_norm", "max_samples", "max_sample_ratio", "max_norm_ratio")
    MODALITIES_FIELD_NUMBER: _ClassVar[int]
    MIN_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    MAX_UPDATE_NORM_FIELD_NUMBER: _ClassVar[int]
    MAX_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    MAX_SAMPLE_RATIO_FIELD_NUMBER: _ClassVar[int]
    MAX_NORM_RATIO_FIELD_NUMBER: _ClassVar[int]
    modalities: _containers.RepeatedScalarFieldContainer[str]
    min_samples: int
    max_update_norm: float
    max_samples: int
    max_sample_ratio: float
    max_norm_ratio: float
    def __init__(self, modalities: _Optional[_Iterable[str]] = ..., min_samples: _Optional[int] = ..., max_update_norm: _Optional[float] = ..., max_samples: _Optional[int] = ..., max_sample_ratio: _Optional[float] = ..., max_norm_ratio: _Optional[float] = ...) -> None: ...

class RunSpec(_message.Message):
    __slots__ = ("method", "config", "strategy", "strategy_options", "policy", "privacy", "data", "initial_model", "seed", "silos", "operators", "bundle_config", "keep_models")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    PRIVACY_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    INITIAL_MODEL_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SILOS_FIELD_NUMBER: _ClassVar[int]
    OPERATORS_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_CONFIG_FIELD_NUMBER: _ClassVar[int]
    KEEP_MODELS_FIELD_NUMBER: _ClassVar[int]
    method: str
    config: _struct_pb2.Struct
    strategy: str
    strategy_options: _struct_pb2.Struct
    policy: RoundPolicy
    privacy: PrivacyPolicy
    data: DataContract
    initial_model: Manifest
    seed: int
    silos: _containers.RepeatedScalarFieldContainer[str]
    operators: _containers.RepeatedScalarFieldContainer[str]
    bundle_config: _struct_pb2.Struct
    keep_models: int
    def __init__(self, method: _Optional[str] = ..., config: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., strategy: _Optional[str] = ..., strategy_options: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., policy: _Optional[_Union[RoundPolicy, _Mapping]] = ..., privacy: _Optional[_Union[PrivacyPolicy, _Mapping]] = ..., data: _Optional[_Union[DataContract, _Mapping]] = ..., initial_model: _Optional[_Union[Manifest, _Mapping]] = ..., seed: _Optional[int] = ..., silos: _Optional[_Iterable[str]] = ..., operators: _Optional[_Iterable[str]] = ..., bundle_config: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., keep_models: _Optional[int] = ...) -> None: ...

class Accepted(_message.Message):
    __slots__ = ("silo", "round", "digest", "samples", "size", "scalars", "metrics", "steps", "norm")
    class ScalarsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SILO_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SCALARS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    NORM_FIELD_NUMBER: _ClassVar[int]
    silo: str
    round: int
    digest: str
    samples: int
    size: int
    scalars: _containers.ScalarMap[str, float]
    metrics: _containers.ScalarMap[str, float]
    steps: int
    norm: float
    def __init__(self, silo: _Optional[str] = ..., round: _Optional[int] = ..., digest: _Optional[str] = ..., samples: _Optional[int] = ..., size: _Optional[int] = ..., scalars: _Optional[_Mapping[str, float]] = ..., metrics: _Optional[_Mapping[str, float]] = ..., steps: _Optional[int] = ..., norm: _Optional[float] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("silo", "round", "digest", "reason")
    SILO_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    silo: str
    round: int
    digest: str
    reason: str
    def __init__(self, silo: _Optional[str] = ..., round: _Optional[int] = ..., digest: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Evaluation(_message.Message):
    __slots__ = ("silo", "samples", "metrics")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SILO_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    silo: str
    samples: int
    metrics: _containers.ScalarMap[str, float]
    def __init__(self, silo: _Optional[str] = ..., samples: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ...) -> None: ...

class MaskKeys(_message.Message):
    __slots__ = ("share_key", "mask_key")
    SHARE_KEY_FIELD_NUMBER: _ClassVar[int]
    MASK_KEY_FIELD_NUMBER: _ClassVar[int]
    share_key: bytes
    mask_key: bytes
    def __init__(self, share_key: _Optional[bytes] = ..., mask_key: _Optional[bytes] = ...) -> None: ...

class EncryptedShare(_message.Message):
    __slots__ = ("sender", "recipient", "data")
    SENDER_FIELD_NUMBER: _ClassVar[int]
    RECIPIENT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    sender: str
    recipient: str
    data: bytes
    def __init__(self, sender: _Optional[str] = ..., recipient: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class RevealedShare(_message.Message):
    __slots__ = ("owner", "share")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    owner: str
    share: bytes
    def __init__(self, owner: _Optional[str] = ..., share: _Optional[bytes] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("silo", "samples", "modality", "data_version", "trains_only")
    SILO_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    DATA_VERSION_FIELD_NUMBER: _ClassVar[int]
    TRAINS_ONLY_FIELD_NUMBER: _ClassVar[int]
    silo: str
    samples: int
    modality: str
    data_version: str
    trains_only: bool
    def __init__(self, silo: _Optional[str] = ..., samples: _Optional[int] = ..., modality: _Optional[str] = ..., data_version: _Optional[str] = ..., trains_only: _Optional[bool] = ...) -> None: ...

class Round(_message.Message):
    __slots__ = ("number", "phase", "selected", "wanted", "accepted", "refused", "dropped", "sealed", "opened_at", "evaluations", "evaluators", "mask_keys", "shared", "unmasked", "members", "seconds")
    class MaskKeysEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: MaskKeys
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[MaskKeys, _Mapping]] = ...) -> None: ...
    class SecondsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    SELECTED_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    OPENED_AT_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    EVALUATORS_FIELD_NUMBER: _ClassVar[int]
    MASK_KEYS_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    UNMASKED_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    number: int
    phase: Phase
    selected: _containers.RepeatedScalarFieldContainer[str]
    wanted: int
    accepted: _containers.RepeatedCompositeFieldContainer[Accepted]
    refused: _containers.RepeatedCompositeFieldContainer[Refused]
    dropped: _containers.RepeatedScalarFieldContainer[str]
    sealed: _containers.RepeatedScalarFieldContainer[str]
    opened_at: _timestamp_pb2.Timestamp
    evaluations: _containers.RepeatedCompositeFieldContainer[Evaluation]
    evaluators: _containers.RepeatedScalarFieldContainer[str]
    mask_keys: _containers.MessageMap[str, MaskKeys]
    shared: _containers.RepeatedScalarFieldContainer[str]
    unmasked: _containers.RepeatedScalarFieldContainer[str]
    members: _containers.RepeatedCompositeFieldContainer[Member]
    seconds: _containers.ScalarMap[str, float]
    def __init__(self, number: _Optional[int] = ..., phase: _Optional[_Union[Phase, str]] = ..., selected: _Optional[_Iterable[str]] = ..., wanted: _Optional[int] = ..., accepted: _Optional[_Iterable[_Union[Accepted, _Mapping]]] = ..., refused: _Optional[_Iterable[_Union[Refused, _Mapping]]] = ..., dropped: _Optional[_Iterable[str]] = ..., sealed: _Optional[_Iterable[str]] = ..., opened_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., evaluations: _Optional[_Iterable[_Union[Evaluation, _Mapping]]] = ..., evaluators: _Optional[_Iterable[str]] = ..., mask_keys: _Optional[_Mapping[str, MaskKeys]] = ..., shared: _Optional[_Iterable[str]] = ..., unmasked: _Optional[_Iterable[str]] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., seconds: _Optional[_Mapping[str, float]] = ...) -> None: ...

class RoundSummary(_message.Message):
    __slots__ = ("number", "model", "updates", "refused", "stragglers", "training", "evaluation", "bytes_up", "seconds", "epsilon", "silos", "late", "digests")
    class TrainingEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class EvaluationEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class SecondsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class LateEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    STRAGGLERS_FIELD_NUMBER: _ClassVar[int]
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    BYTES_UP_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    SILOS_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    number: int
    model: str
    updates: int
    refused: int
    stragglers: _containers.RepeatedScalarFieldContainer[str]
    training: _containers.ScalarMap[str, float]
    evaluation: _containers.ScalarMap[str, float]
    bytes_up: int
    seconds: _containers.ScalarMap[str, float]
    epsilon: float
    silos: _containers.RepeatedScalarFieldContainer[str]
    late: _containers.ScalarMap[str, int]
    digests: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, number: _Optional[int] = ..., model: _Optional[str] = ..., updates: _Optional[int] = ..., refused: _Optional[int] = ..., stragglers: _Optional[_Iterable[str]] = ..., training: _Optional[_Mapping[str, float]] = ..., evaluation: _Optional[_Mapping[str, float]] = ..., bytes_up: _Optional[int] = ..., seconds: _Optional[_Mapping[str, float]] = ..., epsilon: _Optional[float] = ..., silos: _Optional[_Iterable[str]] = ..., late: _Optional[_Mapping[str, int]] = ..., digests: _Optional[_Iterable[str]] = ...) -> None: ...

class Run(_message.Message):
    __slots__ = ("run_id", "spec", "status", "failure", "round", "history", "objects", "creator", "created_at", "sequence", "term", "holder", "bundle_uri", "epsilon", "initial_model", "waiting")
    class ObjectsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    CREATOR_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_URI_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    INITIAL_MODEL_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    spec: RunSpec
    status: RunStatus
    failure: str
    round: Round
    history: _containers.RepeatedCompositeFieldContainer[RoundSummary]
    objects: _containers.ScalarMap[str, str]
    creator: str
    created_at: _timestamp_pb2.Timestamp
    sequence: int
    term: int
    holder: str
    bundle_uri: str
    epsilon: float
    initial_model: str
    waiting: _containers.RepeatedCompositeFieldContainer[Accepted]
    def __init__(self, run_id: _Optional[str] = ..., spec: _Optional[_Union[RunSpec, _Mapping]] = ..., status: _Optional[_Union[RunStatus, str]] = ..., failure: _Optional[str] = ..., round: _Optional[_Union[Round, _Mapping]] = ..., history: _Optional[_Iterable[_Union[RoundSummary, _Mapping]]] = ..., objects: _Optional[_Mapping[str, str]] = ..., creator: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., sequence: _Optional[int] = ..., term: _Optional[int] = ..., holder: _Optional[str] = ..., bundle_uri: _Optional[str] = ..., epsilon: _Optional[float] = ..., initial_model: _Optional[str] = ..., waiting: _Optional[_Iterable[_Union[Accepted, _Mapping]]] = ...) -> None: ...

class RunEvent(_message.Message):
    __slots__ = ("sequence", "at", "actor", "term", "created", "lease_taken", "round_opened", "accepted", "refused", "dropped", "sealed", "reduced", "evaluated", "round_closed", "status_changed", "keys_advertised", "shares_deposited", "unmasked", "phase_changed", "silos_added")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    LEASE_TAKEN_FIELD_NUMBER: _ClassVar[int]
    ROUND_OPENED_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    REDUCED_FIELD_NUMBER: _ClassVar[int]
    EVALUATED_FIELD_NUMBER: _ClassVar[int]
    ROUND_CLOSED_FIELD_NUMBER: _ClassVar[int]
    STATUS_CHANGED_FIELD_NUMBER: _ClassVar[int]
    KEYS_ADVERTISED_FIELD_NUMBER: _ClassVar[int]
    SHARES_DEPOSITED_FIELD_NUMBER: _ClassVar[int]
    UNMASKED_FIELD_NUMBER: _ClassVar[int]
    PHASE_CHANGED_FIELD_NUMBER: _ClassVar[int]
    SILOS_ADDED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    at: _timestamp_pb2.Timestamp
    actor: str
    term: int
    created: Created
    lease_taken: LeaseTaken
    round_opened: RoundOpened
    accepted: Accepted
    refused: Refused
    dropped: Dropped
    sealed: Sealed
    reduced: Reduced
    evaluated: Evaluation
    round_closed: RoundClosed
    status_changed: StatusChanged
    keys_advertised: KeysAdvertised
    shares_deposited: SharesDeposited
    unmasked: Unmasked
    phase_changed: PhaseChanged
    silos_added: SilosAdded
    def __init__(self, sequence: _Optional[int] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., actor: _Optional[str] = ..., term: _Optional[int] = ..., created: _Optional[_Union[Created, _Mapping]] = ..., lease_taken: _Optional[_Union[LeaseTaken, _Mapping]] = ..., round_opened: _Optional[_Union[RoundOpened, _Mapping]] = ..., accepted: _Optional[_Union[Accepted, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ..., dropped: _Optional[_Union[Dropped, _Mapping]] = ..., sealed: _Optional[_Union[Sealed, _Mapping]] = ..., reduced: _Optional[_Union[Reduced, _Mapping]] = ..., evaluated: _Optional[_Union[Evaluation, _Mapping]] = ..., round_closed: _Optional[_Union[RoundClosed, _Mapping]] = ..., status_changed: _Optional[_Union[StatusChanged, _Mapping]] = ..., keys_advertised: _Optional[_Union[KeysAdvertised, _Mapping]] = ..., shares_deposited: _Optional[_Union[SharesDeposited, _Mapping]] = ..., unmasked: _Optional[_Union[Unmasked, _Mapping]] = ..., phase_changed: _Optional[_Union[PhaseChanged, _Mapping]] = ..., silos_added: _Optional[_Union[SilosAdded, _Mapping]] = ...) -> None: ...

class Created(_message.Message):
    __slots__ = ("run_id", "spec", "model")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    spec: RunSpec
    model: str
    def __init__(self, run_id: _Optional[str] = ..., spec: _Optional[_Union[RunSpec, _Mapping]] = ..., model: _Optional[str] = ...) -> None: ...

class LeaseTaken(_message.Message):
    __slots__ = ("holder",)
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    holder: str
    def __init__(self, holder: _Optional[str] = ...) -> None: ...

class RoundOpened(_message.Message):
    __slots__ = ("number", "selected", "wanted", "phase", "members", "objects")
    class ObjectsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    SELECTED_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    number: int
    selected: _containers.RepeatedScalarFieldContainer[str]
    wanted: int
    phase: Phase
    members: _containers.RepeatedCompositeFieldContainer[Member]
    objects: _containers.ScalarMap[str, str]
    def __init__(self, number: _Optional[int] = ..., selected: _Optional[_Iterable[str]] = ..., wanted: _Optional[int] = ..., phase: _Optional[_Union[Phase, str]] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., objects: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Dropped(_message.Message):
    __slots__ = ("silo", "reason")
    SILO_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    silo: str
    reason: str
    def __init__(self, silo: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Sealed(_message.Message):
    __slots__ = ("silos",)
    SILOS_FIELD_NUMBER: _ClassVar[int]
    silos: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, silos: _Optional[_Iterable[str]] = ...) -> None: ...

class Reduced(_message.Message):
    __slots__ = ("objects", "evaluators", "collect_seconds", "reduce_seconds", "epsilon")
    class ObjectsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    EVALUATORS_FIELD_NUMBER: _ClassVar[int]
    COLLECT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    REDUCE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    objects: _containers.ScalarMap[str, str]
    evaluators: _containers.RepeatedScalarFieldContainer[str]
    collect_seconds: float
    reduce_seconds: float
    epsilon: float
    def __init__(self, objects: _Optional[_Mapping[str, str]] = ..., evaluators: _Optional[_Iterable[str]] = ..., collect_seconds: _Optional[float] = ..., reduce_seconds: _Optional[float] = ..., epsilon: _Optional[float] = ...) -> None: ...

class RoundClosed(_message.Message):
    __slots__ = ("summary",)
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    summary: RoundSummary
    def __init__(self, summary: _Optional[_Union[RoundSummary, _Mapping]] = ...) -> None: ...

class StatusChanged(_message.Message):
    __slots__ = ("status", "reason", "bundle_uri")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_URI_FIELD_NUMBER: _ClassVar[int]
    status: RunStatus
    reason: str
    bundle_uri: str
    def __init__(self, status: _Optional[_Union[RunStatus, str]] = ..., reason: _Optional[str] = ..., bundle_uri: _Optional[str] = ...) -> None: ...

class KeysAdvertised(_message.Message):
    __slots__ = ("silo", "keys")
    SILO_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    silo: str
    keys: MaskKeys
    def __init__(self, silo: _Optional[str] = ..., keys: _Optional[_Union[MaskKeys, _Mapping]] = ...) -> None: ...

class SharesDeposited(_message.Message):
    __slots__ = ("silo",)
    SILO_FIELD_NUMBER: _ClassVar[int]
    silo: str
    def __init__(self, silo: _Optional[str] = ...) -> None: ...

class Unmasked(_message.Message):
    __slots__ = ("silo",)
    SILO_FIELD_NUMBER: _ClassVar[int]
    silo: str
    def __init__(self, silo: _Optional[str] = ...) -> None: ...

class PhaseChanged(_message.Message):
    __slots__ = ("phase", "silos")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    SILOS_FIELD_NUMBER: _ClassVar[int]
    phase: Phase
    silos: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, phase: _Optional[_Union[Phase, str]] = ..., silos: _Optional[_Iterable[str]] = ...) -> None: ...

class SilosAdded(_message.Message):
    __slots__ = ("silos", "members")
    SILOS_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    silos: _containers.RepeatedScalarFieldContainer[str]
    members: _containers.RepeatedCompositeFieldContainer[Member]
    def __init__(self, silos: _Optional[_Iterable[str]] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ...) -> None: ...

class Silo(_message.Message):
    __slots__ = ("silo_id", "modalities", "samples", "methods", "labels", "connected", "last_seen", "version", "activity", "progress", "data_version", "validation_samples")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SILO_ID_FIELD_NUMBER: _ClassVar[int]
    MODALITIES_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ACTIVITY_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    DATA_VERSION_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    silo_id: str
    modalities: _containers.RepeatedScalarFieldContainer[str]
    samples: int
    methods: _containers.RepeatedScalarFieldContainer[str]
    labels: _containers.ScalarMap[str, str]
    connected: bool
    last_seen: _timestamp_pb2.Timestamp
    version: str
    activity: str
    progress: float
    data_version: str
    validation_samples: int
    def __init__(self, silo_id: _Optional[str] = ..., modalities: _Optional[_Iterable[str]] = ..., samples: _Optional[int] = ..., methods: _Optional[_Iterable[str]] = ..., labels: _Optional[_Mapping[str, str]] = ..., connected: _Optional[bool] = ..., last_seen: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., version: _Optional[str] = ..., activity: _Optional[str] = ..., progress: _Optional[float] = ..., data_version: _Optional[str] = ..., validation_samples: _Optional[int] = ...) -> None: ...

class PrepareModelRequest(_message.Message):
    __slots__ = ("manifest",)
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    manifest: Manifest
    def __init__(self, manifest: _Optional[_Union[Manifest, _Mapping]] = ...) -> None: ...

class PrepareModelResponse(_message.Message):
    __slots__ = ("missing",)
    MISSING_FIELD_NUMBER: _ClassVar[int]
    missing: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, missing: _Optional[_Iterable[int]] = ...) -> None: ...

class PutModelRequest(_message.Message):
    __slots__ = ("manifest", "chunk")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    manifest: Manifest
    chunk: Chunk
    def __init__(self, manifest: _Optional[_Union[Manifest, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ...) -> None: ...

class PutModelResponse(_message.Message):
    __slots__ = ("stored",)
    STORED_FIELD_NUMBER: _ClassVar[int]
    stored: int
    def __init__(self, stored: _Optional[int] = ...) -> None: ...

class CreateRunRequest(_message.Message):
    __slots__ = ("run_id", "spec", "request_id")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    spec: RunSpec
    request_id: str
    def __init__(self, run_id: _Optional[str] = ..., spec: _Optional[_Union[RunSpec, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class CreateRunResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: Run
    def __init__(self, run: _Optional[_Union[Run, _Mapping]] = ...) -> None: ...

class GetRunRequest(_message.Message):
    __slots__ = ("run_id", "history_before")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    HISTORY_BEFORE_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    history_before: int
    def __init__(self, run_id: _Optional[str] = ..., history_before: _Optional[int] = ...) -> None: ...

class GetRunResponse(_message.Message):
    __slots__ = ("run", "more_history")
    RUN_FIELD_NUMBER: _ClassVar[int]
    MORE_HISTORY_FIELD_NUMBER: _ClassVar[int]
    run: Run
    more_history: bool
    def __init__(self, run: _Optional[_Union[Run, _Mapping]] = ..., more_history: _Optional[bool] = ...) -> None: ...

class ListRunsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "status")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    status: RunStatus
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., status: _Optional[_Union[RunStatus, str]] = ...) -> None: ...

class ListRunsResponse(_message.Message):
    __slots__ = ("runs", "next_page_token")
    RUNS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[Run]
    next_page_token: str
    def __init__(self, runs: _Optional[_Iterable[_Union[Run, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CancelRunRequest(_message.Message):
    __slots__ = ("run_id", "reason")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    reason: str
    def __init__(self, run_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class CancelRunResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: Run
    def __init__(self, run: _Optional[_Union[Run, _Mapping]] = ...) -> None: ...

class PauseRunRequest(_message.Message):
    __slots__ = ("run_id", "reason")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    reason: str
    def __init__(self, run_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class PauseRunResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: Run
    def __init__(self, run: _Optional[_Union[Run, _Mapping]] = ...) -> None: ...

class ResumeRunRequest(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class ResumeRunResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: Run
    def __init__(self, run: _Optional[_Union[Run, _Mapping]] = ...) -> None: ...

class WatchRunRequest(_message.Message):
    __slots__ = ("run_id", "after")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    after: int
    def __init__(self, run_id: _Optional[str] = ..., after: _Optional[int] = ...) -> None: ...

class WatchRunResponse(_message.Message):
    __slots__ = ("event",)
    EVENT_FIELD_NUMBER: _ClassVar[int]
    event: RunEvent
    def __init__(self, event: _Optional[_Union[RunEvent, _Mapping]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("run_id", "round", "initial", "object")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    INITIAL_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    round: int
    initial: bool
    object: str
    def __init__(self, run_id: _Optional[str] = ..., round: _Optional[int] = ..., initial: _Optional[bool] = ..., object: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("manifest", "round", "chunk")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    manifest: Manifest
    round: int
    chunk: Chunk
    def __init__(self, manifest: _Optional[_Union[Manifest, _Mapping]] = ..., round: _Optional[int] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ...) -> None: ...

class ListSilosRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListSilosResponse(_message.Message):
    __slots__ = ("silos", "next_page_token")
    SILOS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    silos: _containers.RepeatedCompositeFieldContainer[Silo]
    next_page_token: str
    def __init__(self, silos: _Optional[_Iterable[_Union[Silo, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class EstimateRunRequest(_message.Message):
    __slots__ = ("spec", "silos", "bandwidth", "train_seconds")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    SILOS_FIELD_NUMBER: _ClassVar[int]
    BANDWIDTH_FIELD_NUMBER: _ClassVar[int]
    TRAIN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    spec: RunSpec
    silos: int
    bandwidth: float
    train_seconds: float
    def __init__(self, spec: _Optional[_Union[RunSpec, _Mapping]] = ..., silos: _Optional[int] = ..., bandwidth: _Optional[float] = ..., train_seconds: _Optional[float] = ...) -> None: ...

class EstimateRunResponse(_message.Message):
    __slots__ = ("silos", "bytes_down", "bytes_up", "bytes_total", "server_memory", "store_bytes", "round_seconds", "total_seconds", "epsilon")
    SILOS_FIELD_NUMBER: _ClassVar[int]
    BYTES_DOWN_FIELD_NUMBER: _ClassVar[int]
    BYTES_UP_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    SERVER_MEMORY_FIELD_NUMBER: _ClassVar[int]
    STORE_BYTES_FIELD_NUMBER: _ClassVar[int]
    ROUND_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    silos: int
    bytes_down: int
    bytes_up: int
    bytes_total: int
    server_memory: int
    store_bytes: int
    round_seconds: float
    total_seconds: float
    epsilon: float
    def __init__(self, silos: _Optional[int] = ..., bytes_down: _Optional[int] = ..., bytes_up: _Optional[int] = ..., bytes_total: _Optional[int] = ..., server_memory: _Optional[int] = ..., store_bytes: _Optional[int] = ..., round_seconds: _Optional[float] = ..., total_seconds: _Optional[float] = ..., epsilon: _Optional[float] = ...) -> None: ...

class RegisterRequest(_message.Message):
    __slots__ = ("modalities", "samples", "methods", "labels", "version", "data_version", "validation_samples")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MODALITIES_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DATA_VERSION_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    modalities: _containers.RepeatedScalarFieldContainer[str]
    samples: int
    methods: _containers.RepeatedScalarFieldContainer[str]
    labels: _containers.ScalarMap[str, str]
    version: str
    data_version: str
    validation_samples: int
    def __init__(self, modalities: _Optional[_Iterable[str]] = ..., samples: _Optional[int] = ..., methods: _Optional[_Iterable[str]] = ..., labels: _Optional[_Mapping[str, str]] = ..., version: _Optional[str] = ..., data_version: _Optional[str] = ..., validation_samples: _Optional[int] = ...) -> None: ...

class RegisterResponse(_message.Message):
    __slots__ = ("silo_id", "heartbeat")
    SILO_ID_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    silo_id: str
    heartbeat: _duration_pb2.Duration
    def __init__(self, silo_id: _Optional[str] = ..., heartbeat: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class WatchTasksRequest(_message.Message):
    __slots__ = ("until_end_of", "appears_within")
    UNTIL_END_OF_FIELD_NUMBER: _ClassVar[int]
    APPEARS_WITHIN_FIELD_NUMBER: _ClassVar[int]
    until_end_of: str
    appears_within: _duration_pb2.Duration
    def __init__(self, until_end_of: _Optional[str] = ..., appears_within: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class TaskObject(_message.Message):
    __slots__ = ("name", "digest", "manifest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: str
    manifest: Manifest
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ..., manifest: _Optional[_Union[Manifest, _Mapping]] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("kind", "run_id", "round", "objects", "method", "config", "strategy", "strategy_options", "seed", "privacy", "data", "mask_keys", "shares", "survivors", "threshold", "selected", "status", "deadline", "scalars", "quorum", "created_at", "data_version")
    class MaskKeysEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: MaskKeys
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[MaskKeys, _Mapping]] = ...) -> None: ...
    class ScalarsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    KIND_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PRIVACY_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    MASK_KEYS_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    SURVIVORS_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    SELECTED_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    SCALARS_FIELD_NUMBER: _ClassVar[int]
    QUORUM_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    DATA_VERSION_FIELD_NUMBER: _ClassVar[int]
    kind: TaskKind
    run_id: str
    round: int
    objects: _containers.RepeatedCompositeFieldContainer[TaskObject]
    method: str
    config: _struct_pb2.Struct
    strategy: str
    strategy_options: _struct_pb2.Struct
    seed: int
    privacy: PrivacyPolicy
    data: DataContract
    mask_keys: _containers.MessageMap[str, MaskKeys]
    shares: _containers.RepeatedCompositeFieldContainer[EncryptedShare]
    survivors: _containers.RepeatedScalarFieldContainer[str]
    threshold: int
    selected: int
    status: RunStatus
    deadline: _timestamp_pb2.Timestamp
    scalars: _containers.ScalarMap[str, float]
    quorum: int
    created_at: _timestamp_pb2.Timestamp
    data_version: str
    def __init__(self, kind: _Optional[_Union[TaskKind, str]] = ..., run_id: _Optional[str] = ..., round: _Optional[int] = ..., objects: _Optional[_Iterable[_Union[TaskObject, _Mapping]]] = ..., method: _Optional[str] = ..., config: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., strategy: _Optional[str] = ..., strategy_options: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., seed: _Optional[int] = ..., privacy: _Optional[_Union[PrivacyPolicy, _Mapping]] = ..., data: _Optional[_Union[DataContract, _Mapping]] = ..., mask_keys: _Optional[_Mapping[str, MaskKeys]] = ..., shares: _Optional[_Iterable[_Union[EncryptedShare, _Mapping]]] = ..., survivors: _Optional[_Iterable[str]] = ..., threshold: _Optional[int] = ..., selected: _Optional[int] = ..., status: _Optional[_Union[RunStatus, str]] = ..., deadline: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., scalars: _Optional[_Mapping[str, float]] = ..., quorum: _Optional[int] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., data_version: _Optional[str] = ...) -> None: ...

class WatchTasksResponse(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: Task
    def __init__(self, task: _Optional[_Union[Task, _Mapping]] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("activity", "progress")
    ACTIVITY_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    activity: str
    progress: float
    def __init__(self, activity: _Optional[str] = ..., progress: _Optional[float] = ...) -> None: ...

class HeartbeatResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class LeaveResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DownloadRequest(_message.Message):
    __slots__ = ("run_id", "digest", "chunks")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    digest: str
    chunks: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, run_id: _Optional[str] = ..., digest: _Optional[str] = ..., chunks: _Optional[_Iterable[int]] = ...) -> None: ...

class DownloadResponse(_message.Message):
    __slots__ = ("chunk",)
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    chunk: Chunk
    def __init__(self, chunk: _Optional[_Union[Chunk, _Mapping]] = ...) -> None: ...

class PrepareUpdateRequest(_message.Message):
    __slots__ = ("run_id", "round", "manifest")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    round: int
    manifest: Manifest
    def __init__(self, run_id: _Optional[str] = ..., round: _Optional[int] = ..., manifest: _Optional[_Union[Manifest, _Mapping]] = ...) -> None: ...

class PrepareUpdateResponse(_message.Message):
    __slots__ = ("missing",)
    MISSING_FIELD_NUMBER: _ClassVar[int]
    missing: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, missing: _Optional[_Iterable[int]] = ...) -> None: ...

class PutUpdateRequest(_message.Message):
    __slots__ = ("run_id", "round", "digest", "chunk")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    round: int
    digest: str
    chunk: Chunk
    def __init__(self, run_id: _Optional[str] = ..., round: _Optional[int] = ..., digest: _Optional[str] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ...) -> None: ...

class PutUpdateResponse(_message.Message):
    __slots__ = ("stored",)
    STORED_FIELD_NUMBER: _ClassVar[int]
    stored: int
    def __init__(self, stored: _Optional[int] = ...) -> None: ...

class UpdateAnswer(_message.Message):
    __slots__ = ("digest", "samples", "scalars", "metrics", "steps")
    class ScalarsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SCALARS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    digest: str
    samples: int
    scalars: _containers.ScalarMap[str, float]
    metrics: _containers.ScalarMap[str, float]
    steps: int
    def __init__(self, digest: _Optional[str] = ..., samples: _Optional[int] = ..., scalars: _Optional[_Mapping[str, float]] = ..., metrics: _Optional[_Mapping[str, float]] = ..., steps: _Optional[int] = ...) -> None: ...

class EvaluationAnswer(_message.Message):
    __slots__ = ("samples", "metrics")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    samples: int
    metrics: _containers.ScalarMap[str, float]
    def __init__(self, samples: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ...) -> None: ...

class SharesAnswer(_message.Message):
    __slots__ = ("shares",)
    SHARES_FIELD_NUMBER: _ClassVar[int]
    shares: _containers.RepeatedCompositeFieldContainer[EncryptedShare]
    def __init__(self, shares: _Optional[_Iterable[_Union[EncryptedShare, _Mapping]]] = ...) -> None: ...

class UnmaskAnswer(_message.Message):
    __slots__ = ("shares",)
    SHARES_FIELD_NUMBER: _ClassVar[int]
    shares: _containers.RepeatedCompositeFieldContainer[RevealedShare]
    def __init__(self, shares: _Optional[_Iterable[_Union[RevealedShare, _Mapping]]] = ...) -> None: ...

class FailureAnswer(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class AnswerRequest(_message.Message):
    __slots__ = ("run_id", "round", "update", "evaluation", "keys", "shares", "unmask", "failure")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    UNMASK_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    round: int
    update: UpdateAnswer
    evaluation: EvaluationAnswer
    keys: MaskKeys
    shares: SharesAnswer
    unmask: UnmaskAnswer
    failure: FailureAnswer
    def __init__(self, run_id: _Optional[str] = ..., round: _Optional[int] = ..., update: _Optional[_Union[UpdateAnswer, _Mapping]] = ..., evaluation: _Optional[_Union[EvaluationAnswer, _Mapping]] = ..., keys: _Optional[_Union[MaskKeys, _Mapping]] = ..., shares: _Optional[_Union[SharesAnswer, _Mapping]] = ..., unmask: _Optional[_Union[UnmaskAnswer, _Mapping]] = ..., failure: _Optional[_Union[FailureAnswer, _Mapping]] = ...) -> None: ...

class AnswerResponse(_message.Message):
    __slots__ = ("verdict", "reason")
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    verdict: Verdict
    reason: str
    def __init__(self, verdict: _Optional[_Union[Verdict, str]] = ..., reason: _Optional[str] = ...) -> None: ...
