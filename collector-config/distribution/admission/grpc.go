package admission

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/extension/extensionmiddleware"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/types/known/durationpb"
)

var _ extensionmiddleware.GRPCServer = (*admission)(nil)

// largestHeaders of a gRPC request: what gRPC for C, Python and others take too. gRPC for Go takes 16 MiB, for which nothing here
// could ask before they are in memory.
const largestHeaders = 16 << 10

// GetGRPCServerOptions is called by the receiver. gRPC decodes a message before the first interceptor sees it, so the codec
// leaves that to the last one, after authentication.
func (a *admission) GetGRPCServerOptions(context.Context) ([]grpc.ServerOption, error) {
	return []grpc.ServerOption{
		grpc.MaxHeaderListSize(largestHeaders),
		grpc.InTapHandle(a.arrives),
		grpc.ForceServerCodecV2(codec{a}),
		grpc.UnaryInterceptor(a.hasArrived),
		grpc.ChainUnaryInterceptor(a.decode),
	}, nil
}

// call is what is known of a request between its headers and its decoding.
type call struct {
	since   time.Time
	cancel  context.CancelFunc
	place   *list.Element
	late    *time.Timer
	held    atomic.Int64
	encoded bool
	data    mem.BufferSlice
}

type callKey struct{}

// arrivals are the calls that are being read, the oldest first.
type arrivals struct {
	sync.Mutex
	list.List
}

func (a *arrivals) add(arriving *call) {
	a.Lock()
	defer a.Unlock()
	arriving.place = a.PushBack(arriving)
}

func (a *arrivals) remove(arriving *call) {
	a.Lock()
	defer a.Unlock()
	a.Remove(arriving.place)
}

// oldest removes the oldest one if it has been arriving for so long.
func (a *arrivals) oldest(age time.Duration) *call {
	a.Lock()
	defer a.Unlock()
	if first := a.Front(); first != nil && time.Since(first.Value.(*call).since) >= age {
		return a.Remove(first).(*call)
	}
	return nil
}

// endOldest ends a gRPC request that has had a tenth of its time, where others find no room: headers alone hold as much as a
// request, and come from strangers too, as gRPC authenticates what it has read.
func (a *admission) endOldest() bool {
	arriving := a.arriving.oldest(a.config.ReadTimeout / 10)
	if arriving == nil {
		return false
	}
	a.give(arriving.held.Swap(0))
	a.count(context.Background(), "read")
	arriving.cancel()
	return true
}

// arrives is called with the headers, on the goroutine that reads the connection, so it does not wait.
func (a *admission) arrives(ctx context.Context, _ *tap.Info) (context.Context, error) {
	if !a.take(2 * a.config.GRPCBytes) {
		return ctx, busy()
	}
	ctx, cancel := context.WithCancel(ctx)
	arriving := &call{since: time.Now(), cancel: cancel}
	arriving.held.Store(2 * a.config.GRPCBytes)
	a.arriving.add(arriving)
	arriving.late = time.AfterFunc(a.config.ReadTimeout, func() {
		a.count(ctx, "read")
		cancel()
	})
	// gRPC ends the context with the stream, however that ends.
	context.AfterFunc(ctx, func() {
		arriving.late.Stop()
		a.arriving.remove(arriving)
		a.give(arriving.held.Swap(0))
	})
	return context.WithValue(ctx, callKey{}, arriving), nil
}

type codec struct{ *admission }

func (c codec) Name() string                           { return c.codec.Name() }
func (c codec) Marshal(v any) (mem.BufferSlice, error) { return c.codec.Marshal(v) }

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if _, ok := v.(interface{ UnmarshalProto([]byte) error }); !ok {
		return c.codec.Unmarshal(data, v)
	}
	data.Ref()
	c.encoded.Store(v, data)
	return nil
}

// hasArrived is the first interceptor: nothing can come between the codec and it.
func (a *admission) hasArrived(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	read, _ := ctx.Value(callKey{}).(*call)
	data, found := a.encoded.LoadAndDelete(request)
	if read == nil || !found {
		return handler(ctx, request)
	}
	read.late.Stop()
	a.arriving.remove(read)
	read.encoded, read.data = true, data.(mem.BufferSlice)
	if before, size := read.held.Load(), int64(read.data.Len()); before > size && read.held.CompareAndSwap(before, size) {
		a.give(before - size)
	}
	defer func() { read.data.Free() }()
	return handler(ctx, request)
}

// decode is the last interceptor.
func (a *admission) decode(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	read, _ := ctx.Value(callKey{}).(*call)
	if read == nil || !read.encoded {
		return handler(ctx, request)
	}
	leave, err := a.enter(ctx, info.FullMethod, read.data.Len())
	if errors.Is(err, errBusy) {
		return nil, busy()
	}
	if err != nil {
		return nil, status.FromContextError(err).Err()
	}
	defer leave()
	err = a.codec.Unmarshal(read.data, request)
	read.data.Free()
	read.data = nil
	if err != nil {
		return nil, status.Errorf(codes.Internal, "grpc: error unmarshalling request: %v", err)
	}
	return handler(ctx, request)
}

func busy() error {
	answer := status.New(codes.Unavailable, errBusy.Error())
	retry := &errdetails.RetryInfo{RetryDelay: durationpb.New(time.Second)}
	if detailed, err := answer.WithDetails(retry); err == nil {
		answer = detailed
	}
	return answer.Err()
}
