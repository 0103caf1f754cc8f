// Package admission is a middleware of the OTLP receiver: so many bytes of requests are decoded at once, over HTTP and gRPC
// together.
//
// What a request takes decoded can be more than a hundred times its size, and the receiver decodes before a processor can
// refuse. Here a request is read whole first, still encoded, within a budget; then it waits until its bytes fit beside those
// that are being decoded, and holds them until the pipeline has taken it. What finds no room in the budget, or is not admitted
// in time, is refused so that the sender retries.
//
// Nothing in the Collector 0.161 does that: its memory limiters, processor and extension, sample the memory, which a burst has
// exceeded by then; max_concurrent_streams is of one connection; the admission of otelarrowreceiver counts what is decoded. A
// limiter for middlewares is only proposed (open-telemetry/opentelemetry-collector#9591, #13265). With one, this can go.
package admission

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc/encoding"
)

const (
	mib = 1 << 20
	// Bytes of memory for each byte that is decoded. Half a million empty spans of two bytes are 116, and a part of that again
	// is garbage.
	growth = 200
)

// Config has a default for the first two fields where they are 0, in proportion to the memory.
type Config struct {
	// DecodedBytes is how many bytes of requests are decoded at once, half of them of one signal; by default a two-hundredth of
	// the memory. A larger request waits until it is alone.
	DecodedBytes int64 `mapstructure:"decoded_bytes"`
	// WaitingBytes is what requests may take that are being read, or wait; by default an eighth of the memory.
	WaitingBytes int64 `mapstructure:"waiting_bytes"`
	// GRPCBytes is the largest gRPC request. Until one is read its size is not known, and it counts as twice that much: packed,
	// and unpacked.
	GRPCBytes int64 `mapstructure:"grpc_bytes"`
	// Wait is how long a request waits to be admitted.
	Wait time.Duration `mapstructure:"wait"`
	// ReadTimeout is how long a gRPC request may take to arrive; over HTTP the receiver has its own.
	ReadTimeout time.Duration `mapstructure:"read_timeout"`
}

// Validate is called by the Collector.
func (c *Config) Validate() error {
	if c.DecodedBytes < 0 || c.WaitingBytes < 0 || c.GRPCBytes < 1 || c.Wait <= 0 || c.ReadTimeout <= 0 {
		return errors.New("decoded_bytes and waiting_bytes must not be below 0; grpc_bytes, wait and read_timeout must be above it")
	}
	return nil
}

// NewFactory is called by the Collector.
func NewFactory() extension.Factory {
	return extension.NewFactory(
		component.MustNewType("admission"),
		func() component.Config {
			return &Config{GRPCBytes: 4 * mib, Wait: 5 * time.Second, ReadTimeout: 10 * time.Second}
		},
		func(_ context.Context, set extension.Settings, config component.Config) (extension.Extension, error) {
			return newAdmission(config.(*Config), set.TelemetrySettings)
		},
		component.StabilityLevelBeta,
	)
}

type admission struct {
	component.StartFunc
	component.ShutdownFunc

	config  Config
	all     *semaphore.Weighted
	signals [4]*semaphore.Weighted
	room    int64
	held    atomic.Int64
	// What gRPC reads.
	arriving arrivals
	codec    encoding.CodecV2
	encoded  sync.Map // what was read of a gRPC request, by the message that it will be decoded into
	refused  metric.Int64Counter
	logger   *zap.Logger
}

func newAdmission(config *Config, telemetry component.TelemetrySettings) (*admission, error) {
	memory := usableMemory("/")
	a := &admission{config: *config, codec: encoding.GetCodecV2("proto"), logger: telemetry.Logger}
	if a.config.DecodedBytes == 0 {
		a.config.DecodedBytes = memory / growth
	}
	a.all = semaphore.NewWeighted(max(a.config.DecodedBytes, 2))
	for i := range a.signals {
		// A pipeline that does not go on stops its own signal only.
		a.signals[i] = semaphore.NewWeighted(a.most())
	}
	// What is larger than all of the room could never enter.
	a.room = max(a.config.WaitingBytes, 2*a.config.GRPCBytes)
	if a.config.WaitingBytes == 0 {
		a.room = max(memory/8, 2*a.config.GRPCBytes)
	}
	largestMessage.Store(max(largestMessage.Load(), a.config.GRPCBytes))
	a.logger.Info("OTLP requests are bounded", zap.Int64("decoded_bytes", a.config.DecodedBytes), zap.Int64("waiting_bytes", a.room))
	var err error
	a.refused, err = telemetry.MeterProvider.Meter("github.com/ai-otel/ai-otel/collector-config/distribution/admission").Int64Counter(
		"otelcol_admission_refused_requests",
		metric.WithDescription("OTLP requests that were refused before they were decoded; senders retry them."),
		metric.WithUnit("{requests}"),
	)
	return a, err
}

// most is what one signal may hold.
func (a *admission) most() int64 { return max(a.config.DecodedBytes/2, 1) }

// ---------------------------------------------------------------- what is decoded

var errBusy = errors.New("too many OTLP requests at once: send it again later")

// enter waits until a request of this size may be decoded. An error is errBusy, or says that the sender has gone.
func (a *admission) enter(ctx context.Context, name string, size int) (leave func(), err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, a.config.Wait, errBusy)
	defer cancel()
	weight := min(max(int64(size), 1), a.most())
	own := a.signals[signalOf(name)]
	if own.Acquire(ctx, weight) != nil {
		return nil, a.late(ctx)
	}
	if a.all.Acquire(ctx, weight) != nil {
		own.Release(weight)
		return nil, a.late(ctx)
	}
	return func() { a.all.Release(weight); own.Release(weight) }, nil
}

func (a *admission) late(ctx context.Context) error {
	if !errors.Is(context.Cause(ctx), errBusy) {
		return ctx.Err()
	}
	a.count(ctx, "decoding")
	return errBusy
}

// signalOf finds it in the path of a URL or the name of a gRPC method.
func signalOf(name string) int {
	for i, part := range []string{"trace", "metrics", "logs"} {
		if strings.Contains(name, part) {
			return i
		}
	}
	return 3
}

func (a *admission) count(ctx context.Context, reason string) {
	a.refused.Add(ctx, 1, metric.WithAttributes(attribute.String("reason", reason)))
	a.logger.Warn("OTLP request refused", zap.String("reason", reason)) // sampled by the logger
}

// ---------------------------------------------------------------- the budget of bytes

func (a *admission) take(size int64) bool {
	for a.held.Add(size) > a.room {
		a.held.Add(-size)
		if !a.endOldest() {
			a.count(context.Background(), "waiting")
			return false
		}
	}
	return true
}

func (a *admission) give(size int64) { a.held.Add(-size) }
