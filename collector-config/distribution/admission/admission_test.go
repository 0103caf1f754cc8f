package admission

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"go.opentelemetry.io/otel/metric/noop"
	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const traces = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

// A gRPC request, and a body that is as large.
var (
	request = oneSpan()
	size    = sizeOf(request)
	body    = strings.Repeat("x", int(size))
)

func oneSpan() ptraceotlp.ExportRequest {
	spans := ptrace.NewTraces()
	spans.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans().AppendEmpty().SetName("one")
	return ptraceotlp.NewExportRequestFromTraces(spans)
}

func sizeOf(request ptraceotlp.ExportRequest) int64 {
	text, _ := request.MarshalProto()
	return int64(len(text))
}

// pipeline takes requests, and counts how many it has at once.
type pipeline struct {
	ptraceotlp.UnimplementedGRPCServer
	now, most atomic.Int64
	open      chan struct{} // closed: requests pass
}

func (p *pipeline) hold() {
	now := p.now.Add(1)
	for most := p.most.Load(); now > most && !p.most.CompareAndSwap(most, now); most = p.most.Load() {
	}
	<-p.open
	p.now.Add(-1)
}

func (p *pipeline) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, err := io.ReadAll(r.Body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	p.hold()
}

func (p *pipeline) Export(_ context.Context, request ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	if request.Traces().SpanCount() == 0 {
		return ptraceotlp.NewExportResponse(), status.Error(codes.DataLoss, "not decoded")
	}
	p.hold()
	return ptraceotlp.NewExportResponse(), nil
}

type logs struct {
	plogotlp.UnimplementedGRPCServer
}

func (*logs) Export(context.Context, plogotlp.ExportRequest) (plogotlp.ExportResponse, error) {
	return plogotlp.NewExportResponse(), nil
}

type rig struct {
	*testing.T
	*admission
	pipeline *pipeline
	http     *httptest.Server
	address  string
	grpc     *grpc.ClientConn
}

