package admission

import (
	"bytes"
	"io"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
	_ "go.opentelemetry.io/collector/config/configgrpc" // registers what is replaced here
	"google.golang.org/grpc/encoding"
)

// A message that is packed with zstd names the window that its reader must have, up to 512 MiB, and a reader of streams
// allocates it at once. Unpacked as a whole, it takes no more than what comes out. Over HTTP zstd can be switched off.
func init() {
	if before := encoding.GetCompressor("zstd"); before != nil {
		encoding.RegisterCompressor(unpacksWhole{before})
	}
}

// largestMessage is the largest gRPC request of any receiver; 0 where there is none. What clients get, in the same registry,
// is far smaller.
var largestMessage atomic.Int64

type unpacksWhole struct{ encoding.Compressor }

func (unpacksWhole) Decompress(from io.Reader) (io.Reader, error) {
	packed, err := io.ReadAll(from)
	if err != nil {
		return nil, err
	}
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, err
	}
	defer decoder.Close()
	most := largestMessage.Load()
	if most == 0 {
		most = mib
	}
	// One byte more, so that gRPC meets what is too large.
	message, err := decoder.DecodeAll(packed, make([]byte, 0, most+1))
	return bytes.NewReader(message), err
}
