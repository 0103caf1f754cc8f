package admission

import (
	"bytes"
	"context"
	"errors"
	"io"
	"mime"
	"net/http"

	"go.opentelemetry.io/collector/extension/extensionmiddleware"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

var _ extensionmiddleware.HTTPServer = (*admission)(nil)

// GetHTTPHandler is called by the receiver. What the handler sees is authenticated and unpacked as it is read.
func (a *admission) GetHTTPHandler(context.Context) (extensionmiddleware.WrapHTTPHandlerFunc, error) {
	return func(_ context.Context, next http.Handler) (http.Handler, error) {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { a.serve(w, r, next) }), nil
	}, nil
}

func (a *admission) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	// Up to 1 MiB of headers stay with a request, and HTTP/2 has many requests on one connection.
	headers := sizeOfHeaders(r)
	if !a.take(headers) {
		refuse(w, r)
		return
	}
	defer a.give(headers)
	body, held, err := a.read(r.Body)
	defer a.give(held)
	if errors.Is(err, errBusy) {
		refuse(w, r)
		return
	}
	// What cannot be read is not decoded: the receiver meets the same error and answers as it does without a middleware.
	r.Body = whole{io.MultiReader(bytes.NewReader(body), failed{err}), r.Body}
	if errors.Is(err, io.EOF) {
		leave, err := a.enter(r.Context(), r.URL.Path, len(body))
		if err != nil {
			refuse(w, r)
			return
		}
		defer leave()
	}
	next.ServeHTTP(w, r)
}

// sizeOfHeaders is 0 where they are no more than usual.
func sizeOfHeaders(r *http.Request) int64 {
	size := len(r.RequestURI)
	for name, values := range r.Header {
		for _, value := range values {
			size += len(name) + len(value)
		}
	}
	return max(0, int64(size)-4096)
}

// read returns what there is, how much of the budget it holds, and how it ended: io.EOF is the end.
func (a *admission) read(from io.Reader) (body []byte, held int64, err error) {
	next := make([]byte, 1)
	for {
		if len(body) == cap(body) {
			// Most requests end here, and need no more room.
			var n int
			for n == 0 && err == nil {
				n, err = from.Read(next)
			}
			if n == 0 {
				return body, held, err
			}
			more := max(4096, cap(body))
			if !a.take(int64(more)) {
				return nil, held, errBusy
			}
			held += int64(more)
			body = append(append(make([]byte, 0, cap(body)+more), body...), next...)
		}
		if err == nil {
			var n int
			n, err = from.Read(body[len(body):cap(body)])
			body = body[:len(body)+n]
		}
		if err != nil {
			return body, held, err
		}
	}
}

type whole struct {
	io.Reader
	io.Closer
}

type failed struct{ err error }

func (f failed) Read([]byte) (int, error) { return 0, f.err }

func refuse(w http.ResponseWriter, r *http.Request) {
	answer := status.New(codes.Unavailable, errBusy.Error()).Proto()
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	var text []byte
	if kind == "application/json" {
		text, _ = protojson.Marshal(answer)
	} else {
		kind = "application/x-protobuf"
		text, _ = proto.Marshal(answer)
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Retry-After", "1")
	w.WriteHeader(http.StatusServiceUnavailable)
	_, _ = w.Write(text)
}