func start(t *testing.T, config Config, interceptors ...grpc.UnaryServerInterceptor) *rig {
	if config.Wait == 0 {
		config.Wait = 10 * time.Second
	}
	if config.ReadTimeout == 0 {
		config.ReadTimeout = 10 * time.Second
	}
	if config.GRPCBytes == 0 {
		config.GRPCBytes = 1000
	}
	must(t, config.Validate())
	a, err := newAdmission(&config, component.TelemetrySettings{Logger: zap.NewNop(), MeterProvider: noop.NewMeterProvider()})
	must(t, err)
	r := &rig{T: t, admission: a, pipeline: &pipeline{open: make(chan struct{})}}

	wrap, err := a.GetHTTPHandler(t.Context())
	must(t, err)
	handler, err := wrap(t.Context(), r.pipeline)
	must(t, err)
	r.http = httptest.NewServer(handler)

	options, err := a.GetGRPCServerOptions(t.Context())
	must(t, err)
	server := grpc.NewServer(append([]grpc.ServerOption{grpc.ChainUnaryInterceptor(interceptors...)}, options...)...)
	ptraceotlp.RegisterGRPCServer(server, r.pipeline)
	plogotlp.RegisterGRPCServer(server, &logs{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	go func() { _ = server.Serve(listener) }()
	r.address = listener.Addr().String()
	r.grpc, err = grpc.NewClient(r.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() {
		_ = r.grpc.Close()
		server.Stop()
		r.http.Close()
		eventually(t, "nothing is held at the end", func() bool {
			left := 0
			r.encoded.Range(func(any, any) bool { left++; return true })
			return r.held.Load() == 0 && left == 0 && isFree(r.all, r.config.DecodedBytes) && isFree(r.signals[0], r.most())
		})
	})
	return r
}

func (r *rig) pass() { close(r.pipeline.open) }

func (r *rig) post(path string, body io.Reader) *http.Response {
	answer, err := http.Post(r.http.URL+path, "application/x-protobuf", body)
	must(r, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	must(r, err)
	answer.Body = io.NopCloser(bytes.NewReader(text))
	return answer
}

func (r *rig) export() error {
	_, err := ptraceotlp.NewGRPCClient(r.grpc).Export(r.Context(), request)
	return err
}

func isFree(all *semaphore.Weighted, size int64) bool {
	free := all.TryAcquire(size)
	if free {
		all.Release(size)
	}
	return free
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not so after ten seconds: " + what)
		}
	}
}

func TestHTTPAndGRPCShareWhatIsDecoded(t *testing.T) {
	r := start(t, Config{DecodedBytes: 6 * size})
	var senders sync.WaitGroup
	for range 20 {
		senders.Go(func() {
			if code := r.post("/v1/traces", strings.NewReader(body)).StatusCode; code != http.StatusOK {
				t.Error(code)
			}
		})
		senders.Go(func() {
			if err := r.export(); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "three are in, as half is for other signals", func() bool { return r.pipeline.now.Load() == 3 })
	r.pass()
	senders.Wait()
	if most := r.pipeline.most.Load(); most != 3 {
		t.Errorf("%d requests of one signal were in the pipeline at once", most)
	}
}

func TestARequestThatIsNotAdmittedIsRefusedInTimeAndForARetry(t *testing.T) {
	r := start(t, Config{DecodedBytes: 2 * size, Wait: 50 * time.Millisecond})
	var first sync.WaitGroup
	first.Go(func() { must(t, r.export()) })
	eventually(t, "the first is in", func() bool { return r.pipeline.now.Load() == 1 })

	answer := r.post("/v1/traces", strings.NewReader(body))
	if answer.StatusCode != http.StatusServiceUnavailable || answer.Header.Get("Retry-After") != "1" {
		t.Error(answer)
	}
	answered := status.Convert(r.export())
	if answered.Code() != codes.Unavailable || len(answered.Details()) != 1 {
		t.Error(answered, answered.Details())
	} else if retry, ok := answered.Details()[0].(*errdetails.RetryInfo); !ok || retry.RetryDelay.AsDuration() != time.Second {
		t.Error(answered.Details())
	}
	r.pass()
	first.Wait()
	must(t, r.export())
}

func TestASenderThatGoesAwayLeavesTheQueue(t *testing.T) {
	r := start(t, Config{DecodedBytes: 2 * size})
	var first sync.WaitGroup
	first.Go(func() { must(t, r.export()) })
	eventually(t, "the first is in", func() bool { return r.pipeline.now.Load() == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := ptraceotlp.NewGRPCClient(r.grpc).Export(ctx, ptraceotlp.NewExportRequest())
	if status.Code(err) != codes.DeadlineExceeded {
		t.Error(err)
	}
	eventually(t, "only the first is left", func() bool { return r.held.Load() == size })
	r.pass()
	first.Wait()
}

func TestAPipelineThatDoesNotGoOnStopsItsOwnSignalOnly(t *testing.T) {
	r := start(t, Config{DecodedBytes: 2 * size, Wait: 50 * time.Millisecond})
	var first sync.WaitGroup
	first.Go(func() { must(t, r.export()) })
	eventually(t, "the first is in", func() bool { return r.pipeline.now.Load() == 1 })
	if code := status.Code(r.export()); code != codes.Unavailable {
		t.Error(code)
	}
	_, err := plogotlp.NewGRPCClient(r.grpc).Export(t.Context(), plogotlp.NewExportRequest())
	must(t, err)
	r.pass()
	first.Wait()
}

func TestBodiesThatStallHoldTheBudgetOnly(t *testing.T) {
	r := start(t, Config{DecodedBytes: 2 * size, WaitingBytes: 2 * mib})
	var stalled sync.WaitGroup
	ends := make([]*io.PipeWriter, 2)
	for i := range ends {
		body, end := io.Pipe()
		ends[i] = end
		stalled.Go(func() { r.post("/v1/traces", body) })
		_, err := end.Write(make([]byte, 900_000))
		must(t, err)
	}
	eventually(t, "they hold the budget", func() bool { return r.held.Load() == 2*mib })
	for _, code := range []int{r.post("/v1/traces", strings.NewReader(body)).StatusCode, r.post("/v1/logs", strings.NewReader(body)).StatusCode} {
		if code != http.StatusServiceUnavailable {
			t.Error(code)
		}
	}
	if code := status.Code(r.export()); code != codes.Unavailable {
		t.Error(code)
	}
	if !isFree(r.all, r.config.DecodedBytes) {
		t.Error("they hold what only a decoded request holds")
	}
	r.pass()
	_ = ends[0].Close()
	eventually(t, "the first has given back what it held", func() bool { return r.held.Load() == mib })
	must(t, r.export())
	_ = ends[1].Close()
	stalled.Wait()
}

func TestBodiesArriveAsTheyWereSent(t *testing.T) {
	for _, length := range []int{0, 1, 4095, 4096, 4097, 8192, mib - 1, mib} {
		sent := bytes.Repeat([]byte("abcdefg"), length/7+1)[:length]
		a := &admission{room: 2 * mib}
		read, held, err := a.read(bytes.NewReader(sent))
		if !errors.Is(err, io.EOF) || !bytes.Equal(read, sent) || held != a.held.Load() || held < int64(length) || held > int64(max(4096, 2*length)) {
			t.Error(length, len(read), held, err)
		}
	}
}

func TestABodyThatCannotBeReadIsTheReceiversToRefuse(t *testing.T) {
	r := start(t, Config{DecodedBytes: 2 * size})
	wrap, _ := r.GetHTTPHandler(t.Context())
	handler, _ := wrap(t.Context(), r.pipeline)
	answer := httptest.NewRecorder()
	broken := io.MultiReader(strings.NewReader("half"), failed{errors.New("broken off")})
	handler.ServeHTTP(answer, httptest.NewRequest(http.MethodPost, "/v1/traces", broken))
	if answer.Code != http.StatusBadRequest || !strings.Contains(answer.Body.String(), "broken off") {
		t.Error(answer)
	}
}

func TestAStrangerIsRefusedBeforeItsRequestIsDecoded(t *testing.T) {
	decoded := true
	r := start(t, Config{DecodedBytes: 2 * size}, func(_ context.Context, request any, _ *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
		decoded = request.(interface{ SizeProto() int }).SizeProto() > 0
		return nil, status.Error(codes.Unauthenticated, "who are you")
	})
	if code := status.Code(r.export()); code != codes.Unauthenticated || decoded {
		t.Error(code, decoded)
	}
}

func TestAMessageThatIsNoOTLPIsRefused(t *testing.T) {
	r := start(t, Config{DecodedBytes: 2 * size})
	err := r.grpc.Invoke(t.Context(), traces, noise{}, noise{}, grpc.ForceCodec(noise{}))
	if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "unmarshalling request") {
		t.Error(err)
	}
}

type noise struct{}

func (noise) Name() string                { return "proto" }
func (noise) Marshal(any) ([]byte, error) { return []byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f}, nil }
func (noise) Unmarshal([]byte, any) error { return nil }

func TestAStreamThatStallsEndsInTime(t *testing.T) {
	r := start(t, Config{DecodedBytes: 2 * size, WaitingBytes: 1, ReadTimeout: 50 * time.Millisecond})
	stream, err := r.grpc.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true}, traces)
	must(t, err)
	// Its headers are sent, and no message.
	if code := status.Code(stream.RecvMsg(nil)); code != codes.Canceled {
		t.Error(code)
	}
	eventually(t, "its room is free", func() bool { return r.held.Load() == 0 })
	r.pass()
	must(t, r.export())
}

func TestStreamsThatStallGiveWayToOthers(t *testing.T) {
	// 18 requests of 1000 bytes twice, and the headers of two HTTP requests with a small body each.
	r := start(t, Config{DecodedBytes: 8 * size, WaitingBytes: 36_000, ReadTimeout: 2 * time.Second})
	r.pass()
	stall := func() grpc.ClientStream {
		stream, err := r.grpc.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true}, traces)
		must(t, err)
		return stream
	}
	oldest := stall()
	eventually(t, "it is the first", func() bool { return r.held.Load() == 2_000 })
	for range 17 {
		stall()
	}
	eventually(t, "they hold all", func() bool { return r.held.Load() == 36_000 })
	if code := status.Code(r.export()); code != codes.Unavailable {
		t.Error("those that have just begun give way:", code)
	}
	time.Sleep(300 * time.Millisecond)
	must(t, r.export())
	if code := status.Code(oldest.RecvMsg(nil)); code != codes.Canceled {
		t.Error(code)
	}
	if code := r.post("/v1/traces", strings.NewReader(body)).StatusCode; code != http.StatusOK {
		t.Error(code)
	}
	if held := r.held.Load(); held < 28_000 {
		t.Error("more were ended than others needed:", held)
	}
}

func TestLargeHeadersOverGRPCAreRefused(t *testing.T) {
	r := start(t, Config{DecodedBytes: 2 * size})
	r.pass()
	for length, wanted := range map[int]codes.Code{8 << 10: codes.OK, 17 << 10: codes.Internal, 1 << 20: codes.Internal} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", strings.Repeat("x", length))
		_, err := ptraceotlp.NewGRPCClient(r.grpc).Export(ctx, request)
		if status.Code(err) != wanted {
			t.Error(length, err)
		}
	}
}

func TestHeadersOverHTTPCountWithTheirRequest(t *testing.T) {
	r := start(t, Config{DecodedBytes: 2 * size, WaitingBytes: 100_000})
	r.pass()
	for length, wanted := range map[int]int{80_000: http.StatusOK, 100_000: http.StatusServiceUnavailable} {
		sent, err := http.NewRequest(http.MethodPost, r.http.URL+"/v1/traces", strings.NewReader(body))
		must(t, err)
		sent.Header.Set("X-Large", strings.Repeat("x", length))
		answer, err := http.DefaultClient.Do(sent)
		must(t, err)
		_ = answer.Body.Close()
		if answer.StatusCode != wanted {
			t.Error(length, answer.StatusCode)
		}
	}
}

func TestARequestThatIsLargerThanAllIsTakenAlone(t *testing.T) {
	r := start(t, Config{DecodedBytes: 4 * size})
	var large sync.WaitGroup
	for range 3 {
		large.Go(func() {
			if code := r.post("/v1/traces", bytes.NewReader(make([]byte, 100*size))).StatusCode; code != http.StatusOK {
				t.Error(code)
			}
		})
	}
	eventually(t, "one is in", func() bool { return r.pipeline.now.Load() == 1 })
	r.pass()
	large.Wait()
	if most := r.pipeline.most.Load(); most != 1 {
		t.Error(most)
	}
}

func TestDefaultsAreInProportionToMemory(t *testing.T) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(-1))
	for _, memory := range []int64{1, 409 * mib, 1638 * mib} {
		debug.SetMemoryLimit(memory)
		config := NewFactory().CreateDefaultConfig().(*Config)
		must(t, config.Validate())
		a, err := newAdmission(config, component.TelemetrySettings{Logger: zap.NewNop(), MeterProvider: noop.NewMeterProvider()})
		must(t, err)
		if a.config.DecodedBytes != memory/200 || a.room != max(memory/8, 8*mib) || a.most() < 1 {
			t.Error(memory, a.config, a.room)
		}
	}
}

func TestTheMemoryIsThatOfTheContainer(t *testing.T) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(math.MaxInt64))
	root := t.TempDir()
	for _, each := range []struct {
		name, text string
		wanted     int64
	}{
		{"none", "", 512 * mib},
		{"proc/meminfo", "MemTotal:        8000000 kB\nMemFree:  1 kB\n", 8_000_000 << 10},
		{"sys/fs/cgroup/memory.max", "max\n", 8_000_000 << 10},
		{"sys/fs/cgroup/memory.max", "1000000000\n", 1_000_000_000},
		{"sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n", 1_000_000_000},
	} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(root, each.name)), 0o700))
		must(t, os.WriteFile(filepath.Join(root, each.name), []byte(each.text), 0o600))
		if got := usableMemory(root); got != each.wanted/5*4 {
			t.Error(each, got)
		}
	}
}

func TestAWindowOfZstdIsNotAllocated(t *testing.T) {
	largestMessage.Store(mib)
	block := func(header, content string) []byte {
		return append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 19 << 3, header[0], header[1], header[2]}, content...) // a window of 512 MiB
	}
	for _, each := range []struct {
		packed    []byte
		wanted    int
		isRefused bool
	}{
		{block("\x29\x00\x00", "hello"), 5, false},
		{bytes.Repeat(block("\x03\xd4\x07", "a"), 8), 8 * 64128, false}, // frames of one letter many times
		{bytes.Repeat(block("\x03\xd4\x07", "a"), 17), 0, true},
		{[]byte("noise"), 0, true},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		from, err := encoding.GetCompressor("zstd").Decompress(bytes.NewReader(each.packed))
		runtime.ReadMemStats(&after)
		if (err != nil) != each.isRefused {
			t.Error(each.wanted, err)
		} else if err == nil {
			message, err := io.ReadAll(from)
			if err != nil || len(message) != each.wanted {
				t.Error(each.wanted, len(message), err)
			}
		}
		if taken := after.TotalAlloc - before.TotalAlloc; taken > 8*mib {
			t.Error(each.wanted, taken)
		}
	}
}

func TestWhatAnExporterPacksWithZstdArrives(t *testing.T) {
	r := start(t, Config{DecodedBytes: 2 * size})
	r.pass()
	_, err := ptraceotlp.NewGRPCClient(r.grpc).Export(t.Context(), request, grpc.UseCompressor("zstd"))
	must(t, err)
}
